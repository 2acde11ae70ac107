"""The scorecard: each of the paper's claims beside what the runs' records say of it.

A claim is a function from the evidence to a row; a verdict follows from an interval, by a rule that
stands in the function. Claims about text and attention (9 to 13) are in studies.py.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from llmlite import paper
from llmlite.audit import studies
from llmlite.audit.facts import rate_error
from llmlite.audit.rows import FLAWED, NOT, REPRODUCED, UNCLEAR, Row
from llmlite.audit.trends import FACTORS, best_losses, effect, epochs_to_reach, interaction, ranking
from llmlite.intervals import Interval, over_seeds, paired
from llmlite.metrics import perplexity
from llmlite.search import AXES


@dataclass(frozen=True)
class Evidence:
    """What the claims are judged by, all of it read from records."""

    leak: dict[str, dict]  # records of the runs that look for 1.17, by name
    tests: list[float]  # test loss of the best configuration, a seed each, nats per token
    norms: list[pd.DataFrame]  # its step log, a seed each
    first: pd.DataFrame  # every epoch of the grid with a fixed rate, all seeds
    revised: pd.DataFrame  # of the grid with warmup + cosine
    longer: pd.DataFrame  # of its deepest configuration, trained for twice as many epochs
    studies: dict[str, list[dict]]  # of text and attention, a seed each


def scorecard(e: Evidence) -> list[Row]:
    """All 16 claims, in their order."""
    return [
        *(claim(e) for claim in (claim_1, claim_2, claim_3, claim_4)),
        *(claim(e) for claim in (claim_5, claim_6, claim_7, claim_8)),
        studies.claim_9(e.studies["coherence"]),
        studies.claim_10(e.studies["prompt_sensitivity"]),
        studies.claim_11(e.studies["sampling"]),
        studies.claim_12(e.studies["ablation"]),
        studies.claim_13(e.studies["attention"]),
        *(claim(e) for claim in (claim_14, claim_15, claim_16)),
    ]


def end_of_it(e: Evidence) -> pd.DataFrame:
    """The runs without a mask at the paper's window: what each reports of itself, and how well it
    really predicts; the one that ends nearest to the paper's perplexity first."""
    rows = {}
    for name, record in e.leak.items():
        if not name.startswith("no-mask") or name.startswith("no-mask-window"):
            continue
        found, nats = record["measures"], record["measures"]["true"]["nats"]
        ends = (nats + z * found["true"]["error"] for z in (-1.96, 1.96))
        rows[name] = {
            "validation perplexity": record["epochs"][-1]["perplexity"],
            "test perplexity": perplexity(found["test_loss"]),
            "true test perplexity per token": perplexity(nats),
            "its interval": "{:.1f} to {:.1f}".format(*map(perplexity, ends)),
            "true per word and line end": perplexity(nats * found["tokens_per_word"]),
            "command": record["command"],
        }
    table = pd.DataFrame(rows).T
    distance = (table["validation perplexity"].astype(float) - paper.BEST_PERPLEXITY).abs()
    return table.loc[distance.sort_values().index]


def headline(e: Evidence) -> str:
    """The end of it in two sentences."""
    table = end_of_it(e)
    best = table.iloc[0]
    return (
        f"Without the causal mask a validation perplexity of {best['validation perplexity']:.4f} "
        f"comes out (the paper: {paper.BEST_PERPLEXITY:.4f}; run `{table.index[0]}`). Asked for a "
        f"token that it cannot see, the same model has a perplexity of "
        f"{best['true test perplexity per token']:,.0f} per token and "
        f"{best['true per word and line end']:,.0f} per word."
    )


def trend_effects(e: Evidence) -> dict[str, Interval]:
    """The effects that claims 4 to 8 are about, in nats per token of the lowest validation loss."""
    first, revised = best_losses(e.first), best_losses(e.revised)
    heads, layers = _ends(e.revised.n_head), _ends(e.revised.n_layer)
    low, high = _ends(e.revised.learning_rate)
    effects = {f"twice the epochs ({e.longer.epoch.max()})": _longer(e)}
    if not e.first.empty:
        width = _ends(e.first.n_embd)
        effects |= {
            f"width {width[0]} to {width[1]}": effect(first, "n_embd", *width),
            "fixed rate to twice the batch, warmup + cosine": _schedule(e),
        }
    effects |= {
        f"layers {layers[0]} to {layers[1]}": effect(revised, "n_layer", *layers),
        f"heads {heads[0]} to {heads[1]}": effect(revised, "n_head", *heads),
        f"learning rate {high:g} to {low:g}": effect(revised, "learning_rate", high, low),
    }
    return effects | {
        f"heads {heads[0]} to {heads[1]}, {n} layers": effect(revised, "n_head", *heads, n_layer=n)
        for n in layers
    }


def _longer(e: Evidence) -> Interval:
    once = best_losses(e.revised).rename("once")
    both = pd.concat([best_losses(e.longer).rename("twice"), once], axis=1, join="inner")
    return paired(both.twice, both.once)


def _both_schedules(e: Evidence) -> pd.DataFrame:
    """Runs that both grids hold: a row each, its losses with the fixed rate and with the cosine."""
    fixed, cosine = best_losses(e.first), best_losses(e.revised)
    return pd.concat([fixed.rename("fixed"), cosine.rename("cosine")], axis=1, join="inner")


def _schedule(e: Evidence) -> Interval:
    both = _both_schedules(e)
    return paired(both.cosine, both.fixed)


def claim_1(e: Evidence) -> Row:
    table, seeds = ranking(best_losses(e.revised)), e.revised.seed.nunique()
    corner = [table[axis].max() for axis in AXES]  # as the paper's best is of its grid
    best = (table[AXES[0]] == corner[0]) & (table[list(AXES[1:])] == corner[1:]).all(axis=1)
    ours, first = table[best].iloc[0], table.iloc[0]
    shape = "({:g}, {:g}, {:g}, {:g})".format
    if best.iloc[0]:
        second = table.iloc[1]
        verdict = REPRODUCED if second.low > 0 else UNCLEAR
        found = f"{shape(*corner)} is best, by {_nats(second)} over {shape(*second[list(AXES)])}"
    else:
        verdict = NOT if ours.low > 0 else UNCLEAR
        found = f"{shape(*first[list(AXES)])} is best; {shape(*corner)} is {_nats(ours)} behind"
    return Row(
        1,
        "Best configuration: highest rate, deepest, most heads",
        f"(1e-3, 6, 4, 128): {paper.BEST_PERPLEXITY:.4f}",
        f"{found} ({seeds} seed{'s' if seeds > 1 else ''})",
        verdict,
        "Trends",
        "grid-revised",
    )


def claim_2(e: Evidence) -> Row:
    honest = ranking(best_losses(e.revised)).loss.map(perplexity)
    flawed = [r["epochs"][-1]["perplexity"] for r in _without_mask(e)]
    low, high = paper.GRID_PERPLEXITY
    close = low / 1.05 < min(flawed) and max(flawed) < high * 1.05
    return Row(
        2,
        "All final validation perplexities in a narrow range",
        f"{low:.4f} to {high:.4f}",
        f"{honest.min():.1f} to {honest.max():.1f} over {len(honest)} configurations; without the "
        f"mask {min(flawed):.4f} to {max(flawed):.4f} ({len(flawed)} runs)",
        REPRODUCED if low <= honest.min() <= honest.max() <= high else FLAWED if close else NOT,
        "Where 1.17 comes from",
        "grid-revised no-mask",
    )


def claim_3(e: Evidence) -> Row:
    honest = over_seeds(e.tests)
    deep = e.leak["no-mask-deep"]["measures"]
    flawed = deep["test_loss"]
    true = deep["true"]["nats"]
    shallow = e.leak.get("no-mask-batch", {}).get("measures", {}).get("test_loss")
    inside = honest.low <= paper.TEST_LOSS <= honest.high
    close = 0.8 < flawed / paper.TEST_LOSS < 1.25
    return Row(
        3,
        "Test loss and perplexity of the best configuration",
        f"{paper.TEST_LOSS:.4f}, {paper.TEST_PERPLEXITY}",
        f"{honest:.3f}, perplexity {perplexity(honest.value):.1f} ({honest.of}); without the mask "
        f"{flawed:.4f}, {perplexity(flawed):.3f}, whose true perplexity is {perplexity(true):.0f}"
        + (f"; in a shallow model, at twice the batch, {shallow:.4f}" if shallow else ""),
        REPRODUCED if inside else FLAWED if close else NOT,
        "The end of it",
        "honest no-mask-deep no-mask-batch",
    )


def claim_4(e: Evidence) -> Row:
    """Marginal: less than 2% of the loss."""
    gain, loss = _longer(e), best_losses(e.longer).mean()
    share = -gain.value / loss
    small, large = -gain.low / loss < 0.02, -gain.high / loss > 0.02
    return Row(
        4,
        "Twice the epochs bring only marginal gains",
        f"test {paper.TEST_LOSS} after 20, validation {np.log(paper.BEST_PERPLEXITY):.4f} after 10",
        f"{gain:+.3f} nats, {share:.1%} of the loss ({gain.of})",
        REPRODUCED if small else NOT if large else UNCLEAR,
        "Trends",
        "grid-longer grid-revised",
    )


def claim_5(e: Evidence) -> Row:
    claim = "Width matters less than depth and heads"
    if e.first.empty:
        return _without_first_grid(5, claim, "Fig. 2")
    first, revised = best_losses(e.first), best_losses(e.revised)
    width = effect(first, "n_embd", *_ends(e.first.n_embd))
    others = {
        "depth": effect(revised, "n_layer", *_ends(e.revised.n_layer)),
        "heads": effect(revised, "n_head", *_ends(e.revised.n_head)),
    }
    low, high = _size(width)
    sizes = {name: _size(interval) for name, interval in others.items()}
    less = all(high < size[0] for size in sizes.values())
    more = any(low > size[1] for size in sizes.values())
    shown = "; ".join(f"{name} {interval:+.3f}" for name, interval in others.items())
    return Row(
        5,
        claim,
        "Fig. 2",
        f"width {width:+.3f}; {shown} nats, smallest to largest ({width.of})",
        REPRODUCED if less else NOT if more else UNCLEAR,
        "Trends",
        "grid-first grid-revised",
    )


def claim_6(e: Evidence) -> Row:
    claim = "Twice the batch with warmup + cosine: fewer epochs, and lower"
    if e.first.empty:
        return _without_first_grid(6, claim, "Fig. 3")
    both, gain = _both_schedules(e), _schedule(e)
    reached = epochs_to_reach(e.revised, both.fixed)
    best = e.first.loc[e.first.groupby(FACTORS).valid_loss.idxmin()].set_index(FACTORS).epoch
    sooner = (reached < best.reindex(both.index)).mean()
    return Row(
        6,
        claim,
        "Fig. 3",
        f"{gain:+.3f} nats; sooner as good as the fixed rate's best in {sooner:.0%} ({gain.of})",
        REPRODUCED if gain.high < 0 and sooner > 0.5 else NOT if gain.low > 0 else UNCLEAR,
        "Trends",
        "grid-first grid-revised",
    )


def _without_first_grid(number: int, claim: str, published: str) -> Row:
    ours = "the first grid has not been run"
    return Row(number, claim, published, ours, UNCLEAR, "Trends", "grid-first")


def claim_7(e: Evidence) -> Row:
    low, high = _ends(e.revised.learning_rate)
    change = effect(best_losses(e.revised), "learning_rate", high, low)
    return Row(
        7,
        "Half the learning rate ends slightly worse",
        f"{paper.FINAL_PERPLEXITY[5e-4, 2, 2]} for (5e-4, 2, 2); Fig. 4",
        f"{change:+.3f} nats ({change.of})",
        REPRODUCED if change.low > 0 else NOT if change.high < 0 else UNCLEAR,
        "Trends",
        "grid-revised",
    )


def claim_8(e: Evidence) -> Row:
    losses, heads, layers = (
        best_losses(e.revised),
        _ends(e.revised.n_head),
        _ends(e.revised.n_layer),
    )
    shallow, deep = (effect(losses, "n_head", *heads, n_layer=n) for n in layers)
    more = interaction(losses, "n_head", *heads, "n_layer", *layers)
    holds = deep.high < 0 and more.high < 0 and not shallow.high < 0
    contradicted = shallow.high < 0 or deep.low > 0
    return Row(
        8,
        "More heads help only in deeper models",
        "Fig. 5",
        f"{heads[0]} to {heads[1]} heads: {shallow:+.3f} nats with {layers[0]} layers, {deep:+.3f} "
        f"with {layers[1]} ({deep.of} each)",
        REPRODUCED if holds else NOT if contradicted else UNCLEAR,
        "Trends",
        "grid-revised",
    )


def claim_14(_: Evidence) -> Row:
    share = paper.WARMUP_STEPS / paper.TOTAL_STEPS
    return Row(
        14,
        "Warmup of 8,000 steps to 1e-3, cosine to zero at step 50,000",
        "Fig. 8",
        f"the rates in the paper's own log are off from that by {rate_error(share):.0%} of the "
        f"peak, from a warmup of a tenth by {rate_error(0.1):.1%}",
        NOT if rate_error(share) > 0.01 else REPRODUCED,
        "The schedule",
        "arithmetic",
    )


def claim_15(e: Evidence) -> Row:
    """Early: the first tenth of the steps; late: the last half."""
    size, spread = [], []
    for steps in e.norms:
        early, late = (
            part.grad_norm.dropna()
            for part in (steps.iloc[: len(steps) // 10], steps.iloc[len(steps) // 2 :])
        )
        size.append(np.log(early.median() / late.median()))
        spread.append(np.log(early.std() / late.std()))
    size, spread = over_seeds(size), over_seeds(spread)
    holds, fails = size.low > 0 and spread.low > 0, size.high < 0 or spread.high < 0
    scaled = e.leak["scaled-norm"]["epochs"][-1]["grad_norm"]
    low, high = paper.SCALED_NORMS
    inside = low / 2 < scaled < high * 2
    return Row(
        15,
        "Gradient norms large and volatile early, stable later",
        f"{low:.1e} to {high:.1e}",
        f"early over late: size {_ratio(size)}, spread {_ratio(spread)} ({size.of}); norms of "
        f"the scaled gradient {scaled:.1e}",
        NOT if fails else UNCLEAR if not holds else FLAWED if inside else NOT,
        "The log's other numbers",
        "honest scaled-norm",
    )


def claim_16(e: Evidence) -> Row:
    record = e.leak["no-mask-deep"]
    tokens = paper.TOTAL_STEPS * 128 * paper.ACCUMULATION * paper.BLOCK_SIZE
    return Row(
        16,
        "Over 10 hours a configuration on an A100 at batch 64",
        "§IV.A",
        f"{tokens / 1e6:,.0f} M tokens in 10 hours are "
        f"{tokens / paper.HOURS / 3600:,.0f} tokens/s; here on {record['environment']['device']}",
        UNCLEAR,
        "The schedule",
        "arithmetic",
    )


def _without_mask(e: Evidence) -> list[dict]:
    """The runs without a mask at the paper's window."""
    return [
        record
        for name, record in e.leak.items()
        if name in ("no-mask", "no-mask-deep") or name.startswith("no-mask-seed")
    ]


def _ends(column: pd.Series) -> tuple:
    return column.min().item(), column.max().item()


def _size(interval: Interval) -> tuple[float, float]:
    """The least and the greatest size of what the interval holds, whatever its sign."""
    sizes = sorted((abs(interval.low), abs(interval.high)))
    return (0.0 if interval.low < 0 < interval.high else sizes[0]), sizes[1]


def _ratio(logarithm: Interval) -> str:
    value, low, high = np.exp([logarithm.value, logarithm.low, logarithm.high])
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _nats(row: pd.Series) -> str:
    return f"{Interval(row.behind, row.low, row.high, ''):.3f} nats"
