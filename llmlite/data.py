"""From a source of text to token ids on disk (§III.A and III.B).

    sources.py → Corpus, the text of each split → Dataset: tokenizer, token ids → windows.py

A text larger than memory is never held: it is read once for the tokenizer, which learns from its
beginning, and once to be encoded, a few megabytes at a time. Knows nothing about models.
"""

import hashlib
import json
import mmap
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, astuple, dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor

from llmlite.config import DataConfig, fingerprint
from llmlite.errors import DataError
from llmlite.files import replacing, write_json
from llmlite.parallel import world
from llmlite.progress import tqdm
from llmlite.sources import (  # noqa: F401, others import these names from here
    BLANK_LINE,
    DATA_VARIABLE,
    HUB_REPOSITORY,
    KNOWN_SHA256,
    LEAST_BYTES,
    SPLITS,
    Source,
    open_source,
    resolve_source,
    sample_folder,
)
from llmlite.tokenizer import GPT2_SPLIT_PATTERN, BPETokenizer

BATCH = 1 << 22  # characters that are encoded at once; a longer article is encoded in parts

# A top-level heading between two blank lines. Without that context, lines in the middle of an
# article match as well: 629 instead of 600 in the training split.
_ARTICLE_START = re.compile(r"(?:(?<=\n)|\A) \n = (?!= )(?P<title>.+) = \n(?= \n)")
# The longest beginning after which a text can be cut and keeps its words.
_whole_words = re.compile(r".*\S(?=[ \n])", re.DOTALL).match


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

    def __add__(self, other: "Counts") -> "Counts":
        """Those of two parts of a text that is cut between words."""
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def words_and_line_ends(self) -> int:
        """What the literature divides by: 245,569 for the test split of wikitext-2-v1."""
        return self.words + self.line_ends


@dataclass(frozen=True)
class Article:
    title: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """The text of the three splits, and what to call it."""

    name: str  # as shown beside every result, e.g. "wikitext-2-v1, split 80/10/10"
    splits: dict[str, str]

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint([hashlib.sha256(self.splits[s].encode()).hexdigest() for s in SPLITS])

    def articles(self, split: str) -> list[Article]:
        return split_articles(self.splits[split])

    def counts(self, split: str) -> Counts:
        return Counts.of(self.splits[split], len(self.articles(split)))

    def strings(self, split: str) -> Iterator[str]:
        text = self.splits[split]
        return (text[start : start + BATCH] for start in range(0, len(text), BATCH))


def load_corpus(
    config: DataConfig, hub_repository: str = HUB_REPOSITORY, without: Path | None = None
) -> Corpus:
    """The text that `config` names, split as it says; see `open_source`. Raises DataError."""
    source = open_source(config, hub_repository, without)
    splits = {split: "".join(source.strings(split)) for split in SPLITS}
    name = source.name({s: hashlib.sha256(splits[s].encode()).hexdigest() for s in SPLITS})
    for split, text in splits.items():
        if not text.strip():
            raise DataError(f"The {split} split of {name} holds no text; check the source.")
    if config.split == "paper":
        return Corpus(f"{name}, split 80/10/10", paper_split("".join(splits.values())))
    return Corpus(name, splits)


def mistakes(data: DataConfig) -> dict[str, str]:
    """Those that `data` makes on purpose (notebook 08), for a run's record; see windows.py."""
    made = {"padding": "counted in the loss"} if data.padding else {}
    made |= {"targets": "the inputs themselves"} if data.shift == 0 else {}
    made |= {"split": "after windowing"} if data.split == "windows" else {}
    return made


def split_articles(text: str) -> list[Article]:
    """Cut `text` before each top-level heading; the pieces joined together are `text` again."""
    starts = list(_ARTICLE_START.finditer(text))
    titles = [start["title"] for start in starts]
    cuts = [*(start.start() for start in starts), len(text)]
    if cuts[0] > 0:  # what comes before the first heading
        titles, cuts = ["", *titles], [0, *cuts]
    parts = (text[start:end] for start, end in pairwise(cuts))
    return [Article(title, part) for title, part in zip(titles, parts, strict=True)]


def paper_split(text: str) -> dict[str, str]:
    """§III.A: 80/10/10 of the text in its order, each cut moved to the nearest article boundary."""
    articles = [article.text for article in split_articles(text)]
    if len(articles) < 3:
        raise DataError(
            f"The corpus has {len(articles)} article(s), so it cannot be split 80/10/10 between "
            "articles; use split='official' or add headings of the form ' = Title = '."
        )
    ends = np.cumsum([len(article) for article in articles])
    first = int(np.clip(np.abs(ends - 0.8 * len(text)).argmin() + 1, 1, len(articles) - 2))
    second = int(np.abs(ends - 0.9 * len(text)).argmin() + 1)
    second = int(np.clip(second, first + 1, len(articles) - 1))
    parts = articles[:first], articles[first:second], articles[second:]
    return {split: "".join(part) for split, part in zip(SPLITS, parts, strict=True)}


def text_to_rows(text: str) -> list[str]:
    """The Hub's rows of a text: a line each with its line end, "" for a blank line."""
    lines = re.findall(r"[^\n]*\n|[^\n]+\Z", text)
    return ["" if line == BLANK_LINE else line for line in lines]


def first_sentences(text: str, limit: int) -> list[str]:
    """The first sentence of each of the first `limit` paragraphs that have a full stop."""
    paragraphs = (line for line in text.split("\n") if " . " in line and not line.startswith(" ="))
    return [line.split(" . ")[0] + " ." for line, _ in zip(paragraphs, range(limit), strict=False)]


class Dataset:
    """Text of three splits, the tokenizer learnt from its training part, and token ids.

    Each is made when it is first asked for, and kept in `folder` under fingerprints of what it is
    made from: what belongs to another text or tokenizer is never read.
    """

    def __init__(self, config: DataConfig, folder: str | Path, progress: bool = True):
        self.config, self.folder, self.progress = config, Path(folder), progress

    @classmethod
    def of_ids(
        cls,
        ids: dict[str, Tensor | np.ndarray],
        config: DataConfig,
        about: dict[str, str] | None = None,
    ) -> "Dataset":
        """Token ids alone, (tokens,) of each split: there is no text behind them."""
        dataset = cls(config, ".", progress=False)
        vars(dataset).update(_source=None, ids=ids, _about=about or {})
        return dataset

    def like(self, tokenizer: BPETokenizer | None = None, **changes) -> "Dataset":
        """With other fields of `config`, or with a `tokenizer` that is not learnt here. What has
        been made and stays the same is shared."""
        other = Dataset(replace(self.config, **changes), self.folder, self.progress)
        configs = self.config, other.config
        text, same_text = ((c.source, c.name, c.stream, c.split == "paper") for c in configs)
        learnt, same_learnt = ((c.vocab_size, c.tokenizer_bytes) for c in configs)
        if text == same_text:
            other._source = self._source  # read once for both
            if learnt == same_learnt and tokenizer is None:
                same = ("tokenizer", "_encoded", "ids", "_about")
                vars(other).update(
                    {name: made for name, made in vars(self).items() if name in same}
                )
        if tokenizer:
            other.tokenizer = tokenizer
        return other

    # -- text -------------------------------------------------------------------------------------

    @cached_property
    def _source(self) -> Corpus | Source | None:
        """The text, or with `stream` where it is read from."""
        read = open_source if self.config.stream else load_corpus
        return read(self.config, without=self.folder)

    @property
    def corpus(self) -> Corpus:
        """The text in memory. DataError where it is not."""
        if isinstance(self._source, Corpus):
            return self._source
        raise DataError(
            "The text is not at hand: it is read as a stream, or only its token ids were given; "
            "leave out --stream."
        )

    def text(self, split: str) -> str:
        return self.corpus.splits[split]

    def articles(self, split: str) -> list[Article]:
        return self.corpus.articles(split)

    def counts(self, split: str) -> Counts:
        return self._encoded[split].counts if self.config.stream else self.corpus.counts(split)

    @property
    def name(self) -> str:
        """As shown beside every result, e.g. "wikitext-2-v1, split 80/10/10"."""
        if self.config.stream:
            return self._source.name({split: self._encoded[split].sha256 for split in SPLITS})
        return self.corpus.name

    @property
    def fingerprint(self) -> str:
        """Of the text, however it is read."""
        if self.config.stream:
            return fingerprint([self._encoded[split].sha256 for split in SPLITS])
        return self.corpus.fingerprint

    def sentences(self, limit: int) -> list[str]:
        """The first sentences of the test split; of a stream, those of its first megabyte."""
        if self.config.stream:
            return first_sentences("".join(head(self._source.strings("test"), 1 << 20)), limit)
        return first_sentences(self.text("test"), limit)

    # -- tokens -----------------------------------------------------------------------------------

    @property
    def _key(self) -> str:
        """What the files here are made from."""
        if self.config.stream:
            return fingerprint(self._source.key, self.config.tokenizer_bytes)
        return self.fingerprint

    @cached_property
    def tokenizer(self) -> BPETokenizer:
        """Learnt from the training split alone; of a stream, from its first `tokenizer_bytes`."""
        path = self.folder / f"tokenizer-{self._key[:8]}-{self.config.vocab_size}.json"
        if self.config.stream:
            text = head(self._source.strings("train"), self.config.tokenizer_bytes)
        else:
            text = self.text("train")
        with world().main_first():
            if not path.exists():
                BPETokenizer.train(text, self.config.vocab_size, progress=self.progress).save(path)
            return BPETokenizer.load(path)

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

    @cached_property
    def _encoded(self) -> dict[str, "Encoded"]:
        tokenizer = self.tokenizer  # made before processes wait for each other below
        folder = self.folder / f"tokens-{self._key}-{tokenizer.fingerprint}"
        with world().main_first():
            if not all((folder / f"{split}.json").exists() for split in SPLITS):
                encode(self._source, tokenizer, folder, self.progress)
        return {split: Encoded.read(folder / split) for split in SPLITS}

    @property
    def about(self) -> dict[str, str]:
        """What a run's record says of its data, mistakes made on purpose included."""
        return self._about | mistakes(self.config)

    @cached_property
    def _about(self) -> dict[str, str]:
        return {
            "data": self.name,
            "data_fingerprint": self.fingerprint,
            "tokenizer_fingerprint": self.tokenizer.fingerprint,
        }

    def table(self) -> pd.DataFrame:
        """A row a split: articles, words, bytes, tokens, and what of them comes to a token."""
        columns = ["articles", "words", "bytes"]
        table = pd.DataFrame([asdict(self.counts(split)) for split in SPLITS])[columns]
        table["tokens"] = [len(self.ids[split]) for split in SPLITS]
        table["tokens per word"] = (table.tokens / table.words).round(3)
        table["bytes per token"] = (table.bytes / table.tokens).round(2)
        return table.set_index(pd.Index(SPLITS, name="split"))


# -- text in parts, tokens on disk ----------------------------------------------------------------


def _take(strings: Iterator[str]) -> str:
    """The next of them, joined: BATCH characters or a few more; fewer at the end."""
    taken, size = [], 0
    for string in strings:
        taken.append(string)
        size += len(string)
        if size >= BATCH:
            break
    return "".join(taken)


def head(strings: Iterator[str], n_bytes: int) -> Iterator[str]:
    """The strings with the first `n_bytes` bytes, in parts that have the words of the whole."""

    def first(left: int) -> Iterator[str]:
        for string in strings:
            yield string
            left -= len(string.encode())
            if left <= 0:
                break

    strings_, rest = first(n_bytes), ""
    while len(part := _take(strings_)) >= BATCH:
        rest += part
        if cut := _whole_words(rest):
            yield cut[0]
            rest = rest[cut.end() :]
    yield rest + part


def passages(strings: Iterable[str], can_cut: bool = True) -> Iterator[list[tuple[bool, str]]]:
    """(begins an article, text), a list a BATCH: the articles of `split_articles`, one after the
    other. can_cut: a long one comes in parts, cut where GPT-2's pattern cuts."""

    def articles(text: str) -> list[tuple[bool, str]]:
        return [(begins or i > 0, article.text) for i, article in enumerate(split_articles(text))]

    strings, begins, rest = iter(strings), True, ""
    while len(part := _take(strings)) >= BATCH:
        *parts, (begins, rest) = articles(rest + part)
        # The last article may go on, and its last lines may turn out to be the next one's heading.
        if can_cut and (cut := _whole_words(rest.rsplit("\n", 3)[0])):
            parts.append((begins, cut[0]))
            begins, rest = False, rest[cut.end() :]
        yield parts
    yield articles(rest + part)


def encode_parts(strings: Iterable[str], tokenizer) -> Iterator[tuple[bool, str, np.ndarray]]:
    """(begins an article, text, ids) of each of `passages`; <|endoftext|> stands before each
    article, so that the first token has context. ids: (tokens,), of the tokenizer's dtype."""
    start = np.array([tokenizer.eot_id], tokenizer.dtype)
    for parts in passages(strings, can_cut=tokenizer.pattern == GPT2_SPLIT_PATTERN):
        encoded = tokenizer.encode_batch_to_arrays([text for _, text in parts])
        for (begins, text), ids in zip(parts, encoded, strict=True):
            yield begins, text, np.concatenate((start, ids)) if begins else ids


def encode_split(corpus: Corpus, split: str, tokenizer) -> np.ndarray:
    """Token ids of a split, (tokens,): those that a Dataset keeps on disk."""
    return np.concatenate([ids for *_, ids in encode_parts(corpus.strings(split), tokenizer)])


@dataclass(frozen=True)
class Encoded:
    """A split whose ids lie on disk: what is kept of its text."""

    ids: np.ndarray  # (tokens,), mapped from its file
    counts: Counts
    sha256: str  # of the text

    @classmethod
    def read(cls, path: Path) -> "Encoded":
        try:
            content = json.loads(path.with_suffix(".json").read_text("utf-8"))
            ids = np.memmap(path.with_suffix(".bin"), content["dtype"], mode="r")
            if len(ids) != content["tokens"]:
                raise ValueError(f"{len(ids)} tokens, {content['tokens']} expected")
            return cls(ids, Counts(**content["counts"]), content["sha256"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"The tokens {path}.bin are damaged ({error}); delete the folder {path.parent}."
            ) from None


def encode(source: Corpus | Source, tokenizer, folder: Path, progress: bool) -> None:
    """Write the ids of the splits that are not in `folder` yet, for `Encoded.read`."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # whoever comes second finds what the first has made
        for half_written in folder.glob(".*.tmp*"):  # by a process that was killed
            half_written.unlink()
        for split in SPLITS:
            if not (folder / f"{split}.json").exists():
                _encode(source, split, tokenizer, folder / split, progress)


def _encode(source: Corpus | Source, split: str, tokenizer, path: Path, progress: bool) -> None:
    counts, n_tokens, sha256 = Counts(0, 0, 0, 0), 0, hashlib.sha256()
    bar = tqdm(desc=f"Encode {split}", unit="B", unit_scale=True, disable=not progress)
    with bar, replacing(path.with_suffix(".bin")) as aside, open(aside, "wb") as file:
        for begins, text, ids in encode_parts(source.strings(split), tokenizer):
            file.write(ids)
            n_tokens += len(ids)
            part = Counts.of(text, articles=int(begins))
            counts += part
            sha256.update(text.encode())
            bar.update(part.bytes)
        if not counts.words:
            raise DataError(f"The {split} split holds no text; check the source.")
    content = {"tokens": n_tokens, "dtype": tokenizer.dtype.name, "counts": asdict(counts)}
    write_json(path.with_suffix(".json"), content | {"sha256": sha256.hexdigest()})
