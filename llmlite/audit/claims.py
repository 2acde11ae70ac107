"""The paper's claims about numbers, text and attention (trends.py: about the grids). A judge takes
the evidence and gives what came out here, with its interval, unit and number of runs, and a
verdict, by a rule that stands in the function."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from llmlite import paper
from llmlite.audit.hypotheses import rate_error
from llmlite.intervals import Interval, by_condition, over_seeds
from llmlite.metrics import perplexity

REPRODUCED, NOT = "reproduced", "not reproduced"
FLAWED, UNCLEAR = "reproduced only with the flaw", "cannot be judged"


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


def verdict(holds: bool, fails: bool) -> str:
    return REPRODUCED if holds else NOT if fails else UNCLEAR


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
    best = end_of_it(e).iloc[0]
    return (
        f"Without the causal mask a validation perplexity of {best['validation perplexity']:.4f} "
        f"comes out (the paper: {paper.BEST_PERPLEXITY:.4f}; run `{best.name}`). Asked for a "
        f"token that it cannot see, the same model has a perplexity of "
        f"{best['true test perplexity per token']:,.0f} per token and "
        f"{best['true per word and line end']:,.0f} per word."
    )


def claim_3(e: Evidence) -> tuple[str, str]:
    honest, deep = over_seeds(e.tests), e.leak["no-mask-deep"]["measures"]
    flawed, true = deep["test_loss"], deep["true"]["nats"]
    shallow = e.leak.get("no-mask-batch", {}).get("measures", {}).get("test_loss")
    inside = honest.low <= paper.TEST_LOSS <= honest.high
    close = 0.8 < flawed / paper.TEST_LOSS < 1.25
    ours = (
        f"{honest:.3f}, perplexity {perplexity(honest.value):.1f} ({honest.of}); without the mask "
        f"{flawed:.4f}, {perplexity(flawed):.3f}, whose true perplexity is {perplexity(true):.0f}"
    )
    if shallow:
        ours += f"; in a shallow model, at twice the batch, {shallow:.4f}"
    return ours, REPRODUCED if inside else FLAWED if close else NOT


def claim_14(_: Evidence) -> tuple[str, str]:
    error = rate_error(paper.WARMUP_STEPS / paper.TOTAL_STEPS)
    ours = (
        f"the rates in the paper's own log are off from that by {error:.0%} of the peak, from a "
        f"warmup of a tenth by {rate_error(0.1):.1%}"
    )
    return ours, NOT if error > 0.01 else REPRODUCED


def claim_15(e: Evidence) -> tuple[str, str]:
    """Early: the first tenth of the steps; late: the last half."""
    sizes, spreads = [], []  # logarithms of early over late, a seed each
    for steps in e.norms:
        early = steps.grad_norm.iloc[: len(steps) // 10].dropna()
        late = steps.grad_norm.iloc[len(steps) // 2 :].dropna()
        sizes.append(np.log(early.median() / late.median()))
        spreads.append(np.log(early.std() / late.std()))
    size, spread = over_seeds(sizes), over_seeds(spreads)
    scaled = e.leak["scaled-norm"]["epochs"][-1]["grad_norm"]
    low, high = paper.SCALED_NORMS
    found = verdict(size.low > 0 and spread.low > 0, size.high < 0 or spread.high < 0)
    if found == REPRODUCED:  # the course of the norms; their size is that of a scaled gradient
        found = FLAWED if low / 2 < scaled < high * 2 else NOT
    ratios = (Interval(*np.exp([x.value, x.low, x.high]), x.of) for x in (size, spread))
    ours = "early over late: size {:.2f}, spread {:.2f} ({}); norms of the scaled gradient {:.1e}"
    return ours.format(*ratios, size.of, scaled), found


def claim_16(e: Evidence) -> tuple[str, str]:
    device = e.leak["no-mask-deep"]["environment"]["device"]
    tokens = paper.TOTAL_STEPS * 128 * paper.ACCUMULATION * paper.BLOCK_SIZE
    speed = tokens / paper.HOURS / 3600
    ours = f"{tokens / 1e6:,.0f} M tokens in {paper.HOURS} hours are {speed:,.0f} tokens/s"
    return f"{ours}; here on {device}", UNCLEAR


def claim_9(e: Evidence) -> tuple[str, str]:
    """Coherent: nearer to real text than to real text's words shuffled."""
    seeds, name = e.studies["coherence"], "position: filtered"
    ours = (
        f"{_values(seeds, name, True)} on a scale from real words shuffled, 0, to real text, 1 "
        f"(unfiltered {_values(seeds, 'position: generated')})"
    )
    return ours, _judged(seeds, {name: 1}, 0.5)


def claim_10(e: Evidence) -> tuple[str, str]:
    """Most: more than half of the scores."""
    seeds, below = e.studies["prompt_sensitivity"], f"share below {paper.BLEU_THRESHOLD}"
    different, same = f"{below}: different prompts", f"{below}: same prompt"
    lowered = _judged(seeds, {"BLEU: different prompts minus same prompt": -1}) == REPRODUCED
    shown = "the wording lowers it" if lowered else "no effect of the wording is shown"
    ours = (
        f"{_values(seeds, different, True)}; between samples of one prompt "
        f"{_values(seeds, same)}: {shown}"
    )
    return ours, _judged(seeds, {different: 1}, 0.5)


def claim_11(e: Evidence) -> tuple[str, str]:
    seeds, larger = e.studies["sampling"], "top-k 1000 minus top-k 10"
    cooler = f"temperature {paper.LOW_TEMPERATURE} minus temperature 1.0"
    parts = {f"entropy: {cooler}": -1, f"paragraph: {cooler}": -1}
    parts |= {f"distinct-2: {larger}": 1, f"attested pairs: {larger}": -1}
    shown = ", ".join(_parts(seeds, parts))
    return f"0.7 against 1.0, and top-k 1,000 against 10: {shown}", _judged(seeds, parts)


def claim_12(e: Evidence) -> tuple[str, str]:
    """Heads 1 and 2 in particular: more repetition without them than with all heads."""
    seeds, ours = e.studies["ablation"], "repetition: without heads 1 and 2"
    shown = (
        f"repetition {_values(seeds, f'{ours} minus all heads', True)}; against other pairs of "
        f"heads {_values(seeds, f'{ours} minus mean of the other pairs')}"
    )
    return shown, _judged(seeds, {f"{ours} minus all heads": 1})


def claim_13(e: Evidence) -> tuple[str, str]:
    """More weight on the token before and less distance in layer 0 than in the last layer; more
    attention to "sat" in the last one, and there more than to the noun before it."""
    seeds = e.studies["attention"]
    deepest = max(int(layer.split()[-1]) for layer in by_condition(seeds[0], "to sat"))
    contrast = f"layer 0 minus layer {deepest}"
    parts = {f"previous: {contrast}": 1, f"distance: {contrast}": -1, f"to sat: {contrast}": -1}
    parts[f"to sat minus to the noun: layer {deepest}"] = 1
    return f"{contrast}: {'; '.join(_parts(seeds, parts))}", _judged(seeds, parts)


def _judged(seeds: list[dict], parts: dict[str, int], threshold: float = 0.0) -> str:
    """parts: measures with the side of the threshold, 1 above and -1 below, on which the claim has
    them. It holds if every seed's interval lies there, and fails if of one part none reaches it."""
    ends = []
    for name, sign in parts.items():
        found = [seed["measures"][name] for seed in seeds]
        ends.append([sign * (x[end] - threshold) for x in found for end in ("low", "high")])
    return verdict(min(map(min, ends)) > 0, min(map(max, ends)) <= 0)


def _parts(seeds: list[dict], names: Iterable[str]) -> list[str]:
    return [f"{name.split(':')[0]} {_values(seeds, name)}" for name in names]


def _values(seeds: list[dict], name: str, interval: bool = False) -> str:
    """Each seed's value, the first with its interval."""
    first, *others = (Interval(**seed["measures"][name]) for seed in seeds)
    shown = f"{first:.2f}" if interval else f"{first.value:.2f}"
    return " / ".join([shown, *(f"{other.value:.2f}" for other in others)])
