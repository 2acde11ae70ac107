"""The two floors of a training step: what its arithmetic and its memory traffic take at least.

    operations / peak rate  and  bytes / bandwidth: no step is faster than the larger of the two

Pure functions of a model's shape, and the rates of known devices from their data sheets; those of
any other device are measured. Counted are matrix products and the optimiser; what norms, softmax
and activation functions add is left out, so a real step always takes longer than its floor.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from llmlite.config import ModelConfig
from llmlite.engine import step_operations
from llmlite.model import GPT

STATE_BYTES = 4  # weights, gradients and both moments are float32, whatever the products are in


@dataclass(frozen=True)
class Peak:
    """The fastest a device is: floating-point operations/s, and bytes/s of its memory."""

    operations: float
    bytes: float
    source: str  # "data sheet" or "measured"


@dataclass(frozen=True)
class DataSheet:
    """Dense rates in TFLOP/s (without the sparsity that data sheets double them by), and TB/s."""

    bfloat16: float  # and float16
    tf32: float  # float32 with products rounded to 10 bits of mantissa
    float32: float
    bandwidth: float


# By the name that CUDA gives. NVIDIA's data sheets: "H100 Tensor Core GPU" (2023, column SXM),
# "H200 Tensor Core GPU" (2024), "A100 Tensor Core GPU" (2021).
DATA_SHEETS = {
    "NVIDIA H100 80GB HBM3": DataSheet(989.4, 494.7, 67.0, 3.35),
    "NVIDIA H200": DataSheet(989.4, 494.7, 67.0, 4.8),
    "NVIDIA A100-SXM4-40GB": DataSheet(312.0, 156.0, 19.5, 1.555),
    "NVIDIA A100-PCIE-40GB": DataSheet(312.0, 156.0, 19.5, 1.555),
    "NVIDIA A100-SXM4-80GB": DataSheet(312.0, 156.0, 19.5, 2.039),
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

    Weights, gradients and the optimiser's two moments are read once and written once. So are the
    activations that the backward pass needs, of `bytes_per_value` each: what enters a layer (1
    width), its queries, keys and values (3), what attention gives (1), the sum that enters the
    second half (1), the wide layer before its activation function (4), and what enters the last
    norm (1). The rest follows from these element by element; logits are never stored.
    """
    state = 4 * GPT(model).n_parameters() * STATE_BYTES
    kept = windows * model.block_size * (10 * model.n_layer + 1) * model.n_embd * bytes_per_value
    return 2.0 * (state + kept)


def peak(device: str | torch.device, dtype: torch.dtype) -> Peak:
    """The data sheet's rates of a known GPU; what is measured here on any other device.

    float32 counts as TF32 where PyTorch was told that products may be rounded to it.
    """
    device = torch.device(device)
    sheet = None
    if device.type == "cuda":
        sheet = DATA_SHEETS.get(torch.cuda.get_device_name(device))
    if sheet is None:
        return measured_peak(device, dtype)
    rounded = torch.get_float32_matmul_precision() != "highest"
    tera = {
        torch.bfloat16: sheet.bfloat16,
        torch.float16: sheet.bfloat16,
        torch.float32: sheet.tf32 if rounded else sheet.float32,
    }[dtype]
    return Peak(tera * 1e12, sheet.bandwidth * 1e12, "data sheet")


def measured_peak(
    device: str | torch.device, dtype: torch.dtype, size: int = 2048, megabytes: int = 256
) -> Peak:
    """The best rates seen here: of a product of two (size, size) matrices, and of a large copy.

    A copy of n bytes moves 2·n: each is read and written.
    """
    matrix = torch.randn(size, size, device=device).to(dtype)
    source = torch.ones(megabytes * 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Peak(
        2 * size**3 / min(_best_seconds(call, matrix.device) for call in _products(matrix)),
        2 * source.numel() / _best_seconds(lambda: target.copy_(source), source.device),
        "measured",
    )


def _products(matrix: torch.Tensor) -> list[Callable]:
    """The ways that PyTorch has to multiply it by itself, each a call."""
    ways = [lambda: torch.mm(matrix, matrix)]
    # float32 goes to MKL, which takes up to twice as long as oneDNN on AMD's processors.
    onednn = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if onednn and matrix.device.type == "cpu" and matrix.dtype == torch.float32:
        linear = torch.ops.mkldnn._linear_pointwise
        ways.append(lambda: linear(matrix, matrix, None, "none", [], ""))
    return ways


def _best_seconds(call: Callable, device: torch.device, rounds: int = 10) -> float:
    """The shortest of some calls, each waited for; the first ones warm up."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best
