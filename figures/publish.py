"""Show in this clone what a run has made: executed notebooks, figures with their page, the runs'
records, the trained model, and the one block of README.md that is written from them.

    python figures/publish.py --profile full --data path/to/wikitext-2 --out runs/full
"""

import html
import re
import shutil
import string
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import tyro

from llmlite import paper
from llmlite.audit import scorecard
from llmlite.audit.claims import FLAWED, NOT, REPRODUCED, UNCLEAR, Evidence, headline
from llmlite.audit.measures import together
from llmlite.audit.runs import Audit
from llmlite.cli import guarded
from llmlite.cli.terminal import careful, harmless
from llmlite.experiment import SEEDS, Experiment, project_root
from llmlite.files import LLMLiteError, read_json, replacing, write_json
from llmlite.intervals import over_seeds
from llmlite.metrics import Score, evaluate
from llmlite.plan.archive import stage
from llmlite.plan.search import best_row
from llmlite.plan.whole import whole_plan
from llmlite.pretrained import MODEL, TOKENIZER
from llmlite.run import RECORD, WEIGHTS, environment, finished_record, load_model, save_weights

HERE = Path(__file__).resolve().parent
INJECTED = "injected-parameters"  # papermill's tag for the cell with a run's parameters
START, END = "<!-- results -->", "<!-- end of results -->"  # of the block in README.md, …
BLOCK = re.compile(rf"(?ms)^{START}\n(.*?)^{END}$")  # … each on a line of its own

GALLERY = """\
# Figures

Drawn by the notebooks from records, and put here by publish.py. Each caption
names the profile, the data and the device of its numbers. Beside each picture lies an SVG of it,
the [scorecard](scorecard.md) of the paper's claims, and in [records](records) the runs' own.
"""

FIGURE = "## {name}\n\n{text}\n\n![{name}]({name}.png)\n"

RESULTS = """\
| | paper | here |
|---|---|---|
| best of the search: learning rate, layers, heads, width | {paper_best} | {best} |
| revised grid: configurations, epochs, tokens of text | 12, {paper.SEARCH_EPOCHS}, \
not stated | {configurations}, {search.epochs}, {tokens} |
| validation perplexity per token over the grid | {paper.GRID_PERPLEXITY[0]} to \
{paper.GRID_PERPLEXITY[1]} | {grid[min]:.1f} to {grid[max]:.1f} |
| retrained | {paper_best} | {retrained} |
| its epochs and optimiser steps | {paper.RETRAIN_EPOCHS}, not stated | \
{last[epoch]}, {last[step]:,} |
| test loss, nats per token | {paper.TEST_LOSS:.4f} | {mean[test loss]:.4f} |
| test perplexity per token | {paper.TEST_PERPLEXITY} | {mean[perplexity per token]:.1f} |
| test perplexity per word and line end | not stated | {mean[perplexity per word]:.1f} |
| test bits per byte | not stated | {mean[bits per byte]:.3f} |

Profile `{experiment.profile.name}`, {experiment.dataset.name}, {data.split} split, vocabulary \
{data.vocab_size:,}, windows of {data.block_size} tokens, one every {stride}; {made[device]}, \
{amp}, {seeds}; commit {made[commit]}. Written by figures/publish.py from records."""


KEPT = ("command", "identity", "environment", "amp", "parameters", "steps_per_epoch", "epochs")

PAGE = """\
# Scorecard

The paper's 16 claims, judged by the records of runs: {source} Intervals are 95%. The sections are \
those of [notebook 08](../notebooks/08_reproduction_audit.ipynb); [audit.json](audit.json) \
holds the runs' records, each with the command that made it.

| # | claim | published | here | verdict | section | `llmlite run --only` |
|---|---|---|---|---|---|---|
{lines!m}
"""
LINE = "| {number} | {claim} | {published} | {ours} | **{verdict}** | {section} | {runs} |"
VERDICTS = (REPRODUCED, FLAWED, NOT, UNCLEAR)
SHORT = """\
**{headline!m}** Of the paper's {n} claims: {counts} ([scorecard](figures/scorecard.md); the runs' \
records, each with its command: [audit.json](figures/audit.json))."""


def publish(experiment: Experiment, root: Path) -> None:
    """Show in the clone at `root` what this experiment's run has made; what it has not made stays
    as it is. README.md changes where both the retraining and the audit are there."""
    out, figures = experiment.out, root / "figures"
    records = figures / "records" / experiment.profile.name
    if not (out / "figures" / "captions.json").exists():
        raise LLMLiteError(f"There are no figures in {out}; run `llmlite reproduce` first.")
    for notebook in sorted((out / "notebooks").glob("*.ipynb")):
        content = read(notebook)
        # Whoever opens the published notebook starts from its own parameters, not this run's.
        cells = [c for c in content["cells"] if INJECTED not in c["metadata"].get("tags", [])]
        write_json(root / "notebooks" / notebook.name, content | {"cells": cells})
    _publish_figures(out / "figures", figures)
    trained = [run for run in whole_plan(experiment) if experiment.is_trained(run)]
    if trained:
        _publish_records(experiment, trained, records)
    audited = any((out / "notebooks").glob("08_*.ipynb"))
    short = write_scorecard(Audit(experiment), figures) if audited else None
    if any(out.glob("runs/*/test_score.json")):
        table = results(experiment)
        copy(out / SEEDS, records / SEEDS)
        weights = experiment.folder(experiment.retraining()) / WEIGHTS
        # Of WikiText-2, as the model's card says; records alone have no weights.
        if experiment.dataset.name.startswith("wikitext") and weights.exists():
            ship(experiment, root / "llmlite" / "pretrained")
        if short:
            readme = root / "README.md"
            write(readme, with_block(readme.read_text("utf-8"), f"{short}\n\n{table}"))


def _publish_figures(made: Path, to: Path) -> None:
    """Copy figures; the page has the captions of all that are there."""
    for path in (*made.glob("*.png"), *made.glob("*.svg")):
        copy(path, to / path.name)
    page = to / "README.md"
    captions = captions_in(page.read_text("utf-8")) if page.exists() else {}
    captions |= read(made / "captions.json", dict[str, str])
    there = {name: text for name, text in captions.items() if (to / f"{name}.png").exists()}
    write(page, gallery(there))


def _publish_records(experiment: Experiment, trained: list, to: Path) -> None:
    """The records of these runs take the place of all that were there."""
    with tempfile.TemporaryDirectory() as scratch:
        stage(experiment, trained, Path(scratch))
        for old in to.glob(f"runs/*/{RECORD}"):
            shutil.rmtree(old.parent)
        shutil.copytree(scratch, to, copy_function=copy, dirs_exist_ok=True)


def read(path: Path, kind: type = dict):
    """JSON that a run has made."""
    try:
        return read_json(path, kind)
    except ValueError as error:
        said = f"{path} is damaged ({error}); delete it and run `llmlite reproduce` again."
        raise LLMLiteError(said) from None


def copy(source: Path | str, to: Path | str) -> None:
    """A whole file or none; a link at `to` is replaced, and not written through."""
    with replacing(to) as aside:
        shutil.copyfile(source, aside)


def write(path: Path, text: str) -> None:
    """Likewise."""
    with replacing(path) as aside:
        aside.write_text(text, "utf-8")


# -- Markdown -------------------------------------------------------------------------------------


class _Template(string.Formatter):
    """str.format for Markdown: text that is filled in is shown as it is, `{like_this!m}` is
    Markdown itself."""

    def convert_field(self, value, conversion):
        return plain(value) if isinstance(value, str) and conversion != "m" else value


fill = _Template().format


def plain(text: str) -> str:
    """Text, a caption or the name of somebody's file, as Markdown that shows just that, in a cell
    of a table, too: no HTML, no code, no link, on one line."""
    text = html.escape(harmless(" ".join(text.split())), quote=False)
    # Links: their names, what follows these, addresses; "_" stays as it is within a word.
    marks = r"[\\`|*#~$]|\[(?=\w+\])|(?<=\])[(\[:]|(?<=:)/(?=/)|(?<=www)\.|\b_|_\b"
    return re.sub(marks, r"\\\g<0>", text)


def gallery(captions: dict[str, str]) -> str:
    """figures/README.md: every figure with its caption."""
    parts = [fill(FIGURE, name=name, text=text) for name, text in captions.items()]
    return "\n".join([GALLERY, *sorted(parts)])


def captions_in(page: str) -> dict[str, str]:
    """The captions that `gallery` wrote, by figure."""
    found = re.findall(r"^## (\S+)\n\n(.*)\n\n!\[", page, re.MULTILINE)
    return {name: html.unescape(re.sub(r"\\(.)", r"\1", text)) for name, text in found}


def with_block(readme: str, block: str) -> str:
    """`readme` with `block` between the two marks, which may be named in it."""
    if not (found := BLOCK.search(readme)):
        raise LLMLiteError(f"README.md has no {START} and {END} to write between.")
    start, end = found.span(1)
    return f"{readme[:start]}{block.replace('<!--', '&lt;!--')}\n{readme[end:]}"


def results(experiment: Experiment) -> str:
    """The paper's numbers beside those of this experiment's records, and what these are of."""
    table, search = experiment.search("revised"), experiment.profile.revised.train
    record, scores = experiment.retrain(), experiment.seed_scores()
    data, n = experiment.data, len(scores)
    shape = "{learning_rate:g}, {n_layer}, {n_head}, {n_embd}".format
    return fill(
        RESULTS,
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


# -- the scorecard's pages ------------------------------------------------------------------------


def write_scorecard(audit: Audit, folder: Path) -> str:
    """scorecard.md, and the records behind it; what README.md has of it."""
    experiment, evidence = audit.experiment, scorecard.evidence(audit)
    rows = scorecard.scorecard(evidence).reset_index().to_dict("records")
    source = (
        f"profile {experiment.profile.name}, {experiment.dataset.name}, "
        f"{experiment.made_on()}. {scorecard.scale(audit)}"
    )
    page, short = pages(rows, source, headline(evidence))
    write(folder / "scorecard.md", page)
    write_json(folder / "audit.json", records(audit, evidence, rows))
    return short


def pages(rows: list[dict], source: str, headline: str) -> list[str]:
    """What goes into figures/ and into README.md. source: profile, data and device."""
    lines = "\n".join(fill(LINE, **row) for row in rows)
    found = Counter(row["verdict"] for row in rows)
    counts = ", ".join(f"{found[verdict]} {verdict}" for verdict in VERDICTS if found[verdict])
    short = fill(SHORT, headline=headline, n=len(rows), counts=counts)
    return [fill(PAGE, lines=lines, source=source), short]


def records(audit: Audit, gathered: Evidence, rows: list[dict]) -> dict:
    """figures/audit.json: every run's record, with what was measured of it."""
    experiment, runs = audit.experiment, {}
    for name, record in gathered.leak.items():
        runs[name] = {k: record[k] for k in (*KEPT, "measures", "skipped")}
    for i, (name, run) in enumerate(audit.honest_runs.items()):
        record, scores = experiment.train(run), experiment.measured(run, "scores")
        runs[name] = {
            **{k: record[k] for k in KEPT},
            "command": audit.command(name),
            "scores": {rule: asdict(together(articles)) for rule, articles in scores.items()},
            "studies": {
                study: {k: v for k, v in seeds[i].items() if k != "rows"}
                for study, seeds in gathered.studies.items()
            },
        }
    for name, grid in audit.grid_runs.items():
        records = [record for run in grid if (record := finished_record(experiment.folder(run)))]
        if records:
            runs[name] = {
                "command": audit.command(name),
                "environment": records[0]["environment"],
                "epochs": experiment.epochs(grid).to_dict("records"),
            }
    return {
        "profile": experiment.profile.name,
        "data": experiment.dataset.name,
        "scorecard": rows,
        "runs": runs,
    }


# -- the model ------------------------------------------------------------------------------------


def ship(experiment, folder: Path) -> None:
    """Write the trained model of an Experiment into `folder`, weights rounded to half precision.

    The scores in its record are those of the rounded weights on the whole test split.
    """
    run, dataset, model = experiment.retrain(), experiment.dataset, experiment.model
    half = {name: weight.half() for name, weight in model.state_dict().items()}
    about = {name: str(value) for name, value in dataset.about.items()}
    save_weights(model.config, half, folder / MODEL, **about)
    experiment.tokenizer.save(folder / TOKENIZER)
    rounded, _ = load_model(folder / MODEL, experiment.device)
    taken_over = ("identity", "amp", "parameters", "best", "epochs", "environment")
    record = {
        "profile": experiment.profile.name,
        **about,
        "data_config": {k: v for k, v in asdict(experiment.data).items() if k != "source"},
        **{key: run[key] for key in taken_over},
        "scores": asdict(evaluate(rounded, dataset.ids["test"], dataset.counts("test"))),
        "scored_in": environment(experiment.device),
    }
    write_json(folder / RECORD, record)
    write(folder / "README.md", model_card(record))


def model_card(record: dict) -> str:
    """README.md of a shipped model, from its record."""
    score, millions = Score(**record["scores"]), record["parameters"] / 1e6
    template = (HERE / "card.md").read_text("utf-8")
    last = record["epochs"][-1]
    return fill(template, **record, score=score, last=last, millions=millions)


def main(profile: str, out: Path, data: str | None = None) -> None:
    """Show in this clone what is in a folder.

    Args:
        profile: that was run
        out: the folder
        data: where its text is from, as for llmlite; as the profile says if not given
    """
    root = project_root()

    def work() -> None:
        experiment = Experiment(profile, data, out, "cpu", progress=False)
        experiment.only_read = "publishing trains nothing; `llmlite run` does."
        with careful():
            publish(experiment, root)
            print(f"What {out} holds is shown in {root} now; `git diff --stat` says where.")

    sys.exit(guarded("publish.py", work))


if __name__ == "__main__":
    tyro.cli(main)
