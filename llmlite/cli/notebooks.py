"""reproduce, render: the notebooks, run headlessly."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from llmlite.cli.options import Command, Work
from llmlite.files import LLMLiteError


@dataclass(frozen=True)
class Reproduce(Command):
    """run the notebooks headlessly with papermill"""

    notebooks: Path | None = None  # where the notebooks lie; the clone's if not given
    only: tuple[str, ...] = ()  # numbers of the notebooks to run, such as 01 04; all if not given
    # afterwards copy executed notebooks, figures, results and the model over the clone's own
    publish: bool = False

    def run(self, work: Work) -> None:
        from llmlite.experiment import Experiment, project_root
        from llmlite.reproduce import find_notebooks, publish, report, run_notebooks

        root, profile = project_root(), work.settings.name
        if work.text:
            raise LLMLiteError(
                "The notebooks speak of WikiText-2; for your own text there are `llmlite train "
                "--text`, `evaluate --text` and `generate --text`."
            )
        out = work.out or Path("runs") / profile
        notebooks = find_notebooks(self.notebooks or root / "notebooks", self.only)
        print(f"Profile {profile}: {len(notebooks)} notebooks into {out}")
        executed = run_notebooks(notebooks, out, profile, work.data, work.device)
        print(report(executed, out))
        if self.publish:
            publish(Experiment(profile, work.data, out, work.device), root)
            print(f"Published to {root / 'notebooks'} and {root / 'figures'}")


@dataclass(frozen=True)
class Render(Command):
    """draw the notebooks from an archive of `llmlite run`, and show them in this clone"""

    archive: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="ARCHIVE")] = None
    only: tuple[str, ...] = ()  # numbers of the notebooks to draw, such as 01 04; all if not given

    def run(self, work: Work) -> None:
        from llmlite.experiment import Experiment, project_root
        from llmlite.plan.archive import unpack
        from llmlite.reproduce import find_notebooks, publish, report, run_notebooks

        if self.archive is None:
            raise LLMLiteError("llmlite render needs an archive that `llmlite run` has left.")
        root = project_root()
        out = work.out or root / "runs" / self.archive.name.split(".")[0]
        profile = unpack(self.archive, out)["profile"]
        device = "cpu" if work.device == "auto" else work.device  # drawing needs no GPU
        notebooks = find_notebooks(root / "notebooks", self.only)
        executed = run_notebooks(notebooks, out, profile, work.data, device)
        print(report(executed, out))
        publish(Experiment(profile, work.data, out, device), root)
        print(f"Rendered into {root / 'notebooks'}, {root / 'figures'} and {root / 'README.md'}")
