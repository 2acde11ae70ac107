"""Everything that the audit's runs left, gathered: for the scorecard, and for people to trace."""

from dataclasses import asdict
from pathlib import Path

from llmlite.audit.claims import Evidence, headline
from llmlite.audit.measures import value
from llmlite.audit.rows import Row, to_markdown, to_short_markdown
from llmlite.audit.runs import LONGER, Audit
from llmlite.audit.studies import STUDIES
from llmlite.checkpoint import read_steps
from llmlite.files import replacing, write_json
from llmlite.metrics import Score

SCORECARD, SHORT, RECORDS = "scorecard.md", "scorecard-short.md", "audit.json"
KEPT = ("command", "identity", "environment", "amp", "parameters", "steps_per_epoch", "epochs")


def evidence(audit: Audit) -> Evidence:
    """What the scorecard judges by; made on the spot where it is not there yet."""
    honest = list(audit.honest_runs)
    scores = {name: audit.scores(name) for name in honest}
    side_by_side = [[Score(**a) for a in scores[name]["side by side"]] for name in honest]
    return Evidence(
        leak=audit.leaks(),
        tests=[value(articles, "loss") for articles in side_by_side],
        norms=[read_steps(audit.run_folder(name)) for name in honest],
        first=audit.grids("first"),
        revised=audit.grids("revised"),
        longer=audit.grids(LONGER),
        studies={study: [audit.study(study, name) for name in honest] for study in STUDIES},
    )


def scale(audit: Audit) -> str:
    """How long the grids' runs are, in a sentence: their trends say nothing about longer ones."""
    grid = audit.settings.revised_grid
    tokens = f"{grid.train_tokens:,} tokens" if grid.train_tokens else "the whole training text"
    return (
        f"Claims 1, 2 and 4 to 8 are judged by runs of {grid.epochs} epochs over {tokens}, which "
        "need not hold for longer ones."
    )


def save(audit: Audit, gathered: Evidence, rows: list[Row]) -> Path:
    """Write the scorecard and the records behind it beside the figures; returns the folder."""
    experiment, folder = audit.experiment, audit.experiment.out / "figures"
    source = (
        f"profile {experiment.profile.name}, {experiment.corpus.name}, "
        f"{experiment.made_on()}. {scale(audit)}"
    )
    pages = {
        SCORECARD: to_markdown(rows, source),
        SHORT: to_short_markdown(rows, source, headline(gathered)),
    }
    for name, text in pages.items():
        with replacing(folder / name) as aside:
            aside.write_text(text, encoding="utf-8")
    write_json(folder / RECORDS, _records(audit, gathered, rows))
    return folder


def _records(audit: Audit, gathered: Evidence, rows: list[Row]) -> dict:
    honest = {}
    for i, name in enumerate(audit.honest_runs):
        record = audit.train(name)
        scores = {rule: _total(scores) for rule, scores in audit.scores(name).items()}
        studies = {
            study: {k: v for k, v in seeds[i].items() if k != "rows"}
            for study, seeds in gathered.studies.items()
        }
        honest[name] = {
            **{k: record[k] for k in KEPT},
            "command": audit.shown_command(name),
            "scores": scores,
            "studies": studies,
        }
    tables = {"first": gathered.first, "revised": gathered.revised, LONGER: gathered.longer}
    grids = {
        name: {
            "command": audit.shown_command(name),
            "environment": audit.grid_environment(grid, seed),
            "epochs": table[table.seed == seed].to_dict("records"),
        }
        for name, (grid, seed) in audit.grid_runs.items()
        if seed in (table := tables[grid]).seed.values
    }
    leak = {
        name: {k: record[k] for k in (*KEPT, "measures", "skipped")}
        for name, record in gathered.leak.items()
    }
    return {
        "profile": audit.experiment.profile.name,
        "data": audit.experiment.corpus.name,
        "scorecard": [asdict(row) for row in rows],
        "runs": leak | honest | grids,
    }


def _total(articles: list[dict]) -> dict:
    """All articles together, as one Score."""
    sums = {f: sum(a[f] for a in articles) for f in ("nats", "tokens", "words", "bytes")}
    return asdict(Score(**sums, context=articles[0]["context"]))
