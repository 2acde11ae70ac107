"""Runs as tasks of a Ray cluster: `llmlite search --ray ADDRESS`.

Where a task runs, how many share a GPU and what becomes of the tasks of a lost machine is Ray's own
business. Every machine needs llmlite, and the output's folder under the same path (a shared file
system): there a run that is taken up after its worker was lost finds the checkpoint to carry on
from. A cluster that asks for a token is entered with Ray's own variables: RAY_AUTH_MODE=token, and
the token in RAY_AUTH_TOKEN or where Ray keeps it.
"""

import os
import socket
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import torch

from llmlite.files import LLMLiteError

RETRIES = 3  # of a task whose worker was lost


@dataclass(frozen=True)
class RayOptions:
    """Which cluster to work on, and what a run gets of a machine."""

    address: str = "auto"  # "auto" | "local": one on this machine | "host:port" | "ray://host:port"
    gpus_per_run: float | None = None  # below 1: so many share a GPU; None: 1 with CUDA, else 0
    cpus_per_run: int = 1  # a run uses as many threads

    def __post_init__(self):
        if not 0 <= (self.gpus_per_run or 0) <= 1 or self.cpus_per_run < 1:
            raise LLMLiteError(
                f"Configuration: a run gets {self.gpus_per_run} GPUs and {self.cpus_per_run} CPUs; "
                "allowed: 0 to 1 GPUs, the part of one that a run gets, and 1 CPU or more."
            )

    def gpus(self, device: str) -> float:
        """The part of a GPU that a run gets where it was to be computed on `device`."""
        if self.gpus_per_run is None:
            return float(torch.device(device).type == "cuda")
        return self.gpus_per_run


def on_ray(
    function: Callable, items: Sequence, options: RayOptions
) -> Iterator[tuple[int, object]]:
    """Yield (number of the item, function(item)) as they are done. `function` goes to each machine
    once, with all that it holds.

    What `function` raises is raised here and ends the others.
    """
    ray, gpus = _ray(), options.gpus_per_run or 0
    with _connected(ray, options.address):
        _require_room(ray, options.cpus_per_run, gpus)
        task = ray.remote(num_cpus=options.cpus_per_run, num_gpus=gpus, max_retries=RETRIES)(_work)
        shared = ray.put(function)
        numbers = {
            task.remote(shared, item, options.cpus_per_run): n for n, item in enumerate(items)
        }
        try:
            while numbers:
                (done, *_), _ = ray.wait(list(numbers))
                yield numbers.pop(done), _result(ray, done)
        finally:
            for rest in numbers:
                ray.cancel(rest, force=True)
            if numbers:  # until they are gone they hold their runs' folders
                ray.wait(list(numbers), num_returns=len(numbers), timeout=30)


def _work(function: Callable, item, threads: int):
    """What a worker does."""
    torch.set_num_threads(threads)
    return function(item)


def _result(ray: ModuleType, done):
    lost = ray.exceptions
    try:
        return ray.get(done)
    except (lost.WorkerCrashedError, lost.NodeDiedError, lost.OutOfMemoryError) as error:
        raise LLMLiteError(
            f"A run's worker was lost {RETRIES + 1} times ({str(error).splitlines()[0]}); look at "
            "the machine's memory, then make the same call again: it carries on."
        ) from None
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
            "--head`, or use `local` for one on this machine."
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
