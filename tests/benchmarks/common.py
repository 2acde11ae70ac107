"""What the benchmarks share: processes, laps in turns, the fastest a device is, records."""

import argparse
import json
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import torch

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


served = None  # in a Worker's process: what was made, which calls begin with


def serve(make: Callable, options: dict) -> None:
    global served
    os.dup2(2, 1)  # whatever libraries print goes where errors go
    served = make(**options)


def answer(function: Callable, options: dict):
    return function(served, **options)


class Worker:
    """A process of its own, that waits while others work. It makes something, and calls functions
    with it; after an error it goes on."""

    def __init__(self, make: Callable, environment: dict, /, **options):
        spawn, others = multiprocessing.get_context("spawn"), multiprocessing.active_children()
        self.pool = ProcessPoolExecutor(1, spawn, serve, (make, options))
        with patch.dict(os.environ, environment):
            self.pool.submit(os.getpid)  # starts it
        (self.process,) = set(multiprocessing.active_children()) - set(others)

    def send(self, function: Callable, **options) -> Future:
        """Several calls may be sent before the first answer is waited for."""
        return self.pool.submit(answer, function, options)

    def receive(self, sent: Future, timeout: float | None = None):
        try:
            return sent.result(timeout)
        except TimeoutError:
            self.close()  # a process that hangs disturbs the others
            raise TimeoutError(f"No answer in {timeout:.0f} s") from None

    def call(self, function: Callable, timeout: float | None = None, /, **options):
        return self.receive(self.send(function, **options), timeout)

    def close(self) -> None:
        self.process.kill()
        self.pool.shutdown()


def lap(contestant: tuple[Callable, Callable | None]) -> dict:
    """Of what to run, and what makes of its result JSON that all contestants must have alike. A
    result that is a float is the seconds."""
    run, result_of = contestant
    start = time.perf_counter()
    result = run()
    seconds = result if isinstance(result, float) else time.perf_counter() - start
    found = result_of and json.dumps(result_of(result))
    return {"seconds": seconds, "result": found and sha256(found.encode()).hexdigest()}


def compete(title: str, make: Callable, rounds: dict[str, int], amount: float, unit: str, **task):
    """A row for each contestant: seconds of a lap, `amount` of `unit` per second. They take turns,
    for so many rounds each, ours is the first, and all that have a result have the same.
    make(name, **task) → the contestant, as `lap` takes it."""
    laps, workers = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(rounds):  # with an empty cache: compiling is timed
            cache = {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/{number}"}
            workers[name] = Worker(make, cache, name=name, **task)
            laps[name] = [workers[name].call(lap)]  # warms up, compiles
        for done in range(max(rounds.values())):
            for name, worker in workers.items():
                laps[name] += [worker.call(lap)] if done < rounds[name] else []
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


# Operations/s in bfloat16, dense (without the sparsity that data sheets double the rates by), by
# the name that CUDA gives. NVIDIA's data sheets: "H100 Tensor Core GPU" (2023, column SXM), "H200
# Tensor Core GPU" (2024), "A100 Tensor Core GPU" (2021).
DATA_SHEETS = {
    "NVIDIA H100 80GB HBM3": 989.4e12,
    "NVIDIA H200": 989.4e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
}


def measured_peak(device: str, dtype: torch.dtype, size: int = 2048) -> float:
    """Operations/s of the fastest product of two (size, size) matrices seen here.

    The floor of a training step, than which none is faster, is its operations over this rate. They
    are those of matrix products; what norms, softmax, activation functions and the optimiser add is
    left out, and so is the memory's traffic, which takes models of this size less.
    """
    matrix = torch.randn(size, size, device=device).to(dtype)
    products = [lambda: torch.mm(matrix, matrix)]
    linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if linear and device == "cpu" and dtype == torch.float32:
        # float32 goes to MKL, which takes up to twice as long as oneDNN on AMD's processors.
        products.append(lambda: linear(matrix, matrix, None, "none", [], ""))
    # The first calls warm up.
    return 2 * size**3 / min(timed(device, call) for call in products for _ in range(10))


def timed(device: str, call: Callable) -> float:
    """Seconds to its end on the device."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def record(options: argparse.Namespace, name: str, libraries: tuple[str, ...], **content) -> None:
    """Write OUT/NAME.json with the machine and the libraries' versions beside the numbers."""
    processor = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    machine = {**environment("cpu"), "processor": processor[1], "cores": os.cpu_count()}
    about = {"rounds": options.rounds, "versions": {name: version(name) for name in libraries}}
    write_json(options.out / f"{name}.json", {"environment": machine, **about, **content})
    print(f"\nRecorded in {options.out / name}.json")
