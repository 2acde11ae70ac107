"""What to type in a shell for what an Experiment does, for the records and for those who carry on.

Knows which settings the command line has an option for, and nothing about what they do.
"""

import shlex
from pathlib import Path

from llmlite.data import mistakes, resolve_source
from llmlite.search import AXES

# What cli/options.py has an option for: fields of DataConfig; of TrainConfig, with the option.
DATA_OPTIONS = ("split", "vocab_size", "block_size", "stride", "name", "stream")
HUB_NAMES = (  # what --name takes
    "wikitext-2-raw-v1",
    "wikitext-2-v1",
    "wikitext-103-raw-v1",
    "wikitext-103-v1",
)
TRAINING_OPTIONS = {
    **{field: field for field in ("epochs", "batch_size", "accumulation", "amp")},
    "seed": "random_seed",
    "fast": "plain",  # the option turns the field off
}


def shell_command(experiment, name: str) -> str | None:
    """The command that makes the same as an Experiment, in any folder that it is typed in.

    name: "train", "search --grid first" or "audit". None where something was set that the
    command line has no option for.
    """
    chosen = {
        field: value
        for field, value in experiment.changes.items()
        if field != "source" and value != getattr(experiment.profile.data, field)
    }
    if name == "train":  # grids and the audit are the profile's alone
        usual = experiment.profile.retrain
        chosen |= experiment.given_configuration
        chosen |= {f: v for f, v in experiment.training.items() if v != getattr(usual, f)}
    known = {*DATA_OPTIONS, *AXES, *TRAINING_OPTIONS}
    expressible = chosen.keys() <= known and None not in chosen.values()
    if not expressible or mistakes(experiment.data) or experiment.data.name not in HUB_NAMES:
        return None
    source = resolve_source(experiment.data.source)
    if source not in ("hub", "sample"):
        source = Path(source).expanduser().absolute()
    words = ["llmlite", *name.split(), "--profile", experiment.profile.name]
    words += ["--data", source, "--out", experiment.out.absolute()]
    if experiment.device_given:
        words += ["--device", experiment.device]
    for field, value in chosen.items():
        option = TRAINING_OPTIONS.get(field, field)
        words.append(f"--{option.replace('_', '-')}")
        if not isinstance(value, bool):  # a switch says by being there what is not usual
            words.append(value)
    if experiment.tensorboard and name != "audit":
        words.append("--tensorboard")
    return shlex.join(map(str, words))
