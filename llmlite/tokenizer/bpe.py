"""The tokenizer that a user calls: train, encode, decode, save, load, and pass on (§III.B).

A short text is encoded as a textbook does it, word by word. A long one goes the same way as arrays:
all its words at once, each distinct word once, with the same ids.
"""

import codecs
import json
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from llmlite.config import fingerprint
from llmlite.errors import TokenizerError
from llmlite.files import replacing
from llmlite.progress import tqdm
from llmlite.tokenizer import interchange
from llmlite.tokenizer.decode import NOT_IDS, Decoder
from llmlite.tokenizer.learn import BYTE_ORDER, ID_OF_BYTE, Pair, learn_merges
from llmlite.tokenizer.merge import Merger, merge_word
from llmlite.tokenizer.pieces import batches, read
from llmlite.tokenizer.split import GPT2_SPLIT_PATTERN, Splitter, utf8
from llmlite.tokenizer.words import PADDING, Words, distinct, ragged, tally

END_OF_TEXT = "<|endoftext|>"
FORMAT = "llmlite-bpe-1"
SHORT = 4_000  # characters; below, word by word is faster than NumPy's calls are
CACHE = 1 << 16  # words whose ids are kept from one short text to the next
CHUNK = 1 << 15  # tokens that are decoded at once: their arrays stay in the processor's cache

Text = str | Path | Iterable[str | Path]


class BPETokenizer:
    """A vocabulary: 256 bytes, then one token a merge, then the special token <|endoftext|>.

    Encoding and decoding are pure functions of `merges`, the ordered list of pairs of ids, and of
    `pattern`, which must match every character for a text to survive unchanged.
    """

    def __init__(self, merges: list[Pair], pattern: str = GPT2_SPLIT_PATTERN):
        self.merges = [tuple(pair) for pair in merges]
        self.pattern = pattern
        self.token_bytes = [bytes([byte]) for byte in BYTE_ORDER]
        for pair in self.merges:
            if not all(0 <= token < len(self.token_bytes) for token in pair):
                raise TokenizerError(
                    f"Merge {len(self.token_bytes) - 255} joins the tokens {pair}, which are not "
                    "both there yet."
                )
            self.token_bytes.append(self.token_bytes[pair[0]] + self.token_bytes[pair[1]])
        if len(set(self.merges)) < len(self.merges):
            raise TokenizerError("The same pair is merged twice; the merges are damaged.")
        self.eot_id = len(self.token_bytes)
        self.token_bytes.append(END_OF_TEXT.encode())
        self.vocab_size = len(self.token_bytes)
        self.fingerprint = fingerprint(FORMAT, pattern, self.merges)
        self._splitter = Splitter(pattern)
        self._cache: dict[str, list[int]] = {}

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned type that holds every id."""
        return np.dtype(np.uint16 if self.vocab_size <= 2**16 else np.uint32)

    def truncate(self, vocab_size: int) -> "BPETokenizer":
        """The tokenizer that training would have given for a smaller vocabulary."""
        if not 257 <= vocab_size <= self.vocab_size:
            raise TokenizerError(
                f"A vocabulary of {self.vocab_size} cannot be cut to {vocab_size}; allowed: 257 to "
                f"{self.vocab_size}."
            )
        return BPETokenizer(self.merges[: vocab_size - 257], self.pattern)

    # -- training -----------------------------------------------------------------------------

    @classmethod
    def train(
        cls,
        text: Text,
        vocab_size: int,
        pattern: str = GPT2_SPLIT_PATTERN,
        min_frequency: int = 1,
        progress: bool = False,
    ) -> "BPETokenizer":
        """Learn `vocab_size - 257` merges from `text`.

        `text` is a string, a Path (a file of UTF-8, read in pieces), or an iterable of these, each
        a text of its own. The most frequent pair is merged first; among equals the one with the
        smaller ids, so the result depends on the text alone. With a `min_frequency` above 1 the
        vocabulary may end smaller: pairs that occur less often are not merged. Raises
        TokenizerError if the text is empty, too small or not Unicode.
        """
        n_merges = vocab_size - 257
        if n_merges < 0:
            raise TokenizerError(
                f"A vocabulary of {vocab_size} is too small: 256 bytes and {END_OF_TEXT} need 257."
            )
        splitter = Splitter(pattern)
        sources = [text] if isinstance(text, str | Path) else text
        with tqdm(
            total=_size(sources) if progress else None,
            desc="Count words",
            unit="B",
            unit_scale=True,
            disable=not progress,
        ) as bar:
            parts = _words(splitter, _texts(splitter, sources), bar.update)
            words, counts = tally(words for words, _, _ in parts)
        if not len(words):
            raise TokenizerError(
                "There is no text to train on: it is empty; check where it is from."
            )
        with tqdm(total=n_merges, desc="Merges", unit="merge", disable=not progress) as bar:
            merges = learn_merges(words, counts, n_merges, min_frequency, bar.update)
        if len(merges) < n_merges and min_frequency <= 1:
            raise TokenizerError(
                f"The text allows only {len(merges)} merges, a vocabulary of {len(merges) + 257}; "
                f"{vocab_size} was asked for: use more text or a smaller vocab_size."
            )
        return cls(merges, pattern)

    # -- encoding -----------------------------------------------------------------------------

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Token ids of `text`. <|endoftext|> in it is text like any other, unless it is allowed."""
        if not isinstance(text, str):
            raise TokenizerError(f"`encode` takes a string, not a {type(text).__name__}.")
        if allow_special:
            first, *others = self.encode_batch(text.split(END_OF_TEXT))
            return first + [i for ids in others for i in (self.eot_id, *ids)]
        if len(text) > SHORT:
            return self._as_list(self.encode_to_array(text))
        ids, cache = [], self._cache
        for word in self._splitter.find(text):
            found = cache.get(word)
            if found is None:
                if len(cache) >= CACHE:
                    cache.clear()
                found = cache[word] = self._encode_word(word)
            ids += found
        return ids

    def _encode_word(self, word: str) -> list[int]:
        """Apply the merges to one word, the earliest learnt first."""
        return merge_word(list(utf8(word).translate(ID_OF_BYTE)), self._merger.rank)

    def encode_to_array(self, text: str, progress: bool = False) -> np.ndarray:
        """`encode` as an array (tokens,) of the smallest unsigned type that holds every id."""
        return self._encode([text], progress)[0]

    def encode_batch(self, texts: Iterable[str], progress: bool = False) -> list[list[int]]:
        """`encode` for each text, together in one go."""
        ids, ends = self._encode(texts, progress)
        ids, bounds = self._as_list(ids), [0, *ends.tolist()]
        return [ids[start:end] for start, end in pairwise(bounds)]

    def encode_batch_to_arrays(
        self, texts: Iterable[str], progress: bool = False
    ) -> list[np.ndarray]:
        """`encode_to_array` for each text, together in one go."""
        ids, ends = self._encode(texts, progress)
        return np.split(ids, ends[:-1]) if len(ends) else []

    def _as_list(self, ids: np.ndarray) -> list[int]:
        """`ids.tolist()`, but each id is one Python object however often it occurs."""
        return self._integers.take(ids).tolist()

    @cached_property
    def _integers(self) -> np.ndarray:
        return np.array(range(self.vocab_size), dtype=object)

    def _encode(self, texts: Iterable[str], progress: bool) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all `texts`, and where those of each text end."""
        parts, numbers, words_in, text_of = [], [], [], []
        with tqdm(desc="Encode", unit="B", unit_scale=True, disable=not progress) as bar:
            for words, n_words, owners in _words(self._splitter, texts, bar.update):
                words, number = distinct(words)
                parts.append(Words.join([words]))  # a small buffer of its own
                numbers.append(number)
                words_in.append(n_words)
                text_of += owners
        offsets = np.cumsum([0] + [len(part) for part in parts])
        words = Words.join(parts)
        if 2 * len(words) < sum(map(len, numbers)):  # else hardly a word occurs twice
            words, number_of = distinct(words)
        else:
            number_of = np.arange(len(words))
        ids, starts, sizes = self._merger.merge_words(words)
        ids = ids.astype(self.dtype)

        encoded, n_ids = [np.zeros(0, self.dtype)], [np.zeros(0, np.int64)]
        for number, n_words, offset in zip(numbers, words_in, offsets, strict=False):
            word = number_of[offset + number]
            encoded.append(ragged(ids, starts[word], sizes[word]))
            ends = np.concatenate(([0], np.cumsum(sizes[word])))
            n_ids.append(np.diff(ends[np.concatenate(([0], np.cumsum(n_words)))]))
        n_texts = text_of[-1] + 1 if text_of else 0
        in_text = np.zeros(n_texts, np.int64)
        np.add.at(in_text, text_of, np.concatenate(n_ids))
        return np.concatenate(encoded), in_text.cumsum()

    @cached_property
    def _merger(self) -> Merger:
        return Merger(self.merges)

    # -- decoding -----------------------------------------------------------------------------

    def decode(self, ids: Iterable[int]) -> str:
        """The text of any ids; bytes that are not UTF-8 become replacement characters (U+FFFD).

        `ids` is a list, an array, a tensor or any iterable of integers. Raises TokenizerError for
        one that is not in the vocabulary.
        """
        if hasattr(ids, "__array__"):
            ids = np.asarray(ids)
        elif isinstance(ids, Iterable) and not isinstance(ids, list):
            ids = list(ids)
        if not isinstance(ids, list) and getattr(ids, "ndim", 0) == 0:
            raise TokenizerError(NOT_IDS)
        utf8_decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        parts = [
            utf8_decoder.decode(self._decoder(ids[start : start + CHUNK]))
            for start in range(0, len(ids), CHUNK)
        ]
        return "".join([*parts, utf8_decoder.decode(b"", final=True)])

    @cached_property
    def _decoder(self) -> Decoder:
        return Decoder(self.token_bytes)

    # -- files and other libraries ------------------------------------------------------------

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

    @classmethod
    def from_gpt2(cls, vocab: str | Path, merges: str | Path) -> "BPETokenizer":
        """Read GPT-2's form: `vocab.json` and `merges.txt`. The ids are those of the files."""
        return cls(interchange.read_gpt2(vocab, merges, END_OF_TEXT))

    @classmethod
    def from_tokenizer_json(cls, path: str | Path) -> "BPETokenizer":
        """Read what `save_tokenizer_json` wrote, or transformers, or GPT-2's own tokenizer.json."""
        return cls(*interchange.read_tokenizer_json(path, END_OF_TEXT))

    def save_tokenizer_json(self, path: str | Path) -> None:
        """Write a `tokenizer.json`, which HF tokenizers and transformers load: the same ids."""
        with replacing(path) as aside:
            content = interchange.tokenizer_json(self.merges, self.pattern, END_OF_TEXT)
            aside.write_text(content, encoding="utf-8")

    def to_tokenizers(self):
        """The same tokenizer as a `tokenizers.Tokenizer`, for `PreTrainedTokenizerFast` as well."""
        content = interchange.tokenizer_json(self.merges, self.pattern, END_OF_TEXT)
        return interchange.imported("tokenizers").Tokenizer.from_str(content)

    def to_tiktoken(self):
        """The same tokenizer as a `tiktoken.Encoding`."""
        return interchange.imported("tiktoken").Encoding(
            f"llmlite-{self.fingerprint}",
            pat_str=self.pattern,
            mergeable_ranks={token: i for i, token in enumerate(self.token_bytes[: self.eot_id])},
            special_tokens={END_OF_TEXT: self.eot_id},
            explicit_n_vocab=self.vocab_size,
        )


def _texts(splitter: Splitter, sources: Iterable[str | Path]) -> Iterator[str]:
    for source in sources:
        if isinstance(source, Path):
            yield from read(source, splitter.is_gpt2)
        else:
            yield source


def _size(sources: Iterable[str | Path]) -> int | None:
    """Bytes of all sources, or None for an iterator, which can be gone through only once."""
    if isinstance(sources, Iterator):
        return None
    size = 0
    for source in sources:  # what is missing, or no text, is refused when its turn comes
        if isinstance(source, str):
            size += len(source.encode("utf-8", "surrogatepass"))
        elif isinstance(source, Path) and source.exists():
            size += source.stat().st_size
    return size


def _words(
    splitter: Splitter, texts: Iterable[str], advance: Callable[[int], None]
) -> Iterator[tuple[Words, np.ndarray, list[int]]]:
    """The words of each batch of pieces of `texts`, how many each piece has, and its text."""
    for pieces, owners in batches(texts, splitter.is_gpt2):
        words, n_words = splitter.cut(pieces)
        yield words, n_words, owners
        advance(len(words.data) - PADDING)
