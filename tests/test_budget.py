"""How much a plan is, and how long it takes by measured steps."""

import dataclasses
import math

import pytest
import torch
from benchmarks.tables import benchmark
from llmlite.budget import announce, estimate, measured, size, step_seconds

from llmlite import budget
from llmlite.audit import Audit
from llmlite.config import ModelConfig, TrainConfig
from llmlite.engine import parameters, step_operations
from llmlite.experiment import Experiment
from llmlite.model import GPT
from llmlite.plan import chosen, plan
from llmlite.train import Trainer
from llmlite.windows import TokenWindows

MODEL = ModelConfig(vocab_size=50, block_size=8, n_layer=1, n_head=2, n_embd=16, dropout=0.0)
CONFIG = TrainConfig(epochs=3, batch_size=4, accumulation=2, amp="off")


def trainer(folder, model=MODEL, config=CONFIG, **options) -> Trainer:
    ids = torch.arange(401) % 50
    split = {"train": ids, "valid": ids[:81]}
    return Trainer(model, config, split, folder, {}, progress=False, **options)


def test_the_size_of_a_run_by_hand(tmp_path):
    run = size(trainer(tmp_path))  # 50 windows of 8: 7 steps of at most 4 × 2 an epoch
    assert (run.steps, run.tokens) == (21, 3 * 50 * 8)
    assert run.valid_tokens == 3 * 80
    assert run.step_operations == step_operations(MODEL, 8)
    assert run.checkpoint_bytes == 16 * GPT(MODEL).n_parameters() == 16 * parameters(MODEL)


def test_windows_of_its_own_are_what_a_run_validates_on(tmp_path):
    windows = TokenWindows(torch.arange(401) % 50, 8)
    run = size(trainer(tmp_path, windows={"train": windows, "valid": windows}))
    assert run.valid_tokens == 3 * 400


def test_a_steps_seconds_lie_on_a_line_through_two_measured_ones():
    seconds = step_seconds([(1e9, 0.002), (5e9, 0.004)])
    assert seconds(1e9) == pytest.approx(0.002)
    assert seconds(3e9) == pytest.approx(0.003)
    alike = step_seconds([(1e9, 0.002), (1e9, 0.002)])
    assert alike(2e9) == pytest.approx(0.004), "of one size alone it grows with the operations"


def test_the_estimate_is_steps_times_seconds_and_trains_nothing(tmp_path):
    large = dataclasses.replace(MODEL, n_layer=3)
    runs = {"small": trainer(tmp_path / "a"), "large": trainer(tmp_path / "b", large)}
    table = estimate(runs, measured(list(runs.values())))
    assert table.steps.tolist() == [21, 21]
    assert (table.minutes > 0).all()
    assert math.isfinite(table.minutes.sum())
    assert not list(tmp_path.rglob("*")), "no run has left a file"
    by_hand = 21 * 2 / 60 * (1 + 80 / 400 / 3)  # 80 of validation for 400 of training, at a third
    assert estimate(runs, lambda _: 2.0).minutes.tolist() == pytest.approx([by_hand, by_hand])


def test_a_long_stage_is_announced_and_a_short_or_finished_one_is_not(tmp_path, monkeypatch):
    one = trainer(tmp_path / "a")
    assert announce([one]) is None, "it is over before it could be measured"
    monkeypatch.setattr(budget, "WORTH_COMPILING", {"cpu": 0.0})
    assert announce([one]) == "A run to train: about 1 min here, by a few measured steps."
    two = trainer(tmp_path / "b")
    assert announce([one, two]).startswith("2 runs to train: about 1 min")
    two.fit()
    assert announce([one, two]).startswith("A run to train")
    one.fit()
    assert announce([one, two]) is None


def test_half_precision_is_validated_at_float32s_pace(tmp_path):
    half = {"half": trainer(tmp_path, config=dataclasses.replace(CONFIG, amp="bf16"))}
    by_hand = 21 * 2 / 60 * (1 + 80 / 400)
    assert estimate(half, lambda _: 2.0).minutes.tolist() == pytest.approx([by_hand])


def test_profile_small_is_a_night_of_two_cores(wikitext, tmp_path, monkeypatch):
    """By the step that `make bench-train` has measured on one thread of a processor with bfloat16,
    its operations held for what a step takes, in two processes side by side."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    case = benchmark("train-cpu")["cases"]["128-bfloat16-1"]
    operations = step_operations(ModelConfig(**case["shape"]), case["batch"])
    step = operations, case["contestants"]["llmlite"]["step_s"]
    experiment = Experiment("small", str(wikitext), tmp_path, "cpu", progress=False)
    runs = {task.folder: task for task in reversed(chosen(plan(Audit(experiment)), None))}
    table = estimate({t.name: t.trainer() for t in runs.values()}, step_seconds([step, step]))
    hours = table.minutes / 60 / 2
    first = hours[table.index.str.match("honest|no-mask-deep|search-revised")]
    assert len(first) == 3 + 1 + 12
    parts = first.sum(), hours[table.index.str.match("grid-revised")].sum(), hours.sum()
    assert parts[0] < 7.1, "the paper's best with three seeds, and the revised grid"
    assert parts[1] < 5.7, "its corners with two more seeds"
    assert parts[2] < 15.4
    assert hours.max() * 2 < 3.1, "no run is longer than an evening"
    assert table["M validated"].sum() < 0.11 * table["M tokens"].sum()


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
    experiment = Experiment("full", str(wikitext), tmp_path, "cpu", progress=False)
    runs = {task.folder: task for task in reversed(chosen(plan(Audit(experiment)), None))}
    table = estimate({t.name: t.trainer() for t in runs.values()}, step_seconds(points))
    first = table[table.index.str.match("retrain|no-mask-deep|search-revised")]
    assert len(first) == 3 + 1 + 12
    assert first.minutes.sum() < 9, "what the paper is about, in one slice"
    assert table.minutes.max() < 4, "no run is longer than half a slice"
    assert table.minutes.sum() < 22
    assert table["M validated"].sum() < 0.05 * table["M tokens"].sum()
    assert (table["M validated"] < table["M tokens"]).all()
    assert table["MB of checkpoints"].sum() < 1_000
