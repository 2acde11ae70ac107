"""Many words as one array of bytes, and which of them are equal.

Knows nothing about text or tokens. A Python object for each of two million words is what costs the
time in a tokenizer written in Python, so here a word is a slice of one buffer, and two words are
equal if the 64-bit numbers that their bytes make are.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

PADDING = 8  # zero bytes after the last word, so that 8 bytes can be read from any byte


@dataclass(frozen=True)
class Words:
    """Word i is data[starts[i] : starts[i] + lengths[i]], in UTF-8."""

    data: np.ndarray  # uint8 (bytes + PADDING,)
    starts: np.ndarray  # int64 (words,)
    lengths: np.ndarray  # int64 (words,)

    def __len__(self) -> int:
        return len(self.starts)

    @classmethod
    def of(cls, data: bytes, lengths: np.ndarray) -> "Words":
        """Words that lie one behind the other in `data`."""
        lengths = np.asarray(lengths, np.int64)
        padded = np.frombuffer(data + bytes(PADDING), np.uint8)
        return cls(padded, lengths.cumsum() - lengths, lengths)

    @classmethod
    def join(cls, parts: list["Words"]) -> "Words":
        """The words of all parts, one behind the other in a buffer of their own."""
        data = b"".join(ragged(w.data, w.starts, w.lengths).tobytes() for w in parts)
        return cls.of(data, np.concatenate([np.zeros(0, np.int64), *(w.lengths for w in parts)]))

    def take(self, index: np.ndarray) -> "Words":
        return Words(self.data, self.starts[index], self.lengths[index])


def ragged(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """values[starts[0] : starts[0] + lengths[0]], then the same for 1, 2, …, in one array."""
    ends = lengths.cumsum()
    index = np.repeat(starts - ends + lengths, lengths)
    index += np.arange(len(index))
    return values.take(index)


def distinct(words: Words) -> tuple[Words, np.ndarray]:
    """The words without repetitions, and the number of each word among them, int32 (words,)."""
    stands_for = np.arange(len(words), dtype=np.int32)
    shortest = -1
    for width in (8, 16, 32, 64):
        members = np.flatnonzero((words.lengths > shortest) & (words.lengths <= width))
        _find_equal(words, members.astype(np.int32), width, stands_for)
        shortest = width
    seen: dict[bytes, int] = {}
    for i in np.flatnonzero(words.lengths > shortest):  # rare
        word = words.data[words.starts[i] : words.starts[i] + words.lengths[i]].tobytes()
        stands_for[i] = seen.setdefault(word, i)
    first = stands_for == np.arange(len(words), dtype=np.int32)
    number = np.cumsum(first, dtype=np.int32) - np.int32(1)
    return words.take(np.flatnonzero(first)), number.take(stands_for)


_LOW_BYTES = np.array([256**n - 1 for n in range(9)], np.uint64)
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ over the golden ratio (Knuth, TAOCP 3, §6.4)


def _find_equal(words: Words, members: np.ndarray, width: int, stands_for: np.ndarray) -> None:
    """Let one of all equal words among `members`, of at most `width` bytes, stand for the others.

    A hash table without probing: all words write their number into their slot, and one of them
    stays. Words that equal it, byte for byte, are settled; the others, whom only the slot united,
    try again with another hash. So equality never rests on a hash, and nothing is sorted.
    """
    starts, lengths = words.starts.take(members), words.lengths.take(members)
    bytes_at = np.ndarray((len(words.data) - 7,), "<u8", words.data, strides=(1,))
    lanes, mixed = [], lengths.astype(np.uint64)
    for offset in range(0, width, 8):  # the word as 64-bit numbers, zeros after its end
        inside = np.clip(lengths - offset, 0, 8)
        lane = bytes_at[np.minimum(starts + offset, len(bytes_at) - 1)] & _LOW_BYTES.take(inside)
        lanes.append(lane)
        mixed = (mixed ^ lane) * _MIX
        mixed ^= mixed >> np.uint64(29)

    bits = max(8, len(members).bit_length())
    slots = np.empty(1 << bits, np.int32)
    todo, salt = np.arange(len(members), dtype=np.int32), _MIX
    while len(todo):
        slot = ((mixed.take(todo) * salt) >> np.uint64(64 - bits)).view(np.int64)
        slots[slot] = todo
        winner = slots.take(slot)
        same = lengths.take(winner) == lengths.take(todo)
        for lane in lanes:
            same &= lane.take(winner) == lane.take(todo)
        settled = np.flatnonzero(same)
        stands_for[members.take(todo.take(settled))] = members.take(winner.take(settled))
        todo = todo.take(np.flatnonzero(~same))
        salt = np.uint64((int(salt) + 0x1F83D9ABFB41BD6A) % 2**64)  # an odd number again


def tally(parts: Iterable[Words]) -> tuple[Words, np.ndarray]:
    """The distinct words of all parts, and how often each occurs: int64 (words,).

    Holds one part at a time beside the distinct words seen so far.
    """
    known, counts = Words.join([]), np.zeros(0, np.int64)
    for part in parts:
        new, number = distinct(part)
        occurs = np.concatenate((counts, np.bincount(number, minlength=len(new))))
        known, number = distinct(Words.join([known, new]))
        counts = np.zeros(len(known), np.int64)
        np.add.at(counts, number, occurs)
    return known, counts
