"""Words to token ids, by the merges of byte-pair encoding: a single word as in a textbook, of many
words thousands in one step."""

from heapq import heapify, heappop, heappush
from itertools import pairwise

import numpy as np
import pandas as pd

from llmlite.tokenizer.learn import BYTE_IDS, Pair
from llmlite.tokenizer.words import Words

NEVER = np.int32(2**31 - 1)  # when a pair is due that is not merged
LONG = 128  # bytes; longer words are rare, and are merged one by one
BLOCK = 1 << 18  # bytes of words that are merged together: enough to hide what a NumPy call costs


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
        pairs = np.array(merges, np.int64).reshape(-1, 2)
        self._ranks = pd.Index(pairs[:, 0] << 32 | pairs[:, 1])  # a hash table, in effect

    def ranks(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """The rank of each pair (left[i], right[i]), -1 where it is not merged."""
        return self._ranks.get_indexer(left.astype(np.int64) << 32 | right)

    def merge_words(self, words: Words) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(ids, starts, sizes): word i is merged to ids[starts[i] : starts[i] + sizes[i]]."""
        words = Words(BYTE_IDS.take(words.data), words.starts, words.lengths)
        capped = np.minimum(words.lengths, LONG + 1).astype(np.uint8)  # a byte is sorted fastest
        order = np.argsort(capped, kind="stable")  # words of a length are merged in step
        sizes = np.empty(len(words), np.int64)
        lengths = words.lengths[order]
        n_short = int((capped <= LONG).sum())
        parts, done = [np.zeros(0, np.int32)], 0
        while done < n_short:
            area = lengths[done : min(n_short, done + BLOCK)]
            area = area * np.arange(1, len(area) + 1)  # of the first 1, 2, … words, side by side
            block = order[done : done + max(1, int(np.searchsorted(area, BLOCK, side="right")))]
            ids, sizes[block] = self._merge_block(words.take(block))
            parts.append(ids)
            done += len(block)
        for number in order[n_short:]:
            start, length = words.starts[number], words.lengths[number]
            ids = merge_word(words.data[start : start + length].tolist(), self.rank)
            parts.append(np.array(ids, np.int32))
            sizes[number] = len(parts[-1])
        starts = np.empty(len(words), np.int64)
        starts[order] = sizes[order].cumsum() - sizes[order]
        return np.concatenate(parts), starts, sizes

    def _merge_block(self, words: Words) -> tuple[np.ndarray, np.ndarray]:
        """All ids of `words`, sorted by length and their bytes ids already, and how many each has.

        A word is a column of a grid, and each step makes one merge in every word that has one left.
        The least rank × height + row of a column is the merge that is due, and says where. Tokens
        know their neighbours' places, row × n + column; `none`, behind them, is that of no token.
        """
        n, height = len(words), int(words.lengths[-1])
        none = n * height
        place, length = np.arange(none), np.tile(words.lengths, height)
        row = place // n
        alive = row < length
        below = np.append(np.where(row + 1 < length, place + n, none), none)
        above = np.append(np.where(row > 0, place - n, none), none)
        token = words.data.take(np.tile(words.starts, height) + row, mode="clip")
        token = np.append(token.astype(np.int32), -1)
        due = np.full(none + 1, NEVER, np.int32)

        def find_due(left: np.ndarray, right: np.ndarray) -> None:
            rank = self.ranks(token.take(left), token.take(right))
            due[left] = np.where(rank < 0, NEVER, rank * height + left // n)

        find_due(place, below[:-1])
        while True:
            least = due[:-1].reshape(height, n).min(axis=0)
            column = np.flatnonzero(least != NEVER)
            if not len(column):
                alive = alive.reshape(height, n)
                return token[:-1].reshape(height, n).T[alive.T], alive.sum(axis=0)
            rank, row = np.divmod(least.take(column), height)
            upper = row * n + column  # the two tokens that become one
            lower = below.take(upper)
            token[upper] = rank + 256
            due[lower] = NEVER
            alive[lower] = False
            below[upper] = after = below.take(lower)
            above[after] = upper
            # The new token makes a pair with the token below it and with the one above, if any.
            before = above.take(upper)
            find_due(np.concatenate((before, upper)), np.concatenate((upper, after)))
