"""Configurations refuse what cannot work, and the paper's grids are the paper's."""

from dataclasses import FrozenInstanceError, replace

import pytest

from llmlite import paper
from llmlite.audit.plan import HEADS
from llmlite.config import (
    PAPER_FIRST_GRID,
    PAPER_REVISED_GRID,
    DataConfig,
    ModelConfig,
    SearchSpace,
    TrainConfig,
    fingerprint,
    with_data,
)
from llmlite.errors import LLMLiteError
from llmlite.profiles import PROFILES, get_profile


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (DataConfig, "split", "random"),
        (DataConfig, "block_size", 0),
        (DataConfig, "stride", 0),
        (DataConfig, "stride", 257),  # one more than block_size leaves tokens out
        (DataConfig, "shift", 2),
        (DataConfig, "shift", -1),
        (ModelConfig, "n_layer", 0),
        (ModelConfig, "vocab_size", -1),
        (ModelConfig, "n_head", 3),  # 128 is no multiple of 3
        (ModelConfig, "dropout", 1.0),
        (ModelConfig, "dropout", -0.1),
        (TrainConfig, "epochs", 0),
        (TrainConfig, "batch_size", 0),
        (TrainConfig, "accumulation", 0),
        (TrainConfig, "checkpoint_every", 0),
        (TrainConfig, "learning_rate", 0.0),
        (TrainConfig, "learning_rate", float("nan")),
        (TrainConfig, "schedule", "linear"),
        (TrainConfig, "warmup_fraction", 1.0),
        (TrainConfig, "amp", "fp8"),
        (TrainConfig, "epoch_windows", 0),
        (TrainConfig, "train_tokens", 1),
        (TrainConfig, "valid_tokens", 1),
        (SearchSpace, "n_head", ()),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(kind, field, value, one_sentence):
    with pytest.raises(LLMLiteError) as error:
        kind(**{field: value})
    message = one_sentence(error)
    assert field in message
    assert "allowed" in message


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"padding": True, "split": "windows"}, "padding"),
        ({"padding": True, "stream": True}, "padding"),
        ({"split": "windows", "stream": True}, "split is 'windows'"),
        ({"shift": 0, "stream": True}, "shift"),
    ],
)
def test_mistakes_that_cannot_be_made_together_are_refused(changes, named, one_sentence):
    with pytest.raises(LLMLiteError, match=f"Configuration: {named}") as error:
        DataConfig(**changes)
    assert "allowed" in one_sentence(error)


def test_the_limits_themselves_are_allowed():
    DataConfig(block_size=4, stride=4)
    DataConfig(block_size=4, stride=1)
    DataConfig(padding=True, shift=0)
    DataConfig(padding=True, split="paper")
    DataConfig(split="windows", shift=0)
    TrainConfig(epoch_windows=1, train_tokens=2, valid_tokens=2)
    ModelConfig(dropout=0.0, n_head=128)
    TrainConfig(warmup_fraction=0.0, clip_norm=0.0)


def test_a_configuration_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        ModelConfig().n_layer = 3


def test_the_switches_that_make_the_papers_number_are_off():
    assert ModelConfig().causal
    assert DataConfig().stride is None
    assert DataConfig().split == "official"
    assert (DataConfig().padding, DataConfig().shift) == (False, 1)
    assert not TrainConfig().log_divided_loss
    assert not TrainConfig().log_scaled_norm
    assert TrainConfig().epoch_windows is None


def test_the_papers_grids_have_36_and_12_configurations():
    assert len(PAPER_FIRST_GRID) == 36
    assert {point["n_embd"] for point in PAPER_FIRST_GRID.points()} == {64, 128, 256}
    assert len(PAPER_REVISED_GRID) == 12
    best = {"learning_rate": 1e-3, "n_layer": 6, "n_head": 4, "n_embd": 128}
    assert best in PAPER_REVISED_GRID.points()


def test_the_last_key_of_a_grid_varies_fastest():
    grid = SearchSpace(learning_rate=(0.1,), n_layer=(1, 2), n_head=(4,), n_embd=(8, 16))
    points = [(point["n_layer"], point["n_embd"]) for point in grid.points()]
    assert points == [(1, 8), (1, 16), (2, 8), (2, 16)]


@pytest.mark.parametrize(
    ("gpu_bytes", "name"), [(40e9, "full"), (30e9, "full"), (16e9, "small"), (0, "quick")]
)
def test_the_profile_auto_goes_by_the_gpu(gpu_bytes, name):
    assert get_profile("auto", gpu_bytes) is PROFILES[name]
    assert get_profile("small", gpu_bytes).name == "small"


def test_an_unknown_profile_is_answered_with_those_there_are(one_sentence):
    with pytest.raises(LLMLiteError, match="huge") as error:
        get_profile("huge", 0)
    assert all(name in one_sentence(error) for name in ("auto", "quick", "small", "full"))


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_every_configuration_of_a_profile_is_a_model(profile):
    for grid in (profile.first_grid, profile.revised_grid):
        for point in grid.points():
            del point["learning_rate"]
            model = with_data(profile.model, profile.data, **point)
            assert model.vocab_size == profile.data.vocab_size
            assert model.block_size == profile.data.block_size
            assert model.n_layer == point["n_layer"]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_what_the_audit_starts_from_has_no_mistake_but_its_window_a_token(profile):
    audit = profile.audit
    assert (audit.data.padding, audit.data.shift, audit.data.split) == (False, 1, "official")
    assert audit.data.stride == 1
    assert audit.model.causal
    for train in (audit.train, audit.short, audit.honest, audit.first_grid, audit.revised_grid):
        assert (train.log_divided_loss, train.log_scaled_norm) == (False, False)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_every_run_of_the_audit_is_a_model_and_the_scaled_norm_has_a_scale(profile):
    audit = profile.audit
    windows = {audit.data.block_size, *audit.other_windows, audit.padded_window}
    assert len(windows) == 2 + len(audit.other_windows)  # none is there twice
    for block_size in windows:
        for n_layer in (audit.deep, audit.shallow):
            data = replace(audit.data, block_size=block_size)
            model = with_data(audit.model, data, n_layer=n_layer)
            assert (model.block_size, model.vocab_size) == (block_size, audit.data.vocab_size)
    assert audit.deep > audit.shallow
    assert audit.padded_window == max(windows)
    assert audit.scaled.amp == "fp16"
    assert len(set(audit.seeds)) >= 3


@pytest.mark.parametrize("name", ["small", "full"])
def test_the_scorecard_judges_by_the_runs_that_are_there_anyway(name):
    profile = PROFILES[name]
    audit = profile.audit
    assert audit.honest == profile.retrain
    assert audit.seeds == profile.seeds
    assert audit.revised_grid == profile.revised_search
    assert audit.first_grid == profile.first_search
    assert audit.first_seeds == audit.seeds[:1] == (profile.revised_search.seed,)
    assert audit.honest == replace(audit.revised_grid, epochs=2 * audit.revised_grid.epochs)
    best = {"n_layer": audit.deep, "n_head": HEADS, "n_embd": audit.model.n_embd}
    assert {**best, "learning_rate": audit.honest.learning_rate} == paper.BEST
    assert paper.BEST in list(profile.revised_grid.points())


def test_small_searches_as_the_paper_did_and_full_needs_a_gpu_for_it():
    small, full = PROFILES["small"], PROFILES["full"]
    assert (small.needs_gpu, full.needs_gpu) == (False, True)
    assert small.revised_grid == full.revised_grid == PAPER_REVISED_GRID
    assert small.revised_search.epochs == paper.SEARCH_EPOCHS
    assert small.retrain.epochs == paper.RETRAIN_EPOCHS
    assert small.retrain.train_tokens is small.retrain.epoch_windows is None, "all of the text"
    widths = {axes["n_embd"] for axes in small.first_grid.points()}
    assert widths == {axes["n_embd"] for axes in full.first_grid.points()}
    assert small.first_search.batch_size * 2 == small.revised_search.batch_size


def test_the_corners_of_a_grid_are_its_axes_ends():
    corners = list(PAPER_REVISED_GRID.corners().points())
    assert len(corners) == 8
    every = list(PAPER_REVISED_GRID.points())
    assert corners == [point for point in every if point["n_layer"] != 4]
    assert PAPER_FIRST_GRID.corners().n_embd == (64, 256)
    assert PAPER_REVISED_GRID.corners().corners() == PAPER_REVISED_GRID.corners()


def test_a_fingerprint_depends_on_content_and_not_on_the_order_of_keys():
    # printf '[{"a":1,"b":"é"}]' | sha256sum
    assert fingerprint({"b": "é", "a": 1}) == fingerprint({"a": 1, "b": "é"})
    assert fingerprint({"a": 1, "b": "é"}) == "0947ff8502bae37e"
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert len(fingerprint("\ud800")) == 16  # a lone surrogate is content like any other
