"""Windows, their order and the audit's mistakes in them, by hand and against plain loops."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from llmlite.config import DataConfig, TrainConfig
from llmlite.data import SPLITS
from llmlite.files import DataError
from llmlite.parallel import World
from llmlite.tokenizer import BPETokenizer
from llmlite.windows import EpochSampler, TokenWindows, windows_of

# One merge: GPT-2's ids of bytes, "ab" is 256 and the end-of-text token 257.
TOKENIZER = BPETokenizer.train("ab ab ab", 258)
AB, C, SPACE, LINE_END, FILLER = 256, 66, 220, 198, 257
TEXTS = {"train": "ab ab\n \nabababababab\n\n c\n", "valid": "cccc\nccccc\n", "test": "ab"}
ROWS = {  # of block_size 4: a line each, longer ones cut off, blank ones left out
    "train": [[AB, SPACE, AB, LINE_END, FILLER], [AB] * 5, [SPACE, C, LINE_END, FILLER, FILLER]],
    "valid": [[C, C, C, C, LINE_END], [C] * 5],
    "test": [[AB, FILLER, FILLER, FILLER, FILLER]],  # a text without a line end
}
FOUR = DataConfig(block_size=4)
# Ids that say where they are from: side by side the 201 of them are 50 windows of four.
IDS = dict(zip(SPLITS, torch.arange(60_000, 60_201).split([90, 40, 71]), strict=True))


number = st.integers(0, 70)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 8), st.integers(1, 5), number, number, number, number)
def test_processes_share_an_epochs_order(count, batch_size, processes, seed, epoch, start, limit):
    """From `start` on, for that is what an interrupted epoch has seen, and up to a `limit`."""
    windows, limit = TokenWindows(torch.arange(2 * count + 1), block_size=2), limit or None
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(count, generator=generator).tolist()[:limit][start:]
    whole = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
    samplers = [
        EpochSampler(windows, batch_size, seed, epoch, start, World(rank, processes), limit)
        for rank in range(processes)
    ]
    for sampler in samplers:  # each knows the size of the whole batch
        assert len(sampler) == len(whole)
        assert [batch.tolist() for batch in sampler.batches] == whole
    for batch, *shares in zip(whole, *samplers, strict=True):
        assert torch.cat(shares).tolist() == batch
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_dataloader_takes_them_and_leaves_the_batches_on_their_device():
    windows = TokenWindows(torch.arange(50, device="meta"), block_size=2)  # cannot be copied away
    sampler = EpochSampler(windows, 4, seed=7, epoch=0, limit=18)
    loader = DataLoader(windows, batch_sampler=sampler, collate_fn=tuple)
    assert len(loader) == len(sampler) == 5
    assert {part.device.type for batch in loader for part in (*batch, *sampler)} == {"meta"}


def cut(data, ids=IDS, **limits):
    """The windows of IDS, or of the padded lines of TEXTS."""
    dataset = SimpleNamespace(ids=ids, text=TEXTS.get, tokenizer=TOKENIZER)
    return windows_of(dataset, data, TrainConfig(**limits))


def cut_by_a_loop(data, train_tokens=None, valid_tokens=None):
    """Each split's windows as rows of five ids, of which the last is a target alone."""
    limits = {"train": train_tokens, "valid": valid_tokens, "test": None}
    if data.padding:
        return {name: rows[: limits[name] and limits[name] // 5] for name, rows in ROWS.items()}
    if data.split == "official":
        found = {}
        for name, ids in IDS.items():
            used, stride = ids[: limits[name]].tolist(), data.stride if name == "train" else None
            found[name] = [used[at : at + 5] for at in range(0, len(used) - 4, stride or 4)]
        return found
    text = torch.cat([ids[:train_tokens] for ids in IDS.values()]).tolist()
    rows = [text[at : at + 5] for at in range(0, len(text) - 4, data.stride or 4)]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1)).tolist()
    train, valid = len(rows) * 8 // 10, len(rows) * 9 // 10
    beside = max(1, min(valid_tokens or 40, 40) // 4)  # as many as side by side in validation
    parts = {"train": order[:train], "valid": order[train:valid], "test": order[valid:]}
    limits = {"train": None, "valid": beside, "test": beside}
    return {name: [rows[i] for i in part[: limits[name]]] for name, part in parts.items()}


@settings(deadline=None)
@given(
    kind=st.sampled_from(["official", "mapped from a file", "padded", "split afterwards"]),
    stride=st.none() | st.integers(1, 4),
    shift=st.sampled_from([0, 1]),
    limits=st.fixed_dictionaries(
        {}, optional={"train_tokens": st.integers(17, 99), "valid_tokens": st.integers(5, 49)}
    ),
)
@example(kind="split afterwards", stride=1, shift=1, limits={"valid_tokens": 3})  # one, not none
def test_each_split_has_the_windows_a_loop_cuts(tmp_path_factory, kind, stride, shift, limits):
    split = "windows" if kind == "split afterwards" else "official"
    data = replace(FOUR, stride=stride, shift=shift, split=split, padding=kind == "padded")
    ids = IDS
    if mapped := kind == "mapped from a file":
        file = tmp_path_factory.mktemp("ids") / "ids.npy"
        np.save(file, torch.cat(list(IDS.values())).numpy().astype(np.uint16))
        parts = np.split(np.load(file, mmap_mode="r"), [90, 130])
        ids = dict(zip(SPLITS, parts, strict=True))
    windows, expected = cut(data, ids, **limits), cut_by_a_loop(data, **limits)
    for name in SPLITS:
        assert len(windows[name]) == len(expected[name])
        assert windows[name][0][0].tolist() == expected[name][0][:-1]
        index = torch.arange(len(windows[name])).flip(0)  # in any order, as batches are
        inputs, targets = windows[name][index]
        assert inputs.tolist() == [expected[name][i][:-1] for i in index]
        assert targets.tolist() == [expected[name][i][shift : shift + 4] for i in index]
        assert inputs.dtype == targets.dtype == torch.int64
        assert isinstance(windows[name].ids, np.memmap) == mapped


@pytest.mark.parametrize(("split", "enough", "sizes", "said"), [
    ("official", 5, [1, 1, 1], "The text has 4 tokens, too few for one window of 4"),
    ("windows", 31, [8, 1, 1], "9 windows cannot be split 80/10/10"),
])  # fmt: skip
def test_a_text_that_is_one_token_too_short_is_refused(split, enough, sizes, said):
    ids = {"train": torch.arange(enough), "valid": torch.arange(5), "test": torch.arange(5)}
    windows = cut(replace(FOUR, split=split), ids)
    assert [len(windows[split]) for split in SPLITS] == sizes
    ids["train"] = ids["train"][1:]
    with pytest.raises(DataError, match=said):
        cut(replace(FOUR, split=split), ids)
