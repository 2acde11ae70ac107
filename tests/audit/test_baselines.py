"""Baselines worked out by hand on texts of a few words; Kneser-Ney smoothing by hand, by a plain
dictionary implementation and by nltk."""

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.lm import KneserNeyInterpolated
from nltk.util import everygrams

from llmlite.audit import baselines
from llmlite.audit.baselines import (
    Baseline,
    KneserNey,
    estimate_discounts,
    measured,
    published,
    table,
    unigram_log_probabilities,
    word_ids,
)
from llmlite.config import DataConfig
from llmlite.data import Counts, encode_parts
from llmlite.files import LLMLiteError
from llmlite.sources import open_source
from llmlite.tokenizer import BPETokenizer


def fitted(ids, vocab_size: int, order: int) -> KneserNey:
    return KneserNey(np.array(ids), vocab_size, order)


def distribution(model: KneserNey, context) -> np.ndarray:
    """p(· | context), of one token or more: what scores each token of the vocabulary after it."""
    texts = (np.array([*context, token]) for token in range(model.vocab_size))
    return np.exp([model.log_probabilities(text)[-1] for text in texts])


# -- by hand --------------------------------------------------------------------------------------

# Of 4 tokens the last never occurs. Bigrams: 01 twice, 10 twice, 02 once.
STREAM = [0, 1, 0, 1, 0, 2]


def test_bigrams_worked_out_by_hand():
    model = fitted(STREAM, 4, order=2)
    # Nothing occurs three times, so both orders take the fixed discounts 0.5, 1, 1.5.
    # Unigrams go by what stands before them: {1} before 0, {0} before 1, {0} before 2, so a count
    # of 1 each, 3 in all. Each gives away 0.5: γ = 3 · 0.5 / 3 = 1/2, of which each of the four
    # tokens gets 1/4.
    seen, unseen = 0.5 / 3 + 0.5 / 4, 0.5 / 4
    unigrams = np.array([seen, seen, seen, unseen])
    # After 0: 01 twice, 02 once. They give away 1 and 0.5 of 3: γ = 1/2.
    after_0 = 0.5 * unigrams + [0, (2 - 1) / 3, (1 - 0.5) / 3, 0]
    np.testing.assert_allclose(distribution(model, [0]), after_0, rtol=1e-12)
    # After 1: 10 twice. It gives away 1 of 2.
    after_1 = 0.5 * unigrams + [(2 - 1) / 2, 0, 0, 0]
    np.testing.assert_allclose(distribution(model, [1]), after_1, rtol=1e-12)
    # 2 ends the stream and 3 is not in it: no token follows them, which leaves the unigrams.
    for context in ([2], [3], [0, 3]):
        np.testing.assert_allclose(distribution(model, context), unigrams, rtol=1e-12)
    scored = model.log_probabilities(np.array([1, 0, 2, 3]))
    np.testing.assert_allclose(scored, np.log([after_1[0], after_0[2], unseen]), rtol=1e-12)


def test_a_single_order_goes_by_occurrences():
    # Three 0, two 1, one 2: n1 = n2 = n3 = 1, n4 = 0, so Y = 1/3, D1 = 1 - 2/3 = 1/3,
    # D2 = 2 - 3 · 1/3 = 1, D3 = 3 - 0 = 3. They give away 3 + 1 + 1/3 of 6.
    model = fitted(STREAM, 4, order=1)
    own = np.array([(3 - 3) / 6, (2 - 1) / 6, (1 - 1 / 3) / 6, 0])
    np.testing.assert_allclose(distribution(model, [0]), own + (13 / 3) / 6 / 4, rtol=1e-12)


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
    assert estimate_discounts(np.array(counts, np.int64)).tolist() == [0.5, 1.0, 1.5]


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
    for k, counted in counts.items():
        n = Counter(counted.values())
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
def test_every_distribution_sums_to_one(drawn):
    ids, vocab_size, order, other = drawn
    model = fitted(ids, vocab_size, order)
    assert model.log_probabilities(np.array(other)).dtype == np.float64
    for i in range(1, len(other)):
        probabilities = distribution(model, other[:i])
        assert (probabilities > 0).all()
        assert probabilities.sum() == pytest.approx(1, abs=1e-12)


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
    sample = open_source(DataConfig(source="sample"), without=None)
    ids, other = sample.splits["train"].encode()[:8000], sample.splits["test"].encode()[2000:2030]
    ids, other = list(ids), list(other)
    model, plain = fitted(ids, 256, order), plain_model(ids, 256, order)
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
    monkeypatch.setattr(baselines, "estimate_discounts", lambda counts: next(discounts))
    model = fitted(ids, 7, order)
    theirs = KneserNeyInterpolated(order, discount=0.3)
    words = [str(token) for token in ids]
    theirs.fit([list(everygrams(words, max_len=order))], vocabulary_text=words)
    for context in rng.integers(0, 7, (15, order - 1)).tolist():
        expected = [theirs.score(str(token), [str(c) for c in context]) for token in range(7)]
        np.testing.assert_allclose(distribution(model, context), expected, atol=1e-12)


def test_longer_contexts_predict_the_sample_better():
    sample = open_source(DataConfig(source="sample"), without=None)
    train, test = (
        np.frombuffer(sample.splits[split].encode()[:200_000], np.uint8)
        for split in ("train", "test")
    )
    loss = [-fitted(train, 256, order).log_probabilities(test).mean() for order in (1, 2, 5)]
    assert loss[0] > 1.2 * loss[1] > 1.5 * loss[2]
    unigrams = unigram_log_probabilities(train, test, 256)
    assert loss[0] == pytest.approx(-unigrams.mean(), rel=1e-3)


# -- chance, counting and published models --------------------------------------------------------

BYTES = BPETokenizer([])  # no merges: 256 bytes and <|endoftext|>
TRAIN = " the cat sat on the mat\n the <unk> sat on the cat\n"


class Bytes:
    """A Dataset of two lines whose tokens are bytes."""

    tokenizer = BYTES

    def __init__(self, train: str, test: str):
        texts = {"train": train, "valid": " the mat\n", "test": test}
        self.name, self.text = "two lines", texts.get
        parts = {split: list(encode_parts([text], BYTES)) for split, text in texts.items()}
        self.ids = {
            split: torch.from_numpy(np.concatenate([ids for *_, ids in part]).astype(np.int64))
            for split, part in parts.items()
        }

    def counts(self, split: str) -> Counts:
        return Counts.of(self.text(split), articles=1)


RAW, CLOSED = TRAIN.replace("<unk>", "dog"), TRAIN  # without <unk>, and with it


def test_unigrams_by_hand():
    # 0 twice and 1 once, one added to each of three: 3/6, 2/6, 1/6. The first id is not scored.
    scored = unigram_log_probabilities(np.array([0, 0, 1]), np.array([1, 0, 2, 1]), 3)
    np.testing.assert_allclose(np.exp(scored), [3 / 6, 1 / 6, 2 / 6])


def test_words_and_line_ends_by_hand():
    train, ids, size = word_ids(" a b\n \n <unk> a\n", "b  z\nb")
    # In the order of their first occurrence: a 0, b 1, line end 2, <unk> 3.
    assert train.tolist() == [0, 1, 2, 2, 3, 0, 2]
    assert ids.tolist() == [1, 3, 2, 1]
    assert size == 4
    assert train.dtype == ids.dtype == np.int64


@given(st.text(alphabet="ab \n\t\r\x0b\x1c\x85\xa0\u2028"))
def test_words_are_counted_as_the_score_counts_them(text):
    train, ids, size = word_ids(text, text)
    assert len(train) == len(ids) == Counts.of(text, articles=0).words_and_line_ends
    assert size == len(set(train.tolist()))


def test_the_vocabulary_of_wikitext_is_that_of_the_literature(wikitext_corpus):
    text, test = wikitext_corpus.text("train"), wikitext_corpus.text("test")
    train, ids, size = word_ids(text, test)
    assert (len(train), len(ids), size) == (2_088_628, 245_569, 33_278)
    assert set(test.split()) <= set(text.split())  # no word becomes <unk>


# -- measured -------------------------------------------------------------------------------------


def test_chance_and_unigrams_over_bytes_by_hand():
    uniform, unigram = measured(Bytes(RAW, " the mat\n"))[:2]
    # " the mat\n": 9 bytes, each one of 257 tokens; two words and a line end.
    assert uniform.perplexity == pytest.approx(257 ** (9 / 3))
    assert uniform.bits_per_byte == pytest.approx(math.log2(257))
    # The training text has 48 bytes and <|endoftext|>, of which blanks 12, t 9, h 4, e 4, m 1,
    # a 5, line ends 2; one is added to each, and 257 to the sum.
    assert len(RAW) == 48
    counts = [12, 9, 4, 4, 12, 1, 5, 9, 2]  # of " the mat\n"
    nats = -sum(math.log((n + 1) / (48 + 1 + 257)) for n in counts)
    assert unigram.perplexity == pytest.approx(math.exp(nats / 3))
    assert unigram.bits_per_byte == pytest.approx(nats / math.log(2) / 9)


def test_five_grams_over_tokens_are_scored_per_word():
    dataset = Bytes(RAW, " the dog sat\n")
    rows, ids = measured(dataset), {split: a.numpy() for split, a in dataset.ids.items()}
    nats = -fitted(ids["train"], 257, 5).log_probabilities(ids["test"]).sum()
    assert len(rows) == 3  # no <unk>: nothing over words
    assert rows[2].perplexity == pytest.approx(math.exp(nats / 4))
    assert rows[2].bits_per_byte == pytest.approx(nats / math.log(2) / 13)


def test_five_grams_over_words_where_the_training_text_has_unk():
    rows = measured(Bytes(CLOSED, " the dog sat\n"))
    train, ids, size = word_ids(CLOSED, " the dog sat\n")
    # The line end that ends the training text is what the first of the four words follows.
    scored = fitted(train, size, 5).log_probabilities(np.array([train[-1], *ids]))
    assert size == 7
    assert len(rows) == len(scored) == 4
    assert rows[3].perplexity == pytest.approx(math.exp(-scored.mean()))
    assert rows[3].bits_per_byte == pytest.approx(-scored.sum() / math.log(2) / 13)
    assert "7 words" in rows[3].name
    assert {(row.source, row.exact) for row in rows} == {("measured on two lines, test", True)}


# -- published ------------------------------------------------------------------------------------


def test_published_perplexities_are_those_of_their_sources():
    values = {
        (row.source.split(",")[0], row.perplexity): row.exact for row in published("wikitext-2-v1")
    }
    assert values == {
        ("Radford et al. (2019)", 29.41): False,
        ("Melis et al. (2019)", 55.1): True,
        ("Merity et al. (2017)", 65.8): True,
        ("pytorch/examples", 86.68): True,
        ("Grave et al. (2016)", 99.3): True,
        ("pytorch/examples", 100.33): True,
    }


def test_nothing_published_is_exact_beside_a_model_of_another_text():
    assert not any(row.exact for row in published("bundled sample"))


def test_the_table_is_sorted_and_says_what_is_missing():
    ours = Baseline("ours", 60.0, 1.5, True, "", "measured")
    rows = table([*reversed(published("wikitext-2-v1")), ours])
    assert list(rows.columns) == [
        "model",
        "perplexity per word and line end",
        "bits per byte",
        "exact",
        "remark",
        "source",
    ]
    assert rows["perplexity per word and line end"].is_monotonic_increasing
    assert list(rows.index) == list(range(7))
    assert rows["model"][2] == "ours"
    assert rows["bits per byte"].dtype == float
    assert rows["bits per byte"].notna().tolist() == [False, False, True] + [False] * 4


def test_a_text_that_is_too_short_is_refused(one_sentence):
    with pytest.raises(LLMLiteError, match="needs 3 tokens or more, not 2") as error:
        fitted([0, 1], 4, 3)
    one_sentence(error)
