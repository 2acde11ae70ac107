"""What only profile `full` does (comparing candidates, several seeds), in the notebooks, cut to a
size for a CPU."""

import json
import os
from itertools import product

import pandas as pd
import pytest
from notebooks.test_notebooks import NOTEBOOKS, outputs

from llmlite.cli.notebooks import run_notebooks
from llmlite.experiment import SEEDS
from llmlite.profiles import PROFILES

pytestmark = pytest.mark.slow

# Python runs a file of this name at its start, so the notebooks' kernels have this profile, too.
SITE = """
from dataclasses import replace
from llmlite.config import DataSpace, SearchSpace, TrainConfig
from llmlite.profiles import PROFILES, Grid

short = TrainConfig(epochs=1, batch_size=4, amp="off", train_tokens=8_000, valid_tokens=3_000)
grid = Grid(SearchSpace((4e-3,), (2,), (4,), (32,)), short)
PROFILES["full"] = replace(
    PROFILES["quick"],
    name="full",
    data_grid=Grid(DataSpace((600, 900), (16, 32), (2,)), replace(short, epochs=2, patience=0)),
    first=grid,
    revised=grid,
    train=short,
    seeds=(1337, 1, 2),
)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Notebooks 01 to 03 with that profile on the sample: folder, and what each says."""
    site, out = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("full")
    (site / "sitecustomize.py").write_text(SITE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
        patch.setenv("LLMLITE_HEADLESS", "1")
        executed = run_notebooks(NOTEBOOKS[:3], out, "full", "sample", "cpu")
    return out, [outputs(json.loads(path.read_text())) for path in executed]


def test_the_candidates_are_compared_and_the_profiles_data_used(run):
    out, (prepare, search, retrain) = run
    assert "bits per byte" in prepare, "the table of the candidates"
    data = PROFILES["quick"].data
    assert f"vocabulary of {data.vocab_size:,}, windows of {data.block_size} tokens" in prepare
    assert "revised grid: 1 configurations" in search
    records = [json.loads(p.read_text())["identity"] for p in out.glob("runs/*/record.json")]
    sizes = [(record["model"]["vocab_size"], record["model"]["block_size"]) for record in records]
    assert set(sizes) == {*product((600, 900), (16, 32)), (data.vocab_size, data.block_size)}
    assert "test perplexity per token:" in retrain, "over seeds, with an interval"


def test_the_results_are_those_of_all_seeds(run):
    out, _ = run
    seeds = pd.read_csv(out / SEEDS)
    assert seeds.seed.tolist() == [1337, 1, 2]
    assert seeds["test loss"].nunique() == 3
    assert len(list(out.glob("runs/*/test_score.json"))) == 3
