"""`llmlite reproduce`: run the notebooks headlessly with papermill.

A run writes below its own folder only: executed notebooks, figures and records.
"""

import json
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from functools import partial
from pathlib import Path

from llmlite.config import fingerprint
from llmlite.data import DATA_VARIABLE
from llmlite.errors import LLMLiteError
from llmlite.parallel import cores
from llmlite.progress import HEADLESS_VARIABLE, tqdm

LOOKING = ("04", "05", "06", "07")  # notebooks that train nothing, once 03 has
LANES = 2  # of these at a time: most of their time is one core's
THREADS = "OMP_NUM_THREADS"
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
    """Execute `notebooks` into `out/notebooks`; returns the executed ones.

    In order, but for those that only look at what 03 has trained, which run two at a time. Each has
    its own kernel and gets the parameters profile, data, out and device. What training left in
    `out` is used again, so an interrupted run carries on; with carry_on, notebooks that it has
    executed are not executed again, as long as they, the package and the parameters are the same. A
    notebook that fails stops the run with one sentence; its executed copy and its log lie in
    `out/notebooks`.
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

    jobs, before = [], _package_fingerprint()
    for notebook in notebooks:
        # What a notebook shows depends on what those before it have left.
        before = fingerprint(before, notebook.read_text("utf-8"), parameters, data)
        jobs.append((notebook, executed_folder / notebook.name, before))
    ready = any(notebook.name.startswith("03") for notebook in notebooks)
    looking = [job for job in jobs if ready and job[0].name.startswith(LOOKING)]
    with tqdm(total=len(jobs), desc="Notebooks", unit="notebook", position=0) as bar:
        run = partial(_run, papermill, parameters, carry_on, bar)
        for job in jobs:
            if job not in looking:
                run(*job)
            elif job is looking[0]:
                _side_by_side(run, looking)
        bar.set_description("Notebooks")
        bar.set_postfix_str("")
    return [target for _, target, _ in jobs]


def _run(papermill, parameters: dict, carry_on: bool, bar, notebook, target, before) -> None:
    """Execute a notebook into `target`; `before`: all that its result depends on."""
    log, stamp = target.with_suffix(".log"), target.with_suffix(".done")
    bar.set_description(notebook.stem)
    if not (carry_on and stamp.exists() and stamp.read_text("utf-8") == before):
        stamp.unlink(missing_ok=True)
        with open(log, "w", encoding="utf-8") as file:
            try:
                papermill.execute_notebook(
                    str(notebook),
                    str(target),
                    parameters=parameters,
                    kernel_name="python3",
                    progress_bar={"desc": notebook.stem, "leave": False, "unit": "cell"},
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
    bar.update()


def _side_by_side(run: Callable, jobs: list[tuple]) -> None:
    """Run notebooks that do not need each other, LANES at a time, each on its share of the cores.

    One that fails, or Ctrl-C, ends the others.
    """
    import psutil

    lanes = min(LANES, cores(), len(jobs)) or 1
    others, given = psutil.Process().children(), os.environ.get(THREADS)
    os.environ[THREADS] = given or str(cores() // lanes)  # kernels that spin wait for each other
    pool = ThreadPoolExecutor(lanes)
    futures = [pool.submit(run, *job) for job in jobs]
    try:
        for future in as_completed(futures):
            future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        while not all(future.done() for future in futures):  # a kernel may just be beginning
            for kernel in set(psutil.Process().children()) - set(others):
                with suppress(psutil.NoSuchProcess):
                    kernel.kill()
            time.sleep(0.1)
        raise
    finally:
        os.environ.pop(THREADS) if given is None else os.environ.update({THREADS: given})


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
