"""Run the notebooks headlessly, below a folder of the run's own."""

import os
import re
import textwrap
from pathlib import Path

from llmlite.files import HEADLESS_VARIABLE, LLMLiteError, read_json, tqdm, unlinked, write_json
from llmlite.sources import DATA_VARIABLE


def find_notebooks(folder: Path, only: list[str] | None = None) -> list[Path]:
    """The numbered notebooks in order; `only` keeps those whose names start with one of it."""
    notebooks = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    found = [n for n in notebooks if not only or n.name.startswith(tuple(only))]
    if not found:
        which = f"whose name starts with {' or '.join(only)} " if only else ""
        raise LLMLiteError(f"There is no notebook {which}in {folder}; run this in a clone.")
    return found


def run_notebooks(
    notebooks: list[Path], out: Path, profile: str, data: str | None = None, device: str = "auto"
) -> list[Path]:
    """Execute `notebooks` into `out/notebooks`, in order; returns the executed ones.
    One that fails stops the run with one sentence, which names its executed copy and its log."""
    try:
        import papermill
    except ImportError:
        message = "Running notebooks needs more packages: pip install 'llmlite[notebooks]'."
        raise LLMLiteError(message) from None
    folder = out / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    parameters = {"profile": profile, "out": str(out), "device": device}
    if data in ("sample", "hub", "auto"):
        parameters["data"] = data
    elif data:  # a path stays out of the executed notebook
        os.environ[DATA_VARIABLE] = str(Path(os.path.expanduser(data)).resolve())
        parameters["data"] = "auto"
    os.environ[HEADLESS_VARIABLE] = "1"

    with tqdm(total=len(notebooks), desc="Notebooks", unit="notebook", position=0) as bar:
        for notebook in notebooks:
            bar.set_description(notebook.stem)
            target, log = folder / notebook.name, folder / f"{notebook.stem}.log"
            with open(unlinked(log), "w", encoding="utf-8") as file:
                try:
                    paths = notebook, unlinked(target)
                    papermill.execute_notebook(  # which fills in what stands in braces
                        *(re.sub("[{}]", r"\g<0>" * 2, str(path)) for path in paths),
                        parameters=parameters,
                        kernel_name="python3",
                        progress_bar={"desc": notebook.stem, "leave": False, "unit": "cell"},
                        stderr_file=_LastLine(file, bar),
                        extra_arguments=["--IPKernelApp.log_level=ERROR"],
                    )
                except Exception as error:  # a dozen kinds, of papermill, Jupyter and nbformat
                    raise LLMLiteError(
                        f"{notebook.name} stopped{_why(error)}; see {target} and {log}; once that "
                        f"is mended, the same call carries on from what is kept in {out}."
                    ) from None
            clean(target)
            bar.update()
    return [folder / notebook.name for notebook in notebooks]


class _LastLine:
    """Writes what a notebook says on stderr to a file, and shows its last line beside the bar."""

    def __init__(self, file, bar):
        self.file, self.bar, self.flush = file, bar, file.flush

    def write(self, text: str) -> None:
        self.file.write(text)
        lines = [line.strip() for line in re.split(r"[\r\n]+", _plain(text)) if line.strip()]
        if lines:
            self.bar.set_postfix_str(lines[-1][:90])


def _why(error: Exception) -> str:
    """Where and why a notebook stopped, in a few words."""
    where, why = "", f"{type(error).__name__}: {error}"
    if hasattr(error, "evalue"):  # raised by a cell
        where, why = f" in cell {error.exec_count}", f"{error.ename}: {error.evalue}"
    elif "Kernel died" in why:
        why = "its kernel died, for want of memory perhaps"
    return f"{where}: {textwrap.shorten(_plain(why), 300, placeholder=' …').rstrip('.')}"


def _plain(text: str) -> str:
    """Text without the terminal's control sequences."""
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)


def clean(path: Path) -> None:
    """Take out of an executed notebook what only its run could use: progress bars and timings."""
    notebook = read_json(path)
    notebook["metadata"].pop("papermill", None)
    for cell in notebook["cells"]:
        for key in ("papermill", "execution"):
            cell["metadata"].pop(key, None)
        if "outputs" in cell:
            cell["outputs"] = [o for o in cell["outputs"] if o.get("name") != "stderr"]
    write_json(path, notebook)


def report(executed: list[Path], out: Path) -> str:
    """The last lines of a run: where to look."""
    figures = sorted((out / "figures").glob("*.png"))
    lines = [f"\n{len(executed)} notebooks, executed:", *(f"  {path}" for path in executed)]
    lines += [f"{len(figures)} figures:", *(f"  {path}" for path in figures)]
    return "\n".join(lines)
