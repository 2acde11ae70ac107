"""What is measured of a trained model of the audit: what hypotheses predict, and scores that can be
compared. Each function gives what JSON can hold."""

from dataclasses import asdict

import numpy as np
import pandas as pd
import torch

from llmlite import paper
from llmlite.checkpoint import device_name
from llmlite.errors import LLMLiteError
from llmlite.experiment import Experiment
from llmlite.generate import complete
from llmlite.guard import loss_by_position
from llmlite.harness import harness_score, pages
from llmlite.interpret import attention_maps
from llmlite.intervals import Interval, over_articles, over_seeds
from llmlite.leak import causal_leak
from llmlite.metrics import (
    Score,
    article_scores,
    context_in_words,
    losses_of,
    repetition_rate,
    token_losses,
    windows_at_once,
)
from llmlite.model import GPT
from llmlite.windows import TokenWindows, to_tensor

SENTENCE = " The cat sat on the mat and looked at the dog ."  # of the attention maps
GENERATED = 24  # tokens of the greedy continuation
UNITS = ("loss", "perplexity", "word_perplexity", "bits_per_byte")
HARNESS = "lm-evaluation-harness"


def predicted(model: GPT, text: Experiment, windows: dict[str, TokenWindows], limit: int) -> dict:
    """What the hypotheses predict differently (see facts.py). windows: as the run has cut them;
    limit: windows behind the true loss."""
    counts = text.corpus.counts("test")
    return {
        "measured_on": device_name(model.device),
        "leaks": causal_leak(model),
        "loss_by_position": loss_by_position(model, windows["valid"]).tolist(),
        "test_loss": loss_by_position(model, windows["test"]).mean().item(),
        "true": last_position(model, text.ids["test"], limit),
        "tokens_per_word": len(text.ids["test"]) / counts.words_and_line_ends,
        "greedy": greedy(model, text),
        "attention": first_layer(model, text),
    }


@torch.inference_mode()
def last_position(model: GPT, ids: torch.Tensor, limit: int) -> dict[str, float]:
    """The loss of predicting what no window shows: the token after its end, in nats per token.

    That is the true loss of any model, with or without a mask, with a whole window as context. ids:
    (tokens,), of which `limit` windows are scored, spread evenly. error: the mean's standard error.
    """
    model.eval()
    size, device = model.config.block_size, model.device
    starts = np.unique(np.linspace(0, len(ids) - size - 1, limit).astype(np.int64))
    windows = TokenWindows(to_tensor(ids, device), size, 1, only=to_tensor(starts, device))
    losses = []
    for index in torch.arange(len(windows), device=device).split(windows_at_once(device, size)):
        inputs, targets = windows[index]
        hidden, _ = model.hidden(inputs)
        losses.append(losses_of(model, hidden[:, -1], targets[:, -1]))
    losses = torch.cat(losses).double().cpu()
    error = losses.std() / len(losses) ** 0.5
    return {"nats": losses.mean().item(), "error": error.item(), "windows": len(losses)}


def greedy(model: GPT, text: Experiment) -> dict:
    """The likeliest continuation of the paper's prompt, each token from scratch: no cache serves a
    model whose later tokens change what earlier ones see."""
    prompt = paper.ABLATION_PROMPT
    (continuation,) = complete(model, text.tokenizer, prompt, GENERATED, temperature=0, fast=False)
    tokens = text.tokenizer.encode(continuation)
    return {"text": prompt + continuation, "repetition": repetition_rate(tokens)}


def first_layer(model: GPT, text: Experiment) -> dict:
    """Layer 0 on one sentence, (head, query, key), and over sentences of the test split the mean
    weight of each head on the token itself, the one before it and the one after it."""
    ids = torch.tensor(text.tokenizer.encode(SENTENCE))[: model.config.block_size]
    sums, positions = np.zeros((3, model.config.n_head)), 0
    for sentence in text.test_sentences():
        first = attention_maps(model, sentence)[0]  # (head, query, key)
        for i, offset in enumerate((0, -1, 1)):
            sums[i] += first.diagonal(offset, 1, 2).sum(-1).numpy()
        positions += len(sentence)
    own, before, after = sums / positions
    return {
        "tokens": [text.tokenizer.decode([i]) for i in ids],
        "map": np.round(attention_maps(model, ids)[0].numpy(), 4).tolist(),
        "self": own.tolist(),
        "previous": before.tolist(),
        "next": after.tolist(),
    }


# -- scores that can be compared ------------------------------------------------------------------


def comparable(model: GPT, experiment: Experiment) -> dict[str, list[dict]]:
    """How a model predicts the test split, by three rules: rule → a Score an article.

    Side by side, sliding by half a window, and as lm-evaluation-harness's task wikitext does it.
    LLMLiteError for a text that is read as a stream: its articles are not at hand.
    """
    if experiment.data.stream:
        raise LLMLiteError(
            "Scores an article need the whole text, and it is read as a stream; leave out --stream."
        )
    text, tokenizer = experiment.corpus.splits["test"], experiment.tokenizer
    articles = [article.text for article in experiment.corpus.articles("test")]
    ids, half = experiment.ids["test"], model.config.block_size // 2
    rules = {}
    for name, stride in (("side by side", None), ("sliding by half a window", half)):
        progress = f"Test, {name}" if experiment.progress else None
        losses = token_losses(model, ids, stride, progress=progress)
        context = context_in_words(model.config, stride)
        rules[name] = article_scores(losses, ids, articles, tokenizer.eot_id, context)
    harness = harness_score(model, tokenizer, pages(text), experiment.progress)
    rules[HARNESS] = list(harness.article_scores)
    return {name: [asdict(score) for score in scores] for name, scores in rules.items()}


def score_table(seeds: list[dict[str, list[dict]]]) -> pd.DataFrame:
    """A row a rule: each of UNITS with its interval over the articles, for the first seed, and over
    the seeds if there are several; and the context. seeds: as `comparable` gives them."""
    rows = {}
    for rule, first in seeds[0].items():
        articles, context = [Score(**article) for article in first], first[0]["context"]
        rows[rule, "articles"] = {unit: over_articles(articles, unit) for unit in UNITS}
        if len(seeds) > 1:
            rows[rule, "seeds"] = {unit: over(seeds, rule, unit) for unit in UNITS}
        for key in [key for key in rows if key[0] == rule]:
            shown = {unit: f"{interval:.4g}" for unit, interval in rows[key].items()}
            rows[key] = {**shown, "context": context}
    return pd.DataFrame(rows).T.rename_axis(["rule", "interval over"])


def over(seeds: list[dict[str, list[dict]]], rule: str, unit: str) -> Interval:
    """One of UNITS by one rule, its mean over the seeds."""
    return over_seeds([value([Score(**a) for a in seed[rule]], unit) for seed in seeds])


def value(articles: list[Score], unit: str) -> float:
    """One of UNITS of all articles together."""
    fields = ("nats", "tokens", "words", "bytes")
    return getattr(Score(*(sum(getattr(a, f) for a in articles) for f in fields)), unit)
