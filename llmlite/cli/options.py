"""Options that several commands share, and the Experiment that they ask for."""

import argparse
import os
import sys
from pathlib import Path

from llmlite.errors import LLMLiteError
from llmlite.profiles import PROFILES


def shared_options() -> argparse.ArgumentParser:
    """What every command works on: profile, text, folder, device."""
    options = argparse.ArgumentParser(add_help=False)
    group = options.add_argument_group("what to work on")
    group.add_argument(
        "--profile",
        default="auto",
        metavar="NAME",
        help=f"auto, {', '.join(PROFILES)}: how much to run; auto is full on a GPU of 30 GB or "
        "more, small on a smaller one and quick without (default: auto)",
    )
    group.add_argument(
        "--data",
        metavar="SOURCE",
        help="sample, hub, a folder of wiki.{train,valid,test}.{raw,tokens}, or auto: the folder "
        "in $LLMLITE_DATA or else the Hub (default: sample for quick, auto for the others)",
    )
    group.add_argument(
        "--out",
        metavar="DIR",
        help="folder for everything that is made (default: runs/PROFILE)",
    )
    group.add_argument(
        "--device", default="auto", help="auto, cpu or cuda (default: auto: cuda if there is one)"
    )
    return options


def data_options() -> argparse.ArgumentParser:
    """Data, where it should differ from the profile."""
    options = argparse.ArgumentParser(add_help=False)
    group = options.add_argument_group("data, where it should differ from the profile")
    group.add_argument(
        "--split",
        choices=["official", "paper"],
        help="official splits, or the paper's 80/10/10 cut between articles",
    )
    group.add_argument(
        "--vocab-size", type=int, metavar="N", help="tokens in the vocabulary, 257 or more"
    )
    group.add_argument("--block-size", type=int, metavar="N", help="tokens in a window")
    group.add_argument(
        "--stride", type=int, metavar="N", help="tokens from a window's start to the next one's"
    )
    group.add_argument(
        "--name",
        choices=["wikitext-2-raw-v1", "wikitext-2-v1", "wikitext-103-raw-v1", "wikitext-103-v1"],
        help="the Hub's configuration, where the text comes from the Hub (default: "
        "wikitext-2-raw-v1)",
    )
    group.add_argument(
        "--stream",
        action="store_true",
        default=None,
        help="read the text as a stream and leave its tokens on disk, for a corpus larger than "
        "memory (default: both are held in memory)",
    )
    return options


def model_options() -> argparse.ArgumentParser:
    """The model and its training, where they should differ."""
    options = argparse.ArgumentParser(add_help=False)
    group = options.add_argument_group(
        "the model, where it should differ from the search's best and the profile (give the same "
        "to train, evaluate and generate)"
    )
    group.add_argument("--learning-rate", type=float, metavar="R", help="peak learning rate")
    group.add_argument("--n-layer", type=int, metavar="N", help="number of layers")
    group.add_argument("--n-head", type=int, metavar="N", help="attention heads in a layer")
    group.add_argument("--n-embd", type=int, metavar="N", help="width, a multiple of the heads")
    group.add_argument("--epochs", type=int, metavar="N", help="passes over the training windows")
    group.add_argument("--batch-size", type=int, metavar="N", help="windows in a forward pass")
    group.add_argument(
        "--accumulation", type=int, metavar="N", help="forward passes in an optimiser step"
    )
    group.add_argument(
        "--amp",
        choices=["auto", "fp16", "bf16", "off"],
        help="mixed precision; auto: bf16 where a GPU or a processor computes in it, fp16 with "
        "scaling on older GPUs, else off",
    )
    group.add_argument("--random-seed", type=int, metavar="N", help="of weights and shuffling")
    group.add_argument(
        "--plain",
        action="store_const",
        const=False,
        help="train without any of the fast paths (compiled pieces, CUDA graphs)",
    )
    return options


def source_option() -> argparse.ArgumentParser:
    """The other place that a model can come from, for what asks `model_of`."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--model",
        metavar="DIR",
        help="the model in this folder, which `llmlite import` has left, instead of one that the "
        "options above describe (default: the one that comes with the package, if they are not "
        "given either)",
    )
    return options


def tensorboard_option() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--tensorboard",
        action="store_true",
        help="write event files into tensorboard/ in each run's folder (default: none)",
    )
    return options


def profile_defaults() -> str:
    """What the profiles choose where no option says otherwise, from the profiles themselves."""
    lines = ["what the profiles choose:"]
    for name, profile in PROFILES.items():
        data, train = profile.data, profile.retrain
        lines.append(
            f"  {name:6} vocabulary {data.vocab_size:,}, windows of {data.block_size} tokens every "
            f"{data.stride or data.block_size}; grids of {len(profile.first_grid)} and "
            f"{len(profile.revised_grid)}; train {train.epochs} epochs, batch {train.batch_size} "
            f"windows × {train.accumulation}, amp {train.amp}, seed {train.seed}"
        )
    return "\n".join(lines)


def experiment_of(arguments):
    """The Experiment that the options ask for; its first line is printed."""
    # Imports torch: --help should not wait for it.
    from llmlite.commands import DATA_OPTIONS, TRAINING_OPTIONS
    from llmlite.experiment import Experiment

    def given(*names):
        values = {name: getattr(arguments, name, None) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    training = given(*TRAINING_OPTIONS.values())
    training = {field: training[o] for field, o in TRAINING_OPTIONS.items() if o in training}
    experiment = Experiment(
        arguments.profile,
        arguments.data,
        arguments.out,
        arguments.device,
        configuration=given("learning_rate", "n_layer", "n_head", "n_embd"),
        training=training,
        tensorboard=getattr(arguments, "tensorboard", False),
        **given(*DATA_OPTIONS),
    )
    if not experiment.world.main:  # under torchrun one process speaks for all
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    print(experiment)
    return experiment


def model_of(arguments, announce: bool = True):
    """What has the `model` and `tokenizer` that the options ask for: the folder that --model names,
    an Experiment where another names text, folder or model, and otherwise the model that comes with
    the package. announce: print a ready-made model's line; an Experiment always prints its own."""
    own = {
        o.dest for group in (shared_options, data_options, model_options) for o in group()._actions
    }
    given = {name for name in own - {"help", "device"} if getattr(arguments, name) is not None}
    if arguments.profile == "auto":
        given.remove("profile")
    if given and arguments.model is None:
        return experiment_of(arguments)
    if given:
        names = ", ".join(sorted(f"--{name.replace('_', '-')}" for name in given))
        raise LLMLiteError(
            f"--model names a model that is trained already, and {names} would describe another; "
            "leave out one or the other."
        )
    from llmlite.parallel import check_device
    from llmlite.pretrained import FOLDER, load_pretrained

    check_device(arguments.device)
    folder = FOLDER if arguments.model is None else Path(arguments.model)
    device = "cpu" if arguments.device == "auto" else arguments.device
    pretrained = load_pretrained(device, folder)
    if announce:
        print(pretrained, file=sys.stderr)
    return pretrained
