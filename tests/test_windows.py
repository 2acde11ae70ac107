"""Windows, their order and the audit's mistakes in them, by hand and against PyTorch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from llmlite.config import DataConfig, TrainConfig
from llmlite.data import SPLITS, Dataset
from llmlite.files import DataError
from llmlite.parallel import World
from llmlite.sources import Source
from llmlite.tokenizer import BPETokenizer
from llmlite.windows import EpochSampler, TokenWindows, padded_lines, windows_of

# One merge: GPT-2's ids of bytes, "ab" is 256 and the end-of-text token 257.
AB, C, SPACE, LINE_END, FILLER = 256, 66, 220, 198, 257
TEXT = "ab ab\n \nabababababab\n\n c\n"
ROWS = [  # of block_size 4: a line each, the second cut off after five of its seven tokens
    [AB, SPACE, AB, LINE_END, FILLER],
    [AB, AB, AB, AB, AB],
    [SPACE, C, LINE_END, FILLER, FILLER],
]
FOUR = DataConfig(block_size=4)
# Ids that say where they are from: side by side the 201 of them are 50 windows of four.
IDS = {"train": torch.arange(90), "valid": torch.arange(90, 130), "test": torch.arange(130, 201)}


@pytest.mark.parametrize(
    ("stride", "starts"), [(None, [0, 3]), (3, [0, 3]), (2, [0, 2, 4]), (1, [0, 1, 2, 3, 4])]
)
def test_windows_worked_out_by_hand(stride, starts):
    windows = TokenWindows(torch.arange(10, 18), block_size=3, stride=stride)  # 8 tokens
    assert len(windows) == len(starts)
    for i, start in enumerate(starts):
        inputs, targets = windows[i]
        assert inputs.tolist() == [10 + start, 11 + start, 12 + start]
        assert targets.tolist() == [11 + start, 12 + start, 13 + start]


def test_a_batch_is_gathered_in_one_indexing_operation():
    windows = TokenWindows(torch.arange(100), block_size=4, stride=2)
    inputs, targets = windows[[5, 0, 7]]
    assert inputs.tolist() == [[10, 11, 12, 13], [0, 1, 2, 3], [14, 15, 16, 17]]
    assert torch.equal(targets, inputs + 1)


def test_only_names_the_windows_and_their_order():
    windows = TokenWindows(torch.arange(20), block_size=3, stride=2, only=torch.tensor([4, 0, 7]))
    assert len(windows) == 3
    inputs, targets = windows[0]
    assert inputs.tolist() == [8, 9, 10]
    assert targets.tolist() == [9, 10, 11]
    assert windows[[2, 1]][0].tolist() == [[14, 15, 16], [0, 1, 2]]
    assert sorted(firsts(windows, 2, seed=1, epoch=0)) == [0, 8, 14]


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("stride", [None, 3])
def test_windows_of_a_file_are_those_of_the_tokens_in_memory(tmp_path, dtype, stride):
    ids = np.random.default_rng(1).integers(0, np.iinfo(dtype).max + 1, 500, dtype)
    np.save(tmp_path / "ids.npy", ids)
    mapped = TokenWindows(np.load(tmp_path / "ids.npy", mmap_mode="r"), 8, stride)
    held = TokenWindows(torch.tensor(ids.tolist()), 8, stride)
    assert len(mapped) == len(held)
    assert mapped.device == torch.device("cpu")
    for index in (5, [5, 0, 7], torch.tensor([[1, 2], [3, 60]])):
        for ours, theirs in zip(mapped[index], held[index], strict=True):
            assert ours.dtype == torch.int64
            assert torch.equal(ours, theirs)


@given(tokens=st.integers(2, 60), block_size=st.integers(1, 59))
def test_side_by_side_every_token_is_a_target_once_but_for_the_tail(tokens, block_size):
    assume(tokens > block_size)
    windows = TokenWindows(torch.arange(tokens), block_size)
    targets = windows[list(range(len(windows)))][1].flatten().tolist()
    assert targets == list(range(1, len(windows) * block_size + 1))
    assert tokens - 1 - len(targets) < block_size  # the tail would not fill another window


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 40))
def test_no_stride_leaves_out_a_window_that_fits(block_size, stride, more):
    assume(stride <= block_size)
    tokens = block_size + more
    windows = TokenWindows(torch.arange(tokens), block_size, stride)
    assert windows[len(windows) - 1][1][-1] < tokens
    assert (len(windows) * stride) + block_size >= tokens  # one more would not fit


def test_a_text_of_one_window_is_enough_and_one_token_less_is_not(one_sentence):
    assert len(TokenWindows(torch.arange(5), block_size=4)) == 1
    with pytest.raises(DataError, match="4 tokens, too few for one window of 4") as error:
        TokenWindows(torch.arange(4), block_size=4)
    one_sentence(error)


def firsts(windows, *order, **epoch):
    """The first token of every window of an epoch, in order."""
    return [int(row[0]) for i in EpochSampler(windows, *order, **epoch) for row in windows[i][0]]


def test_each_epoch_is_another_order_of_all_windows_and_the_seed_decides_it():
    windows = TokenWindows(torch.arange(101), block_size=2)  # 50 of them

    def order(seed, epoch, start=0):
        return firsts(windows, 4, seed, epoch, start)

    orders = [order(seed, epoch) for seed in (1, 2) for epoch in range(3)]
    assert all(sorted(drawn) == list(range(0, 100, 2)) for drawn in orders)
    assert len({tuple(drawn) for drawn in orders}) == 6
    assert order(1, 2) == orders[2]
    assert order(1, 2, start=20) == orders[2][20:]
    assert order(1, 2, start=50) == []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)  # nobody else's random numbers matter
        assert order(1, 2) == orders[2]


def test_an_epochs_order_is_pytorchs_permutation():
    windows = TokenWindows(torch.arange(1001), block_size=1)
    generator = torch.Generator().manual_seed(5 * 1_000_003 + 2)
    expected = torch.randperm(1000, generator=generator)[10:].tolist()
    assert firsts(windows, 64, 5, 2, start=10) == expected


def test_an_epoch_of_so_many_windows_is_the_beginning_of_its_order():
    windows = TokenWindows(torch.arange(101), block_size=2)  # 50 of them

    def order(epoch, start=0, limit=None):
        return firsts(windows, 3, 7, epoch, start, limit=limit)

    limited = [order(epoch, limit=8) for epoch in range(3)]
    assert limited == [order(epoch)[:8] for epoch in range(3)]
    assert len({tuple(sorted(drawn)) for drawn in limited}) == 3  # drawn anew, not shuffled
    assert order(1, start=6, limit=8) == limited[1][6:]
    assert order(1, start=8, limit=8) == []
    assert order(1, limit=50) == order(1, limit=51) == order(1)
    assert [len(index) for index in EpochSampler(windows, 3, 7, 0, limit=8)] == [3, 3, 2]


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_processes_of_a_world_share_each_batch(size):
    windows = TokenWindows(torch.arange(4 * 11 + 1), block_size=4)
    whole = list(EpochSampler(windows, 4, seed=7, epoch=1))
    parts = [EpochSampler(windows, 4, 7, 1, world=World(rank, size)) for rank in range(size)]
    for index, *shares in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat(shares), index)
    for part in parts:  # each knows the size of the whole batch
        assert list(map(len, part.batches)) == list(map(len, whole))


@pytest.mark.parametrize("ids", [torch.arange(50), np.arange(50, dtype=np.uint16)])
@pytest.mark.parametrize("world", [World(), World(0, 2), World(1, 2), World(0, 5)])
@pytest.mark.parametrize("start", [0, 4, 5, 20])
def test_a_dataloader_gives_the_batches_of_an_explicit_loop(ids, world, start):
    windows = TokenWindows(ids, block_size=2)  # 24 of them, 20 in an epoch
    order = torch.randperm(24, generator=torch.Generator().manual_seed(7 * 1_000_003 + 3))
    expected = []
    for at in range(start, 20, 4):
        batch = order[at : min(at + 4, 20)]
        expected.append(windows[batch[world.part(len(batch))]])
    sampler = EpochSampler(windows, 4, 7, 3, start, world, limit=20)
    loader = DataLoader(windows, batch_sampler=sampler, collate_fn=tuple)
    assert len(loader) == len(expected)
    for _ in range(2):  # and again
        for ours, theirs in zip(loader, expected, strict=True):
            assert all(map(torch.equal, ours, theirs))


def test_a_dataloader_leaves_the_batches_on_their_device():
    windows = TokenWindows(torch.arange(50, device="meta"), block_size=2)  # cannot be copied away
    sampler = EpochSampler(windows, 4, seed=7, epoch=0)
    assert {index.device.type for index in sampler} == {"meta"}
    for batch in DataLoader(windows, batch_sampler=sampler, collate_fn=tuple):
        assert {part.device.type for part in batch} == {"meta"}


# -- mistakes made on purpose ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.train("ab ab ab", 258)


@pytest.fixture
def cut(tokenizer):
    """cut(data, …): the windows of IDS, or of the padded lines of a text for each split."""
    texts = {"train": TEXT, "valid": " c\nab\n", "test": "ab\n"}

    def cut(data, ids=IDS, **limits):
        dataset = Dataset.of_ids(ids, data)
        dataset._source, dataset.tokenizer = Source.of("tiny", texts), tokenizer
        return windows_of(dataset, data, TrainConfig(**limits))

    return cut


def every(windows):
    """All inputs and targets, (windows, block_size)."""
    return windows[torch.arange(len(windows))]


def starts(windows):
    """Where each window begins, for windows of IDS."""
    return every(windows)[0][:, 0].tolist()


# -- none, and targets that are the inputs --------------------------------------------------------


def test_without_a_mistake_only_training_windows_overlap(cut):
    windows = cut(replace(FOUR, stride=2))
    assert starts(windows["train"]) == list(range(0, 86, 2))  # 90 tokens: the last begins at 84
    assert starts(windows["valid"]) == list(range(90, 126, 4))  # side by side
    assert starts(windows["test"]) == list(range(130, 197, 4))
    for split in SPLITS:
        inputs, targets = every(windows[split])
        assert torch.equal(targets, inputs + 1)


def test_the_limits_are_of_training_and_validation_tokens(cut):
    windows = cut(replace(FOUR, stride=2), train_tokens=11, valid_tokens=9)
    assert starts(windows["train"]) == [0, 2, 4, 6]  # the last target is token 10
    assert starts(windows["valid"]) == [90, 94]
    assert starts(windows["test"]) == list(range(130, 197, 4))


@pytest.mark.parametrize("change", [{}, {"padding": True}, {"split": "windows"}, {"stride": 1}])
def test_with_shift_0_the_targets_are_the_inputs_in_every_split(cut, change):
    right, wrong = (cut(replace(FOUR, shift=shift, **change)) for shift in (1, 0))
    for split in SPLITS:
        inputs, targets = every(wrong[split])
        assert torch.equal(inputs, every(right[split])[0])
        assert torch.equal(targets, inputs)


# -- padding --------------------------------------------------------------------------------------


def test_lines_are_cut_off_or_filled_up_and_blank_ones_left_out(tokenizer):
    assert tokenizer.eot_id == FILLER
    rows = padded_lines(TEXT, tokenizer, block_size=4)
    assert rows.dtype == torch.int64
    assert rows.view(3, 5).tolist() == ROWS


def test_a_line_as_long_as_the_row_is_whole_and_one_token_more_is_cut(tokenizer):
    assert padded_lines("cccc\n", tokenizer, 4).tolist() == [C, C, C, C, LINE_END]
    assert padded_lines("ccccc\n", tokenizer, 4).tolist() == [C] * 5
    assert padded_lines("c", tokenizer, 1).tolist() == [C, FILLER]  # a text without a line end


@pytest.mark.parametrize("stride", [None, 1, 3])
def test_a_window_is_one_line_and_its_last_target_the_filler(cut, stride):
    windows = cut(replace(FOUR, padding=True, stride=stride))
    inputs, targets = every(windows["train"])
    assert inputs.tolist() == [row[:-1] for row in ROWS]
    assert targets.tolist() == [row[1:] for row in ROWS]
    assert every(windows["valid"])[0].tolist() == [
        [SPACE, C, LINE_END, FILLER], [AB, LINE_END, FILLER, FILLER]
    ]  # fmt: skip
    assert every(windows["test"])[1].tolist() == [[LINE_END, FILLER, FILLER, FILLER]]


def test_limits_of_padded_tokens_leave_whole_lines(cut):
    data = replace(FOUR, padding=True)
    for limit, lines in ((5, 1), (9, 1), (10, 2), (14, 2), (100, 3)):
        windows = cut(data, train_tokens=limit)
        assert every(windows["train"])[0].tolist() == [row[:-1] for row in ROWS[:lines]]
        assert (len(windows["valid"]), len(windows["test"])) == (2, 1)
    assert len(cut(data, valid_tokens=5)["valid"]) == 1


# -- a split after windowing ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stride", "sizes"),
    [(None, (40, 5, 5)), (2, (79, 10, 10))],  # of 50 and of 99 windows
)
def test_all_windows_are_split_80_10_10(cut, stride, sizes):
    windows = cut(replace(FOUR, split="windows", stride=stride))
    assert tuple(len(windows[split]) for split in SPLITS) == sizes
    found = [start for split in SPLITS for start in starts(windows[split])]
    assert sorted(found) == list(range(0, 197, stride or 4))  # each in one split, once
    assert found != sorted(found)
    for split in SPLITS:
        inputs, targets = every(windows[split])
        assert torch.equal(inputs, inputs[:, :1] + torch.arange(4))
        assert torch.equal(targets, inputs + 1)


def test_the_same_text_is_always_split_the_same_way(cut):
    data = replace(FOUR, split="windows")
    first = cut(data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)  # nobody else's random numbers matter
        again = cut(data)
    assert [starts(first[split]) for split in SPLITS] == [starts(again[split]) for split in SPLITS]


@pytest.mark.parametrize(
    ("valid_tokens", "kept"), [(16, 4), (19, 4), (3, 1), (1000, 10), (None, 10)]
)
def test_as_many_are_validated_on_as_stand_side_by_side(cut, valid_tokens, kept):
    """Of 197 windows a tenth is 20, and 10 stand side by side in the validation text's 40 ids."""
    data = replace(FOUR, split="windows", stride=1)
    whole, limited = cut(data), cut(data, valid_tokens=valid_tokens)
    assert len(limited["train"]) == 157
    assert starts(limited["train"]) == starts(whole["train"])
    assert len(limited["valid"]) == len(limited["test"]) == kept
    for split in ("valid", "test"):
        assert starts(limited[split]) == starts(whole[split])[:kept]


def test_ten_windows_can_be_split_and_nine_cannot(cut, one_sentence):
    data = replace(FOUR, split="windows")
    ids = {"train": torch.arange(31), "valid": torch.arange(5), "test": torch.arange(5)}
    windows = cut(data, ids)  # 41 tokens
    assert [len(windows[split]) for split in SPLITS] == [8, 1, 1]
    ids["train"] = torch.arange(30)
    with pytest.raises(DataError, match="9 windows cannot be split 80/10/10") as error:
        cut(data, ids)
    one_sentence(error)


@pytest.mark.parametrize("stride", [None, 2])
def test_what_is_mapped_from_a_file_is_cut_alike(cut, stride):
    mapped = {split: ids.numpy().astype(np.uint16) for split, ids in IDS.items()}
    data = replace(FOUR, stride=stride)
    expected, windows = cut(data, valid_tokens=20), cut(data, mapped, valid_tokens=20)
    for split in SPLITS:
        assert isinstance(windows[split].ids, np.ndarray)
        assert all(map(torch.equal, every(windows[split]), every(expected[split])))
