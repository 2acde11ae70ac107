"""The tokenizer against HF tokenizers, tiktoken and examples worked out by hand."""

import json
import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import regex
import torch
from benchmarks.texts import random_texts
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlite.files import TokenizerError
from llmlite.tokenizer import BYTE_ORDER, END_OF_TEXT, GPT2_SPLIT_PATTERN, BPETokenizer
from llmlite.tokenizer import bpe as bpe_module
from llmlite.tokenizer import words as words_module
from llmlite.tokenizer.bpe import imported
from llmlite.tokenizer.learn import BYTE_CHARACTERS

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
    text = wikitext_corpus.text("valid")
    ours, theirs = BPETokenizer.train(text, 4096), train_hf(text, 4096)
    assert ours.merges == merges_of_hf(theirs)
    sample = wikitext_corpus.text("test")[:200_000]
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
    shown = BPETokenizer.train(iter(["ab ab", " ab cd"]), 259, progress=True)
    assert shown.fingerprint == joined.fingerprint


def test_a_vocabulary_of_bytes_alone_has_no_merges():
    tokenizer = BPETokenizer.train("some text", 257)
    assert tokenizer.merges == []
    assert tokenizer.encode("é") == [BYTE_ORDER.index(0xC3), BYTE_ORDER.index(0xA9)]


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


@pytest.mark.parametrize("vocab_size", [257, 258, 333, 400])
def test_a_smaller_vocabulary_is_the_one_that_training_gives(trained, vocab_size):
    smaller = trained.truncate(vocab_size)
    assert smaller.fingerprint == BPETokenizer.train(PROSE + TIES, vocab_size).fingerprint
    assert smaller.vocab_size == vocab_size
    assert smaller.decode([smaller.eot_id]) == END_OF_TEXT


# -- encoding and decoding ------------------------------------------------------------------------


@pytest.mark.parametrize("text", VARIED)
def test_ids_equal_those_of_hf_tokenizers(trained, text):
    theirs = train_hf(PROSE + TIES, 400)
    assert trained.encode(text) == theirs.encode(text).ids


@settings(deadline=None, max_examples=300)
@given(text=st.text())
def test_any_text_survives_encoding_and_decoding(trained, text):
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert all(0 <= i < trained.eot_id for i in ids)


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
    assert BPETokenizer(list(product(range(256), repeat=2))[: vocab_size - 257]).dtype == dtype


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


def test_random_texts_have_the_ids_of_hf_tokenizers_and_tiktoken():
    tokenizer = BPETokenizer.train(PROSE + TIES, 600)
    assert count_different(tokenizer, random_texts(10_000, seed=0)) == 0


def encode_together(tokenizer: BPETokenizer, texts: list[str]) -> list[list[int]]:
    return [ids.tolist() for ids in tokenizer.encode_batch_to_arrays(texts)]


def count_different(tokenizer: BPETokenizer, texts: list[str]) -> int:
    """Texts that are not encoded alike in all ways and by all libraries, or do not come back."""
    alike = zip(
        texts,
        encode_together(tokenizer, texts),
        tokenizer.to_tokenizers().encode_batch(texts, add_special_tokens=False),
        tokenizer.to_tiktoken().encode_ordinary_batch(texts, num_threads=1),
        strict=True,
    )
    return sum(
        not (tokenizer.encode(text) == ids == hf.ids == tik and tokenizer.decode(ids) == text)
        for text, ids, hf, tik in alike
    )


@pytest.fixture(scope="module")
def trained_on_wikitext(wikitext_corpus) -> BPETokenizer:
    return BPETokenizer.train(wikitext_corpus.text("valid"), 4096)


def test_random_texts_have_the_same_ids_in_a_larger_vocabulary(trained_on_wikitext):
    assert count_different(trained_on_wikitext, random_texts(3_000, seed=4096)) == 0


@pytest.mark.parametrize("split", ["valid", "test"])
def test_raw_wikitext_has_the_ids_of_hf_tokenizers_and_tiktoken(
    trained_on_wikitext, wikitext, split
):
    path = wikitext.parent / "wikitext-2-raw" / f"wiki.{split}.raw"
    if not path.is_file():
        pytest.skip(f"no raw WikiText-2 at {path}")
    text = path.read_text(encoding="utf-8")
    ids = trained_on_wikitext.encode(text)
    assert ids == trained_on_wikitext.to_tokenizers().encode(text).ids
    assert ids == trained_on_wikitext.to_tiktoken().encode_ordinary(text)
    assert trained_on_wikitext.decode(ids) == text


@pytest.mark.parametrize("batch", [5, 1000, 1 << 20])
def test_a_long_text_has_the_ids_of_its_words_one_by_one(trained, monkeypatch, batch):
    texts = [*VARIED, PROSE, TIES, (PROSE + TIES) * 3, "x" * 500, "".join(random_texts(100, 3))]
    monkeypatch.setattr(bpe_module, "SHORT", 10**9)
    by_word = [trained.encode(text) for text in texts]
    monkeypatch.setattr(bpe_module, "SHORT", 0)
    monkeypatch.setattr(words_module, "BATCH", batch)
    assert [trained.encode(text) for text in texts] == by_word
    assert encode_together(trained, texts) == by_word


def test_texts_encoded_together_have_the_ids_of_each(trained):
    for texts in ([], [""], ["", ""], ["", "a", ""], VARIED, [*VARIED, PROSE * 9, "", TIES]):
        each = [trained.encode(text) for text in texts]
        assert encode_together(trained, texts) == each
        arrays = trained.encode_batch_to_arrays(iter(texts))
        assert [array.tolist() for array in arrays] == each
        assert all(array.dtype == np.uint16 for array in arrays)


@settings(deadline=None, max_examples=100)
@given(
    texts=st.lists(st.text(alphabet="ab '\ns1é日", max_size=30), max_size=5),
    batch=st.integers(1, 9),
)
def test_any_texts_encoded_together_have_the_ids_of_each(trained, texts, batch):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(words_module, "BATCH", batch)
        assert encode_together(trained, texts) == [trained.encode(text) for text in texts]


def expected_text(tokenizer: BPETokenizer, ids) -> str:
    return b"".join(tokenizer.token_bytes[i] for i in ids).decode(errors="replace")


def test_random_ids_decode_to_the_text_of_their_bytes(trained):
    rng = np.random.default_rng(0)
    for tokenizer in (trained, BPETokenizer([])):
        for size in (1, 2, 3, 50, 1000):
            ids = rng.integers(0, tokenizer.vocab_size, size)
            assert tokenizer.decode(ids) == expected_text(tokenizer, ids)
            assert tokenizer.decode(ids.tolist()) == expected_text(tokenizer, ids)
        for i in range(tokenizer.vocab_size):
            assert tokenizer.decode([i]) == expected_text(tokenizer, [i])


@pytest.mark.parametrize(
    "form",
    [
        list,
        tuple,
        iter,
        lambda ids: (i for i in ids),
        lambda ids: np.array(ids, np.uint16),
        lambda ids: np.array(ids, np.int32),
        lambda ids: np.array(ids, np.uint64),
        lambda ids: np.repeat(np.array(ids), 2)[::2],
        lambda ids: [np.int64(i) for i in ids],
        torch.tensor,
        lambda ids: list(torch.tensor(ids)),
    ],
)
def test_decoding_takes_integers_in_any_form(trained, form):
    ids = trained.encode("beryllium isn't common")
    assert trained.decode(form(ids)) == "beryllium isn't common"
    assert trained.decode(form([5])) == trained.decode([5])


def test_no_ids_are_no_text(trained):
    for none in ([], (), iter([]), np.zeros(0, np.uint16), torch.zeros(0, dtype=torch.long)):
        assert trained.decode(none) == ""


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


def test_the_fingerprint_depends_on_the_merges(trained):
    assert BPETokenizer(trained.merges).fingerprint == trained.fingerprint
    assert BPETokenizer(trained.merges[:-1]).fingerprint != trained.fingerprint


def write(path, **changes) -> None:
    """A saved tokenizer with something changed in it."""
    BPETokenizer.train("ab ab", 258).save(path)
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "cannot be read as a tokenizer: .* No such file"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "cannot be read"),
        (lambda path: path.write_bytes(b"null"), "not an llmlite tokenizer"),
        (lambda path: path.write_bytes(b'{"version": "1.0"}'), "not an llmlite tokenizer"),
        (lambda path: write(path, merges=[[64, 66]]), "damaged or was edited"),
        (lambda path: write(path, merges=None), "damaged or was edited"),
        (lambda path: write(path, pattern=r"\S+"), "by another pattern than GPT-2's"),
        (lambda path: write(path, fingerprint="0" * 16), "damaged or was edited"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused_by_name(tmp_path, make, said, one_sentence):
    path = tmp_path / "tokenizer.json"
    make(path)
    with pytest.raises(TokenizerError, match=said) as error:
        BPETokenizer.load(path)
    assert str(path) in one_sentence(error)


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda _: BPETokenizer.train("some text", 256), "256 is too small: .* need 257"),
        (lambda _: BPETokenizer.train("abc", 1000), "2 merges, a vocabulary of 259; 1000"),
        (lambda _: BPETokenizer.train("", 300), "no text to train on"),
        (lambda _: BPETokenizer.train(iter(["", ""]), 300), "no text to train on"),
        (lambda _: BPETokenizer.train(["a", b"b"], 257), "number 1 is a bytes"),
        (lambda _: BPETokenizer.train("good text \ud800", 257), r"U\+D800"),
        (lambda _: BPETokenizer([(64, 65), (64, 257)]), r"Merge 2 joins \(64, 257\)"),
        (lambda _: BPETokenizer([(64, 65), (-1, 64)]), "Merge 2 joins"),
        (lambda _: BPETokenizer([(64, 65), (64, 65)]), "merged twice"),
        (lambda trained: trained.truncate(256), "cut to 256; allowed: 257 to 400"),
        (lambda trained: trained.truncate(401), "cut to 401; allowed: 257 to 400"),
        (lambda trained: trained.encode(b"bytes"), "not a bytes"),
        (lambda trained: trained.encode("good text \udc80"), r"U\+DC80"),
        (lambda trained: trained.encode_to_array(None), "is a NoneType"),
        (lambda trained: trained.encode_batch_to_arrays("not a list"), "in a list"),
        (lambda trained: trained.decode([5, -1]), "-1 is outside .*0 to 399"),
        (lambda trained: trained.decode(np.array([5, 400])), "400 is outside .*0 to 399"),
        (lambda trained: trained.decode([1.0]), "integers in one dimension"),
        (lambda trained: trained.decode("abc"), "integers in one dimension"),
        (lambda trained: trained.decode([[5, 6]]), "integers in one dimension"),
        (lambda trained: trained.decode(np.array([1.0])), "integers in one dimension"),
        (lambda trained: trained.decode(torch.tensor([[5], [6]])), "integers in one dimension"),
        (lambda trained: trained.decode(5), "integers in one dimension"),
        (lambda trained: trained.decode(torch.tensor(5)), "integers in one dimension"),
        (lambda _: imported("no_such_library"), "pip install no_such_library"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(trained, call, said, one_sentence):
    with pytest.raises(TokenizerError, match=said) as error:
        call(trained)
    one_sentence(error)


# -- other libraries ------------------------------------------------------------------------------

SPECIAL = f"{END_OF_TEXT}one{END_OF_TEXT}{END_OF_TEXT} two, <|endoftext| {END_OF_TEXT}"


def with_special(tokenizer: BPETokenizer, text: str) -> list[int]:
    """Ids where <|endoftext|> is the special token wherever it stands, as HF has it."""
    first, *others = [tokenizer.encode(part) for part in text.split(END_OF_TEXT)]
    return first + [i for ids in others for i in (tokenizer.eot_id, *ids)]


def test_the_tokenizer_of_hf_gives_the_same_ids_and_texts(trained):
    theirs = trained.to_tokenizers()
    assert theirs.get_vocab_size() == trained.vocab_size
    assert theirs.token_to_id(END_OF_TEXT) == trained.eot_id
    for text in [*VARIED, PROSE, TIES, SPECIAL]:
        ids = with_special(trained, text)
        assert theirs.encode(text).ids == ids
        assert theirs.decode(ids, skip_special_tokens=False) == text


def test_tokenizer_json_is_loaded_by_transformers(trained, tmp_path):
    from transformers import PreTrainedTokenizerFast

    path = tmp_path / "tokenizer.json"
    trained.to_tokenizers().save(str(path))
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token=END_OF_TEXT)
    for text in [*VARIED, PROSE, TIES, SPECIAL]:
        ids = with_special(trained, text)
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids, clean_up_tokenization_spaces=False) == text
    assert theirs.eos_token_id == trained.eot_id
    assert len(theirs) == trained.vocab_size


def test_bytes_are_written_as_transformers_writes_them():
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    assert dict(zip(BYTE_ORDER, BYTE_CHARACTERS, strict=True)) == bytes_to_unicode()


def test_tiktoken_gives_the_same_ids_and_texts(trained):
    theirs = trained.to_tiktoken()
    assert theirs.n_vocab == trained.vocab_size
    assert theirs.eot_token == trained.eot_id
    for text in [*VARIED, PROSE, TIES, SPECIAL]:
        ids = trained.encode(text)
        assert theirs.encode_ordinary(text) == ids
        assert theirs.decode(ids) == text
        ids = with_special(trained, text)
        assert theirs.encode(text, allowed_special="all") == ids
        assert trained.decode(ids) == theirs.decode(ids) == text
