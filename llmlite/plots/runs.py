"""Notebooks 02, 03 and 08: trainings, and where the paper's 1.17 comes from."""

from collections.abc import Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from llmlite.intervals import Interval
from llmlite.plots import style

Range = tuple[float, float]  # the lowest and the highest that the paper published
AXIS = {"n_layer": "layers", "n_head": "heads", "n_embd": "width", "learning_rate": "learning rate"}
FACT_MARKS = {"fits": ("✓", style.GREEN), "does not": ("✗", style.RED), "–": ("–", style.UNCLEAR)}
PER_WORD = "perplexity per word and line end"


@style.figure
def final_perplexities(
    table: pd.DataFrame, x: str, by: str, panel: str, title: str, published: Range | None = None
):
    """Figs. 2, 4 and 5. Validation perplexity of finished configurations over `x`: a panel a value
    of one column, a line a value of another (the mean where several runs share it, the runs as
    dots)."""
    values = sorted(table[panel].unique())
    (axes,) = style.subplots(1, len(values), page=len(values) > 1, sharey=True, squeeze=False)
    places = {v: i for i, v in enumerate(sorted(table[x].unique()))}
    keys = sorted(table[by].unique())
    for ax, value in zip(axes, values, strict=True):
        for key, group in table[table[panel] == value].groupby(by):
            looks = style.series(keys.index(key))
            mean = group.groupby(x).perplexity.mean()
            label = f"{AXIS[by]}: {key:g}" if ax is axes[-1] else None
            ax.plot(mean.index.map(places), mean, label=label, **looks)
            dots = group[x].map(places)
            ax.scatter(dots, group.perplexity, s=12, alpha=0.5, color=looks["color"])
        ax.set_xticks(list(places.values()), [f"{v:g}" for v in places])
        ax.set(xlabel=AXIS[x], title=f"{AXIS[panel]}: {value:g}")
        ax.set_xlim(-0.3, len(places) - 0.7)
    axes[0].set_ylabel("validation perplexity\nper token")
    if published:
        style.published_values(axes[0], *published)
    plt.suptitle(title)
    plt.figlegend(loc="outside right center")


@style.figure
def learning_rate_schedule(steps: pd.DataFrame, published: pd.DataFrame):
    """Fig. 8. steps: columns step and lr; published: the paper's, drawn over the same width."""
    ax = style.subplots()
    ax.plot(steps.step, steps.lr)
    scale = steps.step.iloc[-1] / published.step.iloc[-1]
    label = f"the paper's {published.step.iloc[-1]:,.0f} steps,\nto the same width"
    ax.plot(scale * published.step, published.lr, color="black", linestyle=":", label=label)
    ax.legend(loc="upper right")
    peak = steps.loc[steps.lr.idxmax()]
    ax.set(xlabel="optimiser step", ylabel="learning rate", ylim=(0, None))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_title(f"Linear warmup to {peak.lr:.4g} at step {peak.step:,.0f}, then a cosine to zero")


@style.figure
def losses(loss: dict, perplexity: dict[str, pd.Series], title: str, published: Range):
    """Figs. 3 and 9. Both: label → what is shown, by epoch; a label has one look in both."""
    left, right = style.subplots(1, 2, page=True)
    looks = {label: style.series(i) for i, label in enumerate(loss)}
    for ax, curves in ((left, loss), (right, perplexity)):
        for label, values in curves.items():
            ax.plot(values.index, values, label=label, **looks[label])
        ax.locator_params("x", integer=True)
    left.legend()
    left.set(xlabel="epoch", ylabel="loss, nats per token")
    right.set(xlabel="epoch", ylabel="validation perplexity per token")
    style.published_values(right, *published)
    plt.suptitle(title)


@style.figure
def gradient_norm(steps: pd.DataFrame, clip: float, smooth: int, published: Range):
    """Fig. 10. steps: columns step, grad_norm; clip: the limit, drawn as a line; smooth: steps in
    the running median."""
    ax = style.subplots(title="Gradient norm before clipping: each step, and the median")
    # As pixels: a run may have 50,000 steps, and each would be a point of the SVG.
    ax.plot(steps.step, steps.grad_norm, linewidth=0.5, alpha=0.5, rasterized=True)
    median = steps.grad_norm.rolling(smooth, center=True, min_periods=1).median()
    ax.plot(steps.step, median, color=style.RED, label=f"median of {smooth} steps")
    if clip:
        ax.axhline(clip, color="black", linestyle=":", label=f"clipped at {clip:g}")
    ax.set(xlabel="optimiser step", ylabel="L2 norm of the\nunscaled gradient", yscale="log")
    ax.set_xlim(right=steps.step.iloc[-1])
    ax.xaxis.set_major_formatter("{x:,.0f}")
    style.log_ticks(ax.yaxis)
    style.published_values(ax, *published)
    plt.figlegend(loc="outside lower center", ncols=2)


@style.figure
def loss_by_position(curves: dict[str, Sequence[float]], published: float):
    """Loss at each position of the window, log scale. curves: label → (block_size,), nats per
    token; published: the paper's mean."""
    title = "Without a mask, only the last answer is not in sight"
    ax = style.subplots(height=3.4, title=title)
    for i, (label, losses) in enumerate(curves.items()):
        places = np.arange(1, len(losses) + 1)
        mean = float(np.mean(losses))
        ax.plot(places, losses, marker=style.MARKERS[i], markersize=4, color=style.COLOURS[i])
        ax.axhline(mean, color=style.COLOURS[i], linestyle="--", linewidth=1)
        text = f"{label}: mean {mean:.3f}, perplexity {np.exp(mean):.4g}"
        middle = len(losses) / 2, max(losses[:-1])  # the last one may tower over all others
        style.note(ax, text, middle, up=8, ha="center", color=style.ink(style.COLOURS[i]))
    ax.set(yscale="log", xlabel="position in the window", ylabel="loss, nats per token (log scale)")
    ax.margins(y=0.12)
    style.log_ticks(ax.yaxis)
    style.published_values(ax, published, published)


@style.figure
def positions_by_run(curves: dict[str, Sequence[float]], published: float):
    """Loss over the position in the window, a panel a run, log scale. curves: as in
    `loss_by_position`; windows may differ in length; published: the paper's mean."""
    (axes,) = style.subplots(1, len(curves), 2.5, page=True, sharey=True, squeeze=False)
    for ax, (title, losses) in zip(axes, curves.items(), strict=True):
        ax.plot(np.arange(1, len(losses) + 1), losses, color=style.BLUE)
        ax.axhline(float(np.mean(losses)), color=style.RED, linestyle="--", linewidth=1)
        ax.axhline(published, color="black", linestyle=":")
        ax.set_title(f"{fill(title, 16)}\nmean {np.mean(losses):.3g}")
        ax.set(yscale="log", xlabel="position")
    style.log_ticks(axes[0].yaxis)
    axes[0].set_ylabel("loss, nats per token")
    style.published_values(axes[0], published, published)


@style.figure
def published_curves(curves: dict[str, tuple[dict[int, float], Sequence[float]]]):
    """Validation loss over the epochs. curves: title → (the paper's, epoch → loss where legible;
    ours, an epoch each)."""
    (axes,) = style.subplots(1, len(curves), page=len(curves) > 1, sharey=True, squeeze=False)
    for ax, (title, (paper, ours)) in zip(axes, curves.items(), strict=True):
        ax.plot(paper.keys(), paper.values(), "o", color="black", markersize=7, label="the paper")
        ax.plot(range(1, len(ours) + 1), ours, "-s", color=style.RED, label="here, without a mask")
        ax.set(xlabel="epoch", title=title)
        ax.locator_params("x", integer=True)
    axes[0].set_ylabel("validation loss, nats per token")
    axes[0].legend()


@style.figure
def window_sizes(table: pd.DataFrame, published: float):
    """Mean loss of runs without a mask over their windows. table: columns window, "mean loss" and
    "predicted: last position / window"; published: the paper's loss."""
    ax = style.subplots(title="Without a mask, the window sets the loss")
    table = table.sort_values("window")
    predicted = "predicted: last position / window"
    ax.plot(table.window, table["mean loss"], "s", color=style.RED, markersize=8, label="measured")
    ax.plot(table.window, table[predicted], "x--", color="black", label=predicted)
    for window, loss in zip(table.window, table["mean loss"], strict=True):
        style.note(ax, f"{loss:.3f}", (window, loss), right=-8, up=-12, ha="right")
    ax.set(xscale="log", yscale="log", xlabel="tokens in the window", ylabel="mean loss, nats")
    ax.set_xticks(table.window, [f"{size:g}" for size in table.window])
    ax.set_xticks([], minor=True)
    ax.margins(0.2, 0.25)
    style.log_ticks(ax.yaxis)
    style.published_values(ax, published, published)
    plt.figlegend(loc="outside lower center", ncols=2)


@style.figure
def hypotheses_and_facts(verdicts: pd.DataFrame, values: pd.DataFrame):
    """Which explanation fits which published fact: two tables of words, hypotheses × facts."""
    rows, columns = verdicts.shape
    ax = style.subplots(height=0.37 * rows + 0.8, page=True, boxed=True)
    small = {"fontsize": style.SMALL}
    for (row, column), verdict in np.ndenumerate(verdicts.to_numpy()):
        mark, colour = FACT_MARKS[verdict]
        box = plt.Rectangle((column - 0.47, row - 0.44), 0.94, 0.88)
        ax.add_patch(box).set(color=colour, alpha=0.25, lw=0)
        value = values.iat[row, column]
        text = value or mark if colour == style.UNCLEAR else f"{mark} {value}"
        text = fill(text, 11, break_long_words=False)
        ax.text(column, row, text, ha="center", va="center", **small)
    ax.set_xticks(range(columns), [fill(fact, 12) for fact in verdicts.columns], **small)
    ax.set_yticks(range(rows), [fill(name, 22) for name in verdicts.index], **small)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    ax.spines[:].set_visible(False)


@style.figure
def yardsticks(table: pd.DataFrame, ours: dict[str, Interval], published: tuple[str, float]):
    """Perplexity per word and line end, log scale. table: columns model, PER_WORD and exact; ours:
    this project's models, by name; published: a value of the paper and what it is, for a line."""
    values = [getattr(measured, "value", measured) for measured in ours.values()]
    own = pd.DataFrame({"model": list(ours), PER_WORD: values, "exact": True})
    table = pd.concat([own, table]).sort_values(PER_WORD, ascending=False, ignore_index=True)
    ax = style.subplots(height=0.33 * len(table) + 1, page=True)
    for place, row in table.iterrows():
        text, marker, colour = f"{row[PER_WORD]:,.1f}", "o" if row.exact else "D", style.BLUE
        if row.model in ours:
            text, marker, colour = f"{ours[row.model]:,.1f}", "s", style.RED
        ax.plot(row[PER_WORD], place, marker, color=colour, mfc=colour if row.exact else "none")
        style.note(ax, text, (row[PER_WORD], place), right=8, va="center", color=style.ink(colour))
    ax.set_yticks(range(len(table)), [fill(name, 42) for name in table.model])
    ax.set(xscale="log", xlabel="test perplexity per word and line end (log scale)")
    ax.margins(x=0.17)
    name, where = published
    ax.axvline(where, color="black", linestyle=":")
    ax.set_xlim(left=where / 1.5)
    style.note(ax, f"{name}: {where:g}", (where, 0), right=4)
    style.log_ticks(ax.xaxis)
    ax.set_title("filled: the same split, unit and text; open: not quite")


@style.figure
def intervals(panels: dict[str, dict[str, Interval]], zero: bool = False):
    """Values with their 95% intervals: a panel a title, a row a name; open where an interval holds
    0, which is drawn if `zero`."""
    height = 0.33 * max(map(len, panels.values())) + 0.8
    (axes,) = style.subplots(1, len(panels), height, page=True, sharey=True, squeeze=False)
    for ax, (title, rows) in zip(axes, panels.items(), strict=True):
        for place, row in enumerate(rows.values()):
            clear = row.low > 0 or row.high < 0
            colour = style.BLUE if clear else style.UNCLEAR
            if np.isfinite(row.high - row.low):  # a single pair has none
                ax.plot([row.low, row.high], [place, place], color=colour, linewidth=2)
            ax.plot(row.value, place, "o", color=colour, mfc=colour if clear else "white")
        if zero:
            ax.axvline(0, color="black", linewidth=0.8)
        ax.set_yticks(range(len(rows)), [fill(name, 30) for name in rows])
        ax.set(xlabel=title)
        ax.margins(0.12, 0.1)
    axes[0].invert_yaxis()
