"""Our generation against transformers' generate: same weights, same prompts, same greedy text.

make bench-generate

Each contestant lives in a process of its own (see generate_worker.py), so that its memory can be
told from the others'. They take turns: while one works, the others wait.
"""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from common import alternate, arguments, record, table
from generate_worker import CONTESTANTS, OURS, PLAIN, THEIRS

from llmlite.config import ModelConfig

GOAL = 3.0  # times transformers' tokens/s


class Worker:
    """A contestant in its own process; a call runs a lap and gives its seconds."""

    def __init__(self, name: str, task: dict):
        self.name, self.laps = name, []
        script = Path(__file__).with_name("generate_worker.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), name, json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self) -> float:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} failed; its error is above.")
        self.laps.append(json.loads(line))
        return self.laps[-1]["seconds"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], rounds=7)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64], help="(default: 1 64)")
    parser.add_argument("--prompt", type=int, default=16, help="tokens (default: 16)")
    parser.add_argument("--new", type=int, default=128, help="tokens to generate (default: 128)")
    parser.add_argument(
        "--plain-rounds", type=int, default=1, help="runs of fast=False (default: 1; 0: none)"
    )
    parser.add_argument("--tiny", action="store_true", help="a model for trying this script")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    options = parser.parse_args()
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = ModelConfig(dropout=0.0)
    if options.tiny:
        shape = ModelConfig(100, block_size=64, n_layer=2, n_embd=32, dropout=0.0)
    cases = {}
    for batch in options.batch:
        task = {
            "device": device,
            "batch": batch,
            "prompt": options.prompt,
            "new": options.new,
            "shape": vars(shape),
        }
        cases[f"batch {batch}"] = case(task, options.rounds, options.plain_rounds)
    record(
        options.out,
        f"generate {device}",
        device,
        arithmetic="float32",
        rounds=options.rounds,
        prompt=options.prompt,
        new=options.new,
        shape=vars(shape),
        threads=torch.get_num_threads(),
        versions={"transformers": version("transformers")},
        cases=cases,
    )


def case(task: dict, rounds: int, plain_rounds: int) -> dict:
    """Every contestant on one batch; all of them must write the same text."""
    names = CONTESTANTS if plain_rounds else (OURS, THEIRS)
    workers = {name: Worker(name, task) for name in names}
    cached = {name: workers[name] for name in (OURS, THEIRS)}
    for run in cached.values():  # warm up
        run()
    seconds = alternate(cached, rounds)
    if plain_rounds:
        seconds |= alternate({PLAIN: workers[PLAIN]}, plain_rounds)
    for worker in workers.values():
        worker.close()
    laps = {name: worker.laps for name, worker in workers.items()}
    texts = {lap["text"] for each in laps.values() for lap in each}
    if len(texts) != 1:
        sys.exit(f"The texts differ: nothing is recorded. {laps}")
    first, batch, device = laps[OURS][0], task["batch"], task["device"]
    title = f"Generation on {device}, batch {batch}, {task['prompt']} + {task['new']} tokens"
    rows = table(title, seconds, OURS, batch * task["new"], "tokens")
    for name, row in rows.items():
        row["rounds"] = len(seconds[name])
        for kind in ("peak_bytes", "generation_bytes"):
            row[kind] = max(lap[kind] for lap in laps[name])
        print(
            f"  {name:32} {row['peak_bytes'] / 2**20:8,.0f} MiB at most, "
            f"{row['generation_bytes'] / 2**20:,.0f} of them for generation"
        )
    ratio = rows[THEIRS]["median_s"] / rows[OURS]["median_s"]
    reached = "" if ratio >= GOAL else "MISSED"
    print(f"  {ratio:.2f} × the tokens/s of {THEIRS}   goal {GOAL:.1f}  {reached}")
    print(f"  the same text by all, {first['different_tokens']} different tokens in its first row")
    return {
        "contestants": rows,
        "ratio": ratio,
        "goal": GOAL,
        "same_text": True,
        "different_tokens": first["different_tokens"],
    }


if __name__ == "__main__":
    main()
