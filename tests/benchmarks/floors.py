"""The floor of a training step: what its arithmetic and its memory traffic take at least.

    operations / peak rate  and  bytes / bandwidth: no step is faster than the larger of the two

Counted are matrix products and the optimiser; what norms, softmax and activation functions add is
left out, so a real step always takes longer than its floor.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from llmlite.config import ModelConfig
from llmlite.engine import step_operations
from llmlite.model import GPT


class Peak(NamedTuple):
    """The fastest a device is: floating-point operations/s, and bytes/s of its memory."""

    operations: float
    bytes: float


# In bfloat16, dense (without the sparsity that data sheets double the rates by), by the name that
# CUDA gives. NVIDIA's data sheets: "H100 Tensor Core GPU" (2023, column SXM), "H200 Tensor Core
# GPU" (2024), "A100 Tensor Core GPU" (2021).
DATA_SHEETS = {
    "NVIDIA H100 80GB HBM3": Peak(989.4e12, 3.35e12),
    "NVIDIA H200": Peak(989.4e12, 4.8e12),
    "NVIDIA A100-SXM4-40GB": Peak(312e12, 1.555e12),
    "NVIDIA A100-SXM4-80GB": Peak(312e12, 2.039e12),
}


def floor(model: ModelConfig, windows: int, dtype: torch.dtype, peak: Peak) -> dict[str, float]:
    """Of one optimiser step on `windows` windows, with matrix products in `dtype`: the least that
    it does, and the least seconds for it."""
    operations, traffic = step_operations(model, windows), step_bytes(model, windows, dtype)
    seconds = max(operations / peak.operations, traffic / peak.bytes)
    return {"operations": operations, "bytes": traffic, "seconds": seconds}


def step_bytes(model: ModelConfig, windows: int, dtype: torch.dtype) -> float:
    """Bytes that a step moves at least, if no product is computed twice and nothing else is kept.

    Weights, gradients and the optimiser's two moments, all in float32, are read once and written
    once. So are the activations that the backward pass needs, in `dtype`: what enters a layer
    (1 width), its queries, keys and values (3), what attention gives (1), the sum that enters the
    second half (1), the wide layer before its activation function (4), and what enters the last
    norm (1). The rest follows from these; logits are never stored.
    """
    state = 4 * GPT(model).n_parameters() * 4
    kept = windows * model.block_size * (10 * model.n_layer + 1) * model.n_embd * dtype.itemsize
    return 2.0 * (state + kept)


def measured_peak(device: str, dtype: torch.dtype, size: int = 2048, megabytes: int = 256) -> Peak:
    """The best rates seen here: of a product of two (size, size) matrices, and of a large copy,
    which reads each byte and writes it."""
    matrix = torch.randn(size, size, device=device).to(dtype)
    products = [lambda: torch.mm(matrix, matrix)]
    linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if linear and device == "cpu" and dtype == torch.float32:
        # float32 goes to MKL, which takes up to twice as long as oneDNN on AMD's processors.
        products.append(lambda: linear(matrix, matrix, None, "none", [], ""))
    source = torch.ones(megabytes * 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product, copy = (  # the first calls warm up
        min(timed(device, call) for call in calls for _ in range(10))
        for calls in (products, [lambda: target.copy_(source)])
    )
    return Peak(2 * size**3 / product, 2 * source.numel() / copy)


def timed(device: str, call: Callable) -> float:
    """Seconds to its end on the device."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start
