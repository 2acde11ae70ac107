import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn import functional as F

from llmlite import train
from llmlite.checkpoint import load_state, read_record, read_steps
from llmlite.config import ModelConfig, TrainConfig
from llmlite.engine import learning_rate, parameter_groups
from llmlite.errors import (
    BusyError,
    CheckpointError,
    DataError,
    DiskFullError,
    DivergedError,
    MissingRunError,
    OutOfMemoryError,
)
from llmlite.guard import ImplausibleLossWarning, loss_by_position
from llmlite.metrics import total_loss
from llmlite.model import GPT
from llmlite.train import Trainer, epoch_line
from llmlite.windows import EpochSampler, TokenWindows

MODEL = ModelConfig(vocab_size=50, block_size=16, n_layer=2, n_head=2, n_embd=16, dropout=0.0)
DROPOUT = replace(MODEL, dropout=0.3)
# 40 windows in batches of 4: 10 steps an epoch, with checkpoints at 4, 8, 10, 12, 16, 20, …
THREE_EPOCHS = TrainConfig(
    epochs=3, batch_size=4, learning_rate=1e-2, checkpoint_every=4, patience=0, amp="off"
)
KILL_AT = 18


def random_ids(windows=40):
    """Token ids for so many training windows; the pairs (2k, 2k + 1) are there to be learnt."""
    generator = torch.Generator().manual_seed(7)
    evens = 2 * torch.randint(0, 25, (windows * 8 + 1,), generator=generator)
    ids = torch.stack([evens, evens + 1], dim=1).flatten()
    return {"train": ids[: windows * 16 + 1], "valid": ids[200:350]}


def trainer(folder, config=THREE_EPOCHS, model=MODEL, ids=None, **changes):
    config = replace(config, **changes)
    return Trainer(model, config, ids or random_ids(), folder, {"data": "pairs"}, progress=False)


def step_rows(folder):
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text("utf-8").splitlines()]


def timeless(epochs):
    """The log of the epochs without the columns that depend on the clock."""
    return [
        {k: v for k, v in e.items() if k not in ("seconds", "tokens_per_second")} for e in epochs
    ]


def gradient_norm(model):
    return math.sqrt(sum(p.grad.double().square().sum().item() for p in model.parameters()))


def assert_same_tensors(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def assert_same_run(folder, other):
    """Weights bit for bit, the step logs and the epoch logs."""
    assert_same_tensors(
        load_file(folder / "best.safetensors"), load_file(other / "best.safetensors")
    )
    assert (folder / "steps.jsonl").read_text() == (other / "steps.jsonl").read_text()
    assert timeless(read_record(folder)["epochs"]) == timeless(read_record(other)["epochs"])
    assert read_record(folder)["status"] == "finished"


# -- the learning rate ----------------------------------------------------------------------------


def test_rates_at_the_ends_of_the_epochs_are_the_papers():
    config = TrainConfig(epochs=10, learning_rate=1e-3)
    rates = [f"{learning_rate(100 * epoch - 1, 1000, config):.6f}" for epoch in range(1, 11)]
    assert rates == [
        "0.001000", "0.000970", "0.000883", "0.000750", "0.000587",
        "0.000413", "0.000250", "0.000117", "0.000030", "0.000000",
    ]  # fmt: skip


def test_warmup_is_linear_and_reaches_the_peak_at_one_tenth():
    config = TrainConfig(learning_rate=0.4)
    rates = [learning_rate(step, 40, config) for step in range(40)]
    assert rates[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert max(rates) == rates[3] > rates[4]
    assert rates[21] == pytest.approx(0.2)  # half of the cosine: 18 of the 36 steps after it
    assert rates[39] == 0


def test_warmup_fraction_moves_the_peak():
    config = TrainConfig(learning_rate=1.0, warmup_fraction=0.5)
    assert learning_rate(4, 20, config) == pytest.approx(0.5)
    assert learning_rate(9, 20, config) == pytest.approx(1.0)
    assert learning_rate(14, 20, config) == pytest.approx(0.5)


def test_fixed_schedule_has_no_warmup_and_no_decay():
    config = TrainConfig(learning_rate=3e-4, schedule="fixed")
    assert {learning_rate(step, 100, config) for step in range(100)} == {3e-4}


@given(st.integers(1, 300), st.floats(0, 0.99), st.floats(1e-6, 1.0))
def test_rate_rises_in_the_warmup_then_falls_and_stays_in_bounds(total, fraction, peak):
    config = TrainConfig(learning_rate=peak, warmup_fraction=fraction)
    rates = [learning_rate(step, total, config) for step in range(total)]
    warmup = round(fraction * total)
    assert all(0 <= rate <= peak * (1 + 1e-12) for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rates[-1] == (pytest.approx(peak) if warmup == total else 0)


# -- one step -------------------------------------------------------------------------------------


def plain_loop(ids, config, batch):
    """The same training in a plain loop. Returns (model, losses, norms, epoch losses)."""
    torch.manual_seed(config.seed)
    model = GPT(MODEL)
    named = dict(model.named_parameters())
    vectors = {name for name in named if name.endswith("bias") or "norm" in name}
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for n, p in named.items() if n not in vectors], "weight_decay": 0.1},
            {"params": [named[n] for n in vectors], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.95),
    )
    windows = TokenWindows(ids["train"], MODEL.block_size)
    losses, norms, epoch_losses = [], [], []
    for epoch in range(config.epochs):
        nats = tokens = 0
        for index in EpochSampler(windows, batch, config.seed, epoch):
            inputs, targets = windows[index]
            optimizer.zero_grad()
            logits = model(inputs).logits
            loss = F.cross_entropy(logits.reshape(-1, 50), targets.reshape(-1))
            loss.backward()
            norm = gradient_norm(model)
            for p in model.parameters():
                p.grad *= min(1.0, 0.5 / norm)
            optimizer.step()
            losses.append(loss.item())
            norms.append(norm)
            nats += loss.item() * targets.numel()
            tokens += targets.numel()
        epoch_losses.append(nats / tokens)
    return model, losses, norms, epoch_losses


@pytest.mark.parametrize("windows", [64, 75], ids=["whole batches", "ragged last batch"])
@pytest.mark.parametrize(("batch_size", "accumulation"), [(32, 1), (8, 4)])
def test_four_batches_of_8_are_one_of_32_and_both_are_a_plain_loop(
    tmp_path, windows, batch_size, accumulation
):
    config = TrainConfig(
        epochs=3, batch_size=batch_size, accumulation=accumulation, learning_rate=1e-3,
        schedule="fixed", clip_norm=0.5, amp="off",
    )  # fmt: skip
    ids = random_ids(windows)
    model, losses, norms, epoch_losses = plain_loop(ids, config, batch=32)
    ours = trainer(tmp_path, config, ids=ids)
    record = ours.fit()
    steps = read_steps(tmp_path)
    assert steps.loss.tolist() == pytest.approx(losses, abs=1e-5)
    assert steps.grad_norm.tolist() == pytest.approx(norms, abs=1e-5)
    assert [e["train_loss"] for e in record["epochs"]] == pytest.approx(epoch_losses, abs=1e-5)
    assert any(norm > 0.5 for norm in norms)  # or clipping was not part of this
    expected = model.state_dict()
    for name, weight in ours.model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_logged_train_loss_is_the_mean_over_tokens(tmp_path, accumulation):
    ids = random_ids(45)  # 45 windows in batches of 12: the last one has 9
    torch.manual_seed(1337)
    inputs, targets = ids["train"][:-1].view(45, 16), ids["train"][1:].view(45, 16)
    expected = F.cross_entropy(GPT(MODEL)(inputs).logits.flatten(0, 1), targets.flatten()).item()
    record = trainer(
        tmp_path, ids=ids, epochs=1, batch_size=12 // accumulation, accumulation=accumulation,
        learning_rate=1e-30,
    ).fit()  # fmt: skip
    assert record["epochs"][0]["train_loss"] == pytest.approx(expected, abs=1e-5)
    rows = step_rows(tmp_path)
    assert len(rows) == 4
    norms = [row["grad_norm"] for row in rows]
    assert record["epochs"][0]["grad_norm"] == pytest.approx(sum(norms) / 4)


def test_matrices_decay_and_biases_and_norms_do_not():
    matrices, vectors = parameter_groups(GPT(MODEL), 0.25)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.25, 0.0)
    # 2 embeddings and 4 matrices a layer; 4 biases and 2 norms of 2 a layer, and the last norm
    assert (len(matrices["params"]), len(vectors["params"])) == (2 + 2 * 4, 2 * (4 + 2 * 2) + 2)


@pytest.mark.parametrize("amp", ["fp16", "bf16"])
def test_mixed_precision_logs_the_same_losses_and_unscaled_norms(tmp_path, amp):
    trainer(tmp_path / "off", epochs=1).fit()
    record = trainer(tmp_path / amp, epochs=1, amp=amp).fit()
    exact, rounded = read_steps(tmp_path / "off"), read_steps(tmp_path / amp)
    assert rounded.loss.tolist() == pytest.approx(exact.loss.tolist(), rel=0.01)
    assert rounded.grad_norm.tolist() == pytest.approx(exact.grad_norm.tolist(), rel=0.05)
    assert rounded.loss.tolist() != exact.loss.tolist()  # or autocast was never on
    assert record["amp"] == {"fp16": "float16", "bf16": "bfloat16"}[amp]


def set_scaler(monkeypatch, **settings):
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *a, **k: scaler(*a, **k, **settings))


def test_a_step_whose_fp16_gradient_overflows_is_left_out(tmp_path, monkeypatch):
    set_scaler(monkeypatch, init_scale=2.0**40)  # halved at every overflow
    weights, step = [], Trainer._optimiser_step

    def watched(self, *batch):
        weights.append(self.model.token_embedding.weight.detach().clone())
        return step(self, *batch)

    monkeypatch.setattr(Trainer, "_optimiser_step", watched)
    record = trainer(tmp_path, epochs=6, amp="fp16", schedule="fixed").fit()
    norms = [row["grad_norm"] for row in step_rows(tmp_path)]
    assert norms[:20] == [None] * 20
    assert 60 - norms.count(None) > 5
    for before, after, norm in zip(weights[:-1], weights[1:], norms[:-1], strict=True):
        assert torch.equal(before, after) == (norm is None)
    assert record["epochs"][0]["grad_norm"] == 0  # no step of it counted
    assert [e["skipped"] for e in record["epochs"]] == [
        norms[start : start + 10].count(None) for start in range(0, 60, 10)
    ]
    counted = [norm for norm in norms[50:] if norm is not None]
    assert record["epochs"][5]["grad_norm"] == pytest.approx(sum(counted) / len(counted))


def test_clipping_shortens_the_gradient_but_not_the_logged_norm(tmp_path):
    clipped = trainer(tmp_path, epochs=1, batch_size=40, clip_norm=0.01)
    clipped.fit()
    assert gradient_norm(clipped.model) == pytest.approx(0.01, rel=1e-3)
    assert step_rows(tmp_path)[0]["grad_norm"] > 0.1


def test_clip_norm_0_leaves_the_gradient(tmp_path):
    unclipped = trainer(tmp_path, epochs=1, batch_size=40, clip_norm=0, learning_rate=0.1)
    unclipped.fit()
    norm = gradient_norm(unclipped.model)
    assert norm == pytest.approx(step_rows(tmp_path)[0]["grad_norm"], rel=1e-5)
    assert norm > 0.1


# -- epochs ---------------------------------------------------------------------------------------


def test_epoch_line_has_the_papers_form():
    epoch = {
        "epoch": 1, "train_loss": 0.45031, "valid_loss": 0.21562, "perplexity": 1.24063,
        "lr": 0.001, "grad_norm": 168331.0,
    }  # fmt: skip
    assert epoch_line(epoch) == (
        "Epoch 1: Train Loss=0.4503, Val Loss=0.2156, Perplexity=1.2406, LR=0.001000, "
        "GradNorm=1.6833e+05"
    )


def test_every_epoch_prints_its_line(tmp_path, capsys):
    record = Trainer(MODEL, THREE_EPOCHS, random_ids(), tmp_path, {}, progress=True).fit()
    output = capsys.readouterr()
    lines = [line for line in output.err.splitlines() if line.startswith("Epoch")]
    assert lines == [epoch_line(epoch) for epoch in record["epochs"]]
    for number, line in enumerate(lines, start=1):
        assert re.fullmatch(
            rf"Epoch {number}: Train Loss=\d\.\d{{4}}, Val Loss=\d\.\d{{4}}, "
            r"Perplexity=\d+\.\d{4}, LR=0\.\d{6}, GradNorm=\d\.\d{4}e[+-]\d\d",
            line,
        )
    assert len(lines) == 3
    assert output.out == ""  # what a shell pipes on is not mixed with the log


def script_validation(monkeypatch, losses):
    """Let the validation losses be these; returns the weights that each epoch ended with."""
    weights, script = [], iter(losses)

    def scripted(model, ids, **_):
        weights.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(script) * (len(ids) - 1), len(ids) - 1

    monkeypatch.setattr(train, "total_loss", scripted)
    return weights


@pytest.mark.parametrize(
    ("patience", "losses", "epochs", "best"),
    [
        (3, [3, 2, 2.5, 2.4, 2.3, 1, 1, 1], 5, 2),
        (2, [3, 2.5, 2.6, 2.4, 2.5, 2.6, 1, 1], 6, 4),  # a better epoch starts the count anew
        (2, [2, 2, 2, 1, 1, 1, 1, 1], 3, 1),  # as good is not better
        (0, [1, 2, 3, 4, 5, 6, 7, 8], 8, 1),
        (3, [8, 7, 6, 5, 4, 3, 2, 1], 8, 8),
    ],
)
def test_stops_after_patience_epochs_and_keeps_the_best(
    tmp_path, monkeypatch, patience, losses, epochs, best
):
    weights = script_validation(monkeypatch, losses)
    record = trainer(tmp_path, epochs=8, patience=patience).fit()
    assert [epoch["valid_loss"] for epoch in record["epochs"]] == losses[:epochs]
    assert record["best"]["epoch"] == best
    assert record["best"]["perplexity"] == pytest.approx(math.exp(losses[best - 1]))
    assert_same_tensors(load_file(tmp_path / "best.safetensors"), weights[best - 1])
    different = [e for e in range(epochs) if e != best - 1]
    assert not any(
        torch.equal(weights[e]["norm.bias"], weights[best - 1]["norm.bias"]) for e in different
    )


def test_an_early_stop_stays_a_stop(tmp_path, monkeypatch):
    script_validation(monkeypatch, [1, 2, 3])
    with monkeypatch.context() as patch:
        Interrupt(patch, Trainer, "_write_record", 5)  # all is done but the last record
        with pytest.raises(KeyboardInterrupt):
            trainer(tmp_path, epochs=8, patience=2).fit()
    record = trainer(tmp_path, epochs=8, patience=2).fit()
    assert [epoch["valid_loss"] for epoch in record["epochs"]] == [1, 2, 3]
    assert (record["status"], len(step_rows(tmp_path))) == ("finished", 30)


def test_record_and_step_log_say_what_was_done(tmp_path):
    record = trainer(tmp_path, accumulation=3).fit()  # 40 windows by 12: 4 steps
    assert record == read_record(tmp_path)
    assert record["status"] == "finished"
    assert record["identity"]["data"] == "pairs"
    assert record["identity"]["train"]["accumulation"] == 3
    assert record["identity"]["model"]["n_embd"] == 16
    assert (record["steps_per_epoch"], record["tokens_per_epoch"]) == (4, 40 * 16)
    assert record["parameters"] == sum(p.numel() for p in GPT(MODEL).parameters())
    assert record["amp"] == "float32"
    assert [epoch["step"] for epoch in record["epochs"]] == [4, 8, 12]
    assert all(epoch["tokens_per_second"] > 0 for epoch in record["epochs"])
    steps = read_steps(tmp_path)
    assert steps.step.tolist() == list(range(1, 13))
    assert steps.epoch.tolist() == [1] * 4 + [2] * 4 + [3] * 4
    config = replace(THREE_EPOCHS, accumulation=3)
    assert steps.lr.tolist() == pytest.approx([learning_rate(s, 12, config) for s in range(12)])
    assert record["epochs"][0]["lr"] == pytest.approx(steps.lr[3])


def test_every_epoch_sees_every_window_once_in_another_order(tmp_path, monkeypatch):
    seen = []
    step = Trainer._optimiser_step
    monkeypatch.setattr(
        Trainer,
        "_optimiser_step",
        lambda self, x, *y: (seen.append(tuple(map(tuple, x.tolist()))), step(self, x, *y))[1],
    )
    trainer(tmp_path, epochs=2).fit()
    first, second = sum(seen[:10], ()), sum(seen[10:], ())
    windows = random_ids()["train"][:-1].view(40, 16)
    assert Counter(first) == Counter(second) == Counter(map(tuple, windows.tolist()))
    assert first != second


def test_train_and_valid_tokens_use_the_beginning_of_a_split(tmp_path):
    short = trainer(tmp_path / "a", train_tokens=161, valid_tokens=40)
    record = short.fit()
    assert record["tokens_per_epoch"] == 160
    ids = random_ids()
    cut = {"train": ids["train"][:161], "valid": ids["valid"][:40]}
    same = trainer(tmp_path / "b", ids=cut).fit()
    assert timeless(record["epochs"]) == timeless(same["epochs"])


def test_too_few_tokens_for_a_window(tmp_path):
    with pytest.raises(DataError, match="16 tokens"):
        trainer(tmp_path, train_tokens=16)


def test_learns_a_sequence_that_repeats(tmp_path):
    ids = torch.arange(2000) % 10
    model = replace(MODEL, vocab_size=10)
    run = trainer(
        tmp_path, model=model, ids={"train": ids, "valid": ids[:300]}, epochs=4, batch_size=8
    )
    with pytest.warns(ImplausibleLossWarning, match="implausibly low: below"):  # no natural text
        record = run.fit()
    assert record["epochs"][0]["train_loss"] > 0.5
    assert record["best"]["valid_loss"] < 0.1 < math.log(10) / 20


def test_two_runs_are_the_same_bit_for_bit_and_another_seed_is_not(tmp_path):
    trainer(tmp_path / "a", model=DROPOUT).fit()
    torch.rand(3)  # what else this process draws must not matter
    trainer(tmp_path / "b", model=DROPOUT).fit()
    assert_same_run(tmp_path / "a", tmp_path / "b")
    trainer(tmp_path / "c", model=DROPOUT, seed=1).fit()
    a, c = (load_file(tmp_path / f / "best.safetensors") for f in "ac")
    assert not torch.equal(a["token_embedding.weight"], c["token_embedding.weight"])


def test_what_is_drawn_between_construction_and_fit_does_not_matter(tmp_path):
    trainer(tmp_path / "a", model=DROPOUT).fit()
    late = trainer(tmp_path / "b", model=DROPOUT)
    torch.rand(3)
    late.fit()
    assert_same_run(tmp_path / "a", tmp_path / "b")


# -- the audit's switches -------------------------------------------------------------------------


def assert_same_weights(folder, other):
    ours, theirs = (load_file(f / "best.safetensors") for f in (folder, other))
    assert_same_tensors(ours, theirs)


def without(rows, name):
    return [{k: v for k, v in row.items() if k != name} for row in rows]


def column(rows, name):
    return [row[name] for row in rows]


@pytest.mark.parametrize("accumulation", [3, 4])  # 12 or 16 windows a step: the last has 4 or 8
def test_the_divided_loss_is_divided_in_the_log_and_nowhere_else(tmp_path, accumulation):
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    changes = {"model": DROPOUT, "accumulation": accumulation}
    whole = timeless(trainer(right, **changes).fit()["epochs"])
    divided = timeless(trainer(wrong, **changes, log_divided_loss=True).fit()["epochs"])
    assert_same_weights(wrong, right)
    for ours, theirs, name in (
        (step_rows(wrong), step_rows(right), "loss"),
        (divided, whole, "train_loss"),
    ):
        expected = [value / accumulation for value in column(theirs, name)]
        assert column(ours, name) == pytest.approx(expected, rel=1e-6)
        assert without(ours, name) == without(theirs, name)


def test_the_scaled_norm_is_in_the_log_and_nowhere_else(tmp_path):
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    changes = {"model": DROPOUT, "epochs": 2, "amp": "fp16"}
    whole = timeless(trainer(right, **changes).fit()["epochs"])
    scaled = timeless(trainer(wrong, **changes, log_scaled_norm=True).fit()["epochs"])
    assert_same_weights(wrong, right)
    for ours, theirs in ((step_rows(wrong), step_rows(right)), (scaled, whole)):
        expected = [65536 * value for value in column(theirs, "grad_norm")]
        assert column(ours, "grad_norm") == expected  # to the last bit: the scale is 2 ** 16
        assert without(ours, "grad_norm") == without(theirs, "grad_norm")


def test_without_fp16_there_is_no_scale_to_log(tmp_path):
    trainer(tmp_path / "right", epochs=2).fit()
    trainer(tmp_path / "wrong", epochs=2, log_scaled_norm=True).fit()
    assert_same_run(tmp_path / "wrong", tmp_path / "right")


def test_an_epoch_of_so_many_windows_draws_others_each_time(tmp_path, monkeypatch):
    seen, step = {1: [], 2: [], 3: []}, Trainer._optimiser_step

    def watched(self, inputs, *rest):
        seen[len(self.epochs) + 1] += map(tuple, inputs.tolist())
        return step(self, inputs, *rest)

    monkeypatch.setattr(Trainer, "_optimiser_step", watched)
    record = trainer(tmp_path, epoch_windows=10).fit()
    assert (record["steps_per_epoch"], record["tokens_per_epoch"]) == (3, 160)
    assert [epoch["step"] for epoch in record["epochs"]] == [3, 6, 9]
    assert record["epochs"][-1]["lr"] == 0  # the schedule is as long as the run
    windows = set(map(tuple, random_ids()["train"][:-1].view(40, 16).tolist()))
    for epoch in seen.values():
        assert len(epoch) == len(set(epoch)) == 10
        assert windows > set(epoch)
    assert len({frozenset(epoch) for epoch in seen.values()}) == 3


@pytest.mark.parametrize("epoch_windows", [40, 1000])
def test_an_epoch_of_as_many_windows_as_there_are_is_the_whole_one(tmp_path, epoch_windows):
    trainer(tmp_path / "a", epochs=2).fit()
    trainer(tmp_path / "b", epochs=2, epoch_windows=epoch_windows).fit()
    assert_same_run(tmp_path / "b", tmp_path / "a")


def test_a_short_epoch_that_was_cut_off_goes_on_with_its_own_windows(tmp_path, monkeypatch):
    def build(folder):  # 18 of 40 windows: 5 steps an epoch, with checkpoints at 4, 5, 8, 10, …
        return trainer(folder, model=DROPOUT, epoch_windows=18)

    with monkeypatch.context() as patch:
        Interrupt(patch, Trainer, "_optimiser_step", 9, after=True)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "cut").fit()
    state = load_state(tmp_path / "cut", "cpu")
    assert (state["step"], len(state["epochs"])) == (8, 1)  # of 10, so in mid-epoch
    build(tmp_path / "cut").fit()
    build(tmp_path / "whole").fit()
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize("shift", [0, 1])
def test_with_windows_of_its_own_a_run_trains_and_validates_on_these(tmp_path, shift):
    ids = random_ids()["train"].flip(0)
    windows = {
        "train": TokenWindows(ids[:161], 16, shift=shift),
        "valid": TokenWindows(ids[200:300], 16, stride=3, shift=shift),
    }
    config = replace(THREE_EPOCHS, epochs=1)
    ours = Trainer(DROPOUT, config, random_ids(), tmp_path, {}, progress=False, windows=windows)
    record = ours.fit()
    assert (record["steps_per_epoch"], record["tokens_per_epoch"]) == (3, 160)
    inputs, targets = windows["valid"][torch.arange(28)]
    assert len(windows["valid"]) == 28
    logits = ours.model.eval()(inputs).logits
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
    assert record["epochs"][0]["valid_loss"] == pytest.approx(expected, abs=1e-5)
    by_position = loss_by_position(ours.model, windows["valid"])
    assert record["epochs"][0]["valid_loss"] == by_position.mean().item()


def test_windows_that_make_no_mistake_give_the_same_weights(tmp_path):
    ids = random_ids()
    windows = {split: TokenWindows(ids[split], 16) for split in ("train", "valid")}
    a, b = tmp_path / "a", tmp_path / "b"
    usual = trainer(a, model=DROPOUT)
    usual.fit()
    ours = Trainer(DROPOUT, THREE_EPOCHS, ids, b, {}, progress=False, windows=windows)
    record = ours.fit()
    assert_same_tensors(ours.model.state_dict(), usual.model.state_dict())
    assert step_rows(b) == step_rows(a)
    # Of 149 targets the last 5 do not fill a window.
    nats, tokens = total_loss(ours.model, ids["valid"][:145])
    assert record["epochs"][-1]["valid_loss"] == pytest.approx(nats / tokens, abs=1e-5)


# -- resume ---------------------------------------------------------------------------------------

CHILD = f"""
import sys, time
sys.path.insert(0, sys.argv[1])
import torch
from pathlib import Path
from llmlite import train
import test_train

torch.set_num_threads(int(sys.argv[3]))
train.FLUSH_EVERY = 1  # so that the step log runs ahead of the checkpoint
step = train.Trainer._optimiser_step

def until_it_is_killed(self, *batch):
    if self.step == {KILL_AT}:
        time.sleep(600)
    return step(self, *batch)

train.Trainer._optimiser_step = until_it_is_killed
test_train.trainer(Path(sys.argv[2]), model=test_train.DROPOUT).fit()
"""


@pytest.mark.slow
def test_a_run_killed_in_mid_epoch_ends_with_the_same_weights(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    here, threads = str(Path(__file__).parent), str(torch.get_num_threads())
    child = subprocess.Popen([sys.executable, "-c", CHILD, here, str(killed), threads])
    try:
        log, deadline = killed / "steps.jsonl", time.monotonic() + 120
        while not log.exists() or log.read_bytes().count(b"\n") < KILL_AT:
            assert child.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "the run did not get to the step it is killed at"
            time.sleep(0.05)
    finally:
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    state = load_state(killed, "cpu")
    assert (state["step"], len(state["epochs"])) == (16, 1)  # of 20, so in mid-epoch
    with open(log, "a", encoding="utf-8") as file:
        file.write('{"step": 19, "epo')  # a line that the kill cut short
    trainer(killed, model=DROPOUT).fit()
    trainer(whole, model=DROPOUT).fit()
    assert_same_run(killed, whole)
    left = {path.name for path in killed.iterdir()}
    assert left == {".lock", "best.safetensors", "record.json", "steps.jsonl"}, "no state"


class Interrupt:
    """Wraps a method so that its n-th call is interrupted, before or after the work."""

    def __init__(self, monkeypatch, owner, name, call, after=False):
        self.calls, original = 0, getattr(owner, name)

        def wrapped(*args, **kwargs):
            self.calls += 1
            if self.calls == call and not after:
                raise KeyboardInterrupt
            result = original(*args, **kwargs)
            if self.calls == call:
                raise KeyboardInterrupt
            return result

        monkeypatch.setattr(owner, name, wrapped)


def interrupt(run, step):
    """Fit until just before optimiser step `step` (from 1)."""
    with pytest.MonkeyPatch.context() as patch:
        Interrupt(patch, Trainer, "_optimiser_step", step)
        with pytest.raises(KeyboardInterrupt):
            run.fit()


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """The run of 11 steps an epoch, the last one smaller, that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    trainer(folder, model=DROPOUT, ids=random_ids(43), checkpoint_every=11).fit()
    return folder


@pytest.mark.parametrize("again", ["the same object", "a new one"])
@pytest.mark.parametrize(
    ("owner", "name", "call", "after"),
    [
        (Trainer, "_optimiser_step", 3, False),  # before the first checkpoint
        (Trainer, "_optimiser_step", 3, True),
        (Trainer, "_optimiser_step", 25, True),  # with steps that were not yet logged
        (Trainer, "_save", 1, True),  # the last step of the epoch, the epoch not yet closed
        (Trainer, "_save", 2, False),  # the best weights are written, the checkpoint is not
        (Trainer, "_save", 4, True),  # the checkpoint is written, the record is not
        (Trainer, "_save", 6, True),  # all is done but the record
        (train, "total_loss", 2, False),
    ],
)
def test_an_interrupted_run_carries_on_as_if_nothing_had_been(
    tmp_path, monkeypatch, whole_run, owner, name, call, after, again
):
    def build():
        return trainer(tmp_path, model=DROPOUT, ids=random_ids(43), checkpoint_every=11)

    run = build()
    with monkeypatch.context() as patch:
        Interrupt(patch, owner, name, call, after)
        with pytest.raises(KeyboardInterrupt):
            run.fit()
    (run if again == "the same object" else build()).fit()
    assert_same_run(tmp_path, whole_run)


@pytest.mark.parametrize("again", ["the same object", "a new one"])
def test_an_fp16_run_carries_on_with_its_scale(tmp_path, monkeypatch, again):
    def build(folder):
        return trainer(folder, model=DROPOUT, amp="fp16")

    set_scaler(monkeypatch, growth_interval=5)
    run = build(tmp_path / "a")
    with monkeypatch.context() as patch:
        Interrupt(patch, torch.nn.utils, "clip_grad_norm_", 19)  # between unscaling and the step
        with pytest.raises(KeyboardInterrupt):
            run.fit()
    run, whole = run if again == "the same object" else build(tmp_path / "a"), build(tmp_path / "b")
    run.fit()
    whole.fit()
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert run.engine.scaler.get_scale() == whole.engine.scaler.get_scale() > 65536


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    record = trainer(tmp_path).fit()
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    monkeypatch.setattr(Trainer, "_optimiser_step", lambda *_: pytest.fail("it trains"))
    again = trainer(tmp_path)
    assert again.finished()
    assert again.fit() == record
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize(
    ("model", "changes", "difference"),
    [
        (MODEL, {"learning_rate": 0.5}, "train.learning_rate: 0.01 there, 0.5 here"),
        (DROPOUT, {}, "model.dropout: 0.0 there, 0.3 here"),
    ],
)
def test_another_configuration_does_not_take_over_a_folder(tmp_path, model, changes, difference):
    interrupt(trainer(tmp_path), 12)
    before = (tmp_path / "last.pt").read_bytes()
    other = trainer(tmp_path, model=model, **changes)
    assert not other.finished()
    with pytest.raises(CheckpointError, match=re.escape(difference)) as error:
        other.fit()
    assert str(tmp_path) in str(error.value)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_a_finished_run_is_not_taken_over_either(tmp_path):
    record = trainer(tmp_path, epochs=1).fit()
    with pytest.raises(CheckpointError, match=r"train.epochs: 1 there, 3 here"):
        trainer(tmp_path).fit()
    assert read_record(tmp_path) == record


def test_what_may_only_be_read_is_given_if_it_is_finished(tmp_path, one_sentence):
    def read():
        about = {"data": "pairs"}
        reader = Trainer(MODEL, THREE_EPOCHS, random_ids(), tmp_path, about, only_read="Not here.")
        return reader.fit()

    with pytest.raises(MissingRunError, match=r"no finished run in .*: Not here\.") as error:
        read()
    one_sentence(error)
    assert not list(tmp_path.iterdir())
    interrupt(trainer(tmp_path), 12)
    with pytest.raises(MissingRunError):
        read()
    record = trainer(tmp_path).fit()
    assert read() == record


def test_checkpoints_go_by_time_unless_steps_are_given(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", math.inf)
    often, never = tmp_path / "often", tmp_path / "never"
    interrupt(trainer(never, checkpoint_every=None), 29)
    left = {path.name for path in never.iterdir()}
    assert left == {".lock", "record.json", "steps.jsonl"}, "two epochs were not worth a file yet"
    trainer(never, checkpoint_every=None).fit()
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0)
    interrupt(trainer(often, checkpoint_every=None), 29)
    assert load_state(often, "cpu")["step"] == 28
    trainer(often, checkpoint_every=None).fit()
    assert_same_run(often, never)


def test_other_data_or_another_stride_is_another_run(tmp_path):
    interrupt(trainer(tmp_path), 12)
    other = Trainer(MODEL, THREE_EPOCHS, random_ids(), tmp_path, {"data": "b"}, stride=8)
    with pytest.raises(
        CheckpointError, match="data: pairs there, b here, stride: 16 there, 8 here"
    ):
        other.fit()


def damage(path, how):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if how == "tampered":
        content[middle] ^= 1  # one bit
    path.write_bytes(
        {"empty": b"", "foreign": b"no checkpoint", "half": content[:middle]}.get(how, content)
    )


@pytest.mark.parametrize("how", ["empty", "foreign", "half", "tampered"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    tmp_path, monkeypatch, capsys, how, whole_run
):
    def build():
        return trainer(tmp_path, model=DROPOUT, ids=random_ids(43), checkpoint_every=11)

    with monkeypatch.context() as patch:
        Interrupt(patch, Trainer, "_optimiser_step", 25, after=True)
        with pytest.raises(KeyboardInterrupt):
            build().fit()
    damage(tmp_path / "last.pt", how)
    build().fit()
    named = capsys.readouterr().err
    assert str(tmp_path / "last.pt") in named
    assert "damaged-last.pt" in named
    assert_same_run(tmp_path, whole_run)


def test_when_both_checkpoints_are_damaged_the_run_says_so_and_then_starts_anew(tmp_path):
    interrupt(trainer(tmp_path), 12)
    damage(tmp_path / "last.pt", "half")
    damage(tmp_path / "previous.pt", "tampered")
    with pytest.raises(CheckpointError, match=r"No checkpoint .* is whole \(last.pt, prev"):
        trainer(tmp_path).fit()
    trainer(tmp_path).fit()
    trainer(tmp_path / "whole").fit()
    assert_same_run(tmp_path, tmp_path / "whole")


def test_the_previous_checkpoint_is_the_one_before(tmp_path):
    interrupt(trainer(tmp_path), 12)  # checkpoints at steps 4, 8, 10
    assert load_state(tmp_path, "cpu")["step"] == 10
    (tmp_path / "last.pt").unlink()
    assert load_state(tmp_path, "cpu")["step"] == 8


def test_damaged_best_weights_are_written_again_from_the_checkpoint(tmp_path, whole_run):
    run = trainer(tmp_path, model=DROPOUT, ids=random_ids(43), checkpoint_every=11)
    interrupt(run, 30)
    damage(tmp_path / "best.safetensors", "half")
    run.fit()
    assert_same_run(tmp_path, whole_run)


# -- divergence -----------------------------------------------------------------------------------


def before_step(monkeypatch, number, action):
    """Do something to the model just before its optimiser step `number` (from 1)."""
    step = Trainer._optimiser_step

    def wrapped(self, *batch):
        if self.step + 1 == number:
            action(self.model)
        return step(self, *batch)

    monkeypatch.setattr(Trainer, "_optimiser_step", wrapped)


def test_a_huge_learning_rate_is_reported_with_its_step(tmp_path):
    with pytest.raises(DivergedError, match=r"at step \d+ of 30 .*1\.00e\+30.* lower the learning"):
        trainer(tmp_path, learning_rate=1e30, schedule="fixed").fit()
    record = read_record(tmp_path)
    assert record["status"] == "failed"
    assert "lower the learning rate" in record["reason"]
    assert record["epochs"] == []
    assert record["best"] is None


def test_a_loss_that_is_not_a_number_stops_the_run_before_it_is_saved(tmp_path, monkeypatch):
    before_step(monkeypatch, 14, lambda model: model.norm.weight.data.fill_(math.nan))
    with pytest.raises(DivergedError, match=r"The loss became nan at step 14 of 30"):
        trainer(tmp_path, checkpoint_every=1).fit()
    state = load_state(tmp_path, "cpu")
    assert state["step"] == 13
    assert all(weight.isfinite().all() for weight in state["model"].values())
    record = read_record(tmp_path)
    assert record["status"] == "failed"
    assert "at step 14 of 30" in record["reason"]
    assert len(record["epochs"]) == 1


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    def spoil(model):
        model.norm.weight.register_hook(lambda gradient: gradient * math.inf)

    before_step(monkeypatch, 14, spoil)
    with pytest.raises(DivergedError, match=r"The gradient's norm became (inf|nan) at step 14 of"):
        trainer(tmp_path).fit()


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1000.0], ids=["nan", "inf", "too large"])
def test_a_validation_loss_without_a_perplexity_stops_the_run(tmp_path, monkeypatch, loss):
    script_validation(monkeypatch, [2.0, loss])
    with pytest.raises(DivergedError, match=r"validation loss became .* after epoch 2"):
        trainer(tmp_path).fit()


def test_too_many_steps_left_out_in_a_row_end_the_run_with_a_record(tmp_path, monkeypatch):
    set_scaler(monkeypatch, init_scale=2.0**80)
    with pytest.raises(DivergedError, match=r"overflowed float16 31 times in a row.*choose amp"):
        trainer(tmp_path, epochs=6, amp="fp16").fit()
    record = read_record(tmp_path)
    assert record["status"] == "failed"
    assert "31 times in a row" in record["reason"]


def test_a_failed_run_is_tried_again_from_its_last_checkpoint(tmp_path, monkeypatch, whole_run):
    def build():
        return trainer(tmp_path, model=DROPOUT, ids=random_ids(43), checkpoint_every=11)

    with monkeypatch.context() as patch:
        before_step(patch, 14, lambda model: model.norm.weight.data.fill_(math.nan))
        with pytest.raises(DivergedError):
            build().fit()
    build().fit()
    assert_same_run(tmp_path, whole_run)


# -- out of memory --------------------------------------------------------------------------------


def test_out_of_memory_ends_the_run_with_a_record_and_advice(tmp_path, monkeypatch):
    def exhausted(self, ids, *rest):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    with monkeypatch.context() as patch:
        patch.setattr(GPT, "embed", exhausted)
        with pytest.raises(OutOfMemoryError, match="smaller batch_size") as error:
            trainer(tmp_path, batch_size=10, accumulation=2).fit()
    assert "At step 1, cpu ran out of memory with 20 windows" in str(error.value)
    assert read_record(tmp_path)["reason"] == str(error.value)
    assert read_record(tmp_path)["status"] == "failed"


# -- one process a folder, and a disk that is full ------------------------------------------------


def test_a_second_process_on_a_folder_is_told_so(tmp_path):
    script = (
        "import sys, time; from llmlite.files import hold\n"
        "with hold(sys.argv[1]): print('held', flush=True); time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match=f"in use by process {other.pid} on ") as error:
            trainer(tmp_path).fit()
        assert str(tmp_path) in str(error.value)
        assert not (tmp_path / "record.json").exists()
    finally:
        other.kill()
        other.wait()
    assert trainer(tmp_path, epochs=1).fit()["status"] == "finished"  # its lock died with it


def test_a_folder_is_free_again_after_an_interruption(tmp_path):
    interrupt(trainer(tmp_path), 3)
    assert trainer(tmp_path).fit()["status"] == "finished"


@pytest.mark.parametrize("name", ["last.pt", "best.safetensors", "record.json", "steps.jsonl"])
def test_a_full_disk_stops_the_run_in_a_sentence_and_the_last_good_state_stays(
    tmp_path, monkeypatch, whole_run, name
):
    """/dev/full answers every write as a full disk does."""

    def build():
        return trainer(tmp_path, model=DROPOUT, ids=random_ids(43), checkpoint_every=11)

    def fill_the_disk(_):
        path = tmp_path / name
        if name == "steps.jsonl":
            path.rename(tmp_path / "kept")
        else:
            path = path.with_name(f".{name}.{os.getpid()}.tmp{path.suffix}")
        path.symlink_to("/dev/full")

    with monkeypatch.context() as patch:
        before_step(patch, 22, fill_the_disk)
        with pytest.raises(DiskFullError, match=rf"no room left to write \S+{name}") as error:
            build().fit()
    assert "\n" not in str(error.value)
    if name == "steps.jsonl":
        (tmp_path / name).unlink()
        (tmp_path / "kept").rename(tmp_path / name)
    assert load_state(tmp_path, "cpu")["step"] in (11, 22)
    assert not [path for path in tmp_path.glob(".*") if path.name != ".lock"]
    build().fit()
    assert_same_run(tmp_path, whole_run)


# -- fast and plain -------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_fast_path_gives_the_plain_ones_curve(tmp_path, accumulation):
    """100 steps at float32, to 1e-5, with ragged last batches."""
    changes = {"epochs": 10, "accumulation": accumulation, "ids": random_ids(39)}
    trainer(tmp_path / "fast", **changes).fit()
    trainer(tmp_path / "plain", **changes, fast=False).fit()
    fast, plain = read_steps(tmp_path / "fast"), read_steps(tmp_path / "plain")
    assert len(fast) == 100 // accumulation
    assert (fast.loss - plain.loss).abs().max() < 1e-5
    assert (fast.grad_norm - plain.grad_norm).abs().max() < 1e-4
    assert plain.loss.iloc[-1] < plain.loss.iloc[0] - 1
    engines = [read_record(tmp_path / f)["engine"] for f in ("fast", "plain")]
    merged = ", 2 pieces merged" if accumulation == 2 else ""
    assert engines == [f"uncompiled{merged}", "plain"]


def test_a_run_does_not_change_paths_on_the_way(tmp_path):
    interrupt(trainer(tmp_path), 12)
    with pytest.raises(CheckpointError, match=r"train.fast: True there, False here"):
        trainer(tmp_path, fast=False).fit()


def test_what_a_killed_process_half_wrote_is_cleared_away(tmp_path):
    (tmp_path / ".last.pt.123.tmp.pt").write_bytes(b"half")
    Trainer(MODEL, THREE_EPOCHS, random_ids(), tmp_path, {}, progress=False).fit()
    assert [path.name for path in tmp_path.glob(".*")] == [".lock"]
