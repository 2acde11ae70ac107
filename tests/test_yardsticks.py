"""Yardsticks worked out by hand on texts of a few words, and WikiText-2's vocabulary."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmlite.data import Corpus, Counts, encode_split
from llmlite.errors import LLMLiteError
from llmlite.ngram import KneserNey
from llmlite.tokenizer import BPETokenizer
from llmlite.yardsticks import (
    PUBLISHED,
    Yardstick,
    measured,
    table,
    uniform_nats,
    unigram_log_probabilities,
    word_ids,
)

BYTES = BPETokenizer([])  # no merges: 256 bytes and <|endoftext|>
TRAIN = " the cat sat on the mat\n the <unk> sat on the cat\n"
CORPUS = Corpus("two lines", {"train": TRAIN, "valid": " the mat\n", "test": " the dog sat\n"})
RAW = Corpus("no <unk>", {**CORPUS.splits, "train": TRAIN.replace("<unk>", "dog")})


def byte_ids(corpus: Corpus) -> dict[str, torch.Tensor]:
    splits = ("train", "valid", "test")
    return {s: torch.from_numpy(encode_split(corpus, s, BYTES).astype(np.int64)) for s in splits}


def five_grams(train: np.ndarray, vocab_size: int) -> KneserNey:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return KneserNey(5).fit(train, vocab_size)


def test_chance_is_the_logarithm_of_the_vocabulary():
    assert uniform_nats(1) == 0
    assert uniform_nats(4096) == pytest.approx(12 * math.log(2))


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
    splits = wikitext_corpus.splits
    train, ids, size = word_ids(splits["train"], splits["test"])
    assert (len(train), len(ids), size) == (2_088_628, 245_569, 33_278)
    assert set(splits["test"].split()) <= set(splits["train"].split())  # no word becomes <unk>


# -- measured -------------------------------------------------------------------------------------


def test_chance_and_unigrams_over_bytes_by_hand():
    uniform, unigram = measured(RAW, BYTES, byte_ids(RAW), "valid")[:2]
    # " the mat\n": 9 bytes, each one of 257 tokens; two words and a line end.
    assert uniform.perplexity == pytest.approx(257 ** (9 / 3))
    assert uniform.bits_per_byte == pytest.approx(math.log2(257))
    # The training text has 48 bytes and <|endoftext|>, of which blanks 12, t 9, h 4, e 4, m 1,
    # a 5, line ends 2; one is added to each, and 257 to the sum.
    assert len(RAW.splits["train"]) == 48
    counts = [12, 9, 4, 4, 12, 1, 5, 9, 2]  # of " the mat\n"
    nats = -sum(math.log((n + 1) / (48 + 1 + 257)) for n in counts)
    assert unigram.perplexity == pytest.approx(math.exp(nats / 3))
    assert unigram.bits_per_byte == pytest.approx(nats / math.log(2) / 9)


def test_five_grams_over_tokens_are_scored_per_word():
    ids = byte_ids(RAW)
    rows = measured(RAW, BYTES, ids)
    nats = -five_grams(ids["train"].numpy(), 257).log_probabilities(ids["test"].numpy()).sum()
    assert len(rows) == 3  # no <unk>: nothing over words
    assert rows[2].perplexity == pytest.approx(math.exp(nats / 4))
    assert rows[2].bits_per_byte == pytest.approx(nats / math.log(2) / 13)
    assert rows[2].remark.endswith("; fixed discounts at order 2, 4, 5, for want of counts")


def test_five_grams_over_words_where_the_training_text_has_unk():
    rows = measured(CORPUS, BYTES, byte_ids(CORPUS))
    train, ids, size = word_ids(CORPUS.splits["train"], CORPUS.splits["test"])
    # The line end that ends the training text is what the first of the four words follows.
    scored = five_grams(train, size).log_probabilities(np.array([train[-1], *ids]))
    assert size == 7
    assert len(rows) == len(scored) == 4
    assert rows[3].perplexity == pytest.approx(math.exp(-scored.mean()))
    assert rows[3].bits_per_byte == pytest.approx(-scored.sum() / math.log(2) / 13)
    assert "7 words" in rows[3].name


def test_what_is_measured_says_where():
    for row in measured(CORPUS, BYTES, byte_ids(CORPUS), "valid"):
        assert row.source == "measured on two lines, valid"
        assert row.exact


# -- published ------------------------------------------------------------------------------------


def test_published_perplexities_are_those_of_their_sources():
    values = {(row.source.split(",")[0], row.perplexity): row.exact for row in PUBLISHED}
    assert values == {
        ("Radford et al. (2019)", 29.41): False,
        ("Melis et al. (2019)", 55.1): True,
        ("Merity et al. (2017)", 65.8): True,
        ("pytorch/examples", 86.68): True,
        ("Grave et al. (2016)", 99.3): True,
        ("pytorch/examples", 100.33): True,
    }


def test_the_table_is_sorted_and_says_what_is_missing():
    ours = Yardstick("ours", 60.0, 1.5, "measured", True, "")
    rows = table([*reversed(PUBLISHED), ours])
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
    assert len(table([])) == 0


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: uniform_nats(0), "vocabulary of 0 tokens is empty"),
        (lambda: unigram_log_probabilities(np.array([3]), np.array([0]), 3), "last, 2"),
        (lambda: unigram_log_probabilities(np.array([0]), np.array([0, 3]), 3), "last, 2"),
        (lambda: word_ids("a b\n", "a c\n"), "The word 'c' is not in the training text"),
        (lambda: word_ids("a b", "a\n"), "The word 'line end'"),
        (lambda: measured(CORPUS, BYTES, {}, "train"), "the split 'train'; choose valid or test"),
    ],
)
def test_errors_speak_to_a_person(call, said, one_sentence):
    with pytest.raises(LLMLiteError) as error:
        call()
    assert said in one_sentence(error)
