"""Claims 12 and 13 (§IV.D and IV.E): what removing heads does to the text, and where heads look.

Knows nothing about files.
"""

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from llmlite import paper
from llmlite.errors import LLMLiteError
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
from llmlite.progress import tqdm
from llmlite.studies.coherence import SAMPLING
from llmlite.studies.counts import Counts, as_lists, collect, difference, measure_all

ALL_HEADS, OTHER_PAIRS = "all heads", "mean of the other pairs"
LOCAL = ("previous", "distance", "entropy")  # those of interpret.STATISTICS that tell how local

# Subject and thing of "The … sat on the … and looked at the dog .", the paper's sentence first. No
# word occurs twice, so that sentences share no more than the template.
VERB = "sat"
SUBJECTS_AND_THINGS = (
    ("cat", "mat"),
    ("man", "bench"),
    ("woman", "chair"),
    ("king", "throne"),
    ("boy", "wall"),
    ("girl", "floor"),
    ("bird", "tree"),
    ("soldier", "ground"),
    ("player", "field"),
    ("captain", "ship"),
    ("child", "bed"),
    ("queen", "stage"),
    ("doctor", "table"),
    ("student", "stairs"),
    ("horse", "grass"),
    ("writer", "roof"),
    ("actor", "car"),
    ("singer", "rock"),
    ("mother", "boat"),
    ("father", "bridge"),
    ("teacher", "desk"),
    ("officer", "road"),
    ("artist", "beach"),
    ("driver", "train"),
)


# -- claim 12: without heads 1 and 2 the text repeats itself --------------------------------------


def ablation(
    model: GPT,
    tokenizer,
    samples: int,
    tokens: int,
    seed: int = 0,
    progress: bool = False,
) -> dict:
    """Repetition in continuations of the paper's prompt without two heads in every layer.

    Each two heads in turn, so that the paper's can be told from any two, and all heads as the
    control. All are drawn with the same random numbers, so sample i is compared with sample i.
    `greedy` holds the likeliest tokens' text, `published` the same numbers of the paper's text.
    """
    pairs = {_without(heads): heads for heads in combinations(range(model.config.n_head), 2)}
    ours = _without(paper.ABLATED_HEADS)
    if ours not in pairs:
        raise LLMLiteError(
            f"The paper removes heads {' and '.join(map(str, paper.ABLATED_HEADS))}, counted from "
            f"0, of 4, and this model has {model.config.n_head} a layer; study one with more heads."
        )
    counts, greedy = {}, {}
    heads_off = {ALL_HEADS: (), **pairs}
    for name, heads in tqdm(heads_off.items(), "Ablate", unit="pair", disable=not progress):
        mask = mask_heads(model.config, heads).to(model.device)
        to_continue = (model, tokenizer, paper.ABLATION_PROMPT, tokens)
        texts = complete(*to_continue, samples, seed=seed, head_mask=mask, **SAMPLING)
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
        "samples": samples,
        "tokens": tokens,
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


def attention(model: GPT, tokenizer, sentences: Sequence[Tensor], progress: bool = False) -> dict:
    """How far each layer and head looks back, and how much each layer looks at the verb "sat".

    sentences: token ids, each (time,), of two tokens or more. Over all positions but the first:
    the weight on the token before, the mean distance looked back and the entropy, as in
    `interpret.attention_statistics` and with its values, since a sentence weighs as much as it has
    positions; "evenly spread" is the distance of even attention. A layer is the mean of its heads.

    "to sat" is how much later tokens look at the verb, and "to the noun" at the noun before it, by
    `interpret.attention_received`: 1 is even attention. Of a word of several tokens it is the last.
    The sentences for it differ in their nouns only, so its intervals speak for this template alone.
    """
    if model.config.n_layer < 2:
        raise LLMLiteError("The first layer is compared with the deepest; study a model with two.")
    if len(sentences) < 2 or any(len(ids) < 2 for ids in sentences):
        raise LLMLiteError(
            "Attention is studied on two sentences or more, each of two tokens or more; give such."
        )
    bar = tqdm(sentences, "Attention", unit="sentence", disable=not progress)
    per_query = [query_statistics(attention_maps(model, ids)).double() for ids in bar]
    positions = np.array([statistics.size(-1) for statistics in per_query])
    totals = np.stack([statistics.sum(-1).numpy() for statistics in per_query], axis=1)
    sums = dict(zip(STATISTICS, totals, strict=True))  # each (sentence, layer, head)
    received = np.stack([_received(model, tokenizer, *nouns) for nouns in SUBJECTS_AND_THINGS])
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
    """Of every layer and head; sums: name → (sentence, layer, head), over so many positions."""
    even = sums["uniform_distance"][:, 0, 0]
    counts = {"evenly spread": {"distance": _out_of(even, positions)}}
    _, layers, heads = sums["distance"].shape
    for layer in range(layers):
        counts[f"layer {layer}"] = {
            name: _out_of(sums[name][:, layer].mean(-1), positions) for name in LOCAL
        }
        for head in range(heads):
            counts[f"layer {layer}, head {head}"] = {
                name: _out_of(sums[name][:, layer, head], positions) for name in LOCAL
            }
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
    verb = f"{noun} {VERB}"
    ids = torch.tensor(tokenizer.encode(f"{verb} on the {thing} and looked at the dog ."))
    maps = attention_maps(model, ids)
    at = [len(tokenizer.encode(text)) - 1 for text in (verb, noun)]
    return torch.stack([attention_received(maps, i).mean(-1) for i in at]).double().numpy()
