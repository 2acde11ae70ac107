"""Words to token ids, by the merges of byte-pair encoding: a single word as in a textbook, the
distinct words of many texts all in step."""

from collections.abc import Iterable
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import pairwise

import numpy as np

from llmlite.tokenizer.learn import BYTE_IDS, Pair
from llmlite.tokenizer.words import Words, batches, cut, distinct, ragged

NEVER = np.int32(2**31 - 1)  # when a pair is due that is not merged
LONG = 128  # bytes; longer words are rare, and are merged one by one


def merge_word(ids: list[int], rank: dict[Pair, int]) -> list[int]:
    """Apply the merges to one word: always the earliest learnt first, and the leftmost of those."""
    ids = list(ids)
    after = [*range(1, len(ids)), None]
    before = [None, *range(len(ids) - 1)]
    heap = [(rank[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in rank]
    heapify(heap)
    while heap:
        merge, i = heappop(heap)
        j = after[i]
        if ids[i] is None or j is None or rank.get((ids[i], ids[j])) != merge:
            continue  # the pair is no longer there
        ids[i], ids[j] = 256 + merge, None
        after[i] = after[j]
        if after[i] is not None:
            before[after[i]] = i
        for left, right in ((before[i], i), (i, after[i])):
            if left is not None and right is not None and (ids[left], ids[right]) in rank:
                heappush(heap, (rank[ids[left], ids[right]], left))
    return [token for token in ids if token is not None]


class Merger:
    """The merges as tables, to be applied to many words at once."""

    def __init__(self, merges: list[Pair]):
        self.rank = {pair: rank for rank, pair in enumerate(merges)}

    @cached_property
    def _ranks(self):
        import pandas as pd  # takes a while, and a prompt does not need it

        pairs = np.array(list(self.rank), np.int64).reshape(-1, 2)
        return pd.Index(pairs[:, 0] << 32 | pairs[:, 1])  # a hash table, in effect

    def ranks(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """The rank of each pair (left[i], right[i]), NEVER where it is not merged."""
        found = self._ranks.get_indexer(left.astype(np.int64) << 32 | right)
        return np.where(found < 0, NEVER, found)

    def encode(self, texts: Iterable[str], dtype: np.dtype) -> list[np.ndarray]:
        """The ids of each text, (tokens,)."""
        # The distinct words of each batch, and which of them each word of the batch is …
        parts, numbers, n_words, text_of, n_distinct = [], [], [], [], 0
        for pieces, owners in batches(texts):
            words, words_in = cut(pieces)
            words, number = distinct(words)
            parts.append(words)
            numbers.append(n_distinct + number)
            n_words.append(words_in)
            text_of += owners
            n_distinct += len(words)
        # … are merged together, once each …
        words, number_of = distinct(Words.join(parts))
        ids, sizes = self.merge_words(words)
        ids, starts = ids.astype(dtype), sizes.cumsum() - sizes
        # … and their ids are copied to wherever they stand.
        encoded, n_tokens = [np.zeros(0, dtype)], [np.zeros(0)]
        for number, words_in in zip(numbers, n_words, strict=True):
            word = number_of.take(number)
            size = sizes.take(word)
            encoded.append(ragged(ids, starts.take(word), size))
            ends = np.append(0, size.cumsum()).take(words_in.cumsum())
            n_tokens.append(np.diff(ends, prepend=0))  # of each piece
        n_tokens = np.bincount(text_of, np.concatenate(n_tokens)).astype(np.int64)
        return np.split(np.concatenate(encoded), n_tokens.cumsum())[:-1]

    def merge_words(self, words: Words) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all words, one word behind the other, and how many each has."""
        token, starts = BYTE_IDS.take(words.data).astype(np.int32), words.starts
        alive = np.ones(len(token), bool)  # a token stands where its first byte does
        due = np.full(len(token), NEVER, np.int32)  # the rank of a token and the one after it
        due[:-1] = self.ranks(token[:-1], token[1:])
        due[starts[1:] - 1] = NEVER
        for number in np.flatnonzero(words.lengths > LONG):
            start, end = starts[number], starts[number] + words.lengths[number]
            ids = merge_word(token[start:end].tolist(), self.rank)
            token[start : start + len(ids)] = ids
            alive[start + len(ids) : end] = False
            due[start:end] = NEVER
        place, size = np.arange(len(token)), words.lengths  # of tokens in words that are not done
        while len(place):
            start = size.cumsum() - size
            least = np.minimum.reduceat(due, start)
            more = least < NEVER
            # Each step makes one merge in every word that has one left: the first of the least.
            at_least = np.flatnonzero(due == np.repeat(least, size))
            left = at_least[np.searchsorted(at_least, start[more])]
            token[place[left]] = least[more] + 256
            alive[place[left + 1]] = False
            keep = np.repeat(more, size)
            keep[left + 1] = False
            left -= start[more]
            place, due, size = place[keep], due[keep], size[more] - 1
            start = size.cumsum() - size
            left += start
            # The new token makes a pair with the one before it and with the one after, if any.
            due[left] = NEVER
            pairs = np.concatenate((left[left > start] - 1, left[left + 1 < start + size]))
            due[pairs] = self.ranks(token[place[pairs]], token[place[pairs + 1]])
        return token[alive], np.add.reduceat(alive, starts, dtype=np.int64)
