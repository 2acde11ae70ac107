"""The two floors of a training step: what its arithmetic and its memory traffic take at least.

    operations / peak rate  and  bytes / bandwidth: no step is faster than the larger of the two

Counted are matrix products and the optimiser; what norms, softmax and activation functions add is
left out, so a real step always takes longer than its floor.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from llmlite.config import ModelConfig
from llmlite.engine import step_operations
from llmlite.model import GPT


@dataclass(frozen=True)
class Peak:
    """The fastest a device is: floating-point operations/s, and bytes/s of its memory."""

    operations: float
    bytes: float
    source: str  # "data sheet" or "measured"


# In bfloat16, dense (without the sparsity that data sheets double the rates by), by the name that
# CUDA gives. NVIDIA's data sheets: "H100 Tensor Core GPU" (2023, column SXM), "H200 Tensor Core
# GPU" (2024), "A100 Tensor Core GPU" (2021).
DATA_SHEETS = {
    "NVIDIA H100 80GB HBM3": Peak(989.4e12, 3.35e12, "data sheet"),
    "NVIDIA H200": Peak(989.4e12, 4.8e12, "data sheet"),
    "NVIDIA A100-SXM4-40GB": Peak(312e12, 1.555e12, "data sheet"),
    "NVIDIA A100-SXM4-80GB": Peak(312e12, 2.039e12, "data sheet"),
}


@dataclass(frozen=True)
class Floor:
    """The least that a step does, and the least time for each on a device, in seconds."""

    operations: float
    bytes: float
    seconds_by_operations: float
    seconds_by_bytes: float

    @property
    def seconds(self) -> float:
        return max(self.seconds_by_operations, self.seconds_by_bytes)

    @property
    def binds(self) -> str:
        """Which of the two is the larger: "operations" or "bytes"."""
        return "operations" if self.seconds_by_operations >= self.seconds_by_bytes else "bytes"


def floor(model: ModelConfig, windows: int, dtype: torch.dtype, peak: Peak) -> Floor:
    """The floor of one optimiser step on `windows` windows, with matrix products in `dtype`."""
    operations = step_operations(model, windows)
    traffic = step_bytes(model, windows, dtype.itemsize)
    return Floor(operations, traffic, operations / peak.operations, traffic / peak.bytes)


def step_bytes(model: ModelConfig, windows: int, bytes_per_value: int) -> float:
    """Bytes that a step moves at least, if no product is computed twice and nothing else is kept.

    Weights, gradients and the optimiser's two moments, all in float32, are read once and written
    once. So are the activations that the backward pass needs, of `bytes_per_value` each: what
    enters a layer (1 width), its queries, keys and values (3), what attention gives (1), the sum
    that enters the second half (1), the wide layer before its activation function (4), and what
    enters the last norm (1). The rest follows from these; logits are never stored.
    """
    state = 4 * GPT(model).n_parameters() * 4
    kept = windows * model.block_size * (10 * model.n_layer + 1) * model.n_embd * bytes_per_value
    return 2.0 * (state + kept)


def measured_peak(device: str, dtype: torch.dtype, size: int = 2048, megabytes: int = 256) -> Peak:
    """The best rates seen here: of a product of two (size, size) matrices, and of a large copy,
    which reads each byte and writes it."""
    matrix = torch.randn(size, size, device=device).to(dtype)
    products = [lambda: torch.mm(matrix, matrix)]
    if (
        device == "cpu"
        and dtype == torch.float32
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    ):
        # float32 goes to MKL, which takes up to twice as long as oneDNN on AMD's processors.
        linear = torch.ops.mkldnn._linear_pointwise
        products.append(lambda: linear(matrix, matrix, None, "none", [], ""))
    source = torch.ones(megabytes * 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Peak(
        2 * size**3 / min(best_seconds(product, device) for product in products),
        2 * source.numel() / best_seconds(lambda: target.copy_(source), device),
        "measured",
    )


def best_seconds(call: Callable, device: str, rounds: int = 10) -> float:
    """The shortest of some calls, each waited for; the first ones warm up."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best
