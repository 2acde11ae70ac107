"""Notebooks 06 to 08: what the heads do."""

from collections.abc import Sequence

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


def _draw_map(ax: Axes, weights, tokens: Sequence[str], left=True, lowest=True, **looks):
    """One head's map; which of its axes are named, left and below."""
    labels = [token.replace("\n", "↵") for token in tokens]
    looks = {"family": "monospace", **looks}
    ax.set_xticks(range(len(tokens)), labels if lowest else [], rotation=90, **looks)
    ax.set_yticks(range(len(tokens)), labels if left else [], **looks)
    ax.set(xlabel="looked at (key)" * lowest, ylabel="looking (query)" * left)
    return ax.imshow(weights, norm=ATTENTION_SCALE)


@style.figure
def attention_map(weights: np.ndarray, tokens: Sequence[str], title: str) -> Figure:
    """Figs. 6 and 7. weights: (query, key) of one head, rows sum to 1."""
    many = len(tokens) > 18
    fig, ax = style.subplots(height=6.6 if many else 4.4, page=many, boxed=True)
    image = _draw_map(ax, weights, tokens)
    ax.set_title(title)
    fig.colorbar(image, label="attention weight", shrink=0.8)
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
def first_layer_maps(maps: dict[str, np.ndarray], tokens: Sequence[str]) -> Figure:
    """One head of layer 0 each. maps: title → (query, key), rows sum to 1; of one sentence."""
    columns = min(3, len(maps))
    rows = -(-len(maps) // columns)
    height = 0.6 + 2.45 * rows
    fig, axes = style.subplots(rows, columns, height, page=True, boxed=True, squeeze=False)
    for unused in axes.flat[len(maps) :]:
        unused.axis("off")
    for place, (title, weights) in enumerate(maps.items()):
        left, lowest = place % columns == 0, place + columns >= len(maps)
        image = _draw_map(axes.flat[place], weights, tokens, left, lowest, fontsize=style.SMALL)
        axes.flat[place].set_title(title)
    fig.colorbar(image, ax=axes, label="attention weight", shrink=0.7)
    return fig


@style.figure
def attention_by_layer(statistics: pd.DataFrame) -> Figure:
    """statistics: what `interpret.attention_statistics` gives; a dot a head, a line the mean."""
    fig, axes = style.subplots(1, len(STATISTICS), 2.8, page=True)
    for ax, (column, label) in zip(axes, STATISTICS.items(), strict=True):
        for head, part in statistics.groupby("head"):
            ax.scatter(part.layer, part[column], s=22, label=f"head {head}", **_looks(head))
        mean = statistics.groupby("layer")[column].mean()
        ax.plot(mean.index, mean, color="black", linewidth=1, label="layer's mean")
        if column == "distance":
            even = statistics.uniform_distance.iloc[0]
            ax.axhline(even, color="black", linestyle=":", label="spread evenly")
        ax.set_ylabel(label)
        ax.margins(0.1)
    _name_heads(fig, axes)
    return fig


@style.figure
def head_intervals(table: pd.DataFrame) -> Figure:
    """Figs. 6 and 7 in numbers. table: a row a (layer, head); of "previous" and "distance" the
    columns value, low and high."""
    fig, axes = style.subplots(1, 2, 2.9, page=True)
    for ax, statistic in zip(axes, ("previous", "distance"), strict=True):
        for (layer, head), row in table[statistic].iterrows():
            place, looks = layer + 0.13 * (head - 1.5), _looks(head)
            ax.plot([place, place], [row.low, row.high], color=looks["color"])
            name = f"head {head}" if layer == 0 else None
            ax.plot(place, row.value, linestyle="", label=name, **looks)
        ax.set_ylabel(STATISTICS[statistic])
    _name_heads(fig, axes)
    return fig


def _looks(head: int) -> dict:
    looks = style.series(head)
    return {"marker": looks["marker"], "color": looks["color"]}


def _name_heads(fig: Figure, axes: Sequence) -> None:
    for ax in axes:
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_xlabel("layer")
        ax.set_ylim(bottom=0)
    handles, labels = axes[0].get_legend_handles_labels()
    ncols = min(6, len(labels))
    fig.legend(handles, labels, loc="outside lower center", ncols=ncols, columnspacing=1.2)
