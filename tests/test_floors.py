"""The floors of a training step: by hand for a tiny model, and against PyTorch's own counter."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llmlite import floors
from llmlite.config import ModelConfig
from llmlite.floors import (
    OPTIMISER_OPERATIONS,
    Floor,
    Peak,
    floor,
    measured_peak,
    parameters,
    peak,
    step_bytes,
    step_operations,
)
from llmlite.model import GPT

TINY = ModelConfig(vocab_size=10, block_size=3, n_layer=1, n_head=2, n_embd=4, dropout=0.0)
SHAPES = [
    TINY,
    ModelConfig(vocab_size=61, block_size=12, n_layer=2, n_head=4, n_embd=16, dropout=0.0),
    ModelConfig(vocab_size=100, block_size=7, n_layer=3, n_head=1, n_embd=8, dropout=0.0),
]


@pytest.mark.parametrize("shape", [*SHAPES, ModelConfig()])
def test_the_parameters_are_those_of_the_model(shape):
    assert parameters(shape) == GPT(shape).n_parameters()


def test_operations_by_hand_for_a_tiny_model():
    # One window of 3 tokens, width 4. In the layer: (3, 4) @ (4, 12), (3, 4) @ (4, 4),
    # (3, 4) @ (4, 16), (3, 16) @ (16, 4); then the head, (3, 4) @ (4, 10).
    products = 2 * 3 * (4 * 12 + 4 * 4 + 4 * 16 + 16 * 4 + 4 * 10)
    # 6 of the 9 pairs of query and key are not in the future; each costs 4 products and 4 sums
    # over both heads for its score, and as many for its share of the values.
    attention = 6 * (8 + 8)
    optimiser = OPTIMISER_OPERATIONS * (10 * 4 + 3 * 4 + 12 * 16 + 13 * 4 + 8)
    assert step_operations(TINY, 1) == 3 * (products + attention) + optimiser
    twice = 2 * 3 * (products + attention) + optimiser
    assert step_operations(TINY, 2) == twice, "the optimiser's work does not grow with the batch"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("windows", [1, 5])
def test_operations_are_what_pytorch_counts_in_our_model(shape, windows, make_ids):
    model = GPT(shape)
    ids = make_ids(windows, shape.block_size + 1, vocab_size=shape.vocab_size)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        model(ids[:, :-1], ids[:, 1:]).loss.backward()
    # Attention written out is counted, and computed, for all pairs, those in the future too.
    counted = counter.get_total_flops() + OPTIMISER_OPERATIONS * parameters(shape)
    assert counted == step_operations(replace(shape, causal=False), windows)
    future = shape.block_size * (shape.block_size - 1) / 2
    left_out = 3 * windows * shape.n_layer * future * 4 * shape.n_embd
    assert counted - left_out == step_operations(shape, windows)


def test_bytes_by_hand_for_a_tiny_model():
    state = 4 * (10 * 4 + 3 * 4 + 12 * 16 + 13 * 4 + 8) * 4  # four numbers a parameter, float32
    kept = 3 * (10 + 1) * 4  # values for 3 tokens: ten widths a layer, one before the last norm
    assert step_bytes(TINY, 1, 2) == 2 * (state + kept * 2)
    assert step_bytes(TINY, 5, 4) == 2 * (state + 5 * kept * 4)


def test_autograd_keeps_no_less_than_the_bytes_count(make_ids):
    """What eager PyTorch saves for the backward pass is the ceiling of what has to be kept."""
    shape, windows = SHAPES[1], 5
    model = GPT(shape)
    ids = make_ids(windows, shape.block_size + 1, vocab_size=shape.vocab_size)
    saved = {}

    def keep(tensor):
        if tensor.is_floating_point():
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(ids[:, :-1], ids[:, 1:]).loss
    for parameter in model.parameters():
        saved.pop(parameter.untyped_storage().data_ptr(), None)
    assert loss.isfinite()
    kept = (step_bytes(shape, windows, 4) - step_bytes(shape, 0, 4)) / 2
    logits = windows * shape.block_size * shape.vocab_size * 4
    assert kept <= sum(saved.values()) - logits <= 4 * kept


def test_the_floor_is_the_larger_of_two_times():
    rates = Peak(operations=1e12, bytes=1e9, source="measured")
    found = floor(ModelConfig(), 2, torch.bfloat16, rates)
    assert found.operations == step_operations(ModelConfig(), 2)
    assert found.bytes == step_bytes(ModelConfig(), 2, 2)
    assert found.seconds_by_operations == pytest.approx(found.operations / 1e12)
    assert found.seconds_by_bytes == pytest.approx(found.bytes / 1e9)
    assert floor(ModelConfig(), 2, torch.float32, rates).bytes > found.bytes
    assert (Floor(1, 1, 2.0, 3.0).seconds, Floor(1, 1, 2.0, 3.0).binds) == (3.0, "bytes")
    assert (Floor(1, 1, 5.0, 3.0).seconds, Floor(1, 1, 5.0, 3.0).binds) == (5.0, "operations")


@pytest.mark.parametrize(
    ("name", "dtype", "precision", "operations", "bandwidth"),
    [
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, "highest", 989.4e12, 3.35e12),
        ("NVIDIA H100 80GB HBM3", torch.float32, "highest", 67e12, 3.35e12),
        ("NVIDIA H100 80GB HBM3", torch.float32, "high", 494.7e12, 3.35e12),
        ("NVIDIA H200", torch.float16, "highest", 989.4e12, 4.8e12),
        ("NVIDIA A100-SXM4-80GB", torch.bfloat16, "highest", 312e12, 2.039e12),
        ("NVIDIA A100-SXM4-40GB", torch.float32, "high", 156e12, 1.555e12),
    ],
)
def test_known_devices_have_their_data_sheets_rates(
    monkeypatch, name, dtype, precision, operations, bandwidth
):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    found = peak("cuda", dtype)
    assert found.operations == pytest.approx(operations)
    assert found.bytes == pytest.approx(bandwidth)
    assert found.source == "data sheet"


def test_a_device_without_a_data_sheet_is_measured(monkeypatch):
    measured = Peak(1.0, 2.0, "measured")
    monkeypatch.setattr(floors, "measured_peak", lambda device, dtype: measured)
    assert peak("cpu", torch.float32) is measured
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 PCIe")
    assert peak("cuda", torch.float32) is measured, "a slower card than the one in the table"


def test_the_measured_rates_are_work_over_the_shortest_time(monkeypatch):
    seconds = iter([0.0, 4.0, 10.0, 12.0, 20.0, 23.0, 30.0, 39.0])  # calls of 4, 2, 3 and 9 s
    monkeypatch.setattr(floors.time, "perf_counter", lambda: next(seconds, math.nan))
    calls = []
    best = floors._best_seconds(lambda: calls.append(1), torch.device("cpu"), rounds=4)
    assert (best, len(calls)) == (2.0, 4)
    monkeypatch.setattr(floors, "_best_seconds", lambda call, device: 0.5)
    found = measured_peak("cpu", torch.float32, size=8, megabytes=1)
    assert found == Peak(2 * 8**3 / 0.5, 2 * 2**20 / 0.5, "measured")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rate_of_products_is_that_of_the_fastest_way_to_make_them(monkeypatch, dtype):
    matrix = torch.randn(8, 8).to(dtype)
    for product in floors._products(matrix):
        shape = product().shape
        assert shape == (8, 8)
    ways = [lambda: 4.0, lambda: 2.0, lambda: 3.0]
    monkeypatch.setattr(floors, "_products", lambda matrix: ways)
    monkeypatch.setattr(floors, "_best_seconds", lambda call, device: call() if call in ways else 1)
    assert measured_peak("cpu", dtype, size=8, megabytes=1).operations == 2 * 8**3 / 2.0


def test_rates_measured_here_are_those_of_a_computer():
    found = measured_peak("cpu", torch.float32, size=256, megabytes=8)
    assert 1e8 < found.operations < 1e15
    assert 1e8 < found.bytes < 1e14
