"""Write README.md of this folder: the tables of speed and memory, from the records beside it.

`make bench` and `make gpu` leave the records; `python tests/benchmarks/tables.py` makes the page.
Knows nothing of llmlite.
"""

import json
from math import inf
from pathlib import Path

FOLDER = Path(__file__).parent
RECORDS = FOLDER / "records"
# The peer that training must not need more memory than.
COMPARED_MEMORY = "transformers sdpa, torch.compile"

PAGE = """\
# Benchmarks

Other implementations do the same work in turn on one machine, and what took how long is written
down in [records](records): `make bench` (tokenizer, training, memory, generation), and `make gpu`
on a GPU. This page is written from them by `python tests/benchmarks/tables.py`.

## Tokenizer

{tokenizer}

## Training and generation

{gpu}

{training}

{generation}

## Memory of training

{memory}
"""


def benchmark(name: str) -> dict:
    """A record of `make bench` or `make gpu`."""
    return json.loads((RECORDS / f"{name}.json").read_text("utf-8"))


def page() -> str:
    return PAGE.format(
        tokenizer=tokenizer_speed(benchmark("tokenizer-wikitext-2-v1")),
        gpu=gpu_speed(benchmark("gpu-h100")),
        training=training_speed(benchmark("train-cpu")),
        generation=generation_speed(benchmark("generate-cpu")),
        memory=training_memory(benchmark("memory")),
    )


def table(head: list[str], rows: list[list[str]], about: str) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", about])


def versions(record: dict) -> str:
    return ", ".join(f"{name} {number}" for name, number in record["versions"].items())


def tokenizer_speed(record: dict) -> str:
    """From the record of `make bench-tokenizer`."""
    tasks = {f"training, {size} tokens": rows for size, rows in record["training"].items()}
    tasks |= {f"encoding, {text}": rows for text, rows in record["encoding"].items()}
    ours, *peers = next(iter(record["encoding"].values()))
    rows = []
    for task, seconds in tasks.items():
        one = seconds[ours]["median_s"]
        cells = [f"{seconds[p]['median_s'] / one:.2f}" if p in seconds else "–" for p in peers]
        rows.append([task, *cells])
    made, exact = record["environment"], record["exactness"].values()
    about = (
        f"{record['data']}, {made['processor']}, {made['cores']} cores, medians of "
        f"{record['rounds']} runs that took turns; {versions(record)}, NumPy {made['numpy']}; "
        f"llmlite at commit {made['commit']}, one thread. Peak memory of training: "
        f"{record['memory'][ours]:.1f} × the text. Ids compared with both peers' on "
        f"{sum(row['texts'] for row in exact):,} texts: "
        f"{sum(row['different'] for row in exact)} differ."
    )
    return table([f"time over {ours}'s", *peers], rows, about)


def gpu_speed(record: dict) -> str:
    """From the record of `make gpu`."""
    names = [n for n in next(iter(record["peers"].values())) if n != "ours"]
    head = ["time over llmlite's", *names, "llmlite, graph alone", "llmlite, eager"]
    head += ["llmlite, ms a step", "tokens/s", "above the floor"]
    rows = []
    for label, peers in record["peers"].items():
        variants = record["speed"][label]["variants"]
        ours = variants[record["best"][label]]
        merged = ", merged" if ours["merge"] else ""
        ratios = [peers[name]["times_ours"] for name in names]
        ratios += [variants[n + merged]["step_s"] / ours["step_s"] for n in ("graph", "eager")]
        window, batch = label.split(" × ", 1)
        cells = [f"training, window {window}, batch {batch}, bfloat16"]
        cells += [*map("{:.2f}".format, ratios), f"{ours['step_s'] * 1e3:.2f}"]
        rows.append([*cells, f"{ours['tokens_per_s']:,.0f}", f"{ours['above_floor']:.1f} ×"])
    made, checks, seconds = (record[name] for name in ("environment", "checks", "seconds"))
    generation = " and ".join(
        f"{row['ratio']:.1f} × at {label.split(', ')[1]}"
        for label, row in seconds.items()
        if label.startswith("generation")
    )
    check = {"float32": "graph_is_plain", "bfloat16": "bf16_is_plain", "float16": "fp16_is_plain"}
    differences = ", ".join(
        f"{checks[name]['largest_relative_difference']:.0e} in {dtype}"
        for dtype, name in check.items()
    )
    theirs = [record["first_step_s"][f"{label}: {n}"] for label in record["peers"] for n in names]
    about = (
        f"{made['device']}, random token ids, medians of laps that took turns; PyTorch "
        f"{made['torch']}, {versions(record)}; llmlite at commit {made['commit']}. Generation over "
        f"`generate` of transformers: {generation}, the same greedy text. Before the first step, "
        f"blocks and loss compile for {seconds['compilation']['cold_s']:.0f} s, the peers, all at "
        f"the same time, for {max(theirs):.0f} s at most. Over 20 steps the losses of graph and "
        f"plain path differ, relative, by {differences} at most."
    )
    return table(head, rows, about)


def training_speed(record: dict) -> str:
    """From the record of `make bench-train` on a CPU."""
    rows = []
    for case in record["cases"].values():
        ours, compared = (case["contestants"].get(n) for n in ("llmlite", COMPARED_MEMORY))
        dtype, threads = "bfloat16" if case["bfloat16"] else "float32", case["threads"]
        label = f"training, window {case['shape']['block_size']}, batch {case['batch']}, {dtype}"
        label += f", {threads} thread{'s' * (threads > 1)}"
        memory = f"{ours['peak_bytes'] / compared['peak_bytes']:.2f}" if compared else "–"
        rows.append([label, *ratios(record, case), f"{ours['above_floor']:.1f} ×", memory])
    head = ["time over llmlite's", *peers(record), "above the floor"]
    head.append(f"peak memory over that of {COMPARED_MEMORY}")
    equal = record["equality"]
    about = (
        f"{machine(record)} Over {equal['steps']} steps in float32 the losses of the fast and the "
        f"plain path differ by {equal['largest_difference']:.0e} at most. "
        f"{compiling(record['cases'])}"
    )
    return table(head, rows, about.rstrip())


def generation_speed(record: dict) -> str:
    """From the record of `make bench-generate` on a CPU."""
    cases = record["cases"].items()
    rows = [[f"generation, {label}", *ratios(record, case)] for label, case in cases]
    return table(["time over llmlite's", *peers(record)], rows, machine(record))


def peers(record: dict) -> list[str]:
    names = dict.fromkeys(n for case in record["cases"].values() for n in case["contestants"])
    return [name for name in names if name != "llmlite"]


def ratios(record: dict, case: dict) -> list[str]:
    rows = case["contestants"]
    return [f"{1 / rows[p]['ours_over_it']:.2f}" if p in rows else "–" for p in peers(record)]


def machine(record: dict) -> str:
    made = record["environment"]
    return (
        f"{made['processor']}, {made['cores']} cores, medians of {record['rounds']} runs that took "
        f"turns; PyTorch {made['torch']}, {versions(record)}; llmlite at commit {made['commit']}."
    )


def compiling(cases: dict[str, dict]) -> str:
    """From how many steps on it pays against the plain GPT, where that was measured."""
    rows = [case["contestants"] for case in cases.values() if "plain GPT" in case["contestants"]]
    if not rows:
        return ""
    seconds = [row["llmlite"]["compile_s"] for row in rows]
    gains = [row["plain GPT"]["step_s"] - row["llmlite"]["step_s"] for row in rows]
    steps = [s / gain if gain > 0 else inf for s, gain in zip(seconds, gains, strict=True)]
    return (
        f"Compiling takes {min(seconds):.0f} to {max(seconds):.0f} s, paid back after "
        f"{min(steps):,.0f} to {max(steps):,.0f} steps against the plain GPT that is not compiled."
    )


def training_memory(record: dict) -> str:
    """From the record of `make bench-memory`: the most that a training held, in GB."""
    held = {}
    for run in record["runs"]:
        most = max(sample["anonymous"] + sample["file"] for sample in run["samples"])
        held.setdefault(run["tokens"], {})[run["how"]] = f"{most / 1e9:.2f}"
    ways = list(next(iter(held.values())))
    rows = [[f"{tokens / 1e6:g} M", *by_way.values()] for tokens, by_way in held.items()]
    made = record["environment"]
    about = (
        "The most resident memory, GB, of training a very small model on random tokens; "
        f"{made['processor']}, PyTorch {made['torch']}, llmlite at commit {made['commit']}."
    )
    return table(["tokens in the corpus", *(f"tokens {way}" for way in ways)], rows, about)


if __name__ == "__main__":
    (FOLDER / "README.md").write_text(page(), encoding="utf-8")
    print(f"Written: {FOLDER / 'README.md'}")
