"""How much there is to do in a plan, and how long it takes here.

size        of a run: steps, tokens, operations; counted, not measured
measured    seconds of an optimiser step on this device, from a few steps of two of the runs
estimate    both together: a row a run
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import pandas as pd
import torch

from llmlite.engine import WARM_UP, WORTH_COMPILING, step_operations
from llmlite.model import GPT
from llmlite.run import finished_record
from llmlite.train import CHECKPOINT_SECONDS, Trainer
from llmlite.windows import EpochSampler

SETTLE, STEPS = WARM_UP + 2, 10  # steps that are not counted, and that the median is taken of
# Weights, AdamW's two moments and the best weights, in float32.
CHECKPOINT_COPIES = 4


@dataclass(frozen=True)
class Size:
    """What a run does at most, if it does not stop early."""

    steps: int
    step_operations: float  # floating-point, of one optimiser step
    tokens: int  # trained on
    valid_tokens: int  # validated on, over all epochs
    checkpoint_bytes: int  # of one checkpoint; one is written every CHECKPOINT_SECONDS


def size(trainer: Trainer) -> Size:
    config, model, valid = trainer.config, trainer.run.model, trainer.valid_windows
    with torch.device("meta"):  # counts, and takes no memory
        parameters = GPT(model).n_parameters()
    return Size(
        steps=trainer.total_steps,
        step_operations=step_operations(model, trainer.batch),
        tokens=trainer.tokens_per_epoch * config.epochs,
        valid_tokens=len(valid) * valid.block_size * config.epochs,
        checkpoint_bytes=CHECKPOINT_COPIES * 4 * parameters,
    )


def time_steps(trainer: Trainer) -> float:
    """Seconds of an optimiser step as this run would take it; nothing is kept of it."""
    trainer.start()
    index = EpochSampler(trainer.windows, trainer.batch, trainer.config.seed, 0).batches[0]
    batch = [part.to(trainer.device) for part in trainer.windows[index]]
    taken = []
    for _ in range(SETTLE + STEPS):
        began = time.perf_counter()
        loss, _ = trainer.engine.step(*batch, len(index), trainer.config.learning_rate)
        loss.item()  # waits for the device
        taken.append(time.perf_counter() - began)
    return median(taken[SETTLE:])


def step_seconds(points: Sequence[tuple[float, float]]) -> Callable[[float], float]:
    """Seconds of a step by its operations: a line through two measured (operations, seconds).

    What a step costs whatever its size (small kernels, the optimiser) is the line's beginning.
    """
    (few, fast), (many, slow) = sorted(points)
    slope = max(0.0, (slow - fast) / (many - few)) if many > few else slow / many
    return lambda operations: max(fast + slope * (operations - few), 0.0)


def measured(trainers: Sequence[Trainer]) -> Callable[[float], float]:
    """`step_seconds` from the runs with the fewest and the most operations a step, tried here."""
    by_size = sorted(trainers, key=lambda trainer: size(trainer).step_operations)
    ends = by_size[0], by_size[-1]
    return step_seconds([(size(t).step_operations, time_steps(t)) for t in ends])


def estimate(trainers: dict[str, Trainer], seconds: Callable[[float], float]) -> pd.DataFrame:
    """A row a run: steps, millions of tokens, minutes, and megabytes of checkpoints.

    Validation is a forward pass, a third of a step's operations for as many tokens. It is in
    float32, and so taken to last as long as a step in half precision.
    """
    rows = {}
    for name, trainer in trainers.items():
        run = size(trainer)
        share = 1 / 3 if trainer.dtype is None else 1
        validation = share * run.valid_tokens / run.tokens
        taken = run.steps * (1 + validation) * seconds(run.step_operations)
        rows[name] = {
            "steps": run.steps,
            "M tokens": run.tokens / 1e6,
            "M validated": run.valid_tokens / 1e6,
            "minutes": taken / 60,
            "MB of checkpoints": int(taken / CHECKPOINT_SECONDS) * run.checkpoint_bytes / 1e6,
        }
    return pd.DataFrame(rows).T


def announce(trainers: Sequence[Trainer]) -> str | None:
    """How long those that are not finished will take here, in a sentence; None where they are few
    operations, since measuring would take as long."""
    left = {t.folder.name: t for t in trainers if not finished_record(t.folder)}
    sizes = [size(trainer) for trainer in left.values()]
    operations = sum(run.steps * run.step_operations for run in sizes)
    if not left or operations < WORTH_COMPILING[trainers[0].device.type]:
        return None
    minutes = max(1, round(estimate(left, measured(list(left.values()))).minutes.sum()))
    runs = f"{len(left)} runs" if len(left) > 1 else "A run"
    return f"{runs} to train: about {minutes:,} min here, by a few measured steps."
