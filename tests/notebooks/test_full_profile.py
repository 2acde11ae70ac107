"""What only profile `full` does (choosing by validation, several seeds), in the notebooks, cut to a
size for a CPU."""

import json

import pandas as pd
import pytest
from notebooks.test_notebooks import NOTEBOOKS, outputs

from llmlite.experiment import SEEDS, Experiment
from llmlite.profiles import PROFILES
from llmlite.publish import gather
from llmlite.reproduce import run_notebooks

# Python runs a file of this name at its start, so the notebooks' kernels have this profile, too.
SITE = """
from dataclasses import replace
from llmlite.config import DataSpace, SearchSpace, TrainConfig
from llmlite.profiles import PROFILES

short = TrainConfig(epochs=1, batch_size=4, amp="off", train_tokens=8_000, valid_tokens=3_000)
PROFILES["full"] = replace(
    PROFILES["quick"],
    name="full",
    data_space=DataSpace((600, 900), (16, 32), (2,), 4_000, replace(short, patience=0)),
    first_grid=SearchSpace((4e-3,), (2,), (4,), (32,)),
    revised_grid=SearchSpace((4e-3,), (2,), (4,), (32,)),
    first_search=short,
    revised_search=short,
    retrain=short,
    seeds=(1337, 1, 2),
)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Notebooks 01 to 03 with that profile on the sample: folder, and what each says."""
    site, out = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("full")
    (site / "sitecustomize.py").write_text(SITE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(site))
        patch.setenv("LLMLITE_HEADLESS", "1")
        executed = run_notebooks(NOTEBOOKS[:3], out, "full", "sample", "cpu")
    return out, [outputs(json.loads(path.read_text())) for path in executed]


def test_vocabulary_and_windows_are_chosen_and_shown_before_anything_else(run):
    out, (prepare, search, retrain) = run
    table = pd.read_csv(out / "choice.csv")
    assert len(table) == 4
    best = table.loc[table["bits per byte"].idxmin()]
    line = (
        f"Used from here on: a vocabulary of {best.vocab_size:,.0f}, windows of "
        f"{best.block_size:.0f} tokens, a new one every {best.stride:.0f}"
    )
    assert line in prepare
    assert "bits per byte" in prepare, "the table of the candidates"
    assert str(round(best["bits per byte"], 4)) in prepare
    assert "revised grid: 1 configurations" in search
    (record, *_) = (json.loads(p.read_text()) for p in out.glob("best-*/record.json"))
    assert record["identity"]["model"]["vocab_size"] == best.vocab_size
    assert record["identity"]["stride"] == best.stride
    assert "test perplexity per token:" in retrain, "over seeds, with an interval"


def test_the_results_are_those_of_all_seeds(run, monkeypatch):
    out, _ = run
    seeds = pd.read_csv(out / SEEDS)
    assert seeds.seed.tolist() == [1337, 1, 2]
    assert seeds["test loss"].nunique() == 3
    monkeypatch.setitem(PROFILES, "full", PROFILES["full"])  # is put back afterwards
    exec(SITE, {})
    rendered = gather(Experiment("full", "sample", out, "cpu", progress=False))
    results = (rendered / "tables" / "results.md").read_text()
    assert (
        f"| test perplexity per token | 1.17 | {seeds['perplexity per token'].mean():.1f} ["
        in results
    )
    assert "3 seeds with 95% intervals" in results
    for seed in (1337, 1, 2):
        assert (rendered / "records" / f"best-seed-{seed}" / "record.json").exists()
    assert (rendered / "records" / "choice.csv").exists()
