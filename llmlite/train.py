"""The trainer (§III.E): mixed precision, accumulation, warmup + cosine, early stopping, resume.

Knows nothing about text: it gets token ids and leaves a run's folder (see checkpoint.py). A run
that was interrupted, even by SIGKILL in mid-epoch, carries on from its last checkpoint when the
same call is made again, and on a CPU ends with the same weights, bit for bit.
"""

import json
import math
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch

from llmlite.checkpoint import environment, load_state, read_record, save_model, save_state
from llmlite.config import ModelConfig, TrainConfig
from llmlite.data import TokenWindows, train_loader
from llmlite.errors import CheckpointError, DivergedError
from llmlite.files import replacing, write_json
from llmlite.metrics import perplexity, total_loss
from llmlite.model import GPT
from llmlite.optim import autocast_dtype, learning_rate, parameter_groups
from llmlite.progress import tqdm

FLUSH_EVERY = 20  # steps between reads of the device's logs; each read waits for the device


def epoch_line(epoch: dict) -> str:
    """An epoch's log in the paper's form (Figs. 3 to 5)."""
    return (
        f"Epoch {epoch['epoch']}: Train Loss={epoch['train_loss']:.4f}, "
        f"Val Loss={epoch['valid_loss']:.4f}, Perplexity={epoch['perplexity']:.4f}, "
        f"LR={epoch['lr']:.6f}, GradNorm={epoch['grad_norm']:.4e}"
    )


class Trainer:
    """One run in one folder. `fit()` trains, or carries on, or returns at once if it is finished.

    ids: {"train": (tokens,), "valid": (tokens,)}. about: what the record says of data and
    tokenizer (names and fingerprints); a run is only carried on with the same ones.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        config: TrainConfig,
        ids: dict[str, torch.Tensor],
        folder: str | Path,
        about: dict[str, str],
        device: str | torch.device = "cpu",
        stride: int | None = None,
        progress: bool = True,
    ):
        self.config, self.folder, self.device = config, Path(folder), torch.device(device)
        self.progress = progress
        self.identity = {
            "model": asdict(model_config),
            "train": asdict(config),
            "stride": stride or model_config.block_size,
            **about,
        }
        train_ids = ids["train"][: config.train_tokens].to(self.device)
        self.valid_ids = ids["valid"][: config.valid_tokens].to(self.device)
        windows = TokenWindows(train_ids, model_config.block_size, stride)
        self.batch = config.batch_size * config.accumulation  # windows in an optimiser step
        self.loader = train_loader(windows, self.batch, config.seed)
        self.steps_per_epoch = math.ceil(len(windows) / self.batch)
        self.total_steps = self.steps_per_epoch * config.epochs
        self.tokens_per_epoch = len(windows) * model_config.block_size
        self.model_config = model_config
        self.dtype = autocast_dtype(config.amp, self.device)
        self.environment = environment(self.device)

    def _start(self) -> None:
        """The state before the first step, whatever was drawn or half trained in this process."""
        config = self.config
        torch.manual_seed(config.seed)
        self.model = GPT(self.model_config).to(self.device)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, config.weight_decay),
            lr=config.learning_rate,
            betas=(0.9, config.beta2),
            fused=True,
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.step = 0  # optimiser steps taken
        self.epochs: list[dict] = []  # the log of finished epochs
        self.sums = {"loss": 0.0, "norm": 0.0, "norms": 0, "tokens": 0, "seconds": 0.0}
        self._pending: list[tuple] = []  # steps whose numbers are still on the device

    # -- the loop -----------------------------------------------------------------------------

    def fit(self) -> dict:
        """Train to the end and return the run's record."""
        if self.finished():
            return read_record(self.folder)
        self._resume()
        with tqdm(
            total=self.total_steps,
            initial=self.step,
            unit="step",
            desc="Train",
            disable=not self.progress,
        ) as self.bar:
            while len(self.epochs) < self.config.epochs and not self._stop_early():
                self._train_epoch()
                self._end_epoch()
        return self._write_record("finished")

    def finished(self) -> bool:
        """Is this very run in the folder, trained to its end?"""
        record = read_record(self.folder)
        return bool(record and record["status"] == "finished" and self._same(record["identity"]))

    def _train_epoch(self) -> None:
        self.model.train()
        done = self.step - len(self.epochs) * self.steps_per_epoch
        self.loader.sampler.sampler.set_epoch(len(self.epochs), start=done * self.batch)
        since = time.perf_counter()
        for inputs, targets in self.loader:
            self._pending.append(self._optimiser_step(inputs, targets))
            self.step += 1
            self.bar.update()
            checkpoint = self.step % self.config.checkpoint_every == 0
            if checkpoint or len(self._pending) == FLUSH_EVERY:
                self._flush()
            if checkpoint:
                self.sums["seconds"] += time.perf_counter() - since
                self._save()
                since = time.perf_counter()
        self._flush()
        self.sums["seconds"] += time.perf_counter() - since

    def _optimiser_step(self, inputs: torch.Tensor, targets: torch.Tensor) -> tuple:
        """One update from a batch (windows, block_size), taken in pieces of `batch_size` windows.

        Each piece weighs by its share of the batch, so the gradient is that of the whole batch,
        whatever the accumulation. The norm is that of the unscaled gradient, before clipping.
        """
        lr = learning_rate(self.step, self.total_steps, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        size = self.config.batch_size
        for x, y in zip(inputs.split(size), targets.split(size), strict=True):
            with self._autocast():
                share = self.model(x, y).loss * (len(x) / len(inputs))
            self.scaler.scale(share).backward()
            loss += share.detach()
        self.scaler.unscale_(self.optimizer)
        limit = self.config.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self.scaler.step(self.optimizer)  # leaves out a step whose fp16 gradient overflowed
        self.scaler.update()
        return self.step + 1, lr, loss, norm, inputs.numel()

    def _autocast(self):
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def _flush(self) -> None:
        """Read the pending steps off the device, check them and append them to steps.jsonl."""
        if not self._pending:
            return
        losses = torch.stack([loss for _, _, loss, _, _ in self._pending]).tolist()
        norms = torch.stack([norm for _, _, _, norm, _ in self._pending]).tolist()
        lines = []
        for (step, lr, _, _, tokens), loss, norm in zip(self._pending, losses, norms, strict=True):
            finite = math.isfinite(norm)  # if not, the scaler left this step out
            bad_loss = not math.isfinite(loss)
            if bad_loss or not (finite or self.scaler.is_enabled()):
                what = f"loss became {loss}" if bad_loss else f"gradient's norm became {norm}"
                raise DivergedError(
                    f"The {what} at step {step} of {self.total_steps} (learning rate {lr:.2e}); "
                    "lower the learning rate or lengthen the warmup."
                )
            row = {
                "step": step,
                "epoch": len(self.epochs) + 1,
                "lr": lr,
                "loss": loss,
                "grad_norm": norm if finite else None,
            }
            lines.append(json.dumps(row) + "\n")
            self.sums["loss"] += loss * tokens
            self.sums["tokens"] += tokens
            if finite:
                self.sums["norm"] += norm
                self.sums["norms"] += 1
        with open(self.folder / "steps.jsonl", "a", encoding="utf-8") as file:
            file.writelines(lines)
        self.bar.set_postfix(loss=f"{losses[-1]:.3f}", lr=f"{self._pending[-1][1]:.1e}")
        self._pending.clear()

    def _end_epoch(self) -> None:
        """Validate, log the epoch, keep the weights if they are the best so far, checkpoint."""
        nats, tokens = total_loss(
            self.model,
            self.valid_ids,
            batch_size=self.config.batch_size,
            progress="Validate" if self.progress else None,
        )
        sums, valid_loss = self.sums, nats / tokens
        if not math.isfinite(perplexity(valid_loss)):
            raise DivergedError(
                f"The validation loss became {valid_loss} after epoch {len(self.epochs) + 1}; "
                "lower the learning rate."
            )
        best = min((epoch["valid_loss"] for epoch in self.epochs), default=math.inf)
        self.epochs.append(
            {
                "epoch": len(self.epochs) + 1,
                "step": self.step,
                "train_loss": sums["loss"] / sums["tokens"],
                "valid_loss": valid_loss,
                "perplexity": perplexity(valid_loss),
                "lr": learning_rate(self.step - 1, self.total_steps, self.config),
                "grad_norm": sums["norm"] / max(1, sums["norms"]),
                "tokens_per_second": sums["tokens"] / sums["seconds"],
                "seconds": sums["seconds"],
            }
        )
        self.sums = dict.fromkeys(sums, 0) | {"loss": 0.0, "norm": 0.0, "seconds": 0.0}
        if self.progress:
            tqdm.write(epoch_line(self.epochs[-1]), file=sys.stderr)
        if valid_loss < best:
            about = {k: v for k, v in self.identity.items() if isinstance(v, str)}
            save_model(self.model, self.folder / "best.safetensors", **about)
        self._save()
        self._write_record("running")

    def _stop_early(self) -> bool:
        """Has the validation loss not improved for `patience` epochs?"""
        if not self.config.patience or not self.epochs:
            return False
        best = min(self.epochs, key=lambda epoch: epoch["valid_loss"])
        return len(self.epochs) - best["epoch"] >= self.config.patience

    # -- files --------------------------------------------------------------------------------

    def _save(self) -> None:
        cuda = self.device.type == "cuda"
        state = {
            "identity": self.identity,
            "step": self.step,
            "epochs": self.epochs,
            "sums": self.sums,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if cuda else None,
        }
        save_state(state, self.folder / "last.pt")

    def _resume(self) -> None:
        """Take up the last checkpoint, if there is one, and cut the step log back to it."""
        path, log = self.folder / "last.pt", self.folder / "steps.jsonl"
        self.folder.mkdir(parents=True, exist_ok=True)
        for half_written in self.folder.glob(".*.tmp*"):  # by a process that was killed
            half_written.unlink()
        self._start()
        if path.exists():
            state = load_state(path, self.device)
            if not self._same(state["identity"]):
                raise CheckpointError(
                    f"{path} belongs to another run ({self._difference(state['identity'])}); use "
                    "another folder or delete this one."
                )
            self.step, self.epochs, self.sums = state["step"], state["epochs"], state["sums"]
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            torch.set_rng_state(state["rng"].cpu())
            if state["cuda_rng"] is not None:
                torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.device)
        rows = log.read_text("utf-8").splitlines(keepends=True) if log.exists() else []
        with replacing(log) as aside:
            # A kill may have cut the last line short; all lines up to the checkpoint are whole.
            aside.write_text("".join(rows[: self.step]), encoding="utf-8")

    def _same(self, identity: dict) -> bool:
        return not self._difference(identity)

    def _difference(self, identity: dict) -> str:
        """What differs between this run's identity and another's, in words."""
        ours, theirs = _flat(self.identity), _flat(identity)
        return ", ".join(
            f"{key}: {theirs.get(key)} there, {ours.get(key)} here"
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key) != theirs.get(key)
        )

    def _write_record(self, status: str) -> dict:
        best = min(self.epochs, key=lambda epoch: epoch["valid_loss"])
        record = {
            "status": status,
            "identity": self.identity,
            "environment": self.environment,
            "amp": str(self.dtype or torch.float32).removeprefix("torch."),
            "parameters": self.model.n_parameters(),
            "steps_per_epoch": self.steps_per_epoch,
            "tokens_per_epoch": self.tokens_per_epoch,
            "epochs": self.epochs,
            "best": best,
            "seconds": sum(epoch["seconds"] for epoch in self.epochs),
        }
        write_json(self.folder / "record.json", record)
        return record


def _flat(nested: dict) -> dict:
    """{"a": {"b": 1}} → {"a.b": 1}."""
    flat = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": v for inner, v in _flat(value).items()}
        else:
            flat[key] = value
    return flat
