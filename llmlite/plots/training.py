"""Notebooks 02 and 03: the search, learning curves, schedules and gradients."""

import pandas as pd
from matplotlib.figure import Figure

from llmlite.plots import style

Range = tuple[float, float]  # the lowest and the highest that the paper published
AXIS = {"n_layer": "layers", "n_head": "heads", "n_embd": "width", "learning_rate": "learning rate"}


@style.figure
def learning_curves(curves: dict[str, pd.DataFrame], title: str, published: Range) -> Figure:
    """Fig. 3. curves: label → a run's epochs, with the columns epoch, perplexity, train_loss."""
    fig, (left, right) = style.subplots(1, 2, page=True)
    for i, (label, epochs) in enumerate(curves.items()):
        left.plot(epochs.epoch, epochs.perplexity, **style.series(i))
        right.plot(epochs.epoch, epochs.train_loss, label=label, **style.series(i))
    left.set(xlabel="epoch", ylabel="validation perplexity per token")
    right.set(xlabel="epoch", ylabel="training loss, nats per token")
    style.integers(left, right)
    style.published_values(left, *published)
    right.legend()
    fig.suptitle(title)
    return fig


@style.figure
def final_perplexities(
    table: pd.DataFrame, x: str, by: str, panel: str, title: str, published: Range | None = None
) -> Figure:
    """Figs. 2, 4 and 5. Validation perplexity of finished configurations over `x`: a panel a value
    of one column, a line a value of another (the mean where several runs share it, the runs as
    dots)."""
    values = sorted(table[panel].unique())
    fig, (axes,) = style.subplots(1, len(values), page=len(values) > 1, sharey=True, squeeze=False)
    places = {v: i for i, v in enumerate(sorted(table[x].unique()))}
    keys = sorted(table[by].unique())
    for ax, value in zip(axes, values, strict=True):
        for key, group in table[table[panel] == value].groupby(by):
            looks = style.series(keys.index(key))
            mean = group.groupby(x).perplexity.mean()
            label = f"{AXIS[by]}: {key:g}" if ax is axes[-1] else None
            ax.plot([places[v] for v in mean.index], mean, label=label, **looks)
            dots = [places[v] for v in group[x]]
            ax.scatter(dots, group.perplexity, s=12, alpha=0.5, color=looks["color"])
        ax.set_xticks(list(places.values()), [f"{v:g}" for v in places])
        ax.set(xlabel=AXIS[x], title=f"{AXIS[panel]}: {value:g}")
        ax.set_xlim(-0.3, len(places) - 0.7)
    axes[0].set_ylabel("validation perplexity\nper token")
    if published:
        style.published_values(axes[0], *published)
    fig.suptitle(title)
    fig.legend(loc="outside right center")
    return fig


@style.figure
def learning_rate_schedule(steps: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Fig. 8. steps: columns step and lr; published: the paper's, drawn over the same width."""
    fig, ax = style.subplots()
    ax.plot(steps.step, steps.lr)
    last = steps.step.iloc[-1]
    scale = last / published.step.iloc[-1]
    label = f"the paper's {published.step.iloc[-1]:,.0f} steps,\nto the same width"
    ax.plot(scale * published.step, published.lr, color="black", linestyle=":", label=label)
    # Where a schedule has come down, below the words about its peak.
    ax.legend(loc="upper right", bbox_to_anchor=(1, 0.9))
    peak = steps.loc[steps.lr.idxmax()]
    style.note(ax, f"peak {peak.lr:.4g} at step {peak.step:,.0f}", (peak.step, peak.lr), up=6)
    ax.set(xlabel="optimiser step", ylabel="learning rate", ylim=(0, 1.15 * peak.lr))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_title(f"Linear warmup, then a cosine to zero at step {last:,}")
    return fig


@style.figure
def losses(epochs: pd.DataFrame, best: int, published: Range) -> Figure:
    """Fig. 9. epochs: columns epoch, train_loss, valid_loss, perplexity; best: the epoch kept."""
    fig, (left, right) = style.subplots(1, 2, page=True)
    left.plot(epochs.epoch, epochs.train_loss, label="training", **style.series(0))
    left.plot(epochs.epoch, epochs.valid_loss, label="validation", **style.series(1))
    left.legend()
    left.set(xlabel="epoch", ylabel="loss, nats per token", title="Loss")
    right.plot(epochs.epoch, epochs.perplexity, **style.series(1))
    kept = epochs[epochs.epoch == best].iloc[0]
    style.note(right, f"kept: {kept.perplexity:.1f}", (best, kept.perplexity), up=12, ha="center")
    right.margins(0.12, 0.15)
    right.set(xlabel="epoch", ylabel="perplexity per token", title="Validation perplexity")
    style.integers(left, right)
    style.published_values(right, *published)
    return fig


@style.figure
def gradient_norm(steps: pd.DataFrame, clip: float, smooth: int, published: Range) -> Figure:
    """Fig. 10. steps: columns step, grad_norm; clip: the limit, drawn as a line; smooth: steps in
    the running median."""
    fig, ax = style.subplots()
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
    ax.set_title("Gradient norm before clipping: each step, and the median")
    fig.legend(loc="outside lower center", ncols=2)
    return fig
