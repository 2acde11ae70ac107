"""What the benchmarks share: laps in turns, medians, records."""

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from workers import Worker

from llmlite.config import ModelConfig
from llmlite.files import write_json
from llmlite.run import commit, environment

RECORDS = Path(__file__).parent / "records"  # committed; README is made from them
TINY = ModelConfig(vocab_size=64, block_size=64, n_layer=1, n_head=2, n_embd=16, dropout=0.0)


def options(description: str, out: Path = RECORDS, **others) -> argparse.Namespace:
    """--tiny, and each of the others with its default."""
    commit()  # of the code that runs, whatever is edited in the meantime
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="little work, to try the script")
    for name, default in {"out": out, **others}.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help="%(default)s")
    return parser.parse_args()


class Contestant:
    """What a process serves. `make(name, **task)` gives what to run in a lap, and what makes of its
    result JSON that all contestants must have alike; a result that is a float is the seconds."""

    def __init__(self, make: Callable, name: str, task: dict):
        self.run, self.result_of = make(name, **task)

    def lap(self) -> dict:
        start = time.perf_counter()
        result = self.run()
        seconds = result if isinstance(result, float) else time.perf_counter() - start
        found = self.result_of and json.dumps(self.result_of(result))
        return {"seconds": seconds, "result": found and sha256(found.encode()).hexdigest()}


def compete(title: str, make: Callable, rounds: dict[str, int], amount: float, unit: str, **task):
    """A row for each contestant: seconds of a lap, `amount` of `unit` per second. They take turns,
    for so many rounds each, ours is the first, and all that have a result have the same."""
    laps, workers = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(rounds):  # with an empty cache: compiling is timed
            cache = {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/{number}"}
            workers[name] = Worker(Contestant, cache, make=make, name=name, task=task)
            laps[name] = [workers[name].call("lap")]  # warms up, compiles
        for done in range(max(rounds.values())):
            for name, worker in workers.items():
                laps[name] += [worker.call("lap")] if done < rounds[name] else []
        for worker in workers.values():
            worker.close()
    if len({lap["result"] for each in laps.values() for lap in each} - {None}) > 1:
        sys.exit(f"{title}: the results differ, nothing is recorded.")
    print(f"\n{title}")
    rows = {}
    for name, (first, *others) in laps.items():
        seconds = [lap["seconds"] for lap in others]
        median = statistics.median(seconds)
        rows[name] = {"median_s": median, "min_s": min(seconds), "max_s": max(seconds)}
        rows[name] |= {
            f"{unit}_per_s": amount / median,
            "ours_over_it": next(iter(rows.values()))["median_s"] / median,
            "compile_s": max(0.0, first["seconds"] - median),
        }
        print("  ", f"{name:34}", *(f"{key} {value:.4g}" for key, value in rows[name].items()))
    return rows


def record(options: argparse.Namespace, name: str, libraries: tuple[str, ...], **content) -> None:
    """Write OUT/NAME.json with the machine and the libraries' versions beside the numbers."""
    processor = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    machine = {**environment("cpu"), "processor": processor[1], "cores": os.cpu_count()}
    about = {"rounds": options.rounds, "versions": {name: version(name) for name in libraries}}
    write_json(options.out / f"{name}.json", {"environment": machine, **about, **content})
    print(f"\nRecorded in {options.out / name}.json")
