"""The log of a run's optimiser steps: read off the device in groups, checked, added up, written.

Reading a number waits for the device, so steps are kept there until somebody asks for the log.
"""

import math
import time
from pathlib import Path

import torch
from torch import Tensor

from llmlite.checkpoint import append_steps
from llmlite.errors import DivergedError
from llmlite.parallel import World

MAX_SKIPPED = 30  # steps in a row that fp16 may leave out; from its first scale 16 are already many


class StepLog:
    """One run's steps. `sums` are over the running epoch, up to the last flush."""

    def __init__(self, folder: Path, total_steps: int, world: World, may_skip: bool):
        """may_skip: whether a gradient scaler leaves out steps whose gradient overflows."""
        self.folder, self.total_steps, self.world = folder, total_steps, world
        self.may_skip = may_skip
        self.skipped = 0  # the last steps in a row that were left out
        self._pending: list[tuple] = []
        self._new_sums()
        self.start_clock()

    def _new_sums(self) -> None:
        self.sums = {
            "loss": 0.0,
            "norm": 0.0,
            "norms": 0,
            "skipped": 0,
            "tokens": 0,
            "seconds": 0.0,
        }

    def start_clock(self) -> None:
        """What went before, such as writing files, is not training."""
        self._since = time.perf_counter()

    def __len__(self) -> int:
        """Steps that are not read yet."""
        return len(self._pending)

    def add(self, step: int, epoch: int, rate: float, loss: Tensor, norm: Tensor, tokens: int):
        """loss: this process's share of the mean. norm: of the whole gradient, unscaled."""
        self._pending.append((step, epoch, rate, loss, norm, tokens))

    def flush(self) -> list[dict]:
        """Append the steps since the last flush to steps.jsonl and return these rows.

        Raises DivergedError if one of them shows that the run cannot come to anything.
        """
        if not self._pending:
            return []
        *_, losses, norms, _ = zip(*self._pending, strict=True)
        losses = self.world.sum(torch.stack(losses)).tolist()
        norms, rows = torch.stack(norms).tolist(), []
        for (step, epoch, rate, *_, tokens), loss, norm in zip(
            self._pending, losses, norms, strict=True
        ):
            self._check(step, rate, loss, norm)
            taken = math.isfinite(norm)
            rows.append(
                {
                    "step": step,
                    "epoch": epoch,
                    "lr": rate,
                    "loss": loss,
                    "grad_norm": norm if taken else None,
                }
            )
            self.sums["loss"] += loss * tokens
            self.sums["tokens"] += tokens
            if taken:
                self.sums["norm"] += norm
                self.sums["norms"] += 1
            else:
                self.sums["skipped"] += 1
        self._pending.clear()
        self.sums["seconds"] += time.perf_counter() - self._since  # the device is done with them
        self.start_clock()
        if self.world.main:
            append_steps(self.folder, rows)
        return rows

    def _check(self, step: int, rate: float, loss: float, norm: float) -> None:
        what, advice = "", "lower the learning rate or lengthen the warmup"
        self.skipped = 0 if math.isfinite(norm) else self.skipped + 1
        if not math.isfinite(loss):
            what = f"loss became {loss}"
        elif self.skipped and not self.may_skip:
            what = f"gradient's norm became {norm}"
        elif self.skipped > MAX_SKIPPED:
            what = f"gradient overflowed float16 {self.skipped} times in a row, the last time"
            advice = "choose amp bf16 or off, or lower the learning rate"
        if what:
            raise DivergedError(
                f"The {what} at step {step} of {self.total_steps} (learning rate {rate:.2e}); "
                f"{advice}."
            )

    @property
    def speed(self) -> float:
        """Tokens/s in this epoch so far."""
        return self.sums["tokens"] / self.sums["seconds"]

    def close_epoch(self) -> dict:
        """What the epoch's log says of its steps: means over tokens and over steps, and times."""
        sums = self.sums
        means = {
            "train_loss": sums["loss"] / sums["tokens"],
            "grad_norm": sums["norm"] / max(1, sums["norms"]),
            "skipped": sums["skipped"],
            "tokens_per_second": self.speed,
            "seconds": sums["seconds"],
        }
        self._new_sums()
        return means

    def state_dict(self) -> dict:
        return {"sums": self.sums, "skipped": self.skipped}

    def load_state_dict(self, state: dict) -> None:
        self.sums, self.skipped = state["sums"], state["skipped"]
