"""The log of a run's optimiser steps: read off the device in groups, checked and added up."""

import hashlib
import json
import math
import os
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import torch

from llmlite.files import DivergedError, read_bytes, replacing, room_for
from llmlite.parallel import World
from llmlite.run import LONGEST, STEPS

MAX_SKIPPED = 30  # steps in a row that fp16 may leave out; from its first scale 16 are already many


class StepLog:
    """Reading a number waits for the device, so steps stay there until somebody asks for them."""

    def __init__(self, folder: Path, total_steps: int, world: World, dtype: torch.dtype | None):
        self.path, self.total_steps, self.world = folder / STEPS, total_steps, world
        self.may_skip = dtype == torch.float16  # a scaler leaves out steps that overflow
        self.skipped = 0  # the last steps in a row that were left out
        self.sha256 = hashlib.sha256()  # of the file, up to the last flush
        self.sums = Counter()  # of the epoch, up to the last flush
        # Rows as in the file, with this process's share of the loss and the norm on the device, and
        # with the step's tokens.
        self.pending: list[dict] = []
        self.start_clock()

    def start_clock(self) -> None:
        """What went before, such as writing files, is not training."""
        self._since = time.perf_counter()

    def flush(self) -> list[dict]:
        """Write the steps since the last flush, and give their rows. DivergedError if one of them
        shows that the run cannot come to anything."""
        if not self.pending:
            return []
        rows, sums = self.pending, self.sums
        losses = self.world.sum(torch.stack([row["loss"] for row in rows])).tolist()
        norms = torch.stack([row["grad_norm"] for row in rows]).tolist()
        for row, loss, norm in zip(rows, losses, norms, strict=True):
            taken, tokens = math.isfinite(norm), row.pop("tokens")
            self._check(row["step"], row["lr"], loss, norm)
            row |= {"loss": loss, "grad_norm": norm if taken else None}
            counted = {"norm": norm, "norms": 1} if taken else {"skipped": 1}
            sums.update(loss=loss * tokens, tokens=tokens, **counted)
        self.pending = []
        sums["seconds"] += time.perf_counter() - self._since  # the device is done with them
        self.start_clock()
        if self.world.main:
            lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
            self.sha256.update(lines)
            with room_for(self.path), open(self.path, "ab") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())  # as a checkpoint after them needs
        return rows

    def cut(self, step: int) -> None:
        """Cut the file back to its first `step` rows, those before a checkpoint, or to those of
        them that are there: `sha256` tells."""
        rows = b""
        # A kill may have left the last line short; all lines up to a checkpoint are whole.
        with suppress(FileNotFoundError, ValueError):
            rows = b"".join(read_bytes(self.path, LONGEST).splitlines(True)[:step])
        self.sha256 = hashlib.sha256(rows)
        with replacing(self.path) as aside:
            aside.write_bytes(rows)

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
            at = f"step {step} of {self.total_steps} (learning rate {rate:.2e})"
            raise DivergedError(f"The {what} at {at}; {advice}.")

    def close_epoch(self) -> dict:
        """What the epoch's log says of its steps: means over tokens and over steps, and times."""
        sums, self.sums = self.sums, Counter()
        return {
            "train_loss": sums["loss"] / sums["tokens"],
            "grad_norm": sums["norm"] / max(1, sums["norms"]),
            "skipped": sums["skipped"],
            "tokens_per_second": sums["tokens"] / sums["seconds"],
            "seconds": sums["seconds"],
        }
