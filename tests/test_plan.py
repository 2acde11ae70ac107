"""The whole plan of a profile so small that it takes seconds: worked through, killed, packed."""

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_plan import PROFILE, SEEDS, files, one_core, open_plan

from llmlite.audit.heads import STUDIES
from llmlite.audit.runs import Audit
from llmlite.files import CheckpointError, LLMLiteError, MissingRunError
from llmlite.plan import runner
from llmlite.plan.archive import FORMAT, MANIFEST, pack, unpack
from llmlite.plan.candidates import choose_data
from llmlite.plan.runner import RESERVE
from llmlite.plan.runner import work_through as work
from llmlite.plan.whole import chosen, whole_plan
from llmlite.profiles import changed
from llmlite.run import RECORD, STEPS, WEIGHTS, read_record

SEARCHED = replace(PROFILE, searched=True)  # what is retrained is the best of the revised grid
SHOWN = replace(PROFILE, needs_gpu=True)  # from its records alone


@pytest.fixture(scope="module", autouse=True)
def on_one_core():
    with one_core():
        yield


def losses(folder) -> list[dict]:
    """A run's epochs without their times, and its steps."""
    epochs = read_record(folder)["epochs"]
    times = ("seconds", "tokens_per_second")
    timeless = [{k: v for k, v in epoch.items() if k not in times} for epoch in epochs]
    return [*timeless, *map(json.loads, (folder / STEPS).read_text().splitlines())]


def names(runs) -> list[str]:
    return [run.name for run in runs]


# -- the plan and its workers ---------------------------------------------------------------------


def test_all_is_done_and_the_same_call_makes_nothing(whole):
    experiment = whole.experiment
    assert all(map(experiment.is_done, whole_plan(experiment)))
    before = files(experiment)
    assert work(experiment) == []
    assert files(experiment) == before


def test_a_pickled_experiment_opens_the_same_folder(whole):
    """As the runner's workers get it."""
    experiment = whole.experiment
    assert len(experiment.dataset.ids["train"]) > 10_000
    pickled = pickle.dumps(experiment)
    assert len(pickled) < 20_000, "without text and tokens"
    other = pickle.loads(pickled)
    assert other.dataset is not experiment.dataset
    assert other.dataset.about == experiment.dataset.about
    assert names(whole_plan(other)) == names(whole_plan(experiment))
    for run in whole_plan(other):
        assert other.is_done(pickle.loads(pickle.dumps(run)))


def test_a_run_that_two_want_is_one(whole):
    experiment, runs = whole.experiment, whole_plan(whole.experiment)
    folder = {run.name: experiment.folder(run) for run in runs}
    assert len(folder) == len(runs), "a name is one run's"
    for seed in SEEDS:
        assert folder[f"honest-seed-{seed}"] == folder[f"retrain-seed-{seed}"]
    grids = [path for name, path in folder.items() if name.startswith("grid-revised-seed-1337")]
    assert grids == [path for name, path in folder.items() if name.startswith("search-revised")]
    assert len(grids) == 2
    assert set(folder.values()) == set(experiment.runs.iterdir())
    assert not [name for name in names(chosen(runs)) if name.startswith("grid-revised-seed-1337")]
    assert {"retrain-seed-1337", "honest-seed-1337"} <= set(names(chosen(runs))), "of two measures"
    assert names(chosen(runs, ["no-mask-s", "mask"])) == ["mask", "no-mask-seed-1"]
    with pytest.raises(LLMLiteError, match="Nothing in the plan begins with x, y"):
        chosen(runs, ["x", "y"])


def test_two_runs_of_one_folder_are_never_given_out_at_once(some_articles, tmp_path, monkeypatch):
    experiment, busy, most = open_plan(some_articles, tmp_path), {}, []

    class Pool:
        """Two workers, of which the one that began first is done first."""

        def __init__(self, *_): ...
        def shutdown(self, **_): ...

        def submit(self, make, run):
            assert experiment.folder(run) not in busy.values(), run.name
            future = Future()
            busy[future] = experiment.folder(run)
            most.append(len(busy))
            return future

    def wait(futures, **_):
        first = next(iter(futures))
        first.set_result(busy.pop(first) is None)
        return {first}, set()

    monkeypatch.setattr(runner, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(runner, "wait", wait)
    work(experiment, only=("retrain", "honest", "search-revised", "grid-revised"), processes=2)
    assert max(most) == 2
    assert len(most) == 2 + 2 + 2, "what fails under one name is not tried under another"


def test_what_is_to_be_retrained_is_searched_for_first(some_articles, tmp_path):
    experiment = open_plan(some_articles, tmp_path, SEARCHED)
    first = ["honest-seed-1337", "no-mask-deep", "honest-seed-1"]
    assert names(whole_plan(experiment))[:3] == first
    # The paper's best may turn out to be what is retrained and looked at.
    archive = tmp_path / "a.tar.gz"
    assert work(experiment, first[:1], processes=2, archive=archive) == []
    assert WEIGHTS in packed(archive)
    assert len(list((tmp_path / "plan").iterdir())) == 1, "a run has no use for two workers"
    # When the grid has been searched, its best is in the plan and made.
    assert work(experiment, only=("search-revised", "retrain")) == []
    retrained = whole_plan(experiment)[:1] + whole_plan(experiment)[2:3]
    assert names(retrained) == [f"retrain-seed-{seed}" for seed in SEEDS]
    assert all(map(experiment.is_done, retrained))


def test_a_run_that_fails_is_named_and_the_others_are_made(some_articles, tmp_path):
    huge = {"train.learning_rate": 1e30, "revised.space.learning_rate": (1e30, 1e-3)}
    profile = changed(PROFILE, huge | {"seeds": SEEDS[:1]})
    experiment = open_plan(some_articles, tmp_path, profile)
    left = work(experiment, only=["retrain", "search-revised"])
    assert names(left) == ["retrain-seed-1337", "search-revised-lr1e+30-1l-2h-8d"]
    assert {read_record(experiment.folder(run))["status"] for run in left} == {"failed"}
    (log,) = (tmp_path / "plan").iterdir()
    assert "DivergedError" in log.read_text("utf-8")
    assert "search-revised-lr0.001-1l-2h-8d" in log.read_text("utf-8")
    assert len(list(experiment.runs.iterdir())) == 3


def test_when_the_time_is_over_the_rest_is_named(some_articles, tmp_path):
    experiment, archive = open_plan(some_articles, tmp_path), tmp_path / "a"
    assert not experiment.is_done(whole_plan(experiment)[-1]), "the text is encoded by now"
    began = time.monotonic()
    left = work(experiment, minutes=(RESERVE + 1) / 60, archive=archive)
    assert time.monotonic() - began < RESERVE
    runs = chosen(whole_plan(experiment))
    assert names(left) == names(run for run in runs if not experiment.is_done(run))
    assert left, "or it was not short"
    with pytest.raises(LLMLiteError, match="is of profile tiny, not quick; say --profile"):
        unpack(archive, tmp_path / "b", "quick")
    with pytest.raises(LLMLiteError, match="nothing to do in 0 minutes"):
        work(experiment, minutes=0)


KILLED = """
import sys
from pathlib import Path
if __name__ == "__main__":
    import test_plan
    text, out, archive = map(Path, sys.argv[1:])
    test_plan.runner.PACK_EVERY = 0
    test_plan.work(test_plan.open_plan(text, out), test_plan.FEW, archive=archive)
"""
FEW = ("retrain", "search-revised", "unshifted")


def packed(archive) -> list[str]:
    if not archive.exists():
        return []
    with tarfile.open(archive) as file:
        return [Path(name).name for name in file.getnames()]


@pytest.mark.slow
def test_a_killed_plan_is_carried_on_elsewhere_from_its_archive(whole, some_articles, tmp_path):
    archive, other = tmp_path / "kept.tar.gz", open_plan(some_articles, tmp_path / "other")
    command = [sys.executable, "-c", KILLED, some_articles, tmp_path / "killed", archive]
    paths = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    child = subprocess.Popen(command, start_new_session=True, env=os.environ | paths)
    try:
        while "test_score.json" not in packed(archive):
            assert child.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    unpack(archive, other.out, "tiny")
    before = files(other)
    assert work(other, FEW, archive=archive) == []
    assert before.items() <= files(other).items(), "nothing of it was made again"
    for run in chosen(whole_plan(other), FEW):
        assert losses(whole.experiment.folder(run)) == losses(other.folder(run)), run.name


# -- archives -------------------------------------------------------------------------------------

GOOD = json.dumps({"format": FORMAT, "profile": "quick"})
CONTENTS = [
    *({"x": ""}, {MANIFEST: "{"}, {MANIFEST: json.dumps({"format": "another"})}),
    *({MANIFEST: GOOD, name: ""} for name in ("../outside", "runs/../../outside")),
    *(None, "empty", "half", "foreign"),
]


@pytest.mark.parametrize("contents", CONTENTS)
def test_what_is_no_archive_is_refused_and_writes_nothing(whole, tmp_path, contents, one_sentence):
    archive, out = tmp_path / "in" / "a.tar.gz", tmp_path / "in" / "out"
    archive.parent.mkdir()
    good = (whole.experiment.out / "all.tar.gz").read_bytes()
    damaged = {"empty": b"", "half": good[: len(good) // 2], "foreign": b"no archive"}
    if isinstance(contents, dict):
        with tarfile.open(archive, "w:gz") as file:
            for name, content in contents.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content.encode()))
    elif contents:
        archive.write_bytes(damaged[contents])
    with pytest.raises(CheckpointError) as error:
        unpack(archive, out, "quick")
    assert str(archive) in one_sentence(error)
    assert not out.exists()
    assert not list(tmp_path.rglob("outside"))


def test_what_needs_a_gpu_is_missing_without_its_records(some_articles, tmp_path, capsys):
    experiment = open_plan(some_articles, tmp_path, SHOWN)
    assert experiment.search("revised").status.tolist() == ["missing"] * 2
    said = "2 of 2 configurations are missing; profile tiny is trained on a GPU, by `llmlite run"
    assert said in capsys.readouterr().out
    audit = Audit(experiment)
    for make in (
        experiment.retrain,
        experiment.test_score,
        lambda: audit.record("mask"),
        lambda: audit.measured("scores"),
    ):
        with pytest.raises(MissingRunError):
            make()
    assert audit.leaks() == {}
    assert "no-mask-deep" in capsys.readouterr().out
    with pytest.raises(LLMLiteError, match="runs are to be trained; profile tiny is trained on a"):
        work(experiment)
    assert not experiment.runs.exists()


def test_a_seed_of_a_grid_that_is_missing_is_left_out(whole, some_articles, tmp_path):
    shared = chosen(whole_plan(whole.experiment), ["search-revised"])
    unpack(pack(whole.experiment, shared, tmp_path / "a.tar.gz"), tmp_path, "tiny")
    audit = Audit(open_plan(some_articles, tmp_path, SHOWN))
    assert set(audit.grids("revised").seed) == {SEEDS[0]}
    assert len(audit.grids("first")) == 0


def test_everything_is_read_from_an_archive_without_training(whole, some_articles, tmp_path):
    unpack(whole.experiment.out / "all.tar.gz", tmp_path, "tiny")
    experiment = open_plan(some_articles, tmp_path, SHOWN)
    audit, before = Audit(experiment), files(experiment)
    assert experiment.test_score() == whole.experiment.test_score()
    assert experiment.seed_scores().equals(whole.experiment.seed_scores())
    for grid in ("first", "revised"):
        assert set(experiment.search(grid).status) == {"finished"}
    for grid in ("first", "revised", "longer"):
        assert audit.grids(grid).equals(whole.grids(grid))
    for what in ("scores", *STUDIES):
        assert audit.measured(what) == whole.measured(what)
    for name in audit.leak_runs:
        assert audit.record(name)["measures"] == whole.record(name)["measures"]
        assert read_record(experiment.folder(audit.leak_runs[name]))["command"] is None
    assert len(choose_data(experiment)) == 1
    assert experiment.model.config == whole.experiment.model.config
    assert len(list(tmp_path.glob(f"runs/*/{WEIGHTS}"))) == 1, "the model that is studied"
    assert len(list(tmp_path.glob(f"runs/*/{RECORD}"))) == len(list(tmp_path.glob("runs/*")))
    assert files(experiment) == before
