"""How much a plan is, and how long it takes by measured steps."""

import math
from dataclasses import replace

import pytest
import torch
from benchmarks.tables import benchmark

from llmlite.config import DataConfig, ModelConfig, TrainConfig
from llmlite.data import Dataset
from llmlite.engine import step_operations
from llmlite.experiment import Experiment
from llmlite.model import GPT
from llmlite.plan import budget
from llmlite.plan.budget import announce, estimate, measured, size, step_seconds
from llmlite.plan.whole import chosen, whole_plan
from llmlite.run import Run
from llmlite.train import Compute, Trainer

DATA = DataConfig(vocab_size=50, block_size=8)
MODEL = ModelConfig(vocab_size=50, block_size=8, n_layer=1, n_head=2, n_embd=16, dropout=0.0)
CONFIG = TrainConfig(epochs=3, batch_size=4, accumulation=2, amp="off")
IDS = torch.arange(401) % 50
DATASET = Dataset.of_ids({"train": IDS, "valid": IDS[:81], "test": IDS[:81]}, DATA)


def trainer(folder, model=MODEL, config=CONFIG) -> Trainer:
    return Trainer(Run("x", DATA, model, config), DATASET, folder, Compute(progress=False))


def test_the_size_of_a_run_by_hand(tmp_path):
    run = size(trainer(tmp_path))  # 50 windows of 8: 7 steps of at most 4 × 2 an epoch
    assert (run.steps, run.tokens) == (21, 3 * 50 * 8)
    assert run.valid_tokens == 3 * 80
    assert run.step_operations == step_operations(MODEL, 8)
    assert run.checkpoint_bytes == 16 * GPT(MODEL).n_parameters()


def test_a_steps_seconds_lie_on_a_line_through_two_measured_ones():
    seconds = step_seconds([(1e9, 0.002), (5e9, 0.004)])
    assert seconds(1e9) == pytest.approx(0.002)
    assert seconds(3e9) == pytest.approx(0.003)
    alike = step_seconds([(1e9, 0.002), (1e9, 0.002)])
    assert alike(2e9) == pytest.approx(0.004), "of one size alone it grows with the operations"


def test_the_estimate_is_steps_times_seconds_and_trains_nothing(tmp_path):
    half = trainer(tmp_path / "c", config=replace(CONFIG, amp="bf16"))
    large = trainer(tmp_path / "b", replace(MODEL, n_layer=3))
    runs = {"small": trainer(tmp_path / "a"), "large": large, "half": half}
    table = estimate(runs, measured([runs["small"], large]))
    assert table.steps.tolist() == [21] * 3
    assert (table.minutes > 0).all()
    assert math.isfinite(table.minutes.sum())
    assert not list(tmp_path.rglob("*")), "no run has left a file"
    # 80 tokens of validation for 400 of training, at a third; in half precision as long as a step.
    by_hand = [21 * 2 / 60 * (1 + 80 / 400 / part) for part in (3, 3, 1)]
    assert estimate(runs, lambda _: 2.0).minutes.tolist() == pytest.approx(by_hand)


def test_a_long_stage_is_announced_and_a_short_or_finished_one_is_not(tmp_path, monkeypatch):
    one, two = trainer(tmp_path / "a"), trainer(tmp_path / "b")
    assert announce([one]) is None, "it is over before it could be measured"
    monkeypatch.setattr(budget, "WORTH_COMPILING", {"cpu": 0.0})
    assert announce([one, two]).startswith("2 runs to train: about 1 min")
    two.fit()
    said = "A run to train: about 1 min here, by a few measured steps."
    assert announce([one, two]) == said
    one.fit()
    assert announce([one, two]) is None


def whole_estimate(profile, wikitext, out, points):
    experiment = Experiment(profile, wikitext, out, "cpu", progress=False)
    # Of two that are one training, the first in the plan.
    runs = {experiment.folder(run): run for run in reversed(chosen(whole_plan(experiment)))}
    trainers = {run.name: experiment.trainer(run) for run in runs.values()}
    return estimate(trainers, step_seconds(points))


def test_profile_small_is_a_night_of_two_cores(wikitext, tmp_path, monkeypatch):
    """By the step that `make bench-train` has measured on one thread of a processor with bfloat16,
    its operations held for what a step takes, in two processes side by side."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    case = benchmark("train-cpu")["cases"]["128-bfloat16-1"]
    operations = step_operations(ModelConfig(**case["shape"]), case["batch"])
    step = operations, case["contestants"]["llmlite"]["step_s"]
    table = whole_estimate("small", wikitext, tmp_path, [step, step])
    hours = table.minutes / 60 / 2
    first = hours[table.index.str.match("honest|no-mask-deep|search-revised")]
    assert len(first) == 3 + 1 + 12
    assert first.sum() < 7.1, "the paper's best with three seeds, and the revised grid"
    assert hours[table.index.str.match("grid-revised")].sum() < 5.7, "its corners with two more"
    assert hours.sum() < 15.4
    assert hours.max() * 2 < 3.1, "no run is longer than an evening"
    assert table["M validated"].sum() < 0.11 * table["M tokens"].sum()


@pytest.mark.slow
def test_profile_full_fits_into_slices_of_nine_minutes(wikitext, tmp_path):
    """By the steps that `make gpu` has measured on an H200."""
    speed = benchmark("gpu-h200")["speed"]
    measured_at = {"256 × 128": (256, 128), "32 × 128 × 4": (32, 512)}
    points = [
        (
            step_operations(ModelConfig(block_size=window), windows),
            min(variant["step_s"] for variant in speed[case]["variants"].values()),
        )
        for case, (window, windows) in measured_at.items()
    ]
    table = whole_estimate("full", wikitext, tmp_path, points)
    first = table[table.index.str.match("retrain|no-mask-deep|search-revised")]
    assert len(first) == 3 + 1 + 12
    assert first.minutes.sum() < 9, "what the paper is about, in one slice"
    assert table.minutes.max() < 4, "no run is longer than half a slice"
    assert table.minutes.sum() < 22
    assert table["M validated"].sum() < 0.05 * table["M tokens"].sum()
    assert (table["M validated"] < table["M tokens"]).all()
    assert table["MB of checkpoints"].sum() < 1_000
