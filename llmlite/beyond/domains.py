"""Texts of other domains than an encyclopedia's: what lies on this machine anyway, and whatever
somebody names. They go to an experiment's folder, and are no part of this project."""

import ast
import platform
import re
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from llmlite.config import fingerprint
from llmlite.data import Dataset, head
from llmlite.files import DataError, one_line, replacing

NUMPY, SCIPY = version("numpy"), version("scipy")
DOMAINS = {  # name → what it is
    "programming": f"standard library of Python {platform.python_version()}, PSF licence",
    "mathematics": f"docstrings of NumPy {NUMPY} and SciPy {SCIPY}, BSD-3-Clause",
}
# Folders: others' code, what is odd on purpose, and tables that are nearly alike.
LEFT_OUT = {"site-packages", "test", "tests", "encodings", "pydoc_data"}


def documents(name: str) -> Iterator[str]:
    """The texts of one of DOMAINS, a module each, in the order of a hash of its name: the same
    everywhere, and the first few are of all kinds. Or of OWNER/NAME on the Hub, a row each."""
    if name not in DOMAINS:
        import datasets  # takes seconds

        rows = datasets.load_dataset(name, split="train", streaming=True)
        yield from (row["text"] for row in rows)
        return
    folders, found = [Path(sysconfig.get_path("stdlib"))], {}
    if name == "mathematics":  # found, but not imported
        folders = [Path(find_spec(module).origin).parent for module in ("numpy", "scipy")]
    for folder in folders:
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).parts
            if not LEFT_OUT & set(parts):
                found[fingerprint(folder.name, parts)] = path
    for key in sorted(found):
        text = found[key].read_text("utf-8", errors="replace")
        yield docstrings(text) if name == "mathematics" else text


def docstrings(source: str) -> str:
    """What a module, its classes and functions say of themselves, the outer ones first."""
    kinds = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds))
    return "\n\n".join(filter(None, map(ast.get_docstring, nodes)))


def key_of(name: str) -> str:
    """A domain in the name of a file; one's own text has another once its files have changed."""
    files = [path for path in (Path(name), *Path(name).rglob("*")) if path.is_file()]
    state = sorted((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files)
    return name if name in DOMAINS else f"own-{fingerprint(name, state)[:8]}"


@lru_cache(maxsize=4)
def dataset_of(name: str, dataset: Dataset, n_bytes: int) -> Dataset:
    """A domain in the tokens and windows of `dataset`, cut 80/10/10. name: one of DOMAINS or, on
    the Hub, OWNER/NAME with a column "text", of which `n_bytes` are taken; or a file or folder."""
    path = Path(name)
    if name in DOMAINS or (re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not path.exists()):
        what = fingerprint(DOMAINS.get(name), n_bytes)[:8]  # another Python has another library
        path = dataset.folder / "domains" / f"{key_of(name)}-{what}.txt"
        if not path.exists():
            try:
                text = head((f"{text.strip()}\n\n" for text in documents(name)), n_bytes)
            except Exception as error:  # of the Hub, of as many kinds as libraries
                why = f"{name} cannot be read ({one_line(error)})"
                raise DataError(f"{why}; name a file or a folder of text.") from None
            with replacing(path) as aside:
                aside.write_text(text, "utf-8", errors="replace")
    how = {"split": "official", "stream": False, "stride": None}
    return dataset.like(dataset.tokenizer, source=str(path), **how)
