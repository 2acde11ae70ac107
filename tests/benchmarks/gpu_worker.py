"""What the processes of check_gpu.py serve: contestants that are timed, and checks."""

import math
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from bench_generate import OURS, THEIRS, contestant, moved_model
from bench_train import CONFIG, plain_gpt, trainer_of_ids, transformers_gpt2
from common import DATA_SHEETS, measured_peak, timed

from llmlite.config import ModelConfig, TrainConfig
from llmlite.engine import WARM_UP, Engine, FastPaths, learning_rate, step_operations
from llmlite.generate import generate
from llmlite.model import GPT
from llmlite.parallel import ALONE
from llmlite.run import environment, load_state, save_state

SETTLED = WARM_UP + 3  # steps after which a graph has been captured and replayed
BATCHES = 8  # that the laps go through
DRAWN = 32  # tokens that the Trainer's text is drawn from evenly
PEERS = {
    "transformers, torch.compile": transformers_gpt2,
    "plain loop, torch.compile": plain_gpt,
    "plain loop, reduce-overhead": partial(plain_gpt, mode="reduce-overhead"),
}


class Case:
    """What is timed: the best configuration on windows of a length, in so many at a step."""

    def __init__(self, case: dict):
        self.device, self.cuda, self.tiny = case["device"], case["device"] == "cuda", case["tiny"]
        self.pieces = case["batch"], case["accumulation"]
        self.windows = math.prod(self.pieces)
        self.model = ModelConfig(block_size=case["window"])
        if self.tiny:
            self.model = replace(self.model, vocab_size=64, n_layer=1, n_head=2, n_embd=16)


def random_windows(shape: ModelConfig, windows: int, device: str, seed: int = 0):
    """(inputs, targets), with gaps between the windows as TokenWindows has."""
    generator = torch.Generator().manual_seed(seed)
    size = windows, shape.block_size + 1
    ids = torch.randint(shape.vocab_size, size, generator=generator).to(device)
    return ids[:, :-1], ids[:, 1:]


def fresh_engine(
    shape: ModelConfig, device: str, paths: FastPaths | None, dtype, batch, accumulation=1, seed=0
) -> Engine:
    """paths None: the plain computation."""
    torch.manual_seed(seed)
    model = GPT(shape).to(device).train()
    config = replace(CONFIG, batch_size=batch, accumulation=accumulation, fast=paths is not None)
    return Engine(model, config, dtype, math.inf, ALONE, paths or FastPaths())


def our_paths(cuda: bool, pieces: int) -> dict[str, dict]:
    """Every path of our engine that there is here, and the best with either attention, by name."""
    merges = (True, False) if pieces > 1 else (False,)
    graphs = (True, False) if cuda else (False,)
    every = [FastPaths(c, g, m) for m in merges for g in graphs for c in (True, False)]
    every[1:1] = [replace(every[0], spell=spell) for spell in (True, False)]
    named = {}
    for paths in every:
        name = "+".join(n for n in ("graph", "compile") if getattr(paths, n)) or "eager"
        name += ", merged" if paths.merge else ""
        name += {None: "", True: ", spelled", False: ", one kernel"}[paths.spell]
        named[name] = asdict(paths)
    return named


class Timed(Case):
    """Contestants that are timed: a peer, or our engine by several paths."""

    def __init__(self, case: dict):
        super().__init__(case)
        # Random tokens: zeros would flatter.
        ids = random_windows(self.model, BATCHES * self.windows, self.device)
        self.data = list(zip(*(part.chunk(BATCHES) for part in ids), strict=True))
        self.steps = {}

    def our_step(self, paths: FastPaths) -> Callable:
        engine = fresh_engine(self.model, self.device, paths, torch.bfloat16, *self.pieces)

        def step(x, y):
            engine.step(x, y, len(x), CONFIG.learning_rate)
            settled = graphed(engine) or not paths.graph or engine.graphs
            if not settled or engine.compiled != paths.compile:  # it went on in another way
                raise RuntimeError(f"{paths} is not what happened: {engine.how}")

        return step

    def prepare(self, name: str, paths: dict | None) -> float:
        """Seconds of its first step, which compiles. paths: of our engine; None: a peer."""
        peer = PEERS.get(name)
        step = peer(self.model, self.device, True) if peer else self.our_step(FastPaths(**paths))
        first, *_ = [timed(self.device, partial(step, x, y)) for x, y in self.data[:SETTLED]]
        self.steps[name] = step
        if self.cuda:
            torch.cuda.empty_cache()  # the other processes need the room
        return first

    def lap(self, name: str, count: int) -> float:
        """Seconds of a step, of so many."""
        step = self.steps[name]
        batches = [self.data[number % BATCHES] for number in range(count)]
        return timed(self.device, lambda: [step(x, y) for x, y in batches]) / count

    def floor(self) -> dict:
        """Seconds that a step takes at least: by the data sheet, or by the rate seen here."""
        known = DATA_SHEETS.get(torch.cuda.get_device_name()) if self.cuda else None
        peak = known or measured_peak(self.device, torch.bfloat16, 8192 if self.cuda else 256)
        return {"seconds": step_operations(self.model, self.windows) / peak, "peak": peak}


def graphed(engine: Engine) -> bool:
    return "CUDA graph" in engine.how


def weights(engine: Engine) -> torch.Tensor:
    """All in one, a copy."""
    return torch.cat([p.detach().flatten() for p in engine.model.parameters()])


def largest_difference(ours: list[float], theirs: list[float]) -> float:
    return max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))


class Checks(Case):
    """Each method is a check, of a small model and of steps that are a graph, or what takes how
    long."""

    def __init__(self, case: dict):
        super().__init__(case)
        self.graph = FastPaths(compile=False, graph=self.cuda, merge=False)
        self.shape = ModelConfig(512, 64, n_layer=2, n_head=4, n_embd=64, dropout=0.0)
        if self.tiny:
            self.shape = replace(self.shape, block_size=16, n_layer=1, n_embd=16)

    def machine(self) -> dict:
        found = find_spec("transformers") and {"transformers": version("transformers")}
        return {"environment": environment(self.device), "versions": found or {}}

    # Is it correct?

    def small(self, paths: FastPaths | None, dtype=None, dropout=0.0, seed=0, pieces=1) -> Engine:
        shape = replace(self.shape, dropout=dropout)
        return fresh_engine(shape, self.device, paths, dtype, 16 // pieces, pieces, seed)

    def losses(self, engine: Engine, steps=range(20), rate=None) -> list[float]:
        """Of these steps of a run of 20, at a moving rate unless one is given. Most of the
        vocabulary never comes, which is something to learn; one batch is shorter, as an epoch's
        last one is."""
        schedule = replace(engine.config, learning_rate=3e-3, schedule="cosine")
        some, found = replace(self.shape, vocab_size=self.shape.vocab_size // 8), []
        for step in steps:
            windows = 13 if step == 12 else 16
            x, y = random_windows(some, windows, self.device, step)
            moving = learning_rate(step, 20, schedule)
            found.append(engine.step(x, y, windows, moving if rate is None else rate)[0])
        return [loss.item() for loss in found]

    def is_plain(self, dtype=None, compile=False, merge=False, accumulation=1) -> dict:
        """The losses of a graph are those of the plain path."""
        tolerance, dtype = 5e-3 if dtype else 1e-5, dtype and getattr(torch, dtype)
        paths = replace(self.graph, compile=compile, merge=merge)
        one, other = (self.small(each, dtype, pieces=accumulation) for each in (paths, None))
        largest = largest_difference(self.losses(one), self.losses(other))
        scale = one.scaler.get_scale()
        return {
            # NaN does not pass, nor does a graph that was not captured.
            "passed": largest < tolerance and graphed(one) == self.cuda and 0 < scale < math.inf,
            "largest_relative_difference": largest,
            "tolerance": tolerance,
            "how": one.how,
        }

    def fp16_overflow_is_left_out(self) -> dict:
        """A step whose gradient overflows changes no weight, and the scale falls."""
        engine = self.small(self.graph, torch.float16)
        self.losses(engine, range(SETTLED))
        engine.scaler._scale.fill_(2.0**60)
        before = weights(engine)
        self.losses(engine, [SETTLED])
        scale, kept = engine.scaler.get_scale(), torch.equal(before, weights(engine))
        engine.scaler._scale.fill_(2.0**10)
        losses, after = self.losses(engine, range(SETTLED + 1, SETTLED + 4)), weights(engine)
        moves_on = not torch.equal(before, after) and math.isfinite(sum(losses) + after.sum())
        return {"passed": kept and moves_on and scale < 2.0**60, "kept": kept, "scale": scale}

    def replays_drop_out_other_units(self) -> dict:
        engine = self.small(self.graph, dropout=0.1)
        found = [self.losses(engine, [0], rate=0.0)[0] for _ in range(SETTLED + 4)]
        (plain,) = self.losses(self.small(None), [0], rate=0.0)
        near = abs(statistics.mean(found) / plain - 1) < 0.02
        passed = len(set(found)) == len(found) and near and graphed(engine) == self.cuda
        return {"passed": passed, "losses": found, "without": plain, "how": engine.how}

    def steps_do_not_wait(self, dtype: str) -> dict:
        engine = self.small(self.graph, getattr(torch, dtype), dropout=0.1)
        self.losses(engine, range(SETTLED))
        x, y = random_windows(self.shape, 16, self.device)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for step in range(20):
                engine.step(x, y, 16, CONFIG.learning_rate / (step + 1))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return {"passed": graphed(engine), "how": engine.how}

    def resumed_is_uninterrupted(self) -> dict:
        whole, first = self.small(self.graph), self.small(self.graph)
        expected = self.losses(whole)
        found = self.losses(first, range(10))
        second = self.small(self.graph, seed=1)
        self.losses(second, range(SETTLED))  # its graph must not outlive the state
        with tempfile.TemporaryDirectory() as folder:
            save_state(first.state_dict(), Path(folder))
            second.load_state_dict(load_state(Path(folder), self.device))
        found += self.losses(second, range(10, 20))
        largest = largest_difference(found, expected)
        return {"passed": largest < 1e-5, "largest_relative_difference": largest}

    def generation_is_plain(self) -> dict:
        """The same greedy text, also where it outgrows the window."""
        model, new = moved_model(self.shape).to(self.device), self.shape.block_size
        prompts = random_windows(self.shape, 4, self.device)[0][:, : new // 4]
        fast, plain = (generate(model, prompts, new, 0, fast=fast) for fast in (True, False))
        different = fast.unique().numel()
        return {"passed": torch.equal(fast, plain) and different > 9, "different_tokens": different}

    def trainer_runs(self) -> dict:
        """A whole run by the Trainer, with dropout, in each type, learns how often tokens come."""
        shape, found = replace(self.shape, dropout=0.1), {}
        ids, _ = random_windows(replace(shape, vocab_size=DRAWN), 256, "cpu")
        split = {"train": ids.flatten(), "valid": ids[:32].flatten()}
        rate = 3e-2 if self.tiny else 3e-3
        for amp in ("off", "bf16", "fp16") if self.cuda else ("off", "bf16"):
            config = TrainConfig(epochs=3, batch_size=16, learning_rate=rate, amp=amp)
            options = {"device": self.device, "paths": self.graph}
            with tempfile.TemporaryDirectory() as folder:
                run = trainer_of_ids(shape, config, split, folder, **options).fit()
            found[amp] = {"loss": run["epochs"][-1]["valid_loss"], "how": run["engine"]}
        passed = all(
            abs(row["loss"] - math.log(DRAWN)) < 0.05 and ("CUDA graph" in row["how"]) == self.cuda
            for row in found.values()
        )
        return {"passed": passed, "floor": math.log(DRAWN), **found}

    # What takes how long?

    def generation(self, batch: int) -> dict:
        """Ours against transformers' generate, in turns, the same greedy text."""
        lengths = (4, 8) if self.tiny else (16, 128)
        task = vars(replace(self.model, dropout=0.0)), batch, *lengths, self.device
        runs = {name: contestant(name, *task)[0] for name in (OURS, THEIRS)}
        same, laps = torch.equal(*(run() for run in runs.values())), {name: [] for name in runs}
        for _ in range(3):
            for name, run in runs.items():
                laps[name].append(timed(self.device, run))
        ours, theirs = map(statistics.median, laps.values())
        return {"laps_s": laps, "ratio": theirs / ours, "same_text": same}
