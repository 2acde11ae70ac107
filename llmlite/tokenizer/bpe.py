"""The tokenizer that a user calls: train, encode, decode, save, load, and pass on (§III.B)."""

import json
from collections.abc import Iterable
from operator import index
from pathlib import Path

import numpy as np

from llmlite.config import fingerprint
from llmlite.files import MOST_BYTES, TokenizerError, one_line, read_json, replacing, tqdm
from llmlite.tokenizer.learn import BYTE_CHARACTERS, BYTE_ORDER, ID_OF_BYTE, Pair, learn_merges
from llmlite.tokenizer.merge import Merger, merge_word
from llmlite.tokenizer.words import END_OF_TEXT, GPT2_SPLIT_PATTERN, as_bytes, gpt2_pattern, tally

FORMAT = "llmlite-bpe-1"
KEPT = 1 << 16  # words whose ids are kept from one short text to the next: twice as fast
SHORT = 4_000  # characters; below, word by word is faster than NumPy's calls are


class BPETokenizer:
    """A vocabulary: 256 bytes, one token for each of `merges`, which are pairs of ids in their
    order, and the special token <|endoftext|>."""

    def __init__(self, merges: list[Pair]):
        self.merges = [tuple(pair) for pair in merges]
        self.token_bytes, size = [bytes([byte]) for byte in BYTE_ORDER], 0
        for n, (left, right) in enumerate(self.merges, 1):
            if not (0 <= left < 255 + n and 0 <= right < 255 + n):
                pair = f"({left}, {right})"
                raise TokenizerError(f"Merge {n} joins {pair}, which are not both there yet.")
            size += len(self.token_bytes[left]) + len(self.token_bytes[right])
            if size > MOST_BYTES:  # as 43 merges, each of two tokens made last, would be 2⁴³ bytes
                raise TokenizerError(f"Merge {n} ends tokens of more than {MOST_BYTES:,} bytes.")
            self.token_bytes.append(self.token_bytes[left] + self.token_bytes[right])
        self._merger = Merger(self.merges)
        if len(self._merger.rank) < len(self.merges):
            raise TokenizerError("The same pair is merged twice; the merges are damaged.")
        self.eot_id = len(self.token_bytes)
        self.token_bytes.append(END_OF_TEXT.encode())
        self.vocab_size = len(self.token_bytes)
        self.dtype = np.dtype(np.uint16 if self.vocab_size <= 2**16 else np.uint32)  # of its arrays
        self.fingerprint = fingerprint(FORMAT, GPT2_SPLIT_PATTERN, self.merges)
        self._kept: dict[str, list[int]] = {}

    def truncate(self, vocab_size: int) -> "BPETokenizer":
        """The tokenizer that training would have given for a smaller vocabulary."""
        if not 257 <= vocab_size <= self.vocab_size:
            allowed = f"257 to {self.vocab_size}"
            raise TokenizerError(f"It cannot be cut to {vocab_size}; allowed: {allowed}.")
        return BPETokenizer(self.merges[: vocab_size - 257])

    @classmethod
    def train(
        cls, text: str | Iterable[str], vocab_size: int, progress: bool = False
    ) -> "BPETokenizer":
        """Learn `vocab_size - 257` merges from a text, or from texts that need not fit into memory.
        Raises TokenizerError if the text is empty, too small or not Unicode."""
        if (n_merges := vocab_size - 257) < 0:
            raise TokenizerError(f"A vocabulary of {vocab_size} is too small; the least is 257.")
        words, counts = tally([text] if isinstance(text, str) else text)
        if not len(words):
            raise TokenizerError("There is no text to train on; check where it is from.")
        with tqdm(total=n_merges, desc="Merges", unit="merge", disable=not progress) as bar:
            merges = learn_merges(words, counts, n_merges, bar.update)
        if len(merges) < n_merges:
            raise TokenizerError(
                f"The text allows only {len(merges)} merges, a vocabulary of {len(merges) + 257}; "
                f"{vocab_size} was asked for: use more text or a smaller data.vocab_size."
            )
        return cls(merges)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; <|endoftext|> in it is text like any other."""
        if not isinstance(text, str):
            raise TokenizerError(f"`encode` takes a string, not a {type(text).__name__}.")
        if len(text) > SHORT:
            return self.encode_to_array(text).tolist()
        ids, kept = [], self._kept
        if len(kept) > KEPT:
            kept.clear()
        for word in gpt2_pattern().findall(text):
            if word not in kept:
                bytes_as_ids = as_bytes(word).translate(ID_OF_BYTE)
                kept[word] = merge_word(list(bytes_as_ids), self._merger.rank)
            ids += kept[word]
        return ids

    def encode_to_array(self, text: str) -> np.ndarray:
        """`encode` as an array (tokens,) of `dtype`."""
        return self.encode_batch_to_arrays([text])[0]

    def encode_batch_to_arrays(self, texts: Iterable[str]) -> list[np.ndarray]:
        """`encode_to_array` for each text, together."""
        return self._merger.encode(texts, self.dtype)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of any ids, as a list, an array, a tensor or any iterable of integers; bytes
        that are not UTF-8 become U+FFFD. Raises TokenizerError for an id not in the vocabulary."""
        try:
            ids = [index(i) for i in (ids.tolist() if hasattr(ids, "tolist") else ids)]
        except TypeError:
            raise TokenizerError("Token ids must be integers in one dimension.") from None
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            wrong = next(i for i in ids if not 0 <= i < self.vocab_size)
            raise TokenizerError(f"Token {wrong} is outside the vocabulary, 0 to {self.eot_id}.")
        return b"".join([self.token_bytes[i] for i in ids]).decode(errors="replace")

    def save(self, path: str | Path, of: str = "") -> None:
        """of: stands for the text that it was learnt from."""
        content = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "vocab_size": self.vocab_size,
            "special_tokens": {END_OF_TEXT: self.eot_id},
            "pattern": GPT2_SPLIT_PATTERN,
            "merges": self.merges,
            "of": of,
        }
        with replacing(path) as aside:
            aside.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path, of: str | None = None) -> "BPETokenizer":
        """Read what `save` wrote. Raises TokenizerError, also if it is `of` another text."""
        try:
            content = read_json(path)
        except (OSError, ValueError) as error:
            why = one_line(error)
            raise TokenizerError(f"{path} cannot be read as a tokenizer: {why}.") from None
        if content.get("format") != FORMAT:
            raise TokenizerError(f"{path} is not an llmlite tokenizer (format {FORMAT}).")
        if of not in (None, content.get("of")):
            raise TokenizerError(f"{path} was learnt from another text.")
        merges = content.get("merges")
        if content.get("pattern") != GPT2_SPLIT_PATTERN:
            raise TokenizerError(f"{path} splits words by another pattern than GPT-2's.")
        if fingerprint(FORMAT, GPT2_SPLIT_PATTERN, merges) != content.get("fingerprint"):
            raise TokenizerError(
                f"{path} is damaged or was edited: its content does not match its fingerprint; "
                "train it again or restore the file."
            )
        try:
            return cls(merges)
        except (TypeError, ValueError, TokenizerError) as error:
            said = f"{path} has no pairs of tokens as they are learnt ({one_line(error)})"
            raise TokenizerError(f"{said}; train it again or restore the file.") from None

    def to_tokenizers(self):
        """As a `tokenizers.Tokenizer`, whose `save` writes a tokenizer.json for transformers."""
        hf, tokens = imported("tokenizers"), list(BYTE_CHARACTERS)
        for left, right in self.merges:
            tokens.append(tokens[left] + tokens[right])
        model = hf.models.BPE(
            vocab={token: i for i, token in enumerate([*tokens, END_OF_TEXT])},
            merges=[(tokens[left], tokens[right]) for left, right in self.merges],
        )
        theirs = hf.Tokenizer(model)
        theirs.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
        theirs.decoder = hf.decoders.ByteLevel()
        theirs.add_special_tokens([END_OF_TEXT])
        return theirs

    def to_tiktoken(self):
        """The same tokenizer as a `tiktoken.Encoding`."""
        return imported("tiktoken").Encoding(
            f"llmlite-{self.fingerprint}",
            pat_str=GPT2_SPLIT_PATTERN,
            mergeable_ranks={token: i for i, token in enumerate(self.token_bytes[:-1])},
            special_tokens={END_OF_TEXT: self.eot_id},
            explicit_n_vocab=self.vocab_size,
        )


def imported(name: str):
    """The module `name`, or TokenizerError that says how to get it."""
    try:
        return __import__(name)
    except ImportError:
        raise TokenizerError(f"This needs {name}: pip install {name}.") from None
