"""The leak detector on models whose leaks were put in on purpose, and on models without one."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from llmlite.audit import causality
from llmlite.audit.causality import causal_leak
from llmlite.config import ModelConfig
from llmlite.files import LLMLiteError
from llmlite.model import GPT, Attention

SHAPES = [
    ModelConfig(vocab_size=61, block_size=12, n_layer=2, n_head=4, n_embd=16),
    ModelConfig(vocab_size=2, block_size=2, n_layer=1, n_head=1, n_embd=8),
    ModelConfig(vocab_size=300, block_size=70, n_layer=1, n_head=2, n_embd=32),
    ModelConfig(vocab_size=7, block_size=33, n_layer=4, n_head=1, n_embd=12),
]


@pytest.fixture
def fresh():
    """fresh(config, seed): a model as it is before training."""

    def make(config: ModelConfig, seed: int = 0) -> GPT:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return GPT(config)

    return make


def put_mask(model: GPT, layer: int, mask: torch.Tensor) -> None:
    """Attention in one layer adds `mask` (queries, keys) to its scores instead of its own."""
    attention = model.blocks[layer].attention
    mask = mask.to(model.norm.weight.dtype)

    def with_mask(x, head_mask, want_weights, append):
        part = mask[: x.size(1), : x.size(1)]
        return Attention.forward(attention, x, head_mask, want_weights, lambda k, v: (k, v, part))

    attention.forward = with_mask


def causal_mask(size: int, hidden: float = float("-inf")) -> torch.Tensor:
    return torch.full((size, size), hidden).triu(1)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("config", SHAPES)
@pytest.mark.parametrize("weights", ["fresh", "make_model"])
def test_it_fires_without_the_causal_mask_alone(config, seed, weights, request):
    make = request.getfixturevalue(weights)
    assert not causal_leak(make(config, seed), seed=seed)
    assert causal_leak(make(replace(config, causal=False), seed), seed=seed)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("weights", ["fresh", "make_model"])
def test_it_fires_for_a_leak_in_one_layer(tiny_config, layer, weights, request):
    model = request.getfixturevalue(weights)(tiny_config)
    put_mask(model, layer, causal_mask(12))
    assert not causal_leak(model)
    put_mask(model, layer, torch.zeros(12, 12))
    assert causal_leak(model)


@pytest.mark.parametrize("hole", [(0, 1), (0, 11), (3, 9), (10, 11), (5, 6)])
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("passes_of", [1, 4, 11])
def test_it_fires_for_a_leak_at_one_position(
    tiny_config, fresh, hole, layer, passes_of, monkeypatch
):
    monkeypatch.setattr(causality, "LOGITS", passes_of * 12 * 61)
    mask = causal_mask(12)
    mask[hole] = 0.0
    model = fresh(tiny_config)
    put_mask(model, layer, mask)
    assert causal_leak(model)


@pytest.mark.parametrize("seed", range(8))
def test_two_kinds_of_token_are_enough(make_model, seed):
    # The only later token must change: another one drawn at random would be the same half the time.
    assert causal_leak(make_model(replace(SHAPES[1], causal=False)), seed=seed)


@pytest.mark.parametrize(("hidden", "leaks"), [(-1e9, False), (-7.0, True)])
def test_a_mask_that_only_dampens_leaks(tiny_config, make_model, hidden, leaks):
    model = make_model(tiny_config)
    put_mask(model, 1, causal_mask(12, hidden))
    assert causal_leak(model) is leaks


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("weights", ["fresh", "make_model"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_goes_by_the_mask_in_every_precision(tiny_config, weights, dtype, seed, request):
    make = request.getfixturevalue(weights)
    assert not causal_leak(make(tiny_config, seed).to(dtype), seed=seed)
    assert causal_leak(make(replace(tiny_config, causal=False), seed).to(dtype), seed=seed)


@pytest.mark.parametrize("passes_of", [1, 2, 5, 10])
def test_a_model_without_a_leak_has_none_in_several_passes(
    tiny_config, fresh, passes_of, monkeypatch
):
    monkeypatch.setattr(causality, "LOGITS", passes_of * 12 * 61)
    assert not causal_leak(fresh(tiny_config))


@pytest.mark.parametrize("passes_of", [1, 2, 5, 10])
def test_every_pass_has_one_shape(tiny_config, fresh, passes_of, monkeypatch):
    monkeypatch.setattr(causality, "LOGITS", passes_of * 12 * 61)
    model, passes = fresh(tiny_config), []
    model.register_forward_pre_hook(lambda _, arguments: passes.append(arguments[0]))
    causal_leak(model)
    assert len(passes) == 1 + -(-11 // passes_of)
    assert {tuple(ids.shape) for ids in passes} == {(passes_of, 12)}


def test_a_change_of_the_size_of_rounding_does_not_fire_it(tiny_config, make_model):
    model = make_model(tiny_config).double()  # in which so small a change arrives
    put_mask(model, 1, causal_mask(12, -20.0))
    before, after = torch.zeros(2, 12, dtype=torch.int64)
    after[11] = 1
    change = (model(before[None]).logits - model(after[None]).logits)[0, :11].abs().max()
    assert 0 < change < 1e-7
    assert not causal_leak(model)


class Sums:
    """Nothing like a GPT: each position's logits are the sum of the embeddings up to it, or of
    those from it on."""

    def __init__(self, backwards: bool):
        self.config = SimpleNamespace(block_size=9, vocab_size=30)
        self.device, self.training, self.backwards = torch.device("cpu"), True, backwards
        self.table = torch.randn(30, 30, generator=torch.Generator().manual_seed(0))

    def eval(self):
        self.training = False

    def train(self, mode):
        self.training = mode

    def __call__(self, ids):
        assert not self.training
        x = self.table[ids]
        logits = x.flip(1).cumsum(1).flip(1) if self.backwards else x.cumsum(1)
        return SimpleNamespace(logits=logits)


@pytest.mark.parametrize("backwards", [True, False])
def test_it_tests_anything_that_gives_logits(backwards):
    model = Sums(backwards)
    assert causal_leak(model) is backwards
    assert model.training


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_comes_back(tiny_config, fresh, training):
    model = fresh(tiny_config).train(training)  # with dropout
    state = torch.get_rng_state()
    assert not causal_leak(model)
    assert model.training is model.blocks[0].training is training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("change", [{"block_size": 1}, {"vocab_size": 1}])
def test_where_nothing_can_change_nothing_leaks(tiny_config, make_model, change):
    assert not causal_leak(make_model(replace(tiny_config, causal=False, **change)))


def test_logits_that_are_not_finite_are_refused(tiny_model, one_sentence):
    with torch.no_grad():
        tiny_model.norm.weight[0] = float("nan")
    with pytest.raises(LLMLiteError, match="not all finite") as error:
        causal_leak(tiny_model.train())
    one_sentence(error)
    assert tiny_model.training


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", SHAPES)
def test_it_goes_by_the_mask_on_a_gpu(config, fresh, dtype):
    assert not causal_leak(fresh(config).to("cuda", dtype))
    assert causal_leak(fresh(replace(config, causal=False)).to("cuda", dtype))
