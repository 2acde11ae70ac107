"""Ablation and attention numbers against direct computation, plain loops and hand-made maps."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from llmlite.files import LLMLiteError
from llmlite.interpret import (
    ablation_effects,
    attention_maps,
    attention_received,
    loss_without,
    mask_heads,
    query_statistics,
)

# -- ablation -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heads", "layers", "expected"),
    [
        ([], None, [[1, 1, 1, 1], [1, 1, 1, 1]]),
        ([1, 2], None, [[1, 0, 0, 1], [1, 0, 0, 1]]),  # as the paper ablates
        ([3], [1], [[1, 1, 1, 1], [1, 1, 1, 0]]),
        ([0, 1], [0], [[0, 0, 1, 1], [1, 1, 1, 1]]),
        ((h for h in (0, 3)), (x for x in (0, 1)), [[0, 1, 1, 0], [0, 1, 1, 0]]),
    ],
)
def test_a_head_mask_is_one_but_for_the_heads_named(tiny_config, heads, layers, expected):
    assert mask_heads(tiny_config, heads, layers).tolist() == expected


@pytest.mark.parametrize(("head", "layer"), [(4, 0), (-1, 0), (0, 2), (0, -1)])
def test_a_head_that_the_model_lacks_is_named(tiny_config, head, layer, one_sentence):
    with pytest.raises(LLMLiteError, match=f"no head {head} in layer {layer}") as error:
        mask_heads(tiny_config, [head], [layer])
    assert "2 layers of 4 heads" in one_sentence(error)


def mean_loss(model, ids, head_mask=None) -> float:
    """Over windows of 12 side by side and the tail."""
    nats = 0.0
    for start in range(0, len(ids) - 1, 12):
        x, y = ids[start:-1][:12], ids[start + 1 :][:12]
        logits = model(x.unsqueeze(0), head_mask=head_mask).logits[0]
        nats += F.cross_entropy(logits, y, reduction="sum").item()
    return nats / (len(ids) - 1)


@torch.no_grad()
def test_ablation_effects_are_the_changes_of_the_loss(tiny_model, make_ids):
    ids = make_ids(30)
    baseline, effects = ablation_effects(tiny_model, ids)
    assert baseline == pytest.approx(mean_loss(tiny_model, ids), rel=1e-5)
    assert effects.shape == (2, 4)
    for layer in range(2):
        for head in range(4):
            mask = torch.ones(2, 4)
            mask[layer, head] = 0
            expected = mean_loss(tiny_model, ids, mask) - mean_loss(tiny_model, ids)
            assert effects[layer, head] == pytest.approx(expected, abs=1e-5)
    assert np.abs(effects).min() > 1e-4


@torch.no_grad()
def test_a_head_whose_output_is_not_used_has_no_effect(tiny_model, make_ids):
    tiny_model.blocks[1].attention.proj.weight[:, 8:12] = 0  # columns that read head 2
    _, effects = ablation_effects(tiny_model, make_ids(30))
    assert np.argwhere(np.abs(effects) < 1e-7).tolist() == [[1, 2]]


@torch.no_grad()
def test_the_loss_without_heads_removes_them_from_every_layer(tiny_model, make_ids):
    ids = make_ids(30)
    mask = torch.tensor([[1.0, 0, 0, 1], [1, 0, 0, 1]])
    expected = mean_loss(tiny_model, ids, mask)
    assert loss_without(tiny_model, ids, [1, 2]) == pytest.approx(expected, rel=1e-5)
    assert loss_without(tiny_model, ids, []) == pytest.approx(mean_loss(tiny_model, ids), rel=1e-5)


# -- attention ------------------------------------------------------------------------------------


def test_attention_maps_are_those_of_the_forward_pass(tiny_model, make_ids):
    ids = make_ids(9)
    expected = tiny_model(ids.unsqueeze(0), return_attention=True).attention[:, 0]
    maps = attention_maps(tiny_model.train(), ids)  # without dropout, whatever the mode
    assert maps.shape == (2, 4, 9, 9)
    torch.testing.assert_close(maps, expected.detach())


@pytest.mark.parametrize("causal", [True, False])
def test_the_statistics_of_tokens_equal_a_plain_loop(tiny_config, make_model, make_ids, causal):
    model = make_model(replace(tiny_config, causal=causal))
    maps = attention_maps(model, make_ids(9))
    statistics = query_statistics(maps)
    assert statistics.shape == (3, 2, 4, 8)
    for (layer, head, q), _ in np.ndenumerate(statistics[0].numpy()):
        weights = maps[layer, head, q + 1].tolist()
        expected = [
            weights[q],
            sum(w * max(q + 1 - k, 0) for k, w in enumerate(weights)),
            -sum(w * math.log(w) for w in weights if w > 0),
        ]
        np.testing.assert_allclose(statistics[:, layer, head, q], expected, rtol=1e-4)


def test_the_statistics_of_a_token_worked_out_by_hand():
    maps = torch.tensor([[[[1.0, 0, 0], [0.25, 0.75, 0], [0.5, 0.25, 0.25]]]])
    second = [0.25, 0.25, 0.25 * math.log(4) + 0.75 * math.log(4 / 3)]
    third = [0.25, 0.5 * 2 + 0.25, 0.5 * math.log(2) + 0.5 * math.log(4)]
    statistics = query_statistics(maps)
    assert statistics.shape == (3, 1, 1, 2)
    torch.testing.assert_close(statistics[:, 0, 0].T, torch.tensor([second, third]))


def test_even_attention_gives_every_position_a_share_of_one():
    maps = (torch.ones(5, 5).tril() / torch.arange(1, 6).unsqueeze(1)).expand(2, 3, 5, 5)
    for position in range(4):
        torch.testing.assert_close(attention_received(maps, position), torch.ones(2, 3))


def test_attention_received_worked_out_by_hand():
    maps = torch.zeros(1, 2, 4, 4)
    maps[0, 0, :, 1] = torch.tensor([0.0, 1.0, 0.5, 0.5])  # from queries 0, 1, 2, 3
    maps[0, 1, 3, 1] = 0.25
    # Queries 2 and 3 may look at 3 and 4 tokens: (0.5 × 3 + 0.5 × 4) / 2 and (0 + 0.25 × 4) / 2.
    assert attention_received(maps, 1).tolist() == [[1.75, 0.5]]
