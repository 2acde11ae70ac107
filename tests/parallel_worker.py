"""What test_parallel.py runs in every process of a torchrun: python -m … parallel_worker.py FOLDER.

Each process is given a folder of its own to write to, so that it can be seen who writes.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from test_train import DROPOUT, MODEL, random_ids, trainer

from llmlite.parallel import world
from llmlite.train import Trainer


def interrupted(run, step):
    """Fit until just before a step, in every process."""
    optimiser_step = Trainer._optimiser_step

    def wrapped(self, *batch):
        if self.step == step:
            raise KeyboardInterrupt
        return optimiser_step(self, *batch)

    Trainer._optimiser_step = wrapped
    try:
        run.fit()
    except KeyboardInterrupt:
        pass
    finally:
        Trainer._optimiser_step = optimiser_step


def main():
    torch.set_num_threads(1)
    here = world()
    top = Path(sys.argv[1])
    mine = top / f"rank{here.rank}"

    def build(name, **changes):
        return trainer(mine / name, **changes)

    build("plain", fast=False).fit()
    build("fast").fit()
    # 41 windows in batches of 4: the last batch has one, so that one process has none
    build("ragged", ids=random_ids(41)).fit()
    build("accumulated", batch_size=1, accumulation=4).fit()
    build("low precision", amp="bf16").fit()
    build("dropout", model=DROPOUT).fit()
    interrupted(build("begun by two"), 18)
    interrupted(build("resumed by two"), 18)
    build("resumed by two").fit()
    build("begun by one").fit()  # the test has left a checkpoint there
    few = replace(MODEL, block_size=100)  # two windows to validate on: one each
    build("few", model=few, epochs=1).fit()
    if here.main:
        (top / "done").touch()


main()
