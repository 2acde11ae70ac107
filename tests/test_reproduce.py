"""Running notebooks headlessly, and publishing what they render, on tiny notebooks."""

import json
from pathlib import Path

import nbformat
import pytest

from llmlite.errors import LLMLiteError
from llmlite.experiment import Experiment, benchmark
from llmlite.reproduce import (
    TOKENIZER_RECORD,
    captions_in,
    clean,
    find_notebooks,
    gallery,
    publish,
    report,
    results,
    run_notebooks,
    tokenizer_speed,
    training_speed,
    with_section,
)


def notebook(path: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(content, path)
    return path


PARAMETERS = 'profile = "auto"\nout = None\ndata = None\ndevice = "auto"'


def test_notebooks_run_in_order_with_parameters_and_keep_stderr_in_a_log(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMLITE_HEADLESS", "1")
    source = notebook(
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


def test_a_folder_of_data_reaches_the_kernel_and_stays_out_of_the_notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMLITE_HEADLESS", "1")
    monkeypatch.setenv("LLMLITE_DATA", "elsewhere")
    (tmp_path / "mytext").mkdir()
    source = notebook(
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
    source = notebook(tmp_path / "02_b.ipynb", PARAMETERS, "raise ValueError('no such thing')")
    with pytest.raises(LLMLiteError) as error:
        run_notebooks([source], tmp_path / "out", "quick")
    message = str(error.value)
    assert "\n" not in message
    for part in ("02_b.ipynb", "ValueError", "no such thing", "02_b.log"):
        assert part in message


def test_find_notebooks_takes_numbered_ones_in_order(tmp_path):
    for name in ("02_b", "01_a", "scratch"):
        notebook(tmp_path / f"{name}.ipynb", PARAMETERS)
    assert [n.stem for n in find_notebooks(tmp_path)] == ["01_a", "02_b"]
    assert [n.stem for n in find_notebooks(tmp_path, ["02"])] == ["02_b"]
    with pytest.raises(LLMLiteError, match="No notebook starts with 09"):
        find_notebooks(tmp_path, ["09"])


def test_clean_takes_out_stderr_and_timings_and_keeps_results(tmp_path):
    path = notebook(tmp_path / "01_a.ipynb", PARAMETERS, "1")
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


def finished_run(out: Path) -> Experiment:
    """An Experiment whose search and training are done, on a tiny corpus, with a figure."""
    data = out.parent / "data"
    data.mkdir()
    for split in ("train", "valid", "test"):
        text = "".join(
            f" \n = {split} {i} = \n \n Cat number {i} sat on the mat . \n" for i in range(40)
        )
        (data / f"wiki.{split}.raw").write_text(text, encoding="utf-8")
    experiment = Experiment(
        "quick", data, out, "cpu", progress=False, vocab_size=270, block_size=16
    )
    experiment.test_score()
    (out / "figures").mkdir()
    (out / "figures" / "01_x.png").write_bytes(b"picture")
    (out / "figures" / "captions.json").write_text('{"01_x": "What it shows. Profile quick."}')
    (out / "notebooks").mkdir()
    executed = notebook(out / "notebooks" / "01_a.ipynb", PARAMETERS, 'profile = "quick"', "1")
    content = nbformat.read(executed, 4)
    content.cells[1].metadata["tags"] = ["injected-parameters"]
    nbformat.write(content, executed)
    return experiment


def test_publish_copies_what_a_run_rendered_and_writes_its_results(tmp_path):
    experiment, root = finished_run(tmp_path / "out"), tmp_path / "root"
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
    notebook(out / "notebooks" / "01_a.ipynb", "1")
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


def test_the_table_of_speed_is_the_records():
    def rows(**seconds):
        return {name.replace("_", " "): {"median_s": value} for name, value in seconds.items()}

    record = {
        "training": {"8,192": rows(llmlite=2.0, HF=5.0)},
        "encoding": {"train": rows(llmlite=0.5, HF=1.0, tiktoken=0.4)},
        "decoding": rows(llmlite=0.1, tiktoken=0.125),
        "memory": {"llmlite": 4.04},
        "exactness": {"a": {"texts": 3, "different": 0}, "b": {"texts": 4, "different": 1}},
        "environment": {"processor": "P", "cores": 2, "numpy": "2.4", "commit": "abc"},
        "versions": {"tiktoken": "0.14"},
        "data": "some text",
        "rounds": 5,
    }
    lines = tokenizer_speed(record).splitlines()
    assert lines[0] == "| time over llmlite's | HF | tiktoken |"
    assert "| training, 8,192 tokens | 2.50 | – |" in lines
    assert "| encoding, train | 2.00 | 0.80 |" in lines
    assert "| decoding | – | 1.25 |" in lines
    for words in ("some text, P, 2 cores", "4.0 × the text", "7 texts: 1 differ", "tiktoken 0.14"):
        assert words in lines[-1]


def speed_record(device="CPU (x86_64, 2 threads)"):
    def row(seconds, ours=0.5, **more):
        return {"ours_over_it": ours / seconds, "tokens_per_s": 2500 / seconds, **more}

    peer = "transformers, torch.compile"
    first = {
        "llmlite": row(0.5, above_floor=2.34, peak_bytes=300),
        peer: row(1.0, peak_bytes=400),
        "llmlite, 2 processes": row(0.25),
    }
    second = {"llmlite": row(0.5, above_floor=7.0, peak_bytes=1)}
    return {
        "cases": {
            "256-float32": {"batch": 16, "shape": {"block_size": 256}, "contestants": first},
            "32-bfloat16": {"batch": 8, "shape": {"block_size": 32}, "contestants": second},
        },
        "environment": {
            "processor": "P", "cores": 2, "torch": "2.13", "commit": "abc", "device": device
        },
        "versions": {"transformers": "5.0"},
        "equality": {"steps": 100, "largest_difference": 9.5e-7},
        "rounds": 5,
    }  # fmt: skip


def test_the_tables_of_training_and_generation_are_the_records():
    generation = speed_record("NVIDIA H100")
    generation["cases"] = {"batch 1": generation["cases"]["256-float32"]}
    text = training_speed({"train-cpu": speed_record(), "generate-cuda": generation})
    training, generated = (part.splitlines() for part in text.split("\n\n|"))
    peers = "transformers, torch.compile | llmlite, 2 processes"
    assert training[0].startswith(f"| time over llmlite's | {peers} | above the floor | ")
    assert training[2] == "| training, window 256, batch 16, float32 | 2.00 | 0.50 | 2.3 × | 0.75 |"
    assert training[3] == "| training, window 32, batch 8, bfloat16 | – | – | 7.0 × | – |"
    for words in ("P, 2 cores", "5 runs", "transformers 5.0", "commit abc", "differ by 1e-06"):
        assert words in training[-1]
    assert generated[0] == f" time over llmlite's | {peers} | llmlite, tokens/s |"  # a GPU's
    assert generated[2] == "| generation, batch 1 | 2.00 | 0.50 | 5,000 |"
    assert generated[-1].startswith("NVIDIA H100, medians")
    assert "steps" not in generated[-1]


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
    monkeypatch.setattr("llmlite.experiment.benchmarks_folder", lambda: records)
    monkeypatch.setattr("llmlite.reproduce.benchmarks_folder", lambda: records)
    publish(experiment, root)
    assert "slow training" in readme.read_text(), "there are no records"
    record = speed_record()
    (records / "train-cpu.json").write_text(json.dumps(record))
    publish(experiment, root)
    assert "slow training" not in readme.read_text()
    assert training_speed({"train-cpu": record}) in readme.read_text()


def test_the_report_names_notebooks_and_figures(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "01_x.png").touch()
    text = report([tmp_path / "notebooks" / "01_a.ipynb"], tmp_path)
    assert "01_a.ipynb" in text
    assert "01_x.png" in text
