"""A search's configurations as tasks of a Ray cluster: `llmlite search --ray ADDRESS`.

Knows nothing about training: each task calls `trial.run(ids)` on some machine, and the rows come
back in the order in which they are done. Where a task runs, how many share a GPU and what becomes
of the tasks of a lost machine is Ray's own business.

Every machine needs llmlite, and the search's folder under the same path (a shared file system):
there a task that is taken up after its worker was lost finds the checkpoint to carry on from.
A cluster that asks for a token is entered with Ray's own variables: RAY_AUTH_MODE=token, and the
token in RAY_AUTH_TOKEN or where Ray keeps it.
"""

import os
import platform
import socket
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from mmap import MADV_RANDOM, mmap
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
import torch

from llmlite.errors import LLMLiteError

RETRIES = 3  # of a task whose worker was lost


@dataclass(frozen=True)
class RayOptions:
    """Which cluster to search on, and what a configuration gets of a machine."""

    address: str = "auto"  # "auto" | "local": one on this machine | "host:port" | "ray://host:port"
    gpus_per_run: float | None = None  # below 1: so many share a GPU; None: 1 with CUDA, else 0
    cpus_per_run: int = 1  # a run uses as many threads

    def __post_init__(self):
        if not 0 <= (self.gpus_per_run or 0) <= 1:
            raise LLMLiteError(
                f"Configuration: gpus_per_run is {self.gpus_per_run}; allowed: 0 to 1, the part of "
                "one GPU that a run gets."
            )
        if self.cpus_per_run < 1:
            raise LLMLiteError(
                f"Configuration: cpus_per_run is {self.cpus_per_run}; allowed: 1 or more."
            )

    def gpus(self, device: str | torch.device) -> float:
        """The part of a GPU that a run gets where the search was to run on `device`."""
        if self.gpus_per_run is None:
            return float(torch.device(device).type == "cuda")
        return self.gpus_per_run

    def arguments(self) -> list[str]:
        """These options as `llmlite search` takes them."""
        words = ["--ray", self.address]
        if self.gpus_per_run is not None:
            words += ["--gpus-per-run", f"{self.gpus_per_run:g}"]
        return [*words, "--cpus-per-run", str(self.cpus_per_run)]


class Trial(Protocol):
    """One configuration of a search (see search.py)."""

    folder: Path  # of the whole search

    def run(self, ids: dict[str, torch.Tensor]) -> dict: ...

    def failed(self, error: Exception) -> dict: ...


def run_all(
    trials: list[Trial], ids: dict[str, torch.Tensor], options: RayOptions, gpus: float
) -> Iterator[tuple[int, dict]]:
    """Yield (number of the trial, its row) as they are done; `ids` go to each machine once.

    What `run` raises is raised here and ends the others. A trial whose workers were lost RETRIES
    times over is its `failed` row.
    """
    ray = _ray()
    with _connected(ray, options.address):
        _require_room(ray, options.cpus_per_run, gpus)
        task = ray.remote(num_cpus=options.cpus_per_run, num_gpus=gpus, max_retries=RETRIES)(_work)
        shared = ray.put({split: _portable(part) for split, part in ids.items()})
        numbers = {
            task.remote(trial, shared, options.cpus_per_run): number
            for number, trial in enumerate(trials)
        }
        try:
            while numbers:
                (done, *_), _ = ray.wait(list(numbers))
                number = numbers.pop(done)
                yield number, _row(ray, done, trials[number])
        finally:
            for rest in numbers:
                ray.cancel(rest, force=True)
            if numbers:  # until they are gone they hold their runs' folders
                ray.wait(list(numbers), num_returns=len(numbers), timeout=30)


def _work(trial: Trial, ids: dict[str, torch.Tensor], threads: int) -> dict:
    """What a worker does."""
    if not trial.folder.is_dir():
        raise LLMLiteError(
            f"The machine {platform.node()} of the Ray cluster does not see {trial.folder}; "
            "put the output on storage that all machines have under this path."
        )
    torch.set_num_threads(threads)
    return trial.run({split: _opened(part) for split, part in ids.items()})


def _portable(ids):
    """Ids that are mapped from a file travel as its name: they may be larger than any memory."""
    if not isinstance(ids, np.memmap) or not isinstance(ids.base, mmap):
        return ids  # a part of a mapped array does not know where it begins
    return {
        "filename": str(ids.filename),
        "dtype": ids.dtype,
        "offset": ids.offset,
        "shape": ids.shape,
    }


def _opened(ids):
    if not isinstance(ids, dict):
        return ids
    mapped = np.memmap(mode="r", **ids)
    mapped.base.madvise(MADV_RANDOM)  # as stream.py opens them: windows are drawn from anywhere
    return mapped


def _row(ray: ModuleType, done, trial: Trial) -> dict:
    lost = (
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.OutOfMemoryError,
    )
    try:
        return ray.get(done)
    except lost as error:
        return trial.failed(LLMLiteError(f"Its worker was lost {RETRIES + 1} times: {error}"))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, LLMLiteError):
            raise error.cause from None
        if "No module named 'llmlite" in str(error):
            raise LLMLiteError(
                "A machine of the Ray cluster does not have llmlite; install it on all of them."
            ) from None
        raise  # a mistake in the program: with the worker's traceback


def _ray() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray is imported and started
    try:
        import ray
    except ImportError:
        raise LLMLiteError(
            "Ray is not installed here; install it with `pip install llmlite[ray]`."
        ) from None
    return ray


@contextmanager
def _connected(ray: ModuleType, address: str) -> Iterator[None]:
    """Be connected to the cluster at `address`, or to the one that this process has already."""
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        quiet["include_dashboard"] = False
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdigit():  # where nobody answers, Ray would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, **quiet)
    except (OSError, ImportError, RuntimeError, ValueError) as error:
        why = textwrap.shorten(str(error), 300).rstrip(".")
        raise LLMLiteError(
            f"There is no Ray cluster to be had at '{address}' ({why}); start one with `ray start "
            "--head` (if it asks for a token: RAY_AUTH_MODE=token), or use `local` for one on this "
            "machine."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _require_room(ray: ModuleType, cpus: int, gpus: float) -> None:
    """A task that no machine is large enough for would wait forever without a word."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(m.get("CPU", 0) >= cpus and m.get("GPU", 0) >= gpus for m in machines):
        raise LLMLiteError(
            f"No machine of the Ray cluster has {cpus} CPUs and {gpus:g} GPUs for a run; ask for "
            "less, or add such a machine first."
        )
