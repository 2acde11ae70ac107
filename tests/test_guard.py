"""The yardstick of a leak by hand, and the warning by a model that really learnt to copy."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch.nn import functional as F

from llmlite import guard
from llmlite.audit.causality import causal_leak
from llmlite.checkpoint import read_record
from llmlite.config import ModelConfig, TrainConfig
from llmlite.guard import (
    ImplausibleLossWarning,
    leak_floor,
    loss_by_position,
    unigram_entropy,
    warn_if_implausible,
)
from llmlite.train import Trainer
from llmlite.windows import TokenWindows

MASKED = ModelConfig(vocab_size=13, block_size=16, n_layer=1, n_head=2, n_embd=32, dropout=0.0)
EIGHT_EPOCHS = TrainConfig(
    epochs=8, batch_size=8, learning_rate=1e-2, patience=0, amp="off", checkpoint_every=200
)


# -- the yardstick --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.tensor, lambda ids: np.array(ids, np.uint16)])
def test_the_entropy_of_a_half_and_two_quarters_is_one_and_a_half_bits(kind):
    assert unigram_entropy(kind([5, 0, 2, 5])) == pytest.approx(1.5 * math.log(2))
    assert unigram_entropy(kind([3, 3, 3])) == 0


def test_the_entropy_is_scipys(make_ids):
    ids = make_ids(1000).square() % 61
    assert unigram_entropy(ids) == pytest.approx(entropy(torch.bincount(ids).numpy()))


def test_the_entropy_is_of_the_beginning(monkeypatch):
    monkeypatch.setattr(guard, "SOME", 4)
    assert unigram_entropy(torch.tensor([0, 1, 0, 1, 2, 3, 4])) == pytest.approx(math.log(2))


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
def test_the_loss_at_each_position_is_that_of_a_plain_loop(tiny_model, make_ids, shift, batch_size):
    windows = TokenWindows(make_ids(5 * 12 + 1), 12, shift=shift)
    expected = torch.zeros(12, dtype=torch.float64)
    for i in range(5):
        inputs, targets = windows[i]
        logits = tiny_model(inputs.unsqueeze(0)).logits[0].detach()
        for position in range(12):
            expected[position] += F.cross_entropy(logits[position], targets[position]).item() / 5
    found = loss_by_position(tiny_model, windows, batch_size)
    assert (found.shape, found.dtype) == ((12,), torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    inputs, targets = windows[torch.arange(5)]
    mean = tiny_model(inputs, targets).loss.item()
    assert found.mean().item() == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_loss_is_without_dropout_and_the_mode_stays_as_it_was(tiny_model, make_ids, training):
    windows = TokenWindows(make_ids(3 * 12 + 1), 12)
    expected = loss_by_position(tiny_model.eval(), windows)
    tiny_model.train(training)
    assert torch.equal(loss_by_position(tiny_model, windows), expected)
    assert tiny_model.training == training


@pytest.mark.parametrize("ids", ["cpu", "meta"])
def test_the_losses_are_summed_where_the_model_is_and_read_once(
    tiny_model, make_ids, monkeypatch, ids
):
    """On the device "meta", which has shapes alone and like a GPU takes no tensor of the CPU's."""
    read = []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda sums: read.append(sums) or sums)
    windows = TokenWindows(make_ids(5 * 12 + 1).to(ids), 12)
    found = loss_by_position(tiny_model.to("meta"), windows, batch_size=2)
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
        model, run = replace(MASKED, causal=causal), folder / (name or str(causal))
        trainer = Trainer(model, EIGHT_EPOCHS, ids, run, {}, progress=False)
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
    losses = loss_by_position(trainer.model, TokenWindows(trainer.valid_ids, 16))
    assert losses[:-1].max() < 0.5 < 2 < losses[-1]  # ln(13) = 2.56 is guessing
    assert losses.mean().item() == pytest.approx(record["epochs"][-1]["valid_loss"], abs=1e-5)
    assert causal_leak(trainer.model)
