"""What the attention heads do: ablation (§IV.D) and attention maps (§IV.E), with numbers."""

from collections.abc import Iterable
from itertools import product

import numpy as np
import torch
from torch import Tensor

from llmlite.config import ModelConfig
from llmlite.files import LLMLiteError, tqdm
from llmlite.metrics import total_loss
from llmlite.model import GPT


def mask_heads(config: ModelConfig, heads: Iterable[int], layers=None) -> Tensor:
    """A head mask (n_layer, n_head): 1, and 0 for `heads` in `layers` (None: in every layer)."""
    mask = torch.ones(config.n_layer, config.n_head)
    for head, layer in product(heads, range(config.n_layer) if layers is None else layers):
        if not (0 <= head < config.n_head and 0 <= layer < config.n_layer):
            raise LLMLiteError(
                f"There is no head {head} in layer {layer}: the model has {config.n_layer} layers "
                f"of {config.n_head} heads, counted from 0."
            )
        mask[layer, head] = 0.0
    return mask


def ablation_effects(model: GPT, ids: Tensor, progress: bool = False) -> tuple[float, np.ndarray]:
    """(loss of the whole model, change of the loss without each head), in nats per token of `ids`,
    (tokens,). The changes are (n_layer, n_head); positive means that the head helps."""
    baseline = loss_without(model, ids, [])
    effects = np.zeros((model.config.n_layer, model.config.n_head))
    heads = [*np.ndindex(effects.shape)]
    for layer, head in tqdm(heads, desc="Ablate", unit="head", disable=not progress):
        effects[layer, head] = loss_without(model, ids, [head], [layer]) - baseline
    return baseline, effects


def loss_without(model: GPT, ids: Tensor, heads: Iterable[int], layers=None) -> float:
    """Nats per token with `heads` removed from `layers` (None: every layer, as the paper does)."""
    mask = mask_heads(model.config, heads, layers).to(model.device)
    nats, tokens = total_loss(model, ids, head_mask=mask)
    return nats / tokens


@torch.inference_mode()
def attention_maps(model: GPT, ids: Tensor) -> Tensor:
    """The attention weights of every head on one text: ids (time,) → (layer, head, query, key)."""
    model.eval()
    output = model(ids.to(model.device).unsqueeze(0), return_attention=True)
    return output.attention[:, 0].float().cpu()


# previous: weight on the token before. distance: mean number of tokens looked back. entropy: of the
# weights, nats; 0 is one token alone.
STATISTICS = ("previous", "distance", "entropy")


def query_statistics(maps: Tensor) -> Tensor:
    """STATISTICS of every token of one text but the first, which can only look at itself:
    maps (layer, head, query, key) → (statistic, layer, head, query - 1)."""
    query = torch.arange(maps.size(-1))
    back = (query.unsqueeze(1) - query).clamp(min=0).float()  # (query, key)
    distance, entropy = (maps * back).sum(-1), torch.special.entr(maps).sum(-1)
    previous = maps.diagonal(-1, dim1=-2, dim2=-1)
    return torch.stack([previous, distance[..., 1:], entropy[..., 1:]])


def attention_received(maps: Tensor, position: int) -> Tensor:
    """How much later tokens look at `position`: maps (layer, head, query, key) → (layer, head).
    1 is the share that even attention would give it, 2 twice that."""
    if not 0 <= position < maps.size(-1) - 1:
        raise LLMLiteError(f"No later token looks at position {position}, counted from 0.")
    later = maps[:, :, position + 1 :, position]  # (layer, head, later queries)
    length = torch.arange(position + 2, maps.size(-1) + 1)  # keys that each of them may look at
    return (later * length).mean(-1)
