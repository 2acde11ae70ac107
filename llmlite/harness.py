"""Scores by the rule of lm-evaluation-harness's task `wikitext` (version 2), the common yardstick.

The rule: a document is a page, its text goes through a detokeniser, each is scored alone from the
end-of-text token on in whole windows side by side, and nats are divided by the words and the bytes
of the page as it was before. So a word here is not the word of metrics.py, and no number of the one
may be compared with one of the other. Published numbers are of wikitext-2-raw-v1, whole.

Checked against lm_eval 0.4.13.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter

import numpy as np
import torch

from llmlite.errors import LLMLiteError
from llmlite.metrics import Score, Windows, collect, window_losses, windows_over

BATCH_SIZE = 8  # windows in a pass

# What the detokeniser replaces, in its order: a later replacement sees what an earlier one left.
_NUMBERS = ((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."))
_PUNCTUATION = tuple((f" {mark} ", f"{mark} ") for mark in ":;.!?,")
_PAIRS = ("()", "[]", "{}", '""', "''")  # no space inside
_REST = (
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" ° ", "°"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)


@dataclass(frozen=True)
class HarnessScore(Score):
    """The sum of `article_scores`, one a page; `words` and `bytes` are the harness's."""

    article_scores: tuple[Score, ...] = ()


def pages(text: str) -> list[str]:
    """Cut a split's text into the harness's documents (EleutherAI/wikitext_document_level).

    A page begins at each line that looks like a top-level heading, in the middle of an article too,
    and has no line end at its own end: 62 in WikiText-2's test split, which has 60 articles. What
    is blank before the first is left out.
    """
    lines = text.split("\n")
    starts = [i for i, line in enumerate(lines) if _is_title(line)]
    found = ["\n".join(lines[a:b]) for a, b in pairwise([0, *starts, len(lines)])]
    return [page for page in found[:-1] if page.strip()] + found[-1:]


def _is_title(line: str) -> bool:
    line = line.replace("= = =", "===").replace("= =", "==").strip()
    return line.startswith("= ") and line.endswith(" =")


def detokenize(page: str) -> str:
    """Undo WikiText's spacing, for tokenizers that know ordinary text, as the harness does it."""
    text = page.replace("s '", "s'")
    # Seldom finds anything, and then writes the pattern itself: a slip, but part of the rule.
    text = re.sub("/' [0-9]/", "/'[0-9]/", text)
    text = _replace(text, _NUMBERS + _PUNCTUATION)
    for left, right in _PAIRS:
        inside = rf"{re.escape(left)}\s*([^{re.escape(right)}]*?)\s*{re.escape(right)}"
        text = re.sub(inside, rf"{left}\1{right}", text)
    return _replace(text, _REST)


def _replace(text: str, replacements) -> str:
    for old, new in replacements:
        text = text.replace(old, new)
    return text


def count_words(page: str) -> int:
    """As the harness counts: what white space separates, nothing before or after it included."""
    return len(re.split(r"\s+", page))


def harness_score(
    model, tokenizer, articles: Sequence[str], progress: bool = False
) -> HarnessScore:
    """The harness's score of `model` on `articles`, pages as `pages` gives them.

    A page's tokens are scored from <|endoftext|> on in windows of block_size that do not overlap;
    the last one is moved back so that it is whole, and scores what is left. tokenizer: gives
    `encode_batch_to_arrays` and `eot_id`. Raises LLMLiteError if there is no text.
    """
    if not any(articles):
        raise LLMLiteError("There is no text to score: all pages are empty, or there are none.")
    parts = tokenizer.encode_batch_to_arrays([detokenize(page) for page in articles], progress)
    losses = _page_losses(model, parts, tokenizer.eot_id, "Harness" if progress else None)
    context = (
        f"1 to {model.config.block_size} tokens of its own page (windows side by side; "
        "lm-evaluation-harness, task wikitext)"
    )
    scores = tuple(
        Score(nats, len(part), count_words(page), len(page.encode()), context)
        for nats, part, page in zip(losses, parts, articles, strict=True)
    )
    totals = (sum(getattr(s, f) for s in scores) for f in ("nats", "tokens", "words", "bytes"))
    return HarnessScore(*totals, context, scores)


@torch.inference_mode()
def _page_losses(
    model, parts: Sequence[np.ndarray], eot_id: int, progress: str | None
) -> list[float]:
    """Nats of each page, whose tokens are one of `parts`."""
    ids = np.concatenate([array for part in parts for array in ([eot_id], part)]).astype(np.int64)
    bounds = np.cumsum([0, *(len(part) + 1 for part in parts)]).tolist()
    batches = _batches(bounds, model.config.block_size)
    losses = collect(window_losses(model, ids, batches, progress=progress), len(ids) - 1).double()
    return [losses[start : end - 1].sum().item() for start, end in pairwise(bounds)]


def _batches(bounds: list[int], size: int) -> Iterator[Windows]:
    """The windows of all pages, those of one width together; page i begins at id bounds[i]."""
    rows = [
        (windows.width, page + start, context)
        for page, end in pairwise(bounds)
        if end - page > 1  # an empty page has a first context and nothing to score
        for windows in windows_over(end - page - 1, size, stride=size, batch_size=BATCH_SIZE)
        for start, context in zip(windows.starts, windows.context, strict=True)
    ]
    for width, same in groupby(sorted(rows), key=itemgetter(0)):
        same = list(same)
        for i in range(0, len(same), BATCH_SIZE):
            _, starts, context = np.array(same[i : i + BATCH_SIZE]).T
            yield Windows(starts, width, context)
