"""Each claim on evidence made by hand, so that its verdict comes out each way it can.

A grid's loss is 5 nats plus what is said; without chance an interval is the value itself.
"""

import math
import re
from collections.abc import Callable
from dataclasses import asdict, replace

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from publish import pages

from llmlite import paper
from llmlite.audit import claims, scorecard, trends
from llmlite.audit.claims import FLAWED, NOT, REPRODUCED, UNCLEAR, Evidence
from llmlite.audit.heads import STUDIES
from llmlite.audit.runs import Audit
from llmlite.config import AXES, SearchSpace
from llmlite.experiment import Experiment
from llmlite.intervals import Interval

REVISED = SearchSpace((1e-3, 5e-4), (2, 6), (2, 4), (128,))
FIRST = SearchSpace((1e-3, 5e-4), (2, 6), (2, 4), (64, 128, 256))
LONGER = SearchSpace((1e-3,), (6,), (4,), (128,))


def step(by: float, **levels) -> Callable[[dict], float]:
    """A loss that is `by` more where a run has these levels."""
    return lambda run: by * all(run[name] == value for name, value in levels.items())


def grid(space: SearchSpace, *losses: Callable[[dict], float], epochs: int = 3) -> pd.DataFrame:
    """A row an epoch: 5 nats and the sum of losses(run), a nat more in all but the last but one."""
    runs = [point | {"seed": seed} for seed in (1, 2, 3) for point in space.points()]
    rows = [run | {"epoch": epoch} for run in runs for epoch in range(1, epochs + 1)]
    lowest = [5 + sum(loss(row) for loss in losses) for row in rows]
    return pd.DataFrame(rows).assign(valid_loss=lambda t: lowest + (t.epoch != epochs - 1))


def revised(*losses) -> dict:
    return {"revised": grid(REVISED, *losses)}


def falling(space: SearchSpace, *losses: float) -> pd.DataFrame:
    """A grid whose runs all have these losses, an epoch each."""
    return grid(space, epochs=len(losses)).assign(valid_loss=lambda t: np.take(losses, t.epoch - 1))


def leak_record(perplexity=1.171, test_loss=0.155, true=5.5, grad_norm=1e5) -> dict:
    true = {"nats": true, "error": 0.1}
    return {
        "command": "llmlite audit",
        "epochs": [{"perplexity": 9.9}, {"perplexity": perplexity, "grad_norm": grad_norm}],
        "measures": {"test_loss": test_loss, "true": true, "tokens_per_word": 1.5},
        "environment": {"device": "an abacus"},
    }


def step_log(early: tuple[float, float], late: tuple[float, float]) -> list[pd.DataFrame]:
    """Three seeds of 100 steps, a tenth of them early: norms of this median and half this range."""
    medians, halves = np.array([early] * 10 + [late] * 90).T
    return [pd.DataFrame({"grad_norm": medians + halves * np.tile([1, -1], 50)})] * 3


# What a claim says of each measure: (claim, measure, threshold, the side on which it has to be).
WORDING = "BLEU: different prompts minus same prompt"
COOLER, LARGER = "temperature 0.7 minus temperature 1.0", "top-k 1000 minus top-k 10"
WITHOUT, LAYERS = "repetition: without heads 1 and 2 minus", "layer 0 minus layer 10"
PARTS = [
    (9, "position: filtered", 0.5, 1),
    (10, "share below 0.05: different prompts", 0.5, 1),
    (11, f"entropy: {COOLER}", 0, -1),
    (11, f"paragraph: {COOLER}", 0, -1),
    (11, f"distinct-2: {LARGER}", 0, 1),
    (11, f"attested pairs: {LARGER}", 0, -1),
    (12, f"{WITHOUT} all heads", 0, 1),
    (13, f"previous: {LAYERS}", 0, 1),
    (13, f"distance: {LAYERS}", 0, -1),
    (13, f"to sat: {LAYERS}", 0, -1),
    (13, "to sat minus to the noun: layer 10", 0, 1),
]
# What is only shown; the deepest layer is told by number, since 10 comes before 9 in the alphabet.
SHOWN = ["position: generated", "share below 0.05: same prompt", WORDING]
SHOWN += [f"{WITHOUT} mean of the other pairs", *(f"to sat: layer {n}" for n in (0, 9, 10))]


def around(value: float, half: float = 0.1) -> Interval:
    return Interval(value, value - half, value + half, "50 texts")


def studied(*seeds: dict[str, Interval]) -> dict:
    """What the studies gave for each seed: what the claims have, but for what is said."""
    usual = dict.fromkeys(SHOWN, around(0))
    usual |= {name: around(threshold + 0.2 * side) for _, name, threshold, side in PARTS}
    seeds = [{name: asdict(x) for name, x in (usual | seed).items()} for seed in seeds]
    return {"studies": {name: [{"measures": measures} for measures in seeds] for name in STUDIES}}


WITHOUT_MASK = ("no-mask", "no-mask-deep", "no-mask-seed-2")
# These must not count as runs without a mask at the paper's window.
OTHERS = ("mask", "no-mask-window-16", "padding", "scaled-norm")
EVIDENCE = Evidence(
    leak=dict.fromkeys(WITHOUT_MASK, leak_record()) | dict.fromkeys(OTHERS, leak_record(77.0)),
    tests=[5.4, 5.5, 5.6],
    norms=step_log((9.0, 3.0), (1.0, 0.1)),
    first=grid(FIRST),
    **revised(),
    longer=grid(LONGER, epochs=6),
    **studied({}, {}, {}),
)


def leak(name: str, **fields) -> dict:
    return {"leak": EVIDENCE.leak | {name: leak_record(**fields)}}


def judge(number: int, **changes):
    """The row of a claim by EVIDENCE with these changes."""
    return scorecard.row(number, replace(EVIDENCE, **changes))


CORNER = {"learning_rate": 1e-3, "n_layer": 6, "n_head": 4}
OTHER = {"learning_rate": 1e-3, "n_layer": 6, "n_head": 2}
BEST = step(-0.3, **CORNER), step(-0.2, **OTHER)
SECOND = step(-0.2, **CORNER), step(-0.3, **OTHER)
BY_CHANCE = step(1.0, **CORNER, seed=1), step(-1.0, **CORNER, seed=2)  # of the corner: ±2.5
FIXED = {"first": falling(FIRST, 6.0, 5.5, 5.0)}
FASTER = FIXED | {"revised": falling(REVISED, 6.0, 5.0, 4.8)}  # after 2 of 3 epochs
SLOWER = FIXED | {"revised": falling(REVISED, 6.0, 5.4, 5.2)}
NO_FIRST = {"first": EVIDENCE.first.iloc[:0]}
SMALL_EARLY = step_log((1.0, 3.0), (9.0, 0.1))

VERDICTS = [
    # The grid's corner is the best configuration.
    (1, revised(*BEST), REPRODUCED),
    (1, revised(*SECOND), NOT),
    (1, revised(*BEST, *BY_CHANCE), UNCLEAR),
    (1, revised(*SECOND, *BY_CHANCE), UNCLEAR),
    # All perplexities are in the paper's range, or within 5% of it without the mask.
    (2, revised(step(math.log(1.172) - 5)), REPRODUCED),
    (2, revised(step(math.log(1.185) - 5)), REPRODUCED),
    (2, revised(step(math.log(1.170) - 5)), FLAWED),
    (2, revised(step(math.log(1.187) - 5)), FLAWED),
    (2, revised(step(math.log(1.18) - 5), step(0.02, n_layer=2, n_head=2)), FLAWED),
    (2, leak("no-mask", perplexity=1.12), FLAWED),
    (2, leak("no-mask-deep", perplexity=1.11), NOT),  # 5% below 1.1710 is 1.1152
    (2, leak("no-mask-deep", perplexity=1.24), FLAWED),
    (2, leak("no-mask-seed-2", perplexity=1.25), NOT),  # 5% above 1.1858 is 1.2451
    (2, leak("no-mask-batch", perplexity=77.0), FLAWED),
    # The interval holds the paper's test loss, or 0.8 to 1.25 of it comes out without the mask.
    (3, {"tests": [0.15, 0.154, 0.159]}, REPRODUCED),
    (3, {"tests": [0.16, 0.161, 0.162]}, FLAWED),
    (3, {"tests": [0.144, 0.145, 0.146]}, FLAWED),
    (3, leak("no-mask-deep", test_loss=0.190), FLAWED),
    (3, leak("no-mask-deep", test_loss=0.193), NOT),  # over 1.25 × 0.153
    (3, leak("no-mask-deep", test_loss=0.124), FLAWED),
    (3, leak("no-mask-deep", test_loss=0.121), NOT),  # under 0.8 × 0.153
    (5, NO_FIRST, UNCLEAR),
    # A lower loss, and fewer epochs.
    (6, FASTER, REPRODUCED),
    (6, FIXED | {"revised": falling(REVISED, 6.0, 5.1, 4.8)}, UNCLEAR),  # lower, but no sooner
    (6, SLOWER, NOT),
    (6, FIXED | revised(*BY_CHANCE), UNCLEAR),
    (6, NO_FIRST, UNCLEAR),
    # The paper's own rates speak against its warmup.
    (14, {}, NOT),
    # Norms are larger and vary more early; their size is that of the scaled gradient.
    (15, leak("scaled-norm", grad_norm=1.9e4), FLAWED),
    (15, leak("scaled-norm", grad_norm=1.8e4), NOT),  # under half of 3.7e4
    (15, leak("scaled-norm", grad_norm=4.3e6), FLAWED),
    (15, leak("scaled-norm", grad_norm=4.5e6), NOT),  # over twice 2.2e6
    (15, {"norms": SMALL_EARLY}, NOT),
    (15, {"norms": step_log((9.0, 0.1), (1.0, 3.0))}, NOT),
    (15, {"norms": [*EVIDENCE.norms, *SMALL_EARLY]}, UNCLEAR),
    (16, {}, UNCLEAR),
]


@pytest.mark.parametrize(("claim", "changes", "verdict"), VERDICTS)
def test_a_claim_of_numbers_is_judged_by_its_rule(claim, changes, verdict):
    assert judge(claim, **changes).verdict == verdict


def test_claim_14_would_hold_with_the_warmup_of_the_log(monkeypatch):
    monkeypatch.setattr(paper, "WARMUP_STEPS", 5_000)
    assert judge(14).verdict == REPRODUCED


UP, DOWN, OPEN = around(0.2), around(-0.2), around(0)
AS_CLAIMED = {"width": around(-0.02, 0.07), "layers": UP, "heads": DOWN, "half the rate": UP}
AS_CLAIMED |= {"shallow": OPEN, "deep": DOWN, "deep minus shallow": DOWN}


@pytest.mark.parametrize(("claim", "changed", "verdict"), [
    # Less than 2% of a loss of 5 nats.
    (4, {"epochs": around(0.1, 0.199)}, REPRODUCED),
    (4, {"epochs": around(-0.2, 0.099)}, NOT),
    (4, {"epochs": around(-0.1, 0.001)}, UNCLEAR),
    # Depth and heads do 0.1 to 0.3, up or down, and width less than both.
    (5, {}, REPRODUCED),
    (5, {"width": around(-0.02, 0.09)}, UNCLEAR),
    (5, {"layers": OPEN}, UNCLEAR),
    (5, {"heads": OPEN}, UNCLEAR),
    (5, {"width": around(0.4, 0.09)}, NOT),
    (5, {"width": around(0.4, 0.09), "layers": around(-0.4)}, NOT),
    (5, {"width": around(0.4, 0.09), "heads": around(0.4)}, NOT),
    (5, {"width": around(0.4), "layers": around(-0.4), "heads": around(0.4)}, UNCLEAR),
    # Half the rate ends higher.
    (7, {}, REPRODUCED),
    (7, {"half the rate": DOWN}, NOT),
    (7, {"half the rate": OPEN}, UNCLEAR),
    # Heads help in deep models, and more than in shallow ones, where they do not help.
    (8, {}, REPRODUCED),
    (8, {"shallow": UP}, REPRODUCED),
    (8, {"shallow": DOWN}, NOT),
    (8, {"deep": UP}, NOT),
    (8, {"deep": OPEN}, UNCLEAR),
    (8, {"deep minus shallow": OPEN}, UNCLEAR),
])  # fmt: skip
def test_a_claim_of_the_grids_is_judged_by_its_effects(claim, changed, verdict, monkeypatch):
    monkeypatch.setattr(trends, "effects", lambda _: AS_CLAIMED | changed)
    assert judge(claim).verdict == verdict


@pytest.mark.parametrize(("claim", "part", "threshold", "side"), PARTS)
def test_a_study_refutes_its_claim_by_one_part_on_the_other_side(claim, part, threshold, side):
    def verdict(*seeds: float, half: float = 0.1, **others) -> str:
        """The part's interval is around each seed's number: above 0 lies what is claimed."""
        at = (around(threshold + side * number, half) for number in seeds)
        return judge(claim, **studied(*(others | {part: interval} for interval in at))).verdict

    assert verdict(0.2, 0.2, 0.2) == REPRODUCED
    assert verdict(-0.2, -0.2, -0.2) == NOT
    assert verdict(0, half=0) == NOT
    for seeds in ((0, 0, 0), (0.2, 0.2, 0), (0, -0.2, -0.2), (0.2, -0.2, 0.2), (-0.2, 0.2, 0.2)):
        assert verdict(*seeds) == UNCLEAR
    all_open = {name: OPEN for number, name, *_ in PARTS if number == claim}
    assert verdict(-0.2, -0.2, **all_open) == NOT


HEADS = step(-0.3, n_head=4), step(-0.4, n_head=4, n_layer=6)
GRIDS = revised(*HEADS, step(0.5, learning_rate=5e-4))
GRIDS |= {"first": grid(FIRST, step(-0.1, n_embd=256), step(0.7, n_embd=128))}
GRIDS |= {"longer": grid(LONGER, step(-1.0), epochs=6)}
FEWER = {"first": FIXED["first"][FIXED["first"].n_head == 2]}
# Of 40 steps four are early, one of them skipped: their median is 8 and their deviation √7. The
# last 20 have a median of 2 and a deviation of √(20 / 19); what lies between does not count.
NORMS = pd.DataFrame({"grad_norm": [None, 7.0, 12.0, 8.0, *[1e9] * 16, *[1.0, 3.0] * 10]})
SEED_2 = {"position: filtered": around(0.15), "position: generated": around(0.35), WORDING: DOWN}
TRUE = leak("no-mask-deep", perplexity=1.1, true=6)
TRUE["leak"]["no-mask-batch"] = leak_record()


@pytest.mark.parametrize(("claim", "changes", "ours"), [
    (1, revised(*BEST), "best, by 0.100 [0.100, 0.100] nats over (0.001, 6, 2, 128) (3 seeds)"),
    (1, revised(*SECOND), "(0.001, 6, 2, 128) is best; (0.001, 6, 4, 128) is 0.100 [0.100"),
    (1, {"revised": EVIDENCE.revised[:24]}, "0.000 [no interval] nats behind (1 seed)"),
    (2, revised(step(math.log(2), n_head=4)), "148.4 to 296.8 over 8 configurations; without"),
    (2, TRUE, "without the mask 1.1000 to 1.1710 (3 runs)"),
    (3, TRUE, "5.500 [5.252, 5.748], perplexity 244.7 (3 seeds); without the mask 0.1550, "),
    (3, TRUE, "1.168, whose true perplexity is 403; in a shallow model, at twice the batch"),
    (4, GRIDS, "-0.300 [-0.300, -0.300] nats, 7.5% of the loss (3 pairs)"),
    (5, GRIDS, "width -0.100 [-0.100, -0.100]; depth -0.200 [-0.333, -0.067]; heads -0.500"),
    (6, FASTER, "-0.200 [-0.200, -0.200] nats; sooner as good as the fixed rate's best in 10"),
    (6, SLOWER | FEWER, "fixed rate's best in 0% (12 pairs)"),  # those of both grids
    (7, GRIDS, "+0.500 [+0.500, +0.500] nats (12 pairs)"),
    (8, GRIDS, "2 to 4 heads: -0.300 [-0.300, -0.300] nats with 2 layers, -0.700 [-0.700, "),
    (9, studied({}, SEED_2), "0.70 [0.60, 0.80] / 0.15 on a scale from real words shuffled, 0"),
    (9, studied({}, SEED_2), "(unfiltered 0.00 / 0.35)"),
    (10, studied({}, SEED_2), "0.70 [0.60, 0.80] / 0.70; between samples of one prompt 0.00"),
    (10, studied({}, SEED_2), "no effect of the wording is shown"),
    (10, studied(SEED_2, SEED_2), "0.00 / 0.00: the wording lowers it"),
    (11, studied({}), "entropy -0.20, paragraph -0.20, distinct-2 0.20, attested pairs -0.20"),
    (12, studied({}), "repetition 0.20 [0.10, 0.30]; against other pairs of heads 0.00"),
    (13, studied({}), "layer 0 minus layer 10: previous 0.20; distance -0.20; to sat -0.20"),
    (14, {}, "off from that by 38% of the peak, from a warmup of a tenth by 0.0%"),
    (15, {"norms": [NORMS] * 2}, "size 4.00 [4.00, 4.00], spread 2.58 [2.58, 2.58] (2 seeds)"),
    (15, {}, "norms of the scaled gradient 1.0e+05"),
    # 50,000 steps of 128 × 4 windows of 32 tokens.
    (16, {}, "819 M tokens in 10 hours are 22,756 tokens/s; here on an abacus"),
])  # fmt: skip
def test_a_claim_shows_what_it_was_judged_by(claim, changes, ours):
    assert ours in judge(claim, **changes).ours


def test_ranking_worked_out_by_hand():
    # Seed 2 is worse by 0.5 or 0.3 for those that have it, by 0.4 on average; 4 layers have seed 1
    # alone, and are ranked as if they had both: by 3.5 + 0.4 / 2. Behind the best is each pair.
    values = {(2, 1): 4.0, (2, 2): 4.5, (4, 1): 3.5, (6, 1): 3.0, (6, 2): 3.3}
    index = [(1e-3, layers, 4, 64, seed) for layers, seed in values]
    index = pd.MultiIndex.from_tuples(index, names=trends.FACTORS)
    table = trends.ranking(pd.Series([*values.values()], index))
    assert table[list(AXES)].to_numpy().tolist() == [[1e-3, n, 4, 64] for n in (6, 4, 2)]
    assert table.loss.tolist() == pytest.approx([3.15, 3.7, 4.25])
    assert table.behind.tolist() == pytest.approx([0.0, 0.5, 1.1])
    ends = [np.nan, math.inf, 0.1 * 12.7062]  # Student's t of one degree: 1.0 and 1.2 are 1.1 ± 0.1
    assert (table.high - table.behind).tolist() == pytest.approx(ends, nan_ok=True)
    assert (table.behind - table.low).tolist() == pytest.approx(ends, nan_ok=True)


def test_effects_of_the_grids_worked_out_by_hand():
    grids = replace(EVIDENCE, **GRIDS)
    found = {name: f"{x.value:.3f}, {x.of}" for name, x in trends.trend_effects(grids).items()}
    assert found == {
        "twice the epochs (6)": "-0.300, 3 pairs",
        "width 64 to 256": "-0.100, 24 pairs",
        # Four heads gain 0.3, in deep models 0.4 more: half of that over both depths.
        "layers 2 to 6": "-0.200, 12 pairs",
        "heads 2 to 4": "-0.500, 12 pairs",
        # Half of the rate's and the heads', a quarter of both; width 128 costs the other 0.7.
        "fixed rate to twice the batch, warmup + cosine": "-0.700, 24 pairs",
        "learning rate 0.001 to 0.0005": "0.500, 12 pairs",
        "heads 2 to 4, 2 layers": "-0.300, 6 pairs",
        "heads 2 to 4, 6 layers": "-0.700, 6 pairs",
    }
    assert trends.effects(grids)["deep minus shallow"].value == pytest.approx(-0.4)
    fewer = trends.best_losses(grids.revised).iloc[1:]  # whose partner makes no pair
    assert len(trends.changes(fewer, "n_head")) == 11


def test_the_scorecards_page_has_a_line_a_claim_with_what_paper_py_has_of_it():
    rows = scorecard.scorecard(EVIDENCE).reset_index().to_dict("records")
    assert [row["number"] for row in rows] == list(scorecard.JUDGES) == list(range(1, 17))
    assert rows[1]["published"] == "{:.4f} to {:.4f}".format(*paper.GRID_PERPLEXITY)
    assert rows[3]["published"].endswith(f"validation {np.log(paper.BEST_PERPLEXITY):.4f} after 10")
    assert rows[6]["published"].startswith(f"{paper.FINAL_PERPLEXITY[5e-4, 2, 2]} for")
    page, short = pages(rows, "profile quick, a text, a CPU.", "One. Two.")
    assert "profile quick, a text, a CPU." in page
    assert short.startswith("**One. Two.** Of the paper's 16 claims: 6 reproduced, 3 reproduced o")
    lines = [line for line in page.splitlines() if line.startswith("|")]
    names = ["number", "claim", "published", "ours", "verdict", "section", "runs"]
    for row, line in zip(rows, lines[2:], strict=True):
        shown = row | {"number": str(row["number"]), "verdict": f"**{row['verdict']}**"}
        cells = [cell.strip() for cell in line[1:-1].split("|")]
        assert cells == [shown[name] for name in names]
        assert all(cells)


def test_sections_and_runs_of_a_claim_are_there(tmp_path):
    path = REPOSITORY / "notebooks" / "08_reproduction_audit.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    sections, runs = ({c[part] for c in scorecard.CLAIMS.values()} for part in ("section", "runs"))
    assert sections <= set(re.findall(r"^#+ (.+)$", text, re.MULTILINE))
    audit = Audit(Experiment("quick", "sample", tmp_path, progress=False))
    names = [*audit.leak_runs, *audit.honest_runs, *audit.grid_runs, "arithmetic"]
    for prefix in " ".join(runs).split():
        assert any(name.startswith(prefix) for name in names), prefix


def test_a_plans_records_are_evidence_for_all_claims(whole):
    e = scorecard.evidence(whole)
    assert e.leak == whole.leaks()
    assert e.studies == {study: whole.measured(study) for study in STUDIES}
    assert e.tests[0] != e.tests[1]
    tokens = len(whole.experiment.dataset.ids["test"]) - 1
    for seed, loss in zip(whole.measured("scores"), e.tests, strict=True):
        assert loss == pytest.approx(sum(a["nats"] for a in seed["side by side"]) / tokens)
    for log, run in zip(e.norms, whole.honest_runs.values(), strict=True):
        assert len(log.grad_norm) == whole.experiment.train(run)["epochs"][-1]["step"]
    for name in ("first", "revised", "longer"):
        pd.testing.assert_frame_equal(getattr(e, name), whole.grids(name))
    for number in range(9, 14):  # what the studies measure has the names that claims go by
        assert scorecard.row(number, e).ours
    assert "by runs of 1 epochs over 3,000 tokens, which need not" in scorecard.scale(whole)


def test_the_end_of_it_is_of_the_run_that_ends_nearest_to_the_paper():
    names = ("mask", "no-mask", "no-mask-window-16", "no-mask-deep")
    ends = dict(zip(names, map(leak_record, (1.171, 1.2, 1.171, 1.15)), strict=True))
    batch = leak_record(1.17, test_loss=math.log(1.25), true=math.log(2_000))
    e = replace(EVIDENCE, leak=ends | {"no-mask-batch": batch})
    table = claims.end_of_it(e)
    assert table.index.tolist() == ["no-mask-batch", "no-mask-deep", "no-mask"]
    low, high = 2_000 * math.exp(-0.196), 2_000 * math.exp(0.196)
    assert table.iloc[0].to_dict() == {
        "validation perplexity": 1.17,
        "test perplexity": pytest.approx(1.25),
        "true test perplexity per token": pytest.approx(2_000),
        "its interval": f"{low:.1f} to {high:.1f}",
        "true per word and line end": pytest.approx(2_000**1.5),
        "command": "llmlite audit",
    }
    assert claims.headline(e) == (
        "Without the causal mask a validation perplexity of 1.1700 comes out (the paper: 1.1710; "
        "run `no-mask-batch`). Asked for a token that it cannot see, the same model has a "
        "perplexity of 2,000 per token and 89,443 per word."
    )
