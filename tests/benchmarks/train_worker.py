"""One contestant of bench_train.py, in a process of its own that waits while others work.

    python train_worker.py NAME CASE           (or under torchrun; CASE is JSON, see Case)

Each trains in its own loop and without an end. A line on stdin starts a lap of so many optimiser
steps; a line of JSON on stdout then says how long it took and how much memory it has needed.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from common import trainer_of_ids
from plain_gpt import PlainGPT
from torch.nn import functional as F

from llmlite.config import ModelConfig, TrainConfig
from llmlite.parallel import world
from llmlite.train import Trainer
from llmlite.windows import TokenWindows

RATE, DECAY, CLIP = 1e-3, 0.1, 1.0
NO_END = 100_000  # laps


@dataclass(frozen=True)
class Case:
    """What all contestants train: a shape, a batch in windows, a type for the products."""

    device: str
    batch: int
    threads: int
    steps: int  # of the optimiser, in a lap
    bfloat16: bool  # autocast; else float32
    shape: dict  # of ModelConfig

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(**self.shape)

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.bfloat16 else torch.float32

    @property
    def tokens(self) -> int:
        """In a lap."""
        return self.steps * self.batch * self.model.block_size

    def ids(self) -> torch.Tensor:
        """Random tokens (zeros would flatter), just enough for a lap to be an epoch."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(self.model.vocab_size, (self.tokens + 1,), generator=generator)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Laps:
    """Waits for the word to go, measures, reports. Under torchrun the main process does; the
    others wait for it."""

    def __init__(self, device: str):
        self.device, self.world = device, world()

    def go(self) -> None:
        if self.world.main and not sys.stdin.readline():
            os._exit(0)  # whoever asked is gone
        self.world.from_main(None)
        self.since, self.used_since = time.perf_counter(), time.process_time()

    def used(self) -> float:
        """Seconds of a processor since the word to go."""
        return time.process_time() - self.used_since

    def done(self, seconds: float | None = None, used: float | None = None) -> None:
        """`seconds`, `used`: of a contestant that measures itself."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - self.since if seconds is None else seconds
        used = self.world.sum(torch.tensor(self.used() if used is None else used)).item()
        if self.world.main:
            answer = {"seconds": seconds, "used": used, "peak_bytes": peak_memory(self.device)}
            print(json.dumps(answer), flush=True)


def peak_memory(device: str) -> int:
    """The most that the contestant has held, in bytes: of the GPU's memory, or of the machine's.

    Under torchrun it is the sum over the processes, which are all children of the same one.
    """
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    processes = [os.getpid()]
    if "WORLD_SIZE" in os.environ:
        launcher = os.getppid()
        processes = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    total = 0
    for process in processes:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        total += 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    return total


def train_ours(case: Case, laps: Laps, fast: bool) -> None:
    """The Trainer as it is: a lap is an epoch, timed by the Trainer, without its validation."""
    config = TrainConfig(
        epochs=NO_END,
        batch_size=case.batch,
        learning_rate=RATE,
        schedule="fixed",
        weight_decay=DECAY,
        clip_norm=CLIP,
        amp="bf16" if case.bfloat16 else "off",
        patience=0,
        checkpoint_every=10**9,
        fast=fast,
    )
    ids = case.ids()
    ids = {"train": ids, "valid": ids[: case.model.block_size + 1]}

    class EveryLap(Trainer):  # in every process: the others must not run ahead
        def _flush(self):
            super()._flush()
            self.used = laps.used()

        def _end_epoch(self):
            super()._end_epoch()
            laps.done(self.epochs[-1]["seconds"], self.used)
            laps.go()

    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of_ids(case.model, config, ids, folder, EveryLap, device=case.device)
        laps.go()
        trainer.fit()


def train_loop(case: Case, laps: Laps, model: torch.nn.Module, loss_of: Callable) -> None:
    """The best plain loop: data on the device, nothing read between the steps."""
    model.to(case.device).train()
    windows = TokenWindows(case.ids().to(case.device), case.model.block_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    while True:
        laps.go()
        for index in torch.randperm(len(windows)).to(case.device).split(case.batch):
            x, y = windows[index]
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(case.device, torch.bfloat16, enabled=case.bfloat16):
                loss = loss_of(x, y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
        laps.done()


def train_plain_gpt(case: Case, laps: Laps, flash: bool, compiled: bool) -> None:
    """The plainest code, with its loss in one graph; with `flash` it is what nanoGPT compiles."""
    model = PlainGPT(case.model, flash)
    loss_of = torch.compile(model, dynamic=False) if compiled else model
    train_loop(case, laps, model, loss_of)


def train_transformers(case: Case, laps: Laps, attention: str) -> None:
    """transformers' model, compiled with its loss (outside, it takes over half as long again)."""
    from gpt2 import training_gpt2  # imports transformers, which would count as our memory

    model = training_gpt2(case.model, attn_implementation=attention)

    @torch.compile(dynamic=False)
    def loss_of(x, y):
        return F.cross_entropy(model(x).logits.flatten(0, 1).float(), y.flatten())

    train_loop(case, laps, model, loss_of)


def train_hf(case: Case, laps: Laps) -> None:
    """transformers' Trainer; it shifts the labels itself, so a window has one target less."""
    import transformers
    from gpt2 import training_gpt2

    class EveryLap(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, **others):
            laps.go()

        def on_step_end(self, args, state, control, **others):
            if state.global_step % case.steps == 0:
                laps.done()
                laps.go()

    windows = [x for x, _ in TokenWindows(case.ids(), case.model.block_size)]
    with tempfile.TemporaryDirectory() as folder:
        options = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=case.batch,
            max_steps=NO_END * case.steps,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            weight_decay=DECAY,
            max_grad_norm=CLIP,
            optim="adamw_torch_fused",
            bf16=case.bfloat16,
            torch_compile=True,
            use_cpu=case.device == "cpu",
            report_to=[],
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        )
        transformers.Trainer(
            training_gpt2(case.model),
            options,
            train_dataset=[{"input_ids": x, "labels": x} for x in windows],
            data_collator=transformers.default_data_collator,
            callbacks=[EveryLap()],
        ).train()


CONTESTANTS: dict[str, Callable[[Case, Laps], None]] = {
    "llmlite": partial(train_ours, fast=True),
    "llmlite, plain": partial(train_ours, fast=False),
    "plain GPT, torch.compile": partial(train_plain_gpt, flash=False, compiled=True),
    "plain GPT, flash, torch.compile": partial(train_plain_gpt, flash=True, compiled=True),
    "plain GPT": partial(train_plain_gpt, flash=False, compiled=False),
    "transformers eager, torch.compile": partial(train_transformers, attention="eager"),
    "transformers sdpa, torch.compile": partial(train_transformers, attention="sdpa"),
    "HF Trainer, torch.compile": train_hf,
    "llmlite, 2 processes": partial(train_ours, fast=True),
}


def main() -> None:
    name, case = sys.argv[1], Case(**json.loads(sys.argv[2]))
    torch.set_num_threads(case.threads // int(os.environ.get("WORLD_SIZE", 1)))
    torch.manual_seed(0)
    CONTESTANTS[name](case, Laps(case.device))


if __name__ == "__main__":
    main()
