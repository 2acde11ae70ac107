"""What is measured of a model: by plain loops, by hand, by the package's own evaluation and by the
code of lm-evaluation-harness; and the leak detector, on models whose leaks were put in on purpose
and on models without one."""

from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest
import torch
from lm_eval.tasks.wikitext import preprocess_wikitext
from test_engine import needs_cuda

from llmlite.audit import measures
from llmlite.audit.causality import causal_leak
from llmlite.audit.harness import detokenize, harness_scores, pages
from llmlite.config import ModelConfig
from llmlite.data import SPLITS
from llmlite.files import LLMLiteError
from llmlite.metrics import Score, context_in_words, evaluate, repetition_rate, token_losses
from llmlite.model import GPT, Attention
from llmlite.tokenizer import END_OF_TEXT

SMALL = ModelConfig(vocab_size=300, block_size=6, n_layer=2, n_head=2, n_embd=16)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("limit", "scored"), [(7, 7), (1_000, 44)])
@torch.inference_mode()
def test_the_last_position_is_what_a_plain_loop_finds(make_model, make_ids, causal, limit, scored):
    model, ids = make_model(replace(SMALL, causal=causal)), make_ids(50)
    starts = sorted({int(i * 43 / (limit - 1)) for i in range(limit)})
    losses = []
    for start in starts:
        logits = model(ids[None, start : start + 6]).logits[0, -1].double()
        losses.append((logits.logsumexp(0) - logits[ids[start + 6]]).item())
    found = measures.last_position(model, ids, limit)
    assert found["windows"] == len(starts) == scored
    assert found["nats"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert found["error"] == pytest.approx(np.std(losses, ddof=1) / scored**0.5, rel=1e-5)


@torch.inference_mode()
def test_the_greedy_text_is_the_likeliest_token_again_and_again(articles, make_model):
    model = make_model(replace(SMALL, block_size=16, n_layer=1, causal=False))
    prompt, tokenizer = "The cat sat on", articles.tokenizer
    ids = start = tokenizer.encode(" \n " + prompt)  # as a paragraph begins
    for _ in range(24):
        ids = [*ids, model(torch.tensor([ids[-16:]])).logits[0, -1].argmax().item()]
    text = tokenizer.decode(ids[len(start) :])
    repetition = repetition_rate(tokenizer.encode(text))
    assert measures.greedy(model, tokenizer) == {"text": prompt + text, "repetition": repetition}


@torch.inference_mode()
def test_the_first_layers_weights_equal_a_plain_loop(articles, make_model):
    model = make_model(replace(SMALL, causal=False))
    found = measures.first_layer(model, articles, 5)
    sums, positions = {"previous": torch.zeros(2), "next": torch.zeros(2)}, 0
    for sentence in [*articles.sentences(5), measures.SENTENCE]:
        ids = articles.tokenizer.encode(sentence)[:6]
        weights = model(torch.tensor([ids]), return_attention=True).attention[0][0]
        if sentence != measures.SENTENCE:
            positions += len(ids)
            for i in range(1, len(ids)):
                sums["previous"] += weights[:, i, i - 1]
                sums["next"] += weights[:, i - 1, i]
    for name, total in sums.items():
        assert found[name] == pytest.approx((total / positions).tolist(), rel=1e-5)
    assert found["tokens"] == [articles.tokenizer.decode([i]) for i in ids]
    np.testing.assert_allclose(found["map"], weights, atol=6e-5)


def test_scores_are_of_the_whole_test_split_by_each_rule(whole):
    experiment, (run, *_) = whole.experiment, whole.honest_runs.values()
    scores, dataset = whole.measured("scores")[0], experiment.dataset
    assert list(scores) == ["side by side", "sliding by half a window", "lm-evaluation-harness"]
    model = experiment.model_of(run)
    of_all = evaluate(model, dataset.ids["test"], dataset.counts("test"))
    # An article's tokens, and the end of text after all but the last.
    tokens = [len(experiment.tokenizer.encode(text)) + 1 for text in dataset.articles("test")]
    tokens[-1] -= 1
    for rule, stride in (("side by side", None), ("sliding by half a window", 32)):
        nats = token_losses(model, dataset.ids["test"], stride).double().sum().item()
        expected = replace(of_all, nats=nats, context=context_in_words(model.config, stride))
        found = measures.together(scores[rule])
        assert asdict(found) == pytest.approx(asdict(expected))
        assert {article["context"] for article in scores[rule]} == {expected.context}
        assert [article["tokens"] for article in scores[rule]] == tokens


def test_scores_of_seeds_and_articles_worked_out_by_hand():
    def seed(*nats: float) -> dict:
        words = zip(nats, (2, 3), (20, 30), strict=True)
        return {"one rule": [asdict(Score(n, 5, w, b, "a window")) for n, w, b in words]}

    seeds = [seed(10, 20), seed(10, 30)]
    assert measures.together(seeds[0]["one rule"]) == Score(30, 10, 5, 50, "a window")
    table = measures.score_table(seeds)
    assert table.index.tolist() == [("one rule", "articles"), ("one rule", "seeds")]
    assert table.columns.tolist() == [*measures.UNITS, "context"]
    # Student's t of one degree is 12.7062: 3 and 4 are 3.5 ± 0.5 × that.
    assert table.loss.tolist() == ["3 [2, 4]", "3.5 [-2.853, 9.853]"]
    assert set(table.context) == {"a window"}
    assert measures.score_table(seeds[:1]).index.tolist() == [("one rule", "articles")]


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


def test_pages_worked_out_by_hand():
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


SHAPES = [
    ModelConfig(vocab_size=61, block_size=12, n_layer=2, n_head=4, n_embd=16),
    ModelConfig(vocab_size=300, block_size=40, n_layer=1, n_head=2, n_embd=32),
    ModelConfig(vocab_size=7, block_size=33, n_layer=4, n_head=1, n_embd=12),
    ModelConfig(vocab_size=2, block_size=2, n_layer=1, n_head=1, n_embd=8),
]


def put_mask(model: GPT, layer: int, hidden=float("-inf"), hole=None) -> None:
    """What attention in one layer adds to the scores of later keys; not at `hole`, (query, key)."""
    attention = model.blocks[layer].attention
    mask = torch.full((12, 12), hidden, dtype=model.norm.weight.dtype).triu(1)
    if hole:
        mask[hole] = 0.0

    def with_mask(x, head_mask, want_weights, append):
        return Attention.forward(attention, x, head_mask, want_weights, lambda k, v: (k, v, mask))

    attention.forward = with_mask


@pytest.mark.parametrize("config", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_it_fires_without_the_causal_mask_alone(config, device, dtype, make_model):
    # Of two tokens the later one must change: another one drawn at random would often be the same.
    for seed in range(4):
        torch.manual_seed(seed)
        for make in (partial(make_model, seed=seed), GPT):  # telling weights, and untrained ones
            assert not causal_leak(make(config).to(device, dtype), seed=seed)
            without = make(replace(config, causal=False))
            assert causal_leak(without.to(device, dtype), seed=seed)


@pytest.mark.parametrize("layer", [0, 1])
def test_it_fires_for_a_leak_at_one_position(tiny_model, layer):
    put_mask(tiny_model, layer)
    passes = []
    tiny_model.register_forward_pre_hook(lambda _, arguments: passes.append(arguments[0].shape))
    assert not causal_leak(tiny_model)
    assert passes == [(1, 12)] * 12  # the first is of the unchanged text
    for hole in ((0, 1), (0, 11), (3, 9), (10, 11), (5, 6)):
        put_mask(tiny_model, layer, hole=hole)
        assert causal_leak(tiny_model)


@pytest.mark.parametrize(("hidden", "leaks"), [(-1e9, False), (-20.0, False), (-7.0, True)])
def test_a_mask_that_only_dampens_leaks_unless_it_is_rounding(tiny_model, hidden, leaks):
    model = tiny_model.double()  # in which a change as small as that of -20 arrives
    put_mask(model, 1, hidden)
    assert causal_leak(model) is leaks


def test_where_nothing_can_change_nothing_leaks(tiny_config, make_model):
    for change in ({"block_size": 1}, {"vocab_size": 1}):
        assert not causal_leak(make_model(replace(tiny_config, causal=False, **change)))


def test_dropout_is_off_and_the_mode_comes_back_even_from_logits_that_are_refused(tiny_model):
    state = torch.get_rng_state()
    for training in (False, True):
        tiny_model.train(training)  # with dropout
        assert not causal_leak(tiny_model)
        assert tiny_model.training is tiny_model.blocks[0].training is training
    assert torch.equal(torch.get_rng_state(), state)
    torch.nn.init.constant_(tiny_model.norm.weight, float("nan"))
    with pytest.raises(LLMLiteError, match="not all finite"):
        causal_leak(tiny_model)
    assert tiny_model.training
