"""How much of the paper to run: the named PROFILES, for a first look, for a CPU and for a GPU.

Knows nothing about files, models or devices.
"""

from dataclasses import dataclass, replace

from llmlite import paper
from llmlite.config import (
    PAPER_FIRST_GRID,
    PAPER_REVISED_GRID,
    DataConfig,
    DataSpace,
    ModelConfig,
    SearchSpace,
    TrainConfig,
)
from llmlite.errors import LLMLiteError


@dataclass(frozen=True)
class AuditConfig:
    """How much of the audit to run (notebook 08)."""

    data: DataConfig  # of the runs that look for 1.17: windows of the paper's presumed length
    model: ModelConfig  # theirs, but for layers and heads
    deep: int  # layers of the paper's best configuration, and of the other one whose curve it
    shallow: int  # shows: (1e-3, 6, 4) and (1e-3, 2, 4)
    train: TrainConfig  # of the runs whose curves are published
    again: TrainConfig  # of the same with the mask, another batch, window or seed
    short: TrainConfig  # of those whose answer needs less
    scaled: TrainConfig  # of the one that logs the scaled gradient's norm, in fp16
    other_windows: tuple[int, ...]  # lengths that could refute the leading explanation
    padded_window: int  # so long that lines leave a good part of it empty
    seeds: tuple[int, ...]  # of the honest runs and of the revised grid's corners
    honest: TrainConfig  # of the scorecard's own model, a run a seed
    first_grid: TrainConfig  # of the grids' runs: all with the first seed, corners with the rest
    revised_grid: TrainConfig
    first_seeds: tuple[int, ...]  # of the first grid, the larger one
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
    data_space: DataSpace | None  # other vocabularies, windows and strides to compare `data` with
    model: ModelConfig  # what a configuration of a grid does not set
    first_grid: SearchSpace
    revised_grid: SearchSpace
    first_search: TrainConfig
    revised_search: TrainConfig
    retrain: TrainConfig
    retrain_configuration: dict | None  # what to retrain; None: the best of the revised grid
    seeds: tuple[int, ...]  # of the retraining; the first one's model is the one that is studied
    samples: int  # continuations a prompt in the studies of generated text
    sample_tokens: int  # length of a continuation
    attention_sentences: int  # sentences of the test split behind the attention statistics
    ablation_tokens: int  # tokens of the validation split behind each head's effect on the loss
    audit: AuditConfig
    needs_gpu: bool = False  # its runs would take days on a CPU, which then only shows records


# As in the paper, the revised grid doubles the batch of the first and swaps its fixed rate for
# warmup + cosine.
_QUICK_SEARCH = TrainConfig(
    epochs=2, batch_size=4, amp="off", train_tokens=30_000, valid_tokens=6_000
)
# The paper's search on two cores, in hours: an epoch is one pass over the text, in as many steps as
# a small batch gives. 10 epochs of the revised grid and 20 of the retraining differ in nothing but
# their number.
_SMALL_SEARCH = TrainConfig(batch_size=16, patience=5)
_SMALL_FIRST = replace(_SMALL_SEARCH, batch_size=8, schedule="fixed")
_SMALL_RETRAIN = replace(_SMALL_SEARCH, epochs=20)

_SEEDS = (1337, 1, 2)
_QUICK_LEAK = TrainConfig(
    epochs=10,
    batch_size=4,
    accumulation=4,
    epoch_windows=1_280,
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
_FULL_LEAK = TrainConfig(epochs=10, batch_size=128, accumulation=4, patience=0)
# An epoch is two passes over the text, in the revised grid and in the retraining alike, so that 10
# epochs of one and 20 of the other differ in nothing but their number.
_FULL_SEARCH = TrainConfig(batch_size=128, epoch_windows=20_480, patience=5)
# The first grid's half batch takes as many steps in one pass as the revised grid's in two.
_FULL_FIRST = replace(_FULL_SEARCH, batch_size=64, epoch_windows=10_240, schedule="fixed")
_FULL_RETRAIN = replace(_FULL_SEARCH, epochs=20)
_QUICK_GRID = replace(_QUICK_SEARCH, epochs=2, train_tokens=6_000, valid_tokens=2_000)

PROFILES = {
    "quick": Profile(
        name="quick",
        data=DataConfig(source="sample", vocab_size=2048, block_size=64),
        data_space=None,
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
        # The highest rate, the most layers and heads, as in the paper: no run waits for a search.
        retrain_configuration={"learning_rate": 4e-3, "n_layer": 4, "n_head": 4, "n_embd": 64},
        seeds=(1337,),
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
            again=_QUICK_LEAK,
            short=replace(_QUICK_LEAK, epoch_windows=640),
            scaled=replace(_QUICK_LEAK, epochs=1, epoch_windows=160, amp="fp16"),
            other_windows=(8, 12),
            padded_window=64,
            seeds=(1, 2, 3),
            honest=replace(_QUICK_SEARCH, epochs=1, train_tokens=40_000),
            first_grid=replace(_QUICK_GRID, schedule="fixed"),
            revised_grid=replace(_QUICK_GRID, accumulation=2),
            first_seeds=(1, 2, 3),
            vocabularies=(320, 2048, 2400),
            windows=1_000,
            samples=50,
            sample_tokens=12,
            sentences=50,
        ),
    ),
    "small": Profile(
        name="small",
        # After one pass over wikitext-2-v1 (a CPU, in float32) the paper's best shape is at 1.864
        # bits per byte of validation text; with windows of 256 at 1.906, with a vocabulary of 2,048
        # at 1.922 and 1.978.
        data=DataConfig(vocab_size=4096, block_size=128),
        data_space=DataSpace(
            vocab_size=(2048, 4096),
            block_size=(128, 256),
            overlap=(1,),
            tokens=3_000_000,
            train=TrainConfig(batch_size=8, patience=0),
        ),
        # Half as wide, after eight passes over a third of the text, it is at 1.807 bits a byte, and
        # its training loss hardly below its validation loss; with a dropout of 0.1 at 1.846.
        model=ModelConfig(dropout=0.0),
        # Of the first grid the axis of the width alone, which the revised one leaves out.
        first_grid=SearchSpace((1e-3,), (6,), (4,), (64, 128, 256)),
        revised_grid=PAPER_REVISED_GRID,
        first_search=_SMALL_FIRST,
        revised_search=_SMALL_SEARCH,
        retrain=_SMALL_RETRAIN,
        retrain_configuration=None,
        seeds=_SEEDS,
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
            again=_SMALL_LEAK,
            short=replace(_SMALL_LEAK, epoch_windows=6_400),
            scaled=replace(_SMALL_LEAK, epochs=1, epoch_windows=640, amp="fp16"),
            other_windows=(16, 64),
            padded_window=256,
            # The scorecard judges by the runs of the retraining and of the grids themselves.
            seeds=_SEEDS,
            honest=_SMALL_RETRAIN,
            first_grid=_SMALL_FIRST,
            revised_grid=_SMALL_SEARCH,
            first_seeds=_SEEDS[:1],
            vocabularies=(2048, 4096, 10_000, 16_384),
            windows=20_000,
            samples=50,
            sample_tokens=60,
            sentences=200,
        ),
    ),
    "full": Profile(
        name="full",
        data=DataConfig(vocab_size=10_000, block_size=256, stride=64),
        data_space=DataSpace(
            vocab_size=(4096, 10_000, 16_384),
            block_size=(128, 256),
            overlap=(1, 4),
            tokens=20_000_000,
            train=TrainConfig(batch_size=64, patience=0),
        ),
        model=ModelConfig(dropout=0.1),
        first_grid=PAPER_FIRST_GRID,
        revised_grid=PAPER_REVISED_GRID,
        first_search=_FULL_FIRST,
        revised_search=_FULL_SEARCH,
        retrain=_FULL_RETRAIN,
        retrain_configuration=paper.BEST,
        seeds=_SEEDS,
        samples=50,
        sample_tokens=100,
        attention_sentences=200,
        ablation_tokens=50_000,
        audit=AuditConfig(
            # The paper's own arithmetic: a window a token, and 50,000 steps of 4 × 128 windows.
            data=DataConfig(vocab_size=10_000, block_size=32, stride=1),
            model=ModelConfig(n_embd=128, dropout=0.1),
            deep=6,
            shallow=2,
            train=_FULL_LEAK,
            again=replace(_FULL_LEAK, epoch_windows=256_000),
            short=replace(_FULL_LEAK, epoch_windows=256_000),
            scaled=replace(_FULL_LEAK, epochs=1, epoch_windows=2_560_000, amp="fp16"),
            other_windows=(16, 64),
            padded_window=256,
            # The scorecard judges by the runs of the retraining and of the grids themselves.
            seeds=_SEEDS,
            honest=_FULL_RETRAIN,
            first_grid=_FULL_FIRST,
            revised_grid=_FULL_SEARCH,
            first_seeds=_SEEDS[:1],
            vocabularies=(4096, 10_000, 16_384),
            windows=200_000,
            samples=50,
            sample_tokens=100,
            sentences=200,
        ),
        needs_gpu=True,
    ),
}

LARGE_GPU = 30e9  # bytes: an A100 has at least 40e9, a T4 16e9


def get_profile(name: str, gpu_bytes: float) -> Profile:
    """The profile called `name`. "auto" is what the machine can run in a sitting: "full" on a GPU
    of 30 GB or more, "small" on a smaller one, "quick" without. gpu_bytes: its memory, 0: none."""
    if name == "auto":
        name = "full" if gpu_bytes >= LARGE_GPU else "small" if gpu_bytes else "quick"
    if name not in PROFILES:
        raise LLMLiteError(f"There is no profile '{name}'; choose auto, {', '.join(PROFILES)}.")
    return PROFILES[name]
