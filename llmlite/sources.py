"""Where text comes from (§III.A): the Hub, WikiText's files, the bundled sample, or any text."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from glob import glob
from itertools import accumulate
from pathlib import Path

from llmlite.config import DataConfig, fingerprint
from llmlite.files import DataError

HUB_REPOSITORY = "Salesforce/wikitext"
DATA_VARIABLE = "LLMLITE_DATA"  # environment variable that names a folder or a file of text
SPLITS = ("train", "valid", "test")
BLANK_LINE = " \n"  # how WikiText's files write an empty line; the Hub's rows hold "" instead

# SHA-256 of WikiText-2's files (Merity et al., 2016): tells a damaged copy from one's own text.
KNOWN_SHA256 = {
    "wiki.train.tokens": "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
    "wiki.valid.tokens": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
    "wiki.test.tokens": "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
    "wiki.valid.raw": "4cd0f6876d07a413aa911261ff6d363c72d757d47f0fdd6015702014c89cb9c7",
    "wiki.test.raw": "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08",
}

LEAST_BYTES = 20_000  # of one's own text: a tenth, a thousand tokens or so, has to judge a model
REACH = 0.025  # of the text: how far a cut moves for a better place, so that no split gets lost
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
        if not any(sha256[split] == digest for split, digest in known.items()):
            return self.title.encode(errors="replace").decode()  # files' names may be any bytes
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
    folder `without` are no text, but what is made of it. Raises DataError."""
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
        source = _wikitext(path, f"own text in {path.resolve().name}")
    else:
        source = _own_text(path, without)
    if config.stream:  # then the text is not known yet from which the tokenizer learns
        return replace(source, key=fingerprint(source.key, config.tokenizer_bytes))
    splits = {split: "".join(source.strings(split)) for split in SPLITS}
    name = source.name(_sha256(splits))
    if config.split == "paper":
        name, splits = f"{name}, split 80/10/10", paper_split("".join(splits.values()))
    return Source.of(name, splits)


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
    import datasets  # takes seconds, and only the Hub needs it

    with _hub_errors(name):
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
    except (OSError, ValueError) as error:  # no network, or no such configuration
        reason = " ".join(str(error).split())
        raise DataError(
            f"Configuration {name} of {HUB_REPOSITORY} cannot be read from the Hub "
            f"({type(error).__name__}: {reason}); point ${DATA_VARIABLE} or --data at a folder of "
            "wiki.train/valid/test files, or use the bundled sample with --data sample."
        ) from None


def _wikitext_files(folder: Path) -> dict[str, Path]:
    """split → its file, with the suffix that more of them have."""
    both = [{s: folder / f"wiki.{s}.{suffix}" for s in SPLITS} for suffix in ("raw", "tokens")]
    return max(both, key=lambda files: sum(file.is_file() for file in files.values()))


def _wikitext(folder: Path, title: str) -> Source:
    files = _wikitext_files(folder)
    if missing := [file.name for file in files.values() if not file.is_file()]:
        raise DataError(
            f"The folder {folder} lacks {', '.join(missing)}; it must hold "
            "wiki.train, wiki.valid and wiki.test, all ending in .raw or all in .tokens."
        )
    stats = [file.stat() for file in files.values()]
    # What a copy with the same size and time does not have.
    changed = [(s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for s in stats]
    key = fingerprint(str(folder.resolve()), changed)
    return Source(lambda split: _lines(files[split]), key, title, files)


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file of UTF-8, their ends as they are."""
    with open(path, encoding="utf-8", newline="\n") as file:
        try:
            yield from file
        except UnicodeDecodeError as error:
            wrong = error.object[error.start]
            raise DataError(
                f"{path} is not UTF-8: it has a byte 0x{wrong:02x}; convert the file to UTF-8."
            ) from None


def _own_text(path: Path, without: Path) -> Source:
    """A file, or all text files below a folder in the order of their paths, a blank line between
    two; cut 80/10/10 in that order: the end of the book judges, not sentences from its midst.
    Hidden files and folders (as `glob` has it) and those in `without` are left out."""
    documents, left_out, made = [], [], without.resolve()
    names = sorted(glob("**", root_dir=path, recursive=True)) if path.is_dir() else ["."]
    for file in (path / name for name in names):
        if not file.is_file() or file.resolve().is_relative_to(made):
            continue
        try:
            documents.append(_document(file))
        except DataError:  # a picture, as a rule
            if file == path:
                raise
            left_out.append(str(file.relative_to(path)))
    if left_out:
        print(f"Left out of {path}, for it is not UTF-8 text: {', '.join(left_out)}")
    text = "\n".join(filter(None, documents))
    if (n_bytes := len(text.encode())) < LEAST_BYTES:
        raise DataError(
            f"{path} holds {n_bytes:,} bytes of text; at least {LEAST_BYTES:,} (about 3,500 words) "
            "are needed to train a model and to judge it: add more text, or name a folder with "
            "several files."
        )
    name = "own text " + (path.resolve().name if path.is_dir() else path.stem)
    return Source.of(name, _splits(text, _cut(text, 0.8), _cut(text, 0.9)))


def _document(path: Path) -> str:
    """A file's text, "\\n" for every line end and one at its end; "" where it has none."""
    text = "".join(_lines(path)).removeprefix("\ufeff")
    if "\0" in text:
        raise DataError(f"{path} is not text: it has NUL bytes; name a file of UTF-8 text.")
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\n").rstrip()
    return text and text + "\n"


def _cut(text: str, share: float) -> int:
    """Where to cut: nearest to `share` of the text among the best PLACES within REACH."""
    target, reach = round(share * len(text)), int(REACH * len(text))
    for place in PLACES:
        found = re.compile(place).finditer(text, target - reach, target + reach)
        if ends := [match.end() for match in found]:
            return _nearest(target, ends)
    return target  # text without white space: anywhere
