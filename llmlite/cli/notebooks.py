"""reproduce: the notebooks, run headlessly."""

from collections.abc import Callable
from pathlib import Path

from llmlite.cli.options import shared_options
from llmlite.cli.owntext import reproduce_text


def add_commands(add: Callable) -> None:
    command = add(
        "reproduce", reproduce, "run the notebooks headlessly with papermill", [shared_options()]
    )
    command.add_argument(
        "--notebooks", metavar="DIR", help="where the notebooks lie (default: notebooks/)"
    )
    command.add_argument(
        "--only", nargs="+", metavar="NN", help="numbers of the notebooks to run, such as 01 04"
    )
    command.add_argument(
        "--publish",
        action="store_true",
        help="afterwards copy executed notebooks, figures, results and the trained model over the "
        "clone's own",
    )
    command.add_argument(
        "--carry-on",
        action="store_true",
        help="leave out notebooks that the same call has executed already",
    )
    command.add_argument(
        "--text",
        metavar="PATH",
        help="instead of the notebooks, which speak of WikiText-2: prepare, search, train and "
        "score on your own text, a UTF-8 file or a folder of them (20 kB or more), with sizes that "
        "fit it; the same command carries on (default for --out: runs/own-NAME)",
    )

    purpose = "draw the notebooks from an archive of `llmlite run`, and show them in this clone"
    command = add("render", render, purpose, [shared_options()])
    command.add_argument("archive", metavar="ARCHIVE", help="what `llmlite run` has left")
    command.add_argument(
        "--only", nargs="+", metavar="NN", help="numbers of the notebooks to draw, such as 01 04"
    )


def reproduce(arguments) -> None:
    if arguments.text is not None:
        reproduce_text(arguments)
        return

    from llmlite.experiment import Experiment, project_root
    from llmlite.parallel import check_device, gpu_bytes, local_device
    from llmlite.profiles import get_profile
    from llmlite.reproduce import find_notebooks, publish, report, run_notebooks

    check_device(arguments.device)
    device = local_device() if arguments.device == "auto" else arguments.device
    profile = get_profile(arguments.profile, gpu_bytes(device)).name
    root = project_root()
    out = Path(arguments.out) if arguments.out else Path("runs") / profile
    folder = Path(arguments.notebooks) if arguments.notebooks else root / "notebooks"
    notebooks = find_notebooks(folder, arguments.only)
    print(f"Profile {profile}: {len(notebooks)} notebooks into {out}")
    executed = run_notebooks(
        notebooks, out, profile, arguments.data, arguments.device, arguments.carry_on
    )
    print(report(executed, out))
    if arguments.publish:
        publish(Experiment(profile, arguments.data, out, arguments.device), root)
        print(f"Published to {root / 'notebooks'} and {root / 'figures'}")


def render(arguments) -> None:
    from llmlite.experiment import Experiment, project_root
    from llmlite.plan import unpack
    from llmlite.reproduce import find_notebooks, publish, report, run_notebooks

    root, archive = project_root(), Path(arguments.archive)
    out = Path(arguments.out) if arguments.out else root / "runs" / archive.name.split(".")[0]
    profile = unpack(archive, out)["profile"]
    device = "cpu" if arguments.device == "auto" else arguments.device  # drawing needs no GPU
    notebooks = find_notebooks(root / "notebooks", arguments.only)
    executed = run_notebooks(notebooks, out, profile, arguments.data, device, carry_on=True)
    print(report(executed, out))
    publish(Experiment(profile, arguments.data, out, device), root)
    print(f"Rendered into {root / 'notebooks'}, {root / 'figures'} and {root / 'README.md'}")
