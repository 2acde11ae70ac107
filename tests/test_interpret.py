"""Ablation and attention numbers against direct computation and hand-made maps."""

import math

import numpy as np
import pytest
import torch

from llmlite import interpret
from llmlite.files import LLMLiteError
from llmlite.interpret import loss_without, mask_heads
from llmlite.metrics import total_loss


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
