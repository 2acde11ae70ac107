"""The notebooks, run by papermill: two of them fast, the others where slow tests are run; and their
set-up cell in Colab, where it installs the package from a git address."""

import json
import os
import re
import subprocess
import sys
import sysconfig

import pandas as pd
import pytest
from conftest import REPOSITORY

from llmlite.cli.notebooks import find_notebooks, run_notebooks
from llmlite.experiment import SEEDS, Experiment
from llmlite.plan.archive import LARGEST, unpack
from llmlite.plan.whole import whole_plan
from llmlite.pretrained import load_pretrained
from llmlite.run import read_record

NOTEBOOKS = find_notebooks(REPOSITORY / "notebooks")
SOURCES = "".join(path.read_text("utf-8") for path in NOTEBOOKS)
FIGURES = set(re.findall(r'\\"(\d\d_\w+)\\"', SOURCES))  # what they must draw
# Python runs a file of this name at its start, so the notebooks' kernels have this profile, too.
SITE = """
from dataclasses import replace
from llmlite.config import SearchSpace, TrainConfig
from llmlite.profiles import PROFILES, Grid

short = TrainConfig(epochs=1, batch_size=4, amp="off", train_tokens=8_000, valid_tokens=3_000)
grid = Grid(SearchSpace((4e-3,), (2,), (4,), (32,)), short)
given = dict(first=grid, revised=grid, train=short, seeds=(1337, 1, 2))
PROFILES["full"] = replace(PROFILES["quick"], name="full", **given)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(number, profile): that notebook on the sample; what it shows. Several share a folder."""
    (tmp_path / "sitecustomize.py").write_text(SITE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("LLMLITE_HEADLESS", "1")

    def run(number: str, profile: str) -> str:
        one = find_notebooks(REPOSITORY / "notebooks", [number])
        (executed,) = run_notebooks(one, tmp_path / "out", profile, "sample", "cpu")
        return checked(json.loads(executed.read_text()), profile)

    return run


def checked(notebook: dict, profile: str) -> str:
    """All text that an executed notebook shows, once it has what each of them must show."""
    text = ""
    for output in (output for cell in notebook["cells"] for output in cell.get("outputs", [])):
        data = output.get("data", {})
        shown = output.get("text") or data.get("text/markdown") or data.get("text/plain") or ""
        text += "".join(shown) + "\n"
    top = rf"profile {profile} · data bundled sample \(sample\) · device CPU.* · commit \w+\+?\n"
    assert re.match(top, text)
    assert "nan" not in re.split(r"\*\*(?:Compared with the paper|What was learnt)\.\*\*", text)[1]
    return text


def test_a_model_is_retrained_with_each_seed_and_tested(run, tmp_path):
    out = tmp_path / "out"
    assert "test perplexity per token:" in run("03", "full"), "over seeds, with an interval"
    scores = pd.read_csv(out / SEEDS)
    assert scores.seed.tolist() == [1337, 1, 2]
    assert scores["test loss"].nunique() == len(list(out.glob("runs/*/test_score.json"))) == 3


def test_a_later_notebook_runs_alone_with_the_model_that_ships(run, tmp_path):
    assert "No model is trained here yet; this is the model that comes with" in run("07", "quick")
    assert not (tmp_path / "out" / "runs").exists()
    captions = json.loads((tmp_path / "out" / "figures" / "captions.json").read_text())
    assert set(captions) == {name for name in FIGURES if name.startswith("07")}
    assert all("the model that comes with llmlite" in text for text in captions.values())


@pytest.mark.slow
def test_all_notebooks_run_and_their_archive_is_shown_in_a_clone(execution):
    clone, archive = execution()
    assert archive.stat().st_size < LARGEST
    made = clone / "runs" / "llmlite-quick"
    shown = [json.loads(path.read_text()) for path in clone.glob("notebooks/*.ipynb")]
    assert len([checked(notebook, "quick") for notebook in shown]) == len(NOTEBOOKS)
    assert "injected-parameters" not in json.dumps(shown)
    captions = json.loads((made / "figures" / "captions.json").read_text())
    assert set(captions) == FIGURES
    assert all("Profile quick" in caption for caption in captions.values())
    for name in [f"{name}{suffix}" for name in FIGURES for suffix in (".png", ".svg")]:
        drawn = (made / "figures" / name).read_bytes()
        assert len(drawn) > 5000
        assert (clone / "figures" / name).read_bytes() == drawn
    (score,) = made.glob("runs/*/test_score.json")
    best = json.loads((score.parent / "record.json").read_text())["best"]
    assert 8 < best["perplexity"] < 100, "far below a uniform guess, far above what a leak gives"
    assert not list(made.glob("runs/*/.lock")), "nothing is trained again to be shown"
    assert "Profile `quick`, bundled sample" in (clone / "README.md").read_text()
    shipped = load_pretrained("cpu", clone / "llmlite" / "pretrained")
    assert shipped.record["profile"] == "full", "a model of the sample takes no other's place"
    files = [p for p in clone.rglob("*") if p.is_file() and not p.is_relative_to(clone / "runs")]
    found = [path for path in files if str(clone.parent).encode() in path.read_bytes()]
    assert not found, "paths of the machine that ran it"


@pytest.mark.slow
def test_the_perplexities_and_figures_of_profile_quick(execution, tmp_path):
    """A change of the package's shape must not move them: goldens.json, written at commit 6420dcb
    (the list of figures without three that went on purpose)."""
    goldens = json.loads((REPOSITORY / "tests" / "goldens.json").read_text("utf-8"))
    clone, archive = execution()
    drawn = {path.stem for path in (clone / "figures").glob("*.png")}
    assert drawn >= set(goldens["figures"])
    unpack(archive, tmp_path, "quick")
    experiment = Experiment("quick", "sample", tmp_path, "cpu", progress=False)
    made = {run.name: experiment.folder(run) for run in whole_plan(experiment)}
    for name, golden in goldens["quick"].items():
        perplexity = read_record(made[name])["best"]["perplexity"]
        assert perplexity == pytest.approx(golden, rel=0.05), name  # other processors round


def code_cells(path):
    return [c for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_as_committed_is_rendered_and_short_and_starts_as_all_do(path):
    cells, first = code_cells(path), code_cells(NOTEBOOKS[0])
    results = [output for cell in cells for output in cell["outputs"]]
    assert results, "people read it without running it"
    assert all(output["output_type"] != "error" for output in results)
    tagged = ["parameters" in cell["metadata"].get("tags", []) for cell in cells]
    assert tagged == [True] + [False] * (len(cells) - 1)
    assert [cell["source"] for cell in cells[:2]] == [cell["source"] for cell in first[:2]]
    assert len([line for line in cells[1]["source"] if line.strip()]) <= 8
    assert all(len("".join(cell["source"]).splitlines()) <= 30 for cell in cells)


@pytest.mark.slow
def test_the_set_up_cell_installs_the_package_and_does_so_once(tmp_path):
    repository, content, colab = (tmp_path / name for name in ("git", "content", "colab"))
    git = ["git", "--git-dir", repository, "--work-tree", REPOSITORY]
    git += ["-c", "user.name=test", "-c", "user.email=test", "-c", "commit.gpgsign=false"]
    for command in ("init -q", "add --all", "commit -q --no-verify -m all"):
        subprocess.run([*git, *command.split()], cwd=REPOSITORY, check=True)
    (content / "llmlite").mkdir(parents=True)  # a folder is not the package
    colab.mkdir()  # from the start, as Colab's own is
    first, setup = ("".join(cell["source"]) for cell in code_cells(NOTEBOOKS[0])[:2])
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", f"--target={colab}"]
    pip = f"import subprocess; subprocess.check_call({install} + ["  # what %pip does in IPython
    setup = setup.replace("%pip install -q {", pip).replace("}\n", "])\n")
    paths = [str(colab), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": ""}

    def in_colab(address: str) -> subprocess.CompletedProcess:
        """The first notebook's parameters, its set-up cell, and where the package lies then."""
        given = f"profile, data, repository = 'quick', 'sample', {address!r}"
        program = "\n".join([first, given, setup, "import llmlite; print(llmlite.__file__)"])
        command = [sys.executable, "-S", "-c", program]  # without the clone that .pth files name
        return subprocess.run(command, cwd=content, env=env, capture_output=True, text=True)

    assert "Directory '..' is not installable" in in_colab("").stderr, "no clone, and no address"
    done = in_colab(repository.as_uri())
    if "(from versions: none)" in done.stdout + done.stderr:
        pytest.skip("pip finds no package index, which building the package needs")
    assert done.returncode == 0, done.stderr
    line, file = done.stdout.splitlines()
    (commit,) = repository.glob("refs/heads/*")
    assert line.endswith(f"commit {commit.read_text()[:10]}")
    assert file == str(colab / "llmlite" / "__init__.py")
    assert in_colab("").stdout == done.stdout, "it is there now"

    # Modules, the model that ships, and what the wheel takes from another folder.
    for source, target in {"llmlite": "llmlite", "data/sample": "llmlite/sample"}.items():
        for path in (REPOSITORY / source).rglob("*.*"):
            packed = colab / target / path.relative_to(REPOSITORY / source)
            assert "__pycache__" in path.parts or packed.read_bytes() == path.read_bytes()
