"""Hypotheses against the paper's facts, on records made by hand."""

import math

import pandas as pd
import pytest

from llmlite import paper
from llmlite.audit import hypotheses as facts
from llmlite.audit.hypotheses import FAILS, FITS, HYPOTHESES, SILENT, scheduler_warns

NONE, NO_MASK, PADDING, UNSHIFTED, SPLIT, *LOGGED, BATCHES, ALL = (h.name for h in HYPOTHESES)
DIVIDED, NORM, STRIDE, WARMUP = LOGGED


def record(
    losses=(0.21, 0.16),
    train_loss=0.16 / 4,
    grad_norm=0.05,
    repetition=0.8,
    positions=(0.01, 0.02, 6.0),
    skipped=0,
    **measures,
) -> dict:
    """A run's record, as `Audit.record` gives it, in the parts that facts are about."""
    epochs = [
        {"valid_loss": loss, "perplexity": math.exp(loss), "train_loss": 9.0, "grad_norm": 9.0}
        for loss in losses
    ]
    epochs[-1] |= {"train_loss": train_loss, "grad_norm": grad_norm}
    return {
        "identity": {"train": {"accumulation": 4}},
        "steps_per_epoch": 40,
        "epochs": epochs,
        "skipped": skipped,
        "measures": {
            "loss_by_position": list(positions),
            "greedy": {"text": "The cat sat on\non", "repetition": repetition},
            "leaks": True,
            "true": {"nats": math.log(300)},
            "attention": {"next": [0.1, 0.9, 0.0, 0.0]},
            **measures,
        },
    }


STEPS = pd.DataFrame({"stride 1": [5000.0], "lines": [44.0]}, index=[10_000])
RUNS = {hypothesis.run for hypothesis in HYPOTHESES}


def judge(fact: str, hypothesis: str = ALL, scaled=None, steps=STEPS, **changes) -> tuple[str, str]:
    """(verdict, value) of one cell, every run's record being as `changes` says."""
    records = {run: record(**changes) for run in RUNS}
    records["scaled-norm"] = scaled or record(grad_norm=1e5, skipped=3)
    verdicts, values = facts.fits(records, steps)
    return verdicts.loc[hypothesis, fact], values.loc[hypothesis, fact]


# -- arithmetic on the paper's own numbers --------------------------------------------------------


def test_a_warmup_of_a_tenth_gives_the_papers_rates_to_its_six_digits():
    ours = facts.rates_at_epoch_ends(0.1)
    assert list(ours) == list(range(1, 11))
    assert {epoch: f"{ours[epoch]:.6f}" for epoch in paper.EPOCH_RATES} == {
        epoch: f"{rate:.6f}" for epoch, rate in paper.EPOCH_RATES.items()
    }


@pytest.mark.parametrize("k", range(10))
def test_the_rates_are_half_a_cosine_over_the_other_nine_epochs(k):
    expected = 1e-3 * 0.5 * (1 + math.cos(math.pi * k / 9))
    assert facts.rates_at_epoch_ends(0.1)[k + 1] == pytest.approx(expected, abs=1e-12)


def test_the_warmup_of_the_papers_figure_does_not_give_its_rates():
    ours = facts.rates_at_epoch_ends(0.16)
    assert ours[1] == pytest.approx(1e-3 * 5_000 / 8_000)
    differing = [e for e, rate in paper.EPOCH_RATES.items() if f"{ours[e]:.6f}" != f"{rate:.6f}"]
    assert differing == [1, 2, 3, 4, 5, 8, 9]  # all but the last, which is 0 either way


def test_the_error_of_a_schedule_is_relative_to_the_peak():
    assert facts.rate_error(0.16) == pytest.approx(0.375)  # after epoch 1: 5 of 8 thousand steps
    assert facts.rate_error(0.1) < 0.0005  # half of the last digit that is printed


def test_steps_by_layout_worked_out_by_hand():
    # 80% of 2,551,843 words are 2,041,474.4; an optimiser step takes 128 × 4 = 512 windows.
    steps = facts.steps_by_layout(tokens_per_word=1.25, lines_per_word=0.01)
    assert steps == pytest.approx(
        {
            "stride 1": 2_041_474.4 * 1.25 / 512,  # 4984.1
            "side by side": 2_041_474.4 * 1.25 / 32 / 512,
            "lines": 2_041_474.4 * 0.01 / 512,
        }
    )
    assert round(steps["stride 1"]) == 4984
    assert facts.EPOCH_STEPS == 5_000


# -- what the runs did ----------------------------------------------------------------------------


def test_windows_times_loss_worked_out_by_hand():
    table = facts.windows_times_loss(
        {"a": record(positions=[0.0, 0.2, 0.1, 6.1]), "b": record(positions=[1.0, 5.0])}
    )
    assert table.index.tolist() == ["a", "b"]
    assert table.loc["a"].to_dict() == pytest.approx(
        {
            "window": 4,
            "mean loss": 1.6,
            "predicted: last position / window": 1.525,
            "loss at the last position": 6.1,
            "mean loss × window": 6.4,
        }
    )
    assert table.loc["b"].tolist() == pytest.approx([2, 3.0, 2.5, 5.0, 6.0])


def test_measured_is_a_row_a_run():
    row = facts.measured({"a": record(losses=(0.5, 0.3), positions=[0.5, 0.1, 6.0])}).loc["a"]
    assert row.to_dict() == {
        "window": 3,
        "steps an epoch": 40,
        "perplexity, epoch 1": pytest.approx(math.exp(0.5)),
        "perplexity, end": pytest.approx(math.exp(0.3)),
        "loss, end": 0.3,
        "loss, first position": 0.5,
        "loss, last position": 6.0,
        "mean of the others": pytest.approx(0.3),
        "true perplexity": pytest.approx(300),
        "leak found": True,
        "layer 0 on the next token": 0.9,
        "text": "The cat sat on↵on",
    }


def test_predictions_are_those_of_the_hypotheses():
    table = facts.predictions()
    assert table.index.tolist() == [h.name for h in HYPOTHESES]
    assert table.index.is_unique
    assert table.loc["no causal mask", "switch"] == "ModelConfig.causal = False"


def test_a_run_that_makes_a_mistake_of_its_own_is_named_for_it():
    names = facts.mistakes_of_the_windows()
    assert names.keys() == RUNS
    assert names["padding"] == PADDING
    assert names["unshifted"] == UNSHIFTED
    assert names["mask"] == "all is right"
    assert names["no-mask"] == NO_MASK


# -- which hypothesis fits which fact -------------------------------------------------------------


def test_every_hypothesis_is_held_against_every_fact():
    records = {run: record() for run in (*RUNS, "scaled-norm")}
    for table in facts.fits(records, STEPS):
        assert table.index.tolist() == ["the paper", *(h.name for h in HYPOTHESES)]
        assert table.columns.tolist() == list(facts.FACTS)


@pytest.mark.parametrize("fact", facts.FACTS)
def test_all_mistakes_together_fit_every_fact(fact):
    assert judge(fact)[0] == FITS


@pytest.mark.parametrize(
    ("fact", "changes", "value"),
    [
        ("C1 loss at the end", {"losses": (0.7, 0.47)}, "0.470"),  # over 3 × 0.153
        ("C1 loss at the end", {"losses": (0.07, 0.05)}, "0.050"),  # under a third of it
        ("C1 first over last epoch", {"losses": (0.17, 0.16)}, "1.06"),
        ("C1 first over last epoch", {"losses": (0.32, 0.16)}, "2.00"),
        ("C2 steps an epoch", {"steps": STEPS * 1.06}, "5,300"),
        ("C2 steps an epoch", {"steps": STEPS * 0.94}, "4,700"),
        ("C3 training over validation loss", {"train_loss": 0.16}, "1.00"),
        ("C3 training over validation loss", {"train_loss": 0.016}, "0.10"),
        ("C4 gradient norm", {"scaled": record(grad_norm=1.8e4)}, "1.8e+04"),
        ("C4 gradient norm", {"scaled": record(grad_norm=4.5e6)}, "4.5e+06"),
        ("C7 text repeats itself", {"repetition": 0.5}, "0.50"),
    ],
)
def test_a_value_out_of_its_range_does_not_fit(fact, changes, value):
    assert judge(fact, **changes) == (FAILS, value)


def test_the_rates_do_not_fit_another_log(monkeypatch):
    assert judge("C6 rates in the log") == (FITS, "off by 0.0%")
    monkeypatch.setattr(paper, "EPOCH_RATES", paper.EPOCH_RATES | {4: 0.76e-3})
    assert judge("C6 rates in the log") == (FAILS, "off by 1.0%")


def test_values_are_shown_as_they_were_judged():
    assert judge("C1 loss at the end") == (FITS, "0.160")
    assert judge("C1 first over last epoch") == (FITS, "1.31")
    assert judge("C2 steps an epoch") == (FITS, "5,000")
    assert judge("C3 training over validation loss") == (FITS, "0.25")
    assert judge("C4 gradient norm") == (FITS, "1e+05")
    assert judge("C5 scheduler's warning") == (FITS, "every batch")
    assert judge("C5 scheduler's warning", NORM) == (FITS, "3 skipped")
    assert judge("C7 text repeats itself") == (FITS, "0.80")


def speakers(fact: str) -> set[str]:
    return {h.name for h in HYPOTHESES if judge(fact, h.name) != (SILENT, "")}


def test_hypotheses_are_silent_about_what_they_say_nothing_of():
    assert speakers("C2 steps an epoch") == {PADDING, SPLIT, STRIDE, ALL}
    assert speakers("C5 scheduler's warning") == {NORM, BATCHES, ALL}
    assert speakers("C6 rates in the log") == {WARMUP, ALL}
    for fact in facts.FACTS.keys() - {
        "C2 steps an epoch",
        "C5 scheduler's warning",
        "C6 rates in the log",
    }:
        assert speakers(fact) == {h.name for h in HYPOTHESES}


def test_a_window_a_line_has_the_steps_of_lines():
    assert judge("C2 steps an epoch", PADDING) == (FAILS, "44")
    lines = pd.DataFrame({"stride 1": [4900.0], "lines": [5100.0]})
    assert judge("C2 steps an epoch", PADDING, steps=lines) == (FITS, "5,100")


def test_only_a_loss_logged_after_the_division_is_divided():
    # Logged after it, 0.04 is a quarter of 0.16; before it, it was 0.16.
    fact = "C3 training over validation loss"
    for name in (DIVIDED, ALL):
        assert judge(fact, name) == (FITS, "0.25")
    for name in (NONE, NO_MASK, UNSHIFTED, STRIDE):
        assert judge(fact, name) == (FAILS, "1.00")
    assert judge(fact, NO_MASK, train_loss=0.01) == (FITS, "0.25")


def test_only_a_norm_logged_before_unscaling_is_that_of_the_scaled_run():
    for name in (NORM, ALL):
        assert judge("C4 gradient norm", name) == (FITS, "1e+05")
    assert judge("C4 gradient norm", NO_MASK) == (FAILS, "0.05")
    assert judge("C4 gradient norm", NO_MASK, grad_norm=1e5)[0] == FITS


def test_a_hypothesis_is_judged_by_its_own_run():
    records = {run: record(losses=(6.2, 6.0), repetition=0.1) for run in (*RUNS, "scaled-norm")}
    records["padding"] = record()
    verdicts, _ = facts.fits(records, STEPS)
    for fact in ("C1 loss at the end", "C1 first over last epoch", "C7 text repeats itself"):
        assert verdicts.index[verdicts[fact] == FITS].tolist() == [PADDING]


def test_the_vocabulary_is_the_one_whose_steps_come_nearest_as_a_ratio():
    # 9,000 is less than twice 5,000, and 2,400 is less than half of it.
    steps = pd.DataFrame({"stride 1": [2400.0, 9000.0], "lines": [10.0, 20.0]}, index=[99, 1])
    assert judge("C2 steps an epoch", STRIDE, steps=steps) == (FAILS, "9,000")
    assert judge("C2 steps an epoch", PADDING, steps=steps) == (FAILS, "20")


# -- the scheduler's warning ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "warned"),
    [({}, False), ({"overflow": True}, True), ({"every_batch": True}, True)],
)
def test_the_scheduler_warns_where_it_goes_before_the_optimiser(how, warned):
    assert scheduler_warns(**how) == warned


def test_a_norm_logged_before_unscaling_explains_the_warning_only_if_steps_overflow():
    unskipped = record(grad_norm=1e5, skipped=0)
    assert judge("C5 scheduler's warning", NORM, unskipped) == (FAILS, "0 skipped")
    assert judge("C5 scheduler's warning", BATCHES, unskipped) == (FITS, "every batch")


def test_the_first_row_is_what_the_paper_has():
    records = {run: record() for run in (*RUNS, "scaled-norm")}
    verdicts, values = facts.fits(records, STEPS)
    assert values.loc["the paper"].to_dict() == facts.FACTS
    assert set(verdicts.loc["the paper"]) == {SILENT}


def test_the_logs_other_numbers_stand_beside_the_papers():
    plain = record(losses=(0.2, 0.16), train_loss=0.04, grad_norm=0.0625)
    scaled = record(grad_norm=65_536.0, skipped=3)
    scaled["epochs"][-1]["step"] = 40
    table = facts.other_numbers(plain, scaled)
    assert table["here"].tolist() == [
        "0.25",
        "1.00",
        "6.6e+04",
        "0.062",
        "3 of 40",
        "warned",
        "warned",
    ]
    assert table["paper"].iloc[:3].tolist() == ["0.23", "0.91", "3.7e+04 to 2.2e+06"]
