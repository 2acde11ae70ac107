"""Notebooks 02 and 03: the search, learning curves, schedules and gradients."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from llmlite.plots.style import COLOURS, MARKERS, figure


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
def resident_memory(runs: list[dict]) -> Figure:
    """Memory that training holds, with tokens in memory and mapped from a file.

    runs: a dict for each way (`how`) and corpus: `tokens` in it, `samples` taken while training
    (`trained` tokens, `anonymous` and `file` bytes) and `before`, a sample without any corpus. Left
    the most that each run held; right the course of those with the largest corpus.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)

    def gigabytes(sample: dict) -> float:
        return (sample["anonymous"] + sample["file"]) / 1e9

    for i, how in enumerate(dict.fromkeys(run["how"] for run in runs)):
        style = {"marker": MARKERS[i], "color": COLOURS[i]}
        mine = sorted((run for run in runs if run["how"] == how), key=lambda run: run["tokens"])
        most = [max(map(gigabytes, run["samples"])) for run in mine]
        left.plot([run["tokens"] for run in mine], most, **style)
        samples = mine[-1]["samples"]
        right.plot([s["trained"] for s in samples], list(map(gigabytes, samples)), **style)
        for ax, text in ((left, f"{how}: {most[-1]:.2f} GB"), (right, how)):
            x, y = ax.get_lines()[-1].get_xydata()[-1]
            place = {"xytext": (0, 8), "textcoords": "offset points", "ha": "right"}
            ax.annotate(text, (x, y), color=COLOURS[i], **place)
    without = min(gigabytes(run["before"]) for run in runs)
    for ax in (left, right):
        ax.axhline(without, color="#666666", linestyle=":")
    sizes = sorted({run["tokens"] for run in runs})
    left.text(sizes[0], without, "program without tokens", va="top", fontsize=9)
    left.set(xscale="log", xlabel="tokens in the corpus (log scale)", title="The most that is held")
    left.set_xticks(sizes, [f"{size / 1e6:g} M" for size in sizes])
    left.set_xticks([], minor=True)
    left.set(ylabel="resident memory, GB", ylim=(0, 1.15 * left.get_ylim()[1]))
    right.set(xlabel="tokens trained on", title=f"While training on {sizes[-1] / 1e6:g} M tokens")
    right.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:g} M")
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
