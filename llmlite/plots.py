"""One function a figure. Each draws what it is given, computes nothing and returns the figure.

Colours are Okabe and Ito's (2008), which people with any colour vision can tell apart.
"""

from collections.abc import Sequence
from functools import wraps

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000"]
MARKERS = "osD^vPX"
STYLE = {
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.prop_cycle": plt.cycler(color=COLOURS),
    "legend.frameon": False,
}
ATTENTION_SCALE = PowerNorm(0.5, vmin=0, vmax=1)  # square root: small weights stay visible
MAP_STYLE = {"axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}


def figure(draw):
    """Draw in the house's style; close the figure, so that a notebook shows it once."""

    @wraps(draw)
    def styled(*args, **kwargs) -> Figure:
        with plt.rc_context(STYLE):
            fig = draw(*args, **kwargs)
        plt.close(fig)
        return fig

    return styled


# -- notebook 01 ----------------------------------------------------------------------------------


@figure
def article_lengths(words: dict[str, Sequence[int]]) -> Figure:
    """words: the number of words of each article, by split."""
    fig, ax = plt.subplots(figsize=(7, 3.2))
    largest = max(max(values) for values in words.values())
    bins = np.geomspace(max(1, min(min(v) for v in words.values())), largest + 1, 16)
    for split, values in words.items():
        weights = np.full(len(values), 100 / len(values))
        label = f"{split}: {len(values)} articles"
        ax.hist(values, bins, weights=weights, histtype="step", linewidth=1.8, label=label)
    ax.set(
        xscale="log", xlabel="words in an article (log scale)", ylabel="articles of the split, %"
    )
    ax.set_title("Every split holds whole articles of similar length")
    ax.legend()
    return fig


@figure
def token_lengths(in_vocabulary: Sequence[int], in_text: Sequence[int]) -> Figure:
    """Counts by length in bytes, from 0: of the vocabulary, and of the tokens of a text."""
    fig, ax = plt.subplots(figsize=(7, 3.2))
    for values, label, offset in (
        (in_vocabulary, "in the vocabulary", -0.2),
        (in_text, "in the training text", 0.2),
    ):
        share = 100 * np.asarray(values) / np.sum(values)
        ax.bar(np.arange(len(share)) + offset, share, 0.4, label=label)
    ax.set(xlabel="length of a token, bytes", ylabel="tokens, %", xlim=(0.3, 16.7))
    ax.set_xticks(range(1, 17))
    ax.set_title("Long tokens fill the vocabulary, short ones fill the text")
    ax.legend()
    return fig


# -- notebook 02 ----------------------------------------------------------------------------------


@figure
def learning_curves(curves: dict[str, pd.DataFrame], title: str) -> Figure:
    """curves: label → a run's epochs, with the columns epoch, perplexity and train_loss."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    for i, (label, epochs) in enumerate(curves.items()):
        style = {"marker": MARKERS[i % len(MARKERS)], "color": COLOURS[i % len(COLOURS)]}
        left.plot(epochs.epoch, epochs.perplexity, label=label, **style)
        right.plot(epochs.epoch, epochs.train_loss, **style)
    left.set(xlabel="epoch", ylabel="validation perplexity per token")
    right.set(xlabel="epoch", ylabel="training loss, nats per token")
    for ax in (left, right):
        ax.xaxis.get_major_locator().set_params(integer=True)
    fig.legend(loc="outside lower center", ncols=min(3, len(curves)))
    fig.suptitle(title)
    return fig


@figure
def final_perplexities(table: pd.DataFrame, x: str, by: str, panel: str, title: str) -> Figure:
    """Validation perplexity of finished configurations: a panel a value of one column, a line a
    value of another (the mean where several runs share it, the runs as dots), over `x`."""
    names = {
        "n_layer": "layers",
        "n_head": "heads",
        "n_embd": "width",
        "learning_rate": "learning rate",
    }
    panels = sorted(table[panel].unique())
    fig, axes = plt.subplots(
        1, len(panels), figsize=(1.5 + 3.2 * len(panels), 3.4), sharey=True, squeeze=False
    )
    for ax, value in zip(axes[0], panels, strict=True):
        part = table[table[panel] == value]
        places = {v: i for i, v in enumerate(sorted(table[x].unique()))}
        for i, (key, group) in enumerate(part.groupby(by)):
            style = {"marker": MARKERS[i], "color": COLOURS[i]}
            mean = group.groupby(x).perplexity.mean()
            ax.plot([places[v] for v in mean.index], mean, label=f"{names[by]} {key:g}", **style)
            dots = [places[v] for v in group[x]]
            ax.scatter(dots, group.perplexity, s=12, alpha=0.5, color=COLOURS[i])
        ax.set_xticks(list(places.values()), [f"{v:g}" for v in places])
        ax.set(xlabel=names[x], title=f"{names[panel]} {value:g}", xlim=(-0.3, len(places) - 0.7))
    axes[0][0].set_ylabel("validation perplexity per token")
    handles, labels = axes[0][0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    fig.suptitle(title)
    return fig


# -- notebook 03 ----------------------------------------------------------------------------------


@figure
def learning_rate_schedule(steps: pd.DataFrame) -> Figure:
    """Fig. 8. steps: columns step and lr."""
    fig, ax = plt.subplots(figsize=(7, 3.2))
    ax.plot(steps.step, steps.lr)
    peak = steps.loc[steps.lr.idxmax()]
    text = f"peak {peak.lr:.4g} at step {peak.step:,.0f}"
    ax.annotate(text, (peak.step, peak.lr), (0, 6), textcoords="offset points")
    ax.set(xlabel="optimiser step", ylabel="learning rate", ylim=(0, 1.12 * peak.lr))
    ax.set_title(f"Linear warmup, then a cosine to zero at step {steps.step.iloc[-1]:,}")
    return fig


@figure
def losses(epochs: pd.DataFrame, best: int) -> Figure:
    """Fig. 9. epochs: columns epoch, train_loss, valid_loss, perplexity; best: the epoch kept."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    left.plot(epochs.epoch, epochs.train_loss, marker="o", label="training")
    left.plot(epochs.epoch, epochs.valid_loss, marker="s", label="validation")
    left.set(xlabel="epoch", ylabel="loss, nats per token", title="Loss")
    left.legend()
    right.plot(epochs.epoch, epochs.perplexity, marker="s", color=COLOURS[1])
    kept = epochs[epochs.epoch == best].iloc[0]
    text = f"kept: {kept.perplexity:.1f}"
    below = {"xytext": (0, -14), "textcoords": "offset points", "ha": "center"}
    right.annotate(text, (kept.epoch, kept.perplexity), **below)
    right.margins(0.1, 0.15)
    right.set(xlabel="epoch", ylabel="perplexity per token", title="Validation perplexity")
    for ax in (left, right):
        ax.xaxis.get_major_locator().set_params(integer=True)
    return fig


@figure
def gradient_norm(steps: pd.DataFrame, clip: float, smooth: int) -> Figure:
    """Fig. 10. steps: columns step, grad_norm; clip: the limit, drawn as a line; smooth: steps in
    the running median."""
    fig, ax = plt.subplots(figsize=(7, 3.2))
    ax.plot(steps.step, steps.grad_norm, linewidth=0.5, alpha=0.5, label="each step")
    median = steps.grad_norm.rolling(smooth, center=True, min_periods=1).median()
    ax.plot(steps.step, median, color=COLOURS[4], label=f"median of {smooth} steps")
    if clip:
        ax.axhline(clip, color="black", linestyle=":", label=f"clipped at {clip:g}")
    ax.set(xlabel="optimiser step", ylabel="L2 norm of the unscaled gradient", yscale="log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}")
    ax.set_title("Gradient norm before clipping")
    ax.legend(ncols=3)
    return fig


# -- notebooks 04 and 05 --------------------------------------------------------------------------


@figure
def next_tokens(tokens: Sequence[str], probabilities: Sequence[float], prompt: str) -> Figure:
    """The likeliest next tokens after a prompt, most probable first."""
    fig, ax = plt.subplots(figsize=(7, 0.26 * len(tokens) + 1))
    ax.barh(range(len(tokens)), probabilities)
    ax.set_yticks(range(len(tokens)), [repr(token) for token in tokens], family="monospace")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="probability", title=f"What may follow “{prompt}”")
    return fig


@figure
def bleu_heatmap(matrix: np.ndarray, labels: Sequence[str]) -> Figure:
    """§IV.C. Pairwise BLEU between the continuations of prompt variants, (n, n); the diagonal,
    where a text meets itself, is left blank."""
    shown = np.where(np.eye(len(matrix), dtype=bool), np.nan, matrix)
    with plt.rc_context(MAP_STYLE):
        fig, ax = plt.subplots(figsize=(7.6, 5.6))
    image = ax.imshow(shown, cmap="viridis", vmin=0)
    limit = np.nanmax(shown)
    for (row, column), value in np.ndenumerate(shown):
        if np.isfinite(value):
            colour = "white" if value < 0.6 * limit else "black"
            ax.text(column, row, f"{value:.3f}", ha="center", va="center", size=7.5, color=colour)
    ax.set_xticks(range(len(labels)), [f"{i + 1}" for i in range(len(labels))])
    ax.set_yticks(range(len(labels)), [f"{i + 1}  {label}" for i, label in enumerate(labels)])
    ax.set(xlabel="prompt, as hypothesis", ylabel="prompt, as reference")
    ax.set_title("Pairwise BLEU of the continuations")
    fig.colorbar(image, label="BLEU, 0 to 1", shrink=0.8)
    return fig


@figure
def sampling_grid(table: pd.DataFrame, columns: dict[str, str]) -> Figure:
    """§IV.C. table: temperature, top_k and measures; columns: measure → title. A map a measure."""
    with plt.rc_context(MAP_STYLE):
        fig, axes = plt.subplots(1, len(columns), figsize=(3.6 * len(columns), 3.3), squeeze=False)
    for ax, (column, title) in zip(axes[0], columns.items(), strict=True):
        grid = table.pivot(index="temperature", columns="top_k", values=column)
        image = ax.imshow(grid, cmap="viridis", aspect="auto", origin="lower")
        middle = (grid.values.min() + grid.values.max()) / 2
        for (row, column_), value in np.ndenumerate(grid.values):
            colour = "white" if value < middle else "black"
            ax.text(column_, row, f"{value:.2f}", ha="center", va="center", size=9, color=colour)
        ax.set_xticks(range(grid.shape[1]), [f"{k:g}" for k in grid.columns])
        ax.set_yticks(range(grid.shape[0]), [f"{t:g}" for t in grid.index])
        ax.set(xlabel="top-k", ylabel="temperature", title=title)
        fig.colorbar(image)
    return fig


# -- notebooks 06 and 07 --------------------------------------------------------------------------


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
