"""Every notebook of the repository, run by papermill with profile `quick` on the bundled sample."""

import json
from pathlib import Path

import pytest

from llmlite.cli.notebooks import find_notebooks, run_notebooks
from llmlite.plan.archive import LARGEST
from llmlite.pretrained import load_pretrained

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = find_notebooks(ROOT / "notebooks")
FIGURES = {  # what each notebook must draw, beside what it prints
    "01": [
        "01_article_lengths",
        "01_first_merges",
        "01_token_pieces",
        "01_token_lengths",
        "01_tokens_per_word",
    ],
    "02": ["02_fig2_width", "02_fig3_schedule", "02_fig4_learning_rate", "02_fig5_depth_heads"],
    "03": ["03_fig8_learning_rate", "03_fig9_losses", "03_fig10_gradient_norm"],
    "04": ["04_next_tokens"],
    "05": ["05_bleu", "05_sampling"],
    "06": ["06_head_effects"],
    "07": [
        "07_fig6_first_layer",
        "07_fig7_deep_layer",
        "07_all_heads",
        "07_attention_by_layer",
    ],
    "08": [
        "08_yardsticks",
        "08_positions",
        "08_loss_by_position",
        "08_published_curves",
        "08_window_sizes",
        "08_first_layer",
        "08_hypotheses",
        "08_trends",
        "08_attention_by_head",
    ],
}


@pytest.fixture(scope="session")
def executed(execution):
    """The clone, the folder that it was rendered in, and its notebooks by number."""
    clone, archive = execution()
    assert archive.stat().st_size < LARGEST
    shown = {
        path.name[:2]: json.loads(path.read_text()) for path in clone.glob("notebooks/*.ipynb")
    }
    return clone, clone / "runs" / "llmlite-quick", shown


def outputs(content):
    """All text that a notebook shows."""
    texts = []
    for cell in content["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            text = output.get("text") or data.get("text/markdown") or data.get("text/plain") or ""
            texts.append("".join(text))
    return "\n".join(texts)


@pytest.mark.parametrize("number", sorted(FIGURES))
def test_a_notebook_runs_and_draws_its_figures(executed, number):
    _, made, notebooks = executed
    text = outputs(notebooks[number])
    assert text.startswith("profile quick · data bundled sample"), "what made it stands on top"
    assert "device CPU" in text.splitlines()[0]
    assert "commit " in text.splitlines()[0]
    for name in FIGURES[number]:
        assert (made / "figures" / f"{name}.png").stat().st_size > 5000
    assert "**Compared with the paper.**" in text
    assert "nan" not in text.split("**Compared with the paper.**")[1]


def test_every_figure_has_a_caption(executed):
    captions = json.loads((executed[1] / "figures" / "captions.json").read_text())
    assert set(captions) == {name for names in FIGURES.values() for name in names}
    assert all("Profile quick" in caption for caption in captions.values())


def test_the_model_of_the_demo_has_learnt_something(executed):
    """Far below the 1,024 of a uniform guess, and far above what a leak would give."""
    (score,) = executed[1].glob("runs/*/test_score.json")
    assert 8 < json.loads((score.parent / "record.json").read_text())["best"]["perplexity"] < 100


def test_the_archive_is_shown_in_a_clone(executed):
    clone, made, notebooks = executed
    assert len(notebooks) == len(NOTEBOOKS)
    assert "injected-parameters" not in json.dumps(notebooks)
    for name in (name for names in FIGURES.values() for name in names):
        for suffix in (".png", ".svg"):
            shown = clone / "figures" / f"{name}{suffix}"
            assert shown.read_bytes() == (made / "figures" / f"{name}{suffix}").read_bytes()
    readme = (clone / "README.md").read_text()
    assert "profile `quick`, bundled sample" in readme
    assert "Here: profile quick, bundled sample" in readme, "the scorecard"
    shipped = load_pretrained("cpu", clone / "llmlite" / "pretrained")
    assert shipped.record["profile"] == "full", "a model of the sample takes no other's place"
    files = [p for p in clone.rglob("*") if p.is_file() and not p.is_relative_to(clone / "runs")]
    found = [path for path in files if str(clone.parent).encode() in path.read_bytes()]
    assert not found, "paths of the machine that ran it"


def test_what_was_trained_is_not_trained_again_to_be_shown(executed):
    _, made, _ = executed
    assert not list(made.glob("runs/*/.lock"))


@pytest.mark.slow
def test_a_later_notebook_runs_alone_with_the_model_that_ships(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMLITE_HEADLESS", "1")
    last = [n for n in NOTEBOOKS if n.name.startswith("06")]
    (alone,) = run_notebooks(last, tmp_path / "out", "quick", "sample", "cpu")
    assert "No model is trained here yet; this is the model that comes with" in alone.read_text()
    assert not (tmp_path / "out" / "runs").exists()
    captions = json.loads((tmp_path / "out" / "figures" / "captions.json").read_text())
    assert "the model that comes with llmlite" in captions["06_head_effects"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestAsCommitted:
    """Rules that hold for the notebooks as they lie in the repository."""

    def cells(self, path):
        content = json.loads(path.read_text(encoding="utf-8"))
        return [c for c in content["cells"] if c["cell_type"] == "code"]

    def test_it_has_a_parameters_cell(self, path):
        tags = [c["metadata"].get("tags", []) for c in self.cells(path)]
        assert sum("parameters" in t for t in tags) == 1

    def test_it_is_rendered_without_an_error(self, path):
        results = [o for c in self.cells(path) for o in c["outputs"]]
        assert results, "people read it without running it"
        assert all(o["output_type"] != "error" for o in results)

    def test_no_cell_is_longer_than_a_screen(self, path):
        assert all(len("".join(c["source"]).splitlines()) <= 30 for c in self.cells(path))

    def test_colab_is_named_in_the_first_cells_only(self, path):
        later = self.cells(path)[3:]
        assert not any("colab" in "".join(c["source"]).lower() for c in later)
