"""A run, killed again and again at random moments, ends as one that nobody touched.

`make soak` kills it 25 times, `make test-all` thrice, `make test` once.
"""

import multiprocessing
import random
import shutil
import time

import pytest
import torch
from test_train import assert_same_run, random_ids, trainer


def train(folder):
    torch.set_num_threads(1)
    trainer(folder, ids=random_ids(500), epochs=4).fit()


def kill_at_random(folder, kills):
    """Kill the run and start it again so often, every other time in the middle of a write; the
    steps that were logged at each kill, to see that the moments differ."""

    def logged():
        return sum(path.read_bytes().count(b"\n") for path in folder.glob("steps.jsonl"))

    moments, random_ = [], random.Random(kills)
    while len(moments) < kills:
        size, context = logged(), multiprocessing.get_context("spawn")
        process = context.Process(target=train, args=(folder,))
        process.start()
        while process.is_alive() and logged() == size:  # the imports take seconds
            time.sleep(0.01)
        until = time.monotonic() + random_.uniform(0, 1.5)
        while process.is_alive() and time.monotonic() < until:
            if len(moments) % 2 and list(folder.glob(".*.tmp*")):
                break
            time.sleep(0.0005)
        process.kill()
        process.join()
        if process.exitcode:
            assert process.exitcode == -9
            moments.append(logged())
        else:  # it was done before it could be killed
            shutil.rmtree(folder)
    return moments


@pytest.mark.parametrize("kills", [
    1,
    pytest.param(3, id="short", marks=pytest.mark.slow),
    pytest.param(25, id="long", marks=pytest.mark.soak),
])  # fmt: skip
def test_a_run_killed_at_random_moments_ends_bit_for_bit_the_same(tmp_path, kills):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert len(set(kill_at_random(killed, kills))) > kills // 2
    for folder in (whole, killed):
        train(folder)
    assert_same_run(killed, whole)
