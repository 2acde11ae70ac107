"""Claims 12 and 13 (§IV.D, IV.E): what removing heads does to the text, and where heads look.
Studies as those of text.py; STUDIES has them all."""

import re
from itertools import combinations

import numpy as np
import pandas as pd
import torch

from llmlite import paper
from llmlite.audit.plan import StudySize
from llmlite.audit.text import SAMPLING, coherence, prompt_sensitivity, sampling
from llmlite.data import Dataset
from llmlite.files import LLMLiteError
from llmlite.generate import complete
from llmlite.interpret import (
    STATISTICS,
    attention_maps,
    attention_received,
    mask_heads,
    query_statistics,
)
from llmlite.intervals import Counts, measure_all, out_of
from llmlite.metrics import repetition_rate
from llmlite.model import GPT

# -- claim 12: without heads 1 and 2 the text repeats itself --------------------------------------

ALL_HEADS, OTHER_PAIRS = "all heads", "mean of the other pairs"
WITHOUT = "without heads {} and {}"


def ablation(model: GPT, dataset: Dataset, size: StudySize) -> dict:
    """Repetition in continuations of the paper's prompt without two heads in every layer: each two
    in turn, so that the paper's can be told from any two, and all heads as the control; drawn as in
    `sampling`. `greedy` holds the likeliest tokens' text. Raises LLMLiteError for a model without
    the paper's heads."""
    pairs = {WITHOUT.format(*p): p for p in combinations(range(model.config.n_head), 2)}
    ours = WITHOUT.format(*paper.ABLATED_HEADS)
    if ours not in pairs:
        raise LLMLiteError(
            f"The paper removes heads {' and '.join(map(str, paper.ABLATED_HEADS))}, counted from "
            f"0, of 4, and this model has {model.config.n_head} a layer; study one with more heads."
        )
    to_continue = (model, dataset.tokenizer, paper.ABLATION_PROMPT, size.tokens)
    counts, texts, greedy = {}, {}, {}
    for name, heads in {ALL_HEADS: (), **pairs}.items():
        mask = mask_heads(model.config, heads).to(model.device)
        texts[name] = complete(*to_continue, size.samples, seed=0, head_mask=mask, **SAMPLING)
        rates = [repetition_rate(text.split()) for text in texts[name]]
        counts[name] = {"repetition": out_of(rates)}
        greedy[name] = complete(*to_continue, temperature=0, head_mask=mask)[0]
    others = [counts[name]["repetition"] for name in pairs if name != ours]
    counts[OTHER_PAIRS] = {"repetition": np.mean(others, axis=0)}
    contrasts = [(name, ALL_HEADS) for name in pairs] + [(ours, OTHER_PAIRS)]
    return {
        "samples": size.samples,
        "tokens": size.tokens,
        "prompt": paper.ABLATION_PROMPT,
        "sampling": SAMPLING,
        "greedy": greedy,
        "measures": measure_all(counts, contrasts, of="continuations"),
        "rows": texts,
    }


# -- claim 13: layer 0 looks at the token before, deeper layers more widely, and at "sat" ---------

# Of "The … sat on the … and looked at the dog .", the paper's sentence first. No word occurs twice,
# so that sentences share no more than the template.
SUBJECTS = (
    "cat man woman king boy girl bird soldier player captain child queen doctor student horse "
    "writer actor singer mother father teacher officer artist driver"
)
THINGS = (
    "mat bench chair throne wall floor tree ground field ship bed stage table stairs grass roof "
    "car rock boat bridge desk road beach train"
)


def attention(model: GPT, dataset: Dataset, size: StudySize) -> dict:
    """How far each layer and head looks back over the test split's sentences, by
    `interpret.query_statistics`; "evenly spread" is the distance of even attention. And how much
    later tokens look at the verb "sat" and at the noun before it, by `attention_received`: those
    sentences differ in their nouns only, so their intervals speak for this template alone.
    """
    encoded = map(dataset.tokenizer.encode, dataset.sentences(size.sentences))
    sentences = [torch.tensor(ids[: model.config.block_size]) for ids in encoded if len(ids) > 1]
    ends = [("layer 0", f"layer {model.config.n_layer - 1}")]
    back, at_words = _looking_back(model, sentences), _looking_at_words(model, dataset.tokenizer)
    measures = measure_all(back, ends, of="sentences")
    measures |= measure_all(at_words, ends, of="sentences of one template")
    return {"samples": len(sentences), "measures": measures}


def _looking_back(model: GPT, sentences: list[torch.Tensor]) -> Counts:
    """Of every layer, the mean of its heads, and every head: a sentence weighs as much as it has
    tokens."""
    maps = (attention_maps(model, ids) for ids in sentences)
    sums = np.stack([query_statistics(m).double().sum(-1).numpy() for m in maps], axis=-1)
    n = np.array([len(ids) - 1 for ids in sentences])
    counts = {"evenly spread": {"distance": out_of(n * (n + 1) / 4, n)}}  # q / 2 of token q
    for layer in range(model.config.n_layer):
        heads = sums[:, layer]  # (statistic, head, sentence)
        parts = {f"layer {layer}": heads.mean(1)}
        parts |= {f"layer {layer}, head {i}": heads[:, i] for i in range(model.config.n_head)}
        for name, part in parts.items():
            counts[name] = dict(zip(STATISTICS, (out_of(x, n) for x in part), strict=True))
    return counts


def _looking_at_words(model: GPT, tokenizer) -> Counts:
    """Of every layer, the mean of its heads, over the sentences of the template."""
    received = []
    for subject, thing in zip(SUBJECTS.split(), THINGS.split(), strict=True):
        noun = f" The {subject}"
        verb = f"{noun} sat"
        ids = torch.tensor(tokenizer.encode(f"{verb} on the {thing} and looked at the dog ."))
        maps = attention_maps(model, ids)
        at = [len(tokenizer.encode(text)) - 1 for text in (verb, noun)]  # a word's last token
        received.append([attention_received(maps, i).mean(-1).double().numpy() for i in at])
    counts = {}
    for layer, (verb, noun) in enumerate(np.transpose(received)):  # each (word, sentence)
        named = {"to sat": verb, "to the noun": noun, "to sat minus to the noun": verb - noun}
        counts[f"layer {layer}"] = {name: out_of(values) for name, values in named.items()}
    return counts


# Each a function of (model, dataset, size), by the name that its records have on disk.
STUDIES = {f.__name__: f for f in (coherence, prompt_sensitivity, sampling, ablation, attention)}


def by_head(study: dict) -> pd.DataFrame:
    """A row a head of the study of attention: layer, head, and value, low and high of each
    statistic, as columns of two levels."""
    rows = {}
    for name, measure in study["measures"].items():
        if found := re.fullmatch(r"(\w+): layer (\d+), head (\d+)", name):
            statistic, layer, head = found.groups()
            for end in ("value", "low", "high"):
                rows.setdefault((int(layer), int(head)), {})[statistic, end] = measure[end]
    return pd.DataFrame(rows).T.rename_axis(["layer", "head"])
