"""Byte-level byte-pair encoding from scratch (§III.B): train, encode, decode, save, load.

Knows nothing about corpora, splits or models: text goes in, integers come out. With bytes as the
base alphabet no text is out of vocabulary.

Training (Sennrich et al., 2016) starts from single bytes and joins the most frequent pair of
neighbouring tokens again and again; each join is a *merge* and adds one token. Words, as cut by
GPT-2's split pattern, bound the merges, so it is enough to keep one copy of each distinct word
with its count, the count of each pair, and the words that each pair occurs in.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from itertools import pairwise
from pathlib import Path

import numpy as np
import regex

from llmlite.config import fingerprint
from llmlite.errors import TokenizerError
from llmlite.files import replacing
from llmlite.progress import tqdm

# Radford et al., 2019: contractions, letters, digits, other signs (each with the space before it),
# then white space.
GPT2_SPLIT_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
END_OF_TEXT = "<|endoftext|>"
FORMAT = "llmlite-bpe-1"

# Ids 0..255 are the bytes in GPT-2's order: those that print first. Ties between pairs fall to
# the smaller ids, so this order decides them; it is the one that HF tokenizers uses as well.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTE_ORDER = bytes(_PRINTABLE + sorted(set(range(256)) - set(_PRINTABLE)))
_ID_OF_BYTE = bytes(BYTE_ORDER.index(byte) for byte in range(256))

Pair = tuple[int, int]


class BPETokenizer:
    """A vocabulary: 256 bytes, then one token a merge, then the special token <|endoftext|>.

    Encoding and decoding are pure functions of `merges`, the ordered list of pairs of ids.
    """

    def __init__(self, merges: list[Pair], pattern: str = GPT2_SPLIT_PATTERN):
        self.merges = [tuple(pair) for pair in merges]
        self.pattern = pattern
        self._split = regex.compile(pattern).findall
        self._rank = {pair: rank for rank, pair in enumerate(self.merges)}
        self.token_bytes = [bytes([byte]) for byte in BYTE_ORDER]
        for left, right in self.merges:
            self.token_bytes.append(self.token_bytes[left] + self.token_bytes[right])
        self.eot_id = len(self.token_bytes)
        self.token_bytes.append(END_OF_TEXT.encode())
        self.vocab_size = len(self.token_bytes)
        self.fingerprint = fingerprint(FORMAT, pattern, self.merges)
        self._cache: dict[str, list[int]] = {}

    # -- training -----------------------------------------------------------------------------

    @classmethod
    def train(
        cls,
        text: str | Iterable[str],
        vocab_size: int,
        pattern: str = GPT2_SPLIT_PATTERN,
        progress: bool = False,
    ) -> "BPETokenizer":
        """Learn `vocab_size - 257` merges from `text`, a string or an iterable of strings.

        The most frequent pair is merged first; among equals the one with the smaller ids, so the
        result depends on the text alone. Raises TokenizerError if the text is too small.
        """
        n_merges = vocab_size - 257
        if n_merges < 0:
            raise TokenizerError(
                f"A vocabulary of {vocab_size} is too small: 256 bytes and {END_OF_TEXT} need 257."
            )
        split = regex.compile(pattern).findall
        counts = Counter()
        for part in [text] if isinstance(text, str) else text:
            counts.update(split(part))
        words = [list(_encode_utf8(word).translate(_ID_OF_BYTE)) for word in counts]
        merges = _learn_merges(words, list(counts.values()), n_merges, progress)
        if len(merges) < n_merges:
            raise TokenizerError(
                f"The text allows only {len(merges)} merges, a vocabulary of {len(merges) + 257}; "
                f"{vocab_size} was asked for: use more text or a smaller vocab_size."
            )
        return cls(merges, pattern)

    # -- encoding and decoding ----------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`. Special tokens inside it are text like any other."""
        ids, cache = [], self._cache
        for word in self._split(text):
            if word not in cache:
                cache[word] = self._encode_word(word)
            ids += cache[word]
        return ids

    def encode_to_array(self, text: str) -> np.ndarray:
        """`encode` as an array of the smallest unsigned type that holds the vocabulary."""
        return np.array(self.encode(text), dtype=self.dtype)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint16 if self.vocab_size <= 2**16 else np.uint32)

    def _encode_word(self, word: str) -> list[int]:
        """Apply the merges to one word, the earliest learnt first."""
        ids = list(_encode_utf8(word).translate(_ID_OF_BYTE))
        while len(ids) > 1:
            pair = min(pairwise(ids), key=lambda p: self._rank.get(p, _NEVER))
            if pair not in self._rank:
                break
            ids = _merge(ids, pair, 256 + self._rank[pair])
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of any ids; bytes that are not UTF-8 become replacement characters (U+FFFD)."""
        ids = [int(i) for i in ids]
        wrong = next((i for i in ids if not 0 <= i < self.vocab_size), None)
        if wrong is not None:
            raise TokenizerError(
                f"Token id {wrong} is outside this vocabulary (0 to {self.vocab_size - 1})."
            )
        return b"".join(self.token_bytes[i] for i in ids).decode("utf-8", errors="replace")

    # -- files --------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as JSON, aside first and then renamed."""
        content = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "vocab_size": self.vocab_size,
            "special_tokens": {END_OF_TEXT: self.eot_id},
            "pattern": self.pattern,
            "merges": self.merges,
        }
        with replacing(path) as aside:
            aside.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "BPETokenizer":
        """Read what `save` wrote; TokenizerError names a missing, foreign or damaged file."""
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise TokenizerError(f"There is no tokenizer at {path}; make one first.") from None
        except (OSError, ValueError) as error:
            raise TokenizerError(f"{path} cannot be read as a tokenizer: {error}.") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise TokenizerError(f"{path} is not an llmlite tokenizer (format {FORMAT}).")
        merges, pattern = content.get("merges"), content.get("pattern")
        if fingerprint(FORMAT, pattern, merges) != content.get("fingerprint"):
            raise TokenizerError(
                f"{path} is damaged or was edited: its content does not match its fingerprint; "
                "train it again or restore the file."
            )
        return cls(merges, pattern)


_NEVER = float("inf")


def _encode_utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"The text holds a lone surrogate (U+{ord(text[error.start]):04X}), which is not "
            "Unicode text; decode your input with errors='replace' first."
        ) from None


def _merge(ids: list[int], pair: Pair, new: int) -> list[int]:
    """Replace each occurrence of `pair` in `ids`, from the left, by `new`."""
    out, i = [], 0
    while i < len(ids):
        if i + 1 < len(ids) and ids[i] == pair[0] and ids[i + 1] == pair[1]:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


def _learn_merges(
    words: list[list[int]], counts: list[int], n_merges: int, progress: bool
) -> list[Pair]:
    """The merges in order. `words` holds distinct words as ids and is rewritten in place.

    The heap is lazy: entries whose count is out of date are corrected when they come to the top,
    so a merge costs only the words that hold its pair.
    """
    pair_count: Counter[Pair] = Counter()
    where: dict[Pair, set[int]] = defaultdict(set)
    for w, (word, count) in enumerate(zip(words, counts, strict=True)):
        for pair in pairwise(word):
            pair_count[pair] += count
            where[pair].add(w)
    heap = [(-count, pair) for pair, count in pair_count.items()]
    heapify(heap)

    merges: list[Pair] = []
    bar = tqdm(total=n_merges, desc="Merges", unit="merge", disable=not progress)
    while heap and len(merges) < n_merges:
        negative, pair = heappop(heap)
        count = pair_count[pair]
        if count != -negative:
            if count > 0:
                heappush(heap, (-count, pair))
            continue
        new = 256 + len(merges)
        merges.append(pair)
        changed: Counter[Pair] = Counter()
        for w in where.pop(pair):
            old = words[w]
            words[w] = merged = _merge(old, pair, new)
            for neighbour in pairwise(old):
                changed[neighbour] -= counts[w]
            for neighbour in pairwise(merged):
                changed[neighbour] += counts[w]
                where[neighbour].add(w)
        for neighbour, difference in changed.items():
            pair_count[neighbour] += difference
            if difference > 0:
                heappush(heap, (-pair_count[neighbour], neighbour))
        del pair_count[pair]
        bar.update()
    bar.close()
    return merges
