"""An n-gram model with interpolated modified Kneser-Ney smoothing (Chen and Goodman, 1998).

    p_k(w | h) = (c(hw) - D(c(hw))) / c(h·)  +  γ(h) · p_{k-1}(w | h without its first token)

c counts occurrences at the highest order; below it, the distinct tokens that stand before an
n-gram. D is one of three discounts an order, for counts of 1, 2 and more; γ(h) is what they took
away. The lowest order goes on to the uniform distribution, so no token of the vocabulary is
impossible and each distribution sums to 1.

Knows ids only, as one stream: an end of text or of line is a token like any other, and contexts
reach across it. Nothing stands before the first token, so an n-gram that occurs there alone has a
count of 0 below the highest order.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmlite.errors import LLMLiteError
from llmlite.progress import tqdm

# What KenLM's `lmplz --discount_fallback` takes for counts of 1, 2, and 3 or more.
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)


@dataclass(frozen=True)
class _Order:
    """The n-grams of one order; a context is an n-gram of the order below, by its index there.

    Index -1 is an n-gram or a context that never occurred: it finds the last entry, which gives no
    probability of its own and leaves everything to the shorter context.
    """

    keys: np.ndarray  # (n-grams,), sorted: context × vocab_size + last token
    discounted: np.ndarray  # (n-grams + 1,), the first term of p_k
    backoff: np.ndarray  # (contexts + 1,), γ

    def find(self, keys: np.ndarray | int) -> np.ndarray:
        """The index of each key, -1 where it is missing."""
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, at, -1)


class KneserNey:
    """Interpolated modified Kneser-Ney: `fit` to training ids, then score others.

    After `fit`, `discounts` has a (D1, D2, D3+) for each order from 1 up, and `fallbacks` the
    orders whose discounts could not be estimated (see `estimate_discounts`).
    """

    def __init__(self, order: int = 5):
        if order < 1:
            raise LLMLiteError(f"The order of an n-gram model is {order}; it must be 1 or more.")
        self.order = order
        self.discounts: list[np.ndarray] = []
        self.fallbacks: list[int] = []
        self._orders: list[_Order] = []

    def fit(self, ids: np.ndarray, vocab_size: int, progress: bool = False) -> "KneserNey":
        """Learn from one stream of ids, (tokens,), each below `vocab_size`; returns self.

        Warns where an order's discounts are the fallback. Raises LLMLiteError where the text is
        shorter than one n-gram, or an id is not in the vocabulary.
        """
        ids = _checked(ids, vocab_size)
        if len(ids) < self.order:
            raise LLMLiteError(
                f"A model of order {self.order} needs a text of at least {self.order} token(s); "
                f"this one has {len(ids)}."
            )
        self.vocab_size = vocab_size
        self.discounts, self.fallbacks, self._orders = [], [], []
        keys, counts = _count(ids, self.order, vocab_size, progress)
        contexts = [1] + [len(table) for table in keys[:-1]]
        for k, (table, count, n) in enumerate(zip(keys, counts, contexts, strict=True), start=1):
            discounts = estimate_discounts(count)
            if discounts is None:
                discounts = np.array(FALLBACK_DISCOUNTS)
                self.fallbacks.append(k)
            self.discounts.append(discounts)
            self._orders.append(_smooth(table, count, n, vocab_size, discounts))
        if self.fallbacks:
            warnings.warn(
                f"Too few counts to estimate the discounts of order(s) {_join(self.fallbacks)}; "
                f"they are {_join(FALLBACK_DISCOUNTS)}.",
                stacklevel=2,
            )
        return self

    def log_probabilities(self, ids: np.ndarray) -> np.ndarray:
        """Nats, float64 (tokens - 1,): log p(ids[i] | up to order - 1 ids before it) from i = 1 on.

        The first ids have fewer before them, and are predicted from those.
        """
        self._check_fitted()
        ids = _checked(ids, self.vocab_size)
        if len(ids) < 2:
            raise LLMLiteError(f"Scoring needs at least two tokens; this text has {len(ids)}.")
        probability = np.full(len(ids), 1 / self.vocab_size)
        context = np.zeros(len(ids), np.int64)  # the empty one
        for order in self._orders:
            found = order.find(context * self.vocab_size + ids)
            probability = order.discounted[found] + order.backoff[context] * probability
            context = np.concatenate([[-1], found[:-1]])
        return np.log(probability[1:])

    def distribution(self, context: Sequence[int] | np.ndarray) -> np.ndarray:
        """p(· | context), float64 (vocab_size,); only the last order - 1 ids of `context` count."""
        self._check_fitted()
        context = _checked(np.asarray(context, np.int64), self.vocab_size)
        probability = np.full(self.vocab_size, 1 / self.vocab_size)
        for length in range(min(len(context), self.order - 1) + 1):
            order, index = self._orders[length], self._index(context[len(context) - length :])
            if index < 0:
                break
            first = index * self.vocab_size
            start, end = np.searchsorted(order.keys, [first, first + self.vocab_size])
            probability *= order.backoff[index]
            probability[order.keys[start:end] - first] += order.discounted[start:end]
        return probability

    def _index(self, gram: np.ndarray) -> int:
        """The index of an n-gram in the table of its order, -1 where it never occurred."""
        index = 0
        for order, token in zip(self._orders, gram.tolist(), strict=False):
            index = int(order.find(index * self.vocab_size + token))
        return index

    def _check_fitted(self) -> None:
        if not self._orders:
            raise LLMLiteError("This n-gram model has learned nothing yet; call fit first.")


def estimate_discounts(counts: np.ndarray) -> np.ndarray | None:
    """(D1, D2, D3+) from the number of n-grams with count 1 to 4 (Chen and Goodman, 1998, §3).

    D_j = j - (j + 1) · Y · n_{j+1} / n_j with Y = n_1 / (n_1 + 2 · n_2). None where that is not
    defined (no n-gram with a count of 1, 2 or 3) or not a discount (outside 0 < D_j ≤ j), as
    happens on tiny texts and for units that all occur often; `fit` then takes FALLBACK_DISCOUNTS
    for all three, as KenLM does.
    """
    n = np.bincount(counts[counts < 5], minlength=5).astype(np.float64)
    if (n[1:4] == 0).any():
        return None
    j = np.arange(1, 4)
    discounts = j - (j + 1) * n[1] / (n[1] + 2 * n[2]) * n[2:5] / n[1:4]
    return discounts if (discounts > 0).all() and (discounts <= j).all() else None


def _count(
    ids: np.ndarray, order: int, vocab_size: int, progress: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(keys, counts) of each order from 1 up.

    An n-gram's key is the index of its first n - 1 tokens among those of the order below, times
    vocab_size, plus its last token: below 2^63 for any text that fits into memory.
    """
    keys, counts = [], []
    grams = np.zeros(len(ids) + 1, np.int64)  # the empty one before each token and after the last
    for k in tqdm(range(order), f"Count {order}-grams", unit="order", disable=not progress):
        table, first, longer, occurrences = np.unique(
            grams[:-1] * vocab_size + ids[k:],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        if k > 0:  # each distinct n-gram is one token that stands before its last n - 1
            counts.append(np.bincount(grams[1:][first], minlength=len(keys[-1])))
        keys.append(table)
        grams = longer
    return keys, [*counts, occurrences]


def _smooth(
    keys: np.ndarray, counts: np.ndarray, contexts: int, vocab_size: int, discounts: np.ndarray
) -> _Order:
    """One order's share of the probabilities; a context without counts leaves all to the next."""
    context = keys // vocab_size
    discount = np.array([0, *discounts])[np.minimum(counts, 3)]
    total = np.bincount(context, weights=counts, minlength=contexts)
    taken = np.bincount(context, weights=discount, minlength=contexts)
    backoff, discounted = np.ones(contexts + 1), np.zeros(len(keys) + 1)
    np.divide(taken, total, out=backoff[:-1], where=total > 0)
    np.divide(counts - discount, total[context], out=discounted[:-1], where=counts > 0)
    return _Order(keys, discounted, backoff)


def _checked(ids: np.ndarray, vocab_size: int) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise LLMLiteError(
            f"Token ids must be integers in one row; these are {ids.dtype} of shape {ids.shape}."
        )
    ids = ids.astype(np.int64, copy=False)
    outside = np.flatnonzero((ids < 0) | (ids >= vocab_size))
    if len(outside):
        raise LLMLiteError(
            f"Token {ids[outside[0]]} at position {outside[0]} is not in the vocabulary, whose ids "
            f"are 0 to {vocab_size - 1}; use the tokenizer that the model was trained with."
        )
    return ids


def _join(values: Sequence) -> str:
    return ", ".join(str(value) for value in values)
