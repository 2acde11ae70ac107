"""Each claim on evidence made by hand, so that its verdict comes out each way it can.

A grid's loss is 5 nats plus what is said; without chance an interval is the value itself.
"""

import math
import re
from collections.abc import Callable
from dataclasses import replace

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from publish import pages

from llmlite import paper
from llmlite.audit import claims
from llmlite.audit.claims import FLAWED, NOT, REPRODUCED, UNCLEAR, Evidence
from llmlite.audit.runs import Audit
from llmlite.audit.scorecard import JUDGES, row, scorecard
from llmlite.audit.trends import best_losses, changes, trend_effects
from llmlite.config import SearchSpace
from llmlite.experiment import Experiment
from llmlite.intervals import paired

SEEDS = (1, 2, 3)
REVISED = SearchSpace((1e-3, 5e-4), (2, 6), (2, 4), (128,))
FIRST = SearchSpace((1e-3, 5e-4), (2, 6), (2, 4), (64, 128, 256))
LONGER = SearchSpace((1e-3,), (6,), (4,), (128,))
CHANCE = {1: 1.0, 2: -1.0, 3: 0.0}  # by seed: a mean of 0, and an interval of ±2.5


def grid(
    space: SearchSpace, loss: Callable[[dict], float] = lambda p: 0.0, epochs: int = 3
) -> pd.DataFrame:
    """A row an epoch: 5 nats and loss(point, with its seed) in the last one, a nat more before."""
    return pd.DataFrame(
        [
            {
                **point,
                "seed": seed,
                "epoch": epoch,
                "valid_loss": 5 + loss(point | {"seed": seed}) + (epoch < epochs),
            }
            for seed in SEEDS
            for point in space.points()
            for epoch in range(1, epochs + 1)
        ]
    )


def step(by: float, **levels) -> Callable[[dict], float]:
    """A loss that is `by` more where a point has these levels."""
    return lambda p: by * all(p[name] == value for name, value in levels.items())


def add(*losses: Callable[[dict], float]) -> Callable[[dict], float]:
    return lambda p: sum(loss(p) for loss in losses)


def chance(**levels) -> Callable[[dict], float]:
    """What moves runs with these levels up or down by their seed."""
    return lambda p: step(CHANCE[p["seed"]], **levels)(p)


def leak_record(perplexity=1.171, test_loss=0.155, true=5.5, grad_norm=1e5, device="a CPU") -> dict:
    return {
        "command": "llmlite audit",
        "epochs": [
            {"perplexity": 9.9, "grad_norm": 9.9},
            {"perplexity": perplexity, "grad_norm": grad_norm},
        ],
        "measures": {
            "test_loss": test_loss,
            "true": {"nats": true, "error": 0.1},
            "tokens_per_word": 1.5,
        },
        "environment": {"device": device},
    }


def norms(early: tuple[float, float], late: tuple[float, float]) -> list[pd.DataFrame]:
    """Step logs of 100 steps, a seed each: (median, half the range) in the first tenth, (…) after.

    What one seed has in addition the next one has too little, by a hundredth.
    """
    logs = []
    for factor in (0.99, 1.0, 1.01):
        parts = [np.full(n, m) for n, (m, _) in ((10, early), (90, late))]
        for part, (_, half) in zip(parts, (early, late), strict=True):
            part[::2] += half * factor
            part[1::2] -= half * factor
        parts[0] *= factor
        logs.append(pd.DataFrame({"grad_norm": np.concatenate(parts)}))
    return logs


STUDIES = {
    "coherence": ("position: filtered", "position: generated"),
    "prompt_sensitivity": (
        "share below 0.05: different prompts",
        "share below 0.05: same prompt",
        "BLEU: different prompts minus same prompt",
    ),
    "sampling": (
        "entropy: temperature 0.7 minus temperature 1.0",
        "paragraph: temperature 0.7 minus temperature 1.0",
        "distinct-2: top-k 1000 minus top-k 10",
        "attested pairs: top-k 1000 minus top-k 10",
    ),
    "ablation": (
        "repetition: without heads 1 and 2 minus all heads",
        "repetition: without heads 1 and 2 minus mean of the other pairs",
    ),
    "attention": (
        "to sat: layer 5",
        "previous: layer 0 minus layer 5",
        "distance: layer 0 minus layer 5",
        "to sat: layer 0 minus layer 5",
        "to sat minus to the noun: layer 5",
    ),
}
MEASURE = {"value": 0.6, "low": 0.55, "high": 0.65, "of": "50 samples"}
EVIDENCE = Evidence(
    leak={name: leak_record() for name in ("no-mask", "no-mask-deep", "no-mask-seed-2")}
    | {"scaled-norm": leak_record()},
    tests=[5.4, 5.5, 5.6],
    norms=norms((9.0, 3.0), (1.0, 0.1)),
    first=grid(FIRST),
    revised=grid(REVISED),
    longer=grid(LONGER, epochs=6),
    studies={
        study: [{"measures": dict.fromkeys(names, MEASURE)}] * 3 for study, names in STUDIES.items()
    },
)


def judge(number: int, **changes):
    """The row of a claim by EVIDENCE with these changes."""
    return row(number, replace(EVIDENCE, **changes))


# -- 1 to 3: the numbers themselves ---------------------------------------------------------------

CORNER = {"learning_rate": 1e-3, "n_layer": 6, "n_head": 4}
OTHER = {"learning_rate": 1e-3, "n_layer": 6, "n_head": 2}


def revised(*losses) -> dict:
    return {"revised": grid(REVISED, add(*losses))}


@pytest.mark.parametrize(
    ("losses", "verdict", "ours"),
    [
        (
            [step(-0.3, **CORNER), step(-0.2, **OTHER)],
            REPRODUCED,
            "(0.001, 6, 4, 128) is best, by 0.100 [0.100, 0.100] nats over (0.001, 6, 2, 128) "
            "(3 seeds)",
        ),
        (
            [step(-0.2, **CORNER), step(-0.3, **OTHER)],
            NOT,
            "(0.001, 6, 2, 128) is best; (0.001, 6, 4, 128) is 0.100 [0.100, 0.100] nats behind "
            "(3 seeds)",
        ),
        (
            [step(-0.3, **CORNER), step(-0.2, **OTHER), chance(**CORNER)],
            UNCLEAR,
            "(0.001, 6, 4, 128) is best, by 0.100 [-2.384, 2.584] nats over (0.001, 6, 2, 128) "
            "(3 seeds)",
        ),
        (
            [step(-0.2, **CORNER), step(-0.3, **OTHER), chance(**CORNER)],
            UNCLEAR,
            "(0.001, 6, 2, 128) is best; (0.001, 6, 4, 128) is 0.100 [-2.384, 2.584] nats behind "
            "(3 seeds)",
        ),
    ],
)
def test_claim_1_is_that_the_grids_corner_is_best(losses, verdict, ours):
    row = judge(1, **revised(*losses))
    assert (row.verdict, row.ours) == (verdict, ours)


def without_mask(*perplexities: float) -> dict[str, dict]:
    """Records of the runs that claim 2 looks at, and of others that it must not look at."""
    names = ("no-mask", "no-mask-deep", "no-mask-seed-2")
    found = dict(zip(names, map(leak_record, perplexities), strict=True))
    others = ("mask", "no-mask-window-16", "no-mask-batch", "padding", "scaled-norm")
    return found | dict.fromkeys(others, leak_record(77.0))


@pytest.mark.parametrize(
    ("honest", "flawed", "verdict"),
    [
        (math.log(1.18) - 5, (9.0, 9.0, 9.0), REPRODUCED),
        (math.log(1.19) - 5, (9.0, 9.0, 9.0), NOT),
        (0.0, (1.171, 1.18, 1.12), FLAWED),
        (0.0, (1.171, 1.18, 1.11), NOT),  # 5% below 1.1710 is 1.1152
        (0.0, (1.171, 1.24, 1.12), FLAWED),
        (0.0, (1.171, 1.25, 1.12), NOT),  # 5% above 1.1858 is 1.2451
    ],
)
def test_claim_2_is_that_all_perplexities_are_in_the_papers_range(honest, flawed, verdict):
    changes = revised(lambda p: honest)
    assert judge(2, leak=without_mask(*flawed), **changes).verdict == verdict


def test_claim_2_needs_all_configurations_in_the_range():
    one_outside = revised(lambda p: math.log(1.18) - 5, step(0.02, n_layer=2, n_head=2))
    assert judge(2, leak=without_mask(9.0, 9.0, 9.0), **one_outside).verdict == NOT


def test_claim_2_shows_both_ranges():
    low = revised(step(math.log(2), n_head=4), chance(n_layer=2))
    assert judge(2, leak=without_mask(1.2, 1.1, 1.3), **low).ours == (
        f"{math.exp(5):.1f} to {2 * math.exp(5):.1f} over 8 configurations; "
        "without the mask 1.1000 to 1.3000 (3 runs)"
    )


@pytest.mark.parametrize(
    ("tests", "flawed", "verdict"),
    [
        ([0.15, 0.153, 0.156], 9.0, REPRODUCED),
        ([0.16, 0.161, 0.162], 9.0, NOT),
        ([5.4, 5.5, 5.6], 0.155, FLAWED),
        ([5.4, 5.5, 5.6], 0.19, FLAWED),
        ([5.4, 5.5, 5.6], 0.20, NOT),  # over 1.25 × 0.153
        ([5.4, 5.5, 5.6], 0.12, NOT),  # under 0.8 × 0.153
    ],
)
def test_claim_3_is_the_test_loss(tests, flawed, verdict):
    leak = {"no-mask-deep": leak_record(test_loss=flawed)}
    assert judge(3, tests=tests, leak=leak).verdict == verdict


def test_claim_3_shows_what_the_flawed_models_true_perplexity_is():
    leak = {"no-mask-deep": leak_record(test_loss=math.log(1.2), true=math.log(250))}
    assert judge(3, tests=[5.4, 5.5, 5.6], leak=leak).ours == (
        "5.500 [5.252, 5.748], perplexity 244.7 (3 seeds); without the mask 0.1823, 1.200, "
        "whose true perplexity is 250"
    )


# -- 4 to 8: trends -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "verdict", "ours"),
    [
        ([step(-0.05)], REPRODUCED, "-0.050 [-0.050, -0.050] nats, 1.0% of the loss (3 pairs)"),
        ([step(0.05)], REPRODUCED, "+0.050 [+0.050, +0.050] nats, -1.0% of the loss (3 pairs)"),
        ([step(-0.2)], NOT, "-0.200 [-0.200, -0.200] nats, 4.2% of the loss (3 pairs)"),
        (
            [step(-0.05), chance()],
            UNCLEAR,
            "-0.050 [-2.534, +2.434] nats, 1.0% of the loss (3 pairs)",
        ),
    ],
)
def test_claim_4_is_less_than_2_percent_of_the_loss(losses, verdict, ours):
    row = judge(4, longer=grid(LONGER, add(*losses), epochs=6))
    assert (row.verdict, row.ours) == (verdict, ours)


def first(*losses) -> dict:
    return {"first": grid(FIRST, add(*losses))}


WIDE, DEEP = {"n_embd": 256}, {"n_layer": 6}


HEADS = step(-0.2, n_head=4)


@pytest.mark.parametrize(
    ("changes", "verdict", "ours"),
    [
        (
            first(step(-0.1, **WIDE)) | revised(step(0.3, **DEEP), HEADS),
            REPRODUCED,
            "width -0.100 [-0.100, -0.100]; depth +0.300 [+0.300, +0.300]; heads -0.200 "
            "[-0.200, -0.200] nats, smallest to largest (24 pairs)",
        ),
        (
            first(step(-0.3, **WIDE)) | revised(step(-0.4, **DEEP), HEADS),
            NOT,
            "width -0.300 [-0.300, -0.300]; depth -0.400 [-0.400, -0.400]; heads -0.200 "
            "[-0.200, -0.200] nats, smallest to largest (24 pairs)",
        ),
    ],
)
def test_claim_5_compares_the_sizes_of_effects(changes, verdict, ours):
    row = judge(5, **changes)
    assert (row.verdict, row.ours) == (verdict, ours)


@pytest.mark.parametrize(
    "changes",
    [
        first(step(-0.1, **WIDE), chance(**WIDE)) | revised(step(-0.3, **DEEP), HEADS),
        first(step(-0.1, **WIDE)) | revised(step(-0.3, **DEEP), HEADS, chance(**DEEP)),
        first(step(-0.1, **WIDE)) | revised(step(-0.3, **DEEP), HEADS, chance(n_head=4)),
    ],
)
def test_claim_5_cannot_be_judged_where_intervals_overlap(changes):
    assert judge(5, **changes).verdict == UNCLEAR


def falling(space: SearchSpace, *losses: float) -> pd.DataFrame:
    """A grid whose runs all have these losses, an epoch each."""
    table = grid(space, epochs=len(losses))
    return table.assign(valid_loss=[losses[epoch - 1] for epoch in table.epoch])


FIXED = falling(FIRST, 6.0, 5.5, 5.0)


@pytest.mark.parametrize(
    ("table", "verdict", "ours"),
    [
        (
            falling(REVISED, 6.0, 5.0, 4.8),  # there after 2 of 3 epochs
            REPRODUCED,
            "-0.200 [-0.200, -0.200] nats; sooner as good as the fixed rate's best in 100% "
            "(24 pairs)",
        ),
        (
            falling(REVISED, 6.0, 5.1, 4.8),  # there after 3 of 3: lower, but no sooner
            UNCLEAR,
            "-0.200 [-0.200, -0.200] nats; sooner as good as the fixed rate's best in 0% "
            "(24 pairs)",
        ),
        (
            falling(REVISED, 6.0, 5.4, 5.2),
            NOT,
            "+0.200 [+0.200, +0.200] nats; sooner as good as the fixed rate's best in 0% "
            "(24 pairs)",
        ),
    ],
)
def test_claim_6_needs_a_lower_loss_and_fewer_epochs(table, verdict, ours):
    row = judge(6, first=FIXED, revised=table)
    assert (row.verdict, row.ours) == (verdict, ours)


def test_claim_6_cannot_be_judged_where_the_seeds_differ():
    assert judge(6, first=FIXED, **revised(chance())).verdict == UNCLEAR


def test_claim_6_compares_runs_that_both_grids_hold():
    alone = FIXED[(FIXED.n_embd != 128) | (FIXED.n_head == 2)]
    row = judge(6, first=alone, revised=falling(REVISED, 6.0, 5.0, 4.8))
    assert row.ours.endswith("(12 pairs)")


@pytest.mark.parametrize(
    ("losses", "verdict", "ours"),
    [
        ([step(0.1, learning_rate=5e-4)], REPRODUCED, "+0.100 [+0.100, +0.100] nats (12 pairs)"),
        ([step(-0.1, learning_rate=5e-4)], NOT, "-0.100 [-0.100, -0.100] nats (12 pairs)"),
        (
            [step(0.1, learning_rate=5e-4), chance(learning_rate=5e-4)],
            UNCLEAR,
            "+0.100 [-0.442, +0.642] nats (12 pairs)",
        ),
    ],
)
def test_claim_7_is_that_half_the_rate_ends_higher(losses, verdict, ours):
    row = judge(7, **revised(*losses))
    assert (row.verdict, row.ours) == (verdict, ours)


SHALLOW_HEADS, DEEP_HEADS = {"n_layer": 2, "n_head": 4}, {"n_layer": 6, "n_head": 4}


@pytest.mark.parametrize(
    ("losses", "verdict", "ours"),
    [
        (
            [step(0.05, **SHALLOW_HEADS), step(-0.1, **DEEP_HEADS)],
            REPRODUCED,
            "2 to 4 heads: +0.050 [+0.050, +0.050] nats with 2 layers, -0.100 [-0.100, -0.100] "
            "with 6 (6 pairs each)",
        ),
        (
            [step(-0.1, **SHALLOW_HEADS), step(-0.1, **DEEP_HEADS)],
            NOT,
            "2 to 4 heads: -0.100 [-0.100, -0.100] nats with 2 layers, -0.100 [-0.100, -0.100] "
            "with 6 (6 pairs each)",
        ),
        (
            [step(0.1, **SHALLOW_HEADS), step(0.1, **DEEP_HEADS)],
            NOT,
            "2 to 4 heads: +0.100 [+0.100, +0.100] nats with 2 layers, +0.100 [+0.100, +0.100] "
            "with 6 (6 pairs each)",
        ),
        (
            [step(0.1, **SHALLOW_HEADS), step(-0.1, **DEEP_HEADS), chance(**DEEP_HEADS)],
            UNCLEAR,
            "2 to 4 heads: +0.100 [+0.100, +0.100] nats with 2 layers, -0.100 [-1.039, +0.839] "
            "with 6 (6 pairs each)",
        ),
    ],
)
def test_claim_8_is_that_heads_help_in_deeper_models_only(losses, verdict, ours):
    row = judge(8, **revised(*losses))
    assert (row.verdict, row.ours) == (verdict, ours)


def test_claim_8_needs_the_difference_between_shallow_and_deep():
    # Heads bring 0.1 in deep models, and in shallow ones as much on average.
    shallow = (
        step(by, **SHALLOW_HEADS, seed=seed) for seed, by in ((1, -0.3), (2, 0.1), (3, -0.1))
    )
    assert judge(8, **revised(*shallow, step(-0.1, **DEEP_HEADS))).verdict == UNCLEAR


def test_claim_8_fails_where_heads_help_in_shallow_models_too():
    losses = step(-0.1, **SHALLOW_HEADS), step(-0.3, **DEEP_HEADS)
    assert judge(8, **revised(*losses)).verdict == NOT


def test_trend_effects_are_those_that_the_claims_are_about():
    e = replace(
        EVIDENCE,
        **first(step(-0.1, **WIDE), step(0.7, n_embd=128)),
        **revised(step(-0.3, n_head=4), step(-0.4, **DEEP_HEADS), step(0.5, learning_rate=5e-4)),
        longer=grid(LONGER, step(-1.0), epochs=6),
    )
    effects = trend_effects(e)
    assert {name: interval.value for name, interval in effects.items()} == pytest.approx(
        {
            "twice the epochs (6)": -1.0 + 0.7,
            "width 64 to 256": -0.1,
            "layers 2 to 6": -0.4 / 2,
            "heads 2 to 4": -0.3 - 0.4 / 2,
            # Half of the rate's and the heads', a quarter of both; width 128 costs the other 0.7.
            "fixed rate to twice the batch, warmup + cosine": 0.25 - 0.15 - 0.1 - 0.7,
            "learning rate 0.001 to 0.0005": 0.5,
            "heads 2 to 4, 2 layers": -0.3,
            "heads 2 to 4, 6 layers": -0.7,
        }
    )
    assert effects["width 64 to 256"] == paired(changes(best_losses(e.first), "n_embd"))
    assert [interval.of for interval in effects.values()] == [
        f"{n} pairs" for n in (3, 24, 24, 12, 12, 12, 6, 6)
    ]


# -- 14 to 16: the log ----------------------------------------------------------------------------


def test_claim_14_is_refuted_by_the_papers_own_rates():
    row = judge(14)
    assert row.verdict == NOT
    assert row.ours == (
        "the rates in the paper's own log are off from that by 38% of the peak, from a warmup of a "
        "tenth by 0.0%"
    )


def test_claim_14_would_hold_with_the_warmup_of_the_log(monkeypatch):
    monkeypatch.setattr(paper, "WARMUP_STEPS", 5_000)
    assert judge(14).verdict == REPRODUCED


LARGE_EARLY = norms((9.0, 3.0), (1.0, 0.1))


@pytest.mark.parametrize(
    ("logs", "scaled", "verdict"),
    [
        (LARGE_EARLY, 1e5, FLAWED),
        (LARGE_EARLY, 1.8e4, NOT),  # under half of 3.7e4
        (LARGE_EARLY, 4.5e6, NOT),  # over twice 2.2e6
        (norms((1.0, 3.0), (9.0, 0.1)), 1e5, NOT),  # smaller early
        (norms((9.0, 0.1), (1.0, 3.0)), 1e5, NOT),  # steadier early
        ([LARGE_EARLY[0], norms((1.0, 3.0), (9.0, 0.1))[0], LARGE_EARLY[2]], 1e5, UNCLEAR),
    ],
)
def test_claim_15_is_that_norms_are_larger_and_vary_more_early(logs, scaled, verdict):
    leak = {"scaled-norm": leak_record(grad_norm=scaled)}
    assert judge(15, norms=logs, leak=leak).verdict == verdict


def test_claim_15_compares_the_first_tenth_with_the_last_half():
    # Of 40 steps four are early, one of them skipped: their median is 8 and their deviation 1. The
    # last 20 have a median of 2 and a deviation of √(20 / 19); what lies between does not count.
    log = pd.DataFrame({"grad_norm": [None, 7.0, 9.0, 8.0, *[1e9] * 16, *[1.0, 3.0] * 10]})
    row = judge(15, norms=[log, log])
    assert row.ours == (
        "early over late: size 4.00 [4.00, 4.00], spread 0.97 [0.97, 0.97] (2 seeds); norms of "
        "the scaled gradient 1.0e+05"
    )


def test_claim_16_is_arithmetic_and_cannot_be_judged():
    row = judge(16, leak={"no-mask-deep": leak_record(device="an abacus")})
    assert row.verdict == UNCLEAR
    # 50,000 steps of 128 × 4 windows of 32 tokens.
    assert row.ours == "819 M tokens in 10 hours are 22,756 tokens/s; here on an abacus"


# -- the scorecard --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    return list(scorecard(EVIDENCE).reset_index().itertuples(index=False))


def test_the_scorecard_is_all_claims_in_their_order(rows):
    assert [row.number for row in rows] == list(JUDGES) == list(range(1, 17))
    assert {row.verdict for row in rows} <= {REPRODUCED, NOT, FLAWED, UNCLEAR}
    assert all((row.claim, row.published, row.ours, row.section, row.runs) for row in rows)


def test_what_the_paper_published_is_what_paper_py_has(rows):
    assert not any("{" in row.published for row in rows)
    assert rows[1].published == "{:.4f} to {:.4f}".format(*paper.GRID_PERPLEXITY)
    assert rows[3].published.endswith(f"validation {np.log(paper.BEST_PERPLEXITY):.4f} after 10")


def test_sections_are_headings_of_the_notebook(rows):
    path = REPOSITORY / "notebooks" / "08_reproduction_audit.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert {row.section for row in rows} <= set(re.findall(r"^#+ (.+)$", text, re.MULTILINE))


def test_the_runs_behind_a_claim_are_what_the_command_takes(rows, tmp_path):
    audit = Audit(Experiment("quick", "sample", tmp_path, progress=False))
    names = [*audit.leak_runs, *audit.honest_runs, *audit.grid_runs]
    for line in rows:
        for prefix in line.runs.split():
            assert prefix == "arithmetic" or any(name.startswith(prefix) for name in names), line


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]


def test_the_scorecard_as_a_table_has_a_line_a_claim_and_no_broken_cell(rows):
    lines = pages([row._asdict() for row in rows], "profile quick, a text, a CPU.", "")[
        0
    ].splitlines()
    table = [cells(line) for line in lines if line.startswith("|")]
    assert [len(line) for line in table] == [7] * 18
    assert table[2:] == [
        [
            str(row.number),
            row.claim,
            row.published,
            row.ours,
            f"**{row.verdict}**",
            row.section,
            row.runs,
        ]
        for row in rows
    ]
    assert "profile quick, a text, a CPU." in "\n".join(lines)


def test_the_short_scorecard_has_a_headline_claims_and_verdicts(rows):
    lines = pages([row._asdict() for row in rows], "profile quick, a text, a CPU.", "One. Two.")[
        1
    ].splitlines()
    assert lines[0] == "**One. Two.**"
    assert "profile quick, a text, a CPU." in lines[-1]
    table = [cells(line) for line in lines if line.startswith("|")]
    assert len(table) == 18
    assert table[2:] == [[str(row.number), row.claim, row.verdict] for row in rows]


# -- the end of it --------------------------------------------------------------------------------

ENDS = {
    "mask": leak_record(1.171),
    "no-mask": leak_record(1.2),
    "no-mask-window-16": leak_record(1.171),
    "no-mask-batch": leak_record(1.17, test_loss=math.log(1.25), true=math.log(2_000)),
    "no-mask-deep": leak_record(1.15),
}


def test_the_end_of_it_is_what_runs_without_a_mask_report_and_are():
    table = claims.end_of_it(replace(EVIDENCE, leak=ENDS))
    assert table.index.tolist() == ["no-mask-batch", "no-mask-deep", "no-mask"]
    row = table.loc["no-mask-batch"]
    assert row["validation perplexity"] == 1.17
    assert row["test perplexity"] == pytest.approx(1.25)
    assert row["true test perplexity per token"] == pytest.approx(2_000)
    low, high = 2_000 * math.exp(-0.196), 2_000 * math.exp(0.196)
    assert row["its interval"] == f"{low:.1f} to {high:.1f}"
    assert row["true per word and line end"] == pytest.approx(2_000**1.5)
    assert row["command"] == "llmlite audit"


def test_the_headline_is_of_the_run_that_ends_nearest_to_the_paper():
    assert claims.headline(replace(EVIDENCE, leak=ENDS)) == (
        "Without the causal mask a validation perplexity of 1.1700 comes out (the paper: 1.1710; "
        "run `no-mask-batch`). Asked for a token that it cannot see, the same model has a "
        "perplexity of 2,000 per token and 89,443 per word."
    )
