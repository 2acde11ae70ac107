"""How long the paper's grids take from a cold start: `llmlite search` in a fresh process.

make bench-sweep [PROFILE=quick]        # the bundled sample, or the folder in $LLMLITE_DATA

Nothing is there before it: no tokenizer, no tokens, no compiled kernels. What this script does not
know among its options goes to `llmlite search`.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from common import arguments, record

from llmlite.config import AXES
from llmlite.experiment import GRIDS
from llmlite.parallel import gpu_bytes
from llmlite.profiles import get_profile
from llmlite.run import read_record
from llmlite.sources import DATA_VARIABLE

GOALS = {"revised": 300.0, "first": 900.0}  # seconds, of the profile `full` on one H100
COLUMNS = (*AXES, "status", "reason", "perplexity", "epochs", "steps", "tokens_per_second")


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = arguments(__doc__.splitlines()[0], rounds=1)
    parser.add_argument("--profile", default="auto", help="as for llmlite (default: auto)")
    parser.add_argument(
        "--grids", nargs="+", choices=GRIDS, default=list(GOALS), help="(default: both)"
    )
    options, others = parser.parse_known_args()
    profile = get_profile(options.profile, gpu_bytes(device)).name
    data = os.environ.get(DATA_VARIABLE) or "sample"
    sweeps = {
        grid: [sweep(grid, profile, data, device, others) for _ in range(options.rounds)]
        for grid in options.grids
    }
    record(
        options.out,
        f"sweep {device}",
        device,
        profile=profile,
        options=others,
        rounds=options.rounds,
        grids=sweeps,
    )


def sweep(grid: str, profile: str, data: str, device: str, others: list[str]) -> dict:
    """Seconds of the whole command, and of each configuration's training."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out"
        command = [sys.executable, "-m", "llmlite.cli", "search", "--grid", grid]
        command += ["--profile", profile, "--data", data, "--device", device, "--out", out, *others]
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": f"{name}/kernels"}
        start = time.perf_counter()
        done = subprocess.run(command, env=environment, check=False)
        total = time.perf_counter() - start
        if done.returncode:
            raise SystemExit("The search failed; its error is above.")
        table = pd.read_csv(out / f"search-{grid}.csv")
        run, *_ = (out / "runs").iterdir()
        corpus = read_record(run)["identity"]["data"]
    rows = table.reindex(columns=[*COLUMNS, "seconds"]).to_dict("records")
    rows = [{k: v for k, v in row.items() if v == v} for row in rows]  # a failed one has gaps
    training = float(table.seconds.sum())
    goal = GOALS[grid] if profile == "full" else None
    print(
        f"\nGrid {grid}, profile {profile}, {corpus}: {len(rows)} configurations in {total:.1f} s "
        f"from a cold start ({total / len(rows):.1f} s each), of which {training:.1f} s are "
        f"training{f'; goal {goal:.0f} s' if goal else ''}",
        flush=True,
    )
    return {
        "data": corpus,
        "total_s": total,
        "training_s": training,
        "goal_s": goal,
        "configurations": rows,
    }


if __name__ == "__main__":
    main()
