"""Text in a terminal as it is sampled: a loop of prompts, and what each token's probability was.

What the model writes goes to stdout, and all that is said about it to stderr. Knows nothing about
how a model was made or where it lies.
"""

import contextlib
import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TextIO

import torch

from llmlite.errors import LLMLiteError
from llmlite.generate import Piece, check_sampling, pieces, prompt_ids, stream
from llmlite.model import GPT

BOLD, DIM, RESET = "1", "2", "\x1b[0m"

# From how much probability on a token looks how: a surprise stands out, what was expected does not.
# Black on light backgrounds (of the 256 colours), legible whatever the terminal's own colours are.
LEVELS = (
    (0.5, ""),
    (0.2, "38;5;16;48;5;230"),
    (0.05, "38;5;16;48;5;222"),
    (0.01, "38;5;16;48;5;215"),
    (0.0, "38;5;16;48;5;203"),
)

# A terminal obeys these characters, so there they are replaced by their pictures.
PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
PICTURES |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


# -- how text looks -------------------------------------------------------------------------------


def has_colours(out: TextIO) -> bool:
    """Whether `out` is a terminal that shows colours, and nobody asked for none (no-color.org)."""
    return out.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def paint(text: str, style: str) -> str:
    """`text` in a style of the terminal, line by line: else a background fills up the next one."""
    if not style:
        return text
    return re.sub(r"[^\n]+", lambda line: f"\x1b[{style}m{line[0]}{RESET}", text)


def percent(probability: float) -> str:
    """34%, 2.1% or 0.3%, and at the least <0.1%."""
    if probability < 0.0005:
        return "<0.1%"
    return f"{probability:.0%}" if probability >= 0.1 else f"{probability:.1%}"


def legend() -> str:
    """What the backgrounds mean."""
    names = [f" ≥ {least:.0%} " for least, _ in LEVELS[:-1]] + [f" < {LEVELS[-2][0]:.0%} "]
    return "".join(paint(name, style) for name, (_, style) in zip(names, LEVELS, strict=True))


class Printer:
    """Prints a text as it comes, and counts its surprise; `steps` has the tokens that are printed.

    probabilities: what the model gave each token is set behind it, on a terminal with colours as
    ` the`34% on a background, and elsewhere as ` the(0.34)`. The tokens that spell one character
    stand together, with their product.
    """

    def __init__(self, probabilities: bool, out: TextIO):
        self.probabilities, self.out, self.steps = probabilities, out, []
        self.terminal, self.colours = out.isatty(), has_colours(out)

    def print(self, beginning: str, continuation: Iterable[Piece]) -> None:
        """Both as one text, and a line end even if the continuation is interrupted."""
        try:
            beginning = self._visible(beginning)
            self._write(paint(beginning, BOLD) if self.colours else beginning)
            for piece in continuation:
                text = self._visible(piece.text)
                annotate = self.probabilities and piece.steps
                self._write(self._annotated(text, piece) if annotate else text)
                self.steps += piece.steps
        finally:
            self._write(RESET + "\n" if self.colours else "\n")

    def surprise(self) -> str:
        """The mean of the printed tokens, as the model says and as they were drawn."""
        n = len(self.steps)
        if not n:
            return "No tokens, no surprise."
        model = sum(step.nats for step in self.steps) / n
        drawn = sum(step.drawn_nats for step in self.steps) / n
        return (
            f"Mean surprise of {n} tokens: {model:.2f} nats per token, perplexity "
            f"{math.exp(model):.1f} (as they were drawn: {drawn:.2f}, {math.exp(drawn):.1f})."
        )

    def _annotated(self, text: str, piece: Piece) -> str:
        body = text.rstrip("\n")  # a probability stands on the line of its token
        end, probability = text[len(body) :], piece.probability
        if not self.colours:
            return f"{body}({probability:.2g}){end}"
        style = next(style for least, style in LEVELS if probability >= least)
        return paint(body, style) + paint(percent(probability), DIM) + end

    def _visible(self, text: str) -> str:
        return text.translate(PICTURES) if self.terminal else text

    def _write(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()


# -- the loop -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """How a text is continued, as in `stream`. LLMLiteError for what nothing can be sampled with.

    seed: of the next continuation; each takes the number after the last one's, so that they differ
    and all come again. probabilities: see Printer.
    """

    tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int
    probabilities: bool = False

    def __post_init__(self):
        check_sampling(*self.sampling)

    @property
    def sampling(self) -> tuple:
        """What `stream` takes after the ids."""
        return self.tokens, self.temperature, self.top_k, self.top_p, self.seed


def _or_off(number: Callable) -> Callable:
    return lambda word: None if word == "off" else number(word)


# Each sets the field of its name: how its value is read, an example, and what it says.
SETTINGS = {
    "/temperature": (float, "0.7", "0 takes the likeliest token, 1 samples as the model says"),
    "/top-k": (_or_off(int), "20", "keep so many of the likeliest tokens, or off"),
    "/top-p": (_or_off(float), "0.9", "keep the likeliest tokens that hold so much, or off"),
    "/tokens": (int, "100", "new tokens at most"),
    "/seed": (int, "3", "of the next continuation; each later one takes the number after it"),
    "/probabilities": (
        {"on": True, "off": False}.__getitem__,
        "on",
        "how likely each token was, on or off",
    ),
}


class Chat:
    """Continues each line that is typed, or piped in, until the input or /quit ends it.

    name: of the model, for the first line.
    """

    def __init__(self, model: GPT, tokenizer, name: str, settings: Settings):
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.settings = settings
        self.ids: torch.Tensor | None = None  # the last text, (1, time), as far as the model sees
        self.interactive = sys.stdin.isatty() and sys.stdout.isatty()
        self.actions = {"/more": self._more, "/help": self._help}

    def run(self) -> None:
        """Ends with the input, at /quit, or by Ctrl-C where nobody sits at a prompt."""
        if self.interactive:
            with contextlib.suppress(ImportError):  # not on Windows
                import readline  # noqa: F401  gives input() its history and editing
        self._say(
            "The model continues the text that you begin; it is no assistant and answers nothing "
            f"({self.name})."
        )
        if self.interactive:
            self._say("/help lists the commands; Ctrl-C stops a continuation, Ctrl-D ends.")
        self._explain()
        while True:
            try:
                line = self._read()
                if line is None or line.rstrip() == "/quit":
                    return
                self._answer(line)
            except LLMLiteError as error:
                self._say(str(error))
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                self._say("")

    def _read(self) -> str | None:
        try:
            return input("> " if self.interactive else "")
        except EOFError:
            if self.interactive:
                self._say("")
            return None
        except UnicodeDecodeError:
            raise LLMLiteError("The input is not UTF-8; what came with it is left out.") from None

    def _answer(self, line: str) -> None:
        if line.startswith("/"):
            self._obey(*line.split(maxsplit=1))
        elif line.strip():
            self._continue(line.strip(), prompt_ids(self.tokenizer, line))

    def _obey(self, command: str, value: str = "") -> None:
        value = value.strip()
        if command in SETTINGS:
            self._set(command, value)
        elif command not in (*self.actions, "/quit"):
            raise LLMLiteError(f"There is no command {command[:40]!r}; /help lists them all.")
        elif value:
            raise LLMLiteError(f"{command} takes no value, and was given {value[:40]!r}.")
        else:
            self.actions[command]()

    def _set(self, command: str, value: str) -> None:
        read, example, _ = SETTINGS[command]
        field = command[1:].replace("-", "_")
        try:
            parsed = read(value)
        except (ValueError, KeyError):
            given = f"not {value[:40]!r}" if value else "and was given none"
            raise LLMLiteError(
                f"{command} takes a value, as in `{command} {example}`, {given}."
            ) from None
        self.settings = replace(self.settings, **{field: parsed})
        self._say(f"{command[1:]}: {self._value(field)}")
        if command == "/probabilities":
            self._explain()

    def _value(self, field: str) -> str:
        value = getattr(self.settings, field)
        if value is None or value is False:
            return "off"
        return "on" if value is True else str(value)

    def _more(self) -> None:
        if self.ids is None:
            raise LLMLiteError("There is no text yet to continue; type the beginning of one.")
        self._continue("…", self.ids)

    def _continue(self, beginning: str, ids: torch.Tensor) -> None:
        """Print what follows `ids` (1, time); what has been printed by then becomes the text."""
        settings = self.settings
        steps = stream(self.model, ids, *settings.sampling)
        printer = Printer(settings.probabilities, sys.stdout)
        try:
            printer.print(beginning, pieces(self.tokenizer, steps))
            if len(printer.steps) < settings.tokens:
                self._say("The text ends here.")
        finally:
            new = torch.tensor([[step.token for step in printer.steps]], dtype=ids.dtype)
            self.ids = torch.cat([ids, new], dim=1)[:, -self.model.config.block_size :]
            self.settings = replace(settings, seed=(settings.seed + 1) % 2**64)
            if settings.probabilities:
                self._say(printer.surprise())

    def _explain(self) -> None:
        if self.settings.probabilities and has_colours(sys.stdout):
            self._say("How likely a token was: " + legend())

    def _help(self) -> None:
        lines = [
            "A line is continued, or obeyed if it begins with /; a space before / makes it text."
        ]
        for command, (_, example, meaning) in SETTINGS.items():
            value = self._value(command[1:].replace("-", "_"))
            lines.append(f"  {command + ' ' + example:20} {meaning} (now {value})")
        for command, meaning in (
            ("/more", "continue the last text"),
            ("/help", "this list"),
            ("/quit", "end, as Ctrl-D does; Ctrl-C stops a continuation"),
        ):
            lines.append(f"  {command:20} {meaning}")
        self._say("\n".join(lines))

    def _say(self, text: str) -> None:
        sys.stdout.flush()
        print(text, file=sys.stderr, flush=True)
