"""export, import: the way to Hugging Face `transformers` and back; and which model is asked for."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from llmlite.cli.options import Command, Work
from llmlite.cli.stages import TRAINED
from llmlite.files import LLMLiteError


def model_of(work: Work, folder: Path | None, announce: bool = True):
    """What has the `model` and `tokenizer` that the options ask for: those in `folder`, an
    Experiment's where text, folder or settings were named, and else those that come with the
    package."""
    from llmlite.parallel import check_device, local_device
    from llmlite.pretrained import FOLDER, load_pretrained

    if folder and not work.says_nothing:
        raise LLMLiteError("--model names a ready model; leave out what describes another one.")
    if not folder and not work.says_nothing:
        return work.experiment()
    check_device(work.device)
    device = local_device() if work.device == "auto" else work.device
    pretrained = load_pretrained(device, folder or FOLDER)
    if announce:
        print(f"This is {pretrained}.", file=sys.stderr)
    return pretrained


@dataclass(frozen=True)
class Export(Command):
    """write the model as a folder for transformers"""

    PARTS = TRAINED

    to: Path | None = None  # a new or empty folder
    model: Path | None = None  # the model in this folder, which `llmlite import` has left

    def run(self, work: Work) -> None:
        from llmlite.hub import check_target, export_folder

        if self.to is None:
            raise LLMLiteError("llmlite export needs a folder to write to; name one with --to.")
        check_target(self.to)  # before a model is trained for it
        source = model_of(work, self.model)
        export_folder(source.model, source.tokenizer, self.to, str(source))
        print(f'With transformers: pipeline("text-generation", "{self.to}")("The")')


@dataclass(frozen=True)
class Import(Command):
    """make a GPT-2 that transformers has saved a model that generate, chat and export take"""

    WORKS = False

    # has config.json, model.safetensors and tokenizer.json
    folder: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="DIR")] = None
    to: Path | None = None  # a new or empty folder

    def run(self, work: Work) -> None:
        from llmlite.hub import import_folder

        if self.folder is None or self.to is None:
            raise LLMLiteError("llmlite import needs two folders: llmlite import DIR --to FOLDER.")
        pretrained = import_folder(self.folder, self.to)
        print(
            f"{pretrained.model.n_parameters():,} parameters, a vocabulary of "
            f"{pretrained.tokenizer.vocab_size:,}: llmlite generate --model {self.to}"
        )
