"""Baselines worked out by hand on texts of a few words; Kneser-Ney smoothing by hand, by a plain
dictionary implementation and by nltk; a cache by a plain loop."""

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import bytes_of
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.lm import KneserNeyInterpolated
from nltk.util import everygrams

from llmlite.audit import baselines, measures, mixtures
from llmlite.audit.baselines import Baseline, KneserNey, by_counting, published, word_ids
from llmlite.config import ModelConfig
from llmlite.data import Counts
from llmlite.files import LLMLiteError
from llmlite.metrics import token_losses
from llmlite.sources import sample_folder


def scored(train, size: int, order: int, ids) -> np.ndarray:
    return KneserNey(np.array(train), size, order).log_probabilities(np.array(ids))


def distribution(model: KneserNey, context) -> np.ndarray:
    """p(· | context), of one token or more: what scores each token of the vocabulary after it."""
    texts = (np.array([*context, token]) for token in range(model.vocab_size))
    return np.exp([model.log_probabilities(text)[-1] for text in texts])


# Of 4 tokens the last never occurs. Bigrams: 01 twice, 10 twice, 02 once.
STREAM = np.array([0, 1, 0, 1, 0, 2])


def test_bigrams_worked_out_by_hand():
    model = KneserNey(STREAM, 4, order=2)
    # Nothing occurs three times, so both orders take the fixed discounts 0.5, 1, 1.5.
    # Unigrams go by what stands before them: {1} before 0, {0} before 1, {0} before 2, so a count
    # of 1 each, 3 in all. Each gives away 0.5: γ = 3 · 0.5 / 3 = 1/2, of which each of the four
    # tokens gets 1/4.
    seen, unseen = 0.5 / 3 + 0.5 / 4, 0.5 / 4
    unigrams = np.array([seen, seen, seen, unseen])
    # After 0: 01 twice, 02 once. They give away 1 and 0.5 of 3: γ = 1/2.
    after_0 = 0.5 * unigrams + [0, (2 - 1) / 3, (1 - 0.5) / 3, 0]
    # After 1: 10 twice. It gives away 1 of 2.
    after_1 = 0.5 * unigrams + [(2 - 1) / 2, 0, 0, 0]
    # 2 ends the stream and 3 is not in it: no token follows them, which leaves the unigrams.
    expected = {(0,): after_0, (1,): after_1, (2,): unigrams, (3,): unigrams, (0, 3): unigrams}
    for context, probabilities in expected.items():
        np.testing.assert_allclose(distribution(model, context), probabilities, rtol=1e-12)
    found = model.log_probabilities(np.array([1, 0, 2, 3]))
    np.testing.assert_allclose(found, np.log([after_1[0], after_0[2], unseen]), rtol=1e-12)


def test_discounts_are_those_that_can_be_estimated_or_fixed():
    # n1 = 8, n2 = 4, n3 = 2, n4 = 1; zeros and larger counts do not matter. Y = 8 / 16 = 1/2,
    # D1 = 1 - 2/2 · 4/8 = 1/2, D2 = 2 - 3/2 · 2/4 = 5/4, D3 = 3 - 4/2 · 1/2 = 2.
    usual, fixed = [1] * 8 + [2] * 4 + [3] * 2 + [4] + [0, 0, 5, 6, 100], [0.5, 1.0, 1.5]
    for counts, discounts in [
        (usual, [0.5, 1.25, 2.0]),
        ([2, 2, 3, 4], fixed),
        ([1, 2, 3, 3, 4], fixed),  # D2 = 2 - 3 · 1/3 · 2 = 0: no unseen token could follow
        ([], fixed),
    ]:
        found = baselines.estimate_discounts(np.array(counts, np.int64))
        np.testing.assert_allclose(found, discounts)


def test_a_text_that_is_too_short_is_refused():
    with pytest.raises(LLMLiteError, match="needs 3 tokens or more, not 2"):
        KneserNey(np.array([0, 1]), 4, 3)


def plain_model(ids: list[int], vocab_size: int, order: int) -> Callable[[int, tuple], float]:
    """p(token, context) straight from the formulas, with dictionaries and recursion."""
    grams = [[tuple(ids[i : i + k]) for i in range(len(ids) - k + 1)] for k in range(order + 1)]
    counts = [Counter(gram[1:] for gram in set(longer)) for longer in grams[1:]]
    counts.append(Counter(grams[order]))

    def probability(token: int, context: tuple) -> float:
        context = context[-(order - 1) :] if order > 1 else ()
        counted = counts[len(context) + 1]
        lower = probability(token, context[1:]) if context else 1 / vocab_size
        followers = {g[-1]: n for g, n in counted.items() if g[:-1] == context}
        total = sum(followers.values())
        if total == 0:
            return lower
        # Worked out by hand above.
        discounts = baselines.estimate_discounts(np.array([*counted.values()]))
        taken = {t: discounts[min(n, 3) - 1] for t, n in followers.items()}
        own = followers.get(token, 0) - taken.get(token, 0)
        return (own + sum(taken.values()) * lower) / total

    return probability


def assert_plain_agrees(train: list[int], size: int, order: int, ids: list[int]) -> None:
    plain = plain_model(train, size, order)
    expected = [math.log(plain(ids[i], tuple(ids[:i]))) for i in range(1, len(ids))]
    np.testing.assert_allclose(scored(train, size, order, ids), expected, rtol=1e-10)


@given(st.integers(1, 6), st.integers(1, 5), st.data())
@settings(max_examples=150, deadline=None)
def test_a_plain_implementation_agrees_and_every_distribution_sums_to_one(size, order, data):
    token = st.integers(0, size - 1)
    train = data.draw(st.lists(token, min_size=order, max_size=60))
    ids = data.draw(st.lists(token, min_size=2, max_size=8))
    assert_plain_agrees(train, size, order, ids)
    probabilities = distribution(KneserNey(np.array(train), size, order), ids)
    assert probabilities.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("order", [1, 3, 5])
def test_a_plain_implementation_agrees_on_estimated_discounts(order):
    train, test = ((sample_folder() / f"wiki.{s}.raw").read_bytes() for s in ("train", "test"))
    assert_plain_agrees(list(train[:8000]), 256, order, list(test[2000:2030]))


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
    model = KneserNey(np.array(ids), 7, order)
    theirs = KneserNeyInterpolated(order, discount=0.3)
    words = [str(token) for token in ids]
    theirs.fit([list(everygrams(words, max_len=order))], vocabulary_text=words)
    for context in rng.integers(0, 7, (15, order - 1)).tolist():
        expected = [theirs.score(str(token), [str(c) for c in context]) for token in range(7)]
        np.testing.assert_allclose(distribution(model, context), expected, atol=1e-12)


def test_words_and_line_ends_by_hand_and_as_the_score_counts_them():
    train, ids, size = word_ids(" a b\n \n <unk> a\n", "b  z\nb")
    # In the order of their first occurrence: a 0, b 1, line end 2, <unk> 3.
    assert (train.tolist(), ids.tolist(), size) == ([0, 1, 2, 2, 3, 0, 2], [1, 3, 2, 1], 4)
    text = " a\tb\r\x0b \x1cb\x85\xa0c\u2028\n\n"
    assert len(word_ids(text, text)[1]) == Counts.of(text, articles=0).words_and_line_ends == 6


def test_the_vocabulary_of_wikitext_is_that_of_the_literature(wikitext_corpus):
    text, test = wikitext_corpus.text("train"), wikitext_corpus.text("test")
    train, ids, size = word_ids(text, test)
    assert (len(train), len(ids), size) == (2_088_628, 245_569, 33_278)
    assert set(test.split()) <= set(text.split())  # no word becomes <unk>


def test_chance_and_counting_are_scored_per_word_over_bytes_and_over_words(tmp_path):
    train, text = " the cat sat on the mat\n the <unk> sat on the cat\n", " the dog sat\n"
    dataset = bytes_of(tmp_path, train, text)
    # To each count, of 50 bytes and <|endoftext|>, one is added, and so 257 to their sum.
    unigram = [math.log((train.count(byte) + 1) / (50 + 1 + 257)) for byte in text]
    ids, test = (dataset.ids[split].numpy() for split in ("train", "test"))
    words, test_words, size = word_ids(train, text)
    # The line end that ends the training text is what the first of the four words follows.
    over_words = scored(words, size, 5, [words[-1], *test_words])
    expected = [[-math.log(257)] * 13, unigram, scored(ids, 257, 5, test), over_words]
    rows = by_counting(dataset)
    for row, found in zip(rows, expected, strict=True):
        assert row.perplexity == pytest.approx(math.exp(-sum(found) / 4))
        assert row.bits_per_byte == pytest.approx(-sum(found) / math.log(2) / 13)
    assert ["257 byte-pair tokens" in row.name for row in rows] == [True, True, True, False]
    assert "7 words" in rows[3].name
    source = f"measured on {dataset.name}, test"
    assert {(row.source, row.exact) for row in rows} == {(source, True)}
    without = bytes_of(tmp_path, train.replace("<unk>", "dog"), text)
    assert len(by_counting(without)) == 3, "nothing over words"


def test_the_table_goes_by_perplexity_and_other_texts_are_not_exact():
    ours = Baseline("ours", 60.0, 1.5, True, "", "measured")
    table = baselines.table([*reversed(published("wikitext-2-v1")), ours])
    unit = "perplexity per word and line end"
    assert list(table) == ["model", unit, "bits per byte", "exact", "remark", "source"]
    assert table[unit].tolist() == [29.41, 55.1, 60, 65.8, 68.9, 86.68, 99.3, 100.33]
    assert table.exact.tolist() == [False] + [True] * 7
    assert table["bits per byte"].dropna().to_dict() == {2: 1.5}
    other = {(row.exact, row.remark) for row in published("bundled sample")}
    assert other == {(False, "of wikitext-2-v1, another text than bundled sample")}


@torch.inference_mode()
def test_a_cache_is_what_a_plain_loop_finds(tiny_model, make_ids, monkeypatch):
    monkeypatch.setattr(mixtures, "CACHE", 50)
    ids, hidden = make_ids(400, vocab_size=20), []
    for start in [*range(0, 387, 6), 387]:  # windows of 12, the last moved back to be whole
        window = tiny_model.hidden(ids[None, start : start + 12])[0][0]
        hidden += window[len(hidden) - start :].double()
    n_grams = KneserNey(ids.numpy(), 61)
    alone, _, *cached = mixtures.probabilities(tiny_model, n_grams, ids, [0, 0.3])
    for theta, found in zip([0, 0.3], cached, strict=True):
        expected = [alone[0]]  # there is nothing in the cache yet
        for t in range(1, 399):
            past = range(max(0, t - 50), t)
            weights = [math.exp(theta * (hidden[t] @ hidden[i])) for i in past]
            same = [w for w, i in zip(weights, past, strict=True) if ids[i + 1] == ids[t + 1]]
            expected.append(sum(same) / sum(weights))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("before", [1, 2, 30])
def test_every_member_of_a_mixture_sums_to_one(tiny_model, make_ids, before):
    n_grams, text = KneserNey(make_ids(200).numpy(), 61), make_ids(before)
    texts = [torch.cat([text, torch.tensor([token])]) for token in range(61)]
    found = [mixtures.probabilities(tiny_model, n_grams, ids, [0, 0.3])[:, -1] for ids in texts]
    np.testing.assert_allclose(np.sum(found, axis=0), [1, 1, 1, 1], rtol=1e-5)


def test_weights_worked_out_by_hand():
    # 2 log(0.1 + 0.8 w) + log(0.9 - 0.8 w) is highest where 2 (0.9 - 0.8 w) = 0.1 + 0.8 w.
    weights, perplexity = mixtures.best_weights(np.array([[0.9, 0.9, 0.1], [0.1, 0.1, 0.9]]))
    np.testing.assert_allclose(weights, [1.7 / 2.4, 0.7 / 2.4])
    assert perplexity == pytest.approx((2 / 3 * 2 / 3 * 1 / 3) ** (-1 / 3))


def test_mixtures_are_chosen_on_validation_and_measured_on_the_test_split(articles, make_model):
    model, ids = make_model(ModelConfig(300, 64, n_layer=1, n_head=2, n_embd=16)), articles.ids
    found = mixtures.mixtures(model, articles)
    by_theta, made = found["by_theta"], found["mixtures"]
    assert found["theta"] == min(by_theta, key=by_theta.get)
    assert made["with a cache"]["validation"] == min(by_theta.values())
    n_grams = KneserNey(ids["train"].numpy(), 300)
    given = mixtures.probabilities(model, n_grams, ids["test"], [found["theta"]])
    mixed = -np.log(np.array(made["with both"]["weights"]) @ given).sum()
    alone = token_losses(model, ids["test"], 32).double().sum().item()
    assert measures.together(made["alone"]["scores"]).nats == pytest.approx(alone, rel=1e-6)
    assert measures.together(made["with both"]["scores"]).nats == pytest.approx(mixed)
