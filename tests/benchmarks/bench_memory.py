"""Memory that training holds as the corpus grows, its tokens in memory or mapped from a file.

make bench-memory

Corpora of 1, 10 and 100 times WikiText-2's tokens, random ones; each run is a process of its own
and begins with its file out of the page cache, as most of a corpus larger than memory is.
"""

import mmap
import os
import tempfile
from dataclasses import dataclass
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
        ids = np.memmap(path, np.uint16, "r")
        ids.base.madvise(mmap.MADV_RANDOM)  # as a Dataset opens them
        if how == IN_MEMORY:
            ids = torch.from_numpy(ids.astype(np.int64))
        config = TrainConfig(
            epochs=1, epoch_windows=steps * BATCH, batch_size=BATCH, amp="off", fast=False
        )
        split = {"train": ids, "valid": torch.zeros(1000, dtype=torch.int64)}
        with tempfile.TemporaryDirectory() as folder:
            trainer = trainer_of_ids(MODEL, config, split, folder)
            trainer.fit()
            sample = {"trained": trainer.step * BATCH * MODEL.block_size, **resident()}
        return {"how": how, "tokens": len(ids), "samples": [sample]}


def resident() -> dict[str, int]:
    """Bytes of RAM that this process holds: allocated, and pages of files (libraries included),
    which the system takes back when it needs the room."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    kinds = {"anonymous": "RssAnon", "file": "RssFile"}
    return {name: int(fields[field].split()[0]) * 1024 for name, field in kinds.items()}


def write_tokens(path: Path, tokens: int) -> None:
    block = np.random.default_rng(1).integers(0, MODEL.vocab_size, BLOCK, np.uint16)
    with open(path, "wb") as file:
        np.resize(block, tokens).tofile(file)
        os.fsync(file.fileno())


@dataclass
class Options(common.Options):
    steps: int = 200
    """of each run"""
    tokens: int = 2_500_000
    """of the smallest corpus; WikiText-2's number, with a vocabulary of 10,000"""
    times: tuple[int, ...] = (1, 10, 100)


def main() -> None:
    options, runs = common.options(Options, __doc__), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokens.bin")
        for times in options.times:
            write_tokens(path, times * options.tokens)
            for how in (IN_MEMORY, MAPPED):
                with open(path, "rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                worker = Worker("bench_memory", "Training", {})
                runs.append(worker.call("held", how=how, path=str(path), steps=options.steps))
                worker.close()
                print(f"{times * options.tokens:12,} tokens {how:12} {runs[-1]['samples'][-1]}")
    common.record(options.out, "memory", batch=BATCH, shape=vars(MODEL), runs=runs)


if __name__ == "__main__":
    main()
