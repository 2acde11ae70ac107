"""The leak detector on models whose leaks were put in on purpose, and on models without one."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from test_engine import needs_cuda

from llmlite.audit import causality
from llmlite.audit.causality import causal_leak
from llmlite.config import ModelConfig
from llmlite.files import LLMLiteError
from llmlite.model import GPT, Attention

SHAPES = [
    ModelConfig(vocab_size=61, block_size=12, n_layer=2, n_head=4, n_embd=16),
    ModelConfig(vocab_size=300, block_size=40, n_layer=1, n_head=2, n_embd=32),
    ModelConfig(vocab_size=7, block_size=33, n_layer=4, n_head=1, n_embd=12),
    ModelConfig(vocab_size=2, block_size=2, n_layer=1, n_head=1, n_embd=8),
]


def put_mask(model: GPT, layer: int, hidden=float("-inf"), hole=None) -> None:
    """What attention in one layer adds to the scores of later keys; not at `hole`, (query, key)."""
    attention = model.blocks[layer].attention
    mask = torch.full((12, 12), hidden, dtype=model.norm.weight.dtype).triu(1)
    if hole:
        mask[hole] = 0.0

    def with_mask(x, head_mask, want_weights, append):
        return Attention.forward(attention, x, head_mask, want_weights, lambda k, v: (k, v, mask))

    attention.forward = with_mask


@pytest.mark.parametrize("config", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_it_fires_without_the_causal_mask_alone(config, device, dtype, make_model):
    # Of two tokens the later one must change: another one drawn at random would often be the same.
    for seed in range(4):
        torch.manual_seed(seed)
        for make in (partial(make_model, seed=seed), GPT):  # telling weights, and untrained ones
            assert not causal_leak(make(config).to(device, dtype), seed=seed)
            without = make(replace(config, causal=False))
            assert causal_leak(without.to(device, dtype), seed=seed)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("rows", [1, 4, 11])
def test_it_fires_for_a_leak_at_one_position_in_passes_of_one_shape(
    tiny_model, layer, rows, monkeypatch
):
    monkeypatch.setattr(causality, "LOGITS", rows * 12 * 61)
    put_mask(tiny_model, layer)
    passes = []
    tiny_model.register_forward_pre_hook(lambda _, arguments: passes.append(arguments[0].shape))
    assert not causal_leak(tiny_model)
    assert passes == [(rows, 12)] * {1: 12, 4: 4, 11: 2}[rows]  # the first is of the unchanged text
    for hole in ((0, 1), (0, 11), (3, 9), (10, 11), (5, 6)):
        put_mask(tiny_model, layer, hole=hole)
        assert causal_leak(tiny_model)


@pytest.mark.parametrize(("hidden", "leaks"), [(-1e9, False), (-20.0, False), (-7.0, True)])
def test_a_mask_that_only_dampens_leaks_unless_it_is_rounding(tiny_model, hidden, leaks):
    model = tiny_model.double()  # in which a change as small as that of -20 arrives
    put_mask(model, 1, hidden)
    assert causal_leak(model) is leaks


def test_where_nothing_can_change_nothing_leaks(tiny_config, make_model):
    for change in ({"block_size": 1}, {"vocab_size": 1}):
        assert not causal_leak(make_model(replace(tiny_config, causal=False, **change)))


def test_dropout_is_off_and_the_mode_comes_back_even_from_logits_that_are_refused(tiny_model):
    state = torch.get_rng_state()
    for training in (False, True):
        tiny_model.train(training)  # with dropout
        assert not causal_leak(tiny_model)
        assert tiny_model.training is tiny_model.blocks[0].training is training
    assert torch.equal(torch.get_rng_state(), state)
    torch.nn.init.constant_(tiny_model.norm.weight, float("nan"))
    with pytest.raises(LLMLiteError, match="not all finite"):
        causal_leak(tiny_model)
    assert tiny_model.training
