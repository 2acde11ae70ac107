"""Somebody's own text: sized and taken the whole way."""

import json
from dataclasses import replace

import pytest

from llmlite import ownrun
from llmlite.cli import main
from llmlite.config import SearchSpace, TrainConfig
from llmlite.data import SPLITS, sample_folder
from llmlite.ownrun import OwnText
from llmlite.owntext import (
    LEAST_BYTES,
    SIZES,
    own_profile,
    read_source,
    size_for,
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
