"""Our generation against transformers' generate: same weights, same prompts, same greedy text.

make bench-generate
"""

from functools import partial

import common
import torch
from torch import Tensor

from llmlite.config import ModelConfig
from llmlite.generate import generate
from llmlite.model import GPT

OURS, THEIRS, PLAIN = "llmlite", "transformers generate", "llmlite, plain"


@torch.no_grad()
def moved_model(shape: ModelConfig, seed: int = 0) -> GPT:
    """In evaluation mode, each parameter moved by N(0, 0.2): fresh weights have nearly even
    attention and say one token for ever, of nearly equal ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT(shape)
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return model.eval()


def contestant(name: str, shape: dict, batch: int, prompt: int, new: int, device: str = "cpu"):
    model = moved_model(ModelConfig(**shape)).to(device)
    run = partial(generate, model, temperature=0, fast=name == OURS)
    if name == THEIRS:
        from llmlite.hub import to_gpt2  # imports transformers, which takes seconds

        gpt2 = to_gpt2(model)
        gpt2.generation_config.eos_token_id = None  # a token like any other: nothing ends before

        def run(ids: Tensor, new: int) -> Tensor:
            how = {"max_new_tokens": new, "pad_token_id": 0, "do_sample": False}
            return gpt2.generate(ids, attention_mask=torch.ones_like(ids), **how)

    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(shape["vocab_size"], (batch, prompt), generator=generator).to(device)
    run(prompts[:1], 2)  # what is set up once is no part of a lap
    return lambda: run(prompts, new), Tensor.tolist


def main() -> None:
    options = common.options(__doc__, rounds=7)
    shape = vars(common.TINY if options.tiny else ModelConfig(dropout=0.0))
    batches, prompt, new = ([2], 4, 20) if options.tiny else ([1, 64], 16, 128)
    rounds = {OURS: options.rounds, THEIRS: options.rounds, PLAIN: 1}
    cases = {}
    for batch in batches:
        title = f"Generation, batch {batch}, {prompt} + {new} tokens, the same text"
        task = {"shape": shape, "batch": batch, "prompt": prompt, "new": new}
        rows = common.compete(title, contestant, rounds, batch * new, "tokens", **task)
        cases[f"batch {batch}"] = {**task, "contestants": rows}
    common.record(options, "generate-cpu", ("transformers",), cases=cases)


if __name__ == "__main__":
    main()
