"""How long a night profile `small` takes, by counted operations and measured steps (README)."""

import pandas as pd
import torch
from benchmarks.tables import benchmark

from llmlite.config import ModelConfig
from llmlite.engine import step_operations
from llmlite.experiment import Experiment
from llmlite.plan.whole import chosen, whole_plan


def test_profile_small_is_a_night_of_two_cores(wikitext, tmp_path, monkeypatch):
    """By the step that `make bench-train` has measured on one thread of a processor with bfloat16,
    its operations held for what a step takes, in two processes side by side."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    case = benchmark("train-cpu")["cases"]["128-bfloat16-1"]
    operations = step_operations(ModelConfig(**case["shape"]), case["batch"])
    rate = case["contestants"]["llmlite"]["step_s"] / operations
    experiment = Experiment("small", wikitext, tmp_path, "cpu", progress=False)
    # Of two that are one training, the first in the plan.
    runs = {experiment.folder(run): run for run in reversed(chosen(whole_plan(experiment)))}
    hours = pd.Series(dtype=float)  # of each training, if it does not stop early
    for run in runs.values():
        trainer = experiment.trainer(run)
        step = rate * step_operations(run.model, trainer.batch)
        # Of what is validated each epoch, a forward pass is a third of a step, but in float32.
        valid = len(trainer.valid_windows) * run.model.block_size / trainer.tokens_per_epoch
        share = 1 / 3 if trainer.dtype is None else 1
        hours[run.name] = trainer.total_steps * step * (1 + share * valid) / 3600 / 2
    first = hours[hours.index.str.match("honest|no-mask-deep|search-revised")]
    assert len(first) == 3 + 1 + 12
    assert first.sum() < 7.1, "the paper's best with three seeds, and the revised grid"
    assert hours.sum() < 15.4
    assert hours.max() * 2 < 3.1, "no run is longer than an evening"
