"""What is measured of a model: by plain loops, by hand, and by the package's own evaluation."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from llmlite.audit import measures
from llmlite.config import ModelConfig
from llmlite.metrics import Score, context_in_words, evaluate, repetition_rate, token_losses

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
