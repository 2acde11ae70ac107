"""Where text comes from (§III.A): the Hub, WikiText's files, the bundled sample, or any text."""

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np

from llmlite.config import DataConfig, fingerprint
from llmlite.files import DataError, one_line, say

HUB_REPOSITORY = "Salesforce/wikitext"
DATA_VARIABLE = "LLMLITE_DATA"  # environment variable that names a folder or a file of text
SPLITS = ("train", "valid", "test")
BLANK_LINE = " \n"  # how WikiText's files write an empty line; the Hub's rows hold "" instead

# SHA-256 of WikiText-2's files (Merity et al., 2016): tells a damaged copy from one's own text.
# That of wiki.train.raw is as other projects state it of the archive wikitext-2-raw-v1.zip, and its
# bytes are as many as those of the Hub's rows.
KNOWN_SHA256 = {
    "wiki.train.tokens": "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
    "wiki.valid.tokens": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
    "wiki.test.tokens": "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
    "wiki.train.raw": "6707892fa3788b5ab9ed78ab5ff37d9fe825f6011a2ad4fcd6a6d467f0e7da57",
    "wiki.valid.raw": "4cd0f6876d07a413aa911261ff6d363c72d757d47f0fdd6015702014c89cb9c7",
    "wiki.test.raw": "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08",
}
TRAIN_BYTES = 10_940_747  # of wiki.train.raw

# Bytes of text that this machine can hold, at most: as text, as UTF-8 and as ids, each for a while
# twice, they take four times as many.
MOST_BYTES = math.inf
if hasattr(os, "sysconf"):
    MOST_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
LONGEST = 1 << 20  # characters of a line that are read at once
LEAST_BYTES = 20_000  # of one's own text: a tenth, a thousand tokens or so, has to judge a model
REACH = 0.025  # of the text: how far a cut moves for a better place, so that no split gets lost
# Bytes, without white space, that are a coincidence no longer: about 13 words, as for GPT-3 (Brown
# et al., 2020, appendix C). Of WikiText-2's other splits 0.2 and 0.04% stand in an earlier one by
# such passages, of the bundled sample's, which is made of phrases, 2%. Of whole lines, shorter ones
# are, too: 0.1% and 1.4%.
PASSAGE, LINE, TOO_MUCH = 64, 20, 0.1
PLACES = (r"\n(?:[^\S\n]*\n)+", r"\n", r"\s+")  # the ends of paragraphs, of lines, of words

# A top-level heading between two blank lines. Without that context, lines in the middle of an
# article match as well: 629 instead of 600 in the training split.
_ARTICLE_START = re.compile(r"(?:(?<=\n)|\A)(?= \n = (?!= ).+ = \n \n)")


@dataclass(frozen=True)
class Source:
    """Text of three splits, read anew each time, or in memory."""

    strings: Callable[[str], Iterable[str]]  # split → its text, in parts
    key: str  # stands for the text
    title: str  # what to call it, if its files are not WikiText-2's
    files: dict[str, Path] = field(default_factory=dict)  # split → the file of that name there
    splits: dict[str, str] | None = None  # split → its text, where that is in memory, …
    sha256: dict[str, str] | None = None  # … and its SHA-256

    @classmethod
    def of(cls, title: str, splits: dict[str, str]) -> "Source":
        sha256 = _sha256(splits)
        key = fingerprint(list(sha256.values()))
        return cls(lambda split: [splits[split]], key, title, splits=splits, sha256=sha256)

    def name(self, sha256: dict[str, str]) -> str:
        """What to call the text whose splits have these SHA-256. DataError if only some files are
        WikiText-2's: the others are damaged."""
        known = {split: KNOWN_SHA256.get(file.name) for split, file in self.files.items()}
        same = [split for split, digest in known.items() if sha256[split] == digest]
        larger = same == ["valid", "test"] and self.files["train"].stat().st_size > TRAIN_BYTES
        if not same or larger:  # WikiText-103 has WikiText-2's validation and test splits
            return self.title
        for split, digest in known.items():
            if digest and sha256[split] != digest:
                raise DataError(
                    f"{self.files[split]} is damaged or was changed: its SHA-256 is "
                    f"{sha256[split][:12]}…, expected {digest[:12]}…; fetch the file again."
                )
        return "wikitext-2-raw-v1" if self.files["test"].suffix == ".raw" else "wikitext-2-v1"


def _sha256(splits: dict[str, str]) -> dict[str, str]:
    return {split: hashlib.sha256(text.encode()).hexdigest() for split, text in splits.items()}


def open_source(config: DataConfig, without: Path) -> Source:
    """The text that `config` names, split as it says, in memory if not as a stream; files in the
    folder `without` are no text, but what is made of it. Raises DataError. Where a split repeats an
    earlier one, that is said; a stream's splits, which are not at hand, are not compared."""
    place = resolve_source(config.source)
    path = Path(os.path.expanduser(place))  # which leaves ~nobody as it is
    if place == "hub":
        source = _hub(config.name, config.stream)
    elif place == "sample":
        source = _wikitext(sample_folder(), "bundled sample")
    elif not path.exists():
        raise DataError(
            f"There is no file or folder {path}; name a text, or a folder of texts or of "
            "wiki.train/valid/test files."
        )
    elif any(file.is_file() for file in _wikitext_files(path).values()):
        source = _wikitext(path, f"own text in {_shown(path.resolve().name)}")
    else:
        source = _own_text(path, without)
    if config.stream:  # then the text is not known yet from which the tokenizer learns
        return replace(source, key=fingerprint(source.key, config.tokenizer_bytes))
    _check_size(place, sum(file.stat().st_size for file in source.files.values()))
    splits = {split: "".join(source.strings(split)) for split in SPLITS}
    name = source.name(_sha256(splits))
    if config.split == "paper":
        name, splits = f"{name}, split 80/10/10", paper_split("".join(splits.values()))
    for split, share in zip(SPLITS, repeated(splits.values()), strict=True):
        if share > TOO_MUCH:
            copied = f"{share:.0%} of the {split} split of {name} stands word for word in earlier"
            say(f"{copied} ones; a score on it tells what is known by heart.")
    return Source.of(name, splits)


def _shown(text: str) -> str:
    """As any output and any record can have it: names of files may be no UTF-8."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def _check_size(place: str | Path, n_bytes: int) -> None:
    if n_bytes > MOST_BYTES:
        raise DataError(
            f"{place} has {n_bytes:,} bytes of text, too many for this machine's memory; name a "
            "folder of wiki.train, wiki.valid and wiki.test files, with --data.stream."
        )


def repeated(texts: Iterable[str]) -> list[float]:
    """The share of each text that stands in a text before it, too: by passages of PASSAGE bytes, or
    by whole lines of LINE characters or more, in any order and case, where that is more. Passages
    are a sixteenth of all, chosen by their hash, so that one is chosen wherever it stands."""
    texts, block = list(texts), 1 << 18  # bytes, which fit into a processor's cache
    owners, passages = [np.empty(0, int)], [np.empty(0, np.uint64)]
    for owner, text in enumerate(texts):
        content = np.frombuffer(text.encode().translate(None, b" \t\r\n"), np.uint8)
        for start in range(0, len(content), block):
            hashes = content[start : start + block + PASSAGE - 1].astype(np.uint64)
            factor, length = 0x9E3779B97F4A7C15, 1
            while length < PASSAGE:  # a polynomial in an odd factor, modulo 2**64
                hashes = hashes[:-length] * np.uint64(factor) + hashes[length:]
                factor, length = factor**2 % 2**64, 2 * length
            hashes *= np.uint64(0xBF58476D1CE4E5B9)  # so that all bits move the uppermost
            passages.append(hashes[hashes < 2**60])
            owners.append(np.full(len(passages[-1]), owner))
    _, first, place = np.unique(np.concatenate(passages), return_index=True, return_inverse=True)
    owners = np.concatenate(owners)
    earlier = np.bincount(owners, owners[first[place]] < owners, len(texts))
    shares = earlier / np.maximum(1, np.bincount(owners, minlength=len(texts)))
    before = set()  # hashes of lines
    for owner, text in enumerate(texts):
        lines = ["".join(line.split()).casefold() for line in text.split("\n")]
        found = sum(len(line) for line in lines if hash(line) in before)
        shares[owner] = max(shares[owner], found / max(1, sum(map(len, lines))))
        before.update(hash(line) for line in lines if len(line) >= LINE)
    return shares.tolist()


def resolve_source(source: str) -> str:
    """In the place of "auto" the folder that $LLMLITE_DATA names, else the Hub."""
    return (os.environ.get(DATA_VARIABLE) or "hub") if source == "auto" else source


def sample_folder() -> Path:
    """`data/sample` of a clone, or the copy that an installation carries."""
    package = Path(__file__).resolve().parent
    clone = package.parent / "data" / "sample"
    return clone if clone.is_dir() else package / "sample"


def split_articles(text: str) -> list[str]:
    """`text` cut before each top-level heading."""
    return [article for article in _ARTICLE_START.split(text) if article]


def paper_split(text: str) -> dict[str, str]:
    """§III.A: 80/10/10 of the text in its order, each cut moved to the nearest article boundary, or
    where the text has no articles, as WikiText marks them, to a place as good as one's own text."""
    articles = split_articles(text)
    if len(articles) < 3:
        return _splits(text, _cut(text, 0.8), _cut(text, 0.9))
    ends = list(accumulate(map(len, articles)))
    first = _nearest(0.8 * len(text), ends[:-2])  # no split is left without an article
    second = _nearest(0.9 * len(text), [end for end in ends[:-1] if end > first])
    return _splits(text, first, second)


def _nearest(target: float, ends: list[int]) -> int:
    return min(ends, key=lambda end: abs(end - target))


def _splits(text: str, first: int, second: int) -> dict[str, str]:
    return {"train": text[:first], "valid": text[first:second], "test": text[second:]}


def _hub(name: str, stream: bool) -> Source:
    """stream: read anew over the network in each pass, without a copy on disk."""
    with _hub_errors(name):
        import datasets  # takes seconds, and only the Hub needs it

        builder = datasets.load_dataset_builder(HUB_REPOSITORY, name)
        if not stream:
            builder.download_and_prepare()

    def strings(split: str) -> Iterator[str]:
        read = builder.as_streaming_dataset if stream else builder.as_dataset
        with _hub_errors(name):
            rows = read("validation" if split == "valid" else split)
            for batch in rows.iter(batch_size=1000):
                yield from (row or BLANK_LINE for row in batch["text"])

    return Source(strings, fingerprint(HUB_REPOSITORY, name, builder.hash), name)


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    try:
        yield
    # Of five libraries, which have no class of errors in common; the first cause is the reason.
    except Exception as error:
        while error.__cause__:
            error = error.__cause__
        raise DataError(
            f"Configuration {name} of {HUB_REPOSITORY} cannot be read from the Hub "
            f"({type(error).__name__}: {one_line(error)}); point ${DATA_VARIABLE} or --data at a "
            "folder of wiki.train/valid/test files, or use the bundled sample with --data sample."
        ) from None


def _wikitext_files(folder: Path) -> dict[str, Path]:
    """split → its file, with the suffix that more of them have."""
    both = [{s: folder / f"wiki.{s}.{suffix}" for s in SPLITS} for suffix in ("raw", "tokens")]
    return max(both, key=lambda files: sum(file.is_file() for file in files.values()))


def _wikitext(folder: Path, title: str) -> Source:
    files = _wikitext_files(folder)
    if missing := [
        f"{file.name}{' (no regular file)' * os.path.lexists(file)}"
        for file in files.values()
        if not file.is_file()
    ]:
        raise DataError(
            f"The folder {folder} lacks {', '.join(missing)}; it must hold "
            "wiki.train, wiki.valid and wiki.test, all ending in .raw or all in .tokens."
        )
    stats = [file.stat() for file in files.values()]
    for file, about in zip(files.values(), stats, strict=True):
        if not about.st_size:
            raise DataError(f"{file} is empty; fetch the file again.")
    # What a copy with the same size and time does not have.
    changed = [(s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for s in stats]
    key = fingerprint(str(folder.resolve()), changed)
    return Source(lambda split: _lines(files[split]), key, title, files)


def _lines(path: Path, newline: str | None = "\n") -> Iterator[str]:
    """The lines of a file of UTF-8, the longest in parts, without its byte order mark, their ends
    as they are; or "\\n" for each with `newline` None, as where the first ends in "\\r\\n"."""
    try:
        with open(path, "rb") as file:
            newline = None if file.readline(LONGEST).endswith(b"\r\n") else newline
        with open(path, encoding="utf-8-sig", newline=newline) as file:
            for line in iter(partial(file.readline, LONGEST), ""):
                if "\0" in line:
                    raise DataError(f"{path} is not text: it has NUL bytes; name a file of text.")
                yield line
    except UnicodeDecodeError as error:
        wrong = error.object[error.start]
        raise DataError(
            f"{path} is not UTF-8: it has a byte 0x{wrong:02x}; convert the file to UTF-8."
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; name another file.") from None


def _own_text(path: Path, without: Path) -> Source:
    """A file, or all text files below a folder in the order of their paths, a blank line between
    two; cut 80/10/10 in that order: the end of the book judges, not sentences from its midst.
    Hidden files and folders and those in `without` are left out; so is, and that is said, what is
    no text, what a link leads to that is not below `path`, and a text that was there already."""
    texts, said = {}, []  # text → its file
    files = _files(path, without.resolve(), said) if path.is_dir() else [path]
    _check_size(path, sum(os.path.getsize(file) for file in files if os.path.isfile(file)))
    for file in files:
        try:
            text = _document(file, path)
            if text and (first := texts.setdefault(text, file)) != file:
                raise DataError(f"{file} has the text of {first.name}; leave one of them out.")
        except DataError as error:
            if file == path:
                raise
            said.append(str(error))
    shares = zip(texts.values(), repeated(texts), strict=True)
    said += [f"{file} is to {x:.0%} in files before it" for file, x in shares if x > TOO_MUCH]
    if said:
        said = "; ".join(why.removeprefix(f"{path}{os.sep}").partition(";")[0] for why in said)
        say(_shown(f"Left out of {path}, or copied: {said}."))
    text = "\n".join(texts)
    if (n_bytes := len(text.encode())) < LEAST_BYTES:
        raise DataError(
            f"{path} holds {n_bytes:,} bytes of text; at least {LEAST_BYTES:,} (about 3,500 words) "
            "are needed to train a model and to judge it: add more text, or name a folder with "
            "several files."
        )
    name = "own text " + _shown(path.resolve().name if path.is_dir() else path.stem)
    return Source.of(name, _splits(text, _cut(text, 0.8), _cut(text, 0.9)))


def _files(folder: Path, made: Path, said: list[str]) -> list[Path]:
    """What is below a folder, in order, without `made`; a folder that cannot be read is said."""
    found, unread = [], []
    for parent, folders, names in os.walk(folder, onerror=unread.append):
        there = [Path(parent, name) for name in folders + names if name[0] != "."]
        # Not by `resolve`, which raises where links go round.
        there = [p for p in there if not Path(os.path.realpath(p)).is_relative_to(made)]
        folders[:] = [p.name for p in there if os.path.isdir(p)]
        found += [p for p in there if p.name not in folders or p.is_symlink()]  # follows no link
    said += [f"{error.filename} cannot be read: {error.strerror}" for error in unread]
    return sorted(found, key=str)


def _document(path: Path, folder: Path) -> str:
    """A file's text, "\\n" for every line end and one at its end; "" where it has none."""
    if not Path(os.path.realpath(path)).is_relative_to(folder.resolve()):
        raise DataError(f"{path} is a link that leads out of the folder; copy what it leads to.")
    if not os.path.isfile(path):  # it may have no end, or never begin
        raise DataError(f"{path} is no regular file; name a file of UTF-8 text.")
    text = "".join(_lines(path, newline=None)).strip("\n").rstrip()
    return text and text + "\n"


def _cut(text: str, share: float) -> int:
    """Where to cut: nearest to `share` of the text among the best PLACES within REACH."""
    target, reach = round(share * len(text)), int(REACH * len(text))
    for place in PLACES:
        found = re.compile(place).finditer(text, target - reach, target + reach)
        if ends := [match.end() for match in found]:
            return _nearest(target, ends)
    return target  # text without white space: anywhere
