"""Other vocabularies, windows and strides than those of a profile, and how they fare.

Every candidate of the profile's `data_space` trains the paper's best shape from scratch, in the
whole passes over the text that come nearest to as many tokens for each, and is scored by the bits
per byte of the validation split, the one measure that depends neither on the vocabulary nor on the
window. The test split is not looked at. What the profile's `data` says was chosen by such a table;
a run does not wait for it.
"""

import json
from dataclasses import asdict, replace

import pandas as pd

from llmlite import paper
from llmlite.checkpoint import load_model, read_record, run_folder
from llmlite.config import DataConfig, DataSpace, TrainConfig, with_data
from llmlite.errors import MissingRunError
from llmlite.files import write_json
from llmlite.metrics import Score, evaluate
from llmlite.progress import tqdm
from llmlite.train import Trainer

CHOSEN = ("vocab_size", "block_size", "stride")
SCORE = "valid_score.json"


def candidates(experiment) -> dict[str, object]:
    """The experiment with each candidate's vocabulary and windows, by a name."""
    experiment.corpus  # noqa: B018, read once for all
    name = "choice-vocabulary-{vocab_size}-window-{block_size}-stride-{stride}".format
    points = experiment.profile.data_space.points() if experiment.profile.data_space else ()
    return {name(**point): experiment.like(**point) for point in points}


def choose_data(experiment) -> pd.DataFrame:
    """A row a candidate: CHOSEN, what it was trained on and its validation score, the best first.

    Those that are missing and cannot be trained here are left out.
    """
    rows, missing = [], 0
    texts = candidates(experiment).values()
    with tqdm(texts, "Choice", unit="candidate", disable=not experiment.progress) as bar:
        for text in bar:
            try:
                rows.append(_row(text))
            except MissingRunError:
                missing += 1
    if missing:
        print(f"{missing} of {len(texts)} candidates are missing: {experiment.only_read}")
    columns = (*CHOSEN, "bits per byte")
    return pd.DataFrame(rows, columns=None if rows else columns).sort_values("bits per byte")


def candidate_trainer(text) -> Trainer:
    """`text`: the experiment with a candidate's vocabulary and windows."""
    profile, data = text.profile, text.data
    shape = {axis: value for axis, value in paper.BEST.items() if axis != "learning_rate"}
    model = with_data(profile.model, data, **shape)
    config = trial(profile.data_space, data, len(text.ids["train"]))
    return Trainer(
        model,
        config,
        text.ids,
        run_folder(text.runs, model, config, data.stride, text.about),
        text.about,
        text.device,
        data.stride,
        text.progress,
        paths=text.paths,
        only_read=text.only_read,
    )


def candidate_score(text) -> Score:
    """Of the validation split; trained first if need be, and kept beside the model."""
    trainer = candidate_trainer(text)
    trainer.fit()
    path = trainer.folder / SCORE
    if not path.exists():
        trained, _ = load_model(trainer.folder / "best.safetensors", text.device)
        score = evaluate(trained, text.ids["valid"], text.corpus.counts("valid"))
        write_json(path, asdict(score))
    return Score(**json.loads(path.read_text("utf-8")))


def _row(text) -> dict:
    score, record = candidate_score(text), read_record(candidate_trainer(text).folder)
    return {
        **{field: getattr(text.data, field) for field in CHOSEN},
        "steps": record["epochs"][-1]["step"],
        "tokens trained on": record["tokens_per_epoch"] * len(record["epochs"]),
        "perplexity per token": score.perplexity,
        "perplexity per word": score.word_perplexity,
        "bits per byte": score.bits_per_byte,
    }


def trial(space: DataSpace, data: DataConfig, train_tokens: int) -> TrainConfig:
    """How a candidate is trained: the space's tokens in all and in a batch, in whole epochs."""
    an_epoch = train_tokens * data.block_size / data.stride
    return replace(
        space.train,
        epochs=max(1, round(space.tokens / an_epoch)),
        batch_size=max(1, space.train.batch_size * space.longest // data.block_size),
    )
