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
        "--archive",
        metavar="FILE",
        help="afterwards pack all that --publish would copy into one .tar.gz, for `llmlite render`",
    )
    command.add_argument(
        "--text",
        metavar="PATH",
        help="instead of the notebooks, which speak of WikiText-2: prepare, search, train and "
        "score on your own text, a UTF-8 file or a folder of them (20 kB or more), with sizes that "
        "fit it; the same command carries on (default for --out: runs/own-NAME)",
    )

    command = add("render", render, "put an archive's contents where this clone shows them", [])
    command.add_argument("archive", metavar="ARCHIVE", help="what reproduce --archive has left")
    command.add_argument(
        "--root", metavar="DIR", help="the clone (default: the one that the working folder is in)"
    )


def reproduce(arguments) -> None:
    if arguments.text is not None:
        reproduce_text(arguments)
        return

    import torch

    from llmlite.experiment import Experiment, project_root
    from llmlite.profiles import get_profile
    from llmlite.publish import gather, pack, place
    from llmlite.reproduce import find_notebooks, report, run_notebooks

    profile = get_profile(arguments.profile, torch.cuda.is_available()).name
    root = project_root()
    out = Path(arguments.out) if arguments.out else Path("runs") / profile
    folder = Path(arguments.notebooks) if arguments.notebooks else root / "notebooks"
    notebooks = find_notebooks(folder, arguments.only)
    print(f"Profile {profile}: {len(notebooks)} notebooks into {out}")
    executed = run_notebooks(
        notebooks, out, profile, arguments.data, arguments.device, arguments.carry_on
    )
    print(report(executed, out))
    if not (arguments.publish or arguments.archive):
        return
    rendered = gather(Experiment(profile, arguments.data, out, arguments.device))
    if arguments.archive:
        archive = pack(rendered, Path(arguments.archive))
        print(f"Archive: {archive}, {archive.stat().st_size / 2**20:.1f} MiB")
    if arguments.publish:
        place(rendered, root)
        print(f"Published to {root / 'notebooks'} and {root / 'figures'}")


def render(arguments) -> None:
    from llmlite.experiment import project_root
    from llmlite.publish import place, unpacked

    root = Path(arguments.root) if arguments.root else project_root()
    with unpacked(Path(arguments.archive)) as folder:
        place(folder, root)
    print(f"Rendered into {root / 'notebooks'}, {root / 'figures'} and {root / 'README.md'}")
