"""A step of training on a CPU against transformers' GPT-2 and the plainest GPT.

make bench-train

Beside each stands how far it is above the floor (common.measured_peak).
"""

import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial

import common
import torch
from torch import nn
from torch.nn import functional as F

from llmlite.config import DataConfig, ModelConfig, TrainConfig
from llmlite.data import Dataset
from llmlite.engine import FastPaths, step_operations
from llmlite.model import GPT
from llmlite.run import Run
from llmlite.train import Compute, Trainer
from llmlite.windows import TokenWindows

CONFIG = TrainConfig(epochs=1, schedule="fixed")  # whose rate, decay and clipping the peers have
STEPS = 3  # of the optimiser, in a lap


class Block(nn.Module):
    def __init__(self, shape: ModelConfig):
        super().__init__()
        width, self.heads, self.p = shape.n_embd, shape.n_head, shape.dropout
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
        if x.is_cuda:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.p, is_causal=True)
        else:
            scores = (q @ k.transpose(2, 3)) / math.sqrt(c // self.heads)
            weights = scores.masked_fill(~self.mask[:t, :t], -math.inf).softmax(-1)
            y = F.dropout(weights, self.p) @ v
        x = x + F.dropout(self.out(y.transpose(1, 2).reshape(b, t, c)), self.p)
        y = self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))
        return x + F.dropout(y, self.p)


class PlainGPT(nn.Module):
    """The plainest GPT, as a textbook has it. Its attention is what is fastest: on a GPU PyTorch's
    one kernel, as in nanoGPT, else two products and a softmax over a buffer's mask."""

    def __init__(self, shape: ModelConfig):
        super().__init__()
        self.tokens = nn.Embedding(shape.vocab_size, shape.n_embd)
        self.positions = nn.Embedding(shape.block_size, shape.n_embd)
        self.blocks = nn.Sequential(*(Block(shape) for _ in range(shape.n_layer)))
        self.norm = nn.LayerNorm(shape.n_embd)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids, targets):
        """(batch, time) ids → mean loss."""
        x = self.tokens(ids) + self.positions.weight[: ids.size(1)]
        logits = F.linear(self.norm(self.blocks(x)), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def plain_gpt(shape: ModelConfig, device: str, bfloat16: bool, mode: str | None = "default"):
    """Compiled whole with its loss, unless there is no `mode`."""
    model = PlainGPT(shape).to(device)
    loss_of = torch.compile(model, dynamic=False, mode=mode) if mode else model
    return plain_step(model, loss_of, device, bfloat16)


def transformers_gpt2(shape: ModelConfig, device: str, bfloat16: bool, attention: str = "sdpa"):
    """Transformers' own with our first weights, compiled with its loss (outside, it takes over half
    as long again)."""
    from llmlite.hub import to_gpt2  # imports transformers, which takes seconds

    gpt2 = to_gpt2(GPT(shape), use_cache=False, attn_implementation=attention)
    model = gpt2.train().to(device)

    @torch.compile(dynamic=False)
    def loss_of(x, y):
        return F.cross_entropy(model(x).logits.flatten(0, 1).float(), y.flatten())

    return plain_step(model, loss_of, device, bfloat16)


def plain_step(model: nn.Module, loss_of: Callable, device: str, bfloat16: bool) -> Callable:
    """A step of the best plain loop: nothing is read between the steps."""
    options = {"lr": CONFIG.learning_rate, "weight_decay": CONFIG.weight_decay, "fused": True}
    optimizer = torch.optim.AdamW(model.parameters(), **options)

    def step(x, y):
        torch.compiler.cudagraph_mark_step_begin()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            loss = loss_of(x, y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CONFIG.clip_norm)
        optimizer.step()

    return step


def trainer_of_ids(
    model: ModelConfig, config: TrainConfig, ids: dict, folder: str, **compute
) -> Trainer:
    """ids: "train" and "valid". compute: see Compute."""
    data = DataConfig(vocab_size=model.vocab_size, block_size=model.block_size)
    dataset = Dataset.of_ids({**ids, "test": ids["valid"]}, data)
    run = Run("benchmark", data, model, config)
    return Trainer(run, dataset, folder, Compute(progress=False, **compute))


def trainer(shape: ModelConfig, ids: torch.Tensor, batch: int, bfloat16: bool) -> float:
    """Seconds of an epoch, a lap's steps, by our Trainer as it is."""
    config = replace(CONFIG, batch_size=batch, amp="bf16" if bfloat16 else "off")
    split = {"train": ids, "valid": ids[: shape.block_size + 1]}
    paths = FastPaths(compile=True)  # the run is short, but laps stand for a long one
    with tempfile.TemporaryDirectory() as folder:
        run = trainer_of_ids(shape, config, split, folder, paths=paths).fit()
    return run["epochs"][0]["seconds"]


OURS = "llmlite"
PEERS = {
    "plain GPT, torch.compile": plain_gpt,
    "plain GPT": partial(plain_gpt, mode=None),
    "transformers eager, torch.compile": partial(transformers_gpt2, attention="eager"),
    "transformers sdpa, torch.compile": transformers_gpt2,
}


def contestant(name: str, shape: dict, batch: int, bfloat16: bool, threads: int):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    shape = ModelConfig(**shape)
    # Random tokens (zeros would flatter), just enough for a lap to be an epoch.
    ids = torch.randint(shape.vocab_size, (STEPS * batch * shape.block_size + 1,))
    if name == OURS:
        return partial(trainer, shape, ids, batch, bfloat16), None
    step, windows = PEERS[name](shape, "cpu", bfloat16), TokenWindows(ids, shape.block_size)

    def lap() -> None:
        for index in torch.randperm(len(windows)).split(batch):
            step(*windows[index])

    return lap, None


def measure(rounds: int, shape: ModelConfig, batch: int, bfloat16: bool, threads: int) -> dict:
    """Each contestant's seconds, and how far it is above the floor."""
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    title = f"Training, window {shape.block_size}, batch {batch}, {dtype}, {threads} threads"
    tokens, turns = STEPS * batch * shape.block_size, dict.fromkeys((OURS, *PEERS), rounds)
    case = {"shape": asdict(shape), "batch": batch, "bfloat16": bfloat16, "threads": threads}
    rows = common.compete(title, contestant, turns, tokens, "tokens", **case)
    torch.set_num_threads(threads)
    peak = common.measured_peak("cpu", dtype)
    floor = step_operations(shape, batch) / peak
    for row in rows.values():
        row["step_s"] = row["median_s"] / STEPS
        row["above_floor"] = row["step_s"] / floor
    return {**case, "steps": STEPS, "floor_s": floor, "peak": peak, "contestants": rows}


def main() -> None:
    options = common.options(__doc__, rounds=5)
    # The best configuration, with the window and the vocabulary of a small corpus, and its own.
    short = ModelConfig(block_size=128, vocab_size=4096, dropout=0.0)
    long = ModelConfig(block_size=256, vocab_size=10_240, dropout=0.0)
    cases = [(short, 16, True, 1), (long, 16, True, 1), (short, 16, False, 1), (long, 16, True, 2)]
    if options.tiny:
        cases = [(common.TINY, 4, False, 1)]
    measured = {}
    for shape, batch, bfloat16, threads in cases:
        name = f"{shape.block_size}-{'bfloat16' if bfloat16 else 'float32'}-{threads}"
        measured[name] = measure(options.rounds, shape, batch, bfloat16, threads)
    common.record(options, "train-cpu", ("transformers",), cases=measured)


if __name__ == "__main__":
    main()
