"""A profile, and the audit that goes with it, whose whole plan takes seconds."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from llmlite.audit import plan
from llmlite.audit.runs import Audit
from llmlite.config import DataConfig, DataSpace, ModelConfig, SearchSpace, TrainConfig
from llmlite.experiment import Experiment
from llmlite.plan.runner import work_through as work
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
    data_grid=Grid(DataSpace((300,), (16,), (2,)), replace(TRAIN, epochs=2)),
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
ARTICLES = {"train": 30, "valid": 6, "test": 6}


def open_plan(text, out, profile=PROFILE) -> Experiment:
    return Experiment(profile, text, out, "cpu", progress=False)


def files(experiment: Experiment) -> dict[Path, int]:
    """When each file of a run was written; the locks' are touched by whoever looks."""
    found = experiment.runs.rglob("*")
    return {p: p.stat().st_mtime_ns for p in found if p.is_file() and not p.name.startswith(".")}


def text_of(articles: int, word: str = "river") -> str:
    """Articles in WikiText's form."""
    parts = []
    for number in range(articles):
        lines = [
            "", f"= Place {number} =", "", f"Place {number} lies on the {word} {number} .", "",
            "= = History = =", "", f"It was founded in {1800 + number} by a {word} @-@ side .",
        ]  # fmt: skip
        parts.append("".join(f" {line} \n" if line else " \n" for line in lines) + " \n")
    return "".join(parts)


def write_corpus(folder: Path, word: str = "river") -> Path:
    """`text_of` 40, 6 and 5 articles as the three splits."""
    folder.mkdir(exist_ok=True)
    for split, articles in (("train", 40), ("valid", 6), ("test", 5)):
        (folder / f"wiki.{split}.raw").write_text(text_of(articles, word), encoding="utf-8")
    return folder


@contextmanager
def one_core() -> Iterator[None]:
    """For the workers as well, which have as many threads as cores: tensors this small lose by it.

    They inherit where they may run."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture(scope="session")
def some_articles(tmp_path_factory) -> Path:
    """The first articles of each split of the bundled sample."""
    folder = tmp_path_factory.mktemp("text")
    for split, n in ARTICLES.items():
        name = f"wiki.{split}.raw"
        articles = split_articles((sample_folder() / name).read_text("utf-8"))[:n]
        (folder / name).write_text("".join(articles), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def whole(some_articles, tmp_path_factory) -> Audit:
    """The plan, worked through in another process without a break, and packed as all.tar.gz."""
    experiment = open_plan(some_articles, tmp_path_factory.mktemp("whole"))
    with one_core():
        assert work(experiment, archive=experiment.out / "all.tar.gz") == []
    return Audit(open_plan(some_articles, experiment.out))
