"""Domains and fine-tuning (notebook 10), with transformers' and peft's own classes beside ours."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import bytes_of

from llmlite import metrics
from llmlite.beyond import domains, tuning
from llmlite.experiment import Experiment
from llmlite.files import LLMLiteError
from llmlite.hub import import_folder, save_gpt2, to_gpt2
from llmlite.model import GPT

MODULE = '''"""Of the module."""
def f():
    """Of f.

    More:
        indented
    """
class C:
    "Of C."
    def g(self): return "none"
'''
# Of 2 layers of width 16: c_attn 16 × 48, c_proj 16 × 16, c_fc 16 × 64, and c_proj 64 × 16 get
# rank × (in + out) each; the head has 257 × 16.
TRAINED = {"lora2": 1024, "lora8": 4096, "lora32": 16_384, "head": 4_112}
CONFIG = tuning.TuningConfig(30_000, 96, 24, 100, 4)


@pytest.fixture
def dataset(tmp_path):
    words = [" ".join(f"{n * k % 97}" for k in range(1, 40)) for n in range(1, 60)]
    return bytes_of(tmp_path, "\n".join(words), "\u00e9 cat " * 40)


@pytest.fixture
def model(make_model, tiny_config) -> GPT:
    return make_model(replace(tiny_config, vocab_size=257))


def test_docstrings_are_read_without_code():
    assert domains.docstrings(MODULE) == "Of the module.\n\nOf f.\n\nMore:\n    indented\n\nOf C."


@pytest.mark.slow
@pytest.mark.parametrize("name", domains.DOMAINS)
def test_a_domain_is_the_same_each_time_and_has_words_of_its_own(dataset, name):
    text = domains.dataset_of(name, dataset, 100_000)
    whole = "".join(map(text.text, ("train", "valid", "test")))
    assert 100_000 <= len(whole.encode()) < 400_000, "to the end of a module"
    next((dataset.folder / "domains").glob("*.txt")).unlink()
    domains.dataset_of.cache_clear()
    assert domains.dataset_of(name, dataset, 100_000).text("train") == text.text("train")
    assert {"programming": "import ", "mathematics": "Parameters\n----"}[name] in whole


def test_a_name_that_is_neither_here_nor_on_the_hub_is_refused(dataset, monkeypatch):
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: 1 / 0)
    with pytest.raises(LLMLiteError, match=r"nobody/nothing cannot be read .*name a file"):
        domains.dataset_of("nobody/nothing", dataset, 1000)


def test_a_gpt2_is_scored_as_the_gpt_that_it_was(dataset, model):
    ids, gpt2 = dataset.ids["test"], tuning.as_gpt(to_gpt2(model), model.config)
    rows = tuning.pieces(gpt2, ids, dataset.tokenizer)
    score = metrics.evaluate(model, ids, dataset.counts("test"))
    assert rows[:, 0].sum() / score.bytes == pytest.approx(score.bits_per_byte, rel=1e-5)
    assert rows[:, 1:].sum(0).tolist() == [score.bytes, score.tokens]
    assert len(rows) == np.ceil(score.tokens / model.config.block_size)


@pytest.mark.parametrize("way", tuning.WAYS)
def test_what_is_trained(model, way):
    gpt2, trained = tuning.prepared(model, way, seed=0)
    free = [p for p in trained.parameters() if p.requires_grad]
    assert sum(p.numel() for p in free) == TRAINED.get(way, model.config.n_parameters)
    same = gpt2.lm_head.weight is gpt2.transformer.wte.weight
    assert same == (way != "head"), "its own copy, so that inputs stay as they are"


@pytest.mark.slow
def test_an_adapter_is_kept_merged_and_brought_back(dataset, model, tmp_path):
    domain, empty = tmp_path / "domain.txt", domains.key_of(str(tmp_path / "domain.txt"))
    domain.write_text("\n".join(f"x = {n} * y" for n in range(2000)), "utf-8")
    how = {"domain": str(domain), "way": "lora8", "seed": 1}
    untuned = tuning.tuned(model, dataset, **how | {"way": "untuned"}, config=CONFIG)
    found = tuning.tuned(model, dataset, **how, config=CONFIG)
    assert (found["trained"], found["tokens"], found["steps"]) == (4096, 96, 4)
    (before, *_), (after, *_) = (np.sum(x["domain"], axis=0) for x in (untuned, found))
    assert after < before - 20, "bits, of 99 bytes"
    # The own text is the dataset's, whose é has two bytes and as many tokens.
    assert np.sum(found["own"], axis=0)[1:].tolist() == [99, 99]
    adapted = tuning.merged(SimpleNamespace(model=model, dataset=dataset), **how)
    save_gpt2(adapted, dataset.tokenizer, tmp_path / "gpt2")
    back = import_folder(tmp_path / "gpt2", tmp_path / "back").model
    text = domains.dataset_of(str(domain), dataset, 1)
    for part, of in (("own", dataset), ("domain", text)):
        rows = tuning.pieces(back, of.ids["test"][:100], dataset.tokenizer)
        np.testing.assert_allclose(rows, found[part], atol=2e-3)
    assert not np.allclose(found["own"], untuned["own"], atol=1)
    assert domains.key_of(str(domain)) != empty, "what is measured of another text is another's"


def test_without_the_extra_it_is_said(model, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(LLMLiteError, match="needs peft"):
        tuning.prepared(model, "all", 0)
    assert tuning.tuning_run(Experiment("quick", "sample", tmp_path, "cpu", progress=False)) == []


def test_what_is_measured_of_the_model_that_ships_is_kept(tmp_path):
    asked = []
    for profile, times in (("quick", 1), ("quick", 1), ("small", 2)):
        ready = Experiment(profile, "sample", tmp_path, "cpu", progress=False).or_pretrained()
        assert ready.measure("scores", lambda *_: asked.append(1) or {"a": 1}) == {"a": 1}
        assert len(asked) == times, profile
