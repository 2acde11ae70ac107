"""What every command works on, and every setting of a profile as an option.

tyro makes the options from dataclasses: names, defaults and, from the comments, the help.
"""

import os
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field, fields, make_dataclass, replace
from functools import reduce
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from llmlite.config import Checked, DataConfig
from llmlite.files import LLMLiteError
from llmlite.profiles import Profile, get_profile, own_profile

# Of a profile's own fields; those of its parts have comments in config.py.
HELP = {
    "searched": "retrain the best of the revised grid, not the model and rate of these options",
    "seeds": "of the retraining; the first one's model is studied",
    "ablation_tokens": "of the validation split, behind each head's effect on the loss",
}
UNNAMED = tyro.conf.arg(name="")  # a dataclass whose fields are options of the command's own
PARTS = tuple(f.name for f in fields(Profile) if f.name not in ("name", "needs_gpu"))


@dataclass(frozen=True)
class Work(Checked):
    """A command that works on a profile's text in a folder; `run` does it."""

    PARTS: ClassVar[tuple[str, ...]] = ()  # of a profile, whose settings are options as well

    # auto, quick, small or full: how much to run; auto is full on a GPU of 30 GB or more, small on
    # a smaller one and quick without
    profile: str = "auto"
    # sample, hub, a folder of wiki.{train,valid,test}.{raw,tokens}, a text file or a folder of
    # them, or auto: the folder in $LLMLITE_DATA or else the Hub; as the profile says if not given
    source: Annotated[str | None, tyro.conf.arg(name="data")] = None
    # your own text, a UTF-8 file or a folder of them (20 kB or more): in the place of --profile and
    # --data, with sizes that fit it
    text: Path | None = None
    out: Path | None = None  # folder for everything that is made; runs/PROFILE if not given
    device: str = "auto"  # auto, cpu or cuda; auto: cuda if there is one
    settings: Annotated[object, tyro.conf.Suppress] = None  # the profile to start from
    changes: Annotated[dict, tyro.conf.Suppress] = field(default_factory=dict)  # typed ones

    @property
    def says_nothing(self) -> bool:
        """Was no text, folder or setting named?"""
        named = (self.source, self.text, self.out)
        return self.profile == "auto" and named == (None,) * 3 and not self.changes

    def experiment(self, **more):
        """The Experiment that the options ask for; its first line is printed."""
        # Imports torch: --help should not wait for it.
        from llmlite.experiment import Experiment, project_root
        from llmlite.parallel import world

        out, source = self.out, self.source
        if self.text:
            source = os.path.abspath(os.path.expanduser(self.text))
            out = out or project_root() / "runs" / f"own-{self.text.resolve().stem}"
        experiment = Experiment(self.settings, source, out, self.device, **more, **self.changes)
        if not world().main:  # under torchrun one process speaks for all
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        print(experiment)
        return experiment


def parse(name: str, command: type, arguments: Sequence[str]):
    """The command, from the words after its name."""
    given = dict(pairwise(part for word in arguments for part in word.split("=", 1)))
    if empty := [option for option in given if option[:2] == "--" and not given[option]]:
        # A variable that was not set, perhaps; as a path it would be the working folder.
        raise LLMLiteError(f"{empty[0]} is followed by nothing; name what it should be.")
    if any("\0" in word for word in arguments):
        raise LLMLiteError("An option has a NUL in it, which no name can have; leave it out.")
    works = issubclass(command, Work)
    parts, profile = (command.PARTS, _start(given)) if works else ((), None)
    settings = [
        (f.name, Annotated[f.type, tyro.conf.arg(help=HELP.get(f.name))], getattr(profile, f.name))
        for f in fields(Profile)
        if f.name in parts
    ]
    made = make_dataclass("Settings", settings, frozen=True)
    shown = [(n, Annotated[t, UNNAMED], t()) for n, t in (("command", command), ("settings", made))]
    said = StringIO()
    try:
        with redirect_stderr(said):
            parsed = tyro.cli(
                make_dataclass("Options", shown, frozen=True),
                args=list(arguments),
                prog=f"llmlite {name}",
                description=command.__doc__,
                config=(tyro.conf.AvoidSubcommands,),
            )
    except SystemExit as stop:
        if not stop.code:  # --help
            sys.stdout.flush()
            raise
        # tyro has put it into a box: what stands between its first two lines.
        what = re.split("[─-]{9,}", re.sub("[│╭╮╰╯]", " ", said.getvalue()))[1]
        what = " ".join(what.split()).rstrip(".")
        raise LLMLiteError(f"{what}; `llmlite {name} --help` tells what there is.") from None
    if not works:
        return parsed.command
    changes = {
        path: reduce(getattr, path.split("."), parsed.settings)
        for path in map(_path, arguments)
        if path.partition(".")[0] in parts and ("." in path or path in HELP)
    }
    return replace(parsed.command, settings=profile, changes=changes)


def _path(word: str) -> str:
    """--train.batch-size=4 → train.batch_size, --data.no-stream → data.stream; else ""."""
    if not word.startswith("--"):
        return ""
    *parts, last = word[2:].partition("=")[0].replace("-", "_").split(".")
    return ".".join([*parts, last.removeprefix("no_")])


def _start(given: dict[str, str]) -> Profile:
    """The profile whose settings are the defaults. given: word → what follows it."""
    memory = 0
    if given.get("--device") != "cpu" and not {"-h", "--help"} & {*given, *given.values()}:
        from llmlite.parallel import gpu_bytes, local_device

        memory = gpu_bytes(local_device())
    if "--text" not in given:
        return get_profile(given.get("--profile", "auto"), memory)
    if others := {"--profile", "--data"} & given.keys():
        raise LLMLiteError(f"--text stands for {' and '.join(sorted(others))}; leave that out.")
    return own_profile(_text_bytes(given["--text"], given.get("--out", "runs")), memory > 0)


def _text_bytes(path: str, out: str) -> int:
    """What there is to train on, without what lies in `out`."""
    from llmlite.sources import open_source

    source = DataConfig(source=os.path.abspath(os.path.expanduser(path)))
    with redirect_stderr(StringIO()):  # what is left out is said when it is read in earnest
        texts = open_source(source, Path(out)).splits.values()
    return sum(len(text.encode()) for text in texts)
