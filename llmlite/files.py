"""What every module needs: the errors that a person is meant to read, the progress bar, files that
are never half-written, and folders that one process works in at a time."""

import errno
import json
import os
import platform
import stat
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

# Set for notebooks that run without anybody (cli/notebooks.py): their text bars reach the terminal.
HEADLESS_VARIABLE = "LLMLITE_HEADLESS"
if os.environ.get(HEADLESS_VARIABLE):
    from tqdm import tqdm as tqdm
else:  # widgets in a notebook that somebody watches, text everywhere else
    from tqdm.auto import tqdm as tqdm


class LLMLiteError(Exception):
    """Bad input or an impossible request, in one sentence for a person: what, where and what to do.
    The command line prints it and exits with code 2."""


class DataError(LLMLiteError):
    """The corpus cannot be had, or is not what it says it is."""


class TokenizerError(LLMLiteError):
    """A tokenizer cannot be trained, loaded or asked for this."""


class CheckpointError(LLMLiteError):
    """A file of weights or a training state is missing, damaged or belongs to something else."""


class MissingRunError(LLMLiteError):
    """A run that is to be shown has not been trained, and cannot be trained here."""


class DivergedError(LLMLiteError):
    """The loss or the gradient became NaN or infinite; the run was stopped and says where."""


class BusyError(LLMLiteError):
    """Another process is at work in this folder."""


class DiskFullError(LLMLiteError):
    """There is no room left for a file; what was there before is whole."""


def say(text: str) -> None:
    """Tell whoever watches, on stderr; a progress bar that stands there moves on."""
    tqdm.write(text, sys.stderr)


def one_line(error: Exception | str) -> str:
    """Why, in the middle of a sentence: some reasons are pages, some are empty."""
    return textwrap.shorten(str(error) or type(error).__name__, 200, placeholder="…").rstrip(".")


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a path to write to; it takes the place of `path` if the block ends without an error.
    Raises DiskFullError where there is no room for both."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    with room_for(path, aside):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.unlink(missing_ok=True)  # of a process of before that had the same number
            yield aside
            with open(aside, "rb") as written:
                os.fsync(written.fileno())  # a power cut leaves the old file or the new one
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def room_for(path: str | Path, aside: Path | None = None) -> Iterator[None]:
    """Raise DiskFullError, a sentence, if that is why `path` cannot be written; other errors name
    it, and not what is written in its place."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            if error.filename is None or str(error.filename) == str(aside):
                error.filename = str(path)
            raise
        raise DiskFullError(
            f"There is no room left to write {path} ({error.strerror}); free some and make the "
            "same call again: it carries on from what is there."
        ) from None


def unlinked(path: Path) -> Path:
    """`path` to write to: if it is a link, that goes, and what it leads to stays as it is."""
    if path.is_symlink():
        path.unlink()
    return path


@contextmanager
def locked(path: str | Path, timeout: float = -1) -> Iterator[None]:
    """Have this file's lock; Timeout if another process has it for so many seconds."""
    lock = FileLock(path, timeout=timeout)
    try:
        if Path(path).is_symlink():  # which older versions of filelock follow, and empty its target
            raise OSError("it is a link")
        held = lock.acquire()  # until it is left
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        raise LLMLiteError(
            f"{path} cannot be locked ({one_line(error)}); name another folder, on a file system "
            "that has locks."
        ) from None
    with held:
        yield


@contextmanager
def hold(folder: str | Path) -> Iterator[None]:
    """Work in `folder` alone, at most until the process ends: BusyError if anybody does already."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / ".owner"
    try:
        # Seconds, for who only looks whether a folder is held has it for an instant.
        with locked(folder / ".lock", timeout=1.0):
            with replacing(owner) as aside:  # whatever lies there, a link perhaps
                aside.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
            try:
                yield
            finally:
                owner.unlink(missing_ok=True)
    except Timeout:
        who = "another process"
        with suppress(OSError, ValueError):
            who = one_line(read_bytes(owner, 1000).decode())
        raise BusyError(
            f"{folder} is in use by {who}; wait until it is done or stop it, or work in another "
            "folder."
        ) from None


def is_held(folder: str | Path) -> bool:
    """Is a process at work in the folder? To find out takes its lock, for an instant."""
    lock = Path(folder) / ".lock"
    if not lock.exists():
        return False
    try:
        with locked(lock, timeout=0):
            return False
    except Timeout:
        return True
    except LLMLiteError:  # nobody can have locked it
        return False


def write_json(path: str | Path, content) -> None:
    """Write `content` as strict JSON: NaN and infinity are a programming error here."""
    with replacing(path) as aside:
        # A file's name, in a command that was typed, need not be Unicode.
        aside.write_text(to_json(content), encoding="utf-8", errors="replace")


def to_json(content) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


MOST_BYTES = 1 << 24  # of a file of JSON or of text that is read whole
LARGEST = 10.0**100  # number in JSON


def read_bytes(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """All of a file that may be anybody's. FileNotFoundError where there is none; ValueError, which
    says why, if it is no regular file, cannot be read, or has more than `most` bytes."""

    def opener(name, flags):  # which does not wait for the other end of a pipe
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    try:
        with open(path, "rb", opener=opener) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise ValueError("it is no regular file")
            if about.st_size > most:
                raise ValueError(f"it has more than {most:,} bytes")
            return file.read(about.st_size)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(error.strerror) from None


def read_json(path: str | Path, kind: type = dict, most: int = MOST_BYTES):
    """A file of JSON, by `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(path, most), kind)


def parse_json(content: bytes, kind: type = dict):
    """JSON as a `kind`, such as a TypedDict, all of whose parts are checked. ValueError, which says
    why, where it is not, nests too deeply, or has a number or text that cannot be written again."""

    def number(text: str) -> int | float:
        if not abs(value := float(text)) < LARGEST:
            raise ValueError("it has a number that nothing can be done with")
        return int(text) if text.lstrip("-").isdigit() else value

    try:
        value = json.loads(content, parse_int=number, parse_float=number, parse_constant=number)
        json.dumps(value, ensure_ascii=False).encode()  # no lone surrogates
        return check_type(value, kind, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except RecursionError:
        raise ValueError("it nests too deeply") from None
    except TypeCheckError as error:
        raise ValueError(str(error).partition("\n")[0]) from None
