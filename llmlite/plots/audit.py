"""Notebook 08: where 1.17 comes from, and the scorecard."""

from collections.abc import Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from llmlite.intervals import Interval
from llmlite.plots.attention import ATTENTION_SCALE
from llmlite.plots.style import COLOURS, MAP_STYLE, MARKERS, figure

# Verdicts in the scorecard and in the table of facts, told apart by colour and by mark.
GOOD, BAD, FLAW, OPEN = COLOURS[2], COLOURS[4], COLOURS[1], "#999999"
FACT_MARKS = {"fits": ("✓", GOOD), "does not": ("✗", BAD), "–": ("–", OPEN)}
VERDICT_COLOURS = {
    "reproduced": GOOD,
    "not reproduced": BAD,
    "reproduced only with the flaw": FLAW,
    "cannot be judged": OPEN,
}


@figure
def loss_by_position(curves: dict[str, Sequence[float]], published: float) -> Figure:
    """Loss at each position of the window, log scale. curves: label → (block_size,), nats per
    token; published: the paper's mean."""
    fig, ax = plt.subplots(figsize=(7.2, 4))
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
            color=COLOURS[i],
        )
    ax.axhline(published, color="black", linestyle=":")
    ax.text(1, published * 1.08, f"the paper's mean, {published:.4g}", fontsize=9)
    ax.set(yscale="log", xlabel="position in the window", ylabel="loss, nats per token (log scale)")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")
    ax.set_title("Without a mask all answers are in sight but the last one")
    return fig


@figure
def published_curves(panels: dict[str, tuple[dict[int, float], Sequence[float]]]) -> Figure:
    """Validation loss over the epochs. panels: title → (the paper's, epoch → loss where legible;
    ours, an epoch each)."""
    fig, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.5), sharey=True)
    for ax, (title, (paper, ours)) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        ax.plot(paper.keys(), paper.values(), "o", color="black", markersize=7, label="paper")
        ax.plot(range(1, len(ours) + 1), ours, "-s", color=COLOURS[4], label="here, without a mask")
        ax.set(xlabel="epoch", title=title)
        ax.xaxis.get_major_locator().set_params(integer=True)
    first = np.atleast_1d(axes)[0]
    first.set_ylabel("validation loss, nats per token")
    first.legend()
    return fig


@figure
def window_sizes(table: pd.DataFrame) -> Figure:
    """table: as `facts.windows_times_loss` gives it, for runs without a mask."""
    fig, ax = plt.subplots(figsize=(6, 3.4))
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
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")
    ax.margins(0.15)
    ax.legend()
    ax.set_title("Without a mask, the window sets the loss")
    return fig


@figure
def hypotheses_and_facts(verdicts: pd.DataFrame, values: pd.DataFrame) -> Figure:
    """Which explanation fits which published fact; both (hypotheses × facts), see `facts.fits`."""
    rows, columns = verdicts.shape
    with plt.rc_context(MAP_STYLE):
        fig, ax = plt.subplots(figsize=(1.25 * columns + 3, 0.45 * rows + 1.4))
    for (row, column), verdict in np.ndenumerate(verdicts.to_numpy()):
        mark, colour = FACT_MARKS[verdict]
        box = plt.Rectangle((column - 0.47, row - 0.43), 0.94, 0.86, color=colour, alpha=0.18, lw=0)
        ax.add_patch(box)
        value = values.iat[row, column]
        text = value or mark if colour == OPEN else f"{mark} {value}"
        ax.text(column, row, text, ha="center", va="center", fontsize=8.5, color="black")
    ax.set_xticks(range(columns), [fill(fact, 14) for fact in verdicts.columns], fontsize=8.5)
    ax.set_yticks(range(rows), verdicts.index, fontsize=9)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    ax.spines[:].set_visible(False)
    return fig


@figure
def positions_by_run(curves: dict[str, Sequence[float]]) -> Figure:
    """Loss over the position in the window, a panel a run, log scale. curves: as in
    `loss_by_position`; windows may differ in length."""
    fig, axes = plt.subplots(1, len(curves), figsize=(2.3 * len(curves) + 0.4, 2.7), sharey=True)
    for ax, (title, losses) in zip(np.atleast_1d(axes), curves.items(), strict=True):
        ax.plot(np.arange(1, len(losses) + 1), losses, color=COLOURS[0])
        ax.axhline(float(np.mean(losses)), color=COLOURS[4], linestyle="--", linewidth=1)
        ax.set_title(f"{title}\nmean {np.mean(losses):.3g}", fontsize=9)
        ax.set(yscale="log", xlabel="position")
        ax.yaxis.set_minor_formatter("")
        ax.yaxis.set_major_formatter("{x:g}")
    np.atleast_1d(axes)[0].set_ylabel("loss, nats per token")
    return fig


@figure
def first_layer_maps(maps: dict[str, np.ndarray], tokens: Sequence[str]) -> Figure:
    """One head of layer 0 each. maps: title → (query, key), rows sum to 1; of one sentence."""
    with plt.rc_context(MAP_STYLE):
        size = (2.6 * len(maps) + 1, 3.4)
        fig, axes = plt.subplots(1, len(maps), figsize=size, sharey=True)
    labels = [token.replace("\n", "↵") for token in tokens]
    for ax, (title, weights) in zip(np.atleast_1d(axes), maps.items(), strict=True):
        image = ax.imshow(weights, cmap="viridis", norm=ATTENTION_SCALE)
        ax.set_xticks(range(len(labels)), labels, rotation=90, family="monospace", fontsize=7)
        ax.set_yticks(range(len(labels)), labels, family="monospace", fontsize=7)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("looked at (key)", fontsize=8)
    np.atleast_1d(axes)[0].set_ylabel("looking (query)")
    fig.colorbar(image, ax=axes, label="attention weight", shrink=0.7)
    return fig


@figure
def yardsticks(table: pd.DataFrame, ours: str, value: float, low: float, high: float) -> Figure:
    """Perplexity per word and line end, log scale. table: as `yardsticks.table` gives it; ours: the
    name of this project's model, with its value and interval."""
    unit = "perplexity per word and line end"
    own = pd.DataFrame({"model": [ours], unit: [value], "exact": [True]})
    table = pd.concat([own, table]).sort_values(unit, ascending=False, ignore_index=True)
    fig, ax = plt.subplots(figsize=(8.4, 0.34 * len(table) + 1.2))
    for place, row in table.iterrows():
        colour = COLOURS[4] if row.model == ours else COLOURS[0]
        face = colour if row.exact else "none"
        ax.plot(row[unit], place, "o" if row.exact else "D", color=colour, mfc=face)
        text = f"{row[unit]:,.1f}" + (f" [{low:,.0f}, {high:,.0f}]" if row.model == ours else "")
        beside = {"xytext": (9, -3), "textcoords": "offset points", "fontsize": 9, "color": colour}
        ax.annotate(text, (row[unit], place), **beside)
    ax.set_yticks(range(len(table)), [fill(name, 52) for name in table.model], fontsize=8.5)
    ax.set(xscale="log", xlabel="test perplexity per word and line end (log scale)")
    ax.xaxis.set_major_formatter("{x:,g}")
    ax.margins(x=0.16)
    ax.set_title("filled: the same split, unit and text; open: not quite", fontsize=9)
    return fig


@figure
def effects(intervals: dict[str, Interval], unit: str) -> Figure:
    """Effects with their 95% intervals; filled where an interval leaves out 0."""
    fig, ax = plt.subplots(figsize=(7, 0.36 * len(intervals) + 1.1))
    for place, interval in enumerate(reversed(intervals.values())):
        value, low, high = interval.value, interval.low, interval.high
        clear = low > 0 or high < 0
        colour = COLOURS[0] if clear else OPEN
        ax.plot([low, high], [place, place], color=colour, linewidth=2)
        ax.plot(value, place, "o", color=colour, mfc=colour if clear else "white")
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(len(intervals)), list(intervals)[::-1])
    ax.set(xlabel=f"{unit} (below 0: better)")
    ax.margins(y=0.1)
    return fig


@figure
def head_intervals(table: pd.DataFrame) -> Figure:
    """Fig. 6 and 7 in numbers. table: as `studies.by_head` gives it: a row a (layer, head)."""
    panels = {"previous": "weight on the token before", "distance": "mean distance, tokens"}
    fig, axes = plt.subplots(1, len(panels), figsize=(9, 3.3))
    for ax, (statistic, label) in zip(axes, panels.items(), strict=True):
        for (layer, head), row in table[statistic].iterrows():
            place, colour = layer + 0.13 * (head - 1.5), COLOURS[head % len(COLOURS)]
            ax.plot([place, place], [row.low, row.high], color=colour, linewidth=1.5)
            ax.plot(
                place,
                row.value,
                MARKERS[head % len(MARKERS)],
                color=colour,
                markersize=5,
                label=f"head {head}" if layer == 0 else None,
            )
        ax.set(xlabel="layer", ylabel=label)
        ax.set_ylim(bottom=0)
        ax.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return fig


@figure
def scorecard(table: pd.DataFrame) -> Figure:
    """table: as `scorecard.to_frame` gives it: a row a claim, with its verdict."""
    fig, ax = plt.subplots(figsize=(10.5, 0.52 * len(table) + 1))
    for place, (number, row) in enumerate(table.iterrows()):
        colour = VERDICT_COLOURS[row.verdict]
        chip = {"boxstyle": "round,pad=0.35", "facecolor": colour, "edgecolor": "none"}
        ax.text(0, place, f"{number}", ha="right", va="center", fontsize=9, weight="bold")
        ax.text(0.15, place, fill(row.claim, 44), va="center", fontsize=9)
        ax.text(4.45, place, row.verdict, va="center", fontsize=8.5, color="white", bbox=chip)
        ax.text(6.75, place, fill(row.ours, 62), va="center", fontsize=7.6)
        ax.axhline(place + 0.5, color="#dddddd", linewidth=0.6)
    ax.set(xlim=(-0.3, 10.4), ylim=(len(table) - 0.5, -1.1))
    for x, title in ((0.15, "the paper's claim"), (4.35, "verdict"), (6.75, "here")):
        ax.text(x, -0.85, title, fontsize=9, weight="bold")
    ax.axis("off")
    return fig
