"""From a source of text (sources.py) to token ids on disk (§III.A and III.B), for windows.py; as a
stream a few megabytes at a time, so that a text larger than memory is never held."""

import hashlib
import math
import mmap
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypedDict, get_type_hints

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from llmlite import files
from llmlite.config import DataConfig, fingerprint
from llmlite.files import DataError, LLMLiteError, locked, replacing, say, tqdm
from llmlite.parallel import world
from llmlite.sources import SPLITS, Source, open_source, split_articles
from llmlite.tokenizer import BPETokenizer

BATCH = 1 << 22  # bytes of text that are encoded at once; a longer article is encoded in parts

# The longest beginning after which a text can be cut and keeps its words; it may be empty.
_whole_words = re.compile(r".*\S(?=[ \n])|", re.DOTALL).match


@dataclass(frozen=True)
class Counts:
    """What there is to count in a text."""

    articles: int
    words: int  # between white space
    line_ends: int
    bytes: int  # in UTF-8

    @classmethod
    def of(cls, text: str, articles: int) -> "Counts":
        return cls(articles, len(text.split()), text.count("\n"), len(text.encode()))

    @property
    def words_and_line_ends(self) -> int:
        """What the literature divides by: 245,569 for the test split of wikitext-2-v1."""
        return self.words + self.line_ends


def mistakes(data: DataConfig) -> dict[str, str]:
    """Those that `data` makes on purpose (notebook 08), for a run's record; see windows.py."""
    made = {"padding": "counted in the loss"} if data.padding else {}
    made |= {"targets": "the inputs themselves"} if data.shift == 0 else {}
    made |= {"split": "after windowing"} if data.split == "windows" else {}
    return made


class Dataset:
    """Text of three splits, the tokenizer learnt from its training part, and token ids, made when
    first asked for. `folder` keeps the latter two under fingerprints of what they are made from."""

    def __init__(self, config: DataConfig, folder: str | Path, progress: bool = True):
        self.config, self.folder, self.progress = config, Path(folder), progress

    @classmethod
    def of_ids(cls, ids: dict, config: DataConfig, about: dict | None = None) -> "Dataset":
        """Token ids alone, (tokens,) of each split: there is no text behind them."""
        dataset = cls(config, ".", progress=False)
        vars(dataset).update(_source=None, ids=ids, _about=about or {})
        return dataset

    def like(self, tokenizer: BPETokenizer | None = None, **changes) -> "Dataset":
        """With other fields of `config`, or with a `tokenizer` that is not learnt here. What has
        been made and stays the same is shared."""
        other = Dataset(replace(self.config, **changes), self.folder, self.progress)
        texts = {
            (c.source, c.name, c.stream, c.split == "paper", c.tokenizer_bytes)
            for c in (self.config, other.config)
        }
        if len(texts) == 1:
            other._source = self._source  # read once for both
            if not tokenizer and self.config.vocab_size == other.config.vocab_size:
                made = vars(self).keys() & {"tokenizer", "_encoded", "ids", "_about"}
                vars(other).update({name: vars(self)[name] for name in made})
        if tokenizer:
            other.tokenizer = tokenizer
        return other

    def __getstate__(self) -> dict:
        """Another process, or machine, opens what lies on disk by itself."""
        on_disk = ("_encoded", "ids") if self.config.stream else ()
        return {name: made for name, made in vars(self).items() if name not in on_disk}

    @cached_property
    def _source(self) -> Source | None:
        return open_source(self.config, without=self.folder)

    def text(self, split: str) -> str:
        """DataError where the text is not in memory."""
        if self.config.stream or self._source is None:
            why = "it is read as a stream, or only its token ids were given"
            raise DataError(f"The text is not at hand: {why}; leave out --data.stream.")
        return self._source.splits[split]

    def articles(self, split: str) -> list[str]:
        return split_articles(self.text(split))

    def sentences(self, limit: int) -> list[str]:
        """Of the first `limit` paragraphs of the test split with a full stop, what is before it;
        where none has one, their lines."""
        text = head(self._source.strings("test"), BATCH)
        lines = [f"{line}\n" for line in text.split("\n") if line.strip() and line[:2] != " ="]
        for stop in (" . ", ". ", ".\n", "\n"):  # WikiText sets a blank before it, prose does not
            if found := [line.split(stop)[0] + stop.rstrip() for line in lines if stop in line]:
                break
        return found[:limit]

    @property
    def _sha256(self) -> dict[str, str]:
        """Of the text of each split; that of a stream is known when it is encoded."""
        return self._source.sha256 or {split: part.sha256 for split, part in self._encoded.items()}

    @property
    def name(self) -> str:
        """As shown beside every result, e.g. "wikitext-2-v1, split 80/10/10"."""
        return self._source.name(self._sha256)

    @cached_property
    def tokenizer(self) -> BPETokenizer:
        """Learnt from the training split alone; of a stream, from its first `tokenizer_bytes`."""
        n_bytes = self.config.tokenizer_bytes if self.config.stream else math.inf
        size, key = self.config.vocab_size, self._source.key
        path = self.folder / f"tokenizer-{key[:8]}-{size}.json"
        with _one_at_a_time(self.folder, "tokenizer-*"):
            try:
                if (found := BPETokenizer.load(path, key)).vocab_size == size:
                    return found
                raise LLMLiteError(f"{path} has {found.vocab_size} tokens, not {size}.")
            except LLMLiteError as error:
                if path.exists():
                    say(f"{error} It is trained again.")
            text = head(self._source.strings("train"), n_bytes)
            tokenizer = BPETokenizer.train(text, size, progress=self.progress)
            tokenizer.save(path, key)
            return tokenizer

    @cached_property
    def _encoded(self) -> dict[str, "Encoded"]:
        # Made before processes wait for each other below.
        tokenizer, progress = self.tokenizer, self.progress
        folder = self.folder / f"tokens-{self._source.key}-{tokenizer.fingerprint}"
        with _one_at_a_time(folder, "*"):
            return {
                split: Encoded.read(folder / split, tokenizer.vocab_size)
                or Encoded.write(folder / split, self._source.strings(split), tokenizer, progress)
                for split in SPLITS
            }

    @cached_property
    def ids(self) -> dict[str, Tensor] | dict[str, np.ndarray]:
        """split → token ids, (tokens,): int64 tensors, or with `stream` arrays on disk."""
        ids = {split: part.ids for split, part in self._encoded.items()}
        if not self.config.stream:
            return {split: torch.from_numpy(part.astype(np.int64)) for split, part in ids.items()}
        for part in ids.values():
            # Windows are drawn from anywhere: the neighbours of a page, which the system would read
            # along, are of no use to the batch, and too many to keep until they are.
            part.base.madvise(mmap.MADV_RANDOM)
        return ids

    def counts(self, split: str) -> Counts:
        return self._encoded[split].counts

    @property
    def about(self) -> dict[str, str]:
        """What a run's record says of its data, mistakes made on purpose included."""
        return self._about | mistakes(self.config)

    @cached_property
    def _about(self) -> dict[str, str]:
        return {
            "data": self.name,
            "data_fingerprint": fingerprint(list(self._sha256.values())),
            "tokenizer_fingerprint": self.tokenizer.fingerprint,
        }

    def table(self) -> pd.DataFrame:
        """A row a split: articles, words, bytes, tokens, and what of them comes to a token."""
        rows = [asdict(self.counts(split)) for split in SPLITS]
        table = pd.DataFrame(rows, pd.Index(SPLITS, name="split")).drop(columns="line_ends")
        table["tokens"] = [len(self.ids[split]) for split in SPLITS]
        table["tokens per word"] = (table.tokens / table.words).round(3)
        table["bytes per token"] = (table.bytes / table.tokens).round(2)
        return table


@contextmanager
def _one_at_a_time(folder: Path, names: str) -> Iterator[None]:
    """Make files of these names alone: whoever comes second finds what the first has made."""
    folder.mkdir(parents=True, exist_ok=True)
    with world().main_first(), locked(folder / ".dataset.lock"):
        for half_written in folder.glob(f".{names}.tmp*"):  # by a process that was killed
            half_written.unlink()
        yield


def head(strings: Iterable[str], n_bytes: float) -> str:
    """The first strings, joined: `n_bytes` in UTF-8 or a few more; fewer at the end."""
    taken, size = [], 0
    for string in strings:
        taken.append(string)
        size += len(string.encode())
        if size >= n_bytes:
            break
    return "".join(taken)


def encode_parts(strings: Iterable[str], tokenizer) -> Iterator[tuple[bool, str, np.ndarray]]:
    """(begins an article, text, ids) of one article after the other, long ones in parts.
    <|endoftext|> stands before each article, so that its first token has context."""
    start = np.array([tokenizer.eot_id], tokenizer.dtype)
    strings, begins, rest = iter(strings), True, ""
    while (part := head(strings, BATCH)) or rest:
        *texts, last = split_articles(rest + part)
        # More of the last one may follow, and its last lines may be the heading of the next.
        end = _whole_words(last.rsplit("\n", 3)[0]).end() if part else len(last)
        texts, rest = [*texts, last[:end]], last[end:]
        encoded = tokenizer.encode_batch_to_arrays(texts)
        for text, ids in zip(texts, encoded, strict=True):
            yield begins, text, np.concatenate((start, ids)) if begins else ids
            begins = True
        begins = False


# What is kept of a split's ids and text.
WORDS = dict.fromkeys(("sha256", "ids", "of"), str) | {"dtype": Literal["uint16", "uint32"]}
Kept = TypedDict("Kept", WORDS | {"counts": TypedDict("Numbers", get_type_hints(Counts))})


@dataclass(frozen=True)
class Encoded:
    """A split whose ids lie on disk, in NAME.bin, and what NAME.json keeps of its text."""

    ids: np.ndarray  # (tokens,), mapped from its file
    counts: Counts
    sha256: str  # of the text

    @classmethod
    def read(cls, path: Path, vocab_size: int) -> "Encoded | None":
        """None where there is none that is whole and of the text and tokenizer that its folder is
        named by, which is said."""
        try:
            content = files.read_json(path.with_suffix(".json"), Kept, 2**16)
            if content.pop("of") != fingerprint(path.parent.name, path.name, content):
                raise ValueError("of another text or tokenizer, or changed")
            if not path.with_suffix(".bin").is_file():
                raise ValueError("lost")
            ids = np.memmap(path.with_suffix(".bin"), content["dtype"], mode="r")
            digest = hashlib.sha256(ids).hexdigest()
            if digest != content["ids"] or len(ids) < 2 or ids.max() >= vocab_size:
                raise ValueError("not those that were written")
            return cls(ids, Counts(**content["counts"]), content["sha256"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            say(f"{path}.bin: its tokens are {error}; they are made again.")
            return None

    @classmethod
    def write(cls, path: Path, strings: Iterable[str], tokenizer, progress: bool) -> "Encoded":
        counts, sha256, sha256_of_ids = Counter(), hashlib.sha256(), hashlib.sha256()
        bar = tqdm(desc=f"Encode {path.name}", unit="B", unit_scale=True, disable=not progress)
        with bar, replacing(path.with_suffix(".bin")) as aside, open(aside, "wb") as file:
            for begins, text, ids in encode_parts(strings, tokenizer):
                file.write(ids)
                sha256_of_ids.update(ids)
                part = asdict(Counts.of(text, articles=int(begins)))
                counts.update(part)
                sha256.update(text.encode())
                bar.update(part["bytes"])
            if not counts["words"]:
                raise DataError(f"The {path.name} split holds no text; check the source.")
        digests = {"sha256": sha256.hexdigest(), "ids": sha256_of_ids.hexdigest()}
        content = {"dtype": tokenizer.dtype.name, "counts": counts} | digests
        content["of"] = fingerprint(path.parent.name, path.name, content)
        files.write_json(path.with_suffix(".json"), content)
        return cls.read(path, tokenizer.vocab_size)
