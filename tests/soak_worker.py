"""The search that test_soak.py kills: python soak_worker.py FOLDER."""

import sys
from pathlib import Path

import torch

from llmlite.config import DataConfig, ModelConfig, SearchSpace, TrainConfig
from llmlite.data import Dataset
from llmlite.plan.search import hyperparameter_search
from llmlite.run import Run
from llmlite.train import Compute

GRID = SearchSpace(learning_rate=(1e-2, 1e-3), n_layer=(1,), n_head=(1, 2), n_embd=(16,))


def main() -> None:
    torch.set_num_threads(1)
    ids = torch.randint(50, (4001,), generator=torch.Generator().manual_seed(1))
    data = DataConfig(vocab_size=50, block_size=8)
    dataset = Dataset.of_ids(
        {"train": ids, "valid": ids[:801], "test": ids[:801]}, data, {"data": "noise"}
    )
    base = Run(
        "noise",
        data,
        ModelConfig(vocab_size=50, block_size=8, dropout=0.1),
        TrainConfig(epochs=6, batch_size=4, checkpoint_every=10, patience=2, amp="off"),
    )
    hyperparameter_search(GRID, base, dataset, Path(sys.argv[1]), Compute(progress=False))


if __name__ == "__main__":
    main()
