"""Learn the merges of byte-pair encoding from counted words, many in one step. Tokens 0 to 255 are
the bytes in BYTE_ORDER, and merge r makes token 256 + r."""

from collections.abc import Callable

import numpy as np

from llmlite.tokenizer.words import Words

# Ids 0..255 are the bytes in GPT-2's order: those that print first. Ties between pairs fall to
# the smaller ids, so this order decides them; it is the one that HF tokenizers uses as well.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTE_ORDER = bytes(_PRINTABLE + sorted(set(range(256)) - set(_PRINTABLE)))
ID_OF_BYTE = bytes(BYTE_ORDER.index(byte) for byte in range(256))
BYTE_IDS = np.frombuffer(ID_OF_BYTE, np.uint8)  # the same as an array
# How GPT-2's files write these bytes: those that print as themselves, the others from U+0100 on.
BYTE_CHARACTERS = [chr(byte) for byte in _PRINTABLE]
BYTE_CHARACTERS += [chr(256 + i) for i in range(256 - len(_PRINTABLE))]

Pair = tuple[int, int]


def learn_merges(words: Words, counts: np.ndarray, n_merges: int, advance: Callable) -> list[Pair]:
    """The `n_merges` merges of `words` that occur `counts` times, in order (Sennrich et al., 2016).
    `advance(n)` is told how many more there are.

    The most frequent pair of neighbours is merged first; among equals the one with the smaller left
    id, then the smaller right id. Ends early when no pair is left.

    Several merges are made in one step: pairs from the top of the order for as long as none ends
    with a token that another begins with. They never overlap in the text, so merging one leaves the
    counts of the others as they are. A new pair, say (x, ab) from x a b, stands where (x, a) stood,
    occurs no more often and has a larger id; and (x, a), which overlaps with (a, b), came later in
    the order than the pairs taken. So one by one, the same merges would have been made.
    """
    pairs = _Pairs(words, counts)
    merges: list[Pair] = []
    floor = pairs.count.max()  # of the count, below which no pair is looked at yet
    while floor and len(merges) < n_merges:
        top = np.flatnonzero(pairs.count[: pairs.n] >= floor)
        if not len(top):
            floor = floor * 9 // 10
            continue
        top = top[np.lexsort((pairs.right[top], pairs.left[top], -pairs.count[top]))]
        top = top[: n_merges - len(merges)]
        batch, begin, end = [], set(), set()  # pairs, and the tokens that they begin and end with
        for left, right in zip(pairs.left[top].tolist(), pairs.right[top].tolist(), strict=True):
            if batch and (left in end or right in begin or left == right):
                break
            batch.append((left, right))
            begin.add(left)
            end.add(right)
            if left == right:
                break
        pairs.merge(top[: len(batch)], 256 + len(merges))
        merges += batch
        advance(len(batch))
    return merges


class _Pairs:
    """Every pair of neighbouring tokens in a list of words: how often it occurs, and where. Tokens
    stand at the positions of their first bytes, linked to both neighbours. All places of a pair
    come into being in one step, with the younger of its tokens, and are only lost afterwards:
    `places` has them all, and `pair_at` tells which of them still hold it."""

    def __init__(self, words: Words, counts: np.ndarray):
        size = len(words.data)
        self.token = BYTE_IDS.take(words.data).astype(np.int32)
        self.next = np.arange(1, size + 1, dtype=np.int32)
        self.next[words.starts - 1] = -1  # of the first word, that is the last byte of all
        self.previous = np.arange(-1, size - 1, dtype=np.int32)
        self.previous[words.starts] = -1
        self.weight = np.repeat(np.asarray(counts, np.int64), words.lengths)
        self.pair_at = np.full(size, -1, np.int32)

        # A merge takes one token away and makes two pairs at most: 3 × size are enough for ever.
        self.n = 0
        self.left, self.right = np.empty(3 * size, np.int32), np.empty(3 * size, np.int32)
        self.count = np.zeros(3 * size + 1, np.int64)
        self.places: list[np.ndarray] = []
        self._add(np.flatnonzero(self.next >= 0).astype(np.int32))

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
        self.places += np.split(positions, begins[1:])
        sizes = np.diff(begins, append=len(positions))
        self.pair_at[positions] = np.repeat(np.arange(old, self.n, dtype=np.int32), sizes)

    def merge(self, pairs: np.ndarray, token: int) -> None:
        """Make each place of pairs[0] the token `token`, of pairs[1] `token` + 1, and so on."""
        places = [self.places[pair] for pair in pairs]
        which = np.repeat(np.arange(len(pairs)), list(map(len, places)))
        at = np.concatenate(places)
        alive = self.pair_at[at] == pairs[which]
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
        self.count[pairs] = 0
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
