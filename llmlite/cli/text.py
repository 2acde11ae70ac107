"""generate, chat: text from a trained model."""

import sys
from collections.abc import Callable

from llmlite.cli.options import (
    data_options,
    model_of,
    model_options,
    shared_options,
    source_option,
)
from llmlite.errors import LLMLiteError


def add_commands(add: Callable) -> None:
    every = [shared_options(), data_options(), model_options(), source_option()]
    command = add("generate", generate, "continue a prompt with the model", every)
    command.add_argument("prompt", nargs="?", help="default: the paper's, 'The university student'")
    _add_sampling(command, "the same seed gives the same text (default: 0)")
    command.add_argument(
        "-n",
        type=int,
        default=1,
        help="number of continuations; a single one is printed as it is sampled (default: 1)",
    )

    purpose = "continue one prompt after the other, typed or piped in, with the model"
    command = add("chat", chat, purpose, every)
    _add_sampling(command, "of the first text; each later one takes the next number (default: 0)")


def _add_sampling(command, seed: str) -> None:
    command.add_argument(
        "--tokens", type=int, default=60, metavar="N", help="new tokens at most (default: 60)"
    )
    command.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        metavar="T",
        help="0 takes the likeliest token, 1 samples as the model says (default: 0.8)",
    )
    command.add_argument(
        "--top-k", type=int, default=50, metavar="K", help="keep the K likeliest (default: 50)"
    )
    command.add_argument(
        "--top-p", type=float, metavar="P", help="keep the likeliest that hold P (default: all)"
    )
    command.add_argument("--seed", type=int, default=0, help=seed)
    command.add_argument(
        "--probabilities",
        action="store_true",
        help="set behind each token how likely the model said it was (default: text alone)",
    )


def generate(arguments) -> None:
    from llmlite.chat import Printer
    from llmlite.generate import complete, pieces, prompt_ids, stream
    from llmlite.paper import GENERATION_PROMPT

    if arguments.probabilities and arguments.n != 1:
        raise LLMLiteError("--probabilities shows those of one text; leave out -n.")
    source = model_of(arguments)
    prompt = GENERATION_PROMPT if arguments.prompt is None else arguments.prompt
    sampling = {
        name: getattr(arguments, name) for name in ("temperature", "top_k", "top_p", "seed")
    }
    if arguments.n != 1:
        for text in complete(
            source.model,
            source.tokenizer,
            prompt,
            arguments.tokens,
            arguments.n,
            progress=True,
            **sampling,
        ):
            print(f"\n{prompt}{text}")
        return
    start = prompt_ids(source.tokenizer, prompt)
    steps = stream(source.model, start, arguments.tokens, **sampling)
    printer = Printer(arguments.probabilities, sys.stdout)
    printer.print(f"\n{prompt}", pieces(source.tokenizer, steps))
    if arguments.probabilities:
        print(printer.surprise(), file=sys.stderr)


def chat(arguments) -> None:
    from llmlite.chat import Chat, Settings

    names = ("tokens", "temperature", "top_k", "top_p", "seed", "probabilities")
    settings = Settings(**{name: getattr(arguments, name) for name in names})
    source = model_of(arguments, announce=False)
    Chat(source.model, source.tokenizer, str(source), settings).run()
