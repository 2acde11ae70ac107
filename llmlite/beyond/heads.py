"""More heads, each of fewer numbers: do they predict better, or only look at other things?"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from llmlite import interpret
from llmlite.data import Dataset
from llmlite.experiment import Experiment
from llmlite.intervals import Interval, over_seeds
from llmlite.model import GPT
from llmlite.run import Run

# The columns of `heads_table`, as a figure has them.
COLUMNS = {
    "valid_loss": "validation loss,\nnats per token",
    "distance": "mean distance,\ntokens",
    "entropy": "entropy, nats",
    "previous": "weight on the\ntoken before",
    "spread": "spread of a layer's\nheads, tokens",
    "cost": "cost of a head,\nnats per token",
}


def specialisation(model: GPT, dataset: Dataset, sentences: int, tokens: int) -> dict:
    """Where each head looks, by interpret.STATISTICS over the tokens of so many sentences of the
    test split, and how much the loss on so many tokens of the validation split rises without it:
    each (layer, head)."""
    encoded = map(dataset.tokenizer.encode, dataset.sentences(sentences))
    texts = [torch.tensor(ids[: model.config.block_size]) for ids in encoded if len(ids) > 1]
    of_texts = [interpret.query_statistics(interpret.attention_maps(model, ids)) for ids in texts]
    means = torch.cat(of_texts, -1).double().mean(-1)  # (statistic, layer, head)
    loss, effects = interpret.ablation_effects(model, dataset.ids["valid"][:tokens])
    looking = dict(zip(interpret.STATISTICS, means.tolist(), strict=True))
    return looking | {"loss": loss, "cost": effects.tolist()}


def heads_table(experiment: Experiment, runs: Sequence[Run]) -> pd.DataFrame:
    """Columns of COLUMNS, a row a run, indexed by n_layer, n_head and seed: the lowest validation
    loss; means over all heads; and the spread, in a layer, of the heads' mean distances (their
    standard deviation, that of its only head being 0)."""
    rows = {}
    for run in runs:
        found = experiment.measured(run, "heads")
        row = {name: np.mean(found[name]) for name in (*interpret.STATISTICS, "cost")}
        row["valid_loss"] = experiment.record(run)["best"]["valid_loss"]
        row["spread"] = np.std(found["distance"], axis=1).mean()
        rows[run.model.n_layer, run.model.n_head, run.train.seed] = row
    names = ["n_layer", "n_head", "seed"]
    return pd.DataFrame.from_dict(rows, "index")[[*COLUMNS]].rename_axis(names)


def by_heads(table: pd.DataFrame, column: str) -> dict[int, dict[int, Interval]]:
    """n_layer → n_head → the mean over the seeds."""
    found = {}
    for (n_layer, n_head), values in table[column].groupby(level=["n_layer", "n_head"]):
        found.setdefault(n_layer, {})[n_head] = over_seeds(values)
    return found
