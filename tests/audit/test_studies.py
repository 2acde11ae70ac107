"""The studies of claims 9 to 13 on models that recite a known text, and against plain loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import bytes_of

from llmlite import paper
from llmlite.audit import text as studies
from llmlite.audit.heads import SUBJECTS, THINGS, ablation, attention, by_head
from llmlite.audit.plan import StudySize
from llmlite.audit.text import SAMPLING, coherence, prompt_sensitivity, sampling
from llmlite.config import ModelConfig
from llmlite.files import LLMLiteError
from llmlite.generate import complete, prompt_ids
from llmlite.interpret import STATISTICS, attention_maps, attention_received, query_statistics
from llmlite.intervals import measure_all, share, study_table
from llmlite.metrics import bleu_matrix, repetition_rate
from llmlite.model import GPT
from llmlite.tokenizer import BPETokenizer

PROMPT = paper.GENERATION_PROMPT
SETTINGS = ("temperature 0.7", "temperature 1.0", "top-k 10", "top-k 1000")


@pytest.fixture
def model(make_model) -> GPT:
    return make_model(ModelConfig(300, 96, n_layer=2, n_head=4, n_embd=16), seed=1)


def reciting(tokenizer: BPETokenizer, ids: list[int]) -> GPT:
    """A model that continues the paper's prompt with `ids`, again and again: its position
    embeddings outweigh all else and point at the token that is to follow."""
    torch.manual_seed(0)
    model = GPT(ModelConfig(tokenizer.vocab_size, 96, n_layer=2, n_head=4, n_embd=64)).eval()
    torch.nn.init.normal_(model.token_embedding.weight)
    start = prompt_ids(tokenizer, PROMPT).size(1) - 1
    to_follow = [ids[(at - start) % len(ids)] for at in range(96)]
    with torch.no_grad():
        model.position_embedding.weight.copy_(1000 * model.token_embedding.weight[to_follow])
    return model


def values(result: dict) -> dict[str, float]:
    return {name: measure["value"] for name, measure in result["measures"].items()}


def test_measures_are_shares_and_their_differences_in_a_table_of_seeds():
    # Of all samples together: 3 of 4, where the mean over samples would be 1/2, and 1 of 4.
    counts = {"a": {"x": np.array([[0, 1], [3, 3]])}, "b": {"x": np.array([[0, 3], [1, 1]])}}
    measures = measure_all(counts, [("b", "a")], "texts")
    assert values({"measures": measures}) == {"x: a": 3 / 4, "x: b": 1 / 4, "x: b minus a": -1 / 2}
    assert measures["x: b minus a"] == {"value": -0.5, "low": -0.5, "high": 0.0, "of": "2 texts"}
    seeds = [{"measures": measures}] * 2
    table = study_table(seeds)
    assert (table.index.tolist(), [*table]) == (list(measures), ["seed 1", "seed 2", "over"])
    assert table.loc["x: a"].tolist() == ["0.750 [0.000, 1.000]"] * 2 + ["2 texts"]
    one = study_table(seeds[:1], only="minus")
    assert (one.index.tolist(), [*one]) == (["x: b minus a"], ["value", "over"])
    # A difference keeps pairs together: what is half a point more in each sample always is.
    rows, half = np.array([[float(i), 1] for i in range(10)]), np.array([0.5, 0])
    both = measure_all({"a": {"x": rows + half}, "b": {"x": rows}}, [("a", "b")], "pairs")
    ends = both["x: a minus b"]
    assert (ends["low"], ends["high"]) == pytest.approx((0.5, 0.5))


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
    assert studies.on_scale(FIVE, TWO, EIGHT)["value"] == pytest.approx(0.5)
    assert studies.on_scale(EIGHT, TWO, FIVE)["value"] == pytest.approx(2.0)


def test_a_model_that_copies_real_text_is_as_coherent(tmp_path):
    real = " was seen in the old town and was never forgotten"
    text = "".join(" \n " + " ".join(f"{letter}{i}" for letter in "abcdefghijkl") for i in range(9))
    dataset = bytes_of(tmp_path, f"{text}\n{PROMPT}{real}", text)
    model = reciting(dataset.tokenizer, dataset.tokenizer.encode(real + " by"))
    result = coherence(model, dataset, StudySize(5, len(real), 0))
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


def test_the_controls_of_coherence_have_the_words_and_lengths_of_what_they_control(model, articles):
    result = coherence(model, articles, StudySize(16, 60, 0))
    assert (result["samples"], result["tokens"], result["prompt"]) == (16, 60, PROMPT)
    assert result["sampling"] == SAMPLING == {"temperature": 0.8, "top_k": 50}
    assert result == coherence(model, articles, StudySize(16, 60, 0)), "drawn with a seed"
    assert all(text in " ".join(articles.text("test").split()) for text in result["rows"]["real"])
    expected = complete(model, articles.tokenizer, PROMPT, 60, 16, seed=0, **SAMPLING)
    for i, text in enumerate(expected):
        words = {kind: texts[i].split(" ") for kind, texts in result["rows"].items()}
        assert words["generated"] == (PROMPT + text).split()[2:]
        assert len(words["real"]) == len(words["generated"])
        for kind in ("real", "filtered"):
            assert sorted(words[f"{kind}, shuffled"]) == sorted(words[kind])
        assert sorted(words["real, filtered"]) == sorted(set(words["real"]))
    assert result["rows"]["real, shuffled"] != result["rows"]["real"]


def test_bleu_between_and_within_prompts_equals_a_plain_loop(model, articles, monkeypatch):
    assert studies.PROMPTS[:2] == ("The university student", "A university student")
    prompts = ["The cat", "A dog", "One day"]
    monkeypatch.setattr(studies, "PROMPTS", prompts)
    result = prompt_sensitivity(model, articles, StudySize(4, 12, 0))
    measured, to_continue = values(result), (model, articles.tokenizer)
    texts = [complete(*to_continue, p, 12, 8, seed=i, **SAMPLING) for i, p in enumerate(prompts)]

    def bleu(reference: str, hypothesis: str) -> float:
        return bleu_matrix([reference, hypothesis])[0, 1]

    between, within = [], []
    for i in range(4):
        between += [bleu(a[i], b[i]) for a in texts for b in texts if a is not b]
        within += [bleu(t[i], t[4 + i]) for t in texts] + [bleu(t[4 + i], t[i]) for t in texts]
    for which, scores in (("different prompts", between), ("same prompt", within)):
        assert measured[f"BLEU: {which}"] == pytest.approx(np.mean(scores))
        assert measured[f"share below 0.05: {which}"] == np.mean(np.array(scores) < 0.05)
    assert result["measures"]["BLEU: different prompts minus same prompt"]["of"] == "4 samples"


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


# Of the pairs student-saw, saw-the, the-cat, cat-., .-It, It-ran, ran-The and The-end.
@pytest.mark.parametrize(("end", "pairs"), [("line", 8), ("text", 6), ("tokens", 6)])
def test_sampling_of_a_known_text_worked_out_by_hand(tmp_path, end, pairs):
    """A paragraph ends with its line or with the text, or has all tokens."""
    dataset = bytes_of(tmp_path, "student saw the cat end", " ")
    tokenizer = dataset.tokenizer
    head, tail = tokenizer.encode(" saw the cat . It ran"), tokenizer.encode("\n \n The end")
    ids = head + {"line": tail, "text": [tokenizer.eot_id, *tail], "tokens": []}[end]
    result = sampling(reciting(tokenizer, ids), dataset, StudySize(8, len(ids), 0))
    measured = values(result)
    shown = " saw the cat . It ran" + ("\n \n The end" if end == "line" else "")
    for setting in SETTINGS:
        assert set(result["rows"][setting]) == {shown}
        assert measured[f"paragraph: {setting}"] == len(head)
        assert measured[f"attested pairs: {setting}"] == pytest.approx(3 / pairs)
        assert measured[f"distinct-2: {setting}"] == 1
        assert measured[f"entropy: {setting}"] == pytest.approx(0, abs=1e-4)
    assert result["measures"]["distinct-2: top-k 10"]["of"] == "8 continuations"


def test_settings_are_compared_sample_by_sample(model, articles):
    result = sampling(model, articles, StudySize(9, 30, 0))
    measured, texts = values(result), result["rows"]
    expected = complete(model, articles.tokenizer, PROMPT, 30, 9, temperature=0.7, seed=0)
    assert texts["temperature 0.7"] == expected
    # The vocabulary has 300 tokens, so this is the same text from the same random numbers.
    assert texts["top-k 1000"] == texts["temperature 1.0"]
    assert len(set(map(tuple, texts.values()))) == 5
    assert measured["entropy: temperature 0.7 minus temperature 1.0"] < -0.1
    for k in (50, 200, 1000):
        assert f"distinct-2: top-k {k} minus top-k 10" in measured


def test_every_two_heads_are_removed_in_turn(model, articles):
    result = ablation(model, articles, StudySize(6, 50, 0))
    measured, texts, ours = values(result), result["rows"], "without heads 1 and 2"
    pairs = [f"without heads {a} and {b}" for a in range(4) for b in range(a + 1, 4)]
    assert list(result["greedy"]) == list(texts) == ["all heads", *pairs]
    to_continue = (model, articles.tokenizer, "The cat sat on", 50)
    for name, kept in (("all heads", [1.0, 1, 1, 1]), (ours, [1.0, 0, 0, 1])):
        how = {"head_mask": torch.tensor([kept] * 2)}
        assert texts[name] == complete(*to_continue, 6, seed=0, **SAMPLING, **how)
        assert [result["greedy"][name]] == complete(*to_continue, temperature=0, fast=False, **how)
    in_each = {name: [repetition_rate(t.split()) for t in drawn] for name, drawn in texts.items()}
    rates = {name: np.mean(found) for name, found in in_each.items()}
    rates["mean of the other pairs"] = np.mean([rates[name] for name in pairs if name != ours])
    three = ("all heads", ours, "mean of the other pairs")
    assert len({round(rates[name], 4) for name in three}) == 3
    for one, other in [*((pair, "all heads") for pair in pairs), (ours, "mean of the other pairs")]:
        rates[f"{one} minus {other}"] = rates[one] - rates[other]
    assert measured == pytest.approx({f"repetition: {name}": rate for name, rate in rates.items()})


def test_where_heads_look_equals_plain_loops(model, articles):
    result, tokenizer = attention(model, articles, StudySize(0, 0, 4)), articles.tokenizer
    measured, table = values(result), by_head(result)
    ids = map(tokenizer.encode, articles.sentences(4))
    encoded = [torch.tensor(sentence[:96]) for sentence in ids]  # as much as fits into the window
    found = [query_statistics(attention_maps(model, ids)).double() for ids in encoded]
    means = torch.cat(found, -1).mean(-1)  # (statistic, layer, head), of all positions
    assert table.index.tolist() == [(layer, head) for layer in (0, 1) for head in range(4)]
    for name, of_heads in zip(STATISTICS, means, strict=True):
        assert table[name].value.tolist() == pytest.approx(of_heads.flatten().tolist())
        shown = table.loc[(1, 3), name].to_dict() | {"of": "4 sentences"}
        assert shown == result["measures"][f"{name}: layer 1, head 3"]
    even = np.mean([q / 2 for ids in encoded for q in range(1, len(ids))])
    assert measured["distance: evenly spread"] == pytest.approx(even)

    nouns = SUBJECTS.split() + THINGS.split()
    assert len(set(nouns)) == len(nouns) == 48
    assert (nouns[0], nouns[24]) == ("cat", "mat")  # the paper's sentence
    received = []
    for subject, thing in zip(nouns[:24], nouns[24:], strict=True):
        ids = tokenizer.encode(f" The {subject} sat on the {thing} and looked at the dog .")
        maps = attention_maps(model, torch.tensor(ids))
        ends = [len(tokenizer.decode(ids[: i + 1])) for i in range(len(ids))]  # in characters
        at = [ends.index(len(text)) for text in (f" The {subject} sat", f" The {subject}")]
        received.append([attention_received(maps, i).mean(-1).numpy() for i in at])
    sat, noun = np.mean(received, axis=0)  # (word, layer)
    assert result["measures"]["to sat: layer 0"]["of"] == "24 sentences of one template"

    by_layer = dict(zip(STATISTICS, means.mean(-1), strict=True))
    by_layer |= {"to sat": sat, "to the noun": noun, "to sat minus to the noun": sat - noun}
    for name, expected in by_layer.items():
        of_layers = [measured[f"{name}: layer {layer}"] for layer in (0, 1)]
        assert of_layers == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize(("call", "arguments", "message"), [
    (sampling, (4, StudySize(1, 40, 0)), "continuations needs at least two"),
    (sampling, (4, StudySize(8, 96, 0)), "96 more do not fit .* window of 96"),
    (ablation, (1, StudySize(2, 5, 0)), "heads 1 and 2, .* has 1 a layer"),
    (ablation, (2, StudySize(2, 5, 0)), "heads 1 and 2, .* has 2 a layer"),
    (attention, (4, StudySize(2, 5, 1)), "sentences needs at least two"),
    (studies.passages, (HEADED, [2, 5, 5], RNG), "has 2 paragraphs.* 5 words.* 3 are needed"),
    (studies.on_scale, (FIVE, EIGHT, TWO), "no scale"),
    (share, (np.array([[3, 4], [1, 0]]),), "too short"),
])  # fmt: skip
def test_what_cannot_be_studied_is_refused(call, arguments, message, make_model, model, articles):
    if isinstance(arguments[-1], StudySize):
        heads, size = arguments
        arguments = make_model(replace(model.config, n_head=heads)), articles, size
    with pytest.raises(LLMLiteError, match=message):
        call(*arguments)
