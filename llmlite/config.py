"""Every choice that a run makes, as frozen dataclasses, and the named PROFILES built from them.

Knows nothing about files, models or devices. A default lives here and nowhere else; notebooks and
the command line read it. The paper's two grids are the constants PAPER_FIRST_GRID and
PAPER_REVISED_GRID (§IV.A).
"""

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass, replace

from llmlite import paper
from llmlite.errors import LLMLiteError


def _require(condition: bool, what: str, allowed: str) -> None:
    if not condition:
        raise LLMLiteError(f"Configuration: {what}; allowed: {allowed}.")


@dataclass(frozen=True)
class DataConfig:
    """Where the text comes from and how it becomes windows (§III.A to III.C)."""

    source: str = "auto"  # "auto" | "hub" | "sample" | a folder; auto: $LLMLITE_DATA, else the Hub
    name: str = "wikitext-2-raw-v1"  # the Hub's configuration, used when source is the Hub
    split: str = "official"  # "official" | "paper": 80/10/10 over the whole corpus, by article
    vocab_size: int = 10_000  # byte-pair vocabulary, special token included (claims.md, C2)
    block_size: int = 256  # tokens in a window
    stride: int | None = None  # tokens from one window's start to the next; None: side by side
    stream: bool = False  # read as a stream, tokens kept on disk: for a corpus larger than memory
    tokenizer_bytes: int = 100_000_000  # of a stream, what the tokenizer learns from: its beginning

    def __post_init__(self):
        _require(self.split in ("official", "paper"), f"split is '{self.split}'", "official, paper")
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
    causal: bool = True  # False lets every position see its own target: for the audit alone

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
    warmup_fraction: float = 0.1  # of all optimiser steps; the paper's log fits one tenth (C6)
    weight_decay: float = 0.1  # on matrices only
    beta2: float = 0.95
    clip_norm: float = 1.0  # largest norm of the unscaled gradient; 0 turns clipping off
    amp: str = "auto"  # "auto" | "fp16" (with gradient scaling) | "bf16" | "off"
    patience: int = 3  # epochs without a better validation loss before stopping; 0 never stops
    checkpoint_every: int = 200  # optimiser steps between checkpoints; an epoch's end always is one
    train_tokens: int | None = None  # use only the first so many tokens of a split; None: all
    valid_tokens: int | None = None
    seed: int = 1337
    fast: bool = True  # False: the plain computation that every fast path is compared with

    def __post_init__(self):
        for name in ("epochs", "batch_size", "accumulation", "checkpoint_every"):
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}", "1 or more")
        for name in ("patience", "clip_norm", "weight_decay"):
            _require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}", "0 or more")
        for name in ("train_tokens", "valid_tokens"):
            value = getattr(self, name)
            _require(value is None or value >= 2, f"{name} is {value}", "2 or more, or None")
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


PAPER_FIRST_GRID = SearchSpace(n_embd=(64, 128, 256))  # 36 configurations, batch 64, fixed rate
PAPER_REVISED_GRID = SearchSpace()  # 12 configurations, batch 128, warmup + cosine


@dataclass(frozen=True)
class Profile:
    """How much of the paper to run: one choice of data, grids and lengths."""

    name: str
    data: DataConfig
    model: ModelConfig  # what a configuration of a grid does not set
    first_grid: SearchSpace
    revised_grid: SearchSpace
    first_search: TrainConfig
    revised_search: TrainConfig
    retrain: TrainConfig
    retrain_configuration: dict | None  # what to retrain; None: the best of the revised grid
    samples: int  # continuations a prompt in the studies of generated text
    sample_tokens: int  # length of a continuation
    attention_sentences: int  # sentences of the test split behind the attention statistics
    ablation_tokens: int  # tokens of the validation split behind each head's effect on the loss


# As in the paper, the revised grid doubles the batch of the first and swaps its fixed rate for
# warmup + cosine.
_QUICK_SEARCH = TrainConfig(
    epochs=2, batch_size=4, amp="off", train_tokens=30_000, valid_tokens=6_000
)
_SMALL_SEARCH = TrainConfig(
    epochs=4, batch_size=8, amp="bf16", train_tokens=150_000, valid_tokens=50_000
)

PROFILES = {
    "quick": Profile(
        name="quick",
        data=DataConfig(source="sample", vocab_size=2048, block_size=64),
        model=ModelConfig(dropout=0.0),
        # Models this small learn best at higher rates than the paper's.
        first_grid=SearchSpace((4e-3,), (2,), (4,), (32, 64)),
        revised_grid=SearchSpace((4e-3, 2e-3), (2, 4), (2, 4), (64,)),
        first_search=replace(_QUICK_SEARCH, schedule="fixed"),
        revised_search=replace(_QUICK_SEARCH, accumulation=2),
        retrain=TrainConfig(
            epochs=3,
            batch_size=4,
            amp="off",
            train_tokens=250_000,  # the whole sample; a part of anything bigger
            valid_tokens=50_000,
        ),
        retrain_configuration=None,
        samples=4,
        sample_tokens=40,
        attention_sentences=20,
        ablation_tokens=8_000,
    ),
    "small": Profile(
        name="small",
        data=DataConfig(vocab_size=4096, block_size=128),
        model=ModelConfig(dropout=0.0),
        first_grid=SearchSpace((1e-3,), (2, 6), (4,), (64, 128, 256)),
        revised_grid=SearchSpace((1e-3, 5e-4), (2, 6), (2, 4), (128,)),
        first_search=replace(_SMALL_SEARCH, schedule="fixed"),
        revised_search=replace(_SMALL_SEARCH, accumulation=2),
        retrain=TrainConfig(epochs=3, batch_size=16, amp="bf16"),
        # Its short runs on a part of the text say little about longer ones on all of it, so the
        # paper's best is retrained.
        retrain_configuration=paper.BEST,
        samples=20,
        sample_tokens=60,
        attention_sentences=100,
        ablation_tokens=40_000,
    ),
    "full": Profile(
        name="full",
        # Side by side, ten epochs at batch 128 are about 820 steps; a quarter-window stride gives
        # the runs four times that, enough to be trained and not just started.
        data=DataConfig(vocab_size=10_000, block_size=256, stride=64),
        model=ModelConfig(dropout=0.1),
        first_grid=PAPER_FIRST_GRID,
        revised_grid=PAPER_REVISED_GRID,
        first_search=TrainConfig(batch_size=64, schedule="fixed"),
        revised_search=TrainConfig(batch_size=128),
        retrain=TrainConfig(epochs=20, batch_size=128, patience=5),
        retrain_configuration=None,
        samples=50,
        sample_tokens=100,
        attention_sentences=200,
        ablation_tokens=250_000,
    ),
}


def get_profile(name: str, cuda: bool) -> Profile:
    """The profile called `name`; "auto" is "full" where CUDA is available and "quick" elsewhere."""
    if name == "auto":
        name = "full" if cuda else "quick"
    if name not in PROFILES:
        raise LLMLiteError(f"There is no profile '{name}'; choose auto, {', '.join(PROFILES)}.")
    return PROFILES[name]


def fingerprint(*parts) -> str:
    """A short, stable name for anything JSON can hold: 16 hexadecimal digits of SHA-256."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def with_data(model: ModelConfig, data: DataConfig, **changes) -> ModelConfig:
    """`model` fitted to the vocabulary and window of `data`, with further changes on top."""
    return replace(model, vocab_size=data.vocab_size, block_size=data.block_size, **changes)
