"""`hyperparameter_search()`: a grid → a table of results (§III.E and IV.A).

A run a configuration, each in a folder of its own (checkpoint.run_folder); the table is
`results.csv`, rewritten after every run. Called again, it skips what is finished, carries on what
was interrupted and tries again what failed. The runs follow each other here, or share a Ray cluster
(see cluster.py).
"""

import os
import sys
from collections.abc import Iterator
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from llmlite import cluster
from llmlite.checkpoint import read_record, run_folder
from llmlite.config import ModelConfig, SearchSpace, TrainConfig
from llmlite.engine import FastPaths
from llmlite.errors import (
    BusyError,
    CheckpointError,
    DiskFullError,
    LLMLiteError,
    MissingRunError,
)
from llmlite.files import hold, replacing
from llmlite.live import watchers
from llmlite.parallel import world
from llmlite.progress import tqdm
from llmlite.train import Trainer, epoch_line

AXES = ("learning_rate", "n_layer", "n_head", "n_embd")


def hyperparameter_search(
    space: SearchSpace,
    model: ModelConfig,
    config: TrainConfig,
    ids: dict[str, torch.Tensor],
    folder: str | Path,
    about: dict[str, str],
    device: str | torch.device = "cpu",
    stride: int | None = None,
    progress: bool = True,
    command: str | None = None,
    ray: cluster.RayOptions | None = None,
    **options,
) -> pd.DataFrame:
    """Train every configuration of `space`; what it does not set is as in `model` and `config`.

    Returns the table that it also writes to `folder/results.csv`: a row a configuration in the
    grid's order, with the columns of AXES, status ("finished", "failed" or "missing"), reason, the
    losses in nats per token and the perplexity of the best epoch, and what the run cost. A
    configuration that fails (out of memory, NaN) is recorded with its reason and the search goes
    on.

    command: the shell command that carries the search on, for the records. ray: train them on this
    cluster, on CUDA where a run gets (a part of) a GPU; the table is the same. options: further
    fields of Trial. BusyError if there is something to train and another process searches in
    `folder`.
    """
    folder, rows = Path(folder).absolute(), {}
    gpus = ray.gpus(device) if ray else 0
    if ray:
        device = "cuda" if gpus else "cpu"
    alone = ray is None and progress  # a worker elsewhere has nobody to show its progress to
    every = trials(space, model, config, folder, about, device, stride, alone, command, **options)
    outcomes = cluster.run_all(every, ids, ray, gpus) if ray else _run_here(every, ids)
    main = world().main
    with (
        hold(folder) if main and not all(trial.finished() for trial in every) else nullcontext(),
        closing(outcomes),
        tqdm(
            total=len(every), desc="Grid", unit="configuration", disable=not (progress and main)
        ) as bar,
    ):
        for number, row in outcomes:
            rows[number] = row
            if ray and (progress or row["status"] == "failed"):
                tqdm.write(_last_line(row), file=sys.stderr)
            table = pd.DataFrame([rows[number] for number in sorted(rows)])
            if main:
                with replacing(folder / "results.csv") as aside:
                    table.to_csv(aside, index=False)
            bar.update()
    return table


def read_results(folder: str | Path) -> pd.DataFrame:
    """The table that a search left in `folder`."""
    path = Path(folder) / "results.csv"
    if not path.exists():
        raise LLMLiteError(f"There are no search results in {folder}; run the search first.")
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def best_row(table: pd.DataFrame) -> pd.Series:
    """The finished configuration with the lowest validation perplexity."""
    finished = table[table.status == "finished"]
    if finished.empty:
        reasons = "; ".join(sorted(set(table.reason.dropna().astype(str))))
        kind = MissingRunError if (table.status == "missing").all() else LLMLiteError
        raise kind(f"No configuration of the grid finished ({reasons}).")
    return finished.loc[finished.perplexity.idxmin()]


def epochs_table(table: pd.DataFrame, folder: str | Path) -> pd.DataFrame:
    """The log of every epoch of every finished run, with its configuration: one row an epoch."""
    frames = []
    for row in table[table.status == "finished"].to_dict("records"):
        epochs = pd.DataFrame(read_record(Path(folder) / row["run"])["epochs"])
        frames.append(epochs.assign(**{axis: row[axis] for axis in AXES}))
    if not frames:
        best_row(table)  # says why none finished
    return pd.concat(frames, ignore_index=True)


def search_log(table: pd.DataFrame, folder: str | Path) -> str:
    """The log of a search in the paper's form (Figs. 2 to 5), from the runs' records."""
    parts = []
    for row in table.to_dict("records"):
        lines = [_first_line(row)]
        if row["status"] == "finished":
            epochs = read_record(Path(folder) / row["run"])["epochs"]
            lines += [epoch_line(epoch) for epoch in epochs]
        parts.append("\n".join([*lines, _last_line(row)]))
    return "\n\n".join(parts)


def trials(
    space: SearchSpace,
    model: ModelConfig,
    config: TrainConfig,
    folder: Path,
    about: dict[str, str],
    device: str | torch.device,
    stride: int | None,
    progress: bool,
    command: str | None,
    **options,
) -> list["Trial"]:
    """Every configuration of `space`, in the grid's order; the rest as in the search."""
    shared = folder, about, str(device), stride, progress, command
    return [Trial(point, model, config, *shared, **options) for point in space.points()]


@dataclass(frozen=True)
class Trial:
    """One configuration of a search, with all that a process needs to train it."""

    point: dict  # values of AXES
    base: ModelConfig  # what the point does not set
    base_config: TrainConfig
    folder: Path  # of the search
    about: dict[str, str]
    device: str
    stride: int | None
    progress: bool
    command: str | None
    tensorboard: bool = False  # event files in the run's folder
    runs: Path | None = None  # where the runs lie; None: in `folder`
    paths: FastPaths = FastPaths()  # noqa: RUF009, it is frozen
    only_read: str | None = None  # as of Trainer

    @property
    def model(self) -> ModelConfig:
        """LLMLiteError where there is no such shape."""
        return replace(self.base, **{axis: self.point[axis] for axis in AXES[1:]})

    @property
    def config(self) -> TrainConfig:
        return replace(self.base_config, learning_rate=self.point["learning_rate"])

    @property
    def run_folder(self) -> Path:
        runs = self.runs or self.folder
        return run_folder(runs, self.model, self.config, self.stride, self.about)

    @property
    def name(self) -> str:
        """The run's folder, as seen from the search's."""
        return os.path.relpath(self.run_folder, self.folder)

    def record(self) -> dict | None:
        with suppress(LLMLiteError):  # there is no such shape
            return read_record(self.run_folder)

    def finished(self) -> bool:
        record = self.record()
        return record is not None and record["status"] == "finished"

    def trainer(self, ids: dict[str, torch.Tensor]) -> Trainer:
        return Trainer(
            self.model,
            self.config,
            ids,
            self.run_folder,
            self.about,
            self.device,
            self.stride,
            self.progress,
            self.command,
            watchers(self.run_folder, self.tensorboard),
            paths=self.paths,
            only_read=self.only_read,
        )

    def run(self, ids: dict[str, torch.Tensor]) -> dict:
        """Train it, or find it finished; its row of the table."""
        announced = False
        try:
            trainer = self.trainer(ids)
            announced = self.progress and not (self.only_read or trainer.finished())
            if announced:
                tqdm.write(_first_line(self.point), file=sys.stderr)
            row = {**self.point, "run": self.name, **_outcome(trainer.fit())}
        except MissingRunError as error:
            row = self.failed(error) | {"status": "missing"}
        except (CheckpointError, BusyError, DiskFullError):
            raise  # somebody must look at it first; the next configuration would fare no better
        except (LLMLiteError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
            row = self.failed(error)
        if announced or row["status"] == "failed":
            tqdm.write(_last_line(row) + "\n", file=sys.stderr)
        return row

    def failed(self, error: Exception) -> dict:
        """Its row where it could not be trained: why, in a line."""
        row = dict(self.point)
        with suppress(LLMLiteError):  # a shape that cannot be has no name
            row["run"] = self.name
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return row | {"status": "failed", "reason": reason}


def _run_here(trials: list[Trial], ids: dict[str, torch.Tensor]) -> Iterator[tuple[int, dict]]:
    """Yield (number of the trial, its row), one after the other."""
    for number, trial in enumerate(trials):
        yield number, trial.run(ids)


def _outcome(record: dict) -> dict:
    """The columns of the table that a finished run's record fills."""
    best, last = record["best"], record["epochs"][-1]
    return {
        "status": "finished",
        "reason": "",
        "train_loss": best["train_loss"],
        "valid_loss": best["valid_loss"],
        "perplexity": best["perplexity"],
        "best_epoch": best["epoch"],
        "epochs": last["epoch"],
        "steps": last["step"],
        "parameters": record["parameters"],
        "tokens_per_second": round(last["tokens_per_second"]),
        "seconds": round(record["seconds"], 1),
    }


def _first_line(point: dict) -> str:
    return (
        f"Running config: lr={point['learning_rate']:g}, layers={point['n_layer']}, "
        f"heads={point['n_head']}, embed_dim={point['n_embd']}"
    )


def _last_line(row: dict) -> str:
    """The line that closes a configuration in the paper's logs, or why there is none."""
    values = ", ".join(f"{row[axis]:g}" for axis in AXES)
    if row["status"] != "finished":
        return f"{row['status'].capitalize()} ({values}): {row['reason']}"
    return f"Final Perplexity for ({values}): {row['perplexity']:.4f}"
