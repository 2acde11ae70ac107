"""How much of the paper to run: the named PROFILES, for a first look, for a CPU and for a GPU.

Knows nothing about files, models or devices.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial

from llmlite.config import Checked, Count, DataConfig, ModelConfig, SearchSpace, Seed, TrainConfig
from llmlite.files import LLMLiteError

PAPER_FIRST_GRID = SearchSpace(n_embd=(64, 128, 256))  # §IV.A: 36, batch 64, fixed rate
PAPER_REVISED_GRID = SearchSpace()  # 12, batch 128, warmup + cosine


@dataclass(frozen=True)
class Grid:
    """Which configurations are tried, and how each is trained."""

    space: SearchSpace
    train: TrainConfig


@dataclass(frozen=True)
class Profile(Checked):
    """How much of the paper to run: one choice of data, grids and lengths."""

    name: str
    data: DataConfig
    model: ModelConfig  # what is retrained; grids take from it what they do not set
    train: TrainConfig  # the retraining (§III.F)
    first: Grid  # fixed rate
    revised: Grid  # warmup + cosine
    searched: bool  # retrain the best of the revised grid in place of the shape and rate above
    seeds: tuple[Seed, ...] = (1337, 1, 2)  # of the retraining; the first one's model is studied
    # of the validation split, behind each head's effect on the loss
    ablation_tokens: Count = 50_000
    needs_gpu: bool = False  # its runs would take days on a CPU, which then only shows records


# As in the paper, the revised grid doubles the batch of the first and swaps its fixed rate for
# warmup + cosine.
_fixed = partial(replace, schedule="fixed")
_QUICK_SEARCH = TrainConfig(
    epochs=2, batch_size=4, amp="off", train_tokens=30_000, valid_tokens=6_000
)
# The paper's search on two cores, in hours: an epoch is one pass over the text, in as many steps as
# a small batch gives. 10 epochs of the revised grid and 20 of the retraining differ in nothing but
# their number.
_SMALL_SEARCH = TrainConfig(batch_size=16, patience=5)
# An epoch is two passes over the text, in the revised grid and in the retraining alike, so that 10
# epochs of one and 20 of the other differ in nothing but their number.
_FULL_SEARCH = TrainConfig(batch_size=128, epoch_windows=20_480, patience=5)

PROFILES = {
    "quick": Profile(
        name="quick",
        data=DataConfig(source="sample", vocab_size=2048, block_size=64),
        # Models this small learn best at higher rates than the paper's. The highest rate, the most
        # layers and heads, as in the paper: no run waits for a search.
        model=ModelConfig(n_layer=4, n_embd=64, dropout=0.0),
        train=TrainConfig(
            epochs=3,
            batch_size=4,
            learning_rate=4e-3,
            amp="off",
            train_tokens=250_000,  # the whole sample; a part of anything bigger
            valid_tokens=50_000,
        ),
        first=Grid(SearchSpace((4e-3,), (2,), (4,), (32, 64)), _fixed(_QUICK_SEARCH)),
        revised=Grid(
            SearchSpace((4e-3, 2e-3), (2, 4), (2, 4), (64,)), replace(_QUICK_SEARCH, accumulation=2)
        ),
        searched=False,
        seeds=(1337,),
        ablation_tokens=8_000,
    ),
    "small": Profile(
        name="small",
        # After one pass over wikitext-2-v1 (a CPU, in float32) the paper's best shape is at 1.864
        # bits per byte of validation text; with windows of 256 at 1.906, with a vocabulary of 2,048
        # at 1.922 and 1.978.
        data=DataConfig(vocab_size=4096, block_size=128),
        # Half as wide, after eight passes over a third of the text, it is at 1.807 bits a byte, and
        # its training loss hardly below its validation loss; with a dropout of 0.1 at 1.846.
        model=ModelConfig(dropout=0.0),
        train=replace(_SMALL_SEARCH, epochs=20),
        # Of the first grid the axis of the width alone, which the revised one leaves out.
        first=Grid(
            SearchSpace((1e-3,), (6,), (4,), (64, 128, 256)), _fixed(_SMALL_SEARCH, batch_size=8)
        ),
        revised=Grid(PAPER_REVISED_GRID, _SMALL_SEARCH),
        searched=True,
        ablation_tokens=40_000,
    ),
    "full": Profile(
        name="full",
        data=DataConfig(vocab_size=10_000, block_size=256, stride=64),
        model=ModelConfig(dropout=0.1),  # with the rate of `train`: paper.BEST
        train=replace(_FULL_SEARCH, epochs=20),
        # The first grid's half batch takes as many steps in one pass as the revised grid's in two.
        first=Grid(PAPER_FIRST_GRID, _fixed(_FULL_SEARCH, batch_size=64, epoch_windows=10_240)),
        revised=Grid(PAPER_REVISED_GRID, _FULL_SEARCH),
        searched=False,
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


def changed(config, changes: Mapping[str, object]):
    """A dataclass with other values: {"train.epochs": 5} sets config.train.epochs.
    LLMLiteError for a name that there is not, and for a value that its dataclass refuses."""
    for path, value in changes.items():
        name, _, rest = path.partition(".")
        names = [field.name for field in fields(config)]
        if name not in names or (rest and not is_dataclass(getattr(config, name))):
            raise LLMLiteError(f"There is no setting '{path}'; there are {', '.join(names)}.")
        part = changed(getattr(config, name), {rest: value}) if rest else value
        config = replace(config, **{name: part})
    return config


# Bytes of somebody's own text at least → vocabulary, window, dropout, layers and the widths of a
# search. The vocabulary is about the largest power of two with which a token occurs two dozen times
# or more in the training part on average: an embedding that was hardly trained is of no use.
OWN_SIZES = {
    20_000: (320, 64, 0.3, 2, (32, 64)),
    50_000: (512, 64, 0.3, 2, (32, 64)),
    150_000: (1024, 64, 0.2, 2, (64, 128)),
    400_000: (2048, 64, 0.2, 2, (64, 128)),
    1_000_000: (4096, 128, 0.1, 4, (64, 128)),
    4_000_000: (8192, 128, 0.1, 4, (128, 192)),
}
OWN_TOKENS = 4_000_000  # to train on, on a CPU, in minutes; with CUDA 75 times as many


def own_profile(n_bytes: int, cuda: bool = False) -> Profile:
    """How to train on a text of so many bytes: minutes on a CPU, more of everything with CUDA.
    A small text is read many times, with more dropout; early stopping says when it is enough."""
    least = max(size for size in OWN_SIZES if size <= max(n_bytes, min(OWN_SIZES)))
    vocab_size, block_size, dropout, n_layer, widths = OWN_SIZES[least]
    tokens = 75 * OWN_TOKENS if cuda else OWN_TOKENS
    train_tokens = round(0.8 * n_bytes / 3)  # about 3 bytes are a token
    # Of a large text an epoch is a part, drawn anew each time.
    epochs = min(max(tokens // train_tokens, 4), 30)
    train = TrainConfig(
        epochs=epochs,
        batch_size=(64 if cuda else 16) if n_bytes >= 1_000_000 else 8,
        amp="auto" if cuda else "off",  # models this small gain nothing from it on a CPU
        epoch_windows=tokens // 4 // block_size if 4 * train_tokens > tokens else None,
        patience=max(3, epochs // 6),
    )
    # A quarter as long as the training.
    search = replace(train, epochs=max(2, epochs // 4), train_tokens=None if cuda else 150_000)
    space = SearchSpace((2e-3, 1e-3) if cuda else (4e-3, 2e-3), (n_layer,), (4,), widths)
    return Profile(
        name="own",
        data=DataConfig(vocab_size=vocab_size, block_size=block_size),
        model=ModelConfig(dropout=dropout),
        train=train,
        first=Grid(space, _fixed(search)),
        revised=Grid(space, search),
        searched=True,
        seeds=(1337,),
    )
