"""Memory that training holds as the corpus grows, its tokens in memory or mapped from a file.

make bench-memory

Corpora of 1, 10 and 100 times WikiText-2's tokens, random ones; each run is a process of its own
and begins with its file out of the page cache, as most of a corpus larger than memory is.
"""

import argparse
import json
import mmap
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import RECORDS, record, trainer_of_ids

from llmlite.config import ModelConfig, TrainConfig
from llmlite.run import commit
from llmlite.train import Trainer

WIKITEXT_2 = 2_500_000  # tokens, with a vocabulary of 10,000
TIMES = (1, 10, 100)
BLOCK = 1 << 20  # random tokens that a larger file repeats
IN_MEMORY, MAPPED = "in memory", "from a file"  # int64 tensors; uint16, memory-mapped

# A model that is small beside the tokens, and steps that take milliseconds.
MODEL = ModelConfig(vocab_size=512, block_size=256, n_layer=1, n_head=1, n_embd=16, dropout=0.0)
TRAIN = TrainConfig(epochs=1, batch_size=32, amp="off", fast=False)


def main() -> None:
    commit()  # of the code that runs, whatever is edited in the meantime
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=RECORDS, help="folder for the record (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=200, help="of each run (default: 200)")
    parser.add_argument(
        "--tokens", type=int, default=WIKITEXT_2, help=f"once (default: {WIKITEXT_2:,})"
    )
    parser.add_argument(
        "--times", type=int, nargs="+", default=TIMES, help=f"so many (default: {TIMES})"
    )
    parser.add_argument("--measure", nargs=2, metavar=("HOW", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[0], Path(options.measure[1]), options.steps)))
        return
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for times in options.times:
            path = Path(folder) / f"{times}.bin"
            write_tokens(path, times * options.tokens)
            for how in (IN_MEMORY, MAPPED):
                runs.append(in_a_process(how, path, options.steps))
                print_run(runs[-1])
    record(options.out, "memory", "cpu", batch=TRAIN.batch_size, shape=vars(MODEL), runs=runs)


def write_tokens(path: Path, tokens: int) -> None:
    block = np.random.default_rng(1).integers(0, MODEL.vocab_size, BLOCK, np.uint16)
    ids = np.memmap(path, np.uint16, "w+", shape=(tokens,))
    for start in range(0, tokens, BLOCK):
        ids[start : start + BLOCK] = block[: tokens - start]
    ids.flush()


def in_a_process(how: str, path: Path, steps: int) -> dict:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    done = subprocess.run(
        [sys.executable, __file__, "--steps", str(steps), "--measure", how, path],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def print_run(run: dict) -> None:
    most = max(run["samples"], key=lambda sample: sample["anonymous"] + sample["file"])
    print(
        f"{run['tokens']:12,} tokens {run['how']:12} {most['anonymous'] / 1e6:8,.0f} MB allocated, "
        f"{most['file'] / 1e6:6,.0f} MB of files, after {run['samples'][-1]['trained']:,} tokens",
        flush=True,
    )


# -- in the process that is measured --------------------------------------------------------------


class Enough(Exception):  # noqa: N818
    """The steps that were asked for are done."""


class Sampler(Trainer):
    """Notes what the process holds each time that it reports its steps."""

    def _flush(self) -> None:
        super()._flush()
        trained = self.step * TRAIN.batch_size * MODEL.block_size
        self.samples.append({"trained": trained, **resident()})
        if self.step >= self.enough:
            raise Enough


def measure(how: str, path: Path, steps: int) -> dict:
    few = torch.randint(MODEL.vocab_size, (40 * TRAIN.batch_size * MODEL.block_size + 1,))
    train(few, few, steps=20)  # libraries, weights and the first batches are there from now on
    before = resident()
    ids = np.memmap(path, np.uint16, "r")
    ids.base.madvise(mmap.MADV_RANDOM)  # as a Dataset opens them
    if how == IN_MEMORY:
        ids = torch.from_numpy(ids.astype(np.int64))
    samples = train(ids, few, steps)
    return {"how": how, "tokens": len(ids), "before": before, "samples": samples}


def train(ids, valid: torch.Tensor, steps: int) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of_ids(MODEL, TRAIN, {"train": ids, "valid": valid}, folder, Sampler)
        trainer.samples, trainer.enough = [], steps
        try:
            trainer.fit()
        except Enough:
            return trainer.samples
    raise SystemExit(f"{len(ids):,} tokens are an epoch of fewer than {steps} steps.")


def resident() -> dict[str, int]:
    """Bytes of RAM that this process holds: allocated, and pages of files (libraries included),
    which the system takes back when it needs the room."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {
        name: int(fields[field].split()[0]) * 1024
        for name, field in (("anonymous", "RssAnon"), ("file", "RssFile"))
    }


if __name__ == "__main__":
    main()
