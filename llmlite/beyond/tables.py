"""What notebook 09 measures of its runs, and shows of their records."""

import numpy as np
import pandas as pd
import torch

from llmlite import interpret
from llmlite.data import Dataset
from llmlite.experiment import Experiment
from llmlite.intervals import Interval, over_seeds, paired
from llmlite.model import GPT
from llmlite.run import Run

OF_RUN = ["optimizer", "learning_rate", "seed"]


def specialisation(model: GPT, dataset: Dataset, sentences: int, tokens: int) -> dict:
    """Where each head looks, by interpret.STATISTICS over the tokens of so many sentences of the
    test split, and by how many nats per token the loss on so many tokens of the validation split
    rises without it: each (layer, head)."""
    encoded = map(dataset.tokenizer.encode, dataset.sentences(sentences))
    texts = [torch.tensor(ids[: model.config.block_size]) for ids in encoded if len(ids) > 1]
    of_texts = [interpret.query_statistics(interpret.attention_maps(model, ids)) for ids in texts]
    means = torch.cat(of_texts, -1).double().mean(-1)  # (statistic, layer, head)
    loss, effects = interpret.ablation_effects(model, dataset.ids["valid"][:tokens])
    looking = dict(zip(interpret.STATISTICS, means.tolist(), strict=True))
    return looking | {"loss": loss, "cost": effects.tolist()}


def heads_table(experiment: Experiment, runs: list[Run]) -> pd.DataFrame:
    """A row a run, indexed by n_layer, n_head and seed: the lowest validation loss; the means of
    `specialisation` over all heads; spread: the standard deviation of the distances in a layer."""
    rows = {}
    for run in runs:
        found = experiment.measured(run, "heads")
        row = {"loss": experiment.record(run)["best"]["valid_loss"]}
        row |= {name: np.mean(found[name]) for name in (*interpret.STATISTICS, "cost")}
        row["spread"] = pd.DataFrame(found["distance"]).std(axis=1).fillna(0).mean()  # 0: of one
        rows[run.model.n_layer, run.model.n_head, run.train.seed] = row
    return pd.DataFrame.from_dict(rows, "index").rename_axis(["n_layer", "n_head", "seed"])


def more_heads(column: pd.Series, fewer: int, more: int) -> dict[int, Interval]:
    """n_layer → by how much `more` heads change one column, compared with `fewer`, by seed."""
    change = column.xs(more, level="n_head") - column.xs(fewer, level="n_head")
    return {n_layer: paired(part) for n_layer, part in change.groupby("n_layer")}


def compared(epochs: pd.DataFrame) -> pd.DataFrame:
    """A row an optimiser, at its rate that has most seeds: the loss; minus AdamW's; after which
    share of the steps it is as good as AdamW at the end (None: in some seed never). epochs: as
    Beyond.epochs gives them."""
    losses = epochs.groupby(OF_RUN).valid_loss.min()
    rates = losses.groupby(OF_RUN[:2]).count().groupby("optimizer").idxmax()
    rows, adamw = {}, losses[rates["adamw"]]
    for name, best in rates.items():
        runs = epochs[(epochs[OF_RUN[:2]] == list(best)).all(axis=1)].groupby("seed")
        shares = [steps_to(adamw[seed], run) / run.step.max() for seed, run in runs]
        rows[name] = {
            "rate": best[1],
            "loss": over_seeds(losses[best]),
            "minus AdamW": paired(losses[best] - adamw),
            "share of steps": over_seeds(shares) if np.isfinite(shares).all() else None,
        }
    return pd.DataFrame(rows).T


def steps_to(target: float, run: pd.DataFrame) -> float:
    """The step at which a run is first as good as a loss, on a line from epoch to epoch: the first
    one's end at the soonest, NaN if it never is. run: a row an epoch."""
    lowest = np.minimum.accumulate(run.valid_loss)
    return float(np.interp(target, lowest[::-1], run.step[::-1], left=np.nan))
