"""The model that ships: its files agree with each other, and its scores with a run of today."""

import json
import shutil

import pytest
import torch
from publish import model_card
from safetensors import safe_open

from llmlite.config import DataConfig
from llmlite.data import Dataset
from llmlite.files import LLMLiteError
from llmlite.metrics import Score, evaluate
from llmlite.pretrained import FOLDER, MODEL, RECORD, TOKENIZER, load_pretrained
from llmlite.tokenizer import BPETokenizer


def test_it_is_small_half_precision_and_what_its_record_and_card_say(tmp_path):
    assert (FOLDER / MODEL).stat().st_size < 6e6, "about 5 MB"
    with safe_open(FOLDER / MODEL, "pt") as file:
        header = file.metadata()
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    pretrained = load_pretrained()
    record = pretrained.record
    assert record == json.loads((FOLDER / RECORD).read_text("utf-8"))
    assert (FOLDER / "README.md").read_text("utf-8") == model_card(record)
    assert record["identity"]["model"] == json.loads(header["config"])
    assert record["identity"]["tokenizer_fingerprint"] == pretrained.tokenizer.fingerprint
    assert record["parameters"] == sum(p.numel() for p in pretrained.model.parameters())
    assert {p.dtype for p in pretrained.model.parameters()} == {torch.float32}
    assert record["environment"]["commit"] in str(pretrained)
    assert "that comes with llmlite" in str(pretrained)
    dataset = Dataset(DataConfig("sample"), tmp_path, progress=False).like(pretrained.tokenizer)
    score = evaluate(pretrained.model, dataset.ids["test"], dataset.counts("test"))
    assert (score.tokens, score.nats) == (24_768, pytest.approx(119_419.4, rel=1e-5))


@pytest.mark.slow
def test_its_scores_are_those_of_its_weights_on_the_test_split(wikitext_corpus):
    pretrained = load_pretrained()
    record = pretrained.record
    assert record["data_fingerprint"] == wikitext_corpus.about["data_fingerprint"]
    dataset = wikitext_corpus.like(pretrained.tokenizer)
    score = evaluate(pretrained.model, dataset.ids["test"], dataset.counts("test"))
    kept = Score(**record["scores"])
    assert (score.tokens, score.words, score.bytes) == (kept.tokens, kept.words, kept.bytes)
    assert score.loss == pytest.approx(kept.loss, rel=1e-4)
    assert 1.1 < kept.bits_per_byte < 3, "a language model's"


@pytest.mark.parametrize(("name", "change", "words"), [
    (MODEL, lambda path: path.unlink(), "{path}"),
    (TOKENIZER, lambda path: path.unlink(), "{path}"),
    (RECORD, lambda path: path.unlink(), "{path} is missing"),
    (TOKENIZER, BPETokenizer([]).save, "trained with another tokenizer"),
    ("config.json", lambda path: path.touch(), "llmlite import {path.parent} --to"),
])  # fmt: skip
def test_what_is_wrong_with_ones_own_folder_is_named(tmp_path, name, change, words):
    for file in (MODEL, TOKENIZER, RECORD):
        shutil.copyfile(FOLDER / file, tmp_path / file)
    assert str(load_pretrained(folder=tmp_path)).startswith(f"the model in {tmp_path}")
    change(tmp_path / name)
    with pytest.raises(LLMLiteError) as error:
        load_pretrained(folder=tmp_path)
    assert words.format(path=tmp_path / name) in str(error.value)
