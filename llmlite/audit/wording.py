"""What is said rather than computed: the TOML files beside this module."""

import tomllib
from pathlib import Path


def rows(name: str) -> list[dict]:
    """The [[NAME]] of NAME.toml, in their order."""
    text = Path(__file__).with_name(f"{name}.toml").read_text("utf-8")
    return tomllib.loads(text)[name]
