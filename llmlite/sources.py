"""Where text comes from: the Hub, a folder of WikiText's files, the bundled sample, or any text.

All become a Source, whose splits can be read over and over. Knows nothing about tokens.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from llmlite.config import DataConfig, fingerprint
from llmlite.errors import DataError

HUB_REPOSITORY = "Salesforce/wikitext"
DATA_VARIABLE = "LLMLITE_DATA"  # environment variable that names a folder or a file of text
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

LEAST_BYTES = 20_000  # of one's own text: a tenth, a thousand tokens or so, has to judge a model
REACH = 0.025  # of the text: how far a cut moves for a better place, so that no split gets lost
# Where a text may be cut, the best first: at blank lines, lines, sentences, words.
PLACES = (r"\n(?:[^\S\n]*\n)+", r"\n", r"[.!?]\s+|[。！？]", r"\s+")


@dataclass(frozen=True)
class Source:
    """Text of three splits, which need not be in memory."""

    strings: Callable[[str], Iterator[str]]  # split → its text, in parts
    key: str  # stands for the text as long as it is not read
    name: Callable[[dict[str, str]], str]  # the SHA-256 of each split → what to call the text


def open_source(
    config: DataConfig, hub_repository: str = HUB_REPOSITORY, without: Path | None = None
) -> Source:
    """The text that `config` names. Raises DataError, one sentence each.

    hub_repository: may be a local folder laid out like the repository on the Hub. without: a folder
    whose files are no text of one's own, because it holds what is made of it.
    """
    source = resolve_source(config.source)
    if source == "hub":
        return _hub(hub_repository, config.name, config.stream)
    if source == "sample":
        return _wikitext(sample_folder(), "bundled sample")
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError(
            f"There is no file or folder {path}; name a text, or a folder of texts or of "
            "wiki.train/valid/test files."
        )
    is_wikitext = any(file.is_file() for file in _wikitext_files(path).values())
    return _wikitext(path) if is_wikitext else _own_text(path, without)


def resolve_source(source: str) -> str:
    """What "auto" means here: the folder that $LLMLITE_DATA names, else the Hub."""
    return (os.environ.get(DATA_VARIABLE) or "hub") if source == "auto" else source


def sample_folder() -> Path:
    """The bundled sample: `data/sample` of a clone, or the copy that an installation carries."""
    package = Path(__file__).resolve().parent
    clone = package.parent / "data" / "sample"
    return clone if clone.is_dir() else package / "sample"


def _hub(repository: str, name: str, stream: bool) -> Source:
    """stream: read anew over the network in each pass, without a copy on disk."""
    import datasets  # takes seconds, and only the Hub needs it

    with hub_errors(repository, name):
        builder = datasets.load_dataset_builder(repository, name)
        if not stream:
            builder.download_and_prepare()

    def strings(split: str) -> Iterator[str]:
        read = builder.as_streaming_dataset if stream else builder.as_dataset
        with hub_errors(repository, name):
            for batch in read(HUB_SPLIT[split]).iter(batch_size=1000):
                yield from (row or BLANK_LINE for row in batch["text"])

    return Source(strings, fingerprint(repository, name, builder.hash), lambda _: name)


@contextmanager
def hub_errors(repository: str, name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # no network, or no such configuration
        reason = " ".join(str(error).split())
        raise DataError(
            f"Configuration {name} of {repository} cannot be read from the Hub "
            f"({type(error).__name__}: {reason}); point ${DATA_VARIABLE} or --data at a folder of "
            "wiki.train/valid/test files, or use the bundled sample with --data sample."
        ) from None


# -- a folder of WikiText's files -----------------------------------------------------------------


def _wikitext_files(folder: Path) -> dict[str, Path]:
    """split → its file, with the suffix that more of them have."""
    both = [{s: folder / f"wiki.{s}.{suffix}" for s in SPLITS} for suffix in ("raw", "tokens")]
    return max(both, key=lambda files: sum(file.is_file() for file in files.values()))


def _wikitext(folder: Path, name: str | None = None) -> Source:
    files = _wikitext_files(folder)
    if missing := [file.name for file in files.values() if not file.is_file()]:
        raise DataError(
            f"The folder {folder} lacks {', '.join(missing)}; it must hold "
            "wiki.train, wiki.valid and wiki.test, all ending in .raw or all in .tokens."
        )

    def verify(sha256: dict[str, str]) -> str:
        verified = verified_name(folder, {files[s].name: sha256[s] for s in SPLITS})
        return name or verified

    stats = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files.values()]
    key = fingerprint(str(folder.resolve()), stats)
    return Source(lambda split: _lines(files[split]), key, verify)


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file of UTF-8, their ends as they are."""
    done = 0
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


def verified_name(folder: Path, digest: dict[str, str]) -> str:
    """What to call the text of a folder, whose files (name → SHA-256) are checked first.

    They are compared with a SHA256SUMS beside them and with WikiText-2's own checksums. Some files
    of the corpus beside others that differ from it mean a damaged copy; if all differ, it is
    somebody's own text under the same names.
    """
    sums, expected = folder / "SHA256SUMS", {}
    if sums.is_file():
        found = re.findall(r"^([0-9a-f]{64}) [ *](.+)$", sums.read_text("latin-1"), re.MULTILINE)
        expected = {name: sha for sha, name in found}
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


# -- any other text -------------------------------------------------------------------------------


def _own_text(path: Path, without: Path | None) -> Source:
    """A file, or all text files below a folder in the order of their paths, a blank line between
    two; cut 80/10/10 in that order, so that the end of the book judges, and not sentences from the
    midst of what was learned."""
    documents, left_out = [], []
    for file in _files_below(path, without) if path.is_dir() else [path]:
        try:
            documents.append(_document(file))
        except DataError:  # a picture, as a rule
            if file == path:
                raise
            left_out.append(str(file.relative_to(path)))
    text = "\n".join(filter(None, documents))
    if (n_bytes := len(text.encode())) < LEAST_BYTES:
        unread = f", and {len(left_out)} file(s) that are not UTF-8 text" if left_out else ""
        raise DataError(
            f"{path} holds {n_bytes:,} bytes of text{unread}; at least {LEAST_BYTES:,} (about "
            "3,500 words) are needed to train a model and to judge it: add more text, or name a "
            "folder with several files."
        )
    if left_out:
        print(f"Left out of {path}, for it is not UTF-8 text: {', '.join(left_out)}")
    ends = list(accumulate(len(document) + 1 for document in documents if document))
    first, second = _cut(text, 0.8, ends), _cut(text, 0.9, ends)
    splits = {"train": text[:first], "valid": text[first:second], "test": text[second:]}
    name = "own text " + (path.resolve().name if path.is_dir() else path.stem)
    return Source(lambda split: iter([splits[split]]), fingerprint(text), lambda _: name)


def _files_below(folder: Path, without: Path | None) -> list[Path]:
    """But for hidden ones, and those in hidden folders and in `without`."""
    found = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        made_here = without is not None and path.resolve().is_relative_to(without.resolve())
        if path.is_file() and not hidden and not made_here:
            found.append(path)
    return found


def _document(path: Path) -> str:
    """A file's text, "\\n" for every line end and one at its end; "" where it has none."""
    text = "".join(_lines(path)).removeprefix("\ufeff")
    if "\0" in text:
        raise DataError(f"{path} is not text: it has NUL bytes; name a file of UTF-8 text.")
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\n").rstrip()
    return text and text + "\n"


def _cut(text: str, share: float, file_ends: list[int]) -> int:
    """Where to cut: nearest to `share` of the text among the best places within REACH."""
    target, reach = round(share * len(text)), int(REACH * len(text))
    low, high = target - reach, target + reach
    candidates = [[end for end in file_ends if low <= end <= high]]
    candidates += [[m.end() for m in re.compile(p).finditer(text, low, high)] for p in PLACES]
    best = next(filter(None, candidates), [target])  # text without white space: anywhere
    return min(best, key=lambda end: abs(end - target))
