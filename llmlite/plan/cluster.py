"""Runs as tasks of a Ray cluster: `llmlite search --ray ADDRESS`. Where a task runs, how many share
a GPU and what becomes of the tasks of a lost machine is Ray's own business. Every machine needs
llmlite, and the output's folder under the same path (a shared file system): there a run that is
taken up after its worker was lost finds its checkpoint."""

import os
import platform
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from llmlite.config import RayOptions
from llmlite.files import CheckpointError, LLMLiteError, one_line
from llmlite.train import Compute

RETRIES = 3  # of a task whose worker was lost


def elsewhere(options: RayOptions, compute: Compute) -> tuple[RayOptions, Compute]:
    """How a run is computed on the cluster that was to be computed by `compute` here."""
    gpus = options.gpus_per_run
    if gpus is None:
        gpus = float(torch.device(compute.device).type == "cuda")
    # A worker elsewhere has nobody to show its progress to.
    there = replace(compute, device="cuda" if gpus else "cpu", progress=False)
    return replace(options, gpus_per_run=gpus), there


def on_ray(
    function: Callable, items: Sequence, options: RayOptions, folder: Path
) -> Iterator[tuple[int, object]]:
    """Yield (number of the item, function(item)) as they are done; `folder` is where it works.
    What `function` raises is raised here and ends the others."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray is imported and started
    try:
        import ray
    except ImportError:
        install = "Ray is not installed here; install it with `pip install llmlite[ray]`."
        raise LLMLiteError(install) from None
    with ExitStack() as at_the_end:
        if not ray.is_initialized():  # else be connected to what this process has already
            _connect(ray, options.address or "auto")
            at_the_end.callback(ray.shutdown)
        cpus, gpus = options.cpus_per_run, options.gpus_per_run or 0
        _require_room(ray, cpus, gpus)
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(_work)
        shared = ray.put(function)  # to each machine once, with all that it holds
        numbers = {task.remote(shared, item, cpus, folder): n for n, item in enumerate(items)}
        try:
            while numbers:
                (done, *_), _ = ray.wait(list(numbers))
                yield numbers.pop(done), _result(ray, done)
        finally:
            for rest in numbers:
                ray.cancel(rest, force=True)
            if numbers:  # until they are gone they hold their runs' folders
                ray.wait(list(numbers), num_returns=len(numbers), timeout=30)


def _work(function: Callable, item, threads: int, folder: Path):
    """What a worker does."""
    if not folder.is_dir():
        said = f"The machine {platform.node()} does not see {folder}; put the output on storage"
        raise CheckpointError(f"{said} that all machines of the cluster have under this path.")
    torch.set_num_threads(threads)
    return function(item)


def _result(ray, done):
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, LLMLiteError):
            raise error.cause from None
        raise  # a mistake in the program: with the worker's traceback
    except ray.exceptions.RayError as error:
        said = f"A run's worker was lost {RETRIES + 1} times ({one_line(error)})"
        how = "look at the machine's memory, then make the same call again: it carries on"
        raise LLMLiteError(f"{said}; {how}.") from None


def _connect(ray, address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    dashboard = {"include_dashboard": False} if address == "local" else {}
    try:
        if port.isdigit():  # where nobody answers, Ray would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, log_to_driver=False, logging_level="ERROR", **dashboard)
    except Exception as error:  # on a busy machine Ray gives up with no class of its own
        said = f"There is no Ray cluster to be had at '{address}' ({one_line(error)})"
        how = "start one with `ray start --head`, or use `local` for one on this machine"
        raise LLMLiteError(f"{said}; {how}.") from None


def _require_room(ray, cpus: int, gpus: float) -> None:
    """A task that no machine is large enough for would wait forever without a word."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(m.get("CPU", 0) >= cpus and m.get("GPU", 0) >= gpus for m in machines):
        said = f"No machine of the Ray cluster has {cpus} CPUs and {gpus:g} GPUs for a run"
        raise LLMLiteError(f"{said}; ask for less, or add such a machine first.")
