"""A stream gives the text, the articles and the tokens of the text in memory, in bounded memory."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys

import datasets
import numpy as np
import pytest
from conftest import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlite import stream as module
from llmlite.cli import main
from llmlite.config import DataConfig
from llmlite.data import SPLITS, Counts, encode_split, load_corpus, rows_to_text, split_articles
from llmlite.errors import BusyError, DataError, LLMLiteError
from llmlite.experiment import Experiment
from llmlite.files import hold
from llmlite.stream import FolderStream, HubStream, head, open_stream, passages, tokenize
from llmlite.tokenizer import BPETokenizer

LINES = [
    " \n = T = \n \n",
    " \n",
    " = T = \n",
    " = = S = = \n",
    " Some text , and more .\n",
    "\n",
    " = \n",
    "ab\r\n",
]
texts = st.lists(st.sampled_from(LINES), max_size=30).map("".join) | st.text(" =\n\r\u0085ab")


def by_line(text):
    return text.splitlines(keepends=True) if text.isascii() and "\r" not in text else [
        line + "\n" for line in text.split("\n")[:-1]
    ] + ([text.split("\n")[-1]] if text.split("\n")[-1] else [])  # fmt: skip


@pytest.fixture(scope="module")
def sample():
    return load_corpus(DataConfig(source="sample"))


@pytest.fixture(scope="module")
def tokenizer(sample):
    return BPETokenizer.train(sample.splits["valid"], 600)


@pytest.fixture
def write_folder(tmp_path):
    """write_folder(**texts): a folder of WikiText files, of a few articles where none is given."""

    def write(**given):
        folder = tmp_path / "corpus"
        folder.mkdir(exist_ok=True)
        for split in SPLITS:
            text = given.get(split, f" \n = {split} = \n \n The cat sat on the mat .\n" * 3)
            (folder / f"wiki.{split}.raw").write_bytes(
                text if isinstance(text, bytes) else text.encode()
            )
        return folder

    return write


# -- text -----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(text=texts)
def test_a_files_lines_joined_are_its_text(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for split in SPLITS:
        (folder / f"wiki.{split}.raw").write_bytes(text.encode())
    lines = list(FolderStream(folder).lines("train"))
    assert "".join(lines) == text
    assert all(line.find("\n") in (-1, len(line) - 1) for line in lines)


@pytest.mark.parametrize(
    "rows",
    [
        ["", " = A = \n", "", " One .\n", ""],
        [" half a li", "ne\n", "", " two\n lines\n", " no end"],
        ["", "", "\n"],
    ],
)
def test_the_hubs_rows_become_the_same_text_whatever_a_row_holds(tmp_path, rows):
    for split in ("train", "validation", "test"):
        path = tmp_path / "repository" / "raw" / f"{split}-00000-of-00001.parquet"
        datasets.Dataset.from_dict({"text": rows}).to_parquet(path)
    stream = HubStream(str(tmp_path / "repository"), "default")
    lines = list(stream.lines("valid"))
    assert "".join(lines) == rows_to_text(rows)
    assert all(line.find("\n") in (-1, len(line) - 1) for line in lines)


def test_a_configuration_that_the_hub_lacks_is_named(tmp_path):
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataError, match="no configuration 'wikitext-3'"):
        HubStream(str(tmp_path), "wikitext-3")


@settings(deadline=None, max_examples=300)
@given(texts)
def test_passages_are_the_articles(text):
    cut = list(passages(by_line(text)))
    assert all(begins for begins, _ in cut)
    assert [part for _, part in cut] == [article.text for article in split_articles(text)]


@settings(deadline=None, max_examples=300)
@given(text=texts, longest=st.integers(1, 60))
def test_a_long_article_comes_in_parts_with_the_tokens_of_the_whole(text, longest):
    tokenizer = BPETokenizer.train(" Some text , and more .\n\r\n \n = T = \n \n" * 9, 270)
    articles: list[list[str]] = []
    for begins, part in passages(by_line(text), longest):
        if begins:
            articles.append([])
        articles[-1].append(part)
    assert ["".join(parts) for parts in articles] == [a.text for a in split_articles(text)]
    for parts in articles:
        ids = [i for part in tokenizer.encode_batch_to_arrays(parts) for i in part]
        assert ids == tokenizer.encode("".join(parts))


def test_an_article_without_end_is_held_in_parts_only():
    lines = [" Word after word , line after line .\n"] * 1000
    sizes = [len(part) for _, part in passages(lines, longest=500)]
    assert max(sizes) < 700
    lines = ["Word after word\r\n"] * 1000
    assert max(len(part) for _, part in passages(lines, longest=500)) < 700


@pytest.mark.parametrize("n_bytes", [1, 999, 10_000, 10**8])
def test_the_head_is_the_first_lines_in_pieces_that_keep_words_whole(sample, n_bytes, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 3000)
    text = sample.splits["test"]
    pieces = list(head(by_line(text), n_bytes))
    start = "".join(pieces)
    assert text.startswith(start)
    lines = by_line(start)
    assert len("".join(lines[:-1]).encode()) < n_bytes, "the last line is the one that is too much"
    assert len(start.encode()) >= min(n_bytes, len(text.encode()))
    assert max(map(len, pieces)) < 3000 + max(map(len, lines))
    if n_bytes == 10_000:
        assert len(pieces) > 2
        assert BPETokenizer.train(pieces, 400).merges == BPETokenizer.train(start, 400).merges


def test_text_that_is_not_utf8_is_named_with_byte_and_line(write_folder, one_sentence):
    folder = write_folder(train="é\n \nna".encode() + b"\xefve\n")
    with pytest.raises(DataError, match=r"byte 7 \(line 3\) is 0xef") as error:
        list(FolderStream(folder).lines("train"))
    assert "wiki.train.raw" in one_sentence(error)


# -- tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [2000, 40_000, module.BATCH])
def test_the_sample_has_the_same_tokens_and_counts_as_in_memory(
    sample, tokenizer, tmp_path, batch, monkeypatch
):
    monkeypatch.setattr(module, "BATCH", batch)
    streamed = tokenize(open_stream(DataConfig(source="sample")), tokenizer, tmp_path)
    assert streamed.name == sample.name
    assert streamed.fingerprint == sample.fingerprint
    for split in SPLITS:
        ids = streamed.ids[split]
        assert ids.dtype == tokenizer.dtype
        np.testing.assert_array_equal(ids, encode_split(sample, split, tokenizer))
        assert streamed.counts(split) == sample.counts(split)
        text = sample.splits[split]
        assert streamed.counts(split).bytes == len(text.encode())
        assert isinstance(ids, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            ids[0] = 0


def test_a_tokenizer_of_another_pattern_gets_whole_articles(sample, tmp_path, monkeypatch):
    """Nothing is known of where such a pattern cuts."""
    monkeypatch.setattr(module, "BATCH", 100)
    text = "ab ab ba \n" * 200
    splits = type(sample)("own", dict.fromkeys(SPLITS, text))
    for split in SPLITS:
        (tmp_path / f"wiki.{split}.raw").write_text(text, newline="")
    tokenizer = BPETokenizer.train(text, 262, pattern=r"[\s\S]{1,7}")
    streamed = tokenize(FolderStream(tmp_path), tokenizer, tmp_path / "out")
    np.testing.assert_array_equal(streamed.ids["test"], encode_split(splits, "test", tokenizer))


def test_counts_worked_out_by_hand():
    counts = Counts.of(" \n = Ä = \n", articles=1) + Counts.of(" no end", articles=0)
    assert counts == Counts(articles=1, words=3 + 2, line_ends=2, bytes=3 + 1 + 7 + 7)
    assert counts.words_and_line_ends == 7


def test_tokens_are_made_once(write_folder, tokenizer, tmp_path, monkeypatch):
    folder = write_folder()
    first = tokenize(FolderStream(folder), tokenizer, tmp_path)
    monkeypatch.setattr(FolderStream, "lines", lambda *_: pytest.fail("read again"))
    again = tokenize(FolderStream(folder), tokenizer, tmp_path)
    assert again.fingerprint == first.fingerprint
    assert all(np.array_equal(again.ids[split], first.ids[split]) for split in SPLITS)
    assert all(again.counts(split) == first.counts(split) for split in SPLITS)


def test_another_text_or_tokenizer_has_tokens_of_its_own(write_folder, tokenizer, tmp_path):
    first = tokenize(FolderStream(write_folder()), tokenizer, tmp_path)
    other = BPETokenizer(tokenizer.merges[:-1])
    assert tokenize(FolderStream(write_folder()), other, tmp_path).ids["test"][0] == other.eot_id
    changed = tokenize(FolderStream(write_folder(test=" Another .\n")), tokenizer, tmp_path)
    assert tokenizer.decode(changed.ids["test"][1:]) == " Another .\n"
    assert changed.fingerprint != first.fingerprint


def test_after_a_kill_complete_splits_are_kept_and_the_rest_is_made_anew(
    write_folder, tokenizer, tmp_path
):
    folder = write_folder(valid=" = Valid = \n A cat .\n" * 2000)
    whole = tokenize(FolderStream(folder), tokenizer, tmp_path / "whole")
    child = os.fork()
    if child == 0:  # in another process: to be killed in the middle of the second split
        lines = FolderStream.lines

        def deadly(self, split):
            for number, line in enumerate(lines(self, split)):
                if split == "valid" and number == 3500:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield line

        FolderStream.lines, module.BATCH = deadly, 1000
        tokenize(FolderStream(folder), tokenizer, tmp_path / "killed")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (made,) = (tmp_path / "killed").iterdir()
    assert list(made.glob(".valid.npy.*.tmp.npy")), "it was killed before it had written anything"
    kept = (made / "train.npy").stat().st_mtime_ns
    resumed = tokenize(FolderStream(folder), tokenizer, tmp_path / "killed")
    assert (made / "train.npy").stat().st_mtime_ns == kept
    assert not list(made.glob(".*.tmp*"))
    for split in SPLITS:
        np.testing.assert_array_equal(resumed.ids[split], whole.ids[split])
        assert resumed.counts(split) == whole.counts(split)


def test_a_second_process_on_the_same_tokens_is_told_so(write_folder, tokenizer, tmp_path):
    source = FolderStream(write_folder())
    with (
        hold(tmp_path / f"tokens-{source.fingerprint}-{tokenizer.fingerprint}"),
        pytest.raises(BusyError),
    ):
        tokenize(source, tokenizer, tmp_path)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("train.npy", lambda content: content[:-2]),
        ("train.npy", lambda content: b""),
        ("train.npy", lambda content: b"\0" * len(content)),
        ("train.json", lambda content: content[:20]),
        ("train.json", lambda content: b"{}"),
    ],
)
def test_damaged_tokens_are_named(write_folder, tokenizer, tmp_path, name, damage, one_sentence):
    folder = write_folder()
    tokenize(FolderStream(folder), tokenizer, tmp_path / "out")
    (made,) = (tmp_path / "out").iterdir()
    (made / name).write_bytes(damage((made / name).read_bytes()))
    with pytest.raises(DataError, match="are damaged") as error:
        tokenize(FolderStream(folder), tokenizer, tmp_path / "out")
    assert str(made) in one_sentence(error)


def test_a_text_that_differs_from_sha256sums_is_named(write_folder, tokenizer, tmp_path):
    folder = write_folder()
    (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(b'').hexdigest()}  wiki.test.raw\n")
    with pytest.raises(DataError, match=r"wiki\.test\.raw is damaged"):
        tokenize(FolderStream(folder), tokenizer, tmp_path)


def test_an_empty_split_is_named(write_folder, tokenizer, tmp_path, one_sentence):
    with pytest.raises(DataError, match="valid split") as error:
        tokenize(FolderStream(write_folder(valid=" \n \n")), tokenizer, tmp_path / "out")
    one_sentence(error)


# -- an experiment --------------------------------------------------------------------------------


def test_a_streamed_experiment_is_the_same_experiment(write_folder, tmp_path):
    rng = random.Random(1)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "dogs"]
    text = "".join(
        f" \n = A {i} = \n \n {' '.join(rng.choices(words, k=8))} .\n" for i in range(600)
    )
    folder = write_folder(train=text, valid=text[:3000], test=text[3000:9000])

    def start(out, **changes):
        return Experiment(
            "quick", str(folder), tmp_path / out, "cpu", progress=False,
            configuration={"learning_rate": 1e-2, "n_layer": 1, "n_head": 1, "n_embd": 8},
            training={"epochs": 1, "train_tokens": None}, vocab_size=280, block_size=16, **changes,
        )  # fmt: skip

    streamed, whole = start("streamed", stream=True), start("whole")
    assert streamed.split_table().equals(whole.split_table())
    assert streamed.about == whole.about
    assert streamed.test_score() == whole.test_score()
    assert streamed.run_folder.name == whole.run_folder.name
    assert all(
        a.tolist() == b.tolist()
        for a, b in zip(streamed.test_sentences(), whole.test_sentences(), strict=True)
    )
    assert str(streamed) == str(whole)
    assert isinstance(streamed.ids["train"], np.memmap)


def test_the_tokenizer_learns_from_the_beginning_of_the_stream(write_folder, tmp_path):
    text = " aa ab ac .\n" * 100
    folder = write_folder(train=text + " zq zq zq .\n" * 1000)

    def tokens(n_bytes):
        return Experiment(
            "quick", str(folder), tmp_path / "out", "cpu", progress=False,
            vocab_size=262, stream=True, tokenizer_bytes=n_bytes,
        ).tokenizer.token_bytes  # fmt: skip

    assert tokens(len(text)) == BPETokenizer.train(text, 262).token_bytes
    assert b" zq" in tokens(10**8)


def test_the_command_line_streams(write_folder, tmp_path, capsys, monkeypatch):
    folder, out = write_folder(), tmp_path / "out"
    options = ["--profile", "quick", "--data", str(folder), "--vocab-size", "270"]
    assert main(["prepare", *options, "--out", str(tmp_path / "whole")]) == 0
    table = capsys.readouterr().out.split("Tokenizer")[0]
    monkeypatch.setattr("llmlite.experiment.load_corpus", lambda *_: pytest.fail("not a stream"))
    assert main(["prepare", *options, "--out", str(out), "--stream"]) == 0
    assert capsys.readouterr().out.split("Tokenizer")[0] == table
    assert len(list(out.glob("tokens-*/train.npy"))) == 1


def test_the_papers_split_is_not_streamed(one_sentence):
    with pytest.raises(LLMLiteError, match="'paper', which needs the whole text") as error:
        DataConfig(split="paper", stream=True)
    one_sentence(error)


def test_the_command_that_carries_on_streams_as_well(write_folder, tmp_path):
    experiment = Experiment("quick", str(write_folder()), tmp_path, "cpu", stream=True)
    assert experiment.command("train").split()[-1] == "--stream"


# -- memory ---------------------------------------------------------------------------------------

TRAIN = """
import json, re, resource, sys
from pathlib import Path
import numpy as np
import torch
from llmlite.config import ModelConfig, TrainConfig
from llmlite.train import Trainer

how, path, folder, margin = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
model = ModelConfig(vocab_size=256, block_size=256, n_layer=1, n_head=1, n_embd=16, dropout=0.0)
config = TrainConfig(epochs=1, batch_size=16, amp="off", fast=False)
few = torch.randint(256, (16 * 256 * 5 + 1,))


class Enough(Exception):
    pass


class Watcher:
    steps = 0

    def on_steps(self, rows):
        self.steps = rows[-1]["step"]
        if self.steps >= 40:
            raise Enough

    def on_epoch(self, epoch):
        pass

    def close(self):
        pass


def train(ids, name):
    watcher = Watcher()
    try:
        Trainer(model, config, {"train": ids, "valid": few}, folder / name, {}, progress=False,
                watchers=[watcher]).fit()
    except Enough:
        pass
    return watcher.steps


train(few, "warm up")  # what training needs besides tokens is allocated now
status = Path("/proc/self/status").read_text()
used = int(re.search(r"VmData:\\s+(\\d+) kB", status)[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + margin, used + margin))
if how == "mapped":
    ids = np.load(path, mmap_mode="r")
else:
    ids = torch.from_numpy(np.load(path).astype(np.int64))
print(json.dumps({"steps": train(ids, how), "windows": (len(ids) - 1) // 256}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA covers mmap on Linux alone")
def test_a_corpus_larger_than_the_memory_allowed_trains_from_disk_and_not_from_memory(tmp_path):
    """RLIMIT_DATA bounds what a process allocates; pages of a mapped file do not count."""
    margin, tokens = 100 << 20, 250_000_000  # as 100 times WikiText-2: 500 MB
    path = tmp_path / "tokens.npy"
    block = np.random.default_rng(1).integers(0, 256, 1 << 22, np.uint16)  # repeated: not sparse
    file = np.lib.format.open_memmap(path, "w+", np.uint16, (tokens,))
    for start in range(0, tokens, len(block)):
        file[start : start + len(block)] = block[: tokens - start]
    file.flush()
    del file
    assert path.stat().st_blocks * 512 > 4 * margin

    def run(how):
        return subprocess.run(
            [sys.executable, "-c", TRAIN, how, path, tmp_path, str(margin)],
            capture_output=True,
            text=True,
            check=False,
        )

    mapped = run("mapped")
    assert mapped.returncode == 0, mapped.stderr
    assert json.loads(mapped.stdout) == {"steps": 40, "windows": (tokens - 1) // 256}
    in_memory = run("in memory")
    assert in_memory.returncode != 0
    assert "Unable to allocate" in in_memory.stderr
    assert "MemoryError" in in_memory.stderr


@pytest.mark.slow
def test_the_memory_benchmark_measures_both_ways_and_records(tmp_path):
    script = REPOSITORY / "tests" / "benchmarks" / "bench_memory.py"
    options = ["--times", "40", "--tokens", "1000000", "--steps", "20", "--out", tmp_path]
    subprocess.run([sys.executable, script, *options], check=True, capture_output=True)
    runs = {run["how"]: run for run in json.loads((tmp_path / "memory.json").read_text())["runs"]}
    assert [run["tokens"] for run in runs.values()] == [40_000_000] * 2
    most = {how: max(sample["anonymous"] for sample in run["samples"]) for how, run in runs.items()}
    assert most["in memory"] - most["from a file"] > 150e6, "of the 320 MB that the tokens take"
    assert all(run["samples"][-1]["trained"] == 20 * 32 * 256 for run in runs.values())
