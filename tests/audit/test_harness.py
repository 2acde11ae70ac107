"""Our scores against the code of lm-evaluation-harness itself, on the same model and pages."""

import pytest
from lm_eval.tasks.wikitext import preprocess_wikitext

from llmlite.audit.harness import detokenize, harness_scores, pages
from llmlite.config import ModelConfig
from llmlite.data import SPLITS
from llmlite.tokenizer import END_OF_TEXT

EDGE_CASES = [
    "",
    "a b",
    " a b \n",
    " the dogs ' bones and s 'twas ",
    " rock /' 5/ roll /' 12/ ",
    " 1 @-@ 2 @,@ 000 @.@ 5 @-@ @-@ @,@ @.@ x",
    " a , @,@ b . @.@ c , @-@ : d",
    " a : b ; c . d ! e ? f , g . . . h , , i",
    " ( a ( b ) c ) [ d ] [ ] ( ) { e f } {} ( g \n h ) ( i",
    ' he said " one " and " two , " three " four " five " ',
    " it 's 'tis ' quoted ' rock 'n' roll ' open o'clock 's ",
    " = A = \n \n = = B = = \n = = = C = = = \n = = = = D = = = = \n = = = = = = = = = = ",
    " 20 ° C at 5 ° \n  two spaces  \n \n \n N N N ",
    " N ' N ' \" N \" ( N ) \n N \n",
    " \t tab \r\n carriage \v \f \x85 \u2028 Ünïcödé ( 日本 ) ' 語 ' 😀 . \n",
    " \\1 ( \\1 ) \\g<0> [ \\n ] ",
]


def test_a_page_worked_out_by_hand():
    page = " = A = \n \n 1 @,@ 000 ( big ) dogs ' \" bones \" weigh 2 @.@ 5 kg , it 's said . \n"
    # The two apostrophes are taken for a pair of quotation marks.
    assert detokenize(page) == " = A =\n\n1,000 (big) dogs'\"bones\" weigh 2.5 kg, it's said.\n"
    text = " \n = A = \n \n one \n = = A1 = = \n two \n = odd = \n three \n \n = B = \n \n four \n"
    assert pages(text) == [
        " = A = \n \n one \n = = A1 = = \n two ",
        " = odd = \n three \n ",
        " = B = \n \n four \n",
    ]
    assert pages("no heading \n") == ["no heading \n"]
    assert pages(" preface \n = A = \n x") == [" preface ", " = A = \n x"]


def test_wikitexts_test_split_has_the_harnesss_62_pages(wikitext_corpus):
    assert [len(pages(wikitext_corpus.text(split))) for split in ("test", "valid")] == [62, 60]


def test_pages_and_scores_are_those_of_the_harness(make_model, articles, tmp_path):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedTokenizerFast

    from llmlite.hub import to_gpt2

    of_articles = [page for split in SPLITS for page in pages(articles.text(split))]
    whole = [article.strip() for split in SPLITS for article in articles.articles(split)]
    assert [page.strip() for page in of_articles] == whole
    texts = [*EDGE_CASES, *of_articles[-3:]]
    texts += ["Q" * n for n in (1, 31, 32, 33, 63, 64)]  # a token each: windows have 32
    tokenizer, path = articles.tokenizer, str(tmp_path / "tokenizer.json")
    assert len(tokenizer.encode(texts[-1])) == 64
    model = make_model(ModelConfig(300, 32, n_layer=2, n_head=2, n_embd=16))
    tokenizer.to_tokenizers().save(path)
    their_tokenizer = PreTrainedTokenizerFast(tokenizer_file=path, eos_token=END_OF_TEXT)
    how = {"tokenizer": their_tokenizer, "max_length": 32, "device": "cpu", "batch_size": 8}
    their_model = HFLM(pretrained=to_gpt2(model), **how)
    assert their_model.prefix_token_id == tokenizer.eot_id
    scores = harness_scores(model.train(), tokenizer, texts)
    assert model.training
    for page, score in zip(texts, scores, strict=True):
        text = preprocess_wikitext.wikitext_detokenizer({"page": page})
        request = Instance("loglikelihood_rolling", {"page": page}, (text,), 0)
        results = their_model.loglikelihood_rolling([request], disable_tqdm=True)
        theirs = preprocess_wikitext.process_results({"page": page}, results)
        nats, words = theirs["word_perplexity"]
        assert (score.words, score.bytes) == (words, theirs["byte_perplexity"][1])
        assert score.nats == pytest.approx(-nats, rel=1e-4)
        assert score.tokens == len(tokenizer.encode(text))
        assert score.context.startswith("1 to 32 tokens of its own page (windows side by side; lm-")
    for page in [*EDGE_CASES, *of_articles]:
        assert detokenize(page) == preprocess_wikitext.wikitext_detokenizer({"page": page})
