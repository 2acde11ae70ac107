"""GPT-2 as Hugging Face `transformers` keeps it: its weights' names, its configuration's words.

Knows nothing about files. What would be another model there, or here, is refused.
"""

import re

import torch
from torch import Tensor

from llmlite.config import ModelConfig
from llmlite.errors import CheckpointError, LLMLiteError
from llmlite.model import GPT

PREFIX = "transformer."
NAMES = {
    "token_embedding": "wte",
    "position_embedding": "wpe",
    "norm1": "ln_1",
    "norm2": "ln_2",
    "attention.qkv": "attn.c_attn",
    "attention.proj": "attn.c_proj",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
    "norm": "ln_f",
}
SHAPE = {"block_size": "n_positions"} | {
    n: n for n in ("vocab_size", "n_layer", "n_head", "n_embd")
}
DROPOUTS = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}  # and GPT2Config's defaults
# What model.py computes, in the words of GPT2Config: its default, then other names for the same.
COMPUTED = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "n_inner": (None,),  # or 4 × n_embd, which is what None means
    "tie_word_embeddings": (True,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
FLOATS = (torch.float32, torch.float16, torch.bfloat16)  # are numbers of float32 without rounding
_MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # a constant that older versions saved as well


# -- weights --------------------------------------------------------------------------------------


def to_gpt2(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a GPT under the names and in the shapes of GPT2LMHeadModel.

    Without `lm_head.weight`, which is the token embedding once more.
    """
    return {_their_name(name): _turned(name, weight) for name, weight in weights.items()}


def from_gpt2(weights: dict[str, Tensor], config: ModelConfig, where: str) -> dict[str, Tensor]:
    """The state of a GPT of this shape, in float32, from that of a GPT2LMHeadModel.

    Their names may lack `transformer.`, as in GPT-2's first files. Raises CheckpointError, naming
    `where`, for a weight that is missing, left over, untied, or of another shape or kind.
    """
    theirs = {name.removeprefix(PREFIX): weight for name, weight in weights.items()}
    theirs = {name: weight for name, weight in theirs.items() if not _MASK.fullmatch(name)}
    head = theirs.pop("lm_head.weight", None)
    if head is not None and "wte.weight" in theirs and not head.equal(theirs["wte.weight"]):
        raise CheckpointError(
            f"{where} has an lm_head of its own, and llmlite's is the token embedding; only a "
            "model whose embeddings are tied can be imported."
        )
    with torch.device("meta"):
        expected = GPT(config).state_dict()
    ours = {}
    for name, like in expected.items():
        their_name = _their_name(name).removeprefix(PREFIX)
        weight, shape = theirs.pop(their_name, None), _turned(name, like).shape
        if weight is None or weight.shape != shape:
            raise CheckpointError(
                f"{where} has no {their_name} of the shape {tuple(shape)}; save the whole "
                "GPT2LMHeadModel, with its own config.json."
            )
        if weight.dtype not in FLOATS:
            raise CheckpointError(
                f"{where} keeps {their_name} as {weight.dtype}; save the model in float32, float16 "
                "or bfloat16."
            )
        ours[name] = _turned(name, weight).float()
    if theirs:
        raise CheckpointError(
            f"{where} has {min(theirs)}, which GPT2LMHeadModel does not have; merge adapters and "
            "leave out other heads before saving."
        )
    return ours


def _their_name(name: str) -> str:
    *module, kind = name.split(".")
    if module[0] == "blocks":
        return f"{PREFIX}h.{module[1]}.{NAMES['.'.join(module[2:])]}.{kind}"
    return f"{PREFIX}{NAMES[module[0]]}.{kind}"


def _turned(name: str, weight: Tensor) -> Tensor:
    """Their Conv1D keeps (in, out) where nn.Linear keeps (out, in). `name` is ours."""
    return weight.T if name.startswith("blocks.") and weight.dim() == 2 else weight


# -- configuration --------------------------------------------------------------------------------


def gpt2_config(shape: ModelConfig, eot_id: int) -> dict:
    """The config.json of a model of this shape; eot_id begins and ends its texts.

    Raises LLMLiteError for a model without a causal mask.
    """
    if not shape.causal:
        raise LLMLiteError(
            "This model has no causal mask, and GPT2LMHeadModel always has one; only a model with "
            "causal=True can be exported."
        )
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **{theirs: getattr(shape, ours) for ours, theirs in SHAPE.items()},
        **dict.fromkeys(DROPOUTS, shape.dropout),
        **{name: values[0] for name, values in COMPUTED.items()},
        **dict.fromkeys(("bos_token_id", "eos_token_id"), eot_id),
    }


def shape_of(config: dict, where: str) -> ModelConfig:
    """The shape that a config.json describes.

    Raises CheckpointError, naming `where`, if a GPT cannot have it, and LLMLiteError if none can.
    """
    if config.get("model_type") != "gpt2":
        raise CheckpointError(
            f"{where} describes a model of the type {config.get('model_type')!r}; only 'gpt2' can "
            "be imported."
        )
    config = DROPOUTS | config
    kinds = dict.fromkeys(SHAPE.values(), int) | dict.fromkeys(DROPOUTS, int | float)
    for name, kind in kinds.items():
        if not isinstance(config.get(name), kind):
            raise CheckpointError(f"{where} does not give {name} as a number; restore the file.")
    for name, values in (COMPUTED | {"n_inner": (None, 4 * config["n_embd"])}).items():
        if config.get(name, values[0]) not in values:
            raise CheckpointError(
                f"{where} has {name} {config[name]}, and llmlite's GPT computes with "
                f"{' or '.join(map(str, values))}; only a model of that kind can be imported."
            )
    dropouts = {config[name] for name in DROPOUTS}
    if len(dropouts) > 1:
        raise CheckpointError(
            f"{where} has several dropouts ({', '.join(DROPOUTS)}), and llmlite's GPT has one; set "
            "them to the same value, which only further training will use."
        )
    shape = {ours: config[theirs] for ours, theirs in SHAPE.items()}
    return ModelConfig(**shape, dropout=dropouts.pop())
