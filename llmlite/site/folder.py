"""A folder that is replaced as a whole, and only where it is this tool's own."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmlite.errors import LLMLiteError
from llmlite.files import room_for

MARKER = ".llmlite-site"  # says that a folder may be replaced


@contextmanager
def replacing_folder(to: Path) -> Iterator[Path]:
    """Yield an empty folder beside `to`; it takes the place of `to` if the block ends well.

    Raises LLMLiteError, before anything is made, if `to` is a file, or holds files and was not
    made by this function.
    """
    to = to.resolve()
    if to.exists() and not to.is_dir():
        raise LLMLiteError(f"{to} is a file; name a folder for the site.")
    if to.exists() and any(to.iterdir()) and not (to / MARKER).exists():
        raise LLMLiteError(
            f"{to} holds files that are not a site of llmlite's; name another folder or empty it."
        )
    aside, old = (to.with_name(f".{to.name}.{os.getpid()}.{part}") for part in ("tmp", "old"))
    with room_for(to):
        try:
            aside.mkdir(parents=True)
            (aside / MARKER).touch()
            yield aside
            if to.exists():
                to.rename(old)
            try:
                aside.rename(to)
            except OSError:
                if old.exists():
                    old.rename(to)
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
