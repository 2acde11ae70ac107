"""The parts of training that are pure functions: schedule, precision, what decays.

Knows nothing about runs, files or data.
"""

import math

import torch

from llmlite.config import TrainConfig
from llmlite.model import GPT


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """The rate of optimiser step `step` (from 0) of `total` (Fig. 8).

    "cosine": from 0 linearly to the peak at the end of the warmup, then half a cosine to 0 at the
    end. Pure, so the schedule needs no state and cannot run ahead of the optimiser (claims.md C5).
    """
    if config.schedule == "fixed":
        return config.learning_rate
    warmup = round(config.warmup_fraction * total)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup + 1) / max(1, total - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def autocast_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """What `amp` means on `device`; None is plain float32.

    "auto" is bf16 where a GPU has it and fp16 on older ones: bf16 has float32's range, so its
    gradients need no scaling. Older ones would emulate bf16, slower than float32. On a CPU "auto"
    is float32.
    """
    if amp == "auto":
        if device.type != "cuda":
            return None
        with torch.cuda.device(device):  # the question is about the current one
            has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float16
    return {"fp16": torch.float16, "bf16": torch.bfloat16, "off": None}[amp]


def parameter_groups(model: GPT, weight_decay: float) -> list[dict]:
    """Matrices decay; biases and norms do not."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
