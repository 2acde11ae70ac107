"""Notebooks 09 and 10: numbers of heads, optimisers, and tunings."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from llmlite.intervals import Interval
from llmlite.plots import style


@style.figure
def by_heads(table: pd.DataFrame, titles: dict[str, str]):
    """A panel a column of intervals over the number of heads, a line a depth. table: indexed by
    n_layer and n_head; titles: what each of its columns is."""
    axes = style.subplots(2, 3, 4.4, page=True, sharex=True).flat
    for ax, (column, title) in zip(axes, titles.items(), strict=True):
        for i, (n_layer, points) in enumerate(table[column].groupby(level=0)):
            heads = points.index.get_level_values(1)
            ends = np.array([(p.low, p.value, p.high) for p in points]).T
            looks = {"label": f"layers: {n_layer}", **style.series(i)}
            # Side by side, so that no bar hides another.
            ax.errorbar(heads * (0.97, 1.03)[i], ends[1], np.diff(ends, axis=0), **looks)
        ax.set(xscale="log", title=title)
    ax.set_xticks(heads, map(str, heads))
    ax.minorticks_off()
    for ax in axes[3:]:
        ax.set_xlabel("heads in a layer (log scale)")
    plt.figlegend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)


@style.figure
def optimisers(runs: dict[str, pd.DataFrame], rates: dict[str, pd.Series], step_tokens: int):
    """The loss over steps and tokens, over seconds, and over the rate, a line an optimiser. runs:
    step, elapsed and valid_loss at the best rate; rates: loss by rate; step_tokens: in a step."""
    over_steps, over_time, over_rate = style.subplots(1, 3, 3.4, page=True, sharey=True)
    for i, (name, run) in enumerate(runs.items()):
        looks = {"label": name, **style.series(i)}
        over_steps.plot(run.step, run.valid_loss, **looks)
        over_time.plot(run.elapsed, run.valid_loss, **looks)
        over_rate.plot(rates[name].index, rates[name], **looks)
    scale = (lambda x: x * step_tokens / 1000, lambda x: x * 1000 / step_tokens)
    over_steps.secondary_xaxis("top", functions=scale).set_xlabel("thousand tokens")
    over_steps.set(xlabel="optimiser step", ylabel="validation loss,\nnats per token")
    over_time.set(xlabel="seconds of training")
    over_rate.set(xlabel="peak learning rate (log scale)", xscale="log")
    over_rate.minorticks_off()
    plt.figlegend(*over_steps.get_legend_handles_labels(), loc="outside lower center", ncols=4)


@style.figure
def tunings(trained: dict[str, int], panels: dict[str, dict[str, dict[str, Interval]]]):
    """Over the trained parameters, log scale: a panel a title, a line a domain. trained: way →
    parameters; panels: title → domain → way → the mean over seeds and its 95% interval."""
    axes = style.subplots(1, len(panels), 3.2, page=True)
    ways, size = sorted(trained, key=trained.get), {"fontsize": style.SMALL}
    for ax, (title, domains) in zip(axes, panels.items(), strict=True):
        for i, (domain, found) in enumerate(domains.items()):
            x, rows = [trained[way] for way in ways], [found[way] for way in ways]
            ax.plot(x, [row.value for row in rows], label=domain, **style.series(i))
            for n, row in zip(x, rows, strict=True):
                if np.isfinite(row.low):  # a single seed has none
                    ax.plot([n, n], [row.low, row.high], color=style.COLOURS[i], linewidth=3)
        for way in ways:
            rows = [found[way] for found in domains.values()]
            top = max(row.high if np.isfinite(row.high) else row.value for row in rows)
            style.note(ax, way, (trained[way], top), up=5, ha="center", **size)
        ax.set(xscale="log", xlabel="trained parameters (log scale)", title=title)
        ax.margins(0.1, 0.15)
    axes[0].set_ylabel("bits per byte")
    axes[0].legend()
