"""Scores by the rule of lm-evaluation-harness's task `wikitext` (version 2), the common yardstick.

A page's text goes through a detokeniser, is scored alone from the end-of-text token on, and nats
are divided by the words and bytes that it had before: a word here is not the word of metrics.py.
Published numbers are of wikitext-2-raw-v1, whole. Checked against lm_eval 0.4.13."""

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from llmlite.metrics import Score, token_losses

# What the detokeniser replaces, in its order: a later replacement sees what an earlier one left.
_BEFORE = [(" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", ".")]
_BEFORE += [(f" {mark} ", f"{mark} ") for mark in ":;.!?,"]
_PAIRS = ("()", "[]", "{}", '""', "''")  # no space inside
_AFTER = [("= = = =", "===="), ("= = =", "==="), ("= =", "=="), (" ° ", "°")]
_AFTER += [(" \n", "\n"), ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s")]


def pages(text: str) -> list[str]:
    """Cut a split's text into the harness's documents (EleutherAI/wikitext_document_level): one
    begins at each line that looks like a top-level heading, in the middle of an article too, 62 in
    WikiText-2's test split of 60 articles. What is blank before the first is left out."""
    lines = text.split("\n")
    starts = []
    for i, line in enumerate(lines):
        title = line.replace("= = =", "===").replace("= =", "==").strip()
        if title.startswith("= ") and title.endswith(" ="):
            starts.append(i)
    found = ["\n".join(lines[a:b]) for a, b in pairwise([0, *starts, len(lines)])]
    return [page for page in found[:-1] if page.strip()] + found[-1:]


def detokenize(page: str) -> str:
    """Undo WikiText's spacing, for tokenizers that know ordinary text, as the harness does it."""
    text = page.replace("s '", "s'")
    # Seldom finds anything, and then writes the pattern itself: a slip, but part of the rule.
    text = re.sub("/' [0-9]/", "/'[0-9]/", text)
    for old, new in _BEFORE:
        text = text.replace(old, new)
    for left, right in _PAIRS:
        inside = rf"{re.escape(left)}\s*([^{re.escape(right)}]*?)\s*{re.escape(right)}"
        text = re.sub(inside, rf"{left}\1{right}", text)
    for old, new in _AFTER:
        text = text.replace(old, new)
    return text


def harness_scores(model, tokenizer, articles: Sequence[str]) -> list[Score]:
    """The harness's score of `model` on each of `articles`, pages as `pages` gives them. Windows of
    block_size do not overlap; the last is moved back so that it is whole, and scores what is left.
    """
    size, scores = model.config.block_size, []
    context = f"1 to {size} tokens of its own page (windows side by side; lm-evaluation-harness, "
    context += "task wikitext)"
    parts = tokenizer.encode_batch_to_arrays([detokenize(page) for page in articles])
    for part, page in zip(parts, articles, strict=True):
        ids = np.array([tokenizer.eot_id, *part], np.int64)
        # stride = size: what slides by a whole window stands side by side, but for the last one
        nats = token_losses(model, ids, stride=size).double().sum().item() if len(part) else 0.0
        words = re.split(r"\s+", page)  # the nothing before or after white space included
        scores.append(Score(nats, len(part), len(words), len(page.encode()), context))
    return scores
