"""Byte-pair encoding on arrays: learn merges from words, and apply merges to words.

Knows nothing about text: words are bytes with counts, tokens are numbers. Tokens 0 to 255 are the
bytes in BYTE_ORDER, and merge r makes token 256 + r.

Both directions do what the textbook does, one pair after the other, but on all words at once: what
Python is slow at is the step, so each step here is a NumPy call on thousands of them.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import pairwise

import numpy as np

from llmlite.words import Words, ragged

# Ids 0..255 are the bytes in GPT-2's order: those that print first. Ties between pairs fall to
# the smaller ids, so this order decides them; it is the one that HF tokenizers uses as well.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTE_ORDER = bytes(_PRINTABLE + sorted(set(range(256)) - set(_PRINTABLE)))
ID_OF_BYTE = bytes(BYTE_ORDER.index(byte) for byte in range(256))
_ID_OF_BYTE = np.frombuffer(ID_OF_BYTE, np.uint8)

Pair = tuple[int, int]


# -- learning -------------------------------------------------------------------------------------


def learn_merges(
    words: Words,
    counts: np.ndarray,
    n_merges: int,
    min_count: int = 1,
    advance: Callable[[int], None] = lambda merges: None,
) -> list[Pair]:
    """The `n_merges` merges of `words` that occur `counts` times, in order (Sennrich et al., 2016).

    The most frequent pair of neighbours is merged first; among equals the one with the smaller left
    id, then the smaller right id. Ends early when no pair occurs `min_count` times. `advance` is
    called with the number of merges made since the last call.

    Several merges are made in one step. Take the pairs from the top of the order for as long as
    none ends with a token that another begins with. Such pairs never overlap in the text, so
    merging one leaves the counts of the others as they are. Each pair that merging creates, say
    (x, ab) from x a b, stands where (x, a) stood, occurs no more often, and has a larger id; and
    (x, a) overlaps with (a, b), so it came later in the order than the pairs that were taken. So no
    new pair would have come before any of them: one by one, the same merges would have been made.
    """
    pairs = _Pairs(words, counts)
    heap = pairs.entries(0)
    heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < n_merges:
        batch, begin, end = [], set(), set()  # pairs, and the tokens that they begin and end with
        while heap and len(merges) + len(batch) < n_merges:
            negative, left, right, pair = heap[0]
            count = int(pairs.count[pair])
            if count < max(min_count, 1):
                heappop(heap)
            elif count != -negative:  # merges have taken some of its places: put it back further down
                heappop(heap)
                heappush(heap, (-count, left, right, pair))
            elif batch and (left in end or right in begin or left == right):
                break
            else:
                heappop(heap)
                batch.append((left, right, pair))
                begin.add(left)
                end.add(right)
                if left == right:
                    break
        if batch:
            n_pairs = pairs.n
            pairs.merge([pair for _, _, pair in batch], 256 + len(merges))
            merges += [(left, right) for left, right, _ in batch]
            for entry in pairs.entries(n_pairs):
                heappush(heap, entry)
            advance(len(batch))
    return merges


class _Pairs:
    """Every pair of neighbouring tokens in a list of words: how often it occurs, and where.

    Tokens stand at the positions of their first bytes, linked to both neighbours. A pair is
    numbered when it first occurs. All its places come into being in that one step, with the younger
    of its tokens, and are only lost afterwards; so they are one slice of the array `places`, where
    those that still hold the pair are told by `pair_at`.
    """

    def __init__(self, words: Words, counts: np.ndarray):
        data = ragged(words.data, words.starts, words.lengths)
        size = len(data)
        ends = words.lengths.cumsum()
        self.token = _ID_OF_BYTE.take(data).astype(np.int32)
        self.next = np.arange(1, size + 1, dtype=np.int32)
        self.next[ends - 1] = -1
        self.previous = np.arange(-1, size - 1, dtype=np.int32)
        self.previous[ends - words.lengths] = -1
        self.weight = np.repeat(np.asarray(counts, np.int64), words.lengths)
        self.pair_at = np.full(size, -1, np.int32)

        # A merge takes one token away and makes two pairs at most: 3 × size are enough for ever.
        self.n = self.n_places = 0
        self.places = np.empty(3 * size, np.int32)
        self.left, self.right = np.empty(3 * size, np.int32), np.empty(3 * size, np.int32)
        self.count = np.empty(3 * size, np.int64)
        self.first = np.zeros(3 * size + 1, np.int64)  # places[first[p] : first[p + 1]]
        self._add(np.flatnonzero(self.next >= 0).astype(np.int32))

    def entries(self, start: int) -> list[tuple[int, int, int, int]]:
        """(−count, left, right, number) of the pairs from number `start`: they sort as merged."""
        new = slice(start, self.n)
        columns = (-self.count[new], self.left[new], self.right[new])
        return list(zip(*(c.tolist() for c in columns), range(start, self.n), strict=True))

    def _add(self, positions: np.ndarray) -> None:
        """Number the pairs that begin at `positions`, none of which has occurred before."""
        if not len(positions):
            return
        right = self.token[self.next[positions]]
        key = self.token[positions].astype(np.int64) << 32 | right
        order = key.argsort(kind="stable")  # stable: places of a pair stay in the order of the text
        positions, key = positions[order], key[order]
        begins = np.concatenate(([0], np.flatnonzero(key[1:] != key[:-1]) + 1))
        old, self.n = self.n, self.n + len(begins)
        self.left[old : self.n] = key[begins] >> 32
        self.right[old : self.n] = key[begins] & 0xFFFFFFFF
        self.count[old : self.n] = np.add.reduceat(self.weight[positions], begins)
        self.first[old : self.n] = begins + self.n_places
        self.places[self.n_places : self.n_places + len(positions)] = positions
        self.n_places += len(positions)
        self.first[self.n] = self.n_places
        sizes = np.diff(self.first[old : self.n + 1])
        self.pair_at[positions] = np.repeat(np.arange(old, self.n, dtype=np.int32), sizes)

    def merge(self, pairs: list[int], token: int) -> None:
        """Make each place of pairs[0] the token `token`, of pairs[1] `token` + 1, and so on."""
        numbers = np.array(pairs)
        starts, sizes = self.first[numbers], self.first[numbers + 1] - self.first[numbers]
        which = np.repeat(np.arange(len(pairs)), sizes)
        at = ragged(self.places, starts, sizes)
        alive = self.pair_at[at] == numbers[which]
        at, made = at[alive], (token + which[alive]).astype(np.int32)
        if self.left[pairs[0]] == self.right[pairs[0]]:  # then it is the only one
            chosen = self._every_other(at)
            at, made = at[chosen], made[chosen]

        gone = self.next[at]  # the places of the right tokens
        before, after = self.previous[at], self.next[gone]
        has_before, has_after = before >= 0, after >= 0

        # The pairs on both sides lose a place; two merges side by side share one, counted once.
        lost = np.unique(np.concatenate((gone[has_after], before[has_before])))
        np.subtract.at(self.count, self.pair_at[lost], self.weight[lost])
        self.count[numbers] = 0
        self.pair_at[at] = self.pair_at[gone] = -1

        self.token[at] = made
        self.next[at] = after
        self.previous[after[has_after]] = at[has_after]
        before = self.previous[at[has_before]]  # of two merges side by side, the left one
        self._add(np.concatenate((at[has_after], before[self.pair_at[before] >= 0])))

    def _every_other(self, at: np.ndarray) -> np.ndarray:
        """Of the places of a pair (a, a): the 1st, 3rd, … of each run, as read from the left."""
        runs_on = np.concatenate(([False], self.next[at[:-1]] == at[1:]))
        index = np.arange(len(at))
        run_start = np.maximum.accumulate(np.where(runs_on, 0, index))
        return (index - run_start) % 2 == 0


# -- applying -------------------------------------------------------------------------------------

NEVER = np.int32(2**31 - 1)  # the rank of a pair that is not merged
LONG = 128  # bytes; longer words are rare, and are merged one by one
BLOCK = 1 << 18  # bytes of words that are merged together: they stay in the processor's cache


def merge_word(ids: list[int], rank: dict[Pair, int]) -> list[int]:
    """Apply the merges to one word: always the earliest learnt first, and the leftmost of those.

    The textbook's way, with a heap in place of a search: O(n log n) for a word of n bytes.
    """
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
        bytes_only = np.flatnonzero((pairs < 256).all(axis=1))
        self._byte_rank = np.full(1 << 16, NEVER, np.int32)  # of (left, right) at left << 8 | right
        self._byte_rank[pairs[bytes_only, 0] << 8 | pairs[bytes_only, 1]] = bytes_only

        # The ranks of all pairs: a hash table with linear probing, an eighth full at most.
        self._bits = max(8, len(pairs).bit_length() + 3)
        self._key = np.full(1 << self._bits, -1, np.int64)
        self._rank = np.full(1 << self._bits, NEVER, np.int32)
        key = pairs[:, 0] << 32 | pairs[:, 1]
        todo, slot = np.arange(len(pairs)), self._slot(key)
        while len(todo):
            free = self._key[slot] < 0
            self._key[slot[free]] = key[todo[free]]
            placed = self._key[slot] == key[todo]
            self._rank[slot[placed]] = todo[placed]
            todo, slot = todo[~placed], self._following(slot[~placed])

    def _slot(self, key: np.ndarray) -> np.ndarray:
        mixed = key.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return (mixed >> np.uint64(64 - self._bits)).view(np.int64)

    def _following(self, slot: np.ndarray) -> np.ndarray:
        return (slot + 1) & ((1 << self._bits) - 1)

    def ranks(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """The rank of each pair (left[i], right[i]), NEVER where it is not merged: int32."""
        key = left.astype(np.int64)
        key <<= 32
        key |= right
        slot = self._slot(key)
        found, rank = self._key.take(slot), self._rank.take(slot)
        todo = np.flatnonzero(found != key)
        rank[todo] = NEVER
        todo = todo[found.take(todo) >= 0]  # an empty slot ends the search
        slot, key = slot.take(todo), key.take(todo)
        while len(todo):
            slot = self._following(slot)
            found = self._key.take(slot)
            hit = found == key
            rank[todo[hit]] = self._rank.take(slot[hit])
            on = np.flatnonzero(~hit & (found >= 0))
            todo, slot, key = todo.take(on), slot.take(on), key.take(on)
        return rank

    def merge_words(self, words: Words) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`merge_word` for each word: the ids of word i are ids[starts[i] : starts[i] + sizes[i]].

        Returns (ids, starts, sizes).
        """
        order = np.argsort(words.lengths, kind="stable")  # words of a length are merged in step
        sizes = np.empty(len(words), np.int64)
        lengths = words.lengths[order]
        n_short = int(np.searchsorted(lengths, LONG, side="right"))
        parts, done = [np.zeros(0, np.int32)], 0
        while done < n_short:
            area = lengths[done : min(n_short, done + BLOCK)]
            area = area * np.arange(1, len(area) + 1)  # of the first 1, 2, … words, side by side
            block = order[done : done + int(np.searchsorted(area, BLOCK, side="right"))]
            ids, sizes[block] = self._merge_block(words.take(block))
            parts.append(ids)
            done += len(block)
        for number in order[n_short:]:
            start, length = words.starts[number], words.lengths[number]
            ids = _ID_OF_BYTE.take(words.data[start : start + length]).tolist()
            parts.append(np.array(merge_word(ids, self.rank), np.int32))
            sizes[number] = len(parts[-1])
        starts = np.empty(len(words), np.int64)
        starts[order] = sizes[order].cumsum() - sizes[order]
        return np.concatenate(parts), starts, sizes

    def _merge_block(self, words: Words) -> tuple[np.ndarray, np.ndarray]:
        """All ids of `words`, sorted by length, and the number of each.

        A word is a column of a matrix, and each step makes one merge in every word that has one
        left. Rank and row of a merge are one number, so that the least of a column is the merge
        that is due and says where. Tokens are linked to their neighbours by their rows.
        """
        n, height = len(words), int(words.lengths[-1])
        lengths = words.lengths.astype(np.int32)
        row = np.arange(height, dtype=np.int32)[:, None]
        last = len(words.data) - 1
        token = _ID_OF_BYTE.take(words.data.take(np.minimum(words.starts + row, last)))
        alive = row < lengths
        due = np.full((height, n), NEVER, np.int32)
        rank = self._byte_rank.take(token[:-1].astype(np.int64) << 8 | token[1:])
        np.copyto(due[:-1], rank * np.int32(height) + row[:-1], where=(rank != NEVER) & alive[1:])
        below = np.empty((height, n), np.int32)
        below[:] = row + 1
        above = below - np.int32(2)

        shape = token.shape
        token = token.astype(np.int32)
        token, alive, due, below, above = (x.ravel() for x in (token, alive, due, below, above))
        while True:
            least = due.reshape(shape).min(axis=0)
            column = np.flatnonzero(least != NEVER)
            if not len(column):
                return token.reshape(shape).T[alive.reshape(shape).T], alive.reshape(shape).sum(0)
            rank, i = np.divmod(least.take(column), np.int32(height))
            at = i * n + column
            gone = below.take(at) * n + column
            k = below.take(gone)
            made = rank + np.int32(256)
            token[at], below[at] = made, k
            alive[gone] = False
            due[gone] = due[at] = NEVER

            # The new token's pairs, with the token below it and with the one above.
            has_below = np.flatnonzero(k < lengths.take(column))
            first = at.take(has_below)
            below_it = k.take(has_below) * n + column.take(has_below)
            above[below_it] = i.take(has_below)
            h = above.take(at)
            has_above = np.flatnonzero(h >= 0)
            above_it = h.take(has_above) * n + column.take(has_above)
            rank = self.ranks(
                np.concatenate((made.take(has_below), token.take(above_it))),
                np.concatenate((token.take(below_it), made.take(has_above))),
            )
            rows = np.concatenate((i.take(has_below), h.take(has_above)))
            np.multiply(rank, np.int32(height), out=rank, where=rank != NEVER)
            np.add(rank, rows, out=rank, where=rank != NEVER)
            due[np.concatenate((first, above_it))] = rank
