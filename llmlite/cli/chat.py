"""Text in a terminal as it is sampled, for one prompt or a loop of them: what the model writes to
stdout, and all that is said about it to stderr."""

import contextlib
import math
import sys
from collections.abc import Iterable
from functools import partial

from llmlite.files import LLMLiteError
from llmlite.generate import pieces, prompt_ids, stream
from llmlite.model import GPT

_write = partial(print, end="", flush=True)


def print_text(beginning: str, continuation: Iterable, probabilities: bool = False) -> None:
    """Both as one text, as it comes from `pieces`, and a line end even if that is interrupted.
    probabilities: what the model gave each token is set behind it, as in ` the(0.34)`, the product
    where several tokens spell one character; then comes the mean surprise of all tokens."""
    nats = []  # of each token
    try:
        _write(beginning)
        for text, its_nats in continuation:
            if probabilities and its_nats:
                body = text.rstrip("\n")  # a probability stands on the line of its token
                text = f"{body}({math.exp(-sum(its_nats)):.2g}){text[len(body) :]}"
            _write(text)
            nats += its_nats
    finally:
        _write("\n")
        if probabilities and nats:
            mean = sum(nats) / len(nats)
            said = f"Mean surprise of {len(nats)} tokens: {mean:.2f} nats per token"
            _say(f"{said}, perplexity {math.exp(mean):.1f}.")


def chat(
    model: GPT, tokenizer, name: str, tokens: int, seed: int, probabilities: bool, **sampling
) -> None:
    """Continue each line that is typed, or piped in, until the input ends (at a prompt, by Ctrl-D).
    name: of the model, for the first line. seed: of the first text; each later one takes the next,
    so that they differ and all come again. sampling: temperature, top_k and top_p, as in `stream`.
    Ctrl-C ends a text at a prompt, and everything in a pipe."""
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    _say(f"The model continues what you begin; it is no assistant and answers nothing ({name}).")
    if interactive:
        _say("Ctrl-C stops a continuation, Ctrl-D ends.")
        with contextlib.suppress(ImportError):  # not on Windows
            import readline  # noqa: F401  gives input() its history and editing
    while True:
        try:
            line = input("> " if interactive else "").strip()
            line.encode()  # raises what stdin has not raised (terminal.py)
            if line:
                ids = prompt_ids(tokenizer, line)
                steps = stream(model, ids, tokens, seed=seed, **sampling)
                seed = (seed + 1) % 2**64
                print_text(line, pieces(tokenizer, steps), probabilities)
        except EOFError:
            if interactive:
                _say("")
            return
        except LLMLiteError as error:
            _say(str(error))
        except UnicodeEncodeError:
            _say("This line is not UTF-8; it is left out.")
        except KeyboardInterrupt:
            if not interactive:
                raise
            _say("")


def _say(text: str) -> None:
    sys.stdout.flush()
    print(text, file=sys.stderr, flush=True)
