"""What test_parallel.py runs in every process of a torchrun: python -m … parallel_worker.py FOLDER.

Each process is given a folder of its own to write to, so that it can be seen who writes.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from test_train import DROPOUT, MODEL, interrupt, random_ids, trainer

from llmlite.parallel import world


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
    interrupt(build("begun by two"), 19)
    interrupt(build("resumed by two"), 19)
    build("resumed by two").fit()
    build("begun by one").fit()  # the test has left a checkpoint there
    few = replace(MODEL, block_size=100)  # two windows to validate on: one each
    build("few", model=few, epochs=1).fit()
    if here.main:
        (top / "done").touch()


main()
