"""From a source of text to batches of token windows (§III.A and III.C).

    load_corpus  →  Corpus (text of each split)  →  token_ids (cached)  →  windows.py

Three sources stand behind `load_corpus`: the Hub, a folder of WikiText's files
(`wiki.{train,valid,test}.{raw,tokens}`) and the bundled sample. All become the same `datasets`
rows and then the same text, byte for byte. Knows nothing about models; a tokenizer is anything with
`encode_batch_to_arrays`, `eot_id`, `dtype` and `fingerprint`.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import datasets
import numpy as np
import torch

from llmlite.config import DataConfig, fingerprint
from llmlite.errors import DataError
from llmlite.files import replacing

HUB_REPOSITORY = "Salesforce/wikitext"
DATA_VARIABLE = "LLMLITE_DATA"  # environment variable that names a folder of WikiText files
SPLITS = ("train", "valid", "test")
HUB_SPLIT = {"train": "train", "valid": "validation", "test": "test"}
BLANK_LINE = " \n"  # how WikiText's files write an empty line; the Hub's rows hold "" instead

# SHA-256 of WikiText-2's files (Merity et al., 2016): tells a damaged copy from one's own text.
KNOWN_SHA256 = {
    "wiki.train.tokens": "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
    "wiki.valid.tokens": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
    "wiki.test.tokens": "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
    "wiki.valid.raw": "4cd0f6876d07a413aa911261ff6d363c72d757d47f0fdd6015702014c89cb9c7",
    "wiki.test.raw": "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08",
}

# A top-level heading between two blank lines. Without that context, lines in the middle of an
# article match as well: 629 instead of 600 in the training split.
HEADING = r" = (?!= )(?P<title>.+) = \n"
_ARTICLE_START = re.compile(rf"(?:(?<=\n)|\A) \n{HEADING}(?= \n)")


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
class Corpus:
    """The text of the three splits, and what to call it."""

    name: str  # as shown beside every result, e.g. "wikitext-2-v1, split 80/10/10"
    splits: dict[str, str]

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint([hashlib.sha256(self.splits[s].encode()).hexdigest() for s in SPLITS])

    def articles(self, split: str) -> list["Article"]:
        return split_articles(self.splits[split])

    def counts(self, split: str) -> Counts:
        return Counts.of(self.splits[split], len(self.articles(split)))


@dataclass(frozen=True)
class Article:
    title: str
    text: str


def load_corpus(config: DataConfig, hub_repository: str = HUB_REPOSITORY) -> Corpus:
    """The corpus that `config` names, split as it says. Raises DataError, one sentence each.

    `hub_repository` may be a local folder laid out like the repository on the Hub.
    """
    source = resolve_source(config.source)
    if source == "hub":
        name, rows = config.name, _hub_rows(config.name, hub_repository)
    elif source == "sample":
        name, rows = "bundled sample", _folder_rows(sample_folder())[1]
    else:
        name, rows = _folder_rows(Path(source).expanduser())
    splits = {split: rows_to_text(rows[split]["text"]) for split in SPLITS}
    for split, text in splits.items():
        if not text.strip():
            raise DataError(f"The {split} split of {name} holds no text; check the source.")
    if config.split == "paper":
        splits = paper_split("".join(splits.values()))
        name += ", split 80/10/10"
    return Corpus(name, splits)


def resolve_source(source: str) -> str:
    """What "auto" means here: the folder that $LLMLITE_DATA names, else the Hub."""
    return (os.environ.get(DATA_VARIABLE) or "hub") if source == "auto" else source


def rows_to_text(rows) -> str:
    """The corpus's text from rows in the Hub's form, where a blank line is the empty string."""
    return "".join(row or BLANK_LINE for row in rows)


def text_to_rows(text: str) -> list[str]:
    """The Hub's rows of a text: a line each with its line end, "" for a blank line."""
    lines = re.findall(r"[^\n]*\n|[^\n]+\Z", text)
    return ["" if line == BLANK_LINE else line for line in lines]


def split_articles(text: str) -> list[Article]:
    """Cut `text` before each top-level heading; the pieces joined together are `text` again."""
    starts = list(_ARTICLE_START.finditer(text))
    if not starts:
        return [Article("", text)] if text else []
    ends = [start.start() for start in starts[1:]] + [len(text)]
    articles = [
        Article(start["title"], text[start.start() : end])
        for start, end in zip(starts, ends, strict=True)
    ]
    if starts[0].start() > 0:
        articles.insert(0, Article("", text[: starts[0].start()]))
    return articles


def first_sentences(text: str, limit: int) -> list[str]:
    """The first sentence of each of the first `limit` paragraphs that have a full stop."""
    paragraphs = (line for line in text.split("\n") if " . " in line and not line.startswith(" ="))
    return [line.split(" . ")[0] + " ." for line, _ in zip(paragraphs, range(limit), strict=False)]


def paper_split(text: str) -> dict[str, str]:
    """§III.A: 80/10/10 of the text in its order, each cut moved to the nearest article boundary."""
    articles = split_articles(text)
    if len(articles) < 3:
        raise DataError(
            f"The corpus has {len(articles)} article(s), so it cannot be split 80/10/10 between "
            "articles; use split='official' or add headings of the form ' = Title = '."
        )
    ends = np.cumsum([len(article.text) for article in articles])
    first = int(np.clip(np.abs(ends - 0.8 * len(text)).argmin() + 1, 1, len(articles) - 2))
    second = int(np.abs(ends - 0.9 * len(text)).argmin() + 1)
    second = int(np.clip(second, first + 1, len(articles) - 1))
    parts = articles[:first], articles[first:second], articles[second:]
    return {s: "".join(a.text for a in part) for s, part in zip(SPLITS, parts, strict=True)}


# -- sources --------------------------------------------------------------------------------------


def sample_folder() -> Path:
    """The bundled sample: `data/sample` of a clone, or the copy that an installation carries."""
    package = Path(__file__).resolve().parent
    clone = package.parent / "data" / "sample"
    return clone if clone.is_dir() else package / "sample"


def _hub_rows(name: str, repository: str) -> datasets.DatasetDict:
    with hub_errors(repository, name):
        rows = datasets.load_dataset(repository, name)
    return datasets.DatasetDict({split: rows[HUB_SPLIT[split]] for split in SPLITS})


@contextmanager
def hub_errors(repository: str, name: str) -> Iterator[None]:
    """Turn the ways in which `datasets` fails into a DataError, one sentence each."""
    try:
        yield
    except ValueError as error:  # how `datasets` answers a configuration that is not there
        raise DataError(f"{repository} on the Hub has no configuration '{name}': {error}") from None
    except OSError as error:  # ConnectionError and FileNotFoundError among them
        raise DataError(
            f"The Hub's {repository} cannot be reached ({type(error).__name__}): point "
            f"${DATA_VARIABLE} or --data at a folder of wiki.train/valid/test files, or use the "
            "bundled sample with --data sample."
        ) from None


def folder_files(folder: Path) -> dict[str, Path]:
    """The files of the three splits in a folder of WikiText files."""
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; name one with wiki.train/valid/test files.")
    found = {
        suffix: [s for s in SPLITS if (folder / f"wiki.{s}.{suffix}").is_file()]
        for suffix in ("raw", "tokens")
    }
    suffix = max(found, key=lambda s: len(found[s]))
    missing = [f"wiki.{s}.{suffix}" for s in SPLITS if s not in found[suffix]]
    if missing:
        raise DataError(
            f"The folder {folder} lacks {', '.join(missing)}; it must hold "
            "wiki.train, wiki.valid and wiki.test, all ending in .raw or all in .tokens."
        )
    return {s: folder / f"wiki.{s}.{suffix}" for s in SPLITS}


def _folder_rows(folder: Path) -> tuple[str, datasets.DatasetDict]:
    """The name and the rows of a folder of WikiText files, verified."""
    files = folder_files(folder)
    content = {split: path.read_bytes() for split, path in files.items()}
    digests = {files[s].name: hashlib.sha256(data).hexdigest() for s, data in content.items()}
    name = verified_name(folder, digests)
    rows = {
        split: datasets.Dataset.from_dict({"text": text_to_rows(_decode(data, files[split]))})
        for split, data in content.items()
    }
    return name, datasets.DatasetDict(rows)


def verified_name(folder: Path, digest: dict[str, str]) -> str:
    """What to call the text of a folder, whose files (name → SHA-256) are checked first.

    They are compared with a SHA256SUMS beside them and with WikiText-2's own checksums. Some files
    of the corpus beside others that differ from it mean a damaged copy; if all differ, it is
    somebody's own text under the same names.
    """
    expected = {}
    sums = folder / "SHA256SUMS"
    if sums.is_file():
        try:
            lines = (line.split(maxsplit=1) for line in sums.read_text("utf-8").splitlines())
            expected = {name.lstrip("*").strip(): sha for sha, name in (li for li in lines if li)}
        except ValueError:
            raise DataError(
                f"{sums} is not a list of checksums as sha256sum writes it; correct or delete it."
            ) from None
    genuine = [name for name, sha in digest.items() if sha == KNOWN_SHA256.get(name)]
    if genuine:
        expected |= KNOWN_SHA256
    for name, sha in digest.items():
        if name in expected and sha != expected[name]:
            raise DataError(
                f"{folder / name} is damaged or was changed: its SHA-256 is {sha[:12]}…, expected "
                f"{expected[name][:12]}…; fetch the file again."
            )
    if not genuine:
        return f"own text in {folder.resolve().name}"
    return "wikitext-2-raw-v1" if genuine[0].endswith(".raw") else "wikitext-2-v1"


def _decode(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} is not UTF-8: byte {error.start} (line {line}) is 0x{data[error.start]:02x}; "
            "convert the file to UTF-8."
        ) from None


# -- tokens ---------------------------------------------------------------------------------------


def encode_split(corpus: Corpus, split: str, tokenizer, progress: bool = False) -> np.ndarray:
    """Token ids of a split: <|endoftext|> before each article, so that the first token has context.

    Shape (tokens,), the tokenizer's smallest unsigned type.
    """
    texts = [article.text for article in corpus.articles(split)]
    start = np.array([tokenizer.eot_id], tokenizer.dtype)
    parts = tokenizer.encode_batch_to_arrays(texts, progress)
    return np.concatenate([array for part in parts for array in (start, part)])


def token_ids(
    corpus: Corpus, tokenizer, folder: str | Path, progress: bool = False
) -> dict[str, torch.Tensor]:
    """Token ids of all splits, int64 (tokens,), cached in `folder`.

    The cache's file name holds the fingerprints of text and tokenizer: a stale one is never read.
    """
    folder = Path(folder)
    path = folder / f"tokens-{corpus.fingerprint}-{tokenizer.fingerprint}.npz"
    if not path.exists():
        arrays = {split: encode_split(corpus, split, tokenizer, progress) for split in SPLITS}
        with replacing(path) as aside:
            np.savez(aside, **arrays)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {split: torch.from_numpy(arrays[split].astype(np.int64)) for split in SPLITS}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise DataError(f"The token cache {path} is damaged ({error}); delete it.") from None
