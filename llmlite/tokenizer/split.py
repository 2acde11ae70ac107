"""Text cut into words by GPT-2's pattern, about a million characters at a time.

Knows nothing about tokens. A word begins where the kind of character changes, and that is a
comparison of arrays.

Which characters are letters, numbers or white space is read from a table of Unicode 16.0, the
version that HF tokenizers and tiktoken have compiled in, and not left to the version of a library:
newer ones have more letters, and a text would get other tokens after an update.
"""

import re
from functools import cache
from pathlib import Path

import numpy as np
import regex

from llmlite.errors import TokenizerError
from llmlite.tokenizer.words import PADDING, Words

# Radford et al., 2019: contractions, letters, numbers, other signs (each with the space before it),
# then white space, of which the last goes with what follows.
GPT2_SPLIT_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

OTHER, LETTER, NUMBER, SPACE, END = range(5)
END_CODE = 0x110000  # stands before, between and after texts; no character has this code


# -- which character is what ----------------------------------------------------------------------


@cache
def _ranges() -> list[tuple[int, int, int]]:
    """(first, last, kind) of all letters, numbers and white space."""
    kinds = {"letter": LETTER, "number": NUMBER, "space": SPACE}
    text = Path(__file__).with_name("unicode-16.0.txt").read_text(encoding="utf-8")
    found = re.findall(r"^([0-9A-F]+)\.\.([0-9A-F]+) (\w+)$", text, re.MULTILINE)
    return [(int(first, 16), int(last, 16), kinds[kind]) for first, last, kind in found]


@cache
def _kind_of_code() -> np.ndarray:
    """The kind of every code point and of END_CODE, uint8 (0x110001,)."""
    kinds = np.full(END_CODE + 1, OTHER, np.uint8)
    for first, last, kind in _ranges():
        kinds[first : last + 1] = kind
    kinds[END_CODE] = END
    return kinds


@cache
def gpt2_pattern() -> re.Pattern:
    r"""GPT2_SPLIT_PATTERN with its \p{L}, \p{N} and \s written out as the ranges of the table."""
    sets = {}
    for kind, name in ((LETTER, r"\p{L}"), (NUMBER, r"\p{N}"), (SPACE, r"\s")):
        sets[name] = "".join(
            f"\\U{first:08X}-\\U{last:08X}" for first, last, of_kind in _ranges() if of_kind == kind
        )
    letter, number, space = sets.values()
    return re.compile(
        rf"'(?:[sdmt]|ll|ve|re)| ?[{letter}]+| ?[{number}]+| ?[^{space}{letter}{number}]+"
        rf"|[{space}]+(?![^{space}])|[{space}]+"
    )


# -- cutting --------------------------------------------------------------------------------------


class Splitter:
    """Cuts text into words by a pattern: fast for GPT-2's, by the `regex` module for any other."""

    def __init__(self, pattern: str):
        self.is_gpt2 = pattern == GPT2_SPLIT_PATTERN
        try:
            compiled = gpt2_pattern() if self.is_gpt2 else regex.compile(pattern)
        except (regex.error, TypeError) as error:
            raise TokenizerError(f"The split pattern {pattern!r} is not valid: {error}.") from None
        self._pattern = compiled

    def find(self, text: str) -> list[str]:
        """The words of `text`, one by one."""
        if self.is_gpt2:
            return self._pattern.findall(text)
        # Whatever groups a pattern has, and even if it can match nothing.
        return [match[0] for match in self._pattern.finditer(text) if match[0]]

    def cut(self, texts: list[str]) -> tuple[Words, np.ndarray]:
        """The words of all `texts` in their order, and how many each text has."""
        if self.is_gpt2:
            return cut(texts)
        found = [[utf8(word) for word in self.find(text)] for text in texts]
        words = [word for words in found for word in words]
        lengths = np.array([len(word) for word in words], np.int64)
        return Words.of(b"".join(words), lengths), np.array([len(words) for words in found])


def cut(texts: list[str]) -> tuple[Words, np.ndarray]:
    """The words of all `texts` by GPT2_SPLIT_PATTERN, and how many each text has.

    Equal to `gpt2_pattern().findall` on each text. Raises TokenizerError for a lone surrogate.
    """
    mark = END_CODE.to_bytes(4, "little")
    code = np.frombuffer(mark + b"".join(utf32(text) + mark for text in texts), "<u4")
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

    width = (code > 0x7F).view(np.uint8) + (code > 0x7FF) + (code > 0xFFFF) + np.uint8(1)
    width[marks] = 0
    offset = np.cumsum(width, dtype=np.int64)  # bytes up to and with each character
    at = np.flatnonzero(begins)
    own = width.take(at)
    starts = offset.take(at) - own
    real = own > 0
    words = Words(
        np.frombuffer("".join(texts).encode() + bytes(PADDING), np.uint8),
        starts[real],
        np.diff(starts, append=starts[-1])[real],
    )
    return words, np.diff(np.flatnonzero(~real)) - 1


def _keep_contractions(code: np.ndarray, kind: np.ndarray, begins: np.ndarray) -> None:
    """Put right what follows an apostrophe: 's, 'd, 'm, 't, 'll, 've and 're are words.

    Only where the apostrophe begins a word: after a blank, or after another sign, it goes with
    those.
    """
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


def utf32(text: str) -> bytes:
    """`text` as 4 bytes a character; TokenizerError for a lone surrogate, which is not text."""
    return _encoded(text, "utf-32-le")


def utf8(text: str) -> bytes:
    """`text` as UTF-8; TokenizerError for a lone surrogate, which is not text."""
    return _encoded(text, "utf-8")


def _encoded(text: str, encoding: str) -> bytes:
    try:
        return text.encode(encoding)
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"The text holds a lone surrogate (U+{ord(text[error.start]):04X}), which is not "
            "Unicode text; decode your input with errors='replace' first."
        ) from None
