"""`llmlite …`: what the notebooks do, for a shell. Errors are one sentence and exit code 2.

A command is a dataclass: its fields are its options, their comments the help, `run` what it does.
"""

import os
import re
import sys
from collections.abc import Callable

from llmlite.cli import models, stages
from llmlite.cli.options import parse
from llmlite.cli.terminal import careful, harmless, take_any_character
from llmlite.files import FULL, LLMLiteError, one_line

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
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]

    def work() -> None:
        if name in ("-h", "--help"):
            lines = [f"  {name:10} {command.__doc__}" for name, command in COMMANDS.items()]
            return print(USAGE.format(commands="\n".join(lines)))
        if name not in COMMANDS:
            raise LLMLiteError(f"there is no command '{name}'; choose {', '.join(COMMANDS)}.")
        command = parse(name, COMMANDS[name], arguments)  # its help is in colour
        with careful():
            command.run()

    return guarded("llmlite", work)


def guarded(program: str, work: Callable[[], None]) -> int:
    """The exit code of a program: 0 after `work`, 2 after an error, which is said."""
    take_any_character()
    try:
        work()
        sys.stdout.flush()  # now, so that an error of it is one of these
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        pass
    except KeyboardInterrupt:
        print(f"\n{program}: stopped; the same command carries on from here.", file=sys.stderr)
        return 130
    except Exception as error:
        print(harmless(f"{program}: {_sentence(error)}"), file=sys.stderr)
        return 2
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # what is left would be tried, and said, once more at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _sentence(error: Exception) -> str:
    """What a person is told of an error; a mistake in the program is raised again."""
    if isinstance(error, LLMLiteError):
        return str(error)
    if isinstance(error, OSError):
        if error.filename:
            return f"{error.filename}: {error.strerror}; name another path."
        if error.errno in FULL:  # every file has its name, by room_for
            return f"The output cannot be written: {error.strerror}; send it to another place."
        return f"{one_line(error)}."
    # PyTorch has no class for a CPU's, and to import it for a GPU's takes a second.
    of_torch = isinstance(error, RuntimeError) and re.search("allocate|out of memory", str(error))
    if of_torch or isinstance(error, MemoryError | RecursionError):
        return f"There is not enough memory for this ({one_line(error)}); ask for less."
    raise error
