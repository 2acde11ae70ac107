"""A profile, and the audit that goes with it, whose whole plan takes seconds."""

from dataclasses import replace
from pathlib import Path

import pytest

from llmlite.audit import plan
from llmlite.audit.runs import Audit
from llmlite.beyond.plan import BEYOND, BeyondConfig
from llmlite.config import DataConfig, ModelConfig, SearchSpace, TrainConfig
from llmlite.experiment import Experiment
from llmlite.plan.runner import work_through
from llmlite.profiles import PROFILES, Grid
from llmlite.sources import sample_folder, split_articles

SEEDS = (1337, 1)
TRAIN = TrainConfig(epochs=1, batch_size=4, amp="off", train_tokens=3_000, valid_tokens=1_000)
FIXED, LEAK = replace(TRAIN, schedule="fixed"), replace(TRAIN, accumulation=2, epoch_windows=64)
PROFILE = replace(
    PROFILES["quick"],
    name="tiny",
    data=DataConfig(vocab_size=300, block_size=64),
    model=ModelConfig(n_layer=2, n_embd=16, dropout=0.0),
    train=TRAIN,
    first=Grid(SearchSpace((1e-3,), (1,), (1,), (8,)), FIXED),
    revised=Grid(SearchSpace((2e-3, 1e-3), (1,), (2,), (8,)), TRAIN),
    seeds=SEEDS,
)
# As in `full`, the scorecard judges by the runs of the retraining and of the grids themselves.
AUDIT = replace(
    plan.AUDITS["quick"], data=DataConfig(vocab_size=300, block_size=8, stride=1),
    model=ModelConfig(n_embd=16, dropout=0.0), deep=2, shallow=1, train=LEAK, again=LEAK,
    short=LEAK, scaled=replace(LEAK, amp="fp16"), other_windows=(4,), padded_window=16,
    seeds=SEEDS, first_seeds=SEEDS[:1], honest=TRAIN, first_grid=FIXED, revised_grid=TRAIN,
    vocabularies=(300, 320), windows=50, study=plan.StudySize(16, 40, 8),
)  # fmt: skip
plan.AUDITS["tiny"] = AUDIT
ONE = DataConfig(vocab_size=300, block_size=32), TRAIN, SearchSpace((3e-3,), (1,), (4,), (8,))
BEYOND["tiny"] = BeyondConfig(*ONE, (3e-3,), SEEDS)


def open_plan(text, out, profile=PROFILE, progress=False, **changes) -> Experiment:
    return Experiment(profile, text, out, "cpu", progress, **changes)


def files(experiment: Experiment) -> dict[Path, int]:
    """When each file of a run was written; the locks' are touched by whoever looks."""
    found = experiment.runs.rglob("*")
    return {p: p.stat().st_mtime_ns for p in found if p.is_file() and not p.name.startswith(".")}


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="session")
def some_articles(tmp_path_factory) -> Path:
    """The first articles of each split of the bundled sample."""
    folder = tmp_path_factory.mktemp("text")
    for split, n in {"train": 30, "valid": 6, "test": 6}.items():
        name = f"wiki.{split}.raw"
        articles = split_articles((sample_folder() / name).read_text("utf-8"))[:n]
        (folder / name).write_text("".join(articles), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def two_seeds(some_articles, tmp_path_factory) -> Path:
    """The folder of an experiment with two seeds of the retraining, scored."""
    experiment = open_plan(some_articles, tmp_path_factory.mktemp("two"))
    experiment.seed_scores()
    return experiment.out


@pytest.fixture(scope="session")
def whole(some_articles, tmp_path_factory) -> Audit:
    """The plan, worked through in another process without a break, and packed as all.tar.gz."""
    experiment = open_plan(some_articles, tmp_path_factory.mktemp("whole"))
    assert work_through(experiment, archive=experiment.out / "all.tar.gz") == []
    return Audit(open_plan(some_articles, experiment.out))
