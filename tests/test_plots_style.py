"""What all figures share: the paper's values, stable files."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from plot_cases import LOSSES

from llmlite import plots
from llmlite.plots import style


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((12, 15), "the paper: 12 to 15"),
        ((1.171, 1.1858), "↓ the paper: 1.171 to 1.186, off this scale"),
        ((3e4, 3e4), "↑ the paper: 30,000, off this scale"),
    ],
)
@pytest.mark.parametrize("mode", ["linear", "log"])
def test_the_papers_values_are_lines_on_the_scale_and_words_off_it(mode, values, words):
    fig, ax = plt.subplots()
    ax.plot([1, 2], [10, 20])
    ax.set_yscale(mode)
    bottom, top = ax.get_ylim()
    style.published_values(ax, *values)
    assert [text.get_text() for text in ax.texts] == [words]
    off = words[0] in "↓↑"
    assert [line.get_ydata()[0] for line in ax.get_lines()[1:]] == ([] if off else [*values])
    assert (ax.get_ylim()[0] < bottom, ax.get_ylim()[1] > top) == (off, off), "room for words"
    plt.close(fig)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_saved_figure_has_the_same_bytes_whatever_the_style_outside(suffix, tmp_path):
    style.save(plots.losses(*LOSSES), tmp_path / f"a{suffix}")
    with plt.rc_context({"lines.linewidth": 9, "svg.fonttype": "none", "savefig.dpi": 20}):
        figure = plots.losses(*LOSSES)
        style.save(figure, tmp_path / f"b{suffix}")
        style.save(figure, tmp_path / f"c{suffix}")  # and saving it changes nothing
    first, *others = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "abc")
    assert others == [first, first]
    assert b"<text" not in first, "letters are outlines: no font is needed to read them"


def test_maps_and_long_logs_stay_small_as_svg(tmp_path):
    steps = pd.DataFrame({"step": range(20_000), "grad_norm": np.geomspace(3, 0.3, 20_000)})
    steps.grad_norm *= np.random.default_rng(0).uniform(0.5, 2, len(steps))
    figures = (
        plots.gradient_norm(steps, 1.0, 25, (1, 2)),
        plots.attention_grid(np.ones((3, 4, 64, 64))),
    )
    for figure in figures:
        style.save(figure, tmp_path / "figure.svg")
        assert (tmp_path / "figure.svg").stat().st_size < 200_000
