"""How far a number would move if chance fell otherwise: 95% intervals. Over the samples of a text
(bootstrap, Efron and Tibshirani, 1993) they answer for another text; over the seeds of a run
(Student's t) for another training. Knows nothing about models."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
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
    """`over_seeds` of differences within pairs, which share what else varies, such as a seed. One
    pair says nothing of how far it would move: its interval is all numbers."""
    if len(differences) == 1:
        return Interval(float(np.sum(differences)), -math.inf, math.inf, "1 pair")
    return over_seeds(differences, "pairs")


def out_of(values: ArrayLike, total: ArrayLike = 1.0) -> np.ndarray:
    """Counts, (samples, 2), of a value a sample, out of as much in each, or out of 1."""
    return np.stack(np.broadcast_arrays(values, total), axis=1)


def share(sums: np.ndarray) -> np.ndarray:
    """(…, 2) → (…): all that was counted over all that it was counted out of, so a long text weighs
    more than a short one."""
    if not np.all(sums[..., 1]):
        raise LLMLiteError("The texts are too short to count in; ask for more samples or tokens.")
    return sums[..., 0] / sums[..., 1]


def over_samples(samples: ArrayLike, of: str, statistic: Callable = share) -> Interval:
    """What depends on the sum of `samples` alone, and its percentiles over samples drawn again: as
    scipy.stats.bootstrap has it, a hundred times as fast. samples: (samples, …), at least two.
    `of`: what they are, in the plural. statistic: sums (resamples, …) → (resamples,)."""
    samples = _finite(samples, of)
    low, high = np.quantile(statistic(np.tensordot(_drawn(len(samples)), samples, 1)), TAILS)
    (value,) = statistic(samples.sum(axis=0, keepdims=True))
    return Interval(float(value), float(low), float(high), f"{len(samples)} {of}")


def measure_all(counts: dict[str, dict], contrasts: Iterable[tuple[str, str]], of: str) -> dict:
    """Every share as "name: condition", every contrast, of pairs of samples, as "name: condition
    minus condition": its Interval's value, low, high and of. counts: condition → name → as `out_of`
    makes them."""
    measures = {
        f"{name}: {condition}": asdict(over_samples(rows, of))
        for condition, named in counts.items()
        for name, rows in named.items()
    }
    for one, other in contrasts:
        for name, rows in counts[one].items():
            both = np.stack([rows, counts[other][name]], axis=1)
            interval = over_samples(both, of, lambda sums: share(sums[:, 0]) - share(sums[:, 1]))
            measures[f"{name}: {one} minus {other}"] = asdict(interval)
    return measures


def by_condition(study: dict, name: str) -> dict[str, Interval]:
    """All shares of one name that a study measured, without their contrasts."""
    start = f"{name}: "
    return {
        key.removeprefix(start): Interval(**measure)
        for key, measure in study["measures"].items()
        if key.startswith(start) and " minus " not in key
    }


def study_table(seeds: Sequence[dict], only: str = "") -> pd.DataFrame:
    """A row a measure whose name holds `only`, a column a seed's study: value and interval."""
    columns = ["value"] if len(seeds) == 1 else [f"seed {i}" for i in range(1, len(seeds) + 1)]
    rows = {}
    for name, first in seeds[0]["measures"].items():
        if only in name:
            found = (Interval(**study["measures"][name]) for study in seeds)
            rows[name] = [*(f"{interval:.3f}" for interval in found), first["of"]]
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*columns, "over"])


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
