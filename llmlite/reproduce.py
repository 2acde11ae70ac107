"""`llmlite reproduce`: run the notebooks headlessly with papermill, and publish what they render.

A run writes below its own folder only: executed notebooks, figures and records. `publish` copies
the notebooks and figures to where the repository shows them.
"""

import json
import os
import re
import shutil
from pathlib import Path

from llmlite import paper
from llmlite.audit.records import RECORDS, SCORECARD, SHORT
from llmlite.checkpoint import read_record
from llmlite.data import DATA_VARIABLE
from llmlite.errors import LLMLiteError
from llmlite.experiment import Experiment, benchmark, benchmarks_folder
from llmlite.metrics import Score
from llmlite.progress import HEADLESS_VARIABLE, tqdm
from llmlite.search import AXES, best_row, read_results

INJECTED = "injected-parameters"  # papermill's tag for the cell with a run's parameters
TOKENIZER_RECORD = "tokenizer-wikitext-2-v1"  # the benchmarks that the README shows
SPEED_RECORDS = ("train-cuda", "train-cpu", "generate-cuda", "generate-cpu")  # those there are
COMPARED_MEMORY = "transformers, torch.compile"  # the peer that training must not need more than


def find_notebooks(folder: Path, only: list[str] | None = None) -> list[Path]:
    """The numbered notebooks in order; `only` keeps those whose names start with one of it."""
    notebooks = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not notebooks:
        raise LLMLiteError(
            f"There are no notebooks in {folder}; run this in a clone of the project or name the "
            "folder with --notebooks."
        )
    chosen = [n for n in notebooks if not only or n.name.startswith(tuple(only))]
    if not chosen:
        raise LLMLiteError(f"No notebook starts with {', '.join(only)} in {folder}.")
    return chosen


def run_notebooks(
    notebooks: list[Path], out: Path, profile: str, data: str | None = None, device: str = "auto"
) -> list[Path]:
    """Execute `notebooks` in order into `out/notebooks`; returns the executed ones.

    Each has its own kernel and gets the parameters profile, data, out and device. What training
    left in `out` is used again, so an interrupted run carries on. A notebook that fails stops the
    run with one sentence; its executed copy and its log lie in `out/notebooks`.
    """
    try:
        import papermill
    except ImportError:
        raise LLMLiteError(
            "Running notebooks needs papermill and jupyter; install them with "
            "pip install 'llmlite[notebooks]'."
        ) from None

    executed_folder = out / "notebooks"
    executed_folder.mkdir(parents=True, exist_ok=True)
    parameters = {"profile": profile, "out": str(out), "device": device}
    if data in ("sample", "hub", "auto"):
        parameters["data"] = data
    elif data:  # a path stays out of the rendered notebook
        os.environ[DATA_VARIABLE] = str(Path(data).expanduser().resolve())
        parameters["data"] = "auto"
    os.environ[HEADLESS_VARIABLE] = "1"

    executed = []
    with tqdm(notebooks, desc="Notebooks", unit="notebook", position=0) as bar:
        for notebook in bar:
            target = executed_folder / notebook.name
            log = executed_folder / f"{notebook.stem}.log"
            bar.set_description(notebook.stem)
            with open(log, "w", encoding="utf-8") as file:
                try:
                    papermill.execute_notebook(
                        str(notebook),
                        str(target),
                        parameters=parameters,
                        kernel_name="python3",
                        progress_bar={"desc": "Cells", "position": 1, "leave": False},
                        stderr_file=_LastLine(file, bar),
                        extra_arguments=["--IPKernelApp.log_level=ERROR"],
                    )
                except papermill.PapermillExecutionError as error:
                    raise LLMLiteError(
                        f"{notebook.name} stopped in cell {error.exec_count}: {error.ename}: "
                        f"{_plain(error.evalue)}; see {target} and {log}."
                    ) from None
            clean(target)
            executed.append(target)
        bar.set_description("Notebooks")
        bar.set_postfix_str("")
    return executed


class _LastLine:
    """Writes what a notebook says on stderr to a file, and shows its last line beside the bar."""

    def __init__(self, file, bar):
        self.file, self.bar = file, bar

    def write(self, text: str) -> None:
        self.file.write(text)
        lines = [line.strip() for line in re.split(r"[\r\n]+", _plain(text)) if line.strip()]
        if lines:
            self.bar.set_postfix_str(lines[-1][:90])

    def flush(self) -> None:
        self.file.flush()


def _plain(text: str) -> str:
    """Text without the terminal's control sequences."""
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)


def clean(path: Path) -> None:
    """Take out of an executed notebook what only its run could use: progress bars and timings.

    The progress bars' text stays in the log beside the notebook.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["metadata"].pop("papermill", None)
    for cell in notebook["cells"]:
        for key in ("papermill", "execution"):
            cell["metadata"].pop(key, None)
        if "outputs" in cell:
            cell["outputs"] = [o for o in cell["outputs"] if o.get("name") != "stderr"]
    _write_notebook(path, notebook)


def _tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def _write_notebook(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def publish(experiment: Experiment, root: Path) -> None:
    """Copy a run's executed notebooks and figures into the clone at `root`, and put the tables into
    the README: of the tokenizer's speed, of training's and generation's where they were measured,
    of the scorecard if there is one, and of results if the run has trained a model."""
    for notebook in sorted((experiment.out / "notebooks").glob("*.ipynb")):
        content = json.loads(notebook.read_text("utf-8"))
        # Whoever opens the published notebook starts from its own parameters, not this run's.
        content["cells"] = [c for c in content["cells"] if INJECTED not in _tags(c)]
        _write_notebook(root / "notebooks" / notebook.name, content)
    figures = root / "figures"
    figures.mkdir(exist_ok=True)
    made = experiment.out / "figures"
    for shown in (*sorted(made.glob("*.png")), made / SCORECARD, made / RECORDS):
        if shown.exists():
            shutil.copyfile(shown, figures / shown.name)
    captions = json.loads((made / "captions.json").read_text("utf-8"))
    page = figures / "README.md"
    shown = captions_in(page.read_text("utf-8")) if page.exists() else {}
    shown = {name: text for name, text in shown.items() if (figures / f"{name}.png").exists()}
    page.write_text(gallery(dict(sorted((shown | captions).items()))), encoding="utf-8")
    readme = root / "README.md"
    sections = {"speed": tokenizer_speed(benchmark(TOKENIZER_RECORD))}
    recorded = [n for n in SPEED_RECORDS if (benchmarks_folder() / f"{n}.json").exists()]
    if recorded:
        sections["training speed"] = training_speed({name: benchmark(name) for name in recorded})
    if (made / SHORT).exists():
        sections["scorecard"] = (made / SHORT).read_text("utf-8")
    if any(experiment.out.rglob("test_score.json")):
        sections["results"] = results(experiment)
    text = readme.read_text("utf-8")
    for name, section in sections.items():
        text = with_section(text, name, section)
    readme.write_text(text, "utf-8")


def results(experiment: Experiment) -> str:
    """The README's table of results, from the records of a run."""
    table = read_results(experiment.search_folder("revised"))
    best, grid = best_row(table), table[table.status == "finished"].perplexity
    record = read_record(experiment.run_folder)
    kept = json.loads((experiment.run_folder / "test_score.json").read_text("utf-8"))
    del kept["environment"]
    score = Score(**kept)
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
        ("test loss, nats per token", f"{paper.TEST_LOSS:.4f}", f"{score.loss:.4f}"),
        ("test perplexity per token", f"{paper.TEST_PERPLEXITY}", f"{score.perplexity:.1f}"),
        ("test perplexity per word and line end", "not stated", f"{score.word_perplexity:.1f}"),
        ("test bits per byte", "not stated", f"{score.bits_per_byte:.3f}"),
    ]
    lines = ["| | paper | here |", "|---|---|---|"]
    lines += [f"| {what} | {theirs} | {ours} |" for what, theirs, ours in rows]
    data, made = experiment.data, record["environment"]
    lines.append(
        f"\nHere: profile `{experiment.profile.name}`, {experiment.corpus.name}, {data.split} "
        f"split, vocabulary {data.vocab_size:,}, windows of {data.block_size} tokens, a new one "
        f"every {data.stride or data.block_size}; {made['device']}, {record['amp']}, one seed, "
        f"trained at commit {made['commit']}. Written by `llmlite reproduce --publish` from the "
        "run's records."
    )
    return "\n".join(lines)


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
    """The README's tables of speed in training and generation, from the records of `make bench`,
    by their names."""
    return "\n\n".join(
        _speed_table(record, training=name.startswith("train")) for name, record in records.items()
    )


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
            window, dtype = case["shape"]["block_size"], label.split("-")[-1]
            label = f"training, window {window}, batch {case['batch']}, {dtype}"
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
            f"differ by {equal['largest_difference']:.0e} at most."
        )
    return "\n".join(lines)


def with_section(readme: str, name: str, section: str) -> str:
    """`readme` with `section` between the two marks of this name."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if not (start in readme and end in readme):
        raise LLMLiteError(f"README.md has no {start} and {end} to write between.")
    head, rest = readme.split(start)
    return f"{head}{start}\n{section}\n{end}{rest.split(end)[1]}"


def gallery(captions: dict[str, str]) -> str:
    """figures/README.md: every figure with its caption."""
    parts = [
        "# Figures\n",
        "Drawn by the notebooks from records; `llmlite reproduce --publish` puts them here. Each "
        "caption names where its numbers are from: the profile, the data and the device. The "
        "[scorecard](scorecard.md) of the paper's claims lies beside them.\n",
    ]
    for name, caption in captions.items():
        parts.append(f"## {name}\n\n{caption}\n\n![{name}]({name}.png)\n")
    return "\n".join(parts)


def captions_in(page: str) -> dict[str, str]:
    """The captions that `gallery` wrote, by figure."""
    return dict(re.findall(r"^## (\S+)\n\n(.*?)\n\n!\[", page, re.MULTILINE | re.DOTALL))


def report(executed: list[Path], out: Path) -> str:
    """The last lines of a run: where to look."""
    figures = sorted((out / "figures").glob("*.png"))
    lines = [f"\n{len(executed)} notebooks, executed:", *(f"  {path}" for path in executed)]
    lines += [f"{len(figures)} figures:", *(f"  {path}" for path in figures)]
    return "\n".join(lines)
