"""Notebook 10: what a tuning gains on a domain, and what is forgotten."""

import numpy as np

from llmlite.intervals import Interval
from llmlite.plots import style


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
