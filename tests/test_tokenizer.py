"""The tokenizer against HF tokenizers, tiktoken and the textbook, and the cutter against the
patterns it stands for."""

import json
import random
from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest
import regex
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from texts import check_ids, hf_trainer, random_texts
from tokenizers import pre_tokenizers

from llmlite.files import TokenizerError
from llmlite.tokenizer import BYTE_ORDER, END_OF_TEXT, BPETokenizer
from llmlite.tokenizer import words as words_module
from llmlite.tokenizer.bpe import imported
from llmlite.tokenizer.learn import Pair, learn_merges
from llmlite.tokenizer.words import GPT2_SPLIT_PATTERN, Words, batches, cut, gpt2_pattern

# Pairs that occur equally often, at every step, are what this text consists of.
TIES = "".join(f" {a}{b}{c}" for a in "abcde" for b in "cdeab" for c in "éeda") + " aaaa aaaaaaa"
PROSE = """ = Beryllium = \n \n Beryllium was found in 1798 by Louis @-@ Nicolas Vauquelin , who
didn't name it . It's a hard , grey metal ; its density is 1 @.@ 85 g / cm3 . They'll say that
beryllium isn't common : we've 2 @,@ 800 t a year , and they're mined in Utah .   \n\n\n Naïve
façade , Ελληνικά , русский , 日本語 , עברית , العربية , 🙂 👩‍👧 , x² + y₂ .\t\tTabs , too .\r\n"""
VARIED = [
    "",
    "The cat sat on the mat . It isn't , we're sure , they'll say 'twas .",
    " \n = Title = \n \n The corpus and its joiners : 1 @,@ 234 @.@ 5 well @-@ known .\n",
    "   leading, ½ ٣٤ 一二三 Ⅷ “quotes” … e\u0301 \u00a0 no-break \u3000 wide, trailing   \n\n\n",
    "\x00\x01\x1c\x1f\x7f\x85\u2028\ufeff\uffff\U0010ffff",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa bcbcbcbcbcbcb",
    f"before {END_OF_TEXT} after",
]
SPECIAL = f"{END_OF_TEXT}one{END_OF_TEXT}{END_OF_TEXT} two, <|endoftext| {END_OF_TEXT}"


def hf_merges(text: str, vocab_size: int) -> list[Pair]:
    """Of HF's byte-level BPE with a vocabulary that leaves room for our special token."""
    tokenizer, trainer = hf_trainer(vocab_size - 1)
    tokenizer.train_from_iterator([text], trainer)
    ids, merges = tokenizer.get_vocab(), json.loads(tokenizer.to_str())["model"]["merges"]
    return [(ids[left], ids[right]) for left, right in merges]


def textbook_merging(ids: list[int], merges: list[Pair]) -> list[int]:
    """The earliest learnt pair is merged in all its places, from the left, then the next."""
    for token, pair in enumerate(merges, 256):
        done = []
        for i in ids:
            if done and (done[-1], i) == pair:
                done[-1] = token
            else:
                done.append(i)
        ids = done
    return ids


def ids_of(word: str) -> list[int]:
    return [BYTE_ORDER.index(byte) for byte in word.encode()]


TRAINED = BPETokenizer.train(PROSE + TIES, 400)
A, B, C = ids_of("abc")


runs = st.builds(str.__mul__, st.sampled_from(["a", "b", "ab", "aab", " ", "1"]), st.integers(1, 9))
texts = st.lists(runs, max_size=20).map("".join) | st.text(alphabet="abc é\n's1", max_size=200)
# Letters of the contractions, blanks of all sorts, signs of one to three bytes, a separator that
# Python takes for white space and Unicode does not.
alphabet = "ab '1sdmtlvre\n\t!é日\u0301\u00a0\x1c"
any_texts = st.lists(texts | st.text(alphabet, max_size=40) | st.text(), max_size=5)


@settings(deadline=None, max_examples=150)
@given(texts, st.integers(0, 12))
@example("ab1ab1abc1abc1bca", 4)  # digits are words of their own; pairs that occur equally often
@example("aaaaa", 3)  # the same pair in two places that overlap
@example("ab1ab1 ab1abc1bc", 3)
def test_merges_are_those_of_hf_tokenizers_to_the_last(text, n):
    merges = hf_merges(text, 100_000)
    if merges:
        for some in (merges, merges[:n]):
            assert BPETokenizer.train(text, 257 + len(some)).merges == some
        with pytest.raises(TokenizerError, match=f"a vocabulary of {257 + len(merges)};"):
            BPETokenizer.train(text, 258 + len(merges))


def test_counts_of_more_than_32_bits_are_told_apart_and_the_bar_reaches_its_end():
    # a+b and a+a 3 × 2⁴⁰, b+c one more; after those a+bc 2⁴¹, then a+b and aa+aa 2⁴⁰
    words = Words(b"abbcabcaaaa", np.array([2, 2, 3, 4]))
    counts, steps = np.array([2**40, 2**40 + 1, 2**41, 2**40]), []
    merges = learn_merges(words, counts, 10, steps.append)
    assert merges == [(B, C), (A, A), (A, 256), (A, B), (257, 257)]
    assert sum(steps) == 5
    assert all(steps)


def test_a_smaller_vocabulary_is_the_beginning_and_texts_may_come_one_by_one():
    for n in (257, 333, 400):
        smaller = TRAINED.truncate(n)
        shown = BPETokenizer.train(iter([PROSE, TIES]), n, progress=True)
        assert shown.fingerprint == smaller.fingerprint
        assert smaller.decode([n - 1]) == END_OF_TEXT
    assert len({TRAINED.truncate(n).fingerprint for n in (257, 333, 400)}) == 3


@pytest.mark.parametrize("batch", [50, 1 << 20])
def test_texts_have_the_ids_of_hf_tokenizers_and_tiktoken(monkeypatch, batch):
    """Texts of all kinds, and words that differ in one byte or in how many NUL bytes they have."""
    monkeypatch.setattr(words_module, "BATCH", batch)
    lengths = (*range(1, 80), 126, 127, 128, 200)
    words = ["a" * i + "b" + "a" * (n - i) for n in lengths for i in (0, n // 2, n)]
    words += ["".join(random.Random(n).choices("aab", k=n)) for n in lengths]
    words += [start + "\0" * n for n in range(1, 20) for start in ("", "!")]
    texts = [*VARIED, SPECIAL, PROSE + TIES, "1".join(words * 2), *random_texts(1_000, seed=batch)]
    for tokenizer in (TRAINED, BPETokenizer.train([*words, PROSE], 600), BPETokenizer([])):
        check_ids(tokenizer, texts)


def test_on_wikitext_merges_and_ids_are_those_of_hf_tokenizers_and_tiktoken(wikitext_corpus):
    text, sample = wikitext_corpus.text("valid"), wikitext_corpus.text("test")[:200_000]
    tokenizer = BPETokenizer.train(text, 4096)
    assert tokenizer.merges == hf_merges(text, 4096)
    check_ids(tokenizer, [sample, *random_texts(1_000, 4096)])


@st.composite
def any_merges(draw) -> list[Pair]:
    """Merges that need not come from any text: of two tokens that are there, each pair once."""
    tokens, merges = ids_of("ab '\n"), []
    for _ in range(draw(st.integers(0, 20))):
        pair = draw(st.tuples(st.sampled_from(tokens), st.sampled_from(tokens)))
        if pair not in merges:
            tokens.append(256 + len(merges))
            merges.append(pair)
    return merges


@settings(deadline=None, max_examples=250)
@given(any_merges(), any_texts, st.sampled_from([1, 3, 9, 10**6]))
def test_each_word_is_merged_as_in_the_textbook_alone_and_with_others(merges, texts, batch):
    tokenizer = BPETokenizer(merges)
    words = [gpt2_pattern().findall(text) for text in texts]
    assert cut_each(texts) == words
    expected = [
        [i for w in of_text for i in textbook_merging(ids_of(w), merges)] for of_text in words
    ]
    assert [tokenizer.encode(text) for text in texts] == expected
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(words_module, "BATCH", batch)
        arrays = tokenizer.encode_batch_to_arrays(iter(texts))
    assert [array.tolist() for array in arrays] == expected
    assert all(array.dtype == np.uint16 for array in arrays)
    assert [tokenizer.decode(ids) for ids in expected] == texts


def test_arrays_hold_ids_in_the_smallest_type():
    assert TRAINED.encode_to_array(PROSE).tolist() == TRAINED.encode(PROSE)
    assert TRAINED.encode_to_array("").dtype == np.uint16
    pairs = list(product(range(256), repeat=2))
    assert BPETokenizer(pairs[: 65_536 - 257]).dtype == np.uint16
    assert BPETokenizer(pairs[: 65_537 - 257]).dtype == np.uint32


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 399)), text=st.text())
def test_any_ids_in_any_form_decode_to_the_text_of_their_bytes(ids, text):
    data = text.encode()[1:] + b"\xed\xa0\x80"  # the rest of a character, and a surrogate
    ids = [*map(BYTE_ORDER.index, data), *ids]
    expected = b"".join(TRAINED.token_bytes[i] for i in ids).decode(errors="replace")
    tensor, far_apart = torch.tensor(ids), np.repeat(np.array(ids, np.uint64), 2)[::2]
    for form in (ids, tuple(ids), iter(ids), list(tensor), tensor, far_apart, list(far_apart)):
        assert TRAINED.decode(form) == expected


def test_a_saved_tokenizer_comes_back_the_same(tmp_path):
    TRAINED.save(path := tmp_path / "new folder" / "tokenizer.json")
    loaded, content = BPETokenizer.load(path), json.loads(path.read_text("utf-8"))
    assert (loaded.fingerprint, loaded.merges) == (TRAINED.fingerprint, TRAINED.merges)
    assert (content["special_tokens"], content["vocab_size"]) == ({END_OF_TEXT: 399}, 400)


def load(content: bytes = b"", **changes) -> None:
    """A file with this content, or one that was saved, with changes."""
    BPETokenizer.train("ab ab", 258).save("tokenizer.json")
    saved = json.loads(Path("tokenizer.json").read_text("utf-8"))
    Path("tokenizer.json").write_bytes(content or json.dumps(saved | changes).encode())
    BPETokenizer.load("tokenizer.json")


@pytest.mark.parametrize(("call", "said"), [
    (lambda: BPETokenizer.train("some text", 256), "256 is too small; the least is 257"),
    (lambda: BPETokenizer.train(iter(["", ""]), 300), "no text to train on"),
    (lambda: BPETokenizer.train("good text \ud800", 257), r"U\+D800"),
    (lambda: BPETokenizer([(64, 65), (64, 257)]), r"Merge 2 joins \(64, 257\)"),
    (lambda: BPETokenizer([(64, 65), (-1, 64)]), "Merge 2 joins"),
    (lambda: BPETokenizer([(64, 65), (64, 65)]), "merged twice"),
    (lambda: TRAINED.truncate(256), "cut to 256; allowed: 257 to 400"),
    (lambda: TRAINED.truncate(401), "cut to 401; allowed: 257 to 400"),
    (lambda: TRAINED.encode(b"bytes"), "not a bytes"),
    (lambda: TRAINED.encode("good text \udc80"), r"U\+DC80"),
    (lambda: TRAINED.encode_batch_to_arrays(["a", None]), "number 1 is a NoneType"),
    (lambda: TRAINED.encode_batch_to_arrays("not a list"), "in a list"),
    (lambda: TRAINED.decode([5, -1]), "-1 is outside .*0 to 399"),
    (lambda: TRAINED.decode(np.array([5, 400])), "400 is outside .*0 to 399"),
    (lambda: TRAINED.decode([1.5]), "integers in one dimension"),
    (lambda: imported("no_such_library"), "pip install no_such_library"),
    (lambda: BPETokenizer.load("a.json"), "a.json cannot be read as a tokenizer: .*No such"),
    (lambda: load(b"\xff\xfe\x00"), "tokenizer.json cannot be read"),
    (lambda: load(b"null"), "None is not a dict"),
    (lambda: load(b"[" * 10**5), "tokenizer.json cannot be read .*nests too deeply"),
    (lambda: BPETokenizer([(64, 64), *((i, i) for i in range(256, 298))]), "Merge 24 .*16,777,216"),
    (lambda: load(merges=[64], fingerprint="9f74393e33ce9f93"), "tokenizer.json has no pairs"),
    (lambda: load(merges=[[64, 65]] * 2, fingerprint="b82c0ba19ed16d43"), "json .* merged twice"),
    (lambda: load(merges=[[64, 66]]), "tokenizer.json is damaged or was edited"),
    (lambda: load(format="other"), "tokenizer.json is not an llmlite tokenizer"),
    (lambda: load(pattern=r"\S+"), "tokenizer.json .* another pattern than GPT-2's"),
])  # fmt: skip
def test_what_cannot_be_done_is_refused(call, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TokenizerError, match=said):
        call()


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


def test_characters_are_of_the_kind_that_hf_tokenizers_has_at_the_ends_of_all_ranges_too():
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
