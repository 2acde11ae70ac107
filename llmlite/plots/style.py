"""The style of all figures; Okabe and Ito's colours (2008) suit people with any colour vision."""

from functools import wraps

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000"]
MARKERS = "osD^vPX"
STYLE = {
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.prop_cycle": plt.cycler(color=COLOURS),
    "legend.frameon": False,
}
MAP_STYLE = {"axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}


def figure(draw):
    """Draw in the house's style; close the figure, so that a notebook shows it once."""

    @wraps(draw)
    def styled(*args, **kwargs) -> Figure:
        with plt.rc_context(STYLE):
            fig = draw(*args, **kwargs)
        plt.close(fig)
        return fig

    return styled
