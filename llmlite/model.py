"""The GPT: a pre-norm decoder with tied embeddings (§III.D), in one file.

Knows nothing about text or training; ids go in, logits come out, and on request the loss, the
attention weights and a key/value cache. The shapes are GPT-2's (Radford et al., 2019), so that
`transformers`' GPT2LMHeadModel gives the same logits from the same weights.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmlite.config import ModelConfig
from llmlite.errors import LLMLiteError

Cache = list[tuple[Tensor, Tensor]]  # keys and values of each layer, (batch, head, time, head size)


class Output(NamedTuple):
    """What a forward pass gives; what was not asked for is None."""

    logits: Tensor  # (batch, time, vocab_size)
    loss: Tensor | None  # mean cross-entropy in nats per token
    attention: Tensor | None  # (n_layer, batch, n_head, time, time + cached), rows sum to 1
    cache: Cache | None


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.n_head, self.causal, self.dropout = config.n_head, config.causal, config.dropout
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, head_mask: Tensor | None, want_weights: bool, past):
        batch, time, width = x.shape
        heads = self.qkv(x).view(batch, time, 3, self.n_head, width // self.n_head)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (batch, head, time, head size)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if want_weights:  # the same sum, spelled out so that its weights can be returned
            scores = (q @ k.transpose(-2, -1)) / math.sqrt(q.size(-1))
            if self.causal:
                scores = scores.masked_fill(~self._mask(q, k), float("-inf"))
            weights = scores.float().softmax(-1)
            y = F.dropout(weights, dropout).to(v.dtype) @ v
        elif past is None:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=self.causal)
        else:
            mask = self._mask(q, k) if self.causal else None
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        if head_mask is not None:
            y = y * head_mask.to(y.dtype).view(1, -1, 1, 1)
        y = y.transpose(1, 2).reshape(batch, time, width)
        return F.dropout(self.proj(y), dropout), weights, (k, v)

    @staticmethod
    def _mask(q: Tensor, k: Tensor) -> Tensor:
        """(queries, keys), True where a query may look: at keys up to its own position."""
        queries, keys = q.size(2), k.size(2)
        ones = torch.ones(queries, keys, dtype=torch.bool, device=q.device)
        return ones.tril(diagonal=keys - queries)


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

    def forward(self, x: Tensor, head_mask: Tensor | None, want_weights: bool, past):
        y, weights, present = self.attention(self.norm1(x), head_mask, want_weights, past)
        x = x + y
        y = self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))
        return x + F.dropout(y, self.dropout, self.training), weights, present


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
        cache: Cache | None = None,
        return_cache: bool = False,
    ) -> Output:
        """ids, targets (batch, time) → Output.

        head_mask: (n_layer, n_head), multiplies each head's output; 0 removes the head (§IV.D).
        cache: what an earlier call with `return_cache=True` gave; `ids` then holds only the new
        tokens. Raises LLMLiteError if the sequence is longer than block_size.
        """
        past_length = cache[0][0].size(2) if cache else 0
        length = past_length + ids.size(1)
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
        positions = torch.arange(past_length, length, device=ids.device)
        x = self.token_embedding(ids) + self.position_embedding(positions)  # (batch, time, n_embd)
        x = F.dropout(x, self.config.dropout, self.training)
        attention, presents = [], []
        for layer, block in enumerate(self.blocks):
            mask = None if head_mask is None else head_mask[layer]
            x, weights, present = block(x, mask, return_attention, cache[layer] if cache else None)
            attention.append(weights)
            presents.append(present)
        logits = F.linear(self.norm(x), self.token_embedding.weight)  # (batch, time, vocab_size)
        loss = None
        if targets is not None:
            loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        return Output(
            logits,
            loss,
            torch.stack(attention) if return_attention else None,
            presents if return_cache else None,
        )

    @property
    def device(self) -> torch.device:
        return self.token_embedding.weight.device

    def n_parameters(self) -> int:
        """Trainable numbers, the tied embedding once."""
        return sum(p.numel() for p in self.parameters())
