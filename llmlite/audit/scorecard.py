"""The scorecard: all claims with their verdicts, and the records that they rest on."""

from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from llmlite import paper
from llmlite.audit import claims, trends, wording
from llmlite.audit.claims import Evidence
from llmlite.audit.measures import together
from llmlite.audit.runs import LONGER, Audit
from llmlite.audit.studies import STUDIES
from llmlite.files import replacing, write_json
from llmlite.run import finished_record, read_steps

CLAIMS = {claim["number"]: claim for claim in wording.rows("claims")}
# The judge of claim 7 is `claim_7`, in claims.py or trends.py: from the evidence to what came out
# here and a verdict.
JUDGES = {number: (vars(claims) | vars(trends))[f"claim_{number}"] for number in CLAIMS}

SCORECARD, SHORT, RECORDS = "scorecard.md", "scorecard-short.md", "audit.json"
KEPT = ("command", "identity", "environment", "amp", "parameters", "steps_per_epoch", "epochs")

PAGE = """\
# Scorecard

The paper's 16 claims, judged by the records of runs: {source} Intervals are 95%. The sections are \
those of [notebook 08](../notebooks/08_reproduction_audit.ipynb), which writes this page; \
[audit.json](audit.json) holds the runs' records, each with the command that made it.

| # | claim | published | here | verdict | section | `llmlite run --only` |
|---|---|---|---|---|---|---|
{lines}
"""
LINE = "| {number} | {claim} | {published} | {ours} | **{verdict}** | {section} | {runs} |"
SHORT_PAGE = """\
**{headline}**

| # | the paper's claim | verdict |
|---|---|---|
{lines}

Here: {source} The numbers, with intervals: [scorecard](figures/scorecard.md); the runs' records, \
with the command of each: [audit.json](figures/audit.json)."""
SHORT_LINE = "| {number} | {claim} | {verdict} |"


@dataclass(frozen=True)
class Row:
    """A claim's line of the scorecard."""

    number: int
    claim: str
    published: str
    ours: str  # with its interval, unit and number of runs
    verdict: str
    section: str  # of notebook 08, that shows it
    runs: str  # whose records it is from, as `llmlite run --only` takes them


def evidence(audit: Audit) -> Evidence:
    """What the scorecard judges by; made on the spot where it is not there yet."""
    folder = audit.experiment.folder
    return Evidence(
        leak=audit.leaks(),
        tests=[together(scores["side by side"]).loss for scores in audit.measured("scores")],
        norms=[read_steps(folder(run)) for run in audit.honest_runs.values()],
        first=audit.grids("first"),
        revised=audit.grids("revised"),
        longer=audit.grids(LONGER),
        studies={study: audit.measured(study) for study in STUDIES},
    )


def scorecard(e: Evidence) -> list[Row]:
    """All 16 claims, in their order."""
    return [row(number, e) for number in CLAIMS]


def row(number: int, e: Evidence) -> Row:
    said, half_rate = CLAIMS[number], paper.FINAL_PERPLEXITY[5e-4, 2, 2]
    ours, verdict = JUDGES[number](e)
    published = said["published"].format(paper=paper, half_rate=half_rate)
    return Row(**said | {"published": published, "ours": ours, "verdict": verdict})


def to_frame(rows: list[Row]) -> pd.DataFrame:
    """A row a claim, by number: claim, published, ours, verdict, section."""
    return pd.DataFrame(rows).set_index("number").drop(columns="runs")


def scale(audit: Audit) -> str:
    """How long the grids' runs are, in a sentence: their trends say nothing about longer ones."""
    grid = audit.config.revised_grid
    tokens = f"{grid.train_tokens:,} tokens" if grid.train_tokens else "the whole training text"
    return (
        f"Claims 1, 2 and 4 to 8 are judged by runs of {grid.epochs} epochs over {tokens}, which "
        "need not hold for longer ones."
    )


# -- on disk --------------------------------------------------------------------------------------


def save(audit: Audit, gathered: Evidence, rows: list[Row]) -> Path:
    """Write the scorecard and the records behind it beside the figures; returns the folder."""
    experiment, folder = audit.experiment, audit.experiment.out / "figures"
    source = (
        f"profile {experiment.profile.name}, {experiment.dataset.name}, "
        f"{experiment.made_on()}. {scale(audit)}"
    )
    for name, text in pages(rows, source, claims.headline(gathered)).items():
        with replacing(folder / name) as aside:
            aside.write_text(text, encoding="utf-8")
    write_json(folder / RECORDS, _records(audit, gathered, rows))
    return folder


def pages(rows: list[Row], source: str, headline: str) -> dict[str, str]:
    """What goes into figures/ and into README.md, by name. source: profile, data and device."""
    templates = {SCORECARD: (PAGE, LINE), SHORT: (SHORT_PAGE, SHORT_LINE)}
    made = {}
    for name, (page, line) in templates.items():
        lines = "\n".join(line.format(**asdict(row)) for row in rows)
        made[name] = page.format(lines=lines, source=source, headline=headline)
    return made


def _records(audit: Audit, gathered: Evidence, rows: list[Row]) -> dict:
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
        "scorecard": [asdict(row) for row in rows],
        "runs": runs,
    }
