"""`llmlite reproduce`: run the notebooks headlessly with papermill.

A run writes below its own folder only: executed notebooks, figures and records.
"""

import json
import os
import re
from pathlib import Path

from llmlite.config import fingerprint
from llmlite.data import DATA_VARIABLE
from llmlite.errors import LLMLiteError
from llmlite.progress import HEADLESS_VARIABLE, tqdm

INJECTED = "injected-parameters"  # papermill's tag for the cell with a run's parameters


def find_notebooks(folder: Path, only: list[str] | None = None) -> list[Path]:
    """The numbered notebooks in order; `only` keeps those whose names start with one of it."""
    notebooks = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not notebooks:
        raise LLMLiteError(
            f"There are no notebooks in {folder}; run this in a clone of the project or name the "
            "folder with --notebooks."
        )
    chosen = [n for n in notebooks if not only or n.name.startswith(tuple(only))]
    if not chosen:
        raise LLMLiteError(f"No notebook starts with {', '.join(only)} in {folder}.")
    return chosen


def run_notebooks(
    notebooks: list[Path],
    out: Path,
    profile: str,
    data: str | None = None,
    device: str = "auto",
    carry_on: bool = False,
) -> list[Path]:
    """Execute `notebooks` in order into `out/notebooks`; returns the executed ones.

    Each has its own kernel and gets the parameters profile, data, out and device. What training
    left in `out` is used again, so an interrupted run carries on; with carry_on, notebooks that it
    has executed are not executed again, as long as they, the package and the parameters are the
    same. A notebook that fails stops the run with one sentence; its executed copy and its log lie
    in `out/notebooks`.
    """
    try:
        import papermill
    except ImportError:
        raise LLMLiteError(
            "Running notebooks needs papermill and jupyter; install them with "
            "pip install 'llmlite[notebooks]'."
        ) from None

    executed_folder = out / "notebooks"
    executed_folder.mkdir(parents=True, exist_ok=True)
    parameters = {"profile": profile, "out": str(out), "device": device}
    if data in ("sample", "hub", "auto"):
        parameters["data"] = data
    elif data:  # a path stays out of the rendered notebook
        os.environ[DATA_VARIABLE] = str(Path(data).expanduser().resolve())
        parameters["data"] = "auto"
    os.environ[HEADLESS_VARIABLE] = "1"

    executed, before = [], _package_fingerprint()
    with tqdm(notebooks, desc="Notebooks", unit="notebook", position=0) as bar:
        for notebook in bar:
            target = executed_folder / notebook.name
            log = executed_folder / f"{notebook.stem}.log"
            bar.set_description(notebook.stem)
            stamp = executed_folder / f"{notebook.stem}.done"
            # What a notebook shows depends on what those before it have left.
            before = fingerprint(before, notebook.read_text("utf-8"), parameters, data)
            executed.append(target)
            if carry_on and stamp.exists() and stamp.read_text("utf-8") == before:
                continue
            stamp.unlink(missing_ok=True)
            with open(log, "w", encoding="utf-8") as file:
                try:
                    papermill.execute_notebook(
                        str(notebook),
                        str(target),
                        parameters=parameters,
                        kernel_name="python3",
                        progress_bar={"desc": "Cells", "position": 1, "leave": False},
                        stderr_file=_LastLine(file, bar),
                        extra_arguments=["--IPKernelApp.log_level=ERROR"],
                    )
                except papermill.PapermillExecutionError as error:
                    raise LLMLiteError(
                        f"{notebook.name} stopped in cell {error.exec_count}: {error.ename}: "
                        f"{_plain(error.evalue)}; see {target} and {log}."
                    ) from None
            clean(target)
            stamp.write_text(before, "utf-8")
        bar.set_description("Notebooks")
        bar.set_postfix_str("")
    return executed


def _package_fingerprint() -> str:
    """Of the package's source, whether committed or not."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return fingerprint(*(path.read_text("utf-8") for path in files))


class _LastLine:
    """Writes what a notebook says on stderr to a file, and shows its last line beside the bar."""

    def __init__(self, file, bar):
        self.file, self.bar = file, bar

    def write(self, text: str) -> None:
        self.file.write(text)
        lines = [line.strip() for line in re.split(r"[\r\n]+", _plain(text)) if line.strip()]
        if lines:
            self.bar.set_postfix_str(lines[-1][:90])

    def flush(self) -> None:
        self.file.flush()


def _plain(text: str) -> str:
    """Text without the terminal's control sequences."""
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)


def clean(path: Path) -> None:
    """Take out of an executed notebook what only its run could use: progress bars and timings.

    The progress bars' text stays in the log beside the notebook.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["metadata"].pop("papermill", None)
    for cell in notebook["cells"]:
        for key in ("papermill", "execution"):
            cell["metadata"].pop(key, None)
        if "outputs" in cell:
            cell["outputs"] = [o for o in cell["outputs"] if o.get("name") != "stderr"]
    write_notebook(path, notebook)


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def write_notebook(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def report(executed: list[Path], out: Path) -> str:
    """The last lines of a run: where to look."""
    figures = sorted((out / "figures").glob("*.png"))
    lines = [f"\n{len(executed)} notebooks, executed:", *(f"  {path}" for path in executed)]
    lines += [f"{len(figures)} figures:", *(f"  {path}" for path in figures)]
    return "\n".join(lines)
