"""A short search, killed again and again at random moments, ends as one that nobody touched.

`make soak` kills it 25 times; `make test-all` does so thrice.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from llmlite.run import read_record

WORKER = Path(__file__).resolve().parent / "soak_worker.py"
TIMES = ["seconds", "tokens_per_second"]  # what depends on the clock


def start(folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, WORKER, folder], env=environment)


def kill_at_random(folder, kills, seed):
    """Kill the search and start it again so often; every other time in the middle of a write.

    Returns the steps that were logged at each kill, to see that the moments differ.
    """
    moments, random_ = [], random.Random(seed)
    while len(moments) < kills:
        process = start(folder)
        size = logged(folder)
        while process.poll() is None and logged(folder) == size:  # the imports take seconds
            time.sleep(0.01)
        deadline = time.monotonic() + random_.uniform(0, 1.5)
        writing = len(moments) % 2 == 1
        while process.poll() is None and time.monotonic() < deadline:
            if writing and list(folder.glob("*/.*.tmp*")):
                break
            time.sleep(0.0005)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
            moments.append(logged(folder))
        elif process.returncode != 0:
            pytest.fail(f"the search ended with {process.returncode}")
        else:  # it was done before it could be killed: take one run back
            (run, *_) = sorted(folder.glob("lr*/record.json"))
            for path in run.parent.iterdir():
                path.unlink()
    assert start(folder).wait() == 0
    return moments


def logged(folder):
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*/steps.jsonl"))


def assert_same_search(killed, whole):
    tables = [pd.read_csv(folder / "results.csv").drop(columns=TIMES) for folder in (killed, whole)]
    pd.testing.assert_frame_equal(*tables)
    runs = [folder.name for folder in whole.glob("lr*")]
    assert len(runs) == 4
    for name in runs:
        ours, theirs = killed / name, whole / name
        assert (ours / "steps.jsonl").read_bytes() == (theirs / "steps.jsonl").read_bytes()
        a, b = (load_file(folder / "best.safetensors") for folder in (ours, theirs))
        assert all(torch.equal(a[key], b[key]) for key in a.keys() | b.keys())
        logs = [
            [{k: v for k, v in epoch.items() if k not in TIMES} for epoch in record["epochs"]]
            for record in (read_record(ours), read_record(theirs))
        ]
        assert logs[0] == logs[1]
        left = {path.name for path in ours.iterdir()}
        assert not {name for name in left if "tmp" in name or name.endswith(".pt")}


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(3, id="short", marks=pytest.mark.slow),
        pytest.param(25, id="long", marks=pytest.mark.soak),
    ],
)
def test_a_search_killed_at_random_moments_ends_bit_for_bit_the_same(tmp_path, kills):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    killed.mkdir()
    assert start(whole).wait() == 0
    moments = kill_at_random(killed, kills, seed=kills)
    assert len(set(moments)) > kills // 2
    assert_same_search(killed, whole)
