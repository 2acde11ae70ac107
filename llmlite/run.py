"""A run: all that one training is, as data, and the folder that it leaves."""

import io
import json
import os
import platform
import shlex
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from llmlite import __version__
from llmlite.config import DataConfig, ModelConfig, TrainConfig, fingerprint
from llmlite.files import CheckpointError, LLMLiteError, is_held, replacing, tqdm
from llmlite.model import GPT

if TYPE_CHECKING:
    import pandas as pd  # imported where it is used: loading a model should not wait for it

FORMAT = "llmlite-gpt-1"
RECORD = "record.json"  # configuration, fingerprints, versions, device and the log of each epoch
STEPS = "steps.jsonl"  # a line an optimiser step: learning rate, loss, norm of the gradient
WEIGHTS = "best.safetensors"  # of the lowest validation loss; the header says what they are
LAST = "last.pt"  # all that is needed to carry on; gone once the run is finished
PREVIOUS = "previous.pt"  # the checkpoint before it, used if the last is damaged; likewise


@dataclass(frozen=True)
class Run:
    """One training, and what is measured of its model."""

    name: str  # in a plan
    data: DataConfig
    model: ModelConfig  # its vocabulary and window are those of `data`
    train: TrainConfig
    # name → function of (model, dataset) that gives what JSON can hold, kept as name.json
    measures: Mapping[str, Callable] = field(default_factory=dict, compare=False)
    # What an archive has of it besides the record: all "steps", "weights".
    keeps: tuple[str, ...] = field(default=(), compare=False)

    def identity(self, about: dict[str, str]) -> dict:
        """All that the run is, for its record. about: of its dataset (see Dataset.about)."""
        return {
            "model": asdict(self.model),
            "train": asdict(self.train),
            "stride": self.data.stride or self.data.block_size,
            **about,
        }

    def folder(self, runs: str | Path, about: dict[str, str]) -> Path:
        """Where below `runs` it lies: named by its shape and by a fingerprint of all that it is, so
        that whoever wants the same run (a grid, the retraining, the audit) finds it."""
        model, rate = self.model, self.train.learning_rate
        shape = f"lr{rate:g}-{model.n_layer}l-{model.n_head}h-{model.n_embd}d"
        parts = [str(model), str(self.train), self.data.stride, about]
        return Path(runs) / f"{shape}-{fingerprint(parts)[:8]}"


def read_record(folder: str | Path) -> dict | None:
    """The record of a run, None where there is none yet."""
    path = Path(folder) / RECORD
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); delete it.") from None


def finished_record(folder: str | Path, identity: dict | None = None) -> dict | None:
    """The record of a run that was trained to its end, and is this very run; else None."""
    record = read_record(folder)
    if not record or record["status"] != "finished":
        return None
    return None if identity and difference(identity, record["identity"]) else record


def outcome(record: dict) -> str:
    """What came of a finished run, in words."""
    best, last = record["best"], record["epochs"][-1]
    return (
        f"validation perplexity {best['perplexity']:.4f}, epoch {best['epoch']} of "
        f"{last['epoch']}, {last['step']:,} steps in {record['seconds']:.1f} s, "
        f"{last['tokens_per_second']:,.0f} tokens/s, {record['engine']}"
    )


def difference(ours: dict, theirs: dict, prefix: str = "") -> str:
    """What differs between the identities of two runs, in words; "" if they are the same run."""
    found = []
    for key in sorted(ours.keys() | theirs.keys()):
        here, there = ours.get(key), theirs.get(key)
        if isinstance(here, dict) and isinstance(there, dict):
            found.append(difference(here, there, f"{key}."))
        elif here != there:
            found.append(f"{prefix}{key}: {there} there, {here} here")
    return ", ".join(filter(None, found))


def typed_command() -> str | None:
    """What was typed in a shell to start this process, quoted; None in a notebook."""
    program = Path(sys.argv[0])
    typed = program.name == "llmlite" or program.parts[-2:] == ("cli", "__main__.py")
    return shlex.join(["llmlite", *sys.argv[1:]]) if typed else None


def read_steps(folder: str | Path) -> "pd.DataFrame":
    """The log of a run's optimiser steps: step (from 1), epoch (from 1), lr, loss, grad_norm."""
    import pandas as pd

    return pd.read_json(Path(folder) / STEPS, lines=True)


def save_weights(config: ModelConfig, weights: dict, path: str | Path, **about: str) -> None:
    """Write weights (name → tensor) as safetensors; `about`, such as data, goes in the header."""
    weights = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    header = {"format": FORMAT, "config": json.dumps(asdict(config)), **about}
    with replacing(path) as aside:
        aside.write_bytes(save(weights, header))


def load_model(path: str | Path, device: str | torch.device = "cpu") -> tuple[GPT, dict[str, str]]:
    """(model in float32 and evaluation mode, header) from what `save_weights` wrote;
    CheckpointError, naming the file, if it is missing, damaged or not ours."""
    path = Path(path)
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
        if header.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        model = GPT(ModelConfig(**json.loads(header["config"])))
        model.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise CheckpointError(f"There is no model at {path}; train one first.") from None
    except Exception as error:  # a damaged file has a dozen kinds
        why = textwrap.shorten(str(error), 200, placeholder="…")  # PyTorch's are pages
        said = f"{path} is damaged or no model of llmlite ({why}); name or train another."
        raise CheckpointError(said) from None
    return model.to(device).eval(), header


def save_state(state: dict, folder: Path) -> None:
    """Write last.pt; what it was before becomes previous.pt."""
    last, content = folder / LAST, io.BytesIO()
    torch.save(state, content)  # written by Python, whose error names a full disk
    with replacing(last) as aside:
        aside.write_bytes(content.getbuffer())
        if last.exists():
            os.replace(last, folder / PREVIOUS)


def load_state(folder: Path, device: str | torch.device) -> dict | None:
    """The last training state that is whole, tensors on `device`; None where there is none yet. A
    damaged file is named on stderr and set aside; CheckpointError if none is whole."""
    found = [path for name in (LAST, PREVIOUS) if (path := folder / name).exists()]
    for path in found:
        try:
            with zipfile.ZipFile(path) as file:  # its checksums, which torch.load does not look at
                if changed := file.testzip():
                    raise ValueError(f"{changed} was changed")
            return torch.load(path, map_location=device, weights_only=True)
        except (OSError, torch.OutOfMemoryError):
            raise  # of the machine, not of the file
        except Exception as error:  # a damaged file has a dozen kinds, of zipfile, pickle and torch
            damaged = path.replace(path.with_name(f"damaged-{path.name}"))
            why = (str(error) or type(error).__name__).splitlines()[0]
            said = f"{path} is damaged or no checkpoint ({why}); it is {damaged.name} now."
            tqdm.write(said, sys.stderr)
    if not found:
        return None
    again = "make the same call again to start anew"
    raise CheckpointError(f"No checkpoint in {folder} is whole; {again}.")


def environment(device: str | torch.device) -> dict[str, str]:
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
    """The commit of the clone that this package runs from, "+" if its files were changed since; of
    an installed package the one that pip noted; else "unknown". For files that were copied without
    git $LLMLITE_COMMIT says it: a hash, with "-dirty" after it if they were changed."""
    if given := os.environ.get("LLMLITE_COMMIT"):
        return given[:10] + ("+" if given.endswith("-dirty") else "")
    here = Path(__file__).resolve().parent

    def git(*arguments):
        options = {"cwd": here, "stderr": subprocess.DEVNULL, "text": True}
        return subprocess.check_output(["git", *arguments], **options).strip()

    # Where there is no git, or no repository, the package was installed.
    with suppress(OSError, subprocess.CalledProcessError):
        if Path(git("rev-parse", "--show-toplevel")) == here.parent:
            changed = git("status", "--porcelain", "--", str(here))
            return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    noted = {}
    with suppress(PackageNotFoundError):
        noted = json.loads(distribution("llmlite").read_text("direct_url.json") or "{}")
    return noted.get("vcs_info", {}).get("commit_id", "unknown")[:10]


def runs_table(folder: str | Path) -> "pd.DataFrame":
    """A row a run below `folder`, the last written first: state ("interrupted" where no process is
    at it any more), epochs done and of how many, validation perplexity, why it failed, and the
    command that carries it on."""
    import pandas as pd

    rows = []
    records = sorted(Path(folder).rglob(RECORD), key=lambda p: p.stat().st_mtime, reverse=True)
    for path in records:
        row = {"run": str(path.parent.relative_to(folder))}
        try:
            record = read_record(path.parent)
            if "status" not in record:
                continue  # of a model that ships
            left = record["status"] == "running" and not is_held(path.parent)
            row |= {
                "state": "interrupted" if left else record["status"],
                "epochs": f"{len(record['epochs'])} of {record['identity']['train']['epochs']}",
                "perplexity": record["best"]["perplexity"] if record["best"] else None,
                "reason": record.get("reason", ""),
                "command": record.get("command") or "",
            }
        except (CheckpointError, LookupError, TypeError) as error:
            row |= {"state": "damaged", "reason": f"{error}"}
        rows.append(row)
    if not rows:
        raise LLMLiteError(f"There are no runs below {folder}; name another folder with --out.")
    return pd.DataFrame(rows)
