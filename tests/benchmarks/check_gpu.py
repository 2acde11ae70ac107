"""Check a GPU that the package has never run on: is it correct there, how fast, and by which paths?

make gpu

At most 150 seconds; the result file is written anew after every answer, so nothing is lost if it is
stopped. Whatever touches the GPU is in other processes (gpu_worker.py): one that fails or hangs is
recorded and given up. They compile at the same time, and are timed in turns.
"""

import argparse
import contextlib
import json
import math
import os
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from llmlite.files import write_json

ROOT = Path(__file__).parents[2]
CHECKS = (
    "graph_is_plain",
    "merged_is_plain",
    "pieces_are_plain",
    "bf16_is_plain",
    "rate_0_keeps_the_weights",
    "replays_drop_out_other_units",
    "resumed_is_uninterrupted",
    "generation_is_plain",
    "fp16_is_plain",
    "fp16_graph_is_no_graph",
    "fp16_overflow_is_left_out",
    "steps_do_not_wait",
    "fp16_steps_do_not_wait",
    "trainer_runs",
    "compiled_is_plain",
)
ON_CUDA = {name for name in CHECKS if "fp16" in name or "wait" in name}
PEERS = {
    "transformers, torch.compile": ("transformers", "default"),
    "plain loop, torch.compile": ("plain, compiled", "default"),
    "plain loop, reduce-overhead": ("plain, compiled", "reduce-overhead"),
}
LAPS = 5  # at most; after one that warms up
# Shares of the budget after which a process that does not answer is given up: the second where
# nothing is compiled.
CALL, QUICK = 0.4, 0.17
NOISE = 0.01  # a chunk that gains less than this share is no reason to leave the package's own


class CallError(Exception):
    """A process could not do what it was asked for; `detail` has the end of its traceback."""

    def __init__(self, message: str, detail: list[str] = ()):
        super().__init__(message)
        self.detail = list(detail)


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
            raise CallError(f"No answer within {timeout:.0f} s", self.tail) from None
        if line is None:
            self.close()
            code = self.process.returncode
            raise CallError(f"The process ended with code {code}", self.tail)
        answer = json.loads(line)
        if "error" in answer:
            raise CallError(answer["error"], answer["traceback"])
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
            self.tail = self.log.read().strip().splitlines()[-12:]
            self.log.close()


class Check:
    """The parts, one after the other, and the record of all that they find."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.out, self.device, self.tiny = options.out, options.device, options.tiny
        self.since, self.budget, self.folder = time.monotonic(), options.seconds, folder
        self.record = {"parts": {}, "errors": {}, "skipped": []}
        cases = [(16, 2, 2)] if self.tiny else [(256, 128, 1), (32, 128, 4)]
        self.cases = {
            f"{window} × {batch}" + (f" × {accumulation}" if accumulation > 1 else ""): {
                "device": self.device,
                "window": window,
                "batch": batch,
                "accumulation": accumulation,
                "tiny": self.tiny,
            }
            for window, batch, accumulation in cases
        }
        self.steps = 2 if self.tiny else 20
        self.main_case = next(iter(self.cases.values()))
        self.record["speed"] = {label: {} for label in self.cases}
        self.checks = self.start("checks", self.main_case, "own")
        # All processes start here, since importing takes them a while, and compile when told to.
        self.ours = {label: self.start("ours", c, "shared") for label, c in self.cases.items()}
        self.peers = {label: {} for label in self.cases}
        for label, case in self.cases.items():
            # Peers need no pieces: the whole batch fits.
            whole = {**case, "batch": case["batch"] * case["accumulation"], "accumulation": 1}
            for name, (role, mode) in PEERS.items():
                if self.device == "cpu" and mode == "reduce-overhead":
                    self.record["skipped"].append(f"{name}, {label}: needs CUDA")
                else:
                    self.peers[label][name] = self.start(role, whole, "shared")
        if self.device == "cpu":
            self.record["skipped"].append("all variants with a graph: they need CUDA")

    @property
    def left(self) -> float:
        return self.budget - (time.monotonic() - self.since)

    def patience(self, share: float) -> float:
        """Seconds that a call may take."""
        return min(share * self.budget, self.left)

    def start(self, role: str, case: dict, cache: str) -> Worker:
        folder = self.folder / cache
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder)}
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
        )
        environment["HF_HUB_OFFLINE"] = "1"
        if role != "checks":  # there are enough processes: each compiles by itself
            environment["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
            environment["OMP_NUM_THREADS"] = "1"
        if self.tiny:  # on few cores compiling takes minutes, and is PyTorch's business
            environment["OMP_NUM_THREADS"] = "1"
            environment.setdefault("TORCHDYNAMO_DISABLE", "1")
        return Worker(role, case, self.folder, environment)

    def part(self, name: str, needs: float, run) -> None:
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
        detail = getattr(error, "detail", [])
        self.record["errors"][name] = [f"{type(error).__name__}: {error}", *detail]
        self.say(f"ERROR {name}: {str(error)[:300]}")

    def ask(self, name: str, share: float = CALL, label: str | None = None, **options):
        """The answer of the process of checks, None where it failed. An error of CUDA's stays with
        a process, so the next call gets a new one."""
        try:
            return self.checks.call(name, self.patience(share), **options)
        except CallError as error:
            self.failed(label or name, error)
            broken = "CUDA" in str(error) and "synchronizing" not in str(error)
            if broken or not self.checks.alive:
                self.checks.close()
                self.checks = self.start("checks", self.main_case, "own")
            return None

    # -- the parts ----------------------------------------------------------------------------

    def machine(self) -> None:
        self.record["versions"] = found = self.ask("versions")
        self.say(f"{found}")
        self.record["ceilings"] = found = self.ask("ceilings")
        if found:
            self.say(
                f"copy {found['bytes_per_s'] / 1e9:,.0f} GB/s, product "
                f"{found['operations_per_s'] / 1e12:,.1f} TFLOP/s"
            )

    def prepare(self) -> None:
        """Let all that is timed later compile now."""
        for label in self.cases:
            self.ours[label].send("listed")
            for name, worker in self.peers[label].items():
                worker.send("prepare", name=PEERS[name][1])

    def correct(self) -> None:
        self.record["checks"] = found = {}
        for name in CHECKS:
            if name in ON_CUDA and self.device != "cuda":
                found[name] = {"skipped": "needs CUDA"}
            elif self.left < 0.4 * self.budget:
                found[name] = {"skipped": "no time"}
            else:
                share = CALL if "compiled" in name else QUICK
                found[name] = self.ask(name, share) or {"passed": False, "error": True}
            row = found[name]
            verdict = row.get("skipped") or ("passed" if row["passed"] else "FAILED")
            if "largest_relative_difference" in row:
                verdict += f", differs by {row['largest_relative_difference']:.1e}"
            self.say(f"{name:32} {verdict}")

    def compilation(self) -> None:
        self.record["seconds"] = {"compilation": self.ask("compilation")}
        self.say(f"compilation {self.record['seconds']['compilation']}")

    def ready(self) -> None:
        """Wait until all is compiled, so that nobody disturbs who is timed; but not for ever."""
        deadline = time.monotonic() + self.left - 0.45 * self.budget
        self.listed, self.ready_ours, self.ready_peers = {}, {}, {}
        self.record["first_step_s"] = first = {}
        for label, worker in self.ours.items():
            self.listed[label] = {}
            try:
                self.listed[label] = worker.receive(max(10.0, deadline - time.monotonic()))
            except CallError as error:
                self.failed(f"ours, {label}", error)
            for name in self.listed[label]:
                worker.send("prepare", name=name)

        def those_ready(label: str, workers: dict[str, Worker]) -> list[str]:
            names = []
            for name, worker in workers.items():
                about = f"{label}: {name}"
                if not worker.alive:
                    continue
                try:
                    first[about] = worker.receive(max(5.0, deadline - time.monotonic()))
                    names.append(name)
                except CallError as error:
                    self.failed(about, error)
            return names

        for label, worker in self.ours.items():
            workers = dict.fromkeys(self.listed[label], worker)
            self.ready_ours[label] = those_ready(label, workers)
            self.say(f"{label}: {len(self.ready_ours[label])} variants are ready")
        for label, workers in self.peers.items():
            self.ready_peers[label] = those_ready(label, workers)
            self.say(f"{label}: {len(self.ready_peers[label])} peers are ready")

    def laps(self, calls: dict, until: float) -> dict[str, list[float]]:
        """Seconds of a step of each, lap by lap in turns, while more than `until` s are left."""
        taken = {name: [] for name in calls}
        for lap in range(1 + LAPS):
            for name in list(taken):
                worker, variant = calls[name]
                try:
                    options = {"name": variant, "count": self.steps}
                    seconds = worker.call("lap", self.patience(QUICK), **options)
                    if lap:
                        taken[name].append(seconds)
                except CallError as error:
                    self.failed(f"a lap of {name}", error)
                    del taken[name]
            if lap and self.left < until:
                break
        return {name: laps for name, laps in taken.items() if laps}

    def speed(self) -> None:
        for label, worker in self.ours.items():
            try:
                self._speed(label, worker)
            except CallError as error:
                self.failed(f"speed of {label}", error)

    def _speed(self, label: str, worker: Worker) -> None:
        case, row = self.cases[label], self.record["speed"][label]
        ceilings = self.record.get("ceilings") or {"operations_per_s": 1.0, "bytes_per_s": 1.0}
        rates = ceilings["operations_per_s"], ceilings["bytes_per_s"]
        row["floors"] = worker.call(
            "floors", self.patience(QUICK), operations=rates[0], moved=rates[1]
        )
        laps = self.laps({n: (worker, n) for n in self.ready_ours[label]}, 0.35 * self.budget)
        tokens = case["window"] * case["batch"] * case["accumulation"]
        row["variants"] = {}
        for name, seconds in laps.items():
            median = statistics.median(seconds)
            row["variants"][name] = {
                **self.listed[label][name],
                "step_s": median,
                "laps_s": seconds,
                "tokens_per_s": tokens / median,
                "above_floor": median / row["floors"]["data sheet"]["seconds"],
                "above_measured_floor": median / row["floors"]["measured"]["seconds"],
            }
        for line in speed_table(label, row):
            self.say(line)

    def peers_ratios(self) -> None:
        self.record["peers"] = {}
        for label, names in self.ready_peers.items():
            calls = {name: (self.peers[label][name], PEERS[name][1]) for name in names}
            best = fastest(self.record["speed"][label].get("variants", {}))
            if best:
                calls = {"ours": (self.ours[label], best), **calls}
            laps = self.laps(calls, 0.2 * self.budget)
            own = statistics.median(laps["ours"]) if "ours" in laps else None
            self.record["peers"][label] = {
                name: {
                    "step_s": statistics.median(seconds),
                    "laps_s": seconds,
                    "times_ours": statistics.median(seconds) / own if own else None,
                }
                for name, seconds in laps.items()
            }
            for line in peers_table(label, self.record["peers"][label]):
                self.say(line)
        self.record["best"] = {
            label: fastest(row.get("variants", {})) for label, row in self.record["speed"].items()
        }

    def stop_contestants(self) -> None:
        for row in (self.ours, *self.peers.values()):
            for worker in row.values():
                worker.close()

    def seconds(self) -> None:
        found = self.record.setdefault("seconds", {})
        for name in ("checkpoint", "validation"):
            found[name] = self.ask(name)
            self.say(f"{name} {found[name]}")
        for batch in (1, 2) if self.tiny else (1, 64):
            name = f"generation, batch {batch}"
            if self.left < 12:
                self.record["skipped"].append(f"{name}: no time")
                continue
            found[name] = self.ask("generation", label=name, batch=batch)
            self.say(f"{name} {found[name]}")

    def profile(self) -> None:
        self.record["profile"] = found = self.ask("profile")
        for line in found["lines"] if found else ():
            self.say(line)

    def recommend(self) -> None:
        self.record["recommended"] = recommended(self.record.get("speed", {}))

    def run(self) -> None:
        self.part("1 machine", 0, self.machine)
        self.part("3 start compiling", 60, self.prepare)
        self.part("2 correct", 0, self.correct)
        # In the time that the others need to compile as well.
        self.part("5 compilation", 0.45 * self.budget, self.compilation)
        self.part("3 ready", 0, self.ready)
        self.part("3 speed", 10, self.speed)
        self.part("recommendation", 0, self.recommend)
        self.part("4 peers", 10, self.peers_ratios)
        self.part("stop", 0, self.stop_contestants)
        self.part("5 seconds", 8, self.seconds)
        self.part("6 profile", 5, self.profile)


def fastest(rows: dict) -> str | None:
    return min(rows, key=lambda name: rows[name]["step_s"], default=None)


def speed_table(label: str, row: dict) -> list[str]:
    floors = {name: each["seconds"] * 1e3 for name, each in row["floors"].items()}
    lines = [f"{label}: floor {floors['data sheet']:.3g} ms, measured {floors['measured']:.3g} ms"]
    for name, each in row["variants"].items():
        lines.append(
            f"  {name:38} {each['step_s'] * 1e3:8.3f} ms {each['tokens_per_s']:12,.0f} tokens/s "
            f"{each['above_floor']:6.1f} × {each['above_measured_floor']:6.1f} × the floor"
        )
    return lines


def peers_table(label: str, rows: dict) -> list[str]:
    return [
        f"{label}: {name:32} {row['step_s'] * 1e3:8.3f} ms"
        + (f"   {row['times_ours']:.2f} × ours" if row["times_ours"] else "")
        for name, row in rows.items()
    ]


def recommended(speed: dict) -> dict:
    """The paths that take the least time, over all cases (the product of their medians)."""
    every = [row["variants"] for row in speed.values() if row.get("variants")]
    if not every:
        return {}
    rows = [each for variants in every for each in variants.values()]
    own = next((each["chunk"] for name, each in every[0].items() if "chunk" not in name), None)

    def product(cases: list[dict], **wanted) -> float:
        """Of each case's shortest step with these paths; infinite where one has none."""
        fitting = [
            [each["step_s"] for each in variants.values() if wanted.items() <= each.items()]
            for variants in cases
        ]
        return math.prod(min(steps, default=math.inf) for steps in fitting)

    pairs = {(each["compile"], each["graph"]) for each in rows}
    compile, graph = min(pairs, key=lambda p: product(every, compile=p[0], graph=p[1], chunk=own))
    best = {"compile": compile, "graph": graph}
    accumulating = [v for v in every if any(each["merge"] for each in v.values())]
    merge = product(accumulating, **best, chunk=own, merge=True) <= product(
        accumulating, **best, chunk=own, merge=False
    )
    chunks = {each["chunk"]: product(every, **best, chunk=each["chunk"]) for each in rows}
    chunk = min(chunks, key=chunks.get)
    if chunks.get(own, math.inf) <= chunks[chunk] * (1 + NOISE):
        chunk = own
    return {**best, "merge": merge, "chunk": chunk}


def summary(record: dict) -> list[str]:
    """All of it on one page."""
    lines = ["", "=" * 100]
    lines += [f"{name}: {record[name]}" for name in ("versions", "ceilings") if record.get(name)]
    checks = record.get("checks", {})
    passed = [name for name, row in checks.items() if row.get("passed")]
    failed = [name for name, row in checks.items() if row.get("passed") is False]
    skipped = [name for name, row in checks.items() if "skipped" in row] + record["skipped"]
    lines.append(f"{len(passed)} checks passed; failed: {failed or 'none'}")
    lines.append(f"skipped: {', '.join(skipped) or 'nothing'}")
    for label, row in record.get("speed", {}).items():
        if row.get("variants"):
            lines += speed_table(label, row)
    for label, rows in record.get("peers", {}).items():
        lines += peers_table(label, rows)
    lines += [f"{name}: {value}" for name, value in record.get("seconds", {}).items()]
    profile = record.get("profile") or {}
    lines += profile.get("lines", [])
    not_done = {n: p for n, p in record["parts"].items() if isinstance(p, str)}
    lines += [f"{name}: {what}" for name, what in not_done.items()]
    lines += [f"ERROR {name}: {error[0][:200]}" for name, error in record["errors"].items()]
    lines.append(f"RECOMMENDED: {json.dumps(record.get('recommended') or {})}")
    return lines


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
            check.stop_contestants()
            check.checks.close()
            check.write()
    print("\n".join(summary(check.record)), flush=True)


if __name__ == "__main__":
    main()
