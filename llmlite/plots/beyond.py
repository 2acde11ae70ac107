"""Notebook 09: numbers of heads, and optimisers."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from llmlite.intervals import Interval
from llmlite.plots import style


@style.figure
def by_heads(panels: dict[str, dict[int, dict[int, Interval]]]):
    """A panel a measure over the number of heads, a line a depth. panels: what is measured →
    n_layer → n_head → its mean and interval."""
    axes = style.subplots(2, 3, 4.4, page=True, sharex=True).flat
    for ax, (title, lines) in zip(axes, panels.items(), strict=True):
        ax.set(xscale="log", title=title)
        for i, (n_layer, points) in enumerate(lines.items()):
            ends = np.array([(p.low, p.value, p.high) for p in points.values()]).T
            places = np.array(list(points)) * (0.97, 1.03)[i]  # bars side by side
            looks = {"label": f"layers: {n_layer}", **style.series(i)}
            ax.errorbar(places, ends[1], np.diff(ends, axis=0), **looks)
    ticks = list(next(iter(panels.values()))[n_layer])
    axes[-1].set_xticks(ticks, map(str, ticks))
    axes[-1].minorticks_off()
    for ax in axes[3:]:
        ax.set_xlabel("heads in a layer (log scale)")
    plt.figlegend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)


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
    per_step = step_tokens / 1000
    scale = (lambda steps: steps * per_step, lambda tokens: tokens / per_step)
    over_steps.secondary_xaxis("top", functions=scale).set_xlabel("thousand tokens")
    over_steps.set(xlabel="optimiser step", ylabel="validation loss,\nnats per token")
    over_time.set(xlabel="seconds of training")
    over_rate.set(xlabel="peak learning rate (log scale)", xscale="log")
    over_rate.minorticks_off()
    plt.figlegend(*over_steps.get_legend_handles_labels(), loc="outside lower center", ncols=4)
