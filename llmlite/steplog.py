"""The log of a run's optimiser steps: read off the device in groups, checked and added up; and
TensorBoard's event files of it."""

import math
import time
from pathlib import Path

import torch
from torch import Tensor

from llmlite.files import DivergedError, LLMLiteError
from llmlite.parallel import World

MAX_SKIPPED = 30  # steps in a row that fp16 may leave out; from its first scale 16 are already many


class StepLog:
    """Reading a number waits for the device, so steps stay there until somebody asks for them."""

    def __init__(self, total_steps: int, world: World, may_skip: bool):
        """may_skip: whether a gradient scaler leaves out steps whose gradient overflows."""
        self.total_steps, self.world, self.may_skip = total_steps, world, may_skip
        self.skipped = 0  # the last steps in a row that were left out
        self._pending: list[tuple] = []
        self._new_sums()
        self.start_clock()

    def _new_sums(self) -> None:
        names = ("loss", "norm", "norms", "skipped", "tokens", "seconds")
        self.sums = dict.fromkeys(names, 0)  # of the running epoch, up to the last flush

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
        """The steps since the last flush, as rows of steps.jsonl.

        Raises DivergedError if one of them shows that the run cannot come to anything.
        """
        if not self._pending:
            return []
        steps, epochs, rates, losses, norms, tokens = zip(*self._pending, strict=True)
        losses = self.world.sum(torch.stack(losses)).tolist()
        norms = torch.stack(norms).tolist()
        rows, sums = [], self.sums
        for step, epoch, rate, loss, norm, n in zip(
            steps, epochs, rates, losses, norms, tokens, strict=True
        ):
            taken = math.isfinite(norm)
            self._check(step, rate, loss, norm)
            shown = norm if taken else None
            rows.append(
                {"step": step, "epoch": epoch, "lr": rate, "loss": loss, "grad_norm": shown}
            )
            sums["loss"] += loss * n
            sums["tokens"] += n
            sums["norm"] += norm if taken else 0
            sums["norms"] += taken
            sums["skipped"] += not taken
        self._pending.clear()
        sums["seconds"] += time.perf_counter() - self._since  # the device is done with them
        self.start_clock()
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
        sums, speed = self.sums, self.speed
        self._new_sums()
        return {
            "train_loss": sums["loss"] / sums["tokens"],
            "grad_norm": sums["norm"] / max(1, sums["norms"]),
            "skipped": sums["skipped"],
            "tokens_per_second": speed,
            "seconds": sums["seconds"],
        }

    def state_dict(self) -> dict:
        return {"sums": self.sums, "skipped": self.skipped}

    def load_state_dict(self, state: dict) -> None:
        self.sums, self.skipped = state["sums"], state["skipped"]


class EventFiles:
    """Numbers for TensorBoard, below a run's folder."""

    def __init__(self, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise LLMLiteError(
                "TensorBoard is not installed here; install it with `pip install "
                "'llmlite[tensorboard]'`."
            ) from None
        self.folder, self._open, self._writer = folder / "tensorboard", SummaryWriter, None

    def write(self, group: str, rows: list[dict], names: tuple[str, ...]) -> None:
        if self._writer is None:  # steps that are taken again replace those before an interruption
            first = rows[0]["step"] + (group == "epoch")  # whose last step is written already
            self._writer = self._open(str(self.folder), purge_step=first)
        for row in rows:
            for name in names:
                if row[name] is not None:  # fp16 scaling left the step out
                    self._writer.add_scalar(f"{group}/{name}", row[name], row["step"])
        self._writer.flush()

    def close(self) -> None:
        if self._writer:
            self._writer.close()
            self._writer = None
