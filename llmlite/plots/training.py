"""Notebooks 02 and 03: the search, learning curves, schedules and gradients."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llmlite.plots.style import (
    COLOURS,
    GREY,
    figure,
    label_ends,
    log_ticks,
    published_values,
    series,
    subplots,
)

AXIS = {
    "n_layer": "layers",
    "n_head": "heads",
    "n_embd": "width",
    "learning_rate": "learning rate",
}
WORDS = {
    "n_layer": "{:g} layers",
    "n_head": "{:g} heads",
    "n_embd": "width {:g}",
    "learning_rate": "learning rate {:g}",
}


@figure
def learning_curves(
    curves: dict[str, pd.DataFrame], title: str, published: tuple[float, float] | None = None
) -> Figure:
    """curves: label → a run's epochs, with the columns epoch, perplexity and train_loss; published:
    the paper's lowest and highest validation perplexity."""
    fig, (left, right) = subplots(1, 2, page=True)
    ends = []
    for i, (label, epochs) in enumerate(curves.items()):
        left.plot(epochs.epoch, epochs.perplexity, **series(i))
        right.plot(epochs.epoch, epochs.train_loss, **series(i))
        last = epochs.iloc[-1]
        ends.append(
            (last.epoch, last.train_loss, label.replace(", ", ",\n"), COLOURS[i % len(COLOURS)])
        )
    left.set(xlabel="epoch", ylabel="validation perplexity per token")
    right.set(xlabel="epoch", ylabel="training loss, nats per token")
    for ax in (left, right):
        ax.xaxis.get_major_locator().set_params(integer=True)
    if published:
        published_values(left, *published)
    fig.suptitle(title)
    label_ends(right, ends)
    return fig


@figure
def final_perplexities(
    table: pd.DataFrame,
    x: str,
    by: str,
    panel: str,
    title: str,
    published: tuple[float, float] | None = None,
) -> Figure:
    """Validation perplexity of finished configurations: a panel a value of one column, a line a
    value of another (the mean where several runs share it, the runs as dots), over `x`; published:
    the paper's lowest and highest."""
    panels = sorted(table[panel].unique())
    fig, axes = subplots(1, len(panels), page=len(panels) > 1, sharey=True, squeeze=False)
    places = {v: i for i, v in enumerate(sorted(table[x].unique()))}
    keys = sorted(table[by].unique())
    for ax, value in zip(axes[0], panels, strict=True):
        ends = []
        for key, group in table[table[panel] == value].groupby(by):
            style = series(keys.index(key))
            mean = group.groupby(x).perplexity.mean()
            ax.plot([places[v] for v in mean.index], mean, **style)
            dots = [places[v] for v in group[x]]
            ax.scatter(dots, group.perplexity, s=12, alpha=0.5, color=style["color"])
            last = places[mean.index[-1]], mean.iloc[-1]
            ends.append((*last, WORDS[by].format(key), style["color"]))
        ax.set_xticks(list(places.values()), [f"{v:g}" for v in places])
        ax.set(xlabel=AXIS[x], title=WORDS[panel].format(value), xlim=(-0.3, len(places) - 0.7))
    axes[0][0].set_ylabel("validation perplexity\nper token")
    if published:
        published_values(axes[0][0], *published)
    fig.suptitle(title)
    label_ends(axes[0][-1], ends)
    return fig


@figure
def learning_rate_schedule(steps: pd.DataFrame, published: pd.DataFrame | None = None) -> Figure:
    """Fig. 8. steps: columns step and lr; published: the paper's, drawn over the same width."""
    fig, ax = subplots()
    ax.plot(steps.step, steps.lr)
    last = steps.step.iloc[-1]
    if published is not None:
        scale = last / published.step.iloc[-1]
        label = f"the paper's {published.step.iloc[-1]:,.0f} steps,\nto the same width"
        ax.plot(scale * published.step, published.lr, color="black", linestyle=":", label=label)
        # Where a schedule has come down, below the words about its peak.
        ax.legend(loc="upper right", bbox_to_anchor=(1, 0.9))
    peak = steps.loc[steps.lr.idxmax()]
    text = f"peak {peak.lr:.4g} at step {peak.step:,.0f}"
    ax.annotate(text, (peak.step, peak.lr), (0, 6), textcoords="offset points")
    ax.set(xlabel="optimiser step", ylabel="learning rate", ylim=(0, 1.15 * peak.lr))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_title(f"Linear warmup, then a cosine to zero at step {last:,}")
    return fig


@figure
def resident_memory(runs: list[dict]) -> Figure:
    """Memory that training holds, with tokens in memory and mapped from a file.

    runs: a dict for each way (`how`) and corpus: `tokens` in it, `samples` taken while training
    (`trained` tokens, `anonymous` and `file` bytes) and `before`, a sample without any corpus. Left
    the most that each run held; right the course of those with the largest corpus.
    """
    fig, (left, right) = subplots(1, 2, page=True, sharey=True)

    def gigabytes(sample: dict) -> float:
        return (sample["anonymous"] + sample["file"]) / 1e9

    ends: dict[Axes, list] = {left: [], right: []}
    for i, how in enumerate(dict.fromkeys(run["how"] for run in runs)):
        mine = sorted((run for run in runs if run["how"] == how), key=lambda run: run["tokens"])
        most = [max(map(gigabytes, run["samples"])) for run in mine]
        left.plot([run["tokens"] for run in mine], most, **series(i))
        samples = mine[-1]["samples"]
        right.plot([s["trained"] for s in samples], list(map(gigabytes, samples)), **series(i))
        for ax, text in ((left, f"{how}:\n{most[-1]:.2f} GB"), (right, how)):
            last = ax.get_lines()[-1].get_xydata()[-1]
            ends[ax].append((*last, text, COLOURS[i]))
    without = min(gigabytes(run["before"]) for run in runs)
    for ax in (left, right):
        ax.axhline(without, color=GREY, linestyle=":")
    sizes = sorted({run["tokens"] for run in runs})
    below = {"xytext": (0, -3), "textcoords": "offset points", "va": "top"}
    left.annotate("program without tokens", (sizes[0], without), **below)
    left.set(xscale="log", xlabel="tokens in the corpus (log scale)", title="The most that is held")
    left.set_xticks(sizes, [f"{size / 1e6:g} M" for size in sizes])
    left.set_xticks([], minor=True)
    left.set(ylabel="resident memory, GB", ylim=(0, 1.05 * left.get_ylim()[1]))
    right.set(xlabel="tokens trained on", title=f"While training on {sizes[-1] / 1e6:g} M tokens")
    right.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:g} M")
    right.locator_params(axis="x", nbins=5)
    for ax, last in ends.items():
        label_ends(ax, last)
    return fig


@figure
def losses(epochs: pd.DataFrame, best: int, published: tuple[float, float] | None = None) -> Figure:
    """Fig. 9. epochs: columns epoch, train_loss, valid_loss, perplexity; best: the epoch kept;
    published: the paper's lowest and highest validation perplexity."""
    fig, (left, right) = subplots(1, 2, page=True)
    ends = []
    for i, (column, name) in enumerate(
        {"train_loss": "training", "valid_loss": "validation"}.items()
    ):
        left.plot(epochs.epoch, epochs[column], **series(i))
        ends.append((epochs.epoch.iloc[-1], epochs[column].iloc[-1], name, COLOURS[i]))
    left.set(xlabel="epoch", ylabel="loss, nats per token", title="Loss")
    right.plot(epochs.epoch, epochs.perplexity, **series(1))
    kept = epochs[epochs.epoch == best].iloc[0]
    right.annotate(
        f"kept: {kept.perplexity:.1f}",
        (kept.epoch, kept.perplexity),
        xytext=(0, 12),
        textcoords="offset points",
        ha="center",
    )
    right.margins(0.12, 0.15)
    right.set(xlabel="epoch", ylabel="perplexity per token", title="Validation perplexity")
    for ax in (left, right):
        ax.xaxis.get_major_locator().set_params(integer=True)
    if published:
        published_values(right, *published)
    label_ends(left, ends)
    return fig


@figure
def gradient_norm(
    steps: pd.DataFrame, clip: float, smooth: int, published: tuple[float, float] | None = None
) -> Figure:
    """Fig. 10. steps: columns step, grad_norm; clip: the limit, drawn as a line; smooth: steps in
    the running median; published: the lowest and highest of the paper's log."""
    fig, ax = subplots()
    # As pixels: a run may have 50,000 steps, and each would be a point of the SVG.
    ax.plot(steps.step, steps.grad_norm, linewidth=0.5, alpha=0.5, rasterized=True)
    median = steps.grad_norm.rolling(smooth, center=True, min_periods=1).median()
    ax.plot(steps.step, median, color=COLOURS[4])
    last = steps.step.iloc[-1]
    ends = [(last, median.iloc[-1], f"median of\n{smooth} steps", COLOURS[4])]
    if clip:
        ax.axhline(clip, color="black", linestyle=":")
        ends.append((last, clip, f"clipped at {clip:g}", "black"))
    ax.set(xlabel="optimiser step", ylabel="L2 norm of the\nunscaled gradient", yscale="log")
    ax.set_xlim(right=last)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    log_ticks(ax.yaxis)
    if published:
        published_values(ax, *published)
    ax.set_title("Gradient norm before clipping: each step, and the median")
    label_ends(ax, ends)
    return fig
