"""Notebooks 06 to 08: what the heads do."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from llmlite.plots import style

ATTENTION_SCALE = PowerNorm(0.5, vmin=0, vmax=1)  # square root: small weights stay visible
STATISTICS = {
    "distance": "mean distance, tokens",
    "previous": "weight on the token before",
    "entropy": "entropy, nats",
}


@style.figure
def head_effects(effects: np.ndarray, baseline: float) -> Figure:
    """§IV.D. effects: change of the loss without each head, (n_layer, n_head), nats per token."""
    layers, heads = effects.shape
    fig, ax = style.subplots(height=1.4 + 0.32 * layers, page=heads > 4, boxed=True)
    limit = np.abs(effects).max() or 1.0
    image = ax.imshow(effects, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    style.write_values(ax, effects, "{:+.3f}", white=np.abs(effects) > 0.6 * limit)
    ax.set(xticks=range(heads), yticks=range(layers), xlabel="head", ylabel="layer")
    ax.set_title(f"Change of the loss ({baseline:.3f})\nwithout a head")
    fig.colorbar(image, label="nats per token")
    return fig


@style.figure
def attention_map(weights: np.ndarray, tokens: Sequence[str], title: str) -> Figure:
    """Figs. 6 and 7. weights: (query, key) of one head, rows sum to 1."""
    many = len(tokens) > 18
    return _maps({title: weights}, tokens, 1, 6.6 if many else 4.4, page=many)


@style.figure
def first_layer_maps(maps: dict[str, np.ndarray], tokens: Sequence[str]) -> Figure:
    """One head of layer 0 each. maps: title → (query, key), rows sum to 1; of one sentence."""
    return _maps(maps, tokens, 3, 2.75, page=True, fontsize=style.SMALL)


def _maps(maps: dict, tokens: Sequence[str], columns: int, height: float, page: bool, **looks):
    """Maps of one sentence, `height` inches each; tokens are named at the left and lowest ones."""
    columns = min(columns, len(maps))
    rows = -(-len(maps) // columns)
    labels = [token.replace("\n", "↵") for token in tokens]
    looks = {"family": "monospace", **looks}
    fig, axes = style.subplots(rows, columns, height * rows, page, boxed=True, squeeze=False)
    for place, (title, weights) in enumerate(maps.items()):
        ax, left, lowest = axes.flat[place], place % columns == 0, place + columns >= len(maps)
        image = ax.imshow(weights, norm=ATTENTION_SCALE)
        ax.set_xticks(range(len(labels)), labels if lowest else [], rotation=90, **looks)
        ax.set_yticks(range(len(labels)), labels if left else [], **looks)
        ax.set(title=title, xlabel="looked at (key)" * lowest, ylabel="looking (query)" * left)
    for unused in axes.flat[len(maps) :]:
        unused.axis("off")
    fig.colorbar(image, ax=axes, label="attention weight", shrink=0.75)
    return fig


@style.figure
def attention_grid(maps: np.ndarray) -> Figure:
    """Every head's map on one text: maps (n_layer, n_head, query, key), a row a layer."""
    layers, heads = maps.shape[:2]
    page = heads > 4
    side = (6.0 if page else 3.7) / heads
    fig, axes = style.subplots(layers, heads, 0.4 + side * layers, page, boxed=True, squeeze=False)
    for (layer, head), ax in np.ndenumerate(axes):
        image = ax.imshow(maps[layer, head], norm=ATTENTION_SCALE)
        ax.set(xticks=[], yticks=[])
        if layer == 0:
            ax.set_title(f"head {head}")
        if head == 0:
            ax.set_ylabel(f"layer {layer}")
    fig.colorbar(image, ax=axes, label="attention weight", shrink=0.6)
    return fig


@style.figure
def attention_by_layer(statistics: pd.DataFrame) -> Figure:
    """A dot a head, a line the mean. statistics: a row a head, with the columns layer, head, those
    of STATISTICS, and uniform_distance, what even attention would have."""
    fig, axes = style.subplots(1, len(STATISTICS), 2.8, page=True)
    for ax, column in zip(axes, STATISTICS, strict=True):
        for head, part in statistics.groupby("head"):
            ax.plot(part.layer, part[column], label=f"head {head}", **_dots(head))
        mean = statistics.groupby("layer")[column].mean()
        ax.plot(mean.index, mean, color="black", linewidth=1, label="layer's mean")
    even = statistics.uniform_distance.iloc[0]
    axes[0].axhline(even, color="black", linestyle=":", label="spread evenly")
    _label(fig, axes, STATISTICS)
    return fig


@style.figure
def head_intervals(table: pd.DataFrame) -> Figure:
    """Figs. 6 and 7 in numbers. table: a row a (layer, head); of "previous" and "distance" the
    columns value, low and high."""
    fig, axes = style.subplots(1, 2, 2.9, page=True)
    shown = "previous", "distance"
    for ax, statistic in zip(axes, shown, strict=True):
        for head, part in table[statistic].groupby("head"):
            places, looks = part.index.get_level_values("layer") + 0.13 * (head - 1.5), _dots(head)
            ax.plot([places, places], [part.low, part.high], color=looks["color"])
            ax.plot(places, part.value, label=f"head {head}", **looks)
    _label(fig, axes, shown)
    return fig


def _dots(head: int) -> dict:
    return style.series(head) | {"linestyle": "", "markersize": 5}


def _label(fig: Figure, axes: Sequence[Axes], statistics: Iterable[str]) -> None:
    style.integers(*axes)
    for ax, statistic in zip(axes, statistics, strict=True):
        ax.set(xlabel="layer", ylabel=STATISTICS[statistic])
        ax.margins(0.1)
        ax.set_ylim(bottom=0)
    handles, labels = axes[0].get_legend_handles_labels()
    ncols = min(6, len(labels))
    fig.legend(handles, labels, loc="outside lower center", ncols=ncols, columnspacing=1.2)
