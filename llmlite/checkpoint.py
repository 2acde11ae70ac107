"""What a run leaves on disk, and how it is read back. No pickle is ever executed.

A run's folder holds
    record.json       configuration, fingerprints, versions, device and the log of each epoch
    steps.jsonl       a line an optimiser step: learning rate, loss, norm of the unscaled gradient
    best.safetensors  weights with the lowest validation perplexity; its header says what they are
    last.pt           all that is needed to carry on, read with `weights_only=True`
"""

import json
import platform
import subprocess
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from llmlite import __version__
from llmlite.config import ModelConfig
from llmlite.errors import CheckpointError, LLMLiteError
from llmlite.files import replacing
from llmlite.model import GPT

FORMAT = "llmlite-gpt-1"


def save_model(model: GPT, path: str | Path, **about: str) -> None:
    """Write weights as safetensors; `about` (tokenizer fingerprint, data, …) goes in the header."""
    header = {"format": FORMAT, "config": json.dumps(asdict(model.config)), **about}
    with replacing(path) as aside:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, aside, header)


def load_model(path: str | Path, device: str | torch.device = "cpu") -> tuple[GPT, dict[str, str]]:
    """(model in evaluation mode, header) from what `save_model` wrote.

    Raises CheckpointError, naming the file, if it is missing, damaged or not ours.
    """
    path = Path(path)
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
    except FileNotFoundError:
        raise CheckpointError(f"There is no model at {path}; train one first.") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged or not a model: {error}") from None
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} does not hold an llmlite model (format {FORMAT}).")
    try:
        model = GPT(ModelConfig(**json.loads(header["config"])))
        model.load_state_dict(load_file(path))
    except (LookupError, ValueError, RuntimeError, TypeError, LLMLiteError) as error:
        raise CheckpointError(f"{path} is damaged or not a model: {error}") from None
    return model.to(device).eval(), header


def save_state(state: dict, path: str | Path) -> None:
    with replacing(path) as aside:
        torch.save(state, aside)


def load_state(path: str | Path, device: str | torch.device) -> dict:
    """A training state, tensors on `device`. CheckpointError if the file is damaged or foreign."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        reason = "" if isinstance(state, dict) and "identity" in state else "not a training state"
    except Exception as error:  # torch raises a different type for each kind of damage
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if reason:
        raise CheckpointError(
            f"{path} is damaged ({reason}); delete the folder {Path(path).parent} to start the run "
            "again."
        )
    return state


def read_record(folder: str | Path) -> dict | None:
    """The record of a run, None where there is none yet."""
    path = Path(folder) / "record.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); delete it.") from None


def read_steps(folder: str | Path) -> pd.DataFrame:
    """The log of a run's optimiser steps: step (from 1), epoch (from 1), lr, loss, grad_norm."""
    return pd.read_json(Path(folder) / "steps.jsonl", lines=True)


def environment(device: str | torch.device) -> dict:
    """What a number depends on besides the configuration: versions, device, commit."""
    return {
        "llmlite": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": device_name(device),
        "commit": commit(),
    }


def device_name(device: str | torch.device) -> str:
    """The device in words: a GPU's name, or the processor's and how many threads are used."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


@cache
def commit() -> str:
    """The commit of the clone that this package runs from, "+" if its files were changed since, or
    "unknown". Asked once a process: the code that runs is the code that was there at the start.
    """
    here = Path(__file__).resolve().parent

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != here.parent:
            return _installed_commit()  # inside somebody else's repository
        changed = git("status", "--porcelain", "--", str(here))
        return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return _installed_commit()


def _installed_commit() -> str:
    """The commit that pip noted when it installed the package from a git address, or "unknown"."""
    try:
        noted = json.loads(distribution("llmlite").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        return "unknown"
    return noted.get("vcs_info", {}).get("commit_id", "unknown")[:10]
