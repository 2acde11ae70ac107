"""`llmlite …`: what the notebooks do, for a shell. Errors are one sentence and exit code 2.

A command is a dataclass: its fields are its options, their comments the help, `run` what it does.
"""

import os
import re
import sys

from llmlite.cli import models, stages
from llmlite.cli.options import parse
from llmlite.files import LLMLiteError, one_line

COMMANDS = {
    "prepare": stages.Prepare,
    "search": stages.Search,
    "train": stages.Train,
    "evaluate": stages.Evaluate,
    "run": stages.RunPlan,
    "runs": stages.Runs,
    "generate": models.Generate,
    "chat": models.Chat,
    "export": models.Export,
    "import": models.Import,
    "reproduce": stages.Reproduce,
}

USAGE = """\
usage: llmlite COMMAND [OPTIONS]

A reproduction of "Implement a LLM-Lite": a tokenizer, a GPT, a grid search and what they show.
Every command works in one folder (--out) and makes what an earlier one has not left there:
prepare -> search -> train -> evaluate, generate. `run` trains all that the notebooks show, those
runs among it that show where the paper's perplexity comes from; `reproduce` runs the notebooks.

{commands}

llmlite COMMAND --help tells what a command takes: every setting of a profile is an option, such as
--train.epochs 5 or --model.dropout 0.2."""


def main(argv: list[str] | None = None) -> int:
    for stream, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, stream) is None:  # closed, as by >&-
            setattr(sys, stream, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        lines = [f"  {name:10} {command.__doc__}" for name, command in COMMANDS.items()]
        print(USAGE.format(commands="\n".join(lines)))
        return 0
    try:
        if name not in COMMANDS:
            raise LLMLiteError(f"there is no command '{name}'; choose {', '.join(COMMANDS)}.")
        parse(name, COMMANDS[name], arguments).run()
    except LLMLiteError as error:
        print(f"llmlite: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        where = f"{error.filename}: {error.strerror}; name another path"
        print(f"llmlite: {where if error.filename else one_line(error)}.", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        known = MemoryError, RecursionError
        if not (isinstance(error, known) or re.search("allocate|out of memory", str(error))):
            raise
        said = f"There is not enough memory for this ({one_line(error)}); ask for less"
        print(f"llmlite: {said}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nllmlite: stopped; the same command carries on from here.", file=sys.stderr)
        return 130
    return 0
