"""The trained model that comes with the package, so that nobody has to train one to try it.

Beside the weights, in half precision, lie their tokenizer, the record of the run that made them,
and a model card: card.md, filled in from the record.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from llmlite.files import CheckpointError, write_json
from llmlite.model import GPT
from llmlite.run import RECORD, environment, load_model, read_record, save_weights
from llmlite.tokenizer import BPETokenizer

FOLDER = Path(__file__).parent
MODEL, TOKENIZER, CARD = "model.safetensors", "tokenizer.json", "README.md"


@dataclass(frozen=True)
class Pretrained:
    """A trained model, its tokenizer, and the record of how it was made."""

    model: GPT
    tokenizer: BPETokenizer
    record: dict
    folder: Path

    def __str__(self) -> str:
        if self.folder != FOLDER:
            return f"the model in {self.folder}"
        made, by = self.record, self.record["environment"]
        return (
            f"the model that comes with llmlite: profile {made['profile']}, {made['data']}, "
            f"{by['device']}, commit {by['commit']}"
        )


def load_pretrained(device: str | torch.device = "cpu", folder: Path = FOLDER) -> Pretrained:
    """The model in float32 on `device`, its tokenizer and record.

    Raises CheckpointError if a file is missing, damaged or belongs to another tokenizer.
    """
    if (folder / "config.json").exists():
        raise CheckpointError(f"{folder} is for transformers: llmlite import {folder} --to FOLDER.")
    model, header = load_model(folder / MODEL, device)
    tokenizer = BPETokenizer.load(folder / TOKENIZER)
    if header.get("tokenizer_fingerprint") != tokenizer.fingerprint:
        raise CheckpointError(
            f"{folder / MODEL} was trained with another tokenizer than the {TOKENIZER} beside it; "
            "restore both from one release."
        )
    record = read_record(folder)
    if record is None:
        raise CheckpointError(f"{folder / RECORD} is missing; restore it from the same release.")
    return Pretrained(model, tokenizer, record, folder)


def ship(experiment, folder: Path = FOLDER) -> None:
    """Write the trained model of an Experiment into `folder`, weights rounded to half precision.

    The scores in its record are those of the rounded weights on the whole test split.
    """
    from llmlite.metrics import evaluate  # here, so that loading the model is quick

    run, dataset, model = experiment.retrain(), experiment.dataset, experiment.model
    half = {name: weight.half() for name, weight in model.state_dict().items()}
    about = {name: str(value) for name, value in dataset.about.items()}
    save_weights(model.config, half, folder / MODEL, **about)
    experiment.tokenizer.save(folder / TOKENIZER)
    rounded, _ = load_model(folder / MODEL, experiment.device)
    taken_over = ("identity", "amp", "parameters", "best", "epochs", "environment")
    record = {
        "profile": experiment.profile.name,
        **about,
        "data_config": {k: v for k, v in asdict(experiment.data).items() if k != "source"},
        **{key: run[key] for key in taken_over},
        "scores": asdict(evaluate(rounded, dataset.ids["test"], dataset.counts("test"))),
        "scored_in": environment(experiment.device),
    }
    write_json(folder / RECORD, record)
    (folder / CARD).write_text(model_card(record), encoding="utf-8")


def model_card(record: dict) -> str:
    """README.md of a shipped model, from its record."""
    from llmlite.metrics import Score

    score, millions = Score(**record["scores"]), record["parameters"] / 1e6
    template = (FOLDER / "card.md").read_text("utf-8")
    return template.format(**record, score=score, last=record["epochs"][-1], millions=millions)
