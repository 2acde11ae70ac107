"""A short search, killed again and again at random moments, ends as one that nobody touched.

`make soak` kills it 25 times; `make test-all` does so thrice.
"""

import multiprocessing
import random
import shutil
import time

import pandas as pd
import pytest
import torch
from test_train import CONFIG, MODEL, assert_same_run, random_ids

from llmlite.config import DataConfig, SearchSpace
from llmlite.data import Dataset
from llmlite.plan.search import hyperparameter_search
from llmlite.run import Run
from llmlite.train import Compute


def search(folder):
    torch.set_num_threads(1)
    space = SearchSpace(learning_rate=(1e-2, 1e-3), n_layer=(1,), n_head=(1, 2), n_embd=(16,))
    data = DataConfig(vocab_size=50, block_size=16)
    dataset = Dataset.of_ids(random_ids(500), data, {"data": "pairs"})
    base = Run("pairs", data, MODEL, CONFIG)
    hyperparameter_search(space, base, dataset, folder, Compute(progress=False))


def logged(folder):
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*/steps.jsonl"))


def kill_at_random(folder, kills):
    """Kill the search and start it again so often, every other time in the middle of a write; the
    steps that were logged at each kill, to see that the moments differ."""
    moments, random_ = [], random.Random(kills)
    while len(moments) < kills:
        process = multiprocessing.get_context("spawn").Process(target=search, args=(folder,))
        process.start()
        size = logged(folder)
        while process.is_alive() and logged(folder) == size:  # the imports take seconds
            time.sleep(0.01)
        until = time.monotonic() + random_.uniform(0, 1.5)
        while process.is_alive() and time.monotonic() < until:
            if len(moments) % 2 and list(folder.glob("*/.*.tmp*")):
                break
            time.sleep(0.0005)
        process.kill()
        process.join()
        if process.exitcode:
            assert process.exitcode == -9
            moments.append(logged(folder))
        else:  # it was done before it could be killed: take one run back
            shutil.rmtree(min(folder.glob("lr*")))
    return moments


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(3, id="short", marks=pytest.mark.slow),
        pytest.param(25, id="long", marks=pytest.mark.soak),
    ],
)
def test_a_search_killed_at_random_moments_ends_bit_for_bit_the_same(tmp_path, kills):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert len(set(kill_at_random(killed, kills))) > kills // 2
    for folder in (whole, killed):
        search(folder)
    ours, theirs = (
        pd.read_csv(folder / "results.csv").drop(columns=["seconds", "tokens_per_second"])
        for folder in (killed, whole)
    )
    pd.testing.assert_frame_equal(ours, theirs)
    assert len(ours) == 4
    for run in whole.glob("lr*"):
        assert_same_run(killed / run.name, run)
