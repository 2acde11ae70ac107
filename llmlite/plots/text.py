"""Notebooks 04 and 05: what the model writes."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llmlite.plots.style import COLOURS, figure, subplots


@figure
def next_tokens(tokens: Sequence[str], probabilities: Sequence[float], prompt: str) -> Figure:
    """The likeliest next tokens after a prompt, most probable first."""
    fig, ax = subplots(height=0.21 * len(tokens) + 0.9)
    ax.barh(range(len(tokens)), probabilities)
    ax.set_yticks(range(len(tokens)), [repr(token) for token in tokens], family="monospace")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="probability", title=f"What may follow “{prompt}”")
    return fig


@figure
def bleu_heatmap(
    matrix: np.ndarray, labels: Sequence[str], threshold: float | None = None
) -> Figure:
    """§IV.C. Pairwise BLEU between the continuations of prompt variants, (n, n); the diagonal,
    where a text meets itself, is left blank. Values from `threshold` on have a frame."""
    shown = np.where(np.eye(len(matrix), dtype=bool), np.nan, matrix)
    fig, ax = subplots(height=1.2 + 0.42 * len(labels), page=True, boxed=True)
    image = ax.imshow(shown, vmin=0, aspect="auto")
    limit = np.nanmax(shown)
    for (row, column), value in np.ndenumerate(shown):
        if np.isfinite(value):
            colour = "white" if value < 0.6 * limit else "black"
            ax.text(column, row, f"{value:.3f}", ha="center", va="center", color=colour)
            if threshold is not None and value >= threshold:
                frame(ax, column - 0.46, row - 0.45, 0.92, 0.9)
    ax.set_xticks(range(len(labels)), [f"{i + 1}" for i in range(len(labels))])
    ax.set_yticks(range(len(labels)), [f"{i + 1}  {label}" for i, label in enumerate(labels)])
    ax.set(xlabel="prompt, as hypothesis", ylabel="prompt, as reference")
    ax.set_title("Pairwise BLEU of the continuations")
    bar = fig.colorbar(image, label="BLEU, 0 to 1")
    if threshold is not None:
        bar.ax.axhline(threshold, color=COLOURS[4], linewidth=2)
        ax.set_title(f"Pairwise BLEU of the continuations; framed: {threshold:g} or more")
    return fig


@figure
def sampling_grid(
    table: pd.DataFrame, columns: dict[str, str], temperature: float | None = None
) -> Figure:
    """§IV.C. table: temperature, top_k and measures; columns: measure → title. A map a measure;
    the row of `temperature`, the paper's, has a frame."""
    fig, axes = subplots(1, len(columns), 2.7, page=True, boxed=True, sharey=True, squeeze=False)
    for ax, (column, title) in zip(axes[0], columns.items(), strict=True):
        grid = table.pivot(index="temperature", columns="top_k", values=column)
        ax.imshow(grid, aspect="auto", origin="lower")
        middle = (grid.values.min() + grid.values.max()) / 2
        for (row, column_), value in np.ndenumerate(grid.values):
            colour = "white" if value < middle else "black"
            ax.text(column_, row, f"{value:.2f}", ha="center", va="center", color=colour)
        ax.set_xticks(range(grid.shape[1]), [f"{k:g}" for k in grid.columns])
        names = [f"{t:g}" + ("\n(paper)" if t == temperature else "") for t in grid.index]
        ax.set_yticks(range(grid.shape[0]), names)
        ax.set(xlabel="top-k", title=title)
        if temperature in grid.index:
            frame(ax, -0.48, grid.index.get_loc(temperature) - 0.47, grid.shape[1] - 0.04, 0.94)
    axes[0][0].set_ylabel("temperature")
    return fig


def frame(ax: Axes, x: float, y: float, width: float, height: float) -> None:
    looks = {"fill": False, "edgecolor": COLOURS[4], "linewidth": 2}
    ax.add_patch(plt.Rectangle((x, y), width, height, **looks))
