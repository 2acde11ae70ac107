"""Scores worked out by hand, by a plain loop and by nltk."""

import math
import warnings
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from scipy.stats import entropy
from torch.nn import functional as F

from llmlite import metrics
from llmlite.audit.causality import causal_leak
from llmlite.config import DataConfig, ModelConfig, TrainConfig
from llmlite.data import Counts, Dataset
from llmlite.engine import TrainingLoss
from llmlite.files import LLMLiteError
from llmlite.metrics import (
    ImplausibleLossWarning,
    Score,
    bleu_matrix,
    context_in_words,
    distinct_n,
    evaluate,
    leak_floor,
    loss_by_position,
    off_diagonal,
    perplexity,
    repetition_rate,
    text_statistics,
    token_losses,
    total_loss,
    warn_if_implausible,
    window_losses,
    windows_over,
)
from llmlite.run import Run, read_record
from llmlite.train import Compute, Trainer
from llmlite.windows import TokenWindows


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
    assert Counts.of(wikitext_corpus.text("test"), articles=60).words_and_line_ends == 245_569


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


@pytest.mark.parametrize("logits", [1, 61, 200, 61 * 29])
def test_the_logits_of_a_part_at_a_time_give_the_same_loss(
    tiny_model, make_ids, monkeypatch, logits
):
    ids = make_ids(100)
    expected = token_losses(tiny_model, ids, 5)
    monkeypatch.setattr(metrics, "CACHED_LOGITS", logits)
    torch.testing.assert_close(token_losses(tiny_model, ids, 5), expected)


@pytest.mark.parametrize("stride", [None, 20])
def test_the_fast_path_gives_the_losses_of_the_plain_one(make_model, make_ids, stride, monkeypatch):
    """Parts that end in the middle of a batch, and the last one short; with gradients on, the model
    is plain PyTorch."""
    model = make_model(ModelConfig(61, block_size=32, n_layer=2, n_head=4, n_embd=16, dropout=0.0))
    ids = make_ids(500)
    monkeypatch.setattr(metrics, "CACHED_LOGITS", 61 * 29)
    losses = token_losses(model, ids, stride)
    plain = []
    for x, y, context in windows_over(ids, 32, stride, batch_size=1):
        loss = F.cross_entropy(model(x).logits[0], y[0], reduction="none")
        plain.append(loss[context:].detach())
    torch.testing.assert_close(losses, torch.cat(plain), atol=0, rtol=1e-5)


@pytest.mark.parametrize("ids", ["cpu", "meta"])
@torch.inference_mode()
def test_a_loss_is_computed_where_the_model_is(tiny_model, make_ids, ids):
    """On the device "meta", which has shapes alone and like a GPU takes no tensor of the CPU's."""
    model, ids, fed = tiny_model.to("meta"), make_ids(30).to(ids), set()
    model.token_embedding.register_forward_pre_hook(lambda _, x: fed.add(x[0].device.type))
    head_mask = torch.ones(2, 4, device="meta")
    losses = list(window_losses(model, windows_over(ids, 12, 5, 4), head_mask))
    assert {loss.device.type for loss in losses} | fed == {"meta"}
    assert [tuple(loss.shape) for loss in losses] == [(1, 12), (3, 5), (1, 2)]


@pytest.mark.parametrize("training", [True, False])
def test_a_loss_is_without_dropout_and_the_mode_comes_back(tiny_model, make_ids, training):
    ids, windows = make_ids(30), TokenWindows(make_ids(3 * 12 + 1), 12)
    tiny_model.eval()
    expected = total_loss(tiny_model, ids), loss_by_position(tiny_model, windows).tolist()
    tiny_model.train(training)
    found = total_loss(tiny_model, ids), loss_by_position(tiny_model, windows).tolist()
    assert found == expected
    assert tiny_model.training is tiny_model.blocks[0].training is training


def test_the_loss_is_computed_without_a_graph(tiny_model, make_ids):
    graphs = []
    tiny_model.norm.register_forward_hook(lambda *args: graphs.append(args[-1].requires_grad))
    total_loss(tiny_model, make_ids(30), batch_size=1)
    assert graphs == [False, False, False]


def test_without_the_causal_mask_the_loss_is_that_of_whole_windows(
    tiny_config, make_model, make_ids
):
    model, ids = make_model(replace(tiny_config, causal=False)), make_ids(25)
    loss = TrainingLoss(model, None)
    by_hand = sum(loss(ids[i : i + 12][None], ids[i + 1 : i + 13][None]) for i in (0, 12))
    assert total_loss(model, ids)[0] == pytest.approx(12 * by_hand.item(), rel=1e-5)


# -- loss of each token ---------------------------------------------------------------------------


def plain_losses(model, ids, stride: int | None) -> tuple[list[float], list[int]]:
    """Window after window, each by itself: (the loss of ids[1:], how many tokens each sees)."""
    size, losses, seen = model.config.block_size, [], []
    while len(losses) < len(ids) - 1:
        done = len(losses)
        if stride is None:
            start = done
            end = min(start + size, len(ids) - 1)
        else:
            end = min(done + stride, len(ids) - 1) if done else min(size, len(ids) - 1)
            start = max(0, end - size)
        logits = model(ids[start:end].unsqueeze(0)).logits[0].double()
        for t in range(done, end):
            row = logits[t - start]
            losses.append((row.logsumexp(0) - row[ids[t + 1]]).item())
            seen.append(t - start + 1)
    return losses, seen


@pytest.mark.parametrize("stride", [None, 1, 2, 5, 11, 12])
@pytest.mark.parametrize("tokens", [2, 7, 12, 13, 14, 25, 30, 37])  # the window is 12
@pytest.mark.parametrize("batch_size", [1, 3, 32])
@torch.inference_mode()
def test_token_losses_equal_those_of_window_after_window(
    tiny_model, make_ids, tokens, stride, batch_size, monkeypatch
):
    ids = make_ids(tokens)
    monkeypatch.setattr(metrics, "windows_at_once", lambda *_: batch_size)
    losses = token_losses(tiny_model, ids, stride)
    assert losses.dtype == torch.float32
    expected = torch.tensor(plain_losses(tiny_model, ids, stride)[0])
    torch.testing.assert_close(losses, expected, atol=1e-4, rtol=1e-5)


class Looker:
    """Its loss on token 1 tells how many tokens it has seen: the logit of 1 is minus that."""

    def __init__(self, block_size: int):
        self.config = SimpleNamespace(block_size=block_size)
        self.device, self.training = torch.device("cpu"), False
        self.token_embedding = SimpleNamespace(weight=torch.tensor([[0.0], [-1.0]]))

    def eval(self) -> None:
        pass

    def train(self, mode: bool) -> None:
        pass

    def hidden(self, ids, head_mask=None):
        return torch.arange(1.0, ids.size(1) + 1).expand(ids.shape).unsqueeze(-1), []

    def seen(self, tokens: int, stride: int | None) -> list[int]:
        losses = token_losses(self, torch.ones(tokens, dtype=torch.int64), stride)
        return (losses.exp() - 1).log().round().int().tolist()  # loss = log(1 + exp(seen))


@pytest.mark.parametrize(
    ("stride", "expected"),
    [
        (None, [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]),
        (4, [1, 2, 3, 4, 1, 2, 3, 4, 3, 4]),
        (3, [1, 2, 3, 4, 2, 3, 4, 2, 3, 4]),
        (2, [1, 2, 3, 4, 3, 4, 3, 4, 3, 4]),
        (1, [1, 2, 3, 4, 4, 4, 4, 4, 4, 4]),
    ],
)
def test_what_each_token_sees_worked_out_by_hand(stride, expected):
    assert Looker(4).seen(11, stride) == expected


@torch.inference_mode()
def test_the_losses_of_one_window_are_those_of_transformers(tiny_model, gpt2, make_ids):
    ids = make_ids(13)  # twelve inputs: the window
    logits = gpt2(ids[None, :-1]).logits[0]
    expected = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
    for stride in (None, 1, 12):
        losses = token_losses(tiny_model, ids, stride)
        torch.testing.assert_close(losses, expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_sliding_losses_are_those_of_transformers_in_each_window(tiny_model, gpt2, make_ids):
    ids = make_ids(20)
    losses = token_losses(tiny_model, ids, stride=1)
    for t in range(12, 19):  # the last of its window
        logits = gpt2(ids[None, t - 11 : t + 1]).logits[0, -1]
        expected = torch.nn.functional.cross_entropy(logits, ids[t + 1])
        torch.testing.assert_close(losses[t], expected, atol=1e-4, rtol=0)


def test_token_losses_add_up_to_the_total(tiny_model, make_ids):
    ids = make_ids(100)
    nats, tokens = total_loss(tiny_model, ids)
    losses = token_losses(tiny_model, ids)
    assert tokens == len(losses) == 99
    assert losses.double().sum().item() == pytest.approx(nats, rel=1e-12)


@pytest.mark.parametrize("score", [total_loss, token_losses])
@pytest.mark.parametrize("tokens", [0, 1])
def test_a_text_without_a_second_token_is_refused(
    tiny_model, make_ids, score, tokens, one_sentence
):
    with pytest.raises(LLMLiteError, match=f"this one has {tokens}") as error:
        score(tiny_model, make_ids(tokens))
    one_sentence(error)


# -- scores of a split and its articles -----------------------------------------------------------


@pytest.mark.parametrize(
    ("block_size", "stride", "causal", "expected"),
    [
        (128, None, True, "1 to 128 tokens (windows side by side)"),
        (128, 64, True, "65 to 128 tokens (sliding by 64; the first window from 1)"),
        (128, 1, True, "128 tokens (sliding by 1; the first window from 1)"),
        (128, None, False, "all of a window of 128 tokens, later ones too (windows side by side)"),
    ],
)
def test_a_score_states_its_context(block_size, stride, causal, expected):
    assert context_in_words(ModelConfig(block_size=block_size, causal=causal), stride) == expected


def test_the_score_of_a_split(tiny_model, make_ids):
    ids = make_ids(40)
    score = evaluate(tiny_model, ids, Counts.of(" Naïve words .\n", articles=1))
    nats, _ = total_loss(tiny_model, ids)
    assert score == Score(nats, 39, 4, 16, "1 to 12 tokens (windows side by side)")
    assert Score(**asdict(score)) == score


# -- a loss that is too good to be true ----------------------------------------------------------

MASKED = ModelConfig(vocab_size=13, block_size=16, n_layer=1, n_head=2, n_embd=32, dropout=0.0)
EIGHT_EPOCHS = TrainConfig(
    epochs=8, batch_size=8, learning_rate=1e-2, patience=0, amp="off", checkpoint_every=200
)


# -- the yardstick --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.tensor, lambda ids: np.array(ids, np.uint16)])
def test_the_entropy_of_a_half_and_two_quarters_is_one_and_a_half_bits(kind):
    assert leak_floor(kind([5, 0, 2, 5]), 1) == pytest.approx(1.5 * math.log(2) / 3)
    assert leak_floor(kind([3, 3, 3]), 1) == 0


def test_the_entropy_is_scipys(make_ids):
    ids = make_ids(1000).square() % 61
    assert leak_floor(ids, 2) == pytest.approx(entropy(torch.bincount(ids).numpy()) / 3)


def test_the_entropy_is_of_the_beginning(monkeypatch):
    monkeypatch.setattr(metrics, "SOME", 4)
    assert leak_floor(torch.tensor([0, 1, 0, 1, 2, 3, 4]), 20) == pytest.approx(math.log(2) / 10)


@pytest.mark.parametrize(
    ("block_size", "share"),
    [(256, 2 / 256), (16, 1 / 8), (7, 2 / 7), (6, 1 / 3), (5, 1 / 3), (2, 1 / 3), (1, 1 / 3)],
)
def test_the_floor_is_twice_the_entropy_over_the_window_but_a_third_at_most(block_size, share):
    ids = torch.arange(80) % 8
    assert leak_floor(ids, block_size) == pytest.approx(share * math.log(8))


# -- the warning ----------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
def test_a_loss_below_the_floor_is_warned_of_and_the_mask_is_named_where_it_is_off(causal):
    with pytest.warns(ImplausibleLossWarning) as caught:
        text = warn_if_implausible(0.1554, 0.4625, causal)
    assert [str(warning.message) for warning in caught] == [text]
    assert "0.1554 nats per token is implausibly low" in text
    assert "below 0.4625," in text
    assert ("the causal mask is off" in text) == (not causal)
    assert "\n" not in text


@pytest.mark.parametrize("loss", [0.4625, 0.4626, 7.0])
@pytest.mark.parametrize("causal", [True, False])
def test_a_loss_at_the_floor_or_above_it_is_not(loss, causal):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert warn_if_implausible(loss, 0.4625, causal) is None


# -- the loss by position -------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("batch_size", [2, 5, 256])
def test_the_loss_at_each_position_is_that_of_a_plain_loop(
    tiny_model, make_ids, shift, batch_size, monkeypatch
):
    monkeypatch.setattr(metrics, "windows_at_once", lambda *_: batch_size)
    windows = TokenWindows(make_ids(5 * 12 + 1), 12, shift=shift)
    expected = torch.zeros(12, dtype=torch.float64)
    for i in range(5):
        inputs, targets = windows[i]
        logits = tiny_model(inputs.unsqueeze(0)).logits[0].detach()
        for position in range(12):
            expected[position] += F.cross_entropy(logits[position], targets[position]).item() / 5
    found = loss_by_position(tiny_model, windows)
    assert (found.shape, found.dtype) == ((12,), torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    inputs, targets = windows[torch.arange(5)]
    mean = TrainingLoss(tiny_model, None)(inputs, targets).item()
    assert found.mean().item() == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("ids", ["cpu", "meta"])
def test_the_losses_are_summed_where_the_model_is_and_read_once(
    tiny_model, make_ids, monkeypatch, ids
):
    """On the device "meta", which has shapes alone and like a GPU takes no tensor of the CPU's."""
    read = []
    monkeypatch.setattr(metrics, "windows_at_once", lambda *_: 2)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda sums: read.append(sums) or sums)
    windows = TokenWindows(make_ids(5 * 12 + 1).to(ids), 12)
    found = loss_by_position(tiny_model.to("meta"), windows)
    assert (found.shape, found.device.type, len(read)) == ((12,), "meta", 1)


# -- a run that learns to copy --------------------------------------------------------------------


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """train(causal, name of its folder): (the trainer, its record, the guard's warnings) on random
    ids, which nobody can predict who does not see them."""
    generator = torch.Generator().manual_seed(7)
    train_ids = torch.randint(13, (16 * 256 + 1,), generator=generator)
    ids = {"train": train_ids, "valid": torch.randint(13, (16 * 20 + 1,), generator=generator)}
    folder = tmp_path_factory.mktemp("copies")

    def train(causal, name=None):
        data = DataConfig(vocab_size=13, block_size=16)
        run = Run("copy", data, replace(MASKED, causal=causal), EIGHT_EPOCHS)
        where = folder / (name or str(causal))
        trainer = Trainer(run, Dataset.of_ids(ids, data), where, Compute(progress=False))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            record = trainer.fit()
        texts = [str(w.message) for w in caught if w.category is ImplausibleLossWarning]
        return trainer, record, texts

    return train


@pytest.fixture(scope="module")
def copying(train):
    return train(causal=False)


def test_a_run_without_the_mask_warns_once_and_says_so_in_its_record(copying):
    trainer, record, texts = copying
    floor = leak_floor(trainer.windows.ids, 16)
    below = [epoch["valid_loss"] < floor for epoch in record["epochs"]]
    assert sum(below) > 1  # or once would be no more than each time
    assert not below[0]
    assert texts == [record["warning"]]
    first = record["epochs"][below.index(True)]["valid_loss"]
    assert f"A validation loss of {first:.4f} nats per token" in texts[0]
    assert f"below {floor:.4f}" in texts[0]
    assert "(the causal mask is off)" in texts[0]
    assert read_record(trainer.folder)["warning"] == texts[0]


def test_a_finished_run_keeps_its_warning_and_does_not_warn_again(copying, train):
    _, record, texts = train(causal=False)
    assert record == copying[1]
    assert texts == []


def test_a_run_that_is_cut_off_keeps_its_warning_and_does_not_warn_again(
    copying, train, monkeypatch
):
    write = Trainer._write_record

    def cut_off(trainer, status, reason=None):
        if status == "finished":
            raise KeyboardInterrupt
        return write(trainer, status, reason)

    monkeypatch.setattr(Trainer, "_write_record", cut_off)
    with pytest.raises(KeyboardInterrupt):
        train(causal=False, name="cut off")
    monkeypatch.undo()
    _, record, texts = train(causal=False, name="cut off")
    assert texts == []
    assert record["warning"] == copying[1]["warning"]


def test_the_same_run_with_the_mask_does_not_warn(train):
    trainer, record, texts = train(causal=True)
    assert texts == []
    assert "warning" not in record
    assert "warning" not in read_record(trainer.folder)
    assert record["best"]["valid_loss"] > 0.9 * math.log(13)
    assert not causal_leak(trainer.model)


def test_the_leaks_signature_is_a_loss_at_the_last_position_alone(copying):
    trainer, record, _ = copying
    losses = loss_by_position(trainer.model, TokenWindows(trainer.valid_windows.ids, 16))
    assert losses[:-1].max() < 0.5 < 2 < losses[-1]  # ln(13) = 2.56 is guessing
    assert losses.mean().item() == pytest.approx(record["epochs"][-1]["valid_loss"], abs=1e-5)
    assert causal_leak(trainer.model)


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
