"""Hypotheses against the paper's facts, on records made by hand."""

import math

import pandas as pd
import pytest

from llmlite import paper
from llmlite.audit import hypotheses as facts
from llmlite.audit.hypotheses import FAILS, FITS, HYPOTHESES, SILENT

NAMES = [hypothesis.name for hypothesis in HYPOTHESES]
NONE, NO_MASK, PADDING, UNSHIFTED, SPLIT, DIVIDED, NORM, STRIDE, WARMUP, BATCHES, ALL = NAMES
RUNS = {hypothesis.run for hypothesis in HYPOTHESES}


def record(losses=(0.21, 0.16), train_loss=0.04, grad_norm=0.05, repetition=0.8, skipped=0) -> dict:
    """A run's record, as `Audit.record` gives it, in the parts that facts are about."""
    other = {"train_loss": 9.0, "grad_norm": 9.0}
    epochs = [other | {"valid_loss": loss, "perplexity": math.exp(loss)} for loss in losses]
    epochs[-1] |= {"train_loss": train_loss, "grad_norm": grad_norm, "step": 40}
    return {
        "identity": {"train": {"accumulation": 4}},
        "steps_per_epoch": 40,
        "epochs": epochs,
        "skipped": skipped,
        "measures": {
            "loss_by_position": [0.0, 0.2, 0.1, 6.1],
            "greedy": {"text": "The cat sat on\non", "repetition": repetition},
            "leaks": True,
            "true": {"nats": math.log(300)},
            "attention": {"next": [0.1, 0.9, 0.0, 0.0]},
        },
    }


STEPS = pd.DataFrame({"stride 1": [5000.0], "lines": [44.0]}, index=[10_000])
SCALED = record(grad_norm=1e5, skipped=3)


def fits(scaled=SCALED, steps=STEPS, **changes) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(verdicts, values), every run's record being as `changes` says."""
    return facts.fits(dict.fromkeys(RUNS, record(**changes)) | {"scaled-norm": scaled}, steps)


def test_a_warmup_of_a_tenth_gives_the_papers_rates_and_that_of_its_figure_does_not():
    tenth, figure = (facts.rates_at_epoch_ends(fraction) for fraction in (0.1, 0.16))
    # Half a cosine over the nine epochs after the first.
    cosine = [1e-3 * 0.5 * (1 + math.cos(math.pi * k / 9)) for k in range(10)]
    assert tenth == pytest.approx(dict(enumerate(cosine, 1)), abs=1e-12)
    assert all(f"{tenth[n]:.6f}" == f"{rate:.6f}" for n, rate in paper.EPOCH_RATES.items())
    differing = [n for n, rate in paper.EPOCH_RATES.items() if abs(figure[n] - rate) > 1e-6]
    assert differing == [1, 2, 3, 4, 5, 8, 9]  # all but the last, which is 0 either way
    assert facts.rate_error(0.1) < 0.0005  # half of the last digit that is printed
    assert facts.rate_error(0.16) == pytest.approx(0.375)  # of the peak: 5 of 8 thousand steps


def test_steps_by_layout_worked_out_by_hand():
    # 80% of 2,551,843 words are 2,041,474.4; an optimiser step takes 128 × 4 = 512 windows.
    stride_1, lines = 2_041_474.4 * 1.25 / 512, 2_041_474.4 * 0.01 / 512
    expected = {"stride 1": stride_1, "side by side": stride_1 / 32, "lines": lines}
    assert facts.steps_by_layout(1.25, lines_per_word=0.01) == pytest.approx(expected)


def test_a_run_in_the_tables_worked_out_by_hand():
    runs = {"a": record()}
    losses = {"mean loss": 1.6, "loss at the last position": 6.1, "mean loss × window": 6.4}
    predicted = {"window": 4, "predicted: last position / window": 6.1 / 4}
    found = facts.windows_times_loss(runs).loc["a"].to_dict()
    assert found == pytest.approx(losses | predicted)
    found = facts.outcomes(runs).loc["a"].to_dict()
    assert found.pop("text") == "The cat sat on↵on"
    assert found == pytest.approx({
        "window": 4, "steps an epoch": 40, "perplexity, epoch 1": math.exp(0.21),
        "perplexity, end": math.exp(0.16), "loss, end": 0.16, "loss, first position": 0.0,
        "loss, last position": 6.1, "mean of the others": 0.1, "true perplexity": 300,
        "leak found": True, "layer 0 on the next token": 0.9,
    })  # fmt: skip


def test_the_logs_other_numbers_stand_beside_the_papers():
    table = facts.other_numbers(record(grad_norm=0.0625), record(grad_norm=65_536.0, skipped=3))
    said = ["0.23", "0.91", "3.7e+04 to 2.2e+06", "0.04 to 0.09", "not stated", "warned", "warned"]
    here = ["0.25", "1.00", "6.6e+04", "0.062", "3 of 40", "warned", "warned"]
    assert table.to_dict("list") == {"paper": said, "here": here}


def test_each_hypothesis_has_its_switch_and_each_run_of_the_windows_its_name():
    assert facts.predictions().loc[NO_MASK, "switch"] == "ModelConfig.causal = False"
    names = {"unshifted": UNSHIFTED, "padding": PADDING, "split-after-windowing": SPLIT}
    names |= {"mask": "all is right", "no-mask": NO_MASK}
    assert facts.mistakes_of_the_windows() == names


END, FALL, STEPS_OF, RATIO, SIZE, WARNING, RATES, TEXT = facts.FACTS
# What is shown of the usual records, and of which they do not fit; what is not here says nothing.
USUAL = {
    END: dict.fromkeys(NAMES, "0.160"),
    FALL: dict.fromkeys(NAMES, "1.31"),
    STEPS_OF: {PADDING: "44", SPLIT: "5,000", STRIDE: "5,000", ALL: "5,000"},
    # Logged after the division, 0.04 is a quarter of 0.16; before it, it was 0.16.
    RATIO: dict.fromkeys(NAMES, "1.00") | {DIVIDED: "0.25", ALL: "0.25"},
    SIZE: dict.fromkeys(NAMES, "0.05") | {NORM: "1e+05", ALL: "1e+05"},
    WARNING: {NORM: "3 skipped", BATCHES: "every batch", ALL: "every batch"},
    RATES: {WARMUP: "off by 0.0%", ALL: "off by 0.0%"},
    TEXT: dict.fromkeys(NAMES, "0.80"),
}
FAILING = ("44", "1.00", "0.05")


def test_each_hypothesis_is_held_against_each_fact_that_it_speaks_of(monkeypatch):
    verdicts, values = fits()
    monkeypatch.setattr(paper, "EPOCH_RATES", paper.EPOCH_RATES | {4: 0.76e-3})  # another log
    assert [table.loc[ALL, RATES] for table in fits()] == [FAILS, "off by 1.0%"]
    assert verdicts.index.tolist() == values.index.tolist() == ["the paper", *NAMES]
    assert values.iloc[0].to_dict() == facts.FACTS
    assert set(verdicts.iloc[0]) == {SILENT}
    for fact, shown in USUAL.items():
        assert values[fact][1:].to_dict() == dict.fromkeys(NAMES, "") | shown
        judged = {name: FAILS if value in FAILING else FITS for name, value in shown.items()}
        assert verdicts[fact][1:].to_dict() == dict.fromkeys(NAMES, SILENT) | judged


LINES = pd.DataFrame({"stride 1": [4900.0], "lines": [5100.0]})
# The vocabulary is the one whose steps come nearest as a ratio: 9,000 is less than twice 5,000, and
# 2,400 is less than half of it.
TWO = pd.DataFrame({"stride 1": [2400.0, 9000.0], "lines": [10.0, 20.0]}, index=[99, 1])


@pytest.mark.parametrize(("fact", "hypothesis", "inside", "outside"), [
    (END, ALL, {"losses": (0.7, 0.45)}, {"losses": (0.7, 0.47)}),  # 3 × 0.153
    (END, ALL, {"losses": (0.07, 0.052)}, {"losses": (0.07, 0.050)}),  # a third of it
    (FALL, ALL, {"losses": (0.18, 0.16)}, {"losses": (0.17, 0.16)}),
    (FALL, ALL, {"losses": (0.27, 0.16)}, {"losses": (0.28, 0.16)}),
    (STEPS_OF, ALL, {"steps": STEPS * 1.04}, {"steps": STEPS * 1.06}),
    (STEPS_OF, ALL, {"steps": STEPS * 0.96}, {"steps": STEPS * 0.94}),
    (STEPS_OF, PADDING, {"steps": LINES}, {"steps": TWO}),
    (RATIO, ALL, {"train_loss": 0.045}, {"train_loss": 0.047}),  # 1.25 × 0.228 is 0.285
    (RATIO, ALL, {"train_loss": 0.030}, {"train_loss": 0.028}),  # 0.8 × 0.228 is 0.183
    (RATIO, NO_MASK, {"train_loss": 0.01}, {"train_loss": 0.04}),  # four times as much
    (SIZE, ALL, {"scaled": record(grad_norm=1.9e4)}, {"scaled": record(grad_norm=1.8e4)}),
    (SIZE, ALL, {"scaled": record(grad_norm=4.3e6)}, {"scaled": record(grad_norm=4.5e6)}),
    (SIZE, NO_MASK, {"grad_norm": 1e5}, {"grad_norm": 0.05}),
    (WARNING, NORM, {}, {"scaled": record(skipped=0)}),
    (TEXT, ALL, {"repetition": 0.51}, {"repetition": 0.50}),
])  # fmt: skip
def test_a_value_fits_within_its_range(fact, hypothesis, inside, outside):
    for changes, verdict in ((inside, FITS), (outside, FAILS)):
        assert fits(**changes)[0].loc[hypothesis, fact] == verdict


def test_a_hypothesis_is_judged_by_its_own_run():
    records = dict.fromkeys([*RUNS, "scaled-norm"], record(losses=(6.2, 6.0), repetition=0.1))
    verdicts, _ = facts.fits(records | {"padding": record()}, STEPS)
    for fact in (END, FALL, TEXT):
        assert verdicts.index[verdicts[fact] == FITS].tolist() == [PADDING]
    _, values = fits(steps=TWO)
    assert (values.loc[STRIDE, STEPS_OF], values.loc[PADDING, STEPS_OF]) == ("9,000", "20")
