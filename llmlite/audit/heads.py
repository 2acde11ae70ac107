"""Claims 12 and 13 (§IV.D, IV.E): what removing heads does to the text, and where heads look.
Studies as those of text.py; STUDIES has them all."""

import re
from itertools import combinations

import numpy as np
import pandas as pd
import torch

from llmlite import interpret, paper
from llmlite.audit import said
from llmlite.audit.plan import StudySize
from llmlite.audit.text import SAMPLING, coherence, prompt_sensitivity, sampling
from llmlite.data import Dataset
from llmlite.files import LLMLiteError
from llmlite.generate import complete
from llmlite.intervals import measure_all, out_of
from llmlite.metrics import repetition_rate
from llmlite.model import GPT


def ablation(model: GPT, dataset: Dataset, size: StudySize) -> dict:
    """Claim 12: repetition in continuations of the paper's prompt without two heads in every layer:
    each two in turn, so that the paper's can be told from any two, and all heads as the control,
    by the same random numbers. `greedy` holds the likeliest tokens' text. Raises LLMLiteError for a
    model without the paper's heads."""
    every, without, others = "all heads", "without heads {} and {}", "mean of the other pairs"
    pairs = {without.format(*p): p for p in combinations(range(model.config.n_head), 2)}
    ours = without.format(*paper.ABLATED_HEADS)
    if ours not in pairs:
        raise LLMLiteError(
            f"The paper removes heads {' and '.join(map(str, paper.ABLATED_HEADS))}, counted from "
            f"0, of 4, and this model has {model.config.n_head} a layer; study one with more heads."
        )
    prompt = paper.ABLATION_PROMPT
    to_continue = (model, dataset.tokenizer, prompt, size.tokens)
    counts, texts, greedy = {}, {}, {}
    for name, heads in {every: (), **pairs}.items():
        mask = interpret.mask_heads(model.config, heads).to(model.device)
        texts[name] = complete(*to_continue, size.samples, seed=0, head_mask=mask, **SAMPLING)
        rates = [repetition_rate(text.split()) for text in texts[name]]
        counts[name] = {"repetition": out_of(rates)}
        greedy[name] = complete(*to_continue, temperature=0, head_mask=mask)[0]
    of_others = [counts[name]["repetition"] for name in pairs if name != ours]
    counts[others] = {"repetition": np.mean(of_others, axis=0)}
    contrasts = [(name, every) for name in pairs] + [(ours, others)]
    measures = measure_all(counts, contrasts, of="continuations")
    how = {"samples": size.samples, "tokens": size.tokens, "prompt": prompt, "sampling": SAMPLING}
    return how | {"greedy": greedy, "measures": measures, "rows": texts}


SUBJECTS, THINGS = said("prompts")["subjects"], said("prompts")["things"]


def attention(model: GPT, dataset: Dataset, size: StudySize) -> dict:
    """Claim 13: how far each layer and head looks back over the test split's sentences, by
    `interpret.query_statistics`; "evenly spread" is the distance of even attention. And how much
    later tokens look at the verb "sat" and at the noun before it, by `attention_received`: those
    sentences differ in their nouns only, so their intervals speak for this template alone."""
    encoded = map(dataset.tokenizer.encode, dataset.sentences(size.sentences))
    sentences = [torch.tensor(ids[: model.config.block_size]) for ids in encoded if len(ids) > 1]
    ends = [("layer 0", f"layer {model.config.n_layer - 1}")]
    measures = measure_all(_looking_back(model, sentences), ends, of="sentences")
    at_words = _looking_at_words(model, dataset.tokenizer)
    measures |= measure_all(at_words, ends, of="sentences of one template")
    return {"samples": len(sentences), "measures": measures}


def _looking_back(model: GPT, sentences: list[torch.Tensor]) -> dict[str, dict]:
    """Counts of every layer, the mean of its heads, and of every head: a sentence weighs as much as
    it has tokens."""
    maps = (interpret.attention_maps(model, ids) for ids in sentences)
    found = [interpret.query_statistics(weights).double().sum(-1).numpy() for weights in maps]
    sums = np.stack(found, axis=-1)  # (statistic, layer, head, sentence)
    n = np.array([len(ids) - 1 for ids in sentences])
    counts = {"evenly spread": {"distance": out_of(n * (n + 1) / 4, n)}}  # q / 2 of token q
    for layer in range(model.config.n_layer):
        heads = sums[:, layer]  # (statistic, head, sentence)
        parts = {f"layer {layer}": heads.mean(1)}
        parts |= {f"layer {layer}, head {i}": heads[:, i] for i in range(model.config.n_head)}
        for name, part in parts.items():
            tallies = (out_of(x, n) for x in part)
            counts[name] = dict(zip(interpret.STATISTICS, tallies, strict=True))
    return counts


def _looking_at_words(model: GPT, tokenizer) -> dict[str, dict]:
    """Counts of every layer, the mean of its heads, over the sentences of the template."""
    received = []
    for subject, thing in zip(SUBJECTS.split(), THINGS.split(), strict=True):
        noun = f" The {subject}"
        verb = f"{noun} sat"
        ids = torch.tensor(tokenizer.encode(f"{verb} on the {thing} and looked at the dog ."))
        maps = interpret.attention_maps(model, ids)
        at = [len(tokenizer.encode(text)) - 1 for text in (verb, noun)]  # a word's last token
        looked = (interpret.attention_received(maps, i) for i in at)  # (layer, head)
        received.append([by_layer.mean(-1).double().numpy() for by_layer in looked])
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
