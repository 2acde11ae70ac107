"""The GPT: a pre-norm decoder with tied embeddings (§III.D), in one file.

Knows nothing about text or training; ids go in, logits come out, and on request the loss, the
attention weights and a key/value cache. The shapes are GPT-2's (Radford et al., 2019), so that
`transformers`' GPT2LMHeadModel gives the same logits from the same weights.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmlite.config import ModelConfig
from llmlite.errors import LLMLiteError


class Output(NamedTuple):
    """What a forward pass gives; what was not asked for is None."""

    logits: Tensor  # (batch, time, vocab_size)
    loss: Tensor | None  # mean cross-entropy in nats per token
    attention: Tensor | None  # (n_layer, batch, n_head, time, cached + time), rows sum to 1


@torch.library.custom_op("llmlite::kept", mutates_args=())
def _kept(x: Tensor, p: float) -> Tensor:
    """Which elements of x dropout keeps: bool, in x's shape."""
    quarters = math.ceil(x.numel() / 4)
    chance = torch.empty(quarters, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    return chance[: x.numel()].view(x.shape) >= round(p * 2**16) - 2**15


@_kept.register_fake
def _(x: Tensor, p: float) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.bool)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """x with a share p of its elements, by chance, 0, and the others larger by 1 / (1 - p).

    On a CPU the share is p to 16 bits, drawn 64 bits at a time: a quarter of the time of PyTorch's
    own. And the compiler sees one call, where random numbers in its loops would cost the most.
    """
    if not (training and p) or x.device.type != "cpu":
        return F.dropout(x, p, training)
    return x * _kept(x.detach(), p) * (1 / (1 - round(p * 2**16) / 2**16))


def gelu(x: Tensor) -> Tensor:
    """GPT-2's approximation of GELU by a tanh."""
    if torch.compiler.is_compiling():  # the same, rewritten: its tanh takes several times as long
        return x * torch.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3))
    return F.gelu(x, approximate="tanh")


class KVCache:
    """Keys and values of the tokens that went through the model, written in place.

    Each layer has (batch, n_head, slots, head size) of both; `length` slots are filled, at most
    `capacity`. A pass calls `extend` once and then `append` in each layer.

    Attention reads all slots and masks the empty ones, since memory is read two to three times as
    fast without gaps; so there are only a few more slots than tokens, and then they are copied.
    """

    SLOTS = 32  # added at a time

    def __init__(self, model: "GPT", batch: int, capacity: int):
        config, weight = model.config, model.token_embedding.weight
        empty = weight.new_zeros(batch, config.n_head, 0, config.n_embd // config.n_head)
        self.keys, self.values = [empty] * config.n_layer, [empty] * config.n_layer
        self.capacity, self.length, self.start = capacity, 0, 0
        self.slots = torch.arange(0, device=weight.device)

    def extend(self, new: int) -> int | Tensor:
        """Make room for so many tokens and give the position of the first."""
        self.start, self.length = self.length, self.length + new
        if self.length > len(self.slots):
            self._grow(min(self.capacity, math.ceil(self.length / self.SLOTS) * self.SLOTS))
        queries = torch.arange(self.start, self.length, device=self.slots.device)
        self.mask = self.mask_from(queries)
        return self.start

    def mask_from(self, queries: Tensor) -> Tensor:
        """Is added to the scores of queries at these positions: (queries, slots), 0 or -inf."""
        hidden = self.slots > queries.unsqueeze(1)
        return torch.zeros_like(hidden, dtype=self.keys[0].dtype).masked_fill_(hidden, -math.inf)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take up a layer's new keys and values; gives those of all slots, and the mask."""
        keys, values = self.keys[layer], self.values[layer]
        keys[:, :, self.start : self.length] = k
        values[:, :, self.start : self.length] = v
        return keys, values, self.mask

    def _grow(self, slots: int) -> None:
        # With zeros: a masked slot is multiplied by 0, and 0 × NaN would be NaN.
        padding = 0, 0, 0, slots - len(self.slots)
        self.keys = [F.pad(keys, padding) for keys in self.keys]
        self.values = [F.pad(values, padding) for values in self.values]
        self.slots = torch.arange(slots, device=self.slots.device)


class Attention(nn.Module):
    """Multi-head self-attention.

    spelled: in training, two products and a softmax for QUERIES at a time, which see no more keys
    than they may, instead of PyTorch's one kernel. The engine sets it where it pays.
    """

    QUERIES = 64

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.spelled = False
        self.n_head, self.causal, self.dropout = config.n_head, config.causal, config.dropout
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(
        self, x: Tensor, head_mask: Tensor | None, want_weights: bool, append: Callable | None
    ):
        batch, time, width = x.shape
        heads = self.qkv(x).view(batch, time, 3, self.n_head, width // self.n_head)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (batch, head, time, head size)
        mask = None  # (queries, keys), is added to the scores: -inf where a query may not look
        if append is not None:
            k, v, mask = append(k, v)
        elif self.causal and want_weights:
            mask = torch.full((time, time), -math.inf, device=x.device).triu(1)
        weights = None
        if want_weights:  # the same sum, spelled out so that its weights can be returned
            y, weights = self._weighted(q, k, v, mask)
        elif self.spelled and self.training:
            y = self._in_pieces(q, k, v)
        else:
            causal = self.causal and append is None
            p = self.dropout if self.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, mask, p, causal)
        if head_mask is not None:
            y = y * head_mask.to(y.dtype).view(1, -1, 1, 1)
        y = y.transpose(1, 2).reshape(batch, time, width)
        return dropout(self.proj(y), self.dropout, self.training), weights

    def _weighted(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None):
        """(mean of v, its weights); mask is added to the scores."""
        scores = (q @ k.transpose(-2, -1)) / math.sqrt(q.size(-1))
        weights = (scores if mask is None else scores + mask).float().softmax(-1)
        return dropout(weights, self.dropout, self.training).to(v.dtype) @ v, weights

    def _in_pieces(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not self.causal:
            return self._weighted(q, k, v, None)[0]
        means = []
        for start in range(0, q.size(2), self.QUERIES):
            seen = min(start + self.QUERIES, q.size(2))
            mask = q.new_full((seen - start, seen), -math.inf).triu(start + 1)
            part = (tensor[:, :, :seen] for tensor in (k, v))
            means.append(self._weighted(q[:, :, start:seen], *part, mask)[0])
        return torch.cat(means, 2)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.dropout = config.dropout
        self.norm1 = nn.LayerNorm(config.n_embd)
        self.attention = Attention(config)
        self.norm2 = nn.LayerNorm(config.n_embd)
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.down = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(
        self, x: Tensor, head_mask: Tensor | None, want_weights: bool, append: Callable | None
    ):
        y, weights = self.attention(self.norm1(x), head_mask, want_weights, append)
        x = x + y
        y = self.down(gelu(self.up(self.norm2(x))))
        return x + dropout(y, self.dropout, self.training), weights


class GPT(nn.Module):
    """A decoder-only Transformer language model."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.block_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd)
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        """GPT-2's: N(0, 0.02), and less for what adds to the residual stream."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, Block):  # children are initialised before their parent
            for linear in (module.attention.proj, module.down):
                nn.init.normal_(linear.weight, std=0.02 / math.sqrt(2 * self.config.n_layer))

    def forward(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        head_mask: Tensor | None = None,
        return_attention: bool = False,
        cache: KVCache | None = None,
    ) -> Output:
        """ids, targets (batch, time) → Output.

        head_mask: (n_layer, n_head), multiplies each head's output; 0 removes the head (§IV.D).
        cache: holds what earlier calls have seen and takes up `ids`, the tokens that follow. Raises
        LLMLiteError if the sequence is longer than block_size, or cached without a causal mask.
        """
        x, attention = self.hidden(ids, head_mask, return_attention, cache)
        logits = F.linear(x, self.token_embedding.weight)  # (batch, time, vocab_size)
        loss = None
        if targets is not None:
            loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        return Output(logits, loss, torch.stack(attention) if return_attention else None)

    def hidden(
        self,
        ids: Tensor,
        head_mask: Tensor | None = None,
        return_attention: bool = False,
        cache: KVCache | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """What the logits are made from, (batch, time, n_embd), and the attention of each layer.

        Everything is as in `forward`.
        """
        self._check(ids, head_mask, cache)
        x = self.embed(ids, 0 if cache is None else cache.extend(ids.size(1)))
        attention = []
        for layer, block in enumerate(self.blocks):
            mask = None if head_mask is None else head_mask[layer]
            append = None if cache is None else partial(cache.append, layer)
            x, weights = block(x, mask, return_attention, append)
            attention.append(weights)
        if return_attention and cache is not None:
            attention = [weights[..., : cache.length] for weights in attention]
        return self.norm(x), attention

    def _check(self, ids: Tensor, head_mask: Tensor | None, cache: KVCache | None) -> None:
        length = ids.size(1) + (0 if cache is None else cache.length)
        if length > self.config.block_size:
            raise LLMLiteError(
                f"The sequence has {length} tokens, the model's window {self.config.block_size}: "
                "keep the last ones or train with a larger block_size."
            )
        if head_mask is not None and head_mask.shape != (self.config.n_layer, self.config.n_head):
            raise LLMLiteError(
                f"head_mask has the shape {tuple(head_mask.shape)}, the model needs (n_layer, "
                f"n_head) = ({self.config.n_layer}, {self.config.n_head})."
            )
        if cache is not None and length > cache.capacity:
            raise LLMLiteError(
                f"The cache has room for {cache.capacity} tokens, the sequence has {length}: make "
                "the cache's capacity larger."
            )
        if cache is not None and not self.config.causal:
            raise LLMLiteError(
                "Without the causal mask a new token changes the keys of those before it: run the "
                "whole sequence without a cache."
            )

    def embed(self, ids: Tensor, start: int | Tensor = 0) -> Tensor:
        """What the first block gets, (batch, time, n_embd): ids stand at positions from `start`."""
        positions = start + torch.arange(ids.size(1), device=ids.device)
        x = self.token_embedding(ids) + self.position_embedding(positions)
        return dropout(x, self.config.dropout, self.training)

    @property
    def device(self) -> torch.device:
        return self.token_embedding.weight.device

    def n_parameters(self) -> int:
        """Trainable numbers, the tied embedding once."""
        return sum(p.numel() for p in self.parameters())
