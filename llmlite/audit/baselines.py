"""What a perplexity has to be compared with: chance, counting, and published models. Per word and
line end, as the literature on WikiText counts: models over different tokens share a table."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from llmlite.audit import said
from llmlite.data import Dataset
from llmlite.files import LLMLiteError, tqdm
from llmlite.metrics import Score

ORDER = 5  # of the n-gram model: the usual one of the literature
PUBLISHED_ON = "wikitext-2-v1"  # with its official splits
UNKNOWN = "<unk>"  # what WikiText's tokens files hold for every word outside the vocabulary


@dataclass(frozen=True)
class Baseline:
    """How well something predicts a split of the corpus."""

    name: str
    perplexity: float  # per word and line end
    bits_per_byte: float | None  # of the split's text in UTF-8, where it is known
    exact: bool  # the same split, unit and text as the model that it is compared with
    remark: str  # why it is, or is not
    source: str


def published(corpus: str) -> list[Baseline]:
    """What stands beside a model of the text `corpus`: none is exact, if that is another."""
    rows = [Baseline(bits_per_byte=None, **row) for row in said("published")["published"]]
    other = f"of {PUBLISHED_ON}, another text than {corpus}"
    same = corpus == PUBLISHED_ON
    return rows if same else [replace(row, exact=False, remark=other) for row in rows]


def by_counting(dataset: Dataset, progress: bool = False) -> list[Baseline]:
    """Chance and counting, learned from the training split and measured on the test split: over the
    dataset's tokens, and over words where the training text has <unk>. Each token but the first,
    which is <|endoftext|>, is scored, as a model's is."""
    train, test = (dataset.ids[split].numpy() for split in ("train", "test"))
    size = dataset.tokenizer.vocab_size
    tokens, same = f"{size:,} byte-pair tokens", "same split, unit, text and tokens"
    n_grams = KneserNey(train, size, progress=progress)
    # One is added to each count, so that a token which does not occur is not impossible.
    unigram = np.log((np.bincount(train, minlength=size) + 1) / (len(train) + size))
    rows = [
        (f"uniform, {tokens}", np.full(len(test) - 1, -math.log(size)), same),
        (f"unigram, {tokens}", unigram[test[1:]], same),
        (f"Kneser-Ney {ORDER}-gram, {tokens}", n_grams.log_probabilities(test), same),
    ]
    if UNKNOWN in dataset.text("train").split():
        train, test, size = word_ids(dataset.text("train"), dataset.text("test"))
        # The training text's last line end stands before the split, so its first word is scored.
        test, n_grams = np.append(train[-1:], test), KneserNey(train, size, progress=progress)
        closed = f"same split, unit and text, over a closed vocabulary of {size:,} words"
        name = f"Kneser-Ney {ORDER}-gram, {size:,} words"
        rows.append((name, n_grams.log_probabilities(test), closed))
    counts, source = dataset.counts("test"), f"measured on {dataset.name}, test"
    units = counts.words_and_line_ends, counts.bytes
    scores = [Score(-float(scored.sum()), len(scored), *units) for _, scored, _ in rows]
    return [
        Baseline(name, score.word_perplexity, score.bits_per_byte, True, remark, source)
        for (name, _, remark), score in zip(rows, scores, strict=True)
    ]


def word_ids(train: str, text: str) -> tuple[np.ndarray, np.ndarray, int]:
    """(ids of `train`, ids of `text`, vocabulary size) of words and line ends: int64, (words,). The
    vocabulary is what `train` holds, <unk> among it; any other word of `text` becomes that."""
    train_words, words = (re.findall(r"\n|\S+", part) for part in (train, text))
    train_ids, vocabulary = pd.factorize(np.array(train_words, object))
    index = pd.Index(vocabulary)
    ids = index.get_indexer(words)
    return train_ids, np.where(ids < 0, index.get_indexer([UNKNOWN]), ids), len(index)


def table(baselines: Iterable[Baseline]) -> pd.DataFrame:
    """A row each, the lowest perplexity first; bits per byte are NaN where nobody published it."""
    rows = pd.DataFrame(list(baselines)).astype({"bits_per_byte": float})
    rows = rows.sort_values("perplexity", ignore_index=True)
    unit = "perplexity per word and line end"
    return rows.set_axis(["model", unit, "bits per byte", "exact", "remark", "source"], axis=1)


# -- interpolated modified Kneser-Ney smoothing (Chen and Goodman, 1998) --------------------------
#
#    p_k(w | h) = (c(hw) - D(c(hw))) / c(h·)  +  γ(h) · p_{k-1}(w | h without its first token)
#
# c counts occurrences at the highest order; below it, the distinct tokens that stand before an
# n-gram. D is one of three discounts an order, for counts of 1, 2 and more; γ(h) is what they took
# away. The lowest order goes on to the uniform distribution, so no token of the vocabulary is
# impossible and each distribution sums to 1.

# What KenLM's `lmplz --discount_fallback` takes for counts of 1, 2, and 3 or more.
FALLBACK_DISCOUNTS = np.array([0.5, 1.0, 1.5])


@dataclass(frozen=True)
class _Order:
    """The n-grams of one order; a context is an n-gram of the order below, by its index there.
    Index -1, what never occurred, finds the last entry: it leaves all to the shorter context."""

    keys: pd.Index  # (n-grams,): context × vocab_size + last token
    discounted: np.ndarray  # (n-grams + 1,), the first term of p_k
    backoff: np.ndarray  # (contexts + 1,), γ


class KneserNey:
    """Learned from one stream of ids, (tokens,); contexts reach across ends of lines and texts."""

    def __init__(self, ids: np.ndarray, vocab_size: int, order: int = ORDER, progress=False):
        if len(ids) < order:
            raise LLMLiteError(f"An n-gram model needs {order} tokens or more, not {len(ids)}.")
        self.vocab_size = vocab_size
        keys, counts = _count(ids, order, vocab_size, progress)
        contexts = [1, *map(len, keys[:-1])]
        tables = zip(keys, counts, contexts, strict=True)
        self._orders = [_smooth(*of_order, vocab_size) for of_order in tables]

    def log_probabilities(self, ids: np.ndarray) -> np.ndarray:
        """Nats, float64 (tokens - 1,): log p(ids[i] | order - 1 ids before it) from i = 1 on."""
        probability = np.full(len(ids), 1 / self.vocab_size)
        context = np.zeros(len(ids), np.int64)  # the empty one
        for order in self._orders:
            found = order.keys.get_indexer(context * self.vocab_size + ids)
            probability = order.discounted[found] + order.backoff[context] * probability
            context = np.concatenate([[-1], found[:-1]])
        return np.log(probability[1:])


def estimate_discounts(counts: np.ndarray) -> np.ndarray:
    """(D1, D2, D3+) from the number of n-grams with count 1 to 4 (Chen and Goodman, 1998, §3):
    D_j = j - (j + 1) · Y · n_{j+1} / n_j with Y = n_1 / (n_1 + 2 · n_2). FALLBACK_DISCOUNTS where
    that is not defined (no n-gram with a count of 1, 2 or 3) or not a discount (outside 0 < D_j ≤
    j): on tiny texts and for units that all occur often."""
    n = np.bincount(counts[counts < 5], minlength=5).astype(np.float64)
    if (n[1:4] == 0).any():
        return FALLBACK_DISCOUNTS
    j = np.arange(1, 4)
    discounts = j - (j + 1) * n[1] / (n[1] + 2 * n[2]) * n[2:5] / n[1:4]
    return discounts if ((discounts > 0) & (discounts <= j)).all() else FALLBACK_DISCOUNTS


def _count(ids: np.ndarray, order: int, vocab_size: int, progress: bool) -> tuple[list, list]:
    """(keys, counts) of each order from 1 up; keys as in `_Order`: they stay far below 2^63. An
    n-gram that stands at the start alone has a count of 0 below the highest order."""
    keys, counts = [], []
    grams = np.zeros(len(ids) + 1, np.int64)  # the empty one before each token and after the last
    for k in tqdm(range(order), f"Count {order}-grams", unit="order", disable=not progress):
        longer = grams[:-1] * vocab_size + ids[k:]
        table, first, longer, occurrences = np.unique(longer, True, True, True)
        if k > 0:  # each distinct n-gram is one token that stands before its last n - 1
            counts.append(np.bincount(grams[1:][first], minlength=len(keys[-1])))
        keys.append(table)
        grams = longer
    return keys, [*counts, occurrences]


def _smooth(keys: np.ndarray, counts: np.ndarray, contexts: int, vocab_size: int) -> _Order:
    """One order's share of the probabilities; a context without counts leaves all to the next."""
    context = keys // vocab_size
    discount = np.array([0, *estimate_discounts(counts)])[np.minimum(counts, 3)]
    total = np.bincount(context, weights=counts, minlength=contexts)
    taken = np.bincount(context, weights=discount, minlength=contexts)
    backoff, discounted = np.ones(contexts + 1), np.zeros(len(keys) + 1)
    np.divide(taken, total, out=backoff[:-1], where=total > 0)
    np.divide(counts - discount, total[context], out=discounted[:-1], where=counts > 0)
    return _Order(pd.Index(keys), discounted, backoff)
