"""Run the notebooks headlessly, and show in a clone what they made.

`run_notebooks` writes below a run's own folder alone. `publish` copies from there into the clone:
executed notebooks, figures with their page, the runs' records, the trained model, and the one block
of README.md that is written from them.
"""

import json
import os
import re
import shutil
from pathlib import Path

from llmlite import paper
from llmlite.audit.scorecard import RECORDS, SCORECARD, SHORT
from llmlite.experiment import SEEDS, Experiment
from llmlite.files import HEADLESS_VARIABLE, LLMLiteError, tqdm
from llmlite.intervals import over_seeds
from llmlite.plan.archive import stage
from llmlite.plan.search import best_row
from llmlite.plan.whole import whole_plan
from llmlite.pretrained import ship
from llmlite.run import WEIGHTS
from llmlite.sources import DATA_VARIABLE

INJECTED = "injected-parameters"  # papermill's tag for the cell with a run's parameters
START, END = "<!-- results -->", "<!-- end of results -->"  # of the block in README.md

GALLERY = """\
# Figures

Drawn by the notebooks from records, and put here by `llmlite reproduce --publish`. Each caption
names the profile, the data and the device of its numbers. Beside each picture lies an SVG of it,
the [scorecard](scorecard.md) of the paper's claims, and in [records](records) the runs' own.
"""

RESULTS = """\
| | paper | here |
|---|---|---|
| best configuration of the search: learning rate, layers, heads, width | {paper_best} | {best} |
| revised grid: configurations, epochs, tokens of training text | 12, {paper.SEARCH_EPOCHS}, \
not stated | {configurations}, {search.epochs}, {tokens} |
| validation perplexity per token over the grid | {paper.GRID_PERPLEXITY[0]} to \
{paper.GRID_PERPLEXITY[1]} | {grid[min]:.1f} to {grid[max]:.1f} |
| retrained configuration | {paper_best} | {retrained} |
| epochs and optimiser steps of the retraining | {paper.RETRAIN_EPOCHS}, not stated | \
{last[epoch]}, {last[step]:,} |
| test loss, nats per token | {paper.TEST_LOSS:.4f} | {mean[test loss]:.4f} |
| test perplexity per token | {paper.TEST_PERPLEXITY} | {mean[perplexity per token]:.1f} |
| test perplexity per word and line end | not stated | {mean[perplexity per word]:.1f} |
| test bits per byte | not stated | {mean[bits per byte]:.3f} |

Here: profile `{experiment.profile.name}`, {experiment.dataset.name}, {data.split} split, \
vocabulary {data.vocab_size:,}, windows of {data.block_size} tokens, a new one every {stride}; \
{made[device]}, {amp}, {seeds}, trained at commit {made[commit]}. Written by \
`llmlite reproduce --publish` from the run's records."""


def find_notebooks(folder: Path, only: list[str] | None = None) -> list[Path]:
    """The numbered notebooks in order; `only` keeps those whose names start with one of it."""
    notebooks = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not notebooks:
        raise LLMLiteError(
            f"There are no notebooks in {folder}; run this in a clone of the project."
        )
    found = [n for n in notebooks if not only or n.name.startswith(tuple(only))]
    if not found:
        raise LLMLiteError(f"No notebook starts with {', '.join(only)} in {folder}.")
    return found


def run_notebooks(
    notebooks: list[Path], out: Path, profile: str, data: str | None = None, device: str = "auto"
) -> list[Path]:
    """Execute `notebooks` into `out/notebooks`, in order; returns the executed ones.

    One that fails stops the run with one sentence, which names its executed copy and its log.
    """
    try:
        import papermill
    except ImportError:
        message = "Running notebooks needs more packages: pip install 'llmlite[notebooks]'."
        raise LLMLiteError(message) from None
    folder = out / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    parameters = {"profile": profile, "out": str(out), "device": device}
    if data in ("sample", "hub", "auto"):
        parameters["data"] = data
    elif data:  # a path stays out of the executed notebook
        os.environ[DATA_VARIABLE] = str(Path(data).expanduser().resolve())
        parameters["data"] = "auto"
    os.environ[HEADLESS_VARIABLE] = "1"

    with tqdm(total=len(notebooks), desc="Notebooks", unit="notebook", position=0) as bar:
        for notebook in notebooks:
            bar.set_description(notebook.stem)
            target, log = folder / notebook.name, folder / f"{notebook.stem}.log"
            with open(log, "w", encoding="utf-8") as file:
                try:
                    papermill.execute_notebook(
                        str(notebook),
                        str(target),
                        parameters=parameters,
                        kernel_name="python3",
                        progress_bar={"desc": notebook.stem, "leave": False, "unit": "cell"},
                        stderr_file=_LastLine(file, bar),
                        extra_arguments=["--IPKernelApp.log_level=ERROR"],
                    )
                except papermill.PapermillExecutionError as error:
                    raise LLMLiteError(
                        f"{notebook.name} stopped in cell {error.exec_count}: {error.ename}: "
                        f"{_plain(error.evalue)}; see {target} and {log}."
                    ) from None
            clean(target)
            bar.update()
    return [folder / notebook.name for notebook in notebooks]


class _LastLine:
    """Writes what a notebook says on stderr to a file, and shows its last line beside the bar."""

    def __init__(self, file, bar):
        self.file, self.bar, self.flush = file, bar, file.flush

    def write(self, text: str) -> None:
        self.file.write(text)
        lines = [line.strip() for line in re.split(r"[\r\n]+", _plain(text)) if line.strip()]
        if lines:
            self.bar.set_postfix_str(lines[-1][:90])


def _plain(text: str) -> str:
    """Text without the terminal's control sequences."""
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)


def clean(path: Path) -> None:
    """Take out of an executed notebook what only its run could use: progress bars and timings."""
    notebook = json.loads(path.read_text("utf-8"))
    notebook["metadata"].pop("papermill", None)
    for cell in notebook["cells"]:
        for key in ("papermill", "execution"):
            cell["metadata"].pop(key, None)
        if "outputs" in cell:
            cell["outputs"] = [o for o in cell["outputs"] if o.get("name") != "stderr"]
    _write_notebook(path, notebook)


def _write_notebook(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def report(executed: list[Path], out: Path) -> str:
    """The last lines of a run: where to look."""
    figures = sorted((out / "figures").glob("*.png"))
    lines = [f"\n{len(executed)} notebooks, executed:", *(f"  {path}" for path in executed)]
    lines += [f"{len(figures)} figures:", *(f"  {path}" for path in figures)]
    return "\n".join(lines)


# -- into the clone -------------------------------------------------------------------------------


def publish(experiment: Experiment, root: Path) -> None:
    """Show in the clone at `root` what this experiment's run has made; what it has not made stays
    as it is. README.md changes where both the retraining and the audit are there."""
    out, records = experiment.out, root / "figures" / "records"
    for notebook in sorted((out / "notebooks").glob("*.ipynb")):
        content = json.loads(notebook.read_text("utf-8"))
        # Whoever opens the published notebook starts from its own parameters, not this run's.
        cells = [c for c in content["cells"] if INJECTED not in c["metadata"].get("tags", [])]
        _write_notebook(root / "notebooks" / notebook.name, content | {"cells": cells})
    _publish_figures(out / "figures", root / "figures")
    trained = [run for run in whole_plan(experiment) if experiment.is_trained(run)]
    if trained:
        shutil.rmtree(records / "runs", ignore_errors=True)
        stage(experiment, trained, records)
    if any(out.glob("runs/*/test_score.json")):
        table = results(experiment)
        shutil.copyfile(out / SEEDS, records / SEEDS)
        weights = experiment.folder(experiment.retraining()) / WEIGHTS
        # Of WikiText-2, as the model's card says; records alone have no weights.
        if experiment.dataset.name.startswith("wikitext") and weights.exists():
            ship(experiment, root / "llmlite" / "pretrained")
        if (scorecard := out / "figures" / SHORT).exists():
            readme = root / "README.md"
            block = f"{scorecard.read_text('utf-8')}\n\n{table}"
            readme.write_text(with_block(readme.read_text("utf-8"), block), "utf-8")


def _publish_figures(made: Path, to: Path) -> None:
    """Copy figures and what lies with them; the page has the captions of all that are there."""
    to.mkdir(exist_ok=True)
    for path in (*made.glob("*.png"), *made.glob("*.svg"), made / SCORECARD, made / RECORDS):
        if path.exists():
            shutil.copyfile(path, to / path.name)
    page = to / "README.md"
    captions = captions_in(page.read_text("utf-8")) if page.exists() else {}
    captions |= json.loads((made / "captions.json").read_text("utf-8"))
    there = {name: text for name, text in captions.items() if (to / f"{name}.png").exists()}
    page.write_text(gallery(there), encoding="utf-8")


def gallery(captions: dict[str, str]) -> str:
    """figures/README.md: every figure with its caption."""
    parts = [f"## {name}\n\n{text}\n\n![{name}]({name}.png)\n" for name, text in captions.items()]
    return "\n".join([GALLERY, *sorted(parts)])


def captions_in(page: str) -> dict[str, str]:
    """The captions that `gallery` wrote, by figure."""
    return dict(re.findall(r"^## (\S+)\n\n(.*?)\n\n!\[", page, re.MULTILINE | re.DOTALL))


def with_block(readme: str, block: str) -> str:
    """`readme` with `block` between the two marks."""
    if not (START in readme and END in readme):
        raise LLMLiteError(f"README.md has no {START} and {END} to write between.")
    return f"{readme.split(START)[0]}{START}\n{block}\n{END}{readme.split(END)[1]}"


def results(experiment: Experiment) -> str:
    """The paper's numbers beside those of this experiment's records, and what these are of."""
    table, search = experiment.search("revised"), experiment.profile.revised.train
    record, scores = experiment.retrain(), experiment.seed_scores()
    data, n = experiment.data, len(scores)
    shape = "{learning_rate:g}, {n_layer}, {n_head}, {n_embd}".format
    return RESULTS.format(
        paper=paper,
        paper_best=shape(**paper.BEST),
        best=shape(**best_row(table)),
        retrained=shape(**experiment.configuration),
        configurations=len(table),
        grid=table[table.status == "finished"].perplexity.describe(),
        search=search,
        tokens=f"{search.train_tokens:,}" if search.train_tokens else "all",
        last=record["epochs"][-1],
        mean={name: over_seeds(scores[name]) if n > 1 else scores[name].mean() for name in scores},
        experiment=experiment,
        data=data,
        stride=data.stride or data.block_size,
        made=record["environment"],
        amp=record["amp"],
        seeds=f"{n} seeds with 95% intervals" if n > 1 else "one seed",
    )
