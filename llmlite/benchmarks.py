"""The records of `make bench`, which an installation carries as well."""

import json
from pathlib import Path

from llmlite.errors import LLMLiteError


def benchmarks_folder() -> Path:
    package = Path(__file__).parent
    clone = package.parent / "tests" / "benchmarks" / "records"
    return clone if clone.is_dir() else package / "records"


def benchmark(name: str) -> dict:
    """A record of `make bench`: those of the repository, which an installation carries as well."""
    path = benchmarks_folder() / f"{name}.json"
    if not path.exists():
        raise LLMLiteError(f"There is no record {path}; `make bench` in a clone makes it.")
    return json.loads(path.read_text(encoding="utf-8"))
