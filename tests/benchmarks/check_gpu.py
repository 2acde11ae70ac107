"""Check a GPU that the package has never run on: is it correct there, how fast, and by which paths?

make gpu

At most 150 seconds; the result file is written anew after every answer, so nothing is lost if it is
stopped. Whatever touches the GPU is in other processes (gpu_worker.py): one that fails or hangs is
recorded and given up. They compile at the same time, and are timed in turns.
"""

import argparse
import json
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import common
from common import Worker
from gpu_worker import PEERS, Checks, Timed, our_paths

from llmlite.files import write_json

CHECKS = {  # by name: the worker's method, and what it is called with
    "graph_is_plain": ("is_plain", {}),
    "merged_is_plain": ("is_plain", {"accumulation": 4, "merge": True}),
    "pieces_are_plain": ("is_plain", {"accumulation": 4}),
    "bf16_is_plain": ("is_plain", {"dtype": "bfloat16"}),
    "replays_drop_out_other_units": ("replays_drop_out_other_units", {}),
    "resumed_is_uninterrupted": ("resumed_is_uninterrupted", {}),
    "generation_is_plain": ("generation_is_plain", {}),
    "fp16_is_plain": ("is_plain", {"dtype": "float16"}),
    "fp16_overflow_is_left_out": ("fp16_overflow_is_left_out", {}),
    "steps_do_not_wait": ("steps_do_not_wait", {"dtype": "bfloat16"}),
    "fp16_steps_do_not_wait": ("steps_do_not_wait", {"dtype": "float16"}),
    "trainer_runs": ("trainer_runs", {}),
    "compiled_is_plain": ("is_plain", {"compile": True}),
}
LAPS = 5  # at most; after one that warms up
PATIENCE = 0.3  # share of the budget after which a process that does not answer is given up


class Check:
    """The parts, one after the other, and the record of all that they find."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.since, self.options, self.folder = time.monotonic(), options, folder
        self.cuda, self.started = options.device == "cuda", []
        names = ("errors", "checks", "first_step_s", "speed", "peers", "best", "seconds")
        self.record = {"data": "random token ids", **{name: {} for name in names}}
        shapes = [(16, 2, 2)] if options.tiny else [(256, 128, 1), (32, 128, 4)]
        self.cases = {" × ".join(str(n) for n in shape if n > 1): shape for shape in shapes}
        self.checks = self.start(Checks, shapes[0])
        # Of each case the contestants' processes, ours in one; they compile what is timed later.
        self.workers, self.first_steps = {}, {}
        for label, shape in self.cases.items():
            paths = our_paths(self.cuda, shape[-1])
            workers = dict.fromkeys(paths, self.start(Timed, shape))
            self.workers[label] = workers | {name: self.start(Timed, shape) for name in PEERS}
            self.first_steps[label] = {
                name: worker.send(Timed.prepare, name=name, paths=paths.get(name))
                for name, worker in self.workers[label].items()
            }

    def left(self, share: float = 0.0) -> float:
        """Seconds, but for a share that is for others."""
        return self.options.seconds * (1 - share) - (time.monotonic() - self.since)

    def patience(self) -> float:
        """Seconds that a call may take."""
        return max(0.1, min(PATIENCE * self.options.seconds, self.left()))

    def start(self, kind: type, shape: tuple[int, int, int]) -> Worker:
        # What compiling takes is timed with an empty cache.
        environment = {"TORCHINDUCTOR_CACHE_DIR": str(self.folder), "HF_HUB_OFFLINE": "1"}
        if kind is Timed or self.options.tiny:  # there are enough processes: one thread for each
            environment |= {"TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"}
        if self.options.tiny:  # on few cores compiling takes minutes, and is PyTorch's business
            environment["TORCHDYNAMO_DISABLE"] = "1"
        case = dict(zip(("window", "batch", "accumulation"), shape, strict=True))
        case |= {"device": self.options.device, "tiny": self.options.tiny}
        self.started.append(Worker(kind, environment, case=case))
        return self.started[-1]

    def say(self, line: str) -> None:
        """Print it, and keep what is known so far."""
        took = time.monotonic() - self.since
        print(f"{took:6.1f}  {line}", flush=True)
        record = {**self.record, "seconds_in_all": round(took, 1)}
        # Strict JSON has no NaN.
        write_json(self.options.out, json.loads(json.dumps(record), parse_constant=str))

    def attempt(self, name: str, call: Callable, *arguments, **options):
        """What a call gives; None where it fails, which is recorded."""
        try:
            return call(*arguments, **options)
        except Exception as error:
            where = error.__cause__ or error  # in the process, if it is there
            lines = "".join(traceback.format_exception(where)).splitlines()
            self.record["errors"][name] = lines[-12:]
            self.say(f"ERROR {name}: {type(error).__name__}: {error}"[:300])

    def ask(self, name: str, method: str, **options):
        """The answer of the process of checks. An error of CUDA's stays with a process, so the next
        call gets a new one."""
        check, patience = getattr(Checks, method), self.patience()
        answer = self.attempt(name, self.checks.call, check, patience, **options)
        if answer is None:
            self.checks.close()
            self.checks = self.start(Checks, next(iter(self.cases.values())))
        return answer

    def correct(self) -> None:
        self.record |= self.ask("machine", "machine") or {}
        self.say(f"{self.record.get('environment')}")
        for name, (method, options) in CHECKS.items():
            if not self.cuda and ("fp16" in name or "wait" in name):
                row = {"skipped": "needs CUDA"}
            elif self.left(0.6) < 0:
                row = {"skipped": "no time"}
            else:
                row = self.ask(name, method, **options) or {"passed": False, "error": True}
            self.record["checks"][name] = row
            verdict = row.get("skipped") or ("passed" if row["passed"] else "FAILED")
            self.say(f"{name:32} {verdict} {row.get('largest_relative_difference', '')}")

    def answers(self, label: str, ask: Callable) -> dict:
        """What each contestant of a case answers; one that fails is out from then on."""
        workers = self.workers[label]
        found = {n: self.attempt(f"{label}: {n}", ask, n, worker) for n, worker in workers.items()}
        found = {name: answer for name, answer in found.items() if answer is not None}
        self.workers[label] = {name: workers[name] for name in found}
        return found

    def wait(self) -> None:
        """Until all is compiled, so that nobody disturbs who is timed; but not for ever."""
        deadline, first = time.monotonic() + self.left(0.45), self.record["first_step_s"]

        def seconds(label: str, name: str, worker: Worker) -> float:
            left = max(1.0, deadline - time.monotonic())
            return worker.receive(self.first_steps[label][name], left)

        for label in self.cases:
            taken = self.answers(label, partial(seconds, label))
            first |= {f"{label}: {name}": took for name, took in taken.items()}
        self.say(f"Ready: {', '.join(first)}")

    def laps(self, label: str) -> dict[str, dict]:
        """A step of each, lap by lap in turns, as long as others have the time that they need."""

        def lap(name: str, worker: Worker) -> float:
            steps = 2 if self.options.tiny else 20
            return worker.call(Timed.lap, self.patience(), name=name, count=steps)

        self.answers(label, lap)  # warms up
        laps = [self.answers(label, lap)]
        while len(laps) < LAPS and self.left(0.2) > 0:
            laps.append(self.answers(label, lap))
        found = {name: [lap[name] for lap in laps] for name in laps[-1]}
        return {n: {"step_s": statistics.median(s), "laps_s": s} for n, s in found.items()}

    def speed(self, label: str) -> None:
        """Of every path of ours and of every peer."""
        laps, (window, batch, accumulation) = self.laps(label), self.cases[label]
        paths = our_paths(self.cuda, accumulation)
        variants = {name: {**paths[name], **laps[name]} for name in paths if name in laps}
        if not variants:
            return
        best = min(variants, key=lambda name: variants[name]["step_s"])
        floor = self.workers[label][best].call(Timed.floor, self.patience())
        for row in variants.values():
            row["tokens_per_s"] = window * batch * accumulation / row["step_s"]
            row["above_floor"] = row["step_s"] / floor["seconds"]
        for name, row in laps.items():
            row["times_ours"] = row["step_s"] / laps[best]["step_s"]
            self.say(f"{label}: {name:32} {row['step_s'] * 1e3:8.3f} ms, {row['times_ours']:.2f} ×")
        peers = {name: row for name, row in laps.items() if name not in paths}
        self.record["speed"][label] = {"variants": variants, "floor": floor}
        self.record["peers"][label] = {**peers, "ours": laps[best]}
        self.record["best"][label] = best
        self.record["recommended"] = paths[best]  # the last case's: its pieces can be merged

    def run(self) -> None:
        self.correct()
        self.wait()
        for label in self.cases:
            self.attempt(label, self.speed, label)
        for worker in self.started:  # what is timed alone is not disturbed
            if worker is not self.checks:
                worker.close()
        for batch in (1, 2) if self.options.tiny else (1, 64):
            name = f"generation, batch {batch}"
            self.record["seconds"][name] = found = self.ask(name, "generation", batch=batch)
            self.say(f"{name} {found}")


def main() -> None:
    options = common.options(__doc__, Path("runs/gpu.json"), seconds=150.0, device="cuda")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and stop the processes
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        check = Check(options, Path(folder))
        try:
            check.run()
        finally:
            for worker in check.started:
                worker.close()
            check.say("Done.")
    passed = [row.get("passed", False) for row in check.record["checks"].values()]
    print(f"{sum(passed)} of {len(passed)} checks passed, {len(check.record['errors'])} errors")
    print(f"RECOMMENDED: {json.dumps(check.record.get('recommended', {}))}", flush=True)


if __name__ == "__main__":
    main()
