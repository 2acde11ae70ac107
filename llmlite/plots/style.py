"""What all figures share: style, sizes, colours, and words beside the lines."""

from functools import wraps
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import rc_params_from_file
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

SHEET = Path(__file__).with_name("llmlite.mplstyle")
STYLE = rc_params_from_file(SHEET, use_default_template=False)
# Figures for half a page and a page are read at 3.5 and 7 inches, where no text is under 7 points.
HALF, PAGE = 5.0, 7.5  # inches
PAGE_TEXT, SMALL = 8.5, 7.5  # points in the latter: most text, and the least

COLOURS = STYLE["axes.prop_cycle"].by_key()["color"]
BLUE, GREEN, RED = COLOURS[0], COLOURS[2], COLOURS[4]
GREY, UNCLEAR = "#666666", "#999999"
MARKERS = "osD^vPX"
DASHES = ("-", "--", "-.", (0, (4, 1, 1, 1, 1, 1)))


def figure(draw):
    """Draw in the house's style and return the figure; closed, so that a notebook shows it once."""

    @wraps(draw)
    def styled(*args, **kwargs) -> Figure:
        with plt.style.context(["default", STYLE]):  # whatever is set outside
            draw(*args, **kwargs)
            fig = plt.gcf()
            fig.draw_without_rendering()  # ticks that were made later would not be in the style
            fig.set_layout_engine("none")  # each later drawing would move things a little
        plt.close(fig)
        return fig

    return styled


def save(fig: Figure, path: str | Path) -> None:
    """Write `fig` as its suffix says (.png or .svg); the same figure gives the same bytes."""
    # Matplotlib puts a figure's layout back after saving: for none, it would take the style's.
    with plt.style.context(["default", STYLE, {"figure.constrained_layout.use": False}]):
        fig.savefig(path, metadata={"Date": None})


def subplots(rows=1, columns=1, height=3.0, page=False, boxed=False, title="", **options):
    """A figure's axes for half a page or a page's width, `height` in inches; `boxed` is for maps: a
    frame and no grid. Changes the style for what comes after it in a function with `figure`."""
    if page:
        plt.rcParams["font.size"] = PAGE_TEXT
    if boxed:
        plt.rcParams |= {"axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}
    options |= {"figsize": (PAGE if page else HALF, height), "subplot_kw": {"title": title}}
    return plt.subplots(rows, columns, **options)[1]


def series(i: int) -> dict:
    """Looks of the i-th line, which differ in grey, too; earlier ones are larger, to be seen below
    one that hides them."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": DASHES[i % len(DASHES)],
        "markersize": max(4, 7 - 1.5 * i),
    }


def ink(colour) -> np.ndarray:
    """The colour for letters on white: darker."""
    return 0.65 * np.array(to_rgb(colour))


def note(ax: Axes, text: str, point: tuple[float, float], right=0.0, up=0.0, **looks) -> None:
    """Words that stand `right` and `up` points from a point of the data."""
    ax.annotate(text, point, (right, up), textcoords="offset points", **looks)


def write_values(ax: Axes, matrix: np.ndarray, form: str, white: np.ndarray) -> None:
    """The numbers in the cells of an image, but for NaN; in white letters where `white` says so."""
    for place, value in np.ndenumerate(matrix):
        if np.isfinite(value):
            colour = "white" if white[place] else "black"
            ax.text(*place[::-1], form.format(value), ha="center", va="center", color=colour)


def published_values(ax: Axes, low: float, high: float) -> None:
    """The paper's values on the y axis as dotted lines; off the scale, in words at that edge. To be
    called when the curves are drawn: the scale is theirs."""
    bottom, top = ax.get_ylim()
    values = dict.fromkeys((low, high))  # one of them if they are the same
    text = f"the paper: {' to '.join(map(number, values))}"
    if bottom <= low and high <= top:
        for value in values:
            ax.axhline(value, color="black", linestyle=":")
        note(ax, text, (0.02, low), up=-3, va="top", xycoords=ax.get_yaxis_transform())
        return
    for shared in ax.get_shared_y_axes().get_siblings(ax):
        shared.margins(y=0.18)  # a line of text that no curve runs through
    y, va, arrow = (0.02, "bottom", "↓") if high < bottom else (0.98, "top", "↑")
    ax.text(0.02, y, f"{arrow} {text}, off this scale", transform=ax.transAxes, va=va, color=GREY)


def number(value: float, _=None) -> str:
    """Without an exponent; of what is below 1,000, four digits."""
    if value >= 1000:
        return f"{value:,.0f}"
    return np.format_float_positional(value, precision=4, fractional=False, trim="-")


def log_ticks(axis: Axis) -> None:
    """Plain numbers on a log axis, the more of them the less it spans."""
    low, high = axis.get_view_interval()
    steps = {10: (1, 1.5, 2, 3, 5, 7), 100: (1, 2, 5), np.inf: (1,)}
    axis.set_major_locator(LogLocator(subs=next(s for n, s in steps.items() if high < n * low)))
    axis.set_major_formatter(number)
    axis.set_minor_formatter(NullFormatter())
