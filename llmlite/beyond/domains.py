"""Texts of other domains than an encyclopedia's: what lies on this machine anyway, and whatever
somebody names. They are written to the folder of an experiment, and are no part of this project."""

import ast
import importlib.util
import platform
import re
import sysconfig
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from llmlite.config import fingerprint
from llmlite.data import Dataset, head
from llmlite.files import DataError, one_line, replacing

# Folders: others' code, what is odd on purpose, and tables that are nearly alike.
LEFT_OUT = {"site-packages", "test", "tests", "encodings", "pydoc_data"}


def python_files(*folders: Path) -> Iterator[Path]:
    """What lies below the folders, in the order of a hash of their names: the same on each machine,
    and the first few are of all kinds."""
    found = {}
    for folder in folders:
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).parts
            if not LEFT_OUT & set(parts):
                found[fingerprint(folder.name, parts)] = path
    return (found[key] for key in sorted(found))


def programming() -> Iterator[str]:
    """The modules of the running Python's standard library."""
    for path in python_files(Path(sysconfig.get_path("stdlib"))):
        yield path.read_text("utf-8", errors="replace")


def mathematics() -> Iterator[str]:
    """What NumPy's and SciPy's modules say of themselves. They are read, not imported."""
    found = (importlib.util.find_spec(name) for name in ("numpy", "scipy"))
    for path in python_files(*(Path(spec.origin).parent for spec in found)):
        yield "\n\n".join(docstrings(path.read_text("utf-8", errors="replace")))


def docstrings(source: str) -> list[str]:
    """Of a module, its classes and functions, the outer ones first, without their indentation."""
    kinds = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds))
    return [text for node in nodes if (text := ast.get_docstring(node))]


def from_the_hub(name: str) -> Iterator[str]:
    """The rows of a data set's training split, as they come over the network."""
    import datasets  # takes seconds

    yield from (row["text"] for row in datasets.load_dataset(name, split="train", streaming=True))


PYTHON, NUMPY, SCIPY = platform.python_version(), version("numpy"), version("scipy")
# name → its texts, what they are and their licence, and how one of them may begin
DOMAINS = {
    "programming": (
        programming,
        f"the standard library of Python {PYTHON}, PSF licence",
        "def __init__(self, name",
    ),
    "mathematics": (
        mathematics,
        f"docstrings of NumPy {NUMPY} and SciPy {SCIPY}, BSD-3-Clause",
        "Compute the inverse of a matrix",
    ),
}


def key_of(name: str) -> str:
    """What a domain is called on disk: one of DOMAINS, or a fingerprint of a path or of a name."""
    return name if name in DOMAINS else f"own-{fingerprint(name)[:8]}"


def about(name: str) -> tuple[str, str]:
    """What a text is, and how a continuation of it begins."""
    return DOMAINS[name][1:] if name in DOMAINS else (name, "The ")


def dataset_of(name: str, dataset: Dataset, n_bytes: int) -> Dataset:
    """The text of a domain in the tokens and windows of `dataset`, cut 80/10/10. name: one of
    DOMAINS, of which the first `n_bytes` are taken; a file or a folder; or OWNER/NAME of a data set
    on the Hub with a column "text". DataError where there is none."""
    source = name
    if name in DOMAINS or (re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists()):
        texts = DOMAINS[name][0]() if name in DOMAINS else from_the_hub(name)
        what = fingerprint(about(name), n_bytes)[:8]  # another Python has another library
        source = dataset.folder / "domains" / f"{key_of(name)}-{what}.txt"
        if not source.exists():
            try:
                text = head((f"{text.strip()}\n\n" for text in texts if text.strip()), n_bytes)
            except Exception as error:  # of the Hub, of as many kinds as libraries
                why = f"{name} cannot be read ({one_line(error)})"
                raise DataError(f"{why}; name a file or a folder of text.") from None
            with replacing(source) as aside:
                aside.write_text(text, "utf-8", errors="replace")
    how = {"source": str(source), "split": "official", "stream": False, "stride": None}
    return dataset.like(dataset.tokenizer, **how)
