"""reproduce: the notebooks, run headlessly."""

from collections.abc import Callable
from pathlib import Path

from llmlite.cli.options import shared_options


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
        help="afterwards copy executed notebooks, figures and results over the clone's own",
    )


def reproduce(arguments) -> None:
    import torch

    from llmlite.experiment import Experiment, project_root
    from llmlite.profiles import get_profile
    from llmlite.reproduce import find_notebooks, publish, report, run_notebooks

    profile = get_profile(arguments.profile, torch.cuda.is_available()).name
    root = project_root()
    out = Path(arguments.out) if arguments.out else Path("runs") / profile
    folder = Path(arguments.notebooks) if arguments.notebooks else root / "notebooks"
    notebooks = find_notebooks(folder, arguments.only)
    print(f"Profile {profile}: {len(notebooks)} notebooks into {out}")
    executed = run_notebooks(notebooks, out, profile, arguments.data, arguments.device)
    print(report(executed, out))
    if arguments.publish:
        data = arguments.data
        publish(Experiment(profile, data, out, arguments.device, progress=False), root)
        print(f"Published to {root / 'notebooks'} and {root / 'figures'}")
