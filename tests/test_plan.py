"""The whole plan of a profile so small that it takes seconds: worked through, killed, packed."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from llmlite.audit import Audit
from llmlite.audit.plan import HEADS
from llmlite.audit.studies import STUDIES
from llmlite.checkpoint import read_record
from llmlite.config import DataConfig, DataSpace, ModelConfig, SearchSpace, TrainConfig
from llmlite.data import sample_folder, split_articles
from llmlite.errors import CheckpointError, MissingRunError
from llmlite.experiment import Experiment
from llmlite.plan import FORMAT, MANIFEST, RESERVE, chosen, pack, plan, unpack, work
from llmlite.profiles import PROFILES

SEEDS = (1337, 1)
TRAIN = TrainConfig(epochs=1, batch_size=4, amp="off", train_tokens=3_000, valid_tokens=1_000)
FIXED, LEAK = replace(TRAIN, schedule="fixed"), replace(TRAIN, accumulation=2, epoch_windows=64)
# As in `full`, the scorecard judges by the runs of the retraining and of the grid themselves.
AUDIT = replace(
    PROFILES["quick"].audit, data=DataConfig(vocab_size=300, block_size=8, stride=1),
    model=ModelConfig(n_embd=16, dropout=0.0), deep=2, shallow=1, train=LEAK, again=LEAK,
    short=LEAK, scaled=replace(LEAK, amp="fp16"), other_windows=(4,), padded_window=16,
    seeds=SEEDS, first_seeds=SEEDS[:1], honest=TRAIN, first_grid=FIXED, revised_grid=TRAIN,
    windows=50, samples=16, sample_tokens=40, sentences=8,
)  # fmt: skip
PROFILE = replace(
    PROFILES["quick"], data=DataConfig(vocab_size=300, block_size=64), seeds=SEEDS, audit=AUDIT,
    data_space=DataSpace((300,), (16,), (2,), 1_000, TRAIN),
    first_grid=SearchSpace((1e-3,), (1,), (1,), (8,)), first_search=FIXED,
    revised_grid=SearchSpace((2e-3, 1e-3), (1,), (2,), (8,)), revised_search=TRAIN, retrain=TRAIN,
    retrain_configuration={"learning_rate": 1e-3, "n_layer": 2, "n_head": HEADS, "n_embd": 16},
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_core():
    """For the workers as well, which have as many threads as cores: tensors this small lose by it.

    They inherit where they may run."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    yield
    os.sched_setaffinity(0, cores)


def settings(text, out, profile=PROFILE) -> dict:
    return {"profile": profile, "data": str(text), "out": str(out), "device": "cpu"}


def audit_in(text, out, **changes) -> Audit:
    """Of the plan in `out`; changes: of its profile."""
    return Audit(Experiment(**settings(text, out, replace(PROFILE, **changes)), progress=False))


def files(folder) -> dict[Path, int]:
    """When each was written; the locks' are touched by whoever looks."""
    found = [p for p in Path(folder).rglob("*") if p.is_file() and not p.name.startswith(".")]
    return {path: path.stat().st_mtime_ns for path in found}


def losses(folder) -> list[dict]:
    """A run's epochs without their times, and its steps."""
    epochs = read_record(folder)["epochs"]
    times = ("seconds", "tokens_per_second")
    timeless = [{k: v for k, v in epoch.items() if k not in times} for epoch in epochs]
    return [*timeless, *map(json.loads, (folder / "steps.jsonl").read_text().splitlines())]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """The first articles of each split of the bundled sample."""
    folder = tmp_path_factory.mktemp("text")
    for split, n in (("train", 30), ("valid", 6), ("test", 6)):
        name = f"wiki.{split}.raw"
        articles = split_articles((sample_folder() / name).read_text("utf-8"))[:n]
        (folder / name).write_text("".join(a.text for a in articles), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory) -> Audit:
    """The plan, worked through without a break."""
    out = tmp_path_factory.mktemp("whole")
    assert work(settings(text, out), archive=out / "all.tar.gz") == []
    return audit_in(text, out)


def test_all_is_done_and_the_same_call_makes_nothing(whole, text):
    out = whole.experiment.out
    assert all(task.done() for task in plan(whole))
    before = files(whole.experiment.runs)
    assert work(settings(text, out)) == []
    assert files(whole.experiment.runs) == before


def test_a_run_that_two_tasks_want_is_one(whole):
    tasks = {task.name: task for task in plan(whole)}
    assert len(tasks) == len(plan(whole)), "a name is one task's"
    for seed in SEEDS:
        assert tasks[f"honest-seed-{seed}"].folder == tasks[f"retrain-seed-{seed}"].folder
    grids = [t.folder for name, t in tasks.items() if name.startswith("grid-revised-seed-1337")]
    assert grids == [t.folder for name, t in tasks.items() if name.startswith("search-revised")]
    assert len(grids) == 2
    assert {task.folder for task in tasks.values()} == set(whole.experiment.runs.iterdir())


def test_what_is_to_be_retrained_is_searched_for_first(text, tmp_path):
    unknown = {"retrain_configuration": None}
    names = [task.name for task in plan(audit_in(text, tmp_path, **unknown))]
    assert not [name for name in names if name.startswith("retrain")]
    assert names[:3] == ["honest-seed-1337", "no-mask-deep", "honest-seed-1"]
    # The paper's best may turn out to be what is retrained and looked at.
    honest, archive = "honest-seed-1337", tmp_path / "a.tar.gz"
    of_profile = settings(text, tmp_path, replace(PROFILE, **unknown))
    assert work(of_profile, only=(honest,), processes=2, archive=archive) == []
    assert "best.safetensors" in packed(archive)
    assert len(list((tmp_path / "plan").iterdir())) == 1, "a run has no use for two workers"
    # A worker that has searched the grid takes up what it adds to the plan.
    assert work(of_profile, only=("search-revised", "retrain")) == []
    tasks = plan(audit_in(text, tmp_path, **unknown))
    retrained = [task for task in tasks if task.name.startswith("retrain")]
    assert [task.name for task in retrained] == [f"retrain-seed-{seed}" for seed in SEEDS]
    assert all(task.done() for task in retrained)
    assert tasks[0].name == "retrain-seed-1337"


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_plan
from llmlite import plan
plan.PACK_EVERY = 0
plan.work(test_plan.settings(*sys.argv[2:4]), test_plan.FEW, archive=Path(sys.argv[4]))
"""
FEW = ("retrain", "search-revised", "unshifted")


def packed(archive) -> list[str]:
    if not archive.exists():
        return []
    with tarfile.open(archive) as file:
        return [Path(name).name for name in file.getnames()]


@pytest.mark.slow
def test_a_killed_plan_is_carried_on_elsewhere_from_its_archive(whole, text, tmp_path):
    archive, other = tmp_path / "kept.tar.gz", tmp_path / "other"
    arguments = [Path(__file__).parent, text, tmp_path / "killed", archive]
    child = subprocess.Popen([sys.executable, "-c", KILLED, *arguments], start_new_session=True)
    try:
        while "test_score.json" not in packed(archive):
            assert child.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    unpack(archive, other)
    before = files(other / "runs")
    assert work(settings(text, other), FEW, archive=archive) == []
    assert before.items() <= files(other / "runs").items(), "nothing of it was made again"
    for task in chosen(plan(whole), FEW):
        assert losses(task.folder) == losses(other / "runs" / task.folder.name), task.name


def test_a_task_that_fails_is_named_and_the_others_are_made(text, tmp_path):
    huge = {**PROFILE.retrain_configuration, "learning_rate": 1e30}
    grid = replace(PROFILE.revised_grid, learning_rate=(1e30, 1e-3))
    profile = replace(PROFILE, retrain_configuration=huge, revised_grid=grid, seeds=SEEDS[:1])
    left = work(settings(text, tmp_path, profile), only=["retrain", "search-revised"])
    names = [task.name for task in left]
    assert names == ["retrain-seed-1337", "search-revised-lr1e+30-1l-2h-8d"]
    assert {read_record(task.folder)["status"] for task in left} == {"failed"}
    log = (tmp_path / "plan" / "worker-0.log").read_text("utf-8")
    assert "DivergedError" in log
    assert "search-revised-lr0.001-1l-2h-8d" in log
    assert len(list((tmp_path / "runs").iterdir())) == 3


def test_when_the_time_is_over_the_rest_is_named(text, tmp_path):
    began = time.monotonic()
    left = work(settings(text, tmp_path), minutes=(RESERVE + 1) / 60, archive=tmp_path / "a")
    assert time.monotonic() - began < RESERVE
    tasks = chosen(plan(audit_in(text, tmp_path)), None)
    assert [task.name for task in left] == [task.name for task in tasks if not task.done()]
    assert left, "or it was not short"
    assert unpack(tmp_path / "a", tmp_path / "b")["profile"] == "quick"


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
        unpack(archive, out)
    assert str(archive) in one_sentence(error)
    assert not out.exists()
    assert not list(tmp_path.rglob("outside"))


def test_what_needs_a_gpu_is_missing_without_its_records(text, tmp_path, capsys):
    audit = audit_in(text, tmp_path, needs_gpu=True)
    experiment = audit.experiment
    assert experiment.search("revised").status.tolist() == ["missing"] * 2
    assert "2 of 2 configurations are missing; profile quick is trained on a GPU, by `llmlite" in (
        capsys.readouterr().out
    )
    for make in (
        experiment.retrain,
        experiment.test_score,
        lambda: audit.record("mask"),
        lambda: audit.scores("honest-seed-1"),
    ):
        with pytest.raises(MissingRunError):
            make()
    assert not experiment.runs.exists()


def test_a_seed_of_a_grid_that_is_missing_is_left_out(whole, text, tmp_path):
    shared = [task for task in plan(whole) if task.name.startswith("search-revised")]
    unpack(pack(whole.experiment, shared, tmp_path / "a.tar.gz"), tmp_path)
    audit = audit_in(text, tmp_path, needs_gpu=True)
    assert set(audit.grids("revised").seed) == {SEEDS[0]}
    assert len(audit.grids("first")) == 0


def test_everything_is_read_from_an_archive_without_training(whole, text, tmp_path):
    unpack(whole.experiment.out / "all.tar.gz", tmp_path)
    audit = audit_in(text, tmp_path, needs_gpu=True)
    experiment, before = audit.experiment, files(tmp_path / "runs")
    assert experiment.test_score() == whole.experiment.test_score()
    assert experiment.seed_scores().equals(whole.experiment.seed_scores())
    for grid in ("first", "revised"):
        assert set(experiment.search(grid).status) == {"finished"}
    for grid in ("first", "revised", "longer"):
        assert audit.grids(grid).equals(whole.grids(grid))
    for name in audit.honest_runs:
        assert audit.scores(name) == whole.scores(name)
        assert all(audit.study(study, name) == whole.study(study, name) for study in STUDIES)
    for name in audit.leak_runs:
        assert audit.record(name)["measures"] == whole.record(name)["measures"]
    assert len(experiment.data_choice()) == 1
    assert experiment.model.config == whole.experiment.model.config
    assert len(list(tmp_path.glob("runs/*/best.safetensors"))) == 1, "the model that is studied"
    assert files(tmp_path / "runs") == before
