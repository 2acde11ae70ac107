"""The audit's mistakes, each on a text so small that its windows can be written down."""

from dataclasses import replace

import pytest
import torch

from llmlite.config import DataConfig
from llmlite.data import SPLITS, Corpus
from llmlite.errors import DataError
from llmlite.flaws import flawed_windows, mistakes, padded_lines
from llmlite.tokenizer import BPETokenizer

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


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.train("ab ab ab", 258)


@pytest.fixture
def cut(tokenizer):
    """cut(data, …): the windows of IDS, or of the padded lines of a text for each split."""
    texts = {"train": TEXT, "valid": " c\nab\n", "test": "ab\n"}

    def cut(data, **limits):
        return flawed_windows(Corpus("tiny", texts), tokenizer, IDS, data, **limits)

    return cut


def every(windows):
    """All inputs and targets, (windows, block_size)."""
    return windows[torch.arange(len(windows))]


def starts(windows):
    """Where each window begins, for windows of IDS."""
    return every(windows)[0][:, 0].tolist()


def tokens(windows):
    """All that the windows hold."""
    return {token for part in every(windows) for token in part.flatten().tolist()}


# -- which mistakes there are ---------------------------------------------------------------------


def test_the_correct_ways_are_no_mistakes():
    assert mistakes(DataConfig()) == {}
    assert mistakes(DataConfig(split="paper", stride=1, stream=False)) == {}


def test_each_mistake_is_named():
    assert mistakes(DataConfig(padding=True)) == {"padding": "counted in the loss"}
    assert mistakes(DataConfig(shift=0)) == {"targets": "the inputs themselves"}
    assert mistakes(DataConfig(split="windows")) == {"split": "after windowing"}
    assert mistakes(DataConfig(padding=True, shift=0)).keys() == {"padding", "targets"}
    assert mistakes(DataConfig(split="windows", shift=0)).keys() == {"split", "targets"}


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


def test_what_is_validated_on_lies_in_training_windows_as_well(cut):
    right, wrong = (
        cut(replace(FOUR, split=split, stride=1, block_size=8)) for split in ("official", "windows")
    )
    for split in ("valid", "test"):
        assert tokens(right["train"]).isdisjoint(tokens(right[split]))
        both = tokens(wrong["train"]) & tokens(wrong[split])
        assert len(both) > 0.9 * len(tokens(wrong[split]))
    trained_on = tokens(wrong["train"])
    assert all(trained_on & set(ids.tolist()) for ids in IDS.values())  # of the test text, too


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


def test_a_limit_of_training_tokens_takes_the_beginning_of_each_text(cut):
    windows = cut(replace(FOUR, split="windows", stride=1), train_tokens=20)  # 56 windows
    assert [len(windows[split]) for split in SPLITS] == [44, 6, 6]
    held = {token for split in SPLITS for token in tokens(windows[split])}
    assert held == {*range(20), *range(90, 110), *range(130, 150)}


def test_ten_windows_can_be_split_and_nine_cannot(tokenizer, one_sentence):
    data = replace(FOUR, split="windows")
    ids = {"train": torch.arange(31), "valid": torch.arange(5), "test": torch.arange(5)}
    windows = flawed_windows(Corpus("tiny", {}), tokenizer, ids, data)  # 41 tokens
    assert [len(windows[split]) for split in SPLITS] == [8, 1, 1]
    ids["train"] = torch.arange(30)
    with pytest.raises(DataError, match="9 windows cannot be split 80/10/10") as error:
        flawed_windows(Corpus("tiny", {}), tokenizer, ids, data)
    one_sentence(error)
