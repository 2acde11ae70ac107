"""Somebody's own text: read, cut, sized and taken the whole way."""

import json
import re
from dataclasses import replace

import pytest

from llmlite import ownrun
from llmlite.cli import main
from llmlite.config import SearchSpace, TrainConfig
from llmlite.data import SPLITS, sample_folder
from llmlite.errors import DataError
from llmlite.ownrun import OwnText
from llmlite.owntext import (
    LEAST_BYTES,
    SIZES,
    Source,
    own_profile,
    read_source,
    size_for,
    split_text,
    vocabulary_for,
)
from llmlite.pretrained import load_pretrained
from llmlite.tokenizer import BPETokenizer
from llmlite.train import Trainer


@pytest.fixture(scope="module")
def prose():
    """prose(n): n characters of the sample, paragraphs with a blank line between them."""
    text = "".join(
        (sample_folder() / f"wiki.{split}.raw").read_text("utf-8") for split in SPLITS
    ).replace("\n \n", "\n\n")
    return lambda n: text[:n]


@pytest.fixture
def file(tmp_path, prose):
    path = tmp_path / "tale.txt"
    path.write_text(prose(22_000), encoding="utf-8")
    return path


def source(text, ends=()):
    return Source("own", text, ends, ())


# -- reading --------------------------------------------------------------------------------------


def test_a_byte_order_mark_and_other_line_ends_leave_no_trace(tmp_path, prose):
    plain = prose(21_000).rstrip() + "\n"
    path = tmp_path / "windows.txt"
    path.write_bytes(b"\xef\xbb\xbf\r\n" + plain.replace("\n", "\r\n").encode() + b"\r\n\r\n")
    assert read_source(path).text == plain
    path.write_bytes(plain.replace("\n", "\r").encode())
    assert read_source(path).text == plain


def test_a_folder_is_its_text_files_in_order(tmp_path):
    folder, out = tmp_path / "letters", tmp_path / "letters" / "made"
    for name in ("b.md", "a/2.txt", "a/1.txt", ".hidden.txt", ".git/config", "made/README.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name} " * 2_000, encoding="utf-8")
    (folder / "c.png").write_bytes(b"\x89PNG\r\n")
    (folder / "d.bin").write_bytes(b"text\0")
    (folder / "empty.txt").write_text("\n")
    read = read_source(folder, without=out)
    names = ("a/1.txt", "a/2.txt", "b.md")
    assert read.text == "\n".join((f"{name} " * 2_000).rstrip() + "\n" for name in names)
    assert read.file_ends == (16_001, 32_002)  # 2,000 × 8 characters, the line end, a blank line
    assert read.left_out == ("c.png", "d.bin")
    assert read.name == "letters"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes of text (0 words)"),
        (b" \n\t\n", "0 bytes"),
        (b"one two three\n" * 100, "1,400 bytes of text (300 words); at least 20,000"),
        (b"fine " * 5_000 + b"caf\xe9 ", "byte 25003 is 0xe9"),
        (b"\xef\xbb\xbfcaf\xe9 " + b"fine " * 5_000, "byte 6 is 0xe9"),
        ("größer".encode("utf-16"), "byte 0 is 0xff"),
        (b"fine " * 5_000 + b"\0", "byte 25000 is NUL"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_a_sentence(
    tmp_path, one_sentence, content, words
):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_source(path)
    assert words in one_sentence(error)
    assert str(path) in str(error.value)


def test_a_path_without_text_is_refused_in_a_sentence(tmp_path, one_sentence):
    with pytest.raises(DataError) as error:
        read_source(tmp_path / "nowhere.txt")
    assert "no file or folder" in one_sentence(error)
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(DataError) as error:
        read_source(tmp_path)
    assert "0 words), and 1 file(s) that are not UTF-8 text" in one_sentence(error)


# -- splitting ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "alter", "end"),
    [
        ("paragraphs", lambda text: text, "\n\n"),
        ("lines", lambda text: re.sub(r"\n\s+", "\n", text), "\n"),
        ("sentences", lambda text: text.replace("\n", " "), ". "),
        ("words", lambda text: re.sub(r"[.!?\n]", " ", text), " "),
        ("characters", lambda text: re.sub(r"[.!?\s]", "", text), ""),
    ],
)
def test_cuts_lie_between_the_largest_things_there_are(prose, kind, alter, end):
    text = alter(prose(60_000))
    splits, cuts = split_text(source(text))
    assert cuts == [kind, kind]
    assert "".join(splits[split] for split in SPLITS) == text
    assert splits["train"].endswith(end)
    assert splits["valid"].endswith(end)
    share = {split: len(part) / len(text) for split, part in splits.items()}
    assert share == pytest.approx({"train": 0.8, "valid": 0.1, "test": 0.1}, abs=0.05)


def test_the_nearest_place_is_taken():
    """1,000 characters: the cuts are due at 800 and 900 and may move by 25."""
    line = "x" * 9 + "\n"
    # Paragraphs end at 791 (9 before the cut) and 822 (22 after it); none is near 900.
    text = line * 79 + "\n" + line * 3 + "\n" + line * 17 + "x" * 7 + "\n"
    assert len(text) == 1_000
    assert [len(part) for part in split_text(source(text))[0].values()] == [791, 111, 98]
    # Lines end at 902 and at 892 + 10 k; 902 is nearest. A file's end goes before both.
    splits, cuts = split_text(source(text, (500, 780, 880)))
    assert [len(part) for part in splits.values()] == [780, 100, 120]
    assert cuts == ["files", "files"]


# -- sizes ----------------------------------------------------------------------------------------


def test_more_text_gets_a_larger_vocabulary():
    sizes = [size_for(n) for n in range(LEAST_BYTES, 6_000_000, 10_000)]
    vocabularies = [size.vocab_size for size in sizes]
    assert vocabularies == sorted(vocabularies)
    assert set(vocabularies) == {320, 512, 1024, 2048, 4096, 8192}
    assert [size_for(n).vocab_size for n in (49_999, 50_000)] == [320, 512]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: str(size.n_bytes))
def test_a_token_is_seen_some_dozens_of_times(prose, size):
    train = prose(int(0.8 * size.n_bytes))
    if len(train) < 0.8 * size.n_bytes:  # more than the sample: four or five bytes are a token
        assert 0.8 * size.n_bytes / 4.5 / size.vocab_size > 24
        return
    tokenizer = BPETokenizer.train(train, size.vocab_size)
    assert len(tokenizer.encode(train)) / size.vocab_size > 24
    assert vocabulary_for(train, size.vocab_size) == size.vocab_size


def test_a_text_that_repeats_itself_gets_the_vocabulary_that_it_allows():
    line = "All work and no play makes Jack a dull boy.\n"
    vocabulary = vocabulary_for(line * 1_000, 512)
    assert 257 < vocabulary <= 257 + len(line)
    BPETokenizer.train(line * 1_000, vocabulary)  # which raises where the text has no more pairs


def test_small_texts_are_read_often_and_large_ones_within_the_budget():
    for cuda, tokens in ((False, 4e6), (True, 3e8)):
        for size in SIZES:
            for n_bytes in (size.n_bytes, 50 * size.n_bytes):
                profile = own_profile(n_bytes, cuda=cuda)
                train, block = profile.retrain, profile.data.block_size
                epoch = 0.8 * n_bytes / 3
                if train.epoch_windows:
                    assert train.epoch_windows * block < epoch
                    epoch = train.epoch_windows * block
                assert epoch * train.epochs <= 1.01 * tokens
                assert train.epochs >= 4
                assert profile.revised_search.epochs <= train.epochs
                assert 2 <= len(profile.revised_grid) <= 4
    assert own_profile(LEAST_BYTES).retrain.epochs > own_profile(10**7).retrain.epochs


# -- the whole way --------------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch):
    """Shapes and lengths that take a second."""

    def shrunk(n_bytes, vocab_size, cuda):
        profile, train = own_profile(n_bytes, 280, cuda), TrainConfig(epochs=1, batch_size=64)
        grid = SearchSpace((4e-3,), (1,), (2,), (8, 16))
        return replace(profile, revised_grid=grid, revised_search=train, retrain=train)

    monkeypatch.setattr(ownrun, "own_profile", shrunk)


def reproduce(capsys, *arguments):
    code = main(["reproduce", *map(str, arguments), "--device", "cpu"])
    return code, *capsys.readouterr()


def test_from_a_file_to_a_model_and_on_from_there(capsys, monkeypatch, tmp_path, file, tiny):
    out = tmp_path / "out"
    code, text, _ = reproduce(capsys, "--text", file, "--out", out)
    assert code == 0
    for words in (
        "bytes, 4,",
        "expect it to know little else",
        "between paragraphs",
        "Vocabulary: 280 byte-pair tokens",
        "Search, 2 configurations",
        "1 of at most 1 epochs",
        "bits per byte",
        "Kneser-Ney 5-gram",
        f"llmlite generate --model {out / 'model'}",
    ):
        assert words in text, words
    splits = [(out / "text/tale" / f"wiki.{split}.raw").read_text("utf-8") for split in SPLITS]
    assert "".join(splits) == read_source(file).text

    shipped = load_pretrained(folder=out / "model")
    assert shipped.tokenizer.vocab_size == 280
    card = (out / "model/README.md").read_text("utf-8")
    assert "own text in tale" in card
    assert "WikiText" not in card
    assert "CC BY-SA" not in card
    (record,) = (path.parent / "record.json" for path in out.glob("runs/*/test_score.json"))
    command = json.loads(record.read_text("utf-8"))["command"]
    assert command == f"llmlite reproduce --text {file} --out {out} --device cpu"

    def trained_again(self):
        raise AssertionError("trained again")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train", trained_again)
        assert reproduce(capsys, "--text", file, "--out", out)[1] == text

    file.write_text(file.read_text("utf-8") + "\nOne more line.\n", encoding="utf-8")
    before = {path: path.read_bytes() for path in (out / "model").iterdir()}
    code, text, _ = reproduce(capsys, "--text", file, "--out", out)
    assert code == 0
    (other,) = out.glob("text-*")
    assert f"a folder of its own: {other}" in text
    assert list(other.glob("runs/*/test_score.json"))
    assert {path: path.read_bytes() for path in (out / "model").iterdir()} == before


def test_the_prompt_is_how_the_test_begins(tmp_path, file, tiny):
    experiment = OwnText(file, tmp_path / "out", "cpu", progress=False)
    test = experiment.corpus.splits["test"].lstrip()
    assert test.startswith(experiment.prompt)
    assert test[len(experiment.prompt)].isspace()
    assert 60 < len(experiment.prompt) <= 120


@pytest.mark.parametrize(
    "option",
    [
        ["--profile", "quick"],
        ["--only", "01"],
        ["--publish"],
        ["--data", "sample"],
    ],
)
def test_what_text_settles_cannot_be_given_too(capsys, file, option):
    code, _, err = reproduce(capsys, "--text", file, *option)
    assert code == 2
    assert f"leave out {option[0]}." in err
