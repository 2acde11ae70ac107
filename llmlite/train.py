"""The trainer (§III.E): a Run and token ids → the run's folder (see run.py). Interrupted, even by
SIGKILL, the same call carries on, and on a CPU ends with the same weights, bit for bit."""

import math
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from typeguard import check_type

from llmlite import metrics
from llmlite import run as runs
from llmlite.config import FastPaths
from llmlite.data import Dataset, mistakes
from llmlite.engine import Engine, autocast_dtype, learning_rate
from llmlite.files import CheckpointError, DivergedError, LLMLiteError, hold, say, tqdm, write_json
from llmlite.model import GPT
from llmlite.parallel import world
from llmlite.run import LAST, PREVIOUS, RECORD, STEPS, WEIGHTS, Epoch, Record, Run
from llmlite.steplog import StepLog
from llmlite.windows import EpochSampler, windows_of

# Seconds between checkpoints: on a GPU, which takes 200 steps a second, one every 200 steps would
# take as long to write as the steps themselves.
CHECKPOINT_SECONDS = 30.0
FLUSH_EVERY = 20  # steps between reads of the log on a CPU; a GPU would have to wait for each read


class OwnState(TypedDict):
    """Of the Trainer itself, in a checkpoint."""

    step: int
    epochs: list[Epoch]
    warning: str | None
    best: dict[str, Tensor]


@dataclass(frozen=True)
class Compute:
    """Where and how runs are computed, which is no part of what they are."""

    device: str = "cpu"
    progress: bool = True
    paths: FastPaths = FastPaths()


def epoch_line(epoch: dict) -> str:
    """An epoch's log in the paper's form (Figs. 3 to 5)."""
    return (
        f"Epoch {epoch['epoch']}: Train Loss={epoch['train_loss']:.4f}, "
        f"Val Loss={epoch['valid_loss']:.4f}, Perplexity={epoch['perplexity']:.4f}, "
        f"LR={epoch['lr']:.6f}, GradNorm={epoch['grad_norm']:.4e}"
    )


class Trainer:
    """One run in one folder: `fit()` trains, or carries on, or finds it finished."""

    def __init__(
        self, run: Run, dataset: Dataset, folder: str | Path, compute: Compute = Compute()
    ):
        config, size = run.train, run.model.block_size
        self.run, self.config, self.folder, self.compute = run, config, Path(folder), compute
        self.device, self.world = torch.device(compute.device), world()
        self.progress = compute.progress and self.world.main
        self.identity = run.identity(dataset.about)
        windows = windows_of(dataset, run.data, config, self.device)
        self.windows, self.valid_windows = windows["train"], windows["valid"]
        self.epoch_windows = min(len(self.windows), config.epoch_windows or len(self.windows))
        self.leak_floor = metrics.leak_floor(dataset.ids["train"][: config.train_tokens], size)
        self.batch = config.batch_size * config.accumulation  # windows in an optimiser step
        self.steps_per_epoch = math.ceil(self.epoch_windows / self.batch)
        self.total_steps = self.steps_per_epoch * config.epochs
        # Several processes have to stop at the same step, and their clocks differ.
        self.checkpoint_every = config.checkpoint_every or (200 if self.world.size > 1 else None)
        self.tokens_per_epoch = self.epoch_windows * size
        self.dtype = autocast_dtype(config.amp, self.device)

    def _reset(self) -> None:
        """The state before the first step, whatever was drawn or half trained in this process."""
        torch.manual_seed(self.config.seed)
        self.model = GPT(self.run.model).to(self.device)
        how = self.dtype, self.total_steps, self.world, self.compute.paths
        self.engine = Engine(self.model, self.config, *how)
        self.log = StepLog(self.folder, self.total_steps, self.world, self.dtype)
        self.step = 0  # optimiser steps taken
        self.epochs: list[dict] = []  # the log of finished epochs
        self.best: dict[str, Tensor] = {}  # weights after the best epoch, on the device
        self.warning: str | None = None  # of a loss that is too good to be true
        self._saved_at = time.monotonic()

    @property
    def best_epoch(self) -> dict | None:
        return min(self.epochs, key=lambda epoch: epoch["valid_loss"], default=None)

    def fit(self, again: bool = False) -> Record:
        """Train to the end and return the record, which says why if the run fails (DivergedError,
        or LLMLiteError where memory runs out). BusyError if another process trains in the folder,
        CheckpointError if it holds another run. again: though it is finished, for its weights."""
        record = self.world.from_main(runs.finished_record(self.folder, self.identity))
        if record and not again:
            return record
        with hold(self.folder) if self.world.main else nullcontext():
            self._resume()
            self._write_record("running")
            try:
                shown = {"desc": "Train", "unit": "step", "disable": not self.progress}
                with tqdm(total=self.total_steps, initial=self.step, **shown) as self.bar:
                    while len(self.epochs) < self.config.epochs and not self._stop_early():
                        self._train_epoch()
                        self._end_epoch()
                self._write_best()
                record = self._write_record("finished")
                if self.world.main:
                    for name in (LAST, PREVIOUS):  # larger than all that is needed now
                        (self.folder / name).unlink(missing_ok=True)
                return record
            except DivergedError as error:
                self._write_record("failed", str(error))
                raise
            except (RuntimeError, MemoryError) as error:
                lacks_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
                # A CPU's allocator has no class of its own.
                if not lacks_memory and "can't allocate memory" not in str(error):
                    raise
            # What the failed step held is let go of.
            reason = (
                f"At step {self.step + 1}, {self.device} ran out of memory with "
                f"{self.engine.piece} windows in a forward pass; a smaller batch_size with more "
                "accumulation, not merged (merge=False), is the same step."
            )
            self._write_record("failed", reason)
            raise LLMLiteError(reason)

    def _train_epoch(self) -> None:
        self.model.train()
        epoch, seed, on_cpu = len(self.epochs), self.config.seed, self.device.type == "cpu"
        seen = (self.step - epoch * self.steps_per_epoch) * self.batch
        self.log.start_clock()
        part = seen, self.world, self.epoch_windows
        sampler = EpochSampler(self.windows, self.batch, seed, epoch, *part)
        # It draws a seed for workers, and must not from the numbers that dropout draws from.
        loader = DataLoader(
            self.windows, batch_sampler=sampler, collate_fn=tuple, generator=torch.Generator()
        )
        for (inputs, targets), whole in zip(loader, sampler.batches, strict=True):
            rate = learning_rate(self.step, self.total_steps, self.config)
            inputs, targets = inputs.to(self.device), targets.to(self.device)
            # From this process's part of a batch of so many windows.
            loss, norm = self.engine.step(inputs, targets, len(whole), rate)
            if self.config.log_divided_loss:
                loss = loss / self.config.accumulation
            self.step += 1
            row = {"step": self.step, "epoch": epoch + 1, "lr": rate, "loss": loss}
            row |= {"grad_norm": norm, "tokens": len(whole) * inputs.size(1)}
            self.log.pending.append(row)
            self.bar.update()
            checkpoint = self._checkpoint_is_due()
            if checkpoint or (on_cpu and self.step % FLUSH_EVERY == 0):
                self._flush()
            if checkpoint:
                self._save()
        self._flush()

    def _checkpoint_is_due(self) -> bool:
        if self.checkpoint_every:
            return self.step % self.checkpoint_every == 0
        return time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS

    def _flush(self) -> None:
        """Write the log up to here, and show where the run stands."""
        if rows := self.log.flush():
            loss = rows[-1]["loss"]
            self.bar.set_postfix_str(f"loss {loss:.3f}, perplexity {metrics.perplexity(loss):.1f}")

    def _end_epoch(self) -> None:
        """Validate, log the epoch, keep the weights if they are the best so far, checkpoint."""
        valid_loss = self._validate()
        if not math.isfinite(metrics.perplexity(valid_loss)):
            said = f"The validation loss became {valid_loss} after epoch {len(self.epochs) + 1}"
            raise DivergedError(f"{said}; lower the learning rate.")
        epoch = {
            "epoch": len(self.epochs) + 1,
            "step": self.step,
            "valid_loss": valid_loss,
            "perplexity": metrics.perplexity(valid_loss),
            "lr": learning_rate(self.step - 1, self.total_steps, self.config),
            **self.log.close_epoch(),
        }
        self.epochs.append(epoch)
        if self.progress:
            say(epoch_line(epoch))
        if not self.warning:
            expected = self.leak_floor, self.run.model.causal
            self.warning = metrics.warn_if_implausible(valid_loss, *expected)
        if self.best_epoch is epoch:
            self.best = {name: w.detach().clone() for name, w in self.model.state_dict().items()}
        if self.checkpoint_every or self._checkpoint_is_due():
            self._save()
        self._write_record("running")

    def _validate(self) -> float:
        """Nats per token over the validation split; each process scores its part of the windows."""
        # The mean over whole windows, with their mistakes: without a mask the last token alone is
        # not seen, and would weigh more in a shorter window.
        if mistakes(self.run.data) or not self.run.model.causal:
            return metrics.loss_by_position(self.model, self.valid_windows).mean().item()
        # The rest that fills no window counts as well.
        ids, size = self.valid_windows.ids, self.run.model.block_size
        part = self.world.part(math.ceil((len(ids) - 1) / size))
        nats, name = 0.0, "Validate" if self.progress else None
        if part.start < part.stop:
            mine = ids[part.start * size : part.stop * size + 1]
            batch = min(self.config.batch_size, metrics.windows_at_once(self.device, size))
            nats, _ = metrics.total_loss(self.model, mine, batch_size=batch, progress=name)
        total = self.world.sum(torch.tensor(nats, dtype=torch.float64, device=self.device))
        return total.item() / (len(ids) - 1)

    def _stop_early(self) -> bool:
        """Has the validation loss not improved for `patience` epochs?"""
        patience, best = self.config.patience, self.best_epoch
        return bool(patience and best and len(self.epochs) - best["epoch"] >= patience)

    def _save(self) -> None:
        self._write_best()
        self._saved_at = time.monotonic()
        if not self.world.main:
            return
        cuda = self.device.type == "cuda"
        state = {
            "identity": self.identity,
            **{name: getattr(self, name) for name in OwnState.__annotations__},
            "log": {"sums": dict(self.log.sums), "skipped": self.log.skipped},
            "steps_sha256": self.log.sha256.hexdigest(),
            **self.engine.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if cuda else None,
        }
        runs.save_state(state, self.folder)
        self.log.start_clock()

    def _write_best(self) -> None:
        if self.world.main and self.best:
            about = runs.origin({"identity": self.identity, "best": self.best_epoch})
            runs.save_weights(self.run.model, self.best, self.folder / WEIGHTS, **about)

    def _resume(self) -> None:
        """Take up the last checkpoint, if there is one, and cut the step log back to it."""
        state = there = None
        if self.world.main:
            for half_written in self.folder.glob(".*.tmp*"):  # by a process that was killed
                half_written.unlink()
            state, there = self._state_and_identity()
        state, there = self.world.from_main((state, there))
        self._reset()
        if there and (other := runs.difference(self.identity, there)):
            said = f"{self.folder} belongs to another run ({other})"
            raise CheckpointError(f"{said}; use another folder or delete this one.")
        if state is not None:
            try:
                self._restore(state)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # of somebody else's checkpoint, of whatever kind
                said = f"{self.folder / LAST} does not fit its run ({type(error).__name__})"
                raise CheckpointError(f"{said}; delete it to start anew.") from None
        if self.world.main:
            self.log.cut(self.step)
        lost = state is not None and self.log.sha256.hexdigest() != state.get("steps_sha256")
        if self.world.from_main(lost):
            self._reset()
        if not self.world.main:  # each process drops out other units
            torch.manual_seed(hash((self.config.seed, self.world.rank, self.step)))
            return
        if lost:
            say(f"{self.folder / STEPS} lacks steps of the checkpoint; the run begins anew.")
            self.log.cut(0)
        self._write_best()  # the file may be newer than the checkpoint, or damaged

    def _state_and_identity(self) -> tuple[dict | None, dict | None]:
        """The checkpoint to carry on from, if there is one, and the run whose folder this is."""
        # Four numbers a parameter in float32 (weights, two of AdamW, the best), and the rest.
        most = 32 * self.run.model.n_parameters + 2**24
        state = runs.load_state(self.folder, "cpu" if self.world.size > 1 else self.device, most)
        if state is None:
            try:  # of a finished run that is all
                record = runs.read_record(self.folder)
                return None, record and record["identity"]
            except CheckpointError:
                runs.set_aside(self.folder / RECORD, "is damaged")
                return None, None
        identity = state.get("identity")
        return state, (isinstance(identity, dict) and identity) or {"model": "none"}

    def _restore(self, state: dict) -> None:
        own = {name: state[name] for name in OwnState.__annotations__}
        vars(self).update(check_type(own, OwnState))
        self.log.sums, self.log.skipped = Counter(state["log"]["sums"]), state["log"]["skipped"]
        self.engine.load_state_dict(state)
        torch.set_rng_state(state["rng"].cpu())
        if state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.device)

    def _write_record(self, status: str, reason: str | None = None) -> Record:
        record: Record = {
            "status": status,
            **({"reason": reason} if reason else {}),
            **({"warning": self.warning} if self.warning else {}),
            "command": runs.typed_command(),
            "identity": self.identity,
            "environment": runs.environment(self.device),
            "amp": str(self.dtype or torch.float32).removeprefix("torch."),
            "engine": self.engine.how,
            "processes": self.world.size,
            "parameters": self.model.n_parameters(),
            "steps_per_epoch": self.steps_per_epoch,
            "tokens_per_epoch": self.tokens_per_epoch,
            "epochs": self.epochs,
            "best": self.best_epoch,
            "seconds": sum(epoch["seconds"] for epoch in self.epochs),
            "steps_sha256": self.log.sha256.hexdigest(),
        }
        if self.world.main:
            write_json(self.folder / RECORD, record)
        return record
