"""The GPT: a pre-norm decoder with tied embeddings (§III.D). The shapes are GPT-2's (Radford et
al., 2019): transformers' GPT2LMHeadModel gives the same logits from the same weights."""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmlite.config import ModelConfig
from llmlite.files import LLMLiteError


class Output(NamedTuple):
    """What a forward pass gives; what was not asked for is None."""

    logits: Tensor  # (batch, time, vocab_size)
    attention: Tensor | None  # (n_layer, batch, n_head, time, keys), rows sum to 1


@torch.library.custom_op("llmlite::kept", mutates_args=())
def _kept(x: Tensor, p: float) -> Tensor:
    """Which elements of x dropout keeps: bool, in x's shape."""
    # 16 bits an element, drawn 64 at a time: in a quarter of the time of PyTorch's own dropout.
    quarters = math.ceil(x.numel() / 4)
    chance = torch.empty(quarters, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    return chance[: x.numel()].view(x.shape) >= round(p * 2**16) - 2**15


@_kept.register_fake
def _(x: Tensor, p: float) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.bool)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """x with a share p of its elements, by chance, 0, and the others larger by 1 / (1 - p)."""
    if not (training and p) or x.device.type != "cpu":
        return F.dropout(x, p, training)
    # One call for the compiler, whose loops would draw their own random numbers, at great cost.
    return x * _kept(x.detach(), p) * (1 / (1 - round(p * 2**16) / 2**16))


def gelu(x: Tensor) -> Tensor:
    """GPT-2's approximation of GELU by a tanh."""
    if torch.compiler.is_compiling():  # the same, rewritten: its tanh takes several times as long
        return x * torch.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3))
    return F.gelu(x, approximate="tanh")


class KVCache:
    """Keys and values of the tokens that went through the model, (batch, n_head, capacity, head
    size) of both in each layer, written in place; `length` of them are filled. A pass calls
    `extend` once and then `append` in each layer. Where it writes and how far it looks is on the
    device, so that a pass for one token can be a CUDA graph: no shape and no address changes."""

    def __init__(self, model: "GPT", batch: int, capacity: int):
        config, weight = model.config, model.token_embedding.weight
        # Attention reads all slots and masks the empty ones, since memory is read two to three
        # times as fast without gaps. Zeros: a masked slot counts 0 times, and 0 × NaN would be NaN.
        shape = batch, config.n_head, capacity, config.n_embd // config.n_head
        self.keys = [weight.new_zeros(shape) for _ in range(config.n_layer)]
        self.values = [weight.new_zeros(shape) for _ in range(config.n_layer)]
        self.length = 0
        self.next = torch.zeros(1, dtype=torch.int64, device=weight.device)  # `length`, there
        self.slots = torch.arange(capacity, device=weight.device)

    def extend(self, new: int) -> Tensor:
        """The positions of so many tokens, which follow."""
        self.length += new
        self.positions = self.next + torch.arange(new, device=self.next.device)
        self.next += new
        # Is added to the scores, (new, slots), 0 or -inf.
        hidden = self.slots > self.positions.unsqueeze(1)
        self.mask = torch.zeros_like(hidden, dtype=self.keys[0].dtype)
        self.mask.masked_fill_(hidden, -math.inf)
        return self.positions

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take up a layer's new keys and values; gives those of all slots, and the mask."""
        keys, values = self.keys[layer], self.values[layer]
        keys.index_copy_(2, self.positions, k)
        values.index_copy_(2, self.positions, v)
        return keys, values, self.mask

    def rewind(self, length: int) -> None:
        """Forget the tokens from position `length` on."""
        self.length = length
        self.next.fill_(length)


class Attention(nn.Module):
    QUERIES = 64  # at a time: they leave out the keys that none of them may look at

    def __init__(self, config: ModelConfig):
        super().__init__()
        # Attention as two products and a softmax, in training; the engine sets it where it pays.
        self.spelled = False
        self.n_head, self.causal, self.dropout = config.n_head, config.causal, config.dropout
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, head_mask=None, return_attention=False, append=None):
        batch, time, width = x.shape
        heads = self.qkv(x).view(batch, time, 3, self.n_head, width // self.n_head)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (batch, head, time, head size)
        mask = weights = None  # mask: (queries, keys), added to the scores, -inf hides a key
        if append is not None:
            k, v, mask = append(k, v)
        elif self.causal and return_attention:
            mask = torch.full((time, time), -math.inf, device=x.device).triu(1)
        if return_attention:  # the one kernel gives no weights
            y, weights = self._weighted(q, k, v, mask)
        elif self.spelled and self.training:
            y = self._spelled_out(q, k, v)
        else:
            causal = self.causal and append is None
            p = self.dropout if self.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, mask, p, causal)
        if head_mask is not None:
            y = y * head_mask.to(y.dtype).view(1, -1, 1, 1)
        y = y.transpose(1, 2).reshape(batch, time, width)
        return dropout(self.proj(y), self.dropout, self.training), weights

    def _weighted(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None):
        """(mean of v, its weights, (batch, head, queries, keys))"""
        scores = (q @ k.transpose(-2, -1)) / math.sqrt(q.size(-1))
        weights = (scores if mask is None else scores + mask).float().softmax(-1)
        return dropout(weights, self.dropout, self.training).to(v.dtype) @ v, weights

    def _spelled_out(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not self.causal:
            return self._weighted(q, k, v, None)[0]
        means = []
        for start in range(0, q.size(2), self.QUERIES):
            end = min(start + self.QUERIES, q.size(2))  # the last of them sees so many keys
            mask = q.new_full((end - start, end), -math.inf).triu(start + 1)
            means.append(self._weighted(q[:, :, start:end], k[:, :, :end], v[:, :, :end], mask)[0])
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

    def forward(self, x: Tensor, head_mask=None, return_attention=False, append=None):
        y, weights = self.attention(self.norm1(x), head_mask, return_attention, append)
        x = x + y
        y = self.down(gelu(self.up(self.norm2(x))))
        return x + dropout(y, self.dropout, self.training), weights


class GPT(nn.Module):
    TENSORS, BLOCK_TENSORS = 4, 12  # of its parameters: those of no block, and in each

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

    def forward(self, ids: Tensor, head_mask=None, return_attention=False, cache=None) -> Output:
        """ids (batch, time) → Output.
        head_mask: (n_layer, n_head), multiplies each head's output; 0 removes the head (§IV.D).
        cache: a KVCache of what earlier calls have seen; takes up `ids`, the tokens that follow.
        LLMLiteError if the sequence is longer than block_size, or cached without a causal mask."""
        x, attention = self.hidden(ids, head_mask, return_attention, cache)
        logits = F.linear(x, self.token_embedding.weight)  # (batch, time, vocab_size)
        return Output(logits, torch.stack(attention) if return_attention else None)

    def hidden(self, ids: Tensor, head_mask=None, return_attention=False, cache=None):
        """(what the logits are made of, (batch, time, n_embd); each layer's attention)."""
        self.check_mask(head_mask)
        length = ids.size(1) + (0 if cache is None else cache.length)
        wrong, window = None, self.config.block_size
        if length > window:
            wrong = f"{length} tokens are more than the model's window of {window}; keep the last."
        elif cache is not None and not self.config.causal:
            wrong = "Without the causal mask new tokens change older keys; feed the text uncached."
        if wrong:
            raise LLMLiteError(wrong)
        x = self.embed(ids, cache and cache.extend(ids.size(1)))
        attention = []
        for layer, block in enumerate(self.blocks):
            heads = None if head_mask is None else head_mask[layer]
            append = None if cache is None else partial(cache.append, layer)
            x, weights = block(x, heads, return_attention, append)
            attention.append(weights)
        return self.norm(x), attention

    def check_mask(self, head_mask: Tensor | None) -> None:
        """LLMLiteError for a head mask of another shape, which would be stretched to all heads."""
        heads = self.config.n_layer, self.config.n_head
        if head_mask is not None and head_mask.shape != heads:
            shape = tuple(head_mask.shape)
            raise LLMLiteError(f"head_mask is {shape}; make it (n_layer, n_head) = {heads}.")

    def embed(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """What the first block gets, (batch, time, n_embd); positions: of ids, (time,), from 0."""
        if positions is None:
            positions = torch.arange(ids.size(1), device=ids.device)
        x = self.token_embedding(ids) + self.position_embedding(positions)
        return dropout(x, self.config.dropout, self.training)

    @property
    def device(self) -> torch.device:
        return self.token_embedding.weight.device

    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())  # the tied embedding once
