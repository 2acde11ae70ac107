"""How much there is to do in a plan, and how long it takes here.

size        of a run: steps, tokens, operations; counted, not measured
measured    seconds of an optimiser step on this device, from a few steps of two of the runs
estimate    both together: a row a run
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import pandas as pd

from llmlite.engine import WARM_UP, WORTH_COMPILING, parameters, step_operations
from llmlite.train import CHECKPOINT_SECONDS, Trainer

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
    config, windows = trainer.config, trainer.valid_windows
    valid = len(windows) * windows.block_size if windows else len(trainer.valid_ids) - 1
    return Size(
        steps=trainer.total_steps,
        step_operations=step_operations(trainer.model_config, trainer.batch),
        tokens=trainer.tokens_per_epoch * config.epochs,
        valid_tokens=valid * config.epochs,
        checkpoint_bytes=CHECKPOINT_COPIES * 4 * parameters(trainer.model_config),
    )


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
    points = [
        (size(trainer).step_operations, median(trainer.time_steps(SETTLE, STEPS)))
        for trainer in (by_size[0], by_size[-1])
    ]
    return step_seconds(points)


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
    left = {trainer.folder.name: trainer for trainer in trainers if not trainer.finished()}
    sizes = [size(trainer) for trainer in left.values()]
    operations = sum(run.steps * run.step_operations for run in sizes)
    if not left or operations < WORTH_COMPILING[trainers[0].device.type]:
        return None
    minutes = max(1, round(estimate(left, measured(list(left.values()))).minutes.sum()))
    runs = f"{len(left)} runs" if len(left) > 1 else "A run"
    return f"{runs} to train: about {minutes:,} min here, by a few measured steps."
