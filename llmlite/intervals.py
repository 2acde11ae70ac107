"""How far a number would move if chance fell otherwise: 95% intervals. Knows nothing about models.

Over the articles of a text (bootstrap, Efron and Tibshirani, 1993) they answer for another text;
over the seeds of a run (Student's t) for another training.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from llmlite.files import LLMLiteError

TAILS = (1 - 0.95) / 2, (1 + 0.95) / 2  # as quantiles
RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """`value` and the 95% interval around it. f"{interval:.2f}" formats all three numbers."""

    value: float
    low: float
    high: float
    of: str  # what varied, e.g. "60 articles" or "3 seeds"

    def __format__(self, spec: str = "") -> str:
        """Such as "48.96 [47.1, 50.9]"; `spec` is that of a float, by default four digits."""
        value, low, high = (format(x, spec or ".4g") for x in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]" if math.isfinite(self.low) else f"{value} [no interval]"

    __str__ = __format__


def over_seeds(values: ArrayLike, of: str = "seeds") -> Interval:
    """The mean of one number a seed, (seeds,), at least two, and Student's t interval of it."""
    values = _finite(values, of)
    # As scipy.stats.ttest_1samp, which takes long to import and warns of values that are all alike.
    mean, n = values.mean(), len(values)
    half = stdtrit(n - 1, TAILS[1]) * values.std(ddof=1) / math.sqrt(n)
    return Interval(float(mean), float(mean - half), float(mean + half), f"{n} {of}")


def paired(differences: ArrayLike) -> Interval:
    """`over_seeds` of differences within pairs, which share what else varies, such as a seed.

    One pair says nothing of how far it would move: its interval is all numbers.
    """
    if len(differences) == 1:
        return Interval(float(np.sum(differences)), -math.inf, math.inf, "1 pair")
    return over_seeds(differences, "pairs")


def bootstrap_sums(
    samples: ArrayLike, statistic: Callable[[np.ndarray], np.ndarray], of: str
) -> Interval:
    """What depends on the sum of `samples` alone, and its percentiles over samples drawn again: as
    scipy.stats.bootstrap has it, a hundred times as fast.

    samples: (samples, …), at least two. statistic: takes sums, (resamples, …), and gives
    (resamples,). `of`: what the samples are, in the plural.
    """
    samples = _finite(samples, of)
    low, high = np.quantile(statistic(np.tensordot(_drawn(len(samples)), samples, 1)), TAILS)
    (value,) = statistic(samples.sum(axis=0, keepdims=True))
    return Interval(float(value), float(low), float(high), f"{len(samples)} {of}")


@lru_cache(maxsize=8)  # the same few for dozens of measures; longer to draw than to use
def _drawn(n: int) -> np.ndarray:
    """How often each of n samples is drawn, which is all that a sum depends on: (resamples, n)."""
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    return drawn.astype(np.float64)


def _finite(values: ArrayLike, of: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 2 or not np.isfinite(array).all():
        raise LLMLiteError(
            f"An interval over {of} needs at least two finite numbers and no others; of these "
            f"{len(array)}, {np.isfinite(array).sum()} are finite: leave out what diverged."
        )
    return array
