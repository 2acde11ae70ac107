"""Somebody's own text: reading it, cutting it into splits, and the sizes that it is worth.

    read_source → Source (one text) → split_text     own_profile: how to train on so much text

A text loses its byte order mark, gets "\\n" for every line end and one at its end; else it stays as
it is. Trains nothing: see ownrun.py.
"""

import hashlib
import os
import re
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from llmlite.config import DataConfig, ModelConfig, SearchSpace, TrainConfig, fingerprint
from llmlite.data import SPLITS
from llmlite.errors import DataError
from llmlite.profiles import PROFILES, Profile
from llmlite.progress import tqdm
from llmlite.tokenizer import BPETokenizer

LEAST_BYTES = 20_000  # a tenth of it is a thousand tokens or so: fewer judge nothing
SHARES = {"valid": 0.8, "test": 0.9}  # where these splits begin
REACH = 0.025  # of the text: how far a cut moves for a better place, so that no split gets lost
LEAST_SEEN = 10  # times: a rarer pair of the training text becomes no token
COUNTED = 4_000_000  # characters in which these are counted

# Where a text may be cut, the best first.
PLACES = {
    "paragraphs": re.compile(r"\n(?:[^\S\n]*\n)+"),
    "lines": re.compile(r"\n"),
    "sentences": re.compile(r"[.!?]\s+|[。！？]"),
    "words": re.compile(r"\s+"),
}


@dataclass(frozen=True)
class Source:
    """A text and where it is from."""

    name: str
    text: str
    file_ends: tuple[int, ...]  # characters up to the end of each file
    left_out: tuple[str, ...]  # files of the folder that are not text

    @property
    def n_bytes(self) -> int:
        return len(self.text.encode())

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.name, hashlib.sha256(self.text.encode()).hexdigest())


@dataclass(frozen=True)
class Size:
    """What a text of at least `n_bytes` is worth.

    The vocabulary is about the largest power of two with which a token occurs two dozen times or
    more in the training part on average: English gets 2 bytes a token from 512 of them, 3 from
    1,024 and 4 from 4,096 or more, and an embedding that was hardly trained is of no use.
    """

    n_bytes: int
    vocab_size: int
    block_size: int  # on a CPU
    dropout: float
    n_layer: int
    widths: tuple[int, ...]  # in the search, on a CPU
    cuda_block_size: int
    cuda_n_layer: int
    cuda_widths: tuple[int, ...]


SIZES = (
    Size(LEAST_BYTES, 320, 64, 0.3, 2, (32, 64), 64, 2, (64, 128)),
    Size(50_000, 512, 64, 0.3, 2, (32, 64), 64, 2, (64, 128)),
    Size(150_000, 1024, 64, 0.2, 2, (64, 128), 128, 4, (64, 128)),
    Size(400_000, 2048, 64, 0.2, 2, (64, 128), 128, 4, (128, 256)),
    Size(1_000_000, 4096, 128, 0.1, 4, (64, 128), 256, 4, (128, 256)),
    Size(4_000_000, 8192, 128, 0.1, 4, (128, 192), 256, 6, (256, 384)),
)


# -- reading --------------------------------------------------------------------------------------


def read_source(path: str | Path, without: Path | None = None, progress: bool = False) -> Source:
    """The text of a file, or of all files below a folder in the order of their paths.

    In a folder, hidden files, links to folders and what lies in `without` do not count, and a file
    that is not text is left out; a blank line stands between two files. DataError if there is no
    such path, the one file is not UTF-8 or has NUL bytes, or there are under LEAST_BYTES of text.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        files = _files(path, without)
    elif path.exists():
        files = [path]
    else:
        raise DataError(f"There is no file or folder {path}; name one with --text.")
    documents, left_out = [], []
    for file in tqdm(files, "Read", unit="file", disable=not progress or len(files) == 1):
        try:
            documents.append(_decode(file))
        except DataError:
            if not path.is_dir():
                raise
            left_out.append(str(file.relative_to(path)))
    parts = [document for document in documents if document]
    ends = accumulate(len(part) + 1 for part in parts)  # with the blank line
    text = "\n".join(parts)
    source = Source(name_of(path), text, tuple(ends)[:-1], tuple(left_out))
    if source.n_bytes < LEAST_BYTES:
        unread = f", and {len(left_out)} file(s) that are not UTF-8 text" if left_out else ""
        raise DataError(
            f"{path} holds {source.n_bytes:,} bytes of text ({len(text.split()):,} words){unread}; "
            f"at least {LEAST_BYTES:,} bytes (about 3,500 words) are needed to train a model and "
            "to judge it, so add more text or name a folder with several files."
        )
    return source


def name_of(path: Path) -> str:
    """What to call the text at `path`."""
    path = path.resolve()
    return (path.name if path.is_dir() else path.stem) or "text"


def _files(folder: Path, without: Path | None) -> list[Path]:
    found, without = [], without.resolve() if without else None
    for parent, folders, names in os.walk(folder):
        folders[:] = [
            f for f in folders if not f.startswith(".") and (Path(parent) / f).resolve() != without
        ]
        found += [Path(parent) / name for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.is_file())


def _decode(path: Path) -> str:
    """A file's text with "\\n" for every line end, or "" if it has none. DataError."""
    data = path.read_bytes()
    zero = data.find(b"\0")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        raise DataError(
            f"{path} is not UTF-8: byte {at} is 0x{data[at]:02x}; convert the file to UTF-8."
        ) from None
    if zero >= 0:
        raise DataError(f"{path} is not text: byte {zero} is NUL; name a file of UTF-8 text.")
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\n").rstrip()
    return text + "\n" if text else ""


# -- splitting ------------------------------------------------------------------------------------


def split_text(source: Source) -> tuple[dict[str, str], list[str]]:
    """The three splits, which joined are the text again, and between what each cut lies.

    80/10/10 in the text's order: what comes last is the test, so a model is judged by the end of
    the book and not by sentences from the midst of what it has learned. A cut moves to the nearest
    end of a file within REACH; where none is so near, to that of a paragraph, and so on down
    PLACES. No line is cut that is shorter than the way a cut may move; text without white space is
    cut between characters.
    """
    cuts = [_cut(source, share) for share in SHARES.values()]
    (first, _), (second, _) = cuts
    parts = source.text[:first], source.text[first:second], source.text[second:]
    return dict(zip(SPLITS, parts, strict=True)), [between for _, between in cuts]


def _cut(source: Source, share: float) -> tuple[int, str]:
    length = len(source.text)
    target, reach = round(share * length), int(REACH * length)
    low, high = target - reach, target + reach
    candidates = {"files": [end for end in source.file_ends if low <= end <= high]}
    for place, pattern in PLACES.items():
        candidates[place] = (match.end() for match in pattern.finditer(source.text, low, high))
    for place, ends in candidates.items():
        nearest = min(ends, key=lambda end: abs(end - target), default=None)
        if nearest is not None:
            return nearest, place
    return target, "characters"


# -- sizes ----------------------------------------------------------------------------------------


def size_for(n_bytes: int) -> Size:
    """The largest of SIZES that a text of so many bytes is enough for."""
    return [size for size in SIZES if size.n_bytes <= max(n_bytes, LEAST_BYTES)][-1]


def vocabulary_for(train_text: str, largest: int) -> int:
    """`largest`, or what the text allows where each token was seen LEAST_SEEN times when learnt.

    A text that says the same over and over has few such tokens, whatever its size.
    """
    text = train_text[:COUNTED]
    return BPETokenizer.train(text, largest, min_frequency=LEAST_SEEN).vocab_size


def own_profile(n_bytes: int, vocab_size: int | None = None, cuda: bool = False) -> Profile:
    """How to train on a text of so many bytes: minutes on a CPU, more of everything with CUDA.

    A small text is read many times, with more dropout; early stopping says when it is enough. A
    large one is read as often as the budget of tokens allows, but for four epochs at least, which
    are then parts of it, drawn anew each time. The search is a quarter as long. vocab_size: instead
    of the size's own, where the text allows no more (`vocabulary_for`).
    """
    size = size_for(n_bytes)
    block = size.cuda_block_size if cuda else size.block_size
    budget, rates = (300_000_000, (2e-3, 1e-3)) if cuda else (4_000_000, (4e-3, 2e-3))
    train_tokens = int(SHARES["valid"] * n_bytes / 3)  # roughly: 2 to 4 bytes are a token
    epochs = min(max(budget // train_tokens, 4), 30)
    windows = budget // 4 // block if 4 * train_tokens > budget else None
    batch = (64 if cuda else 16) if n_bytes >= 1_000_000 else 8
    train = TrainConfig(
        epochs=epochs,
        batch_size=batch,
        amp="auto" if cuda else "off",  # models this small gain nothing from it on a CPU
        epoch_windows=windows,
        patience=max(3, epochs // 6),
    )
    search = replace(
        train, epochs=max(2, epochs // 4), train_tokens=None if cuda else 150_000, patience=3
    )
    grid = SearchSpace(
        rates,
        (size.cuda_n_layer if cuda else size.n_layer,),
        (4,),
        size.cuda_widths if cuda else size.widths,
    )
    return replace(
        PROFILES["quick"],  # for what only the notebooks ask for
        name="own",
        data=DataConfig(vocab_size=vocab_size or size.vocab_size, block_size=block),
        data_space=None,
        model=ModelConfig(dropout=size.dropout),
        first_grid=grid,
        revised_grid=grid,
        first_search=replace(search, schedule="fixed"),
        revised_search=search,
        retrain=train,
        retrain_configuration=None,
    )


def expectation(n_bytes: int) -> str | None:
    """What to expect of a model of so little text; None where it is enough for sentences."""
    if n_bytes < 150_000:
        return "it will learn spelling and common phrases; expect it to know little else"
    if n_bytes < 1_000_000:
        return "it will learn phrases and the look of the text; expect sentences that mean little"
    return None
