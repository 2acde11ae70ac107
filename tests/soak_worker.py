"""The search that test_soak.py kills: python soak_worker.py FOLDER."""

import sys
from pathlib import Path

import torch

from llmlite.config import ModelConfig, SearchSpace, TrainConfig
from llmlite.search import hyperparameter_search

GRID = SearchSpace(learning_rate=(1e-2, 1e-3), n_layer=(1,), n_head=(1, 2), n_embd=(16,))


def main() -> None:
    torch.set_num_threads(1)
    ids = torch.randint(50, (4001,), generator=torch.Generator().manual_seed(1))
    hyperparameter_search(
        GRID,
        ModelConfig(vocab_size=50, block_size=8, dropout=0.1),
        TrainConfig(epochs=6, batch_size=4, checkpoint_every=10, patience=2, amp="off"),
        {"train": ids, "valid": ids[:801]},
        Path(sys.argv[1]),
        {"data": "noise"},
        progress=False,
    )


if __name__ == "__main__":
    main()
