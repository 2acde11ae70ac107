"""Notebook 08: where 1.17 comes from."""

from collections.abc import Sequence
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from llmlite.intervals import Interval
from llmlite.plots.style import COLOURS, MARKERS, figure, ink, log_ticks, subplots

UNCLEAR = "#999999"
PER_WORD = "perplexity per word and line end"


@figure
def loss_by_position(curves: dict[str, Sequence[float]], published: float) -> Figure:
    """Loss at each position of the window, log scale. curves: label → (block_size,), nats per
    token; published: the paper's mean."""
    fig, ax = subplots(height=3.4)
    for i, (label, losses) in enumerate(curves.items()):
        places = np.arange(1, len(losses) + 1)
        mean = float(np.mean(losses))
        ax.plot(places, losses, marker=MARKERS[i], markersize=4, color=COLOURS[i])
        ax.axhline(mean, color=COLOURS[i], linestyle="--", linewidth=1)
        above = max(losses[:-1])  # the last one may tower over all others
        ax.annotate(
            f"{label}: mean {mean:.3f}, perplexity {np.exp(mean):.4g}",
            (len(losses) / 2, above),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            color=ink(COLOURS[i]),
        )
    ax.axhline(published, color="black", linestyle=":")
    below = {"xytext": (0, -4), "textcoords": "offset points", "va": "top"}
    ax.annotate(f"the paper's mean, {published:.4g}", (1, published), **below)
    ax.set(yscale="log", xlabel="position in the window", ylabel="loss, nats per token (log scale)")
    ax.margins(y=0.12)
    log_ticks(ax.yaxis)
    ax.set_title("Without a mask, only the last answer is not in sight")
    return fig


@figure
def positions_by_run(curves: dict[str, Sequence[float]], published: float | None = None) -> Figure:
    """Loss over the position in the window, a panel a run, log scale. curves: as in
    `loss_by_position`; windows may differ in length; published: the paper's mean."""
    fig, axes = subplots(1, len(curves), 2.5, page=True, sharey=True, squeeze=False)
    for ax, (title, losses) in zip(axes[0], curves.items(), strict=True):
        ax.plot(np.arange(1, len(losses) + 1), losses, color=COLOURS[0])
        ax.axhline(float(np.mean(losses)), color=COLOURS[4], linestyle="--", linewidth=1)
        if published is not None:
            ax.axhline(published, color="black", linestyle=":")
        ax.set_title(f"{fill(title, 16)}\nmean {np.mean(losses):.3g}")
        ax.set(yscale="log", xlabel="position")
    log_ticks(axes[0][0].yaxis)
    axes[0][0].set_ylabel("loss, nats per token")
    if published is not None:
        below = {"xytext": (0, -3), "textcoords": "offset points", "va": "top"}
        axes[0][0].annotate(f"the paper's\nmean, {published:.3g}", (1, published), **below)
    return fig


@figure
def published_curves(panels: dict[str, tuple[dict[int, float], Sequence[float]]]) -> Figure:
    """Validation loss over the epochs. panels: title → (the paper's, epoch → loss where legible;
    ours, an epoch each)."""
    fig, axes = subplots(1, len(panels), page=len(panels) > 1, sharey=True, squeeze=False)
    for ax, (title, (paper, ours)) in zip(axes[0], panels.items(), strict=True):
        ax.plot(paper.keys(), paper.values(), "o", color="black", markersize=7, label="the paper")
        ax.plot(range(1, len(ours) + 1), ours, "-s", color=COLOURS[4], label="here, without a mask")
        ax.set(xlabel="epoch", title=title)
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0][0].set_ylabel("validation loss, nats per token")
    axes[0][0].legend()
    return fig


@figure
def window_sizes(table: pd.DataFrame, published: float | None = None) -> Figure:
    """table: as `hypotheses.windows_times_loss` gives it, for runs without a mask; published: the
    paper's loss."""
    fig, ax = subplots()
    table = table.sort_values("window")
    predicted = "predicted: last position / window"
    ax.plot(table.window, table["mean loss"], "s", color=COLOURS[4], markersize=8, label="measured")
    ax.plot(table.window, table[predicted], "x--", color="black", label=predicted)
    for _, row in table.iterrows():
        ax.annotate(
            f"{row['mean loss']:.3f}",
            (row.window, row["mean loss"]),
            xytext=(8, 6),
            textcoords="offset points",
        )
    ax.set(xscale="log", yscale="log", xlabel="tokens in the window", ylabel="mean loss, nats")
    ax.set_xticks(table.window, [f"{size:g}" for size in table.window])
    ax.set_xticks([], minor=True)
    ax.margins(0.15, 0.25)
    log_ticks(ax.yaxis)
    if published is not None:
        ax.axhline(published, color="black", linestyle=":")
        below = {"xytext": (0, -4), "textcoords": "offset points", "va": "top"}
        ax.annotate(f"the paper: {published:.4g}", (table.window.min(), published), **below)
    fig.legend(loc="outside lower center", ncols=2)
    ax.set_title("Without a mask, the window sets the loss")
    return fig


@figure
def yardsticks(
    table: pd.DataFrame,
    ours: str,
    value: float,
    low: float,
    high: float,
    published: tuple[str, float] | None = None,
) -> Figure:
    """Perplexity per word and line end, log scale. table: as `baselines.table` gives it; ours: the
    name of this project's model, with its value and interval; published: a value of the paper and
    what it is, drawn as a line."""
    own = pd.DataFrame({"model": [ours], PER_WORD: [value], "exact": [True]})
    table = pd.concat([own, table]).sort_values(PER_WORD, ascending=False, ignore_index=True)
    fig, ax = subplots(height=0.33 * len(table) + 1, page=True)
    for place, row in table.iterrows():
        colour = COLOURS[4] if row.model == ours else COLOURS[0]
        face = colour if row.exact else "none"
        marker = "s" if row.model == ours else "o" if row.exact else "D"
        ax.plot(row[PER_WORD], place, marker, color=colour, mfc=face)
        text = f"{row[PER_WORD]:,.1f}"
        text += f" [{low:,.0f}, {high:,.0f}]" if row.model == ours else ""
        beside = {"xytext": (8, 0), "textcoords": "offset points", "va": "center"}
        ax.annotate(text, (row[PER_WORD], place), color=ink(colour), **beside)
    ax.set_yticks(range(len(table)), [fill(name, 42) for name in table.model])
    ax.set(xscale="log", xlabel="test perplexity per word and line end (log scale)")
    ax.margins(x=0.17)
    if published:
        name, where = published
        ax.axvline(where, color="black", linestyle=":")
        ax.set_xlim(left=where / 1.5)
        beside = {"xytext": (4, 0), "textcoords": "offset points"}
        ax.annotate(f"{name}: {where:g}", (where, 0), **beside)
    log_ticks(ax.xaxis)
    ax.set_title("filled: the same split, unit and text; open: not quite")
    return fig


@figure
def effects(intervals: dict[str, Interval], unit: str) -> Figure:
    """Effects with their 95% intervals; filled where an interval leaves out 0."""
    fig, ax = subplots(height=0.33 * len(intervals) + 0.8, page=True)
    for place, interval in enumerate(reversed(intervals.values())):
        value, low, high = interval.value, interval.low, interval.high
        clear = low > 0 or high < 0
        colour = COLOURS[0] if clear else UNCLEAR
        if np.isfinite(high - low):  # a single pair has none
            ax.plot([low, high], [place, place], color=colour, linewidth=2)
        ax.plot(value, place, "o", color=colour, mfc=colour if clear else "white")
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(len(intervals)), [fill(name, 30) for name in intervals][::-1])
    ax.set(xlabel=f"{unit} (below 0: better)")
    ax.margins(y=0.1)
    return fig
