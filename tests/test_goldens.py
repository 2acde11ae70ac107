"""Numbers that a change of the package's shape must not move: goldens.json, written at commit
6420dcb (the list of figures without three that went on purpose)."""

import json
from pathlib import Path

import pytest

from llmlite.experiment import Experiment
from llmlite.plan.archive import unpack
from llmlite.plan.whole import whole_plan
from llmlite.run import read_record


@pytest.mark.slow
def test_the_perplexities_and_figures_of_profile_quick(execution, tmp_path):
    goldens = json.loads(Path(__file__).with_name("goldens.json").read_text("utf-8"))
    clone, archive = execution()
    drawn = {path.stem for path in (clone / "figures").glob("*.png")}
    assert drawn >= set(goldens["figures"])
    unpack(archive, tmp_path, "quick")
    experiment = Experiment("quick", "sample", tmp_path, "cpu", progress=False)
    made = {run.name: experiment.folder(run) for run in whole_plan(experiment)}
    for name, golden in goldens["quick"].items():
        perplexity = read_record(made[name])["best"]["perplexity"]
        assert perplexity == pytest.approx(golden, rel=0.05), name  # other processors round
