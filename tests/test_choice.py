"""Choosing vocabulary, window and stride by validation, on a tiny corpus."""

import math
from dataclasses import replace

import pandas as pd
import pytest

from llmlite import choice, paper
from llmlite import experiment as module
from llmlite.audit import Audit
from llmlite.choice import best_choice, trial
from llmlite.config import DataConfig, DataSpace, TrainConfig
from llmlite.experiment import Experiment
from llmlite.profiles import PROFILES, Profile

pytestmark = pytest.mark.usefixtures("one_thread")

TRIAL = TrainConfig(batch_size=4, patience=0, amp="off", fast=False)
SPACE = DataSpace((270, 300), (8, 16), (1, 2), 4_000, TRIAL)


@pytest.fixture
def profile(monkeypatch) -> Profile:
    monkeypatch.setattr(paper, "BEST", paper.BEST | {"n_layer": 1, "n_embd": 16})
    return replace(PROFILES["quick"], data_space=SPACE)


@pytest.fixture
def experiment(profile, tmp_path) -> Experiment:
    for split in ("train", "valid", "test"):
        articles = "".join(
            f" \n = {split} {i} = \n \n The cat number {i} sat on the mat in the {split} text . \n"
            for i in range(20)
        )
        (tmp_path / f"wiki.{split}.raw").write_text(articles, encoding="utf-8")
    return Experiment(profile, tmp_path, tmp_path / "out", "cpu", progress=False)


def test_the_candidates_are_all_combinations():
    points = list(SPACE.points())
    assert len(points) == 8
    assert points[0] == {"vocab_size": 270, "block_size": 8, "stride": 8}
    assert points[3] == {"vocab_size": 270, "block_size": 16, "stride": 8}
    assert {point["vocab_size"] for point in points} == {270, 300}


@pytest.mark.parametrize(
    ("block", "stride", "epochs", "batch"),
    # 1,000 tokens: side by side an epoch is 1,000 tokens of training, at half a window 2,000.
    [(16, 16, 4, 4), (16, 8, 2, 4), (8, 8, 4, 8), (8, 4, 2, 8)],
)
def test_a_trial_has_the_spaces_tokens_in_all_and_in_a_batch(block, stride, epochs, batch):
    data = DataConfig(vocab_size=270, block_size=block, stride=stride)
    config = trial(SPACE, data, 1_000)
    assert (config.epochs, config.batch_size) == (epochs, batch)
    assert config.patience == 0


def test_the_fewest_bits_per_byte_of_validation_text_decide(experiment):
    table = experiment.data_choice
    assert len(table) == 8
    trained = table["tokens trained on"]
    assert trained.max() < 2 * trained.min(), "whole epochs, about as many tokens for all"
    best = table.sort_values("bits per byte").iloc[0]
    data = experiment.data
    assert (data.vocab_size, data.block_size, data.stride) == (
        best.vocab_size,
        best.block_size,
        best.stride,
    )
    counts = experiment.corpus.counts("valid")
    nats = counts.words_and_line_ends * math.log(best["perplexity per word"])
    assert best["bits per byte"] == pytest.approx(nats / math.log(2) / counts.bytes)
    again = Experiment(experiment.profile, data.source, experiment.out, "cpu", progress=False)
    assert again.data == data, "kept: the table on disk decides"


def test_nothing_is_trained_twice(experiment, monkeypatch):
    first = experiment.data_choice
    monkeypatch.setattr(choice, "Trainer", None)
    table = choice.choose_data(experiment)
    pd.testing.assert_frame_equal(table, first)


def test_the_text_is_read_once_for_all_candidates(experiment, monkeypatch):
    read, load = [], module.load_corpus
    monkeypatch.setattr(module, "load_corpus", lambda data: read.append(data) or load(data))
    texts = choice._texts(experiment)
    assert len({id(text.corpus) for text in texts}) == len(read) == 1
    assert [text.data.vocab_size for text in texts] == [270] * 4 + [300] * 4
    assert len(texts[0].ids["train"]) > len(texts[-1].ids["train"])


def test_what_is_given_is_not_chosen(profile, tmp_path):
    experiment = Experiment(profile, "sample", tmp_path, "cpu", progress=False, vocab_size=300)
    assert experiment.data.vocab_size == 300
    assert experiment.data.block_size == profile.data.block_size
    assert not list(tmp_path.iterdir())


def test_the_audits_texts_are_those_of_its_plan_and_not_chosen_again(experiment):
    audit = Audit(experiment)
    run = audit.leak_runs["no-mask"]
    assert audit.text(run.data).data == replace(run.data, source=experiment.data.source)
    usual = replace(
        experiment.data, **{f: getattr(PROFILES["quick"].data, f) for f in choice.CHOSEN}
    )
    assert audit.text(usual).data == usual


def test_the_best_choice_is_a_row():
    table = pd.DataFrame(
        {
            "vocab_size": [10, 20, 30],
            "block_size": [1, 2, 3],
            "stride": [4, 5, 6],
            "bits per byte": [2.0, 1.5, 1.9],
        }
    )
    assert best_choice(table) == {"vocab_size": 20, "block_size": 2, "stride": 5}


def test_only_the_full_profile_has_candidates():
    assert [name for name, profile in PROFILES.items() if profile.data_space] == ["full"]
