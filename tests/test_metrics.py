"""Scores worked out by hand and by plain loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from test_train import interrupt, trainer

from llmlite import metrics, train
from llmlite.config import ModelConfig
from llmlite.data import Counts
from llmlite.files import LLMLiteError
from llmlite.metrics import Score, leak_floor, loss_by_position, token_losses, total_loss
from llmlite.windows import TokenWindows

HALF_MASKED = torch.tensor([[1, 0.5, 0, 1], [0, 1, 1, 0.25]])
CLOSE = {"atol": 1e-4, "rtol": 1e-5}


def test_a_score_worked_out_by_hand():
    # Every token costs 3 bits: 8 tokens, 24 bits, over 4 words and 12 bytes.
    score = Score(nats=24 * math.log(2), tokens=8, words=4, bytes=12)
    assert (score.loss, score.perplexity) == pytest.approx((3 * math.log(2), 8))
    assert (score.word_perplexity, score.bits_per_byte) == pytest.approx((64, 2))
    assert metrics.perplexity(708.0) < metrics.perplexity(1000.0) == math.inf
    assert [*map(metrics.stated, (129.185, 2e247, math.inf))] == ["129.2", *["over a billion"] * 2]


def plain_losses(logits_of, ids, stride=None) -> torch.Tensor:
    """Of ids[1:], window of 12 after window, each by itself."""
    losses, tokens = [], len(ids) - 1
    while (done := len(losses)) < tokens:
        if stride is None:
            start, end = done, min(done + 12, tokens)
        else:
            end = min(done + stride if done else 12, tokens)
            start = max(0, end - 12)
        logits = logits_of(ids[start:end].unsqueeze(0)).logits[0].double()
        for t in range(done, end):
            losses.append(logits[t - start].logsumexp(0) - logits[t - start, ids[t + 1]])
    return torch.stack(losses).float()


@pytest.mark.parametrize(("batch", "logits"), [(1, 2**21), (3, 61 * 7), (32, 1)])
@pytest.mark.parametrize("tokens", [2, 7, 12, 13, 14, 25, 30, 37])
@pytest.mark.parametrize("stride", [None, 1, 2, 5, 12])
@pytest.mark.parametrize("causal", [True, False])
@torch.inference_mode()
def test_losses_equal_those_of_window_after_window(
    tiny_config, make_model, make_ids, monkeypatch, causal, stride, tokens, batch, logits
):
    model, ids = make_model(replace(tiny_config, causal=causal)), make_ids(tokens)
    monkeypatch.setattr(metrics, "windows_at_once", lambda *_: batch)
    monkeypatch.setattr(metrics, "CACHED_LOGITS", logits)  # parts end in the middle of a batch
    expected = plain_losses(model, ids, stride)
    assert all(len(x) <= batch for x, *_ in metrics.windows_over(ids, 12, stride, batch))
    for given in (ids, ids.numpy().astype(np.uint16)):  # as in a file
        torch.testing.assert_close(token_losses(model, given, stride), expected, **CLOSE)
    if stride is None:
        masked = plain_losses(lambda ids: model(ids, HALF_MASKED), ids)
        for head_mask, losses in ((None, expected), (HALF_MASKED, masked)):
            nats, scored = total_loss(model, given, batch_size=batch, head_mask=head_mask)
            assert nats == pytest.approx(losses.double().sum().item(), rel=1e-5)
            assert scored == tokens - 1
    if stride is None and tokens > 12:
        means = expected[: (tokens - 1) // 12 * 12].view(-1, 12).double().mean(0)
        torch.testing.assert_close(loss_by_position(model, TokenWindows(ids, 12)), means, **CLOSE)


def test_a_loss_is_without_dropout_and_graph_and_the_mode_comes_back(tiny_model, make_ids):
    ids, graphs = make_ids(37), set()
    tiny_model.norm.register_forward_hook(lambda *args: graphs.add(args[-1].requires_grad))

    def losses():
        return total_loss(tiny_model, ids), *loss_by_position(tiny_model, TokenWindows(ids, 12))

    expected = losses()
    assert not tiny_model.training
    tiny_model.train()
    assert losses() == expected
    assert tiny_model.training is tiny_model.blocks[0].training is True
    assert graphs == {False}


@pytest.mark.parametrize("ids", ["cpu", "meta"])
@torch.inference_mode()
def test_losses_stay_where_the_model_is_and_are_read_once(tiny_model, make_ids, monkeypatch, ids):
    """On the device "meta", which has shapes alone and like a GPU takes no tensor of the CPU's."""
    model, ids, fed, read = tiny_model.to("meta"), make_ids(61).to(ids), set(), []
    model.token_embedding.register_forward_pre_hook(lambda _, x: fed.add(x[0].device.type))
    batches, head_mask = metrics.windows_over(ids[:30], 12, 5, 4), torch.ones(2, 4, device="meta")
    losses = list(metrics.window_losses(model, batches, head_mask))
    assert {loss.device.type for loss in losses} | fed == {"meta"}
    for device, width, windows in (("cpu", 128, 16), ("cuda", 128, 512), ("cpu", 4096, 1)):
        assert metrics.windows_at_once(torch.device(device), width) == windows
    monkeypatch.setattr(metrics, "windows_at_once", lambda *_: 2)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda sums: read.append(sums) or sums)
    found = loss_by_position(model, TokenWindows(ids, 12))
    assert (found.shape, found.device.type, len(read)) == ((12,), "meta", 1)


def test_a_score_has_its_texts_counts_and_states_its_context(tiny_model, make_ids):
    for scored, n in ((total_loss, 0), (token_losses, 1)):
        with pytest.raises(LLMLiteError, match=f"two tokens or more; this one has {n}"):
            scored(tiny_model, make_ids(n))
    nats, tokens = total_loss(tiny_model, make_ids(40))
    score = metrics.evaluate(tiny_model, make_ids(40), Counts.of(" Naïve words .\n", articles=1))
    assert score == Score(nats, tokens, 4, 16, "1 to 12 tokens (windows side by side)")
    masked, unmasked = tiny_model.config, replace(tiny_model.config, causal=False)
    for config, stride, expected in [
        (masked, 5, "8 to 12 tokens (sliding by 5; the first window from 1)"),
        (masked, 1, "12 tokens (sliding by 1; the first window from 1)"),
        (unmasked, None, "all of a window of 12 tokens, later ones too (windows side by side)"),
    ]:
        assert metrics.context_in_words(config, stride) == expected


def test_the_floor_is_twice_the_entropy_over_the_window_a_third_at_most(make_ids, monkeypatch):
    half_and_two_quarters = [5, 0, 2, 5]
    for ids in (torch.tensor(half_and_two_quarters), np.array(half_and_two_quarters, np.uint16)):
        assert leak_floor(ids, 12) == pytest.approx(2 / 12 * 1.5 * math.log(2))
    ids = make_ids(1000).square() % 61
    by_scipy = entropy(torch.bincount(ids).numpy())
    for size, share in ((256, 2 / 256), (7, 2 / 7), (6, 1 / 3), (5, 1 / 3), (1, 1 / 3)):
        assert leak_floor(ids, size) == pytest.approx(share * by_scipy)
    monkeypatch.setattr(metrics, "SOME", 4)  # tokens, from the beginning
    assert leak_floor(torch.tensor([0, 1, 0, 1, 2, 3, 4]), 20) == pytest.approx(math.log(2) / 10)
    words = "0.1554 nats per token is implausibly low: below 0.4625,"
    with pytest.warns(metrics.ImplausibleLossWarning, match=words):
        metrics.warn_if_implausible(0.1554, 0.4625, causal=True)
    assert metrics.warn_if_implausible(0.4625, 0.4625, causal=True) is None


def test_a_run_without_the_mask_copies_and_warns_once_even_if_cut_off(tmp_path, make_ids):
    """On random ids, which nobody can predict who does not see them."""
    model = ModelConfig(13, 16, n_layer=1, n_head=2, n_embd=32, dropout=0.0, causal=False)
    seen, valid = make_ids(16 * 256 + 321, vocab_size=13).tensor_split([16 * 256])

    def start():
        ids = {"train": seen, "valid": valid}
        return trainer(tmp_path, model, ids, batch_size=8, epochs=8, checkpoint_every=200)

    run = start()
    with pytest.warns(metrics.ImplausibleLossWarning) as caught:
        interrupt(run, 10, train, "write_json")  # all is done but the record
    (warning,) = [str(w.message) for w in caught if w.category is metrics.ImplausibleLossWarning]
    for _ in ("carried on", "finished before"):  # where one more warning would be an error
        record = start().fit()
        assert record["warning"] == warning
    floor = leak_floor(seen, 16)
    below = [epoch["valid_loss"] for epoch in record["epochs"] if epoch["valid_loss"] < floor]
    assert 1 < len(below) < 8  # or once would be no more than each time
    assert f"A validation loss of {below[0]:.4f} nats per token" in warning
    assert f"(the causal mask is off): below {floor:.4f}" in warning
    losses = loss_by_position(run.model, TokenWindows(valid, 16))
    assert losses[:-1].max() < 0.5 < 2 < losses[-1]  # all but the last, where ln 13 is guessing
    assert losses.mean().item() == pytest.approx(record["epochs"][-1]["valid_loss"], abs=1e-5)


def test_bleu_worked_out_by_hand():
    # All n-grams of the shorter are in the longer: brevity penalty exp(1 - 8/4). The other way
    # round 4 of 8 words, 3 of 7 pairs, 2 of 6 triples, 1 of 5 quadruples are found.
    matrix = metrics.bleu_matrix(["a b c d e f g h", "a b c d"])
    assert metrics.off_diagonal(matrix).tolist() == [matrix[0, 1], matrix[1, 0]]
    assert matrix[0, 1] == pytest.approx(math.exp(-1))
    assert matrix[1, 0] == pytest.approx((4 / 8 * 3 / 7 * 2 / 6 * 1 / 5) ** 0.25)
    # No pair of one, no triple, no quadruple: method 1 counts 0.1 of each.
    matrix = metrics.bleu_matrix(["a b", "a c", ""])
    assert matrix[0, 1] == pytest.approx((1 / 2 * 0.1**3) ** 0.25)
    assert matrix[2, 0] == matrix[0, 2] == 0


def test_repetition_and_its_means_worked_out_by_hand():
    assert metrics.distinct_n("abab", 1) == 2 / 4
    assert metrics.distinct_n("abab", 2) == pytest.approx(2 / 3)  # ab, ba, ab
    assert metrics.distinct_n([1, 2], 3) == metrics.distinct_n([], 1) == 0
    assert metrics.repetition_rate([1, 2, 3, 1], 3) == 1 / 4
    assert metrics.repetition_rate([1, 1, 2, 3, 4], 3) == 1 / 5  # fewer than 3 stand before it
    assert metrics.repetition_rate([1, 2, 3, 1], 2) == 0  # the first 1 lies three back
    assert metrics.repetition_rate([*range(8), 0]) == 1 / 9  # eight back, and no further
    assert metrics.repetition_rate([*range(9), 0]) == metrics.repetition_rate([]) == 0
    # 4 words, 2 before the stop, 3 of 3 pairs distinct, 2 of 4 words repeated; then 3 words without
    # a stop, 1 of 2 pairs, 2 of 3 words.
    means = {"words": 3.5, "first sentence": 2.5, "distinct-2": 0.75, "repetition": 7 / 12}
    assert metrics.text_statistics(["on on . on", "a a a"]) == pytest.approx(means)
