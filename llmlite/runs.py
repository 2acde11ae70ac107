"""`llmlite runs`: what was trained below a folder, how far it came, and how to carry it on.

Reads the runs' records and locks and changes nothing. `runs_table` gives the table, `report` the
text that a terminal shows.
"""

import time
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

from llmlite.checkpoint import read_record
from llmlite.errors import CheckpointError, LLMLiteError
from llmlite.pretrained import MODEL

COLUMNS = ["run", "state", "epochs", "of", "perplexity", "age", "reason", "carry_on"]
UNFINISHED = ("interrupted", "failed")  # what somebody has to carry on
WIDTH = 120  # characters in a line of the report
RENDERED = "rendered"  # the folder in which publish.py gathers what a run shows


def runs_table(folder: str | Path) -> pd.DataFrame:
    """A row a run below `folder`, the last written first, with the columns COLUMNS.

    run: its folder below `folder`. state: "finished", "running" (a process is at it),
    "interrupted", "failed" or "damaged" (its record cannot be read; the reason says why). epochs
    done, of how many. perplexity: of the validation split after the best epoch. age: seconds since
    the run last wrote. carry_on: the shell command that does so, None where there is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise LLMLiteError(f"There is no folder {folder}; name one with --out, or train first.")
    runs = [path.parent for path in folder.rglob("record.json") if not _is_copy(path.parent)]
    rows = [_row(run, folder) for run in runs]
    rows.sort(key=lambda row: (row["age"], row["run"]))
    return pd.DataFrame(rows, columns=COLUMNS).astype(
        {"epochs": "Int64", "of": "Int64", "perplexity": float}
    )


def _is_copy(folder: Path) -> bool:
    """Is this of a run that is listed already: gathered for publishing, or a model to ship?"""
    return RENDERED in folder.parts or (folder / MODEL).exists()


def _row(run: Path, folder: Path) -> dict:
    logs = (run / "record.json", run / "steps.jsonl")
    written = max(path.stat().st_mtime for path in logs if path.exists())
    row = {"run": str(run.relative_to(folder)), "age": max(0.0, time.time() - written)}
    try:
        record = read_record(run)
        best = record["best"]
        return row | {
            "state": _state(record["status"], run),
            "epochs": len(record["epochs"]),
            "of": record["identity"]["train"]["epochs"],
            "perplexity": best["perplexity"] if best else None,
            "reason": record.get("reason", ""),
            "carry_on": record.get("command"),
        }
    except CheckpointError as error:
        reason = str(error)
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"{run / 'record.json'} is not a run's record ({error!r}); delete it."
    return row | {"state": "damaged", "reason": reason}


def _state(status: str, run: Path) -> str:
    if status != "running":
        return status
    return "running" if _held(run) else "interrupted"


def _held(run: Path) -> bool:
    """Is a process at work in the folder? To find out takes its lock, for an instant."""
    if not (run / ".lock").exists():
        return False
    try:
        with FileLock(run / ".lock", timeout=0):
            return False
    except Timeout:
        return True


def report(table: pd.DataFrame) -> str:
    """The table as text for a terminal, at most WIDTH wide; below it what there is to be done."""
    if table.empty:
        return "There are no runs here yet."
    lines = [_line("run", "state", "epochs", "perplexity", "last written")]
    for row in table.itertuples():
        known = row.state != "damaged"
        lines.append(
            _line(
                row.run,
                row.state,
                f"{row.epochs} of {row.of}" if known else "",
                f"{row.perplexity:,.2f}" if row.perplexity == row.perplexity else "",
                f"{age_in_words(row.age)} ago",
            )
        )
    damaged = table[table.state == "damaged"]
    lines += [""] * (not damaged.empty) + list(damaged.reason)
    return "\n".join(lines + _to_carry_on(table[table.state.isin(UNFINISHED)]))


def _line(run: str, state: str, epochs: str, perplexity: str, written: str) -> str:
    room = WIDTH - 56
    if len(run) > room:
        run = "…" + run[1 - room :]  # the end tells runs apart
    return f"{run:{room}}  {state:11}  {epochs:>10}  {perplexity:>14}  {written:>13}".rstrip()


def _to_carry_on(unfinished: pd.DataFrame) -> list[str]:
    """Each command once, below the runs that it carries on; a search's runs have it in common."""
    lines = []
    for command, runs in unfinished.groupby("carry_on", dropna=False, sort=False):
        lines += ["", "To carry on:"]
        for row in runs.itertuples():
            lines.append(f"  {row.run}" + (f" ({row.reason})" if row.reason else ""))
        if isinstance(command, str):
            lines.append(f"$ {command}")
        else:
            lines.append(
                "→ started from Python in a way that no shell command can express; make the same "
                "call again:\n  Experiment(…).retrain(), Experiment(…).search(grid) or Trainer(…)"
                ".fit()"
            )
    return lines


def age_in_words(seconds: float) -> str:
    """A duration in its largest whole unit: "45 s", "12 min", "3 h", "8 d"."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds // 1:.0f} s"
