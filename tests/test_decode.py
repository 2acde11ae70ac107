"""The decoder against the whole model, run from scratch at every step."""

import math
import weakref
from dataclasses import replace

import pytest
import torch

from llmlite.decode import Decoder, GraphCache
from llmlite.generate import generate
from llmlite.model import KVCache

CLOSE = {"atol": 1e-5, "rtol": 0}
STEPS = 20  # the window is 12: it is passed
DEVICES = ["cpu"]
DEVICES += [
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA"),
    )
]


@torch.no_grad()
def from_scratch(model, text, head_mask=None):
    window = text[:, -model.config.block_size :]
    return model(window, head_mask=head_mask).logits[:, -1]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch", [1, 3, 17])  # from 16 texts of 4 heads, attention is spelled out
@pytest.mark.parametrize("prompt", [1, 4, 12, 14])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_every_steps_logits_equal_those_from_scratch(
    tiny_config, make_model, make_ids, device, batch, prompt, masked, causal
):
    model = make_model(replace(tiny_config, causal=causal)).to(device)
    ids, head_mask = make_ids(batch, STEPS).to(device), None
    if masked:
        head_mask = torch.rand(2, 4, generator=torch.Generator().manual_seed(1)).to(device)
    decoder = Decoder(model, batch, capacity=STEPS, head_mask=head_mask)
    for end in range(prompt, STEPS + 1):
        expected = from_scratch(model, ids[:, :end], head_mask)
        torch.testing.assert_close(decoder(ids[:, :end]), expected, **CLOSE)
    assert expected.std() > 0.3  # there is something to see


@pytest.mark.parametrize("device", DEVICES)
def test_a_text_may_grow_by_several_tokens_at_once(tiny_model, make_ids, device):
    model, ids = tiny_model.to(device), make_ids(2, 12).to(device)
    decoder = Decoder(model, 2, capacity=12)
    for end in (3, 4, 8, 9, 12):
        expected = from_scratch(model, ids[:, :end])
        torch.testing.assert_close(decoder(ids[:, :end]), expected, **CLOSE)


def test_a_cache_for_graphs_gives_what_the_plain_one_gives(tiny_model, make_ids):
    """Its arithmetic needs no GPU; only recording does."""
    ids, plain, graph = make_ids(3, 10), KVCache(tiny_model, 3, 12), GraphCache(tiny_model, 3, 12)
    layer = torch.rand(3, 4, 1, 4), torch.rand(3, 4, 1, 4)
    with torch.no_grad():
        for start, end in ((0, 4), *((i, i + 1) for i in range(4, 10))):
            graph.next.fill_(start)
            expected = tiny_model(ids[:, start:end], cache=plain).logits
            logits = tiny_model(ids[:, start:end], cache=graph).logits
            torch.testing.assert_close(logits, expected, **CLOSE)
    graph.next.fill_(graph.length)
    graph.extend(1)
    keys, values, mask = graph.append(1, *layer)  # of a recorded step, nothing may change
    assert (keys.data_ptr(), values.data_ptr()) == (
        graph.keys[1].data_ptr(),
        graph.values[1].data_ptr(),
    )
    assert keys.shape == values.shape == (3, 4, 12, 4)
    assert mask.tolist() == [[0.0] * 11 + [-math.inf]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")
def test_on_cuda_one_graph_serves_all_steps(tiny_model, make_ids, monkeypatch):
    model, recorded = tiny_model.cuda(), []
    graph = torch.cuda.CUDAGraph
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: recorded.append(graph()) or recorded[-1])
    ids = make_ids(2, 3).cuda()
    fast = generate(model, ids, 9, temperature=0)
    assert len(recorded) == 1
    assert torch.equal(fast, generate(model, ids, 9, temperature=0, fast=False))


@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"top_k": 5, "top_p": 0.9}, {"fast": False}]
)
def test_a_text_is_continued_where_the_model_is(tiny_model, make_ids, options):
    """On the device "meta", which has shapes alone and like a GPU takes no tensor of the CPU's."""
    mask = torch.ones(2, 4, device="meta")
    text = generate(tiny_model.to("meta"), make_ids(3, 5), 9, head_mask=mask, **options)
    assert (text.shape, text.device.type) == ((3, 14), "meta")  # two past the window


@torch.inference_mode()
def test_a_graphs_step_is_made_where_the_model_is(tiny_model, make_ids):
    model, ids = tiny_model.to("meta"), make_ids(3, 6).to("meta")
    decoder, cache = Decoder(model, 3, capacity=12), GraphCache(model, 3, 12)
    for part in ids.split((5, 1), dim=1):
        assert decoder.feed(part, cache).shape == (3, 61)
    assert cache.length == 6


def test_a_decoder_lets_go_of_its_memory_at_once(tiny_model, make_ids):
    """And not when Python looks for cycles, which is seldom: a cache may be a gigabyte."""
    decoder = Decoder(tiny_model, 2, capacity=12)
    decoder(make_ids(2, 3))
    cache = weakref.ref(decoder.cache)
    del decoder
    assert cache() is None


def test_the_cache_holds_no_more_than_the_window(tiny_model, make_ids):
    decoder = Decoder(tiny_model, 2, capacity=1000)
    decoder(make_ids(2, 3))
    assert decoder.cache.keys[0].shape == decoder.cache.values[1].shape == (2, 4, 12, 4)


def test_the_cache_grows_while_the_text_does(tiny_config, make_model, make_ids):
    model = make_model(replace(tiny_config, block_size=80))
    ids, cache, slots = make_ids(2, 80), KVCache(model, 2, capacity=70), []
    with torch.no_grad():
        full = model(ids).logits
        for start in range(70):
            logits = model(ids[:, start : start + 1], cache=cache).logits
            torch.testing.assert_close(logits, full[:, start : start + 1], **CLOSE)
            slots.append(cache.keys[0].size(2))
    assert slots == [32] * 32 + [64] * 32 + [70] * 6
