"""Other vocabularies, windows and strides than those of a profile, and how they fare.

Every candidate of the profile's `data_grid` trains the paper's best shape from scratch, as often
on the text, and is scored by the bits per byte of the validation split, the one measure that
depends neither on the vocabulary nor on the window. The test split is not looked at. What the
profile's `data` says was chosen by such a table; a run does not wait for it.
"""

from dataclasses import asdict, replace

import pandas as pd

from llmlite import paper
from llmlite.config import AXES, with_data
from llmlite.data import Dataset
from llmlite.experiment import Experiment
from llmlite.metrics import Score, evaluate
from llmlite.model import GPT
from llmlite.run import Run

COLUMNS = ("vocab_size", "block_size", "stride", "steps", "perplexity per token")
COLUMNS += ("perplexity per word", "bits per byte")


def candidates(experiment: Experiment) -> list[Run]:
    """A run for each vocabulary, window and stride of the profile's `data_grid`."""
    profile, shape = experiment.profile, {axis: paper.BEST[axis] for axis in AXES[1:]}
    runs, given = [], profile.data_grid
    for point in given.space.points() if given else ():
        size, window, overlap = point.values()
        stride, epochs = window // overlap, max(1, given.train.epochs // overlap)
        data = replace(experiment.data, vocab_size=size, block_size=window, stride=stride)
        batch = given.train.batch_size * max(given.space.block_size) // window
        train = replace(given.train, epochs=epochs, batch_size=batch)
        name = f"choice-vocabulary-{size}-window-{window}-stride-{stride}"
        model, measures = with_data(profile.model, data, **shape), {"valid_score": _valid_score}
        runs.append(Run(name, data, model, train, measures))
    return runs


def _valid_score(model: GPT, dataset: Dataset) -> dict:
    return asdict(evaluate(model, dataset.ids["valid"], dataset.counts("valid")))


def choose_data(experiment: Experiment) -> pd.DataFrame:
    """A row a candidate, COLUMNS, by its validation score, the best first; none for those that are
    missing and cannot be trained here."""
    runs, rows = candidates(experiment), []
    for run, trained in zip(runs, experiment.search_runs("choice", runs).itertuples(), strict=True):
        if trained.status == "finished":
            score = Score(**experiment.measured(run, "valid_score"))
            cut = run.data.vocab_size, run.data.block_size, run.data.stride, int(trained.steps)
            rows.append([*cut, score.perplexity, score.word_perplexity, score.bits_per_byte])
    return pd.DataFrame(rows, columns=COLUMNS).sort_values("bits per byte", ignore_index=True)
