"""Notebooks 01 and 04 to 08: text in tokens, what the model writes, and what its heads do."""

from collections.abc import Sequence
from itertools import cycle
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import PowerNorm

from llmlite.plots import style

TOKEN = {"family": "monospace", "parse_math": False}  # a dollar is a dollar
MONO = 0.602  # a character's width over its size, in DejaVu Sans Mono
ATTENTION_SCALE = PowerNorm(0.5, vmin=0, vmax=1)  # square root: small weights stay visible
STATISTIC_LABELS = {
    "distance": "mean distance, tokens",
    "previous": "weight on the token before",
    "entropy": "entropy, nats",
}


@style.figure
def article_lengths(words: dict[str, Sequence[int]]):
    """words: the number of words of each article, by split."""
    ax = style.subplots(title="Every split holds whole articles of similar length")
    lengths = np.concatenate(list(words.values()))
    bins = np.geomspace(max(1, lengths.min()), lengths.max() + 1, 16)
    for dashes, (split, values) in zip(style.DASHES, words.items(), strict=False):
        weights, label = np.full(len(values), 100 / len(values)), f"{split}: {len(values)} articles"
        looks = {"histtype": "step", "linewidth": 1.8, "linestyle": dashes}
        ax.hist(values, bins, weights=weights, label=label, **looks)
    ax.set(xscale="log", xlabel="words in an article (log scale)")
    style.log_ticks(ax.xaxis)
    ax.margins(y=0.35)  # room for the legend
    ax.set(ylabel="articles of the split, %", ylim=(0, None))
    ax.legend(loc="upper left")


@style.figure
def token_lengths(in_vocabulary: Sequence[int], in_text: Sequence[int]):
    """Counts by length in bytes, from 0: of the vocabulary, and of the tokens of a text."""
    ax = style.subplots(title="Long tokens fill the vocabulary, short ones the text")
    counts = {"in the vocabulary": in_vocabulary, "in the training text": in_text}
    for offset, (label, values) in zip((-0.2, 0.2), counts.items(), strict=True):
        share = 100 * np.asarray(values) / np.sum(values)
        ax.bar(np.arange(len(share)) + offset, share, 0.4, label=label)
    ax.set(xlabel="length of a token, bytes", ylabel="tokens, %")
    ax.set(xlim=(0.3, 16.7), xticks=range(1, 17))
    ax.grid(axis="x", visible=False)
    ax.legend()


@style.figure
def token_strips(strips: dict[str, Sequence[bytes]], title: str, columns: int = 92):
    """Texts cut into tokens, each on a colour of its own: label → the bytes of the tokens.
    `columns`: characters in a line; what is none by itself is written as \\x.., a line end as ↵."""
    margin, y, colours = 1 + max(map(len, strips)), -1, cycle(style.COLOURS[:5])
    size = min(9.0, style.PAGE * 72 / MONO / (margin + columns))  # points
    words = TOKEN | {"size": size}
    fig = plt.figure(layout="none")
    ax = fig.add_axes((0, 0, 1, 1))
    for label, tokens in strips.items():
        x, y = 0, y + 1
        ax.text(-0.8, y + 0.5, label, ha="right", va="center", fontsize=size)
        for token in tokens:
            piece = token.decode("utf-8", errors="backslashreplace").replace("\n", "↵")
            if x + len(piece) > columns:
                x, y = 0, y + 1
            box = plt.Rectangle((x + 0.06, y + 0.1), len(piece) - 0.12, 0.8)
            ax.add_patch(box).set(color=next(colours), alpha=0.25, lw=0)
            ax.text(x + len(piece) / 2, y + 0.5, piece, ha="center", va="center", **words)
            x += len(piece)
    width, height = (margin + columns) * MONO * size / 72, 0.27 * (y + 1)
    fig.set_size_inches(width, height + 0.35)
    ax.set(position=(0, 0, 1, height / (height + 0.35)), xlim=(-margin, columns), ylim=(y + 1, 0))
    ax.set_axis_off()
    plt.suptitle(title, y=1, va="top", fontsize=size)


@style.figure
def tokens_per_word(curves: dict[str, pd.Series], chosen: int, reference: float, name: str):
    """curves: split → tokens per word by vocabulary size; `reference`, called `name`, is a line."""
    ax = style.subplots(height=3.8, title="Each doubling of the vocabulary saves less")
    for i, (label, values) in enumerate(curves.items()):
        ax.plot(values.index, values, label=label, **style.series(i))
    ax.axhline(reference, color="black", linestyle=":", label=fill(name, 26))
    ax.axvline(chosen, color=style.GREY, linestyle="--", label=f"used here: {chosen:,} tokens")
    sizes = sorted({size for values in curves.values() for size in values.index})
    ax.set(xscale="log", xlabel="vocabulary, tokens (log scale)", ylabel="tokens per word")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=30, ha="right")
    ax.set_xticks([], minor=True)
    plt.figlegend(loc="outside lower center", ncols=2)


@style.figure
def next_tokens(tokens: Sequence[str], probabilities: Sequence[float], prompt: str):
    """The likeliest next tokens after a prompt, most probable first."""
    ax = style.subplots(height=0.21 * len(tokens) + 0.9)
    ax.barh(range(len(tokens)), probabilities)
    ax.set_yticks(range(len(tokens)), [repr(token) for token in tokens], **TOKEN)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="probability", title=f"What may follow “{prompt}”")


@style.figure
def bleu_heatmap(matrix: np.ndarray, labels: Sequence[str], threshold: float):
    """§IV.C. Pairwise BLEU between the continuations of prompt variants, (n, n); the diagonal,
    where a text meets itself, is left blank. Values from `threshold` on have a frame."""
    shown = np.where(np.eye(len(matrix), dtype=bool), np.nan, matrix)
    ax = style.subplots(height=1.2 + 0.42 * len(labels), page=True, boxed=True)
    image = ax.imshow(shown, vmin=0, aspect="auto")
    style.write_values(ax, shown, "{:.3f}", white=shown < 0.6 * np.nanmax(shown))
    for row, column in np.argwhere(shown >= threshold):
        corner = column - 0.46, row - 0.45
        ax.add_patch(plt.Rectangle(corner, 0.92, 0.9, fill=False, ec=style.RED, lw=2))
    places = range(len(labels))
    ax.set_xticks(places, [f"{i + 1}" for i in places])
    ax.set_yticks(places, [f"{i + 1}  {labels[i]}" for i in places])
    ax.set(xlabel="prompt, as hypothesis", ylabel="prompt, as reference")
    ax.set_title(f"Pairwise BLEU of the continuations; framed: {threshold:g} or more")
    bar = plt.colorbar(image, label="BLEU, 0 to 1")
    bar.ax.axhline(threshold, color=style.RED, linewidth=2)


@style.figure
def head_effects(effects: np.ndarray, baseline: float):
    """§IV.D. effects: change of the loss without each head, (n_layer, n_head), nats per token."""
    layers, heads = effects.shape
    ax = style.subplots(height=1.4 + 0.32 * layers, page=heads > 4, boxed=True)
    limit = np.abs(effects).max() or 1.0
    image = ax.imshow(effects, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    style.write_values(ax, effects, "{:+.3f}", white=np.abs(effects) > 0.6 * limit)
    ax.set(xticks=range(heads), yticks=range(layers), xlabel="head", ylabel="layer")
    ax.set_title(f"Change of the loss ({baseline:.3f})\nwithout a head")
    plt.colorbar(image, label="nats per token")


@style.figure
def attention_maps(maps: dict[str, np.ndarray], tokens: Sequence[str]):
    """Figs. 6 and 7: maps of one sentence, each of one head; the tokens are named at the left and
    lowest ones. maps: title → (query, key), rows sum to 1."""
    columns = min(3, len(maps))
    rows, page = -(-len(maps) // columns), len(maps) > 1 or len(tokens) > 18
    height = 2.75 * rows if len(maps) > 1 else 6.6 if page else 4.4
    looks = TOKEN | {"fontsize": style.SMALL if len(maps) > 1 else None}
    labels = [token.replace("\n", "↵") for token in tokens]
    axes = style.subplots(rows, columns, height, page, boxed=True, squeeze=False)
    for place, (title, weights) in enumerate(maps.items()):
        ax, left, lowest = axes.flat[place], place % columns == 0, place + columns >= len(maps)
        image = ax.imshow(weights, norm=ATTENTION_SCALE)
        ax.set_xticks(range(len(labels)), labels if lowest else [], rotation=90, **looks)
        ax.set_yticks(range(len(labels)), labels if left else [], **looks)
        ax.set(title=title, xlabel="looked at (key)" * lowest, ylabel="looking (query)" * left)
    for unused in axes.flat[len(maps) :]:
        unused.axis("off")
    plt.colorbar(image, ax=axes, label="attention weight", shrink=0.75)


@style.figure
def attention_grid(maps: np.ndarray):
    """Every head's map on one text: maps (n_layer, n_head, query, key), a row a layer."""
    layers, heads = maps.shape[:2]
    page = heads > 4
    side = (6.0 if page else 3.7) / heads
    axes = style.subplots(layers, heads, 0.4 + side * layers, page, boxed=True, squeeze=False)
    for (layer, head), ax in np.ndenumerate(axes):
        image = ax.imshow(maps[layer, head], norm=ATTENTION_SCALE)
        ax.set(xticks=[], yticks=[])
        ax.set(title=f"head {head}" * (layer == 0), ylabel=f"layer {layer}" * (head == 0))
    plt.colorbar(image, ax=axes, label="attention weight", shrink=0.6)


@style.figure
def attention_by_layer(table: pd.DataFrame, even: float):
    """Figs. 6 and 7 in numbers: a dot a head, with its 95% interval, and a line the layer's mean.
    table: a row a (layer, head); of each of interpret.STATISTICS the columns value, low and high.
    even: the distance of even attention."""
    axes = style.subplots(1, len(STATISTIC_LABELS), 2.9, page=True)
    for ax, (statistic, name) in zip(axes, STATISTIC_LABELS.items(), strict=True):
        for head, part in table[statistic].groupby("head"):
            looks = style.series(head) | {"linestyle": "", "markersize": 4}
            places = part.index.get_level_values("layer") + 0.13 * (head - 1.5)
            ax.plot([places, places], [part.low, part.high], color=looks["color"])
            ax.plot(places, part.value, label=f"head {head}", **looks)
        mean = table[statistic].value.groupby("layer").mean()
        ax.plot(mean.index, mean, color="black", linewidth=1, label="layer's mean")
        ax.locator_params("x", integer=True)
        ax.margins(0.1)
        ax.set(xlabel="layer", ylabel=name, ylim=(0, None))
    axes[0].axhline(even, color="black", linestyle=":", label="spread evenly")
    handles, labels = axes[0].get_legend_handles_labels()
    looks = {"ncols": min(6, len(labels)), "columnspacing": 1.2}
    plt.figlegend(handles, labels, loc="outside lower center", **looks)
