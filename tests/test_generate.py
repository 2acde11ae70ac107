"""Sampling against plain loops, PyTorch's own draws, transformers, and examples by hand."""

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
    Decoder,
    complete,
    generate,
    next_token_probabilities,
    pieces,
    prompt_ids,
    remove_repeated_tokens,
    stream,
)
from llmlite.interpret import mask_heads
from llmlite.tokenizer import BPETokenizer

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")
SAMPLED = {"temperature": 0.8, "top_k": 20, "top_p": 0.9}
GREEDY = {"temperature": 0}


@pytest.fixture
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train("the cat sat on the mat , the cat sat there", 270)


@pytest.fixture
def text_model(tiny_config, make_model, tokenizer):
    return make_model(replace(tiny_config, vocab_size=tokenizer.vocab_size, block_size=24))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1 / 8, 1 / 2, 1 / 8, 1 / 4]),
        ({"temperature": 0.5}, [1 / 22, 16 / 22, 1 / 22, 4 / 22]),  # the squares, over their sum
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 2 / 3, 0, 1 / 3]),
        ({"top_k": 99}, [1 / 8, 1 / 2, 1 / 8, 1 / 4]),
        ({"top_p": 0.01}, [0, 1, 0, 0]),  # never fewer than one token
        ({"top_p": 0.49}, [0, 1, 0, 0]),
        ({"top_p": 0.51}, [0, 2 / 3, 0, 1 / 3]),  # half is not enough
        ({"top_p": 1.0}, [1 / 8, 1 / 2, 1 / 8, 1 / 4]),
        ({"temperature": 0.5, "top_p": 0.75}, [0, 4 / 5, 0, 1 / 5]),  # 16/22 is less than 0.75
        ({"top_k": 2, "top_p": 0.6}, [0, 1, 0, 0]),  # of the two kept, the first holds 2/3
    ],
)
def test_the_distribution_worked_out_by_hand(options, expected):
    logits = torch.tensor([[0.125, 0.5, 0.125, 0.25]]).log()
    probabilities = next_token_probabilities(logits, **{"temperature": 1.0, **options})
    torch.testing.assert_close(probabilities, torch.tensor([expected], dtype=torch.float32))


# -- the loop -------------------------------------------------------------------------------------


@torch.no_grad()
def from_scratch(model, text, head_mask=None):
    """The logits of the token that follows."""
    return model(text[:, -model.config.block_size :], head_mask=head_mask).logits[:, -1]


def plain_loop(model, text, new, seed, head_mask=None, **how):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(new):
        logits = from_scratch(model, text, head_mask)
        if how["temperature"]:
            logits = next_token_probabilities(logits, **how)
            token = torch.multinomial(logits, 1, generator=generator)
        else:
            token = logits.argmax(-1, keepdim=True)
        text = torch.cat([text, token], dim=1)
    return text


@pytest.mark.parametrize("how", [GREEDY, SAMPLED, {"temperature": 2.0, "top_k": 1}])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("batch", "prompt"), [(1, 1), (4, 5), (4, 11), (4, 12), (3, 13), (4, 20)])
def test_both_paths_give_what_a_plain_loop_gives(tiny_model, make_ids, batch, prompt, masked, how):
    ids, mask = make_ids(batch, prompt), mask_heads(tiny_model.config, [1, 2]) if masked else None
    expected = plain_loop(tiny_model, ids, 18, 5, mask, **how)  # past the window of 12
    assert expected[:, prompt:].unique().numel() > 1
    for fast in (True, False):
        tiny_model.train()  # and yet without dropout
        new = generate(tiny_model, ids, 18, seed=5, head_mask=mask, fast=fast, **how)
        assert torch.equal(new, expected)


@pytest.mark.parametrize(
    ("how", "expected"), [({}, [10, 1, 1, 12, 12]), ({"fast": False}, [10, 11, 12, 12, 12])]
)
def test_only_new_tokens_are_fed_while_the_text_fits_the_window(
    tiny_model, make_ids, monkeypatch, how, expected
):
    fed, embedding = [], torch.nn.functional.embedding

    def count(ids, weight, *options):
        if weight is tiny_model.token_embedding.weight:
            fed.append(ids.numel())
        return embedding(ids, weight, *options)

    monkeypatch.setattr(torch.nn.functional, "embedding", count)
    generate(tiny_model, make_ids(1, 10), 5, seed=0, **how)
    assert fed == expected


def test_the_likeliest_of_equals_is_the_first_on_both_paths(tiny_model, make_ids):
    with torch.no_grad():  # every token has the same logit
        tiny_model.token_embedding.weight.zero_()
    for fast in (True, False):
        new = generate(tiny_model, make_ids(2, 3), 3, temperature=0, fast=fast)
        assert new[:, 3:].eq(0).all()


def test_the_seed_decides_and_a_seeded_call_draws_on_its_own(tiny_model, make_ids):
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        seeds = (1, 1, 2, 2**64 - 1, -(2**63))
        first, again, *others = (generate(tiny_model, make_ids(2, 4), 9, seed=i) for i in seeds)
        assert torch.equal(before, torch.get_rng_state())
        others += [generate(tiny_model, make_ids(2, 4), 9) for _ in range(2)]
    assert torch.equal(first, again)
    assert len({tuple(text.flatten().tolist()) for text in [first, *others]}) == 6


@pytest.mark.parametrize("sample", [generate, stream])  # a stream refuses before its first token
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -0.1}, "temperature is -0.1; it must be 0 or at least 0.01"),
        ({"temperature": 0.009}, "temperature is 0.009"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top_k": 0}, "top_k is 0; it must be 1 or more"),
        ({"top_p": 0.0}, "top_p is 0.0; it must be above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1; it must be 0 to 1,000,000"),
        ({"max_new_tokens": 1_000_001}, "max_new_tokens is 1000001"),
        ({"seed": 2**64}, "seed is 18446744073709551616; it must fit into 64 bits"),
        ({"seed": -(2**63) - 1}, "64 bits"),
        ({"ids": torch.zeros(1, 0, dtype=torch.int64)}, "the prompt is empty"),
        ({"ids": torch.zeros(0, 3, dtype=torch.int64)}, "the prompt is empty"),
        ({"head_mask": torch.ones(2, 1)}, "head_mask is (2, 1)"),  # not stretched to all heads
    ],
)
def test_an_impossible_request_is_refused_by_name(
    tiny_model, make_ids, one_sentence, sample, options, words
):
    with pytest.raises(LLMLiteError) as error:
        sample(tiny_model, **{"ids": make_ids(1, 1), "max_new_tokens": 2, **options})
    assert words in one_sentence(error)


# -- the key/value cache, against the whole model from scratch ------------------------------------

CLOSE = {"atol": 1e-5, "rtol": 0}
GROWTH = [range(1, 21), range(4, 21), range(12, 21), range(14, 21), (3, 4, 8, 9, 12)]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize("batch", [1, 3, 17])  # one row or several: two layouts of the vocabulary
@pytest.mark.parametrize("ends", GROWTH)  # the window is 12
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_every_steps_logits_equal_those_from_scratch(
    tiny_config, make_model, make_ids, device, batch, ends, masked, causal
):
    model = make_model(replace(tiny_config, causal=causal)).to(device)
    ids, head_mask = make_ids(batch, 20).to(device), None
    if masked:
        head_mask = torch.rand(2, 4, generator=torch.Generator().manual_seed(1)).to(device)
    decoder = Decoder(model, batch, capacity=20, head_mask=head_mask)
    for end in ends:
        expected = from_scratch(model, ids[:, :end], head_mask)
        torch.testing.assert_close(decoder(ids[:, :end]), expected, **CLOSE)
    assert expected.std() > 0.3  # there is something to see


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


@pytest.mark.parametrize("options", [GREEDY, SAMPLED, {"fast": False}])
def test_a_text_is_continued_where_the_model_is(tiny_model, make_ids, options):
    """On the device "meta", which has shapes alone and like a GPU takes no tensor of the CPU's."""
    mask = torch.ones(2, 4, device="meta")
    text = generate(tiny_model.to("meta"), make_ids(3, 5), 9, head_mask=mask, **options)
    assert (text.shape, text.device.type) == ((3, 14), "meta")  # two past the window


def test_a_decoder_lets_go_of_its_memory_at_once(tiny_model, make_ids):
    """And not when Python looks for cycles, which is seldom: a cache may be a gigabyte."""
    decoder = Decoder(tiny_model, 2, capacity=12)
    decoder(make_ids(2, 3))
    cache = weakref.ref(decoder.cache)
    del decoder
    assert cache() is None


# -- one token at a time --------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [1, 5, 12, 20])  # the window is 12
@pytest.mark.parametrize("how", [{}, GREEDY, SAMPLED])
def test_a_stream_is_the_tokens_of_generate_and_how_surprising_each_was_to_the_model(
    tiny_model, make_ids, prompt, how
):
    text, mask = make_ids(1, prompt), mask_heads(tiny_model.config, [1, 2])
    options = {"seed": 4, "head_mask": mask, **how}
    expected = generate(tiny_model, text, 18, **options)
    for token, nats in stream(tiny_model.train(), text, 18, **options):
        assert not torch.is_inference_mode_enabled()  # its reader's autograd is left alone
        probabilities = from_scratch(tiny_model, text, mask)[0].softmax(-1)
        assert nats == pytest.approx(-math.log(probabilities[token]), abs=1e-4)
        text = torch.cat([text, torch.tensor([[token]])], dim=1)
    assert torch.equal(text, expected)


def test_a_stream_is_of_one_text_and_computes_a_token_when_it_is_asked_for(
    tiny_model, make_ids, monkeypatch, one_sentence
):
    steps = stream(tiny_model, make_ids(1, 3), 3, seed=0)
    next(steps)
    monkeypatch.setattr("llmlite.generate.next_token_probabilities", None)
    with pytest.raises(TypeError):
        next(steps)
    with pytest.raises(LLMLiteError, match="one text, not of 2") as error:
        stream(tiny_model, make_ids(2, 3), 2)
    one_sentence(error)


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
def test_the_pieces_of_a_text_are_whole_characters_and_end_before_the_special_token(
    tokenizer, data, texts
):
    ids = [tokenizer.token_bytes.index(bytes([byte])) for byte in data]
    tokens = [(token, (i + 1) * math.log(2)) for i, token in enumerate(ids)]
    steps = iter([*tokens, (tokenizer.eot_id, 9.0), (66, 9.0)])
    found = list(pieces(tokenizer, steps))
    assert [text for text, _ in found] == texts
    assert "".join(texts) == tokenizer.decode(ids)
    assert [nats for _, its in found for nats in its] == [nats for _, nats in tokens]
    assert next(steps)[0] == 66, "no more is asked for"
    assert list(pieces(tokenizer, iter(tokens))) == found


# -- text -----------------------------------------------------------------------------------------


def test_a_completion_continues_a_paragraph_that_starts_with_the_prompt(text_model, tokenizer):
    start, how = tokenizer.encode(" \n The cat"), {"seed": 3, **SAMPLED}
    rows = generate(text_model, torch.tensor([start] * 3), 12, **how)[:, len(start) :]
    expected = [tokenizer.decode(row) for row in rows]
    assert complete(text_model, tokenizer, "  The cat\n", 12, n=3, **how) == expected
    assert len(set(expected)) == 3
    steps = stream(text_model, prompt_ids(tokenizer, "The cat"), 40, **how)
    text = "".join(text for text, _ in pieces(tokenizer, steps))
    assert complete(text_model, tokenizer, "The cat", 40, **how) == [text]


def test_a_completion_ends_before_the_special_token(text_model, tokenizer, monkeypatch):
    the, cat, eot = tokenizer.encode("the")[0], tokenizer.encode(" cat")[0], tokenizer.eot_id
    new = torch.tensor([[the, cat, eot, the], [eot, the, the, eot], [the, the, cat, cat]])
    monkeypatch.setattr(
        "llmlite.generate.generate", lambda model, ids, *_, **__: torch.cat([ids, new], dim=1)
    )
    expected = [tokenizer.decode(row) for row in ([the, cat], [], [the, the, cat, cat])]
    assert complete(text_model, tokenizer, "the", 4, n=3) == expected


def test_nothing_to_continue_is_refused(text_model, tokenizer, one_sentence):
    for prompt, n, words in (
        ("", 1, "prompt is empty"),
        (" \n", 1, "empty"),
        ("a", 0, "1 or more"),
    ):
        with pytest.raises(LLMLiteError, match=words) as error:
            complete(text_model, tokenizer, prompt, n=n)
        one_sentence(error)


def test_the_papers_filter_keeps_each_word_where_it_occurs_first():
    assert remove_repeated_tokens("the cat and the dog and a bird") == "the cat and dog a bird"
    assert remove_repeated_tokens(" The \n the ") == "The the"  # as they are written
    assert remove_repeated_tokens("") == ""
