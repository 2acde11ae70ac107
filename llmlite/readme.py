"""The tables of README.md, from records: results, and the speed of tokenizer and training.

Knows nothing about files but those of the records that it is given.
"""

import json
from math import inf

from llmlite import paper
from llmlite.checkpoint import read_record
from llmlite.experiment import Experiment
from llmlite.intervals import Interval, over_seeds
from llmlite.metrics import Score
from llmlite.search import AXES, best_row, read_results

# The peer that training must not need more than.
COMPARED_MEMORY = "transformers sdpa, torch.compile"


def results(experiment: Experiment) -> str:
    """The README's table of results, from the records of a run."""
    table = read_results(experiment.search_folder("revised"))
    best, grid = best_row(table), table[table.status == "finished"].perplexity
    record = read_record(experiment.run_folder)
    seeds = _seed_scores(experiment)
    shape = "{learning_rate:g}, {n_layer}, {n_head}, {n_embd}".format
    search = experiment.profile.revised_search
    low, high = paper.GRID_PERPLEXITY
    rows = [
        (
            "best configuration of the search: learning rate, layers, heads, width",
            shape(**paper.BEST),
            shape(**{axis: best[axis] for axis in AXES}),
        ),
        (
            "revised grid: configurations, epochs, tokens of training text",
            f"12, {paper.SEARCH_EPOCHS}, not stated",
            f"{len(table)}, {search.epochs}, "
            + (f"{search.train_tokens:,}" if search.train_tokens else "all"),
        ),
        (
            "validation perplexity per token over the grid",
            f"{low} to {high}",
            f"{grid.min():.1f} to {grid.max():.1f}",
        ),
        ("retrained configuration", shape(**paper.BEST), shape(**experiment.configuration)),
        (
            "epochs and optimiser steps of the retraining",
            f"{paper.RETRAIN_EPOCHS}, not stated",
            f"{len(record['epochs'])}, {record['epochs'][-1]['step']:,}",
        ),
        ("test loss, nats per token", f"{paper.TEST_LOSS:.4f}", f"{_mean(seeds, 'loss'):.4f}"),
        (
            "test perplexity per token",
            f"{paper.TEST_PERPLEXITY}",
            f"{_mean(seeds, 'perplexity'):.1f}",
        ),
        (
            "test perplexity per word and line end",
            "not stated",
            f"{_mean(seeds, 'word_perplexity'):.1f}",
        ),
        ("test bits per byte", "not stated", f"{_mean(seeds, 'bits_per_byte'):.3f}"),
    ]
    lines = ["| | paper | here |", "|---|---|---|"]
    lines += [f"| {what} | {theirs} | {ours} |" for what, theirs, ours in rows]
    data, made = experiment.data, record["environment"]
    runs = "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds with 95% intervals"
    lines.append(
        f"\nHere: profile `{experiment.profile.name}`, {experiment.corpus.name}, {data.split} "
        f"split, vocabulary {data.vocab_size:,}, windows of {data.block_size} tokens, a new one "
        f"every {data.stride or data.block_size}; {made['device']}, {record['amp']}, {runs}, "
        f"trained at commit {made['commit']}. Written by `llmlite reproduce --publish` from the "
        "run's records."
    )
    return "\n".join(lines)


def _seed_scores(experiment: Experiment) -> list[Score]:
    """Of the trained model on the test split, one for each of the profile's seeds."""
    scores = []
    for seed in experiment.profile.seeds:
        path = experiment.with_seed(seed).run_folder / "test_score.json"
        kept = json.loads(path.read_text("utf-8"))
        del kept["environment"]
        scores.append(Score(**kept))
    return scores


def _mean(scores: list[Score], statistic: str) -> float | Interval:
    """Over seeds with its interval, if there are several."""
    values = [getattr(score, statistic) for score in scores]
    return values[0] if len(values) == 1 else over_seeds(values)


def tokenizer_speed(record: dict) -> str:
    """The README's table of the tokenizer's speed, from the record of `make bench-tokenizer`."""
    tasks = {f"training, {size} tokens": rows for size, rows in record["training"].items()}
    tasks |= {f"encoding, {text}": rows for text, rows in record["encoding"].items()}
    tasks["decoding"] = record["decoding"]
    ours, *peers = next(iter(record["encoding"].values()))
    lines = [f"| time over {ours}'s | {' | '.join(peers)} |", "|---" * (len(peers) + 1) + "|"]
    for task, rows in tasks.items():
        one = rows[ours]["median_s"]
        cells = [f"{rows[p]['median_s'] / one:.2f}" if p in rows else "–" for p in peers]
        lines.append(f"| {task} | {' | '.join(cells)} |")
    made, exact = record["environment"], record["exactness"]
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    lines.append(
        f"\n{record['data']}, {made['processor']}, {made['cores']} cores, medians of "
        f"{record['rounds']} runs that took turns; {versions}, NumPy {made['numpy']}; llmlite at "
        f"commit {made['commit']}, one thread. Peak memory of training: "
        f"{record['memory'][ours]:.1f} × the text. Ids compared with both peers' on "
        f"{sum(row['texts'] for row in exact.values()):,} texts: "
        f"{sum(row['different'] for row in exact.values())} differ."
    )
    return "\n".join(lines)


def training_speed(records: dict[str, dict]) -> str:
    """The README's tables of speed in training and generation, from the records of `make gpu` and
    `make bench`, by their names."""
    return "\n\n".join(
        gpu_speed(record)
        if name.startswith("gpu")
        else _speed_table(record, training=name.startswith("train"))
        for name, record in records.items()
    )


def gpu_speed(record: dict) -> str:
    """The README's table of a GPU, from the record of `make gpu`."""
    names = [n for n in next(iter(record["peers"].values())) if n != "ours"]
    head = ["time over llmlite's", *names, "llmlite, graph alone", "llmlite, eager"]
    head += ["llmlite, ms a step", "tokens/s", "above the floor"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for label, peers in record["peers"].items():
        rows = record["speed"][label]["variants"]
        ours = rows[record["best"][label]]
        merged = ", merged" if ours["merge"] else ""
        ratios = [peers[name]["times_ours"] for name in names]
        ratios += [rows[name + merged]["step_s"] / ours["step_s"] for name in ("graph", "eager")]
        window, batch = label.split(" × ", 1)
        cells = [f"training, window {window}, batch {batch}, bfloat16"]
        cells += [*map("{:.2f}".format, ratios), f"{ours['step_s'] * 1e3:.2f}"]
        cells += [f"{ours['tokens_per_s']:,.0f}", f"{ours['above_floor']:.1f} ×"]
        lines.append("| " + " | ".join(cells) + " |")
    made, checks, seconds = (record[name] for name in ("environment", "checks", "seconds"))
    generation = " and ".join(
        f"{row['ratio']:.1f} × at {label.split(', ')[1]}"
        for label, row in seconds.items()
        if label.startswith("generation")
    )
    differences = ", ".join(
        f"{checks[name]['largest_relative_difference']:.0e} in {dtype}"
        for dtype, name in (
            ("float32", "graph_is_plain"),
            ("bfloat16", "bf16_is_plain"),
            ("float16", "fp16_is_plain"),
        )
    )
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    theirs = [record["first_step_s"][f"{label}: {n}"] for label in record["peers"] for n in names]
    lines.append(
        f"\n{made['device']}, random token ids, medians of laps that took turns; PyTorch "
        f"{made['torch']}, {versions}; llmlite at commit {made['commit']}. Generation over "
        f"`generate` of transformers: {generation}, the same greedy text. Before the first step, "
        f"blocks and loss compile for {seconds['compilation']['cold_s']:.0f} s, the peers, all at "
        f"the same time, for {max(theirs):.0f} s at most. Over 20 steps the losses of graph and "
        f"plain path differ, relative, by {differences} at most."
    )
    return "\n".join(lines)


def _speed_table(record: dict, training: bool) -> str:
    names = list(dict.fromkeys(n for c in record["cases"].values() for n in c["contestants"]))
    peers = [name for name in names if name != "llmlite"]
    made = record["environment"]
    on_cpu = made["device"].startswith("CPU")  # whose speed says little about the next one's
    head = ["time over llmlite's", *peers, *([] if on_cpu else ["llmlite, tokens/s"])]
    head += ["above the floor", f"peak memory over that of {COMPARED_MEMORY}"] if training else []
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for label, case in record["cases"].items():
        rows = case["contestants"]
        ours, compared = rows["llmlite"], rows.get(COMPARED_MEMORY)
        cells = [f"{1 / rows[p]['ours_over_it']:.2f}" if p in rows else "–" for p in peers]
        cells += [] if on_cpu else [f"{ours['tokens_per_s']:,.0f}"]
        if training:
            window = case["shape"]["block_size"]
            dtype = "bfloat16" if case["bfloat16"] else "float32"
            label = f"training, window {window}, batch {case['batch']}, {dtype}"
            threads = case["threads"]
            label += f", {threads} thread{'s' * (threads > 1)}" if on_cpu else ""
            memory = f"{ours['peak_bytes'] / compared['peak_bytes']:.2f}" if compared else "–"
            cells += [f"{ours['above_floor']:.1f} ×", memory]
        else:
            label = f"generation, {label}"
        lines.append(f"| {label} | {' | '.join(cells)} |")
    machine = f"{made['processor']}, {made['cores']} cores" if on_cpu else made["device"]
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    lines.append(
        f"\n{machine}, medians of {record['rounds']} runs that took turns; PyTorch "
        f"{made['torch']}, {versions}; llmlite at commit {made['commit']}."
    )
    if training:
        equal = record["equality"]
        lines[-1] += (
            f" Over {equal['steps']} steps in float32 the losses of the fast and the plain path "
            f"differ by {equal['largest_difference']:.0e} at most. {_compiling(record['cases'])}"
        ).rstrip()
    return "\n".join(lines)


def _compiling(cases: dict[str, dict]) -> str:
    """From how many steps on it pays, in a sentence; against the plain GPT, where that is there."""
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
