"""One optimiser step, near the hardware's limit: what to compute is in model.py and optim.py, how
to compute it fast is here. Knows nothing about epochs, files or text.

With `TrainConfig.fast` off it is the plain computation that the fast one is compared with.
Otherwise, each where it pays:

    attention spelled out        two products and a softmax, where they beat PyTorch's one kernel
    compiled pieces              the block, once for all layers of a shape, and the last norm with
                                 the loss
    merged pieces                an accumulated batch in fewer forward passes, where memory allows
    a CUDA graph of a step       after a few steps kernel by kernel, a whole step is one launch

Under torchrun each process takes its part of a batch and the gradients are averaged.
"""

import functools
import math
import shutil
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from llmlite.config import ModelConfig, TrainConfig
from llmlite.model import GPT
from llmlite.optim import parameter_groups
from llmlite.parallel import World
from llmlite.progress import tqdm

# Training shorter than so many operations is over before a compiler would be: on two cores it takes
# about a quarter of a minute, in which they do 2e12. Beside a GPU it takes 10 to 20 seconds, and an
# uncompiled step that is captured does very roughly 3e13 a second.
WORTH_COMPILING = {"cpu": 2e13, "cuda": 2e14}
# Shapes that one process may compile blocks for: the paper's grids have 8, PyTorch's own limit, at
# which it goes on uncompiled.
SHAPES = 64
WARM_UP = 3  # steps before a CUDA graph is captured: the allocator and the libraries settle
# Numbers that a block keeps for the backward pass, for each token and unit of its width: counted,
# about 20 in autocast's type (norms and residuals in float32 included), and as many for safety.
KEPT = 40
# Bytes for each token and word of the vocabulary: uncompiled, logits and their gradient in
# autocast's type, and in float32 logits, their logarithms and the gradient.
LOGIT_BYTES = 16
# Bytes of a pass that on a CPU is mostly the calls of its operations, fewer for merged pieces.
SMALL = 2**26
# Tokens in the longest window whose attention is spelled out on a GPU: the kernels work on tiles of
# 64 by 128 scores at least, of which a short window fills little. By that reason alone; measured is
# that at 256 the kernel wins, 5.83 ms a step against 7.71 (tests/benchmarks/records/gpu-h100.json).
SPELLED_OUT = 64


@dataclass(frozen=True)
class FastPaths:
    """Which of the fast paths to take; None: the engine decides by what pays.

    Not a part of a run's identity: the results differ by rounding and, merged, by the units that
    are dropped out. `TrainConfig.fast` off turns all of them off.
    """

    compile: bool | None = None
    graph: bool | None = None  # True has no effect on a CPU or with several processes
    merge: bool | None = None  # pieces of an accumulated batch go through one forward pass
    spell: bool | None = None  # attention is spelled out


class TrainingLoss(nn.Module):
    """The model's mean loss in nats per token, (windows, block_size) ids → scalar."""

    def __init__(self, model: GPT, shape: tuple[int, int] | None):
        """shape: of the inputs that are compiled for; others are not."""
        super().__init__()
        self.model, self.shape = model, shape
        if shape:
            self._compiled = [torch.compile(f, dynamic=False) for f in (_run_block, _mean_loss)]

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        compiled = inputs.shape == self.shape
        run_block, mean_loss = self._compiled if compiled else (_run_block, _mean_loss)
        x = self.model.embed(inputs)
        for block in self.model.blocks:
            x = run_block(block, x)
        # Flattened here, since windows cut from a text come with gaps and a graph's copy of them
        # without: other strides would be compiled for once more, in the middle of a capture.
        return mean_loss(self.model, x, targets.flatten())


def _run_block(block: nn.Module, x: Tensor) -> Tensor:
    return block(x, None, False, None)[0]


def _mean_loss(model: GPT, x: Tensor, targets: Tensor) -> Tensor:
    logits = F.linear(model.norm(x), model.token_embedding.weight)
    return F.cross_entropy(logits.flatten(0, 1).float(), targets)


def piece_windows(
    model: ModelConfig, config: TrainConfig, dtype: torch.dtype | None, memory: float
) -> int:
    """Windows in a forward pass: of the accumulation's equal shares, the largest whose activations
    take at most `memory` bytes, by an estimate; one piece of `batch_size` if none does.
    """
    of_number = 4 if dtype is None else dtype.itemsize
    of_token = KEPT * of_number * model.n_layer * model.n_embd + LOGIT_BYTES * model.vocab_size
    of_window = of_token * model.block_size
    merged = range(2, config.accumulation + 1)
    fit = [n for n in merged if n * config.batch_size * of_window <= memory]
    return config.batch_size * max((n for n in fit if config.accumulation % n == 0), default=1)


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
        self.cuda = _is_cuda(self.device)
        self.piece = self._piece(paths.merge)
        pays = operations > WORTH_COMPILING[self.device.type]
        worth_it = config.fast and (pays if paths.compile is None else paths.compile)
        self.compiled = worth_it and shutil.which("g++") is not None
        self.lacks_compiler = worth_it and not self.compiled
        if self.compiled:
            torch._dynamo.config.recompile_limit = SHAPES
        self.spelled = config.fast and (self._spell() if paths.spell is None else paths.spell)
        for block in model.blocks:
            block.attention.spelled = self.spelled
        loss = TrainingLoss(model, self._shape() if self.compiled else None)
        self.loss = DistributedDataParallel(loss) if world.size > 1 else loss
        # Captured once, a graph cannot wait for other processes.
        possible = config.fast and self.cuda and world.size == 1
        self.graphs = possible and paths.graph is not False
        rate = config.learning_rate
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, config.weight_decay),
            lr=torch.tensor(rate, device=self.device) if self.graphs else rate,
            betas=(0.9, config.beta2),
            # Leaves out a step whose fp16 gradient overflowed by itself, on the device: the scaler
            # waits for nothing, and its step can be captured.
            fused=True,
            capturable=self.graphs,
        )
        self.scaler = self._new_scaler()
        self.graphed = False  # has there been a graph?
        self.not_graphed = ""  # why a capture failed
        self._forget_graph()

    def _piece(self, merge: bool | None) -> int:
        """Windows in a forward pass."""
        if not self.config.fast or merge is False:
            return self.config.batch_size
        memory = math.inf
        if merge is None and self.cuda:  # others may use the device; a graph keeps its own memory
            memory = torch.cuda.get_device_properties(self.device).total_memory / 4
        elif merge is None:
            memory = SMALL
        return piece_windows(self.model.config, self.config, self.dtype, memory)

    def _spell(self) -> bool:
        """On a CPU the one kernel is made for float32, and knows no dropout."""
        if self.cuda:
            return self.model.config.block_size <= SPELLED_OUT
        return self.dtype is not None or self.model.config.dropout > 0

    def _shape(self) -> tuple[int, int]:
        """Of a whole piece of this process's part of a batch."""
        part = self.world.part(self.config.batch_size * self.config.accumulation)
        return min(self.piece, part.stop - part.start), self.model.config.block_size

    def _new_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def _forget_graph(self) -> None:
        self._steps = 0  # of whole batches, towards the next capture
        self._graph = None  # of a whole step, and the tensors that it reads and writes:
        self._batch: tuple[Tensor, Tensor] | None = None
        self._result: tuple[Tensor, Tensor] | None = None

    @property
    def how(self) -> str:
        """In words, for the record: what was used so far."""
        if not self.config.fast:
            return "plain"
        how = "compiled" if self.compiled else "uncompiled"
        parts = [f"{how} for want of g++" if self.lacks_compiler else how]
        parts += ["attention spelled out"] if self.spelled else []
        pieces = math.ceil(self.piece / self.config.batch_size)
        parts += [f"{pieces} pieces merged"] if pieces > 1 else []
        parts += ["CUDA graph"] if self.graphed else []
        parts += [f"not graphed: {self.not_graphed}"] if self.not_graphed else []
        return ", ".join(parts)

    def step(self, inputs: Tensor, targets: Tensor, windows: int, rate: float):
        """One update from this process's part of a batch of so many windows, (part, block_size).

        Returns (this process's share of the mean loss, norm of the whole gradient before clipping,
        unscaled unless `log_scaled_norm` is on), both still on the device.
        """
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)  # a graph reads it
            else:
                group["lr"] = rate
        with torch.cuda.device(self.device) if self.cuda else nullcontext():
            try:
                return self._step(inputs, targets, windows)
            except torch.OutOfMemoryError:
                if self.piece == self.config.batch_size or self.world.size > 1:
                    raise
            # Only here has Python let go of the failed step's tensors.
            self._unmerge()
            return self._step(inputs, targets, windows)

    def _step(self, inputs: Tensor, targets: Tensor, windows: int) -> tuple[Tensor, Tensor]:
        whole = len(inputs) == self.config.batch_size * self.config.accumulation
        if not (self.graphs and whole):
            return self._update(inputs, targets, windows)
        self._steps += 1
        if self._steps <= WARM_UP:
            return self._on_the_side(inputs, targets, windows)
        if self._graph is None and not self._capture(inputs, targets, windows):
            return self._update(inputs, targets, windows)
        self._batch[0].copy_(inputs)
        self._batch[1].copy_(targets)
        self._graph.replay()
        loss, norm = self._result
        return loss.clone(), norm.clone()  # the next replay overwrites them

    def _update(self, inputs: Tensor, targets: Tensor, windows: int) -> tuple[Tensor, Tensor]:
        """Pieces of `self.piece` windows, one after the other; each weighs by its share of the
        batch, so the gradient is that of the whole batch, whatever the accumulation. Nothing in
        here may wait for the device, or a graph could not be captured.
        """
        # In a graph the first piece so writes its gradients to the graph's own memory. A step
        # between two replays leaves that alone: it gets new gradients, and the graph's pool stays.
        self.optimizer.zero_grad(set_to_none=True)
        loss = None
        pieces = list(zip(inputs.split(self.piece), targets.split(self.piece), strict=True))
        for number, (x, y) in enumerate(pieces, start=1):
            last = number == len(pieces)
            waits = nullcontext() if last or self.world.size == 1 else self.loss.no_sync()
            with waits:
                with self.autocast():
                    share = self._share(x, y, windows)
                # The processes' gradients are averaged, so each counts as often as there are.
                self.scaler.scale(share * self.world.size).backward()
            loss = share.detach() if loss is None else loss + share.detach()
        self.scaler.unscale_(self.optimizer)
        limit = self.config.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        if self.config.log_scaled_norm:
            norm = self.scaler.scale(norm)  # by this step's scale: `update` makes the next one's
        self.scaler.step(self.optimizer)
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
        side = _side_stream(self.device)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            result = self._update(*batch)
        torch.cuda.current_stream().wait_stream(side)
        return result

    def _capture(self, inputs: Tensor, targets: Tensor, windows: int) -> bool:
        """Record a step without running it. False if that cannot be done; it is then said and not
        tried again. Raises torch.OutOfMemoryError.
        """
        self.optimizer.zero_grad(set_to_none=True)  # before the capture: it makes room
        batch = inputs.clone(), targets.clone()
        random = torch.cuda.get_rng_state(self.device)
        graph = torch.cuda.CUDAGraph()
        try:
            # A capture that fails does not go back to the stream it came from; the outer one does.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(graph, stream=_side_stream(self.device)),
            ):
                result = self._update(*batch, windows)
        except RuntimeError as error:
            self._break_off()
            # Nor does its random generator leave the capture; a new one takes over its state.
            generator = torch.Generator(self.device)
            generator.set_state(random)
            torch.cuda.default_generators[self.device.index].graphsafe_set_state(generator)
            # The capture's own error on leaving hides the one that broke it.
            causes = [e for e in _chain(error) if isinstance(e, RuntimeError)]
            for cause in causes:
                if isinstance(cause, torch.OutOfMemoryError):
                    raise cause from None
            self.graphs = False
            self.not_graphed = (str(causes[-1]) or repr(causes[-1])).splitlines()[0]
            tqdm.write(f"The step is not a CUDA graph: {self.not_graphed}", file=sys.stderr)
            return False
        self._graph, self._batch, self._result = graph, batch, result
        self.graphed = True
        return True

    def _break_off(self) -> None:
        """Forget a step that failed halfway: its gradients, and how far the scaler was."""
        self.optimizer.zero_grad(set_to_none=True)
        scale = self.scaler.state_dict()
        self.scaler = self._new_scaler()
        if scale:
            self.scaler.load_state_dict(scale)

    def _unmerge(self) -> None:
        """Go on in pieces of `batch_size`: merged, they did not fit into the memory."""
        self._break_off()
        self._forget_graph()
        self.piece = self.config.batch_size
        if self.compiled:
            self.loss.shape = self._shape()

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
        self._forget_graph()  # it reads the optimiser's old state
        self.model.load_state_dict(state["model"])
        own = [(group["lr"], group["capturable"]) for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, (rate, capturable) in zip(self.optimizer.param_groups, own, strict=True):
            group["lr"], group["capturable"] = rate, capturable  # of this device, not of the file's
        if state["scaler"]:  # empty if the run so far was not in fp16: the scale then starts anew
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


def _is_cuda(device: torch.device) -> bool:
    return device.type == "cuda"


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all engines, since the libraries keep memory for each stream that they have seen.
    PyTorch's default for captures belongs to the device of the first one.
    """
    return torch.cuda.Stream(device)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """`error`, the one in whose handling it was raised, and so on."""
    while error is not None:
        yield error
        error = error.__context__
