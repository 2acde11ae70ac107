"""Numbers that a change of the package's shape must not move: goldens.json, written at commit
6420dcb (the list of figures without three that went on purpose). Trainings are compared with room
for another processor's rounding."""

import json
from pathlib import Path

import pytest

from llmlite.config import DataConfig
from llmlite.data import Dataset
from llmlite.experiment import Experiment
from llmlite.metrics import evaluate
from llmlite.plan.archive import unpack
from llmlite.plan.whole import whole_plan
from llmlite.pretrained import load_pretrained
from llmlite.run import read_record

GOLDENS = json.loads(Path(__file__).with_name("goldens.json").read_text("utf-8"))


def test_the_shipped_models_score_on_the_sample(tmp_path):
    shipped, golden = load_pretrained(), GOLDENS["shipped"]
    assert shipped.tokenizer.fingerprint == golden["tokenizer"]
    sample = Dataset(DataConfig(source="sample", vocab_size=2048), tmp_path, progress=False)
    assert sample.tokenizer.fingerprint == GOLDENS["tokenizer"]
    dataset = sample.like(shipped.tokenizer)
    score = evaluate(shipped.model, dataset.ids["test"], dataset.counts("test"))
    assert score.tokens == golden["tokens"]
    assert score.nats == pytest.approx(golden["nats"], rel=1e-5)


@pytest.mark.slow
def test_the_perplexities_and_figures_of_profile_quick(execution, tmp_path):
    clone, archive = execution()
    drawn = {path.stem for path in (clone / "figures").glob("*.png")}
    assert drawn >= set(GOLDENS["figures"])
    unpack(archive, tmp_path, "quick")
    experiment = Experiment("quick", "sample", tmp_path, "cpu", progress=False)
    made = {run.name: experiment.folder(run) for run in whole_plan(experiment)}
    for name, golden in GOLDENS["quick"].items():
        perplexity = read_record(made[name])["best"]["perplexity"]
        assert perplexity == pytest.approx(golden, rel=0.05), name
