"""The trained model that comes with the package, so that nobody has to train one to try it: weights
in half precision, their tokenizer, the record of the run that made them, and a model card."""

from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import torch

from llmlite.files import CheckpointError, read_json
from llmlite.model import GPT
from llmlite.run import RECORD, load_model
from llmlite.tokenizer import BPETokenizer

FOLDER = Path(__file__).parent
MODEL, TOKENIZER = "model.safetensors", "tokenizer.json"


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
    """The model in float32 on `device`, its tokenizer and record. Raises CheckpointError if a file
    is missing, damaged or belongs to another tokenizer."""
    if (folder / "config.json").exists():
        said = f"llmlite import {quote(str(folder))} --to FOLDER"
        raise CheckpointError(f"{folder} is for transformers: {said}.")
    try:
        record = read_json(folder / RECORD)
    except (FileNotFoundError, ValueError):
        said = f"{folder / RECORD} is missing or damaged; restore it from the same release."
        raise CheckpointError(said) from None
    model, header = load_model(folder / MODEL, device)
    tokenizer = BPETokenizer.load(folder / TOKENIZER)
    if header.get("tokenizer_fingerprint") != tokenizer.fingerprint:
        said = f"{folder / MODEL} was trained with another tokenizer than the {TOKENIZER} beside it"
        raise CheckpointError(f"{said}; restore both from one release.")
    return Pretrained(model, tokenizer, record, folder)
