"""The rows of the scorecard, and how they are written."""

from dataclasses import dataclass

import pandas as pd

REPRODUCED, NOT, FLAWED, UNCLEAR = VERDICTS = (
    "reproduced",
    "not reproduced",
    "reproduced only with the flaw",
    "cannot be judged",
)


@dataclass(frozen=True)
class Row:
    """A claim's line of the scorecard."""

    number: int
    claim: str
    published: str
    ours: str  # with its interval, unit and number of runs
    verdict: str  # one of VERDICTS
    section: str  # of notebook 08, that shows it
    runs: str  # whose records it is from, as `llmlite audit --only` takes them


def to_frame(rows: list[Row]) -> pd.DataFrame:
    """A row a claim, by number: claim, published, ours, verdict, section."""
    table = pd.DataFrame(rows).set_index("number")
    return table[["claim", "published", "ours", "verdict", "section"]]


def to_markdown(rows: list[Row], source: str) -> str:
    """figures/scorecard.md. source: profile, data and device."""
    lines = [
        "# Scorecard\n",
        f"The paper's 16 claims, judged by the records of runs: {source} Intervals are 95%. The "
        "sections are those of [notebook 08](../notebooks/08_reproduction_audit.ipynb), which "
        "writes this page; [audit.json](audit.json) holds the runs' records, each with the command "
        "that made it.\n",
        "| # | claim | published | here | verdict | section | `llmlite audit --only` |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.number} | {row.claim} | {row.published} | {row.ours} | **{row.verdict}** | "
        f"{row.section} | {row.runs} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def to_short_markdown(rows: list[Row], source: str, headline: str) -> str:
    """The README's scorecard: a headline, claims and verdicts. source: as in `to_markdown`."""
    lines = [f"**{headline}**", ""]
    lines += ["| # | the paper's claim | verdict |", "|---|---|---|"]
    lines += [f"| {row.number} | {row.claim} | {row.verdict} |" for row in rows]
    return "\n".join(
        [
            *lines,
            "",
            f"Here: {source} The numbers, with intervals: [scorecard](figures/scorecard.md); the "
            "runs' records, with the command of each: [audit.json](figures/audit.json).",
        ]
    )
