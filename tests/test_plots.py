"""Every figure draws what it is given, with labels on its axes, and leaves nothing open."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from llmlite import plots

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
}


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
    assert any([*labels, fig.get_suptitle()])


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
