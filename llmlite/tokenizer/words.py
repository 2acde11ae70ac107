"""Text cut into words, and many words as one array: which are equal, and how often each occurs.

A Python object for each of two million words would cost the time, so a word is a slice of one
buffer, and words are cut and compared as arrays.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import regex

from llmlite.files import TokenizerError

END_OF_TEXT = "<|endoftext|>"
# GPT-2's (Radford et al., 2019): contractions, letters, numbers, other signs (each with the space
# before it), then white space, of which the last goes with what follows.
GPT2_SPLIT_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

OTHER, LETTER, NUMBER, SPACE, END = range(5)
END_CODE = 0x110000  # stands before, between and after texts; no character has this code
PADDING = 8  # zero bytes after the last word, so that 8 bytes can be read from any byte
BATCH = 1 << 20  # characters that are cut into words at once: enough to hide a NumPy call's cost


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


# -- which character is what ----------------------------------------------------------------------


@cache
def _ranges() -> list[tuple[int, int, int]]:
    """(first, last, kind) of all letters, numbers and white space."""
    # A table, and not what a library says: HF tokenizers and tiktoken have Unicode 16.0 compiled
    # in, and newer versions have more letters, which would give a text other tokens.
    kinds = {"letter": LETTER, "number": NUMBER, "space": SPACE}
    text = Path(__file__).with_name("unicode-16.0.txt").read_text(encoding="utf-8")
    found = re.findall(r"^([0-9A-F]+)\.\.([0-9A-F]+) (\w+)$", text, re.MULTILINE)
    return [(int(first, 16), int(last, 16), kinds[kind]) for first, last, kind in found]


@cache
def _kind_of_code() -> np.ndarray:
    """Of every code point and of END_CODE, uint8 (0x110001,)."""
    kinds = np.full(END_CODE + 1, OTHER, np.uint8)
    for first, last, kind in _ranges():
        kinds[first : last + 1] = kind
    kinds[END_CODE] = END
    return kinds


@cache
def gpt2_pattern() -> re.Pattern:
    r"""GPT2_SPLIT_PATTERN with its \p{L}, \p{N} and \s written out as the ranges of the table."""
    letter, number, space = (
        "".join(f"\\U{first:08X}-\\U{last:08X}" for first, last, of in _ranges() if of == kind)
        for kind in (LETTER, NUMBER, SPACE)
    )
    return re.compile(
        rf"'(?:[sdmt]|ll|ve|re)| ?[{letter}]+| ?[{number}]+| ?[^{space}{letter}{number}]+"
        rf"|[{space}]+(?![^{space}])|[{space}]+"
    )


# -- text → words ---------------------------------------------------------------------------------


class Splitter:
    """Cuts text into words by a pattern: fast for GPT-2's, by `regex` for any other."""

    def __init__(self, pattern: str):
        self.is_gpt2 = pattern == GPT2_SPLIT_PATTERN
        try:
            self._pattern = gpt2_pattern() if self.is_gpt2 else regex.compile(pattern)
        except (regex.error, TypeError) as error:
            raise TokenizerError(f"The split pattern {pattern!r} is not valid: {error}.") from None

    def find(self, text: str) -> list[str]:
        """The words of `text`, one by one."""
        if self.is_gpt2:
            return self._pattern.findall(text)
        # Other patterns may have groups, and may match nothing.
        return [match[0] for match in self._pattern.finditer(text) if match[0]]

    def cut(self, texts: list[str]) -> tuple[Words, np.ndarray]:
        """The words of all `texts` in their order, and how many each text has."""
        if self.is_gpt2:
            return cut(texts)
        found = [[as_bytes(word) for word in self.find(text)] for text in texts]
        words = [word for words in found for word in words]
        lengths = np.array([len(word) for word in words], np.int64)
        return Words.of(b"".join(words), lengths), np.array([len(words) for words in found])


def cut(texts: list[str]) -> tuple[Words, np.ndarray]:
    """The words of all `texts`, as `gpt2_pattern().findall` gives them, and how many each has."""
    mark = END_CODE.to_bytes(4, "little")
    code = mark + b"".join(as_bytes(text, "utf-32-le") + mark for text in texts)
    code = np.frombuffer(code, "<u4")
    marks = np.cumsum([0] + [len(text) + 1 for text in texts])
    kind = _kind_of_code().take(code)

    # A word begins where the kind changes …
    begins = np.empty(len(code), bool)
    begins[0] = True
    np.not_equal(kind[1:], kind[:-1], out=begins[1:])
    # … but the last white space before something else stands apart, and a blank goes with it.
    solid = begins & (kind < SPACE)
    begins[:-1] |= solid[1:] & (kind[:-1] == SPACE)
    begins[1:] &= ~(solid[1:] & (code[:-1] == ord(" ")))
    _keep_contractions(code, kind, begins)
    begins[marks] = True

    # Bytes in UTF-8:
    width = (code > 0x7F).view(np.uint8) + (code > 0x7FF) + (code > 0xFFFF) + np.uint8(1)
    width[marks] = 0
    offset = np.cumsum(width, dtype=np.int64)
    at = np.flatnonzero(begins)
    own = width.take(at)
    starts = offset.take(at) - own
    real = own > 0  # a mark is no word
    data = np.frombuffer("".join(texts).encode() + bytes(PADDING), np.uint8)
    words = Words(data, starts[real], np.diff(starts, append=starts[-1])[real])
    return words, np.diff(np.flatnonzero(~real)) - 1


def _keep_contractions(code: np.ndarray, kind: np.ndarray, begins: np.ndarray) -> None:
    """Put right what follows an apostrophe: 's, 'd, 'm, 't, 'll, 've and 're are words."""
    # Only where the apostrophe begins a word: after a blank, or another sign, it goes with those.
    at = np.flatnonzero(code == ord("'"))
    at = at[(kind[at - 1] != OTHER) & (code[at - 1] != ord(" "))]
    first, second = code[at + 1], code[np.minimum(at + 2, len(code) - 1)]
    one = np.isin(first, [ord(letter) for letter in "sdmt"])
    two = np.zeros(len(at), bool)
    for letters in ("ll", "ve", "re"):
        two |= (first == ord(letters[0])) & (second == ord(letters[1]))
    begins[at[one | two] + 1] = False
    begins[at[one] + 2] = True
    begins[at[two] + 3] = True


def as_bytes(text: str, encoding: str = "utf-8") -> bytes:
    """`text` encoded; TokenizerError for a lone surrogate, which is not text."""
    try:
        return text.encode(encoding)
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"The text holds a lone surrogate (U+{ord(text[error.start]):04X}), which is not "
            "Unicode text; decode your input with errors='replace' first."
        ) from None


# -- long texts in pieces -------------------------------------------------------------------------

# Where a text can be cut and keeps its words: GPT-2's pattern joins a blank or a line end to what
# stands before it only if that is white space too. Of another pattern nothing is known.
_SAFE = re.compile(r"\S(?=[ \n])")


def batches(texts: Iterable[str], can_cut: bool) -> Iterator[tuple[list[str], list[int]]]:
    """Lists of pieces of `texts`, together about BATCH characters, and each piece's text."""
    pieces, numbers, filled = [], [], 0
    if isinstance(texts, str):
        raise TokenizerError("One text was given where several are expected; put it in a list.")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TokenizerError(f"Text number {number} is a {type(text).__name__}, not a string.")
        start, end = 0, -1
        while end < len(text):  # once for an empty text too
            near = max(start + BATCH - filled - 1, 0)
            safe = _SAFE.search(text, near) if can_cut else None
            end = safe.end() if safe else len(text)
            pieces.append(text[start:end])
            numbers.append(number)
            filled += end - start
            start = end
            if filled >= BATCH:
                yield pieces, numbers
                pieces, numbers, filled = [], [], 0
    if pieces:
        yield pieces, numbers


# -- equal words ----------------------------------------------------------------------------------


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


_LOW_BYTES = np.array([256**n - 1 for n in range(9)], np.uint64)  # masks of 0 to 8 bytes
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ over the golden ratio (Knuth, TAOCP 3, §6.4)


def _find_equal(words: Words, members: np.ndarray, width: int, stands_for: np.ndarray) -> None:
    """Let one of all equal words among `members`, of at most `width` bytes, stand for the others.

    A hash table without probing: all words write their number into their slot, and one of them
    stays. Words that equal it, byte for byte, are settled; the others try again with another hash.
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
    """The distinct words of all parts, and how often each occurs: int64 (words,)."""
    known, counts = Words.join([]), np.zeros(0, np.int64)
    for part in parts:
        new, number = distinct(part)
        occurs = np.concatenate((counts, np.bincount(number, minlength=len(new))))
        known, number = distinct(Words.join([known, new]))
        counts = np.zeros(len(known), np.int64)
        np.add.at(counts, number, occurs)
    return known, counts
