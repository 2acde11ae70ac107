"""Claims 12 and 13 (§IV.D and IV.E): what removing heads does to the text, and where heads look.

Studies as those of text.py.
"""

from collections.abc import Iterable
from itertools import combinations

import numpy as np
import pandas as pd
import torch

from llmlite import paper
from llmlite.audit.samples import Counts, StudySize, as_lists, collect, difference, measure_all
from llmlite.audit.text import SAMPLING
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
from llmlite.metrics import distinct_n, most_common_share, repetition_rate
from llmlite.model import GPT

# -- claim 12: without heads 1 and 2 the text repeats itself --------------------------------------

ALL_HEADS, OTHER_PAIRS = "all heads", "mean of the other pairs"


def ablation(model: GPT, dataset: Dataset, size: StudySize) -> dict:
    """Repetition in continuations of the paper's prompt without two heads in every layer: each two
    in turn, so that the paper's can be told from any two, and all heads as the control.

    All are drawn with the same random numbers, so sample i is compared with sample i. `greedy`
    holds the likeliest tokens' text, `published` the same numbers of the paper's text. Raises
    LLMLiteError for a model without the paper's heads.
    """
    pairs = {_without(heads): heads for heads in combinations(range(model.config.n_head), 2)}
    ours = _without(paper.ABLATED_HEADS)
    if ours not in pairs:
        raise LLMLiteError(
            f"The paper removes heads {' and '.join(map(str, paper.ABLATED_HEADS))}, counted from "
            f"0, of 4, and this model has {model.config.n_head} a layer; study one with more heads."
        )
    to_continue = (model, dataset.tokenizer, paper.ABLATION_PROMPT, size.tokens)
    counts, greedy = {}, {}
    for name, heads in {ALL_HEADS: (), **pairs}.items():
        mask = mask_heads(model.config, heads).to(model.device)
        texts = complete(*to_continue, size.samples, seed=0, head_mask=mask, **SAMPLING)
        counts[name] = collect([_repetition(text.split()) for text in texts])
        greedy[name] = complete(*to_continue, temperature=0, head_mask=mask)[0]
    rows = {name: as_lists(named) for name, named in counts.items()}
    counts[OTHER_PAIRS] = {
        statistic: np.mean([counts[name][statistic] for name in pairs if name != ours], axis=0)
        for statistic in counts[ours]
    }
    contrasts = [(name, ALL_HEADS) for name in pairs] + [(ours, OTHER_PAIRS)]
    published = paper.ABLATED_CONTINUATION.removeprefix(paper.ABLATION_PROMPT).split()
    return {
        "claim": 12,
        "samples": size.samples,
        "tokens": size.tokens,
        "prompt": paper.ABLATION_PROMPT,
        "sampling": SAMPLING,
        "greedy": greedy,
        "published": {name: value for name, (value, _) in _repetition(published).items()},
        "measures": measure_all(counts, contrasts, of="continuations"),
        "rows": rows,
    }


def _without(heads: Iterable[int]) -> str:
    return "without heads " + " and ".join(map(str, heads))


def _repetition(words: list[str]) -> dict[str, tuple[float, float]]:
    return {
        "repetition": (repetition_rate(words), 1),
        "distinct-2": (distinct_n(words, 2), 1),
        "most common word": (most_common_share(words), 1),
    }


# -- claim 13: layer 0 looks at the token before, deeper layers more widely, and at "sat" ---------

LOCAL = ("previous", "distance", "entropy")  # how locally a head looks

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
    """How far each layer and head looks back, over the test split's sentences without their first
    tokens, by `interpret.query_statistics`; "evenly spread" is the distance of even attention.

    And how much later tokens look at the verb "sat" and at the noun before it, by
    `interpret.attention_received`: 1 is even attention. Its sentences differ in their nouns only,
    so its intervals speak for this template alone.

    Raises LLMLiteError for a model of one layer and for fewer than two sentences.
    """
    if model.config.n_layer < 2:
        raise LLMLiteError("The first layer is compared with the deepest; study a model with two.")
    encoded = map(dataset.tokenizer.encode, dataset.sentences(size.sentences))
    sentences = [torch.tensor(ids[: model.config.block_size]) for ids in encoded if len(ids) > 1]
    if len(sentences) < 2:
        raise LLMLiteError(
            "Attention is studied on two sentences or more, each of two tokens or more; give such."
        )
    per_query = [query_statistics(attention_maps(model, ids)).double() for ids in sentences]
    positions = np.array([statistics.size(-1) for statistics in per_query])
    totals = np.stack([statistics.sum(-1).numpy() for statistics in per_query], axis=1)
    sums = dict(zip(STATISTICS, totals, strict=True))  # each (sentence, layer, head)
    nouns = zip(SUBJECTS.split(), THINGS.split(), strict=True)
    received = np.stack([_received(model, dataset.tokenizer, *pair) for pair in nouns])
    ends = [("layer 0", f"layer {model.config.n_layer - 1}")]
    return {
        "claim": 13,
        "samples": len(sentences),
        "samples of the template": len(received),
        "measures": measure_all(_looking_back(sums, positions), ends, of="sentences")
        | _looking_at_words(received, ends),
        "rows": {
            "positions": positions.tolist(),
            **{name: (sums[name].mean(-1) / positions[:, None]).tolist() for name in LOCAL},
            "to sat": received[:, 0].tolist(),
            "to the noun": received[:, 1].tolist(),
        },
    }


def _looking_back(sums: dict[str, np.ndarray], positions: np.ndarray) -> Counts:
    """Of every layer, the mean of its heads, and every head; sums: name → (sentence, layer, head),
    over so many positions: a sentence weighs as much as it has tokens."""
    counts = {"evenly spread": {"distance": _out_of(sums["uniform_distance"][:, 0, 0], positions)}}
    _, layers, heads = sums["distance"].shape
    for layer in range(layers):
        parts = {f"layer {layer}": slice(None)}
        parts |= {f"layer {layer}, head {head}": slice(head, head + 1) for head in range(heads)}
        for where, part in parts.items():
            means = {name: sums[name][:, layer, part].mean(-1) for name in LOCAL}
            counts[where] = {name: _out_of(mean, positions) for name, mean in means.items()}
    return counts


def _out_of(sums: np.ndarray, total: np.ndarray) -> np.ndarray:
    return np.stack([sums, total], axis=1)


def _looking_at_words(
    received: np.ndarray, contrasts: Iterable[tuple[str, str]]
) -> dict[str, dict[str, float | str]]:
    """Of every layer; received: (sentence, verb or noun, layer)."""
    of, one = "sentences of one template", np.ones(len(received))
    counts = {
        f"layer {layer}": {
            name: _out_of(received[:, word, layer], one)
            for word, name in enumerate(("to sat", "to the noun"))
        }
        for layer in range(received.shape[-1])
    }
    return measure_all(counts, contrasts, of) | {
        f"to sat minus to the noun: {layer}": difference(*named.values(), of)
        for layer, named in counts.items()
    }


def _received(model: GPT, tokenizer, subject: str, thing: str) -> np.ndarray:
    """What the verb and the noun before it get from later tokens: (2, layer), mean over heads."""
    noun = f" The {subject}"
    verb = f"{noun} sat"
    ids = torch.tensor(tokenizer.encode(f"{verb} on the {thing} and looked at the dog ."))
    maps = attention_maps(model, ids)
    at = [len(tokenizer.encode(text)) - 1 for text in (verb, noun)]  # a word's last token
    return torch.stack([attention_received(maps, i).mean(-1) for i in at]).double().numpy()


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
