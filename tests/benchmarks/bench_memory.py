"""Memory that training holds as the corpus grows, its tokens in memory or mapped from a file.

make bench-memory

Corpora of 1, 10 and 100 times WikiText-2's tokens, random ones; each run is a process of its own
and begins with its file out of the page cache, as most of a corpus larger than memory is.
"""

import mmap
import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import common
import numpy as np
import torch
from bench_train import trainer_of_ids
from workers import Worker

from llmlite.config import ModelConfig, TrainConfig

BLOCK = 1 << 20  # random tokens that a larger file repeats
IN_MEMORY, MAPPED = "in memory", "from a file"  # int64 tensors; uint16, memory-mapped
# A model that is small beside the tokens, and steps that take milliseconds.
MODEL = ModelConfig(vocab_size=512, block_size=256, n_layer=1, n_head=1, n_embd=16, dropout=0.0)
BATCH = 32


class Training:
    """What runs in the process that is measured."""

    def held(self, how: str, path: str, steps: int) -> dict:
        """The bytes of RAM that it has after so many steps: allocated, and pages of files
        (libraries included), which the system takes back when it needs the room."""
        ids = np.memmap(path, np.uint16, "r")
        ids.base.madvise(mmap.MADV_RANDOM)  # as a Dataset opens them
        if how == IN_MEMORY:
            ids = torch.from_numpy(ids.astype(np.int64))
        plain = TrainConfig(epochs=1, batch_size=BATCH, amp="off", fast=False)
        config = replace(plain, epoch_windows=steps * BATCH)
        split = {"train": ids, "valid": torch.zeros(1000, dtype=torch.int64)}
        with tempfile.TemporaryDirectory() as folder:
            trainer = trainer_of_ids(MODEL, config, split, folder)
            trainer.fit()
            status = Path("/proc/self/status").read_text()
        kinds = {"anonymous": r"RssAnon:\s*(\d+)", "file": r"RssFile:\s*(\d+)"}
        sample = {name: 1024 * int(re.search(kind, status)[1]) for name, kind in kinds.items()}
        return {"how": how, "tokens": len(ids), "samples": [sample]}


def write_tokens(path: Path, tokens: int) -> None:
    block = np.random.default_rng(1).integers(0, MODEL.vocab_size, BLOCK, np.uint16)
    with open(path, "wb") as file:
        np.resize(block, tokens).tofile(file)
        os.fsync(file.fileno())


def main() -> None:
    options, runs = common.options(__doc__), []
    tokens = 2_500_000  # WikiText-2's, with a vocabulary of 10,000
    sizes, steps = ([8 * tokens], 2) if options.tiny else ([tokens, 10 * tokens, 100 * tokens], 200)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokens.bin")
        for size in sizes:
            write_tokens(path, size)
            for how in (IN_MEMORY, MAPPED):
                with open(path, "rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                worker = Worker(Training, {})
                runs.append(worker.call("held", how=how, path=str(path), steps=steps))
                worker.close()
                print(f"{size:12,} tokens {how:12} {runs[-1]['samples']}")
    common.record(options.out, "memory", batch=BATCH, shape=vars(MODEL), runs=runs)


if __name__ == "__main__":
    main()
