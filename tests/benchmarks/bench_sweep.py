"""How long the paper's grids take from a cold start: `llmlite search` in a fresh process.

make bench-sweep [PROFILE=quick]        # the bundled sample, or the folder in $LLMLITE_DATA

Nothing is there before it: no tokenizer, no tokens, no compiled kernels.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import common
import pandas as pd
import torch

from llmlite.config import AXES
from llmlite.run import read_record
from llmlite.sources import DATA_VARIABLE

COLUMNS = [*AXES, "status", "perplexity", "epochs", "steps", "seconds", "tokens_per_second"]


@dataclass
class Options(common.Options):
    profile: str = "auto"
    """as for llmlite"""
    grids: tuple[Literal["first", "revised"], ...] = ("revised", "first")
    options: str = ""
    """more of them, for `llmlite search`"""


def main() -> None:
    options = common.options(Options, __doc__)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    grids = {grid: [sweep(grid, options, device)] for grid in options.grids}
    common.record(options.out, f"sweep-{device}", device, profile=options.profile, grids=grids)


def sweep(grid: str, options: Options, device: str) -> dict:
    """Seconds of the whole command, and of each configuration's training."""
    data = os.environ.get(DATA_VARIABLE) or "sample"
    with tempfile.TemporaryDirectory() as name:
        out = Path(name, "out")
        command = [sys.executable, "-m", "llmlite.cli", "search", "--grid", grid, "--data", data]
        command += ["--profile", options.profile, "--device", device, "--out", out]
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": f"{name}/kernels"}
        start = time.perf_counter()
        subprocess.run([*command, *options.options.split()], env=environment, check=True)
        total = time.perf_counter() - start
        table = pd.read_csv(out / f"search-{grid}.csv")
        run, *_ = (out / "runs").iterdir()
        corpus = read_record(run)["identity"]["data"]
    training = float(table["seconds"].sum())
    print(f"{len(table)} configurations in {total:.1f} s, {training:.1f} s of them training")
    rows = [row.dropna().to_dict() for _, row in table.reindex(columns=COLUMNS).iterrows()]
    return {"data": corpus, "total_s": total, "training_s": training, "configurations": rows}


if __name__ == "__main__":
    main()
