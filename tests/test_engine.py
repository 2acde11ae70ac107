"""The schedule; a step against PyTorch alone, by every path; its operations by hand and counted."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.utils import counters
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llmlite import engine
from llmlite.config import ModelConfig, TrainConfig
from llmlite.engine import Engine, TrainingLoss, learning_rate, parameter_groups, step_operations
from llmlite.model import GPT
from llmlite.parallel import ALONE

MODEL = ModelConfig(vocab_size=50, block_size=16, n_layer=2, n_head=2, n_embd=16, dropout=0.0)


def batches(steps=100, device="cpu"):
    """The same ten batches again and again, and at the end a smaller one."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(50, (10, 4, 17), generator=generator).to(device)
    for step in range(steps - 1):
        yield ids[step % 10, :, :-1], ids[step % 10, :, 1:]
    yield ids[0, :-1, :-1], ids[0, :-1, 1:]


def build(config, total_steps=0.0, device="cpu", dtype=None):
    torch.manual_seed(config.seed)
    return Engine(GPT(MODEL).to(device).train(), config, dtype, total_steps, ALONE)


def curve(run, steps=100, device="cpu", rates=(1e-3,)):
    """(losses, norms) of the steps, at these rates in turn."""
    logs = [
        run.step(x, y, len(x), rates[step % len(rates)])
        for step, (x, y) in enumerate(batches(steps, device))
    ]
    return [torch.stack(values).cpu() for values in zip(*logs, strict=True)]


def by_pytorch():
    """The same from PyTorch alone, and the model's weights."""
    torch.manual_seed(TrainConfig.seed)
    model = GPT(MODEL).train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=1e-3, betas=(0.9, 0.95))
    logs = []
    for x, y in batches():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).logits.flatten(0, 1), y.flatten())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        logs.append((loss.detach(), norm))
    losses, norms = map(torch.stack, zip(*logs, strict=True))
    return losses, norms, model.state_dict()


def assert_close_curves(ours, theirs):
    """Each step adds an error of about the loss's rounding, in either direction; 16 of them, since
    a step's error passes through many sums."""
    rounding = torch.finfo(torch.float32).eps * theirs[0].max() * len(theirs[0]) ** 0.5
    assert (ours[0] - theirs[0]).abs().max() < 16 * rounding
    assert (ours[1] - theirs[1]).abs().max() < 1e-4


# -- the learning rate ----------------------------------------------------------------------------


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
    fixed = replace(config, schedule="fixed")
    assert {learning_rate(step, 40, fixed) for step in range(40)} == {0.4}


@settings(deadline=None)
@given(st.integers(1, 300), st.floats(0, 0.99), st.floats(1e-6, 1.0))
def test_rate_rises_in_the_warmup_then_falls_and_stays_in_bounds(total, fraction, peak):
    config = TrainConfig(learning_rate=peak, warmup_fraction=fraction)
    rates = [learning_rate(step, total, config) for step in range(total)]
    warmup = round(fraction * total)
    assert all(0 <= rate <= peak * (1 + 1e-12) for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rates[-1] == (pytest.approx(peak) if warmup == total else 0)


# -- a step ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [4, 2])
@pytest.mark.parametrize(
    ("how", "total_steps"),
    [("uncompiled", 0.0), pytest.param("compiled", 1e30, marks=pytest.mark.slow)],
)
def test_every_path_gives_the_curve_and_the_weights_of_a_loop_in_pytorch(
    how, total_steps, batch_size
):
    config = TrainConfig(batch_size=batch_size, accumulation=4 // batch_size)
    plain, fast = build(replace(config, fast=False)), build(config, total_steps)
    how += ", 2 pieces merged" if batch_size == 2 else ""
    assert (plain.how, fast.how) == ("plain", how)
    *expected, weights = by_pytorch()
    assert expected[0][-1] < expected[0][0] - 0.2
    for run in (plain, fast):
        assert_close_curves(curve(run), expected)
        for name, weight in run.model.state_dict().items():
            # The key bias's gradient is 0 but for rounding, as it moves all scores of a query
            # alike, and AdamW makes whole steps of that noise.
            if not name.endswith("qkv.bias"):
                torch.testing.assert_close(weight, weights[name], atol=1e-4, rtol=0, msg=name)


def test_one_compilation_serves_all_layers_and_the_smaller_batch_needs_none(monkeypatch):
    """Counts what there is to compile, and leaves out the compiler, which takes half a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    run = build(TrainConfig(batch_size=4), 1e30)
    for x, y in batches(3):  # with gaps between the rows, as windows that overlap by a token
        run.step(x, y, len(x), 1e-3)
        run.step(x.clone(), y.clone(), len(x), 1e-3)  # without, as in a CUDA graph
    assert counters["stats"]["unique_graphs"] == 2  # a block and the loss


def test_without_a_compiler_a_run_says_that_it_is_not_compiled(monkeypatch):
    monkeypatch.setattr(engine.shutil, "which", lambda _: None)
    assert build(TrainConfig(), 1e30).how == "uncompiled for want of g++"
    assert build(TrainConfig()).how == "uncompiled"


@pytest.mark.parametrize(
    ("dtype", "scaler", "factors"),
    [
        (torch.float16, {}, [65536.0] * 5),
        # Each step by its own scale, not by the one that it leaves for the next.
        (
            torch.float16,
            {"init_scale": 1024.0, "growth_interval": 2},
            [1024.0, 1024.0, 2048.0, 2048.0, 4096.0],
        ),
        (torch.bfloat16, {}, [1.0] * 5),  # nothing is scaled
        (None, {}, [1.0] * 5),
    ],
)
def test_the_scaled_gradients_norm_is_so_much_longer_and_all_else_is_the_same(
    monkeypatch, dtype, scaler, factors
):
    """Bit for bit: a scale is a power of two."""
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, **scaler))
    config = TrainConfig(batch_size=4)
    scaled = build(replace(config, log_scaled_norm=True), dtype=dtype)
    unscaled = build(config, dtype=dtype)
    ours, theirs = curve(scaled, 5), curve(unscaled, 5)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1] * torch.tensor(factors))
    assert theirs[1].min() > 0
    for ours, theirs in zip(scaled.model.parameters(), unscaled.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.parametrize("batch_size", [4, 2])
def test_a_cuda_graph_takes_up_a_cpus_state_and_follows_batches_and_rates(batch_size):
    """A graph that was fed stale inputs or a stale rate would not move with them."""
    config = TrainConfig(batch_size=batch_size, accumulation=4 // batch_size)
    plain, graph = build(replace(config, fast=False)), build(config, 1e30, "cuda")
    curve(plain, 20)
    graph.load_state_dict(plain.state_dict())
    rates = [1e-3 * step for step in range(7)]
    ours, theirs = curve(graph, 40, "cuda", rates), curve(plain, 40, rates=rates)
    assert (ours[0] - theirs[0]).abs().max() < 1e-3
    assert graph.how.startswith("compiled, attention spelled out")
    assert graph.how.endswith("CUDA graph")


# -- operations -----------------------------------------------------------------------------------

TINY = ModelConfig(vocab_size=10, block_size=3, n_layer=1, n_head=2, n_embd=4, dropout=0.0)


def test_operations_by_hand_for_a_tiny_model():
    # One window of 3 tokens, width 4. In the layer: (3, 4) @ (4, 12), (3, 4) @ (4, 4),
    # (3, 4) @ (4, 16), (3, 16) @ (16, 4); then the head, (3, 4) @ (4, 10).
    products = 2 * 3 * (4 * 12 + 4 * 4 + 4 * 16 + 16 * 4 + 4 * 10)
    # 6 of the 9 pairs of query and key are not in the future; each costs 4 products and 4 sums
    # over both heads for its score, and as many for its share of the values.
    attention = 6 * (8 + 8)
    assert step_operations(TINY, 1) == 3 * (products + attention)


@pytest.mark.parametrize("shape", [TINY, MODEL])
def test_operations_are_what_pytorch_counts_in_our_model(shape, make_ids):
    ids = make_ids(5, shape.block_size + 1, vocab_size=shape.vocab_size)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        TrainingLoss(GPT(shape), None)(ids[:, :-1], ids[:, 1:]).backward()
    # Attention written out is counted, and computed, for all pairs, those in the future too.
    counted = counter.get_total_flops()
    assert counted == step_operations(replace(shape, causal=False), 5)
    future = shape.block_size * (shape.block_size - 1) / 2
    left_out = 3 * 5 * shape.n_layer * future * 4 * shape.n_embd
    assert counted - left_out == step_operations(shape, 5)
