"""Sampling against plain loops, PyTorch's own draws, and examples by hand."""

import math
from dataclasses import replace
from unittest.mock import MagicMock, Mock

import pytest
import torch
from test_engine import FakeCuda, Recorder, needs_cuda

from llmlite import generate as sampling
from llmlite.files import LLMLiteError
from llmlite.generate import Decoder, complete, generate, pieces, stream
from llmlite.interpret import mask_heads
from llmlite.tokenizer import BPETokenizer

SAMPLED = {"temperature": 0.8, "top_k": 20, "top_p": 0.9}
GREEDY = {"temperature": 0}
TOKENIZER = BPETokenizer.train("the cat sat on the mat , the cat sat there", 270)


@pytest.mark.parametrize(("options", "expected"), [
    ({}, [1 / 8, 1 / 2, 1 / 8, 1 / 4]),
    ({"temperature": 0.5}, [1 / 22, 16 / 22, 1 / 22, 4 / 22]),  # the squares, over their sum
    ({"top_k": 2}, [0, 2 / 3, 0, 1 / 3]),
    ({"top_k": 99, "top_p": 1.0}, [1 / 8, 1 / 2, 1 / 8, 1 / 4]),
    ({"top_p": 1e-300}, [0, 1, 0, 0]),  # never fewer than one token
    ({"top_p": 0.51}, [0, 2 / 3, 0, 1 / 3]),  # half is not enough
    ({"temperature": 0.5, "top_p": 0.75}, [0, 4 / 5, 0, 1 / 5]),  # 16/22 is less than 0.75
    ({"top_k": 2, "top_p": 0.6}, [0, 1, 0, 0]),  # of the two kept, the first holds 2/3
])  # fmt: skip
def test_the_distribution_worked_out_by_hand(options, expected):
    logits = torch.tensor([[0.125, 0.5, 0.125, 0.25]]).log()
    probabilities = sampling.next_token_probabilities(logits, **{"temperature": 1.0, **options})
    torch.testing.assert_close(probabilities, torch.tensor([expected], dtype=torch.float32))


@torch.no_grad()
def from_scratch(model, text, head_mask=None):
    """The logits of the token that follows."""
    return model(text[:, -model.config.block_size :], head_mask=head_mask).logits[:, -1]


def plain_loop(model, text, new, seed, head_mask=None, **how):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(new):
        logits = from_scratch(model, text, head_mask)
        if how["temperature"]:
            logits = sampling.next_token_probabilities(logits, **how)
            token = torch.multinomial(logits, 1, generator=generator)
        else:
            token = logits.argmax(-1, keepdim=True)
        text = torch.cat([text, token], dim=1)
    return text


@pytest.mark.parametrize("how", [GREEDY, SAMPLED, {"temperature": 2.0, "top_k": 1}])
@pytest.mark.parametrize(("causal", "masked"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize(("batch", "prompt"), [(1, 1), (4, 5), (17, 11), (4, 12), (3, 13), (4, 20)])
def test_both_paths_give_what_a_plain_loop_gives(
    tiny_config, make_model, make_ids, batch, prompt, causal, masked, how
):
    model, ids = make_model(replace(tiny_config, causal=causal)), make_ids(batch, prompt)
    mask = mask_heads(tiny_config, [1, 2]) if masked else None
    expected = plain_loop(model, ids, 18, 5, mask, **how)  # past the window of 12
    assert expected[:, prompt:].unique().numel() > 1
    for fast in (True, False):
        model.train()  # and yet without dropout
        new = generate(model, ids, 18, seed=5, head_mask=mask, fast=fast, **how)
        assert torch.equal(new, expected)


def test_only_new_tokens_are_fed_while_the_text_fits_the_window(tiny_model, make_ids):
    fed = []
    tiny_model.token_embedding.register_forward_pre_hook(lambda _, x: fed.append(x[0].numel()))
    for fast, expected in ((True, [10, 1, 1, 12, 12]), (False, [10, 11, 12, 12, 12])):
        fed.clear()
        generate(tiny_model, make_ids(1, 10), 5, seed=0, fast=fast)
        assert fed == expected


def test_the_seed_decides_and_a_seeded_call_draws_on_its_own(tiny_model, make_ids):
    with torch.random.fork_rng(devices=[]):
        before, ids = torch.get_rng_state(), make_ids(2, 4)
        first, again, *others = (generate(tiny_model, ids, 9, seed=i) for i in (0, 0, 1, 2**64 - 1))
        assert torch.equal(before, torch.get_rng_state())
        others += [generate(tiny_model, ids, 9, seed=seed) for seed in (None, None)]
    generate(tiny_model, ids, 9, seed=-(2**63))  # the least
    assert torch.equal(first, again)
    assert len({tuple(text.flatten().tolist()) for text in [first, *others]}) == 5


@pytest.mark.parametrize(("call", "given", "words"), [
    (generate, {"temperature": 0.009}, "temperature is 0.009; allowed: 0, or 0.01 and more"),
    (generate, {"temperature": math.inf}, "temperature is inf"),
    (generate, {"top_k": 0}, "top_k is 0; allowed: a whole number, 1 to"),
    (generate, {"top_p": 0.0}, "top_p is 0.0; allowed: a number, 1e-30 to 1 or None"),
    (generate, {"top_p": 1.1}, "top_p is 1.1"),
    (generate, {"max_new_tokens": -1}, "max_new_tokens is -1; allowed: a whole number, 0 to"),
    (generate, {"max_new_tokens": 1_000_001}, "max_new_tokens is 1000001"),
    (generate, {"seed": 2**64}, "seed is 18446744073709551616; allowed: a whole number, -9,223,"),
    (generate, {"ids": torch.zeros(1, 0, dtype=torch.int64)}, "the prompt is empty"),
    (stream, {"head_mask": torch.ones(2, 1)}, "head_mask is (2, 1)"),  # before a first token
    (stream, {"ids": torch.zeros(2, 3)}, "one text, not of 2"),
    (complete, {"tokenizer": TOKENIZER, "prompt": " \n"}, "prompt is empty"),
    (complete, {"tokenizer": TOKENIZER, "prompt": "a", "n": 0}, "n is 0; allowed: a whole"),
    (complete, {"tokenizer": TOKENIZER, "prompt": "a", "n": 10**9}, "n is 1000000000"),
    (complete, {"tokenizer": TOKENIZER, "prompt": "a", "n": 200, "max_new_tokens": 5001}, "200 t"),
])  # fmt: skip
def test_the_impossible_is_refused(tiny_model, make_ids, call, given, words):
    usual = {} if call is complete else {"ids": make_ids(1, 1)}
    with pytest.raises(LLMLiteError) as error:
        call(tiny_model, **usual | {"max_new_tokens": 2} | given)
    assert words in str(error.value)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize("prompt", [3, 11])  # the window is 12: eight replays, and one
def test_a_recorded_step_serves_all_later_ones(tiny_model, make_ids, monkeypatch, prompt, device):
    if device == "cpu":
        for name in ("device", "stream", "Stream", "current_stream"):
            monkeypatch.setattr(torch.cuda, name, MagicMock())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeCuda().CUDAGraph)
        monkeypatch.setattr(torch.cuda, "graph", lambda graph: Recorder(graph.calls))
    model, ids = tiny_model.to(device), make_ids(3, 14).to(device)
    decoder = Decoder(model, 3, capacity=14)
    decoder.by_graph = True
    for end in range(prompt, 15):
        expected = from_scratch(model, ids[:, :end])
        torch.testing.assert_close(decoder(ids[:, :end]), expected, atol=1e-5, rtol=0)
    assert decoder.graph


@pytest.mark.parametrize("options", [GREEDY, SAMPLED, {"fast": False}])
@torch.inference_mode()
def test_a_text_is_continued_where_the_model_is(tiny_model, make_ids, options):
    """On the device "meta", which has shapes alone and like a GPU takes no tensor of the CPU's."""
    model, mask = tiny_model.to("meta"), torch.ones(2, 4, device="meta")
    text = generate(model, make_ids(3, 5), 9, head_mask=mask, **options)
    assert (text.shape, text.device.type) == ((3, 14), "meta")  # two past the window
    output = model(text[:, 2:], mask, return_attention=True)
    assert {part.device.type for part in output} == {model.device.type} == {"meta"}


@pytest.mark.parametrize("prompt", [1, 5, 12, 20])  # the window is 12
@pytest.mark.parametrize("how", [{}, GREEDY, SAMPLED])
def test_a_stream_gives_the_same_tokens_and_how_likely_each_was(tiny_model, make_ids, prompt, how):
    text, mask = make_ids(1, prompt), mask_heads(tiny_model.config, [1, 2])
    options, fed = {"seed": 4, "head_mask": mask, **how}, []
    expected = generate(tiny_model, text, 18, **options)
    tiny_model.norm.register_forward_hook(lambda *_: fed.append(1))
    for token, nats in stream(tiny_model.train(), text, 18, **options):
        assert len(fed) % 2 == 1, "once more than below: nothing ahead of its time"
        assert not torch.is_inference_mode_enabled()  # its reader's autograd is left alone
        probabilities = from_scratch(tiny_model, text, mask)[0].softmax(-1)
        assert nats == pytest.approx(-math.log(probabilities[token]), abs=1e-4)
        text = torch.cat([text, torch.tensor([[token]])], dim=1)
    assert torch.equal(text, expected)


@pytest.mark.parametrize(("data", "texts"), [
    ("aéb日🙂".encode(), ["a", "é", "b", "日", "🙂"]),
    (b"a\xc3", ["a", "\ufffd"]),  # the text stops within a character
    (b"\xc3a", ["\ufffda"]),  # what began one is none: that is seen at the next byte
    (b"\xa9b", ["\ufffd", "b"]),
    (b"\xc3\xd0", ["\ufffd", "\ufffd"]),  # the second byte began another, and the text stops
    (b"", []),
])  # fmt: skip
def test_pieces_are_whole_characters_and_end_before_the_special_token(data, texts):
    ids = [TOKENIZER.token_bytes.index(bytes([byte])) for byte in data]
    tokens = [(token, (i + 1) * math.log(2)) for i, token in enumerate(ids)]
    steps = iter([*tokens, (TOKENIZER.eot_id, 9.0), (66, 9.0)])
    found = list(pieces(TOKENIZER, steps))
    assert [text for text, _ in found] == texts
    assert "".join(texts) == TOKENIZER.decode(ids)
    assert [nats for _, its in found for nats in its] == [nats for _, nats in tokens]
    assert next(steps)[0] == 66, "no more is asked for"
    assert list(pieces(TOKENIZER, iter(tokens))) == found


@pytest.mark.parametrize(("text", "before"), [
    (" The cat \n The mat \n The cat \n \n The mat \n", " \n "),  # as WikiText has it
    ("The cat\n\nThe mat\n\nThe cat\nThe mat\n\n", "\n"),
])  # fmt: skip
def test_a_completion_continues_a_paragraph_up_to_its_end(monkeypatch, text, before):
    tokenizer = BPETokenizer.train(text, 264)
    start, end = tokenizer.encode(f"{before}The cat"), tokenizer.eot_id
    rows = torch.tensor([[1, 2, end, 3], [end, 1, 2, 3], [1, 2, 3, 4]])
    generated = Mock(side_effect=lambda model, ids, *_, **__: torch.cat([ids, rows], dim=1))
    monkeypatch.setattr(sampling, "generate", generated)
    texts = complete("model", tokenizer, "  The cat\n", 4, n=3, **SAMPLED)
    assert texts == [tokenizer.decode(ids) for ids in ([1, 2], [], [1, 2, 3, 4])]
    (model, ids, new), how = generated.call_args
    assert (model, ids.tolist(), new, how) == ("model", [start] * 3, 4, SAMPLED)


def test_the_papers_filter_keeps_each_word_where_it_occurs_first():
    text = " The cat \n and the dog and a bird "
    assert sampling.remove_repeated_tokens(text) == "The cat and the dog a bird"
