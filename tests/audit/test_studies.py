"""The studies of claims 9 to 13 on models that recite a known text, and against plain loops."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from llmlite import paper
from llmlite.audit import text as studies
from llmlite.audit.heads import SUBJECTS, THINGS, ablation, attention, by_head
from llmlite.audit.plan import StudySize
from llmlite.audit.text import SAMPLING, coherence, prompt_sensitivity, sampling
from llmlite.config import ModelConfig
from llmlite.files import LLMLiteError
from llmlite.generate import PARAGRAPH, complete
from llmlite.interpret import STATISTICS, attention_maps, query_statistics
from llmlite.intervals import measure_all, share, study_table
from llmlite.metrics import repetition_rate
from llmlite.model import GPT
from llmlite.sources import sample_folder
from llmlite.tokenizer import BPETokenizer

PROMPT = paper.GENERATION_PROMPT
SETTINGS = ("temperature 0.7", "temperature 1.0", "top-k 10", "top-k 1000")


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
def dataset() -> Text:
    text = (sample_folder() / "wiki.train.raw").read_text("utf-8")[:20_000]
    return Text(BPETokenizer.train(text, 300), text, text)


@pytest.fixture
def tokenizer(dataset) -> BPETokenizer:
    return dataset.tokenizer


@pytest.fixture
def model(tokenizer, make_model) -> GPT:
    return make_model(ModelConfig(tokenizer.vocab_size, 96, n_layer=2, n_head=4, n_embd=16))


def reciting(tokenizer: BPETokenizer, ids: list[int]) -> GPT:
    """A model that continues the paper's prompt with `ids`, again and again: its position
    embeddings outweigh all else and point at the token that is to follow."""
    torch.manual_seed(0)
    model = GPT(ModelConfig(tokenizer.vocab_size, 96, n_layer=2, n_head=4, n_embd=64)).eval()
    torch.nn.init.normal_(model.token_embedding.weight)
    start = len(tokenizer.encode(PARAGRAPH + PROMPT)) - 1
    to_follow = [ids[(at - start) % len(ids)] for at in range(96)]
    with torch.no_grad():
        model.position_embedding.weight.copy_(1000 * model.token_embedding.weight[to_follow])
    return model


def values(result: dict) -> dict[str, float]:
    """The measures' values, of a result that is as all results are."""
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    for name, interval in result["measures"].items():
        assert list(interval) == ["value", "low", "high", "of"], name
        assert interval["low"] <= interval["high"], name
    return {name: interval["value"] for name, interval in result["measures"].items()}


def test_measures_are_shares_and_their_differences_in_a_table_of_seeds():
    # Of all samples together: 3 of 4, where the mean over samples would be 1/2, and 1 of 4.
    counts = {"a": {"x": np.array([[0, 1], [3, 3]])}, "b": {"x": np.array([[0, 3], [1, 1]])}}
    measures = measure_all(counts, [("b", "a")], "texts")
    found = {name: interval["value"] for name, interval in measures.items()}
    assert found == {"x: a": 3 / 4, "x: b": 1 / 4, "x: b minus a": -1 / 2}
    assert {interval["of"] for interval in measures.values()} == {"2 texts"}
    seeds = [{"measures": measures}, {"measures": measures}]
    table = study_table(seeds)
    assert table.index.tolist() == list(measures)
    assert table.columns.tolist() == ["seed 1", "seed 2", "over"]
    assert table.loc["x: a"].tolist() == ["0.750 [0.000, 1.000]"] * 2 + ["2 texts"]
    assert study_table(seeds[:1]).columns.tolist() == ["value", "over"]
    assert study_table(seeds, only="minus").index.tolist() == ["x: b minus a"]


def test_a_difference_keeps_pairs_together():
    other = np.array([[float(i), 1] for i in range(10)])
    counts = {"a": {"x": other + np.array([0.5, 0])}, "b": {"x": other}}
    found = measure_all(counts, [("a", "b")], "pairs")["x: a minus b"]
    assert [found[key] for key in ("value", "low", "high")] == pytest.approx([0.5] * 3)


HEADED = " \n = Title = \n \n a b c\n \n = = Part = = \n \n d e f\n g h\n"
RNG = np.random.default_rng(0)
TWO, FIVE, EIGHT = (np.array([[n, 10], [n, 10]]) for n in (2, 5, 8))


def test_pairs_passages_and_positions_worked_out_by_hand():
    known = {("the", "cat"), ("cat", "the"), ("the", "end")}
    texts = [text.split() for text in ("the cat the end w0 cat", "cat dog the", "the")]
    assert studies.attested(texts, known).tolist() == [[3, 5], [0, 2], [0, 0]]
    # A continuation starts with the prompt's last word, which it may make longer.
    for more, words in ((" of x", "student of x"), ("ures of", "studentures of"), ("", "student")):
        assert studies.continued_words(PROMPT, PROMPT + more) == words.split()
    # A passage starts with a paragraph and runs on.
    assert sorted(map("".join, studies.passages(HEADED, [2, 2, 2], RNG))) == ["ab", "de", "gh"]
    drawn = {tuple(map("".join, studies.passages(HEADED, [2, 5], RNG))) for _ in range(50)}
    assert drawn == {("ab", "defgh"), ("de", "abc==")}  # "g h" ends before 5 words
    assert studies.position(FIVE, TWO, EIGHT)["value"] == pytest.approx(0.5)
    assert studies.position(EIGHT, TWO, FIVE)["value"] == pytest.approx(2.0)


def test_a_model_that_copies_real_text_is_as_coherent(tokenizer):
    real = " was seen in the old town and was never forgotten"
    text = "".join(" \n " + " ".join(f"{letter}{i}" for letter in "abcdefghijkl") for i in range(9))
    dataset = Text(tokenizer, f"{text}\n{PROMPT}{real}", text)
    size = StudySize(5, len(tokenizer.encode(real)), 0)
    result = coherence(reciting(tokenizer, tokenizer.encode(real + " by")), dataset, size)
    measured = values(result)
    assert set(result["rows"]["generated"]) == {"student" + real}
    filtered = "student was seen in the old town and never forgotten"
    assert set(result["rows"]["filtered"]) == {filtered}
    assert measured["attested pairs: generated"] == measured["position: generated"] == 1
    assert measured["attested pairs: real"] == measured["position: real, filtered"] == 1
    assert measured["attested pairs: filtered"] == pytest.approx(8 / 9)  # not "and never"
    assert measured["attested pairs: filtered minus real"] == pytest.approx(-1 / 9)
    shuffled = measured["attested pairs: real, shuffled"]
    assert measured["position: filtered"] == pytest.approx((8 / 9 - shuffled) / (1 - shuffled))


def test_real_text_is_as_long_as_generated_text_and_controls_have_its_words(model, dataset):
    result = coherence(model, dataset, StudySize(3, 60, 0))
    assert coherence(model, dataset, StudySize(3, 60, 0)) == result
    assert (result["samples"], result["tokens"], result["prompt"]) == (3, 60, PROMPT)
    assert result["sampling"] == SAMPLING == {"temperature": 0.8, "top_k": 50}
    expected = complete(model, dataset.tokenizer, PROMPT, 60, 3, seed=0, **SAMPLING)
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


def test_bleu_between_and_within_prompts_equals_a_plain_loop(model, dataset, monkeypatch):
    assert studies.PROMPTS[:2] == ("The university student", "A university student")
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
    name = "BLEU: different prompts minus same prompt"
    assert measured[name] == pytest.approx(np.mean(between) - np.mean(within))
    assert result["measures"][name]["of"] == "4 samples"


@pytest.mark.parametrize("options", [{"temperature": 0.7}, {"temperature": 1.0, "top_k": 10}])
@torch.inference_mode()
def test_entropies_equal_a_plain_loop(model, make_ids, options):
    ids, steps = make_ids(3, 12, vocab_size=300), [8, 1, 5]
    result = studies.entropies(model, ids, 4, steps, options)
    assert result[:, 1].tolist() == steps
    for row, n, total in zip(ids, steps, result[:, 0], strict=True):
        expected = 0.0
        for end in range(4, 4 + n):
            logits = (model(row[None, :end]).logits[0, -1] / options["temperature"]).double()
            kept = logits.sort(descending=True).values[: options.get("top_k")]
            expected -= (kept.softmax(0) * kept.log_softmax(0)).sum().item()
        assert total == pytest.approx(expected, rel=1e-4)
        assert total > 0.1


def test_sampling_of_a_known_text_worked_out_by_hand(tokenizer):
    head, tail = tokenizer.encode(" saw the cat . It ran"), tokenizer.encode("\n \n The end")
    text, size = Text(tokenizer, "student saw the cat end"), StudySize(8, len(head + tail), 0)
    result = sampling(reciting(tokenizer, head + tail), text, size)
    measured = values(result)
    for setting in SETTINGS:
        assert set(result["rows"][setting]) == {" saw the cat . It ran\n \n The end"}
        assert measured[f"paragraph: {setting}"] == len(head)
        assert measured[f"attested pairs: {setting}"] == pytest.approx(3 / 8)
        assert measured[f"distinct-2: {setting}"] == 1
        assert measured[f"entropy: {setting}"] == pytest.approx(0, abs=1e-4)
    assert result["measures"]["distinct-2: top-k 10"]["of"] == "8 continuations"


def test_a_paragraph_ends_with_the_text_or_has_all_tokens(tokenizer):
    head, text = tokenizer.encode(" saw the cat"), Text(tokenizer, "a b")
    ends = reciting(tokenizer, [*head, tokenizer.eot_id, *tokenizer.encode(" .\n")])
    for model, expected in ((ends, len(head)), (reciting(tokenizer, head), len(head) + 3)):
        result = sampling(model, text, StudySize(2, len(head) + 3, 0))
        assert values(result)["paragraph: temperature 0.7"] == expected
        assert (set(result["rows"]["temperature 0.7"]) == {" saw the cat"}) is (model is ends)


def test_settings_are_compared_sample_by_sample(model, dataset):
    result = sampling(model, dataset, StudySize(9, 30, 0))
    measured, texts = values(result), result["rows"]
    expected = complete(model, dataset.tokenizer, PROMPT, 30, 9, temperature=0.7, seed=0)
    assert texts["temperature 0.7"] == expected
    # The vocabulary has 300 tokens, so this is the same text from the same random numbers.
    assert texts["top-k 1000"] == texts["temperature 1.0"]
    assert len(set(map(tuple, texts.values()))) == 5
    compared = [("temperature 0.7", "temperature 1.0")]
    compared += [(f"top-k {k}", "top-k 10") for k in (50, 200, 1000)]
    for name in ("entropy", "attested pairs", "paragraph", "distinct-2"):
        for one, other in compared:
            expected = measured[f"{name}: {one}"] - measured[f"{name}: {other}"]
            assert measured[f"{name}: {one} minus {other}"] == pytest.approx(expected)
    assert measured["entropy: temperature 0.7 minus temperature 1.0"] < -0.1
    assert measured["entropy: top-k 1000 minus top-k 10"] > 0.1


def test_every_two_heads_are_removed_in_turn(model, tokenizer):
    result = ablation(model, Text(tokenizer, ""), StudySize(6, 50, 0))
    measured = values(result)
    pairs = [f"without heads {a} and {b}" for a in range(4) for b in range(a + 1, 4)]
    assert list(result["greedy"]) == list(result["rows"]) == ["all heads", *pairs]
    rates = {
        name: np.mean([repetition_rate(text.split()) for text in texts])
        for name, texts in result["rows"].items()
    }
    for name, kept in (
        ("all heads", [1.0, 1, 1, 1]),
        ("without heads 1 and 2", [1.0, 0, 0, 1]),
        ("without heads 0 and 3", [0.0, 1, 1, 0]),
    ):
        to_continue = (model, tokenizer, "The cat sat on", 50)
        how = {"head_mask": torch.tensor([kept] * 2)}
        assert result["rows"][name] == complete(*to_continue, 6, seed=0, **SAMPLING, **how)
        (greedy,) = complete(*to_continue, temperature=0, fast=False, **how)
        assert result["greedy"][name] == greedy
        assert measured[f"repetition: {name}"] == pytest.approx(rates[name])
    ours, *others = sorted(pairs, key="without heads 1 and 2".__ne__)
    change = rates[ours] - rates["all heads"]
    assert measured[f"repetition: {ours} minus all heads"] == pytest.approx(change)
    more = measured[f"repetition: {ours} minus mean of the other pairs"]
    assert more == pytest.approx(rates[ours] - np.mean([rates[name] for name in others]))
    assert abs(more) > 1e-4


SENTENCES = StudySize(0, 0, 4)


def test_values_of_layers_and_heads_are_those_of_all_positions(model, dataset):
    result = attention(model, dataset, SENTENCES)
    measured = values(result)
    assert result["measures"]["previous: layer 0"]["of"] == "4 sentences"
    assert result["measures"]["to sat: layer 0"]["of"] == "24 sentences of one template"
    table = by_head(result)
    ids = map(dataset.tokenizer.encode, dataset.sentences(4))
    encoded = [torch.tensor(sentence[:96]) for sentence in ids]  # as much as fits into the window
    assert table.index.tolist() == [(layer, head) for layer in (0, 1) for head in range(4)]
    assert table.columns.levels[0].tolist() == sorted(STATISTICS)
    sentences = [query_statistics(attention_maps(model, ids)).double() for ids in encoded]
    means = torch.cat(sentences, -1).mean(-1)  # (statistic, layer, head)
    for statistic, name in enumerate(STATISTICS):
        for layer in (0, 1):
            whole = means[statistic, layer].mean().item()
            assert measured[f"{name}: layer {layer}"] == pytest.approx(whole)
            for head in range(4):
                expected = means[statistic, layer, head].item()
                measure = result["measures"][f"{name}: layer {layer}, head {head}"]
                assert measure["value"] == pytest.approx(expected)
                assert table.loc[(layer, head), name].to_dict() | {"of": "4 sentences"} == measure
        first, last = means[statistic].mean(-1).tolist()
        assert measured[f"{name}: layer 0 minus layer 1"] == pytest.approx(first - last)
    even = np.mean([q / 2 for ids in encoded for q in range(1, len(ids))])
    assert measured["distance: evenly spread"] == pytest.approx(even)


def test_what_later_tokens_look_at_equals_a_plain_loop(model, tokenizer, dataset):
    measured = values(attention(model, dataset, SENTENCES))
    nouns = SUBJECTS.split() + THINGS.split()
    assert len(set(nouns)) == len(nouns) == 48
    assert (nouns[0], nouns[24]) == ("cat", "mat")  # the paper's sentence
    received = []
    for subject, thing in zip(nouns[:24], nouns[24:], strict=True):
        ids = tokenizer.encode(f" The {subject} sat on the {thing} and looked at the dog .")
        maps = attention_maps(model, torch.tensor(ids)).double()
        ends = [len(tokenizer.decode(ids[: i + 1])) for i in range(len(ids))]  # in characters
        for word in (f" The {subject} sat", f" The {subject}"):
            key = ends.index(len(word))
            later = [maps[:, :, q, key] * (q + 1) for q in range(key + 1, len(ids))]
            received.append(torch.stack(later).mean((0, 2)))  # of each layer
    sat, noun = torch.stack(received).view(24, 2, 2).mean(0).numpy()
    received = {"to sat": sat, "to the noun": noun, "to sat minus to the noun": sat - noun}
    for name, by_layer in received.items():
        for layer in (0, 1):
            found = measured[f"{name}: layer {layer}"]
            assert found == pytest.approx(by_layer[layer], rel=1e-4, abs=1e-4)
        change = by_layer[0] - by_layer[1]
        assert measured[f"{name}: layer 0 minus layer 1"] == pytest.approx(change, abs=1e-4)


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        (sampling, (4, StudySize(1, 40, 0)), "continuations needs at least two"),
        (sampling, (4, StudySize(8, 96, 0)), "96 more do not fit .* window of 96"),
        (ablation, (1, StudySize(2, 5, 0)), "heads 1 and 2, .* has 1 a layer"),
        (ablation, (2, StudySize(2, 5, 0)), "heads 1 and 2, .* has 2 a layer"),
        (attention, (4, StudySize(2, 5, 1)), "sentences needs at least two"),
        (studies.passages, (HEADED, [2, 5, 5], RNG), "has 2 paragraphs.* 5 words.* 3 are needed"),
        (studies.position, (FIVE, EIGHT, TWO), "no scale"),
        (share, (np.array([[3, 4], [1, 0]]),), "too short"),
    ],
)
def test_what_cannot_be_studied_is_refused(
    call, arguments, message, make_model, model, dataset, one_sentence
):
    if isinstance(arguments[-1], StudySize):
        heads, size = arguments
        arguments = make_model(replace(model.config, n_head=heads)), dataset, size
    with pytest.raises(LLMLiteError, match=message) as error:
        call(*arguments)
    one_sentence(error)
