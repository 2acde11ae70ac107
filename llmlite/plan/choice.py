"""Other vocabularies, windows and strides than those of a profile, and how they fare.

Every candidate of the profile's `data_space` trains the paper's best shape from scratch, in the
whole passes over the text that come nearest to as many tokens for each, and is scored by the bits
per byte of the validation split, the one measure that depends neither on the vocabulary nor on the
window. The test split is not looked at. What the profile's `data` says was chosen by such a table;
a run does not wait for it.
"""

from dataclasses import asdict, replace

import pandas as pd

from llmlite import paper
from llmlite.config import AXES, DataSpace, with_data
from llmlite.data import Dataset
from llmlite.experiment import Experiment
from llmlite.files import MissingRunError
from llmlite.metrics import Score, evaluate
from llmlite.model import GPT
from llmlite.run import Run

CHOSEN = ("vocab_size", "block_size", "stride")


def candidates(experiment: Experiment) -> list[Run]:
    """A run for each vocabulary, window and stride of the profile's `data_space`."""
    space, shape = experiment.profile.data_space, {axis: paper.BEST[axis] for axis in AXES[1:]}
    runs = []
    for point in space.points() if space else ():
        data = replace(experiment.data, **point)
        model = with_data(experiment.profile.model, data, **shape)
        name = "choice-vocabulary-{vocab_size}-window-{block_size}-stride-{stride}".format(**point)
        tokens = len(experiment.dataset_of(data).ids["train"])
        train = _as_long(space, data.block_size, tokens * data.block_size / data.stride)
        runs.append(Run(name, data, model, train, {"valid_score": _valid_score}))
    return runs


def _as_long(space: DataSpace, block_size: int, epoch_tokens: float):
    """How a candidate is trained: the space's tokens in all and in a batch, in whole epochs."""
    return replace(
        space.train,
        epochs=max(1, round(space.tokens / epoch_tokens)),
        batch_size=max(1, space.train.batch_size * max(space.block_size) // block_size),
    )


def _valid_score(model: GPT, dataset: Dataset) -> dict:
    return asdict(evaluate(model, dataset.ids["valid"], dataset.counts("valid")))


def choose_data(experiment: Experiment) -> pd.DataFrame:
    """A row a candidate: CHOSEN, what it was trained on and its validation score, the best first.

    Those that are missing and cannot be trained here are left out.
    """
    rows, missing = [], 0
    for run in candidates(experiment):
        try:
            record = experiment.train(run)
            score = Score(**experiment.measured(run, "valid_score"))
        except MissingRunError:
            missing += 1
            continue
        rows.append(
            {
                **{field: getattr(run.data, field) for field in CHOSEN},
                "steps": record["epochs"][-1]["step"],
                "tokens trained on": record["tokens_per_epoch"] * len(record["epochs"]),
                "perplexity per token": score.perplexity,
                "perplexity per word": score.word_perplexity,
                "bits per byte": score.bits_per_byte,
            }
        )
    if missing:
        print(f"{missing} candidates are missing: {experiment.only_read}")
    columns = (*CHOSEN, "bits per byte")
    return pd.DataFrame(rows, columns=None if rows else columns).sort_values("bits per byte")
