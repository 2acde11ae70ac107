"""Runs for two questions that the paper leaves open (§VI): what many heads are good for, and which
optimiser to take. Each run differs from its neighbours in one factor and reads as many tokens, in
the same batches: the order of windows hangs on seed and epoch alone."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from llmlite.audit.plan import HEADS
from llmlite.beyond.heads import specialisation
from llmlite.beyond.optimisers import final_loss
from llmlite.config import DataConfig, ModelConfig, TrainConfig, with_data
from llmlite.experiment import Experiment
from llmlite.files import LLMLiteError
from llmlite.profiles import PROFILES
from llmlite.run import Run


@dataclass(frozen=True)
class BeyondConfig:
    """How much of it to run (notebook 09)."""

    data: DataConfig
    model: ModelConfig  # of all runs, but for layers and heads
    train: (
        TrainConfig  # of all runs, but for seed, optimiser and rate; the rate is the heads' runs'
    )
    n_head: tuple[int, ...] = (1, 2, 4, 8, 16)
    n_layer: tuple[int, int] = (2, 6)  # the first is that of the optimisers' runs
    # The peak rates of Adam, AdamW and Muon, whose updates are alike in size (Liu et al. 2025: that
    # is what PyTorch's "match_rms_adamw" scales Muon's to). SGD's update is the gradient itself,
    # clipped to a norm of 1: its rates are a hundred times as high.
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    of_sgd: float = 100.0
    seeds: tuple[int, ...] = (1337, 1, 2)  # the rates are tried with the first
    sentences: int = 200  # of the test split, for attention
    tokens: int = 2_048  # of the validation split, behind the cost of each head


# The curve over steps is the validation loss at the ends of epochs, a tenth of a run each.
_TRAIN = TrainConfig(epochs=10, batch_size=16, learning_rate=3e-3, patience=0)

BEYOND = {
    "quick": BeyondConfig(
        data=DataConfig(vocab_size=320, block_size=32),
        model=ModelConfig(n_embd=64, dropout=0.0),
        train=replace(
            _TRAIN, epochs=5, batch_size=8, epoch_windows=128, amp="off", valid_tokens=2_049
        ),
        n_head=(1, 4, 16),
        n_layer=(1, 3),
        rates=(1e-3, 3e-3, 1e-2),
        sentences=20,
        tokens=1_024,
    ),
    # 360 steps of 1,024 tokens: a run takes one core of a CPU 50 to 60 s with 2 layers, 110 to 140
    # with 6, and with Muon, whose products are in bfloat16, minutes where the CPU has none.
    "small": BeyondConfig(
        data=DataConfig(vocab_size=2048, block_size=64),
        model=ModelConfig(dropout=0.0),
        train=replace(_TRAIN, epoch_windows=576, valid_tokens=12_289),
    ),
    # 490 steps of 8,192 tokens. Counted, not measured: at 2.5 million tokens a second (6 layers, a
    # CUDA graph without compilation: tests/benchmarks/records/gpu-h100.json) a run takes 1.6 s, the
    # 57 of them 90 s, Muon's steps without a graph and the heads' costs as much again.
    "full": BeyondConfig(
        data=PROFILES["full"].data,
        model=ModelConfig(dropout=0.0),
        train=replace(_TRAIN, batch_size=32, epoch_windows=1_568, valid_tokens=65_537),
        tokens=16_384,
    ),
}
BEYOND["own"] = BEYOND["quick"]  # of a text of somebody's own

OPTIMISERS = ("sgd", "adam", "adamw", "muon")


class Beyond:
    """The runs of one experiment."""

    def __init__(self, experiment: Experiment):
        self.experiment, name = experiment, experiment.profile.name
        if name not in BEYOND:
            said = f"Profile '{name}' says nothing of heads and optimisers"
            raise LLMLiteError(f"{said}; give it sizes in beyond.plan.BEYOND.")
        self.config = BEYOND[name]

    def run(self, name: str, n_layer: int, n_head: int, **changes) -> Run:
        config, source = self.config, self.experiment.data
        data = replace(config.data, source=source.source, name=source.name)
        model = with_data(config.model, data, n_layer=n_layer, n_head=n_head)
        # Of a run of these an archive has the log of its epochs alone.
        return Run(name, data, model, replace(config.train, **changes), keeps=("epochs",))

    @property
    def head_runs(self) -> list[Run]:
        """Each number of heads at each depth, with each seed."""
        config, made = self.config, []
        measure = partial(specialisation, sentences=config.sentences, tokens=config.tokens)
        for seed in config.seeds:
            for n_layer in config.n_layer:
                for n_head in config.n_head:
                    name = f"heads-{n_layer}l-{n_head}h-seed-{seed}"
                    run = self.run(name, n_layer, n_head, seed=seed)
                    made.append(replace(run, measures={"heads": measure}))
        return made

    def optimiser_run(self, optimizer: str, rate: float, seed: int) -> Run:
        name = f"optimiser-{optimizer}-lr{rate:g}-seed-{seed}"
        how = {"optimizer": optimizer, "learning_rate": rate, "seed": seed}
        if optimizer in ("sgd", "adam"):  # PyTorch's decay of these is a term of the gradient
            how["weight_decay"] = 0.0
        return self.run(name, self.config.n_layer[0], HEADS, **how)

    def rate_runs(self, optimizer: str) -> list[Run]:
        """Each of an optimiser's rates, with the first seed."""
        scale = self.config.of_sgd if optimizer == "sgd" else 1.0
        rates = [float(f"{scale * rate:.6g}") for rate in self.config.rates]
        return [self.optimiser_run(optimizer, rate, self.config.seeds[0]) for rate in rates]

    def best_rate(self, optimizer: str) -> float | None:
        """Of the lowest validation loss at the end; None while some rate is left to try."""
        runs = self.rate_runs(optimizer)
        records = [self.experiment.record(run) for run in runs]
        if any(not record or record["status"] == "running" for record in records):
            return None
        ends = [final_loss(record) for record in records]
        return runs[int(np.argmin(ends))].train.learning_rate if min(ends) < np.inf else None

    def optimiser_runs(self, optimizer: str) -> list[Run]:
        """`rate_runs`, and once these are done the other seeds at the best rate."""
        best, others = self.best_rate(optimizer), self.config.seeds[1:]
        again = [self.optimiser_run(optimizer, best, seed) for seed in others if best]
        return self.rate_runs(optimizer) + again

    @property
    def runs(self) -> Iterable[Run]:
        return [*self.head_runs, *(r for name in OPTIMISERS for r in self.optimiser_runs(name))]
