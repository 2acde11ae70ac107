"""Our scores against the code of lm-evaluation-harness itself, on the same model and pages."""

import math

import pytest
import torch
from lm_eval.tasks.wikitext import preprocess_wikitext

from llmlite.audit.harness import count_words, detokenize, harness_scores, pages
from llmlite.config import DataConfig, ModelConfig
from llmlite.data import SPLITS, Dataset
from llmlite.metrics import Score, windows_over
from llmlite.tokenizer import END_OF_TEXT, BPETokenizer


@pytest.fixture(scope="module")
def sample() -> Dataset:
    return Dataset(DataConfig(source="sample"), ".")


@pytest.fixture(scope="module")
def tokenizer(sample) -> BPETokenizer:
    return BPETokenizer.train(sample.text("valid"), 300)


@pytest.fixture
def model(make_model, tokenizer):
    return make_model(
        ModelConfig(tokenizer.vocab_size, block_size=32, n_layer=2, n_head=2, n_embd=16)
    )


# -- text -----------------------------------------------------------------------------------------

EDGE_CASES = [
    "",
    " ",
    "\n",
    " the dogs ' bones and s 'twas ",
    " rock /' 5/ roll /' 12/ ",
    " 1 @-@ 2 @,@ 000 @.@ 5 @-@ @-@ @,@ @.@ x",
    " a , @,@ b . @.@ c , @-@ : d",
    " a : b ; c . d ! e ? f , g . . . h , , i",
    " ( a ( b ) c ) [ d ] [ ] ( ) { e f } {} ( g \n h ) ( i",
    ' he said " one " and " two , " three " four " five " ',
    " it 's 'tis ' quoted ' rock 'n' roll ' open o'clock 's ",
    " = A = \n \n = = B = = \n = = = C = = = \n = = = = D = = = = \n",
    " = = = = = = = = = = ",
    " 20 ° C at 5 ° \n  two spaces  \n \n \n N N N ",
    " N ' N ' \" N \" ( N ) \n N \n",
    " \t tab \r\n carriage \v \f \x85 \u2028 ",
    " Ünïcödé ( 日本 ) ' 語 ' 😀 . \n",
    " \\1 ( \\1 ) \\g<0> [ \\n ] ",
]


@pytest.mark.parametrize("page", EDGE_CASES)
def test_text_is_detokenised_as_the_harness_does_it(page):
    assert detokenize(page) == preprocess_wikitext.wikitext_detokenizer({"page": page})


def test_every_article_of_the_sample_is_detokenised_as_the_harness_does_it(sample):
    changed = 0
    for split in SPLITS:
        for page in [*pages(sample.text(split)), *sample.articles(split)]:
            assert detokenize(page) == preprocess_wikitext.wikitext_detokenizer({"page": page})
            changed += detokenize(page) != page
    assert changed == 2 * 468


def test_detokenising_worked_out_by_hand():
    page = (
        " = Title = \n \n 1 @,@ 000 ( big ) dogs ' \" bones \" weigh 2 @.@ 5 kg , it 's said . \n"
    )
    # The two apostrophes are taken for a pair of quotation marks.
    text = " = Title =\n\n1,000 (big) dogs'\"bones\" weigh 2.5 kg, it's said.\n"
    assert detokenize(page) == text


@pytest.mark.parametrize("page", [*EDGE_CASES, " a b \n c", "a b"])
def test_words_and_bytes_are_the_harnesss(page):
    theirs = preprocess_wikitext.process_results({"page": page}, (-1.0,))
    assert count_words(page) == theirs["word_perplexity"][1]
    assert len(page.encode()) == theirs["bits_per_byte"][1]


def test_words_worked_out_by_hand():
    assert count_words("a b") == 2
    assert count_words(" a b \n") == 4  # with the nothing before and the nothing after
    assert count_words("") == 1


def test_pages_worked_out_by_hand():
    text = " \n = A = \n \n one \n = = A1 = = \n two \n = odd = \n three \n \n = B = \n \n four \n"
    assert pages(text) == [
        " = A = \n \n one \n = = A1 = = \n two ",
        " = odd = \n three \n ",
        " = B = \n \n four \n",
    ]
    assert pages("no heading \n") == ["no heading \n"]
    assert pages(" preface \n = A = \n x") == [" preface ", " = A = \n x"]


def test_the_pages_of_the_sample_are_its_articles(sample):
    articles = [article.strip() for article in sample.articles("test")]
    assert [page.strip() for page in pages(sample.text("test"))] == articles


def test_wikitexts_test_split_has_the_harnesss_62_pages(wikitext_corpus):
    assert len(pages(wikitext_corpus.text("test"))) == 62
    assert len(pages(wikitext_corpus.text("valid"))) == 60


# -- windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5, 32])
@pytest.mark.parametrize("length", [1, 3, 7, 31, 32, 33, 64, 70])
def test_the_windows_are_the_harnesss(size, length):
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    tokens = list(range(length))
    rolling = get_rolling_token_windows(tokens, -1, size, context_len=1)
    theirs = [(list(a), list(b)) for a, b in map(make_disjoint_window, rolling)]
    ours = [
        (x[: context + 1], y[context:])
        for *batch, context in windows_over(torch.tensor([-1, *tokens]), size, size, batch_size=8)
        for x, y in zip(*(part.tolist() for part in batch), strict=True)
    ]
    assert ours == theirs


# -- scores ---------------------------------------------------------------------------------------


@pytest.fixture
def their_score(model, tokenizer, tmp_path):
    """their_score(page): (log likelihood, what the task `wikitext` makes of it)."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedTokenizerFast

    from llmlite.hub import to_gpt2

    path = tmp_path / "tokenizer.json"
    tokenizer.to_tokenizers().save(str(path))
    their_tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token=END_OF_TEXT)
    their_model = HFLM(
        pretrained=to_gpt2(model),
        tokenizer=their_tokenizer,
        max_length=model.config.block_size,
        device="cpu",
        batch_size=8,
    )
    assert their_model.prefix_token_id == tokenizer.eot_id

    def score(page: str) -> dict:
        document = {"page": page}
        text = preprocess_wikitext.wikitext_detokenizer(document)
        request = Instance("loglikelihood_rolling", document, (text,), 0)
        results = their_model.loglikelihood_rolling([request], disable_tqdm=True)
        return preprocess_wikitext.process_results(document, results)

    return score


def test_scores_equal_those_of_the_harness(model, tokenizer, sample, their_score):
    from lm_eval.api.metrics import bits_per_byte, weighted_perplexity

    texts = pages(sample.text("test"))[:5]
    texts += [" = Short = \n", " Naïve ( words ) , 1 @,@ 000 ° \n", texts[0][:300]]
    theirs = [their_score(page) for page in texts]
    ours = harness_scores(model, tokenizer, texts)
    for score, their in zip(ours, theirs, strict=True):
        assert score.nats == pytest.approx(-their["word_perplexity"][0], rel=1e-4)
        assert score.words == their["word_perplexity"][1]
        assert score.bytes == their["byte_perplexity"][1]
    sums = (sum(getattr(score, f) for score in ours) for f in ("nats", "tokens", "words", "bytes"))
    together = Score(*sums)
    for name, aggregate in (
        ("word_perplexity", weighted_perplexity),
        ("bits_per_byte", bits_per_byte),
    ):
        expected = aggregate([their[name] for their in theirs])
        assert getattr(together, name) == pytest.approx(expected, rel=1e-4)
    assert together.perplexity > 1.1 * 300  # its weights are far from even guessing


def test_each_page_has_its_own_score(model, tokenizer):
    scores = harness_scores(model.train(), tokenizer, [" one \n", "", " two words ( here ) \n"])
    assert model.training
    assert [score.words for score in scores] == [3, 1, 7]
    assert [score.bytes for score in scores] == [6, 0, 21]
    assert [score.tokens for score in scores] == [
        len(tokenizer.encode(text)) for text in (" one\n", "", " two words (here)\n")
    ]
    assert scores[1].nats == 0
    assert all(
        score.context.startswith("1 to 32 tokens of its own page (windows side by side; ")
        for score in scores
    )


def test_one_page_worked_out_by_hand(model, tokenizer):
    page = " one \n"  # one window: <|endoftext|> first, then the page's own tokens
    ids = [tokenizer.eot_id, *tokenizer.encode(" one\n")]
    logits = model(torch.tensor([ids[:-1]])).logits[0].double()
    rows = zip(logits, ids[1:], strict=True)
    expected = sum((row.logsumexp(0) - row[i]).item() for row, i in rows)
    (score,) = harness_scores(model, tokenizer, [page])
    assert score.nats == pytest.approx(expected, rel=1e-6)
    assert score.word_perplexity == pytest.approx(math.exp(expected / 3), rel=1e-5)
