"""Counts, (samples, 2): so much, out of so much → shares and their differences, with intervals.

A share is the sum of the first over the sum of the second, so a long text weighs more than a short
one. Intervals are bootstrapped over the samples; what is compared is resampled together.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from llmlite.files import LLMLiteError
from llmlite.intervals import Interval, bootstrap_sums

Counts = dict[str, dict[str, np.ndarray]]  # condition → name → (samples, 2)
Measures = dict[str, dict[str, float | str]]  # name → an Interval's value, low, high and of


def out_of(values: ArrayLike, total: ArrayLike = 1.0) -> np.ndarray:
    """Counts of a value a sample, (samples,), out of as much in each, or out of 1."""
    return np.stack(np.broadcast_arrays(values, total), axis=1)


def share(sums: np.ndarray) -> np.ndarray:
    """(…, 2) → (…): all that was counted over all that it was counted out of."""
    if not np.all(sums[..., 1]):
        raise LLMLiteError(
            "The texts are too short to count anything in; ask for more samples or tokens."
        )
    return sums[..., 0] / sums[..., 1]


def measure(counts: np.ndarray, of: str, statistic: Callable = share) -> dict[str, float | str]:
    """`statistic` of the sums of `counts`, as an Interval's dict. counts: (samples, …, 2);
    statistic: (resamples, …, 2) → (resamples,)."""
    return asdict(bootstrap_sums(counts, statistic, of=of))


def measure_all(counts: Counts, contrasts: Iterable[tuple[str, str]], of: str) -> Measures:
    """Every share as "name: condition", every contrast, of pairs of samples, as "name: condition
    minus condition"."""
    measures = {
        f"{name}: {condition}": measure(rows, of)
        for condition, named in counts.items()
        for name, rows in named.items()
    }
    for one, other in contrasts:
        for name, rows in counts[one].items():
            both = np.stack([rows, counts[other][name]], axis=1)
            measures[f"{name}: {one} minus {other}"] = measure(both, of, _difference)
    return measures


def _difference(sums: np.ndarray) -> np.ndarray:
    return share(sums[:, 0]) - share(sums[:, 1])


def study_table(seeds: Sequence[dict], only: str = "") -> pd.DataFrame:
    """A row a measure whose name holds `only`, a column a seed's study: value and interval."""
    heads = ["value"] if len(seeds) == 1 else [f"seed {i}" for i in range(1, len(seeds) + 1)]
    rows = {}
    for name, first in seeds[0]["measures"].items():
        if only in name:
            found = (Interval(**study["measures"][name]) for study in seeds)
            rows[name] = [*(f"{interval:.3f}" for interval in found), first["of"]]
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*heads, "over"])
