"""A step against PyTorch alone, by every path; its operations by hand and by PyTorch's counter."""

import copy
import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llmlite import engine
from llmlite.config import ModelConfig, TrainConfig
from llmlite.engine import Engine, TrainingLoss, parameter_groups, step_operations
from llmlite.model import GPT
from llmlite.parallel import ALONE

MODEL = ModelConfig(vocab_size=50, block_size=16, n_layer=3, n_head=2, n_embd=16, dropout=0.0)
STEPS = 100
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")


def batches(device="cpu", windows=4):
    """The same ten batches again and again, and at the end one of another length."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(50, (10, windows, 17), generator=generator).to(device)
    for step in range(STEPS - 1):
        yield ids[step % 10, :, :-1], ids[step % 10, :, 1:]
    yield ids[0, :-1, :-1], ids[0, :-1, 1:]


def build(config, device="cpu", total_steps=1e30, dtype=None):
    torch.manual_seed(config.seed)
    return Engine(GPT(MODEL).to(device).train(), config, dtype, total_steps, ALONE)


def curve(engine, device="cpu"):
    """Losses and norms of the steps, and the model's weights after them."""
    logs = [engine.step(x, y, len(x), 1e-3) for x, y in batches(device)]
    losses, norms = (torch.stack(values).cpu() for values in zip(*logs, strict=True))
    return losses, norms, {k: v.cpu() for k, v in engine.model.state_dict().items()}


def by_hand(config):
    """The same curve from PyTorch alone."""
    torch.manual_seed(config.seed)
    model = GPT(MODEL).train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=1e-3, betas=(0.9, 0.95))
    losses = []
    for x, y in batches():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).logits.flatten(0, 1), y.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def rounding(losses):
    """How far two float32 computations of a curve may part: each step adds an error of about the
    loss's rounding, in either direction; 16 of them, since a step's error passes through many sums.
    """
    return 16 * torch.finfo(torch.float32).eps * losses.max().item() * len(losses) ** 0.5


def determined(name, weight):
    """The parameters that the loss depends on. The key bias's gradient is 0 but for rounding, as
    it moves all scores of a query alike, and AdamW makes whole steps of that noise.
    """
    if not name.endswith("qkv.bias"):
        return weight
    query, _, value = weight.chunk(3)
    return torch.cat([query, value])


def assert_same_curve(ours, theirs):
    assert (ours[0] - theirs[0]).abs().max() < rounding(theirs[0])
    assert (ours[1] - theirs[1]).abs().max() < 1e-4
    for name, weight in ours[2].items():
        mine, its = determined(name, weight), determined(name, theirs[2][name])
        torch.testing.assert_close(mine, its, atol=1e-4, rtol=0, msg=name)
    assert theirs[0][-1] < theirs[0][0] - 0.2


@pytest.mark.parametrize("batch_size", [4, 2])
@pytest.mark.parametrize(
    ("how", "total_steps"),
    [("uncompiled", 0), pytest.param("compiled", 1e30, marks=pytest.mark.slow)],
)
def test_every_path_gives_the_curve_of_a_plain_loop(how, total_steps, batch_size):
    changes = {"batch_size": batch_size, "accumulation": 4 // batch_size}
    plain = build(TrainConfig(**changes, fast=False))
    fast = build(TrainConfig(**changes), total_steps=total_steps)
    how += ", 2 pieces merged" if batch_size == 2 else ""
    assert (plain.how, fast.how) == ("plain", how)
    reference = curve(plain)
    by_pytorch = by_hand(TrainConfig(**changes))
    assert (reference[0] - by_pytorch).abs().max() < rounding(by_pytorch)
    assert_same_curve(curve(fast), reference)


def test_one_compilation_serves_all_layers_and_the_ragged_batch_needs_none(monkeypatch):
    """Counts what there is to compile, and leaves out the compiler, which takes half a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    run = build(TrainConfig(batch_size=4))
    for x, y in batches():  # with gaps between the rows, as windows that overlap by a token
        run.step(x, y, len(x), 1e-3)
        run.step(x.clone(), y.clone(), len(x), 1e-3)  # without, as in a CUDA graph
    assert counters["stats"]["unique_graphs"] == 2  # a block and the loss


def test_without_a_compiler_a_run_says_that_it_is_not_compiled(monkeypatch):
    monkeypatch.setattr(engine.shutil, "which", lambda _: None)
    assert build(TrainConfig()).how == "uncompiled for want of g++"
    assert build(TrainConfig(), total_steps=0).how == "uncompiled"


def test_state_goes_from_one_engine_to_another():
    config = TrainConfig(batch_size=4)
    run, other = build(config, total_steps=0), build(config, total_steps=0)
    steps = list(batches())
    for x, y in steps[:50]:
        run.step(x, y, len(x), 1e-3)
    state = copy.deepcopy(run.state_dict())
    other.load_state_dict(state)
    for x, y in steps[50:]:
        ours, theirs = (e.step(x, y, len(x), 1e-3) for e in (run, other))
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


# -- the norm of the scaled gradient --------------------------------------------------------------


def scaled_and_not(steps, dtype, **scaler):
    """(losses, norms, weights) of the same steps, with the norm of the scaled gradient and not."""
    results = []
    for scaled in (True, False):
        config = TrainConfig(batch_size=4, log_scaled_norm=scaled)
        run = build(config, total_steps=0, dtype=dtype)
        if scaler:
            run.scaler = torch.amp.GradScaler("cpu", **scaler)
        logs = [run.step(x, y, len(x), 1e-3) for x, y in itertools.islice(batches(), steps)]
        losses, norms = zip(*logs, strict=True)
        results.append((torch.stack(losses), torch.stack(norms), run.model.state_dict()))
    return results


def assert_only_norms_differ(ours, theirs, factors):
    """Bit for bit: a scale is a power of two."""
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1] * torch.tensor(factors))
    for name, weight in ours[2].items():
        assert torch.equal(weight, theirs[2][name]), name


def test_the_norm_of_the_scaled_gradient_is_65536_times_as_long_at_first():
    scaled, unscaled = scaled_and_not(5, torch.float16)
    assert_only_norms_differ(scaled, unscaled, [65536.0] * 5)
    assert unscaled[1].min() > 0


def test_the_norm_of_the_scaled_gradient_goes_by_the_scale_of_its_own_step():
    scaled, unscaled = scaled_and_not(5, torch.float16, init_scale=1024.0, growth_interval=2)
    assert_only_norms_differ(scaled, unscaled, [1024.0, 1024.0, 2048.0, 2048.0, 4096.0])


def test_a_gradient_that_overflowed_has_no_norm_either_way():
    scaled, unscaled = scaled_and_not(2, torch.float16, init_scale=2.0**60)
    assert not scaled[1].isfinite().any()
    assert not unscaled[1].isfinite().any()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_where_nothing_is_scaled_the_norm_is_the_same(dtype):
    scaled, unscaled = scaled_and_not(5, dtype)
    assert_only_norms_differ(scaled, unscaled, [1.0] * 5)


# -- operations ----------------------------------------------------------------------------------

TINY = ModelConfig(vocab_size=10, block_size=3, n_layer=1, n_head=2, n_embd=4, dropout=0.0)
SHAPES = [
    TINY,
    ModelConfig(vocab_size=61, block_size=12, n_layer=2, n_head=4, n_embd=16, dropout=0.0),
    ModelConfig(vocab_size=100, block_size=7, n_layer=3, n_head=1, n_embd=8, dropout=0.0),
]


def test_operations_by_hand_for_a_tiny_model():
    # One window of 3 tokens, width 4. In the layer: (3, 4) @ (4, 12), (3, 4) @ (4, 4),
    # (3, 4) @ (4, 16), (3, 16) @ (16, 4); then the head, (3, 4) @ (4, 10).
    products = 2 * 3 * (4 * 12 + 4 * 4 + 4 * 16 + 16 * 4 + 4 * 10)
    # 6 of the 9 pairs of query and key are not in the future; each costs 4 products and 4 sums
    # over both heads for its score, and as many for its share of the values.
    attention = 6 * (8 + 8)
    assert step_operations(TINY, 1) == 3 * (products + attention)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("windows", [1, 5])
def test_operations_are_what_pytorch_counts_in_our_model(shape, windows, make_ids):
    model = GPT(shape)
    ids = make_ids(windows, shape.block_size + 1, vocab_size=shape.vocab_size)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        TrainingLoss(model, None)(ids[:, :-1], ids[:, 1:]).backward()
    # Attention written out is counted, and computed, for all pairs, those in the future too.
    counted = counter.get_total_flops()
    assert counted == step_operations(replace(shape, causal=False), windows)
    future = shape.block_size * (shape.block_size - 1) / 2
    left_out = 3 * windows * shape.n_layer * future * 4 * shape.n_embd
    assert counted - left_out == step_operations(shape, windows)


# -- CUDA -----------------------------------------------------------------------------------------


@needs_cuda
def test_the_cuda_graph_gives_the_plain_curve():
    plain = build(TrainConfig(batch_size=4, fast=False), "cuda")
    graph = build(TrainConfig(batch_size=4), "cuda")
    assert_same_curve(curve(graph, "cuda"), curve(plain, "cuda"))
    assert graph.how == "compiled, attention spelled out, CUDA graph"


@needs_cuda
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_cuda_graph_follows_the_schedule_and_the_batches(accumulation):
    """A graph that was fed stale inputs or a stale rate would not move with them."""
    size = 4 // accumulation
    run = build(TrainConfig(batch_size=size, accumulation=accumulation), "cuda")
    plain = build(TrainConfig(batch_size=size, accumulation=accumulation, fast=False), "cuda")
    for step, (x, y) in enumerate(batches("cuda")):
        rate = 1e-3 * (step % 7)
        ours, theirs = (e.step(x, y, len(x), rate) for e in (run, plain))
        assert abs(ours[0].item() - theirs[0].item()) < 1e-4


@needs_cuda
def test_a_cpu_checkpoint_is_carried_on_with_a_cuda_graph():
    run, other = build(TrainConfig(batch_size=4)), build(TrainConfig(batch_size=4), "cuda")
    for x, y in list(batches())[:20]:
        run.step(x, y, len(x), 1e-3)
    other.load_state_dict(run.state_dict())
    for x, y in list(batches())[20:60]:
        ours, theirs = run.step(x, y, 4, 1e-3), other.step(x.cuda(), y.cuda(), 4, 1e-3)
        assert abs(ours[0].item() - theirs[0].item()) < 1e-3
