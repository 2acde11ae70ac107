"""The warning in the paper's log (C5): `lr_scheduler.step()` before `optimizer.step()`.

This package has no scheduler object whose steps could be out of order (see optim.py), so the two
ways to get the warning are shown on PyTorch's own classes.
"""

import warnings

import torch
from torch import nn


def scheduler_warns(overflow: bool = False, every_batch: bool = False) -> bool:
    """Does PyTorch warn that the scheduler went before the optimiser, in two accumulated steps?

    overflow: the first gradient is infinite, so GradScaler leaves out that step. every_batch: the
    scheduler goes at every batch, four of which are accumulated; else at every optimiser step.
    """
    layer = nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(layer.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    scaler = torch.amp.GradScaler("cpu")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for batch in range(1, 9):
            x = torch.full((1, 1), torch.inf if overflow and batch == 1 else 1.0)
            scaler.scale(layer(x).sum() / 4).backward()
            if batch % 4 == 0:
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
            if every_batch or batch % 4 == 0:
                scheduler.step()
    return any("lr_scheduler.step()" in str(warning.message) for warning in caught)
