"""How long the profiles' plans take, by counted operations and measured steps (README)."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from benchmarks.tables import benchmark

from llmlite.config import ModelConfig
from llmlite.engine import step_operations
from llmlite.experiment import Experiment
from llmlite.plan.whole import chosen, whole_plan


def plan_hours(profile, wikitext, out, step_seconds: Callable[[float], float]) -> pd.Series:
    """Of each training in the plan, if it does not stop early, by its operations a step."""
    experiment = Experiment(profile, wikitext, out, "cpu", progress=False)
    # Of two that are one training, the first in the plan.
    runs = {experiment.folder(run): run for run in reversed(chosen(whole_plan(experiment)))}
    hours = {}
    for run in runs.values():
        trainer = experiment.trainer(run)
        # A forward pass is a third of a step, and in float32, so of a step in half precision all.
        share = 1 / 3 if trainer.dtype is None else 1
        valid = len(trainer.valid_windows) * run.model.block_size
        step = step_seconds(step_operations(run.model, trainer.batch))
        validation = share * valid / trainer.tokens_per_epoch
        hours[run.name] = trainer.total_steps * step * (1 + validation) / 3600
    return pd.Series(hours)


def test_profile_small_is_a_night_of_two_cores(wikitext, tmp_path, monkeypatch):
    """By the step that `make bench-train` has measured on one thread of a processor with bfloat16,
    its operations held for what a step takes, in two processes side by side."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    case = benchmark("train-cpu")["cases"]["128-bfloat16-1"]
    operations = step_operations(ModelConfig(**case["shape"]), case["batch"])
    rate = case["contestants"]["llmlite"]["step_s"] / operations
    hours = plan_hours("small", wikitext, tmp_path, lambda count: rate * count) / 2
    first = hours[hours.index.str.match("honest|no-mask-deep|search-revised")]
    assert len(first) == 3 + 1 + 12
    assert first.sum() < 7.1, "the paper's best with three seeds, and the revised grid"
    assert hours[hours.index.str.match("grid-revised")].sum() < 5.7, "its corners with two more"
    assert hours.sum() < 15.4
    assert hours.max() * 2 < 3.1, "no run is longer than an evening"


@pytest.mark.slow
def test_profile_full_fits_into_slices_of_nine_minutes(wikitext, tmp_path):
    """By a line through the steps that `make gpu` has measured on an H200."""
    speed = benchmark("gpu-h200")["speed"]
    measured_at = {"256 × 128": (256, 128), "32 × 128 × 4": (32, 512)}
    counts, seconds = [], []
    for case, (window, windows) in measured_at.items():
        counts.append(step_operations(ModelConfig(block_size=window), windows))
        seconds.append(min(variant["step_s"] for variant in speed[case]["variants"].values()))
    line = np.poly1d(np.polyfit(counts, seconds, 1))
    minutes = plan_hours("full", wikitext, tmp_path, lambda count: max(line(count), 0)) * 60
    first = minutes[minutes.index.str.match("retrain|no-mask-deep|search-revised")]
    assert len(first) == 3 + 1 + 12
    assert first.sum() < 9, "what the paper is about, in one slice"
    assert minutes.max() < 4, "no run is longer than half a slice"
    assert minutes.sum() < 22
