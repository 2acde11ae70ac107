"""run: the whole plan of a profile, most telling runs first, in the time that there is."""

from collections.abc import Callable
from pathlib import Path

from llmlite.cli.options import shared_options

MOST = 8  # runs side by side on a CPU, unless more are asked for: each takes up to a gigabyte


def add_commands(add: Callable) -> None:
    purpose = "train all that the notebooks show, the most telling first"
    command = add("run", run, purpose, [shared_options()])
    command.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help="stop before so many minutes are over; the same command goes on with what is missing "
        "(default: until all is done)",
    )
    command.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="runs whose names begin so, such as retrain or no-mask (default: all)",
    )
    command.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="runs side by side; they share a GPU, so that its pauses are filled, or the cores, "
        "which several runs of one thread use better than one of several (default: 3 with CUDA, "
        f"else one for each core, at most {MOST})",
    )
    command.add_argument(
        "--archive",
        metavar="FILE",
        help="one file of the records of all finished runs, at most 16 MB, written every minute "
        "and at the end; `llmlite render FILE` draws the notebooks "
        "from it on any machine (default: llmlite-PROFILE.tar.gz in --out)",
    )
    command.add_argument(
        "--from",
        dest="start",
        metavar="PATH",
        help="an archive of before, or a folder of records such as figures/records, to begin with: "
        "what it holds is not trained again (default: --archive, if it is there)",
    )
    command.add_argument("--list", action="store_true", help="name the plan's runs and their state")
    command.add_argument(
        "--estimate",
        action="store_true",
        help="say how long each open run would take here, from a few measured steps, and train "
        "nothing",
    )
    for switch, what in (
        ("compile", "compile the blocks"),
        ("graph", "replay a step as a CUDA graph"),
        ("merge", "compute accumulated batches in one pass"),
    ):
        command.add_argument(
            f"--no-{switch}", action="store_true", help=f"do not {what} (default: where it pays)"
        )


def run(arguments) -> None:
    from llmlite.audit import Audit
    from llmlite.engine import FastPaths
    from llmlite.experiment import Experiment
    from llmlite.parallel import cores
    from llmlite.plan import chosen, plan, work

    off = {s: False for s in ("compile", "graph", "merge") if getattr(arguments, f"no_{s}")}
    settings = {
        "profile": arguments.profile,
        "data": arguments.data,
        "out": arguments.out,
        "device": arguments.device,
        "paths": FastPaths(**off),
    }
    experiment = Experiment(**settings)
    print(experiment)
    if arguments.list:
        for task in chosen(plan(Audit(experiment)), arguments.only):
            print(f"{'done' if task.done() else 'open':5} {task.name}  {task.folder.name}")
        return
    if arguments.estimate:
        print(_estimate(chosen(plan(Audit(experiment)), arguments.only)))
        return
    on_gpu = experiment.device.startswith("cuda")
    archive = Path(
        arguments.archive or experiment.out / f"llmlite-{experiment.profile.name}.tar.gz"
    )
    processes = arguments.processes or (3 if on_gpu else min(cores(), MOST))
    start = Path(arguments.start) if arguments.start else None
    left = work(settings, arguments.only, arguments.minutes, processes, archive, start)
    print(f"Archive: {archive}, {archive.stat().st_size / 2**20:.1f} MiB")
    if left:
        names = ", ".join(task.name for task in left[:8]) + (" and more" if len(left) > 8 else "")
        print(f"Not done ({len(left)}): {names}. The same command goes on with them.")
    else:
        print("All done.")


def _estimate(tasks) -> str:
    """The table of what is open, and its total."""
    from llmlite.budget import estimate, measured

    trainers = {task.name: task.trainer() for task in tasks if not task.trained()}
    if not trainers:
        return "All is trained."
    table = estimate(trainers, measured(list(trainers.values())))
    total = table.sum()
    return (
        f"{table.round(1).to_string()}\n{len(table)} runs: {total['M tokens']:,.0f} M tokens, "
        f"{total['minutes']:,.0f} minutes of training, one after the other, by steps measured here"
    )
