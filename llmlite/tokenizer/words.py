"""Text cut into words, and many words as one array: which are equal, and how often each occurs. A
Python object for each of two million would cost the time, so a word is a slice of one buffer."""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np

from llmlite.files import TokenizerError

END_OF_TEXT = "<|endoftext|>"
# GPT-2's (Radford et al., 2019): contractions, letters, numbers, other signs (each with the space
# before it), then white space, of which the last goes with what follows.
GPT2_SPLIT_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

OTHER, LETTER, NUMBER, SPACE, END = range(5)
END_CODE = 0x110000  # stands before, between and after texts; no character has this code
PADDING = 8  # zero bytes after the last word, so that 8 bytes can be read from any byte
LONG = 64  # bytes; longer words are rare, and are compared one by one
BATCH = 1 << 20  # characters that are cut into words at once: enough to hide a NumPy call's cost


class Words:
    """Word i is data[starts[i] : starts[i] + lengths[i]], in UTF-8; each begins where the one
    before it ends. starts, lengths: int64 (words,)."""

    def __init__(self, data: bytes, lengths: np.ndarray):
        self.padded = np.frombuffer(data + bytes(PADDING), np.uint8)
        self.data = self.padded[:-PADDING]
        self.starts, self.lengths = lengths.cumsum() - lengths, lengths

    def __len__(self) -> int:
        return len(self.lengths)

    @classmethod
    def join(cls, parts: list["Words"]) -> "Words":
        lengths = np.concatenate([np.zeros(0, np.int64), *(part.lengths for part in parts)])
        return cls(b"".join(part.data for part in parts), lengths)


def ragged(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """values[starts[0] : starts[0] + lengths[0]], then the same for 1, 2, …, in one array."""
    ends = lengths.cumsum()
    index = np.repeat(starts - ends + lengths, lengths)
    index += np.arange(len(index))
    return values.take(index)


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

    # Bytes in UTF-8, of which a mark has none and so is no word:
    width = (code > 0x7F).view(np.uint8) + (code > 0x7FF) + (code > 0xFFFF) + np.uint8(1)
    width[marks] = 0
    lengths = np.add.reduceat(width, np.flatnonzero(begins), dtype=np.int64)
    real = lengths > 0
    words = Words("".join(texts).encode(), lengths[real])
    return words, np.diff(np.flatnonzero(~real)) - 1


def _keep_contractions(code: np.ndarray, kind: np.ndarray, begins: np.ndarray) -> None:
    """Put right what follows an apostrophe: 's, 'd, 'm, 't, 'll, 've and 're are words."""
    # Only where the apostrophe begins a word: after a blank, or another sign, it goes with those.
    at = np.flatnonzero(code == ord("'"))
    at = at[(kind[at - 1] != OTHER) & (code[at - 1] != ord(" "))]
    first, second = code[at + 1], code[np.minimum(at + 2, len(code) - 1)]
    one = np.isin(first, [ord(letter) for letter in "sdmt"])
    pairs = [ord(a) << 32 | ord(b) for a, b in ("ll", "ve", "re")]
    two = np.isin(first.astype(np.int64) << 32 | second, pairs)
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


# Where a text can be cut and keeps its words: GPT-2's pattern joins a blank or a line end to what
# stands before it only if that is white space too.
_SAFE = re.compile(r"\S(?=[ \n])")


def batches(texts: Iterable[str]) -> Iterator[tuple[list[str], list[int]]]:
    """Lists of pieces of `texts`, together about BATCH characters, and each piece's text."""
    pieces, numbers, filled = [], [], 0
    if isinstance(texts, str):
        raise TokenizerError("One text was given where several are expected; put it in a list.")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TokenizerError(f"Text number {number} is a {type(text).__name__}, not a string.")
        start, end = 0, -1
        while end < len(text):  # once for an empty text too
            safe = _SAFE.search(text, max(start + BATCH - filled - 1, 0))
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


# All but the first n bytes of a number of eight, n from 0 to 8; 0xFF is no byte of UTF-8.
_BEHIND = np.array([2**64 - 256**n for n in range(9)], np.uint64)


def distinct(words: Words) -> tuple[Words, np.ndarray]:
    """The words without repetitions, and the number of each word among them, int64 (words,)."""
    import pandas as pd  # takes a while, and a prompt does not need it

    starts, lengths = words.starts, words.lengths
    bytes_at = np.ndarray(len(words.data) + 1, "<u8", words.padded, 0, 1)  # eight, from any byte
    # The first eight bytes as one number: of words that have no more, equal if the word is.
    number, known = pd.factorize(bytes_at[starts] | _BEHIND.take(np.minimum(lengths, 8)))
    n, longer = len(known), np.arange(len(words))
    # Then the next eight, of words that have them.
    for offset in range(8, min(LONG, lengths.max(initial=0)), 8):
        longer = longer[lengths.take(longer) > offset]
        inside = np.minimum(lengths.take(longer) - offset, 8)
        lane, _ = pd.factorize(bytes_at[starts.take(longer) + offset] | _BEHIND[inside])
        both, known = pd.factorize(number.take(longer) << 32 | lane)
        number[longer] = n + both
        n += len(known)
    seen: dict[bytes, int] = {}
    for i in np.flatnonzero(lengths > LONG):
        word = words.data[starts[i] : starts[i] + lengths[i]].tobytes()
        number[i] = n + seen.setdefault(word, len(seen))
    one = np.full(n + len(seen), -1)  # any word of each number; -1 where longer words left it
    one[number] = np.arange(len(words))
    used = one >= 0
    one = one[used]
    data = ragged(words.data, starts[one], lengths[one]).tobytes()
    return Words(data, lengths[one]), (used.cumsum() - 1).take(number)


def tally(texts: Iterable[str]) -> tuple[Words, np.ndarray]:
    """The distinct words of all texts, and how often each occurs: int64 (words,)."""
    found, counts = [], [np.zeros(0)]
    for pieces, _ in batches(texts):
        words, number = distinct(cut(pieces)[0])
        found.append(words)
        counts.append(np.bincount(number))
    words, number = distinct(Words.join(found))
    return words, np.bincount(number, np.concatenate(counts), len(words)).astype(np.int64)
