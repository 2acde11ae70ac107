"""The Trainer against a plain loop, and runs that are stopped in every way there is."""

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
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F

from llmlite import train
from llmlite.config import DataConfig, ModelConfig, TrainConfig
from llmlite.data import Dataset
from llmlite.engine import learning_rate
from llmlite.files import (
    BusyError,
    CheckpointError,
    DataError,
    DiskFullError,
    DivergedError,
    LLMLiteError,
    hold,
)
from llmlite.metrics import ImplausibleLossWarning, total_loss
from llmlite.model import GPT
from llmlite.run import Run, load_state, read_record, read_steps
from llmlite.train import Compute, Trainer, epoch_line
from llmlite.windows import EpochSampler, TokenWindows, windows_of

MODEL = ModelConfig(vocab_size=50, block_size=16, n_layer=2, n_head=2, n_embd=16, dropout=0.0)
DROPOUT = replace(MODEL, dropout=0.3)
# 40 windows in batches of 4: 10 steps an epoch, with checkpoints at 4, 8, 10, 12, 16, 20, …
THREE_EPOCHS = TrainConfig(
    epochs=3, batch_size=4, learning_rate=1e-2, checkpoint_every=4, patience=0, amp="off"
)
ABOUT = {"data": "pairs"}
QUIET = Compute(progress=False)


def random_ids(windows=40):
    """Token ids for so many training windows; the pairs (2k, 2k + 1) are there to be learnt."""
    generator = torch.Generator().manual_seed(7)
    evens = 2 * torch.randint(0, 25, (windows * 8 + 1,), generator=generator)
    ids = torch.stack([evens, evens + 1], dim=1).flatten()
    return {"train": ids[: windows * 16 + 1], "valid": ids[200:350], "test": ids[:150]}


def trainer(
    folder, config=THREE_EPOCHS, model=MODEL, ids=None, compute=QUIET, about=ABOUT, stride=None,
    **changes,
):  # fmt: skip
    """changes: of the training configuration."""
    data = DataConfig(vocab_size=model.vocab_size, block_size=model.block_size, stride=stride)
    dataset = Dataset.of_ids(ids or random_ids(), data, about)
    return Trainer(Run("pairs", data, model, replace(config, **changes)), dataset, folder, compute)


def ragged(folder):
    """A run of 11 steps an epoch, the last one smaller."""
    return trainer(folder, model=DROPOUT, ids=random_ids(43), checkpoint_every=11)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """The ragged run that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    ragged(folder).fit()
    return folder


def column(folder, name):
    """Of the step log: None where there is no number."""
    values = read_steps(folder)[name]
    return values.astype(object).where(values.notna(), None).tolist()


def timeless(epochs):
    """The log of the epochs without the columns that depend on the clock."""
    clock = ("seconds", "tokens_per_second")
    return [{k: v for k, v in epoch.items() if k not in clock} for epoch in epochs]


def gradient_norm(model):
    return math.sqrt(sum(p.grad.double().square().sum().item() for p in model.parameters()))


def assert_same_tensors(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def assert_same_weights(folder, other):
    ours, theirs = (load_file(path / "best.safetensors") for path in (folder, other))
    assert_same_tensors(ours, theirs)


def assert_same_run(folder, other):
    """Weights bit for bit, the step logs and the epoch logs."""
    assert_same_weights(folder, other)
    assert (folder / "steps.jsonl").read_text() == (other / "steps.jsonl").read_text()
    assert timeless(read_record(folder)["epochs"]) == timeless(read_record(other)["epochs"])
    assert read_record(folder)["status"] == "finished"


class Interrupt:
    """Wraps a function so that its n-th call is interrupted, before or after the work."""

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


def interrupt(run, step, owner=Trainer, name="_optimiser_step", after=False):
    """Fit until just before (after: just after) optimiser step `step` (from 1), or such a call."""
    with pytest.MonkeyPatch.context() as patch:
        Interrupt(patch, owner, name, step, after)
        with pytest.raises(KeyboardInterrupt):
            run.fit()


def before_step(monkeypatch, action):
    """Call action(trainer, inputs) before each optimiser step."""
    step = Trainer._optimiser_step

    def wrapped(self, *batch):
        action(self, batch[0])
        return step(self, *batch)

    monkeypatch.setattr(Trainer, "_optimiser_step", wrapped)


def set_scaler(monkeypatch, **settings):
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *a, **k: scaler(*a, **k, **settings))


def script_validation(monkeypatch, losses):
    """Let the validation losses be these; returns the weights that each epoch ended with."""
    weights, script = [], iter(losses)

    def scripted(model, ids, **_):
        weights.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(script) * (len(ids) - 1), len(ids) - 1

    monkeypatch.setattr(train, "total_loss", scripted)
    return weights


# -- the learning rate ----------------------------------------------------------------------------


def test_rates_at_the_ends_of_the_epochs_are_the_papers():
    config = TrainConfig(epochs=10, learning_rate=1e-3)
    rates = [f"{learning_rate(100 * epoch - 1, 1000, config):.6f}" for epoch in range(1, 11)]
    assert rates == [
        "0.001000", "0.000970", "0.000883", "0.000750", "0.000587",
        "0.000413", "0.000250", "0.000117", "0.000030", "0.000000",
    ]  # fmt: skip


def test_warmup_is_linear_and_then_the_cosine_falls():
    config = TrainConfig(learning_rate=0.4)  # the first tenth of the steps
    rates = [learning_rate(step, 40, config) for step in range(40)]
    assert rates[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert rates[21] == pytest.approx(0.2)  # half of the cosine: 18 of the 36 steps after it
    half = replace(config, warmup_fraction=0.5)
    assert [learning_rate(s, 20, half) for s in (4, 9, 14)] == pytest.approx([0.2, 0.4, 0.2])
    fixed = replace(config, schedule="fixed")
    assert {learning_rate(step, 40, fixed) for step in range(40)} == {0.4}


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
    assert column(tmp_path, "loss") == pytest.approx(losses, abs=1e-5)
    assert column(tmp_path, "grad_norm") == pytest.approx(norms, abs=1e-5)
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
    norms = column(tmp_path, "grad_norm")
    assert len(norms) == 4
    assert record["epochs"][0]["grad_norm"] == pytest.approx(sum(norms) / 4)


@pytest.mark.parametrize(("clip_norm", "expected"), [(0.01, 0.01), (0, None)])
def test_clipping_shortens_the_gradient_but_not_the_logged_norm(tmp_path, clip_norm, expected):
    run = trainer(tmp_path, epochs=1, batch_size=40, clip_norm=clip_norm)
    run.fit()
    (logged,) = column(tmp_path, "grad_norm")
    assert logged > 0.1
    assert gradient_norm(run.model) == pytest.approx(expected or logged, rel=1e-3)


@pytest.mark.parametrize("amp", ["fp16", "bf16"])
def test_mixed_precision_logs_the_same_losses_and_unscaled_norms(tmp_path, amp):
    trainer(tmp_path / "off", epochs=1).fit()
    record = trainer(tmp_path / amp, epochs=1, amp=amp).fit()
    exact, rounded = read_steps(tmp_path / "off"), read_steps(tmp_path / amp)
    assert rounded.loss.tolist() == pytest.approx(exact.loss.tolist(), rel=0.01)
    assert rounded.grad_norm.tolist() == pytest.approx(exact.grad_norm.tolist(), rel=0.05)
    assert rounded.loss.tolist() != exact.loss.tolist()  # or autocast was never on
    assert record["amp"] == {"fp16": "float16", "bf16": "bfloat16"}[amp]


def test_a_step_whose_fp16_gradient_overflows_is_left_out(tmp_path, monkeypatch):
    set_scaler(monkeypatch, init_scale=2.0**40)  # halved at every overflow
    weights = []
    before_step(
        monkeypatch,
        lambda run, _: weights.append(run.model.token_embedding.weight.detach().clone()),
    )
    record = trainer(tmp_path, epochs=6, amp="fp16", schedule="fixed").fit()
    norms = column(tmp_path, "grad_norm")
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


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_fast_path_gives_the_plain_ones_curve(tmp_path, accumulation):
    """100 steps at float32, to 1e-5, with ragged last batches."""
    changes = {"epochs": 10, "accumulation": accumulation, "ids": random_ids(39)}
    fast = trainer(tmp_path / "fast", **changes).fit()
    plain = trainer(tmp_path / "plain", **changes, fast=False).fit()
    merged = ", 2 pieces merged" if accumulation == 2 else ""
    assert (fast["engine"], plain["engine"]) == (f"uncompiled{merged}", "plain")
    fast, plain = read_steps(tmp_path / "fast"), read_steps(tmp_path / "plain")
    assert len(fast) == 100 // accumulation
    assert (fast.loss - plain.loss).abs().max() < 1e-5
    assert (fast.grad_norm - plain.grad_norm).abs().max() < 1e-4
    assert plain.loss.iloc[-1] < plain.loss.iloc[0] - 1


# -- epochs ---------------------------------------------------------------------------------------


def test_every_epoch_prints_its_line_in_the_papers_form(tmp_path, capsys):
    epoch = {
        "epoch": 1, "train_loss": 0.45031, "valid_loss": 0.21562, "perplexity": 1.24063,
        "lr": 0.001, "grad_norm": 168331.0,
    }  # fmt: skip
    assert epoch_line(epoch) == (
        "Epoch 1: Train Loss=0.4503, Val Loss=0.2156, Perplexity=1.2406, LR=0.001000, "
        "GradNorm=1.6833e+05"
    )
    record = trainer(tmp_path, compute=Compute(progress=True)).fit()
    output = capsys.readouterr()
    lines = [line for line in output.err.splitlines() if line.startswith("Epoch")]
    assert lines == [epoch_line(epoch) for epoch in record["epochs"]]
    assert output.out == ""  # what a shell pipes on is not mixed with the log


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
    interrupt(trainer(tmp_path, epochs=8, patience=patience), epochs + 2, Trainer, "_write_record")
    # All was done but the last record: an early stop stays a stop.
    record = trainer(tmp_path, epochs=8, patience=patience).fit()
    assert [epoch["valid_loss"] for epoch in record["epochs"]] == losses[:epochs]
    assert len(read_steps(tmp_path)) == 10 * epochs
    assert record["best"]["epoch"] == best
    assert record["best"]["perplexity"] == pytest.approx(math.exp(losses[best - 1]))
    assert_same_tensors(load_file(tmp_path / "best.safetensors"), weights[best - 1])
    different = [e for e in range(epochs) if e != best - 1]
    assert not any(
        torch.equal(weights[e]["norm.bias"], weights[best - 1]["norm.bias"]) for e in different
    )


def test_record_and_step_log_say_what_was_done(tmp_path):
    record = trainer(tmp_path, accumulation=3).fit()  # 40 windows by 12: 4 steps
    assert record == read_record(tmp_path)
    assert record["status"] == "finished"
    identity = record["identity"]
    assert (identity["data"], identity["stride"]) == ("pairs", 16)
    assert (identity["train"]["accumulation"], identity["model"]["n_embd"]) == (3, 16)
    assert (record["steps_per_epoch"], record["tokens_per_epoch"]) == (4, 40 * 16)
    assert record["parameters"] == sum(p.numel() for p in GPT(MODEL).parameters())
    assert (record["amp"], record["processes"]) == ("float32", 1)
    assert [epoch["step"] for epoch in record["epochs"]] == [4, 8, 12]
    assert all(epoch["tokens_per_second"] > 0 for epoch in record["epochs"])
    steps = read_steps(tmp_path)
    assert steps.step.tolist() == list(range(1, 13))
    assert steps.epoch.tolist() == [1] * 4 + [2] * 4 + [3] * 4
    config = replace(THREE_EPOCHS, accumulation=3)
    assert steps.lr.tolist() == pytest.approx([learning_rate(s, 12, config) for s in range(12)])
    assert record["epochs"][0]["lr"] == pytest.approx(steps.lr[3])


@pytest.mark.parametrize("epoch_windows", [None, 10, 1000])
def test_every_epoch_sees_each_of_its_windows_once_in_another_order(
    tmp_path, monkeypatch, epoch_windows
):
    seen = {1: [], 2: [], 3: []}
    before_step(
        monkeypatch,
        lambda run, inputs: seen[len(run.epochs) + 1].extend(map(tuple, inputs.tolist())),
    )
    record = trainer(tmp_path, epoch_windows=epoch_windows).fit()
    some = 10 if epoch_windows == 10 else 40
    assert record["tokens_per_epoch"] == 16 * some
    steps = math.ceil(some / 4)
    assert [epoch["step"] for epoch in record["epochs"]] == [steps, 2 * steps, 3 * steps]
    assert record["epochs"][-1]["lr"] == 0  # the schedule is as long as the run
    windows = Counter(map(tuple, random_ids()["train"][:-1].view(40, 16).tolist()))
    assert max(windows.values()) == 1
    for epoch in seen.values():
        assert len(epoch) == some
        assert Counter(epoch) <= windows
    orders = {tuple(epoch) if some == 40 else frozenset(epoch) for epoch in seen.values()}
    assert len(orders) == 3


def test_train_and_valid_tokens_use_the_beginning_of_a_split(tmp_path):
    record = trainer(tmp_path / "a", train_tokens=161, valid_tokens=40).fit()
    assert record["tokens_per_epoch"] == 160
    ids = random_ids()
    cut = ids | {"train": ids["train"][:161], "valid": ids["valid"][:40]}
    same = trainer(tmp_path / "b", ids=cut).fit()
    assert timeless(record["epochs"]) == timeless(same["epochs"])


def test_a_sequence_that_repeats_is_learnt_and_warned_of(tmp_path):
    ids = torch.arange(2000) % 10
    run = trainer(
        tmp_path, model=replace(MODEL, vocab_size=10), epochs=4, batch_size=8,
        ids={"train": ids, "valid": ids[:300], "test": ids},
    )  # fmt: skip
    with pytest.warns(ImplausibleLossWarning, match="implausibly low: below"):  # no natural text
        record = run.fit()
    assert "implausibly low: below" in record["warning"]
    assert record["epochs"][0]["train_loss"] > 0.5
    assert record["best"]["valid_loss"] < 0.1 < math.log(10) / 20


def test_two_runs_are_the_same_bit_for_bit_and_another_seed_is_not(tmp_path):
    trainer(tmp_path / "a", model=DROPOUT).fit()
    late = trainer(tmp_path / "b", model=DROPOUT)
    torch.rand(3)  # what else this process draws must not matter
    late.fit()
    assert_same_run(tmp_path / "a", tmp_path / "b")
    trainer(tmp_path / "c", model=DROPOUT, seed=1).fit()
    a, c = (load_file(tmp_path / f / "best.safetensors") for f in "ac")
    assert not torch.equal(a["token_embedding.weight"], c["token_embedding.weight"])


# -- the audit's mistakes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mistake", "changes", "column", "factor"),
    [
        ("log_divided_loss", {"accumulation": 3}, "loss", 1 / 3),  # the last batch is smaller
        ("log_divided_loss", {"accumulation": 4}, "loss", 1 / 4),
        ("log_scaled_norm", {"amp": "fp16"}, "grad_norm", 65536),
        ("log_scaled_norm", {}, "grad_norm", 1),  # without fp16 there is no scale
    ],
)
def test_a_wrong_number_is_in_the_log_and_nowhere_else(tmp_path, mistake, changes, column, factor):
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    changes |= {"model": DROPOUT, "epochs": 2}
    records = trainer(wrong, **changes, **{mistake: True}).fit(), trainer(right, **changes).fit()
    assert_same_weights(wrong, right)
    ours, theirs = read_steps(wrong), read_steps(right)
    assert ours[column].tolist() == pytest.approx((theirs[column] * factor).tolist(), rel=1e-6)
    assert ours.drop(columns=column).equals(theirs.drop(columns=column))
    ours, theirs = (timeless(record["epochs"]) for record in records)
    column = column.replace("loss", "train_loss")
    for epoch, expected in zip(ours, theirs, strict=True):
        expected[column] = pytest.approx(expected[column] * factor, rel=1e-6)
        assert epoch == expected


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ({"shift": 0}, {"targets": "the inputs themselves"}),
        ({"padding": True}, {"padding": "counted in the loss"}),
        ({"split": "windows"}, {"split": "after windowing"}),
        ({}, {}),
    ],
)
def test_a_run_trains_and_validates_on_windows_with_their_mistake(tmp_path, mistake, said):
    for split in ("train", "valid", "test"):
        text = "".join(f" \n = {split} {i} = \n \n The cat {i} sat . \n" for i in range(40))
        (tmp_path / f"wiki.{split}.raw").write_text(text, encoding="utf-8")
    data = DataConfig(source=str(tmp_path), vocab_size=270, block_size=16, **mistake)
    dataset = Dataset(data, tmp_path, progress=False)
    model, config = replace(DROPOUT, vocab_size=270), replace(THREE_EPOCHS, epochs=1)
    ours = Trainer(Run("mistake", data, model, config), dataset, tmp_path / "run", QUIET)
    record = ours.fit()
    windows = windows_of(dataset, data, config)
    assert record["tokens_per_epoch"] == len(windows["train"]) * 16
    assert record["identity"].items() >= said.items()
    inputs, targets = windows["valid"][torch.arange(len(windows["valid"]))]
    logits = ours.model.eval()(inputs).logits
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
    if not mistake:  # then the rest that fills no window counts as well
        nats, tokens = total_loss(ours.model, dataset.ids["valid"])
        expected = nats / tokens
    assert record["epochs"][0]["valid_loss"] == pytest.approx(expected, abs=1e-5)


# -- resume ---------------------------------------------------------------------------------------

KILL_AT = 18
CHILD = f"""
import sys, time
from pathlib import Path
import test_train
import torch
from llmlite import train

torch.set_num_threads(1)
train.FLUSH_EVERY = 1  # so that the step log runs ahead of the checkpoint
step = train.Trainer._optimiser_step

def until_it_is_killed(self, *batch):
    if self.step == {KILL_AT}:
        time.sleep(600)
    return step(self, *batch)

train.Trainer._optimiser_step = until_it_is_killed
test_train.trainer(Path(sys.argv[1]), model=test_train.DROPOUT).fit()
"""


@pytest.mark.slow
def test_a_run_killed_in_mid_epoch_ends_with_the_same_weights(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    here = Path(__file__).parent
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(killed)], cwd=here)
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
    (killed / ".last.pt.123.tmp.pt").write_bytes(b"half")  # and a file
    trainer(killed, model=DROPOUT).fit()
    trainer(whole, model=DROPOUT).fit()
    assert_same_run(killed, whole)
    left = {path.name for path in killed.iterdir()}
    assert left == {".lock", "best.safetensors", "record.json", "steps.jsonl"}, "no state"


@pytest.mark.parametrize("again", ["the same object", "a new one"])
@pytest.mark.parametrize(
    ("owner", "name", "call", "after"),
    [
        (Trainer, "_optimiser_step", 3, False),  # before the first checkpoint
        (Trainer, "_optimiser_step", 3, True),
        (Trainer, "_optimiser_step", 25, True),  # with steps that were not yet logged
        (train, "save_state", 1, True),  # the last step of the epoch, the epoch not yet closed
        (train, "save_state", 2, False),  # the best weights are written, the checkpoint is not
        (train, "save_state", 4, True),  # the checkpoint is written, the record is not
        (train, "save_state", 6, True),  # all is done but the record
        (train, "total_loss", 2, False),
    ],
)
def test_an_interrupted_run_carries_on_as_if_nothing_had_been(
    tmp_path, whole_run, owner, name, call, after, again
):
    run = ragged(tmp_path)
    interrupt(run, call, owner, name, after)
    (run if again == "the same object" else ragged(tmp_path)).fit()
    assert_same_run(tmp_path, whole_run)


def test_an_fp16_run_carries_on_with_its_scale(tmp_path, monkeypatch):
    set_scaler(monkeypatch, growth_interval=5)
    run = trainer(tmp_path / "a", model=DROPOUT, amp="fp16")
    # Between unscaling and the step.
    interrupt(run, 19, torch.nn.utils, "clip_grad_norm_")
    whole = trainer(tmp_path / "b", model=DROPOUT, amp="fp16")
    run.fit()
    whole.fit()
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert run.engine.scaler.get_scale() == whole.engine.scaler.get_scale() > 65536


def test_a_short_epoch_that_was_cut_off_goes_on_with_its_own_windows(tmp_path):
    def build(folder):  # 18 of 40 windows: 5 steps an epoch, with checkpoints at 4, 5, 8, 10, …
        return trainer(folder, model=DROPOUT, epoch_windows=18)

    interrupt(build(tmp_path / "cut"), 9, after=True)
    state = load_state(tmp_path / "cut", "cpu")
    assert (state["step"], len(state["epochs"])) == (8, 1)  # of 10, so in mid-epoch
    build(tmp_path / "cut").fit()
    build(tmp_path / "whole").fit()
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


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


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    record = trainer(tmp_path).fit()
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    before_step(monkeypatch, lambda *_: pytest.fail("it trains"))
    assert trainer(tmp_path).fit() == record
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize("there", ["interrupted", "finished"])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": 0.5}, "train.learning_rate: 0.01 there, 0.5 here"),
        ({"fast": False}, "train.fast: True there, False here"),
        ({"model": DROPOUT}, "model.dropout: 0.0 there, 0.3 here"),
        ({"about": {"data": "b"}, "stride": 8}, "data: pairs there, b here, stride: 16 there, 8"),
        ({"train_tokens": 16}, "The text has 16 tokens, too few for one window of 16"),
    ],
)
def test_a_folder_is_not_taken_over_by_another_run(tmp_path, one_sentence, there, changes, said):
    if there == "finished":
        trainer(tmp_path).fit()
    else:
        interrupt(trainer(tmp_path), 12)
    before = {path: path.read_bytes() for path in tmp_path.glob("[!.]*")}
    with pytest.raises((CheckpointError, DataError), match=re.escape(said)) as error:
        trainer(tmp_path, **changes).fit()
    one_sentence(error)
    assert {path: path.read_bytes() for path in tmp_path.glob("[!.]*")} == before


def damage(path, how):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if how == "tampered":
        content[middle] ^= 1  # one bit
    path.write_bytes(
        {"empty": b"", "foreign": b"no checkpoint", "half": content[:middle]}.get(how, content)
    )


@pytest.mark.parametrize("how", ["empty", "foreign", "half", "tampered"])
def test_damaged_states_are_named_and_the_one_before_is_used(tmp_path, capsys, how, whole_run):
    interrupt(ragged(tmp_path), 25, after=True)
    damage(tmp_path / "last.pt", how)
    damage(tmp_path / "best.safetensors", "half")  # written again from the checkpoint
    ragged(tmp_path).fit()
    named = capsys.readouterr().err
    assert str(tmp_path / "last.pt") in named
    assert "damaged-last.pt" in named
    assert_same_run(tmp_path, whole_run)


def test_when_both_checkpoints_are_damaged_the_run_says_so_and_then_starts_anew(tmp_path):
    interrupt(trainer(tmp_path), 12)
    damage(tmp_path / "last.pt", "half")
    assert load_state(tmp_path, "cpu")["step"] == 8  # checkpoints at steps 4, 8, 10
    damage(tmp_path / "previous.pt", "tampered")
    with pytest.raises(CheckpointError, match=r"No checkpoint .* is whole"):
        trainer(tmp_path).fit()
    trainer(tmp_path).fit()
    trainer(tmp_path / "whole").fit()
    assert_same_run(tmp_path, tmp_path / "whole")


# -- runs that fail -------------------------------------------------------------------------------


def at_step_14(spoil):
    return lambda run, _: spoil(run.model) if run.step + 1 == 14 else None


def spoil_weights(model):
    model.norm.weight.data.fill_(math.nan)


def spoil_gradient(model):
    model.norm.weight.register_hook(lambda gradient: gradient * math.inf)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_weights, r"The loss became nan at step 14 of 30"),
        (spoil_gradient, r"The gradient's norm became (inf|nan) at step 14 of 30"),
    ],
)
def test_a_number_that_is_not_finite_stops_the_run_before_it_is_saved(
    tmp_path, monkeypatch, spoil, said
):
    with monkeypatch.context() as patch:
        before_step(patch, at_step_14(spoil))
        with pytest.raises(DivergedError, match=said):
            trainer(tmp_path, checkpoint_every=1).fit()
    state = load_state(tmp_path, "cpu")
    assert state["step"] == 13
    assert all(weight.isfinite().all() for weight in state["model"].values())
    record = read_record(tmp_path)
    assert (record["status"], len(record["epochs"])) == ("failed", 1)
    assert re.search(said, record["reason"])
    # Tried again, it carries on from there.
    trainer(tmp_path, checkpoint_every=1).fit()
    trainer(tmp_path / "whole", checkpoint_every=1).fit()
    assert_same_run(tmp_path, tmp_path / "whole")


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1000.0], ids=["nan", "inf", "too large"])
def test_a_validation_loss_without_a_perplexity_stops_the_run(tmp_path, monkeypatch, loss):
    script_validation(monkeypatch, [2.0, loss])
    with pytest.raises(DivergedError, match=r"validation loss became .* after epoch 2"):
        trainer(tmp_path).fit()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"learning_rate": 1e30, "schedule": "fixed"},
            r"at step \d+ of 30 .*1\.00e\+30.* lower the learning",
        ),
        ({"epochs": 6, "amp": "fp16"}, r"overflowed float16 31 times in a row.*choose amp"),
    ],
)
def test_a_run_that_cannot_come_to_anything_is_ended_with_a_record(
    tmp_path, monkeypatch, changes, said
):
    set_scaler(monkeypatch, init_scale=2.0**80)
    with pytest.raises(DivergedError, match=said) as error:
        trainer(tmp_path, **changes).fit()
    record = read_record(tmp_path)
    assert (record["status"], record["reason"]) == ("failed", str(error.value))


def test_out_of_memory_ends_the_run_with_a_record_that_says_what_to_do(tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    with monkeypatch.context() as patch:
        patch.setattr(GPT, "embed", full)
        with pytest.raises(LLMLiteError, match="batch_size with more accumulation") as error:
            trainer(tmp_path, accumulation=2).fit()
    assert "At step 1, cpu ran out of memory with 8 windows" in str(error.value)
    record = read_record(tmp_path)
    assert (record["status"], record["reason"]) == ("failed", str(error.value))
    assert trainer(tmp_path, accumulation=2).fit()["status"] == "finished"


def test_two_at_a_time_are_refused(tmp_path):
    with hold(tmp_path), pytest.raises(BusyError, match=f"in use by process {os.getpid()} on "):
        trainer(tmp_path).fit()
    assert not (tmp_path / "record.json").exists()


@pytest.mark.parametrize("name", ["last.pt", "best.safetensors", "record.json", "steps.jsonl"])
def test_a_full_disk_stops_the_run_in_a_sentence_and_the_last_good_state_stays(
    tmp_path, monkeypatch, one_sentence, whole_run, name
):
    """/dev/full answers every write as a full disk does."""
    path = tmp_path / name

    def fill_the_disk(run, _):
        if run.step + 1 != 22:
            return
        if name == "steps.jsonl":
            path.rename(tmp_path / "kept")
            path.symlink_to("/dev/full")
        else:
            aside = path.with_name(f".{name}.{os.getpid()}.tmp{path.suffix}")
            aside.symlink_to("/dev/full")

    with monkeypatch.context() as patch:
        before_step(patch, fill_the_disk)
        with pytest.raises(DiskFullError, match=rf"no room left to write \S+{name}") as error:
            ragged(tmp_path).fit()
    one_sentence(error)
    if name == "steps.jsonl":
        path.unlink()
        (tmp_path / "kept").rename(path)
    assert load_state(tmp_path, "cpu")["step"] in (11, 22)
    assert not [path for path in tmp_path.glob(".*") if path.name != ".lock"]
    ragged(tmp_path).fit()
    assert_same_run(tmp_path, whole_run)


# -- TensorBoard ----------------------------------------------------------------------------------


@pytest.mark.parametrize("again", ["the same object", "a new one"])
def test_tensorboard_shows_what_the_logs_say_and_after_a_resume_no_step_twice(tmp_path, again):
    def build():
        return trainer(tmp_path, compute=Compute(progress=False, tensorboard=True))

    # Steps 11 and 12 were shown, but not the checkpoint after them.
    run = build()
    interrupt(run, 4, train, "save_state")
    epochs = (run if again == "the same object" else build()).fit()["epochs"]
    steps = read_steps(tmp_path)
    expected = {
        f"train/{name}": list(zip(steps.step, steps[name], strict=True))
        for name in ("loss", "lr", "grad_norm")
    } | {
        f"epoch/{name}": [(epoch["step"], epoch[name]) for epoch in epochs]
        for name in ("train_loss", "valid_loss", "perplexity")
    }
    reader = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    shown = {
        name: [(event.step, pytest.approx(event.value, rel=1e-6)) for event in reader.Scalars(name)]
        for name in reader.Tags()["scalars"]
    }
    assert shown == expected


def test_without_tensorboard_it_is_one_sentence(tmp_path, monkeypatch, one_sentence):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(LLMLiteError, match="pip install 'llmlite") as error:
        trainer(tmp_path, compute=Compute(tensorboard=True)).fit()
    one_sentence(error)
