"""generate: text from a trained model."""

from collections.abc import Callable

from llmlite.cli.options import data_options, model_of, model_options, shared_options


def add_commands(add: Callable) -> None:
    every = [shared_options(), data_options(), model_options()]
    command = add("generate", generate, "continue a prompt with the model", every)
    command.add_argument("prompt", nargs="?", help="default: the paper's, 'The university student'")
    command.add_argument(
        "--tokens", type=int, default=60, metavar="N", help="new tokens at most (default: 60)"
    )
    command.add_argument("-n", type=int, default=1, help="number of continuations (default: 1)")
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
    command.add_argument(
        "--seed", type=int, default=0, help="the same seed gives the same text (default: 0)"
    )


def generate(arguments) -> None:
    from llmlite.generate import complete
    from llmlite.paper import GENERATION_PROMPT

    source = model_of(arguments)
    prompt = GENERATION_PROMPT if arguments.prompt is None else arguments.prompt
    for text in complete(
        source.model,
        source.tokenizer,
        prompt,
        arguments.tokens,
        arguments.n,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
        progress=True,
    ):
        print(f"\n{prompt}{text}")
