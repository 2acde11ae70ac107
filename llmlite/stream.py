"""Text as a stream, tokens on disk: for a corpus that is larger than memory.

    open_stream → its lines, read anew in each pass → head → the tokenizer
                                                    → tokenize → StreamedCorpus (memory-mapped ids)

The text is the one that `data.load_corpus` gives, byte for byte, and so are its articles and its
tokens; but a pass holds a few megabytes of it and leaves counts in its place.
"""

import hashlib
import json
import math
import mmap
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import datasets
import numpy as np

from llmlite.config import DataConfig, fingerprint
from llmlite.data import (
    BLANK_LINE,
    HEADING,
    HUB_REPOSITORY,
    HUB_SPLIT,
    SPLITS,
    Counts,
    folder_files,
    hub_errors,
    resolve_source,
    sample_folder,
    verified_name,
)
from llmlite.errors import DataError
from llmlite.files import hold, replacing, write_json
from llmlite.progress import tqdm
from llmlite.tokenizer import GPT2_SPLIT_PATTERN

BATCH = 1 << 22  # characters that are encoded at once; a longer article is encoded in parts
ROWS = 1000  # rows that are taken from `datasets` at once

_heading = re.compile(HEADING).fullmatch
# The longest beginning after which a text can be cut and keeps its words (tokenizer/words.py).
_whole_words = re.compile(r".*\S(?=[ \n])", re.DOTALL).match


@dataclass(frozen=True)
class StreamedSplit:
    """What is kept of a split whose text is not."""

    ids: np.ndarray  # (tokens,), mapped from its file, of the tokenizer's dtype
    counts: Counts
    sha256: str  # of the text


@dataclass(frozen=True)
class StreamedCorpus:
    """A corpus whose text was read once and whose tokens lie on disk."""

    name: str
    splits: dict[str, StreamedSplit]

    @property
    def fingerprint(self) -> str:
        """The same as that of a `data.Corpus` with this text."""
        return fingerprint([self.splits[split].sha256 for split in SPLITS])

    @property
    def ids(self) -> dict[str, np.ndarray]:
        """split → token ids, each page of which is read from disk when it is used."""
        return {name: split.ids for name, split in self.splits.items()}

    def counts(self, split: str) -> Counts:
        return self.splits[split].counts


# -- sources --------------------------------------------------------------------------------------


def open_stream(
    config: DataConfig, hub_repository: str = HUB_REPOSITORY
) -> "HubStream | FolderStream":
    """The text that `config` names, of which nothing is read yet. Raises DataError."""
    source = resolve_source(config.source)
    if source == "hub":
        return HubStream(hub_repository, config.name)
    if source == "sample":
        return FolderStream(sample_folder(), "bundled sample")
    return FolderStream(Path(source).expanduser())


class HubStream:
    """A configuration of a data set on the Hub, read over the network without a copy on disk.

    fingerprint: stands for the repository's revision.
    """

    def __init__(self, repository: str, name: str):
        with hub_errors(repository, name):
            self._builder = datasets.load_dataset_builder(repository, name)
        self._name = name
        self.fingerprint = fingerprint(repository, name, self._builder.hash)
        self.sizes = dict.fromkeys(SPLITS)  # bytes of a split: the Hub does not say

    def __str__(self) -> str:
        return self._name

    def lines(self, split: str) -> Iterator[str]:
        """The text of a split, line by line."""
        rest = ""  # a row is a line as a rule
        for row in self._rows(split):
            *lines, rest = (rest + (row or BLANK_LINE)).split("\n")
            yield from (line + "\n" for line in lines)
        if rest:
            yield rest

    def _rows(self, split: str) -> Iterator[str]:
        try:
            stream = self._builder.as_streaming_dataset(HUB_SPLIT[split])
            for batch in stream.iter(batch_size=ROWS):
                yield from batch["text"]
        except (OSError, ValueError) as error:
            raise DataError(
                f"The {split} split of {self} broke off ({type(error).__name__}: "
                f"{' '.join(str(error).split())}); make the same call again: it keeps the splits "
                "that are complete."
            ) from None

    def name(self, sha256: dict[str, str]) -> str:
        return self._name


class FolderStream:
    """A folder of WikiText's files. Read here, because the text builder of `datasets` turns every
    carriage return into a line end.

    fingerprint: stands for the files' paths, sizes and times.
    """

    def __init__(self, folder: Path, name: str | None = None):
        self._folder, self._name, self._files = folder, name, folder_files(folder)
        stats = {split: path.stat() for split, path in self._files.items()}
        times = [stats[split].st_mtime_ns for split in SPLITS]
        self.sizes = {split: stats[split].st_size for split in SPLITS}
        self.fingerprint = fingerprint(str(folder.resolve()), self.sizes, times)

    def __str__(self) -> str:
        return str(self._folder)

    def lines(self, split: str) -> Iterator[str]:
        """The text of a split, line by line."""
        path, done = self._files[split], 0
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path} is not UTF-8: byte {done + error.start} (line {number}) is "
                        f"0x{line[error.start]:02x}; convert the file to UTF-8."
                    ) from None
                done += len(line)

    def name(self, sha256: dict[str, str]) -> str:
        """What to call the text, whose files are checked first (see data.verified_name)."""
        name = verified_name(self._folder, {self._files[s].name: sha256[s] for s in SPLITS})
        return self._name or name


# -- cutting --------------------------------------------------------------------------------------


def passages(lines: Iterable[str], longest: float = BATCH) -> Iterator[tuple[bool, str]]:
    """(begins an article, text): the articles of `data.split_articles`, one after the other.

    An article of more than `longest` characters comes in parts, cut where GPT-2's pattern cuts.
    """
    begins, rest, article, size = True, "", [], 0  # `rest` stands before the lines of `article`
    for line in lines:
        if line == BLANK_LINE and article[-2:-1] == [BLANK_LINE] and _heading(article[-1]):
            if before := rest + "".join(article[:-2]):
                yield begins, before
            begins, rest, article = True, "", article[-2:]
            size = sum(map(len, article))
        elif size > longest:
            rest += "".join(article[:-2])  # the last two lines may begin the next article
            article = article[-2:]
            if cut := _whole_words(rest):
                yield begins, cut[0]
                begins, rest = False, rest[cut.end() :]
            size = len(rest) + sum(map(len, article))
        article.append(line)
        size += len(line)
    if last := rest + "".join(article):
        yield begins, last


def head(lines: Iterable[str], n_bytes: int) -> Iterator[str]:
    """The lines that hold the first `n_bytes` bytes, in pieces with the words of the whole."""
    rest, done = "", 0
    for line in lines:
        if done >= n_bytes:
            break
        rest += line
        done += len(line.encode())
        if len(rest) >= BATCH and (cut := _whole_words(rest)):
            yield cut[0]
            rest = rest[cut.end() :]
    if rest:
        yield rest


# -- tokens ---------------------------------------------------------------------------------------


def tokenize(
    stream: HubStream | FolderStream, tokenizer, folder: str | Path, progress: bool = False
) -> StreamedCorpus:
    """Write the token ids of each split below `folder`, unless they are there, and map them.

    The ids are those of `data.encode_split`. A split is written aside and renamed when it is whole,
    so a call that was killed begins again with the split that it was at. Raises DataError.
    """
    folder = Path(folder) / f"tokens-{stream.fingerprint}-{tokenizer.fingerprint}"
    if missing := [split for split in SPLITS if not (folder / f"{split}.json").exists()]:
        with hold(folder):
            for half_written in folder.glob(".*.tmp*"):  # by a process that was killed
                half_written.unlink()
            for split in missing:
                _write(stream, split, tokenizer, folder / split, progress)
    splits = {split: _open(folder / split) for split in SPLITS}
    return StreamedCorpus(stream.name({s: splits[s].sha256 for s in SPLITS}), splits)


def _write(stream, split: str, tokenizer, path: Path, progress: bool) -> None:
    """Write `path`.npy, the ids of a split, and then `path`.json, its counts."""
    counts, n_tokens, sha256 = Counts(0, 0, 0, 0), 0, hashlib.sha256()
    longest = BATCH if tokenizer.pattern == GPT2_SPLIT_PATTERN else math.inf
    start = np.array([tokenizer.eot_id], tokenizer.dtype)
    with (
        replacing(path.with_suffix(".npy")) as aside,
        open(aside, "wb") as file,
        tqdm(
            total=stream.sizes[split],
            desc=f"Encode {split}",
            unit="B",
            unit_scale=True,
            disable=not progress,
        ) as bar,
    ):
        _npy_header(file, 0, tokenizer.dtype)
        for batch in _batches(passages(stream.lines(split), longest)):
            parts = tokenizer.encode_batch_to_arrays([text for _, text in batch])
            for (begins, text), part in zip(batch, parts, strict=True):
                ids = np.concatenate((start, part)) if begins else part
                file.write(ids)
                n_tokens += len(ids)
                counts += Counts.of(text, articles=int(begins))
                sha256.update(text.encode())
            bar.update(counts.bytes - bar.n)
        file.seek(0)
        _npy_header(file, n_tokens, tokenizer.dtype)
        if not counts.words:
            raise DataError(f"The {split} split of {stream} holds no text; check the source.")
    content = {"tokens": n_tokens, "sha256": sha256.hexdigest(), "counts": asdict(counts)}
    write_json(path.with_suffix(".json"), content)


def _batches(parts: Iterable[tuple[bool, str]]) -> Iterator[list[tuple[bool, str]]]:
    """The passages, together BATCH characters or a little more."""
    batch, size = [], 0
    for begins, text in parts:
        batch.append((begins, text))
        size += len(text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _npy_header(file, tokens: int, dtype: np.dtype) -> None:
    """NumPy leaves room for a longer number, so the header can be written again over itself."""
    content = {"descr": dtype.str, "fortran_order": False, "shape": (tokens,)}
    np.lib.format.write_array_header_1_0(file, content)


def map_ids(path: str | Path) -> np.ndarray:
    """Token ids (tokens,) that stay in their .npy file: a page is read when it is used.

    A page alone: windows are drawn from anywhere, so its neighbours, which the system would read
    along, are of no use to the batch, and too many to keep until they are.
    """
    ids = np.load(path, mmap_mode="r", allow_pickle=False)
    ids.base.madvise(mmap.MADV_RANDOM)
    return ids


def _open(path: Path) -> StreamedSplit:
    """A split as `_write` left it, its ids mapped from their file."""
    try:
        content = json.loads(path.with_suffix(".json").read_text("utf-8"))
        ids = map_ids(path.with_suffix(".npy"))
        if ids.shape != (content["tokens"],):
            raise ValueError(f"{len(ids)} tokens, {content['tokens']} expected")
        return StreamedSplit(ids, Counts(**content["counts"]), content["sha256"])
    except (OSError, ValueError, TypeError, KeyError, EOFError) as error:
        raise DataError(
            f"The tokens {path}.npy are damaged ({error}); delete the folder {path.parent}."
        ) from None
