"""Configurations refuse what cannot work, and profiles are the paper's where they say so."""

from dataclasses import replace

import pytest

from llmlite import paper
from llmlite.audit.plan import AUDITS, HEADS
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
from llmlite.files import LLMLiteError
from llmlite.profiles import OWN_SIZES, PROFILES, changed, get_profile, own_profile

REFUSED = [
    (DataConfig, {"split": "random"}, "split"),
    (DataConfig, {"block_size": 0}, "block_size"),
    (DataConfig, {"stride": 0}, "stride"),
    (DataConfig, {"stride": 257}, "stride"),  # one more than block_size leaves tokens out
    (DataConfig, {"shift": 2}, "shift"),
    (DataConfig, {"shift": -1}, "shift"),
    (DataConfig, {"padding": True, "split": "windows"}, "padding"),
    (DataConfig, {"padding": True, "stream": True}, "padding"),
    (DataConfig, {"split": "windows", "stream": True}, "split"),
    (DataConfig, {"shift": 0, "stream": True}, "shift"),
    (ModelConfig, {"n_layer": 0}, "n_layer"),
    (ModelConfig, {"vocab_size": -1}, "vocab_size"),
    (ModelConfig, {"n_head": 3}, "n_head"),  # 128 is no multiple of 3
    (ModelConfig, {"dropout": 1.0}, "dropout"),
    (ModelConfig, {"dropout": -0.1}, "dropout"),
    (TrainConfig, {"epochs": 0}, "epochs"),
    (TrainConfig, {"batch_size": 0}, "batch_size"),
    (TrainConfig, {"accumulation": 0}, "accumulation"),
    (TrainConfig, {"checkpoint_every": 0}, "checkpoint_every"),
    (TrainConfig, {"learning_rate": 0.0}, "learning_rate"),
    (TrainConfig, {"learning_rate": float("nan")}, "learning_rate"),
    (TrainConfig, {"schedule": "linear"}, "schedule"),
    (TrainConfig, {"warmup_fraction": 1.0}, "warmup_fraction"),
    (TrainConfig, {"amp": "fp8"}, "amp"),
    (TrainConfig, {"epoch_windows": 0}, "epoch_windows"),
    (TrainConfig, {"train_tokens": 1}, "train_tokens"),
    (TrainConfig, {"valid_tokens": 1}, "valid_tokens"),
    (SearchSpace, {"n_head": ()}, "n_head"),
]


@pytest.mark.parametrize(("kind", "values", "named"), REFUSED)
def test_a_value_that_cannot_work_is_refused_by_name(kind, values, named, one_sentence):
    with pytest.raises(LLMLiteError) as error:
        kind(**values)
    message = one_sentence(error)
    assert named in message
    assert "allowed" in message


def test_the_limits_themselves_are_allowed():
    DataConfig(block_size=4, stride=4)
    DataConfig(padding=True, shift=0, split="paper")
    DataConfig(split="windows", shift=0)
    TrainConfig(epoch_windows=1, train_tokens=2, valid_tokens=2, warmup_fraction=0.0, clip_norm=0.0)
    ModelConfig(dropout=0.0, n_head=128)


def test_a_change_reaches_the_part_that_its_path_names():
    profile = PROFILES["quick"]
    made = changed(profile, {"train.epochs": 5, "revised.space.n_head": (1,), "searched": True})
    assert made.train == replace(profile.train, epochs=5)
    assert made.revised.space == replace(profile.revised.space, n_head=(1,))
    assert made.searched
    assert (made.data, made.model, made.first) == (profile.data, profile.model, profile.first)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": 1}, "There is no setting 'training'; there are name, data, model, train"),
        ({"model.dropuot": 0.1}, "dropuot'; there are vocab_size, block_size, n_layer"),
        ({"searched.more": 1}, "There is no setting 'searched.more'"),
        ({"model.dropout": 2}, "dropout is 2; allowed"),
    ],
)
def test_a_change_of_what_there_is_not_is_refused(changes, words, one_sentence):
    with pytest.raises(LLMLiteError) as error:
        changed(PROFILES["quick"], changes)
    assert words in one_sentence(error)


def test_the_switches_that_make_the_papers_number_are_off():
    assert ModelConfig().causal
    data, train = DataConfig(), TrainConfig()
    assert (data.stride, data.split, data.padding, data.shift) == (None, "official", False, 1)
    assert not train.log_divided_loss
    assert not train.log_scaled_norm
    assert train.epoch_windows is None


# -- grids ----------------------------------------------------------------------------------------


def test_the_papers_grids_have_36_and_12_configurations():
    assert (len(PAPER_FIRST_GRID), len(PAPER_REVISED_GRID)) == (36, 12)
    assert {point["n_embd"] for point in PAPER_FIRST_GRID.points()} == {64, 128, 256}
    assert paper.BEST in list(PAPER_REVISED_GRID.points())


def test_the_last_key_of_a_grid_varies_fastest():
    grid = SearchSpace(learning_rate=(0.1,), n_layer=(1, 2), n_head=(4,), n_embd=(8, 16))
    points = [(point["n_layer"], point["n_embd"]) for point in grid.points()]
    assert points == [(1, 8), (1, 16), (2, 8), (2, 16)]


def test_the_corners_of_a_grid_are_its_axes_ends():
    corners = list(PAPER_REVISED_GRID.corners().points())
    assert len(corners) == 8
    assert corners == [p for p in PAPER_REVISED_GRID.points() if p["n_layer"] != 4]
    assert PAPER_FIRST_GRID.corners().n_embd == (64, 256)
    assert PAPER_REVISED_GRID.corners().corners() == PAPER_REVISED_GRID.corners()


def test_a_fingerprint_depends_on_content_and_not_on_the_order_of_keys():
    # printf '[{"a":1,"b":"é"}]' | sha256sum
    assert fingerprint({"b": "é", "a": 1}) == fingerprint({"a": 1, "b": "é"}) == "0947ff8502bae37e"
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert len(fingerprint("\ud800")) == 16  # a lone surrogate is content like any other


# -- profiles -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu_bytes", "name"), [(40e9, "full"), (30e9, "full"), (16e9, "small"), (0, "quick")]
)
def test_the_profile_auto_goes_by_the_gpu(gpu_bytes, name):
    assert get_profile("auto", gpu_bytes) is PROFILES[name]
    assert get_profile("small", gpu_bytes).name == "small"


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_every_configuration_of_a_profile_and_of_its_audit_is_a_model(profile):
    for grid in (profile.first, profile.revised):
        for point in grid.space.points():
            del point["learning_rate"]
            with_data(profile.model, profile.data, **point)
    audit = AUDITS[profile.name]
    windows = {audit.data.block_size, *audit.other_windows, audit.padded_window}
    assert len(windows) == 2 + len(audit.other_windows), "none is there twice"
    assert audit.padded_window == max(windows)
    for layers in (audit.shallow, audit.deep):
        with_data(audit.model, audit.data, n_layer=layers, n_head=HEADS)
    assert audit.deep > audit.shallow
    assert audit.scaled.amp == "fp16", "which has a scale"
    assert len(set(audit.seeds)) >= 3


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_what_the_audit_starts_from_has_no_mistake_but_its_window_a_token(profile):
    audit = AUDITS[profile.name]
    assert audit.data == DataConfig(
        vocab_size=audit.data.vocab_size, block_size=audit.data.block_size, stride=1
    )
    assert audit.model.causal
    for train in (audit.train, audit.short, audit.honest, audit.first_grid, audit.revised_grid):
        assert (train.log_divided_loss, train.log_scaled_norm) == (False, False)


@pytest.mark.parametrize("name", ["small", "full"])
def test_the_scorecard_judges_by_the_runs_that_are_there_anyway(name):
    profile, audit = PROFILES[name], AUDITS[name]
    assert audit.honest == profile.train
    assert audit.seeds == profile.seeds
    assert audit.revised_grid == profile.revised.train
    assert audit.first_grid == profile.first.train
    assert audit.first_seeds == audit.seeds[:1] == (profile.revised.train.seed,)
    assert audit.honest == replace(audit.revised_grid, epochs=2 * audit.revised_grid.epochs)
    best = {"n_layer": audit.deep, "n_head": HEADS, "n_embd": audit.model.n_embd}
    assert {**best, "learning_rate": audit.honest.learning_rate} == paper.BEST
    assert paper.BEST in list(profile.revised.space.points())


def test_small_searches_as_the_paper_did_and_full_needs_a_gpu_for_it():
    small, full = PROFILES["small"], PROFILES["full"]
    assert (small.needs_gpu, full.needs_gpu) == (False, True)
    assert small.revised.space == full.revised.space == PAPER_REVISED_GRID
    assert small.revised.train.epochs == paper.SEARCH_EPOCHS
    assert small.train.epochs == paper.RETRAIN_EPOCHS
    assert small.train.train_tokens is small.train.epoch_windows is None, "all of the text"
    assert set(small.first.space.n_embd) == set(full.first.space.n_embd)
    assert small.first.train.batch_size * 2 == small.revised.train.batch_size


@pytest.mark.parametrize("name", ["small", "full"])
def test_a_profile_that_takes_hours_is_among_its_own_candidates(name):
    data = PROFILES[name].data
    own = {"vocab_size": data.vocab_size, "block_size": data.block_size}
    own["stride"] = data.stride or data.block_size
    assert own in [cut for cut, _ in PROFILES[name].data_space.points()]


@pytest.mark.parametrize(("cuda", "tokens"), [(False, 4e6), (True, 3e8)])
def test_a_small_text_is_read_often_and_a_large_one_within_the_budget(cuda, tokens):
    vocabularies = []
    for n_bytes in [n for size in OWN_SIZES for n in (size, 50 * size)]:
        profile = own_profile(n_bytes, cuda)
        train, epoch = profile.train, 0.8 * n_bytes / 3
        if train.epoch_windows:
            assert train.epoch_windows * profile.data.block_size < epoch, "a part"
            epoch = train.epoch_windows * profile.data.block_size
        assert epoch * train.epochs < 1.15 * tokens, "in whole epochs"
        assert profile.revised.train.epochs <= train.epochs
        assert 4 <= train.epochs <= 30
        assert 2 <= len(profile.revised.space) <= 4
        vocabularies.append((n_bytes, profile.data.vocab_size))
        assert 0.8 * n_bytes / 4.5 / profile.data.vocab_size > 10, "a token is seen often"
    sizes = [vocabulary for _, vocabulary in sorted(vocabularies)]
    assert sizes == sorted(sizes), "more text, a larger vocabulary"
    assert own_profile(20_000, cuda).train.epochs > own_profile(10**9, cuda).train.epochs
    assert own_profile(49_999).data.vocab_size < own_profile(50_000).data.vocab_size
