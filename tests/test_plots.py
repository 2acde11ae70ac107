"""Every figure draws what it is given, in words that can be read, always into the same file."""

from functools import cache
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from llmlite import plots
from llmlite.audit.hypotheses import FAILS, FITS, SILENT
from llmlite.intervals import Interval
from llmlite.plots import style

# fmt: off
STEPS = pd.DataFrame({"step": [10, 20, 30], "lr": [1e-4, 1e-3, 5e-4], "grad_norm": [4.0, 1.0, 2.0]})
PAPERS = pd.DataFrame({"step": [100, 200, 300], "lr": [5e-4, 1e-3, 0.0]})
GRID = pd.DataFrame(
    {"learning_rate": lr, "n_layer": n, "n_head": h, "perplexity": 90 + n - h + more}
    for lr in (1e-3, 5e-4) for n in (2, 4, 6) for h in (2, 4)
    for more in (-1, 1)  # two runs, whose mean is drawn
)
TRAIN, VALID = pd.Series([5.0, 4.0], [1, 2]), pd.Series([5.1, 4.2], [1, 2])
LOSSES, PERPLEXITY = {"training": TRAIN, "validation": VALID}, {"validation": 10 * VALID}
MAP = np.tril(np.full((4, 4), 0.25))
CURVES = {"mask": [5.0, 4.0, 4.5], "no mask": [0.01, 0.02, 6.0]}
WINDOWS = pd.DataFrame({"window": [32, 16], "mean loss": [0.2, 0.4]})
WINDOWS["predicted: last position / window"] = [0.19, 0.38]
FACTS = pd.DataFrame({"C1": [FITS, FAILS], "C2": [SILENT, FITS]}, ["no mask", "padding"])
VALUES = pd.DataFrame({"C1": ["0.16", "5.1"], "C2": ["", "5,000"]}, ["no mask", "padding"])
MODELS = pd.DataFrame({"model": ["uniform", "GPT-2"], "exact": [True, False]})
MODELS["perplexity per word and line end"] = [9_000.0, 29.4]
INTERVALS = {
    "below": Interval(-0.2, -0.3, -0.1, "12 pairs"),
    "not clear": Interval(0.1, -0.1, 0.3, "12 pairs"),
    "one pair": Interval(0.2, -np.inf, np.inf, "1 pair"),
}
HEADS = pd.DataFrame(
    [[3.0, 2.0, 4.0, 0.4, 0.3, 0.5, 1.5, 1.0, 2.0], [5.0, 4.0, 6.0, 0.2, 0.1, 0.3, 2.5, 2.0, 3.0]],
    pd.MultiIndex.from_tuples([(0, 0), (1, 3)], names=["layer", "head"]),
    pd.MultiIndex.from_product([["distance", "previous", "entropy"], ["value", "low", "high"]]),
)
BY_HEADS = pd.DataFrame(
    [[Interval(x, x - 0.1, x + 0.1, "3 seeds")] * 6 for x in (5.0, 4.5, 4.0, 3.0)],
    pd.MultiIndex.from_product([[2, 6], [1, 4]]), list("abcdef"),
)
TRAINED = {"few": 100, "all": 10_000}
TUNED = {"few": Interval(4, 3.5, 4.5, "3 seeds"), "all": Interval(3, -np.inf, np.inf, "1 pair")}
RUNS = {"adamw": pd.DataFrame({"step": [10, 20], "elapsed": [1.0, 2.0], "valid_loss": [6.0, 5.0]})}
ROWS = ("yardsticks", "intervals")  # where values lie on the x axis
FIGURES = {  # what each is given; words of it, in its axes, then on their sides; its lines' values
    "article_lengths": (({"train": [10, 200, 3000], "valid": [20, 400], "test": [30, 500]},),
        "train: 3 articles | words in an article (log scale) | articles of the split, %"),
    "token_lengths": (([0, 4, 3, 1], [0, 9, 5, 6]),
        "in the vocabulary | in the training text | length of a token, bytes | 16 | tokens, %"),
    "token_strips": (({"first": [b" the", b"\n\xc3", b" $x$"], "more": [b"word"] * 4}, "title", 12),
        "title | first |  the | ↵\\xc3 |  $x$ | more | word | word | word | word"),
    "tokens_per_word": (({"train": pd.Series({512: 2.5, 1024: 2.0})}, 1024, 1.27, "reference"),
        "reference | used here: 1,024 tokens | vocabulary, tokens (log scale) | tokens per word",
        [2.5, 2], [1.27, 1.27], [0, 1]),
    "final_perplexities": ((GRID, "n_layer", "n_head", "learning_rate", "title", (87.5, 89.5)),
        "heads: 2 | learning rate: 0.0005 | layers | 2 | 6 | validation perplexity\nper token",
        [90, 92, 94], [88, 90, 92], [87.5, 87.5], [89.5, 89.5], [90, 92, 94], [88, 90, 92]),
    "learning_rate_schedule": (
        (STEPS, PAPERS), "Linear warmup to 0.001 at step 20, then a cosine to zero",
        [1e-4, 1e-3, 5e-4], [5e-4, 1e-3, 0]),
    "losses": ((LOSSES, PERPLEXITY, "t", (1, 1.1858)),
        "validation | epoch | loss, nats per token | ↓ the paper: 1 to 1.186, off this scale"
        " | validation perplexity per token", [5, 4], [5.1, 4.2], [51, 42]),
    "gradient_norm": ((STEPS, 1.0, 2, (1e3, 1e3)),
        "median of 2 steps | clipped at 1 | ↑ the paper: 1,000, off this scale | optimiser step",
        [4, 1, 2], [4, 2.5, 1.5], [1, 1]),
    "next_tokens": (([" the", " $$\n"], [0.4, 0.1], "The cat"),
        "What may follow “The cat” | probability | ' the' | ' $$\\n'"),
    "bleu_heatmap": ((np.array([[1.0, 0.15], [0.149, 1.0]]), ["A", "B"], 0.15),
        "0.150 | 0.149 | prompt, as hypothesis | 1  A | BLEU, 0 to 1", [0.15, 0.15]),
    "head_effects": ((np.array([[0.1, -0.2], [0.0, 0.3]]), 4.0),
        "+0.100 | -0.200 | +0.000 | +0.300 | head | layer | nats per token"),
    "attention_maps": (({"mask on": MAP, "no mask": MAP.T}, [" The", " cat", " $_$", "\n"]),
        "mask on | looked at (key) |  The | ↵ | looking (query) |  The | ↵ | no mask |  The | ↵"),
    "attention_grid": ((np.multiply.outer([[1, 2, 3], [4, 3, 2]], MAP),),
        "head 0 | layer 0 | head 2 | layer 1 | attention weight"),
    "attention_by_layer": ((HEADS, 6.0),
        "head 3 | layer | mean distance, tokens | weight on the token before | entropy, nats",
        [2, 4], [3], [4, 6], [5], [3, 5], [6, 6], [0.3, 0.5], [0.4], [0.1, 0.3], [0.2], [0.4, 0.2],
        [1, 2], [1.5], [2, 3], [2.5], [1.5, 2.5]),
    "loss_by_position": ((CURVES, 0.158),
        "mask: mean 4.500, perplexity 90.02 | the paper: 0.158 | loss, nats per token (log scale)",
        [5, 4, 4.5], [4.5, 4.5], [0.01, 0.02, 6], [2.01, 2.01], [0.158, 0.158]),
    "positions_by_run": ((CURVES, 0.158),
        "mask\nmean 4.5 | position | loss, nats per token | no mask\nmean 2.01",
        *([5, 4, 4.5], [4.5, 4.5], [0.158, 0.158]), [0.158, 0.158],
        *([0.01, 0.02, 6], [2.01, 2.01], [0.158, 0.158])),
    "published_curves": (({"2 layers": ({1: 0.22, 9: 0.16}, [0.23, 0.2]), "4": ({2: 0.2}, [0.3])},),
        "2 layers | the paper | here, without a mask | epoch | validation loss, nats per token",
        [0.22, 0.16], [0.23, 0.2], [0.2], [0.3]),
    "window_sizes": (
        (WINDOWS, 0.3), "0.400 | 0.200 | tokens in the window | 16 | 32 | mean loss, nats",
        [0.4, 0.2], [0.38, 0.19], [0.3, 0.3]),
    "hypotheses_and_facts": (
        (FACTS, VALUES), "✓ 0.16 | – | ✗ 5.1 | ✓ 5,000 | C1 | C2 | no mask | padding"),
    "yardsticks": (
        (MODELS, {"ours": Interval(50.0, 45.0, 55.0, "3 seeds"), "mixed": 40.0}, ("paper", 1.17)),
        "50.0 [45.0, 55.0] | 40.0 | paper: 1.17 | test perplexity per word and line end (log scale)"
        " | ours | mixed", [9_000], [50], [40], [29.4], [1.17, 1.17]),
    "by_heads": ((BY_HEADS, {name: f"what {name} is" for name in "abcdef"}),
        "layers: 2 | layers: 6 | what a is | what f is | heads in a layer (log scale) | 1 | 4",
        *([[5, 4.5], [4, 3]] * 6)),
    "optimisers": ((RUNS, {"adamw": pd.Series({1e-3: 5.0, 1e-2: 5.5})}, 500),
        "adamw | optimiser step | seconds of training | peak learning rate (log scale)",
        *([[6, 5]] * 2), [5, 5.5]),
    "tunings": ((TRAINED, {"gained": {"code": TUNED}, "forgot": {"code": TUNED}}),
        "gained | few | all | code | trained parameters (log scale) | bits per byte | forgot",
        *([[4, 3], [3.5, 4.5]] * 2)),
    "intervals": (({"nats": INTERVALS}, True), "nats | below | not clear | one pair",
        [-0.3, -0.1], [-0.2], [-0.1, 0.3], [0.1], [0.2], [0, 0]),
}
# fmt: on


@cache
def case(name):
    return getattr(plots, name)(*FIGURES[name][0])


def texts(fig):
    """The words of a figure that are drawn, as Text."""
    found = [fig._suptitle, *(t for box in fig.legends for t in box.get_texts())]
    for ax in fig.axes:
        found += [ax.title, *ax.texts]
        found += ax.get_legend().get_texts() if ax.get_legend() else []
        for axis in (ax.xaxis, ax.yaxis) if ax.axison else ():
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            found += [axis.label, *(t for tick in ticks for t in (tick.label1, tick.label2))]
    return [text for text in found if text and text.get_visible() and text.get_text().strip()]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_draws_what_it_is_given_in_words_that_can_be_read(name):
    drawing = {name for name, made in vars(plots).items() if hasattr(made, "__wrapped__")}
    assert drawing == set(FIGURES), "each has a case here"
    fig, (_, words, *values) = case(name), FIGURES[name]
    assert plt.get_fignums() == [], "none stays open"
    drawn = texts(fig)
    found = iter([text.get_text() for text in drawn])
    assert [word for word in words.split(" | ") if word not in found] == []
    lines = [line.get_data()[name not in ROWS] for ax in fig.axes for line in ax.get_lines()]
    assert [list(line) for line in lines] == [pytest.approx(line) for line in values]

    width = fig.get_figwidth()
    assert width <= style.PAGE
    read = min(1, (3.5 if width <= style.HALF else 7) / width)  # in print
    assert not [t.get_text() for t in drawn if t.get_fontsize() * read < 6.99]
    boxes = [t.get_window_extent().padded(-1) for t in drawn]
    assert -5 < min(box.x0 for box in boxes) < max(box.x1 for box in boxes) < fig.bbox.x1 + 5
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]


def test_bars_are_percentages_or_probabilities_and_a_thing_stands_where_its_axis_says():
    lengths = [bar.get_height() for bar in case("token_lengths").axes[0].patches]
    assert lengths == pytest.approx([0, 50, 37.5, 12.5, 0, 45, 25, 30])
    articles = [steps.get_xy()[:, 1].max() for steps in case("article_lengths").axes[0].patches]
    assert articles == pytest.approx([100 / 3, 50, 50])
    next_tokens = case("next_tokens").axes[0]
    assert [bar.get_width() for bar in next_tokens.patches] == [0.4, 0.1]
    assert next_tokens.yaxis_inverted(), "the likeliest on top"
    ours, papers = case("learning_rate_schedule").axes[0].get_lines()
    assert ours.get_xdata().tolist() == papers.get_xdata().tolist() == [10, 20, 30], "one width"
    measured, predicted, _ = case("window_sizes").axes[0].get_lines()
    assert measured.get_xdata().tolist() == predicted.get_xdata().tolist() == [16, 32]
    (thousands,) = case("optimisers").axes[0].child_axes
    assert np.diff(thousands.get_xlim()) == np.diff(case("optimisers").axes[0].get_xlim()) / 2
    places = [(box.get_x(), box.get_y()) for box in case("token_strips").axes[0].patches]
    assert places[:3] == [(0.06, 0.1), (4.06, 0.1), (0.06, 1.1)], "4 + 5 characters of 12, then 4"
    assert case("losses").axes[1].get_ylim()[0] < 42 - 0.15 * (51 - 42), "room for the words there"
    steps = case("gradient_norm").axes[0].get_lines()[0]
    assert steps.get_rasterized(), "50,000 of them would be as many points of an SVG"
    log_x = [name for name in FIGURES if case(name).axes[0].get_xscale() == "log"]
    assert log_x[:4] == ["article_lengths", "tokens_per_word", "window_sizes", "yardsticks"]
    assert log_x[4:] == ["by_heads", "tunings"]
    log_y = [name for name in FIGURES if case(name).axes[0].get_yscale() == "log"]
    assert log_y == ["gradient_norm", "loss_by_position", "positions_by_run", "window_sizes"]


def test_maps_have_one_scale_and_marks_tell_what_is_exact_clear_or_at_the_threshold():
    first, second = (ax.images[0] for ax in case("attention_maps").axes if ax.images)
    assert np.array_equal(first.get_array(), MAP)
    assert np.array_equal(second.get_array(), MAP.T)
    assert first.norm is second.norm
    grid = [ax.images[0].get_array()[0, 0] for ax in case("attention_grid").axes if ax.images]
    assert grid == [0.25, 0.5, 0.75, 1.0, 0.75, 0.5]
    effects = case("head_effects").axes[0].images[0]
    assert effects.get_clim() == (-0.3, 0.3), "white is no effect"
    ax = case("bleu_heatmap").axes[0]
    (frame,) = ax.patches
    assert (frame.get_x() + 0.46, frame.get_y() + 0.45) == (1, 0)
    marks = [line for line in case("yardsticks").axes[0].get_lines() if line.get_marker() != "None"]
    assert [line.get_markerfacecolor() == "none" for line in marks] == [False, False, False, True]
    dots = [line for line in case("intervals").axes[0].get_lines() if line.get_marker() == "o"]
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [False, True, True]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_saved_figure_has_the_same_bytes_whatever_the_style_outside(suffix, tmp_path):
    style.save(case("window_sizes"), tmp_path / f"a{suffix}")
    with plt.rc_context({"lines.linewidth": 9, "svg.fonttype": "none", "savefig.dpi": 20}):
        style.save(plots.window_sizes(*FIGURES["window_sizes"][0]), tmp_path / f"b{suffix}")
    first, again = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert again == first
    assert b"<text" not in first, "letters are outlines: no font is needed to read them"
