"""The bundled sample: made by its script, in WikiText's format, the same on every machine."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest

from llmlite.config import DataConfig
from llmlite.data import SPLITS, load_corpus, sample_folder

SCRIPT = sample_folder() / "make_sample.py"


@pytest.fixture(scope="module")
def corpus():
    return load_corpus(DataConfig(source="sample"))


def compose():
    spec = importlib.util.spec_from_file_location("make_sample", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.compose()


def test_the_committed_files_are_what_the_script_composes():
    composed = compose()
    assert set(composed) == {f"wiki.{split}.raw" for split in SPLITS} | {"SHA256SUMS"}
    for name, text in composed.items():
        assert (sample_folder() / name).read_bytes() == text.encode("utf-8"), name


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_the_script_does_not_depend_on_the_hash_seed(tmp_path, hash_seed):
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "LC_ALL": "C"}
    subprocess.run([sys.executable, SCRIPT, "--out", tmp_path], env=environment, check=True)
    for split in SPLITS:
        name = f"wiki.{split}.raw"
        assert (tmp_path / name).read_bytes() == (sample_folder() / name).read_bytes()


def test_check_fails_on_a_changed_file(tmp_path):
    subprocess.run([sys.executable, SCRIPT, "--out", tmp_path], check=True)
    with open(tmp_path / "wiki.valid.raw", "a", encoding="utf-8") as file:
        file.write(" One more line . \n")
    run = subprocess.run([sys.executable, SCRIPT, "--out", tmp_path, "--check"], check=False)
    assert run.returncode == 1


def test_it_has_several_hundred_articles_and_about_a_megabyte(corpus):
    assert sum(len(corpus.articles(split)) for split in SPLITS) >= 400
    assert 0.9e6 < sum(len(text.encode()) for text in corpus.splits.values()) < 1.1e6


def test_no_title_is_in_two_splits(corpus):
    titles = [article.title for split in SPLITS for article in corpus.articles(split)]
    assert len(titles) == len(set(titles))


def test_lines_have_wikitexts_form(corpus):
    for text in corpus.splits.values():
        for line in text.splitlines(keepends=True):
            assert line.endswith(" \n")
            assert line == " \n" or line.startswith(" ")
            heading = line.startswith(" = ")
            assert heading or line == " \n" or re.search(r'[.?!] (["\)] )*\n$', line), line
            assert "  " not in line
            assert not re.search(r"\w-\w", line), "hyphens are joiners: @-@"


def test_it_has_the_words_of_the_papers_prompts(corpus):
    train = corpus.splits["train"]
    for words in (" university student", " cat sat on", " organization"):
        assert words in train
