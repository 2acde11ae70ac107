"""The tokenizer against HF tokenizers, tiktoken and examples worked out by hand."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import regex
import tiktoken
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlite.errors import TokenizerError
from llmlite.tokenizer import BYTE_ORDER, END_OF_TEXT, GPT2_SPLIT_PATTERN, BPETokenizer

# Pairs that occur equally often, at every step, are what this text consists of.
TIES = "".join(f" {a}{b}{c}" for a in "abcde" for b in "cdeab" for c in "éeda") + " aaaa aaaaaaa"
PROSE = """ = Beryllium = \n \n Beryllium was found in 1798 by Louis @-@ Nicolas Vauquelin , who
didn't name it . It's a hard , grey metal ; its density is 1 @.@ 85 g / cm3 . They'll say that
beryllium isn't common : we've 2 @,@ 800 t a year , and they're mined in Utah .   \n\n\n Naïve
façade , Ελληνικά , русский , 日本語 , עברית , العربية , 🙂 👩‍👧 , x² + y₂ .\t\tTabs , too .\r\n"""
VARIED = [
    "",
    " ",
    "a",
    "The cat sat on the mat . It isn't , we're sure , they'll say 'twas .",
    " \n = Title = \n \n The corpus and its joiners : 1 @,@ 234 @.@ 5 well @-@ known .\n",
    "   leading and trailing   \n\n\n",
    "x² ½ ٣٤ 一二三 Ⅷ",
    "naïve façade — “quotes” … Ελληνικά, русский, 日本語, עברית, العربية",
    "🙂🙂 👩‍👧 e\u0301 \u00a0 no-break \u3000 wide",
    "\x00\x01\x1c\x1f\x7f\x85\u2028\ufeff\uffff\U0010ffff",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa bcbcbcbcbcbcb",
    f"before {END_OF_TEXT} after",
]


def train_hf(text: str, vocab_size: int):
    """HF's byte-level BPE with a vocabulary that leaves room for our special token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [text],
        trainers.BpeTrainer(
            vocab_size=vocab_size - 1,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def merges_of_hf(tokenizer) -> list[tuple[int, int]]:
    vocabulary = tokenizer.get_vocab()
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(vocabulary[left], vocabulary[right]) for left, right in merges]


@pytest.fixture(scope="module")
def trained() -> BPETokenizer:
    return BPETokenizer.train(PROSE + TIES, 400)


# -- training -------------------------------------------------------------------------------------


def test_training_on_an_example_worked_out_by_hand():
    # Words: "ab" twice, " ab" once, "abc" once, "bc" once. Pairs: a+b 4, b+c 2, " "+a 1.
    # After ab: ab+c 1, b+c 1, " "+ab 1. The byte order has a = 64, b = 65, c = 66 and puts the
    # space, which does not print, last but 35: ties fall to the smaller left id, then the right.
    tokenizer = BPETokenizer.train("ab1ab1 ab1abc1bc", 260)  # digits are words of their own
    a, b, c = (BYTE_ORDER.index(ord(letter)) for letter in "abc")
    space = BYTE_ORDER.index(ord(" "))
    assert (a, b, c, space) == (64, 65, 66, 220)
    assert tokenizer.merges == [(a, b), (b, c), (space, 256)]
    assert tokenizer.token_bytes[256:] == [b"ab", b"bc", b" ab", END_OF_TEXT.encode()]
    assert tokenizer.eot_id == 259
    assert tokenizer.vocab_size == 260
    assert tokenizer.encode("abc ab") == [256, c, 258]  # a+b was learnt before b+c


def test_overlapping_pairs_are_merged_from_the_left():
    # "aaaaa" → aa aa a: the pair (aa, aa) and the pair (aa, a) occur once, a < aa decides
    tokenizer = BPETokenizer.train("aaaaa", 259)
    a = BYTE_ORDER.index(ord("a"))
    assert tokenizer.merges == [(a, a), (256, a)]
    assert tokenizer.encode("aaaaaa") == [256, 256, 256]
    assert tokenizer.encode("aaaaa") == [256, 257]


@pytest.mark.parametrize(("text", "vocab_size"), [(TIES, 340), (PROSE, 400), (PROSE + TIES, 420)])
def test_merges_equal_those_of_hf_tokenizers(text, vocab_size):
    ours = BPETokenizer.train(text, vocab_size)
    theirs = train_hf(text, vocab_size)
    assert len(ours.merges) == vocab_size - 257
    assert ours.merges == merges_of_hf(theirs)


def test_merges_on_real_text_equal_those_of_hf_tokenizers(wikitext_corpus):
    text = wikitext_corpus.splits["valid"]
    ours, theirs = BPETokenizer.train(text, 4096), train_hf(text, 4096)
    assert ours.merges == merges_of_hf(theirs)
    sample = wikitext_corpus.splits["test"][:200_000]
    assert ours.encode(sample) == theirs.encode(sample).ids


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="aab bcé\n1", min_size=1, max_size=200))
def test_merges_of_any_text_equal_those_of_hf_tokenizers_to_the_last(text):
    theirs = merges_of_hf(train_hf(text, 100_000))
    vocab_size = 257 + len(theirs)
    assert BPETokenizer.train(text, vocab_size).merges == theirs
    with pytest.raises(TokenizerError, match=f"a vocabulary of {vocab_size};"):
        BPETokenizer.train(text, vocab_size + 1)


def test_an_iterable_of_texts_is_trained_on_text_by_text():
    joined = BPETokenizer.train(["ab ab", " ab cd"], 259)
    assert joined.fingerprint == BPETokenizer.train("ab ab ab cd", 259).fingerprint


@pytest.mark.parametrize("vocab_size", [0, 256])
def test_a_vocabulary_below_the_bytes_is_refused(vocab_size, one_sentence):
    with pytest.raises(TokenizerError, match="257") as error:
        BPETokenizer.train("some text", vocab_size)
    assert str(vocab_size) in one_sentence(error)


def test_a_vocabulary_of_bytes_alone_has_no_merges():
    tokenizer = BPETokenizer.train("some text", 257)
    assert tokenizer.merges == []
    assert tokenizer.encode("é") == [BYTE_ORDER.index(0xC3), BYTE_ORDER.index(0xA9)]


def test_a_text_too_small_for_the_vocabulary_says_how_far_it_reaches(one_sentence):
    with pytest.raises(TokenizerError, match="2 merges, a vocabulary of 259") as error:
        BPETokenizer.train("abc", 1000)
    assert "1000" in one_sentence(error)


def test_the_result_does_not_depend_on_the_hash_seed():
    script = (
        "import sys; from llmlite.tokenizer import BPETokenizer;"
        "print(BPETokenizer.train(sys.stdin.buffer.read().decode(), 420).fingerprint)"
    )
    prints = [
        subprocess.run(
            [sys.executable, "-c", script],
            input=(PROSE + TIES).encode(),
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout.decode()
        for seed in ("1", "2")
    ]
    assert prints[0] == prints[1]
    assert prints[0].strip() == BPETokenizer.train(PROSE + TIES, 420).fingerprint


# -- encoding and decoding ------------------------------------------------------------------------


@pytest.mark.parametrize("text", VARIED)
def test_ids_equal_those_of_hf_tokenizers(trained, text):
    theirs = train_hf(PROSE + TIES, 400)
    assert trained.encode(text) == theirs.encode(text).ids


def test_ids_equal_those_of_tiktoken(trained):
    theirs = tiktoken.Encoding(
        "llmlite",
        pat_str=trained.pattern,
        mergeable_ranks={token: i for i, token in enumerate(trained.token_bytes[: trained.eot_id])},
        special_tokens={END_OF_TEXT: trained.eot_id},
        explicit_n_vocab=trained.vocab_size,
    )
    for text in [*VARIED, PROSE, TIES]:
        assert trained.encode(text) == theirs.encode_ordinary(text)


@settings(deadline=None, max_examples=300)
@given(text=st.text())
def test_any_text_survives_encoding_and_decoding(trained, text):
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert all(0 <= i < trained.eot_id for i in ids)


@pytest.mark.parametrize("text", [*VARIED, PROSE, TIES])
def test_varied_text_survives_encoding_and_decoding(trained, text):
    assert trained.decode(trained.encode(text)) == text


@settings(deadline=None, max_examples=100)
@given(text=st.text(alphabet="ab é\n'ts1 ", max_size=60))
def test_words_bound_the_merges(trained, text):
    """Each token lies within one word of the split pattern."""
    expected = [i for word in regex.findall(GPT2_SPLIT_PATTERN, text) for i in trained.encode(word)]
    assert trained.encode(text) == expected


def test_the_special_token_in_a_text_is_text(trained):
    ids = trained.encode(END_OF_TEXT)
    assert trained.eot_id not in ids
    assert len(ids) > 1
    assert trained.decode(ids) == END_OF_TEXT
    assert trained.decode([trained.eot_id]) == END_OF_TEXT


def test_the_array_holds_the_same_ids_in_the_smallest_type(trained):
    array = trained.encode_to_array(PROSE)
    assert array.dtype == np.uint16
    assert array.tolist() == trained.encode(PROSE)
    assert trained.encode_to_array("").shape == (0,)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_16_bits_hold_ids_up_to_65535(vocab_size, dtype):
    tokenizer = BPETokenizer([])
    tokenizer.vocab_size = vocab_size
    assert tokenizer.dtype == dtype


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xff", "\ufffd"),
        (b"ab\xc3", "ab\ufffd"),  # the first half of a character, as a cut continuation has it
        (b"\xc3\xa9\x80!", "é\ufffd!"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),  # a surrogate is not UTF-8
    ],
)
def test_ids_that_are_not_utf8_decode_to_replacement_characters(trained, data, text):
    assert trained.decode([BYTE_ORDER.index(byte) for byte in data]) == text


def test_decoding_takes_arrays_and_tensors(trained):
    ids = trained.encode("beryllium")
    assert trained.decode(np.array(ids, dtype=np.uint16)) == "beryllium"
    assert trained.decode(torch.tensor(ids)) == "beryllium"


@pytest.mark.parametrize("wrong", [-1, 400])
def test_an_id_outside_the_vocabulary_is_refused(trained, wrong, one_sentence):
    with pytest.raises(TokenizerError, match=str(wrong)) as error:
        trained.decode([5, wrong])
    assert "0 to 399" in one_sentence(error)


def test_a_lone_surrogate_is_refused_by_its_code(trained, one_sentence):
    with pytest.raises(TokenizerError, match=r"U\+DC80") as error:
        trained.encode("good text \udc80")
    one_sentence(error)
    with pytest.raises(TokenizerError, match=r"U\+D800"):
        BPETokenizer.train("good text \ud800", 257)


# -- files ----------------------------------------------------------------------------------------


def test_a_saved_tokenizer_comes_back_the_same(trained, tmp_path):
    path = tmp_path / "new folder" / "tokenizer.json"
    trained.save(path)
    loaded = BPETokenizer.load(path)
    assert loaded.fingerprint == trained.fingerprint
    assert loaded.merges == trained.merges
    assert loaded.encode(PROSE) == trained.encode(PROSE)
    assert [file.name for file in path.parent.iterdir()] == ["tokenizer.json"]
    content = json.loads(path.read_text("utf-8"))
    assert content["special_tokens"] == {END_OF_TEXT: 399}
    assert content["vocab_size"] == 400


def test_the_fingerprint_depends_on_merges_and_pattern(trained):
    assert BPETokenizer(trained.merges).fingerprint == trained.fingerprint
    assert BPETokenizer(trained.merges[:-1]).fingerprint != trained.fingerprint
    assert BPETokenizer(trained.merges, pattern=r"\S+|\s+").fingerprint != trained.fingerprint


def test_a_missing_file_is_named(tmp_path, one_sentence):
    path = tmp_path / "none.json"
    with pytest.raises(TokenizerError, match="There is no tokenizer") as error:
        BPETokenizer.load(path)
    assert str(path) in one_sentence(error)


@pytest.mark.parametrize(
    "content", [b"{}", b"[]", b"null", b'"llmlite-bpe-1"', b'{"version": "1.0", "model": {}}']
)
def test_a_foreign_file_is_refused_by_name(tmp_path, content, one_sentence):
    path = tmp_path / "foreign.json"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match="not an llmlite tokenizer") as error:
        BPETokenizer.load(path)
    assert str(path) in one_sentence(error)


@pytest.mark.parametrize("content", [b"", b'{"format": "llml', b"\xff\xfe\x00", b"PK\x03\x04"])
def test_a_file_that_is_not_json_is_refused_by_name(tmp_path, content, one_sentence):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match="cannot be read") as error:
        BPETokenizer.load(path)
    assert str(path) in one_sentence(error)


def test_a_folder_in_its_place_is_refused_by_name(tmp_path):
    with pytest.raises(TokenizerError, match="cannot be read"):
        BPETokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("merges", [[64, 65]]),
        ("merges", None),
        ("merges", "ab"),
        ("pattern", r"\S+"),
        ("pattern", None),
        ("fingerprint", "0" * 16),
        ("fingerprint", None),
    ],
)
def test_a_damaged_or_edited_file_is_refused_by_name(trained, tmp_path, key, value, one_sentence):
    path = tmp_path / "tokenizer.json"
    trained.save(path)
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**content, key: value}), encoding="utf-8")
    with pytest.raises(TokenizerError, match="damaged or was edited") as error:
        BPETokenizer.load(path)
    assert str(path) in one_sentence(error)
