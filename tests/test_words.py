"""The cutter against the patterns it stands for."""

from itertools import islice, product

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
    data = words.data.tobytes()
    found = (data[a:b].decode() for a, b in zip(words.starts.tolist(), ends, strict=True))
    each = [list(islice(found, count)) for count in counts.tolist()]
    assert not list(found)
    return each


# By hand, of each rule of the pattern; of all that stands around an apostrophe the library decides.
EXAMPLES = [
    "it|'s|ea", "I|'ll|ama", " '|s", "''|s", "n|'|S", "e|\u0301'|s", "’|s", "ab| 12| !?|x|²| ½",
    " \n| =| T| =| \n ", "a| | b", "a|\t|\t|b", "a|\n|\n|b", "a|   ", "a| \u00a0| b", " 日本語|。",
]  # fmt: skip
PIECES = [*"'sdmtlS1!日\u0301 \n\u00a0", "ll", "ve", "re"]


def test_a_text_is_cut_as_the_pattern_says():
    expected = [example.split("|") for example in EXAMPLES]
    assert cut_each(["".join(words) for words in expected]) == expected
    texts = [example.replace("|", "") for example in EXAMPLES]
    texts += map("".join, product(PIECES, ["", "'"], PIECES, PIECES))
    expected = [regex.findall(GPT2_SPLIT_PATTERN, text) for text in texts]
    assert cut_each(texts) == expected
    assert [gpt2_pattern().findall(text) for text in texts] == expected


@settings(deadline=None, max_examples=250)
@given(st.lists(st.text(ALPHABET, max_size=40) | st.text(max_size=40), max_size=5))
def test_words_of_any_texts_are_those_of_the_pattern_written_out(texts):
    assert cut_each(texts) == [gpt2_pattern().findall(text) for text in texts]


def test_characters_are_of_the_kind_that_hf_tokenizers_has_at_the_ends_of_all_ranges_too():
    from tokenizers import pre_tokenizers

    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    ends = regex.findall(r"\\U([0-9A-F]{8})", gpt2_pattern().pattern)
    codes = {*range(0x300), *range(0x300, 0x110000, 31)}
    codes |= {int(end, 16) + step for end in ends for step in (-1, 0, 1)}
    codes = sorted(codes - {-1, 0x110000} - set(range(0xD800, 0xE000)))
    assert len(ends) > 1000
    for before in "a1!":  # a character that makes one word with a letter is a letter, and so on
        texts = [before + chr(code) for code in codes]
        assert cut(texts)[1].tolist() == [len(split(text)) for text in texts]


def test_batches_hold_about_as_many_characters_as_asked_for(monkeypatch):
    monkeypatch.setattr(words_module, "BATCH", 10)
    text = "ab cd " * 50  # can be cut every third character
    sizes = [len("".join(pieces)) for pieces, _ in batches([text[6:], "ab", text])]
    assert sum(sizes) == 596
    assert all(10 <= size <= 12 for size in sizes[:-1])
