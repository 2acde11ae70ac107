"""generate, chat, export, import: what a trained model is used for."""

import sys
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated

import tyro

from llmlite.cli.options import Work
from llmlite.cli.stages import TRAINED
from llmlite.files import LLMLiteError


@dataclass(frozen=True)
class Model(Work):
    """A command that uses a model."""

    PARTS = TRAINED

    # the model in this folder, which `llmlite import` has left, instead of one that other options
    # describe; the one that comes with the package, if they are not given either
    folder: Annotated[Path | None, tyro.conf.arg(name="model")] = None

    def trained(self, announce: bool = True):
        """The Experiment, or the ready model, that the options ask for."""
        from llmlite.parallel import resolve_device
        from llmlite.pretrained import FOLDER, load_pretrained

        if self.folder and not self.says_nothing:
            raise LLMLiteError("--model names a ready model; leave out what describes another one.")
        if not self.says_nothing:
            return self.experiment()
        pretrained = load_pretrained(resolve_device(self.device), self.folder or FOLDER)
        if announce:
            print(f"This is {pretrained}.", file=sys.stderr)
        return pretrained


@dataclass(frozen=True)
class Sampling(Model):
    """How text is sampled."""

    tokens: int = 60  # new tokens at most
    temperature: float = 0.8  # 0 takes the likeliest token, 1 samples as the model says
    top_k: int | None = 50  # keep the K likeliest
    top_p: float | None = None  # keep the likeliest that hold P; all if not given
    seed: int = 0  # the same seed gives the same text
    # set behind each token how likely the model said it was
    probabilities: bool = False

    def sampling(self, n: int = 1) -> dict:
        """What `stream` takes; LLMLiteError before a model is loaded, which may take long."""
        from llmlite import generate

        sampling = {n: getattr(self, n) for n in ("temperature", "top_k", "top_p", "seed")}
        generate.Sampling(self.tokens, **sampling, n=n)
        return sampling


@dataclass(frozen=True)
class Generate(Sampling):
    """continue a prompt with the model"""

    prompt: tyro.conf.Positional[str | None] = None  # the paper's if not given
    # number of continuations; a single one is printed as it is sampled
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1

    def run(self) -> None:
        from llmlite.cli.chat import print_text
        from llmlite.generate import complete, pieces, prompt_ids, stream
        from llmlite.paper import GENERATION_PROMPT

        if self.probabilities and self.n != 1:
            raise LLMLiteError("--probabilities shows those of one text; leave out -n.")
        how, source = self.sampling(self.n), self.trained()
        model, tokenizer, tokens = source.model, source.tokenizer, self.tokens
        prompt = GENERATION_PROMPT if self.prompt is None else self.prompt
        if self.n == 1:
            steps = stream(model, prompt_ids(tokenizer, prompt), tokens, **how)
            print_text(f"\n{prompt}", pieces(tokenizer, steps), self.probabilities)
            return
        for text in complete(model, tokenizer, prompt, tokens, self.n, progress=True, **how):
            print(f"\n{prompt}{text}")


@dataclass(frozen=True)
class Chat(Sampling):
    """continue one prompt after the other, typed or piped in"""

    def run(self) -> None:
        from llmlite.cli.chat import chat

        how, source = self.sampling(), self.trained(announce=False)
        model, name = source.model, str(source)
        chat(model, source.tokenizer, name, self.tokens, probabilities=self.probabilities, **how)


@dataclass(frozen=True)
class Export(Model):
    """write the model as a folder for transformers"""

    to: Path | None = None  # a new or empty folder

    def run(self) -> None:
        from llmlite.hub import check_target, export_folder

        if self.to is None:
            raise LLMLiteError("llmlite export needs a folder to write to; name one with --to.")
        check_target(self.to)  # before a model is trained for it
        source = self.trained()
        export_folder(source.model, source.tokenizer, self.to, str(source))
        print(f'With transformers: pipeline("text-generation", {str(self.to)!r})("The")')


@dataclass(frozen=True)
class Import:
    """make a GPT-2 that transformers has saved a model that generate, chat and export take"""

    # has config.json, model.safetensors and tokenizer.json
    folder: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="DIR")] = None
    to: Path | None = None  # a new or empty folder

    def run(self) -> None:
        from llmlite.hub import import_folder

        if self.folder is None or self.to is None:
            raise LLMLiteError("llmlite import needs two folders: llmlite import DIR --to FOLDER.")
        pretrained = import_folder(self.folder, self.to)
        print(
            f"{pretrained.model.n_parameters():,} parameters, a vocabulary of "
            f"{pretrained.tokenizer.vocab_size:,}: llmlite generate --model {quote(str(self.to))}"
        )
