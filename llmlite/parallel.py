"""One model trained in several processes, as `torchrun` starts them; and the devices there are."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from llmlite.files import LLMLiteError, one_line


@dataclass(frozen=True)
class World:
    """How many processes train together, and which one this is."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Is this the process that writes files and speaks?"""
        return self.rank == 0

    def part(self, n: int) -> slice:
        """This process's share of n things, the shares differing by one at most."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of `tensor` over the processes, the same bits in each of them."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def from_main(self, value):
        """What the main process has, in all of them."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box)
        return box[0]

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process goes through the block before the others: they find what it made."""
        if not self.main:
            dist.barrier()
        yield
        if self.main and self.size > 1:
            dist.barrier()


ALONE = World()


def world() -> World:
    """The world that torchrun started this process in, joined on the first call."""
    if (size := os.environ.get("WORLD_SIZE") or "1") == "1":
        return ALONE
    if not dist.is_initialized():
        if cuda := torch.cuda.is_available():
            torch.cuda.set_device(local_device())
        patience = timedelta(hours=2)  # of all with what one prepares: tokenizer, token ids
        try:
            if not 0 <= int(rank := os.environ.get("RANK", "")) < int(size):
                raise ValueError(f"$RANK is {rank}, of {size}")  # for whom it would wait
            dist.init_process_group("nccl" if cuda else "gloo", timeout=patience)
        except (ValueError, RuntimeError) as error:
            said = "$WORLD_SIZE is set, but these are no processes that torchrun has started"
            raise LLMLiteError(f"{said} ({one_line(error)}); unset it, or use torchrun.") from None
    return World(dist.get_rank(), dist.get_world_size())


def local_device() -> str:
    """The GPU of this process on its machine, or the CPU."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"


def resolve_device(device: str) -> str:
    """`local_device` for "auto", and for "cuda" where each of several processes has a GPU of its
    own. LLMLiteError for a device that is not here."""
    if device == "auto" or (device == "cuda" and world().size > 1):
        return local_device()
    gpus = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if device != "cpu" and not (device in gpus and torch.cuda.is_available()):
        raise LLMLiteError(f"There is no device '{device}' here; choose auto or cpu.")
    return device


def gpu_bytes(device: str) -> int:
    """Memory of a CUDA device; 0 for a CPU."""
    on_gpu = torch.device(device).type == "cuda"
    return torch.cuda.get_device_properties(device).total_memory if on_gpu else 0


def cores() -> int:
    """Of the processor, that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
