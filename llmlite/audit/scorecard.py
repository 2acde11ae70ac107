"""The scorecard: all claims with their verdicts, and the records that they rest on."""

import pandas as pd

from llmlite import paper
from llmlite.audit import claims, said, trends
from llmlite.audit.claims import Evidence
from llmlite.audit.heads import STUDIES
from llmlite.audit.measures import together
from llmlite.audit.runs import LONGER, Audit
from llmlite.run import read_steps

CLAIMS = {claim["number"]: claim for claim in said("claims")["claims"]}
# The judge of claim 7 is `claim_7`, in claims.py or trends.py: from the evidence to what came out
# here and a verdict.
JUDGES = {number: (vars(claims) | vars(trends))[f"claim_{number}"] for number in CLAIMS}


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


def scorecard(e: Evidence) -> pd.DataFrame:
    """A row a claim, by number: what stands of it in claims.toml; `ours`, what came out here, with
    its interval, unit and number of runs; and the verdict."""
    columns = ["claim", "published", "ours", "verdict", "section", "runs"]
    return pd.DataFrame([row(number, e) for number in CLAIMS]).set_index("number")[columns]


def row(number: int, e: Evidence) -> pd.Series:
    said, half_rate = CLAIMS[number], paper.FINAL_PERPLEXITY[5e-4, 2, 2]
    published = said["published"].format(paper=paper, half_rate=half_rate)
    ours, verdict = JUDGES[number](e)
    return pd.Series(said | {"published": published, "ours": ours, "verdict": verdict})


def scale(audit: Audit) -> str:
    """How long the grids' runs are, in a sentence: their trends say nothing about longer ones."""
    grid = audit.config.revised_grid
    tokens = f"{grid.train_tokens:,} tokens" if grid.train_tokens else "the whole training text"
    return (
        f"Claims 1, 2 and 4 to 8 are judged by runs of {grid.epochs} epochs over {tokens}, which "
        "need not hold for longer ones."
    )
