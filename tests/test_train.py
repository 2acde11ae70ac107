"""The Trainer against a plain loop, and runs that are stopped in every way there is."""

import errno
import itertools
import math
import multiprocessing
import os
import random
import re
import shutil
import time
from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from llmlite import metrics, train
from llmlite import run as runs
from llmlite.config import DataConfig, ModelConfig, TrainConfig
from llmlite.data import Dataset
from llmlite.engine import Engine, FastPaths, learning_rate
from llmlite.files import CheckpointError, DiskFullError, DivergedError, LLMLiteError, hold
from llmlite.metrics import total_loss
from llmlite.model import GPT
from llmlite.run import Run, load_state, read_record, read_steps, runs_table
from llmlite.train import Compute, Trainer, epoch_line
from llmlite.windows import EpochSampler, TokenWindows, windows_of

MODEL = ModelConfig(vocab_size=50, block_size=16, n_layer=1, n_head=2, n_embd=16, dropout=0.3)
SURE = replace(MODEL, dropout=0.0)
# 47 windows in batches of 4: 12 steps an epoch, the last one smaller.
CONFIG = TrainConfig(
    epochs=2, batch_size=4, learning_rate=1e-2, checkpoint_every=6, patience=0, amp="off"
)


def random_ids(windows=47):
    """Token ids for so many training windows; the pairs (2k, 2k + 1) are there to be learnt."""
    generator = torch.Generator().manual_seed(7)
    evens = 2 * torch.randint(0, 25, (windows * 8 + 1,), generator=generator)
    ids = torch.stack([evens, evens + 1], dim=1).flatten()
    return {"train": ids[: windows * 16 + 1], "valid": ids[200:350], "test": ids[:150]}


def trainer(folder, model=MODEL, ids=None, about="pairs", data=None, compute=None, **changes):
    """data: its changes. changes: of the training configuration."""
    data = DataConfig(vocab_size=50, block_size=16, **(data or {}))
    dataset = Dataset.of_ids(ids or random_ids(), data, {"data": about})
    run = Run("pairs", data, model, replace(CONFIG, **changes))
    return Trainer(run, dataset, folder, compute or Compute(progress=False))


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """The folder of a run that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    trainer(folder).fit()
    return folder


def assert_same_weights(folder, other):
    ours, theirs = (load_file(path / "best.safetensors") for path in (folder, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def assert_same_run(folder, other):
    """Weights bit for bit, the step logs and the epoch logs, and nothing else left behind."""
    assert_same_weights(folder, other)
    assert (folder / "steps.jsonl").read_text() == (other / "steps.jsonl").read_text()
    ours, theirs = read_record(folder), read_record(other)
    for epoch in ours["epochs"] + theirs["epochs"]:
        epoch.update(seconds=0, tokens_per_second=0)  # that differ
    assert (ours["status"], ours["epochs"]) == ("finished", theirs["epochs"])
    left = {path.name for path in folder.glob("[!d]*")}  # but for damaged files
    assert left == {".lock", "best.safetensors", "record.json", "steps.jsonl"}


def before(patch, owner, name, action, call=None):
    """Call action(*arguments) before that call of owner.name, from 1, or before each."""
    original, numbers = getattr(owner, name), itertools.count(1)

    def wrapped(*arguments, **options):
        if call in (None, next(numbers)):
            action(*arguments)
        return original(*arguments, **options)

    patch.setattr(owner, name, wrapped)


def interrupt(run, call, owner=Engine, name="step"):
    """Fit until just before optimiser step `call`, or such a call of something else."""
    with pytest.MonkeyPatch.context() as patch:
        before(patch, owner, name, Mock(side_effect=KeyboardInterrupt), call)
        with pytest.raises(KeyboardInterrupt):
            run.fit()


def set_scaler(patch, **settings):
    patch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, **settings))


def script_validation(monkeypatch, losses):
    """Let the validation losses be these; returns the weights that each epoch ended with."""
    weights, script = [], iter(losses)

    def scripted(model, ids, **_):
        weights.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(script) * (len(ids) - 1), len(ids) - 1

    monkeypatch.setattr(metrics, "total_loss", scripted)
    return weights


def optimizers(model, config):
    """PyTorch's own; beside Muon, which makes much of a last digit, with the engine's kernel."""
    decay, betas = config.weight_decay, (0.9, config.beta2)
    groups = [
        {"params": [p], "weight_decay": 0 if "norm" in n or "bias" in n else decay}
        for n, p in model.named_parameters()
    ]
    if config.optimizer == "muon":
        layers = [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)]
        rest = [g for g in groups if all(g["params"][0] is not w for w in layers)]
        muon = torch.optim.Muon(layers, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        return [muon, torch.optim.AdamW(rest, betas=betas, fused=True)]
    if config.optimizer == "sgd":
        return [torch.optim.SGD(groups, momentum=0.9)]
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return [kind(groups, betas=betas)]


def plain_loop(ids, config):
    """The same training in a plain loop: (model, losses, norms, losses of the epochs)."""
    torch.manual_seed(config.seed)
    model = GPT(SURE)
    movers = optimizers(model, config)
    windows, batch = TokenWindows(ids["train"], 16), config.batch_size * config.accumulation
    limit, seed, losses, norms, epoch_losses = config.epoch_windows, config.seed, [], [], []
    samplers = [EpochSampler(windows, batch, seed, n, limit=limit) for n in range(config.epochs)]
    for sampler in samplers:
        nats = tokens = 0
        for index in sampler:
            inputs, targets = windows[index]
            for group in [group for each in movers for group in each.param_groups]:
                group["lr"] = learning_rate(len(losses), sum(map(len, samplers)), config)
            model.zero_grad()
            loss = F.cross_entropy(model(inputs).logits.reshape(-1, 50), targets.reshape(-1))
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm or math.inf)
            norms.append(norm.item())
            for each in movers:
                each.step()
            losses.append(loss.item())
            nats += loss.item() * targets.numel()
            tokens += targets.numel()
        epoch_losses.append(nats / tokens)
    return model, losses, norms, epoch_losses


@pytest.mark.parametrize(("windows", "changes", "how"), [
    (64, {"batch_size": 32}, "uncompiled"),
    (64, {"accumulation": 4, "seed": 5}, "uncompiled, 4 pieces merged"),
    # With a smaller last batch.
    (75, {"clip_norm": 0, "accumulation": 4, "learning_rate": 3e-2}, "uncompiled, 4 pieces merged"),
    (75, {"accumulation": 4, "fast": False}, "plain"),
    (75, {"epoch_windows": 36, "weight_decay": 0.3, "beta2": 0.8}, "uncompiled"),
    (64, {"optimizer": "adam", "weight_decay": 0.01, "batch_size": 16, "fast": False}, "plain"),
    (64, {"optimizer": "sgd", "weight_decay": 0.01, "learning_rate": 0.3}, "uncompiled"),
    (64, {"optimizer": "muon", "weight_decay": 1.0, "batch_size": 16, "fast": False}, "plain"),
    pytest.param(75, {"accumulation": 4}, "compiled, 4 pieces merged", marks=pytest.mark.slow),
])  # fmt: skip
def test_every_path_is_a_plain_loop_however_a_batch_is_cut(tmp_path, windows, changes, how):
    assert (CONFIG.weight_decay, CONFIG.beta2, CONFIG.clip_norm) == (0.1, 0.95, 1.0)
    config = replace(CONFIG, **{"batch_size": 8, "epochs": 10, "clip_norm": 0.5} | changes)
    ids = random_ids(windows)
    model, losses, norms, epoch_losses = plain_loop(ids, config)
    compute = Compute(progress=False, paths=FastPaths(compile=how.startswith("compiled")))
    ours = trainer(tmp_path, SURE, ids, compute=compute, **vars(config))
    record, steps = ours.fit(), read_steps(tmp_path)
    assert record["engine"] == how
    assert steps.loss.tolist() == pytest.approx(losses, abs=1e-5)
    assert steps.grad_norm.tolist() == pytest.approx(norms, abs=1e-4)
    assert [e["train_loss"] for e in record["epochs"]] == pytest.approx(epoch_losses, abs=1e-5)
    assert losses[-1] < losses[0] - 0.5
    assert max(norms) > (config.clip_norm or 1.0)  # or clipping was not part of this
    for name, weight in ours.model.state_dict().items():
        # The key bias's gradient is 0 but for rounding, as it moves all scores of a query alike,
        # and AdamW makes whole steps of that noise.
        if not name.endswith("qkv.bias"):
            expected = model.state_dict()[name]
            torch.testing.assert_close(weight, expected, atol=1e-4, rtol=0, msg=name)


def test_steps_whose_fp16_gradients_overflow_are_left_out_but_not_for_ever(tmp_path, monkeypatch):
    set_scaler(monkeypatch, init_scale=2.0**36)  # halved at every overflow
    epochs = trainer(tmp_path, epochs=4, amp="fp16", schedule="fixed").fit()["epochs"]
    steps = read_steps(tmp_path)
    skipped = steps.grad_norm.isna()
    assert skipped[:15].all()
    assert skipped.sum() < 40
    assert [e["skipped"] for e in epochs] == skipped.groupby(steps.epoch).sum().tolist()
    means = steps.grad_norm.groupby(steps.epoch).mean().fillna(0)  # 0: no step of it counted
    assert [e["grad_norm"] for e in epochs] == pytest.approx(means.tolist())
    set_scaler(monkeypatch, init_scale=2.0**80)
    with pytest.raises(DivergedError, match=r"overflowed float16 31 times in a row.*choose amp"):
        trainer(tmp_path / "never", epochs=4, amp="fp16").fit()


def test_record_logs_and_printed_lines_say_what_was_done(tmp_path, capsys, monkeypatch):
    ours = trainer(tmp_path, accumulation=3, compute=Compute(progress=True))
    record = ours.fit()
    assert record == read_record(tmp_path)
    assert record["identity"] == ours.run.identity({"data": "pairs"})
    assert (record["steps_per_epoch"], record["tokens_per_epoch"]) == (4, 47 * 16)
    assert record["parameters"] == sum(p.numel() for p in GPT(MODEL).parameters())
    epochs, steps = record["epochs"], read_steps(tmp_path)
    assert [(epoch["epoch"], epoch["step"]) for epoch in epochs] == [(1, 4), (2, 8)]
    tokens = [epoch["tokens_per_second"] * epoch["seconds"] for epoch in epochs]
    assert tokens == pytest.approx([47 * 16] * 2)
    assert record["seconds"] == sum(epoch["seconds"] for epoch in epochs)
    assert [*zip(steps.step, steps.epoch, strict=True)] == [(s + 1, s // 4 + 1) for s in range(8)]
    assert steps.lr.tolist() == pytest.approx([learning_rate(s, 8, ours.config) for s in range(8)])
    assert [epoch["lr"] for epoch in epochs] == pytest.approx([steps.lr[3], 0])
    output = capsys.readouterr()
    lines = [line for line in output.err.splitlines() if line.startswith("Epoch")]
    assert lines == [epoch_line(epoch) for epoch in epochs]
    assert output.out == ""  # what a shell pipes on is not mixed with the log
    monkeypatch.setattr(Engine, "step", None)  # a finished run is not trained again
    assert trainer(tmp_path, accumulation=3).fit() == record
    # The paper's form.
    epoch = {"epoch": 1, "train_loss": 0.45031, "valid_loss": 0.21562, "perplexity": 1.24063}
    assert epoch_line(epoch | {"lr": 0.001, "grad_norm": 168331.0}) == (
        "Epoch 1: Train Loss=0.4503, Val Loss=0.2156, Perplexity=1.2406, LR=0.001000, "
        "GradNorm=1.6833e+05"
    )


@pytest.mark.parametrize(("patience", "losses", "epochs", "best"), [
    (2, [3, 2.5, 2.6, 2.4, 2.5, 2.6, 1, 1], 6, 4),  # a better epoch starts the count anew
    (2, [2, 2, 2, 1, 1, 1, 1, 1], 3, 1),  # as good is not better
    (0, [1, 2, 3, 4, 5, 6, 7, 8], 8, 1),
])  # fmt: skip
def test_a_run_stops_and_its_best_stays(tmp_path, monkeypatch, patience, losses, epochs, best):
    weights = script_validation(monkeypatch, losses)
    changes = {"epochs": 8, "patience": patience, "batch_size": 24}
    interrupt(trainer(tmp_path, **changes), epochs + 2, train, "write_json")
    # All was done but the last record: an early stop stays a stop, and the checkpoint has the best.
    (tmp_path / "best.safetensors").unlink()
    record = trainer(tmp_path, **changes).fit()
    assert [epoch["valid_loss"] for epoch in record["epochs"]] == losses[:epochs]
    assert len(read_steps(tmp_path)) == 2 * epochs
    assert record["best"] == record["epochs"][best - 1]
    assert record["best"]["perplexity"] == pytest.approx(math.exp(losses[best - 1]))
    kept = load_file(tmp_path / "best.safetensors")
    same = [all(torch.equal(kept[name], w[name]) for name in kept) for w in weights]
    assert same == [epoch + 1 == best for epoch in range(epochs)]


@pytest.mark.parametrize(("changes", "mistake", "column", "factors"), [
    ({"accumulation": 3}, "log_divided_loss", "loss", {1: 1 / 3, 2: 1 / 3}),
    # Each step by its own scale, not by the one that it leaves for the next.
    ({"amp": "fp16"}, "log_scaled_norm", "grad_norm", {1: 65536, 2: 131072}),
    ({"amp": "bf16"}, "log_scaled_norm", "grad_norm", {1: 1, 2: 1}),  # has no scale
])  # fmt: skip
def test_mistakes_are_in_the_log_alone(tmp_path, monkeypatch, changes, mistake, column, factors):
    set_scaler(monkeypatch, growth_interval=12)
    exact, right, wrong = (tmp_path / name for name in ("exact", "right", "wrong"))
    trainer(exact, SURE, **changes | {"amp": "off"}).fit()
    record = trainer(right, SURE, **changes).fit()
    trainer(wrong, SURE, **changes, **{mistake: True}).fit()
    assert_same_weights(wrong, right)
    exact, right, wrong = map(read_steps, (exact, right, wrong))
    expected = right[column] * right.epoch.map(factors)
    assert wrong[column].tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert wrong.drop(columns=column).equals(right.drop(columns=column))
    rounded = {"fp16": "float16", "bf16": "bfloat16"}.get(changes.get("amp"))
    assert record["amp"] == (rounded or "float32")
    assert right.loss.equals(exact.loss) == (rounded is None)  # or autocast was never on
    for name, within in (("loss", 0.01), ("grad_norm", 0.05)):  # which is unscaled
        first = exact[name][:4].tolist()
        assert right[name][:4].tolist() == pytest.approx(first, rel=within)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("mistake", [{"shift": 0}, {"split": "windows"}, {}])
def test_a_run_trains_and_validates_on_windows_with_their_mistake(tmp_path, mistake, causal):
    ours = trainer(tmp_path, replace(MODEL, causal=causal), data=mistake, epochs=1)
    record, data = ours.fit(), ours.run.data
    windows = windows_of(Dataset.of_ids(random_ids(), data), data, CONFIG)
    assert record["tokens_per_epoch"] == len(windows["train"]) * 16
    inputs, targets = windows["valid"][torch.arange(len(windows["valid"]))]
    logits = ours.model.eval()(inputs).logits
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
    if causal and not mistake:  # then the rest that fills no window counts as well
        nats, tokens = total_loss(ours.model, random_ids()["valid"])
        expected = nats / tokens
    assert record["epochs"][0]["valid_loss"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("owner", "name", "call", "changes"), [
    (Engine, "step", 3, {}),  # before the first checkpoint
    (Engine, "step", 22, {}),  # with steps that were not yet logged
    *((Engine, "step", 22, {"optimizer": name}) for name in ("adam", "sgd", "muon")),
    # The fourth of five in the second epoch, which two pieces of each step have seen so far.
    (Engine, "step", 9, {"epoch_windows": 18, "batch_size": 2, "accumulation": 2}),
    # Between unscaling and the step; the norms show the scale, which grows.
    (nn.utils, "clip_grad_norm_", 19, {"amp": "fp16", "log_scaled_norm": True}),
    (metrics, "total_loss", 1, {}),  # the epoch's last step is saved, the epoch not yet closed
    (runs, "save_state", 3, {}),  # the best weights are written, the checkpoint is not
    (train, "write_json", 2, {}),  # the checkpoint is written, the record is not
    (train, "write_json", 4, {}),  # all is done but the record
])  # fmt: skip
def test_interrupted_runs_carry_on(tmp_path, monkeypatch, whole_run, owner, name, call, changes):
    set_scaler(monkeypatch, growth_interval=5)
    run = trainer(tmp_path / "cut", **changes)
    interrupt(run, call, owner, name)
    run.fit()  # whatever is left in the object
    if changes:
        whole_run = tmp_path / "whole"
        trainer(whole_run, **changes).fit()
    assert_same_run(tmp_path / "cut", whole_run)


def test_checkpoints_go_by_time_unless_steps_are_given(tmp_path, monkeypatch):
    for seconds, there in ((math.inf, None), (0, 22)):
        monkeypatch.setattr(train, "CHECKPOINT_SECONDS", seconds)
        interrupt(trainer(tmp_path, checkpoint_every=None), 23)
        state = load_state(tmp_path, "cpu")
        assert (state and state["step"]) == there


@pytest.mark.parametrize(("changes", "said"), [
    ({"learning_rate": 0.5}, "belongs to another run (train.learning_rate: 0.01 there, 0.5 here)"),
    ({"model": SURE, "optimizer": "sgd"}, "0.0 here, train.optimizer: adamw there, sgd here"),
    ({"about": "b", "data": {"stride": 8}}, "data: pairs there, b here, stride: 16 there, 8 here"),
    ({"train_tokens": 16}, "The text has 16 tokens, too few for one window of 16"),
])  # fmt: skip
def test_no_folder_is_taken_over_by_another_run(tmp_path, whole_run, changes, said):
    interrupt(trainer(tmp_path), 14)
    for folder in (tmp_path, whole_run):
        files = {path: path.stat().st_mtime_ns for path in folder.glob("[!.]*")}
        with pytest.raises(LLMLiteError, match=re.escape(said)):
            trainer(folder, **changes).fit()
        assert {path: path.stat().st_mtime_ns for path in folder.glob("[!.]*")} == files


def test_what_a_kill_and_a_bad_disk_leave_is_made_good_by_one_process(tmp_path, whole_run):
    interrupt(trainer(tmp_path), 22)
    for name in ("last.pt", "best.safetensors"):  # the latter is written again from the checkpoint
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-100])
    assert load_state(tmp_path, "cpu")["step"] == 12  # of the checkpoint before
    with open(tmp_path / "steps.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 21, "epo')
    (tmp_path / ".last.pt.123.tmp.pt").write_bytes(b"half")
    assert runs_table(tmp_path).state.tolist() == ["interrupted"]
    with hold(tmp_path), pytest.raises(LLMLiteError, match=f"in use by process {os.getpid()} on "):
        trainer(tmp_path).fit()
    trainer(tmp_path).fit()
    assert_same_run(tmp_path, whole_run)


@pytest.mark.parametrize("damage", [
    lambda log: (log.unlink(), os.mkfifo(log)),
    lambda log: os.truncate(log, 900),
    lambda log: log.write_text(log.read_text("utf-8").replace('"loss": 3.', '"loss": 2.'), "utf-8"),
])  # fmt: skip
def test_a_run_whose_log_is_lost_or_of_another_begins_anew(tmp_path, whole_run, capsys, damage):
    interrupt(trainer(tmp_path), 22)
    damage(tmp_path / "steps.jsonl")
    trainer(tmp_path).fit()
    assert "lacks steps of the checkpoint; the run begins anew" in capsys.readouterr().err
    assert_same_run(tmp_path, whole_run)


def test_a_checkpoint_of_somebody_else_is_refused(tmp_path):
    interrupt(trainer(tmp_path), 14)
    state = load_state(tmp_path, "cpu")
    changes = {"model": {}}, {"epochs": 3}, {"optimizer": "Adam"}, {"rng": torch.zeros(3)}
    for change in ({"identity": {}}, {"identity": "mine"}, *changes):
        runs.save_state(state | change, tmp_path)
        with pytest.raises(CheckpointError, match=r"does not fit its run|belongs to another run"):
            trainer(tmp_path).fit()


def train_for_seconds(folder, windows):
    torch.set_num_threads(1)
    trainer(folder, ids=random_ids(windows), epochs=4).fit()


@pytest.mark.parametrize("kills", [
    1,
    pytest.param(3, marks=pytest.mark.slow),
    pytest.param(25, marks=pytest.mark.soak),
])  # fmt: skip
def test_a_run_killed_at_random_moments_ends_bit_for_bit_the_same(tmp_path, kills):
    whole, killed, random_ = tmp_path / "whole", tmp_path / "killed", random.Random(kills)
    windows = min(150 * kills, 500)
    moments = []  # the steps that were logged at each kill

    def logged():
        return sum(path.read_bytes().count(b"\n") for path in killed.glob("steps.jsonl"))

    while len(moments) < kills:
        size, context = logged(), multiprocessing.get_context("spawn")
        process = context.Process(target=train_for_seconds, args=(killed, windows))
        process.start()
        while process.is_alive() and logged() == size:  # the imports take seconds
            time.sleep(0.01)
        process.join(random_.uniform(0, 1.5))
        # Every other time in the middle of a write.
        while len(moments) % 2 and process.is_alive() and not list(killed.glob(".*.tmp*")):
            time.sleep(0.0005)
        process.kill()
        process.join()
        if process.exitcode:
            assert process.exitcode == -9
            moments.append(logged())
        else:  # it was done before it could be killed
            shutil.rmtree(killed)
    assert len(set(moments)) > kills // 2
    for folder in (whole, killed):
        train_for_seconds(folder, windows)
    assert_same_run(killed, whole)


def validation_loss(loss, _, patch):
    script_validation(patch, itertools.repeat(loss))


def no_room(name, _, patch):
    def full(descriptor):
        if name in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "No space left on device")

    before(patch, os, "fsync", full)


@pytest.mark.parametrize(("broken", "said", "step"), [
    (lambda model, _: model.norm.weight.data.fill_(math.nan),
     r"The loss became nan at step 14 of 24 \(learning rate 4.29e-03\); lower", 13),
    (lambda model, _: model.norm.weight.register_hook(lambda gradient: gradient * math.inf),
     "The gradient's norm became (inf|nan) at step 14 of 24", 13),
    (Mock(side_effect=torch.OutOfMemoryError), "At step 14, cpu ran out of memory with 4 windows "
     "in a forward pass; a smaller batch_size with more accumulation", 13),
    (lambda *_: torch.empty(1 << 50), "At step 14, cpu ran out of memory", 13),
    (partial(validation_loss, math.nan), "The validation loss became nan after epoch 2; lower", 24),
    (partial(validation_loss, 1e3), "The validation loss became 1000.0 after epoch 2; lower", 24),
    *((partial(no_room, name), rf"There is no room left to write \S+{name} \(", step) for name, step
      in (("last.pt", 13), ("best.safetensors", 13), ("steps.jsonl", 13), ("record.json", 24))),
])  # fmt: skip
def test_faults_stop_a_run_that_then_goes_on(tmp_path, whole_run, broken, said, step):
    changes = {"batch_size": 2, "accumulation": 2, "checkpoint_every": 1}
    with pytest.MonkeyPatch.context() as patch:
        before(patch, Engine, "step", lambda engine, *_: broken(engine.model, patch), 14)
        with pytest.raises(LLMLiteError, match=said) as error:
            trainer(tmp_path, **changes).fit()
    message, record, state = str(error.value), read_record(tmp_path), load_state(tmp_path, "cpu")
    if not isinstance(error.value, DiskFullError):  # which leaves no room to say so
        assert (record["status"], record["reason"]) == ("failed", message)
    assert isinstance(error.value, DivergedError) == ("became" in message)
    assert (state["step"], len(record["epochs"])) == (step, 1)
    assert all(weight.isfinite().all() for weight in state["model"].values())
    assert [path.name for path in tmp_path.glob(".*")] == [".lock"]
    trainer(tmp_path, **changes).fit()
    assert_same_run(tmp_path, whole_run)
