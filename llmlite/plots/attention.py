"""Notebooks 06 and 07: what the heads do."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from llmlite.plots.style import MAP_STYLE, MARKERS, figure

ATTENTION_SCALE = PowerNorm(0.5, vmin=0, vmax=1)  # square root: small weights stay visible


@figure
def head_effects(effects: np.ndarray, baseline: float) -> Figure:
    """§IV.D. effects: change of the loss without each head, (n_layer, n_head), nats per token."""
    with plt.rc_context(MAP_STYLE):
        size = (3.2 + 0.9 * effects.shape[1], 2.2 + 0.5 * len(effects))
        fig, ax = plt.subplots(figsize=size)
    limit = np.abs(effects).max() or 1.0
    image = ax.imshow(effects, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    for (layer, head), value in np.ndenumerate(effects):
        colour = "white" if abs(value) > 0.6 * limit else "black"
        ax.text(head, layer, f"{value:+.3f}", ha="center", va="center", size=9, color=colour)
    ax.set_xticks(range(effects.shape[1]))
    ax.set_yticks(range(effects.shape[0]))
    ax.set(
        xlabel="head", ylabel="layer", title=f"Change of the loss ({baseline:.3f})\nwithout a head"
    )
    fig.colorbar(image, label="nats per token")
    return fig


@figure
def attention_map(weights: np.ndarray, tokens: Sequence[str], title: str) -> Figure:
    """Figs. 6 and 7. weights: (query, key) of one head, rows sum to 1."""
    side = 2.2 + 0.36 * len(tokens)
    with plt.rc_context(MAP_STYLE):
        fig, ax = plt.subplots(figsize=(side + 0.8, side))
    image = ax.imshow(weights, cmap="viridis", norm=ATTENTION_SCALE)
    labels = [token.replace("\n", "↵") for token in tokens]
    ax.set_xticks(range(len(labels)), labels, rotation=90, family="monospace")
    ax.set_yticks(range(len(labels)), labels, family="monospace")
    ax.set(xlabel="looked at (key)", ylabel="looking (query)", title=title)
    fig.colorbar(image, label="attention weight", shrink=0.8)
    return fig


@figure
def attention_grid(maps: np.ndarray) -> Figure:
    """Every head's map on one text: maps (n_layer, n_head, query, key), a row a layer."""
    layers, heads = maps.shape[:2]
    with plt.rc_context(MAP_STYLE):
        size = (1.7 * heads + 1.2, 1.7 * layers + 0.6)
        fig, axes = plt.subplots(layers, heads, figsize=size, squeeze=False)
    for (layer, head), ax in np.ndenumerate(axes):
        image = ax.imshow(maps[layer, head], cmap="viridis", norm=ATTENTION_SCALE)
        ax.set_xticks([])
        ax.set_yticks([])
        if layer == 0:
            ax.set_title(f"head {head}")
        if head == 0:
            ax.set_ylabel(f"layer {layer}")
    fig.colorbar(image, ax=axes, label="attention weight", shrink=0.6)
    return fig


@figure
def attention_by_layer(statistics: pd.DataFrame) -> Figure:
    """statistics: what `interpret.attention_statistics` gives; a dot a head, a line the mean."""
    columns = {
        "distance": "mean distance, tokens",
        "previous": "weight on the token before",
        "entropy": "entropy, nats",
    }
    fig, axes = plt.subplots(1, len(columns), figsize=(3.4 * len(columns), 3.2))
    for ax, (column, label) in zip(axes, columns.items(), strict=True):
        for head, part in statistics.groupby("head"):
            ax.scatter(part.layer, part[column], s=26, label=f"head {head}", marker=MARKERS[head])
        mean = statistics.groupby("layer")[column].mean()
        ax.plot(mean.index, mean, color="black", linewidth=1, label="mean of the layer")
        if column == "distance":
            even = statistics.uniform_distance.iloc[0]
            ax.axhline(even, color="black", linestyle=":", label="weight spread evenly")
        ax.set(xlabel="layer", ylabel=label)
        ax.margins(0.1)
        ax.set_ylim(bottom=0)
        ax.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return fig
