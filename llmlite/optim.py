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

    "auto" is bf16 where the device computes in it, since it has float32's range and its gradients
    need no scaling; elsewhere bf16 would be emulated, slower than float32, and "auto" is fp16 on a
    GPU and float32 on a CPU.
    """
    if amp == "auto":
        if device.type != "cuda":
            return torch.bfloat16 if _cpu_has_bf16() else None
        with torch.cuda.device(device):  # the question is about the current one
            has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float16
    return {"fp16": torch.float16, "bf16": torch.bfloat16, "off": None}[amp]


def _cpu_has_bf16() -> bool:
    """Does the processor multiply in bf16, by AVX-512 or by AMX?"""
    if not hasattr(torch.cpu, "get_capabilities"):  # an older PyTorch cannot say
        return False
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def parameter_groups(model: GPT, weight_decay: float) -> list[dict]:
    """Matrices decay; biases and norms do not."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
