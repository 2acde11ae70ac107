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
    split: str = "official"  # | "paper": 80/10/10 over the whole corpus, by article | "windows"
    vocab_size: int = 10_000  # byte-pair vocabulary, special token included (claims.md, C2)
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
    warmup_fraction: float = 0.1  # of all optimiser steps; the paper's log fits one tenth (C6)
    weight_decay: float = 0.1  # on matrices only
    beta2: float = 0.95
    clip_norm: float = 1.0  # largest norm of the unscaled gradient; 0 turns clipping off
    amp: str = "auto"  # "auto" | "fp16" (with gradient scaling) | "bf16" | "off"
    epoch_windows: int | None = None  # windows in an epoch, drawn anew for each; None: all
    patience: int = 3  # epochs without a better validation loss before stopping; 0 never stops
    checkpoint_every: int = 200  # optimiser steps between checkpoints; an epoch's end always is one
    train_tokens: int | None = None  # use only the first so many tokens of a split; None: all
    valid_tokens: int | None = None
    seed: int = 1337
    fast: bool = True  # False: the plain computation that every fast path is compared with
    # Mistakes that notebook 08 makes on purpose:
    log_divided_loss: bool = False  # the training loss after its division by the accumulation
    log_scaled_norm: bool = False  # the norm of fp16's gradient before the scale is taken out

    def __post_init__(self):
        for name in ("epochs", "batch_size", "accumulation", "checkpoint_every"):
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}", "1 or more")
        for name in ("patience", "clip_norm", "weight_decay"):
            _require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}", "0 or more")
        for name, least in (("train_tokens", 2), ("valid_tokens", 2), ("epoch_windows", 1)):
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


PAPER_FIRST_GRID = SearchSpace(n_embd=(64, 128, 256))  # 36 configurations, batch 64, fixed rate
PAPER_REVISED_GRID = SearchSpace()  # 12 configurations, batch 128, warmup + cosine


@dataclass(frozen=True)
class AuditConfig:
    """How much of the audit to run (notebook 08)."""

    data: DataConfig  # of the runs that look for 1.17: windows of the paper's presumed length
    model: ModelConfig  # theirs, but for layers and heads
    deep: int  # layers of the paper's best configuration, and of the other one whose curve it
    shallow: int  # shows: (1e-3, 6, 4) and (1e-3, 2, 4)
    train: TrainConfig  # of each of these runs
    short: TrainConfig  # of those whose answer needs less
    scaled: TrainConfig  # of the one that logs the scaled gradient's norm, in fp16
    other_windows: tuple[int, ...]  # lengths that could refute the leading explanation
    padded_window: int  # so long that lines leave a good part of it empty
    seeds: tuple[int, ...]  # of every configuration that a claim is judged by
    honest: TrainConfig  # of the scorecard's own model, a run a seed
    first_grid: TrainConfig  # of the grids' runs, a run a configuration and seed
    revised_grid: TrainConfig
    vocabularies: tuple[int, ...]  # whose optimiser steps an epoch are compared with the paper's
    windows: int  # of the test split, behind the true perplexity of a model that sees its targets
    samples: int  # seeds behind each claim about text
    sample_tokens: int
    sentences: int  # of the test split, behind the claims about attention


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
    audit: AuditConfig


# As in the paper, the revised grid doubles the batch of the first and swaps its fixed rate for
# warmup + cosine.
_QUICK_SEARCH = TrainConfig(
    epochs=2, batch_size=4, amp="off", train_tokens=30_000, valid_tokens=6_000
)
_SMALL_SEARCH = TrainConfig(
    epochs=4, batch_size=8, amp="bf16", train_tokens=150_000, valid_tokens=50_000
)

_SEEDS = (1, 2, 3)
_QUICK_LEAK = TrainConfig(
    epochs=10,
    batch_size=4,
    accumulation=4,
    epoch_windows=640,
    learning_rate=4e-3,
    amp="off",
    valid_tokens=4_097,
    patience=0,
)
_SMALL_LEAK = TrainConfig(
    epochs=10,
    batch_size=4,
    accumulation=4,
    epoch_windows=12_800,
    amp="off",
    valid_tokens=65_537,
    patience=0,
)
_FULL_LEAK = TrainConfig(
    epochs=10, batch_size=128, accumulation=4, amp="auto", valid_tokens=None, patience=0
)
_QUICK_GRID = replace(_QUICK_SEARCH, epochs=2, train_tokens=6_000, valid_tokens=2_000)
_SMALL_GRID = replace(_SMALL_SEARCH, amp="off", train_tokens=40_000, valid_tokens=20_000)

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
        audit=AuditConfig(
            data=DataConfig(source="sample", vocab_size=320, block_size=16, stride=1),
            model=ModelConfig(n_embd=64, dropout=0.0),
            deep=3,
            shallow=2,
            train=_QUICK_LEAK,
            short=replace(_QUICK_LEAK, epoch_windows=320),
            scaled=replace(_QUICK_LEAK, epochs=1, epoch_windows=160, amp="fp16"),
            other_windows=(8, 12),
            padded_window=64,
            seeds=_SEEDS,
            honest=replace(_QUICK_SEARCH, epochs=1, train_tokens=40_000),
            first_grid=replace(_QUICK_GRID, schedule="fixed"),
            revised_grid=replace(_QUICK_GRID, accumulation=2),
            vocabularies=(320, 2048, 2400),
            windows=1_000,
            samples=50,
            sample_tokens=12,
            sentences=50,
        ),
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
        # A vocabulary of 2,048, whose tokens are easier, brings the leak's runs to the paper's
        # losses in a hundredth of its steps.
        audit=AuditConfig(
            data=DataConfig(vocab_size=2048, block_size=32, stride=1),
            model=ModelConfig(n_embd=128, dropout=0.0),
            deep=6,
            shallow=2,
            train=_SMALL_LEAK,
            short=replace(_SMALL_LEAK, epoch_windows=6_400),
            scaled=replace(_SMALL_LEAK, epochs=1, epoch_windows=640, amp="fp16"),
            other_windows=(16, 64),
            padded_window=256,
            seeds=_SEEDS,
            honest=TrainConfig(epochs=1, batch_size=16, amp="off"),
            first_grid=replace(_SMALL_GRID, schedule="fixed"),
            revised_grid=replace(_SMALL_GRID, accumulation=2),
            vocabularies=(2048, 4096, 10_000, 16_384),
            windows=20_000,
            samples=50,
            sample_tokens=60,
            sentences=200,
        ),
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
        audit=AuditConfig(
            # The paper's own arithmetic: a window a token, and 50,000 steps of 4 × 128 windows.
            data=DataConfig(vocab_size=10_000, block_size=32, stride=1),
            model=ModelConfig(n_embd=128, dropout=0.1),
            deep=6,
            shallow=2,
            train=_FULL_LEAK,
            short=replace(_FULL_LEAK, epoch_windows=256_000),
            scaled=replace(_FULL_LEAK, epochs=1, epoch_windows=2_560_000, amp="fp16"),
            other_windows=(16, 64),
            padded_window=256,
            seeds=_SEEDS,
            honest=TrainConfig(epochs=20, batch_size=128, patience=5),
            first_grid=TrainConfig(batch_size=64, schedule="fixed"),
            revised_grid=TrainConfig(batch_size=128),
            vocabularies=(4096, 10_000, 16_384),
            windows=200_000,
            samples=50,
            sample_tokens=100,
            sentences=200,
        ),
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
