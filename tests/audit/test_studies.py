"""The studies of claims 9 to 13 on models that recite a known text, and against plain loops."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from llmlite import paper
from llmlite.audit import text as studies
from llmlite.audit.heads import SUBJECTS, THINGS, ablation, attention
from llmlite.audit.plan import StudySize
from llmlite.audit.text import (
    SAMPLING,
    attested,
    coherence,
    continued_words,
    entropies,
    passages,
    position,
    prompt_sensitivity,
    sampling,
)
from llmlite.config import ModelConfig
from llmlite.files import LLMLiteError
from llmlite.generate import PARAGRAPH, complete
from llmlite.interpret import STATISTICS, attention_maps, query_statistics
from llmlite.intervals import measure_all, share
from llmlite.metrics import repetition_rate
from llmlite.model import GPT
from llmlite.sources import sample_folder
from llmlite.tokenizer import BPETokenizer

PROMPT = paper.GENERATION_PROMPT


@pytest.fixture(scope="module")
def sample_text() -> str:
    return (sample_folder() / "wiki.train.raw").read_text("utf-8")[:20_000]


@dataclass
class Text:
    """A Dataset of two splits."""

    tokenizer: BPETokenizer
    train: str
    test: str = ""

    def text(self, split: str) -> str:
        return {"train": self.train, "test": self.test}[split]

    def sentences(self, limit: int) -> list[str]:
        lines = [line for line in self.test.split("\n") if " . " in line]
        return [line.split(" . ")[0] + " ." for line in lines[:limit]]


@pytest.fixture(scope="module")
def dataset(tokenizer, sample_text) -> Text:
    return Text(tokenizer, sample_text, sample_text)


@pytest.fixture(scope="module")
def tokenizer(sample_text) -> BPETokenizer:
    return BPETokenizer.train(sample_text, 300)


@pytest.fixture
def config(tokenizer) -> ModelConfig:
    return ModelConfig(tokenizer.vocab_size, block_size=96, n_layer=2, n_head=4, n_embd=16)


@pytest.fixture
def model(config, make_model) -> GPT:
    return make_model(config)


@pytest.fixture
def reciting(tokenizer) -> Callable[[str, list[int]], GPT]:
    """reciting(prompt, ids): a model that continues `prompt` with `ids`, again and again.

    Its position embeddings outweigh all else and point at the token that is to follow.
    """

    def make(prompt: str, ids: list[int]) -> GPT:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = GPT(ModelConfig(tokenizer.vocab_size, 96, n_layer=2, n_head=4, n_embd=64))
            torch.nn.init.normal_(model.token_embedding.weight)
        start = len(tokenizer.encode(PARAGRAPH + prompt)) - 1
        to_follow = [ids[(at - start) % len(ids)] for at in range(96)]
        with torch.no_grad():
            model.position_embedding.weight.copy_(1000 * model.token_embedding.weight[to_follow])
        return model.eval()

    return make


def values(result: dict) -> dict[str, float]:
    """The measures' values, of a result that is as all results are."""
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    for name, interval in result["measures"].items():
        assert list(interval) == ["value", "low", "high", "of"], name
        assert interval["low"] <= interval["high"], name
    return {name: interval["value"] for name, interval in result["measures"].items()}


# -- counts ---------------------------------------------------------------------------------------


def test_a_share_is_of_all_samples_together():
    assert share(np.array([[1, 2], [3, 6], [0, 2]]).sum(axis=0)) == pytest.approx(4 / 10)


def test_a_share_of_nothing_is_refused(one_sentence):
    with pytest.raises(LLMLiteError, match="too short") as error:
        share(np.array([[1, 2], [0, 0]]))
    one_sentence(error)


def difference(first: np.ndarray, second: np.ndarray) -> dict:
    return measure_all({"a": {"x": first}, "b": {"x": second}}, [("a", "b")], "pairs")[
        "x: a minus b"
    ]


def test_a_difference_is_of_shares_and_keeps_pairs_together():
    second = np.array([[float(i), 1] for i in range(10)])
    first = second + np.array([0.5, 0])  # each sample half a unit more: paired, nothing varies
    paired = difference(first, second)
    assert [paired[key] for key in ("value", "low", "high")] == pytest.approx([0.5] * 3)
    # 6 of 8 minus 1 of 4, which the mean over samples, (3/4 + 3/4) / 2 - (0 + 1) / 2, would miss.
    unequal = difference(np.array([[3, 4], [3, 4]]), np.array([[0, 3], [1, 1]]))
    assert unequal["value"] == pytest.approx(6 / 8 - 1 / 4)


def test_all_measures_and_contrasts_have_their_names():
    counts = {"a": {"x": np.array([[1, 2], [1, 2]])}, "b": {"x": np.array([[1, 4], [1, 4]])}}
    measures = measure_all(counts, [("b", "a")], "texts")
    expected = {"x: a": 0.5, "x: b": 0.25, "x: b minus a": -0.25}
    assert {name: interval["value"] for name, interval in measures.items()} == expected


# -- claim 9 --------------------------------------------------------------------------------------


def test_known_pairs_of_neighbours_are_attested():
    known = {("the", "cat"), ("cat", "the"), ("the", "end")}
    texts = ["the cat the end w0 cat", "cat dog the", "the"]
    found = attested([text.split() for text in texts], known)
    assert found.tolist() == [[3, 5], [0, 2], [0, 0]]


@pytest.mark.parametrize(
    ("continuation", "expected"),
    [(" of x", ["student", "of", "x"]), ("ures of", ["studentures", "of"]), ("", ["student"])],
)
def test_a_continuation_starts_with_the_prompts_last_word(continuation, expected):
    assert continued_words(PROMPT, PROMPT + continuation) == expected


HEADED = " \n = Title = \n \n a b c\n \n = = Part = = \n \n d e f\n g h\n"


def test_passages_start_with_a_paragraph_and_run_on():
    rng = np.random.default_rng(0)
    assert sorted(map("".join, passages(HEADED, [2, 2, 2], rng))) == ["ab", "de", "gh"]
    drawn = {tuple(map("".join, passages(HEADED, [2, 5], rng))) for _ in range(50)}
    assert drawn == {("ab", "defgh"), ("de", "abc==")}  # "g h" ends before 5 words


def test_too_few_paragraphs_are_refused(one_sentence):
    with pytest.raises(LLMLiteError, match=r"has 2 paragraphs.* 5 words.* 3 are needed") as error:
        passages(HEADED, [2, 5, 5], np.random.default_rng(0))
    one_sentence(error)


def test_a_position_worked_out_by_hand(one_sentence):
    half, fifth, four_fifths = ([[n, 10], [n, 10]] for n in (5, 2, 8))
    assert position(*map(np.array, (half, fifth, four_fifths)))["value"] == pytest.approx(0.5)
    assert position(*map(np.array, (four_fifths, fifth, half)))["value"] == pytest.approx(2.0)
    with pytest.raises(LLMLiteError, match="no scale") as error:
        position(*map(np.array, (half, four_fifths, fifth)))
    one_sentence(error)


def test_a_model_that_repeats_a_word_is_seen_through(tokenizer, reciting, sample_text):
    model = reciting(PROMPT, tokenizer.encode(" the"))
    n = 30 // len(tokenizer.encode(" the"))
    train = sample_text + "\nstudent the\n"
    text = Text(tokenizer, train, sample_text)
    result = values(coherence(model, text, StudySize(4, 30, 0)))
    # "student the the …", n times; filtered it is "student the".
    assert result["attested pairs: generated"] == pytest.approx(1 / n)
    assert result["attested pairs: filtered"] == 1
    # Real text is the training text; its words shuffled are not.
    assert result["attested pairs: real"] == 1
    assert result["attested pairs: real, shuffled"] < 0.7
    assert result["position: filtered"] == 1
    assert result["position: generated"] < result["position: real, filtered"] < 1


def test_a_model_that_copies_real_text_is_as_coherent(tokenizer, reciting):
    real = " was seen in the old town and was never forgotten"
    model = reciting(PROMPT, tokenizer.encode(real + " by"))
    tokens = len(tokenizer.encode(real))
    text = "".join(
        f" \n a{i} b{i} c{i} d{i} e{i} f{i} g{i} h{i} j{i} k{i} l{i}\n" for i in range(9)
    )
    dataset = Text(tokenizer, text + PROMPT + real, text)
    result = coherence(model, dataset, StudySize(5, tokens, 0))
    measured = values(result)
    assert set(result["rows"]["generated"]) == {"student" + real}
    filtered = "student was seen in the old town and never forgotten"
    assert set(result["rows"]["filtered"]) == {filtered}
    assert measured["attested pairs: generated"] == measured["position: generated"] == 1
    assert measured["attested pairs: filtered"] == pytest.approx(8 / 9)  # not "and never"
    assert measured["attested pairs: filtered minus real"] == pytest.approx(-1 / 9)
    shuffled = measured["attested pairs: real, shuffled"]
    assert measured["position: filtered"] == pytest.approx((8 / 9 - shuffled) / (1 - shuffled))


def test_real_text_is_as_long_as_generated_text_and_controls_have_its_words(model, dataset):
    result = coherence(model, dataset, StudySize(5, 120, 0))
    assert coherence(model, dataset, StudySize(5, 120, 0)) == result
    assert result["samples"] == 5
    expected = complete(model, dataset.tokenizer, PROMPT, 120, 5, seed=0, **SAMPLING)
    for i, text in enumerate(expected):
        words = {kind: texts[i].split(" ") for kind, texts in result["rows"].items()}
        assert words["generated"] == (PROMPT + text).split()[2:]
        assert len(words["real"]) == len(words["generated"]) > 3
        for kind in ("real", "filtered"):
            assert sorted(words[f"{kind}, shuffled"]) == sorted(words[kind])
        for filtered, whole in (("filtered", "generated"), ("real, filtered", "real")):
            assert len(set(words[filtered])) == len(words[filtered])
            assert set(words[filtered]) == set(words[whole])
    assert result["rows"]["real, shuffled"] != result["rows"]["real"]


# -- claim 10 -------------------------------------------------------------------------------------


def test_bleu_between_and_within_prompts_equals_a_plain_loop(model, dataset, monkeypatch):
    prompts, samples = ["The cat", "A dog", "One day"], 4
    monkeypatch.setattr(studies, "PROMPTS", prompts)
    result = prompt_sensitivity(model, dataset, StudySize(samples, 12, 0))
    measured = values(result)
    texts = [
        complete(model, dataset.tokenizer, prompt, 12, 8, seed=i, **SAMPLING)
        for i, prompt in enumerate(prompts)
    ]
    smooth = SmoothingFunction().method1

    def bleu(reference: str, hypothesis: str) -> float:
        return sentence_bleu([reference.split()], hypothesis.split(), smoothing_function=smooth)

    between, within = [], []
    for i in range(samples):
        between += [bleu(a[i], b[i]) for a in texts for b in texts if a is not b]
        within += [bleu(t[i], t[4 + i]) for t in texts] + [bleu(t[4 + i], t[i]) for t in texts]
    for name, scores in (("different prompts", between), ("same prompt", within)):
        assert measured[f"BLEU: {name}"] == pytest.approx(np.mean(scores))
        assert measured[f"share below 0.05: {name}"] == np.mean(np.array(scores) < 0.05)
    difference_of_means = np.mean(between) - np.mean(within)
    name = "BLEU: different prompts minus same prompt"
    assert measured[name] == pytest.approx(difference_of_means)
    assert result["measures"][name]["of"] == "4 samples"


def test_a_model_that_always_says_the_same_is_insensitive(tokenizer, reciting):
    model = reciting(PROMPT, tokenizer.encode(" the"))
    text = Text(tokenizer, "")
    result = values(prompt_sensitivity(model, text, StudySize(3, 30, 0)))
    assert result["BLEU: different prompts"] == result["BLEU: same prompt"] == pytest.approx(1)
    assert result["share below 0.05: different prompts"] == 0


# -- claim 11 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"temperature": 0.7}, {"temperature": 1.0, "top_k": 10}])
@torch.inference_mode()
def test_entropies_equal_a_plain_loop(model, make_ids, options):
    ids, steps = make_ids(3, 12, vocab_size=300), [8, 1, 5]
    result = entropies(model, ids, 4, steps, options)
    assert result[:, 1].tolist() == steps
    for row, n, total in zip(ids, steps, result[:, 0], strict=True):
        expected = 0.0
        for end in range(4, 4 + n):
            logits = (model(row[None, :end]).logits[0, -1] / options["temperature"]).double()
            kept = logits.sort(descending=True).values[: options.get("top_k")]
            expected -= (kept.softmax(0) * kept.log_softmax(0)).sum().item()
        assert total == pytest.approx(expected, rel=1e-4)
        assert total > 0.1


def test_sampling_of_a_known_text_worked_out_by_hand(tokenizer, reciting):
    head, tail = tokenizer.encode(" saw the cat . It ran"), tokenizer.encode("\n \n The end")
    model = reciting(PROMPT, head + tail)
    tokens, train = len(head + tail), "student saw the cat end"
    result = sampling(model, Text(tokenizer, train), StudySize(8, tokens, 0))
    measured = values(result)
    for setting in ("temperature 0.7", "temperature 1.0", "top-k 10", "top-k 1000"):
        assert set(result["rows"][setting]) == {" saw the cat . It ran\n \n The end"}
        assert measured[f"paragraph: {setting}"] == len(head)
        assert measured[f"attested pairs: {setting}"] == pytest.approx(3 / 8)
        assert measured[f"distinct-2: {setting}"] == 1
        assert measured[f"entropy: {setting}"] == pytest.approx(0, abs=1e-4)
    assert result["measures"]["distinct-2: top-k 10"]["of"] == "8 continuations"


def test_the_end_of_the_text_ends_the_paragraph_and_what_counts(tokenizer, reciting):
    head = tokenizer.encode(" saw the cat")
    model = reciting(PROMPT, [*head, tokenizer.eot_id, *tokenizer.encode(" .\n")])
    size = StudySize(8, len(head) + 3, 0)
    result = sampling(model, Text(tokenizer, "a b"), size)
    assert set(result["rows"]["temperature 0.7"]) == {" saw the cat"}
    assert values(result)["paragraph: temperature 0.7"] == len(head)


def test_a_paragraph_that_does_not_end_has_all_tokens(tokenizer, reciting):
    model = reciting(PROMPT, tokenizer.encode(" the"))
    measured = values(sampling(model, Text(tokenizer, "a b"), StudySize(8, 9, 0)))
    assert measured["paragraph: temperature 0.7"] == 9


def test_settings_are_compared_sample_by_sample(model, dataset):
    result = sampling(model, dataset, StudySize(9, 30, 0))
    measured, texts = values(result), result["rows"]
    expected = complete(model, dataset.tokenizer, PROMPT, 30, 9, temperature=0.7, seed=0)
    assert texts["temperature 0.7"] == expected
    # The vocabulary has 300 tokens, so this is the same text from the same random numbers.
    assert texts["top-k 1000"] == texts["temperature 1.0"]
    assert texts["top-k 10"] != texts["top-k 50"]
    for name in ("entropy", "attested pairs", "paragraph"):
        for one, other in (
            ("temperature 0.7", "temperature 1.0"),
            ("top-k 50", "top-k 10"),
            ("top-k 1000", "top-k 10"),
        ):
            expected = measured[f"{name}: {one}"] - measured[f"{name}: {other}"]
            assert measured[f"{name}: {one} minus {other}"] == pytest.approx(expected)
    assert measured["entropy: temperature 0.7 minus temperature 1.0"] < -0.1
    assert measured["entropy: top-k 1000 minus top-k 10"] > 0.1


# -- claim 12 -------------------------------------------------------------------------------------


def test_ablation_of_a_model_that_repeats_itself_anyway(tokenizer, reciting):
    model = reciting(paper.ABLATION_PROMPT, tokenizer.encode(" the"))
    n = 24 // len(tokenizer.encode(" the"))
    result = ablation(model, Text(tokenizer, ""), StudySize(3, 24, 0))
    measured = values(result)
    for heads in ("all heads", "without heads 1 and 2", "without heads 0 and 3"):
        assert result["greedy"][heads] == " the" * n
        assert measured[f"repetition: {heads}"] == pytest.approx((n - 1) / n)
    assert measured["repetition: without heads 1 and 2 minus all heads"] == 0


def test_every_two_heads_are_removed_in_turn(model, tokenizer):
    result = ablation(model, Text(tokenizer, ""), StudySize(20, 60, 0))
    measured = values(result)
    pairs = [f"without heads {a} and {b}" for a in range(4) for b in range(a + 1, 4)]
    assert list(result["greedy"]) == list(result["rows"]) == ["all heads", *pairs]
    rates = {
        name: np.array([repetition_rate(text.split()) for text in texts])
        for name, texts in result["rows"].items()
    }
    for name, mask in (
        ("all heads", None),
        ("without heads 1 and 2", torch.tensor([[1.0, 0, 0, 1]] * 2)),
        ("without heads 0 and 3", torch.tensor([[0.0, 1, 1, 0]] * 2)),
    ):
        texts = complete(
            model, tokenizer, "The cat sat on", 60, 20, seed=0, head_mask=mask, **SAMPLING
        )
        assert result["rows"][name] == texts
        greedy = complete(
            model, tokenizer, "The cat sat on", 60, temperature=0, head_mask=mask, fast=False
        )
        assert result["greedy"][name] == greedy[0]
        if mask is not None:
            change = rates[name].mean() - rates["all heads"].mean()
            assert measured[f"repetition: {name} minus all heads"] == pytest.approx(change)
    others = [rates[name].mean() for name in pairs if "1 and 2" not in name]
    assert len(others) == 5
    ours = measured["repetition: without heads 1 and 2"]
    more = measured["repetition: without heads 1 and 2 minus mean of the other pairs"]
    assert more == pytest.approx(ours - np.mean(others))
    assert abs(more) > 1e-4


# -- claim 13 -------------------------------------------------------------------------------------


SENTENCES = StudySize(0, 0, 4)


@pytest.fixture
def encoded(model, dataset) -> list[torch.Tensor]:
    """The sentences as the model reads them: as much as fits into its window."""
    ids = map(dataset.tokenizer.encode, dataset.sentences(4))
    return [torch.tensor(sentence[: model.config.block_size]) for sentence in ids]


def test_values_of_layers_and_heads_are_those_of_all_positions(model, dataset, encoded):
    measured = values(attention(model, dataset, SENTENCES))
    sentences = [query_statistics(attention_maps(model, ids)).double() for ids in encoded]
    means = torch.cat(sentences, -1).mean(-1)  # (statistic, layer, head)
    for statistic, name in enumerate(STATISTICS):
        for layer in (0, 1):
            whole = means[statistic, layer].mean().item()
            assert measured[f"{name}: layer {layer}"] == pytest.approx(whole)
            for head in range(4):
                expected = means[statistic, layer, head].item()
                assert measured[f"{name}: layer {layer}, head {head}"] == pytest.approx(expected)
        first, last = means[statistic].mean(-1).tolist()
        assert measured[f"{name}: layer 0 minus layer 1"] == pytest.approx(first - last)
    even = np.mean([q / 2 for ids in encoded for q in range(1, len(ids))])
    assert measured["distance: evenly spread"] == pytest.approx(even)


def test_intervals_of_attention_are_over_sentences(model, tokenizer, dataset):
    measures = attention(model, dataset, SENTENCES)["measures"]
    assert measures["previous: layer 0"]["of"] == "4 sentences"
    assert measures["to sat: layer 0"]["of"] == "24 sentences of one template"
    one = Text(tokenizer, "", "\n".join([" The cat sat on the mat . "] * 5))
    same = attention(model, one, StudySize(0, 0, 5))["measures"]["previous: layer 0"]
    assert same["low"] == pytest.approx(same["high"])


def test_what_later_tokens_look_at_equals_a_plain_loop(model, tokenizer, dataset):
    measured = values(attention(model, dataset, SENTENCES))
    everything = []
    for subject, thing in zip(SUBJECTS.split(), THINGS.split(), strict=True):
        text = f" The {subject} sat on the {thing} and looked at the dog ."
        ids = tokenizer.encode(text)
        maps = attention_maps(model, torch.tensor(ids)).tolist()
        ends = [len(tokenizer.decode(ids[: i + 1])) for i in range(len(ids))]  # in characters
        received = []
        for word in (f" The {subject} sat", f" The {subject}"):
            key = ends.index(len(word))
            queries = range(key + 1, len(ids))
            received.append(
                [
                    np.mean([[head[q][key] * (q + 1) for q in queries] for head in layer])
                    for layer in maps
                ]
            )
        everything.append(received)
    means = np.mean(everything, axis=0)
    for word, name in enumerate(("to sat", "to the noun")):
        for layer in (0, 1):
            assert measured[f"{name}: layer {layer}"] == pytest.approx(means[word, layer], rel=1e-4)
        change = means[word, 0] - means[word, 1]
        assert measured[f"{name}: layer 0 minus layer 1"] == pytest.approx(change, abs=1e-4)
    more = means[0, 1] - means[1, 1]
    assert measured["to sat minus to the noun: layer 1"] == pytest.approx(more, abs=1e-4)


@torch.no_grad()
def test_even_attention_is_local_nowhere(model, dataset, encoded):
    for block in model.blocks:
        block.attention.qkv.weight.zero_()
        block.attention.qkv.bias.zero_()
    measured = values(attention(model, dataset, SENTENCES))
    assert measured["distance: layer 0"] == pytest.approx(measured["distance: evenly spread"])
    mean_entropy = np.mean([math.log(q + 1) for ids in encoded for q in range(1, len(ids))])
    assert measured["entropy: layer 1, head 3"] == pytest.approx(mean_entropy)
    for name in ("to sat: layer 0", "to the noun: layer 1"):
        assert measured[name] == pytest.approx(1)
    assert measured["to sat minus to the noun: layer 0"] == pytest.approx(0, abs=1e-6)


def test_no_noun_of_the_template_occurs_twice():
    nouns = SUBJECTS.split() + THINGS.split()
    assert len(set(nouns)) == len(nouns) == 48
    assert (SUBJECTS.split()[0], THINGS.split()[0]) == ("cat", "mat")  # the paper's sentence


# -- what cannot be studied -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("study", "size", "changes", "message"),
    [
        (sampling, StudySize(1, 40, 0), {}, "continuations needs at least two"),
        (sampling, StudySize(8, 96, 0), {}, "window of 96"),
        (ablation, StudySize(2, 5, 0), {"n_head": 1}, "heads 1 and 2, .* has 1 a layer"),
        (ablation, StudySize(2, 5, 0), {"n_head": 2}, "heads 1 and 2, .* has 2 a layer"),
        (attention, StudySize(2, 5, 1), {}, "sentences needs at least two"),
    ],
)
def test_what_cannot_be_studied_is_said(
    study, size, changes, message, make_model, config, dataset, one_sentence
):
    with pytest.raises(LLMLiteError, match=message) as error:
        study(make_model(replace(config, **changes)), dataset, size)
    one_sentence(error)
