"""Bytes to token ids, by the merges of byte-pair encoding, and token ids back to bytes.

A single word is merged as in a textbook; of many words, each step is a NumPy call that makes one
merge in thousands of them.
"""

import struct
from heapq import heapify, heappop, heappush
from itertools import pairwise

import numpy as np

from llmlite.files import TokenizerError
from llmlite.tokenizer.learn import BYTE_IDS, Pair
from llmlite.tokenizer.words import Words

NEVER = np.int32(2**31 - 1)  # the rank of a pair that is not merged
MOST_TOKENS = 1 << 20  # so that two tokens and a rank fit into 64 bits
LONG = 128  # bytes; longer words are rare, and are merged one by one
BLOCK = 1 << 18  # bytes of words that are merged together: enough to hide what a NumPy call costs
NOT_IDS = "Token ids must be integers in one dimension, as `encode` gives them, of 64 bits at most."
WIDTH = 16  # bytes that are decoded at once: nearly every token is shorter


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
        if len(merges) > MOST_TOKENS - 256:
            raise TokenizerError(f"{len(merges):,} merges are too many (at most 2²⁰ tokens).")
        self.rank = {pair: rank for rank, pair in enumerate(merges)}
        pairs = np.array(merges, np.int64).reshape(-1, 2)
        bytes_only = np.flatnonzero((pairs < 256).all(axis=1))
        self._byte_rank = np.full(1 << 16, NEVER, np.int32)  # of (left, right) at left << 8 | right
        self._byte_rank[pairs[bytes_only, 0] << 8 | pairs[bytes_only, 1]] = bytes_only

        # The ranks of all pairs: a hash table with linear probing, an eighth full at most. A slot
        # holds left, right and rank in one number, because what costs the time is going to memory.
        self._bits = max(8, len(pairs).bit_length() + 3)
        self._table = np.full(1 << self._bits, -1, np.int64)
        key = pairs[:, 0] << 20 | pairs[:, 1]
        entry = key << 24 | np.arange(len(pairs))
        todo, slot = np.arange(len(pairs)), self._slot(key)
        while len(todo):
            free = self._table[slot] < 0
            self._table[slot[free]] = entry[todo[free]]
            left_over = self._table[slot] != entry[todo]
            todo, slot = todo[left_over], self._following(slot[left_over])

    def _slot(self, key: np.ndarray) -> np.ndarray:
        mixed = key.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return (mixed >> np.uint64(64 - self._bits)).view(np.int64)

    def _following(self, slot: np.ndarray) -> np.ndarray:
        return (slot + 1) & ((1 << self._bits) - 1)

    def ranks(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """The rank of each pair (left[i], right[i]), NEVER where it is not merged: int32."""
        key = left.astype(np.int64)
        key <<= 20
        key |= right
        slot = self._slot(key)
        entry = self._table.take(slot)
        rank = (entry & 0xFFFFFF).astype(np.int32)
        todo = np.flatnonzero(entry >> 24 != key)
        rank[todo] = NEVER
        todo = todo.take(np.flatnonzero(entry.take(todo) >= 0))  # an empty slot ends the search
        slot, key = slot.take(todo), key.take(todo)
        while len(todo):
            slot = self._following(slot)
            entry = self._table.take(slot)
            hit = entry >> 24 == key
            rank[todo[hit]] = entry[hit] & 0xFFFFFF
            on = np.flatnonzero(~hit & (entry >= 0))
            todo, slot, key = todo.take(on), slot.take(on), key.take(on)
        return rank

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
        know their neighbours' rows. The grids are flat: a place is row × n + column.
        """
        n, height = len(words), np.int32(words.lengths[-1])
        lengths = words.lengths.astype(np.int32)
        rows = np.arange(height, dtype=np.int32)[:, None]
        token = words.data.take(words.starts + rows, mode="clip")  # after a word, anything will do
        alive = rows < lengths
        rank = self._byte_rank.take(token[:-1].astype(np.int64) << 8 | token[1:])
        due = np.full((height, n), NEVER, np.int32)
        np.copyto(due[:-1], rank * height + rows[:-1], where=(rank != NEVER) & alive[1:])
        below = np.repeat(rows + 1, n)
        above = below - np.int32(2)
        token = token.ravel().astype(np.int32)
        due_by_row, alive_by_row, alive, due = due, alive, alive.ravel(), due.ravel()
        while True:
            least = due_by_row.min(axis=0)
            column = np.flatnonzero(least != NEVER)
            if not len(column):
                by_word = token.reshape(alive_by_row.shape).T.ravel()
                left = np.flatnonzero(alive_by_row.T.ravel())
                return by_word.take(left), alive_by_row.sum(axis=0)
            rank, row = np.divmod(least.take(column), height)
            upper = row * n + column  # the two tokens that become one
            lower = below.take(upper) * n + column
            token[upper] = made = rank + np.int32(256)
            due[upper] = due[lower] = NEVER
            alive[lower] = False
            row_below = below.take(lower)
            below[upper] = row_below

            # The new token makes a pair with the token below it and with the one above, if any.
            has = np.flatnonzero(row_below < lengths.take(column))
            first, first_row = upper.take(has), row.take(has)
            next_one = row_below.take(has) * n + column.take(has)
            above[next_one] = first_row
            row_above = above.take(upper)
            has_too = np.flatnonzero(row_above >= 0)
            previous_row = row_above.take(has_too)
            previous = previous_row * n + column.take(has_too)
            rank = self.ranks(
                np.concatenate((made.take(has), token.take(previous))),
                np.concatenate((token.take(next_one), made.take(has_too))),
            )
            found = rank != NEVER
            rank *= height
            rank += np.concatenate((first_row, previous_row))
            due[np.concatenate((first, previous))] = np.where(found, rank, NEVER)


class Decoder:
    """The bytes of every token behind one another, and where each begins."""

    def __init__(self, token_bytes: list[bytes]):
        self._lengths = np.array([len(token) for token in token_bytes])
        self._starts = self._lengths.cumsum() - self._lengths
        self._blocks = _blocks(np.frombuffer(b"".join(token_bytes) + bytes(WIDTH), np.uint8))
        self._first_block = self._blocks[self._starts]

    def __call__(self, ids: list[int] | np.ndarray) -> bytes:
        """The bytes of `ids`, one token behind the other."""
        ids = self._checked(ids)
        lengths = self._lengths.take(ids)
        ends = lengths.cumsum()
        starts = ends - lengths
        out = np.empty(int(ends[-1]) + WIDTH, np.uint8)
        block_at = _blocks(out)
        # A block of each token, in order: what a shorter one writes too much, the next overwrites.
        # Then the other blocks of the longer ones, which are rare.
        block_at[starts] = self._first_block.take(ids)
        longer, written = np.flatnonzero(lengths > WIDTH), WIDTH
        while len(longer):
            offset = np.minimum(written, lengths[longer] - WIDTH)
            block_at[starts[longer] + offset] = self._blocks[self._starts[ids[longer]] + offset]
            written += WIDTH
            longer = longer[lengths[longer] > written]
        return out[: ends[-1]].tobytes()

    def _checked(self, ids: list[int] | np.ndarray) -> np.ndarray:
        """`ids` as an array; TokenizerError for the first that is not in the vocabulary."""
        try:
            if isinstance(ids, list):  # takes half the time of np.array
                ids = np.frombuffer(struct.pack(f"{len(ids)}q", *ids), np.int64)
            if ids.ndim != 1 or ids.dtype.kind not in "iu":
                raise TypeError
        except (struct.error, TypeError):
            raise TokenizerError(NOT_IDS) from None
        size = len(self._lengths)
        if ids.min() < 0 or ids.max() >= size:
            wrong = ids[(ids < 0) | (ids >= size)][0]
            raise TokenizerError(f"Token id {wrong} is outside this vocabulary (0 to {size - 1}).")
        return ids


def _blocks(data: np.ndarray) -> np.ndarray:
    """A view of bytes (n,) as the blocks of WIDTH bytes from each byte on: (n - WIDTH + 1,)."""
    return np.ndarray((len(data) - WIDTH + 1,), f"V{WIDTH}", data, strides=(1,))
