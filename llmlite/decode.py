"""One token after another, near the hardware's limit: what to compute is in model.py, here is how.

    key/value cache    a step feeds the newest token alone; what is known of the others stays put
    last logits        the vocabulary's matrix meets one position of each text, not all of them
    lean step          few operations and no modules: starting them takes longer than running them
    CUDA graph         a step is one launch instead of a hundred

`generate(..., fast=False)` goes around all of it. Knows nothing about sampling.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from llmlite.model import GPT, KVCache

# Heads of all texts together from which on a CPU attends faster in three products over all of them
# than in the fused kernel, which with fewer has the advantage of being one operation.
MANY_HEADS = 64


class Decoder:
    """decoder(text) → logits of the token that follows; `text` grows from call to call.

    text: (batch, time), of which the last block_size tokens are the context. Keys and values are
    kept while all of it fits; learned positions are absolute, so a window that moves is computed
    anew, and so is all of a model without the causal mask, whose keys change with each new token.
    capacity: tokens that will be fed, at most. The logits, (batch, vocab_size), may be overwritten
    by the next call.
    """

    def __init__(self, model: GPT, batch: int, capacity: int, head_mask: Tensor | None = None):
        self.model, self.head_mask = model, head_mask
        self.lean = LeanStep(model, batch, head_mask)
        self.block_size, self.causal = model.config.block_size, model.config.causal
        on_cuda = model.device.type == "cuda"
        self.cache = (GraphCache if on_cuda else KVCache)(
            model, batch, min(capacity, self.block_size)
        )
        self.graph = GraphStep() if on_cuda else None
        self.project = projection(model.token_embedding.weight, batch)

    @torch.inference_mode()
    def __call__(self, text: Tensor) -> Tensor:
        if text.size(1) > self.block_size or not self.causal:
            return self.feed(text[:, -self.block_size :], None)
        new = text[:, self.cache.length :]
        if self.graph and new.size(1) == 1:
            return self.graph(self.feed, new, self.cache)
        return self.feed(new, self.cache)

    def feed(self, ids: Tensor, cache: KVCache | None) -> Tensor:
        if cache is not None and ids.size(1) == 1:
            return self.project(self.lean(ids, cache))
        x, _ = self.model.hidden(ids, self.head_mask, cache=cache)
        return self.project(x[:, -1])


class LeanStep:
    """step(ids, cache): what GPT.hidden computes, for one token a text and with the same weights.

    ids (batch, 1) → (batch, n_embd).
    """

    def __init__(self, model: GPT, batch: int, head_mask: Tensor | None):
        self.width, self.n_head = model.config.n_embd, model.config.n_head
        self.spelled_out = model.device.type == "cpu" and batch * self.n_head >= MANY_HEADS
        self.tokens = model.token_embedding.weight
        self.positions = model.position_embedding.weight
        self.norm = self._norm(model.norm)
        self.layers = []
        for layer, block in enumerate(model.blocks):
            linears = block.attention.qkv, block.attention.proj, block.up, block.down
            weights = [(linear.bias, linear.weight.t()) for linear in linears]
            heads = None if head_mask is None else head_mask[layer].view(-1, 1, 1)
            self.layers.append((self._norm(block.norm1), self._norm(block.norm2), *weights, heads))

    @staticmethod
    def _norm(norm: torch.nn.LayerNorm) -> tuple:
        return norm.normalized_shape, norm.weight, norm.bias, norm.eps

    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        position = cache.extend(1)
        x = F.embedding(ids[:, 0], self.tokens) + self.positions[position]  # (batch, n_embd)
        for layer, (norm1, norm2, qkv, proj, up, down, heads) in enumerate(self.layers):
            mixed = torch.addmm(qkv[0], torch.layer_norm(x, *norm1), qkv[1])
            q, k, v = mixed.view(len(x), 3, self.n_head, 1, -1).unbind(1)
            y = self._attend(q, *cache.append(layer, k, v))  # (batch, head, 1, head size)
            if heads is not None:
                y = y * heads
            x += torch.addmm(proj[0], y.view(len(x), self.width), proj[1])
            h = torch.addmm(up[0], torch.layer_norm(x, *norm2), up[1])
            x += torch.addmm(down[0], F.gelu(h, approximate="tanh"), down[1])
        return torch.layer_norm(x, *self.norm)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        if not self.spelled_out:
            return F.scaled_dot_product_attention(q, k, v, mask)
        scale = q.size(-1) ** -0.5
        keys = k.flatten(0, 1).transpose(1, 2)
        scores = torch.baddbmm(mask, q.flatten(0, 1), keys, alpha=scale)  # (batch × head, 1, slots)
        return torch.bmm(scores.softmax(-1), v.flatten(0, 1)).view_as(q)


def projection(weight: Tensor, batch: int) -> Callable[[Tensor], Tensor]:
    """project(x) = x @ weight.T as fast as can be: (rows, width) → (rows, vocab_size), rows up to
    `batch`; the next call may overwrite what this one gave.

    On a CPU the matrix is laid out anew once: for several rows as oneDNN wants it, which it offers
    under these names only; for one row, or without oneDNN, transposed. Both halve the time.
    """
    packs = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if weight.device.type == "cpu" and weight.dtype == torch.float32 and batch > 1 and packs:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), batch)
        return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    columns = weight.detach().t().contiguous()
    logits = columns.new_empty(batch, columns.size(1))
    return lambda x: torch.mm(x, columns, out=logits[: len(x)])


class GraphCache(KVCache):
    """A cache in which, from its second token on, no shape and no address changes.

    So a recorded step can be replayed: where it writes and how far it looks is a number on the
    device, `next`.
    """

    def __init__(self, model: GPT, batch: int, capacity: int):
        super().__init__(model, batch, capacity)
        self.next = torch.zeros(1, dtype=torch.int64, device=model.device)
        self._grow(capacity)

    def extend(self, new: int) -> int | Tensor:
        if new > 1:  # the prompt
            return super().extend(new)
        self.length += 1
        self.mask = self.mask_from(self.next)
        return self.next

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if k.size(2) > 1:
            return super().append(layer, k, v)
        keys, values = self.keys[layer], self.values[layer]
        keys.index_copy_(2, self.next, k)
        values.index_copy_(2, self.next, v)
        return keys, values, self.mask


class GraphStep:
    """step(feed, ids, cache): feed(ids, cache) for one token a text, ids (batch, 1), by replaying a
    CUDA graph of it, recorded the first time.

    It does not keep `feed`: a cycle would hold the cache's memory until Python looks for cycles.
    """

    def __init__(self):
        self.graph = None

    def __call__(self, feed: Callable, ids: Tensor, cache: GraphCache) -> Tensor:
        cache.next.fill_(cache.length)
        if self.graph is None:
            self.ids = ids.clone()
            with torch.cuda.device(ids.device):  # streams and graphs are of the current device
                self._record(feed, cache)
        self.ids.copy_(ids)
        self.graph.replay()
        cache.length += 1
        return self.logits

    def _record(self, feed: Callable, cache: GraphCache) -> None:
        """The step that is run and the one that is recorded leave the cache as long as it was."""
        length, stream = cache.length, torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries set themselves up at a first run
            feed(self.ids, cache)
        torch.cuda.current_stream().wait_stream(stream)
        cache.length = length
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits = feed(self.ids, cache)
        cache.length = length
