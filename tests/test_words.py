"""The cutter against the patterns it stands for."""

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlite.tokenizer import words as words_module
from llmlite.tokenizer.words import GPT2_SPLIT_PATTERN, batches, cut, gpt2_pattern

# Letters of the contractions, blanks of all sorts, signs of one to three bytes, a separator that
# Python takes for white space and Unicode does not.
ALPHABET = "ab '1sdmtlvre\n\t!é日\u0301\u00a0\x1c"


def cut_each(texts: list[str]) -> list[list[str]]:
    """The words of each text, by one call of `cut`."""
    words, counts = cut(texts)
    ends = (words.starts + words.lengths).tolist()
    found = [words.data[a:b].tobytes().decode() for a, b in zip(words.starts, ends, strict=True)]
    each = [[found.pop(0) for _ in range(count)] for count in counts.tolist()]
    assert not found
    return each


RULES = {
    "contractions, wherever the apostrophe begins a word": [
        "'s", "it|'s", "they|'ll|'ve", "we|'re", "I|'d| I|'m| don|'t", "1|'s", "\n|'s", "\u00a0|'s",
        "'s|'s", "'s|ea", "'s|1", "'s|!", "'s|'", "'s| | x", "'ll|ama", "'ve|ry", "'s|\u0301",
    ],
    "but not after a blank or another sign, and only these letters, in lower case, whole": [
        " '|s", " | '|s", "\n| '|s", "''|s", "!'|s", "e|\u0301'|s", "\x1c'|s", "'|S", "it|'|S",
        "'|lL", "'|l", "'|l| l", "a|'|v", "a|'|r|1|e", "'|xs", "a|'", "’|s",
    ],
    "letters, numbers and other signs, each with the blank before it": [
        "ab| 12| !?| x", "ab|12|!?", "x|²| ½| ٣٤| 一二| Ⅷ", "e|\u0301|e", "क|ा", "日本語|。",
        "🙂\u200d🙂", "a|\x1c|b",
    ],
    "white space, whose last goes with what follows if it is a blank and else stands apart": [
        "a| b", "a| | b", "a|\t|b", "a|\t|\t|b", "a| |\t|b", "a|\t| b", "a| \u00a0| b", "a|\n|\n|b",
        " \n| =| T| =| \n ", "a| ", "a|   ", "   ", " a", " | a", "\u3000|a",
    ],
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_a_text_is_cut_by_each_rule_of_the_pattern(rule):
    expected = [example.split("|") for example in RULES[rule]]
    texts = ["".join(words) for words in expected]
    assert cut_each(texts) == expected
    assert [gpt2_pattern().findall(text) for text in texts] == expected
    assert [regex.findall(GPT2_SPLIT_PATTERN, text) for text in texts] == expected


@settings(deadline=None, max_examples=250)
@given(st.lists(st.text(ALPHABET, max_size=40) | st.text(max_size=40), max_size=5))
def test_words_of_any_texts_are_those_of_the_pattern_written_out(texts):
    assert cut_each(texts) == [gpt2_pattern().findall(text) for text in texts]


def kinds_by_cutting(codes: list[int]) -> list[str]:
    """A character that makes one word with a letter is a letter, and so on: "L", "N", "O"; or "S",
    white space, which joins none of them."""
    joins = [cut([before + chr(code) for code in codes])[1] == 1 for before in "a1!"]
    return ["LNOS"[which] for which in np.argmax([*joins, np.ones(len(codes))], axis=0)]


def test_characters_are_of_the_kind_that_hf_tokenizers_has_at_the_ends_of_all_ranges_too():
    from tokenizers import pre_tokenizers

    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    ends = regex.findall(r"\\U([0-9A-F]{8})", gpt2_pattern().pattern)
    codes = {*range(0x300), *range(0x300, 0x110000, 31)}
    codes |= {int(end, 16) + step for end in ends for step in (-1, 0, 1)}
    codes = sorted(codes - {-1, 0x110000} - set(range(0xD800, 0xE000)))
    assert len(ends) > 1000
    theirs = []
    for code in codes:
        joins = [len(split(before + chr(code))) == 1 for before in "a1!"]
        theirs.append("LNOS"[[*joins, True].index(True)])
    assert kinds_by_cutting(codes) == theirs


def test_batches_hold_about_as_many_characters_as_asked_for(monkeypatch):
    monkeypatch.setattr(words_module, "BATCH", 10)
    text = "ab cd " * 50  # can be cut every third character
    sizes = [len("".join(pieces)) for pieces, _ in batches([text[6:], "ab", text])]
    assert sum(sizes) == 596
    assert all(10 <= size <= 12 for size in sizes[:-1])
    assert list(batches(["a", "", "b"])) == [(["a", "", "b"], [0, 1, 2])]
    unsafe = "x" * 100 + "\t\ny"
    assert list(batches([unsafe])) == [([unsafe], [0])]
