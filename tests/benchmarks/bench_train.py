"""Our training step against transformers' GPT-2 of the same shape, in one run.

make bench-train
"""

import tempfile

import torch
import transformers
from common import alternate, arguments, record, table

from llmlite.config import ModelConfig, TrainConfig
from llmlite.data import TokenWindows
from llmlite.train import Trainer

STEPS = 4  # optimiser steps in one measurement


def main() -> None:
    options = arguments(__doc__.splitlines()[0], rounds=5).parse_args()
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    batch, shape = (128, ModelConfig(dropout=0.0)) if cuda else (8, ModelConfig(dropout=0.0))
    tokens = batch * shape.block_size * STEPS
    ids = torch.randint(shape.vocab_size, (4 * tokens + 1,))  # no zeros: they flatter
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(batch_size=batch, amp="auto" if cuda else "off")
        trainer = Trainer(
            shape, config, {"train": ids, "valid": ids}, folder, {}, device, progress=False
        )
        trainer._start()
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=shape.vocab_size,
            n_positions=shape.block_size,
            n_embd=shape.n_embd,
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
    ).to(device)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-3, fused=True)
    windows = TokenWindows(ids.to(device), shape.block_size)

    def batches():
        order = torch.randperm(len(windows))[: STEPS * batch]
        return [windows[part.tolist()] for part in order.split(batch)]

    def synchronise():
        if cuda:
            torch.cuda.synchronize()

    def our_steps():
        trainer.model.train()
        for inputs, targets in batches():
            trainer._optimiser_step(inputs, targets)
        synchronise()

    def their_steps():
        theirs.train()
        for inputs, targets in batches():
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=cuda):
                logits = theirs(inputs).logits
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), targets.flatten()
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
            optimizer.step()
        synchronise()

    contestants = {"llmlite": our_steps, "transformers GPT-2, plain loop": their_steps}
    for run in contestants.values():  # warm up
        run()
    seconds = alternate(contestants, options.rounds)
    arithmetic = "bf16 autocast" if cuda else "float32"
    rows = table(
        f"Training on {device}, {shape.n_layer} layers, {shape.n_head} heads, width "
        f"{shape.n_embd}, window {shape.block_size}, batch {batch}, {arithmetic}",
        seconds,
        "llmlite",
        tokens,
        "tokens",
    )
    record(
        options.out,
        f"train {device}",
        device,
        arithmetic=arithmetic,
        batch=batch,
        shape=vars(shape),
        versions={"transformers": transformers.__version__},
        training=rows,
    )


if __name__ == "__main__":
    main()
