"""Every choice that a run makes, as frozen dataclasses; profiles.py puts them together.

Knows nothing about files, models or devices. A default lives here and nowhere else; notebooks and
the command line read it. The paper's two grids are the constants PAPER_FIRST_GRID and
PAPER_REVISED_GRID (§IV.A).
"""

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass, replace

from llmlite.errors import LLMLiteError


def _require(condition: bool, what: str, allowed: str) -> None:
    if not condition:
        raise LLMLiteError(f"Configuration: {what}; allowed: {allowed}.")


@dataclass(frozen=True)
class DataConfig:
    """Where the text comes from and how it becomes windows (§III.A to III.C)."""

    source: str = "auto"  # "auto" | "hub" | "sample" | a folder; auto: $LLMLITE_DATA, else the Hub
    name: str = "wikitext-2-raw-v1"  # the Hub's configuration, used when source is the Hub
    split: str = "official"  # | "paper": 80/10/10 over the whole corpus, by article | "windows"
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
        _require(
            self.split in ("official", "paper", "windows"),
            f"split is '{self.split}'",
            "official, paper; windows in the audit",
        )
        _require(self.shift in (0, 1), f"shift is {self.shift}", "1; 0 in the audit")
        _require(
            self.shift == 1 or not self.stream,
            f"shift is {self.shift} with stream",
            "1 with stream",
        )
        _require(
            not (self.padding and (self.split == "windows" or self.stream)),
            "padding is on, with windows that are not lines of a split's text",
            "padding with split official or paper, without stream",
        )
        _require(
            not self.stream or self.split == "official",
            f"split is '{self.split}', which needs the whole text, but it is read as a stream",
            "official with stream",
        )
        _require(
            self.tokenizer_bytes >= 1, f"tokenizer_bytes is {self.tokenizer_bytes}", "1 or more"
        )
        _require(self.block_size >= 1, f"block_size is {self.block_size}", "1 or more")
        _require(
            self.stride is None or 1 <= self.stride <= self.block_size,
            f"stride is {self.stride}",
            f"1 to block_size ({self.block_size}), so that no token is left out",
        )


@dataclass(frozen=True)
class ModelConfig:
    """The shape of the decoder (§III.D)."""

    vocab_size: int = 10_000
    block_size: int = 256
    n_layer: int = 6
    n_head: int = 4
    n_embd: int = 128
    dropout: float = 0.1
    causal: bool = True  # False lets every position see its own target: a mistake, for notebook 08

    def __post_init__(self):
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd"):
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}", "1 or more")
        _require(
            self.n_embd % self.n_head == 0,
            f"n_embd {self.n_embd} cannot be shared among n_head {self.n_head}",
            "a multiple of n_head",
        )
        _require(0 <= self.dropout < 1, f"dropout is {self.dropout}", "0 or more and below 1")


@dataclass(frozen=True)
class TrainConfig:
    """One training run (§III.E). An epoch is one pass over the windows."""

    epochs: int = 10
    batch_size: int = 128  # windows in one forward pass
    accumulation: int = 1  # forward passes in one optimiser step
    learning_rate: float = 1e-3  # the peak
    schedule: str = "cosine"  # "cosine": linear warmup, then half a cosine to 0 | "fixed"
    warmup_fraction: float = 0.1  # of all optimiser steps; the paper's log fits one tenth
    weight_decay: float = 0.1  # on matrices only
    beta2: float = 0.95
    clip_norm: float = 1.0  # largest norm of the unscaled gradient; 0 turns clipping off
    amp: str = "auto"  # "auto" | "fp16" (with gradient scaling) | "bf16" | "off"
    epoch_windows: int | None = None  # windows in an epoch, drawn anew for each; None: all
    patience: int = 3  # epochs without a better validation loss before stopping; 0 never stops
    # Optimiser steps between checkpoints, an epoch's end always being one; None: by time (train.py)
    checkpoint_every: int | None = None
    train_tokens: int | None = None  # use only the first so many tokens of a split; None: all
    valid_tokens: int | None = None
    seed: int = 1337
    fast: bool = True  # False: the plain computation that every fast path is compared with
    # Mistakes that notebook 08 makes on purpose:
    log_divided_loss: bool = False  # the training loss after its division by the accumulation
    log_scaled_norm: bool = False  # the norm of fp16's gradient before the scale is taken out

    def __post_init__(self):
        for name in ("epochs", "batch_size", "accumulation"):
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}", "1 or more")
        for name in ("patience", "clip_norm", "weight_decay"):
            _require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}", "0 or more")
        limits = {"train_tokens": 2, "valid_tokens": 2, "epoch_windows": 1, "checkpoint_every": 1}
        for name, least in limits.items():
            value = getattr(self, name)
            allowed = f"{least} or more, or None"
            _require(value is None or value >= least, f"{name} is {value}", allowed)
        _require(self.learning_rate > 0, f"learning_rate is {self.learning_rate}", "above 0")
        _require(
            self.schedule in ("cosine", "fixed"), f"schedule is '{self.schedule}'", "cosine, fixed"
        )
        _require(
            0 <= self.warmup_fraction < 1,
            f"warmup_fraction is {self.warmup_fraction}",
            "0 or more and below 1",
        )
        _require(
            self.amp in ("auto", "fp16", "bf16", "off"),
            f"amp is '{self.amp}'",
            "auto, fp16, bf16, off",
        )


@dataclass(frozen=True)
class SearchSpace:
    """A grid: every combination of these values is one configuration (§IV.A)."""

    learning_rate: tuple[float, ...] = (1e-3, 5e-4)
    n_layer: tuple[int, ...] = (2, 4, 6)
    n_head: tuple[int, ...] = (2, 4)
    n_embd: tuple[int, ...] = (128,)

    def __post_init__(self):
        for name, values in asdict(self).items():
            _require(len(values) > 0, f"the grid has no {name}", "at least one value")

    def __len__(self) -> int:
        return len(list(self.points()))

    def points(self):
        """Yield each configuration as a dict, in the paper's order: the last key varies fastest."""
        axes = asdict(self)
        for values in itertools.product(*axes.values()):
            yield dict(zip(axes, values, strict=True))

    def corners(self) -> "SearchSpace":
        """The first and the last value of each axis, between which a trend shows most."""
        ends = {axis: values[:: max(1, len(values) - 1)] for axis, values in asdict(self).items()}
        return SearchSpace(**ends)


@dataclass(frozen=True)
class DataSpace:
    """Candidates for how text becomes windows: every combination (choice.py)."""

    vocab_size: tuple[int, ...]
    block_size: tuple[int, ...]
    overlap: tuple[int, ...]  # windows that a token is in: 1 is side by side, 4 a quarter's stride
    tokens: int  # that each candidate is trained on, about
    train: TrainConfig  # how; its batch is for the longest windows, shorter ones get as many tokens

    @property
    def longest(self) -> int:
        return max(self.block_size)

    def points(self):
        """Yield each candidate as changes to a DataConfig."""
        for vocabulary, block, overlap in itertools.product(
            self.vocab_size, self.block_size, self.overlap
        ):
            yield {"vocab_size": vocabulary, "block_size": block, "stride": block // overlap}


AXES = ("learning_rate", "n_layer", "n_head", "n_embd")  # of a SearchSpace
PAPER_FIRST_GRID = SearchSpace(n_embd=(64, 128, 256))  # 36 configurations, batch 64, fixed rate
PAPER_REVISED_GRID = SearchSpace()  # 12 configurations, batch 128, warmup + cosine


def fingerprint(*parts) -> str:
    """A short, stable name for anything JSON can hold: 16 hexadecimal digits of SHA-256."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def with_data(model: ModelConfig, data: DataConfig, **changes) -> ModelConfig:
    """`model` fitted to the vocabulary and window of `data`, with further changes on top."""
    return replace(model, vocab_size=data.vocab_size, block_size=data.block_size, **changes)
