"""`llmlite …`: what the notebooks do, for a shell. Errors are one sentence and exit code 2."""

import argparse
import os
import sys

from llmlite.cli import models, notebooks, plan, text, training
from llmlite.cli.options import profile_defaults
from llmlite.errors import LLMLiteError

DESCRIPTION = """\
A reproduction of "Implement a LLM-Lite": a tokenizer, a GPT, a grid search and what they show.
Every command works in one folder (--out) and makes what an earlier one has not left there:
prepare -> search -> train -> evaluate, generate. `audit` makes the runs that show where the paper's
perplexity comes from; `reproduce` runs all of it as notebooks."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llmlite", description=DESCRIPTION, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name, run, purpose, parents):
        command = commands.add_parser(
            name,
            help=purpose,
            description=purpose,
            parents=parents,
            epilog=profile_defaults() if parents else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        return command

    for part in (training, plan, text, models, notebooks):
        part.add_commands(add)
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except LLMLiteError as error:
        print(f"llmlite: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"llmlite: {error.filename}: {error.strerror}; name another path.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nllmlite: stopped; the same command carries on from here.", file=sys.stderr)
        return 130
    return 0
