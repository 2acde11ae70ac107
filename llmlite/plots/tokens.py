"""Notebook 01: articles and tokens."""

from collections.abc import Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from llmlite.plots.style import (
    COLOURS,
    DASHES,
    GREY,
    PAGE,
    figure,
    label_ends,
    log_ticks,
    series,
    subplots,
    tint,
)

MONO = 0.602  # a character's width over its size, in DejaVu Sans Mono


@figure
def article_lengths(words: dict[str, Sequence[int]]) -> Figure:
    """words: the number of words of each article, by split."""
    fig, ax = subplots()
    largest = max(max(values) for values in words.values())
    bins = np.geomspace(max(1, min(min(v) for v in words.values())), largest + 1, 16)
    for i, (split, values) in enumerate(words.items()):
        weights = np.full(len(values), 100 / len(values))
        looks = {"linewidth": 1.8, "linestyle": DASHES[i % len(DASHES)]}
        label = f"{split}: {len(values)} articles"
        ax.hist(values, bins, weights=weights, histtype="step", label=label, **looks)
    ax.set(
        xscale="log", xlabel="words in an article (log scale)", ylabel="articles of the split, %"
    )
    log_ticks(ax.xaxis)
    ax.margins(y=0.35)  # room for the legend
    ax.set_ylim(bottom=0)
    ax.set_title("Every split holds whole articles of similar length")
    ax.legend(loc="upper left")
    return fig


@figure
def token_lengths(in_vocabulary: Sequence[int], in_text: Sequence[int]) -> Figure:
    """Counts by length in bytes, from 0: of the vocabulary, and of the tokens of a text."""
    fig, ax = subplots()
    for values, label, offset in (
        (in_vocabulary, "in the vocabulary", -0.2),
        (in_text, "in the training text", 0.2),
    ):
        share = 100 * np.asarray(values) / np.sum(values)
        ax.bar(np.arange(len(share)) + offset, share, 0.4, label=label)
    ax.set(xlabel="length of a token, bytes", ylabel="tokens, %", xlim=(0.3, 16.7))
    ax.set_xticks(range(1, 17))
    ax.grid(axis="x", visible=False)
    ax.set_title("Long tokens fill the vocabulary, short ones the text")
    ax.legend()
    return fig


@figure
def token_strips(strips: dict[str, Sequence[bytes]], title: str, columns: int = 92) -> Figure:
    """Texts cut into tokens, each on a colour of its own: label → the bytes of the tokens.

    A text that is too long for `columns` characters goes on in the next line. Bytes that are not a
    character by themselves are written as \\x..; a line end as ↵.
    """
    lines: list[tuple[str, list[str]]] = []
    for label, tokens in strips.items():
        lines.append((label, []))
        for token in tokens:
            piece = token.decode("utf-8", errors="backslashreplace").replace("\n", "↵")
            if sum(map(len, lines[-1][1])) + len(piece) > columns:
                lines.append(("", []))
            lines[-1][1].append(piece)
    margin = 1 + max(len(label) for label in strips)
    longest = max(sum(map(len, pieces)) for _, pieces in lines)
    size = min(9.0, PAGE * 72 / MONO / (margin + longest))  # points
    width, height = (margin + longest) * MONO * size / 72, 0.27 * len(lines)
    fig = plt.figure(figsize=(width, height + 0.35), layout="none")
    ax = fig.add_axes((0, 0, 1, height / (height + 0.35)))
    ax.set(xlim=(-margin, longest), ylim=(len(lines), 0))
    ax.set_axis_off()
    count = 0
    for y, (label, pieces) in enumerate(lines):
        ax.text(-0.8, y + 0.5, label, ha="right", va="center", fontsize=size)
        x = 0
        for piece in pieces:
            box = plt.Rectangle((x + 0.06, y + 0.1), len(piece) - 0.12, 0.8)
            box.set(facecolor=tint(COLOURS[count % 5]), linewidth=0)
            ax.add_patch(box)
            middle = (x + len(piece) / 2, y + 0.5)
            ax.text(
                *middle, piece, ha="center", va="center", size=size, family="monospace",
                parse_math=False,
            )  # fmt: skip
            x += len(piece)
            count += 1
    fig.suptitle(title, y=1, va="top", fontsize=size)
    return fig


@figure
def tokens_per_word(
    curves: dict[str, pd.Series], chosen: int, reference: float, name: str
) -> Figure:
    """curves: split → tokens per word by vocabulary size; `reference`, called `name`, is a line."""
    fig, ax = subplots()
    for i, values in enumerate(curves.values()):
        ax.plot(values.index, values, **series(i))
    ax.axhline(reference, color="black", linestyle=":")
    smallest = min(values.index[0] for values in curves.values())
    above = {"xytext": (0, 3), "textcoords": "offset points", "va": "bottom"}
    ax.annotate(fill(name, 26), (smallest, reference), **above)
    ax.axvline(chosen, color=GREY, linestyle="--", linewidth=1)
    top = {"va": "top", "xycoords": ("data", "axes fraction")}
    ax.annotate(f" {chosen:,} tokens,\n used here", (chosen, 0.97), **top)
    sizes = sorted({size for values in curves.values() for size in values.index})
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=30, ha="right")
    ax.set_xticks([], minor=True)
    ax.set(xlabel="vocabulary, tokens (log scale)", ylabel="tokens per word")
    ax.set_title("Each doubling of the vocabulary saves less")
    last = [
        (values.index[-1], values.iloc[-1], label, COLOURS[i % len(COLOURS)])
        for i, (label, values) in enumerate(curves.items())
    ]
    label_ends(ax, last)
    return fig


@figure
def contestants(panels: dict[str, dict[str, dict[str, float]]], title: str) -> Figure:
    """Time of several programs as multiples of the first one's, a panel a task.

    panels: task → program → median_s, min_s and max_s. Bars are medians, lines go from the fastest
    run to the slowest; a dash stands for a program without that task.
    """
    names = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    fig, axes = subplots(
        1, len(panels), 1.3 + 0.25 * len(names), page=True, sharey=True, squeeze=False
    )
    for ax, (task, rows) in zip(axes[0], panels.items(), strict=True):
        one = rows[names[0]]["median_s"]
        for y, name in enumerate(names):
            if name not in rows:
                ax.text(0, y, " –", va="center", color=GREY)
                continue
            low, median, high = (rows[name][key] / one for key in ("min_s", "median_s", "max_s"))
            spread = [[median - low], [high - median]]
            ax.barh(y, median, xerr=spread, color=COLOURS[min(y, 1)], ecolor=GREY, height=0.7)
            ax.text(high, y, f" {median:.2g}", va="center")
        ax.axvline(1, color=GREY, linestyle=":", linewidth=1)
        ax.set_title(fill(task, 14))
        ax.set_xlim(0, 1.3 * max(row["max_s"] / one for row in rows.values()))
        ax.grid(axis="y", visible=False)
    axes[0][0].set_yticks(range(len(names)), names)
    axes[0][0].invert_yaxis()
    fig.supxlabel(f"time over {names[0]}'s", fontsize="medium")
    fig.suptitle(title)
    return fig
