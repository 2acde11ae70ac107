"""Sampling from a trained model (§IV.B and IV.C), and the paper's filter of repeated tokens."""

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from llmlite.config import Amount, Checked, Count, require
from llmlite.files import LLMLiteError, tqdm
from llmlite.model import GPT, KVCache

PARAGRAPH = " \n "  # how a paragraph starts in WikiText: after a line's end, with a space
MOST_TOKENS = 1_000_000


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
    the context. fast: with a key/value cache; False computes every step from scratch."""
    sampling = temperature, top_k, top_p, seed
    text, steps = _begin(model, ids, max_new_tokens, *sampling, head_mask, fast)
    for _ in tqdm(steps, "Generate", max_new_tokens, unit="token", disable=not progress):
        pass  # each writes a token into the text
    return text


def stream(model: GPT, ids: Tensor, max_new_tokens: int, **sampling) -> Iterator[tuple[int, float]]:
    """The new tokens that `generate` gives for one text, `ids` (1, time), each as soon as it is
    sampled, with how surprising it was to the model: −log(softmax of the logits), in nats.
    LLMLiteError at once, not at the first token."""
    if len(ids) > 1:
        raise LLMLiteError(f"A stream is of one text, not of {len(ids)}; use `generate` for more.")
    text, steps = _begin(model, ids, max_new_tokens, **sampling)
    tokens = ((int(text[0, end]), logits[0].log_softmax(-1)) for end, logits in steps)
    return ((token, -logs[token].item()) for token, logs in tokens)


def _begin(
    model, ids, new, temperature=1.0, top_k=None, top_p=None, seed=None, head_mask=None, fast=True
) -> tuple[Tensor, Iterator[tuple[int, Tensor]]]:
    """A text (batch, time + new) that begins with `ids`, and the steps that fill it up, each with
    the position of its tokens and the logits, (batch, vocab_size), that they were sampled from."""
    Sampling(new, temperature, top_k, top_p, seed, max(len(ids), 1))
    model.check_mask(head_mask)
    if ids.numel() == 0:
        raise LLMLiteError("Cannot generate: the prompt is empty.")
    (batch, prompt), device = ids.shape, model.device
    text = torch.empty(batch, prompt + new, dtype=ids.dtype, device=device)
    text[:, :prompt] = ids
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)
    model.eval()
    decoder = Decoder(model, batch, prompt + new, head_mask) if fast else None

    @torch.inference_mode()
    def steps():
        for end in range(prompt, prompt + new):
            if decoder:
                logits = decoder(text[:, :end])
            else:
                window = text[:, max(0, end - model.config.block_size) : end]
                logits = model(window, head_mask=head_mask).logits[:, -1]
            logits = logits.float()
            if temperature == 0:
                text[:, end] = _largest(logits)
            else:
                probabilities = next_token_probabilities(logits, temperature, top_k, top_p)
                text[:, end] = _drawn(probabilities, generator)
            yield end, logits

    return text, steps()


def _drawn(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    """A token of each row, as torch.multinomial draws it, whose checks would wait for a GPU."""
    waiting = torch.empty_like(probabilities).exponential_(generator=generator)
    return _largest(probabilities / waiting)  # the first of exponential clocks at these rates


def _largest(rows: Tensor) -> Tensor:
    if rows.device.type == "cpu":
        return torch.from_numpy(rows.numpy().argmax(-1))  # several times as fast as PyTorch's
    return rows.argmax(-1)


def next_token_probabilities(logits: Tensor, temperature: float, top_k=None, top_p=None) -> Tensor:
    """The distribution that is sampled from: logits (batch, vocab_size) → probabilities."""
    logits = logits / temperature
    if top_k is not None and top_k < logits.size(-1):
        smallest = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, float("-inf"))
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)  # held by likelier tokens
        before[:, 0] = -1.0  # the likeliest stays, be it for a top_p that float32 rounds to 0
        drop = torch.empty_like(before, dtype=torch.bool).scatter_(1, order, before >= top_p)
        logits = logits.masked_fill(drop, float("-inf"))
    return logits.softmax(-1)


def prompt_ids(tokenizer, prompt: str) -> Tensor:
    """`prompt` as the start of a paragraph, as the tokenizer's text writes it: (1, time)."""
    if not prompt.strip():
        raise LLMLiteError("The prompt is empty; give at least one word.")
    # A line of WikiText ends in a blank, so often that this is one of the first merges.
    start = PARAGRAPH if b" \n" in tokenizer.token_bytes else "\n"
    return torch.tensor([tokenizer.encode(start + prompt.strip())])


def complete(model: GPT, tokenizer, prompt: str, max_new_tokens=60, n=1, **sampling) -> list[str]:
    """`n` continuations of `prompt` as the start of a paragraph: text without it, up to
    <|endoftext|>. sampling: as in `generate`."""
    Sampling(max_new_tokens, n=n)
    start, end = prompt_ids(tokenizer, prompt), tokenizer.eot_id
    rows = generate(model, start.repeat(n, 1), max_new_tokens, **sampling)[:, start.size(1) :]
    return [tokenizer.decode(row[: [*row, end].index(end)]) for row in rows.tolist()]


def pieces(tokenizer, steps: Iterable[tuple[int, float]]) -> Iterator[tuple[str, list[float]]]:
    """The text of a stream up to <|endoftext|>, as soon as it can be read, no character cut, and
    the nats of the tokens that completed it: none for what is left at the end. Together the texts
    are what `tokenizer.decode` makes of the tokens."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    waiting = []  # nats of tokens that spell a part of a character so far
    for token, nats in steps:
        if token == tokenizer.eot_id:
            break
        waiting.append(nats)
        if text := decoder.decode(tokenizer.token_bytes[token]):
            yield text, waiting
            waiting = []
    if text := decoder.decode(b"", final=True):
        yield text, waiting


def remove_repeated_tokens(text: str) -> str:
    """The paper's filter (§IV.B): each word stays where it occurs first and goes elsewhere."""
    return " ".join(dict.fromkeys(text.split()))


@dataclass(frozen=True)
class Sampling(Checked):
    """What can be sampled: more at once is a slip, and might not fit in memory."""

    max_new_tokens: Annotated[int, (0, MOST_TOKENS)]
    temperature: Amount = 1.0
    top_k: Count | None = None
    top_p: Annotated[float, (1e-30, 1)] | None = None
    seed: Annotated[int, (-(2**63), 2**64 - 1)] | None = None
    n: Annotated[int, (1, 10_000)] = 1

    def __post_init__(self):
        super().__post_init__()
        warm = f"temperature is {self.temperature}"
        require(self.temperature == 0 or self.temperature >= 0.01, warm, "0, or 0.01 and more")
        together = f"{self.n} texts of {self.max_new_tokens} new tokens"
        require(self.n * self.max_new_tokens <= MOST_TOKENS, together, f"{MOST_TOKENS:,} tokens")


class Decoder:
    """decoder(text) → logits of the token that follows, (batch, vocab_size), which the next call
    may overwrite. text: (batch, time up to `capacity`), grows from call to call."""

    def __init__(self, model: GPT, batch: int, capacity: int, head_mask: Tensor | None = None):
        self.model, self.head_mask = model, head_mask
        weight = model.token_embedding.weight.detach()
        # For one text on a CPU the vocabulary's matrix is read faster by columns: pays 1.2 ×.
        by_columns = batch == 1 and weight.device.type == "cpu"
        self.weight = weight.t().contiguous() if by_columns else weight.t()
        self.cache = KVCache(model, batch, min(capacity, model.config.block_size))
        self.by_graph, self.graph = model.device.type == "cuda", None

    @torch.inference_mode()
    def __call__(self, text: Tensor) -> Tensor:
        # Learned positions are absolute, so a window that moves is computed anew, and so is all of
        # a model without the causal mask, whose keys change with each new token.
        size, causal = self.model.config.block_size, self.model.config.causal
        if text.size(1) > size or not causal:
            return self.feed(text[:, -size:], None)
        new = text[:, self.cache.length :]
        if new.size(1) == 1 and self.by_graph:
            return self.replay(new)
        return self.feed(new, self.cache)

    def feed(self, ids: Tensor, cache: KVCache | None) -> Tensor:
        x, _ = self.model.hidden(ids, self.head_mask, cache=cache)
        return x[:, -1] @ self.weight  # of one position, not of all

    def replay(self, ids: Tensor) -> Tensor:
        """`feed` for one token a text, (batch, 1), in one launch instead of a hundred, of a graph
        that the first call records."""
        cache, length = self.cache, self.cache.length
        if self.graph is None:
            self.ids = ids.clone()
            with torch.cuda.device(ids.device):  # streams and graphs are of the current device
                stream = torch.cuda.Stream()
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):  # libraries set themselves up at a first run
                    self.feed(self.ids, cache)
                torch.cuda.current_stream().wait_stream(stream)
                cache.rewind(length)
                self.graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graph):
                    self.logits = self.feed(self.ids, cache)
                cache.rewind(length)
        self.ids.copy_(ids)
        self.graph.replay()
        cache.length = length + 1
        return self.logits
