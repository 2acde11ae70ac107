"""Notebooks 04 and 05: what the model writes."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from llmlite.plots.style import MAP_STYLE, figure


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
