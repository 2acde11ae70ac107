"""Sampling from a trained model (§IV.B and IV.C), and the paper's filter of repeated tokens."""

import math

import torch
from torch import Tensor

from llmlite.decode import Decoder
from llmlite.errors import LLMLiteError
from llmlite.model import GPT
from llmlite.progress import tqdm

PARAGRAPH = " \n "  # how a paragraph starts in WikiText: after a blank line, with a space


@torch.inference_mode()
def generate(
    model: GPT,
    ids: Tensor,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    head_mask: Tensor | None = None,
    fast: bool = True,
    progress: bool = False,
) -> Tensor:
    """Continue each row of `ids` (batch, time) by sampling; returns (batch, time + new).

    temperature: 0 takes the likeliest token. top_k: keep the k likeliest. top_p: keep the fewest
    tokens that hold this much probability (Holtzman et al., 2020). The last block_size tokens are
    the context. fast: by a Decoder, with a key/value cache; False computes every step from scratch.
    """
    _check(ids, max_new_tokens, temperature, top_k, top_p)
    model.eval()
    (batch, prompt), length = ids.shape, ids.size(1) + max_new_tokens
    text = torch.empty(batch, length, dtype=ids.dtype, device=model.device)
    text[:, :prompt] = ids
    generator = None
    if seed is not None:
        generator = torch.Generator(device=model.device).manual_seed(seed)
    decoder = Decoder(model, batch, length, head_mask) if fast else None
    for end in tqdm(range(prompt, length), "Generate", unit="token", disable=not progress):
        if fast:
            logits = decoder(text[:, :end])
        else:
            window = text[:, max(0, end - model.config.block_size) : end]
            logits = model(window, head_mask=head_mask).logits[:, -1]
        text[:, end] = _sample(logits.float(), temperature, top_k, top_p, generator)
    return text


def next_token_probabilities(
    logits: Tensor, temperature: float, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """The distribution that is sampled from: logits (batch, vocab_size) → probabilities."""
    logits = logits / temperature
    if top_k is not None and top_k < logits.size(-1):
        smallest = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, float("-inf"))
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)  # held by likelier tokens
        drop = torch.empty_like(before, dtype=torch.bool).scatter_(1, order, before >= top_p)
        logits = logits.masked_fill(drop, float("-inf"))
    return logits.softmax(-1)


def _sample(logits, temperature, top_k, top_p, generator) -> Tensor:
    if temperature == 0 and logits.device.type == "cpu":
        return torch.from_numpy(logits.numpy().argmax(-1))  # several times as fast as PyTorch's
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = next_token_probabilities(logits, temperature, top_k, top_p)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)


def complete(
    model: GPT,
    tokenizer,
    prompt: str,
    max_new_tokens: int = 60,
    n: int = 1,
    **sampling,
) -> list[str]:
    """`n` continuations of `prompt` as text, without the prompt, each ending before <|endoftext|>.

    The prompt is set as the start of a paragraph, as the corpus writes it. `sampling` is as in
    `generate`.
    """
    if n < 1:
        raise LLMLiteError(f"Cannot generate {n} continuations; ask for 1 or more.")
    if not prompt.strip():
        raise LLMLiteError("The prompt is empty; give at least one word.")
    start = torch.tensor([tokenizer.encode(PARAGRAPH + prompt.strip())])
    rows = generate(model, start.repeat(n, 1), max_new_tokens, **sampling)
    continuations = []
    for row in rows[:, start.size(1) :].tolist():
        end = row.index(tokenizer.eot_id) if tokenizer.eot_id in row else len(row)
        continuations.append(tokenizer.decode(row[:end]))
    return continuations


def remove_repeated_tokens(text: str) -> str:
    """The paper's filter (§IV.B): each word stays where it occurs first and goes elsewhere."""
    return " ".join(dict.fromkeys(text.split()))


def _check(ids, max_new_tokens, temperature, top_k, top_p) -> None:
    for wrong, what in (
        (ids.numel() == 0, "the prompt is empty"),
        (max_new_tokens < 0, f"max_new_tokens is {max_new_tokens}; it must be 0 or more"),
        (
            temperature != 0 and not 0.01 <= temperature < math.inf,
            f"temperature is {temperature}; it must be 0 or at least 0.01",
        ),
        (top_k is not None and top_k < 1, f"top_k is {top_k}; it must be 1 or more"),
        (
            top_p is not None and not 0 < top_p <= 1,
            f"top_p is {top_p}; it must be above 0 and at most 1",
        ),
    ):
        if wrong:
            raise LLMLiteError(f"Cannot generate: {what}.")
