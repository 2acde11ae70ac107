"""Our model's weights in transformers' GPT-2: what tests and benchmarks compare with."""

from transformers import GPT2Config, GPT2LMHeadModel

from llmlite.model import GPT

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
    theirs = {}
    for name, weight in model.state_dict().items():
        parts = name.split(".")
        if parts[0] == "blocks":
            module = ".".join(parts[2:-1])
            their_name = f"transformer.h.{parts[1]}.{NAMES[module]}.{parts[-1]}"
            if weight.dim() == 2:  # Conv1D keeps (in, out)
                weight = weight.T
        else:
            their_name = f"transformer.{NAMES[parts[0]]}.{parts[1]}"
        theirs[their_name] = weight
    theirs["lm_head.weight"] = theirs["transformer.wte.weight"]
    gpt2 = GPT2LMHeadModel(config).eval().to(model.device)
    gpt2.load_state_dict(theirs)  # strict: nothing missing, nothing left over
    return gpt2
