"""Every choice that a run makes, as frozen dataclasses; profiles.py puts them together.

A default lives here and nowhere else; a field's comment is the command line's help.
"""

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

from llmlite.files import LLMLiteError

# Types of fields, with the least and the most. What is beyond is a slip, or from a file that is not
# what it seems: it is refused before any memory is taken for it.
Count = Annotated[int, (1, 2**40)]
Tokens = Annotated[int, (2, 2**40)]  # an input and its target at least
Patience = Annotated[int, (0, 2**40)]
Thousands = Annotated[int, (1, 2**16)]  # windows in a batch, tokens in one, a model's width
Layers = Annotated[int, (1, 1_000)]
Vocabulary = Annotated[int, (1, 2**24)]
Amount = Annotated[float, (0, 1e30)]
Rate = Annotated[float, (1e-30, 1e30)]
Share = Annotated[float, (0, 0.99999)]  # never all of it, in 16 bits (model.dropout) either
Part = Annotated[float, (0, 1)]
Shift = Annotated[int, (0, 1)]
Seed = Annotated[int, (0, 2**32 - 1)]

WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
WORDS[type(None)] = "None"


class Checked:
    """A dataclass whose fields hold what their types say, ranges included; else LLMLiteError."""

    def __post_init__(self):
        types = get_type_hints(type(self), include_extras=True)
        for name, value in [(field.name, getattr(self, field.name)) for field in fields(self)]:
            allowed = _instead(value, types[name])
            require(not allowed, f"{name} is {value!r:.100}", allowed)


def _instead(value, kind) -> str:
    """What is allowed instead of `value`, in words; "" where it is of the type `kind`."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        allowed, ranges = _instead(value, parts[0]), [p for p in parts if isinstance(p, tuple)]
        if not ranges or not (allowed or any(not a <= value <= z for a, z in ranges)):
            return allowed
        return ", ".join([WORDS[parts[0]], *(f"{a:,} to {z:,}" for a, z in ranges)])
    if origin is Literal:
        return "" if value in parts else ", ".join(parts)
    if origin is tuple:
        # A grid needs a value on each axis; names to choose by may be none.
        fits = isinstance(value, tuple | list) and (value or parts[0] is str)
        words = next(filter(None, (_instead(v, parts[0]) for v in (value if fits else [None]))), "")
        return words and f"one or more, each {words}"
    if origin:  # a union
        words = [_instead(value, part) for part in parts]
        return " or ".join(words) if all(words) else ""
    fits = isinstance(value, (int, float) if kind is float else kind)
    if isinstance(value, bool):  # which Python takes for an int
        fits = kind in (bool, object)
    return "" if fits else WORDS.get(kind, kind.__name__)


def require(condition: bool, what: str, allowed: str) -> None:
    if not condition:
        raise LLMLiteError(f"Configuration: {what}; allowed: {allowed}.")


@dataclass(frozen=True)
class DataConfig(Checked):
    """Where the text comes from and how it becomes windows (§III.A to III.C)."""

    source: str = "auto"  # "auto" | "hub" | "sample" | a folder; auto: $LLMLITE_DATA, else the Hub
    name: str = "wikitext-2-raw-v1"  # the Hub's configuration, used when source is the Hub
    # official, or paper: 80/10/10 over the whole corpus, by article; windows: the audit's mistake
    split: Literal["official", "paper", "windows"] = "official"
    vocab_size: Vocabulary = 10_000  # byte-pair vocabulary, special token included
    block_size: Thousands = 256  # tokens in a window
    stride: Count | None = None  # tokens from one window's start to the next; None: side by side
    stream: bool = False  # read as a stream, tokens kept on disk: for a corpus larger than memory
    # of a stream, what the tokenizer learns from: its beginning
    tokenizer_bytes: Count = 100_000_000
    # Mistakes that notebook 08 makes on purpose; split "windows" is one more: the windows are
    # shuffled before they are split 80/10/10, so that those of two splits overlap.
    padding: bool = False  # a window is one line of text, and what fills it up counts in the loss
    shift: Shift = 1  # tokens from an input to its target; 0: the target is the input itself

    def __post_init__(self):
        super().__post_init__()
        both = self.padding and self.split == "windows"
        require(not both, "padding is on, and split is 'windows'", "split official or paper")
        whole = self.split != "official" or self.shift != 1 or self.padding
        what, allowed = "stream is on, with what needs the whole text", "split official, shift 1"
        require(not (self.stream and whole), what, f"{allowed} and no padding with stream")
        allowed = f"1 to block_size ({self.block_size}), so that no token is left out"
        require((self.stride or 0) <= self.block_size, f"stride is {self.stride}", allowed)


@dataclass(frozen=True)
class ModelConfig(Checked):
    """The shape of the decoder (§III.D)."""

    vocab_size: Vocabulary = 10_000  # tokens that it knows
    block_size: Thousands = 256  # tokens that it sees at once
    n_layer: Layers = 6  # blocks
    n_head: Thousands = 4  # attention heads in a block
    n_embd: Thousands = 128  # numbers in a token's vector
    dropout: Share = 0.1  # share of activations set to 0 in training
    causal: bool = True  # False lets every position see its own target: a mistake, for notebook 08

    def __post_init__(self):
        super().__post_init__()
        shared = f"n_embd {self.n_embd} cannot be shared among n_head {self.n_head}"
        require(self.n_embd % self.n_head == 0, shared, "a multiple of n_head")
        parts = self.vocab_size + self.block_size + 12 * self.n_layer * self.n_embd
        size = self.n_embd * parts  # without biases
        require(size <= 2**31, f"a model of {size:,} parameters", f"up to {2**31:,}")


@dataclass(frozen=True)
class TrainConfig(Checked):
    """One training run (§III.E)."""

    epochs: Thousands = 10  # passes over the windows
    batch_size: Thousands = 128  # windows in one forward pass
    accumulation: Thousands = 1  # forward passes in one optimiser step
    # sgd has momentum 0.9; muon is for the matrices in the blocks, with adamw for the rest
    optimizer: Literal["adamw", "adam", "sgd", "muon"] = "adamw"
    learning_rate: Rate = 1e-3  # the peak
    # "cosine": linear warmup, then half a cosine to 0 | "fixed"
    schedule: Literal["cosine", "fixed"] = "cosine"
    warmup_fraction: Share = 0.1  # of all optimiser steps; the paper's log fits one tenth
    # on matrices only; of adamw and muon apart from the gradient, of adam and sgd a term of it
    weight_decay: Amount = 0.1
    beta2: Share = 0.95  # of the squared gradient's average; sgd and muon's own part have none
    clip_norm: Amount = 1.0  # largest norm of the unscaled gradient; 0 turns clipping off
    # "auto" | "fp16" (with gradient scaling) | "bf16" | "off"
    amp: Literal["auto", "fp16", "bf16", "off"] = "auto"
    epoch_windows: Count | None = None  # windows in an epoch, drawn anew for each; None: all
    patience: Patience = 3  # epochs without a better validation loss before stopping; 0 never stops
    # Optimiser steps between checkpoints, an epoch's end always being one; None: by time (train.py)
    checkpoint_every: Count | None = None
    train_tokens: Tokens | None = None  # use only the first so many tokens of a split; None: all
    valid_tokens: Tokens | None = None  # the same for validation
    seed: Seed = 1337  # of weights, order of windows and dropout
    fast: bool = True  # False: the plain computation that every fast path is compared with
    # Mistakes that notebook 08 makes on purpose:
    log_divided_loss: bool = False  # the training loss after its division by the accumulation
    log_scaled_norm: bool = False  # the norm of fp16's gradient before the scale is taken out


@dataclass(frozen=True)
class SearchSpace(Checked):
    """A grid: every combination of these shapes and rates (§IV.A)."""

    learning_rate: tuple[Rate, ...] = (1e-3, 5e-4)
    n_layer: tuple[Layers, ...] = (2, 4, 6)
    n_head: tuple[Thousands, ...] = (2, 4)
    n_embd: tuple[Thousands, ...] = (128,)

    def __len__(self) -> int:
        return len(list(self.points()))

    def points(self):
        """Each combination as a dict, the last field varying fastest, as in the paper."""
        axes = asdict(self)
        for values in itertools.product(*axes.values()):
            yield dict(zip(axes, values, strict=True))

    def corners(self) -> "SearchSpace":
        """The first and the last value of each axis, between which a trend shows most."""
        ends = {axis: values[:: max(1, len(values) - 1)] for axis, values in asdict(self).items()}
        return SearchSpace(**ends)


@dataclass(frozen=True)
class FastPaths(Checked):
    """Which of the engine's fast paths to take; None: where it pays. No part of what a run is,
    though results differ by rounding and, merged, by the units that are dropped out."""

    compile: bool | None = None  # compile the blocks; where it pays if not given
    # replay a step as a CUDA graph, in one process; where it pays if not given
    graph: bool | None = None
    merge: bool | None = None  # accumulated batches in one pass; where it pays if not given
    # attention as two products and a softmax, not as one kernel; where it pays if not given
    spell: bool | None = None


@dataclass(frozen=True)
class RayOptions(Checked):
    """A Ray cluster (plan/cluster.py), and what a run gets of a machine."""

    # train side by side on this cluster (pip install llmlite[ray]; all machines must see --out):
    # auto (the one this machine is in), local (one on this machine alone), HOST:PORT or
    # ray://HOST:PORT; here, without a cluster, if none of these three is given
    address: str | None = None
    # part of a GPU for a run, 0 to 1: with 0.25, four share one; 1 with CUDA here, else 0, if not
    # given
    gpus_per_run: Part | None = None
    cpus_per_run: Thousands = 1  # cores and threads for a run


AXES = ("learning_rate", "n_layer", "n_head", "n_embd")  # of a SearchSpace


def fingerprint(*parts) -> str:
    """A short, stable name for anything JSON can hold: 16 hexadecimal digits of SHA-256."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def with_data(model: ModelConfig, data: DataConfig, **changes) -> ModelConfig:
    """`model` fitted to the vocabulary and window of `data`, with further changes on top."""
    return replace(model, vocab_size=data.vocab_size, block_size=data.block_size, **changes)
