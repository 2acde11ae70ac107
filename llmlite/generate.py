"""Sampling from a trained model (§IV.B and IV.C), and the paper's filter of repeated tokens."""

import codecs
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from llmlite.decode import Decoder
from llmlite.errors import LLMLiteError
from llmlite.model import GPT
from llmlite.progress import tqdm

PARAGRAPH = " \n "  # how a paragraph starts in WikiText: after a blank line, with a space
MOST_TOKENS = 1_000_000  # more at once are a slip, and might not fit in memory


class Step(NamedTuple):
    """A token of a stream, and how surprising it was in nats, −log(probability)."""

    token: int
    nats: float  # under the model's own distribution: the softmax of the logits
    drawn_nats: float  # under the one that it was drawn from, after temperature, top-k and top-p


class Piece(NamedTuple):
    """Whole characters of a stream's text, and the tokens that completed them: none, if these are
    what a text has left at its end that is no character."""

    text: str
    steps: list[Step]

    @property
    def probability(self) -> float:
        """Of these tokens one after the other, as the model says."""
        return math.exp(-sum(step.nats for step in self.steps))


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
    check_sampling(max_new_tokens, temperature, top_k, top_p, seed)
    text = _room(model, ids, max_new_tokens)
    steps = _steps(model, text, ids.size(1), temperature, top_k, top_p, seed, head_mask, fast)
    bar = tqdm(steps, "Generate", max_new_tokens, unit="token", disable=not progress)
    for _ in bar:  # each writes a token into the text
        pass
    return text


def stream(
    model: GPT,
    ids: Tensor,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    head_mask: Tensor | None = None,
) -> Iterator[Step]:
    """The new tokens of `generate` for one text, `ids` (1, time), each as soon as it is sampled.

    The same arguments give the same tokens. Raises LLMLiteError at once, not at the first token.
    """
    check_sampling(max_new_tokens, temperature, top_k, top_p, seed)
    if len(ids) > 1:
        raise LLMLiteError(f"A stream is of one text, not of {len(ids)}; use `generate` for more.")
    text = _room(model, ids, max_new_tokens)
    return _stream(model, text, ids.size(1), temperature, top_k, top_p, seed, head_mask)


@torch.inference_mode()
def _stream(model, text: Tensor, prompt: int, *sampling) -> Iterator[Step]:
    for end, logits, probabilities in _steps(model, text, prompt, *sampling, fast=True):
        token = int(text[0, end])
        nats = -logits[0].log_softmax(-1)[token].item()
        # At temperature 0 nothing is drawn: the likeliest token is certain.
        drawn = 0.0 if probabilities is None else -probabilities[0, token].log().item()
        yield Step(token, nats, drawn)


def _room(model: GPT, ids: Tensor, max_new_tokens: int) -> Tensor:
    """(batch, time + new) on the model's device; it begins with `ids`."""
    if ids.numel() == 0:
        raise LLMLiteError("Cannot generate: the prompt is empty.")
    length = ids.size(1) + max_new_tokens
    text = torch.empty(len(ids), length, dtype=ids.dtype, device=model.device)
    text[:, : ids.size(1)] = ids
    return text


def _steps(
    model, text, prompt, temperature, top_k, top_p, seed, head_mask, fast
) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """Fill `text` (batch, time) from position `prompt` on, a token of each row at a step.

    Yields its position, the logits (batch, vocab_size), and the probabilities that were drawn from,
    None at temperature 0; both may be overwritten by the next step.
    """
    model.eval()
    batch, length = text.shape
    generator = None
    if seed is not None:
        generator = torch.Generator(device=model.device).manual_seed(seed)
    decoder = Decoder(model, batch, length, head_mask) if fast else None
    for end in range(prompt, length):
        if fast:
            logits = decoder(text[:, :end])
        else:
            window = text[:, max(0, end - model.config.block_size) : end]
            logits = model(window, head_mask=head_mask).logits[:, -1]
        logits, probabilities = logits.float(), None
        if temperature == 0:
            text[:, end] = _likeliest(logits)
        else:
            probabilities = next_token_probabilities(logits, temperature, top_k, top_p)
            text[:, end] = _drawn(probabilities, generator)
        yield end, logits, probabilities


def _drawn(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    """A token of each row: what torch.multinomial draws, without its checks, for which it waits
    for the GPU at each token."""
    waiting = torch.empty_like(probabilities).exponential_(generator=generator)
    return (probabilities / waiting).argmax(-1)  # the first of exponential clocks at these rates


def _likeliest(logits: Tensor) -> Tensor:
    if logits.device.type == "cpu":
        return torch.from_numpy(logits.numpy().argmax(-1))  # several times as fast as PyTorch's
    return logits.argmax(-1)


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


def prompt_ids(tokenizer, prompt: str) -> Tensor:
    """`prompt` as the start of a paragraph, as the corpus writes it: (1, time)."""
    if not prompt.strip():
        raise LLMLiteError("The prompt is empty; give at least one word.")
    return torch.tensor([tokenizer.encode(PARAGRAPH + prompt.strip())])


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
    start = prompt_ids(tokenizer, prompt)
    rows = generate(model, start.repeat(n, 1), max_new_tokens, **sampling)
    continuations = []
    for row in rows[:, start.size(1) :].tolist():
        end = row.index(tokenizer.eot_id) if tokenizer.eot_id in row else len(row)
        continuations.append(tokenizer.decode(row[:end]))
    return continuations


def pieces(tokenizer, steps: Iterable[Step]) -> Iterator[Piece]:
    """The text of a stream up to <|endoftext|>, as soon as it can be read: no character is cut.

    Together the texts are what `tokenizer.decode` makes of the tokens.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    waiting = []  # tokens that spell a part of a character so far
    for step in steps:
        if step.token == tokenizer.eot_id:
            break
        waiting.append(step)
        if text := decoder.decode(tokenizer.token_bytes[step.token]):
            yield Piece(text, waiting)
            waiting = []
    if text := decoder.decode(b"", final=True):
        yield Piece(text, waiting)


def remove_repeated_tokens(text: str) -> str:
    """The paper's filter (§IV.B): each word stays where it occurs first and goes elsewhere."""
    return " ".join(dict.fromkeys(text.split()))


def check_sampling(
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
) -> None:
    """LLMLiteError that names the first of these that nothing can be sampled with."""
    for wrong, what in (
        (
            not 0 <= max_new_tokens <= MOST_TOKENS,
            f"max_new_tokens is {max_new_tokens}; it must be 0 to {MOST_TOKENS:,}",
        ),
        (
            temperature != 0 and not 0.01 <= temperature < math.inf,
            f"temperature is {temperature}; it must be 0 or at least 0.01",
        ),
        (top_k is not None and top_k < 1, f"top_k is {top_k}; it must be 1 or more"),
        (
            top_p is not None and not 0 < top_p <= 1,
            f"top_p is {top_p}; it must be above 0 and at most 1",
        ),
        (
            seed is not None and not -(2**63) <= seed < 2**64,
            f"seed is {seed}; it must fit into 64 bits",
        ),
    ):
        if wrong:
            raise LLMLiteError(f"Cannot generate: {what}.")
