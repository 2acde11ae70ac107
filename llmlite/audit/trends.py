"""Claims about trends as paired tests on the grids' records (claims.md, 5 to 8).

Two runs that differ in one factor alone, so also not in the seed, are a pair. An effect is the mean
difference over all pairs of a grid, in nats per token of the lowest validation loss; below 0 the
second value is better.
"""

import pandas as pd

from llmlite.intervals import Interval, paired
from llmlite.search import AXES

FACTORS = [*AXES, "seed"]


def best_losses(epochs: pd.DataFrame) -> pd.Series:
    """Lowest validation loss of each run, indexed by FACTORS; `epochs` has a row an epoch."""
    return epochs.groupby(FACTORS).valid_loss.min()


def pairs(losses: pd.Series, factor: str, before, after, **fixed) -> pd.DataFrame:
    """The losses of runs that differ in `factor` alone: a row a pair, columns before and after.

    losses: as `best_losses` gives them. fixed: values of other factors to stay with.
    """
    for name, value in fixed.items():
        losses = losses[losses.index.get_level_values(name) == value]
    sides = {
        side: losses.xs(value, level=factor)
        for side, value in (("before", before), ("after", after))
        if value in losses.index.get_level_values(factor)
    }
    return pd.DataFrame(sides, columns=["before", "after"]).dropna()


def effect(losses: pd.Series, factor: str, before, after, **fixed) -> Interval:
    """What changing `factor` from `before` to `after` does to the loss; arguments as in `pairs`."""
    both = pairs(losses, factor, before, after, **fixed)
    return paired(both.after, both.before)


def interaction(losses: pd.Series, factor: str, before, after, by: str, low, high) -> Interval:
    """By how much the effect of `factor` is greater where `by` is `high` than where it is `low`."""
    changes = []
    for value in (high, low):
        both = pairs(losses, factor, before, after, **{by: value})
        changes.append((both.after - both.before).droplevel(by))
    both = pd.concat(changes, axis=1, keys=["high", "low"]).dropna()
    return paired(both.high, both.low)


def epochs_to_reach(epochs: pd.DataFrame, targets: pd.Series) -> pd.Series:
    """The first epoch at which each run is as good as its target, by FACTORS; NaN if it never is.

    targets: a validation loss a run, with FACTORS as index.
    """
    table = epochs.set_index(FACTORS)
    reached = table[table.valid_loss <= targets.reindex(table.index)]
    return reached.groupby(level=FACTORS).epoch.min().reindex(targets.index)


def ranking(losses: pd.Series) -> pd.DataFrame:
    """Configurations by their mean loss over the seeds, the best first: columns mean, low, high of
    the difference to the best one, paired by seed (NaN for the best itself).

    Where some have run with fewer seeds than others, a seed that is good for those that have all of
    them is taken to be as good for the rest.
    """
    by_seed = losses.unstack("seed")
    complete = by_seed.dropna()
    of_seed = (complete.mean() - complete.mean().mean()).fillna(0)
    means = (by_seed - of_seed).mean(axis=1)
    best = means.idxmin()
    rows = []
    for configuration, mean in means.items():
        both = by_seed.loc[[configuration, best]].dropna(axis=1)
        behind = None if configuration == best else paired(*both.to_numpy())
        rows.append(
            {
                **dict(zip(AXES, configuration, strict=True)),
                "loss": mean,
                "behind": behind.value if behind else 0.0,
                "low": behind.low if behind else float("nan"),
                "high": behind.high if behind else float("nan"),
            }
        )
    return pd.DataFrame(rows).sort_values("loss", ignore_index=True)
