"""What the benchmarks share: alternate the contestants, take medians, record everything."""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from llmlite.checkpoint import environment
from llmlite.files import write_json

RECORDS = Path("runs") / "bench"


def alternate(contestants: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round; all of them run once in every round."""
    seconds = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def table(title: str, seconds: dict[str, list[float]], ours: str, per_second: float, unit: str):
    """Print medians, spread and the ratio to ours; return them as a record."""
    rows, base = {}, statistics.median(seconds[ours])
    print(f"\n{title}")
    for name, values in seconds.items():
        median = statistics.median(values)
        rows[name] = {
            "median_s": median,
            "min_s": min(values),
            "max_s": max(values),
            f"{unit}_per_s": per_second / median,
            "times_ours": median / base,
        }
        print(
            f"  {name:34} {median:8.3f} s  ({min(values):.3f} to {max(values):.3f})  "
            f"{per_second / median:12,.0f} {unit}/s  {median / base:5.2f} × ours"
        )
    return rows


def record(name: str, device: str, **content) -> None:
    """Write runs/bench/NAME.json with the machine and the versions beside the numbers."""
    path = RECORDS / f"{name}.json"
    machine = {**environment(device), "processor": platform.processor() or platform.machine()}
    write_json(path, {"environment": machine, **content})
    print(f"\nRecorded in {path}")


def arguments(description: str, rounds: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--rounds", type=int, default=rounds, help=f"runs of each (default: {rounds})"
    )
    return parser
