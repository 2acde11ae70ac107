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
from collections.abc import Callable
from pathlib import Path

import common
from gpu_worker import PEERS, Checks, Timed, our_paths
from workers import CallError, Worker

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
NEED_CUDA = ("plain loop, reduce-overhead",)
LAPS = 5  # at most; after one that warms up
PATIENCE = 0.3  # share of the budget after which a process that does not answer is given up


class Check:
    """The parts, one after the other, and the record of all that they find."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.since, self.options, self.folder = time.monotonic(), options, folder
        self.cuda = options.device == "cuda"
        names = ("parts", "errors", "checks", "first_step_s", "speed", "peers", "best", "seconds")
        self.record = {"data": "random token ids", **{name: {} for name in names}}
        self.cases = {}
        for shape in [(16, 2, 2)] if options.tiny else [(256, 128, 1), (32, 128, 4)]:
            label = " × ".join(str(number) for number in shape if number > 1)
            case = dict(zip(("window", "batch", "accumulation"), shape, strict=True))
            self.cases[label] = {"device": options.device, "tiny": options.tiny, **case}
        self.checks = self.start(Checks, next(iter(self.cases)))
        # Of each case the contestants' processes, ours in one; they compile what is timed later.
        self.workers = {label: {} for label in self.cases}
        self.paths, self.ready = {}, {label: [] for label in self.cases}
        for label, case in self.cases.items():
            self.paths[label] = our_paths(self.cuda, case["accumulation"])
            ours, workers = self.start(Timed, label), self.workers[label]
            for name, paths in self.paths[label].items():
                workers[name] = ours
                ours.send("prepare", name=name, paths=paths)
            for name in PEERS:
                if self.cuda or name not in NEED_CUDA:
                    workers[name] = self.start(Timed, label)
                    workers[name].send("prepare", name=name, paths=None)

    def left(self, share: float = 0.0) -> float:
        """Seconds, but for a share that is for others."""
        return self.options.seconds * (1 - share) - (time.monotonic() - self.since)

    def patience(self) -> float:
        """Seconds that a call may take."""
        return max(0.1, min(PATIENCE * self.options.seconds, self.left()))

    def start(self, kind: type, label: str) -> Worker:
        # What compiling takes is timed with an empty cache.
        environment = {"TORCHINDUCTOR_CACHE_DIR": str(self.folder), "HF_HUB_OFFLINE": "1"}
        if kind is Timed or self.options.tiny:  # there are enough processes: one thread for each
            environment |= {"TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"}
        if self.options.tiny:  # on few cores compiling takes minutes, and is PyTorch's business
            environment["TORCHDYNAMO_DISABLE"] = "1"
        return Worker(kind, environment, case=self.cases[label])

    def part(self, name: str, run: Callable, /, **given) -> None:
        """Run it, if there is time, and write down what came of it."""
        start, parts = time.monotonic(), self.record["parts"]
        parts[name] = "skipped: no time"
        if self.left() > 0:
            try:
                run(**given)
                parts[name] = round(time.monotonic() - start, 1)
            except Exception as error:
                parts[name] = "failed"
                self.failed(name, error)
        self.say(f"-- {name}: {parts[name]}")

    def say(self, line: str) -> None:
        """Print it, and keep what is known so far."""
        took = time.monotonic() - self.since
        print(f"{took:6.1f}  {line}", flush=True)
        write_json(self.options.out, {**self.record, "seconds_in_all": round(took, 1)})

    def failed(self, name: str, error: Exception) -> None:
        lines = self.record["errors"][name] = f"{type(error).__name__}: {error}".splitlines()
        self.say(f"ERROR {name}: {lines[0][:300]}")

    def ask(self, name: str, method: str, **options):
        """The answer of the process of checks, None where it failed. An error of CUDA's stays with
        a process, so the next call gets a new one."""
        try:
            return self.checks.call(method, self.patience(), **options)
        except CallError as error:
            self.failed(name, error)
            self.checks.close()
            self.checks = self.start(Checks, next(iter(self.cases)))
            return None

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

    def wait(self) -> None:
        """Until all is compiled, so that nobody disturbs who is timed; but not for ever."""
        deadline = time.monotonic() + self.left(0.45)
        for label, workers in self.workers.items():
            for name, worker in workers.items():
                contestant = f"{label}: {name}"
                try:
                    seconds = worker.receive(max(1.0, deadline - time.monotonic()))
                    self.record["first_step_s"][contestant] = seconds
                    self.ready[label].append(name)
                except CallError as error:
                    self.failed(contestant, error)
        self.say(f"Ready: {', '.join(self.record['first_step_s'])}")

    def laps(self, label: str) -> dict[str, dict]:
        """A step of each, lap by lap in turns, as long as others have the time that they need."""
        taken, steps = {name: [] for name in self.ready[label]}, 2 if self.options.tiny else 20
        for lap in range(1 + LAPS):
            for name in list(taken):
                worker = self.workers[label][name]
                try:
                    seconds = worker.call("lap", self.patience(), name=name, count=steps)
                    taken[name].append(seconds)
                except CallError as error:
                    self.failed(f"a lap of {name}", error)
                    del taken[name]
            if lap and self.left(0.2) < 0:
                break
        found = {name: laps[1:] for name, laps in taken.items()}  # the first one warms up
        return {n: {"step_s": statistics.median(s), "laps_s": s} for n, s in found.items()}

    def speed(self, label: str) -> None:
        """Of every path of ours and of every peer."""
        laps, case, paths = self.laps(label), self.cases[label], self.paths[label]
        variants = {name: {**paths[name], **laps[name]} for name in paths if name in laps}
        peers = {name: row for name, row in laps.items() if name not in paths}
        best = min(variants, key=lambda name: variants[name]["step_s"])
        floor = self.workers[label][best].call("floor", self.patience())
        for row in variants.values():
            tokens = case["window"] * case["batch"] * case["accumulation"]
            row["tokens_per_s"] = tokens / row["step_s"]
            row["above_floor"] = row["step_s"] / floor["seconds"]
        for name, row in laps.items():
            row["times_ours"] = row["step_s"] / laps[best]["step_s"]
            self.say(f"{label}: {name:32} {row['step_s'] * 1e3:8.3f} ms, {row['times_ours']:.2f} ×")
        self.record["speed"][label] = {"variants": variants, "floor": floor}
        self.record["peers"][label] = {**peers, "ours": laps[best]}
        self.record["best"][label] = best
        self.record["recommended"] = paths[best]  # the last case's: its pieces can be merged

    def seconds(self, name: str, **options) -> None:
        """Of what is timed by itself."""
        self.record["seconds"][name] = found = self.ask(name, name.split(",")[0], **options)
        self.say(f"{name} {found}")

    def stop(self) -> None:
        for workers in self.workers.values():
            for worker in workers.values():
                worker.close()

    def run(self) -> None:
        self.part("checks", self.correct)
        self.part("ready", self.wait)
        for label in self.cases:
            self.part(f"speed, {label}", self.speed, label=label)
        self.stop()
        for batch in (1, 2) if self.options.tiny else (1, 64):
            name = f"generation, batch {batch}"
            self.part(name, self.seconds, name=name, batch=batch)


def main() -> None:
    options = common.options(__doc__, Path("runs/gpu.json"), seconds=150.0, device="cuda")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and stop the processes
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        check = Check(options, Path(folder))
        try:
            check.run()
        finally:
            check.stop()
            check.checks.close()
            check.say("Done.")
    passed = [row.get("passed", False) for row in check.record["checks"].values()]
    print(f"{sum(passed)} of {len(passed)} checks passed, {len(check.record['errors'])} errors")
    print(f"RECOMMENDED: {json.dumps(check.record.get('recommended', {}))}", flush=True)


if __name__ == "__main__":
    main()
