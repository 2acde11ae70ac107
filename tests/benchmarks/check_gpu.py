"""Check a GPU that the package has never run on: is it correct there, how fast, and by which paths?

make gpu

At most 150 seconds; the result file is written anew after every answer, so nothing is lost if it is
stopped. Whatever touches the GPU is in other processes (gpu_worker.py): one that fails or hangs is
recorded and given up. They compile at the same time, and are timed in turns.
"""

import argparse
import contextlib
import json
import os
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from llmlite.files import write_json

ROOT = Path(__file__).parents[2]
CHECKS = {  # by name: the worker's function, and what it is called with
    "graph_is_plain": ("is_plain", {}),
    "merged_is_plain": ("is_plain", {"accumulation": 4, "merge": True}),
    "pieces_are_plain": ("is_plain", {"accumulation": 4}),
    "bf16_is_plain": ("is_plain", {"dtype": "bfloat16"}),
    "rate_0_keeps_the_weights": ("rate_0_keeps_the_weights", {}),
    "replays_drop_out_other_units": ("replays_drop_out_other_units", {}),
    "resumed_is_uninterrupted": ("resumed_is_uninterrupted", {}),
    "generation_is_plain": ("generation_is_plain", {}),
    "fp16_is_plain": ("is_plain", {"dtype": "float16"}),
    "fp16_graph_is_no_graph": ("is_plain", {"dtype": "float16", "other": "no graph"}),
    "fp16_overflow_is_left_out": ("fp16_overflow_is_left_out", {}),
    "steps_do_not_wait": ("steps_do_not_wait", {"dtype": "bfloat16"}),
    "fp16_steps_do_not_wait": ("steps_do_not_wait", {"dtype": "float16"}),
    "trainer_runs": ("trainer_runs", {}),
    "compiled_is_plain": ("is_plain", {"compile": True}),
}
ON_CUDA = {name for name in CHECKS if "fp16" in name or "wait" in name}
OURS, PEERS = "ours", ("transformers, torch.compile", "plain loop, torch.compile")
GRAPHED = "plain loop, reduce-overhead"  # needs CUDA
LAPS = 5  # at most; after one that warms up
# Shares of the budget after which a process that does not answer is given up: the second where
# nothing is compiled.
CALL, QUICK = 0.4, 0.17


class CallError(Exception):
    """A process could not do what it was asked for: why, and its last lines."""


class Worker:
    """A gpu_worker.py; calls are queued, and answered in their order."""

    def __init__(self, role: str, case: dict, folder: Path, environment: dict[str, str]):
        self.role, self.alive = role, True
        self.log = tempfile.TemporaryFile("w+", dir=folder)  # noqa: SIM115, closed with the worker
        script = str(Path(__file__).with_name("gpu_worker.py"))
        self.process = subprocess.Popen(
            [sys.executable, script, role, json.dumps(case)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def send(self, function: str, /, **options) -> None:
        with contextlib.suppress(OSError, ValueError):  # it is gone: receive() will say so
            self.process.stdin.write(json.dumps([function, options]) + "\n")
            self.process.stdin.flush()

    def receive(self, timeout: float):
        if not self.alive:
            raise CallError(f"The process '{self.role}' was given up before.")
        try:
            line = self.lines.get(timeout=max(0.1, timeout))
        except queue.Empty:
            self.close()
            raise CallError(f"No answer within {timeout:.0f} s\n{self.tail}") from None
        if line is None:
            self.close()
            raise CallError(f"The process ended with code {self.process.returncode}\n{self.tail}")
        answer = json.loads(line, parse_constant=str)  # strict JSON has no NaN
        if "error" in answer:
            raise CallError(answer["error"])
        return answer["result"]

    def call(self, function: str, timeout: float, /, **options):
        self.send(function, **options)
        return self.receive(timeout)

    def close(self) -> None:
        if self.alive:
            self.alive = False
            self.process.kill()
            self.process.wait()
            self.log.seek(0)
            self.tail = "\n".join(self.log.read().strip().splitlines()[-12:])
            self.log.close()


class Check:
    """The parts, one after the other, and the record of all that they find."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.out, self.device, self.tiny = options.out, options.device, options.tiny
        self.since, self.budget, self.folder = time.monotonic(), options.seconds, folder
        self.record = {"data": "random token ids", "parts": {}, "errors": {}, "checks": {}}
        self.record |= {"first_step_s": {}, "speed": {}, "peers": {}, "best": {}, "seconds": {}}
        self.cases = {}
        for shape in [(16, 2, 2)] if self.tiny else [(256, 128, 1), (32, 128, 4)]:
            case = dict(zip(("window", "batch", "accumulation"), shape, strict=True))
            label = " × ".join(str(number) for number in shape if number > 1)
            self.cases[label] = {"device": self.device, "tiny": self.tiny, **case}
        self.checks = self.start("checks")
        roles = [OURS, *PEERS, *([GRAPHED] if self.device == "cuda" else [])]
        self.workers = {
            (label, role): self.start(role, label) for role in roles for label in self.cases
        }
        for worker in self.workers.values():
            worker.send("prepare")  # compile what is timed later, while others check
        self.ready = {label: {role: {} for role in roles} for label in self.cases}

    @property
    def left(self) -> float:
        return self.budget - (time.monotonic() - self.since)

    def patience(self, share: float) -> float:
        """Seconds that a call may take."""
        return min(share * self.budget, self.left)

    def start(self, role: str, label: str | None = None) -> Worker:
        # The checks time what compiling takes with an empty cache.
        cache = self.folder / ("own" if role == "checks" else "shared")
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache), "HF_HUB_OFFLINE": "1"}
        paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        if role != "checks":  # there are enough processes: each compiles by itself
            environment["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        if role != "checks" or self.tiny:
            environment["OMP_NUM_THREADS"] = "1"
        if self.tiny:  # on few cores compiling takes minutes, and is PyTorch's business
            environment.setdefault("TORCHDYNAMO_DISABLE", "1")
        case = self.cases[label or next(iter(self.cases))]
        return Worker(role, case, self.folder, environment)

    def part(self, name: str, needs: float, run: Callable) -> None:
        """Run it, unless less time is left than it needs, and write down what came of it."""
        start = time.monotonic()
        if needs and self.left < needs:
            self.record["parts"][name] = f"skipped: {self.left:.0f} s left, {needs:.0f} needed"
        else:
            try:
                run()
                self.record["parts"][name] = round(time.monotonic() - start, 1)
            except Exception as error:
                self.record["parts"][name] = "failed"
                self.failed(name, error)
        self.say(f"-- {name}: {self.record['parts'][name]}")

    def say(self, line: str) -> None:
        """Print it, and keep what is known so far."""
        print(f"{time.monotonic() - self.since:6.1f}  {line}", flush=True)
        self.write()

    def write(self) -> None:
        self.record["seconds_in_all"] = round(time.monotonic() - self.since, 1)
        write_json(self.out, self.record)

    def failed(self, name: str, error: Exception) -> None:
        lines = self.record["errors"][name] = f"{type(error).__name__}: {error}".splitlines()
        self.say(f"ERROR {name}: {lines[0][:300]}")

    def ask(self, function: str, share: float = CALL, name: str | None = None, **options):
        """The answer of the process of checks, None where it failed. An error of CUDA's stays with
        a process, so the next call gets a new one."""
        try:
            return self.checks.call(function, self.patience(share), **options)
        except CallError as error:
            self.failed(name or function, error)
            line = str(error).partition("\n")[0]
            broken = "CUDA" in line and "synchronizing" not in line
            if broken or not self.checks.alive:
                self.checks.close()
                self.checks = self.start("checks")
            return None

    def machine(self) -> None:
        self.record |= self.ask("environment") or {}
        self.say(f"{self.record.get('environment')}")

    def correct(self) -> None:
        found = self.record["checks"]
        for name, (function, options) in CHECKS.items():
            if name in ON_CUDA and self.device != "cuda":
                found[name] = {"skipped": "needs CUDA"}
            elif self.left < 0.4 * self.budget:
                found[name] = {"skipped": "no time"}
            else:
                share = CALL if "compiled" in name else QUICK
                answer = self.ask(function, share, name, **options)
                found[name] = answer or {"passed": False, "error": True}
            row = found[name]
            verdict = row.get("skipped") or ("passed" if row["passed"] else "FAILED")
            if "largest_relative_difference" in row:
                verdict += f", differs by {row['largest_relative_difference']:.1e}"
            self.say(f"{name:32} {verdict}")

    def wait(self) -> None:
        """Until all is compiled, so that nobody disturbs who is timed; but not for ever."""
        deadline = time.monotonic() + self.left - 0.45 * self.budget
        for (label, role), worker in self.workers.items():
            try:
                found = worker.receive(max(5.0, deadline - time.monotonic()))
            except CallError as error:
                self.failed(f"{label}: {role}", error)
                continue
            for name, row in found.items():
                about = f"{label}: {name}"
                if "error" in row:
                    self.failed(about, CallError(row["error"]))
                else:
                    self.record["first_step_s"][about] = row.pop("first_step_s")
                    self.ready[label][role][name] = row
            self.say(f"{label}: {role}: {len(self.ready[label][role])} of {len(found)} are ready")

    def laps(self, calls: dict[str, tuple[Worker, str]], until: float) -> dict[str, dict]:
        """A step of each, lap by lap in turns, while more than `until` seconds are left."""
        taken, steps = {name: [] for name in calls}, 2 if self.tiny else 20
        for lap in range(1 + LAPS):
            for name in list(taken):
                worker, variant = calls[name]
                try:
                    found = worker.call("lap", self.patience(QUICK), name=variant, count=steps)
                    taken[name] += [found] if lap else []
                except CallError as error:
                    self.failed(f"a lap of {name}", error)
                    del taken[name]
            if lap and self.left < until:
                break
        found = {name: laps for name, laps in taken.items() if laps}
        return {n: {"step_s": statistics.median(s), "laps_s": s} for n, s in found.items()}

    def speed(self, label: str) -> None:
        case, worker = self.cases[label], self.workers[label, OURS]
        row = self.record["speed"][label] = {"variants": {}}
        row["floors"] = floors = worker.call("floors", self.patience(QUICK))
        sheet, measured = (floors[name]["seconds"] for name in ("data sheet", "measured"))
        self.say(f"{label}: floor {sheet * 1e3:.3g} ms, measured {measured * 1e3:.3g} ms")
        ready = self.ready[label][OURS]
        tokens = case["window"] * case["batch"] * case["accumulation"]
        laps = self.laps({name: (worker, name) for name in ready}, 0.35 * self.budget)
        for name, found in laps.items():
            rate, above = tokens / found["step_s"], found["step_s"] / sheet
            found |= {"tokens_per_s": rate, "above_floor": above}
            row["variants"][name] = {**ready[name], **found}
            self.say(
                f"  {name:38} {found['step_s'] * 1e3:8.3f} ms {rate:12,.0f} tokens/s "
                f"{above:6.1f} × the floor, {found['step_s'] / measured:6.1f} × the measured"
            )
        if laps:
            self.record["best"][label] = best = min(laps, key=lambda name: laps[name]["step_s"])
            self.record["recommended"] = ready[best]  # the last case's: its pieces can be merged

    def peers(self, label: str) -> None:
        roles = [role for role in self.ready[label] if role != OURS and self.ready[label][role]]
        calls = {role: (self.workers[label, role], role) for role in roles}
        calls[OURS] = self.workers[label, OURS], self.record["best"][label]
        rows = self.record["peers"][label] = self.laps(calls, 0.2 * self.budget)
        for name, row in rows.items():
            row["times_ours"] = times = row["step_s"] / rows[OURS]["step_s"]
            self.say(f"{label}: {name:30} {row['step_s'] * 1e3:8.3f} ms, {times:.2f} × ours")

    def stop(self) -> None:
        for worker in self.workers.values():
            worker.close()

    def seconds(self, name: str, **options) -> None:
        self.record["seconds"][name] = found = self.ask(name.split(",")[0], name=name, **options)
        self.say(f"{name} {found}")

    def profile(self) -> None:
        self.record["profile"] = found = self.ask("profile")
        for line in found["lines"] if found else ():
            self.say(line)

    def run(self) -> None:
        self.part("machine", 0, self.machine)
        self.part("checks", 0, self.correct)
        # In the time that the others need to compile as well.
        self.part("compilation", 0.45 * self.budget, partial(self.seconds, "compilation"))
        self.part("ready", 0, self.wait)
        for label in self.cases:
            self.part(f"speed, {label}", 10, partial(self.speed, label))
        for label in self.cases:
            self.part(f"peers, {label}", 10, partial(self.peers, label))
        self.part("stop", 0, self.stop)
        self.part("files", 3, partial(self.seconds, "files"))
        for batch in (1, 2) if self.tiny else (1, 64):
            name = f"generation, batch {batch}"
            self.part(name, 12, partial(self.seconds, name, batch=batch))
        self.part("profile", 5, self.profile)


def summary(record: dict) -> list[str]:
    """What is not as it should be, and what was found to be the fastest."""
    checks = record["checks"].items()
    failed = [name for name, row in checks if row.get("passed") is False]
    skipped = {name: row["skipped"] for name, row in checks if "skipped" in row}
    skipped |= {name: what for name, what in record["parts"].items() if isinstance(what, str)}
    passed = sum(row.get("passed", False) for _, row in checks)
    lines = ["", "=" * 100, f"{passed} checks passed; failed: {', '.join(failed) or 'none'}"]
    lines += [f"{name}: {what}" for name, what in skipped.items()]
    lines += [f"ERROR {name}: {error[0][:200]}" for name, error in record["errors"].items()]
    lines += [f"BEST {label}: {name}" for label, name in record["best"].items()]
    return [*lines, f"RECOMMENDED: {json.dumps(record.get('recommended', {}))}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/gpu.json"), help="%(default)s")
    parser.add_argument("--seconds", type=float, default=150, help="at most, about: %(default)s")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="%(default)s")
    parser.add_argument("--tiny", action="store_true", help="small models, to try this script")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and stop the processes
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        check = Check(options, Path(folder))
        try:
            check.run()
        finally:
            check.stop()
            check.checks.close()
            check.write()
    print("\n".join(summary(check.record)), flush=True)


if __name__ == "__main__":
    main()
