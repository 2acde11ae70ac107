"""Long texts and files in pieces that have the words of the whole, in bounded memory.

GPT-2's pattern joins a blank or a line end to what stands before it only if that is white space
too. So between something else and a blank, a text can be cut and keeps its words. With another
pattern nothing is known of such places, and no text is cut.
"""

import codecs
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from llmlite.errors import TokenizerError

BATCH = 1 << 20  # characters that are cut into words at once: enough to hide a NumPy call's cost


def batches(texts: Iterable[str], can_cut: bool) -> Iterator[tuple[list[str], list[int]]]:
    """Yield lists of pieces of `texts`, together about BATCH characters, and each piece's text."""
    pieces, numbers, filled = [], [], 0
    if isinstance(texts, str):
        raise TokenizerError("One text was given where several are expected; put it in a list.")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TokenizerError(f"Text number {number} is a {type(text).__name__}, not a string.")
        start, end = 0, -1
        while end < len(text):  # once for an empty text too
            end = _safe_end(text, start + BATCH - filled) if can_cut else len(text)
            pieces.append(text[start:end])
            numbers.append(number)
            filled += end - start
            start = end
            if filled >= BATCH:
                yield pieces, numbers
                pieces, numbers, filled = [], [], 0
    if pieces:
        yield pieces, numbers


def read(path: str | Path, can_cut: bool) -> Iterator[str]:
    """Yield the text of a file in pieces; TokenizerError if it cannot be read or is not UTF-8."""
    decoder, rest, done, pending = codecs.getincrementaldecoder("utf-8")(), "", 0, 0
    try:
        with open(path, "rb") as file:
            while data := file.read(BATCH):
                pending = len(decoder.getstate()[0])  # bytes of a character that is cut in two
                rest += decoder.decode(data)
                done += len(data)
                end = _last_safe_end(rest) if can_cut else 0
                if end:
                    yield rest[:end]
                    rest = rest[end:]
            pending = len(decoder.getstate()[0])
            rest += decoder.decode(b"", final=True)
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        at = done - pending + error.start
        raise TokenizerError(
            f"{path} is not UTF-8: byte {at} is 0x{error.object[error.start]:02x}; convert the "
            "file to UTF-8."
        ) from None
    if rest:
        yield rest


_SAFE = re.compile(r"\S(?=[ \n])")


def _safe_end(text: str, near: int) -> int:
    """The first place at or after `near` where `text` can be cut."""
    found = _SAFE.search(text, max(near - 1, 0))
    return found.end() if found else len(text)


def _last_safe_end(text: str) -> int:
    """The last place where `text`, of which more is to come, can be cut; 0 if there is none."""
    end = len(text)
    while end > 0:
        end = max(text.rfind(" ", 0, end), text.rfind("\n", 0, end))
        if end > 0 and not text[end - 1].isspace():
            return end
    return 0
