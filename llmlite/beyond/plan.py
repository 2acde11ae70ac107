"""The runs of notebook 09: what many heads are good for, and which optimiser to take. Each differs
from its neighbours in one factor and reads as many tokens, in the same batches: the order of
windows hangs on seed and epoch alone."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd

from llmlite.audit.plan import HEADS
from llmlite.beyond.tables import OF_RUN, specialisation
from llmlite.config import DataConfig, ModelConfig, SearchSpace, TrainConfig, with_data
from llmlite.experiment import Experiment
from llmlite.files import LLMLiteError
from llmlite.plan.search import best_point, grid
from llmlite.profiles import PROFILES
from llmlite.run import Run

# → the factor of its rates, its weight decay. Updates of Adam, AdamW and Muon are alike in size
# (PyTorch's "match_rms_adamw" scales Muon's); SGD's is the gradient itself, of a norm of 1 at most.
# PyTorch's decay of SGD and Adam is a term of the gradient, so they have none.
OPTIMISERS = {"sgd": (100, 0.0), "adam": (1, 0.0), "adamw": (1, 0.1), "muon": (1, 0.1)}
_HEADS = SearchSpace((3e-3,), (2, 6), (1, 2, 4, 8, 16))


@dataclass(frozen=True)
class BeyondConfig:
    """How much of it to run."""

    data: DataConfig
    train: TrainConfig  # all but seed, rate and optimiser
    space: SearchSpace = _HEADS  # of the heads; optimisers have its fewest layers
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)  # of optimisers, times their factor
    seeds: tuple[int, ...] = (1337, 1, 2)  # the rates are tried with the first
    sentences: int = 200  # of the test split, for attention
    tokens: int = 2_048  # of the validation split, for the cost of each head


# The curve over steps is the validation loss at the ends of epochs, a tenth of a run each.
_TRAIN = TrainConfig(epochs=10, batch_size=16, patience=0)
_QUICK = replace(_TRAIN, epochs=4, batch_size=8, epoch_windows=64, amp="off", valid_tokens=1_025)

BEYOND = {
    "quick": BeyondConfig(
        data=DataConfig(vocab_size=320, block_size=32),
        train=_QUICK,
        space=SearchSpace((1e-2,), (1, 2), (1, 2, 4, 16), (64,)),
        rates=(3e-3, 1e-2, 3e-2),
        sentences=20,
        tokens=512,
    ),
    # 360 steps of 1,024 tokens: a run takes one core of a CPU 50 to 60 s with 2 layers, 110 to 140
    # with 6, and with Muon, whose products are in bfloat16, minutes where the CPU has none.
    "small": BeyondConfig(
        data=DataConfig(vocab_size=2048, block_size=64),
        train=replace(_TRAIN, epoch_windows=576, valid_tokens=12_289),
    ),
    # 490 steps of 8,192 tokens. Counted, not measured: at 2.5 million tokens a second (6 layers, a
    # CUDA graph without compilation: tests/benchmarks/records/gpu-h100.json) a run takes 1.6 s, the
    # 57 of them 90 s, Muon's steps without a graph and the heads' costs as much again.
    "full": BeyondConfig(
        data=PROFILES["full"].data,
        train=replace(_TRAIN, batch_size=32, epoch_windows=1_568, valid_tokens=65_537),
        tokens=16_384,
    ),
}
BEYOND["own"] = BEYOND["quick"]  # of a text of somebody's own


class Beyond:
    """The runs of one experiment, and their records."""

    def __init__(self, experiment: Experiment):
        self.experiment, name = experiment, experiment.profile.name
        if name not in BEYOND:
            raise LLMLiteError(f"Profile '{name}' has no sizes in beyond.plan.BEYOND; add them.")
        self.config = BEYOND[name]

    def _grid(self, name: str, space: SearchSpace, seeds: Iterable[int], **how) -> list[Run]:
        source = self.experiment.data
        data = replace(self.config.data, source=source.source, name=source.name)
        model, runs = with_data(ModelConfig(dropout=0.0), data), []
        for seed in seeds:
            train = replace(self.config.train, seed=seed, **how)
            runs += grid(space, Run(f"{name}-seed-{seed}", data, model, train, keeps=("epochs",)))
        return runs

    def head_runs(self) -> list[Run]:
        """Each number of heads at each depth, with each seed."""
        sizes = {"sentences": self.config.sentences, "tokens": self.config.tokens}
        measures = {"heads": partial(specialisation, **sizes)}
        runs = self._grid("heads", self.config.space, self.config.seeds)
        return [replace(run, measures=measures) for run in runs]

    def optimiser_runs(self, name: str) -> list[Run]:
        """Each rate of one of OPTIMISERS with the first seed, and once it is known the best one
        with the others."""
        factor, decay = OPTIMISERS[name]
        named, how = f"optimiser-{name}", {"optimizer": name, "weight_decay": decay}
        rates = tuple(float(f"{factor * rate:g}") for rate in self.config.rates)
        shape = {"n_layer": self.config.space.n_layer[:1], "n_head": (HEADS,)}
        space = replace(self.config.space, learning_rate=rates, **shape)
        runs = self._grid(named, space, self.config.seeds[:1], **how)
        if best := best_point(runs, self.experiment.record):
            space = replace(space, learning_rate=(best["learning_rate"],))
            runs += self._grid(named, space, self.config.seeds[1:], **how)
        return runs

    def runs(self) -> list[Run]:
        of_optimisers = map(self.optimiser_runs, OPTIMISERS)
        return self.head_runs() + [run for runs in of_optimisers for run in runs]

    def epochs(self) -> pd.DataFrame:
        """Every epoch of the optimisers' runs, trained first if need be: as in Experiment.epochs,
        with the optimizer, and the seconds elapsed up to its end."""
        parts = []
        for name in OPTIMISERS:
            for _ in range(2):  # then the other seeds, too
                runs = self.optimiser_runs(name)
                self.experiment.search_runs(f"optimiser-{name}", runs)
            parts.append(self.experiment.epochs(runs).assign(optimizer=name))
        table = pd.concat(parts, ignore_index=True)
        return table.assign(elapsed=table.groupby(OF_RUN).seconds.cumsum())
