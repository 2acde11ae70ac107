"""One contestant of bench_generate.py, in a process of its own that waits while others work.

    python generate_worker.py NAME TASK        (TASK is JSON: device, batch, prompt, new, shape)

A line on stdin starts a lap: all prompts are continued once. A line of JSON on stdout then says how
long it took, what came out, and how much memory the process has needed, and generation of that.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from hashlib import sha256

import torch
from torch import Tensor

from llmlite.config import ModelConfig
from llmlite.generate import generate
from llmlite.model import GPT

OURS, PLAIN, THEIRS = CONTESTANTS = ("llmlite", "llmlite, plain", "transformers generate")


def main() -> None:
    name, task = sys.argv[1], json.loads(sys.argv[2])
    prompts = torch.randint(
        task["shape"]["vocab_size"],
        (task["batch"], task["prompt"]),
        generator=torch.Generator().manual_seed(1),
    ).to(task["device"])
    run = contestant(name, moved_model(ModelConfig(**task["shape"])).to(task["device"]))
    run(prompts[:1], 2)  # what is set up once is no part of a lap, nor of generation's memory
    before = memory(task["device"])
    for _ in sys.stdin:
        start = time.perf_counter()
        ids = run(prompts, task["new"]).cpu()  # and waits for the device
        seconds = time.perf_counter() - start
        peak = memory(task["device"])
        answer = {
            "seconds": seconds,
            "text": sha256(ids.numpy().tobytes()).hexdigest(),
            "shape": list(ids.shape),
            "different_tokens": ids[0, task["prompt"] :].unique().numel(),  # in the first text
            "peak_bytes": peak,
            "generation_bytes": peak - before,
        }
        print(json.dumps(answer), flush=True)


def moved_model(shape: ModelConfig) -> GPT:
    """Fresh weights say one token for ever, of nearly equal ones: each is moved by N(0, 0.2)."""
    torch.manual_seed(0)
    model = GPT(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return model.eval()


def contestant(name: str, model: GPT) -> Callable[[Tensor, int], Tensor]:
    """run(prompts, new): the prompts and `new` tokens more of each, the likeliest at each step."""
    if name in (OURS, PLAIN):
        return lambda ids, new: generate(model, ids, new, temperature=0, fast=name == OURS)
    if name != THEIRS:
        sys.exit(f"There is no contestant '{name}': choose from {', '.join(CONTESTANTS)}.")
    from llmlite.hub import to_gpt2

    gpt2 = to_gpt2(model)

    def run(ids: Tensor, new: int) -> Tensor:
        return gpt2.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
            eos_token_id=None,  # none ends early
        )

    return run


def memory(device: str) -> int:
    """The most bytes so far: of the device, or of the process where the device is the CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
