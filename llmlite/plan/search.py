"""`hyperparameter_search()`: a grid → a table of results (§III.E and IV.A). Called again, it skips
what is finished, carries on what was interrupted and tries again what failed."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from llmlite import files
from llmlite.config import AXES, SearchSpace
from llmlite.data import Dataset
from llmlite.files import LLMLiteError, MissingRunError, replacing, say, tqdm
from llmlite.parallel import world
from llmlite.run import Record, Run
from llmlite.train import Compute, Trainer, epoch_line

Train = Callable[[Run, Compute], Record]


def grid(space: SearchSpace, base: Run) -> list[Run]:
    """Every configuration of `space` as a run; what it does not set is as in `base`. LLMLiteError
    where there is no such shape."""
    name = base.name + "-lr{learning_rate:g}-{n_layer}l-{n_head}h-{n_embd}d"
    return [replace(at(values, base), name=name.format(**values)) for values in space.points()]


def at(values: dict, base: Run) -> Run:
    """`base` with these values of AXES."""
    shape = {axis: values[axis] for axis in AXES[1:]}
    train = replace(base.train, learning_rate=values["learning_rate"])
    return replace(base, model=replace(base.model, **shape), train=train)


def hyperparameter_search(
    space: SearchSpace,
    base: Run,
    dataset: Dataset,
    folder: str | Path,
    compute: Compute = Compute(),
) -> pd.DataFrame:
    """Train every configuration of `space`, each in a folder of its own below `folder`; the rest as
    in `base`. Returns the table that it also writes to `folder/results.csv`: see `search`."""
    folder = Path(folder).absolute()

    def train(run: Run, compute: Compute) -> Record:
        return Trainer(run, dataset, run.folder(folder, dataset.about), compute).fit()

    return search(grid(space, base), train, folder / "results.csv", compute)


def search(runs: list[Run], train: Train, path: Path, compute: Compute) -> pd.DataFrame:
    """A row a run in the grid's order, also written to `path` after each: AXES, status ("finished",
    "failed" or "missing"), reason, the losses in nats per token and the perplexity of the best
    epoch, and what the run cost. A run that fails (out of memory, NaN) is recorded with its reason
    and the search goes on."""
    progress = compute.progress
    rows = []
    for run in tqdm(runs, desc="Grid", unit="configuration", disable=not progress):
        rows.append(_row(run, train, compute))
        if progress or rows[-1]["status"] == "failed":
            say(_last_line(rows[-1]) + "\n")
        if world().main:
            with replacing(path) as aside:
                pd.DataFrame(rows).to_csv(aside, index=False)
    return pd.DataFrame(rows)


def _row(run: Run, train: Train, compute: Compute) -> dict:
    """Train a run, or find it finished; its row of the table."""
    try:
        return row_of(run, train(run, compute))
    except MissingRunError as error:
        return row_of(run, {"status": "missing", "reason": str(error)})
    except (files.CheckpointError, files.BusyError, files.DiskFullError):
        raise  # somebody must look at it first; the next configuration would fare no better
    except (LLMLiteError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return row_of(run, {"status": "failed", "reason": reason})


def point(run: Run) -> dict:
    """A run's values of AXES."""
    values = vars(run.train) | vars(run.model)
    return {axis: values[axis] for axis in AXES}


def row_of(run: Run, record: dict | None) -> dict:
    """The row of the table that a run's record fills; where it is not done, it is missing."""
    if not record or record["status"] == "running":
        record = {"status": "missing"}
    row = point(run) | {"status": record["status"], "reason": record.get("reason", "")}
    if record["status"] != "finished":
        return row
    best, last = record["best"], record["epochs"][-1]
    row |= {name: best[name] for name in ("train_loss", "valid_loss", "perplexity")}
    return row | {
        "best_epoch": best["epoch"],
        "epochs": last["epoch"],
        "steps": last["step"],
        "parameters": record["parameters"],
        "tokens_per_second": round(last["tokens_per_second"]),
        "seconds": round(record["seconds"], 1),
    }


def best_row(table: pd.DataFrame) -> pd.Series:
    """The finished configuration with the lowest validation perplexity."""
    finished = table[table.status == "finished"]
    if finished.empty:
        reasons = "; ".join(sorted(set(table.reason.dropna().astype(str))))
        kind = MissingRunError if (table.status == "missing").all() else LLMLiteError
        raise kind(f"No configuration of the grid finished ({reasons}).")
    return finished.loc[finished.perplexity.idxmin()]


def best_point(runs: list[Run], record: Callable[[Run], Record | None]) -> dict | None:
    """The values of AXES with the lowest validation perplexity, by the runs' records; None while
    some of them is left to train."""
    table = pd.DataFrame([row_of(run, record(run)) for run in runs])
    known = "finished" in table.status.values and "missing" not in table.status.values
    return best_row(table)[list(AXES)].to_dict() if known else None


def epochs_table(runs: list[Run], records: Iterable[Record | None]) -> pd.DataFrame:
    """The log of every epoch of every finished run, with its configuration: a row an epoch."""
    frames = [
        pd.DataFrame(record["epochs"]).assign(**point(run), seed=run.train.seed)
        for run, record in zip(runs, records, strict=True)
        if record and record["status"] == "finished"
    ]
    if not frames:
        raise MissingRunError(f"None of {runs[0].name} and its like is trained.")
    return pd.concat(frames, ignore_index=True)


def search_log(table: pd.DataFrame, epochs: pd.DataFrame) -> str:
    """The log of a search in the paper's form (Figs. 2 to 5). epochs: as in `epochs_table`."""
    parts = []
    for row in table.to_dict("records"):
        same = (epochs[list(AXES)] == [row[axis] for axis in AXES]).all(axis=1)
        lines = map(epoch_line, epochs[same].to_dict("records"))
        shape = "lr={learning_rate:g}, layers={n_layer}, heads={n_head}, embed_dim={n_embd}"
        first = f"Running config: {shape.format(**row)}"
        parts.append("\n".join([first, *lines, _last_line(row)]))
    return "\n\n".join(parts)


def _last_line(row: dict) -> str:
    """The line that closes a configuration in the paper's logs, or why there is none."""
    values = ", ".join(f"{row[axis]:g}" for axis in AXES)
    if row["status"] != "finished":
        return f"{row['status'].capitalize()} ({values}): {row['reason']}"
    return f"Final Perplexity for ({values}): {row['perplexity']:.4f}"
