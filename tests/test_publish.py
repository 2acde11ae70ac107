"""What a run shows: gathered and placed, on tiny notebooks."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from notebooks.tiny import PARAMETERS, make_notebook
from test_readme import speed_record

from llmlite.badges import badge
from llmlite.benchmarks import benchmark
from llmlite.errors import LLMLiteError
from llmlite.experiment import Experiment
from llmlite.metrics import Score
from llmlite.plan import unpack
from llmlite.pretrained import FILES, load_pretrained
from llmlite.publish import (
    TOKENIZER_RECORD,
    captions_in,
    gallery,
    gather,
    publish,
    with_section,
)
from llmlite.readme import results, training_speed

CUT = {"vocab_size": 270, "block_size": 16}
README = """before
<!-- results -->
old results
<!-- end of results -->
between
<!-- speed -->
old speed
<!-- end of speed -->
<!-- training speed -->
slow training
<!-- end of training speed -->
after
"""


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


def test_publish_copies_what_a_run_rendered_and_writes_its_results(experiment, tmp_path):
    root = tmp_path / "root"
    (root / "notebooks").mkdir(parents=True)
    (root / "README.md").write_text(README)
    publish(experiment, root)
    published = nbformat.read(root / "notebooks" / "01_a.ipynb", 4)
    assert [cell.source for cell in published.cells] == [PARAMETERS, "1"]
    assert (root / "figures" / "01_x.png").read_bytes() == b"picture"
    text = (root / "figures" / "README.md").read_text()
    assert text == gallery({"01_x": "What it shows. Profile quick."})
    assert "(01_x.png)" in text

    readme = (root / "README.md").read_text()
    assert readme.startswith("before\n")
    assert readme.endswith("after\n")
    assert "old" not in readme
    score = experiment.test_score()
    assert f"| test loss, nats per token | 0.1530 | {score.loss:.4f} |" in readme
    for words in ("profile `quick`", "own text", "CPU", "commit"):
        assert words in readme
    assert readme == with_section(readme, "results", results(experiment))
    publish(experiment, root)
    assert readme == (root / "README.md").read_text(), "publishing twice changes nothing"


def test_a_run_of_one_notebook_is_published_beside_what_is_shown_already(tmp_path):
    out, root = tmp_path / "out", tmp_path / "root"
    for folder in (out / "figures", out / "notebooks", root / "notebooks", root / "figures"):
        folder.mkdir(parents=True)
    make_notebook(out / "notebooks" / "01_a.ipynb", "1")
    (root / "README.md").write_text(README)
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
    readme = (root / "README.md").read_text()
    assert "old results" in readme, "there are none to write"
    assert "old speed" not in readme


def test_a_readme_without_marks_is_refused():
    with pytest.raises(LLMLiteError, match="README"):
        with_section("no marks", "results", "table")


def test_speed_is_published_from_the_records_there_are(tmp_path, monkeypatch):
    out, root, records = (tmp_path / name for name in ("out", "root", "records"))
    for folder in (out / "figures", out / "notebooks", root / "notebooks", records):
        folder.mkdir(parents=True)
    (out / "figures" / "captions.json").write_text("{}")
    readme = root / "README.md"
    readme.write_text(README)
    experiment = Experiment("quick", "sample", out, "cpu", progress=False)
    tokenizer = benchmark(TOKENIZER_RECORD)
    (records / f"{TOKENIZER_RECORD}.json").write_text(json.dumps(tokenizer))
    monkeypatch.setattr("llmlite.benchmarks.benchmarks_folder", lambda: records)
    monkeypatch.setattr("llmlite.publish.benchmarks_folder", lambda: records)
    publish(experiment, root)
    assert "slow training" in readme.read_text(), "there are no records"
    record = speed_record()
    (records / "train-cpu.json").write_text(json.dumps(record))
    publish(experiment, root)
    assert "slow training" not in readme.read_text()
    assert training_speed({"train-cpu": record}) in readme.read_text()


def test_records_are_published_without_paths_of_ours_and_begin_another_run(experiment, tmp_path):
    (tmp_path / "out" / "figures" / "01_x.svg").write_text("<svg/>")
    root = tmp_path / "published"
    (root / "notebooks").mkdir(parents=True)
    (root / "README.md").write_text(README)
    publish(experiment, root)
    files = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    run = f"figures/records/runs/{experiment.run_folder.name}"
    assert {"figures/01_x.svg", f"{run}/steps.jsonl", f"{run}/test_score.json"} <= files.keys()
    assert {f"llmlite/pretrained/{name}" for name in FILES} <= files.keys()
    records = [name for name in files if name.endswith((".json", ".md", ".csv"))]
    assert not [name for name in records if str(tmp_path).encode() in files[name]]
    there = tmp_path / "elsewhere"
    unpack(root / "figures" / "records", there)
    other = Experiment("quick", tmp_path / "data", there, "cpu", progress=False, **CUT)
    assert other.search("revised").perplexity.tolist() == experiment.search().perplexity.tolist()
    assert not list(there.rglob("*.pt")), "nothing was trained"


def test_the_shipped_model_is_the_trained_one_rounded_and_scored_as_stored(experiment, tmp_path):
    shipped = load_pretrained("cpu", gather(experiment) / "pretrained")
    trained = experiment.model.state_dict()
    for name, weight in shipped.model.state_dict().items():
        assert weight.equal(trained[name].half().float())
    assert shipped.tokenizer.fingerprint == experiment.tokenizer.fingerprint
    score = shipped.record["scores"]
    exact = experiment.test_score()
    assert score["tokens"] == exact.tokens
    assert score["nats"] == pytest.approx(exact.nats, rel=1e-3)
    assert score["nats"] != exact.nats, "that of the rounded weights"
    card = (tmp_path / "out" / "rendered" / "pretrained" / "README.md").read_text()
    assert f"{score['nats'] / score['bytes'] / 0.6931472:.3f} |" in card


def test_badges_say_what_the_record_of_the_model_says(experiment, tmp_path):
    root = tmp_path / "root"
    (root / "notebooks").mkdir(parents=True)
    (root / "README.md").write_text(README)
    publish(experiment, root)
    record = json.loads((root / "llmlite/pretrained/record.json").read_text())
    words = Score(**record["scores"]).word_perplexity
    titles = {
        path.stem: ElementTree.parse(path).find("{*}title").text
        for path in (root / "figures" / "badges").glob("*.svg")
    }
    assert titles == {
        "perplexity": f"test perplexity per word: {words:.0f}",
        "data": "data: own text in data",
        "profile": "profile: quick",
        "device": "made on: CPU",
    }
    drawn = badge("a & b", '"<c>"')
    assert [t.text for t in ElementTree.fromstring(drawn).findall(".//{*}text")] == [
        "a & b",
        '"<c>"',
    ]
