"""generate, chat: text from a trained model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from llmlite.cli.models import model_of
from llmlite.cli.options import Command, Work
from llmlite.cli.stages import TRAINED
from llmlite.files import LLMLiteError


@dataclass(frozen=True)
class Sampling(Command):
    """How text is sampled, and which model's."""

    tokens: int = 60  # new tokens at most
    temperature: float = 0.8  # 0 takes the likeliest token, 1 samples as the model says
    top_k: int | None = 50  # keep the K likeliest
    top_p: float | None = None  # keep the likeliest that hold P; all if not given
    seed: int = 0  # the same seed gives the same text
    # set behind each token how likely the model said it was
    probabilities: bool = False
    # the model in this folder, which `llmlite import` has left, instead of one that other options
    # describe; the one that comes with the package, if they are not given either
    model: Path | None = None

    PARTS = TRAINED

    def sampling(self) -> dict:
        """What `stream` takes; LLMLiteError before a model is loaded, which may take long."""
        from llmlite.generate import check_sampling

        sampling = {n: getattr(self, n) for n in ("temperature", "top_k", "top_p", "seed")}
        check_sampling(self.tokens, **sampling)
        return sampling


@dataclass(frozen=True)
class Generate(Sampling):
    """continue a prompt with the model"""

    prompt: tyro.conf.Positional[str | None] = None  # the paper's if not given
    # number of continuations; a single one is printed as it is sampled
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1

    def run(self, work: Work) -> None:
        from llmlite.cli.chat import print_text
        from llmlite.generate import complete, pieces, prompt_ids, stream
        from llmlite.paper import GENERATION_PROMPT

        if self.probabilities and self.n != 1:
            raise LLMLiteError("--probabilities shows those of one text; leave out -n.")
        how, source = self.sampling(), model_of(work, self.model)
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

    def run(self, work: Work) -> None:
        from llmlite.cli.chat import chat

        how, source = self.sampling(), model_of(work, self.model, announce=False)
        model, name = source.model, str(source)
        chat(model, source.tokenizer, name, self.tokens, probabilities=self.probabilities, **how)
