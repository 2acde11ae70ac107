"""The cutter against the patterns it stands for, and finding equal words against a dict."""

import unicodedata
from collections import Counter

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlite.files import TokenizerError
from llmlite.tokenizer import words as words_module
from llmlite.tokenizer.words import (
    GPT2_SPLIT_PATTERN,
    LETTER,
    NUMBER,
    OTHER,
    SPACE,
    Words,
    _kind_of_code,
    _ranges,
    batches,
    cut,
    distinct,
    gpt2_pattern,
    ragged,
    tally,
)

# Letters of the contractions, blanks of all sorts, signs of one to three bytes, a separator that
# Python takes for white space and Unicode does not.
ALPHABET = "ab '1sdmtlvre\n\t!é日\u0301\u00a0\x1c"
texts_of_alphabet = st.text(alphabet=ALPHABET, max_size=40)


def as_bytes(words: Words) -> list[bytes]:
    return [
        words.data[start : start + length].tobytes()
        for start, length in zip(words.starts.tolist(), words.lengths.tolist(), strict=True)
    ]


def words_of(words: list[bytes]) -> Words:
    return Words.of(b"".join(words), np.array([len(word) for word in words], np.int64))


def cut_each(texts: list[str]) -> list[list[str]]:
    """The words of each text, by one call of `cut`."""
    words, counts = cut(texts)
    found = iter([word.decode() for word in as_bytes(words)])
    each = [[next(found) for _ in range(count)] for count in counts.tolist()]
    assert next(found, None) is None
    return each


# -- cutting --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # contractions: wherever the apostrophe begins a word …
        ("'s", ["'s"]),
        ("it's", ["it", "'s"]),
        ("they'll've", ["they", "'ll", "'ve"]),
        ("we're", ["we", "'re"]),
        ("I'd I'm don't", ["I", "'d", " I", "'m", " don", "'t"]),
        ("1's", ["1", "'s"]),
        ("\n's", ["\n", "'s"]),
        ("\t's", ["\t", "'s"]),
        ("\u00a0's", ["\u00a0", "'s"]),
        ("'s's", ["'s", "'s"]),
        ("'sea", ["'s", "ea"]),
        ("'s1", ["'s", "1"]),
        ("'s!", ["'s", "!"]),
        ("'s'", ["'s", "'"]),
        ("'s x", ["'s", " x"]),
        ("'s  x", ["'s", " ", " x"]),
        ("'llama", ["'ll", "ama"]),
        ("'veil", ["'ve", "il"]),
        ("'very", ["'ve", "ry"]),
        ("'s\u0301", ["'s", "\u0301"]),
        # … but not after a blank or another sign
        (" 's", [" '", "s"]),
        ("  's", [" ", " '", "s"]),
        ("\n 's", ["\n", " '", "s"]),
        ("''s", ["''", "s"]),
        ("!'s", ["!'", "s"]),
        ("e\u0301's", ["e", "\u0301'", "s"]),
        ("\x1c's", ["\x1c'", "s"]),
        # … and only these letters, in lower case, whole
        ("'S", ["'", "S"]),
        ("it'S", ["it", "'", "S"]),
        ("'LL", ["'", "LL"]),
        ("'lL", ["'", "lL"]),
        ("'l", ["'", "l"]),
        ("'l l", ["'", "l", " l"]),
        ("a'v", ["a", "'", "v"]),
        ("a'r1e", ["a", "'", "r", "1", "e"]),
        ("a've", ["a", "'ve"]),
        ("'xs", ["'", "xs"]),
        ("a'", ["a", "'"]),
        ("’s", ["’", "s"]),
        # letters, numbers and other signs, each with the blank before it
        ("ab 12 !? x", ["ab", " 12", " !?", " x"]),
        ("ab12!?", ["ab", "12", "!?"]),
        ("x² ½ ٣٤ 一二 Ⅷ", ["x", "²", " ½", " ٣٤", " 一二", " Ⅷ"]),
        ("e\u0301e", ["e", "\u0301", "e"]),
        ("का", ["क", "ा"]),
        ("日本語。", ["日本語", "。"]),
        ("🙂\u200d🙂", ["🙂\u200d🙂"]),
        ("a\x1cb", ["a", "\x1c", "b"]),
        # white space: the last goes with what follows if it is a blank, and stands apart if not
        ("a b", ["a", " b"]),
        ("a  b", ["a", " ", " b"]),
        ("a   b", ["a", "  ", " b"]),
        ("a\tb", ["a", "\t", "b"]),
        ("a\t\tb", ["a", "\t", "\t", "b"]),
        ("a \tb", ["a", " ", "\t", "b"]),
        ("a\t b", ["a", "\t", " b"]),
        ("a\u00a0b", ["a", "\u00a0", "b"]),
        ("a \u00a0 b", ["a", " \u00a0", " b"]),
        ("a\n\nb", ["a", "\n", "\n", "b"]),
        (" \n = T = \n ", [" \n", " =", " T", " =", " \n "]),
        ("a ", ["a", " "]),
        ("a   ", ["a", "   "]),
        ("a \n", ["a", " \n"]),
        (" ", [" "]),
        ("   ", ["   "]),
        (" a", [" a"]),
        ("  a", [" ", " a"]),
        ("\u3000a", ["\u3000", "a"]),
        ("", []),
    ],
)
def test_a_text_is_cut_by_each_rule_of_the_pattern(text, expected):
    assert cut_each([text]) == [expected]
    assert gpt2_pattern().findall(text) == expected
    assert regex.findall(GPT2_SPLIT_PATTERN, text) == expected


@settings(deadline=None, max_examples=400)
@given(st.lists(texts_of_alphabet, max_size=5))
def test_words_are_those_of_the_regular_expression(texts):
    assert cut_each(texts) == [regex.findall(GPT2_SPLIT_PATTERN, text) for text in texts]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text(max_size=40), max_size=4))
def test_words_of_any_text_are_those_of_the_pattern_written_out(texts):
    assert cut_each(texts) == [gpt2_pattern().findall(text) for text in texts]


def test_texts_do_not_touch_each_other():
    texts = ["", "it'", "s", "", "", " ", " a ", "'l", "l", "a", "b", "日", ""]
    expected = [[], ["it", "'"], ["s"], [], [], [" "], [" a", " "], ["'", "l"]]
    assert cut_each(texts) == [*expected, ["l"], ["a"], ["b"], ["日"], []]
    assert cut_each(["", ""]) == [[], []]
    assert cut_each([]) == []


def test_a_lone_surrogate_is_refused_by_its_code(one_sentence):
    with pytest.raises(TokenizerError, match=r"U\+DFFF") as error:
        cut(["good", "not \udfff good"])
    one_sentence(error)


# -- the table of Unicode -------------------------------------------------------------------------


def test_the_ends_of_all_ranges_are_those_of_hf_tokenizers():
    """HF has its own table: a character that makes one word with a letter is a letter."""
    from tokenizers import pre_tokenizers

    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    near = {c for first, last, _ in _ranges() for c in (first - 1, first, last, last + 1)}
    near = sorted(c for c in near if c < 0x110000 and not 0xD800 <= c < 0xE000)
    theirs = []
    for code in near:
        joins = [len(split(before + chr(code))) == 1 for before in "a1!"]
        assert sum(joins) <= 1
        theirs.append((LETTER, NUMBER, OTHER)[joins.index(True)] if any(joins) else SPACE)
    ours = _kind_of_code()[near].tolist()
    differing = [hex(c) for c, a, b in zip(near, ours, theirs, strict=True) if a != b]
    assert differing == []
    assert len(near) > 1500


def test_the_table_agrees_with_this_python_on_what_both_know():
    kinds = {"L": LETTER, "N": NUMBER}
    table = _kind_of_code().tolist()
    for code in [*range(0x300), *range(0x300, 0x110000, 7)]:
        category = unicodedata.category(chr(code))
        if category in ("Cn", "Cs"):  # unassigned in this version, surrogate
            continue
        space = chr(code).isspace() and code not in range(0x1C, 0x20)  # not by White_Space
        expected = SPACE if space else kinds.get(category[0], OTHER)
        assert table[code] == expected, hex(code)


# -- pieces of long texts -------------------------------------------------------------------------


def batches_of(size: int, texts: list[str]):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(words_module, "BATCH", size)
        return list(batches(texts))


@settings(deadline=None, max_examples=300)
@given(st.lists(st.text(alphabet=ALPHABET, max_size=60), max_size=4), st.integers(1, 12))
def test_pieces_have_the_words_of_the_texts(texts, size):
    joined, words = [""] * len(texts), [[] for _ in texts]
    for pieces, numbers in batches_of(size, texts):
        for piece, number in zip(pieces, numbers, strict=True):
            joined[number] += piece
            words[number] += gpt2_pattern().findall(piece)
    assert joined == texts
    assert words == [gpt2_pattern().findall(text) for text in texts]


def test_batches_hold_about_as_many_characters_as_asked_for():
    text = "ab cd " * 50  # can be cut every third character
    sizes = [len("".join(pieces)) for pieces, _ in batches_of(10, [text, text])]
    assert sum(sizes) == 600
    assert all(10 <= size <= 12 for size in sizes[:-1])
    assert batches_of(10, ["a", "", "b"]) == [(["a", "", "b"], [0, 1, 2])]
    assert batches_of(10, []) == []


def test_a_text_is_not_cut_where_there_is_no_safe_place():
    assert batches_of(10, ["x" * 100 + "\t\n" + "y"]) == [(["x" * 100 + "\t\ny"], [0])]


# -- equal words ----------------------------------------------------------------------------------


def check_distinct(words: list[bytes]) -> None:
    """`distinct` keeps one of each, and tells for each word which."""
    kept, number = distinct(words_of(words))
    kept = as_bytes(kept)
    assert set(kept) == set(words)
    assert len(kept) == len(set(words))
    assert [kept[i] for i in number.tolist()] == words


short_words = st.text(alphabet="ab\0é", min_size=1, max_size=4).map(str.encode)


@settings(deadline=None, max_examples=200)
@given(st.lists(short_words, max_size=30))
def test_distinct_words_are_those_of_a_dict(words):
    check_distinct(words)


def test_words_that_differ_in_nul_bytes_only_are_different():
    check_distinct([b"a", b"a\0", b"a", b"a\0\0", b"\0", b"\0\0", b"\0" * 8, b"\0" * 9, b"\0" * 7])


def test_words_of_all_lengths_that_differ_in_one_byte_are_different():
    rng = np.random.default_rng(0)
    for length in (*range(1, 71), 127, 128, 129, 1000):
        base = bytes(length)
        changed = [base[:i] + b"\x01" + base[i + 1 :] for i in (0, length // 2, length - 1)]
        check_distinct([base, *changed, base, *changed[::-1]])
    words = [rng.integers(97, 99, size).astype(np.uint8).tobytes() for size in range(1, 71)] * 3
    check_distinct([words[i] for i in rng.permutation(len(words))])


def test_no_words_have_no_distinct_words():
    check_distinct([])


def test_tally_adds_counts_over_parts():
    parts = [[b"a", b"b", b"a"], [], [b"c", b"a"], [b"b", b"a\0", b"longer than eight", b"b"]]
    known, counts = tally(words_of(part) for part in parts)
    assert counts.dtype == np.int64
    expected = Counter(word for part in parts for word in part)
    assert dict(zip(as_bytes(known), counts.tolist(), strict=True)) == expected
    known, counts = tally([])
    assert (len(known), len(counts)) == (0, 0)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(short_words, max_size=8), max_size=5))
def test_tally_of_any_parts_is_that_of_a_counter(parts):
    known, counts = tally(words_of(part) for part in parts)
    expected = Counter(word for part in parts for word in part)
    assert dict(zip(as_bytes(known), counts.tolist(), strict=True)) == expected
    assert len(known) == len(expected)


def test_joined_words_lie_in_a_buffer_of_their_own():
    words = words_of([b"ab", b"c", b"def"])
    joined = Words.join([words.take(np.array([2, 0])), words_of([]), words_of([b"x"])])
    assert as_bytes(joined) == [b"def", b"ab", b"x"]
    assert joined.data.tobytes() == b"defabx" + bytes(8)
    assert len(Words.join([])) == 0


def test_ragged_takes_one_slice_after_the_other():
    values, array = np.array([10, 11, 12, 13, 14]), np.array
    assert ragged(values, array([3, 0, 1]), array([2, 1, 3])).tolist() == [13, 14, 10, 11, 12, 13]
    assert ragged(values, array([4, 2, 0]), array([0, 2, 0])).tolist() == [12, 13]
    assert ragged(values, array([1, 1]), array([0, 0])).tolist() == []
    empty = np.zeros(0, np.int64)
    assert ragged(values, empty, empty).tolist() == []
