"""Windows with a mistake in them, made on purpose for the audit (notebook 08).

Each mistake is a switch of DataConfig whose default is the correct way: `padding`, `shift` and
`split="windows"`. What they do to the windows is here and nowhere else.
"""

import numpy as np
import torch
from torch import Tensor

from llmlite.config import DataConfig
from llmlite.data import SPLITS, Corpus, text_to_rows
from llmlite.errors import DataError
from llmlite.windows import TokenWindows

SHUFFLE_SEED = 1  # of the windows that are split after they were cut


def mistakes(data: DataConfig) -> dict[str, str]:
    """Those that `data` makes, for a run's record."""
    made = {"padding": "counted in the loss"} if data.padding else {}
    made |= {"targets": "the inputs themselves"} if data.shift == 0 else {}
    made |= {"split": "after windowing"} if data.split == "windows" else {}
    return made


def flawed_windows(
    corpus: Corpus,
    tokenizer,
    ids: dict[str, Tensor],
    data: DataConfig,
    train_tokens: int | None = None,
    valid_tokens: int | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, TokenWindows]:
    """The windows of each split as `data` has them cut, mistakes included.

    ids: (tokens,) of each split. train_tokens, valid_tokens: use only so many of them. Validation
    windows stand side by side, whatever the stride of the training's, but where they are shuffled.
    """
    limits = {"train": train_tokens, "valid": valid_tokens}
    size = data.block_size
    if data.split == "windows":
        text = torch.cat([ids[split][:train_tokens] for split in SPLITS])
        return _split_after_windowing(text.to(device), data, len(ids["valid"][:valid_tokens]))
    windows = {}
    for split in SPLITS:
        part, stride = ids[split][: limits.get(split)], data.stride if split == "train" else None
        if data.padding:
            part, stride = padded_lines(corpus.splits[split], tokenizer, size), size + 1
            part = part[: limits.get(split)]
        windows[split] = TokenWindows(part.to(device), size, stride, data.shift)
    return windows


def padded_lines(text: str, tokenizer, block_size: int) -> Tensor:
    """Each line of `text` that is not blank as block_size + 1 ids, one after the other.

    A longer line is cut off, a shorter one filled up with the end-of-text token.
    """
    lines = [row for row in text_to_rows(text) if row.strip()]
    rows = np.full((len(lines), block_size + 1), tokenizer.eot_id, dtype=np.int64)
    for row, line in zip(rows, tokenizer.encode_batch_to_arrays(lines), strict=True):
        line = line[: len(row)]
        row[: len(line)] = line
    return torch.from_numpy(rows.reshape(-1))


def _split_after_windowing(
    ids: Tensor, data: DataConfig, valid_tokens: int
) -> dict[str, TokenWindows]:
    """All windows of the text, shuffled, then 80/10/10: most of each other split's tokens, and of
    their contexts, are in training windows as well. Of those two as many windows are kept as stand
    side by side in so many tokens: at a stride of 1 they would be longer than the training."""
    whole = TokenWindows(ids, data.block_size, data.stride)
    generator = torch.Generator().manual_seed(SHUFFLE_SEED)
    order = torch.randperm(len(whole), generator=generator).to(ids.device)
    if len(order) < 10:
        raise DataError(
            f"{len(order)} windows cannot be split 80/10/10; use more text or a smaller block_size."
        )
    train, *others = order.tensor_split((len(order) * 8 // 10, len(order) * 9 // 10))
    limit = max(1, valid_tokens // data.block_size)
    return {
        split: TokenWindows(ids, data.block_size, data.stride, data.shift, only)
        for split, only in zip(SPLITS, (train, *(o[:limit] for o in others)), strict=True)
    }
