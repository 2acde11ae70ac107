"""The plainest GPT, as a textbook has it: what a fast path must beat to be worth its lines.

Attention is two products and a softmax over a buffer's mask; `flash` takes PyTorch's one kernel.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from llmlite.config import ModelConfig


class Block(nn.Module):
    def __init__(self, shape: ModelConfig, flash: bool):
        super().__init__()
        width, self.heads, self.p, self.flash = shape.n_embd, shape.n_head, shape.dropout, flash
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        mask = torch.ones(shape.block_size, shape.block_size, dtype=torch.bool).tril()
        self.register_buffer("mask", mask)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (
            part.view(b, t, self.heads, -1).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).split(c, 2)
        )
        if self.flash:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.p, is_causal=True)
        else:
            scores = (q @ k.transpose(2, 3)) / math.sqrt(c // self.heads)
            weights = scores.masked_fill(~self.mask[:t, :t], -math.inf).softmax(-1)
            y = F.dropout(weights, self.p) @ v
        x = x + F.dropout(self.out(y.transpose(1, 2).reshape(b, t, c)), self.p)
        y = self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))
        return x + F.dropout(y, self.p)


class PlainGPT(nn.Module):
    def __init__(self, shape: ModelConfig, flash: bool):
        super().__init__()
        self.tokens = nn.Embedding(shape.vocab_size, shape.n_embd)
        self.positions = nn.Embedding(shape.block_size, shape.n_embd)
        self.blocks = nn.Sequential(*(Block(shape, flash) for _ in range(shape.n_layer)))
        self.norm = nn.LayerNorm(shape.n_embd)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids, targets):
        """(batch, time) ids → mean loss."""
        x = self.tokens(ids) + self.positions.weight[: ids.size(1)]
        logits = F.linear(self.norm(self.blocks(x)), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
