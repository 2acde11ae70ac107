"""The audit's runs as data: what each changes, and nothing else.

A run is a configuration of the package with a switch or two turned; reading it says what it does.
"""

from dataclasses import dataclass, replace

from llmlite.config import DataConfig, ModelConfig, TrainConfig
from llmlite.profiles import AuditConfig

HEADS = 4  # of both configurations whose curves are published


@dataclass(frozen=True)
class Run:
    """One training run. `name` is its folder, and what `llmlite audit --only` takes."""

    name: str
    data: DataConfig
    model: ModelConfig  # its vocabulary and window are those of `data`
    train: TrainConfig


def plan(audit: AuditConfig, data: DataConfig) -> list[Run]:
    """The runs that look for 1.17, the telling ones first. `data`: where the text comes from."""
    text = replace(audit.data, source=data.source, name=data.name)
    # The paper's runs accumulate 4 batches; C3 says that it logs the loss after dividing by them.
    train, again, short = (
        replace(config, log_divided_loss=True) for config in (audit.train, audit.again, audit.short)
    )

    def run(name, train=train, deep=False, seed=None, causal=False, **changes) -> Run:
        cut = replace(text, **changes)
        model = replace(
            audit.model,
            vocab_size=cut.vocab_size,
            block_size=cut.block_size,
            n_layer=audit.deep if deep else audit.shallow,
            n_head=HEADS,
            causal=causal,
        )
        return Run(name, cut, model, train if seed is None else replace(train, seed=seed))

    first, *others = audit.seeds
    runs = [run("no-mask", seed=first), run("mask", again, causal=True, seed=first)]
    runs += [run("no-mask-deep", deep=True, seed=first)]
    runs += [run("no-mask-batch", replace(again, batch_size=2 * again.batch_size), seed=first)]
    sizes = (*audit.other_windows, audit.padded_window)
    *as_long, padded = (_as_many_tokens(short, text.block_size, size) for size in sizes)
    runs += [
        run(f"no-mask-window-{size}", train, block_size=size)
        for size, train in zip(audit.other_windows, as_long, strict=True)
    ]
    runs += [
        run("unshifted", short, causal=True, shift=0),
        run("padding", padded, causal=True, padding=True, block_size=audit.padded_window),
        run("split-after-windowing", short, causal=True, split="windows"),
        run("scaled-norm", replace(audit.scaled, log_scaled_norm=True)),
    ]
    return runs + [run(f"no-mask-seed-{seed}", again, seed=seed) for seed in others]


def _as_many_tokens(train: TrainConfig, size: int, other: int) -> TrainConfig:
    """`train`, which is meant for windows of `size`, for as many tokens in windows of `other`."""
    if train.epoch_windows is None:
        return train
    return replace(train, epoch_windows=train.epoch_windows * size // other)
