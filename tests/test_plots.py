"""Every figure draws what it is given, with labels on its axes, and leaves nothing open."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from llmlite import plots
from llmlite.audit.facts import FAILS, FITS, SILENT
from llmlite.audit.rows import VERDICTS
from llmlite.intervals import Interval

EPOCHS = pd.DataFrame(
    {
        "epoch": [1, 2, 3],
        "train_loss": [5.0, 4.0, 3.5],
        "valid_loss": [5.1, 4.2, 4.3],
        "perplexity": [164.0, 66.7, 73.7],
    }
)
STEPS = pd.DataFrame(
    {"step": range(1, 31), "lr": np.linspace(1e-4, 1e-3, 30), "grad_norm": np.geomspace(3, 0.3, 30)}
)
TABLE = pd.DataFrame(
    [
        {"learning_rate": lr, "n_layer": n, "n_head": h, "n_embd": 64, "perplexity": 90 + n - h}
        for lr in (1e-3, 5e-4)
        for n in (2, 4, 6)
        for h in (2, 4)
    ]
)
STATISTICS = pd.DataFrame(
    [
        {
            "layer": layer,
            "head": head,
            "distance": 3.0 + layer,
            "previous": 0.4 - 0.1 * head,
            "entropy": 1.0,
            "uniform_distance": 6.0,
        }
        for layer in range(2)
        for head in range(4)
    ]
)
SAMPLED = pd.DataFrame(
    [{"temperature": t, "top_k": k, "d": t / k} for t in (0.5, 1.0) for k in (5, 50)]
)
MAP = np.tril(np.full((4, 4), 0.25))

SECONDS = {
    "ours": {"median_s": 2.0, "min_s": 1.5, "max_s": 3.0},
    "theirs": {"median_s": 5.0, "min_s": 4.0, "max_s": 6.0},
}

MEMORY = [
    {
        "how": how,
        "tokens": tokens,
        "before": {"anonymous": 3e8, "file": 1e8},
        "samples": [
            {"trained": trained, "anonymous": 4e8 + held * tokens, "file": 1e8 + trained}
            for trained in (10, 20)
        ],
    }
    for how, held in (("in memory", 8), ("from a file", 0))
    for tokens in (2e6, 2e8)
]

PER_WORD = "perplexity per word and line end"
YARDSTICKS = pd.DataFrame(
    {"model": ["uniform", "GPT-2"], PER_WORD: [9_000.0, 29.4], "exact": [True, False]}
)
INTERVALS = {
    "clear": Interval(-0.2, -0.3, -0.1, "12 pairs"),
    "not clear": Interval(0.1, -0.1, 0.3, "12 pairs"),
}
WINDOWS = pd.DataFrame(
    {
        "window": [32, 16],
        "mean loss": [0.2, 0.4],
        "predicted: last position / window": [0.19, 0.38],
    }
)
CELLS = pd.DataFrame({"C1": [FITS, FAILS], "C2": [SILENT, FITS]}, ["no mask", "padding"])
VALUES = pd.DataFrame({"C1": ["0.16", "5.1"], "C2": ["", "5,000"]}, ["no mask", "padding"])
HEADS = pd.DataFrame(
    [[0.4, 0.3, 0.5, 3.0, 2.0, 4.0], [0.2, 0.1, 0.3, 5.0, 4.0, 6.0]],
    pd.MultiIndex.from_tuples([(0, 0), (1, 3)], names=["layer", "head"]),
    pd.MultiIndex.from_product([["previous", "distance"], ["value", "low", "high"]]),
)
SCORECARD = pd.DataFrame(
    {"claim": [f"claim {i}" for i in range(1, 5)], "ours": "0.1 nats", "verdict": VERDICTS},
    index=range(1, 5),
)

FIGURES = {
    "article_lengths": ({"train": [10, 200, 3000], "valid": [20, 400], "test": [30, 500]},),
    "token_lengths": ([0, 4, 3, 2], [0, 9, 5, 1]),
    "token_strips": ({"a": [b" the", b"\n", b"\xc3", b" $x$"], "": [b"word"] * 40}, "title"),
    "tokens_per_word": ({"train": pd.Series({512: 2.5, 1024: 2.0})}, 1024, 1.27, "reference"),
    "contestants": ({"task": SECONDS, "other task": {"ours": SECONDS["ours"]}}, "title"),
    "learning_curves": ({"a": EPOCHS, "b": EPOCHS}, "title"),
    "final_perplexities": (TABLE, "n_layer", "n_head", "learning_rate", "title"),
    "learning_rate_schedule": (STEPS,),
    "losses": (EPOCHS, 2),
    "resident_memory": (MEMORY,),
    "gradient_norm": (STEPS, 1.0, 5),
    "next_tokens": ([" the", " \n"], [0.4, 0.1], "The cat"),
    "bleu_heatmap": (np.array([[1.0, 0.1], [0.2, 1.0]]), ["A", "B"]),
    "sampling_grid": (SAMPLED, {"d": "d"}),
    "head_effects": (np.array([[0.1, -0.2], [0.0, 0.3]]), 4.0),
    "attention_map": (MAP, [" The", " cat", " sat", " \n"], "layer 0, head 0"),
    "attention_grid": (np.broadcast_to(MAP, (2, 3, 4, 4)),),
    "attention_by_layer": (STATISTICS,),
    "loss_by_position": ({"mask": [5.0, 4.0, 4.5], "no mask": [0.01, 0.02, 6.0]}, 0.158),
    "positions_by_run": ({"mask": [5.0, 4.0, 4.5], "padding": [4.0, 0.1]},),
    "published_curves": ({"2 layers": ({1: 0.22, 10: 0.16}, [0.23, 0.2, 0.17])},),
    "window_sizes": (WINDOWS,),
    "hypotheses_and_facts": (CELLS, VALUES),
    "first_layer_maps": ({"mask on": MAP, "no mask": MAP.T}, [" The", " cat", " sat", " \n"]),
    "yardsticks": (YARDSTICKS, "ours", 50.0, 45.0, 55.0),
    "effects": (INTERVALS, "nats"),
    "head_intervals": (HEADS,),
    "scorecard": (SCORECARD,),
}
TABLES = {"hypotheses_and_facts", "scorecard"}  # what they say stands in their cells


def public_figures():
    return {name for name, value in vars(plots).items() if hasattr(value, "__wrapped__")}


def test_every_figure_has_a_case_here():
    assert public_figures() == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_labelled_and_closed(name, tmp_path):
    before = plt.get_fignums()
    fig = getattr(plots, name)(*FIGURES[name])
    assert plt.get_fignums() == before
    fig.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 2000
    labels = [ax.get_xlabel() + ax.get_ylabel() + ax.get_title() for ax in fig.axes]
    assert any([*labels, fig.get_suptitle()]) or name in TABLES


def drawn(ax):
    return [line.get_xydata().tolist() for line in ax.get_lines()]


def test_learning_rate_schedule_draws_the_steps():
    assert (
        drawn(plots.learning_rate_schedule(STEPS).axes[0])[0]
        == STEPS[["step", "lr"]].values.tolist()
    )


def test_losses_draws_both_losses_and_the_perplexity():
    left, right = plots.losses(EPOCHS, 2).axes
    assert drawn(left) == [
        EPOCHS[["epoch", "train_loss"]].values.tolist(),
        EPOCHS[["epoch", "valid_loss"]].values.tolist(),
    ]
    assert drawn(right)[0] == EPOCHS[["epoch", "perplexity"]].values.tolist()
    assert "66.7" in right.texts[0].get_text(), "the epoch that was kept is marked"


def test_resident_memory_draws_the_most_of_each_run_and_the_course_of_the_largest():
    left, right = plots.resident_memory(MEMORY).axes
    np.testing.assert_allclose(drawn(left)[0], [[2e6, 0.516], [2e8, 2.1]], rtol=1e-6)
    np.testing.assert_allclose(drawn(left)[1], [[2e6, 0.5], [2e8, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(drawn(right)[0], [[10, 2.1], [20, 2.1]], rtol=1e-6)
    assert "2.10 GB" in left.texts[0].get_text()


def test_the_bleu_map_leaves_the_diagonal_blank():
    image = plots.bleu_heatmap(np.array([[1.0, 0.1], [0.2, 1.0]]), ["A", "B"]).axes[0].images[0]
    assert np.isnan(np.ma.filled(image.get_array(), np.nan).diagonal()).all()


def test_final_perplexities_puts_each_configuration_in_its_panel():
    fig = plots.final_perplexities(TABLE, "n_layer", "n_head", "learning_rate", "title")
    first = fig.axes[0]  # learning rate 0.0005; two heads are drawn first
    assert drawn(first)[0] == [[0, 90], [1, 92], [2, 94]]
    assert [t.get_text() for t in first.get_xticklabels()] == ["2", "4", "6"]


def test_token_strips_write_every_character_and_go_on_in_the_next_line():
    fig = plots.token_strips({"first": [b" the", b"\n\xc3"], "more": [b"abc"] * 4}, "t", columns=9)
    texts = [text.get_text() for text in fig.axes[0].texts]
    assert texts == ["first", " the", "↵\\xc3", "more", *["abc"] * 3, "", "abc"]
    assert len(fig.axes[0].patches) == 6, "a colour a token"


def test_contestants_are_multiples_of_the_first_one():
    ax = plots.contestants({"task": SECONDS}, "title").axes[0]
    assert [bar.get_width() for bar in ax.patches] == [1.0, 2.5]
    assert [text.get_text().strip() for text in ax.texts] == ["1", "2.5"]


# -- the audit ------------------------------------------------------------------------------------


def words(ax):
    return [text.get_text() for text in ax.texts]


def test_loss_by_position_draws_each_curve_and_its_mean():
    ax = plots.loss_by_position({"a": [2.0, 3.0, 4.0], "b": [0.5, 0.5, 5.0]}, 0.158).axes[0]
    assert drawn(ax)[0] == [[1, 2.0], [2, 3.0], [3, 4.0]]
    assert [y for _, y in drawn(ax)[1]] == [3.0, 3.0]
    assert drawn(ax)[2] == [[1, 0.5], [2, 0.5], [3, 5.0]]
    assert [y for _, y in drawn(ax)[3]] == [2.0, 2.0]
    assert [y for _, y in drawn(ax)[4]] == [0.158, 0.158]
    assert ax.get_yscale() == "log"
    assert words(ax) == [
        "a: mean 3.000, perplexity 20.09",
        "b: mean 2.000, perplexity 7.389",
        "the paper's mean, 0.158",
    ]


def test_positions_by_run_has_a_panel_a_run_whatever_its_window():
    first, second = plots.positions_by_run({"a": [5.0, 4.0, 3.0], "b": [1.0, 2.0]}).axes
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
    ax = plots.window_sizes(WINDOWS).axes[0]
    assert drawn(ax)[0] == [[16, 0.4], [32, 0.2]]
    assert drawn(ax)[1] == [[16, 0.38], [32, 0.19]]
    assert words(ax) == ["0.400", "0.200"]
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


def test_first_layer_maps_have_one_scale_and_show_line_ends():
    fig = plots.first_layer_maps({"a": MAP, "b": MAP.T}, [" The", " cat", " sat", "\n"])
    first, second = (ax for ax in fig.axes if ax.images)
    assert np.array_equal(first.images[0].get_array(), MAP)
    assert np.array_equal(second.images[0].get_array(), MAP.T)
    assert first.images[0].norm is second.images[0].norm
    assert [tick.get_text() for tick in second.get_xticklabels()] == [" The", " cat", " sat", "↵"]


def test_yardsticks_put_ours_in_its_place_with_its_interval():
    ax = plots.yardsticks(YARDSTICKS, "ours", 50.0, 45.0, 55.0).axes[0]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["uniform", "ours", "GPT-2"]
    assert [line.get_xydata().tolist() for line in ax.get_lines()] == [
        [[9_000, 0]],
        [[50, 1]],
        [[29.4, 2]],
    ]
    assert words(ax) == ["9,000.0", "50.0 [45, 55]", "29.4"]
    filled = [line.get_markerfacecolor() != "none" for line in ax.get_lines()]
    assert filled == [True, True, False], "open where the comparison is not exact"


def test_effects_are_filled_where_their_interval_leaves_out_0():
    ax = plots.effects(INTERVALS, "nats").axes[0]
    lines = {line.get_marker(): [] for line in ax.get_lines()}
    for line in ax.get_lines():
        lines[line.get_marker()].append(line)
    assert [line.get_xydata().tolist() for line in lines["o"]] == [[[0.1, 0]], [[-0.2, 1]]]
    assert [line.get_markerfacecolor() == "white" for line in lines["o"]] == [True, False]
    whiskers = [line.get_xydata().tolist() for line in lines["None"]][:2]
    assert whiskers == [[[-0.1, 0], [0.3, 0]], [[-0.3, 1], [-0.1, 1]]]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["not clear", "clear"]
    assert ax.get_xlabel() == "nats (below 0: better)"


def test_head_intervals_draw_value_and_interval_of_every_head():
    previous, distance = plots.head_intervals(HEADS).axes
    ends, value = (line.get_ydata().tolist() for line in previous.get_lines()[:2])
    assert (ends, list(value)) == ([0.3, 0.5], [0.4])
    assert [list(line.get_ydata()) for line in distance.get_lines()] == [
        [2.0, 4.0],
        [3.0],
        [4.0, 6.0],
        [5.0],
    ]
    assert distance.get_lines()[2].get_xdata()[0] == pytest.approx(1 + 0.13 * 1.5)


def test_the_scorecard_names_each_claim_and_colours_its_verdict():
    ax = plots.scorecard(SCORECARD).axes[0]
    chips = [text for text in ax.texts if text.get_bbox_patch()]
    assert [chip.get_text() for chip in chips] == list(VERDICTS)
    assert len({chip.get_bbox_patch().get_facecolor() for chip in chips}) == len(VERDICTS)
    for number, row in SCORECARD.iterrows():
        assert {str(number), row.claim} <= set(words(ax))
    assert words(ax).count("0.1 nats") == 4
