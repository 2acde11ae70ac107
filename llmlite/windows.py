"""From a stream of token ids to batches of windows (§III.C).

Knows nothing about text. The ids may lie on a device, or in a file that is larger than memory.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from llmlite.errors import DataError
from llmlite.parallel import ALONE, World


def to_tensor(ids: torch.Tensor | np.ndarray, device: str | torch.device = "cpu") -> torch.Tensor:
    """`ids` in the memory of `device`, int64: for as many as fit there."""
    if isinstance(ids, np.ndarray):
        ids = torch.from_numpy(ids.astype(np.int64))
    return ids.to(device)


class TokenWindows(Dataset):
    """Windows of `block_size` inputs and their next-token targets over one stream of ids.

    Window i starts at i × stride, or at only[i] × stride where `only` names some of them; its
    targets are `shift` tokens further on. `windows[i]` or `windows[[i, j, …]]` gives (inputs,
    targets) of shape (…, block_size), int64, a whole batch in one indexing operation. The end of
    the stream that does not fill a window is left out. A DataLoader wants collate_fn=tuple, since
    its batches come assembled.

    `ids` is a tensor, on whose device the batches are, or a NumPy array, which may be mapped from a
    file larger than memory (see stream.py): then a batch reads the pages that its windows lie in
    and no others, and is a tensor on the CPU.
    """

    def __init__(
        self,
        ids: torch.Tensor | np.ndarray,
        block_size: int,
        stride: int | None = None,
        shift: int = 1,
        only: torch.Tensor | None = None,
    ):
        if len(ids) <= block_size:
            raise DataError(
                f"The text has {len(ids)} tokens, too few for one window of {block_size} and its "
                "targets; use more text or a smaller block_size."
            )
        self.ids, self.stride, self.shift, self.only = ids, stride or block_size, shift, only
        self.block_size = block_size
        device = "cpu" if isinstance(ids, np.ndarray) else ids.device
        self._offsets = torch.arange(block_size + 1, device=device)
        self._length = (len(ids) - block_size - 1) // self.stride + 1 if only is None else len(only)

    def __len__(self) -> int:
        return self._length

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        return self._offsets.device

    def __getitem__(self, index) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.as_tensor(index, device=self.device)
        starts = (index if self.only is None else self.only[index]) * self.stride
        places = starts.unsqueeze(-1) + self._offsets  # (…, block_size + 1)
        if isinstance(self.ids, np.ndarray):
            window = to_tensor(self.ids[places.numpy()])
        else:
            window = self.ids[places]
        targets = window[..., self.shift : self.shift + self.block_size]
        return window[..., : self.block_size], targets

    __getitems__ = __getitem__  # what DataLoader asks for a batch


class EpochSampler(Sampler):
    """Batches of indices, each (windows,) int64, over all windows, in an order drawn from (seed,
    epoch) alone (§III.C), so that it can be taken up again; the order takes 8 bytes a window.

    `batches` has whole batches. Iterating gives this process's part of each: all processes draw
    the same order, and may map the same file. `start`: windows that an interrupted epoch has seen
    already. `limit`: windows in the epoch, the first of its order. The last batch may be smaller.
    """

    def __init__(
        self,
        windows: TokenWindows,
        batch_size: int,
        seed: int,
        epoch: int,
        start: int = 0,
        world: World = ALONE,
        limit: int | None = None,
    ):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(len(windows), generator=generator)[:limit][start:].to(windows.device)
        self.batches, self.world = order.split(batch_size) if len(order) else (), world

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[torch.Tensor]:
        for index in self.batches:
            yield index[self.world.part(len(index))]
