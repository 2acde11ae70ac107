"""A process of check_gpu.py: what it asks for, one call after the other.

    python gpu_worker.py ROLE CASE             (CASE is JSON, see Case)

A line of JSON on stdin is a call: the name of a function of the role, and what it is called with.
A line of JSON on stdout answers it, with a result or with an error, after which it goes on.
"""

import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

from llmlite import engine as engines
from llmlite import loss as losses
from llmlite.config import ModelConfig, TrainConfig
from llmlite.engine import Engine, FastPaths
from llmlite.floors import Peak, floor, peak
from llmlite.generate import generate
from llmlite.model import GPT
from llmlite.optim import learning_rate
from llmlite.parallel import ALONE

RATE, DECAY, CLIP = 1e-3, 0.1, 1.0
SETTLED = engines.WARM_UP + 3  # steps after which a graph has been captured and replayed
BATCHES = 8  # that the laps go through
CHUNKS = (2**24, 2**25, 2**26, 2**27)


@dataclass(frozen=True)
class Case:
    """What is timed: the best configuration on windows of a length, in so many at a step."""

    device: str
    window: int
    batch: int  # in one forward pass
    accumulation: int
    tiny: bool

    @property
    def windows(self) -> int:
        return self.batch * self.accumulation

    @property
    def shape(self) -> ModelConfig:
        if self.tiny:
            return ModelConfig(64, self.window, n_layer=1, n_head=2, n_embd=16)
        return ModelConfig(block_size=self.window)

    def batches(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Random tokens: zeros would flatter."""
        ids = _tokens(self.shape, BATCHES * self.windows, self.device)
        return list(zip(*(part.chunk(BATCHES) for part in ids), strict=True))


def _tokens(shape: ModelConfig, windows: int, device: str, seed: int = 0):
    """(inputs, targets) of so many windows."""
    generator = torch.Generator().manual_seed(seed)
    size = windows, shape.block_size + 1
    ids = torch.randint(shape.vocab_size, size, generator=generator).to(device)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def _engine(
    shape: ModelConfig, device: str, paths: FastPaths | None, dtype=None, seed=0, **options
) -> Engine:
    """A fresh one; paths None: the plain computation."""
    torch.manual_seed(seed)
    model = GPT(shape).to(device).train()
    config = TrainConfig(fast=paths is not None, weight_decay=DECAY, clip_norm=CLIP, **options)
    return Engine(model, config, dtype, math.inf, ALONE, paths or FastPaths())


class Clock:
    """Seconds of a `with` block's work on the device."""

    def __init__(self, device: str):
        self.cuda = device == "cuda"

    def __enter__(self):
        if self.cuda:
            torch.cuda.synchronize()
            self.marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self.marks[0].record()
        self.since = time.perf_counter()
        return self

    def __exit__(self, *_):
        if self.cuda:
            self.marks[1].record()
            torch.cuda.synchronize()
            self.seconds = self.marks[0].elapsed_time(self.marks[1]) / 1e3
        else:
            self.seconds = time.perf_counter() - self.since


def _seconds(device: str, call: Callable, rounds: int = 5) -> list[float]:
    taken = []
    for _ in range(rounds):
        with Clock(device) as clock:
            call()
        taken.append(clock.seconds)
    return taken


# -- what is timed in laps, a contestant a process ------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """How our engine computes a step."""

    compile: bool
    graph: bool
    merge: bool
    chunk: int | None = None  # of the fused loss; None: the package's own

    @property
    def name(self) -> str:
        parts = [word for word in ("graph", "compile") if getattr(self, word)]
        name = "+".join(parts) or "eager"
        name += ", merged" if self.merge else ""
        return name + (f", chunk 2^{round(math.log2(self.chunk))}" if self.chunk else "")


def variants(case: Case) -> dict[str, Variant]:
    merges = (True, False) if case.accumulation > 1 else (False,)
    graphs = (True, False) if case.device == "cuda" else (False,)
    found = [Variant(c, g, m) for m in merges for g in graphs for c in (True, False)]
    own = losses.CHUNK[case.device]
    found += [replace(found[0], chunk=chunk) for chunk in CHUNKS if chunk != own]
    return {variant.name: variant for variant in found}


def ours(case: Case, name: str) -> Callable:
    variant = variants(case)[name]
    paths = FastPaths(compile=variant.compile, graph=variant.graph, merge=variant.merge)
    options = {"batch_size": case.batch, "accumulation": case.accumulation}
    engine = _engine(case.shape, case.device, paths, torch.bfloat16, **options)
    chunk = variant.chunk or losses.CHUNK[case.device]

    def step(x, y):
        own, losses.CHUNK[case.device] = losses.CHUNK[case.device], chunk
        engine.step(x, y, len(x), RATE)
        losses.CHUNK[case.device] = own
        settled = engine.graphed or not variant.graph or engine.graphs
        if not settled or engine.compiled != variant.compile:  # it went on in another way
            raise RuntimeError(f"{name} is not what it says: {engine.how}")

    return step


def _loop(case: Case, model, loss_of: Callable) -> Callable:
    """A step of the best plain loop: one forward pass, and nothing is read in between."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, fused=True)

    def step(x, y):
        torch.compiler.cudagraph_mark_step_begin()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(case.device, torch.bfloat16):
            loss = loss_of(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()

    return step


def transformers(case: Case, name: str) -> Callable:
    from gpt2 import training_gpt2

    model = training_gpt2(case.shape).to(case.device)

    def loss_of(x, y):
        logits = model(x).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), y.flatten())

    return _loop(case, model, torch.compile(loss_of, dynamic=False))


def plain_compiled(case: Case, mode: str) -> Callable:
    """Our model as nanoGPT trains its own: the whole forward pass with its loss, compiled."""
    model = GPT(case.shape).to(case.device).train()

    def loss_of(x, y):
        return model(x, y).loss

    return _loop(case, model, torch.compile(loss_of, dynamic=False, mode=mode))


def contestant(make: Callable[[Case, str], Callable], case: Case) -> dict[str, Callable]:
    """Calls: which there are; make one ready; a lap of it."""
    batches, steps = case.batches(), {}

    def prepare(name):
        """Seconds of the first step, which compiles."""
        step = make(case, name)
        start = time.perf_counter()
        for number in range(SETTLED):
            with Clock(case.device):
                step(*batches[number % BATCHES])
            if number == 0:
                first = time.perf_counter() - start
        if case.device == "cuda":
            torch.cuda.empty_cache()  # the other processes need the room
        steps[name] = step
        return first

    def lap(name, count):
        """Seconds of a step, of so many."""
        with Clock(case.device) as clock:
            for number in range(count):
                steps[name](*batches[number % BATCHES])
        return clock.seconds / count

    def listed():
        own = {name: asdict(variant) for name, variant in variants(case).items()}
        for row in own.values():
            row["chunk"] = row["chunk"] or losses.CHUNK[case.device]
        return own

    def floors(operations, moved):
        """Seconds that a step takes at least: by the data sheet, and by the rates given."""
        measured = Peak(operations, moved, "measured")
        sheet = peak(case.device, torch.bfloat16) if case.device == "cuda" else measured
        rates = {"data sheet": sheet, "measured": measured}
        found = {n: floor(case.shape, case.windows, torch.bfloat16, r) for n, r in rates.items()}
        return {n: {**asdict(f), "seconds": f.seconds, "binds": f.binds} for n, f in found.items()}

    return {"prepare": prepare, "lap": lap, "listed": listed, "floors": floors}


# -- what is checked ------------------------------------------------------------------------------


class Checks:
    """Calls of the role `checks`; all of them on a small model, but the seconds."""

    def __init__(self, case: Case):
        self.case, self.device, self.cuda = case, case.device, case.device == "cuda"
        self.graph = FastPaths(compile=False, graph=self.cuda, merge=False)
        self.no_graph = FastPaths(compile=False, graph=False, merge=False)
        self.shape = ModelConfig(512, 64, n_layer=2, n_head=4, n_embd=64, dropout=0.0)
        if case.tiny:
            self.shape = replace(self.shape, block_size=16, n_layer=1, n_embd=16)

    # The machine

    def versions(self) -> dict:
        found = {name: _version(name) for name in ("torch", "transformers", "triton", "numpy")}
        found |= {"python": platform.python_version(), "cores": os.cpu_count()}
        found |= {"g++": shutil.which("g++"), "chunk": losses.CHUNK[self.device]}
        if not self.cuda:
            return found | {"device": "cpu"}
        gpu = torch.cuda.get_device_properties(0)
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            driver = subprocess.run(query, capture_output=True, text=True, timeout=10).stdout
        except (OSError, subprocess.TimeoutExpired) as error:
            driver = str(error)
        return found | {
            "device": gpu.name,
            "memory_bytes": gpu.total_memory,
            "multiprocessors": gpu.multi_processor_count,
            "capability": f"{gpu.major}.{gpu.minor}",
            "cuda": torch.version.cuda,
            "driver": driver.strip(),
        }

    def ceilings(self) -> dict:
        """Bytes/s of a large copy, read and written, and operations/s of a large product."""
        numbers, size = (2**31, 8192) if self.cuda else (2**22, 256)
        source = torch.randint(-99, 99, (numbers,), dtype=torch.int8, device=self.device)
        target = torch.empty_like(source)
        a, b = torch.randn(2, size, size, device=self.device).bfloat16()
        for call in (lambda: target.copy_(source), lambda: a @ b):  # warm up
            _seconds(self.device, call, 3)
        copy = statistics.median(_seconds(self.device, lambda: target.copy_(source), 10))
        product = statistics.median(_seconds(self.device, lambda: a @ b, 10))
        return {"bytes_per_s": 2 * numbers / copy, "operations_per_s": 2 * size**3 / product}

    # Is it correct?

    def _losses(self, engine: Engine, steps=range(20), rate=None) -> list[float]:
        """Of these steps of a run of 20, at a moving rate unless one is given.

        Most of the vocabulary never comes, which is something to learn. One batch is shorter, as
        an epoch's last one is.
        """
        config = engine.config
        schedule = replace(config, learning_rate=3e-3, schedule="cosine")
        windows = config.batch_size * config.accumulation
        found = []
        some = replace(self.shape, vocab_size=self.shape.vocab_size // 8)
        for step in steps:
            x, y = _tokens(some, windows - 3 if step == 12 else windows, self.device, step)
            moving = learning_rate(step, 20, schedule)
            found.append(engine.step(x, y, len(x), moving if rate is None else rate)[0])
        return [loss.item() for loss in found]

    def _compare(self, one: Engine, other: Engine, tolerance: float) -> dict:
        """Their losses, relative."""
        here, there = self._losses(one), self._losses(other)
        largest = max(abs(a - b) / b for a, b in zip(here, there, strict=True))
        weights = zip(one.model.parameters(), other.model.parameters(), strict=True)
        return {
            # NaN does not pass, nor does a graph that was not captured.
            "passed": largest < tolerance and one.graphed == self.cuda,
            "largest_relative_difference": largest,
            "tolerance": tolerance,
            "losses": [here[0], here[-1], there[-1]],
            "weights_differ_by": max((a - b).abs().max().item() for a, b in weights),
            "how": [one.how, other.how],
        }

    def _small(self, paths: FastPaths | None, dtype=None, dropout=0.0, seed=0, **options) -> Engine:
        options = {"batch_size": 16, **options}
        shape = replace(self.shape, dropout=dropout)
        return _engine(shape, self.device, paths, dtype, seed, **options)

    def graph_is_plain(self) -> dict:
        return self._compare(self._small(self.graph), self._small(None), 1e-5)

    def merged_is_plain(self) -> dict:
        pieces = {"batch_size": 4, "accumulation": 4}
        merged = replace(self.graph, merge=True)
        return self._compare(self._small(merged, **pieces), self._small(None, **pieces), 1e-5)

    def pieces_are_plain(self) -> dict:
        pieces = {"batch_size": 4, "accumulation": 4}
        return self._compare(self._small(self.graph, **pieces), self._small(None, **pieces), 1e-5)

    def bf16_is_plain(self) -> dict:
        one, other = (self._small(paths, torch.bfloat16) for paths in (self.graph, None))
        return self._compare(one, other, 5e-3)

    def fp16_is_plain(self) -> dict:
        return self._fp16(None)

    def fp16_graph_is_no_graph(self) -> dict:
        return self._fp16(self.no_graph)

    def _fp16(self, other: FastPaths | None) -> dict:
        engine = self._small(self.graph, torch.float16)
        found = self._compare(engine, self._small(other, torch.float16), 5e-3)
        found["scale"] = scale = engine.scaler.get_scale()
        found["passed"] = found["passed"] and 0 < scale < math.inf
        return found

    def fp16_overflow_is_left_out(self) -> dict:
        """A step whose gradient overflows changes no weight, and the scale falls."""
        engine = self._small(self.graph, torch.float16)
        self._losses(engine, range(SETTLED))
        engine.scaler._scale.fill_(2.0**60)
        before = _weights(engine)
        self._losses(engine, [SETTLED])
        scale, same = engine.scaler.get_scale(), torch.equal(before, _weights(engine))
        engine.scaler._scale.fill_(2.0**10)
        after = self._losses(engine, range(SETTLED + 1, SETTLED + 4))
        moved = not torch.equal(before, _weights(engine))
        finite = all(map(math.isfinite, after)) and bool(_weights(engine).isfinite().all())
        passed = same and moved and finite and scale < 2.0**60
        about = {"scale": scale, "weights_kept": same, "moves_on": moved, "how": engine.how}
        return {"passed": passed, **about}

    def rate_0_keeps_the_weights(self) -> dict:
        engine = self._small(self.graph)
        first = _weights(engine)
        self._losses(engine, range(SETTLED), rate=0.0)
        kept = torch.equal(first, _weights(engine))
        self._losses(engine, range(3), rate=1e-3)
        moved = _weights(engine)
        self._losses(engine, range(3), rate=0.0)
        kept_later = torch.equal(moved, _weights(engine))
        passed = kept and kept_later and not torch.equal(first, moved)
        passed = passed and engine.graphed == self.cuda
        return {"passed": passed, "kept": kept, "kept_after_others": kept_later}

    def replays_drop_out_other_units(self) -> dict:
        engine = self._small(self.graph, dropout=0.1)
        found = [self._losses(engine, [0], rate=0.0)[0] for _ in range(SETTLED + 4)]
        (plain,) = self._losses(self._small(None), [0], rate=0.0)
        near = abs(statistics.mean(found) / plain - 1) < 0.02
        passed = len(set(found)) == len(found) and near and engine.graphed == self.cuda
        return {"passed": passed, "losses": found, "without": plain, "how": engine.how}

    def steps_do_not_wait(self) -> dict:
        return self._without_waiting(torch.bfloat16)

    def fp16_steps_do_not_wait(self) -> dict:
        return self._without_waiting(torch.float16)

    def _without_waiting(self, dtype) -> dict:
        engine = self._small(self.graph, dtype, dropout=0.1)
        self._losses(engine, range(SETTLED))
        x, y = _tokens(self.shape, 16, self.device)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for step in range(20):
                engine.step(x, y, 16, RATE / (step + 1))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return {"passed": engine.graphed, "how": engine.how}

    def resumed_is_uninterrupted(self) -> dict:
        whole, first = self._small(self.graph), self._small(self.graph)
        expected = self._losses(whole)
        found = self._losses(first, range(10))
        second = self._small(self.graph, seed=1)
        self._losses(second, range(SETTLED))  # its graph must not outlive the state
        with tempfile.TemporaryDirectory() as folder:  # as a checkpoint: a copy
            torch.save(first.state_dict(), Path(folder, "state"))
            second.load_state_dict(torch.load(Path(folder, "state"), map_location=self.device))
        found += self._losses(second, range(10, 20))
        largest = max(abs(a - b) / b for a, b in zip(found, expected, strict=True))
        return {"passed": largest < 1e-5, "largest_relative_difference": largest}

    def generation_is_plain(self) -> dict:
        """The same greedy text, also where it outgrows the window."""
        from generate_worker import moved_model

        model = moved_model(self.shape).to(self.device)
        prompts, _ = _tokens(self.shape, 4, self.device)
        new = self.shape.block_size
        prompts = prompts[:, : new // 4]
        fast, plain = (generate(model, prompts, new, 0, fast=fast) for fast in (True, False))
        same = (fast == plain).float().mean().item()
        different = fast.unique().numel()
        return {"passed": same == 1 and different > 9, "same": same, "different_tokens": different}

    def trainer_runs(self) -> dict:
        """A whole run by the Trainer, with dropout, in each type."""
        from llmlite.train import Trainer

        shape, found = replace(self.shape, dropout=0.1), {}
        ids, _ = _tokens(replace(shape, vocab_size=32), 256, "cpu")
        for amp in ("off", "bf16", "fp16"):
            # On a CPU GradScaler has no use and warns.
            if amp == "fp16" and not self.cuda:
                continue
            config = TrainConfig(epochs=3, batch_size=16, learning_rate=3e-3, amp=amp)
            with tempfile.TemporaryDirectory() as folder:
                split = {"train": ids.flatten(), "valid": ids[:32].flatten()}
                options = {"progress": False, "paths": self.graph}
                run = Trainer(shape, config, split, folder, {}, self.device, **options).fit()
            found[amp] = {"losses": [e["valid_loss"] for e in run["epochs"]], "how": run["engine"]}
        falls = all(row["losses"][-1] < row["losses"][0] - 0.1 for row in found.values())
        return {"passed": falls, **found}

    def compiled_is_plain(self) -> dict:
        both = FastPaths(compile=True, graph=self.cuda, merge=False)
        return self._compare(self._small(both), self._small(None), 1e-5)

    # What takes seconds?

    def _timed(self, compile: bool, graph: bool) -> tuple[Engine, list[float]]:
        """An engine of the size that is timed, and the seconds of its first steps."""
        case = self.case
        paths = FastPaths(compile=compile, graph=graph, merge=False)
        options = {"batch_size": case.batch, "accumulation": case.accumulation}
        engine = _engine(case.shape, self.device, paths, torch.bfloat16, **options)
        batches, taken = case.batches(), []
        for x, y in batches[:SETTLED]:
            start = time.perf_counter()
            with Clock(self.device):
                engine.step(x, y, len(x), RATE)
            taken.append(time.perf_counter() - start)
        return engine, taken

    def compilation(self) -> dict:
        """Of a block and the loss, in an empty cache and again; of a graph."""
        found = {}
        for name in ("cold", "warm"):
            _, steps = self._timed(compile=True, graph=False)
            found[f"{name}_s"] = steps[0] - steps[-1]
        if self.cuda:
            _, steps = self._timed(compile=True, graph=True)
            found["capture_s"] = steps[engines.WARM_UP] - steps[-1]
            found["all_first_steps_s"] = steps
        return found

    def checkpoint(self) -> dict:
        from llmlite.checkpoint import load_state, save_state

        engine, _ = self._timed(compile=False, graph=False)
        with tempfile.TemporaryDirectory() as folder:
            state = {**engine.state_dict(), "best": dict(engine.model.state_dict())}
            taken = _seconds(self.device, lambda: save_state(state, Path(folder)), 3)
            size = sum(file.stat().st_size for file in Path(folder).iterdir())
            read = _seconds(self.device, lambda: load_state(Path(folder), self.device), 1)
        return {"save_s": statistics.median(taken), "load_s": read[0], "bytes_of_both": size}

    def validation(self) -> dict:
        from llmlite.metrics import total_loss

        model = GPT(self.case.shape).to(self.device)
        tokens = 2_000 if self.case.tiny else 270_000
        ids = _tokens(self.case.shape, tokens // self.case.window + 1, self.device)[0].flatten()
        ids = ids[:tokens]
        taken = _seconds(self.device, lambda: total_loss(model, ids, self.case.batch), 4)
        return {"tokens": tokens, "first_s": taken[0], "median_s": statistics.median(taken[1:])}

    def generation(self, batch: int) -> dict:
        """Ours against transformers' generate, in turns, the same greedy text."""
        from generate_worker import OURS, THEIRS, moved_model
        from generate_worker import contestant as generator

        prompt, new = (4, 8) if self.case.tiny else (16, 128)
        model = moved_model(replace(self.case.shape, dropout=0.0)).to(self.device)
        prompts, _ = _tokens(self.case.shape, batch, self.device)
        runs = {name: generator(name, model) for name in (OURS, THEIRS)}
        taken, texts = {name: [] for name in runs}, {}
        for number in range(4):
            for name, run in runs.items():
                start = time.perf_counter()
                texts[name] = run(prompts[:, :prompt], new).cpu()
                if number:  # the first warms up
                    taken[name].append(time.perf_counter() - start)
        medians = {name: statistics.median(values) for name, values in taken.items()}
        return {
            "median_s": medians,
            "ratio": medians[THEIRS] / medians[OURS],
            "same_text": torch.equal(*texts.values()),
            "tokens_per_s": batch * new / medians[OURS],
        }

    # Where does the time go?

    def profile(self) -> dict:
        engine, _ = self._timed(compile=True, graph=self.cuda)
        batches, kind = self.case.batches()[:3], torch.profiler.ProfilerActivity
        activities = [kind.CPU, kind.CUDA] if self.cuda else [kind.CPU]
        with torch.profiler.profile(activities=activities) as profiled, Clock(self.device) as clock:
            for x, y in batches:
                engine.step(x, y, len(x), RATE)
        rows = {}  # name: (count, microseconds)
        for event in profiled.events():
            if getattr(event, "is_user_annotation", False):
                continue  # spans others, which are counted
            on_gpu = event.device_type == torch.autograd.DeviceType.CUDA
            took = event.time_range.elapsed_us() if on_gpu else event.self_cpu_time_total
            if on_gpu == self.cuda:
                count, total = rows.get(event.name, (0, 0.0))
                rows[event.name] = count + 1, total + took
        total = sum(took for _, took in rows.values()) or 1.0
        ordered = sorted(rows.items(), key=lambda row: -row[1][1])
        return {
            "steps": len(batches),
            "step_s": clock.seconds / len(batches),
            "kernels_s": total / 1e6 / len(batches),
            "different": len(rows),
            "lines": [
                f"{took / total:6.1%} {took / 1e3 / len(batches):9.3f} ms/step "
                f"{count / len(batches):7.1f} × {name[:110]}"
                for name, (count, took) in ordered[:15]
            ],
        }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except ImportError:  # PackageNotFoundError is one
        return None


def _weights(engine: Engine) -> torch.Tensor:
    """All in one, a copy."""
    return torch.cat([p.detach().flatten() for p in engine.model.parameters()])


# -- the process ----------------------------------------------------------------------------------

ROLES = {
    "ours": lambda case: contestant(ours, case),
    "transformers": lambda case: contestant(transformers, case),
    "plain, compiled": lambda case: contestant(plain_compiled, case),
    "checks": Checks,
}


@contextmanager
def _own_stdout():
    """The stream for answers; whatever libraries print goes where errors go."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        yield answers


def _json(value):
    """`value` without NaN and infinity, which strict JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def main() -> None:
    role, case = sys.argv[1], Case(**json.loads(sys.argv[2]))
    torch.manual_seed(0)
    calls = None
    with _own_stdout() as answers:
        for line in sys.stdin:
            name, options = json.loads(line)
            try:
                calls = calls or ROLES[role](case)
                call = calls[name] if isinstance(calls, dict) else getattr(calls, name)
                answer = {"result": _json(call(**options))}
                if role == "checks" and torch.cuda.is_initialized():
                    torch.cuda.empty_cache()  # the other processes need the room
            except Exception as error:
                traceback.print_exc()
                last = traceback.format_exc().strip().splitlines()[-12:]
                answer = {"error": f"{type(error).__name__}: {error}"[:2000], "traceback": last}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
