"""Intervals against scipy's, by hand, and by how often they hold the truth."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from llmlite.audit.measures import over_articles, together
from llmlite.files import LLMLiteError
from llmlite.intervals import Interval, over_samples, over_seeds, paired
from llmlite.metrics import Score


def make_scores(articles: int, seed: int = 0) -> list[dict]:
    """Of articles of 50 to 400 tokens whose loss goes with their length: nats per token about 4."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(50, 400, articles)
    nats = tokens * (3.5 + tokens / 400 + 0.3 * generator.standard_normal(articles))
    words = tokens * 7 // 10 + generator.integers(0, 20, articles)
    return [
        asdict(Score(nats=x, tokens=int(t), words=int(w), bytes=int(5 * w + t)))
        for x, t, w in zip(nats.tolist(), tokens, words, strict=True)
    ]


# -- over articles --------------------------------------------------------------------------------


@pytest.mark.parametrize("statistic", ["loss", "perplexity", "word_perplexity", "bits_per_byte"])
def test_the_value_is_that_of_all_articles_together(statistic):
    scores = make_scores(20)
    interval = over_articles(scores, statistic)
    assert interval.value == pytest.approx(getattr(together(scores), statistic))
    assert interval.low < interval.value < interval.high
    assert interval.of == "20 articles"


@pytest.mark.parametrize("statistic", ["loss", "word_perplexity", "bits_per_byte"])
def test_articles_give_the_interval_that_scipys_bootstrap_gives(statistic):
    scores = make_scores(40)

    def of_sums(*drawn: np.ndarray) -> float:
        return getattr(Score(*(float(column.sum()) for column in drawn)), statistic)

    columns = [list(score.values())[:4] for score in scores]
    theirs = stats.bootstrap(
        np.array(columns).T,
        of_sums,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=10_000,
        rng=np.random.default_rng(5),
    ).confidence_interval
    ours = over_articles(scores, statistic)
    close = 0.04 * (theirs.high - theirs.low)  # four times what two draws of 10,000 differ by
    assert ours.low == pytest.approx(theirs.low, abs=close)
    assert ours.high == pytest.approx(theirs.high, abs=close)


def test_articles_that_are_alike_leave_nothing_open():
    scores = [asdict(Score(nats=8 * math.log(2), tokens=4, words=2, bytes=8))] * 5
    interval = over_articles(scores, "word_perplexity")
    assert (interval.value, interval.low, interval.high) == pytest.approx((16, 16, 16))


def test_two_articles_worked_out_by_hand():
    # Drawn twice each: (1, 1), (1, 2), (2, 1), (2, 2), a quarter of the resamples each.
    scores = [asdict(Score(nats, 10, 1, 1)) for nats in (10, 30)]
    interval = over_articles(scores, "loss")
    assert (interval.low, interval.value, interval.high) == (1.0, 2.0, 3.0)


# -- over seeds and pairs -------------------------------------------------------------------------


def test_seeds_worked_out_by_hand():
    # Mean 12, standard deviation 2; 97.5% of Student's t with 2 degrees of freedom is below 4.3027.
    interval = over_seeds([10.0, 12.0, 14.0])
    half = 4.302653 * 2 / math.sqrt(3)
    assert interval.value == 12
    assert (interval.low, interval.high) == pytest.approx((12 - half, 12 + half), rel=1e-6)
    assert interval.of == "3 seeds"


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_seeds_and_pairs_equal_scipys_t_tests(n):
    a, b = np.random.default_rng(n).normal([[3.0], [1.0]], 1.0, size=(2, n))
    one = stats.ttest_1samp(a, 0).confidence_interval(0.95)
    both = stats.ttest_rel(a, b).confidence_interval(0.95)
    seeds, pairs = over_seeds(a), paired(a - b)
    assert (seeds.low, seeds.high) == pytest.approx((one.low, one.high), rel=1e-9)
    assert (pairs.low, pairs.high) == pytest.approx((both.low, both.high), rel=1e-9)
    assert pairs.value == pytest.approx((a - b).mean())
    assert pairs.of == f"{n} pairs"


# -- coverage -------------------------------------------------------------------------------------


def share_that_holds(truth: float, intervals: list[Interval]) -> float:
    return float(np.mean([i.low <= truth <= i.high for i in intervals]))


def test_95_of_100_intervals_over_seeds_hold_the_truth():
    draws = np.random.default_rng(0).normal(7.0, 2.0, size=(4000, 4))
    share = share_that_holds(7.0, [over_seeds(values) for values in draws])
    assert share == pytest.approx(0.95, abs=0.01)  # three standard errors of 4,000 trials


def test_95_of_100_intervals_over_articles_hold_the_truth():
    # Nats are tokens times a loss of mean 4, so the loss of endlessly many articles is 4.
    generator = np.random.default_rng(1)
    intervals = []
    for _ in range(400):
        tokens = generator.integers(50, 400, 60)
        losses = generator.normal(4.0, 0.5, 60)
        scores = [{"nats": t * x, "tokens": t} for t, x in zip(tokens, losses, strict=True)]
        intervals.append(over_articles(scores, "loss"))
    assert 0.91 <= share_that_holds(4.0, intervals) <= 0.98


# -- what is shown, what is refused ---------------------------------------------------------------


def test_an_interval_is_written_with_as_many_digits_as_asked_for():
    interval = Interval(48.9634, 47.1, 50.94, "60 articles")
    assert str(interval) == f"{interval}" == "48.96 [47.1, 50.94]"
    assert f"{interval:.1f}" == "49.0 [47.1, 50.9]"
    assert f"{interval:.0f}" == "49 [47, 51]"


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: over_seeds([3.0]), "seeds needs at least two"),
        (lambda: over_samples([], "prompts"), "prompts needs at least two"),
        (lambda: paired([]), "pairs needs at least two"),
        (lambda: over_seeds([1.0, math.nan, 2.0]), "seeds needs .* of these 3, 2 are finite"),
        (lambda: paired([1.0, math.inf]), "of these 2, 1 are finite"),
    ],
)
def test_what_has_no_interval_is_refused(call, expected, one_sentence):
    with pytest.raises(LLMLiteError, match=expected) as error:
        call()
    one_sentence(error)


def test_sums_give_the_interval_that_scipys_bootstrap_gives():
    samples = np.random.default_rng(3).gamma(2.0, size=(40, 3, 2))

    def contrast(sums):  # (…, 3, 2): depends on every entry
        ratios = sums[..., 0] / sums[..., 1]
        return (ratios[..., 0] - ratios[..., 1]) / ratios[..., 2]

    ours = over_samples(samples, "texts", contrast)
    theirs = stats.bootstrap(
        (samples,),
        lambda drawn, axis: contrast(np.moveaxis(drawn.sum(axis), -1, 0)),  # (3, 2, resamples)
        method="percentile",
        n_resamples=10_000,
        rng=np.random.default_rng(5),
        batch=500,
    ).confidence_interval
    assert ours.value == pytest.approx(contrast(samples.sum(axis=0)), rel=1e-12)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    assert ours.of == "40 texts"
    assert ours == over_samples(samples, "texts", contrast)


def test_the_draws_are_made_once_for_all_measures(monkeypatch):
    drawn, rng = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: drawn.append(seed) or rng(seed))
    for values in (range(37), range(100, 137)):
        over_samples(values, "texts", np.asarray)
    assert drawn == [0]
