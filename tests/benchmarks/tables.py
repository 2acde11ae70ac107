"""Write the tables of speed in README.md of this folder, from the records beside it.

`make bench` and `make gpu` leave the records; `python tests/benchmarks/tables.py` makes the page.
Knows nothing of llmlite.
"""

import json
import re
from math import inf
from pathlib import Path

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"

# What is said below a table, filled in from its record.
MACHINE = (
    "{environment[processor]}, {environment[cores]} cores, medians of {rounds} runs that took "
    "turns; PyTorch {environment[torch]}, {libraries}; llmlite at commit {environment[commit]}."
)
TOKENIZER = (
    "{data}, {environment[processor]}, {environment[cores]} cores, medians of {rounds} runs that "
    "took turns; {libraries}, NumPy {environment[numpy]}; llmlite at commit {environment[commit]}, "
    "one thread. Ids compared with both peers' on {texts:,} texts: {different} differ."
)
GPU = (
    "{environment[device]}, random token ids, medians of laps that took turns; PyTorch "
    "{environment[torch]}, {libraries}; llmlite at commit {environment[commit]}. Generation over "
    "`generate` of transformers: {seconds[generation, batch 1][ratio]:.1f} × at batch 1 and "
    "{seconds[generation, batch 64][ratio]:.1f} × at batch 64, the same greedy text. Over "
    "20 steps the losses of graph and plain path differ, relative, by "
    "{checks[graph_is_plain][largest_relative_difference]:.0e} in float32, "
    "{checks[bf16_is_plain][largest_relative_difference]:.0e} in bfloat16, "
    "{checks[fp16_is_plain][largest_relative_difference]:.0e} in float16 at most."
)
TRAINING = (
    MACHINE + " Compiling takes {least_s:.0f} to {most_s:.0f} s, paid back after {least:,.0f} to "
    "{most:,.0f} steps against the plain GPT that is not compiled."
)


def benchmark(name: str) -> dict:
    """A record of `make bench` or `make gpu`."""
    return json.loads((FOLDER / "records" / f"{name}.json").read_text("utf-8"))


def page() -> str:
    """README.md with its tables as the records have them."""
    text = README.read_text("utf-8")
    for name, speeds in TABLES.items():
        between = rf"(?s)(?<=<!-- {name} -->\n).*?(?=\n<!-- end -->)"
        text = re.sub(between, speeds(benchmark(name)), text)
    return text


def table(rows: list[dict[str, str]], about: str, record: dict, **more) -> str:
    """Each row: its cells by what stands above them."""
    versions = record.get("versions", {}).items()
    libraries = ", ".join(f"{name} {number}" for name, number in versions)
    lines = ["| " + " | ".join(cells) + " |" for cells in [rows[0], *map(dict.values, rows)]]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join([*lines, "", about.format(**record, libraries=libraries, **more)])


def speed(tasks: dict[str, dict]) -> list[dict[str, str]]:
    """How many times as long as llmlite each peer takes for a task; not all have every task."""
    peers = {name: "–" for rows in tasks.values() for name in rows}
    del peers["llmlite"]
    lines = []
    for task, rows in tasks.items():
        over = {peer: f"{1 / rows[peer]['ours_over_it']:.2f}" for peer in peers if peer in rows}
        lines.append({"time over llmlite's": task, **peers, **over})
    return lines


def tokenizer_speed(record: dict) -> str:
    tasks = {f"training, {size} tokens": rows for size, rows in record["training"].items()}
    tasks |= {f"encoding, {text}": rows for text, rows in record["encoding"].items()}
    exact = record["exactness"].values()
    counts = {name: sum(row[name] for row in exact) for name in ("texts", "different")}
    return table(speed(tasks), TOKENIZER, record, **counts)


def gpu_speed(record: dict) -> str:
    rows = []
    for label, peers in record["peers"].items():
        variants = record["speed"][label]["variants"]
        ours, (window, batch) = variants[record["best"][label]], label.split(" × ", 1)
        ratios = {name: row["times_ours"] for name, row in peers.items() if name != "ours"}
        for name, variant in {"graph alone": "graph", "eager": "eager"}.items():
            ratios[f"llmlite, {name}"] = variants[variant]["step_s"] / ours["step_s"]
        row = {"time over llmlite's": f"training, window {window}, batch {batch}, bfloat16"}
        row |= {name: f"{ratio:.2f}" for name, ratio in ratios.items()}
        row["llmlite, ms a step"] = f"{ours['step_s'] * 1e3:.2f}"
        row["tokens/s"] = f"{ours['tokens_per_s']:,.0f}"
        row["above the floor"] = f"{ours['above_floor']:.1f} ×"
        rows.append(row)
    return table(rows, GPU, record)


def training_speed(record: dict) -> str:
    tasks, more, seconds, steps = {}, [], [], []
    for case in record["cases"].values():
        rows = case["contestants"]
        ours, plain = rows["llmlite"], rows["plain GPT"]
        dtype, threads = "bfloat16" if case["bfloat16"] else "float32", case["threads"]
        task = f"training, window {case['shape']['block_size']}, batch {case['batch']}, {dtype}"
        tasks[f"{task}, {threads} thread{'s' * (threads > 1)}"] = rows
        more.append({"above the floor": f"{ours['above_floor']:.1f} ×"})
        seconds.append(ours["compile_s"])
        gain = plain["step_s"] - ours["step_s"]
        steps.append(ours["compile_s"] / gain if gain > 0 else inf)  # from there on it pays
    rows = [row | others for row, others in zip(speed(tasks), more, strict=True)]
    spans = {"least_s": min(seconds), "most_s": max(seconds)}
    return table(rows, TRAINING, record, **spans, least=min(steps), most=max(steps))


def generation_speed(record: dict) -> str:
    tasks = {f"generation, {label}": c["contestants"] for label, c in record["cases"].items()}
    return table(speed(tasks), MACHINE, record)


TABLES = {  # by their records
    "tokenizer-wikitext-2-v1": tokenizer_speed,
    "gpu-h100": gpu_speed,
    "train-cpu": training_speed,
    "generate-cpu": generation_speed,
}

if __name__ == "__main__":
    README.write_text(page(), encoding="utf-8")
    print(f"Written: {README}")
