"""The engine: rates, operations, what there is to compile, and its paths on a GPU, which take a
fake of CUDA's graphs here, as do the checks of `make gpu`.

The fake graph records every operation of a capture and undoes it; a replay runs the same operations
on the same memory. So what Python would have to do anew at each step is missing in it, as in a real
graph: a learning rate that is a number, a gradient that moved.
"""

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from check_gpu import CHECKS
from gpu_worker import Checks
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from llmlite import engine
from llmlite.config import ModelConfig, TrainConfig
from llmlite.engine import Engine, FastPaths, TrainingLoss, learning_rate, step_operations
from llmlite.files import LLMLiteError
from llmlite.model import GPT
from llmlite.parallel import ALONE

MODEL = ModelConfig(vocab_size=50, block_size=16, n_layer=2, n_head=2, n_embd=16, dropout=0.0)
DROPOUT = replace(MODEL, dropout=0.2)
TINY = replace(MODEL, vocab_size=10, block_size=3, n_embd=4)
UNCOMPILED = FastPaths(compile=False)
EAGER = FastPaths(compile=False, graph=False)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")


def build(
    paths=UNCOMPILED, dtype=None, device="cpu", model=MODEL, scale=2.0**16, total_steps=0, **changes
):
    torch.manual_seed(1)
    config = TrainConfig(**{"batch_size": 4} | changes)
    run = Engine(GPT(model).to(device).train(), config, dtype, total_steps, ALONE, paths)
    if dtype == torch.float16:  # grows within the steps of a test
        run.scaler = torch.amp.GradScaler(device, init_scale=scale, growth_interval=4)
    return run


def steps(device="cpu", windows=4):
    """Twelve batches, a ragged one amid them, and rates that float32 holds exactly."""
    generator = torch.Generator().manual_seed(7)
    for step in range(12):
        ids = torch.randint(50, (windows, 17), generator=generator).to(device)
        ids = ids[: windows - 1] if step == 7 else ids
        yield ids[:, :-1], ids[:, 1:], len(ids), (step % 5) / 1024


def curve(run, part=slice(None), device="cpu"):
    """[losses, norms] of the steps; `run.model` is then what they made of it."""
    torch.manual_seed(2)
    logs = [run.step(*step) for step in list(steps(device))[part]]  # read at the end, as in a run
    return torch.stack([torch.stack(log) for log in logs]).cpu()


def assert_same(run, other, ours, theirs):
    """Bit for bit, NaN where a gradient overflowed included."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    for name, weight in run.model.state_dict().items():
        assert torch.equal(weight, other.model.state_dict()[name]), name


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


def test_one_compilation_serves_all_layers_and_the_smaller_batch_needs_none(monkeypatch):
    """Counts what there is to compile, and leaves out the compiler, which takes half a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    run = build(FastPaths(compile=True))
    for x, y, windows, rate in list(steps())[5:8]:  # the last is smaller
        run.step(x, y, windows, rate)  # with gaps between the rows, as windows of a text have them
        run.step(x.clone(), y.clone(), windows, rate)  # without, as in a CUDA graph
    assert counters["stats"]["unique_graphs"] == 2  # a block and the loss


@pytest.mark.parametrize("fails_at", [1, 2])
def test_where_the_compiler_fails_a_run_goes_on_without_it(monkeypatch, capsys, fails_at):
    """At the block's graph, or at the loss's, for which the blocks have drawn random numbers."""
    graphs = []

    def broken(graph, inputs):
        graphs.append(graph)
        if len(graphs) == fails_at:
            raise RuntimeError("Output:\n/a/a.cpp:128:10: fatal error: Python.h: No such file\n")
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    torch._dynamo.reset()
    plain, run = (build(FastPaths(compile=paths), model=DROPOUT) for paths in (False, True))
    assert run.how == "compiled, attention spelled out"
    theirs, ours = curve(plain), curve(run)
    assert_same(run, plain, ours, theirs)
    assert run.how == "uncompiled after RuntimeError, attention spelled out"
    said = "The step is not compiled (RuntimeError: Python.h: No such file).\n"
    assert (capsys.readouterr().err, len(graphs)) == (said, fails_at)


def test_what_is_wrong_with_the_model_itself_is_raised(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(engine, "_mean_loss", lambda _, x, targets: x @ targets)  # shapes differ
    torch._dynamo.reset()
    with pytest.raises(RuntimeError) as error:
        curve(build(FastPaths(compile=True)))
    assert type(error.value) is RuntimeError


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


def state(run):
    """Every tensor that a step changes for good."""
    scale = vars(run.scaler).get("_scale"), vars(run.scaler).get("_growth_tracker")
    leaves = tree_leaves([list(run.model.parameters()), *run.optimizer.state.values(), scale])
    return [leaf for leaf in leaves if torch.is_tensor(leaf)]


class Recorder(TorchDispatchMode):
    """Keeps (operation, arguments, results); raises `error` in place of the first `fails_at`."""

    def __init__(self, calls, fails_at=None, error=None):
        super().__init__()
        self.calls, self.fails_at, self.error = calls, fails_at, error

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.error and func.overloadpacket.__name__ == self.fails_at:
            raise self.error
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result


def memory(values):
    return [t.untyped_storage().data_ptr() for t in tree_leaves(values) if torch.is_tensor(t)]


class FakeCuda:
    """Stands for torch.cuda; a capture must not change the state of `run`, its engine."""

    def __init__(self):
        self.run = self.calls = self.fails_at = self.error = None
        self.generator = SimpleNamespace(graphsafe_set_state=lambda _: None)
        self.captures = 0

    def CUDAGraph(self):  # noqa: N802
        self.calls = []
        return SimpleNamespace(calls=self.calls, replay=partial(self.replay, self.calls))

    @contextmanager
    def graph(self, graph, stream):
        self.captures += 1
        assert all(p.grad is None for p in self.run.model.parameters())
        before = [(tensor, tensor.detach().clone()) for tensor in state(self.run)]
        random = torch.get_rng_state()
        try:
            with Recorder(graph.calls, self.fails_at, self.error):
                yield
        finally:
            with torch.no_grad():
                for tensor, old in before:
                    tensor.copy_(old)
            torch.set_rng_state(random)
            if self.error:
                raise RuntimeError("the capture was invalidated")

    @torch.no_grad()
    def replay(self, calls):
        for func, args, kwargs, results in calls:
            new = func(*args, **kwargs)
            given = memory((args, kwargs))
            for old, value in zip(tree_leaves(results), tree_leaves(new), strict=True):
                if torch.is_tensor(old) and not set(memory(old)) & set(given):
                    old.copy_(value)


@pytest.fixture
def cuda(monkeypatch):
    fake, capture = FakeCuda(), Engine._capture
    stream = SimpleNamespace(wait_stream=lambda _: None)
    for name, stand_in in {
        "device": lambda _: nullcontext(),
        "stream": lambda _: nullcontext(),
        "current_stream": lambda: stream,
        "get_rng_state": lambda _: torch.get_rng_state(),
        "default_generators": {None: fake.generator},
        "get_device_properties": lambda _: SimpleNamespace(total_memory=80e9),
        "set_sync_debug_mode": lambda _: None,
        "synchronize": lambda: None,
        "CUDAGraph": fake.CUDAGraph,
        "graph": fake.graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    on_cuda = property(lambda _: True, lambda *_: None)  # whatever the engine sets
    monkeypatch.setattr(Engine, "cuda", on_cuda, raising=False)
    monkeypatch.setattr(engine, "_side_stream", lambda _: stream)

    def noted(run, batch):
        fake.run = run
        return capture(run, batch)

    monkeypatch.setattr(Engine, "_capture", noted)
    return fake


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.slow] if name == "trainer_runs" else [])
    for name in CHECKS
    if name != "compiled_is_plain"
])  # fmt: skip
def test_the_checks_of_a_gpu_pass_with_graphs(cuda, name):
    checks = Checks({"device": "cpu", "window": 16, "batch": 2, "accumulation": 2, "tiny": True})
    checks.cuda, checks.graph = True, replace(checks.graph, graph=True)
    method, options = CHECKS[name]
    found = getattr(checks, method)(**options)
    assert found["passed"], found
    assert cuda.captures > 0 or name == "generation_is_plain"


PIECES = {"batch_size": 2, "accumulation": 2, "model": DROPOUT, "log_scaled_norm": True}
OVERFLOWS = PIECES | {"dtype": torch.float16, "scale": 2.0**25}


@pytest.mark.parametrize(("changes", "merge"), [
    (PIECES, None),
    # Overflows before, in and after the capture; then no more.
    *((OVERFLOWS | {"optimizer": name}, False) for name in ("adamw", "adam", "sgd")),
])  # fmt: skip
def test_a_graph_gives_the_weights_and_norms_of_the_steps_one_by_one(cuda, changes, merge):
    plain = build(replace(EAGER, merge=merge), **changes)
    graph = build(replace(UNCOMPILED, merge=merge), **changes)
    theirs, ours = curve(plain), curve(graph)
    assert_same(graph, plain, ours, theirs)
    merged = "2 pieces merged, " if merge is None else ""
    assert graph.how == f"uncompiled, attention spelled out, {merged}CUDA graph"
    assert cuda.captures == 1
    finite = theirs[:, 1].isfinite()
    assert finite[-1]
    assert finite.all() == ("scale" not in changes)


def test_muon_is_not_graphed_and_needs_a_pytorch_that_has_it(cuda, monkeypatch):
    curve(run := build(optimizer="muon"))
    assert (run.graphing, cuda.captures) == ("not graphed: Muon's rate is a number", 0)
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(LLMLiteError, match=r"needs PyTorch 2\.9 or newer, and this is"):
        build(optimizer="muon")


@pytest.mark.parametrize("where", ["norm.bias", "blocks.0.up.weight"])  # of AdamW, and of Muon
@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "muon"])
def test_a_gradient_that_overflows_leaves_no_trace(name, where):
    run, other = (build(dtype=torch.float16, optimizer=name, scale=2.0**n) for n in (16, 15))
    _, batch, *_ = steps()
    with run.model.get_parameter(where).register_hook(lambda grad: grad * torch.inf):
        run.step(*batch)
    assert_same(run, other, torch.stack(run.step(*batch)), torch.stack(other.step(*batch)))
    assert run.model.norm.bias.any()  # which was 0


@pytest.mark.parametrize(("old", "new"), [(None, torch.float16), (torch.float16, None)])
def test_a_run_is_carried_on_in_another_type(old, new):
    run, other = build(dtype=old), build(dtype=new)
    curve(run, slice(0, 2))
    other.load_state_dict(run.state_dict())
    assert curve(other, slice(2, 4)).isfinite().all()


@pytest.mark.parametrize("fails_at", ["embedding", "_fused_adamw_", "_foreach_mul_"])
def test_where_a_capture_fails_the_run_goes_on_without_it(cuda, capsys, fails_at):
    plain, run = (build(paths, dtype=torch.float16) for paths in (EAGER, UNCOMPILED))
    cuda.fails_at, cuda.error = fails_at, RuntimeError("not permitted\nwhile capturing")
    theirs, ours = curve(plain), curve(run)
    assert_same(run, plain, ours, theirs)
    assert run.how == "uncompiled, attention spelled out, not graphed: not permitted"
    assert capsys.readouterr().err == "The step is not a CUDA graph: not permitted\n"
    assert cuda.captures == 1
    # But memory that ran out is said, though the capture's own error comes after it.
    cuda.error = torch.OutOfMemoryError("no room")
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        curve(build(dtype=torch.float16))
    assert all(p.grad is None for p in cuda.run.model.parameters())


def test_a_step_waits_for_nothing(cuda):
    """No number is read, no shape depends on values, and nothing is made in Python's memory first
    (`lift_fresh` is what torch.tensor ends with), which a GPU would copy.
    """
    curve(build(dtype=torch.float16, **PIECES))
    names = {func.overloadpacket.__name__ for func, *_ in cuda.calls}
    assert "_fused_adamw_" in names
    waits = {"_local_scalar_dense", "nonzero", "bincount", "equal", "masked_select", "lift_fresh"}
    assert not waits & names
    assert {str(kwargs.get("device") or "cpu") for _, _, kwargs, _ in cuda.calls} == {"cpu"}


def test_pieces_are_merged_in_equal_shares_as_far_as_the_memory_goes(monkeypatch):
    config = TrainConfig(batch_size=128, accumulation=6)
    token = engine.KEPT * 2 * MODEL.n_layer * MODEL.n_embd + engine.LOGIT_BYTES * MODEL.vocab_size
    piece, windows = 128 * 16 * token, partial(engine.piece_windows, MODEL, config)
    sizes = [windows(torch.bfloat16, n * piece) for n in (0, 1, 2, 5, 6, 9)]  # bytes, in bfloat16
    assert sizes == [128, 128, 256, 384, 768, 768]
    assert windows(None, 6 * piece) == 384
    for small, pieces in ((engine.SMALL, [6, 2, 6]), (0, [2, 2, 6])):  # on a CPU, and on request
        monkeypatch.setattr(engine, "SMALL", small)
        paths = [FastPaths(merge=merge) for merge in (None, False, True)]
        assert [build(p, batch_size=2, accumulation=3).piece for p in paths] == pieces


@pytest.mark.parametrize(("amp", "device", "has", "dtype"), [
    ("auto", "cuda:1", True, torch.bfloat16),
    ("auto", "cuda:1", False, torch.float16),  # a T4, which emulates it
    ("bf16", "cuda:1", False, torch.bfloat16),
    ("auto", "cpu", {"avx512_f": True, "avx512_bf16": True}, torch.bfloat16),
    ("auto", "cpu", {"amx_bf16": True}, torch.bfloat16),
    ("auto", "cpu", {"avx2": True, "avx512_bf16": False}, None),
    ("auto", "cpu", None, None),  # an older PyTorch cannot say
    ("off", "cpu", {"amx_bf16": True}, None),
])  # fmt: skip
def test_auto_is_what_the_device_itself_multiplies_in(monkeypatch, amp, device, has, dtype):
    asked = []
    monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext(asked.append(str(index))))
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or has
    )
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    if has is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert engine.autocast_dtype(amp, torch.device(device)) is dtype
    assert asked == (["cuda:1"] if (amp, device) == ("auto", "cuda:1") else [])


@needs_cuda
def test_after_a_real_capture_that_failed_units_are_still_dropped_out(monkeypatch):
    forward = TrainingLoss.forward

    def waits(self, *args):
        value = forward(self, *args)
        value.item()
        return value

    run = build(device="cuda", model=DROPOUT)
    monkeypatch.setattr(TrainingLoss, "forward", waits)
    plain = build(EAGER, device="cuda", model=DROPOUT)
    theirs, ours = curve(plain, device="cuda"), curve(run, device="cuda")
    assert "not graphed" in run.how
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    monkeypatch.undo()
    again = build(device="cuda", model=DROPOUT)  # and the next engine can capture
    curve(again, device="cuda")
    assert again.how.endswith("CUDA graph")
