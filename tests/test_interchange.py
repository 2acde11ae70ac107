"""Our tokenizer in the forms of other libraries: each gives the same ids as ours."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tokenizer import PROSE, TIES, VARIED, merges_of_hf, train_hf

from llmlite.errors import TokenizerError
from llmlite.tokenizer import BYTE_ORDER, END_OF_TEXT, BPETokenizer
from llmlite.tokenizer.interchange import _CHARACTERS, imported

LETTERS_OR_NOT = r"\p{L}+|[^\p{L}]+"
SPECIAL = f"{END_OF_TEXT}one{END_OF_TEXT}{END_OF_TEXT} two, <|endoftext| {END_OF_TEXT}"
TEXTS = [*VARIED, PROSE, TIES]
PLAIN = [text for text in TEXTS if END_OF_TEXT not in text]


@pytest.fixture(scope="module", params=[None, LETTERS_OR_NOT], ids=["GPT-2's", "letters or not"])
def trained(request) -> BPETokenizer:
    pattern = {"pattern": request.param} if request.param else {}
    return BPETokenizer.train(PROSE + TIES, 400, **pattern)


@pytest.fixture(scope="module")
def gpt2_form() -> BPETokenizer:
    return BPETokenizer.train(PROSE + TIES, 400)


@pytest.fixture(scope="module")
def in_both_forms(trained) -> tuple:
    return trained, trained.to_tokenizers()


# -- tokenizer.json -------------------------------------------------------------------------------


def test_the_tokenizer_of_hf_gives_the_same_ids_and_texts(trained):
    theirs = trained.to_tokenizers()
    assert theirs.get_vocab_size() == trained.vocab_size
    assert theirs.token_to_id(END_OF_TEXT) == trained.eot_id
    for text in PLAIN:
        ids = trained.encode(text)
        assert theirs.encode(text).ids == ids
        assert theirs.decode(ids, skip_special_tokens=False) == text
    for text in [*TEXTS, SPECIAL]:  # where the special token is found, as HF always does
        assert theirs.encode(text).ids == trained.encode(text, allow_special=True)


@settings(deadline=None, max_examples=100)
@given(text=st.text(max_size=50))
def test_the_tokenizer_of_hf_gives_the_same_ids_for_any_text(in_both_forms, text):
    ours, theirs = in_both_forms
    assert theirs.encode(text).ids == ours.encode(text)
    assert theirs.decode(ours.encode(text)) == text


def test_tokenizer_json_is_loaded_by_hf_tokenizers(trained, tmp_path):
    from tokenizers import Tokenizer

    path = tmp_path / "new folder" / "tokenizer.json"
    trained.save_tokenizer_json(path)
    theirs = Tokenizer.from_file(str(path))
    for text in [*TEXTS, SPECIAL]:
        assert theirs.encode(text).ids == trained.encode(text, allow_special=True)
    assert theirs.token_to_id(END_OF_TEXT) == trained.eot_id
    assert [file.name for file in path.parent.iterdir()] == ["tokenizer.json"]


def test_tokenizer_json_is_loaded_by_transformers(trained, tmp_path):
    from transformers import PreTrainedTokenizerFast

    path = tmp_path / "tokenizer.json"
    trained.save_tokenizer_json(path)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token=END_OF_TEXT)
    for text in [*TEXTS, SPECIAL]:
        ids = trained.encode(text, allow_special=True)
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids, clean_up_tokenization_spaces=False) == text
    assert theirs.eos_token_id == theirs.convert_tokens_to_ids(END_OF_TEXT) == trained.eot_id
    assert len(theirs) == trained.vocab_size
    assert theirs.decode([*trained.encode("a"), trained.eot_id], skip_special_tokens=True) == "a"


def test_bytes_are_written_as_transformers_writes_them():
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    written = dict(zip(BYTE_ORDER, _CHARACTERS, strict=True))
    assert written == bytes_to_unicode()


# -- and back -------------------------------------------------------------------------------------


def test_a_tokenizer_json_of_ours_is_read_back(trained, tmp_path):
    trained.save_tokenizer_json(tmp_path / "tokenizer.json")
    read = BPETokenizer.from_tokenizer_json(tmp_path / "tokenizer.json")
    assert read.fingerprint == trained.fingerprint


def test_a_tokenizer_json_that_transformers_has_saved_is_read_back(trained, tmp_path):
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(
        tokenizer_object=trained.to_tokenizers(), eos_token=END_OF_TEXT
    )
    theirs(PROSE, truncation=True, max_length=3)  # leaves a setting of this call in the file
    theirs.save_pretrained(tmp_path)
    read = BPETokenizer.from_tokenizer_json(tmp_path / "tokenizer.json")
    assert read.fingerprint == trained.fingerprint


def test_a_tokenizer_that_hf_has_trained_is_read_with_its_ids(tmp_path):
    theirs = train_hf(PROSE + TIES, 400)
    theirs.add_special_tokens([END_OF_TEXT])
    theirs.save(str(tmp_path / "tokenizer.json"))
    read = BPETokenizer.from_tokenizer_json(tmp_path / "tokenizer.json")
    assert read.eot_id == theirs.token_to_id(END_OF_TEXT) == 399
    for text in [*TEXTS, SPECIAL]:
        assert read.encode(text, allow_special=True) == theirs.encode(text).ids


def change_json(tokenizer: BPETokenizer, path: Path, change) -> None:
    """tokenizer.json with something changed in it."""
    tokenizer.save_tokenizer_json(path)
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_the_older_form_that_gpt2_comes_in_is_read(gpt2_form, tmp_path):
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}

    def change(content):
        content |= {"pre_tokenizer": byte_level, "post_processor": byte_level}
        content["added_tokens"][0]["normalized"] = True
        model = content["model"]
        for name in ("type", "byte_fallback", "ignore_merges"):
            del model[name]
        model |= {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
        model["merges"] = [" ".join(merge) for merge in model["merges"]]

    change_json(gpt2_form, tmp_path / "tokenizer.json", change)
    read = BPETokenizer.from_tokenizer_json(tmp_path / "tokenizer.json")
    assert read.fingerprint == gpt2_form.fingerprint


SPLIT = {"type": "Split", "pattern": {"Regex": r"\w+"}, "invert": False, "behavior": "Isolated"}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
TEMPLATE = {"type": "TemplateProcessing", "single": [{"SpecialToken": {}}, {"Sequence": {}}]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(normalizer={"type": "NFC"}), "another normalizer"),
        (lambda c: c.update(post_processor=TEMPLATE), "another post_processor"),
        (lambda c: c.update(decoder={"type": "BPEDecoder"}), "another decoder"),
        (lambda c: c.update(added_tokens=[]), "another list of added tokens"),
        (
            lambda c: c["added_tokens"].append({**c["added_tokens"][0], "id": 400}),
            "another list of added",
        ),
        (lambda c: c["added_tokens"][0].update(lstrip=True), "another list of added tokens"),
        (lambda c: c["pre_tokenizer"].update(add_prefix_space=True), "another pre_tokenizer"),
        (lambda c: c.update(pre_tokenizer=BYTES), "another pre_tokenizer"),
        (lambda c: c["model"].update(ignore_merges=True), "another ignore_merges"),
        (lambda c: c["model"].update(end_of_word_suffix="</w>"), "another end_of_word_suffix"),
        (lambda c: c["model"].update(type="Unigram"), "another model"),
        (lambda c: c["model"]["vocab"].update({"zzzz": 400}), "does not make: 'zzzz'"),
        (lambda c: c["model"]["merges"].reverse(), "merge 4: .* not a merge of two earlier"),
        (lambda c: c["model"].pop("vocab"), "does not hold byte-level byte pairs"),
        (lambda c: c["model"].update(merges=[1]), "does not hold byte-level byte pairs"),
        (lambda c: c.update(pre_tokenizer=None), "does not hold byte-level byte pairs"),
        (
            lambda c: c.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [SPLIT, BYTES]}),
            "leaves characters out",
        ),
    ],
)
def test_what_would_give_other_ids_is_refused(gpt2_form, tmp_path, change, said, one_sentence):
    path = tmp_path / "tokenizer.json"
    change_json(gpt2_form, path, change)
    with pytest.raises(TokenizerError, match=said) as error:
        BPETokenizer.from_tokenizer_json(path)
    assert str(path) in one_sentence(error)
    assert len(str(error.value)) < 500


# -- tiktoken -------------------------------------------------------------------------------------


def test_tiktoken_gives_the_same_ids_and_texts(trained):
    theirs = trained.to_tiktoken()
    assert theirs.n_vocab == trained.vocab_size
    assert theirs.eot_token == trained.eot_id
    for text in [*TEXTS, SPECIAL]:
        ids = trained.encode(text)
        assert theirs.encode_ordinary(text) == ids
        assert theirs.decode(ids) == text
        with_special = trained.encode(text, allow_special=True)
        assert theirs.encode(text, allowed_special="all") == with_special
        assert theirs.decode(with_special) == text


def test_tiktoken_takes_the_special_token_only_where_it_is_allowed(gpt2_form):
    theirs = gpt2_form.to_tiktoken()
    assert theirs.encode(SPECIAL, disallowed_special=()) == gpt2_form.encode(SPECIAL)
    assert gpt2_form.encode(SPECIAL).count(gpt2_form.eot_id) == 0
    assert theirs.encode(SPECIAL, allowed_special="all").count(gpt2_form.eot_id) == 4
    with pytest.raises(ValueError, match="disallowed special token"):
        theirs.encode(SPECIAL)


# -- GPT-2's two files ----------------------------------------------------------------------------


@pytest.fixture
def files(gpt2_form, tmp_path) -> tuple[Path, Path]:
    """vocab.json and merges.txt as HF writes them."""
    gpt2_form.to_tokenizers().model.save(str(tmp_path))
    return tmp_path / "vocab.json", tmp_path / "merges.txt"


def test_the_two_files_of_gpt2_give_the_same_tokenizer(gpt2_form, files):
    read = BPETokenizer.from_gpt2(*files)
    assert read.fingerprint == gpt2_form.fingerprint
    assert read.eot_id == gpt2_form.eot_id == json.loads(files[0].read_text("utf-8"))[END_OF_TEXT]
    assert [read.encode(text) for text in TEXTS] == [gpt2_form.encode(text) for text in TEXTS]
    assert BPETokenizer.from_gpt2(*map(str, files)).fingerprint == gpt2_form.fingerprint


def test_files_without_the_special_token_get_it_at_the_end(tmp_path):
    theirs = train_hf(PROSE + TIES, 400)
    theirs.model.save(str(tmp_path))
    vocab, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    assert END_OF_TEXT not in json.loads(vocab.read_text("utf-8"))
    read = BPETokenizer.from_gpt2(vocab, merges)
    assert read.merges == merges_of_hf(theirs)
    assert read.eot_id == theirs.get_vocab_size() == 399
    assert [read.encode(text) for text in TEXTS] == [theirs.encode(text).ids for text in TEXTS]


def test_merges_without_the_version_and_with_other_line_ends_are_read(gpt2_form, files):
    vocab, merges = files
    lines = merges.read_text("utf-8").splitlines()
    assert lines[0].startswith("#version")
    merges.write_bytes(("\r\n".join(lines[1:]) + "\r\n\r\n").encode())
    assert BPETokenizer.from_gpt2(vocab, merges).fingerprint == gpt2_form.fingerprint


def test_a_merge_of_number_signs_is_not_a_comment(tmp_path):
    original = BPETokenizer.train("###### ### #v #version", 262)
    original.to_tokenizers().model.save(str(tmp_path))
    read = BPETokenizer.from_gpt2(tmp_path / "vocab.json", tmp_path / "merges.txt")
    assert read.fingerprint == original.fingerprint


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a", "not a merge of two earlier tokens"),  # cut off
        ("a ", "not a merge of two earlier tokens"),
        ("a b c", "not a merge of two earlier tokens"),
        ("a zzzz", "not a merge of two earlier tokens"),
        ("日 a", "not a merge of two earlier tokens"),
        ("a" * 1000, "not a merge of two earlier tokens"),
        (None, "a second time"),  # the first merge again
    ],
)
def test_a_wrong_line_of_merges_is_named(files, line, said, one_sentence):
    vocab, merges = files
    lines = merges.read_text("utf-8").splitlines()
    lines[7] = lines[1] if line is None else line
    merges.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(TokenizerError, match=said) as error:
        BPETokenizer.from_gpt2(vocab, merges)
    assert f"{merges}, line 8:" in one_sentence(error)
    assert len(str(error.value)) < 400


def test_a_token_that_two_merges_make_is_refused(gpt2_form, tmp_path, one_sentence):
    merges = tmp_path / "merges.txt"
    merges.write_text("#version: 0.2\na a\na aa\naa a\n", encoding="utf-8")
    vocab = tmp_path / "vocab.json"
    vocab.write_text("{}", encoding="utf-8")
    with pytest.raises(TokenizerError, match="'aaa' a second time") as error:
        BPETokenizer.from_gpt2(vocab, merges)
    assert f"{merges}, line 4:" in one_sentence(error)


def change_vocab(path: Path, change) -> None:
    ids = json.loads(path.read_text("utf-8"))
    change(ids)
    path.write_text(json.dumps(ids), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda ids: ids.update({"a": ids["b"], "b": ids["a"]}), "'a' the id 65, and .* the id 64"),
        (lambda ids: ids.update({END_OF_TEXT: 0}), "<|endoftext|>' the id 0, and"),
        (lambda ids: ids.pop("a"), "'a' the id None, and"),
        (lambda ids: ids.update({"zzzz": 400}), "does not make: 'zzzz'"),
    ],
)
def test_a_vocabulary_that_does_not_fit_the_merges_is_refused(files, change, said, one_sentence):
    vocab, merges = files
    change_vocab(vocab, change)
    with pytest.raises(TokenizerError, match=said.replace("|", r"\|")) as error:
        BPETokenizer.from_gpt2(vocab, merges)
    assert str(vocab) in one_sentence(error)
    assert str(merges) in str(error.value)


def test_merges_that_end_too_early_do_not_fit_the_vocabulary(files, one_sentence):
    vocab, merges = files
    lines = merges.read_text("utf-8").splitlines()
    merges.write_text("\n".join(lines[:-3]), encoding="utf-8")
    with pytest.raises(TokenizerError, match="that belong together") as error:
        BPETokenizer.from_gpt2(vocab, merges)
    one_sentence(error)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not JSON"),
        (b'{"a": 1', "is not JSON"),
        (b'["a", "b"]', "is not a vocabulary"),
        (b"null", "is not a vocabulary"),
        (b"\xff\xfe{}", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused_by_name(files, content, said, one_sentence):
    vocab, merges = files
    vocab.unlink() if content is None else vocab.write_bytes(content)
    with pytest.raises(TokenizerError, match=said) as error:
        BPETokenizer.from_gpt2(vocab, merges)
    assert str(vocab) in one_sentence(error)


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_merges_that_cannot_be_read_are_named(files, content, one_sentence):
    vocab, merges = files
    merges.unlink() if content is None else merges.write_bytes(content)
    with pytest.raises(TokenizerError, match="cannot be read") as error:
        BPETokenizer.from_gpt2(vocab, merges)
    assert str(merges) in one_sentence(error)


def test_a_library_that_is_not_installed_is_named(one_sentence):
    with pytest.raises(TokenizerError, match="pip install no_such_library") as error:
        imported("no_such_library")
    one_sentence(error)
    assert imported("json") is json
