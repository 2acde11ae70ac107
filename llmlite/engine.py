"""One optimiser step: what it computes is in model.py, how that is made fast is here. What a fast
path pays stands at its line, by the records in tests/benchmarks/records."""

import functools
import math
import re
import sys
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from llmlite.config import FastPaths, ModelConfig, TrainConfig
from llmlite.files import LLMLiteError, tqdm
from llmlite.model import GPT
from llmlite.parallel import World

# A run of fewer operations is over before compiling pays: on a CPU it takes 16 to 34 s, paid back
# after 4e12 to 7e12 operations (train-cpu.json), beside a GPU 9 to 12 s (gpu-*.json).
WORTH_COMPILING = {"cpu": 2e13, "cuda": 2e14}
SHAPES = 64  # that a process may compile for; the paper's grids need more than PyTorch's own 8
WARM_UP = 3  # steps before a CUDA graph is captured: the allocator and the libraries settle
# What a pass keeps for its backward pass. Numbers for each token, layer and unit of width: counted,
# about 20 in autocast's type, and as many for safety. Bytes for each token and word: logits and
# their gradient in autocast's type, and in float32 logits, their logarithms and the gradient.
KEPT, LOGIT_BYTES = 40, 16
SMALL = 2**26  # bytes of a pass that on a CPU is mostly the calls of its operations
# Longest window whose attention is spelled out on a GPU: the one kernel works on tiles of 64 × 128
# scores. Measured is that it wins at 256, 5.83 ms a step to 7.71 (gpu-h100.json).
SPELLED_OUT = 64


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """The rate of step `step` (from 0) of `total` (Fig. 8): from 0 linearly to the peak at the end
    of the warmup, then half a cosine to 0."""
    if config.schedule == "fixed":
        return config.learning_rate
    warmup = round(config.warmup_fraction * total)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup + 1) / max(1, total - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def autocast_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """What `amp` means on `device`; None is plain float32."""
    if amp != "auto":
        return {"fp16": torch.float16, "bf16": torch.bfloat16, "off": None}[amp]
    # bf16 has float32's range, so no gradient needs scaling; emulated it is slower than float32.
    if device.type != "cuda":  # a processor multiplies in it by AVX-512 or by AMX
        has = getattr(torch.cpu, "get_capabilities", dict)()  # an older PyTorch cannot say
        return torch.bfloat16 if has.get("avx512_bf16") or has.get("amx_bf16") else None
    with torch.cuda.device(device):  # the question is about the current one
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bf16 else torch.float16


def parameter_groups(model: GPT, weight_decay: float) -> list[dict]:
    """Matrices decay; biases and norms do not."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    decaying = {"params": matrices, "weight_decay": weight_decay}
    return [decaying, {"params": vectors, "weight_decay": 0.0}]


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon for the matrices in the blocks, AdamW for the rest, as one: where a gradient overflowed,
    both leave out the step."""

    def __init__(self, model: GPT, rate: float, weight_decay: float, **adamw):
        if not hasattr(torch.optim, "Muon"):
            said = f"Optimizer muon needs PyTorch 2.9 or newer, and this is {torch.__version__}"
            raise LLMLiteError(f"{said}; update it, or choose adamw.")
        hidden = [p for p in model.blocks.parameters() if p.dim() == 2]
        matrices, vectors = parameter_groups(model, weight_decay)
        matrices["params"] = [model.token_embedding.weight, model.position_embedding.weight]
        # A step then has AdamW's size (Liu et al. 2025): one rate and one decay serve both.
        same_size = {"weight_decay": weight_decay, "adjust_lr_fn": "match_rms_adamw"}
        muon = torch.optim.Muon(hidden, rate, **same_size)
        self.parts = muon, torch.optim.AdamW([matrices, vectors], rate, **adamw)
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    def step(self) -> None:
        groups = self.param_groups[:1], self.param_groups[1:]  # which may have been loaded
        for part, own in zip(self.parts, groups, strict=True):
            part.param_groups, part.state = own, self.state
            part.step()


def make_optimizer(model: GPT, config: TrainConfig, graphs: bool) -> torch.optim.Optimizer:
    """`config.optimizer` for a model. graphs: its step can be captured."""
    rate, decay = config.learning_rate, config.weight_decay
    # Fused, each leaves out a step whose fp16 gradient overflowed by itself, on the device: the
    # scaler waits for nothing, and its step can be captured.
    adam = {"betas": (0.9, config.beta2), "fused": True, "capturable": graphs}
    if config.optimizer == "muon":
        return MuonAndAdamW(model, rate, decay, **adam)
    groups = parameter_groups(model, decay)
    rate = torch.tensor(rate, device=model.device) if graphs else rate
    if config.optimizer == "sgd":
        sgd = torch.optim.SGD(groups, rate, momentum=0.9, fused=True)
        for p in model.parameters():  # PyTorch fills it in the first step, unless that is left out
            sgd.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return sgd
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, rate, **adam)


def step_operations(model: ModelConfig, windows: int) -> float:
    """Floating-point operations of a step's matrix products, 2·m·k·n for (m, k) @ (k, n), on
    `windows` full windows; beside them the optimiser's 17 a parameter are few."""
    time, width = model.block_size, model.n_embd
    weights = model.n_layer * 12 * width**2 + model.vocab_size * width  # in products, not look-ups
    pairs = time * (time + 1) / 2 if model.causal else time**2  # of a query and a key that it sees
    attention = 2 * 2 * pairs * width * model.n_layer  # scores, and the weighted sum of values
    # Each product has two in the backward pass, one for each of its factors.
    return 3 * windows * (2 * time * weights + attention)


def piece_windows(
    model: ModelConfig, config: TrainConfig, dtype: torch.dtype | None, memory: float
) -> int:
    """Windows in a forward pass: of the accumulation's equal shares, the largest whose activations
    take at most `memory` bytes, by an estimate; `batch_size` if none does."""
    itemsize = 4 if dtype is None else dtype.itemsize
    token_bytes = KEPT * itemsize * model.n_layer * model.n_embd + LOGIT_BYTES * model.vocab_size
    most = max(config.batch_size, memory / (token_bytes * model.block_size))
    shares = (n for n in range(1, config.accumulation + 1) if config.accumulation % n == 0)
    return max(n * config.batch_size for n in shares if n * config.batch_size <= most)


class TrainingLoss(nn.Module):
    """The model's mean loss in nats per token, (windows, block_size) ids → scalar; compiled for
    inputs of `shape`, if there is one, and no others."""

    def __init__(self, model: GPT, shape: tuple[int, int] | None):
        super().__init__()
        self.model, self.shape = model, shape
        # A step of 13.2 ms then takes 5.9, both as a graph. A block serves all layers, so compiling
        # takes 12 s, and 46 to 48 where loops are compiled whole, side by side (gpu-h100.json).
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
    return block(x)[0]


def _mean_loss(model: GPT, x: Tensor, targets: Tensor) -> Tensor:
    logits = F.linear(model.norm(x), model.token_embedding.weight)
    return F.cross_entropy(logits.flatten(0, 1).float(), targets)


class Engine:
    """Model, optimiser and gradient scaler, and the step that moves them."""

    def __init__(
        self,
        model: GPT,
        config: TrainConfig,
        dtype: torch.dtype | None,
        steps: float,
        world: World,
        paths: FastPaths = FastPaths(),
    ):
        """dtype: of autocast, None for float32. steps: of the whole run."""
        if not config.fast:
            paths = FastPaths(compile=False, graph=False, merge=False, spell=False)
        self.model, self.config, self.dtype, self.world = model, config, dtype, world
        self.device, self.cuda = model.device, model.device.type == "cuda"
        shape, room = model.config, SMALL
        if self.cuda:  # a quarter: others may use the device, and a graph keeps memory of its own
            room = torch.cuda.get_device_properties(self.device).total_memory / 4
        self.batch = config.batch_size * config.accumulation  # windows in a step
        # Merged, 4 × 128 windows of 32 take 3.6 ms a step instead of 6.4 (gpu-h200.json).
        memory = {None: room, True: math.inf, False: 0}[paths.merge]
        self.piece = piece_windows(shape, config, dtype, memory)  # windows in a forward pass

        # A CPU's one kernel is made for float32, and knows no dropout: in bf16 transformers takes
        # 0.32 s a step with it, 0.24 with attention spelled out (train-cpu.json, window 128).
        pays = dtype is not None or shape.dropout > 0
        pays = shape.block_size <= SPELLED_OUT if self.cuda else pays
        spelled = pays if paths.spell is None else paths.spell
        for block in model.blocks:
            block.attention.spelled = spelled

        pays = steps * step_operations(shape, self.batch) > WORTH_COMPILING[self.device.type]
        wanted = pays if paths.compile is None else paths.compile
        self._unproven = self.compiled = wanted  # until a whole batch has come through
        if self.compiled:
            torch._dynamo.config.recompile_limit = SHAPES
        part = world.part(self.batch)
        inputs = min(self.piece, part.stop - part.start), shape.block_size
        self._alone = loss = TrainingLoss(model, inputs if self.compiled else None)
        self.loss = DistributedDataParallel(loss) if world.size > 1 else loss

        pieces = self.piece // config.batch_size
        self.used = [  # in words
            ("compiled" if self.compiled else "uncompiled") if config.fast else "plain",
            "attention spelled out" if spelled else "",
            f"{pieces} pieces merged" if pieces > 1 else "",
        ]

        # Captured once, a graph cannot wait for other processes.
        self.graphs = self.cuda and world.size == 1 and paths.graph is not False
        self.graphing = ""  # in words, what came of the capture
        if self.graphs and config.optimizer == "muon":
            self.graphs, self.graphing = False, "not graphed: Muon's rate is a number"
        self._steps, self._captured = 0, None  # of whole batches, towards the next capture

        self.optimizer = make_optimizer(model, config, self.graphs)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)

    @property
    def how(self) -> str:
        """What was used so far, in words, for the record."""
        return ", ".join(filter(None, (*self.used, self.graphing)))

    def step(self, inputs: Tensor, targets: Tensor, windows: int, rate: float):
        """One update from this process's part of a batch of so many windows, (part, block_size) →
        (this process's share of the mean loss, norm of the whole gradient before clipping, unscaled
        unless `log_scaled_norm` is on), both still on the device."""
        for group in self.optimizer.param_groups:  # a tensor is what a graph reads
            group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate
        with torch.cuda.device(self.device) if self.cuda else nullcontext():
            if self.graphs and windows == self.batch:
                return self._update_by_graph(inputs, targets)
            return self._update(inputs, targets, windows)

    def _update(self, *step) -> tuple[Tensor, Tensor]:
        """`_compute`; where it is the compiler that fails, once more without it, from the same
        random numbers: neither weights nor optimiser have moved by then."""
        if not self._unproven:
            return self._compute(*step)
        random = torch.get_rng_state(), torch.cuda.get_rng_state(self.device) if self.cuda else None
        try:
            result = self._compute(*step)
            self._unproven = step[-1] < self.batch
            return result
        except TorchDynamoException as error:
            cause = getattr(error, "inner_exception", error)
        kind, text = type(cause).__name__, str(cause)
        why = (re.findall(r"error: (.+)", text) or text.splitlines() or [""])[0]
        tqdm.write(f"The step is not compiled ({kind}: {why}).", file=sys.stderr)
        self._unproven = self.compiled = False
        self._alone.shape, self.used[0] = None, f"uncompiled after {kind}"  # text may have a path
        torch.set_rng_state(random[0])
        if self.cuda:
            torch.cuda.set_rng_state(random[1], self.device)
        return self._compute(*step)

    def _compute(self, inputs: Tensor, targets: Tensor, windows: int) -> tuple[Tensor, Tensor]:
        """Nothing in here may wait for the device, or a graph could not be captured."""
        # In a graph the first piece so writes its gradients to the graph's own memory. A step
        # between two replays leaves that alone: it gets new gradients, and the graph's pool stays.
        self.optimizer.zero_grad(set_to_none=True)
        loss = None
        pieces = list(zip(inputs.split(self.piece), targets.split(self.piece), strict=True))
        for number, (x, y) in enumerate(pieces, start=1):
            # DistributedDataParallel reads it: gradients are exchanged with the last piece alone.
            self.loss.require_backward_grad_sync = number == len(pieces)
            weight = len(x) / windows  # the gradient is the batch's, whatever the accumulation
            if not len(x):  # a last batch can have no window for this process, but others wait
                x = y = x.new_zeros(1, self.model.config.block_size)
            with torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext():
                share = self.loss(x, y) * weight
            # The processes' gradients are averaged, so each counts as often as there are.
            self.scaler.scale(share * self.world.size).backward()
            loss = share.detach() if loss is None else loss + share.detach()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm or math.inf)
        if self.config.log_scaled_norm:
            norm = self.scaler.scale(norm)  # by this step's scale: `update` makes the next one's
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss, norm

    def _update_by_graph(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        # One launch for hundreds of kernels: 5.9 ms a step, else 16.3; 13.2 uncompiled, else 15.7
        # (gpu-h100.json).
        self._steps += 1
        if self._steps <= WARM_UP:  # on the stream of the capture, as PyTorch asks for
            side = _side_stream(self.device)
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                result = self._update(*batch, self.batch)
            torch.cuda.current_stream().wait_stream(side)
            return result
        self._captured = self._captured or self._capture(batch)
        if not self._captured:
            return self._update(*batch, self.batch)
        graph, (inputs, targets), (loss, norm) = self._captured
        inputs.copy_(batch[0])
        targets.copy_(batch[1])
        graph.replay()
        return loss.clone(), norm.clone()  # the next replay overwrites them

    def _capture(self, batch: tuple[Tensor, Tensor]) -> tuple | None:
        """A step recorded without running it, and the tensors that it reads and writes; None where
        it fails, which is then said and not tried again."""
        self.optimizer.zero_grad(set_to_none=True)  # before the capture: it makes room
        batch = tuple(tensor.clone() for tensor in batch)
        random, scale = torch.cuda.get_rng_state(self.device), self.scaler.get_scale()
        graph = torch.cuda.CUDAGraph()
        try:
            # A capture that fails does not go back to the stream it came from; the outer one does.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(graph, stream=_side_stream(self.device)),
            ):
                result = self._update(*batch, self.batch)
        except RuntimeError as error:
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.update(scale)  # forgets how far it was in this step
            # Nor does its random generator leave the capture; a new one takes over its state.
            generator = torch.Generator(self.device)
            generator.set_state(random)
            torch.cuda.default_generators[self.device.index].graphsafe_set_state(generator)
            # The capture's own error on leaving hides the one that broke it.
            while isinstance(error.__context__, RuntimeError):
                error = error.__context__
            if isinstance(error, torch.OutOfMemoryError):
                raise error from None
            why = (str(error) or repr(error)).splitlines()[0]
            self.graphs, self.graphing = False, f"not graphed: {why}"
            tqdm.write(f"The step is not a CUDA graph: {why}", file=sys.stderr)
            return None
        self.graphing = "CUDA graph"
        return graph, batch, result

    def state_dict(self) -> dict:
        parts = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state: dict) -> None:
        self._steps, self._captured = 0, None  # a graph reads the optimiser's old state
        self.model.load_state_dict(state["model"])
        own = [dict(group) for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, ours in zip(self.optimizer.param_groups, own, strict=True):
            group.update(ours)  # rate and kernels are of this device, not of the file's
        if state["scaler"]:  # empty if the run so far was not in fp16: the scale then starts anew
            self.scaler.load_state_dict(state["scaler"])


@functools.cache  # one for all engines, since libraries keep memory for each stream they have seen
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # PyTorch's own for captures is of the first device alone
