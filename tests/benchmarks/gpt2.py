"""Our model's weights in transformers' GPT-2: what tests and benchmarks compare with."""

from transformers import GPT2Config, GPT2LMHeadModel

from llmlite.config import ModelConfig
from llmlite.gpt2 import to_gpt2
from llmlite.model import GPT


def as_gpt2(model: GPT, **options) -> GPT2LMHeadModel:
    """A copy of `model` by transformers, for evaluation, on its device; `options` of GPT2Config."""
    shape = model.config
    config = GPT2Config(
        vocab_size=shape.vocab_size,
        n_positions=shape.block_size,
        n_embd=shape.n_embd,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        bos_token_id=0,
        eos_token_id=0,
        **options,
    )
    theirs = to_gpt2(model.state_dict())
    theirs["lm_head.weight"] = theirs["transformer.wte.weight"]
    gpt2 = GPT2LMHeadModel(config).eval().to(model.device)
    gpt2.load_state_dict(theirs)  # strict: nothing missing, nothing left over
    return gpt2


def training_gpt2(shape: ModelConfig, **options) -> GPT2LMHeadModel:
    """transformers' GPT-2 of our shape, with our first weights, for training."""
    pdrop = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), shape.dropout)
    return as_gpt2(GPT(shape), use_cache=False, **pdrop, **options).train()
