"""From every source the same text, cut between articles; a Dataset in memory and from a stream."""

import os
import re
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from hashlib import sha256
from io import StringIO
from itertools import chain
from pathlib import Path
from unittest.mock import Mock

import datasets
import httpx
import numpy as np
import pyarrow
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train import MODEL, random_ids, trainer

from llmlite import data, sources
from llmlite.config import DataConfig
from llmlite.data import SPLITS, Counts, Dataset, encode_parts
from llmlite.files import DataError, TokenizerError
from llmlite.sources import open_source, paper_split, sample_folder, split_articles
from llmlite.tokenizer import BPETokenizer


def opened(source="auto", **changes):
    """The text in memory, and what to call it."""
    opened = open_source(DataConfig(source=str(source), **changes), without=Path("made here"))
    return opened.splits, opened.name(opened.sha256)


def article(title: str, words: int = 5) -> str:
    return f" \n = {title} = \n \n" + f" {title} is a word . " * words + "\n"


TEXTS = {
    "train": "".join(article(f"Tráin {i}") + " \n = = A section = = \n \n x\n" for i in "abc"),
    "valid": article("Valid") + article("Second"),
    "test": article("Test") + " \n \n two blank lines before\r\n a no @-@ break\u00a0space \x85 \n",
}


def write_folder(parent: Path, suffix: str = "tokens", **texts) -> Path:
    """A folder of WikiText files."""
    (folder := parent / "corpus").mkdir(exist_ok=True)
    for split, text in {**TEXTS, **texts}.items():
        (folder / f"wiki.{split}.{suffix}").write_bytes(text.encode())
    return folder


@pytest.fixture
def start(tmp_path):
    """start(**changes): a Dataset of write_folder's text."""
    folder = write_folder(tmp_path)

    def start(out="out", **changes):
        config = DataConfig(source=str(folder), vocab_size=270, block_size=16)
        return Dataset(replace(config, **changes), tmp_path / out, progress=False)

    return start


@pytest.mark.parametrize(("suffix", "other", "name"), [
    ("tokens", "raw", "wikitext-2-v1"),
    ("raw", "tokens", "wikitext-2-raw-v1"),
])  # fmt: skip
def test_a_damaged_file_is_named(tmp_path, suffix, other, name, monkeypatch):
    folder = write_folder(tmp_path, suffix)
    (folder / f"wiki.test.{other}").write_text("of a download cut short")
    assert opened(folder) == (TEXTS, "own text in corpus")
    known = {f"wiki.{s}.{suffix}": sha256(text.encode()).hexdigest() for s, text in TEXTS.items()}
    monkeypatch.setattr(sources, "KNOWN_SHA256", known)
    assert opened(folder) == (TEXTS, name)
    write_folder(tmp_path, suffix, train=TEXTS["train"][:-1] + "x")
    with pytest.raises(DataError, match=rf"wiki\.train\.{suffix} is damaged"):
        opened(folder)
    monkeypatch.setattr(sources, "TRAIN_BYTES", len(TEXTS["train"]))  # as of WikiText-103
    write_folder(tmp_path, suffix, train=TEXTS["train"] * 2)
    assert opened(folder)[1] == "own text in corpus"
    write_folder(tmp_path, suffix, **{split: text + " mine\n" for split, text in TEXTS.items()})
    assert opened(folder)[1] == "own text in corpus"


def test_files_of_windows_are_the_same_text(tmp_path):
    texts = {split: text.replace("\r", "") for split, text in TEXTS.items()}
    marked = {s: "\ufeff" + text.replace("\n", "\r\n") for s, text in texts.items()}
    assert opened(write_folder(tmp_path, **marked))[0] == texts


@pytest.fixture
def hub(tmp_path, monkeypatch) -> dict[str, dict[str, str]]:
    """The texts of a local folder that is laid out like Salesforce/wikitext is on the Hub."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets cache")
    monkeypatch.setattr(sources, "HUB_REPOSITORY", str(tmp_path / "hub"))
    unknown = {split: text.replace("word", "<unk>") for split, text in TEXTS.items()}
    texts = {"wikitext-2-v1": unknown, "wikitext-2-raw-v1": TEXTS}
    for name, splits in texts.items():
        (folder := tmp_path / "hub" / name).mkdir(parents=True)
        for split, text in splits.items():
            rows = ["" if line == " \n" else line for line in StringIO(text)]
            datasets.Dataset.from_dict({"text": rows}).to_parquet(folder / f"{split}.parquet")
    configs = "".join(f"- config_name: {name}\n  data_dir: {name}\n" for name in texts)
    (tmp_path / "hub" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    return texts


def test_the_hub_has_the_same_text_and_auto_is_a_folder_or_the_hub(hub, tmp_path, monkeypatch):
    for called, texts in hub.items():
        assert opened("hub", name=called) == (texts, called)
        stream = open_source(DataConfig("hub", called, stream=True), without=Path("here"))
        assert {split: "".join(stream.strings(split)) for split in SPLITS} == texts
    own = str(write_folder(tmp_path))
    for value, name in (("", "wikitext-2-raw-v1"), (own, "own text in corpus")):
        monkeypatch.setenv("LLMLITE_DATA", str(value))
        assert opened()[1] == name


UNSAID = datasets.exceptions.DatasetGenerationError("An error occurred while …")
UNSAID.__cause__ = httpx.RemoteProtocolError("closed")


@pytest.mark.parametrize(("where", "error", "words"), [
    (None, None, "BuilderConfig 'wikitext-3' not found"),
    ("load_dataset_builder", ConnectionError("No\nroute"), "ConnectionError: No route"),
    ("load_dataset_builder", ImportError("no 'socksio'"), "ImportError: no 'socksio'"),
    ("load_dataset_builder", httpx.ReadError("cut"), "ReadError: cut"),  # is no OSError
    ("DatasetBuilder.download_and_prepare", UNSAID, "RemoteProtocolError: closed"),
    ("DatasetBuilder.as_dataset", pyarrow.ArrowInvalid("not a Parquet file"), "ArrowInvalid: not"),
])  # fmt: skip
def test_a_hub_that_fails_is_named_with_two_ways_out(hub, monkeypatch, where, error, words):
    if where:
        monkeypatch.setattr(f"datasets.{where}", Mock(side_effect=error))
    match = rf"Configuration (\S+) of \S+ cannot be .*{words}.*\$LLMLITE_DATA.*--data sample"
    with pytest.raises(DataError, match=match):
        opened("hub", name="wikitext-2-v1" if where else "wikitext-3")


@pytest.mark.parametrize(("name", "content", "words"), [
    ("wiki.valid.tokens", None, "lacks wiki.valid.tokens;"),
    ("wiki.valid.tokens", b"\xc3\xa9 \xef ", "{path} is not UTF-8: it has a byte 0xef;"),
    ("wiki.valid.tokens", b"", "{path} is empty"),
    ("wiki.valid.tokens", b"a\n\0", "{path} is not text: it has NUL bytes"),
    ("wiki.valid.tokens", os.mkfifo, "lacks wiki.valid.tokens (no regular file);"),
    ("wiki.valid.tokens", b" \n \n\n", "The valid split holds no text"),
    ("text.txt", None, "There is no file or folder {path}"),
    ("text.txt", b" \n\t\n" * 9_999, "{path} holds 0 bytes of text; at least 20,000"),
    ("text.txt", b"a" * 19_998, "{path} holds 19,999 bytes of text; at least 20,000"),  # one added
    ("text.txt", b"fine " * 5_000 + b"caf\xe9 ", "{path} is not UTF-8: it has a byte 0xe9"),
    ("text.txt", b"fine " * 5_000 + b"\0", "{path} is not text: it has NUL bytes"),
    ("text.txt", os.mkfifo, "{path} is no regular file;"),
])  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_unusable_text_is_refused(start, tmp_path, name, content, words, stream):
    path = tmp_path / "corpus" / name
    path.unlink(missing_ok=True)
    if callable(content):
        content(path)
    elif content is not None:
        path.write_bytes(content)
    source = str(path if name == "text.txt" else path.parent)
    said = re.escape(words.format(path=path))
    with pytest.raises((DataError, TokenizerError), match=said):
        start(source=source, stream=stream).ids  # noqa: B018


def test_a_folder_is_its_text_files_in_order_with_one_kind_of_line_ends(tmp_path, capsys):
    files = {
        "b.md": b"\n" + b"long \n" * 4_000,
        "a/1.txt": b"\xef\xbb\xbf\r\n one \r\ntwo\r\n \r\n",
        "a/2.txt": b"one\r\rtwo",
        **dict.fromkeys(("made/README.md", ".hidden.txt", ".git/config"), b"hidden"),
        **{"c.png": b"\x89PNG\r\n", "d.bin": b"text\0", "empty.txt": b"\n"},
    }
    for name, content in files.items():
        (path := tmp_path / "letters" / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    folder = str(tmp_path / "letters")
    source = open_source(DataConfig(source=folder), without=tmp_path / "letters" / "made")
    expected = " one \ntwo\n\none\n\ntwo\n\n" + "long \n" * 3_999 + "long\n"
    assert "".join(source.splits.values()) == expected
    assert source.name(source.sha256) == "own text letters"
    said = f"Left out of {folder}, or copied: c.png is not UTF-8: it has a byte 0x89; d.bin is"
    assert capsys.readouterr().err.startswith(said)


PROSE = "".join(f"{i}: {i**3 % 997} or {i**5 % 991}, as no other line has.\n" for i in range(999))
HALF = len(PROSE) // 2


@pytest.mark.parametrize(("make", "words"), [
    (os.mkfifo, "is no regular file"),
    (lambda file: file.symlink_to("/dev/zero"), "is a link that leads out of the folder"),
    (lambda file: file.symlink_to("/etc"), "is a link that leads out of the folder"),
    (lambda file: file.symlink_to("."), "is no regular file"),  # all of it is read already
    (lambda file: file.symlink_to(file), "is no regular file"),
    (lambda file: file.symlink_to("a.txt"), "has the text of a.txt"),
    (lambda file: file.write_text(f"\n{PROSE}"), "has the text of a.txt"),
    (Path.mkdir, "cannot be read: Permission denied"),
    (lambda file: file.write_text(PROSE.replace("no other", "none", 50)), "is to 9.% in files be"),
])  # fmt: skip
def test_what_is_left_out_of_a_folder_is_said(tmp_path, capsys, monkeypatch, make, words):
    folder = tmp_path / os.fsdecode(b"\xff\x1b[1m")
    name, scandir = os.fsdecode(b"b\xff"), os.scandir

    def locked(path):
        if os.path.basename(path) == name:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    folder.mkdir()
    (folder / "a.txt").write_text(PROSE)
    make(folder / name)
    splits, title = opened(folder)
    assert ("".join(splits.values()) == PROSE) == ("files" not in words)
    assert title == "own text \ufffd\ufffd[1m"  # which a record can have
    assert re.search(rf"^Left out of .*: b\ufffd {words}", capsys.readouterr().err)


def test_text_larger_than_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MOST_BYTES", 30_000)
    (tmp_path / "a.txt").write_text(PROSE)
    for source in (tmp_path, tmp_path / "a.txt", write_folder(tmp_path, train=PROSE)):
        with pytest.raises(DataError, match=r"bytes of text, too many.*--data\.stream\.$"):
            opened(source)


@pytest.mark.parametrize(("texts", "said"), [
    ({"train": PROSE, "test": PROSE}, r"100% of the test split of own text in corpus stands word"),
    ({"train": PROSE, "valid": PROSE.replace(" ", "\n")}, "100% of the valid split"),
    ({"train": PROSE, "test": "\n".join(PROSE.upper().split("\n")[::-1])}, "100% of the test sp"),
    ({"train": PROSE[:HALF], "test": PROSE}, r"[45]\d% of the test split"),
    ({"train": PROSE[:HALF], "test": PROSE[HALF:]}, None),
    ({"train": "語" * 30 + "文", "test": "文" * 31}, None),
])  # fmt: skip
def test_a_split_that_repeats_an_earlier_one_is_told_of(tmp_path, capsys, texts, said):
    opened(write_folder(tmp_path, **texts))
    err = capsys.readouterr().err
    assert re.fullmatch(rf"({said}).*by heart\.\n", err) if said else err == ""


def test_cuts_lie_between_the_largest_things_near(tmp_path):
    """40,000 characters: the cuts are due at 32,000 and 36,000 and may move by 1,000."""
    # Paragraphs end 899 before the first cut, 902 after it, and 1,097 before the second, which is
    # out of reach; lines end at 34,903 + 100 k.
    line, path = "x" * 99 + "\n", tmp_path / "a.txt"
    paragraphs = "\n".join([line * 311, line * 18, line * 20, line * 50 + "x" * 96 + "\n"])
    for text, first, second in (
        (paragraphs, 31_101, 36_003),
        ("words " * 6_666 + "end\n", 31_998, 36_000),
        ("x" * 39_999 + "\n", 32_000, 36_000),
    ):
        assert len(text) == 40_000
        path.write_text(text, encoding="utf-8")
        splits = dict(zip(SPLITS, (text[:first], text[first:second], text[second:]), strict=True))
        assert opened(path) == (splits, "own text a")


def test_wikitext_2_has_600_60_and_60_articles_and_repeats_next_to_nothing(wikitext_corpus):
    assert [len(wikitext_corpus.articles(split)) for split in SPLITS] == [600, 60, 60]
    assert wikitext_corpus.articles("valid")[0].startswith(" \n = Homarus gammarus = \n \n")
    assert max(sources.repeated(wikitext_corpus.text(split) for split in SPLITS)) < 0.005


def test_only_a_heading_between_blank_lines_starts_an_article():
    text = (
        " \n = One = \n \n Text .\n = Not alone above = \n \n More .\n"
        " \n = Not alone below = \n More .\n \n = = A section = = \n \n More .\n"
        "| \n = Two = three = \n \n| \n = Four = \n| \n = Five = \n \n"
    )
    assert split_articles(text.replace("|", "")) == text.split("|")


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 40), min_size=3, max_size=40))
def test_the_papers_split_cuts_between_articles_alone(lengths):
    articles = [article(f"Article {i}", words) for i, words in enumerate(lengths)]
    parts = paper_split("".join(articles))
    found = [split_articles(parts[split]) for split in SPLITS]
    assert [*chain(*found)] == articles
    # Of the cuts that leave no split empty, those nearest to 80 % and 90 % of the text.
    n, length = len(articles), np.array([len(text) for text in articles])
    train = min(range(1, n - 1), key=lambda i: abs(length[:i].sum() - 0.8 * length.sum()))
    both = min(range(train + 1, n), key=lambda i: abs(length[:i].sum() - 0.9 * length.sum()))
    assert [len(part) for part in found] == [train, both - train, n - both]


def test_counts_worked_out_by_hand():
    counts = Counts.of(" \n = Ä = \n no end", articles=1)
    assert counts == Counts(articles=1, words=3 + 2, line_ends=2, bytes=2 + 9 + 7)
    assert counts.words_and_line_ends == 7


LINES = " \n = T = \n \n| \n| = T = \n| = = S = = \n| Some text , and more .\n|\n| = \n|ab\r\n"
texts = st.lists(st.sampled_from(LINES.split("|")), max_size=30).map("".join)
TOKENIZER = BPETokenizer.train(" Some text , and more .\n\r\n \n = T = \n \n" * 9, 270)


@settings(deadline=None, max_examples=250)
@given(text=texts | st.text(" =\n\r\u0085ab"), batch=st.integers(1, 60))
def test_an_article_comes_in_parts_with_the_tokens_of_the_whole(text, batch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "BATCH", batch)
        parts = list(encode_parts(StringIO(text), TOKENIZER))
    articles: list[str] = []
    for begins, part, _ in parts:
        if begins:
            articles.append("")
        articles[-1] += part
    assert articles == split_articles(text)
    ids = [i for article in articles for i in [TOKENIZER.eot_id, *TOKENIZER.encode(article)]]
    assert [i for *_, part in parts for i in part] == ids


def test_an_article_without_end_is_held_in_parts_only(monkeypatch):
    monkeypatch.setattr(data, "BATCH", 500)
    parts = encode_parts([" Word after word , line after line\r\n"] * 200, BPETokenizer([]))
    assert max(len(part) for _, part, _ in parts) < 700


def test_first_sentences_are_those_of_paragraphs(start, tmp_path):
    wiki = " \n = St . John = \n \n One , two . Three . \n No stop \n 4 . 5 .\n 6 . 7\n"
    proses = {wiki: [" One , two .", " 4 .", " 6 ."]}
    proses |= {"A. B.\n\nC\nD. E.\n": ["A.", "D."], "A.\nB.\n": ["A.", "B."], "A": ["A"]}
    for prose, found in proses.items():
        write_folder(tmp_path, test=prose)
        assert [start().sentences(n) for n in (2, 9)] == [found[:2], found]
    assert paper_split("A word.\n\n" * 100)["test"] == "A word.\n\n" * 10, "there are no articles"


def test_a_stream_has_the_tokens_and_counts_of_the_text_in_memory(tmp_path, monkeypatch):
    config = DataConfig(source="sample", vocab_size=400)
    whole = Dataset(config, tmp_path / "whole", progress=False)
    table = whole.table()
    monkeypatch.setattr(data, "BATCH", 20_000)  # in many parts
    streamed = Dataset(replace(config, stream=True), tmp_path / "streamed", progress=False)
    assert streamed.about == whole.about
    assert streamed.name == "bundled sample"
    assert streamed.table().equals(table)
    assert streamed.sentences(50) == whole.sentences(50)
    for split in SPLITS:
        assert whole.ids[split].dtype == torch.int64
        assert whole.ids[split].tolist() == streamed.ids[split].tolist()
        assert streamed.counts(split) == whole.counts(split)
        assert whole.counts(split) == Counts.of(whole.text(split), len(whole.articles(split)))
        assert streamed.ids[split].dtype == whole.tokenizer.dtype
        assert isinstance(streamed.ids[split], np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            streamed.ids[split][0] = 0


def test_the_tokenizer_learns_from_the_beginning_of_a_stream(start, tmp_path):
    text = " aa ab ac .\n" * 100
    write_folder(tmp_path, train=text + " zq" * 1000 + " .\n")
    settings = {"vocab_size": 262, "stream": True}
    beginning = start(**settings, tokenizer_bytes=len(text)).tokenizer
    assert beginning.merges == BPETokenizer.train(text, 262).merges
    assert b" zq" in start(**settings, tokenizer_bytes=len(text) + 1).tokenizer.token_bytes


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_made_is_made_once_for_its_own_text(start, tmp_path, monkeypatch, stream):
    first = start(stream=stream)
    table = first.table()
    with monkeypatch.context() as patch:
        patch.setattr(data, "encode_parts", lambda *_: pytest.fail("encoded again"))
        patch.setattr(BPETokenizer, "train", lambda *_, **__: pytest.fail("trained again"))
        again = start(stream=stream)
        assert again.table().equals(table)
        assert again.about == first.about
        assert all(np.array_equal(again.ids[split], first.ids[split]) for split in SPLITS)
    shorter = first.like(vocab_size=269)
    assert shorter.ids["train"].max() == shorter.tokenizer.eot_id == first.tokenizer.eot_id - 1
    assert first.ids["train"].max() == first.tokenizer.eot_id
    path, text = tmp_path / "corpus" / "wiki.test.tokens", TEXTS["test"][::-1]
    before = path.stat()
    write_folder(tmp_path, test=text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # of the same size and time
    changed = start(stream=stream)
    assert changed.tokenizer.decode(changed.ids["test"]).endswith(text[-20:])
    assert changed.about["data_fingerprint"] != first.about["data_fingerprint"]
    assert len(list(first.folder.glob("tokens-*"))) == 3


def test_what_is_the_same_is_shared(start):
    dataset = start()
    ids, about = dataset.ids, dataset.about
    other = dataset.like(block_size=8, padding=True)
    assert other.ids is ids
    assert other.about == about | {"padding": "counted in the loss"}
    assert dataset.like(vocab_size=269).text("test") is dataset.text("test")
    paper = dataset.like(split="paper")
    assert paper.name == "own text in corpus, split 80/10/10"
    assert {split: paper.text(split) for split in SPLITS} == paper_split("".join(TEXTS.values()))
    given = BPETokenizer(dataset.tokenizer.merges[:-1])
    other = dataset.like(given)
    assert other.tokenizer is given
    assert other.text("test") is dataset.text("test")
    assert given.decode(other.ids["test"]).replace("<|endoftext|>", "") == TEXTS["test"]


def test_token_ids_alone_are_enough_and_neither_they_nor_a_stream_have_text(start):
    ids = {split: torch.arange(20) for split in SPLITS}
    bare = Dataset.of_ids(ids, DataConfig(block_size=8), {"data": "made"})
    assert bare.about == {"data": "made"}
    assert bare.like(stride=2).ids is bare.ids
    for call in (bare.text, start(stream=True).text, start(stream=True).articles):
        with pytest.raises(DataError, match="not at hand: it is read as a stream"):
            call("test")


def test_what_a_kill_leaves_of_tokens_is_gone_and_what_is_whole_stays(start):
    whole, killed = start("whole", stream=True), start("killed", stream=True)
    killed.ids  # noqa: B018
    (made,) = killed.folder.glob("tokens-*")
    (killed.folder / ".tokenizer-1-9.json.1.tmp.json").touch()
    for split in ("valid", "test"):
        (made / f"{split}.json").unlink()  # which is written last
    (made / "valid.bin").rename(made / ".valid.bin.1.tmp.bin")
    kept = (made / "train.bin").stat().st_mtime_ns
    resumed = start("killed", stream=True)
    assert all(np.array_equal(resumed.ids[split], whole.ids[split]) for split in SPLITS)
    assert resumed.table().equals(whole.table())
    assert (made / "train.bin").stat().st_mtime_ns == kept
    assert not list(killed.folder.rglob(".*.tmp*"))


def test_the_committed_sample_is_what_its_script_composes(tmp_path):
    environment = os.environ | {"PYTHONHASHSEED": "1", "LC_ALL": "C"}  # it depends on neither
    script = sample_folder() / "make_sample.py"
    subprocess.run([sys.executable, script, "--out", tmp_path], env=environment, check=True)
    for name in ("SHA256SUMS", "wiki.train.raw", "wiki.valid.raw", "wiki.test.raw"):
        assert (tmp_path / name).read_bytes() == (sample_folder() / name).read_bytes()
    for words in (" university student", " cat sat on", " organization"):
        assert words in (tmp_path / "wiki.train.raw").read_text("utf-8"), "the paper's prompts"
    (tmp_path / "wiki.valid.raw").write_text("changed")
    assert subprocess.run([sys.executable, script, "--out", tmp_path, "--check"]).returncode == 1


def test_training_and_judging_leave_tokens_on_disk_where_they_are(tmp_path):
    tokens = np.random.default_rng(1).integers(0, MODEL.vocab_size, 4 << 20, np.uint16)
    tokens.tofile(tmp_path / "tokens.bin")
    ids = random_ids() | {"train": np.memmap(tmp_path / "tokens.bin", np.uint16, "r")}
    trainer(tmp_path / "warm", epochs=1).fit()  # whatever is loaded once
    tracemalloc.start()
    trainer(tmp_path / "run", ids=ids, epochs=1, epoch_windows=40).fit()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * tokens.nbytes  # as int64 they would take four times as much as on disk
