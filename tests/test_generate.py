"""Sampling against plain loops and distributions worked out by hand."""

import math
import weakref
from dataclasses import replace
from unittest.mock import MagicMock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llmlite.files import LLMLiteError
from llmlite.generate import (
    PARAGRAPH,
    Decoder,
    _drawn,
    complete,
    generate,
    next_token_probabilities,
    pieces,
    prompt_ids,
    remove_repeated_tokens,
    stream,
)
from llmlite.interpret import mask_heads
from llmlite.model import KVCache
from llmlite.tokenizer import BPETokenizer


@pytest.fixture
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train("the cat sat on the mat , the cat sat there", 270)


@pytest.fixture
def text_model(tiny_config, make_model, tokenizer):
    return make_model(replace(tiny_config, vocab_size=tokenizer.vocab_size, block_size=24))


# -- the distribution -----------------------------------------------------------------------------

HALF_TO_EIGHTH = torch.tensor([[0.125, 0.5, 0.125, 0.25]]).log()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1 / 8, 1 / 2, 1 / 8, 1 / 4]),
        ({"temperature": 0.5}, [1 / 22, 16 / 22, 1 / 22, 4 / 22]),  # the squares, over their sum
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 2 / 3, 0, 1 / 3]),
        ({"top_k": 4}, [1 / 8, 1 / 2, 1 / 8, 1 / 4]),
        ({"top_k": 99}, [1 / 8, 1 / 2, 1 / 8, 1 / 4]),
        ({"top_p": 0.01}, [0, 1, 0, 0]),  # never fewer than one token
        ({"top_p": 0.49}, [0, 1, 0, 0]),
        ({"top_p": 0.51}, [0, 2 / 3, 0, 1 / 3]),  # half is not enough
        ({"top_p": 0.74}, [0, 2 / 3, 0, 1 / 3]),
        ({"top_p": 1.0}, [1 / 8, 1 / 2, 1 / 8, 1 / 4]),
        ({"temperature": 0.5, "top_p": 0.75}, [0, 4 / 5, 0, 1 / 5]),  # 16/22 is less than 0.75
        ({"top_k": 2, "top_p": 0.6}, [0, 1, 0, 0]),  # of the two kept, the first holds 2/3
    ],
)
def test_the_distribution_worked_out_by_hand(options, expected):
    options = {"temperature": 1.0, **options}
    probabilities = next_token_probabilities(HALF_TO_EIGHTH, **options)
    torch.testing.assert_close(probabilities, torch.tensor([expected], dtype=torch.float32))


def test_top_p_keeps_the_fewest_tokens_that_hold_so_much():
    logits = 2 * torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    whole = logits.softmax(-1)
    kept = next_token_probabilities(logits, 1.0, top_p=0.8) > 0
    for row, keep in zip(whole, kept, strict=True):
        held = row[keep]
        assert held.sum() >= 0.8
        assert held.sum() - held.min() < 0.8  # without the least likely of them it is too little
        assert held.min() > row[~keep].max()


def test_tokens_are_drawn_with_their_probabilities(text_model):
    ids = torch.tensor([[1, 2, 3]])
    drawn = generate(text_model, ids.repeat(20_000, 1), 1, temperature=0.5, seed=1)[:, -1]
    with torch.no_grad():
        expected = (text_model(ids).logits[0, -1] / 0.5).softmax(-1)
    share = drawn.bincount(minlength=len(expected)) / len(drawn)
    torch.testing.assert_close(share, expected, atol=0.02, rtol=0)
    assert expected.max() > 0.05


@pytest.mark.parametrize("shape", [(1, 61), (7, 1000)])
def test_what_is_drawn_is_what_multinomial_draws(shape):
    ours, theirs = (torch.Generator().manual_seed(3) for _ in range(2))
    probabilities = next_token_probabilities(torch.randn(shape, generator=ours), 1.0, top_k=20)
    theirs.set_state(ours.get_state())
    for _ in range(20):
        expected = torch.multinomial(probabilities, 1, generator=theirs).squeeze(1)
        assert torch.equal(_drawn(probabilities, ours), expected)


# -- the loop -------------------------------------------------------------------------------------


@torch.inference_mode()
def argmax_loop(model, ids, n, head_mask=None):
    for _ in range(n):
        window = ids[:, -model.config.block_size :]
        ids = torch.cat([ids, model(window, head_mask=head_mask).logits[:, -1:].argmax(-1)], dim=1)
    return ids


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("options", [{"temperature": 0}, {"top_k": 1, "temperature": 2.0}])
def test_greedy_generation_equals_a_plain_loop(tiny_model, make_ids, options, fast):
    ids = make_ids(3, 4)
    new = generate(tiny_model, ids, 20, fast=fast, **options)  # past the window of 12
    assert torch.equal(new, argmax_loop(tiny_model, ids, 20))
    assert torch.equal(new[:, :4], ids)
    assert new.unique().numel() > 5


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("prompt", [1, 5, 11, 12, 13, 20])  # the window is 12
def test_fast_sampling_equals_plain_sampling(tiny_model, make_ids, prompt, masked, batch):
    ids, mask = make_ids(batch, prompt), mask_heads(tiny_model.config, [1, 2]) if masked else None
    options = {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": 5, "head_mask": mask}
    fast, plain = (generate(tiny_model, ids, 18, fast=fast, **options) for fast in (True, False))
    assert torch.equal(fast, plain)
    assert fast.shape == (batch, prompt + 18)


@pytest.mark.parametrize("batch", [1, 3])
def test_greedy_text_equals_that_of_transformers(tiny_model, gpt2, make_ids, batch):
    ids = make_ids(batch, 3)
    theirs = gpt2.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=9,
        min_new_tokens=9,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    assert torch.equal(generate(tiny_model, ids, 9, temperature=0), theirs)


@pytest.mark.parametrize(
    ("fast", "expected"), [(True, [10, 1, 1, 12, 12]), (False, [10, 11, 12, 12, 12])]
)
def test_only_new_tokens_are_fed_while_the_text_fits_the_window(
    tiny_model, make_ids, monkeypatch, fast, expected
):
    fed, embedding = [], torch.nn.functional.embedding

    def count(ids, weight, *options):
        if weight is tiny_model.token_embedding.weight:
            fed.append(ids.numel())
        return embedding(ids, weight, *options)

    monkeypatch.setattr(torch.nn.functional, "embedding", count)
    generate(tiny_model, make_ids(1, 10), 5, seed=0, fast=fast)
    assert fed == expected


def test_the_likeliest_of_equals_is_the_first_on_both_paths(tiny_model, make_ids):
    with torch.no_grad():  # every token has the same logit
        tiny_model.token_embedding.weight.zero_()
    for fast in (True, False):
        new = generate(tiny_model, make_ids(2, 3), 3, temperature=0, fast=fast)
        assert new[:, 3:].eq(0).all()


def test_the_head_mask_reaches_every_step(tiny_model, make_ids):
    ids, mask = make_ids(1, 4), mask_heads(tiny_model.config, [1, 2])
    masked = generate(tiny_model, ids, 20, temperature=0, head_mask=mask)
    assert torch.equal(masked, argmax_loop(tiny_model, ids, 20, mask))
    assert not torch.equal(masked, argmax_loop(tiny_model, ids, 20))


@pytest.mark.parametrize("fast", [True, False])
def test_a_head_mask_of_another_shape_is_refused(tiny_model, make_ids, fast):
    """Also where the prompt is one token, and a layer's row would stretch to all heads."""
    with pytest.raises(LLMLiteError, match=r"head_mask is \(2, 1\)"):
        generate(tiny_model, make_ids(1, 1), 2, head_mask=torch.ones(2, 1), fast=fast)


def test_the_seed_decides_and_nothing_else_does(tiny_model, make_ids):
    ids = make_ids(2, 4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = generate(tiny_model, ids, 10, seed=1)
        state = torch.get_rng_state()
        again = generate(tiny_model, ids, 10, seed=1)
        other = generate(tiny_model, ids, 10, seed=2)
        assert torch.equal(state, torch.get_rng_state())  # a seeded call draws on its own
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_generation_is_without_dropout(tiny_model, make_ids):
    ids = make_ids(2, 4)
    expected = argmax_loop(tiny_model, ids, 15)
    assert torch.equal(generate(tiny_model.train(), ids, 15, temperature=0), expected)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"max_new_tokens": 10**12}, "max_new_tokens is 1000000000000"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"seed": -(2**63) - 1}, "64 bits"),
    ],
)
@pytest.mark.parametrize("sample", [generate, stream])  # a stream refuses before its first token
def test_an_impossible_request_is_refused_by_name(
    tiny_model, make_ids, sample, options, name, one_sentence
):
    with pytest.raises(LLMLiteError, match=name) as error:
        sample(tiny_model, make_ids(1, 4), **{"max_new_tokens": 2, **options})
    one_sentence(error)


@pytest.mark.parametrize("sample", [generate, stream])
@pytest.mark.parametrize("shape", [(1, 0), (0, 3)])
def test_an_empty_prompt_of_ids_is_refused(tiny_model, make_ids, sample, shape):
    with pytest.raises(LLMLiteError, match="prompt is empty"):
        sample(tiny_model, make_ids(*shape), 2)


# -- the key/value cache, against the whole model from scratch -----------------------------------

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
@pytest.mark.parametrize("batch", [1, 3, 17])  # one row or several: two layouts of the vocabulary
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


class Recorder(TorchDispatchMode):
    """Stands for a CUDA graph and its capture: a replay runs the same operations again, on the same
    memory, so what Python would have to do anew at each step is missing in it."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self):
        for func, args, kwargs, result in self.calls:
            new = func(*args, **kwargs)
            for old, value in zip(tree_leaves(result), tree_leaves(new), strict=True):
                old.copy_(value)  # a view of an argument is written onto itself


@pytest.mark.parametrize("prompt", [3, 11])  # the window is 12: eight replays, and one
def test_a_recorded_step_gives_the_logits_of_all_later_ones(
    tiny_model, make_ids, monkeypatch, prompt
):
    for name in ("device", "stream", "Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorder)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: graph)
    ids, decoder = make_ids(3, 14), Decoder(tiny_model, 3, capacity=14)
    decoder.by_graph = True
    for end in range(prompt, 15):
        expected = from_scratch(tiny_model, ids[:, :end])
        torch.testing.assert_close(decoder(ids[:, :end]), expected, **CLOSE)
    assert len(decoder.graph.calls) > 30


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
    decoder, cache = Decoder(model, 3, capacity=12), KVCache(model, 3, 12)
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


# -- one token at a time --------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [1, 5, 12, 20])  # the window is 12
@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"top_k": 9, "temperature": 0.7}])
def test_a_stream_is_the_tokens_that_generate_gives(tiny_model, make_ids, prompt, options):
    ids, mask = make_ids(1, prompt), mask_heads(tiny_model.config, [1, 2])
    options = {"seed": 4, "head_mask": mask, **options}
    tokens = [token for token, _ in stream(tiny_model.train(), ids, 18, **options)]
    assert tokens == generate(tiny_model, ids, 18, **options)[0, prompt:].tolist()
    assert len(tokens) == 18


def test_a_step_says_how_surprising_its_token_was_to_the_model(tiny_model, make_ids):
    """Over the whole vocabulary, whatever it was drawn from."""
    text = make_ids(1, 3)
    for token, nats in stream(tiny_model, text, 8, temperature=0.5, top_k=4, seed=2):
        with torch.no_grad():
            expected = -tiny_model(text).logits[0, -1].log_softmax(-1)[token].item()
        assert nats == pytest.approx(expected, abs=1e-4)
        text = torch.cat([text, torch.tensor([[token]])], dim=1)
    assert text.size(1) == 11


def test_a_stream_leaves_its_readers_autograd_alone(tiny_model, make_ids):
    for _ in stream(tiny_model, make_ids(1, 3), 3, seed=0):
        assert not torch.is_inference_mode_enabled()


def test_a_token_comes_before_the_next_one_is_computed(tiny_model, make_ids, monkeypatch):
    steps = stream(tiny_model, make_ids(1, 3), 3, seed=0)
    next(steps)
    monkeypatch.setattr("llmlite.generate.next_token_probabilities", None)
    with pytest.raises(TypeError):
        next(steps)


def test_several_texts_are_no_stream(tiny_model, make_ids, one_sentence):
    with pytest.raises(LLMLiteError, match="one text, not of 2") as error:
        stream(tiny_model, make_ids(2, 3), 2)
    one_sentence(error)


def steps_of(tokens) -> list[tuple[int, float]]:
    """Steps whose probabilities are a half, a quarter, an eighth, …"""
    return [(token, (i + 1) * math.log(2)) for i, token in enumerate(tokens)]


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (b"a\xc3\xa9b", ["a", "é", "b"]),
        ("日本".encode(), ["日", "本"]),
        ("🙂".encode(), ["🙂"]),
        (b"a\xc3", ["a", "\ufffd"]),  # the text stops within a character
        (b"\xc3a", ["\ufffda"]),  # what began one is none: that is seen at the next byte
        (b"\xa9b", ["\ufffd", "b"]),
        (b"\xc3\xd0", ["\ufffd", "\ufffd"]),  # the second byte began another, and the text stops
        (b"", []),
    ],
)
def test_the_pieces_of_a_text_are_whole_characters(tokenizer, data, texts):
    id_of = {tokenizer.token_bytes[i]: i for i in range(256)}
    steps = steps_of(id_of[bytes([byte])] for byte in data)
    found = list(pieces(tokenizer, iter(steps)))
    assert [text for text, _ in found] == texts
    assert "".join(texts) == tokenizer.decode([token for token, _ in steps])
    assert [nats for _, its in found for nats in its] == [nats for _, nats in steps]


def test_pieces_end_before_the_special_token_and_ask_for_no_more(tokenizer):
    steps = iter(steps_of([65, tokenizer.eot_id, 66]))
    assert len(list(pieces(tokenizer, steps))) == 1
    assert next(steps)[0] == 66


# -- text -----------------------------------------------------------------------------------------


def test_a_completion_continues_a_paragraph_that_starts_with_the_prompt(text_model, tokenizer):
    start = tokenizer.encode(" \n The cat")
    assert PARAGRAPH + "The cat" == " \n The cat"
    ids = generate(text_model, torch.tensor([start] * 3), 12, seed=3, top_k=50)[:, len(start) :]
    expected = [tokenizer.decode(row) for row in ids]
    assert complete(text_model, tokenizer, "  The cat\n", 12, n=3, seed=3, top_k=50) == expected
    assert len(set(expected)) == 3


def test_pieces_of_a_stream_are_the_text_of_a_completion(text_model, tokenizer):
    options = {"seed": 3, "top_k": 50, "temperature": 0.8}
    steps = stream(text_model, prompt_ids(tokenizer, "The cat"), 40, **options)
    text = "".join(text for text, _ in pieces(tokenizer, steps))
    assert complete(text_model, tokenizer, "The cat", 40, **options) == [text]
    assert text


def test_a_completion_ends_before_the_special_token(text_model, tokenizer, monkeypatch):
    the, cat, eot = tokenizer.encode("the")[0], tokenizer.encode(" cat")[0], tokenizer.eot_id
    new = torch.tensor([[the, cat, eot, the], [eot, the, the, eot], [the, the, cat, cat]])
    monkeypatch.setattr(
        "llmlite.generate.generate", lambda model, ids, *_, **__: torch.cat([ids, new], dim=1)
    )
    word = {i: tokenizer.decode([i]) for i in (the, cat)}
    assert complete(text_model, tokenizer, "the", 4, n=3) == [
        word[the] + word[cat],
        "",
        word[the] * 2 + word[cat] * 2,
    ]


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_refused(text_model, tokenizer, prompt, one_sentence):
    with pytest.raises(LLMLiteError, match="prompt is empty") as error:
        complete(text_model, tokenizer, prompt)
    one_sentence(error)


@pytest.mark.parametrize(
    ("text", "filtered"),
    [
        ("on on on Mul on Mul", "on Mul"),
        ("the cat and the dog and a bird", "the cat and dog a bird"),
        ("The the", "The the"),  # words are compared as they are written
        (" spaced \n out ", "spaced out"),
        ("", ""),
    ],
)
def test_the_papers_filter_keeps_each_word_where_it_occurs_first(text, filtered):
    assert remove_repeated_tokens(text) == filtered
