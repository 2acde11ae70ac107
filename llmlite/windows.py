"""From token ids to batches of windows (§III.C), and all mistakes in them that the audit makes
(notebook 08): `padding`, `shift` and `split="windows"` of DataConfig; the defaults are correct."""

import re
from collections.abc import Iterator

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor
from torch.utils import data as torch_data

from llmlite.config import DataConfig, TrainConfig
from llmlite.data import SPLITS, Dataset
from llmlite.files import DataError
from llmlite.parallel import ALONE

SHUFFLE_SEED = 1  # of the windows that are split after they were cut

Ids = Tensor | np.ndarray  # (tokens,), an array possibly mapped from a file


def to_tensor(ids: Ids, device: str | torch.device = "cpu") -> Tensor:
    """`ids` in the memory of `device`, int64: for as many as fit there."""
    if isinstance(ids, np.ndarray):
        ids = torch.from_numpy(ids.astype(np.int64))
    return ids.to(device)


class TokenWindows(torch_data.Dataset):
    """Windows of `block_size` inputs and their next-token targets over one stream of ids.

    Window i starts at i × stride, or at only[i] × stride where the tensor `only` names some; its
    targets are `shift` tokens further on. `windows[i]` or `windows[[i, j, …]]` gives (inputs,
    targets) of shape (…, block_size), int64. A rest that does not fill a window is left out.

    ids: a tensor, on whose device the batches are, or a NumPy array, possibly mapped from a file
    larger than memory, of which a batch reads the pages that it needs; then it is on the CPU.
    """

    def __init__(self, ids: Ids, block_size: int, stride: int | None = None, shift=1, only=None):
        if len(ids) <= block_size:
            raise DataError(
                f"The text has {len(ids)} tokens, too few for one window of {block_size} and its "
                "targets; use more text or a smaller block_size."
            )
        self.ids, self.block_size, self.stride = ids, block_size, stride or block_size
        self.shift, self.only = shift, only
        if isinstance(ids, np.ndarray):
            self.device, rows = torch.device("cpu"), sliding_window_view(ids, block_size + 1)
            self._rows = rows[:: self.stride]  # (windows, block_size + 1), views that copy nothing
        else:
            self.device, self._rows = ids.device, ids.unfold(0, block_size + 1, self.stride)

    def __len__(self) -> int:
        return len(self._rows if self.only is None else self.only)

    def __getitem__(self, index) -> tuple[Tensor, Tensor]:
        index = torch.as_tensor(index, device=self.device)
        index = index if self.only is None else self.only[index]
        at = index.numpy() if isinstance(self.ids, np.ndarray) else index
        window = to_tensor(self._rows[at], self.device)
        targets = window[..., self.shift : self.shift + self.block_size]
        return window[..., : self.block_size], targets

    __getitems__ = __getitem__  # what DataLoader asks for a batch; it wants collate_fn=tuple


class EpochSampler(torch_data.Sampler):
    """Batches of indices, each (windows,) int64, over all of `windows`, in an order drawn from
    (seed, epoch) alone (§III.C), so that it can be taken up again.
    `batches` has whole batches, the last may be smaller; iterating gives this process's part of
    each. start: windows that an interrupted epoch has seen already. limit: windows in the epoch.
    """

    def __init__(
        self, windows, batch_size: int, seed: int, epoch: int, start=0, world=ALONE, limit=None
    ):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(len(windows), generator=generator)[:limit][start:].to(windows.device)
        self.batches, self.world = order.split(batch_size) if len(order) else (), world

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        for index in self.batches:
            yield index[self.world.part(len(index))]


def windows_of(
    dataset: Dataset, data: DataConfig, train: TrainConfig, device: str | torch.device = "cpu"
) -> dict[str, TokenWindows]:
    """The windows of each split as `data` has them cut, mistakes included; only those of training
    overlap. Training and validation use no more tokens than `train` says."""
    limits = {"train": train.train_tokens, "valid": train.valid_tokens}
    windows, size = {}, data.block_size
    if data.split == "windows":
        text = torch.cat([dataset.ids[split][: train.train_tokens] for split in SPLITS])
        n_valid = len(dataset.ids["valid"][: train.valid_tokens])
        return _split_after_windowing(text.to(device), data, n_valid)
    for split, ids in dataset.ids.items():
        stride = data.stride if split == "train" else None
        if data.padding:
            ids = padded_lines(dataset.text(split), dataset.tokenizer, size)
            stride = size + 1  # a window is a line
        ids = ids[: limits.get(split)]
        # What is mapped from a file stays there.
        placed = ids.to(device) if isinstance(ids, Tensor) else ids
        windows[split] = TokenWindows(placed, size, stride, data.shift)
    return windows


def lines_of(text: str) -> list[str]:
    """The lines that are not blank, with their ends."""
    return re.findall(r"[^\n]*\S[^\n]*\n?", text)


def padded_lines(text: str, tokenizer, block_size: int) -> Tensor:
    """Each of `lines_of` as block_size + 1 ids, one after the other: a longer line is cut off, a
    shorter one filled up with the end-of-text token."""
    lines = lines_of(text)
    rows = np.full((len(lines), block_size + 1), tokenizer.eot_id, dtype=np.int64)
    for row, line in zip(rows, tokenizer.encode_batch_to_arrays(lines), strict=True):
        row[: len(line)] = line[: len(row)]
    return torch.from_numpy(rows.reshape(-1))


def _split_after_windowing(ids: Tensor, data: DataConfig, valid_tokens: int) -> dict:
    """All windows of the text, shuffled, then 80/10/10: most tokens of the other splits are in
    training windows as well."""
    whole = TokenWindows(ids, data.block_size, data.stride)
    generator = torch.Generator().manual_seed(SHUFFLE_SEED)
    order = torch.randperm(len(whole), generator=generator).to(ids.device)
    if len(order) < 10:
        raise DataError(
            f"{len(order)} windows cannot be split 80/10/10; use more text or a smaller block_size."
        )
    train, *others = order.tensor_split((len(order) * 8 // 10, len(order) * 9 // 10))
    # Of those as many as stand side by side: at a stride of 1 they would be longer than training.
    limit = max(1, valid_tokens // data.block_size)
    return {
        split: TokenWindows(ids, data.block_size, data.stride, data.shift, only)
        for split, only in zip(SPLITS, (train, *(o[:limit] for o in others)), strict=True)
    }
