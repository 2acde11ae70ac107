"""A run: all that one training is, as data, and the folder that it leaves."""

import hashlib
import io
import json
import os
import platform
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict, get_type_hints

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from typeguard import check_type

from llmlite import __version__, files
from llmlite.config import DataConfig, ModelConfig, TrainConfig, fingerprint
from llmlite.files import CheckpointError, LLMLiteError, one_line, replacing, say
from llmlite.model import GPT

if TYPE_CHECKING:
    import pandas as pd  # imported where it is used: loading a model should not wait for it

FORMAT = "llmlite-gpt-1"
RECORD = "record.json"  # configuration, fingerprints, versions, device and the log of each epoch
STEPS = "steps.jsonl"  # a line an optimiser step: learning rate, loss, norm of the gradient
WEIGHTS = "best.safetensors"  # of the lowest validation loss; the header says what they are
LAST = "last.pt"  # all that is needed to carry on; gone once the run is finished
PREVIOUS = "previous.pt"  # the checkpoint before it, used if the last is damaged; likewise
# Bytes at most: of a log of steps, of a record, of a measure.
LONGEST, RECORD_BYTES, MEASURE_BYTES = 2**26, 2**20, 2**22

# As JSON has them.
Shape = TypedDict("Shape", get_type_hints(ModelConfig))
Training = TypedDict("Training", get_type_hints(TrainConfig))
KEYS = ("llmlite", "python", "torch", "numpy", "device", "commit")
Environment = TypedDict("Environment", dict.fromkeys(KEYS, str))


class Identity(TypedDict):
    """All that a run is."""

    model: Shape
    train: Training
    stride: int
    data: NotRequired[str]  # this and what follows: of its dataset (see Dataset.about)
    data_fingerprint: NotRequired[str]
    tokenizer_fingerprint: NotRequired[str]
    padding: NotRequired[str]
    targets: NotRequired[str]
    split: NotRequired[str]


class Epoch(TypedDict):
    """The log of an epoch; losses in nats per token."""

    epoch: int  # from 1
    step: int  # optimiser steps taken by its end
    valid_loss: float
    perplexity: float
    lr: float  # of its last step
    train_loss: float
    grad_norm: float  # mean
    skipped: int  # steps that a scaler left out
    tokens_per_second: float
    seconds: float


class Record(TypedDict):
    """What record.json holds."""

    status: Literal["running", "finished", "failed"]
    reason: NotRequired[str]  # why it failed
    warning: NotRequired[str]  # of a loss that is too good to be true
    command: str | None
    identity: Identity
    environment: Environment
    amp: str
    engine: str
    processes: int
    parameters: int
    steps_per_epoch: int
    tokens_per_epoch: int
    epochs: list[Epoch]
    best: Epoch | None
    seconds: float
    steps_sha256: str  # of steps.jsonl


@dataclass(frozen=True)
class Run:
    """One training, and what is measured of its model."""

    name: str  # in a plan
    data: DataConfig
    model: ModelConfig  # its vocabulary and window are those of `data`
    train: TrainConfig
    # name → function of (model, dataset) that gives what JSON can hold, kept as name.json
    measures: Mapping[str, Callable] = field(default_factory=dict, compare=False)
    # What an archive has of it besides record and thinned steps: all "steps", "weights"; "epochs":
    # no step.
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
        return Path(runs) / _name(self.model, self.train, self.data.stride, about)


def _name(model: ModelConfig, train: TrainConfig, stride: int | None, about: dict) -> str:
    shape = f"lr{train.learning_rate:g}-{model.n_layer}l-{model.n_head}h-{model.n_embd}d"
    return f"{shape}-{fingerprint([str(model), str(train), stride, about])[:8]}"


def is_named(name: str, identity: Identity) -> bool:
    """Is this what the folder of that run is called? LLMLiteError if there is no such run."""
    about = dict(identity)
    model, train = ModelConfig(**about.pop("model")), TrainConfig(**about.pop("train"))
    stride = about.pop("stride")  # which may not have been given
    return name in {_name(model, train, given, about) for given in (stride, None)}


def read_record(folder: str | Path) -> Record | None:
    """The record of a run, None where there is none yet. CheckpointError if it is damaged."""
    path = Path(folder) / RECORD
    try:
        record = files.read_json(path, Record, RECORD_BYTES)
        best = min(record["epochs"], key=lambda epoch: epoch["valid_loss"], default=None)
        if record["best"] != best or (record["status"] == "finished" and not best):
            raise ValueError("its best epoch is not the best of its epochs")
        return record
    except FileNotFoundError:
        return None
    except ValueError as error:
        said = f"{path} is damaged or of another version of llmlite ({one_line(error)})"
        raise CheckpointError(f"{said}; delete it.") from None


def record_of(folder: str | Path, identity: dict | None = None) -> Record | None:
    """The record of this very run, however far it came; None where there is none, or one that is
    damaged or another's: whoever trains there will say so."""
    with suppress(CheckpointError):
        record = read_record(folder)
        if record and not (identity and difference(identity, record["identity"])):
            return record
    return None


def finished_record(folder: str | Path, identity: dict | None = None) -> Record | None:
    """`record_of`, if it was trained to its end."""
    record = record_of(folder, identity)
    return record if record and record["status"] == "finished" else None


def stamp(record: Record) -> str:
    """Stands for one training of a run, down to the last digit of its best epoch's loss and time:
    its weights, and what was measured of them, carry it."""
    return fingerprint(record["identity"], record["best"])


def origin(record: Record) -> dict[str, str]:
    """What weights say of themselves in their header."""
    about = {name: value for name, value in record["identity"].items() if isinstance(value, str)}
    return about | {"of": stamp(record)}


def read_measure(folder: str | Path, what: str, record: Record) -> dict | None:
    """None where it is not there, or damaged, or of another training than the record's."""
    with suppress(FileNotFoundError, ValueError):
        result = files.read_json(Path(folder) / f"{what}.json", dict, MEASURE_BYTES)
        if result.pop("of", None) == fingerprint(stamp(record), what, result):
            return result
    return None


def write_measure(folder: str | Path, what: str, record: Record, result: dict) -> dict:
    """Keep what was measured, with what it is of; as it will be read."""
    result = json.loads(json.dumps(result, allow_nan=False))
    of = fingerprint(stamp(record), what, result)
    files.write_json(Path(folder) / f"{what}.json", {"of": of, **result})
    return result


def outcome(record: Record) -> str:
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


def _to_type(command: str) -> str:
    """A command of llmlite, of anybody's record, so quoted that it is no other; "" if it is one."""
    with suppress(ValueError):
        if (words := shlex.split(command))[:1] == ["llmlite"]:
            return shlex.join(words)
    return ""


def read_steps(folder: str | Path) -> "pd.DataFrame":
    """The log of a finished run's optimiser steps: step (from 1), epoch (from 1), lr, loss,
    grad_norm; a row a step, or fewer. CheckpointError if it is lost, damaged or another's."""
    import pandas as pd

    path, columns = Path(folder) / STEPS, ["step", "epoch", "lr", "loss", "grad_norm"]
    try:
        content = files.read_bytes(path, LONGEST)
        record = finished_record(folder)
        if not record or record["steps_sha256"] != hashlib.sha256(content).hexdigest():
            raise ValueError("it is not the log of its record")
        steps = pd.DataFrame(map(json.loads, content.splitlines()), columns=columns)
        return steps.astype(dict.fromkeys(columns, float) | dict.fromkeys(columns[:2], "int64"))
    except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        said = f"{path} is lost or damaged ({one_line(error)})"
        raise CheckpointError(f"{said}; delete its folder to train the run again.") from None


def weights_bytes(config: ModelConfig, weights: dict, **about: str) -> bytes:
    """Weights (name → tensor) as safetensors; `about` and a checksum of all go in its header."""
    weights = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    header = {"format": FORMAT, "config": json.dumps(asdict(config)), **about}
    return save(weights, header | {"sha256": _checksum(weights, header)})


def _checksum(weights: dict[str, torch.Tensor], header: dict[str, str] | None = None) -> str:
    sha256, types = hashlib.sha256(), [str(weights[name].dtype) for name in sorted(weights)]
    for name in sorted(weights):
        sha256.update(name.encode())
        sha256.update(weights[name].flatten().view(torch.uint8).numpy())
    sha256.update(json.dumps([types, header], sort_keys=True).encode() if header else b"")
    return sha256.hexdigest()


def save_weights(config: ModelConfig, weights: dict, path: str | Path, **about: str) -> None:
    """Write `weights_bytes`."""
    with replacing(path) as aside:
        aside.write_bytes(weights_bytes(config, weights, **about))


def load_model(path: str | Path, device: str | torch.device = "cpu") -> tuple[GPT, dict[str, str]]:
    """(model in float32 and evaluation mode, header) from what `save_weights` wrote;
    CheckpointError, naming the file, if it is missing, damaged or not ours."""
    path = Path(path)
    try:
        if os.path.lexists(path) and not path.is_file():
            raise ValueError("it is no regular file")
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            config = ModelConfig(**files.parse_json(header["config"].encode(), Shape))
            names = file.keys()
            weights = {}
            if len(names) == GPT.TENSORS + GPT.BLOCK_TENSORS * config.n_layer:
                weights = {name: file.get_tensor(name) for name in names}
        # Before a model is made, for which there may be no room.
        if sum(weight.numel() for weight in weights.values()) != config.n_parameters:
            raise ValueError("its weights are not those of its configuration")
        # The model that ships has one of its weights alone.
        if header.pop("sha256", None) not in (_checksum(weights, header), _checksum(weights)):
            raise ValueError("its checksum is another")
        if not all(w.is_floating_point() and w.isfinite().all() for w in weights.values()):
            raise ValueError("some of its weights are no finite numbers")
        model = GPT(config)
        model.load_state_dict(weights)
    except FileNotFoundError:
        raise CheckpointError(f"There is no model at {path}; train one first.") from None
    except Exception as error:  # a damaged file has a dozen kinds
        said = f"{path} is damaged or no model of llmlite ({one_line(error)})"
        raise CheckpointError(f"{said}; name or train another.") from None
    return model.to(device).eval(), header


def model_in(folder: str | Path, record: Record, device: str | torch.device = "cpu") -> GPT:
    """The model that a training ended with; CheckpointError if it is not there or of another."""
    model, header = load_model(Path(folder) / WEIGHTS, device)
    if header.get("of") != stamp(record):
        raise CheckpointError(f"{Path(folder) / WEIGHTS} is of another training; delete it.")
    return model


def save_state(state: dict, folder: Path) -> None:
    """Write last.pt; what it was before becomes previous.pt."""
    last, content = folder / LAST, io.BytesIO()
    torch.save(state, content)  # written by Python, whose error names a full disk
    with replacing(last) as aside:
        aside.write_bytes(content.getbuffer())
        if last.exists():
            os.replace(last, folder / PREVIOUS)


def load_state(folder: Path, device: str | torch.device, most: int = LONGEST) -> dict | None:
    """The last training state that is whole, of `most` bytes, tensors on `device`; None where there
    is none yet. A damaged file is named on stderr and set aside; CheckpointError if none is whole.
    """
    found = [path for name in (LAST, PREVIOUS) if (path := folder / name).is_file()]
    for path in found:
        try:
            content = io.BytesIO(files.read_bytes(path, most))
            with zipfile.ZipFile(content) as file:
                if sum(part.file_size for part in file.infolist()) > len(content.getbuffer()):
                    raise ValueError("it would grow when it is read")
                if changed := file.testzip():  # checksums, which torch.load does not look at
                    raise ValueError(f"{changed} was changed")
            content.seek(0)
            return check_type(torch.load(content, map_location=device, weights_only=True), dict)
        except torch.OutOfMemoryError:
            raise  # of the machine, not of the file
        except Exception as error:  # a damaged file has a dozen kinds, of zipfile, pickle and torch
            set_aside(path, f"is damaged or no checkpoint ({one_line(error)})")
    if not found:
        return None
    raise CheckpointError(f"No state in {folder} is whole; make the same call again to start anew.")


def set_aside(path: Path, why: str) -> None:
    """Let a file that cannot be used make room for a new one, and say so."""
    damaged = path.replace(path.with_name(f"damaged-{path.name}"))
    say(f"{path} {why}; it is {damaged.name} now.")


def environment(device: str | torch.device) -> Environment:
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
    records = sorted(Path(folder).rglob(RECORD), key=lambda p: p.lstat().st_mtime, reverse=True)
    for path in records:
        row = {"run": str(path.parent.relative_to(folder))}
        if (path.parent / "model.safetensors").exists():
            continue  # the record of a model that ships or was imported
        try:
            record = read_record(path.parent)
            if not record:
                continue  # a link to nothing
            left = record["status"] == "running" and not files.is_held(path.parent)
            row |= {
                "state": "interrupted" if left else record["status"],
                "epochs": f"{len(record['epochs'])} of {record['identity']['train']['epochs']}",
                "perplexity": record["best"]["perplexity"] if record["best"] else None,
                "reason": record.get("reason", ""),
                "command": _to_type(record.get("command") or ""),
            }
        except CheckpointError as error:
            row |= {"state": "damaged", "reason": f"{error}"}
        rows.append(row)
    if not rows:
        raise LLMLiteError(f"There are no runs below {folder}; name another folder with --out.")
    return pd.DataFrame(rows)
