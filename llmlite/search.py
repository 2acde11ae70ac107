"""`hyperparameter_search()`: a grid → a table of results (§III.E and IV.A).

A run a configuration, each in a folder of its own; the table is `results.csv`, rewritten after
every run. Called again, it skips what is finished, carries on what was interrupted and tries again
what failed.
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm

from llmlite.checkpoint import read_record
from llmlite.config import ModelConfig, SearchSpace, TrainConfig, fingerprint
from llmlite.errors import CheckpointError, LLMLiteError
from llmlite.files import replacing
from llmlite.train import Trainer

AXES = ("learning_rate", "n_layer", "n_head", "n_embd")


def run_name(point: dict, identity: dict) -> str:
    """A folder's name: what the configuration is, and a fingerprint of everything behind it."""
    shape = "lr{learning_rate:g}-{n_layer}l-{n_head}h-{n_embd}d".format(**point)
    return f"{shape}-{fingerprint(identity)[:8]}"


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
) -> pd.DataFrame:
    """Train every configuration of `space`; what it does not set is as in `model` and `config`.

    Returns the table that it also writes to `folder/results.csv`: a row a configuration in the
    grid's order, with the columns of AXES, status ("finished" or "failed"), reason, the losses in
    nats per token and the perplexity of the best epoch, and what the run cost. A configuration that
    fails (out of memory, NaN) is recorded with its reason and the search goes on.
    """
    folder, rows = Path(folder), []
    points = list(space.points())
    with tqdm(points, desc="Grid", unit="configuration", disable=not progress) as bar:
        for point in bar:
            if progress:
                tqdm.write("Running config: " + _paper_form(point))
            row = _run(point, model, config, ids, folder, about, device, stride, progress)
            if progress:
                tqdm.write(_last_line(point, row))
            rows.append(row)
            table = pd.DataFrame(rows)
            with replacing(folder / "results.csv") as aside:
                table.to_csv(aside, index=False)
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
        raise LLMLiteError(f"No configuration of the grid finished ({reasons}).")
    return finished.loc[finished.perplexity.idxmin()]


def epochs_table(table: pd.DataFrame, folder: str | Path) -> pd.DataFrame:
    """The log of every epoch of every finished run, with its configuration: one row an epoch."""
    frames = []
    for row in table[table.status == "finished"].to_dict("records"):
        epochs = pd.DataFrame(read_record(Path(folder) / row["run"])["epochs"])
        frames.append(epochs.assign(**{axis: row[axis] for axis in AXES}))
    return pd.concat(frames, ignore_index=True)


def _run(point, model, config, ids, folder, about, device, stride, progress) -> dict:
    """Train one configuration; its row of the table."""
    row = dict(point)
    try:
        shape = replace(model, **{axis: point[axis] for axis in AXES if axis != "learning_rate"})
        config = replace(config, learning_rate=point["learning_rate"])
        identity = [str(shape), str(config), stride, about]
        row["run"] = run_name(point, identity)
        trainer = Trainer(shape, config, ids, folder / row["run"], about, device, stride, progress)
        record = trainer.fit()
    except CheckpointError:
        raise  # somebody must look at it; training over it would lose it
    except (LLMLiteError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        return row | {"status": "failed", "reason": str(error).splitlines()[0]}
    best = record["best"]
    return row | {
        "status": "finished",
        "reason": "",
        "train_loss": best["train_loss"],
        "valid_loss": best["valid_loss"],
        "perplexity": best["perplexity"],
        "best_epoch": best["epoch"],
        "epochs": len(record["epochs"]),
        "steps": record["epochs"][-1]["step"],
        "parameters": record["parameters"],
        "tokens_per_second": round(record["epochs"][-1]["tokens_per_second"]),
        "seconds": round(record["seconds"], 1),
    }


def _paper_form(point: dict) -> str:
    return "lr={learning_rate:g}, layers={n_layer}, heads={n_head}, embed_dim={n_embd}".format(
        **point
    )


def _last_line(point: dict, row: dict) -> str:
    """The line that closes a configuration in the paper's logs, or why there is none."""
    values = ", ".join(f"{point[axis]:g}" for axis in AXES)
    if row["status"] == "failed":
        return f"Failed ({values}): {row['reason']}\n"
    return f"Final Perplexity for ({values}): {row['perplexity']:.4f}\n"
