"""How far a number would move if chance fell otherwise: 95% intervals.

Of a score, over the articles of the text that it was measured on (bootstrap, Efron and Tibshirani,
1993); of a result, over the seeds that a run was repeated with (Student's t). The two answer
different questions: another text, or another training run. Knows nothing about models.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from llmlite.errors import LLMLiteError
from llmlite.metrics import Score, perplexity

COVERAGE = 0.95
TAILS = np.array([(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])  # as quantiles

# Each is a rising function of nats per unit: (the unit, the function).
STATISTICS: dict[str, tuple[str, Callable[[float], float]]] = {
    "loss": ("tokens", float),
    "perplexity": ("tokens", perplexity),
    "word_perplexity": ("words", perplexity),
    "byte_perplexity": ("bytes", perplexity),
    "bits_per_byte": ("bytes", lambda nats: nats / math.log(2)),
}


@dataclass(frozen=True)
class Interval:
    """`value` and the 95% interval around it. f"{interval:.2f}" formats all three numbers."""

    value: float
    low: float
    high: float
    of: str  # what varied, e.g. "60 articles" or "3 seeds"

    def __format__(self, spec: str) -> str:
        """Such as "48.96 [47.1, 50.9]"; `spec` is that of a float, by default four digits."""
        value, low, high = (format(x, spec or ".4g") for x in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]" if math.isfinite(self.low) else f"{value} [no interval]"

    def __str__(self) -> str:
        return format(self)


def over_articles(
    scores: Sequence[Score], statistic: str, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """A statistic of all `scores` together, over articles drawn again with replacement.

    scores: one an article. statistic: a key of STATISTICS; a ratio of sums, as for a whole split.
    The interval lies between percentiles of the resamples. Raises LLMLiteError for fewer than two
    scores or an unknown statistic.
    """
    if statistic not in STATISTICS:
        raise LLMLiteError(
            f"There is no statistic '{statistic}' of a score; choose one of "
            f"{', '.join(STATISTICS)}."
        )
    unit, function = STATISTICS[statistic]
    table = _finite([(score.nats, getattr(score, unit)) for score in scores], "articles")
    loss = bootstrap_sums(table, lambda sums: sums[:, 0] / sums[:, 1], resamples, seed, "articles")
    return Interval(function(loss.value), function(loss.low), function(loss.high), loss.of)


def over_seeds(values: ArrayLike) -> Interval:
    """The mean of one number a seed, (seeds,), and Student's t interval of it.

    Raises LLMLiteError for fewer than two.
    """
    return _student(_finite(values, "seeds"), "seeds")


def paired(a: ArrayLike, b: ArrayLike) -> Interval:
    """The mean of a - b, both (pairs,), and Student's t interval of it.

    A pair shares what else varies, such as a seed. One pair says nothing of how far it would move:
    its interval is all numbers. Raises LLMLiteError for none.
    """
    a, b = _finite(a, "pairs", least=1), _finite(b, "pairs", least=1)
    if a.shape != b.shape:
        raise LLMLiteError(
            f"{len(a)} values cannot be paired with {len(b)}; give as many of both, in one order."
        )
    return _student(a - b, "pairs")


def bootstrap(
    samples: ArrayLike,
    statistic: Callable[[np.ndarray], float] = np.mean,
    resamples: int = 10_000,
    seed: int = 0,
    of: str = "samples",
) -> Interval:
    """statistic(samples), and its percentiles over samples drawn again with replacement.

    samples: (samples,) or (samples, …); the first axis is drawn. `of` says what they are, in the
    plural. Raises LLMLiteError for fewer than two.
    """
    samples = _finite(samples, of)
    n, generator = len(samples), np.random.default_rng(seed)
    again = [statistic(samples[generator.integers(n, size=n)]) for _ in range(resamples)]
    low, high = np.quantile(again, TAILS)
    return Interval(float(statistic(samples)), float(low), float(high), f"{n} {of}")


def bootstrap_sums(
    samples: ArrayLike,
    statistic: Callable[[np.ndarray], np.ndarray],
    resamples: int = 10_000,
    seed: int = 0,
    of: str = "samples",
) -> Interval:
    """As `bootstrap`, a hundred times as fast, for what depends on the sum of the samples alone.

    samples: (samples, …). statistic: takes sums, (resamples, …), and gives (resamples,).
    """
    samples = _finite(samples, of)
    n = len(samples)
    sums = _drawn(n, resamples, seed) @ samples.reshape(n, -1)
    sums = sums.reshape(resamples, *samples.shape[1:])
    low, high = np.quantile(statistic(sums), TAILS)
    (value,) = statistic(samples.sum(axis=0, keepdims=True))
    return Interval(float(value), float(low), float(high), f"{n} {of}")


@lru_cache(maxsize=8)  # the same few for dozens of measures; longer to draw than to use
def _drawn(n: int, resamples: int, seed: int) -> np.ndarray:
    """How often each of n samples is drawn, which is all that a sum depends on: (resamples, n)."""
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    return drawn.astype(np.float64)


def _student(values: np.ndarray, of: str) -> Interval:
    n, mean = len(values), values.mean()
    if n == 1:
        return Interval(float(mean), -math.inf, math.inf, f"1 {of.removesuffix('s')}")
    half = stdtrit(n - 1, TAILS[1]) * values.std(ddof=1) / math.sqrt(n)
    return Interval(float(mean), float(mean - half), float(mean + half), f"{n} {of}")


def _finite(values: ArrayLike, of: str, least: int = 2) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if len(array) < least:
        raise LLMLiteError(f"An interval over {of} needs at least two; there is {len(array)}.")
    if not np.isfinite(array).all():
        raise LLMLiteError(
            f"An interval over {of} needs finite numbers; some of these {len(array)} are infinite "
            "or NaN, so look for what diverged and leave it out."
        )
    return array
