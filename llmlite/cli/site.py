"""site: the notebooks, figures and findings as pages to read."""

from collections.abc import Callable
from pathlib import Path


def add_commands(add: Callable) -> None:
    command = add("site", site, "make the static site of notebooks, figures and findings", [])
    command.add_argument(
        "--to", metavar="DIR", help="the folder for it (default: the clone's build/site)"
    )


def site(arguments) -> None:
    from llmlite.experiment import project_root
    from llmlite.site import build_site

    root = project_root()
    to = Path(arguments.to) if arguments.to else root / "build/site"
    print(f"Site: {build_site(root, to, progress=True)}")
