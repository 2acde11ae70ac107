"""From every source the same text; splits between articles."""

import hashlib
from itertools import chain
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlite import data
from llmlite.config import DataConfig
from llmlite.data import (
    SPLITS,
    Article,
    Corpus,
    encode_split,
    first_sentences,
    load_corpus,
    paper_split,
    rows_to_text,
    split_articles,
    text_to_rows,
    token_ids,
)
from llmlite.errors import DataError
from llmlite.tokenizer import BPETokenizer

HUB_SPLITS = {"train": "train", "valid": "validation", "test": "test"}


def article(title: str, words: int = 5) -> str:
    return f" \n = {title} = \n \n" + f" {title} is a word . " * words + "\n"


TEXTS = {
    "train": "".join(
        article(f"Tráin {i}") + " \n = = A section = = \n \n x @-@ y\n" for i in "abc"
    ),
    "valid": article("Valid"),
    "test": article("Test")
    + " \n \n two blank lines before , a no @-@ break\u00a0space \x85 here \n",
}


@pytest.fixture
def write_folder(tmp_path):
    """write_folder(suffix, **texts): a folder of WikiText files; a text may be str or bytes."""

    def write(suffix: str = "tokens", **texts) -> Path:
        folder = tmp_path / "corpus"
        folder.mkdir(exist_ok=True)
        for split, text in {**TEXTS, **texts}.items():
            content = text if isinstance(text, bytes) else text.encode()
            (folder / f"wiki.{split}.{suffix}").write_bytes(content)
        return folder

    return write


@pytest.fixture
def write_hub(tmp_path, monkeypatch):
    """write_hub(name=texts, …): a local folder laid out like Salesforce/wikitext on the Hub."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets cache")

    def write(configurations: dict[str, dict[str, str]]) -> str:
        repository = tmp_path / "hub"
        front = ["---", "configs:"]
        for name, texts in configurations.items():
            (repository / name).mkdir(parents=True)
            front += [f"- config_name: {name}", "  data_files:"]
            for split, text in texts.items():
                lines = text.split("\n")[:-1]  # every text here ends with a line end
                rows = ["" if line == " " else line + "\n" for line in lines]
                file = f"{name}/{HUB_SPLITS[split]}-00000-of-00001.parquet"
                datasets.Dataset.from_dict({"text": rows}).to_parquet(repository / file)
                front += [
                    f"  - split: {HUB_SPLITS[split]}",
                    f"    path: {name}/{HUB_SPLITS[split]}-*",
                ]
        (repository / "README.md").write_text("\n".join([*front, "---", "# WikiText", ""]))
        return str(repository)

    return write


@pytest.fixture
def corpus() -> Corpus:
    return Corpus("handmade", TEXTS)


@pytest.fixture
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(TEXTS["train"], 270)


# -- sources --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["raw", "tokens"])
def test_a_folder_gives_its_files_byte_for_byte(write_folder, suffix):
    folder = write_folder(suffix)
    corpus = load_corpus(DataConfig(source=str(folder)))
    for split in SPLITS:
        assert corpus.splits[split].encode() == (folder / f"wiki.{split}.{suffix}").read_bytes()
    assert corpus.name == "own text in corpus"


@pytest.mark.parametrize("name", ["wikitext-2-v1", "wikitext-2-raw-v1"])
def test_the_hub_gives_the_same_text_as_the_files(write_hub, write_folder, name):
    other = {split: text.replace("word", "<unk>") for split, text in TEXTS.items()}
    repository = write_hub({"wikitext-2-v1": other, "wikitext-2-raw-v1": TEXTS})
    folder = write_folder(**(other if name == "wikitext-2-v1" else TEXTS))
    from_hub = load_corpus(DataConfig(source="hub", name=name), hub_repository=repository)
    from_files = load_corpus(DataConfig(source=str(folder)))
    assert from_hub.splits == from_files.splits
    assert from_hub.fingerprint == from_files.fingerprint
    assert from_hub.name == name


def test_the_hub_gives_real_wikitext_byte_for_byte(write_hub, wikitext, wikitext_corpus):
    suffix = "raw" if "raw" in wikitext_corpus.name else "tokens"
    files = {s: (wikitext / f"wiki.{s}.{suffix}").read_bytes().decode() for s in SPLITS}
    repository = write_hub({wikitext_corpus.name: files})
    config = DataConfig(source="hub", name=wikitext_corpus.name)
    assert load_corpus(config, hub_repository=repository).splits == files
    assert wikitext_corpus.splits == files


def test_a_configuration_that_the_hub_lacks_is_named(write_hub, one_sentence):
    repository = write_hub({"wikitext-2-v1": TEXTS, "wikitext-2-raw-v1": TEXTS})
    with pytest.raises(DataError, match="no configuration 'wikitext-3'") as error:
        load_corpus(DataConfig(source="hub", name="wikitext-3"), hub_repository=repository)
    assert "wikitext-2-raw-v1" in str(error.value)


@pytest.mark.parametrize("failure", [ConnectionError, FileNotFoundError, TimeoutError])
def test_without_a_network_one_sentence_names_both_ways_out(monkeypatch, failure, one_sentence):
    def unreachable(*args, **kwargs):
        raise failure("Couldn't reach\nthe Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError, match="cannot be reached") as error:
        load_corpus(DataConfig(source="hub"))
    message = one_sentence(error)
    assert "$LLMLITE_DATA" in message
    assert "folder" in message
    assert "--data sample" in message


def test_auto_is_the_folder_in_the_environment_or_else_the_hub(
    write_folder, write_hub, monkeypatch
):
    folder, repository = write_folder(), write_hub({"wikitext-2-raw-v1": TEXTS})
    monkeypatch.delenv("LLMLITE_DATA", raising=False)
    assert load_corpus(DataConfig(), hub_repository=repository).name == "wikitext-2-raw-v1"
    monkeypatch.setenv("LLMLITE_DATA", "")
    assert load_corpus(DataConfig(), hub_repository=repository).name == "wikitext-2-raw-v1"
    monkeypatch.setenv("LLMLITE_DATA", str(folder))
    assert load_corpus(DataConfig(), hub_repository=repository).name == "own text in corpus"


def test_a_named_source_wins_over_the_environment(write_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("LLMLITE_DATA", str(tmp_path / "elsewhere"))
    assert load_corpus(DataConfig(source=str(write_folder()))).splits == TEXTS


def test_the_bundled_sample_has_several_hundred_articles():
    corpus = load_corpus(DataConfig(source="sample"))
    assert corpus.name == "bundled sample"
    assert 0.5e6 < sum(len(text.encode()) for text in corpus.splits.values()) < 2e6
    assert sum(len(corpus.articles(split)) for split in SPLITS) >= 300
    assert all(article.title for split in SPLITS for article in corpus.articles(split))


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet=" \n=ab\r\u2028", max_size=60))
def test_any_text_survives_the_way_through_rows(text):
    rows = text_to_rows(text)
    assert rows_to_text(rows) == text
    assert " \n" not in rows
    assert all(row == "" or row.count("\n") <= 1 for row in rows)


def test_rows_have_the_hubs_form():
    text = " \n = Title = \n \n First .\n\n last"
    assert text_to_rows(text) == ["", " = Title = \n", "", " First .\n", "\n", " last"]


# -- sources that are not what they should be -----------------------------------------------------


def test_a_folder_that_is_not_there_is_named(tmp_path, one_sentence):
    with pytest.raises(DataError, match="no folder") as error:
        load_corpus(DataConfig(source=str(tmp_path / "nowhere")))
    assert "nowhere" in one_sentence(error)


@pytest.mark.parametrize("suffix", ["raw", "tokens"])
def test_a_missing_file_is_named(write_folder, suffix, one_sentence):
    folder = write_folder(suffix)
    (folder / f"wiki.valid.{suffix}").unlink()
    with pytest.raises(DataError, match=rf"lacks wiki\.valid\.{suffix};") as error:
        load_corpus(DataConfig(source=str(folder)))
    assert str(folder) in one_sentence(error)


def test_the_kind_of_files_that_is_complete_is_taken(write_folder):
    """As the folder of a download cut short: all of .tokens, only one of .raw."""
    folder = write_folder("tokens")
    (folder / "wiki.test.raw").write_text("something else")
    assert load_corpus(DataConfig(source=str(folder))).splits == TEXTS


def test_files_of_two_kinds_do_not_make_one_corpus(write_folder):
    folder = write_folder("tokens")
    (folder / "wiki.test.tokens").rename(folder / "wiki.test.raw")
    with pytest.raises(DataError, match=r"lacks wiki\.test\.tokens;"):
        load_corpus(DataConfig(source=str(folder)))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("empty", ["", " \n \n\n"])
def test_an_empty_split_is_named(write_folder, split, empty, one_sentence):
    with pytest.raises(DataError, match=f"{split} split") as error:
        load_corpus(DataConfig(source=str(write_folder(**{split: empty}))))
    one_sentence(error)


def test_text_that_is_not_utf8_is_named_with_byte_and_line(write_folder, one_sentence):
    folder = write_folder(valid="é\n \nna".encode() + b"\xefve\n")
    with pytest.raises(DataError, match=r"byte 7 \(line 3\) is 0xef") as error:
        load_corpus(DataConfig(source=str(folder)))
    assert "wiki.valid.tokens" in one_sentence(error)


def sums(folder: Path, mark: str = " ") -> str:
    paths = sorted(folder.glob("wiki.*"))
    return "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()} {mark}{p.name}\n" for p in paths)


@pytest.mark.parametrize("mark", [" ", "*"])  # how sha256sum marks text and binary files
def test_a_file_that_differs_from_sha256sums_is_named(write_folder, mark, one_sentence):
    folder = write_folder()
    (folder / "SHA256SUMS").write_text("\n" + sums(folder, mark) + "0" * 64 + "  other.txt\n")
    assert load_corpus(DataConfig(source=str(folder))).splits == TEXTS
    write_folder(valid=TEXTS["valid"] + "x")
    with pytest.raises(DataError, match=r"wiki\.valid\.tokens is damaged") as error:
        load_corpus(DataConfig(source=str(folder)))
    one_sentence(error)


@pytest.mark.parametrize("content", [b"what is this?\nnonsense\n", b"\xff\xfe\n"])
def test_a_list_of_checksums_that_cannot_be_read_is_named(write_folder, content, one_sentence):
    folder = write_folder()
    (folder / "SHA256SUMS").write_bytes(content)
    with pytest.raises(DataError, match="SHA256SUMS") as error:
        load_corpus(DataConfig(source=str(folder)))
    one_sentence(error)


def test_a_damaged_file_of_the_corpus_is_named_and_own_text_is_not(
    write_folder, monkeypatch, one_sentence
):
    known = {
        f"wiki.{split}.tokens": hashlib.sha256(text.encode()).hexdigest()
        for split, text in TEXTS.items()
    }
    monkeypatch.setattr(data, "KNOWN_SHA256", known)
    folder = write_folder()
    assert load_corpus(DataConfig(source=str(folder))).name == "wikitext-2-v1"
    write_folder(train=TEXTS["train"][:-1] + "x")
    with pytest.raises(DataError, match=r"wiki\.train\.tokens is damaged") as error:
        load_corpus(DataConfig(source=str(folder)))
    one_sentence(error)
    write_folder(**{split: text + " mine\n" for split, text in TEXTS.items()})
    assert load_corpus(DataConfig(source=str(folder))).name == "own text in corpus"


# -- articles and splits --------------------------------------------------------------------------


def test_wikitext_2_has_600_60_and_60_articles(wikitext_corpus):
    assert [len(wikitext_corpus.articles(split)) for split in SPLITS] == [600, 60, 60]
    for split in SPLITS:
        text = "".join(article.text for article in wikitext_corpus.articles(split))
        assert text == wikitext_corpus.splits[split]
    first = wikitext_corpus.articles("valid")[0]
    assert first.title == "Homarus gammarus"
    assert first.text.startswith(" \n = Homarus gammarus = \n \n")


def test_only_a_heading_between_blank_lines_starts_an_article():
    text = (
        " \n = One = \n \n Text .\n"
        " = Not alone above = \n \n More .\n"
        " \n = Not alone below = \n More .\n"
        " \n = = A section = = \n \n More .\n"
        " \n = = = Deeper = = = \n \n More .\n"
        " \n = Two = three = \n \n"
        " \n = Four = \n \n = Five = \n \n"
    )
    articles = split_articles(text)
    assert [article.title for article in articles] == ["One", "Two = three", "Four", "Five"]
    assert articles[2] == Article("Four", " \n = Four = \n")
    assert "".join(article.text for article in articles) == text


def test_what_comes_before_the_first_heading_is_an_article_without_a_title():
    assert split_articles("Preface .\n \n = A = \n \n") == [
        Article("", "Preface .\n"),
        Article("A", " \n = A = \n \n"),
    ]
    assert split_articles("No heading .\n") == [Article("", "No heading .\n")]
    assert split_articles("") == []


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.sampled_from([" \n", " = T = \n", " = = S = = \n", " Text .\n", "\n", " = \n", "= T ="])
    ).map("".join)
    | st.text(alphabet=" =\nab", max_size=80)
)
def test_articles_joined_together_are_the_text(text):
    articles = split_articles(text)
    assert "".join(article.text for article in articles) == text
    assert all(article.text for article in articles)
    assert all(article.title for article in articles[1:])


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 40), min_size=3, max_size=40))
def test_the_papers_split_cuts_between_articles_alone(lengths):
    articles = [article(f"Article {i}", words) for i, words in enumerate(lengths)]
    parts = paper_split("".join(articles))
    assert list(parts) == list(SPLITS)
    assert "".join(parts.values()) == "".join(articles)
    titles = [[a.title for a in split_articles(part)] for part in parts.values()]
    assert all(titles)  # no split is empty
    assert [*chain(*titles)] == [f"Article {i}" for i in range(len(lengths))]
    # Of the cuts that leave no split empty, those nearest to 80 % and 90 % of the text.
    n, length = len(articles), np.array([len(text) for text in articles])
    train = min(range(1, n - 1), key=lambda i: abs(length[:i].sum() - 0.8 * length.sum()))
    both = min(range(train + 1, n), key=lambda i: abs(length[:i].sum() - 0.9 * length.sum()))
    assert [len(part) for part in titles] == [train, both - train, n - both]


def test_the_papers_split_of_ten_equal_articles():
    parts = paper_split("".join(article(f"A{i}") for i in range(10)))
    titles = {split: [a.title for a in split_articles(text)] for split, text in parts.items()}
    assert titles == {"train": [f"A{i}" for i in range(8)], "valid": ["A8"], "test": ["A9"]}


def test_the_papers_split_of_wikitext_is_80_10_10(wikitext):
    corpus = load_corpus(DataConfig(source=str(wikitext), split="paper"))
    lengths = np.array([len(corpus.splits[split]) for split in SPLITS])
    np.testing.assert_allclose(lengths / lengths.sum(), [0.8, 0.1, 0.1], atol=0.002)
    assert sum(len(corpus.articles(split)) for split in SPLITS) == 720
    assert corpus.name.endswith(", split 80/10/10")


def test_the_papers_split_goes_over_the_whole_corpus(write_folder):
    corpus = load_corpus(DataConfig(source=str(write_folder()), split="paper"))
    assert "".join(corpus.splits.values()) == "".join(TEXTS.values())
    titles = [[a.title for a in corpus.articles(split)] for split in SPLITS]
    assert titles == [["Tráin a", "Tráin b", "Tráin c"], ["Valid"], ["Test"]]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_articles_cannot_be_split(n, one_sentence):
    with pytest.raises(DataError, match=rf"{n} article\(s\)") as error:
        paper_split("".join(article(f"A{i}") for i in range(n)))
    assert "official" in one_sentence(error)


def test_first_sentences_are_those_of_paragraphs():
    text = (
        " \n = St . John = \n \n One , two . Three . \n No stop here \n Four . Five .\n Six . 7\n"
    )
    assert first_sentences(text, limit=2) == [" One , two .", " Four ."]
    assert first_sentences(text, limit=9) == [" One , two .", " Four .", " Six ."]


def test_the_fingerprint_depends_on_the_text_of_each_split(corpus):
    assert Corpus("another name", dict(TEXTS)).fingerprint == corpus.fingerprint
    swapped = {**TEXTS, "valid": TEXTS["test"], "test": TEXTS["valid"]}
    moved = {**TEXTS, "train": TEXTS["train"] + "x", "valid": TEXTS["valid"][1:]}
    prints = {Corpus("", splits).fingerprint for splits in (TEXTS, swapped, moved)}
    assert len(prints) == 3


# -- token ids ------------------------------------------------------------------------------------


def test_the_special_token_stands_before_each_article(corpus, tokenizer):
    ids = encode_split(corpus, "train", tokenizer)
    eot = tokenizer.eot_id
    by_hand = []
    for piece in corpus.articles("train"):
        by_hand += [eot, *tokenizer.encode(piece.text)]
    assert ids.tolist() == by_hand
    assert ids[0] == eot
    assert ids.tolist().count(eot) == 3
    assert ids.dtype == np.uint16


def test_token_ids_are_cached_and_used_again(corpus, tokenizer, tmp_path, monkeypatch):
    first = token_ids(corpus, tokenizer, tmp_path / "new folder")
    (path,) = (tmp_path / "new folder").iterdir()
    modified = path.stat().st_mtime_ns
    monkeypatch.setattr(data, "encode_split", lambda *_: pytest.fail("encoded again"))
    again = token_ids(corpus, tokenizer, tmp_path / "new folder")
    assert path.stat().st_mtime_ns == modified
    monkeypatch.undo()
    for split in SPLITS:
        assert again[split].dtype == torch.int64
        assert again[split].tolist() == encode_split(corpus, split, tokenizer).tolist()
        assert torch.equal(first[split], again[split])


def test_another_tokenizer_or_text_has_a_cache_of_its_own(corpus, tokenizer, tmp_path):
    other_tokenizer = BPETokenizer(tokenizer.merges[:-1])
    other_corpus = Corpus(corpus.name, {**TEXTS, "test": TEXTS["test"] + " One more line .\n"})
    token_ids(corpus, tokenizer, tmp_path)
    shorter = token_ids(corpus, other_tokenizer, tmp_path)
    longer = token_ids(other_corpus, tokenizer, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert shorter["train"].max() == other_tokenizer.eot_id == tokenizer.eot_id - 1
    assert tokenizer.decode(longer["test"]).endswith(" One more line .\n")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"not a cache at all",
        lambda content: content[: len(content) // 2],
        lambda content: content[:200] + bytes([content[200] ^ 255]) + content[201:],
    ],
    ids=["empty", "foreign", "cut short", "one byte changed"],
)
def test_a_damaged_cache_is_named(corpus, tokenizer, tmp_path, damage, one_sentence):
    token_ids(corpus, tokenizer, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="is damaged") as error:
        token_ids(corpus, tokenizer, tmp_path)
    assert str(path) in one_sentence(error)
