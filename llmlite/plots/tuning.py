"""Notebook 10: what a tuning gains on a domain, and what it forgets of its own text."""

import numpy as np

from llmlite.intervals import Interval
from llmlite.plots import style

Ways = dict[int, tuple[str, Interval, Interval]]  # trained parameters → name, after, forgot


@style.figure
def tunings(domains: dict[str, tuple[float, Ways]]):
    """Bits per byte against trained parameters, log scale, with 95% intervals over seeds: of each
    domain's test part, untuned as a dotted line; and by how much those of the own text rose."""
    gained, forgot = style.subplots(1, 2, 3.2, page=True)
    for i, (domain, (before, ways)) in enumerate(domains.items()):
        looks = style.series(i)
        for place, ax in enumerate((gained, forgot)):
            found = [row[1 + place] for _, row in sorted(ways.items())]
            x, y = sorted(ways), [interval.value for interval in found]
            ax.plot(x, y, label=domain, **looks)
            for n, interval in zip(x, found, strict=True):  # one seed has none
                if np.isfinite(interval.low):
                    ax.plot([n, n], [interval.low, interval.high], color=looks["color"])
        gained.axhline(before, color=looks["color"], linestyle=":")
        style.note(gained, f"{domain}, untuned", (min(ways), before), up=-9, fontsize=style.SMALL)
    for n, (name, after, _) in ways.items():
        style.note(gained, name, (n, after.value), up=8, ha="center", fontsize=style.SMALL)
    for ax in (gained, forgot):
        ax.set(xscale="log", xlabel="trained parameters (log scale)")
        ax.margins(0.12, 0.12)
    gained.set(ylabel="bits per byte", title="The domain's test part, tuned")
    forgot.set(ylabel="rise in bits per byte", title="Forgotten of the own text")
    forgot.legend()
