"""Scores worked out by hand, by a plain loop and by nltk."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from llmlite.data import Counts
from llmlite.metrics import (
    Score,
    bleu_matrix,
    distinct_n,
    evaluate,
    most_common_share,
    off_diagonal,
    perplexity,
    repetition_rate,
    text_statistics,
    total_loss,
)


@pytest.mark.parametrize(
    ("loss", "expected"), [(0.0, 1.0), (math.log(50), 50.0), (0.157, 1.17), (1000.0, math.inf)]
)
def test_perplexity_is_the_exponential_of_the_loss(loss, expected):
    assert perplexity(loss) == pytest.approx(expected, rel=1e-4)


def test_a_score_worked_out_by_hand():
    # Every token costs 3 bits: 8 tokens, 24 bits, over 4 words and 12 bytes.
    score = Score(nats=24 * math.log(2), tokens=8, words=4, bytes=12)
    assert score.loss == pytest.approx(3 * math.log(2))
    assert score.perplexity == pytest.approx(8)
    assert score.word_perplexity == pytest.approx(64)
    assert score.bits_per_byte == pytest.approx(2)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", 0), (" \n", 1), (" = Title = \n \n Two words .\n", 3 + 1 + 1 + 3 + 1), ("no end", 2)],
)
def test_words_are_whitespace_words_and_line_ends(text, words):
    assert Counts.of(text, articles=0).words_and_line_ends == words


def test_wikitexts_test_split_has_the_words_that_the_literature_divides_by(wikitext_corpus):
    assert wikitext_corpus.counts("test").words_and_line_ends == 245_569


# -- loss of a model ------------------------------------------------------------------------------


def plain_loss(model, ids, head_mask=None) -> float:
    """Token after token: each is predicted from the inputs of its window of block_size."""
    size, nats = model.config.block_size, 0.0
    for t in range(1, len(ids)):
        start = (t - 1) // size * size
        logits = model(ids[start:t].unsqueeze(0), head_mask=head_mask).logits[0, -1].double()
        nats += (logits.logsumexp(0) - logits[ids[t]]).item()
    return nats


@pytest.mark.parametrize("batch_size", [1, 2, 32])
@pytest.mark.parametrize("tokens", [2, 7, 12, 13, 14, 25, 30, 37])  # the window is 12
@torch.inference_mode()
def test_each_token_is_scored_exactly_once(tiny_model, make_ids, tokens, batch_size):
    ids = make_ids(tokens)
    nats, scored = total_loss(tiny_model, ids, batch_size=batch_size)
    assert scored == tokens - 1
    assert nats == pytest.approx(plain_loss(tiny_model, ids), rel=1e-5)


@pytest.mark.parametrize("tokens", [2, 13, 37, 100])
def test_the_loss_of_a_file_is_that_of_the_tokens_in_memory(tiny_model, make_ids, tokens, tmp_path):
    ids = make_ids(tokens)
    np.save(tmp_path / "ids.npy", ids.numpy().astype(np.uint16))
    mapped = np.load(tmp_path / "ids.npy", mmap_mode="r")
    expected = total_loss(tiny_model, ids, batch_size=2)
    assert total_loss(tiny_model, mapped, batch_size=2) == expected


@torch.inference_mode()
def test_the_loss_goes_by_the_head_mask(tiny_model, make_ids):
    ids = make_ids(30)
    head_mask = torch.tensor([[0.0, 1, 1, 0.5], [1, 0, 1, 1]])
    nats, _ = total_loss(tiny_model, ids, head_mask=head_mask)
    assert nats == pytest.approx(plain_loss(tiny_model, ids, head_mask), rel=1e-5)
    assert abs(nats - plain_loss(tiny_model, ids)) > 0.1


@pytest.mark.parametrize("training", [True, False])
def test_the_loss_is_without_dropout_and_the_mode_comes_back(tiny_model, make_ids, training):
    ids = make_ids(30)
    expected = total_loss(tiny_model.eval(), ids)
    tiny_model.train(training)
    assert total_loss(tiny_model, ids) == expected
    assert tiny_model.training is training
    assert tiny_model.blocks[0].training is training


def test_the_loss_is_computed_without_a_graph(tiny_model, make_ids):
    graphs = []
    tiny_model.register_forward_hook(lambda *args: graphs.append(args[-1].logits.requires_grad))
    total_loss(tiny_model, make_ids(30), batch_size=1)
    assert graphs == [False, False, False]


def test_without_the_causal_mask_the_loss_is_that_of_whole_windows(
    tiny_config, make_model, make_ids
):
    model, ids = make_model(replace(tiny_config, causal=False)), make_ids(25)
    by_hand = sum(model(ids[i : i + 12][None], ids[i + 1 : i + 13][None]).loss for i in (0, 12))
    assert total_loss(model, ids)[0] == pytest.approx(12 * by_hand.item(), rel=1e-5)


def test_a_split_is_scored_by_its_tokens_words_and_bytes(tiny_model, make_ids):
    ids = make_ids(20)
    score = evaluate(tiny_model, ids, Counts.of(" Naïve words .\n", articles=1))
    nats, _ = total_loss(tiny_model, ids)
    assert score == Score(nats=nats, tokens=19, words=4, bytes=16)


# -- generated text -------------------------------------------------------------------------------

TEXTS = [
    "the cat sat on the mat and looked at the dog",
    "the cat sat on the mat and slept",
    "a dog ran",
    "completely different words everywhere in here",
    "the cat sat on the mat and looked at the dog",
    "",
]


def test_bleu_worked_out_by_hand():
    # Hypothesis "the cat sat on a mat" against "the cat sat on the mat": 5 of 6 words, 3 of 5
    # pairs, 2 of 4 triples and 1 of 3 quadruples are found; the lengths are equal.
    matrix = bleu_matrix(["the cat sat on the mat", "the cat sat on a mat"])
    assert matrix[0, 1] == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    assert matrix[0, 0] == matrix[1, 1] == pytest.approx(1)


def test_a_hypothesis_shorter_than_its_reference_is_penalised_and_a_longer_one_is_not():
    # All n-grams of the shorter are in the longer: brevity penalty exp(1 - 8/4). The other way
    # round 4 of 8 words, 3 of 7 pairs, 2 of 6 triples, 1 of 5 quadruples are found.
    matrix = bleu_matrix(["a b c d e f g h", "a b c d"])
    assert matrix[0, 1] == pytest.approx(math.exp(-1))
    assert matrix[1, 0] == pytest.approx((4 / 8 * 3 / 7 * 2 / 6 * 1 / 5) ** 0.25)


def test_bleu_equals_that_of_nltk():
    matrix = bleu_matrix(TEXTS)
    assert matrix.shape == (6, 6)
    smooth = SmoothingFunction().method1
    for r, reference in enumerate(TEXTS):
        for h, hypothesis in enumerate(TEXTS):
            expected = sentence_bleu(
                [reference.split()], hypothesis.split(), smoothing_function=smooth
            )
            assert matrix[r, h] == pytest.approx(expected)
    assert matrix[0, 4] == pytest.approx(1)
    assert 0 < matrix[0, 1] < 1
    assert matrix[0, 3] < 0.05


def test_the_off_diagonal_is_what_compares_two_things():
    matrix = np.arange(9).reshape(3, 3)
    assert off_diagonal(matrix).tolist() == [1, 2, 3, 5, 6, 7]


@pytest.mark.parametrize(
    ("items", "n", "expected"),
    [
        (["a", "b", "a", "b"], 1, 2 / 4),
        (["a", "b", "a", "b"], 2, 2 / 3),  # ab, ba, ab
        ([1, 1, 1, 1], 3, 1 / 2),
        ([1, 2, 3], 3, 1.0),
        ([1, 2], 3, 0.0),
        ([], 1, 0.0),
    ],
)
def test_distinct_n(items, n, expected):
    assert distinct_n(items, n) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("items", "window", "expected"),
    [
        ([1, 1, 1, 1], 8, 3 / 4),
        ([1, 2, 3, 1], 3, 1 / 4),
        ([1, 2, 3, 1], 2, 0.0),  # the first 1 lies three back
        ([1, 2, 1, 3, 2], 3, 2 / 5),
        (list(range(20)), 8, 0.0),
        ([], 8, 0.0),
    ],
)
def test_repetition_rate(items, window, expected):
    assert repetition_rate(items, window) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("items", "expected"), [(["on", "on", "Mul", "on"], 3 / 4), (["a", "b"], 1 / 2), ([], 0.0)]
)
def test_most_common_share(items, expected):
    assert most_common_share(items) == pytest.approx(expected)


def test_text_statistics_are_means_over_the_texts():
    # "on on . on": 4 words, 2 before the stop, pairs "on on", "on .", ". on" all distinct, the
    # second and the fourth repeated. "a a a": 3 words, no stop, 1 of 2 pairs, 2 of 3 repeated.
    assert text_statistics(["on on . on", "a a a"]) == pytest.approx(
        {
            "words": 3.5,
            "first sentence": 2.5,
            "distinct-2": (1 + 1 / 2) / 2,
            "repetition": (2 / 4 + 2 / 3) / 2,
        }
    )
