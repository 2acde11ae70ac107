"""Running notebooks headlessly, and showing what they made, on tiny ones."""

import json
import shutil
from pathlib import Path

import nbformat
import publish as tool
import pytest
from notebooks.tiny import PARAMETERS, make_notebook
from publish import captions_in, gallery, publish, results, ship, with_block

from llmlite.cli.notebooks import clean, find_notebooks, report, run_notebooks
from llmlite.experiment import Experiment
from llmlite.files import LLMLiteError
from llmlite.plan.archive import unpack
from llmlite.pretrained import load_pretrained


def test_notebooks_run_in_order_with_parameters_and_keep_stderr_in_a_log(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMLITE_HEADLESS", "1")
    source = make_notebook(
        tmp_path / "01_a.ipynb",
        PARAMETERS,
        "import sys\nprint(profile, data)\nprint('a bar', file=sys.stderr)",
    )
    executed = run_notebooks([source], tmp_path / "out", "quick", "sample")
    content = json.loads(executed[0].read_text())
    outputs = [o for cell in content["cells"] for o in cell["outputs"]]
    assert ["".join(o["text"]) for o in outputs] == ["quick sample\n"]
    assert "papermill" not in json.dumps(content["metadata"])
    assert "a bar" in (tmp_path / "out" / "notebooks" / "01_a.log").read_text()
    assert not nbformat.read(source, 4).cells[1].outputs, "the source stays as it was"


def test_a_folder_of_data_reaches_the_kernel_and_stays_out_of_the_make_notebook(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("LLMLITE_HEADLESS", "1")
    monkeypatch.setenv("LLMLITE_DATA", "elsewhere")
    (tmp_path / "mytext").mkdir()
    source = make_notebook(
        tmp_path / "01_a.ipynb",
        PARAMETERS,
        "import os\nprint(data, os.environ['LLMLITE_DATA'].endswith('mytext'))",
    )
    executed = run_notebooks([source], tmp_path / "out", "quick", str(tmp_path / "mytext"))
    text = executed[0].read_text()
    assert "auto True" in text
    assert 'mytext"' not in text.replace("'mytext')", "")


def test_a_failing_cell_is_one_sentence_that_names_notebook_cell_and_log(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMLITE_HEADLESS", "1")
    source = make_notebook(tmp_path / "02_b.ipynb", PARAMETERS, "raise ValueError('no such thing')")
    with pytest.raises(LLMLiteError) as error:
        run_notebooks([source], tmp_path / "out", "quick")
    message = str(error.value)
    assert "\n" not in message
    for part in ("02_b.ipynb", "ValueError", "no such thing", "02_b.log"):
        assert part in message


def test_find_notebooks_takes_numbered_ones_in_order(tmp_path):
    for name in ("02_b", "01_a", "scratch"):
        make_notebook(tmp_path / f"{name}.ipynb", PARAMETERS)
    assert [n.stem for n in find_notebooks(tmp_path)] == ["01_a", "02_b"]
    assert [n.stem for n in find_notebooks(tmp_path, ["02"])] == ["02_b"]
    with pytest.raises(LLMLiteError, match="No notebook starts with 09"):
        find_notebooks(tmp_path, ["09"])


def test_clean_takes_out_stderr_and_timings_and_keeps_results(tmp_path):
    path = make_notebook(tmp_path / "01_a.ipynb", PARAMETERS, "1")
    content = nbformat.read(path, 4)
    content.metadata["papermill"] = {"duration": 1.0}
    content.cells[1].metadata["papermill"] = {"duration": 1.0}
    content.cells[1].outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="50%|#####"),
        nbformat.v4.new_output("stream", name="stdout", text="result"),
    ]
    nbformat.write(content, path)
    clean(path)
    cleaned = nbformat.read(path, 4)
    assert [o.text for o in cleaned.cells[1].outputs] == ["result"]
    assert "papermill" not in cleaned.metadata
    assert "papermill" not in cleaned.cells[1].metadata


def test_the_report_names_notebooks_and_figures(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "01_x.png").touch()
    text = report([tmp_path / "notebooks" / "01_a.ipynb"], tmp_path)
    assert "01_a.ipynb" in text
    assert "01_x.png" in text


# -- into the clone -------------------------------------------------------------------------------

CUT = {"data.vocab_size": 270, "data.block_size": 16}
README = "before\n<!-- results -->\nold results\n<!-- end of results -->\nafter\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with `data` and `out`, where a search and a training are done."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "data").mkdir()
    for split in ("train", "valid", "test"):
        text = "".join(
            f" \n = {split} {i} = \n \n Cat number {i} sat on the mat . \n" for i in range(40)
        )
        (folder / "data" / f"wiki.{split}.raw").write_text(text, encoding="utf-8")
    out = folder / "out"
    tiny_experiment(out).search()
    tiny_experiment(out).test_score()
    (out / "figures").mkdir()
    (out / "figures" / "01_x.png").write_bytes(b"picture")
    (out / "figures" / "captions.json").write_text('{"01_x": "What it shows. Profile quick."}')
    (out / "notebooks").mkdir()
    executed = make_notebook(out / "notebooks" / "01_a.ipynb", PARAMETERS, 'profile = "quick"', "1")
    content = nbformat.read(executed, 4)
    content.cells[1].metadata["tags"] = ["injected-parameters"]
    nbformat.write(content, executed)
    return folder


def tiny_experiment(out: Path) -> Experiment:
    data = out.parent / "data"
    return Experiment("quick", data, out, "cpu", progress=False, **CUT)


@pytest.fixture
def experiment(trained, tmp_path) -> Experiment:
    """That experiment in a copy of its folder."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tiny_experiment(tmp_path / "out")


@pytest.fixture
def root(tmp_path) -> Path:
    """What a clone shows before anything is published."""
    root = tmp_path / "root"
    (root / "notebooks").mkdir(parents=True)
    (root / "README.md").write_text(README)
    return root


def test_publish_copies_what_a_run_made_and_writes_its_results(experiment, root, monkeypatch):
    make_notebook(experiment.out / "notebooks" / "08_b.ipynb", "1")
    monkeypatch.setattr(tool, "write_scorecard", lambda audit, folder: "**A headline.**")
    publish(experiment, root)
    published = nbformat.read(root / "notebooks" / "01_a.ipynb", 4)
    assert [cell.source for cell in published.cells] == [PARAMETERS, "1"]
    assert (root / "figures" / "01_x.png").read_bytes() == b"picture"
    text = (root / "figures" / "README.md").read_text()
    assert text == gallery({"01_x": "What it shows. Profile quick."})
    assert "(01_x.png)" in text

    readme = (root / "README.md").read_text()
    assert readme == with_block(README, "**A headline.**\n\n" + results(experiment))
    assert "old" not in readme
    score = experiment.test_score()
    assert f"| test loss, nats per token | 0.1530 | {score.loss:.4f} |" in readme
    for words in ("profile `quick`", "own text", "CPU", "commit", "one seed"):
        assert words in readme
    publish(experiment, root)
    assert readme == (root / "README.md").read_text(), "publishing twice changes nothing"


def test_a_run_of_one_notebook_is_published_beside_what_is_shown_already(tmp_path, root):
    out = tmp_path / "out"
    for folder in (out / "figures", out / "notebooks", root / "figures" / "records" / "runs"):
        folder.mkdir(parents=True)
    make_notebook(out / "notebooks" / "01_a.ipynb", "1")
    for name in ("01_x", "02_y"):
        (root / "figures" / f"{name}.png").write_bytes(b"old")
    old = {"01_x": "Old words.", "02_y": "Still there.", "03_gone": "Its picture is gone."}
    (root / "figures" / "README.md").write_text(gallery(old))
    (out / "figures" / "01_x.png").write_bytes(b"new")
    (out / "figures" / "captions.json").write_text('{"01_x": "New words."}')
    publish(Experiment("quick", "sample", out, "cpu", progress=False), root)
    page = (root / "figures" / "README.md").read_text()
    assert captions_in(page) == {"01_x": "New words.", "02_y": "Still there."}
    assert (root / "figures" / "01_x.png").read_bytes() == b"new"
    assert (root / "README.md").read_text() == README, "there are no results to write"
    assert (root / "figures" / "records" / "runs").exists()


def test_a_readme_without_marks_is_refused():
    with pytest.raises(LLMLiteError, match="README"):
        with_block("no marks", "table")


def test_records_are_published_without_paths_of_ours_and_begin_another_run(
    experiment, tmp_path, root
):
    (experiment.out / "figures" / "01_x.svg").write_text("<svg/>")
    publish(experiment, root)
    files = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    run = f"figures/records/runs/{experiment.folder(experiment.retraining()).name}"
    assert {"figures/01_x.svg", f"{run}/steps.jsonl", f"{run}/test_score.json"} <= files.keys()
    assert not [name for name in files if "pretrained" in name], "its card is of WikiText-2"
    records = [name for name in files if name.endswith((".json", ".md", ".csv"))]
    assert not [name for name in records if str(tmp_path).encode() in files[name]]
    there = tmp_path / "elsewhere"
    unpack(root / "figures" / "records", there, "quick")
    other = Experiment("quick", tmp_path / "data", there, "cpu", progress=False, **CUT)
    assert other.search("revised").perplexity.tolist() == experiment.search().perplexity.tolist()
    assert not list(there.rglob("*.pt")), "nothing was trained"


def test_the_shipped_model_is_the_trained_one_rounded_and_scored_as_stored(experiment, tmp_path):
    folder = tmp_path / "pretrained"
    ship(experiment, folder)
    shipped = load_pretrained("cpu", folder)
    trained = experiment.model.state_dict()
    for name, weight in shipped.model.state_dict().items():
        assert weight.equal(trained[name].half().float())
    assert shipped.tokenizer.fingerprint == experiment.tokenizer.fingerprint
    score = shipped.record["scores"]
    exact = experiment.test_score()
    assert score["tokens"] == exact.tokens
    assert score["nats"] == pytest.approx(exact.nats, rel=1e-3)
    assert score["nats"] != exact.nats, "that of the rounded weights"
    bits = score["nats"] / score["bytes"] / 0.6931472
    assert f"{bits:.3f} |" in (folder / "README.md").read_text()
