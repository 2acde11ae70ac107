"""Is this validation loss too good to be true? Knows nothing about runs or files.

A model that sees its targets copies them, all but the last one of a window, which nothing shows.
Its mean loss over a window of T tokens tends to (loss at the last position) / T, and at the last
position it is hardly worse than guessing by frequency: that is the unigram entropy over T. An
honest model of natural text stays at half of the unigram entropy or more.
"""

import warnings

import numpy as np
import torch
from torch import Tensor

from llmlite.metrics import losses_of, windows_at_once
from llmlite.windows import TokenWindows, to_tensor

SOME = 1_000_000  # tokens that the entropy is estimated from: a corpus may be larger than memory


class ImplausibleLossWarning(UserWarning):
    """A loss that no language model has on natural text: something shows it the answers."""


def unigram_entropy(ids: Tensor | np.ndarray) -> float:
    """Nats per token of guessing by frequency, from the first million of ids (tokens,)."""
    counts = torch.bincount(to_tensor(ids[:SOME])).double()
    return torch.special.entr(counts / counts.sum()).sum().item()


def leak_floor(ids: Tensor | np.ndarray, block_size: int) -> float:
    """The validation loss below which a leak is likelier than learning, in nats per token.

    Twice the unigram entropy / block_size, what a leaking model has before it has quite learnt to
    copy; but never over a third of the entropy, which windows below 6 tokens would come to.
    """
    return min(2 / block_size, 1 / 3) * unigram_entropy(ids)


def warn_if_implausible(loss: float, floor: float, causal: bool) -> str | None:
    """Warn of a mean validation loss below `floor` (see `leak_floor`); what was said, or None."""
    if loss >= floor:
        return None
    why = "" if causal else " (the causal mask is off)"
    text = (
        f"A validation loss of {loss:.4f} nats per token is implausibly low{why}: below "
        f"{floor:.4f}, where a model ends that sees its targets. Check the mask, the targets and "
        "what fills up windows; llmlite.audit.causality.causal_leak(model) tests the mask."
    )
    warnings.warn(text, ImplausibleLossWarning, stacklevel=3)
    return text


@torch.inference_mode()
def loss_by_position(model, windows: TokenWindows, batch_size: int | None = None) -> Tensor:
    """Mean loss at each position of the window, (block_size,) float64 on the CPU, nats per token.

    The signature of a leak: near 0 everywhere but at the last position. batch_size: windows at a
    time, by default as many as suit the device.
    """
    batch_size = batch_size or windows_at_once(model.device, windows.block_size)
    was_training = model.training
    model.eval()
    # Read once, at the end: each read would wait for the device.
    sums = torch.zeros(windows.block_size, dtype=torch.float64, device=model.device)
    try:
        for index in torch.arange(len(windows), device=windows.device).split(batch_size):
            inputs, targets = (part.to(model.device) for part in windows[index])
            hidden, _ = model.hidden(inputs)
            sums += losses_of(model, hidden, targets).double().sum(0)
    finally:
        model.train(was_training)
    return sums.cpu() / len(windows)
