"""Claims 9 to 13 on measures made by hand: a verdict follows from every seed's interval."""

from types import SimpleNamespace

import pytest

from llmlite.audit.claims import NOT, REPRODUCED, UNCLEAR
from llmlite.audit.heads import by_head
from llmlite.audit.scorecard import row
from llmlite.intervals import study_table


def measure(low: float, high: float) -> dict:
    return {"value": (low + high) / 2, "low": low, "high": high, "of": "50 continuations"}


def seeds(*measures: dict[str, tuple[float, float]]) -> list[dict]:
    """What one study gave for each seed: name → (low, high)."""
    return [{"measures": {name: measure(*ends) for name, ends in m.items()}} for m in measures]


def judge(claim: int, found: list[dict]):
    """The row of a claim by these, of whichever study."""
    studies = ("coherence", "prompt_sensitivity", "sampling", "ablation", "attention")
    return row(claim, SimpleNamespace(studies=dict.fromkeys(studies, found)))


# Where an interval lies: wholly on one side of a threshold, on the other, or on both.
def around(threshold: float) -> dict[str, tuple[float, float]]:
    return {
        "above": (threshold + 0.1, threshold + 0.3),
        "below": (threshold - 0.3, threshold - 0.1),
        "both": (threshold - 0.1, threshold + 0.1),
    }


ALL_SEEDS = pytest.mark.parametrize(
    ("places", "verdict"),
    [
        (("above", "above", "above"), "above"),
        (("below", "below", "below"), "below"),
        (("both", "both", "both"), UNCLEAR),
        (("above", "above", "both"), UNCLEAR),
        (("both", "below", "below"), UNCLEAR),
        (("above", "below", "above"), UNCLEAR),
    ],
)


def verdict_of(verdict: str, above: str, below: str) -> str:
    return {"above": above, "below": below}.get(verdict, verdict)


# -- 9 and 10 -------------------------------------------------------------------------------------


@ALL_SEEDS
def test_claim_9_is_nearer_to_real_text_than_to_shuffled_words(places, verdict):
    found = seeds(
        *(
            {"position: filtered": around(0.5)[place], "position: generated": (0.8, 0.9)}
            for place in places
        )
    )
    assert judge(9, found).verdict == verdict_of(verdict, REPRODUCED, NOT)


def test_claim_9_shows_each_seed_and_the_firsts_interval():
    found = seeds(
        {"position: filtered": (0.2, 0.4), "position: generated": (0.7, 0.8)},
        {"position: filtered": (0.3, 0.5), "position: generated": (0.6, 0.7)},
    )
    assert judge(9, found).ours == (
        "0.30 [0.20, 0.40] / 0.40 on a scale from real words shuffled, 0, to real text, 1 "
        "(unfiltered 0.75 / 0.65)"
    )


DIFFERENT = "share below 0.05: different prompts"
SAME = "share below 0.05: same prompt"
WORDING = "BLEU: different prompts minus same prompt"


@ALL_SEEDS
def test_claim_10_is_that_more_than_half_of_the_scores_are_low(places, verdict):
    found = seeds(
        *(
            {DIFFERENT: around(0.5)[place], SAME: (0.1, 0.2), WORDING: (-0.1, 0.1)}
            for place in places
        )
    )
    assert judge(10, found).verdict == verdict_of(verdict, REPRODUCED, NOT)


@pytest.mark.parametrize(
    ("wordings", "words"),
    [
        ([(-0.2, -0.1)] * 2, "the wording lowers it"),
        ([(-0.2, -0.1), (-0.2, 0.1)], "no effect of the wording is shown"),
        ([(0.1, 0.2)] * 2, "no effect of the wording is shown"),
    ],
)
def test_claim_10_says_whether_the_wording_is_why(wordings, words):
    found = seeds(*({DIFFERENT: (0.8, 0.9), SAME: (0.6, 0.7), WORDING: w} for w in wordings))
    assert judge(10, found).ours == (
        f"0.85 [0.80, 0.90] / 0.85; between samples of one prompt 0.65 / 0.65: {words}"
    )


# -- 11 and 13: several parts ---------------------------------------------------------------------

# Each measure with the sign that the claim gives it, as (low, high).
UP, DOWN, OPEN = (0.1, 0.3), (-0.3, -0.1), (-0.1, 0.1)
SAMPLING = {
    "entropy: temperature 0.7 minus temperature 1.0": DOWN,
    "paragraph: temperature 0.7 minus temperature 1.0": DOWN,
    "distinct-2: top-k 1000 minus top-k 10": UP,
    "attested pairs: top-k 1000 minus top-k 10": DOWN,
}
ATTENTION = {
    "previous: layer 0 minus layer 10": UP,
    "distance: layer 0 minus layer 10": DOWN,
    "to sat: layer 0 minus layer 10": DOWN,
    "to sat minus to the noun: layer 10": UP,
}
# The deepest layer is told by number: 10 comes before 9 in the alphabet.
LAYERS = {f"to sat: layer {n}": UP for n in (0, 9, 10)} | {
    "previous: layer 0 minus layer 9": DOWN,
    "to sat minus to the noun: layer 9": DOWN,
}
CASES = [(11, SAMPLING, {}, part) for part in SAMPLING]
CASES += [(13, ATTENTION, LAYERS, part) for part in ATTENTION]


@pytest.mark.parametrize(("claim", "parts", "more"), [CASES[0][:3], CASES[-1][:3]])
def test_a_claim_of_several_parts_holds_if_all_of_them_do(claim, parts, more):
    assert judge(claim, seeds(*[parts | more] * 3)).verdict == REPRODUCED


@pytest.mark.parametrize(("claim", "parts", "more", "part"), CASES)
def test_one_part_with_the_other_sign_refutes_it(claim, parts, more, part):
    other = {UP: DOWN, DOWN: UP}[parts[part]]
    opened = dict.fromkeys(parts, OPEN)
    assert judge(claim, seeds(*[parts | more | {part: other}] * 3)).verdict == NOT
    assert judge(claim, seeds(*[opened | more | {part: other}] * 3)).verdict == NOT


@pytest.mark.parametrize(("claim", "parts", "more", "part"), CASES)
def test_one_part_that_is_open_or_differs_between_seeds_leaves_it_open(claim, parts, more, part):
    whole, other = parts | more, {UP: DOWN, DOWN: UP}[parts[part]]
    assert judge(claim, seeds(*[whole | {part: OPEN}] * 3)).verdict == UNCLEAR
    assert judge(claim, seeds(whole, whole, whole | {part: OPEN})).verdict == UNCLEAR
    assert judge(claim, seeds(whole | {part: other}, whole, whole)).verdict == UNCLEAR


def test_claim_11_shows_its_four_parts():
    assert judge(11, seeds(SAMPLING, SAMPLING)).ours == (
        "0.7 against 1.0, and top-k 1,000 against 10: entropy -0.20 / -0.20, paragraph -0.20 / "
        "-0.20, distinct-2 0.20 / 0.20, attested pairs -0.20 / -0.20"
    )


def test_claim_13_compares_layer_0_with_the_deepest():
    assert judge(13, seeds(ATTENTION | LAYERS)).ours == (
        "layer 0 minus layer 10: previous 0.20; distance -0.20; to sat -0.20; to sat minus to the "
        "noun 0.20"
    )


# -- 12 -------------------------------------------------------------------------------------------

WITHOUT = "repetition: without heads 1 and 2 minus all heads"
OTHERS = "repetition: without heads 1 and 2 minus mean of the other pairs"


@ALL_SEEDS
def test_claim_12_is_more_repetition_without_the_two_heads(places, verdict):
    found = seeds(*({WITHOUT: around(0)[place], OTHERS: OPEN} for place in places))
    assert judge(12, found).verdict == verdict_of(verdict, REPRODUCED, NOT)


def test_claim_12_fails_where_nothing_changes():
    assert judge(12, seeds({WITHOUT: (0.0, 0.0), OTHERS: OPEN})).verdict == NOT


def test_claim_12_shows_other_pairs_of_heads():
    found = seeds({WITHOUT: (0.1, 0.3), OTHERS: (0.0, 0.1)}, {WITHOUT: (0.2, 0.4), OTHERS: DOWN})
    assert judge(12, found).ours == (
        "repetition 0.20 [0.10, 0.30] / 0.30; against other pairs of heads 0.05 / -0.20"
    )


# -- tables ---------------------------------------------------------------------------------------


def test_a_studys_table_is_a_row_a_measure_and_a_column_a_seed():
    found = seeds(
        {"a: x": (0.1, 0.3), "a: x minus y": UP}, {"a: x": (0.2, 0.4), "a: x minus y": UP}
    )
    table = study_table(found)
    assert table.columns.tolist() == ["seed 1", "seed 2", "over"]
    assert table.loc["a: x"].tolist() == [
        "0.200 [0.100, 0.300]",
        "0.300 [0.200, 0.400]",
        "50 continuations",
    ]
    assert table.index.tolist() == ["a: x", "a: x minus y"]
    assert study_table(found, only="minus").index.tolist() == ["a: x minus y"]


def test_by_head_has_a_row_a_head_and_nothing_else():
    (study,) = seeds(
        {
            "distance: layer 0, head 0": (1.0, 3.0),
            "distance: layer 0, head 10": (2.0, 4.0),
            "distance: layer 11, head 0": (5.0, 7.0),
            "previous: layer 0, head 0": (0.1, 0.3),
            "previous: layer 0, head 10": (0.2, 0.4),
            "previous: layer 11, head 0": (0.3, 0.5),
            "distance: layer 0": (0.0, 9.0),
            "distance: evenly spread": (0.0, 9.0),
            "distance: layer 0 minus layer 11": (0.0, 9.0),
            "to sat: layer 0": (0.0, 9.0),
            "previous: layer 0, head 0 minus layer 11, head 0": (0.0, 9.0),
        }
    )
    table = by_head(study)
    assert table.index.tolist() == [(0, 0), (0, 10), (11, 0)]
    assert table.index.names == ["layer", "head"]
    assert table["distance"].loc[(0, 10)].to_dict() == {"value": 3.0, "low": 2.0, "high": 4.0}
    assert table["previous"].loc[(11, 0)].to_dict() == {"value": 0.4, "low": 0.3, "high": 0.5}
    assert sorted({column for column, _ in table.columns}) == ["distance", "previous"]
