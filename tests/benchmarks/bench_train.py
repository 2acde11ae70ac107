"""A step of training against the plainest GPT and transformers' GPT-2, compiled whole and not.

make bench-train

Each contestant lives in a process of its own (see train_worker.py), so that its peak memory is its
own. They take turns: while one works, the others wait. Beside each stands how far it is above the
floors of floors.py; the record also says how far the fast paths' losses are from the plain
ones' over 100 steps.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import torch
from common import alternate, arguments, record, table, trainer_of_ids
from floors import floor, peak
from train_worker import CONTESTANTS, Case

from llmlite import engine
from llmlite.config import ModelConfig, TrainConfig
from llmlite.run import read_steps

OURS, *PEERS, PROCESSES = CONTESTANTS
PEERS = [name for name in PEERS if "llmlite" not in name]
SHAPE = ModelConfig(dropout=0.0)  # the best configuration
TINY = ModelConfig(vocab_size=64, block_size=16, n_layer=1, n_head=2, n_embd=16, dropout=0.0)
WARM_UP = 2  # laps that are not counted; the first one compiles
EQUALITY_STEPS = 100


def cases(device: str, steps: int, tiny: bool) -> dict[str, Case]:
    """What is measured, by a short name: window, type and threads."""
    if tiny:
        return {"16-float32-2": Case(device, 4, 2, steps, False, asdict(TINY))}
    if device == "cuda":
        shapes, kinds = {256: (128, 10_000), 32: (128, 10_000)}, [("bfloat16", 1)]
    else:  # and the batch and the vocabulary that a small corpus has
        shapes = {128: (16, 4096), 256: (16, 10_240)}
        kinds = [("bfloat16", 1), ("bfloat16", 2), ("float32", 1)]
    found = {}
    for window, (batch, vocab_size) in shapes.items():
        shape = asdict(replace(SHAPE, block_size=window, vocab_size=vocab_size))
        for kind, threads in kinds:
            case = Case(device, batch, threads, steps, kind == "bfloat16", shape)
            found[f"{window}-{kind}-{threads}"] = case
    return found


class Worker:
    """A contestant in its own process; a call is one lap."""

    def __init__(self, name: str, case: Case):
        self.name, self.used = name, []
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed with the worker
        self.cache = tempfile.TemporaryDirectory()  # empty: what compiling costs is measured
        command = [sys.executable]
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": self.cache.name}
        environment["OMP_NUM_THREADS"] = str(case.threads)
        if name == PROCESSES:
            command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
            environment["OMP_NUM_THREADS"] = "1"
        script = str(Path(__file__).with_name("train_worker.py"))
        self.process = subprocess.Popen(
            [*command, script, name, case.to_json()],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def __call__(self) -> float:
        """Seconds of a lap."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise SystemExit(f"{self.log.read()}\n{self.name} failed; its error is above.")
        answer = json.loads(line)
        self.peak_bytes = answer["peak_bytes"]
        self.used.append(answer["used"])
        return answer["seconds"]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.log.close()
        self.cache.cleanup()


def measure(case: Case, names: list[str], rounds: int) -> dict:
    """A contestant's row: seconds of a lap, tokens/s, memory, times above the floor."""
    workers, first = {}, {}
    try:
        for name in names:
            workers[name] = Worker(name, case)
            first[name], *_ = (workers[name]() for _ in range(WARM_UP))
        seconds = alternate(workers, rounds)
    finally:
        for worker in workers.values():
            worker.close()
    kind = "bf16 autocast" if case.bfloat16 else "float32"
    kind += f", {case.threads} threads" if case.device == "cpu" else ""
    rows = table(
        f"Training on {case.device}, window {case.model.block_size}, batch {case.batch}, {kind}: "
        f"{case.steps} steps",
        seconds,
        OURS,
        case.tokens,
        "tokens",
    )
    torch.set_num_threads(case.threads)
    rates = peak(case.device, case.dtype)
    least = floor(case.model, case.batch, case.dtype, rates)
    print(
        f"  floor of a step: {least.seconds * 1e3:.3g} ms, by {least.binds} ({rates.source}: "
        f"{rates.operations / 1e12:.3g} TFLOP/s, {rates.bytes / 1e12:.3g} TB/s)"
    )
    for name, row in rows.items():
        row["step_s"] = row["median_s"] / case.steps
        row["compile_s"] = max(0.0, first[name] - statistics.median(seconds[name]))
        row["processor_s"] = statistics.median(workers[name].used[WARM_UP:]) / case.steps
        row["peak_bytes"] = workers[name].peak_bytes
        row["above_floor"] = row["step_s"] / least.seconds
        print(
            f"  {name:32} {row['peak_bytes'] / 2**20:8,.0f} MiB at most, "
            f"{row['above_floor']:6.1f} × the floor, compiled in {row['compile_s']:.1f} s, "
            f"{row['processor_s'] * 1e3:,.0f} ms of a processor a step"
        )
    strongest = min(set(rows) & set(PEERS), key=lambda name: rows[name]["median_s"], default=None)
    if strongest:
        print(f"  strongest peer: {strongest}, {1 / rows[strongest]['ours_over_it']:.2f} × ours")
    return {
        **asdict(case),
        "floor": {**asdict(least), "seconds": least.seconds, "binds": least.binds},
        "peak": asdict(rates),
        "strongest": strongest,
        "contestants": rows,
    }


def equality(device: str, tiny: bool) -> dict:
    """Largest difference of the fast and the plain path's loss over 100 steps in float32, nats."""
    small = ModelConfig(vocab_size=512, block_size=32, n_layer=2, n_head=2, n_embd=64, dropout=0.0)
    shape = TINY if tiny else SHAPE if device == "cuda" else small
    batch = 128 if device == "cuda" and not tiny else 8
    config = TrainConfig(epochs=10, batch_size=batch, amp="off", patience=0)
    generator = torch.Generator().manual_seed(0)
    windows = EQUALITY_STEPS // config.epochs * batch
    # Half the vocabulary: tokens that never come are something to learn.
    high = (shape.vocab_size // 2, (windows * shape.block_size + 1,))
    train = torch.randint(*high, generator=generator)
    ids = {"train": train, "valid": train[: 4 * shape.block_size]}
    losses, how = [], []
    # The run is too short to be worth compiling, but long ones are compiled.
    compiling = {} if tiny else dict.fromkeys(engine.WORTH_COMPILING, 0.0)
    with mock.patch.dict(engine.WORTH_COMPILING, compiling):
        for fast in (True, False):
            with tempfile.TemporaryDirectory() as folder:
                one = replace(config, fast=fast)
                fitted = trainer_of_ids(shape, one, ids, folder, device=device).fit()
                losses.append(torch.tensor(read_steps(folder)["loss"].tolist()))
                how.append(fitted["engine"])
    difference = (losses[0] - losses[1]).abs().max().item()
    print(
        f"\nOver {len(losses[0])} steps in float32 the loss falls from {losses[1][0]:.3f} to "
        f"{losses[1][-1]:.3f}; fast ({how[0]}) and plain differ by {difference:.1e} at most"
    )
    return {
        "steps": len(losses[0]),
        "shape": asdict(shape),
        "batch": batch,
        "engine": how[0],
        "first_loss": losses[1][0].item(),
        "last_loss": losses[1][-1].item(),
        "largest_difference": difference,
    }


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    default = 200 if device == "cuda" else 3
    parser = arguments(__doc__.splitlines()[0], rounds=5)
    parser.add_argument(
        "--steps", type=int, default=default, help=f"steps in a run (default: {default})"
    )
    parser.add_argument(
        "--cases",
        nargs="+",
        metavar="CASE",
        help=f"window and type (default: {' '.join(cases(device, 1, False))})",
    )
    parser.add_argument(
        "--contestants",
        nargs="+",
        metavar="NAME",
        choices=CONTESTANTS,
        help=f"besides {OURS} (default: all)",
    )
    parser.add_argument("--tiny", action="store_true", help="a model that only tries this script")
    options = parser.parse_args()
    chosen = cases(device, options.steps, options.tiny)
    if unknown := set(options.cases or chosen) - chosen.keys():
        parser.error(f"no case {', '.join(unknown)}; choose from {', '.join(chosen)}")
    names = [name for name in CONTESTANTS if device == "cpu" or name != PROCESSES]
    names = [n for n in names if n in (OURS, *(options.contestants or names))]
    record(
        options.out,
        f"train {device}",
        device,
        rounds=options.rounds,
        versions={name: version(name) for name in ("transformers", "accelerate")},
        equality=equality(device, options.tiny),
        cases={
            name: measure(
                chosen[name],
                [n for n in names if n != PROCESSES or chosen[name].threads > 1],
                options.rounds,
            )
            for name in options.cases or chosen
        },
    )


if __name__ == "__main__":
    main()
