"""Every choice that a run makes, as frozen dataclasses; profiles.py puts them together.

A default lives here and nowhere else; a field's comment is the command line's help.
"""

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass, replace

from llmlite.files import LLMLiteError


def _require(condition: bool, what: str, allowed: str) -> None:
    if not condition:
        raise LLMLiteError(f"Configuration: {what}; allowed: {allowed}.")


def _at_least(least: int, config, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value is None or value >= least, f"{name} is {value}", f"{least} or more")


@dataclass(frozen=True)
class DataConfig:
    """Where the text comes from and how it becomes windows (§III.A to III.C)."""

    source: str = "auto"  # "auto" | "hub" | "sample" | a folder; auto: $LLMLITE_DATA, else the Hub
    name: str = "wikitext-2-raw-v1"  # the Hub's configuration, used when source is the Hub
    # official, or paper: 80/10/10 over the whole corpus, by article; windows: the audit's mistake
    split: str = "official"
    vocab_size: int = 10_000  # byte-pair vocabulary, special token included
    block_size: int = 256  # tokens in a window
    stride: int | None = None  # tokens from one window's start to the next; None: side by side
    stream: bool = False  # read as a stream, tokens kept on disk: for a corpus larger than memory
    tokenizer_bytes: int = 100_000_000  # of a stream, what the tokenizer learns from: its beginning
    # Mistakes that notebook 08 makes on purpose; split "windows" is one more: the windows are
    # shuffled before they are split 80/10/10, so that those of two splits overlap.
    padding: bool = False  # a window is one line of text, and what fills it up counts in the loss
    shift: int = 1  # tokens from an input to its target; 0: the target is the input itself

    def __post_init__(self):
        split, allowed = f"split is '{self.split}'", "official, paper; windows in the audit"
        _require(self.split in ("official", "paper", "windows"), split, allowed)
        _require(self.shift in (0, 1), f"shift is {self.shift}", "1; 0 in the audit")
        _require(
            not (self.padding and self.split == "windows"),
            f"padding is on, and {split}",
            "split official or paper",
        )
        _require(
            not self.stream or (self.split == "official" and self.shift == 1 and not self.padding),
            "stream is on, with what needs the whole text",
            "split official, shift 1 and no padding with stream",
        )
        _at_least(1, self, "tokenizer_bytes", "block_size")
        _require(
            self.stride is None or 1 <= self.stride <= self.block_size,
            f"stride is {self.stride}",
            f"1 to block_size ({self.block_size}), so that no token is left out",
        )


@dataclass(frozen=True)
class ModelConfig:
    """The shape of the decoder (§III.D)."""

    vocab_size: int = 10_000  # tokens that it knows
    block_size: int = 256  # tokens that it sees at once
    n_layer: int = 6  # blocks
    n_head: int = 4  # attention heads in a block
    n_embd: int = 128  # numbers in a token's vector
    dropout: float = 0.1  # share of activations set to 0 in training
    causal: bool = True  # False lets every position see its own target: a mistake, for notebook 08

    def __post_init__(self):
        _at_least(1, self, "vocab_size", "block_size", "n_layer", "n_head", "n_embd")
        _require(
            self.n_embd % self.n_head == 0,
            f"n_embd {self.n_embd} cannot be shared among n_head {self.n_head}",
            "a multiple of n_head",
        )
        _require(0 <= self.dropout < 1, f"dropout is {self.dropout}", "0 or more and below 1")


@dataclass(frozen=True)
class TrainConfig:
    """One training run (§III.E)."""

    epochs: int = 10  # passes over the windows
    batch_size: int = 128  # windows in one forward pass
    accumulation: int = 1  # forward passes in one optimiser step
    learning_rate: float = 1e-3  # the peak
    schedule: str = "cosine"  # "cosine": linear warmup, then half a cosine to 0 | "fixed"
    warmup_fraction: float = 0.1  # of all optimiser steps; the paper's log fits one tenth
    weight_decay: float = 0.1  # on matrices only
    beta2: float = 0.95  # AdamW's, of the squared gradient's average
    clip_norm: float = 1.0  # largest norm of the unscaled gradient; 0 turns clipping off
    amp: str = "auto"  # "auto" | "fp16" (with gradient scaling) | "bf16" | "off"
    epoch_windows: int | None = None  # windows in an epoch, drawn anew for each; None: all
    patience: int = 3  # epochs without a better validation loss before stopping; 0 never stops
    # Optimiser steps between checkpoints, an epoch's end always being one; None: by time (train.py)
    checkpoint_every: int | None = None
    train_tokens: int | None = None  # use only the first so many tokens of a split; None: all
    valid_tokens: int | None = None  # the same for validation
    seed: int = 1337  # of weights, order of windows and dropout
    fast: bool = True  # False: the plain computation that every fast path is compared with
    # Mistakes that notebook 08 makes on purpose:
    log_divided_loss: bool = False  # the training loss after its division by the accumulation
    log_scaled_norm: bool = False  # the norm of fp16's gradient before the scale is taken out

    def __post_init__(self):
        _at_least(2, self, "train_tokens", "valid_tokens")
        _at_least(1, self, "epochs", "batch_size", "accumulation")
        _at_least(1, self, "epoch_windows", "checkpoint_every")
        _at_least(0, self, "patience", "clip_norm", "weight_decay")
        _require(self.learning_rate > 0, f"learning_rate is {self.learning_rate}", "above 0")
        warmup = self.warmup_fraction
        _require(0 <= warmup < 1, f"warmup_fraction is {warmup}", "0 or more and below 1")
        choices = {"schedule": ("cosine", "fixed"), "amp": ("auto", "fp16", "bf16", "off")}
        for name, allowed in choices.items():
            value = getattr(self, name)
            _require(value in allowed, f"{name} is '{value}'", ", ".join(allowed))


class Space:
    """A grid: every combination of its fields' values, each of which is a tuple."""

    def __post_init__(self):
        for name, values in asdict(self).items():
            _require(len(values) > 0, f"the grid has no {name}", "at least one value")

    def __len__(self) -> int:
        return len(list(self.points()))

    def points(self):
        """Each combination as a dict, the last field varying fastest, as in the paper."""
        axes = asdict(self)
        for values in itertools.product(*axes.values()):
            yield dict(zip(axes, values, strict=True))


@dataclass(frozen=True)
class SearchSpace(Space):
    """Shapes and rates (§IV.A)."""

    learning_rate: tuple[float, ...] = (1e-3, 5e-4)
    n_layer: tuple[int, ...] = (2, 4, 6)
    n_head: tuple[int, ...] = (2, 4)
    n_embd: tuple[int, ...] = (128,)

    def corners(self) -> "SearchSpace":
        """The first and the last value of each axis, between which a trend shows most."""
        ends = {axis: values[:: max(1, len(values) - 1)] for axis, values in asdict(self).items()}
        return SearchSpace(**ends)


@dataclass(frozen=True)
class DataSpace(Space):
    """Candidates for how text becomes windows (plan/candidates.py)."""

    vocab_size: tuple[int, ...]
    block_size: tuple[int, ...]
    overlap: tuple[int, ...]  # windows that a token is in: 1 is side by side, 4 a quarter's stride


@dataclass(frozen=True)
class FastPaths:
    """Which of the engine's fast paths to take; None: where it pays. No part of what a run is,
    though results differ by rounding and, merged, by the units that are dropped out."""

    compile: bool | None = None  # compile the blocks; where it pays if not given
    # replay a step as a CUDA graph, in one process; where it pays if not given
    graph: bool | None = None
    merge: bool | None = None  # accumulated batches in one pass; where it pays if not given
    # attention as two products and a softmax, not as one kernel; where it pays if not given
    spell: bool | None = None


@dataclass(frozen=True)
class RayOptions:
    """A Ray cluster (plan/cluster.py), and what a run gets of a machine."""

    # train side by side on this cluster (pip install llmlite[ray]; all machines must see --out):
    # auto (the one this machine is in), local (one on this machine alone), HOST:PORT or
    # ray://HOST:PORT; here, without a cluster, if none of these three is given
    address: str | None = None
    # part of a GPU for a run, 0 to 1: with 0.25, four share one; 1 with CUDA here, else 0, if not
    # given
    gpus_per_run: float | None = None
    cpus_per_run: int = 1  # cores and threads for a run

    def __post_init__(self):
        gpus = self.gpus_per_run
        _require(0 <= (gpus or 0) <= 1, f"gpus_per_run is {gpus}", "0 to 1, a part of one GPU")
        _at_least(1, self, "cpus_per_run")


AXES = ("learning_rate", "n_layer", "n_head", "n_embd")  # of a SearchSpace


def fingerprint(*parts) -> str:
    """A short, stable name for anything JSON can hold: 16 hexadecimal digits of SHA-256."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def with_data(model: ModelConfig, data: DataConfig, **changes) -> ModelConfig:
    """`model` fitted to the vocabulary and window of `data`, with further changes on top."""
    return replace(model, vocab_size=data.vocab_size, block_size=data.block_size, **changes)
