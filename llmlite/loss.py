"""The training loss without the logits: projection to the vocabulary and cross-entropy in one.

At the best configuration's step (128 windows of 256 tokens, 10,000 tokens in the vocabulary) the
logits alone are 1.3 GB in float32, and the plain computation writes and reads them several times.
Here a few rows at a time are projected, turned into their gradient at once and forgotten, the idea
of Liger Kernel (Hsu et al., 2024). Knows nothing about models.
"""

import math
from functools import cache

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits that are held at a time: on a CPU so many that they stay in its caches, on a GPU enough to
# fill it. On an H200 a step in bfloat16 takes 5.31 ms with 2**27 at once and 5.66 with 2**25 (128
# windows of 256), 3.46 and 3.63 (512 of 32): tests/benchmarks/records/gpu-h200.json. They are 268
# MB in half precision, and as much again is their gradient; uncompiled, the softmax holds up to 21
# bytes a logit beside them, 3.1 GB in all, for which a T4 with its 16 GB has room.
CHUNK = {"cpu": 2**22, "cuda": 2**27}


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, compiled=False) -> Tensor:
    """Mean of cross_entropy(hidden @ weight.T, targets) in nats: a scalar in float32.

    hidden (n, width), weight (vocab_size, width), targets (n,). The products are made in autocast's
    type, the softmax in float32. compiled: fuse the softmax with torch.compile, which takes seconds
    once. Can be differentiated once.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    return _LinearCrossEntropy.apply(hidden, weight, targets, dtype, compiled)


class _LinearCrossEntropy(torch.autograd.Function):
    """Makes the gradients in the forward pass, while each chunk of logits is there."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, dtype, compiled):
        x, w = hidden.to(dtype), weight.to(dtype)
        columns = w.t().contiguous()  # (width, vocab_size)
        residual = _compiled_residual() if compiled else _residual
        losses, d_hidden = [], torch.empty_like(x)
        d_weight = torch.zeros_like(weight, dtype=torch.float32)
        rows = _rows(len(x), CHUNK.get(x.device.type, CHUNK["cpu"]) // len(w))
        for start in range(0, len(x), rows):
            part = slice(start, start + rows)
            whole = len(x) - start >= rows  # another length would be compiled again
            fused = residual if whole else _residual
            loss, error = fused(_product(x[part], w), targets[part])
            losses.append(loss)
            d_hidden[part] = _product(error, columns)
            if dtype == torch.float32:
                d_weight.addmm_(error.t(), x[part])
            else:
                d_weight += error.t() @ x[part]
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.types = hidden.dtype, weight.dtype
        return torch.stack(losses).sum() / len(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        d_hidden, d_weight = ctx.saved_tensors
        # The gradients are of the sum so far: in float16, 1/n of them would be lost to underflow.
        scale = grad / len(d_hidden)
        hidden_type, weight_type = ctx.types
        return (
            (d_hidden * scale).to(hidden_type),
            (d_weight * scale).to(weight_type),
            None,
            None,
            None,
        )


def _rows(n: int, most: int) -> int:
    """Rows in a chunk: `most` or fewer, dividing n where they can, so that no chunk is shorter."""
    fewest = math.ceil(n / max(1, most))
    chunks = next((c for c in range(fewest, 2 * fewest) if n % c == 0), fewest)
    return math.ceil(n / chunks)


def _residual(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(summed loss, its gradient with respect to the logits): softmax minus the one-hot target."""
    precise = logits.float()
    top = precise.amax(1, keepdim=True)
    exponentials = (precise - top).exp()
    total = exponentials.sum(1, keepdim=True)
    picked = precise.gather(1, targets.unsqueeze(1))
    loss = (total.log() + top - picked).sum()
    probabilities = exponentials / total
    is_target = torch.arange(logits.size(1), device=logits.device) == targets.unsqueeze(1)
    # Subtracted before it is rounded: in bfloat16 a probability near 1 would leave nothing.
    return loss, torch.where(is_target, probabilities - 1, probabilities).to(logits.dtype)


@cache
def _compiled_residual():
    """Made when it is first asked for: torch.compile imports the compiler, which takes seconds."""
    return torch.compile(_residual, dynamic=False)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight.T. PyTorch's float32 products go to MKL, which on AMD's processors takes up to
    twice as long as oneDNN; that it offers under this name only. A build without it has MKL left.
    """
    if x.dtype == torch.float32 and x.device.type == "cpu" and _ONEDNN:
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return x @ weight.t()


_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
