"""The schedule, what there is to compile, and operations by hand and by PyTorch's counter."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llmlite import engine
from llmlite.config import ModelConfig, TrainConfig
from llmlite.engine import Engine, TrainingLoss, learning_rate, step_operations
from llmlite.model import GPT
from llmlite.parallel import ALONE

TINY = ModelConfig(vocab_size=10, block_size=3, n_layer=2, n_head=2, n_embd=4, dropout=0.0)


def build(total_steps):
    return Engine(GPT(TINY).train(), TrainConfig(batch_size=4), None, total_steps, ALONE)


def test_rates_at_the_ends_of_the_epochs_are_the_papers():
    config = TrainConfig(epochs=10, learning_rate=1e-3)
    rates = [f"{learning_rate(100 * epoch - 1, 1000, config):.6f}" for epoch in range(1, 11)]
    assert rates == [
        "0.001000", "0.000970", "0.000883", "0.000750", "0.000587",
        "0.000413", "0.000250", "0.000117", "0.000030", "0.000000",
    ]  # fmt: skip


def test_warmup_is_linear_and_then_the_cosine_falls():
    config = TrainConfig(learning_rate=0.4)  # the first tenth of the steps
    rates = [learning_rate(step, 40, config) for step in range(40)]
    assert rates[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert rates[21] == pytest.approx(0.2)  # half of the cosine: 18 of the 36 steps after it
    half = replace(config, warmup_fraction=0.5)
    assert [learning_rate(s, 20, half) for s in (4, 9, 14)] == pytest.approx([0.2, 0.4, 0.2])
    assert [learning_rate(s, 2, replace(config, warmup_fraction=0.9)) for s in (0, 1)] == [0.2, 0.4]
    assert learning_rate(0, 1, replace(config, warmup_fraction=0.0)) == 0
    fixed = replace(config, schedule="fixed")
    assert {learning_rate(step, 40, fixed) for step in range(40)} == {0.4}


def test_one_compilation_serves_all_layers_and_the_smaller_batch_needs_none(monkeypatch, make_ids):
    """Counts what there is to compile, and leaves out the compiler, which takes half a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    run, ids = build(1e30), make_ids(4, 4, vocab_size=10)
    for windows in (4, 4, 3):
        x, y = ids[:windows, :-1], ids[:windows, 1:]
        run.step(x, y, windows, 1e-3)  # with gaps between the rows, as windows of a text have them
        run.step(x.clone(), y.clone(), windows, 1e-3)  # without, as in a CUDA graph
    assert counters["stats"]["unique_graphs"] == 2  # a block and the loss


def test_without_a_compiler_a_run_says_that_it_is_not_compiled(monkeypatch):
    monkeypatch.setattr(engine.shutil, "which", lambda _: None)
    assert build(1e30).how == "uncompiled for want of g++"
    assert build(0.0).how == "uncompiled"


def test_operations_are_those_by_hand_and_of_pytorchs_counter(make_ids):
    # Windows of 3 tokens, width 4. In a layer: (3, 4) @ (4, 12), (3, 4) @ (4, 4),
    # (3, 4) @ (4, 16), (3, 16) @ (16, 4); then the head, (3, 4) @ (4, 10).
    products = 2 * 3 * (2 * (4 * 12 + 4 * 4 + 4 * 16 + 16 * 4) + 4 * 10)
    # 6 of the 9 pairs of query and key are not in the future; each costs 4 products and 4 sums
    # over both heads for its score, and as many for its share of the values.
    assert step_operations(TINY, 5) == 5 * 3 * (products + 2 * 6 * (8 + 8))
    ids = make_ids(5, 4, vocab_size=10)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        TrainingLoss(GPT(TINY), None)(ids[:, :-1], ids[:, 1:]).backward()
    # Attention written out is counted, and computed, for all pairs, those in the future too.
    assert counter.get_total_flops() == step_operations(replace(TINY, causal=False), 5)
