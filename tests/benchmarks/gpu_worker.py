"""A process of check_gpu.py: what it asks for, one call after the other.

    python gpu_worker.py ROLE CASE             (CASE is JSON, see Case)

A line of JSON on stdin is a call: the name of a function of the role, and what it is called with.
A line of JSON on stdout answers it, with a result or with an error, after which it goes on.
"""

import json
import math
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from common import trainer_of_ids
from floors import floor, measured_peak, peak
from generate_worker import OURS, THEIRS, moved_model
from generate_worker import contestant as generator

from llmlite import engine as engines
from llmlite.config import ModelConfig, TrainConfig
from llmlite.engine import Engine, FastPaths, learning_rate
from llmlite.generate import generate
from llmlite.metrics import total_loss
from llmlite.model import GPT
from llmlite.parallel import ALONE
from llmlite.run import environment, load_state, save_state

RATE, DECAY, CLIP = 1e-3, 0.1, 1.0
SETTLED = engines.WARM_UP + 3  # steps after which a graph has been captured and replayed
BATCHES = 8  # that the laps go through
LINES = 45  # of a profile
DRAWN = 32  # tokens that the Trainer's text is drawn from evenly


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
    """(inputs, targets) of so many windows, with gaps between them as TokenWindows has."""
    generator = torch.Generator().manual_seed(seed)
    size = windows, shape.block_size + 1
    ids = torch.randint(shape.vocab_size, size, generator=generator).to(device)
    return ids[:, :-1], ids[:, 1:]


def _engine(
    shape: ModelConfig, device: str, paths: FastPaths | None, dtype=None, seed=0, **options
) -> Engine:
    """A fresh one; paths None: the plain computation."""
    torch.manual_seed(seed)
    model = GPT(shape).to(device).train()
    config = TrainConfig(fast=paths is not None, weight_decay=DECAY, clip_norm=CLIP, **options)
    return Engine(model, config, dtype, math.inf, ALONE, paths or FastPaths())


def _graphed(engine: Engine) -> bool:
    return "CUDA graph" in engine.how


def _seconds(device: str, step: Callable, batches: list) -> float:
    """Of a step's work on all of them, to its end on the device."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for x, y in batches:
        step(x, y)
    wait()
    return time.perf_counter() - start


def _first_steps(device: str, step: Callable, batches: list) -> list[float]:
    """Seconds of each, until a graph has been captured and replayed."""
    return [_seconds(device, step, [batch]) for batch in batches[:SETTLED]]


# -- what is timed in laps, a contestant a process ------------------------------------------------


def ours(case: Case) -> dict[str, tuple[Callable, dict]]:
    """Our engine, by every path that there is here, and the best with either attention."""
    merges = (True, False) if case.accumulation > 1 else (False,)
    graphs = (True, False) if case.device == "cuda" else (False,)
    every = [FastPaths(c, g, m) for m in merges for g in graphs for c in (True, False)]
    every[1:1] = [replace(every[0], spell=spell) for spell in (True, False)]
    found = {}
    for paths in every:
        name = "+".join(n for n in ("graph", "compile") if getattr(paths, n)) or "eager"
        name += ", merged" if paths.merge else ""
        name += {None: "", True: ", spelled", False: ", one kernel"}[paths.spell]
        found[name] = partial(_our_step, case, paths), asdict(paths)
    return found


def _our_step(case: Case, paths: FastPaths) -> Callable:
    options = {"batch_size": case.batch, "accumulation": case.accumulation}
    engine = _engine(case.shape, case.device, paths, torch.bfloat16, **options)

    def step(x, y):
        engine.step(x, y, len(x), RATE)
        settled = _graphed(engine) or not paths.graph or engine.graphs
        if not settled or engine.compiled != paths.compile:  # it went on in another way
            raise RuntimeError(f"{paths} is not what happened: {engine.how}")

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


def transformers(case: Case) -> Callable:
    from gpt2 import training_gpt2

    model = training_gpt2(case.shape).to(case.device)

    return _loop(case, model, torch.compile(lambda x, y: _loss(model, x, y), dynamic=False))


def plain(case: Case, mode: str) -> Callable:
    """Our model as nanoGPT trains its own: the whole forward pass with its loss, compiled."""
    model = GPT(case.shape).to(case.device).train()

    return _loop(
        case, model, torch.compile(lambda x, y: _loss(model, x, y), dynamic=False, mode=mode)
    )


def _loss(model, x, y) -> torch.Tensor:
    logits = model(x).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), y.flatten())


class Timed:
    """Contestants of one kind; `makers`: by name, what makes a step, and what is known of it."""

    def __init__(self, case: Case, makers: dict[str, tuple[Callable, dict]]):
        self.case, self.makers, self.steps = case, makers, {}
        self.batches = case.batches()

    def prepare(self) -> dict:
        """Of each: what is known of it, and the seconds of its first step, which compiles."""
        return {name: self._prepared(name) for name in self.makers}

    def _prepared(self, name: str) -> dict:
        make, about = self.makers[name]
        try:
            step = make()
            first, *_ = _first_steps(self.case.device, step, self.batches)
        except Exception as error:
            return {"error": _in_words(error)}
        self.steps[name] = step
        if self.case.device == "cuda":
            torch.cuda.empty_cache()  # the other processes need the room
        return {**about, "first_step_s": first}

    def lap(self, name: str, count: int) -> float:
        """Seconds of a step, of so many."""
        batches = [self.batches[number % BATCHES] for number in range(count)]
        return _seconds(self.case.device, self.steps[name], batches) / count

    def floors(self) -> dict:
        """Seconds that a step takes at least: by the data sheet, and by the rates seen here."""
        device, on_gpu = self.case.device, self.case.device == "cuda"
        measured = measured_peak(device, torch.bfloat16, *((8192, 2048) if on_gpu else (256, 4)))
        sheet = peak(device, torch.bfloat16) if on_gpu else measured
        rates = {"data sheet": sheet, "measured": measured}
        found = {}
        for name, rate in rates.items():
            least = floor(self.case.shape, self.case.windows, torch.bfloat16, rate)
            found[name] = {**asdict(least), "seconds": least.seconds, "peak": asdict(rate)}
        return found


# -- what is checked ------------------------------------------------------------------------------


class Checks:
    """Calls of the role `checks`; all of them on a small model, but the seconds."""

    def __init__(self, case: Case):
        self.case, self.device, self.cuda = case, case.device, case.device == "cuda"
        self.graph = FastPaths(compile=False, graph=self.cuda, merge=False)
        self.shape = ModelConfig(512, 64, n_layer=2, n_head=4, n_embd=64, dropout=0.0)
        if case.tiny:
            self.shape = replace(self.shape, block_size=16, n_layer=1, n_embd=16)

    def environment(self) -> dict:
        gpu = torch.cuda.get_device_properties(0) if self.cuda else None
        return {
            "environment": environment(self.device),
            "machine": {
                "cores": os.cpu_count(),
                "memory_bytes": gpu and gpu.total_memory,
                "capability": gpu and f"{gpu.major}.{gpu.minor}",
            },
            "versions": {name: version(name) for name in ("transformers",) if find_spec(name)},
        }

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

    def _small(self, paths: FastPaths | None, dtype=None, dropout=0.0, seed=0, **options) -> Engine:
        options = {"batch_size": 16, **options}
        shape = replace(self.shape, dropout=dropout)
        return _engine(shape, self.device, paths, dtype, seed, **options)

    def is_plain(self, dtype=None, other="plain", compile=False, merge=False, accumulation=1):
        """The losses of a graph are those of the plain path, or of another without a graph."""
        tolerance, dtype = 5e-3 if dtype else 1e-5, dtype and getattr(torch, dtype)
        paths = replace(self.graph, compile=compile, merge=merge)
        others = None if other == "plain" else replace(self.graph, graph=False)
        pieces = {"batch_size": 16 // accumulation, "accumulation": accumulation}
        one, other = (self._small(each, dtype, **pieces) for each in (paths, others))
        here, there = self._losses(one), self._losses(other)
        largest = max(abs(a - b) / b for a, b in zip(here, there, strict=True))
        found = {
            # NaN does not pass, nor does a graph that was not captured.
            "passed": largest < tolerance and _graphed(one) == self.cuda,
            "largest_relative_difference": largest,
            "tolerance": tolerance,
            "losses": [here[0], here[-1], there[-1]],
            "weights_differ_by": (_weights(one) - _weights(other)).abs().max().item(),
            "how": [one.how, other.how],
        }
        if dtype == torch.float16:
            found["scale"] = scale = one.scaler.get_scale()
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
        return {"passed": passed, "scale": scale, "weights_kept": same, "moves_on": moved}

    def rate_0_keeps_the_weights(self) -> dict:
        engine = self._small(self.graph)
        first = _weights(engine)
        self._losses(engine, range(SETTLED), rate=0.0)
        kept = torch.equal(first, _weights(engine))
        self._losses(engine, range(3), rate=1e-3)
        moved = _weights(engine)
        self._losses(engine, range(3), rate=0.0)
        kept_later = torch.equal(moved, _weights(engine))
        really = _graphed(engine) == self.cuda and not torch.equal(first, moved)
        passed = really and kept and kept_later
        return {"passed": passed, "kept": kept, "kept_after_others": kept_later}

    def replays_drop_out_other_units(self) -> dict:
        engine = self._small(self.graph, dropout=0.1)
        found = [self._losses(engine, [0], rate=0.0)[0] for _ in range(SETTLED + 4)]
        (plain,) = self._losses(self._small(None), [0], rate=0.0)
        near = abs(statistics.mean(found) / plain - 1) < 0.02
        passed = len(set(found)) == len(found) and near and _graphed(engine) == self.cuda
        return {"passed": passed, "losses": found, "without": plain, "how": engine.how}

    def steps_do_not_wait(self, dtype: str) -> dict:
        engine = self._small(self.graph, getattr(torch, dtype), dropout=0.1)
        self._losses(engine, range(SETTLED))
        x, y = _tokens(self.shape, 16, self.device)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for step in range(20):
                engine.step(x, y, 16, RATE / (step + 1))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return {"passed": _graphed(engine), "how": engine.how}

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
        model, new = moved_model(self.shape).to(self.device), self.shape.block_size
        prompts = _tokens(self.shape, 4, self.device)[0][:, : new // 4]
        fast, plain = (generate(model, prompts, new, 0, fast=fast) for fast in (True, False))
        same = (fast == plain).float().mean().item()
        different = fast.unique().numel()
        return {"passed": same == 1 and different > 9, "same": same, "different_tokens": different}

    def trainer_runs(self) -> dict:
        """A whole run by the Trainer, with dropout, in each type, learns how often tokens come."""
        shape, found = replace(self.shape, dropout=0.1), {}
        ids, _ = _tokens(replace(shape, vocab_size=DRAWN), 256, "cpu")
        for amp in ("off", "bf16", "fp16"):
            if amp == "fp16" and not self.cuda:
                continue  # GradScaler has no use and warns
            rate = 3e-2 if self.case.tiny else 3e-3
            config = TrainConfig(epochs=3, batch_size=16, learning_rate=rate, amp=amp)
            with tempfile.TemporaryDirectory() as folder:
                split = {"train": ids.flatten(), "valid": ids[:32].flatten()}
                options = {"device": self.device, "paths": self.graph}
                run = trainer_of_ids(shape, config, split, folder, **options).fit()
            found[amp] = {"losses": [e["valid_loss"] for e in run["epochs"]], "how": run["engine"]}
        away = [abs(row["losses"][-1] - math.log(DRAWN)) for row in found.values()]
        graphed = all("CUDA graph" in row["how"] for row in found.values()) or not self.cuda
        passed = max(away) < 0.05 and graphed
        return {"passed": passed, "floor": math.log(DRAWN), **found}

    # What takes seconds, and where does the time go?

    def _timed(self, compile: bool, graph: bool) -> tuple[Callable, list[float]]:
        """A step of the size that is timed, and the seconds of the first ones."""
        case = self.case
        paths = FastPaths(compile=compile, graph=graph, merge=False)
        options = {"batch_size": case.batch, "accumulation": case.accumulation}
        engine = _engine(case.shape, self.device, paths, torch.bfloat16, **options)

        def step(x, y):
            engine.step(x, y, len(x), RATE)

        return step, _first_steps(self.device, step, case.batches())

    def compilation(self) -> dict:
        """Of a block and the loss, in an empty cache and again; of a graph."""
        _, steps = self._timed(compile=True, graph=self.cuda)
        _, again = self._timed(compile=True, graph=self.cuda)
        found = {"cold_s": steps[0] - steps[-1], "warm_s": again[0] - again[-1]}
        return found | ({"capture_s": steps[engines.WARM_UP] - steps[-1]} if self.cuda else {})

    def files(self) -> dict:
        """Of a checkpoint, written and read, and of a validation of WikiText-2's size."""
        model = GPT(self.case.shape).to(self.device)
        tokens = 2_000 if self.case.tiny else 270_000
        ids = torch.randint(self.case.shape.vocab_size, (tokens,), device=self.device)
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            state = {name: model.state_dict() for name in ("model", "first", "second", "best")}
            for name, call in {
                "save": lambda: save_state(state, Path(folder)),
                "load": lambda: load_state(Path(folder), self.device),
                "validation": lambda: total_loss(model, ids),
            }.items():
                taken = [_seconds(self.device, lambda *_, c=call: c(), [(0, 0)]) for _ in range(3)]
                found[f"{name}_s"] = statistics.median(taken)
        return found

    def generation(self, batch: int) -> dict:
        """Ours against transformers' generate, in turns, the same greedy text."""
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
        same, rate = torch.equal(*texts.values()), batch * new / medians[OURS]
        ratio = medians[THEIRS] / medians[OURS]
        return {"median_s": medians, "ratio": ratio, "same_text": same, "tokens_per_s": rate}

    def profile(self) -> dict:
        step, _ = self._timed(compile=True, graph=self.cuda)
        batches, kind = self.case.batches()[:3], torch.profiler.ProfilerActivity
        activities = [kind.CPU, kind.CUDA] if self.cuda else [kind.CPU]
        with torch.profiler.profile(activities=activities) as profiled:
            seconds = _seconds(self.device, step, batches)
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
        lines = [
            f"{took / total:6.1%} {took / 1e3 / len(batches):9.3f} ms/step "
            f"{count / len(batches):7.1f} × {name[:110]}"
            for name, (count, took) in ordered[:LINES]
        ]
        kernels = total / 1e6 / len(batches)
        return {"step_s": seconds / len(batches), "kernels_s": kernels, "lines": lines}


def _weights(engine: Engine) -> torch.Tensor:
    """All in one, a copy."""
    return torch.cat([p.detach().flatten() for p in engine.model.parameters()])


# -- the process ----------------------------------------------------------------------------------

PEERS = {
    "transformers, torch.compile": transformers,
    "plain loop, torch.compile": partial(plain, mode="default"),
    "plain loop, reduce-overhead": partial(plain, mode="reduce-overhead"),
}


def _role(name: str, case: Case) -> "Checks | Timed":
    if name == "checks":
        return Checks(case)
    return Timed(case, ours(case) if name == "ours" else {name: (partial(PEERS[name], case), {})})


@contextmanager
def _own_stdout():
    """The stream for answers; whatever libraries print goes where errors go."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        yield answers


def _in_words(error: Exception) -> str:
    """The error, and the end of its traceback."""
    traceback.print_exc()
    last = traceback.format_exc().strip().splitlines()[-12:]
    return "\n".join([f"{type(error).__name__}: {error}"[:2000], *last])


def main() -> None:
    role, case = sys.argv[1], Case(**json.loads(sys.argv[2]))
    torch.manual_seed(0)
    calls = None
    with _own_stdout() as answers:
        for line in sys.stdin:
            name, options = json.loads(line)
            try:
                calls = calls or _role(role, case)
                answer = {"result": getattr(calls, name)(**options)}
                if role == "checks" and torch.cuda.is_initialized():
                    torch.cuda.empty_cache()  # the other processes need the room
            except Exception as error:
                answer = {"error": _in_words(error)}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
