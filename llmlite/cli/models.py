"""export, import: the way to Hugging Face `transformers` and back."""

from collections.abc import Callable

from llmlite.cli.options import (
    data_options,
    model_of,
    model_options,
    shared_options,
    source_option,
)


def add_commands(add: Callable) -> None:
    every = [shared_options(), data_options(), model_options(), source_option()]
    command = add("export", export, "write the model as a folder for transformers", every)
    command.add_argument(
        "--to",
        required=True,
        metavar="DIR",
        help="a new or empty folder",
    )
    command = add("import", bring_in, "make a model of transformers (GPT-2) one of llmlite", [])
    command.description = (
        "Make a GPT-2 that transformers has saved, as after training an exported model further,\n"
        "a folder that generate, chat and export take with --model."
    )
    command.add_argument(
        "folder", metavar="DIR", help="has config.json, model.safetensors and tokenizer.json"
    )
    command.add_argument(
        "--to",
        required=True,
        metavar="FOLDER",
        help="a new or empty folder",
    )


def export(arguments) -> None:
    from llmlite.hub import check_target, export_folder

    check_target(arguments.to)  # before a model is trained for it
    source = model_of(arguments)
    export_folder(source.model, source.tokenizer, arguments.to, str(source))
    print(f"For transformers: {arguments.to} (its README.md says how)")


def bring_in(arguments) -> None:
    from llmlite.hub import import_folder

    pretrained = import_folder(arguments.folder, arguments.to)
    print(
        f"{pretrained.model.n_parameters():,} parameters, a vocabulary of "
        f"{pretrained.tokenizer.vocab_size:,}: llmlite generate --model {arguments.to}"
    )
