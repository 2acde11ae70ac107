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


@pytest.mark.parametrize(
    ("heads", "layers", "expected"),
    [
        ([], None, [[1, 1, 1, 1], [1, 1, 1, 1]]),
        ([1, 2], None, [[1, 0, 0, 1], [1, 0, 0, 1]]),  # as the paper ablates
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
    tiny_model.blocks[1].attention.proj.weight[:, 8:12] = 0  # nothing reads head 2
    ids, whole = make_ids(30), torch.ones(2, 4)
    baseline, effects = ablation_effects(tiny_model, ids)
    assert baseline == pytest.approx(mean_loss(tiny_model, ids), rel=1e-5)
    assert effects.shape == (2, 4)
    for (layer, head), effect in np.ndenumerate(effects):
        mask = whole.clone()
        mask[layer, head] = 0
        expected = mean_loss(tiny_model, ids, mask) - mean_loss(tiny_model, ids)
        assert effect == pytest.approx(expected, abs=1e-5)
    assert np.argwhere(np.abs(effects) < 1e-4).tolist() == [[1, 2]]
    without = mean_loss(tiny_model, ids, torch.tensor([[1.0, 0, 0, 1], [1, 0, 0, 1]]))
    assert loss_without(tiny_model, ids, [1, 2]) == pytest.approx(without, rel=1e-5)
    assert loss_without(tiny_model, ids, [1], [0]) == pytest.approx(baseline + effects[0, 1])


# -- attention ------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
def test_attention_maps_and_the_statistics_of_tokens_equal_a_plain_loop(
    tiny_config, make_model, make_ids, causal
):
    model, ids = make_model(replace(tiny_config, causal=causal)), make_ids(9)
    attention = model(ids.unsqueeze(0), return_attention=True).attention[:, 0]
    maps = attention_maps(model.train(), ids)  # without dropout, whatever the mode
    torch.testing.assert_close(maps, attention.detach())
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
    torch.testing.assert_close(query_statistics(maps)[:, 0, 0].T, torch.tensor([second, third]))


def test_attention_received_worked_out_by_hand(one_sentence):
    maps = torch.zeros(1, 3, 4, 4)
    maps[0, 0, :, 1] = torch.tensor([0.0, 1.0, 0.5, 0.5])  # from queries 0, 1, 2, 3
    maps[0, 1, 3, 1] = 0.25
    maps[0, 2] = torch.ones(4, 4).tril() / torch.arange(1, 5).unsqueeze(1)  # spread evenly
    # Queries 2 and 3 may look at 3 and 4 tokens: (0.5 × 3 + 0.5 × 4) / 2 and (0 + 0.25 × 4) / 2.
    assert attention_received(maps, 1).tolist() == [[1.75, 0.5, 1]]
    assert attention_received(maps, 2).tolist() == [[0, 0, 1]]
    for position in (-1, 3):
        with pytest.raises(LLMLiteError, match=f"looks at position {position}") as error:
            attention_received(maps, position)
        one_sentence(error)
