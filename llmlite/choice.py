"""Which vocabulary, window and stride a profile's runs use: chosen once, by validation.

Every candidate of the profile's `data_space` trains the paper's best shape from scratch on as many
tokens as every other, and is scored by the bits per byte of the validation split, the one measure
that depends neither on the vocabulary nor on the window. The test split is not looked at.
"""

from dataclasses import replace

import pandas as pd

from llmlite import paper
from llmlite.checkpoint import load_model
from llmlite.config import DataConfig, DataSpace, TrainConfig, with_data
from llmlite.files import replacing
from llmlite.metrics import evaluate
from llmlite.progress import tqdm
from llmlite.train import Trainer

CHOSEN = ("vocab_size", "block_size", "stride")
TABLE = "choice.csv"


def choose_data(experiment) -> pd.DataFrame:
    """A row a candidate: CHOSEN, what it was trained on and its validation score.

    Kept in `out/choice.csv`; an interrupted choice carries on with the candidate that it was at.
    """
    path = experiment.out / TABLE
    if path.exists():
        return pd.read_csv(path)
    texts = _texts(experiment)
    with tqdm(texts, "Choice", unit="candidate", disable=not experiment.progress) as bar:
        table = pd.DataFrame([_candidate(text) for text in bar])
    with replacing(path) as aside:
        table.to_csv(aside, index=False)
    return table


def best_choice(table: pd.DataFrame) -> dict[str, int]:
    """The values of CHOSEN with the fewest bits per byte of validation text."""
    best = table.loc[table["bits per byte"].idxmin()]
    return {field: int(best[field]) for field in CHOSEN}


def _texts(experiment) -> list:
    """The experiment with each candidate's vocabulary and windows. A text in memory is read once
    for all; a stream is kept as the tokens of one vocabulary."""
    texts = [experiment.like(**point) for point in experiment.profile.data_space.points()]
    first, *others = texts
    if not first.data.stream:
        for text in others:
            text.corpus = first.corpus
    return texts


def _candidate(text) -> dict:
    """Train and score one candidate; `text` is the experiment with its vocabulary and windows."""
    profile, data = text.profile, text.data
    shape = {axis: value for axis, value in paper.BEST.items() if axis != "learning_rate"}
    model = with_data(profile.model, data, **shape)
    config = trial(profile.data_space, data, len(text.ids["train"]))
    name = "vocabulary-{}-window-{}-stride-{}".format(*(getattr(data, f) for f in CHOSEN))
    trainer = Trainer(
        model,
        config,
        text.ids,
        text.out / "choice" / name,
        text.about,
        text.device,
        data.stride,
        text.progress,
    )
    record = trainer.fit()
    trained, _ = load_model(trainer.folder / "best.safetensors", text.device)
    score = evaluate(trained, text.ids["valid"], text.corpus.counts("valid"))
    return {
        **{field: getattr(data, field) for field in CHOSEN},
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
