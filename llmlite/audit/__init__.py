"""The audit (notebook 08): where the paper's perplexity of 1.17 comes from, by the runs of `plan`,
and what of its claims holds, by the verdicts of `scorecard`."""

import tomllib
from pathlib import Path


def said(name: str) -> dict:
    """NAME.toml beside this module: what is said rather than computed."""
    return tomllib.loads(Path(__file__).with_name(f"{name}.toml").read_text("utf-8"))
