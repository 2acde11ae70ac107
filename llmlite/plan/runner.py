"""`llmlite run`: a profile's whole plan, worked through in several processes for as long as there
is time. A GPU is needed for as long as it computes and no longer: notebooks draw from the same
records on any machine."""

import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path

import torch

from llmlite.experiment import Experiment
from llmlite.files import LLMLiteError, say, tqdm, unlinked
from llmlite.parallel import cores
from llmlite.plan.archive import pack
from llmlite.plan.whole import chosen, whole_plan
from llmlite.run import Run, outcome, read_record

RESERVE = 15.0  # seconds before the end of the time given, to stop and pack in
PACK_EVERY = 60.0  # seconds; a machine may be gone without a warning
LOST = 3  # times that workers may be killed, for want of memory say, before it is given up


def work_through(
    experiment: Experiment,
    only: Sequence[str] | None = None,
    minutes: float | None = None,
    processes: int = 1,
    archive: Path | None = None,
) -> list[Run]:
    """Make what is missing of the experiment's plan; the runs that are not done. Stops before
    `minutes` are over: what is half trained carries on in the same folder. archive: is packed every
    minute and at the end, however it ends."""
    if minutes is not None and minutes <= 0:
        raise LLMLiteError(f"There is nothing to do in {minutes:g} minutes; give more.")
    deadline = time.monotonic() + 60 * minutes - RESERVE if minutes else float("inf")
    # Makes tokenizers and tokens once, before several want them.
    left = [run for run in chosen(whole_plan(experiment), only) if not experiment.is_done(run)]
    if left and experiment.only_read:
        raise LLMLiteError(f"{len(left)} runs are to be trained; {experiment.only_read}")
    try:
        if left:  # no more processes than there are runs to share the cores
            _Runner(experiment, only, min(processes, len(left)), archive).work(deadline)
    finally:
        runs = chosen(whole_plan(experiment), only)
        if archive:
            pack(experiment, runs, archive)
    return [run for run in runs if not experiment.is_done(run)]


class _Runner:
    """Hands out the first run of the plan that is open, whenever a worker is free."""

    def __init__(self, experiment: Experiment, only, processes: int, archive: Path | None):
        self.experiment, self.only, self.processes = experiment, only, processes
        self.archive = archive
        self.began = self._packed = time.monotonic()
        self.failed: set[Path] = set()  # folders: what failed once would fail again
        self.busy: dict[Future, Run] = {}
        self.logs = experiment.out / "plan"
        self.logs.mkdir(parents=True, exist_ok=True)
        given = experiment, self.logs, max(1, cores() // processes)
        # Fresh processes: a CUDA context cannot be forked.
        self._workers = processes, get_context("spawn"), _begin, given

    def work(self, deadline: float) -> None:
        with tqdm(desc="Plan", unit="run", disable=not self.experiment.progress) as bar:
            for _ in range(LOST):
                pool = ProcessPoolExecutor(*self._workers)
                try:
                    return self._hand_out(pool, deadline, bar)
                except BrokenProcessPool:
                    say("A worker was killed; its run and the others carry on.")
                finally:
                    # What is broken off carries on from its last checkpoint, as after any kill.
                    for worker in active_children() if self.busy else ():
                        worker.terminate()
                    pool.shutdown(cancel_futures=True)
        say(f"Workers were killed {LOST} times; see {self.logs}.")

    def _hand_out(self, pool: ProcessPoolExecutor, deadline: float, bar) -> None:
        experiment, self.busy = self.experiment, {}
        while time.monotonic() < deadline:
            # A grid that is searched adds its best to the plan.
            plan = chosen(whole_plan(experiment), self.only)
            left = [run for run in plan if not experiment.is_done(run)]
            bar.total, bar.n = len(plan), len(plan) - len(left)
            bar.refresh()
            for run in left:
                # Two of the plan may be one training, of which different things are measured.
                taken = self.failed | set(map(experiment.folder, self.busy.values()))
                if len(self.busy) < self.processes and experiment.folder(run) not in taken:
                    self.busy[pool.submit(_make, run)] = run
            if not self.busy:
                return
            patience = min(PACK_EVERY, max(0.0, deadline - time.monotonic()))
            done, _ = wait(self.busy, timeout=patience, return_when=FIRST_COMPLETED)
            for future in done:
                run = self.busy.pop(future)
                if future.result():
                    came = outcome(read_record(experiment.folder(run)))
                    say(f"{time.monotonic() - self.began:5.0f} s  {run.name}: {came}")
                else:
                    self.failed.add(experiment.folder(run))
            if self.archive and time.monotonic() - self._packed > PACK_EVERY:
                pack(experiment, plan, self.archive)
                self._packed = time.monotonic()


_experiment: Experiment | None = None  # a worker's own


def _begin(experiment: Experiment, logs: Path, threads: int) -> None:
    global _experiment
    threading.Thread(target=_leave_with, args=[parent_process()], daemon=True).start()
    torch.set_num_threads(threads)
    path = unlinked(logs / f"worker-{os.getpid()}.log")
    log = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
    sys.stdout = sys.stderr = log  # until the process ends
    experiment.compute = replace(experiment.compute, progress=False)
    _experiment = experiment


def _leave_with(parent) -> None:
    """Nobody would ever stop a worker whose parent was killed."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _make(run: Run) -> bool:
    """Train and measure; whether it went well. A failure is logged and no more: whatever it is, the
    other runs are worth their time."""
    print(f"{time.strftime('%H:%M:%S')} {run.name}")
    try:
        _experiment.make(run)
        return True
    except Exception:
        traceback.print_exc()
        return False
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
