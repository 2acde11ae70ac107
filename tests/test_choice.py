"""Comparing vocabularies, windows and strides by validation, on a tiny corpus."""

import math
from dataclasses import replace

import pandas as pd
import pytest
from tiny_plan import PROFILE, open_plan, write_corpus

from llmlite import data, paper
from llmlite.config import DataSpace, TrainConfig
from llmlite.plan.candidates import COLUMNS, candidates, choose_data
from llmlite.train import Trainer

SPACE = DataSpace(
    (270, 300), (8, 16), (1, 2), 2, TrainConfig(batch_size=4, patience=0, amp="off", fast=False)
)
COMPARED = replace(PROFILE, data_space=SPACE)


@pytest.fixture
def start(tmp_path, monkeypatch):
    monkeypatch.setattr(paper, "BEST", paper.BEST | {"n_layer": 1, "n_embd": 16})
    text = write_corpus(tmp_path / "text")
    return lambda profile=COMPARED: open_plan(text, tmp_path / "out", profile)


def test_the_candidates_are_all_combinations_of_one_text(start, monkeypatch):
    read, load = [], data.open_source
    monkeypatch.setattr(data, "open_source", lambda *a, **k: read.append(1) or load(*a, **k))
    experiment = start()
    runs = candidates(experiment)
    cut = [(run.data.vocab_size, run.data.block_size, run.data.stride) for run in runs]
    four = [(8, 8), (8, 4), (16, 16), (16, 8)]
    assert cut == [(vocabulary, *window) for vocabulary in (270, 300) for window in four]
    for run in runs:
        dataset = experiment.dataset_of(run.data)
        assert dataset.tokenizer.vocab_size == run.model.vocab_size == run.data.vocab_size
        # Each token as often, as many in a batch, whatever the window.
        assert run.train.epochs * run.data.block_size / run.data.stride == 2
        assert run.train.batch_size * run.data.block_size == 4 * 16
    assert read == [1]
    assert candidates(start(replace(PROFILE, data_space=None))) == []


def test_the_fewest_bits_per_byte_come_first_and_nothing_is_made_twice(start, monkeypatch):
    experiment = start()
    table = choose_data(experiment)
    assert len(table) == 8
    assert table["bits per byte"].is_monotonic_increasing
    counts, row = experiment.dataset.counts("valid"), table.iloc[0]
    nats = counts.words_and_line_ends * math.log(row["perplexity per word"])
    assert row["bits per byte"] == pytest.approx(nats / math.log(2) / counts.bytes)
    monkeypatch.setattr(Trainer, "fit", None)
    monkeypatch.setattr("llmlite.plan.workspace.load_model", None)
    pd.testing.assert_frame_equal(choose_data(start()), table)


def test_what_is_missing_where_nothing_is_trained_is_left_out(start, capsys):
    reader = start(replace(COMPARED, needs_gpu=True))
    assert list(choose_data(reader).columns) == list(COLUMNS)
    said = "8 of 8 configurations are missing; profile tiny is trained on a GPU"
    assert said in capsys.readouterr().out
    experiment = start()
    experiment.make(candidates(experiment)[3])
    (row,) = choose_data(reader)[list(COLUMNS[:3])].to_dict("records")
    assert row == {"vocab_size": 270, "block_size": 16, "stride": 8}
    assert "7 of 8" in capsys.readouterr().out
