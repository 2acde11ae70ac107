"""The claims about the grids (1, 2 and 4 to 8), as paired tests on their records: two runs that
differ in one factor alone, so also not in the seed, are a pair. Effects are in nats per token of
the lowest validation loss; below 0 the second value is better."""

import numpy as np
import pandas as pd

from llmlite import paper
from llmlite.audit.claims import FLAWED, NOT, REPRODUCED, UNCLEAR, Evidence, verdict
from llmlite.config import AXES
from llmlite.intervals import Interval, paired
from llmlite.metrics import perplexity

FACTORS = [*AXES, "seed"]


def best_losses(epochs: pd.DataFrame) -> pd.Series:
    """Lowest validation loss of each run, indexed by FACTORS; `epochs` has a row an epoch."""
    return epochs.groupby(FACTORS).valid_loss.min()


def changes(losses: pd.Series, factor: str) -> pd.Series:
    """Of each pair of runs that differ in `factor` alone, the loss with its largest value minus
    that with its smallest, indexed by the other factors. losses: as `best_losses` gives them, or
    changes."""
    by_value = losses.unstack(factor)  # its columns are sorted
    return (by_value.iloc[:, -1] - by_value.iloc[:, 0]).dropna()


def epochs_to_reach(epochs: pd.DataFrame, targets: pd.Series) -> pd.Series:
    """The first epoch at which each run is as good as its target, a validation loss; NaN if none.
    targets and result are indexed by FACTORS."""
    table = epochs.set_index(FACTORS)
    reached = table[table.valid_loss <= targets.reindex(table.index)]
    return reached.groupby(level=FACTORS).epoch.min().reindex(targets.index)


def ranking(losses: pd.Series) -> pd.DataFrame:
    """Configurations by their mean loss over the seeds, the best first, and how far each is behind
    the best one, paired by seed, with the interval (NaN for the best itself)."""
    by_seed = losses.unstack("seed")
    # Where some have fewer seeds than others, a seed that is good for those that have all of them
    # is taken to be as good for the rest.
    complete = by_seed.dropna()
    of_seed = (complete.mean() - complete.mean().mean()).fillna(0)
    means = (by_seed - of_seed).mean(axis=1)
    best = means.idxmin()
    rows = []
    for configuration, loss in means.items():
        behind = Interval(0.0, np.nan, np.nan, "itself")
        if configuration != best:
            behind = paired((by_seed.loc[configuration] - by_seed.loc[best]).dropna())
        rows.append([*configuration, loss, behind.value, behind.low, behind.high])
    table = pd.DataFrame(rows, columns=[*AXES, "loss", "behind", "low", "high"])
    return table.sort_values("loss", ignore_index=True)


def effects(e: Evidence) -> dict[str, Interval]:
    """Of a grid's largest value of a factor compared with the smallest, or of what one grid does
    otherwise than another, over the runs that both hold."""
    first, revised, longer = map(best_losses, (e.first, e.revised, e.longer))
    heads = changes(revised, "n_head")
    layers = heads.index.get_level_values("n_layer")
    found = {"epochs": longer - revised}
    if len(first):
        found |= {"width": changes(first, "n_embd"), "schedule": revised - first}
    found |= {
        "layers": changes(revised, "n_layer"),
        "heads": heads,
        "half the rate": -changes(revised, "learning_rate"),
        "shallow": heads[layers == layers.min()],
        "deep": heads[layers == layers.max()],
        "deep minus shallow": changes(heads, "n_layer"),
    }
    return {name: paired(change.dropna()) for name, change in found.items()}


def trend_effects(e: Evidence) -> dict[str, Interval]:
    """`effects`, named by what is compared."""
    layers, heads = _ends(e.revised.n_layer), "heads {} to {}".format(*_ends(e.revised.n_head))
    low, high = _ends(e.revised.learning_rate)
    names = {
        "epochs": f"twice the epochs ({e.longer.epoch.max()})",
        "width": "width {} to {}".format(*_ends(e.first.n_embd)),
        "schedule": "fixed rate to twice the batch, warmup + cosine",
        "layers": "layers {} to {}".format(*layers),
        "heads": heads,
        "half the rate": f"learning rate {high:g} to {low:g}",
        "shallow": f"{heads}, {layers[0]} layers",
        "deep": f"{heads}, {layers[1]} layers",
    }
    return {names[name]: effect for name, effect in effects(e).items() if name in names}


def _ends(column: pd.Series) -> tuple:
    return column.min(), column.max()


def claim_1(e: Evidence) -> tuple[str, str]:
    table, seeds = ranking(best_losses(e.revised)), e.revised.seed.nunique()
    shapes = table[list(AXES)]
    names = ["({:g}, {:g}, {:g}, {:g})".format(*shape) for shape in shapes.to_numpy()]
    corner = (shapes == shapes.max()).all(axis=1).idxmax()  # as the paper's best is of its grid
    row = table.iloc[corner or 1]  # the corner, or what comes after it
    behind = f"{Interval(row.behind, row.low, row.high, ''):.3f} nats"
    if corner == 0:
        found = f"{names[0]} is best, by {behind} over {names[1]}"
    else:
        found = f"{names[0]} is best; {names[corner]} is {behind} behind"
    judged = verdict(corner == 0 and row.low > 0, corner > 0 and row.low > 0)
    return f"{found} ({seeds} seed{'s' if seeds > 1 else ''})", judged


def claim_2(e: Evidence) -> tuple[str, str]:
    honest = ranking(best_losses(e.revised)).loss.map(perplexity)
    flawed = [  # without a mask, at the paper's window
        record["epochs"][-1]["perplexity"]
        for name, record in e.leak.items()
        if name in ("no-mask", "no-mask-deep") or name.startswith("no-mask-seed")
    ]
    low, high = paper.GRID_PERPLEXITY
    inside = low <= honest.min() <= honest.max() <= high
    close = low / 1.05 < min(flawed) and max(flawed) < high * 1.05
    ours = (
        f"{honest.min():.1f} to {honest.max():.1f} over {len(honest)} configurations; without the "
        f"mask {min(flawed):.4f} to {max(flawed):.4f} ({len(flawed)} runs)"
    )
    return ours, REPRODUCED if inside else FLAWED if close else NOT


def claim_4(e: Evidence) -> tuple[str, str]:
    """Marginal: less than 2% of the loss."""
    gain, loss = effects(e)["epochs"], best_losses(e.longer).mean()
    ours = f"{gain:+.3f} nats, {-gain.value / loss:.1%} of the loss ({gain.of})"
    return ours, verdict(-gain.low / loss < 0.02, -gain.high / loss > 0.02)


NO_FIRST_GRID = "the first grid has not been run", UNCLEAR


def claim_5(e: Evidence) -> tuple[str, str]:
    if e.first.empty:
        return NO_FIRST_GRID
    found = effects(e)
    width, depth, heads = (found[name] for name in ("width", "layers", "heads"))
    (low, high), *others = map(_size, (width, depth, heads))
    ours = (
        f"width {width:+.3f}; depth {depth:+.3f}; heads {heads:+.3f} nats, smallest to largest "
        f"({width.of})"
    )
    return ours, verdict(all(high < o[0] for o in others), any(low > o[1] for o in others))


def _size(interval: Interval) -> tuple[float, float]:
    """The least and the greatest size of what the interval holds, whatever its sign."""
    sizes = sorted((abs(interval.low), abs(interval.high)))
    return (0.0 if interval.low < 0 < interval.high else sizes[0]), sizes[1]


def claim_6(e: Evidence) -> tuple[str, str]:
    if e.first.empty:
        return NO_FIRST_GRID
    gain, fixed = effects(e)["schedule"], best_losses(e.first)
    fixed = fixed[fixed.index.isin(best_losses(e.revised).index)]
    sooner = (epochs_to_reach(e.revised, fixed) < epochs_to_reach(e.first, fixed)).mean()
    ours = f"{gain:+.3f} nats; sooner as good as the fixed rate's best in {sooner:.0%} ({gain.of})"
    return ours, verdict(gain.high < 0 and sooner > 0.5, gain.low > 0)


def claim_7(e: Evidence) -> tuple[str, str]:
    change = effects(e)["half the rate"]
    return f"{change:+.3f} nats ({change.of})", verdict(change.low > 0, change.high < 0)


def claim_8(e: Evidence) -> tuple[str, str]:
    heads, layers = _ends(e.revised.n_head), _ends(e.revised.n_layer)
    found = effects(e)
    shallow, deep, more = found["shallow"], found["deep"], found["deep minus shallow"]
    holds = deep.high < 0 and more.high < 0 and not shallow.high < 0
    ours = (
        f"{heads[0]} to {heads[1]} heads: {shallow:+.3f} nats with {layers[0]} layers, {deep:+.3f} "
        f"with {layers[1]} ({deep.of} each)"
    )
    return ours, verdict(holds, shallow.high < 0 or deep.low > 0)
