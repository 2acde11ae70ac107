"""Running notebooks headlessly, and showing what they made, on tiny ones."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nbformat
import publish as tool
import pytest
from bs4 import BeautifulSoup
from nbconvert.filters import markdown2html
from publish import captions_in, gallery, publish, results, ship
from tiny_plan import PROFILE, SEEDS, content, open_plan

from llmlite.cli.notebooks import find_notebooks, report, run_notebooks
from llmlite.cli.terminal import harmless
from llmlite.experiment import Experiment
from llmlite.files import LLMLiteError
from llmlite.metrics import Score
from llmlite.plan.archive import unpack
from llmlite.pretrained import load_pretrained

PARAMETERS = 'profile = "auto"\nout = None\ndata = None\ndevice = "auto"'


def make_notebook(path: Path, *sources: str) -> Path:
    """One of a few cells, to run and to publish."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(content, path)
    return path


def test_notebooks_run_and_leave_bars_and_timings_out(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMLITE_HEADLESS", "1")
    monkeypatch.setenv("LLMLITE_DATA", "elsewhere")
    out, folder = tmp_path / "o{u}t", str(tmp_path / "a folder")
    say = "import os, sys\nprint('a bar', file=sys.stderr)\nprint(profile, data, device)\n"
    bad = make_notebook(tmp_path / "02_b.ipynb", PARAMETERS, "raise ValueError(data + '\\nb')")
    dead = make_notebook(tmp_path / "03_c.ipynb", PARAMETERS, "import os; os.kill(os.getpid(), 9)")
    good = make_notebook(tmp_path / "01_a.ipynb", PARAMETERS, say, "os.environ['LLMLITE_DATA']")
    (tmp_path / "04_d.ipynb").write_text("<html>")
    make_notebook(tmp_path / "scratch.ipynb", PARAMETERS)
    assert find_notebooks(tmp_path)[:3] == [good, bad, dead]
    with pytest.raises(LLMLiteError, match="no notebook whose name starts with 09"):
        find_notebooks(tmp_path, ["09"])
    (out / "notebooks").mkdir(parents=True)
    before = bad.read_bytes()
    for name in ("01_a.log", "01_a.ipynb"):
        (out / "notebooks" / name).symlink_to(bad)
    kernel = "its kernel died, for want of memory perhaps"
    for name, why in {"02": "cell 3: ValueError: sample b", "03": kernel, "04": "NotJSON"}.items():
        with pytest.raises(LLMLiteError) as error:
            run_notebooks(find_notebooks(tmp_path, [name]), out, "quick", "sample")
        for part in (why, f"{name}_", ".log", f"carries on from what is kept in {out}"):
            assert part in str(error.value)

    executed = run_notebooks([good], out, "quick", folder, "cpu")
    (content,) = (nbformat.read(path, 4) for path in executed)
    first, second = (cell.outputs for cell in content.cells[2:])
    assert [o.text for o in first] == ["quick auto cpu\n"]
    assert second[0].data["text/plain"] == repr(folder)
    assert str(tmp_path) not in content.cells[1].source.replace(str(out), ""), "no path of ours"
    assert "papermill" not in json.dumps([content.metadata, *(c.metadata for c in content.cells)])
    assert "a bar" in (out / "notebooks" / "01_a.log").read_text()
    assert not nbformat.read(good, 4).cells[1].outputs, "the source stays as it was"
    assert bad.read_bytes() == before, "links are replaced"
    (out / "figures").mkdir()
    (out / "figures" / "01_x.png").touch()
    assert {"01_a.ipynb", "01_x.png"} <= {Path(p).name for p in report(executed, out).split("\n")}


README = "before\n<!-- results -->\nold results\n<!-- end of results -->\nafter\n"
README += "<!-- end of results -->\n"  # named once more


def test_a_clone_shows_what_a_run_made(whole, some_articles, tmp_path, monkeypatch):
    root, out = tmp_path / "root", tmp_path / "out"
    figures, records = root / "figures", root / "figures" / "records" / "tiny"
    for folder in (root / "notebooks", records / "runs/old", out / "figures", out / "notebooks"):
        folder.mkdir(parents=True)
    (root / "README.md").write_text(README)
    (records / "runs/old/record.json").touch()
    (records / "runs/mine.txt").touch()
    experiment = Experiment("quick", "sample", out, "cpu", progress=False)
    with pytest.raises(LLMLiteError, match="There are no figures in"):
        publish(experiment, root)

    # One notebook, beside what is shown already.
    cells = [nbformat.v4.new_code_cell("1"), nbformat.v4.new_code_cell("profile = 'quick'")]
    cells[1].metadata["tags"] = ["injected-parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), out / "notebooks" / "01_a.ipynb")
    for path in (figures / "01_x.png", figures / "02_y.png"):
        path.write_bytes(b"old")
    for suffix in ("png", "svg"):
        (out / "figures" / f"01_x.{suffix}").write_bytes(b"new")
    (out / "figures" / "captions.json").write_text('{"01_x": "New words."}')
    old = {"01_x": "Old words.", "02_y": "Still there.", "03_gone": "Its picture is gone."}
    (figures / "README.md").write_text(gallery(old))
    publish(experiment, root)
    page = (figures / "README.md").read_text()
    assert captions_in(page) == {"01_x": "New words.", "02_y": "Still there."}
    assert "(01_x.png)" in page
    (cell,) = nbformat.read(root / "notebooks" / "01_a.ipynb", 4).cells
    assert cell.source == "1", "no parameters of this run"
    assert {(figures / f"01_x.{suffix}").read_bytes() for suffix in ("png", "svg")} == {b"new"}
    assert (root / "README.md").read_text() == README, "there are no results to write"
    assert (records / "runs" / "old").exists(), "no run is there to take its place"

    # A whole run, and what its records say.
    shutil.copytree(whole.experiment.out, out, dirs_exist_ok=True)
    experiment = open_plan(some_articles, out, replace(PROFILE, seeds=SEEDS[:1]))
    monkeypatch.setattr(tool, "write_scorecard", lambda audit, folder: "**A headline.** 16 claims.")
    make_notebook(out / "notebooks" / "08_b.ipynb", "1")
    publish(experiment, root)
    readme, score = (root / "README.md").read_text(), experiment.test_score()
    block = f"**A headline.** 16 claims.\n\n{results(experiment)}"
    assert readme == README.replace("old results", block)
    assert f"| test loss, nats per token | 0.1530 | {score.loss:.4f} |" in readme
    for words in ("Profile `tiny`", "own text", "CPU", "commit", "one seed"):
        assert words in readme
    shown, folder = content(root), experiment.folder(experiment.retraining()).name
    run = f"figures/records/tiny/runs/{folder}"
    made = {f"{run}/steps.jsonl", f"{run}/test_score.json", "figures/records/tiny/seeds.csv"}
    assert made <= shown.keys()
    assert not (records / "runs" / "old").exists()
    assert (records / "runs" / "mine.txt").exists(), "nobody asked to delete it"
    assert not [name for name in shown if "pretrained" in name], "its card is of WikiText-2"
    ours = [name for name, found in shown.items() if str(tmp_path).encode() in found]
    assert ours == [], "no paths of ours"
    publish(experiment, root)
    assert content(root) == shown, "publishing twice changes nothing"
    (root / "README.md").write_text("no marks")
    with pytest.raises(LLMLiteError, match=r"README\.md has no <!-- results -->"):
        publish(experiment, root)
    unpack(records, tmp_path / "elsewhere", "tiny")
    other = open_plan(some_articles, tmp_path / "elsewhere")
    other.only_read = "nothing is trained"
    assert other.search("revised").perplexity.tolist() == experiment.search().perplexity.tolist()


FOREIGN = ["x|y", "<script>alert(1)</script>", "<!-- end of results -->", "`a` *b* # c", "[a](b)"]
FOREIGN += ["a\nb", "\\|", "&lt;", "\x1b[1m", "](", "\\(", "AT&T, [0.1, 0.2]"]
FOREIGN += ["![x][1] [1]", "[1]: http://x.org", "~~s~~ $x$ $$y$$", "http://x www.x.org", "_a_b_"]


@pytest.mark.parametrize("text", FOREIGN)
def test_text_of_others_is_text_in_a_page_and_a_cell_is_a_cell(text):
    shown = harmless(" ".join(text.split()))
    page, link = gallery({"01_x": text}), "[1]: http://x.org"
    assert captions_in(page) == {"01_x": shown}
    row = tool.fill("| {text} | {text} |", text=text)
    page += f"\n| a | b |\n|---|---|\n{row}\n\n{link}\n"
    soup = BeautifulSoup(markdown2html(page), "html.parser")
    assert [(p.get_text(), p.find()) for p in (soup("p")[1], *soup("td"))] == [(shown, None)] * 3
    once = tool.with_block(README, row + text)
    assert tool.with_block(once, row + text) == once
    assert once.endswith(README.partition("old results\n")[2])


def test_the_shipped_model_is_the_trained_one_rounded_and_scored_as_stored(whole, tmp_path):
    experiment, folder = whole.experiment, tmp_path / "pretrained"
    ship(experiment, folder)
    shipped = load_pretrained("cpu", folder)
    trained = experiment.model.state_dict()
    for name, weight in shipped.model.state_dict().items():
        assert weight.equal(trained[name].half().float())
    assert shipped.tokenizer.fingerprint == experiment.tokenizer.fingerprint
    nats, exact = shipped.record["scores"]["nats"], experiment.test_score().nats
    assert nats == pytest.approx(exact, rel=1e-3)
    assert nats != exact, "that of the rounded weights"
    bits = Score(**shipped.record["scores"]).bits_per_byte
    assert f"{bits:.3f} |" in (folder / "README.md").read_text("utf-8")
