"""Notebook 08: the tables that are drawn, facts against hypotheses and the scorecard."""

from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from llmlite.plots.style import COLOURS, PAGE, SMALL, figure, subplots, tint

# Verdicts, told apart by colour and by mark or words.
GOOD, BAD, FLAW, OPEN = COLOURS[2], COLOURS[4], COLOURS[1], "#999999"
FACT_MARKS = {"fits": ("✓", GOOD), "does not": ("✗", BAD), "–": ("–", OPEN)}
VERDICT_COLOURS = {
    "reproduced": GOOD,
    "not reproduced": BAD,
    "reproduced only with the flaw": FLAW,
    "cannot be judged": OPEN,
}


@figure
def hypotheses_and_facts(verdicts: pd.DataFrame, values: pd.DataFrame) -> Figure:
    """Which explanation fits which published fact: what `hypotheses.fits` gives."""
    rows, columns = verdicts.shape
    fig, ax = subplots(height=0.37 * rows + 0.8, page=True, boxed=True)
    for (row, column), verdict in np.ndenumerate(verdicts.to_numpy()):
        mark, colour = FACT_MARKS[verdict]
        box = plt.Rectangle((column - 0.47, row - 0.44), 0.94, 0.88, color=tint(colour), lw=0)
        ax.add_patch(box)
        value = values.iat[row, column]
        text = value or mark if colour == OPEN else f"{mark} {value}"
        place = {"ha": "center", "va": "center", "fontsize": SMALL}
        ax.text(column, row, fill(text, 11, break_long_words=False), **place)
    ax.set_xticks(range(columns), [fill(fact, 12) for fact in verdicts.columns], fontsize=SMALL)
    ax.set_yticks(range(rows), [fill(name, 22) for name in verdicts.index], fontsize=SMALL)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    ax.spines[:].set_visible(False)
    return fig


@figure
def scorecard(table: pd.DataFrame) -> Figure:
    """table: as `scorecard.to_frame` gives it: a row a claim, with its verdict."""
    number, claim, verdict, ours = 0.2, 0.28, 2.25, 3.5  # inches from the left
    line = 1.25 * SMALL / 72
    cells = [
        (f"{i}", fill(row.claim, 33), fill(row.verdict, 16), fill(row.ours, 66))
        for i, row in table.iterrows()
    ]
    heights = [line * (1.2 + max(cell.count("\n") + 1 for cell in row)) for row in cells]
    top = 2 * line  # the heads of the columns
    height = top + sum(heights)
    fig = plt.figure(figsize=(PAGE, height), layout="none")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, PAGE), ylim=(height, 0))
    ax.axis("off")
    for x, title in ((claim, "the paper's claim"), (verdict, "verdict"), (ours, "here")):
        ax.text(x, top / 2, title, va="center", fontsize=SMALL, weight="bold")
    ends = top + np.cumsum(heights)
    for row, end, tall, name in zip(cells, ends, heights, table.verdict, strict=True):
        chip = {
            "boxstyle": "round,pad=0.3", "facecolor": tint(VERDICT_COLOURS[name]),
            "edgecolor": VERDICT_COLOURS[name],
        }  # fmt: skip
        text = {"va": "center", "fontsize": SMALL}
        middle = end - tall / 2
        ax.text(number, middle, row[0], ha="right", weight="bold", **text)
        ax.text(claim, middle, row[1], **text)
        ax.text(verdict + 0.05, middle, row[2], bbox=chip, **text)
        ax.text(ours, middle, row[3], **text)
        ax.axhline(end - tall, color="#dddddd", linewidth=0.6)
    return fig
