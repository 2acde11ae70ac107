"""Every figure draws what it is given, with labels on its axes, and leaves nothing open."""

from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from plot_cases import (
    CELLS,
    EPOCHS,
    FIGURES,
    HEADS,
    INTERVALS,
    LOSSES,
    MAP,
    STEPS,
    TABLE,
    VALUES,
    WINDOWS,
)

from llmlite import plots
from llmlite.plots import style

TABLES = {"hypotheses_and_facts"}  # what they say stands in their cells


def public_figures():
    return {name for name, value in vars(plots).items() if hasattr(value, "__wrapped__")}


def test_every_figure_has_a_case_here():
    assert public_figures() == set(FIGURES)


@cache
def case(name):
    return getattr(plots, name)(*FIGURES[name])


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_labelled_and_closed(name, tmp_path):
    before = plt.get_fignums()
    fig = case(name)
    assert plt.get_fignums() == before
    fig.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 2000
    labels = [ax.get_xlabel() + ax.get_ylabel() + ax.get_title() for ax in fig.axes]
    assert any([*labels, fig.get_suptitle()]) or name in TABLES


def texts(fig):
    """The words of a figure that are drawn, as Text."""
    found = [fig._suptitle, fig._supxlabel, *(t for box in fig.legends for t in box.get_texts())]
    for ax in fig.axes:
        found += [ax.title, *ax.texts]
        if ax.get_legend():
            found += ax.get_legend().get_texts()
        for axis in (ax.xaxis, ax.yaxis) if ax.axison else ():
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            found += [axis.label, *(t for tick in ticks for t in (tick.label1, tick.label2))]
    return [text for text in found if text and text.get_visible() and text.get_text().strip()]


@pytest.mark.parametrize("name", FIGURES)
def test_words_are_7_points_where_they_are_read_and_apart(name):
    fig = case(name)
    width = fig.get_figwidth()
    assert width <= style.PAGE
    read = min(1, (3.5 if width <= style.HALF else 7) / width)
    drawn = texts(fig)
    assert not [t.get_text() for t in drawn if t.get_fontsize() * read < 6.99]
    boxes = [(t.get_text(), t.get_window_extent().padded(-1)) for t in drawn]
    for i, (text, box) in enumerate(boxes):
        assert box.x0 > -5, text
        assert box.x1 < fig.bbox.x1 + 5, text
        assert not [other for other, place in boxes[:i] if box.overlaps(place)], text


def drawn(ax):
    return [line.get_xydata().tolist() for line in ax.get_lines()]


def test_the_papers_schedule_is_drawn_over_the_width_of_ours():
    paper = pd.DataFrame({"step": [100, 200, 300], "lr": [0.5, 1.0, 0.0]})
    ours, theirs = drawn(plots.learning_rate_schedule(STEPS, paper).axes[0])
    assert ours == STEPS[["step", "lr"]].values.tolist()
    np.testing.assert_allclose(theirs, [[10, 0.5], [20, 1.0], [30, 0.0]])


def test_losses_draws_both_losses_and_the_perplexity():
    left, right = plots.losses(*LOSSES).axes
    assert drawn(left) == [
        EPOCHS[["epoch", "train_loss"]].values.tolist(),
        EPOCHS[["epoch", "valid_loss"]].values.tolist(),
    ]
    assert drawn(right)[0] == EPOCHS[["epoch", "perplexity"]].values.tolist()


def test_bleu_from_the_threshold_on_has_a_frame():
    matrix = np.array([[1.0, 0.05], [0.049, 1.0]])
    ax, bar = plots.bleu_heatmap(matrix, ["A", "B"], threshold=0.05).axes
    shown = np.ma.filled(ax.images[0].get_array(), np.nan)
    assert np.isnan(shown.diagonal()).all(), "where a text meets itself"
    (frame,) = ax.patches
    assert (round(frame.get_x() + frame.get_width() / 2), round(frame.get_y() + 0.45)) == (1, 0)
    assert 0.05 in [line.get_ydata()[0] for line in bar.get_lines()]


def test_final_perplexities_puts_each_configuration_in_its_panel():
    fig = plots.final_perplexities(TABLE, "n_layer", "n_head", "learning_rate", "title")
    first = fig.axes[0]  # learning rate 0.0005; two heads are drawn first
    assert drawn(first)[0] == [[0, 90], [1, 92], [2, 94]]
    assert [t.get_text() for t in first.get_xticklabels()] == ["2", "4", "6"]
    assert [ax.get_title() for ax in fig.axes] == ["learning rate: 0.0005", "learning rate: 0.001"]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["heads: 2", "heads: 4"]


def test_token_strips_write_every_character_and_go_on_in_the_next_line():
    fig = plots.token_strips({"first": [b" the", b"\n\xc3"], "more": [b"abc"] * 4}, "t", columns=9)
    texts = [text.get_text() for text in fig.axes[0].texts]
    assert texts == ["first", " the", "↵\\xc3", "more", *["abc"] * 4]
    assert [box.get_y() for box in fig.axes[0].patches] == [0.1] * 2 + [1.1] * 3 + [2.1]


# -- the audit ------------------------------------------------------------------------------------


def words(ax):
    return [text.get_text() for text in ax.texts]


def test_loss_by_position_draws_each_curve_and_its_mean():
    ax = plots.loss_by_position({"a": [2.0, 3.0, 4.0], "b": [0.1, 0.1, 5.8]}, 0.158).axes[0]
    assert drawn(ax)[0] == [[1, 2.0], [2, 3.0], [3, 4.0]]
    assert [y for _, y in drawn(ax)[1]] == [3.0, 3.0]
    assert drawn(ax)[2] == [[1, 0.1], [2, 0.1], [3, 5.8]]
    assert [y for _, y in drawn(ax)[3]] == [2.0, 2.0]
    assert [y for _, y in drawn(ax)[4]] == [0.158, 0.158]
    assert ax.get_yscale() == "log"
    assert words(ax) == [
        "a: mean 3.000, perplexity 20.09",
        "b: mean 2.000, perplexity 7.389",
        "the paper: 0.158",
    ]


def test_positions_by_run_has_a_panel_a_run_whatever_its_window():
    first, second = plots.positions_by_run({"a": [5.0, 4.0, 3.0], "b": [1.0, 2.0]}, 0.158).axes
    assert drawn(first)[0] == [[1, 5.0], [2, 4.0], [3, 3.0]]
    assert drawn(second)[0] == [[1, 1.0], [2, 2.0]]
    assert [y for _, y in drawn(second)[1]] == [1.5, 1.5]
    assert second.get_title() == "b\nmean 1.5"
    assert first.get_shared_y_axes().joined(first, second)


def test_published_curves_puts_ours_beside_the_papers_legible_epochs():
    panels = {"a": ({1: 0.22, 10: 0.16}, [0.23, 0.2]), "b": ({2: 0.2}, [0.3, 0.25])}
    first, second = plots.published_curves(panels).axes
    assert drawn(first) == [[[1, 0.22], [10, 0.16]], [[1, 0.23], [2, 0.2]]]
    assert drawn(second) == [[[2, 0.2]], [[1, 0.3], [2, 0.25]]]
    assert [first.get_title(), second.get_title()] == ["a", "b"]


def test_window_sizes_draws_what_was_measured_and_what_was_predicted():
    ax = plots.window_sizes(WINDOWS, 0.158).axes[0]
    assert drawn(ax)[0] == [[16, 0.4], [32, 0.2]]
    assert drawn(ax)[1] == [[16, 0.38], [32, 0.19]]
    assert words(ax) == ["0.400", "0.200", "the paper: 0.158"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["16", "32"]


def test_hypotheses_and_facts_marks_every_cell():
    ax = plots.hypotheses_and_facts(CELLS, VALUES).axes[0]
    assert words(ax) == ["✓ 0.16", "–", "✗ 5.1", "✓ 5,000"]
    assert [text.get_position() for text in ax.texts] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    colours = [box.get_facecolor() for box in ax.patches]
    assert colours[0] == colours[3]
    assert len(set(colours)) == 3
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["no mask", "padding"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["C1", "C2"]


def test_attention_maps_have_one_scale_and_show_line_ends():
    fig = plots.attention_maps({"a": MAP, "b": MAP.T}, [" The", " cat", " sat", "\n"])
    first, second = (ax for ax in fig.axes if ax.images)
    assert np.array_equal(first.images[0].get_array(), MAP)
    assert np.array_equal(second.images[0].get_array(), MAP.T)
    assert first.images[0].norm is second.images[0].norm
    assert [tick.get_text() for tick in second.get_xticklabels()] == [" The", " cat", " sat", "↵"]


def test_yardsticks_put_ours_in_its_place_with_its_interval():
    ax = plots.yardsticks(*FIGURES["yardsticks"]).axes[0]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["uniform", "ours", "GPT-2"]
    points = drawn(ax)[:3]
    assert points == [[[9_000, 0]], [[50, 1]], [[29.4, 2]]]
    assert words(ax) == ["9,000.0", "50.0 [45, 55]", "29.4", "paper: 1.17"]
    filled = [line.get_markerfacecolor() != "none" for line in ax.get_lines()[:3]]
    assert filled == [True, True, False], "open where the comparison is not exact"


def test_intervals_are_filled_where_they_leave_out_0():
    ax = plots.intervals({"nats": INTERVALS}, zero=True).axes[0]
    lines = {line.get_marker(): [] for line in ax.get_lines()}
    for line in ax.get_lines():
        lines[line.get_marker()].append(line)
    assert [line.get_xydata().tolist() for line in lines["o"]] == [[[-0.2, 0]], [[0.1, 1]]]
    assert [line.get_markerfacecolor() == "white" for line in lines["o"]] == [False, True]
    whiskers = [line.get_xydata().tolist() for line in lines["None"]][:2]
    assert whiskers == [[[-0.3, 0], [-0.1, 0]], [[-0.1, 1], [0.3, 1]]]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["clear", "not clear"]
    assert ax.get_xlabel() == "nats"


def test_attention_by_layer_draws_value_and_interval_of_every_head():
    distance, previous, _ = plots.attention_by_layer(HEADS, 6.0).axes
    ends, value = (line.get_ydata().tolist() for line in previous.get_lines()[:2])
    assert (ends, list(value)) == ([0.3, 0.5], [0.4])
    assert [list(line.get_ydata()) for line in distance.get_lines()] == [
        [2.0, 4.0],
        [3.0],
        [4.0, 6.0],
        [5.0],
        [3.0, 5.0],  # the layers' means
        [6.0, 6.0],
    ]
    assert distance.get_lines()[2].get_xdata()[0] == pytest.approx(1 + 0.13 * 1.5)
