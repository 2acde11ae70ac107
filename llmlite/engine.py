"""One optimiser step, near the hardware's limit: what to compute is in model.py and optim.py, how
to compute it fast is here. Knows nothing about epochs, files or text.

With `TrainConfig.fast` off it is the plain computation that the fast one is compared with.
Otherwise, each where it pays:

    the loss without logits      always (loss.py)
    compiled blocks              one compilation serves all layers of a shape, whatever their number
    a CUDA graph of a step       after a few steps kernel by kernel, a whole step is one launch

Under torchrun each process takes its part of a batch and the gradients are averaged.
"""

import math
import shutil
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from llmlite.config import TrainConfig
from llmlite.loss import linear_cross_entropy
from llmlite.model import GPT
from llmlite.optim import parameter_groups
from llmlite.parallel import World

# Training shorter than so many operations is over before a compiler would be: on two cores it takes
# about a quarter of a minute, in which they do 2e12. A GPU's step is all launches without one.
WORTH_COMPILING = {"cpu": 2e13, "cuda": 0.0}
# Shapes that one process may compile blocks for: the paper's grids have 8, PyTorch's own limit, at
# which it goes on uncompiled.
SHAPES = 64
WARM_UP = 3  # steps before a CUDA graph is captured: the allocator and the libraries settle


@dataclass(frozen=True)
class FastPaths:
    """Which of the fast paths to take; None: the engine decides by what pays.

    Not a part of a run's identity: the results differ by rounding and, merged, by the units that
    are dropped out. `TrainConfig.fast` off turns all of them off.
    """

    compile: bool | None = None
    graph: bool | None = None  # True has no effect on a CPU or with several processes
    merge: bool | None = None  # pieces of an accumulated batch go through one forward pass


class TrainingLoss(nn.Module):
    """The model and its mean loss in nats per token, (windows, block_size) ids → scalar."""

    def __init__(self, model: GPT, fast: bool, compiled: bool):
        super().__init__()
        self.model, self.fast, self.compiled = model, fast, compiled
        self._run_block = torch.compile(_run_block, dynamic=False) if compiled else _run_block
        self._shape = None  # the one that the blocks are compiled for: the first that comes

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        if not self.fast:
            return self.model(inputs, targets).loss
        self._shape = self._shape or inputs.shape
        compiled = self.compiled and inputs.shape == self._shape
        run_block = self._run_block if compiled else _run_block
        x = self.model.embed(inputs)
        for block in self.model.blocks:
            x = run_block(block, x)
        x = self.model.norm(x).flatten(0, 1)
        weight = self.model.token_embedding.weight
        return linear_cross_entropy(x, weight, targets.flatten(), compiled)


def _run_block(block: nn.Module, x: Tensor) -> Tensor:
    return block(x, None, False, None)[0]


class Engine:
    """Model, optimiser and gradient scaler, and the step that moves them."""

    def __init__(
        self,
        model: GPT,
        config: TrainConfig,
        dtype: torch.dtype | None,
        operations: float,
        world: World,
        paths: FastPaths = FastPaths(),
    ):
        """dtype: of autocast, None for float32. operations: of the whole run, floating-point."""
        self.model, self.config, self.dtype, self.world = model, config, dtype, world
        self.device = model.device
        cuda = self.device.type == "cuda"
        pays = operations > WORTH_COMPILING[self.device.type]
        worth_it = config.fast and (pays if paths.compile is None else paths.compile)
        self.compiled = worth_it and shutil.which("g++") is not None
        self.lacks_compiler = worth_it and not self.compiled
        if self.compiled:
            torch._dynamo.config.recompile_limit = SHAPES
        loss = TrainingLoss(model, config.fast, self.compiled)
        self.loss = DistributedDataParallel(loss) if world.size > 1 else loss
        # Captured once, a graph cannot ask the scaler whether to leave out a step, nor wait for
        # other processes.
        possible = config.fast and cuda and dtype != torch.float16 and world.size == 1
        self.graphs = possible and paths.graph is not False
        rate = config.learning_rate
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, config.weight_decay),
            lr=torch.tensor(rate, device=self.device) if self.graphs else rate,
            betas=(0.9, config.beta2),
            fused=True,
            capturable=self.graphs,
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)
        self._steps = 0
        self._graph = None  # of a whole step, and the tensors that it reads and writes:
        self._batch: tuple[Tensor, Tensor] | None = None
        self._result: tuple[Tensor, Tensor] | None = None

    @property
    def how(self) -> str:
        """In words, for the record."""
        if not self.config.fast:
            return "plain"
        parts = ["fused loss"]
        parts += ["compiled"] if self.compiled else []
        parts += ["not compiled for want of g++"] if self.lacks_compiler else []
        parts += ["CUDA graph"] if self.graphs else []
        return ", ".join(parts)

    def step(self, inputs: Tensor, targets: Tensor, windows: int, rate: float):
        """One update from this process's part of a batch of so many windows, (part, block_size).

        Returns (this process's share of the mean loss, norm of the whole gradient before clipping,
        unscaled unless `log_scaled_norm` is on), both still on the device.
        """
        for group in self.optimizer.param_groups:
            if self.graphs:
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        whole = len(inputs) == self.config.batch_size * self.config.accumulation
        if not (self.graphs and whole):
            return self._update(inputs, targets, windows)
        self._steps += 1
        if self._steps <= WARM_UP:
            return self._on_the_side(inputs, targets, windows)
        if self._graph is None:
            self._capture(inputs, targets, windows)
        self._batch[0].copy_(inputs)
        self._batch[1].copy_(targets)
        self._graph.replay()
        loss, norm = self._result
        return loss.clone(), norm.clone()  # the next replay overwrites them

    def _update(self, inputs: Tensor, targets: Tensor, windows: int) -> tuple[Tensor, Tensor]:
        """Pieces of `batch_size` windows, one after the other; each weighs by its share of the
        batch, so the gradient is that of the whole batch, whatever the accumulation.
        """
        # A graph's gradients have to stay where it has written them.
        self.optimizer.zero_grad(set_to_none=not self.graphs)
        loss = torch.zeros((), device=self.device)
        size = self.config.batch_size
        pieces = list(zip(inputs.split(size), targets.split(size), strict=True))
        for number, (x, y) in enumerate(pieces, start=1):
            last = number == len(pieces)
            waits = nullcontext() if last or self.world.size == 1 else self.loss.no_sync()
            with waits:
                with self.autocast():
                    share = self._share(x, y, windows)
                # The processes' gradients are averaged, so each counts as often as there are.
                self.scaler.scale(share * self.world.size).backward()
            loss += share.detach()
        self.scaler.unscale_(self.optimizer)
        limit = self.config.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        if self.config.log_scaled_norm:
            norm = norm * self.scaler.get_scale()
        self.scaler.step(self.optimizer)  # leaves out a step whose fp16 gradient overflowed
        self.scaler.update()
        return loss, norm

    def _share(self, x: Tensor, y: Tensor, windows: int) -> Tensor:
        if len(x):
            return self.loss(x, y) * (len(x) / windows)
        # The last batch had no window for this process; the others wait for its gradient.
        some = x.new_zeros(1, self.model.config.block_size)
        return self.loss(some, some) * 0

    def _on_the_side(self, *batch) -> tuple[Tensor, Tensor]:
        """A step on the stream that a graph is captured on later, as PyTorch asks for."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            result = self._update(*batch)
        torch.cuda.current_stream().wait_stream(side)
        return result

    def _capture(self, inputs: Tensor, targets: Tensor, windows: int) -> None:
        """Record a step without running it."""
        self._batch = inputs.clone(), targets.clone()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = self._update(*self._batch, windows)

    def autocast(self):
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def state_dict(self) -> dict:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        own = [(group["lr"], group["capturable"]) for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, (rate, capturable) in zip(self.optimizer.param_groups, own, strict=True):
            group["lr"], group["capturable"] = rate, capturable  # of this device, not of the file's
        self.scaler.load_state_dict(state["scaler"])

    def memory_advice(self) -> str:
        """What to do where a batch did not fit into the device's memory: tried out, not guessed."""
        size, batch = self.config.batch_size, self.config.batch_size * self.config.accumulation
        head = f"{self.device} ran out of memory with batch_size {size}"
        while size > 1:
            size = (size + 1) // 2
            if self._fits(size):
                pieces = math.ceil(batch / size)
                return (
                    f"{head}; batch_size {size} with accumulation {pieces} fits and is the same "
                    "step."
                )
        return f"{head} and would with 1; choose a smaller model or block_size."

    def _fits(self, windows: int) -> bool:
        shape = windows, self.model.config.block_size
        ids = torch.zeros(shape, dtype=torch.long, device=self.device)
        try:
            with self.autocast():
                loss = self.loss(ids, ids)
            loss.backward()
        except torch.OutOfMemoryError:
            return False
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        return True
