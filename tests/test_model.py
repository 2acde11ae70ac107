"""The model against transformers' GPT-2, against itself by other routes, and by hand; what is seen
of its attention, against direct computation and hand-made maps."""

import math
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import scipy.stats
import torch

from llmlite import interpret
from llmlite import model as model_module
from llmlite.config import ModelConfig
from llmlite.engine import TrainingLoss
from llmlite.files import LLMLiteError
from llmlite.hub import to_gpt2
from llmlite.interpret import loss_without, mask_heads
from llmlite.metrics import total_loss
from llmlite.model import GPT, Attention, KVCache, dropout, gelu

CLOSE = {"atol": 1e-5, "rtol": 1e-4}
HALF_MASKED = torch.tensor([[1, 0.5, 0, 1], [0, 1, 1, 0.25]])


@torch.no_grad()
def test_logits_and_attention_equal_those_of_transformers(tiny_model, make_ids):
    ids = make_ids(3, 12)
    ours, plain = tiny_model(ids, return_attention=True), tiny_model(ids)
    gpt2 = to_gpt2(tiny_model, attn_implementation="eager")  # the one that returns its weights
    theirs = gpt2(ids, output_attentions=True)
    assert theirs.logits.std() > 0.3  # there is something to see
    assert plain.attention is None
    torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(plain.logits, theirs.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.attention, torch.stack(theirs.attentions), atol=1e-5, rtol=0)


@pytest.mark.parametrize("causal", [True, False])
def test_a_head_mask_multiplies_what_its_head_adds(tiny_config, make_model, make_ids, causal):
    model, ids = make_model(replace(tiny_config, causal=causal)), make_ids(2, 12)
    whole, masked = model(ids).logits, model(ids, HALF_MASKED).logits
    asked = model(ids, HALF_MASKED, return_attention=True)
    for block, factors in zip(model.blocks, HALF_MASKED, strict=True):
        wide = factors.repeat_interleave(4)  # a head is 4 wide
        block.attention.proj.register_forward_pre_hook(lambda _, x, wide=wide: (x[0] * wide,))
    torch.testing.assert_close((masked, asked.logits), (model(ids).logits,) * 2, **CLOSE)
    torch.testing.assert_close(asked.attention.sum(-1), torch.ones(2, 2, 4, 12))
    assert not torch.allclose(masked, whole, atol=1e-2)


@torch.no_grad()
def test_what_a_model_does_not_take_is_refused(tiny_config, make_model, make_ids):
    model, unmasked = (make_model(replace(tiny_config, causal=causal)) for causal in (True, False))
    model(make_ids(1, 5), cache=(started := KVCache(model, 1, capacity=12)))
    for takes, tokens, given, words in [
        (model, 4, {"head_mask": torch.ones(4, 2)}, "head_mask is (4, 2); make it (n_layer,"),
        (model, 13, {}, "13 tokens are more than the model's window of 12"),
        (model, 8, {"cache": started}, "13 tokens are more"),  # the whole window still fits
        (unmasked, 3, {"cache": KVCache(unmasked, 1, 12)}, "Without the causal mask"),
    ]:
        with pytest.raises(LLMLiteError) as error:
            takes(make_ids(1, tokens), **given)
        assert words in str(error.value)


@torch.no_grad()
def test_every_chunk_through_the_cache_equals_the_full_pass(tiny_model, make_ids):
    ids, cache = make_ids(3, 12), KVCache(tiny_model, 3, capacity=12)
    full = tiny_model(ids, HALF_MASKED, return_attention=True)
    for start, end in ((0, 5), (5, 6), (6, 7), (7, 12)):
        new, asked = slice(start, end), start > 5
        part = tiny_model(ids[:, new], HALF_MASKED, asked, cache)
        assert cache.length == end
        torch.testing.assert_close(part.logits, full.logits[:, new], **CLOSE)
        if asked:
            torch.testing.assert_close(part.attention, full.attention[..., new, :], **CLOSE)


def test_a_fresh_model_knows_nothing_and_what_adds_to_the_residual_stream_starts_smaller(make_ids):
    model = GPT(ModelConfig(vocab_size=1000, block_size=128, n_layer=8, n_embd=128))
    ids = make_ids(2, 8, 32, vocab_size=1000)
    assert TrainingLoss(model, None)(*ids).item() == pytest.approx(math.log(1000), abs=0.1)
    block = model.blocks[3]
    usual = model.token_embedding, model.position_embedding, block.attention.qkv, block.up
    residual = block.attention.proj, block.down
    for part in (*usual, *residual):
        std = 0.02 / 4 if part in residual else 0.02
        assert part.weight.std().item() == pytest.approx(std, rel=0.1)
    assert not any(part.bias.any() for part in (*usual[2:], *residual))


def test_the_papers_best_model_has_the_parameters_counted_by_hand():
    # Embeddings: 10,000 × 128 (tied, so once) and 256 × 128. A layer: qkv 128 × 384 + 384, proj
    # 128 × 128 + 128, up 128 × 512 + 512, down 512 × 128 + 128, two norms of 256. One norm more.
    layer = 49_152 + 384 + 16_384 + 128 + 65_536 + 512 + 65_536 + 128 + 2 * 256
    by_hand = 1_280_000 + 32_768 + 6 * layer + 256
    model = GPT(ModelConfig())
    assert model.n_parameters() == by_hand == 2_502_656
    assert sum(weight.numel() for weight in model.state_dict().values()) == by_hand


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_zeroes_its_share_by_chance_and_keeps_the_mean(p):
    torch.manual_seed(0)
    x = torch.ones(250_001, 4, requires_grad=True)  # four of them share one draw of 64 bits
    y = dropout(x, p, training=True)
    dropped = (y == 0).sum(1).bincount()
    _, chance = scipy.stats.chisquare(dropped, scipy.stats.binom.pmf(range(5), 4, p) * len(x))
    assert chance > 1e-4
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - p)], abs=1e-4)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, y)
    assert not torch.equal(dropout(x, p, training=True), y), "each call draws anew"
    torch.manual_seed(0)
    assert torch.equal(dropout(x, p, training=True), y)
    assert torch.equal(dropout(y, p, training=False), y)
    assert torch.equal(dropout(y, 0.0, training=True), y)


def test_dropout_acts_on_embeddings_attention_and_each_addition(tiny_model, make_ids, monkeypatch):
    ids, recorded = make_ids(3, 5), Mock(side_effect=lambda x, *_: x)
    assert torch.equal(tiny_model(ids).logits, tiny_model(ids).logits)
    tiny_model.train()
    assert not torch.allclose(tiny_model(ids).logits, tiny_model(ids).logits)
    monkeypatch.setattr(model_module, "dropout", recorded)
    tiny_model(ids, return_attention=True)
    acted = [(*x.shape, *how) for (x, *how), _ in recorded.call_args_list]
    layer = [(3, 4, 5, 5, 0.2, True), (3, 5, 16, 0.2, True), (3, 5, 16, 0.2, True)]
    assert acted == [layer[1], *layer, *layer]
    assert not torch.allclose(tiny_model(ids).logits, tiny_model(ids).logits), "in the kernel"


def test_gelu_is_the_same_where_it_is_compiled(monkeypatch):
    x = torch.linspace(-8, 8, 1001, dtype=torch.float64, requires_grad=True)
    found = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda c=compiling: c)
        y = gelu(x)
        found.append((y, *torch.autograd.grad(y.sum(), x)))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-14)


@pytest.mark.parametrize(("time", "causal"), [(5, True), (4, True), (12, True), (5, False)])
def test_pieces_attend_as_one_kernel(monkeypatch, tiny_config, make_model, make_ids, causal, time):
    monkeypatch.setattr(Attention, "QUERIES", 4)
    model = make_model(replace(tiny_config, dropout=0.0, causal=causal)).train()
    ids, found = make_ids(3, time), []
    for spelled in (False, True):
        for block in model.blocks:
            block.attention.spelled = spelled
        model.zero_grad()
        loss = TrainingLoss(model, None)(ids, ids)
        loss.backward()
        found.append((loss, [p.grad.clone() for p in model.parameters()]))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-4)


def test_a_head_mask_is_one_but_for_the_heads_named_which_must_be_there(tiny_config):
    assert mask_heads(tiny_config, []).tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
    assert mask_heads(tiny_config, [1, 2]).tolist() == [[1, 0, 0, 1], [1, 0, 0, 1]]
    heads, layers = iter((0, 3)), iter((0, 1))
    assert mask_heads(tiny_config, heads, layers).tolist() == [[0, 1, 1, 0], [0, 1, 1, 0]]
    for head, layer in ((4, 0), (-1, 0), (0, 2), (0, -1)):
        with pytest.raises(LLMLiteError, match=f"no head {head} in layer {layer}") as error:
            mask_heads(tiny_config, [head], [layer])
        assert "2 layers of 4 heads" in str(error.value)


@torch.no_grad()
def test_ablation_effects_are_the_changes_of_the_loss(tiny_model, make_ids):
    tiny_model.blocks[1].attention.proj.weight[:, 8:12] = 0  # nothing reads head 2
    ids = make_ids(30)

    def loss(*removed):
        mask = torch.ones(2, 4)
        for head in removed:
            mask[head] = 0
        nats, tokens = total_loss(tiny_model, ids, head_mask=mask)
        return nats / tokens

    baseline, effects = interpret.ablation_effects(tiny_model, ids)
    assert baseline == pytest.approx(loss(), rel=1e-6)
    assert effects.shape == (2, 4)
    for head, effect in np.ndenumerate(effects):
        assert effect == pytest.approx(loss(head) - loss(), abs=1e-6)
    assert np.argwhere(np.abs(effects) < 1e-4).tolist() == [[1, 2]]
    both_layers = loss((0, 1), (0, 2), (1, 1), (1, 2))
    assert loss_without(tiny_model, ids, [1, 2]) == pytest.approx(both_layers, rel=1e-6)


def test_attention_maps_are_those_of_the_forward_pass_without_dropout(tiny_model, make_ids):
    attention = tiny_model(make_ids(1, 9), return_attention=True).attention[:, 0]
    maps = interpret.attention_maps(tiny_model.train(), make_ids(9))
    torch.testing.assert_close(maps, attention.detach())


def test_the_statistics_of_a_token_worked_out_by_hand():
    maps = torch.tensor([[[1.0, 0, 0], [0.25, 0.75, 0], [0.5, 0.25, 0.25]]]).repeat(2, 3, 1, 1)
    maps[1, 2, 1] = torch.tensor([0.25, 0.5, 0.25])  # looks ahead, which is no distance back
    second = [0.25, 0.25, 0.25 * math.log(4) + 0.75 * math.log(4 / 3)]
    third = [0.25, 0.5 * 2 + 0.25, 0.5 * math.log(2) + 0.5 * math.log(4)]
    ahead = [0.25, 0.25, 0.5 * math.log(4) + 0.5 * math.log(2)]
    statistics = interpret.query_statistics(maps)
    assert statistics.shape == (3, 2, 3, 2)
    torch.testing.assert_close(statistics[:, 0, 2].T, torch.tensor([second, third]))
    torch.testing.assert_close(statistics[:, 1, 2].T, torch.tensor([ahead, third]))


def test_attention_received_worked_out_by_hand():
    maps = torch.zeros(1, 3, 4, 4)
    maps[0, 0, :, 1] = torch.tensor([0.0, 1.0, 0.5, 0.5])  # from queries 0, 1, 2, 3
    maps[0, 1, 3, 1] = 0.25
    maps[0, 2] = torch.ones(4, 4).tril() / torch.arange(1, 5).unsqueeze(1)  # spread evenly
    # Queries 2 and 3 may look at 3 and 4 tokens: (0.5 × 3 + 0.5 × 4) / 2 and (0 + 0.25 × 4) / 2.
    assert interpret.attention_received(maps, 1).tolist() == [[1.75, 0.5, 1]]
    assert interpret.attention_received(maps, 2).tolist() == [[0, 0, 1]]
    for position in (-1, 3):
        with pytest.raises(LLMLiteError, match=f"looks at position {position}"):
            interpret.attention_received(maps, position)
