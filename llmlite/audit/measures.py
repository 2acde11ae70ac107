"""What is measured of a trained model: what hypotheses predict, and scores that can be compared."""

from dataclasses import asdict

import numpy as np
import pandas as pd
import torch

from llmlite import metrics, paper
from llmlite.audit.causality import causal_leak
from llmlite.audit.harness import harness_scores, pages
from llmlite.audit.plan import AuditConfig
from llmlite.data import Counts, Dataset
from llmlite.generate import complete
from llmlite.interpret import attention_maps
from llmlite.intervals import Interval, over_samples, over_seeds
from llmlite.metrics import Score
from llmlite.model import GPT
from llmlite.run import Run, device_name
from llmlite.windows import TokenWindows, to_tensor, windows_of

SENTENCE = " The cat sat on the mat and looked at the dog ."  # of the attention maps
GENERATED = 24  # tokens of the greedy continuation
# A statistic of a Score, and what it divides the nats by.
UNITS = {"loss": "tokens", "perplexity": "tokens"}
UNITS |= {"word_perplexity": "words", "bits_per_byte": "bytes"}


def predicted(model: GPT, dataset: Dataset, run: Run, config: AuditConfig) -> dict:
    """What the hypotheses predict differently, as JSON can hold it. run: what made the model."""
    ids, windows = dataset.ids["test"], windows_of(dataset, run.data, run.train, model.device)
    return {
        "measured_on": device_name(model.device),
        "leaks": causal_leak(model),
        "loss_by_position": metrics.loss_by_position(model, windows["valid"]).tolist(),
        "test_loss": metrics.loss_by_position(model, windows["test"]).mean().item(),
        "true": last_position(model, ids, config.windows),
        "tokens_per_word": len(ids) / dataset.counts("test").words_and_line_ends,
        "greedy": greedy(model, dataset.tokenizer),
        "attention": first_layer(model, dataset, config.study.sentences),
    }


@torch.inference_mode()
def last_position(model: GPT, ids: torch.Tensor, limit: int) -> dict[str, float]:
    """The true loss, with or without a mask: of predicting what no window shows, the token after
    its end, in nats per token. ids: (tokens,), of which `limit` windows are scored, spread evenly.
    error: the mean's standard error."""
    size = model.config.block_size
    starts = np.unique(np.linspace(0, len(ids) - size - 1, limit).astype(np.int64))
    ids, starts = to_tensor(ids, model.device), to_tensor(starts, model.device)
    batches = metrics.batches_of(model, TokenWindows(ids, size, 1, only=starts), context=size - 1)
    losses = torch.cat(list(metrics.window_losses(model, batches))).flatten().double().cpu()
    error = losses.std() / len(losses) ** 0.5
    return {"nats": losses.mean().item(), "error": error.item(), "windows": len(losses)}


def greedy(model: GPT, tokenizer) -> dict:
    """The likeliest continuation of the paper's prompt."""
    prompt = paper.ABLATION_PROMPT
    (continuation,) = complete(model, tokenizer, prompt, GENERATED, temperature=0)
    tokens = tokenizer.encode(continuation)
    return {"text": prompt + continuation, "repetition": metrics.repetition_rate(tokens)}


def first_layer(model: GPT, dataset: Dataset, sentences: int) -> dict:
    """Layer 0 on one sentence, (head, query, key), and over sentences of the test split the mean
    weight of each head on the token before a token and on the one after it."""
    texts = [*dataset.sentences(sentences), SENTENCE]
    ids = [dataset.tokenizer.encode(text)[: model.config.block_size] for text in texts]
    *maps, shown = (attention_maps(model, torch.tensor(text))[0] for text in ids)
    before, after = (
        sum(weights.diagonal(side, 1, 2).sum(-1).double() for weights in maps) for side in (-1, 1)
    )
    positions = sum(map(len, ids[:-1]))
    return {
        "tokens": [dataset.tokenizer.decode([i]) for i in ids[-1]],
        "map": np.round(shown.numpy(), 4).tolist(),
        "previous": (before / positions).tolist(),
        "next": (after / positions).tolist(),
    }


def comparable(model: GPT, dataset: Dataset) -> dict[str, list[dict]]:
    """How a model predicts the test split, by three rules: rule → a Score an article."""
    ids, half, rules = dataset.ids["test"], model.config.block_size // 2, {}
    for name, stride in (("side by side", None), ("sliding by half a window", half)):
        losses = metrics.token_losses(model, ids, stride).double().numpy()
        rules[name] = by_article(dataset, losses, metrics.context_in_words(model.config, stride))
    of_pages = harness_scores(model, dataset.tokenizer, pages(dataset.text("test")))
    return rules | {"lm-evaluation-harness": [asdict(score) for score in of_pages]}


def by_article(dataset: Dataset, losses: np.ndarray, context: str) -> list[dict]:
    """A Score an article of the test split. losses: float64 (tokens - 1,), nats."""
    # <|endoftext|> stands before each article; the one after it counts as its last token.
    starts = np.flatnonzero(np.asarray(dataset.ids["test"]) == dataset.tokenizer.eot_id)[1:]
    parts = np.split(losses, starts)
    counts = [Counts.of(article, articles=1) for article in dataset.articles("test")]
    return [
        asdict(Score(float(part.sum()), len(part), n.words_and_line_ends, n.bytes, context))
        for part, n in zip(parts, counts, strict=True)
    ]


def score_table(seeds: list[dict[str, list[dict]]]) -> pd.DataFrame:
    """A row a rule: each of UNITS with its interval over the first seed's articles, and over the
    seeds if there are several; and the context. seeds: as `comparable` gives them."""
    rows = {}
    for rule, articles in seeds[0].items():
        context = articles[0]["context"]
        rows[rule, "articles"] = [*(f"{over_articles(articles, u):.4g}" for u in UNITS), context]
        if len(seeds) > 1:
            rows[rule, "seeds"] = [*(f"{over(seeds, rule, u):.4g}" for u in UNITS), context]
    return pd.DataFrame(rows, [*UNITS, "context"]).T.rename_axis(["rule", "interval over"])


def over_articles(articles: list[dict], unit: str) -> Interval | float:
    """One of UNITS of all articles together; of one, as of a text without headings, no interval."""
    if len(articles) == 1:
        return getattr(together(articles), unit)
    loss = over_samples([(a["nats"], a[UNITS[unit]]) for a in articles], "articles")
    # Each of UNITS rises with the nats, so it may be taken of their quantiles.
    ends = (getattr(Score(x, 1, 1, 1), unit) for x in (loss.value, loss.low, loss.high))
    return Interval(*ends, loss.of)


def over(seeds: list[dict[str, list[dict]]], rule: str, unit: str) -> Interval:
    """One of UNITS by one rule, its mean over the seeds."""
    return over_seeds([getattr(together(seed[rule]), unit) for seed in seeds])


def together(articles: list[dict]) -> Score:
    """All articles as one Score."""
    sums = {f: sum(a[f] for a in articles) for f in ("nats", "tokens", "words", "bytes")}
    return Score(**sums, context=articles[0]["context"])
