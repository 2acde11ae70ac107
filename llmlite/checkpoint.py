"""What a run leaves on disk, and how it is read back. No pickle is ever executed.

A run's folder holds
    record.json       configuration, fingerprints, versions, device and the log of each epoch
    steps.jsonl       a line an optimiser step: learning rate, loss, norm of the unscaled gradient
    best.safetensors  weights with the lowest validation perplexity; its header says what they are
    last.pt           all that is needed to carry on, with a checksum; gone once the run is finished
    previous.pt       the checkpoint before it, used if the last one is damaged; likewise
"""

import hashlib
import io
import json
import os
import pickle
import platform
import subprocess
import sys
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from llmlite import __version__
from llmlite.config import ModelConfig, TrainConfig, fingerprint
from llmlite.errors import CheckpointError, LLMLiteError
from llmlite.files import replacing, room_for
from llmlite.model import GPT
from llmlite.progress import tqdm

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "llmlite-gpt-1"
STATE_FORMAT = "llmlite-state-2"
LAST, PREVIOUS = "last.pt", "previous.pt"
STEPS = "steps.jsonl"


def run_folder(
    runs: Path, model: ModelConfig, train: TrainConfig, stride: int | None, about: dict[str, str]
) -> Path:
    """Where below `runs` a run lies: its folder is named by its shape and by a fingerprint of all
    that it is, so that whoever wants the same run (a grid, the retraining, the audit) finds it."""
    shape = f"lr{train.learning_rate:g}-{model.n_layer}l-{model.n_head}h-{model.n_embd}d"
    identity = fingerprint([str(model), str(train), stride, about])
    return runs / f"{shape}-{identity[:8]}"


def save_model(model: GPT, path: str | Path, **about: str) -> None:
    """Write weights as safetensors; `about` (tokenizer fingerprint, data, …) goes in the header."""
    save_weights(model.config, model.state_dict(), path, **about)


def save_weights(
    config: ModelConfig, weights: dict[str, torch.Tensor], path: str | Path, **about: str
) -> None:
    """`save_model` for weights that are not in a model (any more)."""
    weights = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    header = {
        "format": FORMAT,
        "config": json.dumps(asdict(config)),
        "sha256": _digest(weights),
        **about,
    }
    with replacing(path) as aside:
        aside.write_bytes(_in_order(save(weights, header)))


def _in_order(content: bytes) -> bytes:
    """A .safetensors file with the keys of its header in order, which the library leaves to chance:
    the same weights give the same bytes. Tensors' places count from the header's end."""
    start = 8 + int.from_bytes(content[:8], "little")
    ordered = json.dumps(json.loads(content[8:start]), sort_keys=True).encode()
    ordered += b" " * (-len(ordered) % 8)  # tensors begin at a multiple of 8
    return len(ordered).to_bytes(8, "little") + ordered + content[start:]


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
        weights = load_file(path)
        model.load_state_dict(weights)
    except (LookupError, ValueError, RuntimeError, TypeError, LLMLiteError) as error:
        raise CheckpointError(f"{path} is damaged or not a model: {error}") from None
    if _digest(weights) != header.get("sha256"):
        raise CheckpointError(f"{path} was changed since it was written: its checksum is another.")
    return model.to(device).eval(), header


def _digest(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 over the names and values of the weights."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].view(torch.uint8).numpy())
    return digest.hexdigest()


def save_state(state: dict, folder: Path) -> None:
    """Write `last.pt`; what it was before becomes `previous.pt` once the new file is verified.

    The file is a line with the SHA-256 of all that follows, and then what torch.save writes.
    """
    content = io.BytesIO()
    torch.save(state, content)
    content = content.getbuffer()
    last = folder / LAST
    with replacing(last) as aside:
        with open(aside, "wb") as file:
            file.write(_seal(content))
            file.write(content)
        _verified(aside)
        if last.exists():
            os.replace(last, folder / PREVIOUS)


def load_state(folder: Path, device: str | torch.device) -> dict | None:
    """The last training state that is whole, tensors on `device`; None where there is none yet.

    A file that is truncated, foreign or was changed is named on stderr, and the one before it used.
    CheckpointError if none is whole.
    """
    found = [path for name in (LAST, PREVIOUS) if (path := folder / name).exists()]
    for path in found:
        try:
            return _read_state(path, device)
        except CheckpointError as error:
            # Set aside: the next checkpoint must not take it for the previous one.
            damaged = path.replace(path.with_name(f"damaged-{path.name}"))
            tqdm.write(f"{error} It is {damaged.name} now.", sys.stderr)
    if found:
        raise CheckpointError(
            f"No checkpoint in {folder} is whole ({', '.join(path.name for path in found)}); make "
            "the same call again to start the run from its beginning."
        )
    return None


def remove_state(folder: Path) -> None:
    """Delete the training state, which a finished run does not need: it is larger than the rest."""
    for name in (LAST, PREVIOUS):
        (folder / name).unlink(missing_ok=True)


def _read_state(path: Path, device: str | torch.device) -> dict:
    content = io.BytesIO(_verified(path))
    try:
        return torch.load(content, map_location=device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, LookupError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} cannot be read ({reason}).") from None


def _seal(content) -> bytes:
    return f"{STATE_FORMAT} {hashlib.sha256(content).hexdigest()}\n".encode()


def _verified(path: Path) -> memoryview:
    """What follows a checkpoint's first line, if it is what was written. CheckpointError else."""
    data = memoryview(path.read_bytes())
    length = len(_seal(b""))
    if bytes(data[: len(STATE_FORMAT)]) != STATE_FORMAT.encode():
        raise CheckpointError(f"{path} is not a checkpoint of llmlite ({STATE_FORMAT}).")
    if bytes(data[:length]) != _seal(data[length:]):
        raise CheckpointError(f"{path} is truncated or was changed: its checksum is another.")
    return data[length:]


def read_record(folder: str | Path) -> dict | None:
    """The record of a run, None where there is none yet."""
    path = Path(folder) / "record.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); delete it.") from None


def append_steps(folder: Path, rows: list[dict]) -> None:
    """Add rows to the log of steps; they are on the disk when this returns, as a checkpoint after
    them needs.
    """
    path = folder / STEPS
    with room_for(path), open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())


def cut_steps(folder: Path, step: int) -> None:
    """Cut the log of steps back to its first `step` rows, those before a checkpoint.

    A kill may have left the last line of the file short; all lines up to the checkpoint are whole.
    """
    path = folder / STEPS
    rows = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    with replacing(path) as aside:
        aside.write_text("".join(rows[:step]), encoding="utf-8")


def read_steps(folder: str | Path) -> "pd.DataFrame":
    """The log of a run's optimiser steps: step (from 1), epoch (from 1), lr, loss, grad_norm."""
    import pandas as pd  # here, so that loading a model does not wait for it

    return pd.read_json(Path(folder) / STEPS, lines=True)


def difference(ours: dict, theirs: dict) -> str:
    """What differs between the identities of two runs, in words; "" if they are the same run."""
    ours, theirs = _flat(ours), _flat(theirs)
    return ", ".join(
        f"{key}: {theirs.get(key)} there, {ours.get(key)} here"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    )


def _flat(nested: dict) -> dict:
    """{"a": {"b": 1}} → {"a.b": 1}."""
    flat = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": v for inner, v in _flat(value).items()}
        else:
            flat[key] = value
    return flat


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
    threads = torch.get_num_threads()
    return f"CPU ({platform.machine()}, {threads} thread{'s' if threads > 1 else ''})"


@cache
def commit() -> str:
    """The commit of the clone that this package runs from, "+" if its files were changed since, or
    "unknown". Asked once a process: the code that runs is the code that was there at the start.

    Where the files were copied to without git, $LLMLITE_COMMIT says it: a hash, with "-dirty" after
    it if files were changed.
    """
    if given := os.environ.get("LLMLITE_COMMIT"):
        return given[:10] + ("+" if given.endswith("-dirty") else "")
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
