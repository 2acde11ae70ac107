"""Configurations refuse what cannot work, and profiles are the paper's where they say so."""

import re
from dataclasses import replace

import pytest
import torch
from benchmarks.tables import benchmark

from llmlite import config, paper
from llmlite.audit.plan import AUDITS, HEADS
from llmlite.config import DataConfig, ModelConfig, SearchSpace, TrainConfig, with_data
from llmlite.engine import step_operations
from llmlite.experiment import Experiment
from llmlite.files import LLMLiteError
from llmlite.plan.whole import chosen, whole_plan
from llmlite.profiles import OWN_SIZES, PROFILES, changed, own_profile
from llmlite.profiles import PAPER_FIRST_GRID as FIRST
from llmlite.profiles import PAPER_REVISED_GRID as REVISED

STREAM, INF = {"stream": True}, float("inf")
REFUSED = {
    DataConfig: [
        {"split": "random"}, {"block_size": 0}, {"tokenizer_bytes": 0}, {"stride": 0},
        {"stride": 257},  # one more than block_size leaves tokens out
        {"source": 3}, {"stream": 1}, {"vocab_size": 10**9},
        {"shift": 2}, {"shift": -1}, {"padding": True, "split": "windows"},
        STREAM | {"padding": True}, STREAM | {"split": "paper"}, STREAM | {"shift": 0},
    ],
    ModelConfig: [
        {"n_layer": 0}, {"vocab_size": -1}, {"block_size": 0}, {"n_embd": 0}, {"dropout": 1.0},
        {"dropout": -0.1}, {"n_head": 3},  # 128 is no multiple of 3
        {"n_layer": 10**9}, {"n_layer": True}, {"n_layer": "6"}, {"dropout": 10**400},
        {"dropout": 0.999999},  # 1 in 16 bits
    ],
    TrainConfig: [
        {"epochs": 0}, {"batch_size": 0}, {"accumulation": 0}, {"checkpoint_every": 0},
        {"patience": -1}, {"clip_norm": -0.1}, {"weight_decay": -0.1}, {"learning_rate": 0.0},
        {"learning_rate": float("nan")}, {"schedule": "linear"}, {"warmup_fraction": 1.0},
        {"amp": "fp8"}, {"epochs": 1.5}, {"beta2": 2.0}, {"weight_decay": INF}, {"seed": 2**70},
        {"learning_rate": INF}, {"epoch_windows": 0}, {"train_tokens": 1}, {"valid_tokens": 1},
    ],
    SearchSpace: [{"n_head": ()}, {"learning_rate": ()}, {"n_layer": (2, 0)}, {"n_embd": 8}],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "values"), [(k, v) for k, rows in REFUSED.items() for v in rows])
def test_a_value_that_cannot_work_is_refused_by_name(kind, values):
    with pytest.raises(LLMLiteError) as error:
        kind(**values)
    message = str(error.value)
    assert all(name in message for name in values)
    assert "; allowed: " in message


def test_the_limits_themselves_are_allowed():
    DataConfig(block_size=4, stride=4, padding=True, shift=0, split="paper", tokenizer_bytes=1)
    DataConfig(split="windows", shift=0)
    TrainConfig(epoch_windows=1, train_tokens=2, valid_tokens=2, warmup_fraction=0.0, clip_norm=0.0)
    TrainConfig(weight_decay=0.0, patience=0, checkpoint_every=1, schedule="fixed", amp="bf16")
    ModelConfig(dropout=0.0, n_head=128, vocab_size=1, block_size=1, n_layer=1)


def test_the_defaults_are_the_papers_setting_without_its_mistakes():
    cut = {"stride": None, "stream": False, "padding": False, "shift": 1}
    assert DataConfig() == DataConfig("auto", "wikitext-2-raw-v1", "official", 10_000, 256, **cut)
    assert ModelConfig() == ModelConfig(10_000, 256, 6, 4, 128, dropout=0.1, causal=True)
    optimiser = {"learning_rate": 1e-3, "weight_decay": 0.1, "beta2": 0.95, "clip_norm": 1.0}
    length = {"epochs": 10, "batch_size": 128, "accumulation": 1, "patience": 3, "seed": 1337}
    mistakes = {"log_divided_loss": False, "log_scaled_norm": False, "epoch_windows": None}
    assert TrainConfig() == TrainConfig(schedule="cosine", **optimiser, **length, **mistakes)


def test_the_papers_grids_their_order_and_their_corners():
    assert (len(FIRST), len(REVISED), FIRST.n_embd) == (36, 12, (64, 128, 256))
    assert paper.BEST in list(REVISED.points())
    grid = SearchSpace(learning_rate=(0.1,), n_layer=(1, 2), n_head=(4,), n_embd=(8, 16))
    points = [(point["n_layer"], point["n_embd"]) for point in grid.points()]
    assert points == [(1, 8), (1, 16), (2, 8), (2, 16)], "the last key varies fastest"
    corners = [point for point in REVISED.points() if point["n_layer"] != 4]
    assert list(REVISED.corners().points()) == corners
    assert FIRST.corners().n_embd == (64, 256)


def test_a_fingerprint_depends_on_content_and_not_on_the_order_of_keys():
    # printf '[{"a":1,"b":"é"}]' | sha256sum
    assert config.fingerprint({"b": "é", "a": 1}) == "0947ff8502bae37e"
    assert config.fingerprint({"a": 1, "b": "é"}) == "0947ff8502bae37e"
    assert config.fingerprint("ab", "c") != config.fingerprint("a", "bc")
    assert len(config.fingerprint("\ud800")) == 16  # a lone surrogate is content like any other


def test_a_change_reaches_the_part_that_its_path_names():
    quick = PROFILES["quick"]
    made = changed(quick, {"train.epochs": 5, "revised.space.n_head": (1,), "searched": True})
    revised = replace(quick.revised, space=replace(quick.revised.space, n_head=(1,)))
    train = replace(quick.train, epochs=5)
    assert made == replace(quick, revised=revised, train=train, searched=True)
    refused = {"training": "training'; there are name", "searched.more": "searched.more'; there"}
    for path, words in (refused | {"model.dropuot": "dropuot'; there are vocab_size"}).items():
        with pytest.raises(LLMLiteError, match=f"There is no setting '{words}"):
            changed(quick, {path: 2})


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_can_be_trained_its_audit_starts_without_a_mistake_and_is_the_papers(name):
    profile, audit = PROFILES[name], AUDITS[name]
    data, first, revised = profile.data, profile.first, profile.revised
    for point in (*first.space.points(), *revised.space.points()):
        del point["learning_rate"]
        with_data(profile.model, data, **point)
    block, windows = audit.data.block_size, [*audit.other_windows, audit.padded_window]
    assert sorted({block, *windows})[len(windows)] == audit.padded_window, "none is there twice"
    assert audit.deep > audit.shallow
    assert len(set(audit.seeds)) >= 3
    assert audit.data == DataConfig(vocab_size=audit.data.vocab_size, block_size=block, stride=1)
    trains = audit.train, audit.short, audit.honest, audit.first_grid, audit.revised_grid
    assert not any((t.log_divided_loss, t.log_scaled_norm) != (False, False) for t in trains)
    assert (audit.model.causal, audit.scaled.amp) == (True, "fp16"), "which has a scale"
    assert profile.needs_gpu is (name == "full")
    assert profile.model.dropout == (0.1 if name == "full" else 0), "few epochs overfit nothing"
    if name == "quick":
        return
    # The others search as the paper did, and are judged by the runs that are there.
    assert (audit.honest, audit.seeds) == (profile.train, profile.seeds)
    assert (audit.first_grid, audit.revised_grid) == (first.train, revised.train)
    assert audit.first_seeds == audit.seeds[:1] == (revised.train.seed,)
    assert (revised.train.epochs, profile.train) == (10, replace(revised.train, epochs=20))
    assert first.train.batch_size * 2 == revised.train.batch_size
    assert (revised.space, set(first.space.n_embd)) == (REVISED, {64, 128, 256})
    best = {"n_layer": audit.deep, "n_head": HEADS, "n_embd": audit.model.n_embd}
    assert {**best, "learning_rate": audit.honest.learning_rate} == paper.BEST


def test_profile_small_is_a_night_of_two_cores(wikitext, tmp_path, monkeypatch):
    """By the step that `make bench-train` has measured on one thread of a processor with bfloat16,
    its operations held for what a step takes, in two processes side by side."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    case = benchmark("train-cpu")["cases"]["128-bfloat16-1"]
    operations = step_operations(ModelConfig(**case["shape"]), case["batch"])
    rate = case["contestants"]["llmlite"]["step_s"] / operations
    experiment = Experiment("small", wikitext, tmp_path, "cpu", progress=False)
    runs, hours = chosen(whole_plan(experiment)), {}
    for run in {experiment.folder(run): run for run in reversed(runs)}.values():
        trainer = experiment.trainer(run)  # of two that are one training, the first
        step = rate * step_operations(run.model, trainer.batch)
        # Of what is validated each epoch, a forward pass is a third of a step, but in float32.
        valid = len(trainer.valid_windows) * run.model.block_size / trainer.tokens_per_epoch
        share = 1 / 3 if trainer.dtype is None else 1
        hours[run.name] = trainer.total_steps * step * (1 + share * valid) / 3600
    first = [h for name, h in hours.items() if re.match("honest|no-mask-deep|search-revised", name)]
    assert len(first) == 3 + 1 + 12
    assert sum(first) / 2 < 7.1, "the paper's best with three seeds, and the revised grid"
    assert sum(hours.values()) / 2 < 15.4
    assert max(hours.values()) < 3.1, "no run is longer than an evening"


@pytest.mark.parametrize(("cuda", "tokens"), [(False, 4e6), (True, 3e8)])
def test_a_small_text_is_read_often_and_a_large_one_within_the_budget(cuda, tokens):
    sizes = sorted([*OWN_SIZES, *(50 * size for size in OWN_SIZES)])
    profiles = [own_profile(n_bytes, cuda) for n_bytes in sizes]
    for n_bytes, profile in zip(sizes, profiles, strict=True):
        train, data, text = profile.train, profile.data, 0.8 * n_bytes / 3
        epoch = train.epoch_windows * data.block_size if train.epoch_windows else text
        assert epoch <= text, "an epoch of a large text is a part of it"
        assert epoch * train.epochs < 1.15 * tokens, "in whole epochs"
        assert 4 <= train.epochs <= 30
        assert profile.revised.train.epochs <= train.epochs
        assert 2 <= len(profile.revised.space) <= 4
        assert text / 1.5 / data.vocab_size > 10, "a token is seen often"
    vocabularies = [profile.data.vocab_size for profile in profiles]
    assert vocabularies == sorted(vocabularies), "more text, a larger vocabulary"
    assert profiles[0].train.epochs > profiles[-1].train.epochs
    assert own_profile(49_999).data.vocab_size < own_profile(50_000).data.vocab_size
