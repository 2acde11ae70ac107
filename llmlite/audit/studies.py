"""The claims about text and attention (9 to 13): what llmlite.studies is given, and its verdicts.

A claim is judged by every seed's model: it holds if it holds in each of them, fails if it fails in
each, and cannot be judged otherwise.
"""

from collections.abc import Callable

import pandas as pd
import torch

from llmlite import paper, studies
from llmlite.audit.rows import NOT, REPRODUCED, UNCLEAR, Row
from llmlite.data import first_sentences
from llmlite.experiment import Experiment
from llmlite.model import GPT


def coherence(model: GPT, experiment: Experiment) -> dict:
    splits = experiment.corpus.splits
    return studies.coherence(
        model, experiment.tokenizer, splits["train"], splits["test"], *_size(experiment)
    )


def prompt_sensitivity(model: GPT, experiment: Experiment) -> dict:
    return studies.prompt_sensitivity(
        model, experiment.tokenizer, studies.PROMPTS, *_size(experiment)
    )


def sampling(model: GPT, experiment: Experiment) -> dict:
    return studies.sampling(
        model,
        experiment.tokenizer,
        paper.GENERATION_PROMPT,
        experiment.corpus.splits["train"],
        *_size(experiment),
    )


def ablation(model: GPT, experiment: Experiment) -> dict:
    return studies.ablation(model, experiment.tokenizer, *_size(experiment))


def attention(model: GPT, experiment: Experiment) -> dict:
    texts = first_sentences(experiment.corpus.splits["test"], experiment.profile.audit.sentences)
    tokens = (experiment.tokenizer.encode(text)[: model.config.block_size] for text in texts)
    sentences = [torch.tensor(ids) for ids in tokens if len(ids) > 1]
    return studies.attention(model, experiment.tokenizer, sentences)


def _size(experiment: Experiment) -> tuple[int, int]:
    settings = experiment.profile.audit
    return settings.samples, settings.sample_tokens


STUDIES: dict[str, Callable[[GPT, Experiment], dict]] = {
    "coherence": coherence,
    "prompt_sensitivity": prompt_sensitivity,
    "sampling": sampling,
    "ablation": ablation,
    "attention": attention,
}


# -- verdicts -------------------------------------------------------------------------------------

Seeds = list[dict]  # what one study gave for each seed


def claim_9(seeds: Seeds) -> Row:
    """Coherent: nearer to real text than to real text's words shuffled."""
    name = "position: filtered"
    return Row(
        9,
        "The filtered continuation is coherent",
        f"“{paper.FILTERED_CONTINUATION}”",
        f"{_values(seeds, name)} on a scale from real words shuffled, 0, to real text, 1 "
        f"(unfiltered {_values(seeds, 'position: generated', False)})",
        _verdict(seeds, name, lambda m: m["low"] > 0.5, lambda m: m["high"] < 0.5),
        "Text",
        "honest",
    )


def claim_10(seeds: Seeds) -> Row:
    """Most: more than half of the scores."""
    different = f"share below {paper.BLEU_THRESHOLD}: different prompts"
    same = f"share below {paper.BLEU_THRESHOLD}: same prompt"
    contrast = "BLEU: different prompts minus same prompt"
    less = _verdict(seeds, contrast, lambda m: m["high"] < 0, lambda m: m["low"] >= 0)
    shown = "the wording lowers it" if less == REPRODUCED else "no effect of the wording is shown"
    return Row(
        10,
        "Most BLEU scores between prompt variants are below 0.05",
        "§IV.C",
        f"{_values(seeds, different)}; between samples of one prompt "
        f"{_values(seeds, same, False)}: {shown}",
        _verdict(seeds, different, lambda m: m["low"] > 0.5, lambda m: m["high"] < 0.5),
        "Text",
        "honest",
    )


def claim_11(seeds: Seeds) -> Row:
    """All four parts: each has a measure and the sign that the claim gives it."""
    low, high = f"temperature {paper.LOW_TEMPERATURE}", "temperature 1.0"
    parts = {
        f"entropy: {low} minus {high}": -1,
        f"paragraph: {low} minus {high}": -1,
        "distinct-2: top-k 1000 minus top-k 10": 1,
        "attested pairs: top-k 1000 minus top-k 10": -1,
    }
    shown = ", ".join(f"{name.split(':')[0]} {_values(seeds, name, False)}" for name in parts)
    return Row(
        11,
        "Temperature 0.7: more deterministic, shorter; larger top-k: more diverse, less coherent",
        "§IV.C",
        f"0.7 against 1.0, and top-k 1,000 against 10: {shown}",
        _all_of(seeds, parts),
        "Text",
        "honest",
    )


def claim_12(seeds: Seeds) -> Row:
    """Heads 1 and 2 in particular: more repetition without them than with all heads."""
    name = "repetition: without heads 1 and 2 minus all heads"
    others = "repetition: without heads 1 and 2 minus mean of the other pairs"
    return Row(
        12,
        "Without heads 1 and 2 the text repeats itself",
        "“on on Mul on Mul on Mul”",
        f"repetition {_values(seeds, name)}; against other pairs of heads "
        f"{_values(seeds, others, False)}",
        _verdict(seeds, name, lambda m: m["low"] > 0, lambda m: m["high"] <= 0),
        "Text",
        "honest",
    )


def claim_13(seeds: Seeds) -> Row:
    """Four parts: more weight on the token before and less distance in layer 0 than in the last
    layer; more attention to "sat" in the last one, and there more than to the noun before it."""
    layers = (n.removeprefix("to sat: layer ") for n in seeds[0]["measures"])
    deepest = max(int(layer) for layer in layers if layer.isdigit())
    contrast = f"layer 0 minus layer {deepest}"
    parts = {f"previous: {contrast}": 1, f"distance: {contrast}": -1, f"to sat: {contrast}": -1}
    parts[f"to sat minus to the noun: layer {deepest}"] = 1
    shown = "; ".join(f"{name.split(':')[0]} {_values(seeds, name, False)}" for name in parts)
    return Row(
        13,
        "Layer 0 looks at the token before; deeper layers more widely, and at “sat”",
        "Figs. 6, 7",
        f"{contrast}: {shown}",
        _all_of(seeds, parts),
        "Attention",
        "honest",
    )


def _verdict(seeds: Seeds, name: str, holds: Callable, fails: Callable) -> str:
    measures = [seed["measures"][name] for seed in seeds]
    if all(map(holds, measures)):
        return REPRODUCED
    return NOT if all(map(fails, measures)) else UNCLEAR


def _all_of(seeds: Seeds, signs: dict[str, int]) -> str:
    """Does every measure have the sign that the claim gives it, its interval included?"""
    verdicts = {
        _verdict(
            seeds,
            name,
            lambda m, sign=sign: min(m["low"] * sign, m["high"] * sign) > 0,
            lambda m, sign=sign: max(m["low"] * sign, m["high"] * sign) < 0,
        )
        for name, sign in signs.items()
    }
    return NOT if NOT in verdicts else UNCLEAR if UNCLEAR in verdicts else REPRODUCED


def _values(seeds: Seeds, name: str, intervals: bool = True) -> str:
    """Each seed's value, the first with its interval."""
    first, *others = [seed["measures"][name] for seed in seeds]
    text = f"{first['value']:.2f}"
    if intervals:
        text += f" [{first['low']:.2f}, {first['high']:.2f}]"
    return " / ".join([text, *(f"{m['value']:.2f}" for m in others)])


def study_table(seeds: Seeds, only: str = "") -> pd.DataFrame:
    """A row a measure whose name holds `only`, a column a seed: values with their intervals."""
    columns = {
        f"seed {i}": {
            name: f"{m['value']:.3f} [{m['low']:.3f}, {m['high']:.3f}]"
            for name, m in study["measures"].items()
            if only in name
        }
        for i, study in enumerate(seeds, 1)
    }
    of = {name: m["of"] for name, m in seeds[0]["measures"].items() if only in name}
    return pd.DataFrame({**columns, "over": of})


def by_head(study: dict) -> pd.DataFrame:
    """A row a head of the study of attention: layer, head, and value, low and high of each
    statistic, as columns of two levels."""
    rows = {}
    for name, measure in study["measures"].items():
        statistic, _, where = name.partition(": ")
        if ", head " in where and " minus " not in where:
            layer, head = (int(part.split()[-1]) for part in where.split(", "))
            for end in ("value", "low", "high"):
                rows.setdefault((layer, head), {})[statistic, end] = measure[end]
    return pd.DataFrame(rows).T.rename_axis(["layer", "head"])
