"""`llmlite run`: all runs of a profile, the most telling first, for as long as there is time.

    plan      what there is to make, as tasks: a run, and what is measured of its model
    work      processes side by side, each taking the next task that nobody has
    pack      what the finished runs left, in one file: to carry on elsewhere, and to draw from

A GPU is needed for as long as it computes and no longer: notebooks draw from the same records on
any machine.
"""

import gc
import json
import os
import signal
import sys
import tarfile
import tempfile
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from llmlite.audit import Audit
from llmlite.audit.studies import STUDIES
from llmlite.checkpoint import (
    STEPS,
    load_model,
    read_record,
    save_weights,
)
from llmlite.choice import SCORE, candidate_score, candidate_trainer, candidates
from llmlite.errors import BusyError, CheckpointError, LLMLiteError
from llmlite.experiment import GRIDS, Experiment
from llmlite.files import replacing, write_json
from llmlite.parallel import cores
from llmlite.progress import tqdm
from llmlite.search import Trial
from llmlite.train import Trainer

WEIGHTS = "best.safetensors"
MANIFEST, FORMAT = "manifest.json", "llmlite-records-1"
LARGEST = 16 * 2**20  # bytes of an archive
THIN = 500  # lines of a step log that nothing but a curve is drawn from
RESERVE = 15.0  # seconds before the end of the time given, to stop and pack in
PACK_EVERY = 60.0  # seconds; a machine may be gone without a warning


@dataclass(frozen=True)
class Task:
    """A run and what is measured of it. Two tasks may be about the same run."""

    name: str  # what `llmlite run --only` takes the beginning of
    folder: Path  # the run's
    kept: tuple[str, ...]  # files that stand there, beside a finished record, when it is done
    make: Callable[[], object]  # train and measure, or do what is left of it
    trainer: Callable[[], Trainer]  # that `make` uses, to see how much there is to do
    retrained: bool = False  # is it of the retraining, whose steps are shown one by one?
    studied: bool = False  # is the model itself shown later, so that its weights are kept?

    def trained(self) -> bool:
        return self._status() == "finished"

    def _status(self) -> str | None:
        record = read_record(self.folder)
        return record and record["status"]

    def done(self) -> bool:
        return self.trained() and all((self.folder / name).exists() for name in self.kept)


def plan(audit: Audit) -> list[Task]:
    """Everything that the notebooks of a profile show, in the order in which it is missed most.

    Where what is retrained is the best of the revised grid, it is not in the plan before that grid
    is searched.
    """
    experiment, seeds = audit.experiment, audit.experiment.profile.seeds
    searches = {
        grid: _points(experiment, f"search-{grid}", experiment.search_trials(grid))
        for grid in GRIDS
    }
    revised = searches["revised"]
    known = experiment.knows_configuration or experiment.searched_best() is not None
    retrained = [_retraining(experiment, seed) for seed in seeds] if known else []
    # Until it is known, the paper's best may be what is retrained, whose weights are needed.
    honest = [_honest(audit, name, studied=not known) for name in audit.honest_runs]
    longest, *long = retrained + honest
    leaks = {name: _leak(audit, name) for name in audit.leak_runs}
    grids = {
        name: _points(experiment, name, audit.grid_trials(grid, seed))
        for name, (grid, seed) in audit.grid_runs.items()
    }
    first_seed = f"seed-{audit.settings.seeds[0]}"
    return [
        # The longest run is begun early: beside others it takes a multiple of its own time.
        longest,
        leaks.pop("no-mask-deep"),
        *long,
        *revised,
        *grids.pop(f"grid-revised-{first_seed}"),
        *leaks.values(),
        *searches["first"],
        *(task for tasks in grids.values() for task in tasks),
        *(_candidate(name, text) for name, text in candidates(experiment).items()),
    ]


def _retraining(experiment: Experiment, seed: int) -> Task:
    one = experiment.with_seed(seed)
    studied = seed == experiment.profile.seeds[0]
    folder = one.run_folder
    return Task(
        f"retrain-seed-{seed}",
        folder,
        ("test_score.json",),
        one.test_score,
        lambda: one.trainer,
        retrained=True,
        studied=studied,
    )


def _honest(audit: Audit, name: str, studied: bool) -> Task:
    def make():
        audit.scores(name)
        for study in STUDIES:
            audit.study(study, name)

    kept = tuple(f"{what}.json" for what in ("scores", *STUDIES))
    trainer = partial(audit.trainer, name)
    return Task(name, audit.run_folder(name), kept, make, trainer, studied=studied)


def _leak(audit: Audit, name: str) -> Task:
    kept = ("measures.json",)
    make, trainer = partial(audit.record, name), partial(audit.trainer, name)
    return Task(name, audit.run_folder(name), kept, make, trainer)


def _candidate(name: str, text: Experiment) -> Task:
    make, trainer = partial(candidate_score, text), partial(candidate_trainer, text)
    return Task(name, trainer().folder, (SCORE,), make, trainer)


def _points(experiment: Experiment, name: str, trials: list[Trial]) -> list[Task]:
    """A task a configuration of a grid."""
    return [
        Task(
            f"{name}-{trial.run_folder.name.rpartition('-')[0]}",
            trial.run_folder,
            (),
            lambda trial=trial: trial.run(experiment.ids),
            lambda trial=trial: trial.trainer(experiment.ids),
        )
        for trial in trials
    ]


def chosen(tasks: list[Task], only: Sequence[str] | None) -> list[Task]:
    """Those whose names begin with one of `only`, a run that two tasks want alike only once."""
    seen, kept = set(), []
    for task in tasks:
        same = task.folder, task.kept
        if (not only or task.name.startswith(tuple(only))) and same not in seen:
            seen.add(same)
            kept.append(task)
    if not kept:
        raise LLMLiteError(
            f"Nothing in the plan begins with {', '.join(only)}; `llmlite run --list` names it all "
            "(where the best of a grid is retrained, that is in it once the grid is searched)."
        )
    return kept


# -- working through it ---------------------------------------------------------------------------


def work(
    settings: dict,
    only: Sequence[str] | None = None,
    minutes: float | None = None,
    processes: int = 1,
    archive: Path | None = None,
    start: Path | None = None,
) -> list[Task]:
    """Make what is missing of the plan of Experiment(**settings); the tasks that are not done.

    Stops before `minutes` are over: what is half trained carries on in the same folder. archive: is
    packed every minute and at the end. start: an archive, or a folder of records, to begin with;
    otherwise `archive` itself, where it is there already.
    """
    if minutes is not None and minutes <= 0:
        raise LLMLiteError(f"There is nothing to do in {minutes:g} minutes; give more.")
    deadline = time.monotonic() + 60 * minutes - RESERVE if minutes else float("inf")
    experiment = Experiment(**settings)
    audit = Audit(experiment)
    if start or (archive and archive.exists()):
        unpack(start or archive, experiment.out)
    # Makes tokenizers and tokens once, before several want them.
    open_ = [task for task in chosen(plan(audit), only) if not task.done()]
    if open_ and experiment.only_read:
        raise LLMLiteError(f"{len(open_)} runs are to be trained; {experiment.only_read}")
    logs = experiment.out / "plan"
    logs.mkdir(parents=True, exist_ok=True)
    # Fresh processes: a CUDA context cannot be forked. No more than there are runs to share cores.
    processes = max(1, min(processes, len(open_)))
    context, threads = get_context("spawn"), max(1, cores() // processes)
    workers = [
        context.Process(
            target=_worker, args=(settings, only, logs / f"worker-{i}.log", threads), daemon=True
        )
        for i in range(processes)
    ]
    for worker in workers:
        worker.start()
    try:
        _watch(audit, only, workers, deadline, archive)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join(RESERVE / 2)
            worker.kill()  # one that is deep in a compiler does not hear the other signal
        tasks = chosen(plan(audit), only)
        if archive:
            pack(experiment, tasks, archive)
    return [task for task in tasks if not task.done()]


def _watch(audit: Audit, only, workers, deadline: float, archive: Path | None) -> None:
    """Show what is done until all is, or the time is over, or nobody works any more."""
    began = packed = time.monotonic()
    tasks, shown = chosen(plan(audit), only), set()
    with tqdm(desc="Plan", unit="run", disable=not audit.experiment.progress) as bar:
        while any(worker.is_alive() for worker in workers) and (now := time.monotonic()) < deadline:
            bar.total = len(tasks)
            made = [task for task in tasks if task.name not in shown and task.done()]
            for task in made:
                shown.add(task.name)
                bar.update()
                tqdm.write(_line(task, now - began), file=sys.stderr)
            if made:  # a grid that is searched adds to the plan
                tasks = chosen(plan(audit), only)
            if archive and now - packed > PACK_EVERY:
                pack(audit.experiment, tasks, archive)
                packed = now
            time.sleep(1)


def _line(task: Task, seconds: float) -> str:
    record = read_record(task.folder)
    last = record["epochs"][-1]
    return (
        f"{seconds:5.0f} s  {task.name}: validation perplexity {record['best']['perplexity']:.4f}, "
        f"epoch {record['best']['epoch']} of {last['epoch']}, {last['step']:,} steps in "
        f"{record['seconds']:.1f} s, {last['tokens_per_second']:,.0f} tokens/s, {record['engine']}"
    )


def _worker(settings: dict, only: Sequence[str] | None, log: Path, threads: int) -> None:
    """Take the first task that is open and in nobody's hands, until there is none."""
    # Told to stop, it leaves as at the end of its work: locks are let go, nothing is half-written.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    threading.Thread(target=_leave_with, args=[parent_process()], daemon=True).start()
    torch.set_num_threads(threads)
    file = open(log, "a", encoding="utf-8", buffering=1)  # noqa: SIM115, until the process ends
    with redirect_stdout(file), redirect_stderr(file):
        audit, tried = Audit(Experiment(**settings, progress=False)), set()
        open_ = chosen(plan(audit), only)
        while open_:
            if taken := next((task for task in open_ if not task.done() and _try(task)), None):
                tried.add(taken.name)
            else:
                time.sleep(1)  # all that is left is in other hands, which may fail
            open_ = [task for task in open_ if task is not taken and not task.done()]
            if taken or not open_:  # a grid that is searched adds to the plan
                tasks = chosen(plan(audit), only)
                # What was tried and is not done would fail again.
                open_ = [task for task in tasks if task.name not in tried and not task.done()]


def _leave_with(parent) -> None:
    """Nobody would ever stop a worker whose parent was killed."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _try(task: Task) -> bool:
    """Make a task, unless another process is at it. Its failure is logged and no more."""
    task.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(task.folder / ".task.lock", timeout=0):
            if task.done():
                return False
            print(f"{time.strftime('%H:%M:%S')} {task.name}")
            task.make()
    except (Timeout, BusyError):
        return False
    except Exception:  # whatever it is, the other tasks are worth their time
        traceback.print_exc()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True


# -- one file -------------------------------------------------------------------------------------


def pack(experiment: Experiment, tasks: list[Task], archive: Path) -> Path:
    """`stage` in one file, with the weights that somebody still needs, in half precision."""
    with tempfile.TemporaryDirectory() as scratch:
        staged = stage(experiment, tasks, Path(scratch))
        for folder in {t.folder for t in tasks if t.trained() and (t.studied or not t.done())}:
            _halve(folder / WEIGHTS, staged / "runs" / folder.name / WEIGHTS)
        return compress(staged, archive)


def stage(experiment: Experiment, tasks: list[Task], to: Path) -> Path:
    """Copy what the trained runs left into `to`, but for their weights."""
    trained = [task for task in tasks if task.trained()]
    shown = {task.folder for task in trained if task.retrained}
    for folder in sorted({task.folder for task in trained}):
        own = to / "runs" / folder.name
        own.mkdir(parents=True)
        for path in sorted(folder.glob("[!.]*.json")):  # a hidden one is half-written
            content = json.loads(path.read_text("utf-8"))
            if path.name == "record.json":
                content["command"] = None  # it has the paths of the machine
            write_json(own / path.name, content)
        _thin(folder / STEPS, own / STEPS, None if folder in shown else THIN)
    for path in experiment.out.glob("tokenizer-*.json"):
        (to / path.name).write_bytes(path.read_bytes())
    about = {"format": FORMAT, "profile": experiment.profile.name, "data": experiment.corpus.name}
    write_json(to / MANIFEST, about)
    return to


def _thin(log: Path, to: Path, lines: int | None) -> None:
    """A step log with every so many-th of its lines, at most `lines`; None: all."""
    rows = log.read_text("utf-8").splitlines(keepends=True)
    step = 1 if lines is None else max(1, -(-len(rows) // lines))
    to.write_text("".join(rows[::step]), "utf-8")


def _halve(weights: Path, to: Path) -> None:
    model, header = load_model(weights)
    half = {name: weight.half() for name, weight in model.state_dict().items()}
    about = {k: v for k, v in header.items() if k not in ("format", "config", "sha256")}
    save_weights(model.config, half, to, **about)


def compress(folder: Path, archive: Path) -> Path:
    """A folder as one .tar.gz. One that is over LARGEST is kept, since the machine may be gone
    tomorrow, and its biggest file named."""
    with replacing(archive) as aside, tarfile.open(aside, "w:gz") as file:
        for path in sorted(folder.rglob("*")):
            file.add(path, path.relative_to(folder), recursive=False)
    if (size := archive.stat().st_size) > LARGEST:
        biggest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        tqdm.write(
            f"{archive} has {size / 2**20:.1f} MiB, over the {LARGEST / 2**20:.0f} that it should "
            f"have; its biggest file is {biggest.relative_to(folder)}.",
            file=sys.stderr,
        )
    return archive


def unpack(archive: Path, out: Path) -> dict:
    """Put the runs of an archive, or of a folder that `stage` has left, into `out`, where they are
    not there yet. Returns the manifest."""
    try:
        if archive.is_dir():
            return _take(archive, out, archive)
        with tempfile.TemporaryDirectory() as scratch:
            with tarfile.open(archive) as file:
                file.extractall(scratch, filter="data")
            return _take(Path(scratch), out, archive)
    except FileNotFoundError:
        raise CheckpointError(f"There are no records of `llmlite run` at {archive}.") from None
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error):
        raise CheckpointError(
            f"{archive} is damaged or not an archive; copy it once more."
        ) from None


def _take(staged: Path, out: Path, archive: Path) -> dict:
    about = json.loads((staged / MANIFEST).read_text("utf-8"))
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise CheckpointError(f"{archive} holds no records of `llmlite run` ({FORMAT}).")
    for path in (*staged.glob("runs/*/*"), *staged.glob("tokenizer-*.json")):
        to = out / path.relative_to(staged)
        if not to.exists():
            with replacing(to) as aside:
                aside.write_bytes(path.read_bytes())
    return about
