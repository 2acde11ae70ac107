"""The model against transformers' GPT-2, against itself by other routes, and by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from llmlite.config import ModelConfig
from llmlite.engine import TrainingLoss
from llmlite.files import LLMLiteError
from llmlite.model import GPT, Attention, KVCache, dropout, gelu

CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def test_logits_and_attention_equal_those_of_transformers(tiny_model, gpt2, make_ids):
    ids = make_ids(3, 12)
    with torch.no_grad():
        ours = tiny_model(ids, return_attention=True)
        plain = tiny_model(ids)
        theirs = gpt2(ids, output_attentions=True)
    assert theirs.logits.std() > 0.3  # there is something to see
    torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(plain.logits, theirs.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.attention, torch.stack(theirs.attentions), atol=1e-5, rtol=0)


def test_attention_is_causal_and_its_rows_sum_to_one(tiny_model, make_ids):
    attention = tiny_model(make_ids(3, 9), return_attention=True).attention
    assert attention.shape == (2, 3, 4, 9, 9)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 3, 4, 9))
    assert torch.equal(attention, attention.tril())
    assert attention.tril().flatten(0, 2)[:, -1].std() > 0.01  # not spread evenly


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_asking_for_attention_changes_no_logit(tiny_config, make_model, make_ids, causal, masked):
    model = make_model(replace(tiny_config, causal=causal))
    ids, head_mask = make_ids(2, 12), None
    if masked:
        head_mask = torch.rand(2, 4, generator=torch.Generator().manual_seed(1))
    plain = model(ids, head_mask=head_mask)
    asked = model(ids, head_mask=head_mask, return_attention=True)
    assert plain.attention is None
    torch.testing.assert_close(asked.logits, plain.logits, **CLOSE)


@torch.no_grad()
def test_all_is_made_where_the_weights_are(tiny_model, make_ids):
    """On the device "meta", which has shapes alone and like a GPU takes no tensor of the CPU's."""
    model, ids = tiny_model.to("meta"), make_ids(3, 12).to("meta")
    output = model(ids, torch.ones(2, 4, device="meta"), return_attention=True)
    assert {part.device.type for part in output} == {"meta"}
    cache = KVCache(model, 3, capacity=12)
    for part in ids.split((5, 1, 6), dim=1):
        assert model(part, cache=cache).logits.shape == (3, part.size(1), 61)
    assert cache.keys[0].device.type == "meta"


def test_dropout_acts_in_training_alone(tiny_model, make_ids):
    ids = make_ids(1, 8)
    assert torch.equal(tiny_model(ids).logits, tiny_model(ids).logits)
    tiny_model.train()
    assert not torch.allclose(tiny_model(ids).logits, tiny_model(ids).logits)


@pytest.mark.parametrize("return_attention", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_only_without_the_causal_mask_does_a_later_token_change_an_earlier_logit(
    tiny_config, make_model, make_ids, causal, return_attention
):
    model = make_model(replace(tiny_config, causal=causal))
    before = make_ids(1, 10)
    after = before.clone()
    after[0, 7] = (after[0, 7] + 1) % 61
    options = {"return_attention": return_attention}
    change = (model(before, **options).logits - model(after, **options).logits)[0].abs().amax(-1)
    assert change[7:].min() > 1e-3
    if causal:
        assert change[:7].max() == 0
    else:
        assert change[:7].min() > 1e-3


def test_without_the_causal_mask_every_position_sees_its_target(tiny_config, make_model, make_ids):
    model = make_model(replace(tiny_config, causal=False))
    attention = model(make_ids(1, 10), return_attention=True).attention
    assert attention.diagonal(offset=1, dim1=-2, dim2=-1).min() > 0
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 1, 4, 10))


@pytest.mark.parametrize("return_attention", [True, False])
def test_a_head_masked_with_zero_adds_nothing(tiny_model, make_ids, return_attention):
    ids, (layer, head), size = make_ids(2, 10), (1, 2), 4
    head_mask = torch.ones(2, 4)
    head_mask[layer, head] = 0

    def silence(_, inputs):
        y = inputs[0].clone()
        y[..., head * size : (head + 1) * size] = 0
        return (y,)

    masked = tiny_model(ids, head_mask=head_mask, return_attention=return_attention).logits
    whole = tiny_model(ids).logits
    handle = tiny_model.blocks[layer].attention.proj.register_forward_pre_hook(silence)
    by_hand = tiny_model(ids).logits
    handle.remove()
    torch.testing.assert_close(masked, by_hand, **CLOSE)
    assert not torch.allclose(masked, whole, atol=1e-2)


def test_a_head_mask_of_ones_changes_nothing(tiny_model, make_ids):
    ids = make_ids(2, 10)
    torch.testing.assert_close(
        tiny_model(ids, head_mask=torch.ones(2, 4)).logits, tiny_model(ids).logits
    )


@torch.no_grad()
@pytest.mark.parametrize(
    ("tokens", "options", "words"),
    [
        (4, {"head_mask": torch.ones(2)}, ("head_mask", "(2, 4)")),
        (4, {"head_mask": torch.ones(4, 2)}, ("(4, 2)", "(2, 4)")),
        (4, {"head_mask": torch.ones(2, 4, 1)}, ("(2, 4, 1)",)),
        (13, {}, ("13 tokens", "window of 12")),
        (8, {"cached": 5}, ("13 tokens", "window of 12")),  # the whole window still fits
        (3, {"cached": 0, "causal": False}, ("causal mask",)),
    ],
)
def test_what_a_model_does_not_take_is_said_in_a_sentence(
    tiny_config, make_model, make_ids, one_sentence, tokens, options, words
):
    options = dict(options)
    model = make_model(replace(tiny_config, causal=options.pop("causal", True)))
    if (cached := options.pop("cached", None)) is not None:
        options = {"cache": KVCache(model, 1, capacity=12)}
        if cached:
            model(make_ids(1, cached), **options)
    with pytest.raises(LLMLiteError) as error:
        model(make_ids(1, tokens), **options)
    assert all(word in one_sentence(error) for word in words)


@pytest.mark.parametrize("return_attention", [True, False])
@pytest.mark.parametrize("batch", [3, 17])  # with 17 × 4 heads one query is computed another way
@pytest.mark.parametrize("chunk", [1, 5])
@torch.no_grad()
def test_every_chunk_through_the_cache_equals_the_full_pass(
    tiny_model, make_ids, chunk, batch, return_attention
):
    ids, cache = make_ids(batch, 10), KVCache(tiny_model, batch, capacity=11)
    full = tiny_model(ids, return_attention=return_attention)
    for start in range(0, 10, chunk):
        new = slice(start, start + chunk)
        part = tiny_model(ids[:, new], cache=cache, return_attention=return_attention)
        assert cache.length == start + chunk
        torch.testing.assert_close(part.logits, full.logits[:, new], **CLOSE)
        if return_attention:
            expected = full.attention[..., new, : start + chunk]
            torch.testing.assert_close(part.attention[..., : start + chunk], expected, **CLOSE)


@torch.no_grad()
def test_the_head_mask_acts_through_the_cache(tiny_model, make_ids):
    ids, cache = make_ids(2, 10), KVCache(tiny_model, 2, capacity=10)
    head_mask = torch.rand(2, 4, generator=torch.Generator().manual_seed(1))
    full = tiny_model(ids, head_mask=head_mask).logits
    tiny_model(ids[:, :9], head_mask=head_mask, cache=cache)
    last = tiny_model(ids[:, 9:], head_mask=head_mask, cache=cache).logits
    torch.testing.assert_close(last, full[:, 9:], **CLOSE)


def test_the_hidden_states_are_what_the_logits_are_made_from(tiny_model, make_ids):
    hidden, _ = tiny_model.hidden(make_ids(2, 5))
    logits = hidden @ tiny_model.token_embedding.weight.T
    torch.testing.assert_close(logits, tiny_model(make_ids(2, 5)).logits, **CLOSE)


def test_the_loss_is_the_mean_cross_entropy_in_nats(tiny_model, make_ids):
    ids, targets = make_ids(2, 6), make_ids(2, 6, seed=1)
    logits = tiny_model(ids).logits.double()
    by_hand = 0.0
    for b in range(2):
        for t in range(6):
            by_hand -= (logits[b, t, targets[b, t]] - logits[b, t].exp().sum().log()).item() / 12
    loss = TrainingLoss(tiny_model, None)(ids, targets)
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)


def test_a_fresh_model_knows_nothing():
    model = GPT(ModelConfig(vocab_size=1000, block_size=32, n_layer=2, n_embd=64))
    generator = torch.Generator().manual_seed(0)
    ids, targets = torch.randint(1000, (2, 8, 32), generator=generator)
    assert TrainingLoss(model, None)(ids, targets).item() == pytest.approx(math.log(1000), abs=0.1)


def test_what_adds_to_the_residual_stream_starts_smaller():
    model = GPT(ModelConfig(vocab_size=64, n_layer=8, n_embd=128))
    assert model.blocks[3].attention.proj.weight.std().item() == pytest.approx(0.005, rel=0.1)
    assert model.blocks[3].down.weight.std().item() == pytest.approx(0.005, rel=0.1)
    assert model.blocks[3].up.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_the_papers_best_model_has_the_parameters_counted_by_hand():
    # Embeddings: 10,000 × 128 (tied, so once) and 256 × 128. A layer: qkv 128 × 384 + 384, proj
    # 128 × 128 + 128, up 128 × 512 + 512, down 512 × 128 + 128, two norms of 256. One norm more.
    layer = 49_152 + 384 + 16_384 + 128 + 65_536 + 512 + 65_536 + 128 + 2 * 256
    by_hand = 1_280_000 + 32_768 + 6 * layer + 256
    assert by_hand == 2_502_656
    model = GPT(ModelConfig())
    assert model.n_parameters() == by_hand
    assert sum(weight.numel() for weight in model.state_dict().values()) == by_hand


# -- dropout and GELU -----------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_zeroes_its_share_and_keeps_the_mean(p):
    torch.manual_seed(0)
    x = torch.ones(999, 1001, requires_grad=True)
    y = dropout(x, p, training=True)
    zero, n = (y == 0).double().mean().item(), x.numel()
    assert abs(zero - p) < 5 * math.sqrt(p * (1 - p) / n)  # five deviations of a binomial's share
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - p)], abs=1e-4)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, y)
    assert not torch.equal(dropout(x, p, training=True), y), "each call draws anew"
    torch.manual_seed(0)
    assert torch.equal(dropout(x, p, training=True), y)


def test_neighbours_are_dropped_out_independently():
    """Four of them share one draw of 64 bits."""
    torch.manual_seed(0)
    kept = dropout(torch.ones(250_000, 4), 0.5, training=True) > 0
    counts = kept.double().sum(1).long().bincount()
    _, chance = scipy.stats.chisquare(counts, 250_000 * np.array([1, 4, 6, 4, 1]) / 16)
    assert chance > 1e-4


def test_without_training_or_share_dropout_leaves_x_as_it_is():
    x = torch.randn(3, 4)
    assert torch.equal(dropout(x, 0.5, training=False), x)
    assert torch.equal(dropout(x, 0.0, training=True), x)


def test_gelu_is_the_same_where_it_is_compiled(monkeypatch):
    x = torch.linspace(-8, 8, 1001, dtype=torch.float64, requires_grad=True)
    found = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda c=compiling: c)
        y = gelu(x)
        found.append((y, *torch.autograd.grad(y.sum(), x)))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-14)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("time", [5, 4, 1, 12])
def test_attention_in_pieces_is_that_of_one_kernel(
    monkeypatch, tiny_config, make_model, make_ids, causal, time
):
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
