"""Kneser-Ney smoothing by hand, by a plain dictionary implementation and by nltk."""

import math
import warnings
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.lm import KneserNeyInterpolated
from nltk.util import everygrams

from llmlite import ngram
from llmlite.config import DataConfig
from llmlite.data import load_corpus
from llmlite.errors import LLMLiteError
from llmlite.ngram import KneserNey, estimate_discounts
from llmlite.yardsticks import unigram_log_probabilities

pytestmark = pytest.mark.filterwarnings("ignore:Too few counts:UserWarning")


def fitted(ids, vocab_size: int, order: int) -> KneserNey:
    return KneserNey(order).fit(np.array(ids), vocab_size)


# -- by hand --------------------------------------------------------------------------------------

# Of 4 tokens the last never occurs. Bigrams: 01 twice, 10 twice, 02 once.
STREAM = [0, 1, 0, 1, 0, 2]


def test_bigrams_worked_out_by_hand():
    model = fitted(STREAM, 4, order=2)
    # Nothing occurs three times, so both orders take the fixed discounts 0.5, 1, 1.5.
    assert model.fallbacks == [1, 2]
    # Unigrams go by what stands before them: {1} before 0, {0} before 1, {0} before 2, so a count
    # of 1 each, 3 in all. Each gives away 0.5: γ = 3 · 0.5 / 3 = 1/2, of which each of the four
    # tokens gets 1/4.
    seen, unseen = 0.5 / 3 + 0.5 / 4, 0.5 / 4
    unigrams = np.array([seen, seen, seen, unseen])
    np.testing.assert_allclose(model.distribution([]), unigrams, rtol=1e-12)
    # After 0: 01 twice, 02 once. They give away 1 and 0.5 of 3: γ = 1/2.
    after_0 = 0.5 * unigrams + [0, (2 - 1) / 3, (1 - 0.5) / 3, 0]
    np.testing.assert_allclose(model.distribution([0]), after_0, rtol=1e-12)
    # After 1: 10 twice. It gives away 1 of 2.
    after_1 = 0.5 * unigrams + [(2 - 1) / 2, 0, 0, 0]
    np.testing.assert_allclose(model.distribution([1]), after_1, rtol=1e-12)
    # 2 ends the stream and 3 is not in it: no token follows them, which leaves the unigrams.
    for context in ([2], [3], [0, 3]):
        np.testing.assert_allclose(model.distribution(context), unigrams, rtol=1e-12)
    scored = model.log_probabilities(np.array([1, 0, 2, 3]))
    np.testing.assert_allclose(scored, np.log([after_1[0], after_0[2], unseen]), rtol=1e-12)


def test_a_single_order_goes_by_occurrences():
    # Three 0, two 1, one 2: n1 = n2 = n3 = 1, n4 = 0, so Y = 1/3, D1 = 1 - 2/3 = 1/3,
    # D2 = 2 - 3 · 1/3 = 1, D3 = 3 - 0 = 3. They give away 3 + 1 + 1/3 of 6.
    model = fitted(STREAM, 4, order=1)
    assert model.fallbacks == []
    np.testing.assert_allclose(model.discounts[0], [1 / 3, 1, 3], rtol=1e-12)
    own = np.array([(3 - 3) / 6, (2 - 1) / 6, (1 - 1 / 3) / 6, 0])
    np.testing.assert_allclose(model.distribution([]), own + (13 / 3) / 6 / 4, rtol=1e-12)


def test_discounts_worked_out_by_hand():
    # n1 = 8, n2 = 4, n3 = 2, n4 = 1; zeros and larger counts do not matter. Y = 8 / 16 = 1/2,
    # D1 = 1 - 2/2 · 4/8 = 1/2, D2 = 2 - 3/2 · 2/4 = 5/4, D3 = 3 - 4/2 · 1/2 = 2.
    counts = np.array([1] * 8 + [2] * 4 + [3] * 2 + [4] + [0, 0, 5, 6, 100])
    np.testing.assert_allclose(estimate_discounts(counts), [0.5, 1.25, 2.0])


@pytest.mark.parametrize(
    "counts",
    [
        [2, 2, 3, 4],  # no 1
        [1, 1, 3, 4],  # no 2
        [1, 1, 2, 4],  # no 3
        [],
        [1, 2, *[3] * 6, 4],  # Y = 1/3, D2 = 2 - 6 < 0
        [1, 2, 3, *[4] * 9],  # D3 = 3 - 12 < 0
        [1, 2, 3, 3, 4],  # D2 = 2 - 3 · 1/3 · 2 = 0: an unseen token would be impossible
    ],
)
def test_discounts_that_cannot_be_estimated(counts):
    assert estimate_discounts(np.array(counts, np.int64)) is None


def test_the_fallback_is_said():
    with pytest.warns(UserWarning, match=r"order\(s\) 1, 2; they are 0\.5, 1\.0, 1\.5") as caught:
        fitted(STREAM, 4, order=2)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(STREAM, 4, order=1)


# -- against others -------------------------------------------------------------------------------


def plain_model(ids: list[int], vocab_size: int, order: int) -> Callable[[int, tuple], float]:
    """p(token, context) straight from the formulas, with dictionaries and recursion."""
    grams = {
        k: Counter(tuple(ids[i : i + k]) for i in range(len(ids) - k + 1))
        for k in range(1, order + 1)
    }
    counts = {k: Counter(gram[1:] for gram in grams[k + 1]) for k in range(1, order)}
    counts[order] = grams[order]
    discounts = {}
    for k, table in counts.items():
        n = Counter(table.values())
        values = None
        if n[1] and n[2] and n[3]:
            y = n[1] / (n[1] + 2 * n[2])
            values = [j - (j + 1) * y * n[j + 1] / n[j] for j in (1, 2, 3)]
        if values is None or not all(0 < d <= j for j, d in enumerate(values, 1)):
            values = [0.5, 1.0, 1.5]
        discounts[k] = dict(enumerate(values, 1))

    def probability(token: int, context: tuple) -> float:
        context = context[-(order - 1) :] if order > 1 else ()
        k = len(context) + 1
        lower = probability(token, context[1:]) if context else 1 / vocab_size
        followers = {g[-1]: n for g, n in counts[k].items() if g[:-1] == context}
        total = sum(followers.values())
        if total == 0:
            return lower
        taken = {t: discounts[k][min(n, 3)] for t, n in followers.items()}
        own = followers.get(token, 0) - taken.get(token, 0)
        return (own + sum(taken.values()) * lower) / total

    return probability


@st.composite
def streams(draw):
    """(training ids, vocabulary size, order, other ids); repetitive enough for counts of 3."""
    vocab_size = draw(st.integers(1, 6))
    order = draw(st.integers(1, 5))
    token = st.integers(0, vocab_size - 1)
    ids = draw(st.lists(token, min_size=order, max_size=60))
    return ids, vocab_size, order, draw(st.lists(token, min_size=2, max_size=8))


@given(streams())
@settings(max_examples=150, deadline=None)
def test_every_distribution_sums_to_one_and_is_the_one_that_scores(drawn):
    ids, vocab_size, order, other = drawn
    model = fitted(ids, vocab_size, order)
    scored = model.log_probabilities(np.array(other))
    assert scored.dtype == np.float64
    for i in range(len(other)):
        distribution = model.distribution(other[:i])
        assert distribution.shape == (vocab_size,)
        assert (distribution > 0).all()
        assert distribution.sum() == pytest.approx(1, abs=1e-12)
        if i > 0:
            assert scored[i - 1] == pytest.approx(math.log(distribution[other[i]]), abs=1e-12)


@given(streams())
@settings(max_examples=150, deadline=None)
def test_a_plain_implementation_agrees(drawn):
    ids, vocab_size, order, other = drawn
    plain = plain_model(ids, vocab_size, order)
    expected = [math.log(plain(other[i], tuple(other[:i]))) for i in range(1, len(other))]
    scored = fitted(ids, vocab_size, order).log_probabilities(np.array(other))
    np.testing.assert_allclose(scored, expected, rtol=1e-10)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_a_plain_implementation_agrees_on_estimated_discounts(order):
    corpus = load_corpus(DataConfig(source="sample"))
    ids, other = corpus.splits["train"].encode()[:8000], corpus.splits["test"].encode()[2000:2030]
    ids, other = list(ids), list(other)
    model, plain = fitted(ids, 256, order), plain_model(ids, 256, order)
    assert set(model.fallbacks) <= {1}, "the text must have counts to estimate from"
    expected = [math.log(plain(other[i], tuple(other[:i]))) for i in range(1, 30)]
    np.testing.assert_allclose(model.log_probabilities(np.array(other)), expected, rtol=1e-10)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_nltk_agrees_where_it_means_the_same(order, monkeypatch):
    # nltk has one discount for all counts and orders, and none for unigrams, which it does not
    # interpolate with the uniform distribution. It also divides by zero where an n-gram occurs at
    # the start of the stream alone, so the stream comes back to its start.
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 7, 200).tolist()
    ids += ids[:order]
    discounts = iter([np.zeros(3)] + [np.full(3, 0.3)] * (order - 1))
    monkeypatch.setattr(ngram, "estimate_discounts", lambda counts: next(discounts))
    model = fitted(ids, 7, order)
    theirs = KneserNeyInterpolated(order, discount=0.3)
    words = [str(token) for token in ids]
    theirs.fit([list(everygrams(words, max_len=order))], vocabulary_text=words)
    for context in rng.integers(0, 7, (15, order - 1)).tolist():
        expected = [theirs.score(str(token), [str(c) for c in context]) for token in range(7)]
        np.testing.assert_allclose(model.distribution(context), expected, atol=1e-12)


def test_longer_contexts_predict_the_sample_better():
    corpus = load_corpus(DataConfig(source="sample"))
    train, test = (
        np.frombuffer(corpus.splits[split].encode()[:200_000], np.uint8)
        for split in ("train", "test")
    )
    loss = [-fitted(train, 256, order).log_probabilities(test).mean() for order in (1, 2, 5)]
    assert loss[0] > 1.2 * loss[1] > 1.5 * loss[2]
    unigrams = unigram_log_probabilities(train, test, 256)
    assert loss[0] == pytest.approx(-unigrams.mean(), rel=1e-3)


def test_fit_starts_afresh_and_returns_the_model():
    model = fitted([3, 3, 3, 3, 3, 3, 3], 4, order=2)
    assert model.fit(np.array(STREAM), 4) is model
    np.testing.assert_array_equal(model.distribution([0]), fitted(STREAM, 4, 2).distribution([0]))
    assert len(model.discounts) == 2


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: KneserNey(0), "order of an n-gram model is 0"),
        (lambda: fitted([], 4, 1), "Token ids must be integers"),  # numpy's empty is float64
        (
            lambda: KneserNey(1).fit(np.array([], np.int64), 4),
            "at least 1 token(s); this one has 0",
        ),
        (lambda: fitted([0, 1], 4, 3), "at least 3 token(s); this one has 2"),
        (lambda: fitted([0, 1, 4], 4, 2), "Token 4 at position 2 is not in the vocabulary"),
        (lambda: fitted([0, -1, 2], 4, 2), "Token -1 at position 1"),
        (lambda: fitted([[0, 1]], 4, 1), "of shape (1, 2)"),
        (lambda: fitted(STREAM, 4, 2).log_probabilities(np.array([0, 4])), "whose ids are 0 to 3"),
        (lambda: fitted(STREAM, 4, 2).distribution([4]), "Token 4 at position 0"),
        (lambda: fitted(STREAM, 4, 2).log_probabilities(np.array([0])), "at least two tokens"),
        (lambda: KneserNey(2).distribution([0]), "call fit first"),
        (lambda: KneserNey(2).log_probabilities(np.array([0, 1])), "call fit first"),
    ],
)
def test_errors_speak_to_a_person(call, said, one_sentence):
    with pytest.raises(LLMLiteError) as error:
        call()
    assert said in one_sentence(error)
