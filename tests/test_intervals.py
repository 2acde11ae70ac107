"""Intervals against scipy's."""

import math
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
from scipy import stats

from llmlite import intervals
from llmlite.audit.measures import over_articles, together
from llmlite.files import LLMLiteError
from llmlite.intervals import Interval, over_samples, over_seeds, paired
from llmlite.metrics import Score


@pytest.mark.parametrize(("statistic", "unit", "of_ratio"), [
    ("loss", "tokens", np.asarray),
    ("perplexity", "tokens", np.exp),
    ("word_perplexity", "words", np.exp),
    ("bits_per_byte", "bytes", lambda ratio: ratio / math.log(2)),
])  # fmt: skip
def test_articles_give_the_interval_that_scipys_bootstrap_gives(statistic, unit, of_ratio):
    generator = np.random.default_rng(0)
    tokens = generator.integers(50, 400, 40)
    nats = tokens * (3.5 + tokens / 400 + 0.3 * generator.standard_normal(40))  # goes with length
    words = tokens * 7 // 10 + generator.integers(0, 20, 40)
    counts = {"tokens": tokens, "words": words, "bytes": 5 * words + tokens}
    scores = [asdict(Score(*row)) for row in zip(nats, *counts.values(), strict=True)]
    how = {"paired": True, "method": "percentile", "n_resamples": 10_000, "batch": 500}

    def ratio(nats, units, axis):
        return of_ratio(nats.sum(axis) / units.sum(axis))

    theirs = stats.bootstrap((nats, counts[unit]), ratio, rng=np.random.default_rng(5), **how)
    low, high = theirs.confidence_interval
    ours = over_articles(scores, statistic)
    close = 0.04 * (high - low)  # four times what two draws of 10,000 differ by
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=close)
    assert ours.value == pytest.approx(of_ratio(nats.sum() / counts[unit].sum()))
    assert ours.of == "40 articles"
    intervals._drawn.cache_clear()
    assert ours == over_articles(scores, statistic), "drawn with a seed"
    assert over_articles(scores[:1], statistic) == getattr(together(scores[:1]), statistic)


@pytest.mark.parametrize("n", [2, 30])
def test_seeds_and_pairs_equal_scipys_t_tests(n):
    a, b = np.random.default_rng(n).normal([[3.0], [1.0]], 1.0, size=(2, n))
    one, both = stats.ttest_1samp(a, 0), stats.ttest_rel(a, b)
    for ours, theirs in ((over_seeds(a), one), (paired(a - b), both)):
        theirs = theirs.confidence_interval(0.95)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9)
    assert paired(a - b).value == pytest.approx((a - b).mean())
    assert (paired(a - b).of, over_seeds(a).of) == (f"{n} pairs", f"{n} seeds")
    assert over_seeds(a).value == pytest.approx(a.mean())


def test_an_interval_is_written_with_as_many_digits_as_asked_for():
    interval = Interval(48.9634, 47.1, 50.94, "60 articles")
    assert str(interval) == f"{interval}" == "48.96 [47.1, 50.94]"
    assert f"{interval:.1f}" == "49.0 [47.1, 50.9]"
    assert f"{paired([0.5]):.2f}" == "0.50 [no interval]"
    assert paired([0.5]).of == "1 pair"


def test_what_has_no_interval_is_refused():
    for interval, values, words in [
        (over_seeds, [3.0], "over seeds needs at least two finite numbers"),
        (over_seeds, [1.0, math.nan, 2.0], "of these 3, 2 are finite"),
        (paired, [1.0, math.inf], "over pairs needs at least two finite numbers and no others; of"),
        (partial(over_samples, of="prompts"), [], "over prompts needs at least two"),
    ]:
        with pytest.raises(LLMLiteError, match=words):
            interval(values)
