"""Comparing vocabularies, windows and strides by validation, on a tiny corpus."""

import math
from dataclasses import replace

import pandas as pd
import pytest

from llmlite import choice, data, paper
from llmlite.choice import trial
from llmlite.config import DataConfig, DataSpace, TrainConfig
from llmlite.experiment import Experiment
from llmlite.profiles import PROFILES, Profile
from llmlite.train import Trainer

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


def test_the_fewest_bits_per_byte_of_validation_text_come_first(experiment):
    usual, table = experiment.data, experiment.data_choice()
    assert experiment.data == usual == replace(experiment.profile.data, source=usual.source)
    assert len(table) == 8
    trained = table["tokens trained on"]
    assert trained.max() < 2 * trained.min(), "whole epochs, about as many tokens for all"
    assert table["bits per byte"].is_monotonic_increasing
    counts, row = experiment.corpus.counts("valid"), table.iloc[0]
    nats = counts.words_and_line_ends * math.log(row["perplexity per word"])
    assert row["bits per byte"] == pytest.approx(nats / math.log(2) / counts.bytes)


def test_nothing_is_trained_or_scored_twice(experiment, monkeypatch):
    first = experiment.data_choice()
    monkeypatch.setattr(Trainer, "_train", None)
    monkeypatch.setattr(choice, "load_model", None)
    pd.testing.assert_frame_equal(experiment.data_choice(), first)


def test_what_is_missing_where_nothing_is_trained_is_left_out(experiment, capsys):
    reader = Experiment(
        replace(experiment.profile, needs_gpu=True),
        experiment.data.source,
        experiment.out,
        "cpu",
        progress=False,
    )
    assert list(reader.data_choice().columns) == [*choice.CHOSEN, "bits per byte"]
    assert "8 of 8 candidates are missing: profile quick is trained on a GPU" in (
        capsys.readouterr().out
    )
    choice.candidate_score(list(choice.candidates(experiment).values())[3])
    table = reader.data_choice()
    assert "7 of 8" in capsys.readouterr().out
    (row,) = table[list(choice.CHOSEN)].to_dict("records")
    assert row == list(SPACE.points())[3]


def test_the_text_is_read_once_for_all_candidates(experiment, monkeypatch):
    read, load = [], data.load_corpus
    monkeypatch.setattr(data, "load_corpus", lambda *a, **k: read.append(a) or load(*a, **k))
    texts = list(choice.candidates(experiment).values())
    assert len({id(text.corpus) for text in texts}) == len(read) == 1
    assert [text.data.vocab_size for text in texts] == [270] * 4 + [300] * 4
    assert len(texts[0].ids["train"]) > len(texts[-1].ids["train"])


def test_the_profiles_that_take_hours_have_candidates_their_own_among_them():
    assert [name for name, profile in PROFILES.items() if profile.data_space] == ["small", "full"]
    for profile in (PROFILES["small"], PROFILES["full"]):
        data = profile.data
        own = {"vocab_size": data.vocab_size, "block_size": data.block_size}
        own["stride"] = data.stride or data.block_size
        assert own in list(profile.data_space.points())
