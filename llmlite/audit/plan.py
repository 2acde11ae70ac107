"""The audit's runs as data: what each changes, and how much of it a profile runs."""

from dataclasses import dataclass, replace

from llmlite.config import DataConfig, ModelConfig, TrainConfig, with_data
from llmlite.files import LLMLiteError
from llmlite.profiles import PROFILES
from llmlite.run import Run

HEADS = 4  # of both configurations whose curves are published


@dataclass(frozen=True)
class StudySize:
    """How much of a model the studies of claims 9 to 13 look at."""

    samples: int = 50  # continuations of a prompt
    tokens: int = 100  # length of each
    sentences: int = 200  # of the test split, for attention


_OF_QUICK, _OF_SMALL, _OF_FULL = (PROFILES[name] for name in ("quick", "small", "full"))
# The paper's own arithmetic: a window a token, of the presumed length, and 50,000 steps of 4 × 128.
_DATA = DataConfig(vocab_size=10_000, block_size=32, stride=1)
_FULL = TrainConfig(epochs=10, batch_size=128, accumulation=4, patience=0)
_FULL_SHORT = replace(_FULL, epoch_windows=256_000)
_FULL_SCALED = replace(_FULL, epochs=1, epoch_windows=2_560_000, amp="fp16")


@dataclass(frozen=True)
class AuditConfig:
    """How much of the audit to run (notebook 08): all, if nothing else is said."""

    data: DataConfig = _DATA  # of the runs that look for 1.17
    model: ModelConfig = _OF_FULL.model  # theirs, but for layers and heads
    train: TrainConfig = _FULL  # of the runs whose curves are published
    again: TrainConfig = _FULL_SHORT  # of the same with the mask, another batch, window or seed
    short: TrainConfig = _FULL_SHORT  # of those whose answer needs less
    scaled: TrainConfig = _FULL_SCALED  # of the one that logs the scaled gradient's norm, in fp16
    honest: TrainConfig = _OF_FULL.train  # of the scorecard's own model, a run a seed
    # of the grids' runs: all with the first seed, corners with the rest
    first_grid: TrainConfig = _OF_FULL.first.train
    revised_grid: TrainConfig = _OF_FULL.revised.train
    seeds: tuple[int, ...] = (1337, 1, 2)  # of the honest runs and of the revised grid's corners
    first_seeds: tuple[int, ...] = (1337,)  # of the first grid, the larger one
    deep: int = 6  # layers of the paper's best configuration, (1e-3, 6, 4), and of the other one
    shallow: int = 2  # whose curve it shows, (1e-3, 2, 4)
    other_windows: tuple[int, ...] = (16, 64)  # lengths that could refute the leading explanation
    padded_window: int = 256  # so long that lines leave a good part of it empty
    vocabularies: tuple[int, ...] = (4096, 10_000, 16_384)  # whose steps an epoch are compared
    windows: int = 200_000  # of the test split, behind the true perplexity without a mask
    study: StudySize = StudySize()


_QUICK = TrainConfig(epochs=10, batch_size=4, accumulation=4, epoch_windows=1_280, patience=0)
_QUICK = replace(_QUICK, learning_rate=4e-3, amp="off", valid_tokens=4_097)
_QUICK_GRID = {"train_tokens": 6_000, "valid_tokens": 2_000}
_SMALL = replace(_QUICK, epoch_windows=12_800, learning_rate=1e-3, valid_tokens=65_537)

AUDITS = {
    "quick": AuditConfig(
        data=DataConfig(vocab_size=320, block_size=16, stride=1),
        model=ModelConfig(n_embd=64, dropout=0.0),
        train=_QUICK,
        again=_QUICK,
        short=replace(_QUICK, epoch_windows=640),
        scaled=replace(_QUICK, epochs=1, epoch_windows=160, amp="fp16"),
        honest=replace(_OF_QUICK.first.train, schedule="cosine", epochs=1, train_tokens=40_000),
        first_grid=replace(_OF_QUICK.first.train, **_QUICK_GRID),
        revised_grid=replace(_OF_QUICK.revised.train, **_QUICK_GRID),
        seeds=(1, 2, 3),
        first_seeds=(1, 2, 3),
        deep=3,
        other_windows=(8, 12),
        padded_window=64,
        vocabularies=(320, 2048, 2400),
        windows=1_000,
        study=StudySize(tokens=12, sentences=50),
    ),
    # A vocabulary of 2,048, whose tokens are easier, brings the leak's runs to the paper's losses
    # in a hundredth of its steps.
    "small": AuditConfig(
        data=DataConfig(vocab_size=2048, block_size=32, stride=1),
        model=ModelConfig(dropout=0.0),
        train=_SMALL,
        again=_SMALL,
        short=replace(_SMALL, epoch_windows=6_400),
        scaled=replace(_SMALL, epochs=1, epoch_windows=640, amp="fp16"),
        honest=_OF_SMALL.train,
        first_grid=_OF_SMALL.first.train,
        revised_grid=_OF_SMALL.revised.train,
        vocabularies=(2048, 4096, 10_000, 16_384),
        windows=20_000,
        study=StudySize(tokens=60),
    ),
    "full": AuditConfig(),
}
AUDITS["own"] = AUDITS["quick"]  # of a text of somebody's own


def audit_of(profile: str) -> AuditConfig:
    if profile not in AUDITS:
        raise LLMLiteError(f"Profile '{profile}' has no audit; give it one in audit.plan.AUDITS.")
    return AUDITS[profile]


def leak_runs(audit: AuditConfig, data: DataConfig) -> list[Run]:
    """The runs that look for 1.17, the telling ones first. `data`: where the text comes from."""
    text = replace(audit.data, source=data.source, name=data.name)
    # The paper's runs accumulate 4 batches, and its log fits a loss that was divided by them.
    train, again, short = (
        replace(config, log_divided_loss=True) for config in (audit.train, audit.again, audit.short)
    )

    def run(name, train=train, deep=False, seed=None, causal=False, **changes) -> Run:
        cut, layers = replace(text, **changes), audit.deep if deep else audit.shallow
        model = with_data(audit.model, cut, n_layer=layers, n_head=HEADS, causal=causal)
        return Run(name, cut, model, train if seed is None else replace(train, seed=seed))

    def of_length(size: int) -> TrainConfig:
        """`short` for as many tokens in windows of `size`."""
        return replace(short, epoch_windows=short.epoch_windows * text.block_size // size)

    (first, *others), padded = audit.seeds, audit.padded_window
    return [
        run("no-mask", seed=first),
        run("mask", again, causal=True, seed=first),
        run("no-mask-deep", deep=True, seed=first),
        run("no-mask-batch", replace(again, batch_size=2 * again.batch_size), seed=first),
        *(run(f"no-mask-window-{n}", of_length(n), block_size=n) for n in audit.other_windows),
        run("unshifted", short, causal=True, shift=0),
        run("padding", of_length(padded), causal=True, padding=True, block_size=padded),
        run("split-after-windowing", short, causal=True, split="windows"),
        run("scaled-norm", replace(audit.scaled, log_scaled_norm=True)),
        *(run(f"no-mask-seed-{seed}", again, seed=seed) for seed in others),
    ]
