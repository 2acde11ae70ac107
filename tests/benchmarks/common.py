"""What the benchmarks share: alternate the contestants, take medians, record everything."""

import argparse
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from llmlite.config import DataConfig, ModelConfig, TrainConfig
from llmlite.data import Dataset
from llmlite.files import write_json
from llmlite.run import Run, commit, environment
from llmlite.train import Compute, Trainer

RECORDS = Path(__file__).parent / "records"  # committed; notebooks and README read them


def alternate(contestants: dict[str, Callable], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round; all of them run once in every round.

    A contestant that returns a number has measured itself.
    """
    seconds = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            measured = run()
            took = time.perf_counter() - start
            seconds[name].append(measured if isinstance(measured, float) else took)
    return seconds


def table(title: str, seconds: dict[str, list[float]], ours: str, per_second: float, unit: str):
    """Print medians, spread and the ratio to ours; return them as a record."""
    rows, base = {}, statistics.median(seconds[ours])
    print(f"\n{title}", flush=True)
    for name, values in seconds.items():
        median = statistics.median(values)
        rows[name] = {
            "median_s": median,
            "min_s": min(values),
            "max_s": max(values),
            f"{unit}_per_s": per_second / median,
            "ours_over_it": base / median,
        }
        print(
            f"  {name:32} {median:8.3f} s  ({min(values):.3f} to {max(values):.3f})  "
            f"{per_second / median:12,.0f} {unit}/s   ours takes {base / median:5.2f} ×",
            flush=True,
        )
    return rows


def record(folder: Path, name: str, device: str, **content) -> None:
    """Write FOLDER/NAME.json with the machine and the versions beside the numbers."""
    path = folder / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}.json"
    machine = {**environment(device), "processor": processor(), "cores": os.cpu_count()}
    write_json(path, {"environment": machine, **content})
    print(f"\nRecorded in {path}")


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def trainer_of_ids(
    model: ModelConfig,
    config: TrainConfig,
    ids: dict,
    folder: str | Path,
    kind: type[Trainer] = Trainer,
    **compute,
) -> Trainer:
    """ids: "train" and "valid". compute: where and how, see Compute."""
    data = DataConfig(vocab_size=model.vocab_size, block_size=model.block_size)
    dataset = Dataset.of_ids({**ids, "test": ids["valid"]}, data)
    run = Run("benchmark", data, model, config)
    return kind(run, dataset, folder, Compute(progress=False, **compute))


def arguments(description: str, rounds: int) -> argparse.ArgumentParser:
    commit()  # of the code that runs, whatever is edited in the meantime
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--rounds", type=int, default=rounds, help=f"runs of each (default: {rounds})"
    )
    parser.add_argument(
        "--out", type=Path, default=RECORDS, help="folder for the record (default: %(default)s)"
    )
    return parser
