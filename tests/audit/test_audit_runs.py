"""The plan's runs field by field; and a whole audit, so small that it takes seconds."""

import json
import shlex
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch

from llmlite.audit import Audit, claims, measures, plan, runs, scorecard
from llmlite.audit.claims import VERDICTS
from llmlite.audit.hypotheses import steps_by_layout
from llmlite.audit.studies import STUDIES
from llmlite.cli import build_parser
from llmlite.config import DataConfig, ModelConfig, SearchSpace, TrainConfig
from llmlite.data import SPLITS, sample_folder, split_articles
from llmlite.errors import LLMLiteError
from llmlite.experiment import Experiment
from llmlite.metrics import Score, evaluate
from llmlite.profiles import PROFILES
from llmlite.train import Trainer

# -- the plan -------------------------------------------------------------------------------------


def planned(name: str) -> dict:
    profile = PROFILES[name]
    return {run.name: run for run in plan(profile.audit, profile.data)}


def fields(run) -> dict:
    """Every field of a run but its name: "data.stride" → value."""
    parts = asdict(run)
    del parts["name"]
    return {f"{part}.{field}": v for part, values in parts.items() for field, v in values.items()}


def changes(run, other) -> dict:
    """The fields in which `run` is not as `other`, with their values."""
    before = fields(other)
    return {field: value for field, value in fields(run).items() if value != before[field]}


# A shorter run says so by its TrainConfig; what else may follow from the switch stands with it.
LENGTH = {"train.epochs", "train.epoch_windows", "train.seed"}
WINDOW = {"data.block_size", "model.block_size"}


def shorter(profile) -> dict:
    """How the runs that repeat a published one are shorter than it: in `full` alone."""
    audit = PROFILES[profile].audit
    assert replace(audit.again, epoch_windows=audit.train.epoch_windows) == audit.train
    if profile != "full":
        assert audit.again == audit.train
        return {}
    assert audit.train.epoch_windows is None, "the paper's own: a window at every token"
    return {"train.epoch_windows": audit.again.epoch_windows}


@pytest.mark.parametrize("profile", PROFILES)
def test_names_are_unique_and_the_telling_runs_come_first(profile):
    settings = PROFILES[profile]
    names = [run.name for run in plan(settings.audit, settings.data)]
    assert len(set(names)) == len(names)
    assert names[:2] == ["no-mask", "mask"]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    ("name", "like", "switch", "may_differ"),
    [
        ("mask", "no-mask", {"model.causal": True}, set()),
        ("unshifted", "mask", {"data.shift": 0}, LENGTH),
        ("padding", "mask", {"data.padding": True}, LENGTH | WINDOW),
        ("split-after-windowing", "mask", {"data.split": "windows"}, LENGTH),
        (
            "scaled-norm",
            "no-mask",
            {"train.log_scaled_norm": True, "train.amp": "fp16"},
            LENGTH | {"train.log_divided_loss"},
        ),
    ],
)
def test_a_run_makes_the_mistake_in_its_name_and_no_other(profile, name, like, switch, may_differ):
    made = planned(profile)
    changed = changes(made[name], made[like])
    assert {field: changed.get(field) for field in switch} == switch
    assert changed.keys() - switch.keys() <= may_differ | shorter(profile).keys()


@pytest.mark.parametrize("profile", PROFILES)
def test_variants_without_a_mask_change_one_thing_each(profile):
    audit, made = PROFILES[profile].audit, planned(profile)
    plain, (first, *others) = made["no-mask"], audit.seeds
    assert plain.model.causal is False
    assert plain.train == replace(audit.train, log_divided_loss=True, seed=first)
    assert changes(made["no-mask-deep"], plain) == {"model.n_layer": audit.deep}
    twice, length = {"train.batch_size": 2 * audit.train.batch_size}, shorter(profile)
    assert changes(made["no-mask-batch"], plain) == twice | length
    for seed in others:
        assert changes(made[f"no-mask-seed-{seed}"], plain) == {"train.seed": seed} | length
    for size in audit.other_windows:
        changed = changes(made[f"no-mask-window-{size}"], plain)
        assert changed["data.block_size"] == changed["model.block_size"] == size
        assert changed.keys() <= WINDOW | LENGTH


@pytest.mark.parametrize("profile", PROFILES)
def test_a_run_is_of_the_correct_windows_where_its_name_says_nothing(profile):
    settings = PROFILES[profile]
    correct = replace(settings.audit.data, source=settings.data.source, name=settings.data.name)
    for name, run in planned(profile).items():
        assert (run.model.vocab_size, run.model.block_size) == (
            run.data.vocab_size,
            run.data.block_size,
        )
        if name.startswith(("mask", "no-mask-seed", "no-mask-deep", "scaled")):
            assert run.data == correct


@pytest.mark.parametrize("profile", PROFILES)
def test_windows_of_other_lengths_see_as_many_tokens(profile):
    audit, made = PROFILES[profile].audit, planned(profile)
    names = [f"no-mask-window-{size}" for size in audit.other_windows]
    expected = audit.short.epoch_windows * audit.data.block_size
    for name in (*names, "padding", "unshifted", "split-after-windowing"):
        size = made[name].data.block_size
        tokens = made[name].train.epoch_windows * size
        assert expected - size < tokens <= expected  # whole windows


def test_a_length_in_whole_passes_is_the_same_for_all_windows():
    settings = PROFILES["quick"]
    audit = replace(settings.audit, short=replace(settings.audit.short, epoch_windows=None))
    made = {run.name: run for run in plan(audit, settings.data)}
    assert made["padding"].train.epoch_windows is None


def test_the_text_is_the_experiments():
    data = replace(PROFILES["quick"].data, source="a folder", name="wikitext-2-v1")
    for run in plan(PROFILES["quick"].audit, data):
        assert (run.data.source, run.data.name) == ("a folder", "wikitext-2-v1")


# -- a whole audit --------------------------------------------------------------------------------

LEAK = TrainConfig(
    epochs=2,
    batch_size=4,
    accumulation=2,
    epoch_windows=64,
    learning_rate=1e-2,
    amp="off",
    valid_tokens=401,
    patience=0,
)
GRID = TrainConfig(epochs=2, batch_size=2, amp="off", train_tokens=1_000, valid_tokens=400)
TINY = replace(
    PROFILES["quick"],
    data=DataConfig(source="sample", vocab_size=300, block_size=64),
    first_grid=SearchSpace((4e-3, 2e-3), (2,), (4,), (8, 16)),
    revised_grid=SearchSpace((4e-3, 2e-3), (2,), (2, 4), (16,)),
    audit=replace(
        PROFILES["quick"].audit,
        data=DataConfig(source="sample", vocab_size=300, block_size=8, stride=1),
        model=ModelConfig(n_embd=16, dropout=0.0),
        deep=2,
        shallow=1,
        train=LEAK,
        again=LEAK,
        short=replace(LEAK, epoch_windows=32),
        scaled=replace(LEAK, epochs=1, epoch_windows=32, amp="fp16"),
        other_windows=(4, 16),
        padded_window=32,
        seeds=(1, 2),
        first_seeds=(1,),
        honest=replace(GRID, train_tokens=3_000),  # long enough for early steps and late ones
        first_grid=replace(GRID, schedule="fixed"),
        revised_grid=replace(GRID, accumulation=2),
        vocabularies=(300, 320),
        windows=50,
        samples=16,
        sample_tokens=40,
        sentences=8,
    ),
)
ARTICLES = {"train": 30, "valid": 6, "test": 6}
NO_MASK = [
    "no-mask",
    "no-mask-deep",
    "no-mask-batch",
    "no-mask-window-4",
    "no-mask-window-16",
    "no-mask-seed-2",
]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """The first articles of each split of the bundled sample."""
    folder = tmp_path_factory.mktemp("text")
    for split, n in ARTICLES.items():
        name = f"wiki.{split}.raw"
        articles = split_articles((sample_folder() / name).read_text("utf-8"))[:n]
        (folder / name).write_text("".join(a.text for a in articles), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory, text):
    """start(name="out"): an audit of profile "quick", cut down, in the folder of that name."""
    parent = tmp_path_factory.mktemp("a folder")  # with a space, which a command has to quote

    def start(name: str = "out", **changes) -> Audit:
        out = parent / name
        return Audit(Experiment("quick", str(text), out, "cpu", progress=False, **changes))

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROFILES, "quick", TINY)
        yield start


@pytest.fixture(scope="module")
def audit(start) -> Audit:
    return start()


@pytest.fixture(scope="module")
def made(audit) -> Audit:
    """The audit with all of its runs made."""
    audit.make()
    return audit


@pytest.fixture(scope="module")
def gathered(made):
    return scorecard.evidence(made)


def files(audit: Audit) -> dict:
    """When each file of a run was written; the locks' are touched by whoever looks."""
    paths = audit.experiment.runs.rglob("*")
    return {p: p.stat().st_mtime_ns for p in paths if p.is_file() and not p.name.startswith(".")}


def refuse(*_, **__):
    raise AssertionError("this was made before, and is made again")


def test_what_there_is_to_make_has_names_the_telling_ones_first(audit):
    assert audit.names == [
        *("no-mask", "mask", "no-mask-deep", "no-mask-batch"),
        *("no-mask-window-4", "no-mask-window-16"),
        *("unshifted", "padding", "split-after-windowing", "scaled-norm", "no-mask-seed-2"),
        *("honest-seed-1", "honest-seed-2"),
        *("grid-revised-seed-1", "grid-longer-seed-1"),
        *("grid-revised-seed-2", "grid-longer-seed-2", "grid-first-seed-1"),
    ]
    assert audit.grid_runs["grid-longer-seed-2"] == ("longer", 2)


def test_the_seeds_after_the_first_train_a_grids_corners(start, monkeypatch):
    space = SearchSpace((4e-3, 2e-3), (1, 2, 3), (2, 4), (16,))
    monkeypatch.setitem(PROFILES, "quick", replace(TINY, revised_grid=space))
    audit = start("corners")
    points = {seed: [t.point for t in audit.grid_trials("revised", seed)] for seed in (1, 2)}
    assert points[1] == list(space.points())
    assert points[2] == [point for point in points[1] if point["n_layer"] != 2]
    longer = [t.point for t in audit.grid_trials("longer", 2)]
    assert longer == [{"learning_rate": 4e-3, "n_layer": 3, "n_head": 4, "n_embd": 16}]


def test_honest_runs_are_the_papers_best_shape_with_nothing_wrong(audit):
    for seed, run in zip((1, 2), audit.honest_runs.values(), strict=True):
        assert run.name == f"honest-seed-{seed}"
        assert run.data == audit.experiment.data
        assert run.train == replace(TINY.audit.honest, seed=seed)
        assert run.model == replace(
            TINY.model, vocab_size=300, block_size=64, n_layer=2, n_head=4, n_embd=16
        )
        assert run.model.causal


def test_runs_are_made_by_the_beginning_of_their_names_and_only_once(start, monkeypatch):
    audit = start("some")
    audit.make(["no-mask"])
    assert {path.name for path in audit.experiment.runs.iterdir()} == {
        audit.run_folder(name).name for name in NO_MASK
    }
    before = files(audit)
    assert {path.name for path in before} >= {"record.json", "measures.json", "best.safetensors"}
    monkeypatch.setattr(Trainer, "_optimiser_step", refuse)
    monkeypatch.setattr(runs, "predicted", refuse)
    again = start("some")
    again.make(["no-mask"])
    assert files(again) == before


def test_a_run_of_another_configuration_is_another_run(start, monkeypatch):
    before = {name: start().run_folder(name) for name in ("mask", "unshifted")}
    longer = replace(LEAK, epochs=3)
    longer = replace(TINY, audit=replace(TINY.audit, train=longer, again=longer))
    monkeypatch.setitem(PROFILES, "quick", longer)
    assert start().run_folder("mask") != before["mask"]
    assert start().run_folder("unshifted") == before["unshifted"], "which is one of the short ones"


@pytest.mark.parametrize("only", [["nothing"], ["ask"], ["nothing", "else"]])
def test_names_that_no_run_starts_with_are_refused(start, only, one_sentence):
    audit = start("none")
    with pytest.raises(LLMLiteError, match="No run of the audit starts with") as error:
        audit.make(only)
    message = one_sentence(error)
    assert ", ".join(only) in message
    assert all(name in message for name in audit.names)
    assert not audit.experiment.out.exists()


# -- records --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "leaks"), [("no-mask", True), ("mask", False), ("unshifted", False)]
)
def test_a_record_holds_the_run_and_what_was_measured_of_it(made, name, leaks):
    record, run = made.record(name), made.leak_runs[name]
    assert record["status"] == "finished"
    assert record["identity"]["model"] == asdict(run.model)
    assert record["identity"]["train"] == asdict(run.train)
    assert [epoch["epoch"] for epoch in record["epochs"]] == [1, 2]
    assert record["skipped"] == 0
    measured = record["measures"]
    assert measured["leaks"] is leaks
    losses = measured["loss_by_position"]
    assert len(losses) == 8
    best = min(epoch["valid_loss"] for epoch in record["epochs"])
    assert np.mean(losses) == pytest.approx(best, rel=1e-4)  # on the windows that it was chosen by
    counts, ids = made.experiment.corpus.counts("test"), made.experiment.ids["test"]
    assert measured["tokens_per_word"] == len(ids) / (counts.words + counts.line_ends)
    assert measured["true"]["windows"] == 50
    assert (max(measured["attention"]["next"]) > 0) is leaks


def test_mistakes_are_in_the_records(made):
    def said(name):
        return {"padding", "targets", "split"} & made.record(name)["identity"].keys()

    assert said("mask") == said("no-mask") == set()
    assert said("padding") == {"padding"}
    assert said("unshifted") == {"targets"}
    assert said("split-after-windowing") == {"split"}


def test_the_test_loss_is_over_windows_with_the_runs_mistake(made):
    for name in ("mask", "unshifted", "padding"):
        windows = made.windows(made.leak_runs[name])["test"]
        inputs, targets = windows[torch.arange(len(windows))]
        assert (inputs.equal(targets)) is (name == "unshifted")
        with torch.inference_mode():
            expected = made.model(name)(inputs, targets).loss.item()
        assert made.record(name)["measures"]["test_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_norm_of_the_scaled_run_has_the_scale_in_it(made):
    scaled, plain = made.record("scaled-norm"), made.record("no-mask")
    assert scaled["amp"] == "float16"
    assert scaled["epochs"][-1]["grad_norm"] > 1_000 * plain["epochs"][-1]["grad_norm"]
    steps = pd.read_json(made.run_folder("scaled-norm") / "steps.jsonl", lines=True)
    assert scaled["skipped"] == steps.grad_norm.isna().sum()


def test_skipped_steps_are_counted(made, monkeypatch):
    record = {"epochs": [{"skipped": 2}, {"skipped": 0}, {"skipped": 1}]}
    monkeypatch.setattr(made, "train", lambda name: record)
    assert made.record("mask")["skipped"] == 3


def test_a_text_is_shared_by_runs_that_differ_in_their_mistakes_alone(audit):
    text = {name: audit.text(run.data) for name, run in audit.leak_runs.items()}
    assert audit.text(audit.experiment.data) is audit.experiment
    assert text["mask"] is text["unshifted"] is text["split-after-windowing"]
    assert text["padding"] is not text["mask"]
    for name, run in audit.leak_runs.items():
        data = text[name].data
        assert (data.block_size, data.source) == (run.data.block_size, audit.experiment.data.source)
        assert (data.shift, data.padding, data.split) == (1, False, "official")


def test_steps_are_counted_on_all_three_splits(audit, text):
    whole = "".join((text / f"wiki.{split}.raw").read_text("utf-8") for split in SPLITS)
    words = len(whole.split()) + whole.count("\n")
    lines = sum(bool(line.strip()) for line in whole.split("\n"))
    assert audit.steps.index.tolist() == [300, 320]
    assert audit.steps.index.name == "vocabulary"
    tokens = sum(len(ids) for ids in audit.experiment.ids.values()) / words
    expected = {"tokens per word": tokens, **steps_by_layout(tokens, lines / words)}
    assert audit.steps.loc[300].to_dict() == pytest.approx(expected)
    assert audit.steps.loc[320, "stride 1"] < audit.steps.loc[300, "stride 1"]


# -- measures -------------------------------------------------------------------------------------

SMALL = ModelConfig(vocab_size=61, block_size=6, n_layer=1, n_head=2, n_embd=16)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("limit", "scored"), [(7, 7), (1_000, 44)])
@torch.inference_mode()
def test_the_last_position_is_what_a_plain_loop_finds(make_model, make_ids, causal, limit, scored):
    model, ids = make_model(replace(SMALL, causal=causal)), make_ids(50)
    starts = sorted({int(i * 43 / (limit - 1)) for i in range(limit)})
    assert len(starts) == scored
    losses = []
    for start in starts:
        logits = model(ids[None, start : start + 6]).logits[0, -1].double()
        losses.append((logits.logsumexp(0) - logits[ids[start + 6]]).item())
    found = measures.last_position(model, ids, limit)
    assert found["windows"] == scored
    assert found["nats"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert found["error"] == pytest.approx(np.std(losses, ddof=1) / scored**0.5, rel=1e-5)


@pytest.mark.parametrize("causal", [True, False])
@torch.inference_mode()
def test_the_greedy_text_is_the_likeliest_token_of_the_window_again_and_again(
    audit, make_model, causal
):
    text = audit.experiment
    model = make_model(replace(SMALL, vocab_size=300, block_size=16, causal=causal))
    prompt = text.tokenizer.encode(" \n The cat sat on")
    ids = list(prompt)
    for _ in range(24):
        ids.append(model(torch.tensor([ids[-16:]])).logits[0, -1].argmax().item())
    new = ids[len(prompt) :]
    assert text.tokenizer.eot_id not in new
    found = measures.greedy(model, text.tokenizer)
    assert found["text"] == "The cat sat on" + text.tokenizer.decode(new)
    again = text.tokenizer.encode(text.tokenizer.decode(new))
    repeated = [token in again[max(0, i - 8) : i] for i, token in enumerate(again)]
    assert found["repetition"] == pytest.approx(np.mean(repeated))


@torch.inference_mode()
def test_the_first_layers_weights_equal_a_plain_loop(audit, make_model):
    text = audit.text(audit.leak_runs["no-mask"].data)
    model = make_model(replace(SMALL, vocab_size=300, block_size=8, n_layer=2, causal=False))
    found = measures.first_layer(model, text.dataset, 5)
    sentences = [
        torch.tensor(text.tokenizer.encode(sentence)[:8]) for sentence in text.dataset.sentences(5)
    ]
    assert len(sentences) == 5
    sums, positions = {"self": 0.0, "previous": 0.0, "next": 0.0}, 0
    for ids in sentences:
        weights = model(ids[None], return_attention=True).attention[0][0]  # (head, query, key)
        for i in range(len(ids)):
            for name, j in (("self", i), ("previous", i - 1), ("next", i + 1)):
                if 0 <= j < len(ids):
                    sums[name] = sums[name] + weights[:, i, j].double()
        positions += len(ids)
    for name, total in sums.items():
        assert found[name] == pytest.approx((total / positions).tolist(), rel=1e-5)
    ids = text.tokenizer.encode(measures.SENTENCE)[:8]
    assert found["tokens"] == [text.tokenizer.decode([i]) for i in ids]
    weights = model(torch.tensor([ids]), return_attention=True).attention[0][0]
    np.testing.assert_allclose(found["map"], weights, atol=6e-5)


RULES = ("side by side", "sliding by half a window", "lm-evaluation-harness")


def test_scores_are_of_the_whole_test_split_by_each_rule(made):
    scores, experiment = made.scores("honest-seed-1"), made.experiment
    assert tuple(scores) == RULES
    model, ids = made.model("honest-seed-1"), experiment.ids["test"]
    counts = experiment.corpus.counts("test")
    for rule, stride in (("side by side", None), ("sliding by half a window", 32)):
        expected = evaluate(model, ids, counts, stride=stride)
        assert len(scores[rule]) == ARTICLES["test"]
        for unit in measures.UNITS:
            found = getattr(measures.together(scores[rule]), unit)
            assert found == pytest.approx(getattr(expected, unit))
        assert {article["context"] for article in scores[rule]} == {expected.context}
    assert len(scores["lm-evaluation-harness"]) == ARTICLES["test"]


def score(nats: float, tokens: int, words: int, n_bytes: int) -> dict:
    return asdict(Score(nats, tokens, words, n_bytes, "a window"))


SEEDS = [
    {"one rule": [score(10, 5, 2, 20), score(20, 5, 3, 30)]},
    {"one rule": [score(10, 5, 2, 20), score(30, 5, 3, 30)]},
]


def test_a_value_is_of_all_articles_together():
    score = measures.together(SEEDS[0]["one rule"])
    assert score.loss == pytest.approx(30 / 10)
    assert score.word_perplexity == pytest.approx(np.exp(30 / 5))
    assert score.bits_per_byte == pytest.approx(30 / 50 / np.log(2))


def test_over_seeds_is_students_interval_of_the_values():
    interval = measures.over(SEEDS, "one rule", "loss")
    assert interval.value == pytest.approx(3.5)  # of 3 and 4
    assert interval.high - 3.5 == pytest.approx(12.7062 * 0.5, rel=1e-5)  # t of one degree
    assert interval.of == "2 seeds"


def test_the_table_of_scores_has_both_kinds_of_interval():
    table = measures.score_table(SEEDS)
    assert table.index.tolist() == [("one rule", "articles"), ("one rule", "seeds")]
    assert table.columns.tolist() == [*measures.UNITS, "context"]
    assert table.loc[("one rule", "articles"), "loss"] == "3 [2, 4]"
    assert table.loc[("one rule", "seeds"), "loss"] == "3.5 [-2.853, 9.853]"
    assert set(table.context) == {"a window"}
    assert measures.score_table(SEEDS[:1]).index.tolist() == [("one rule", "articles")]


def test_a_text_that_is_read_as_a_stream_has_no_articles_to_score(start, one_sentence):
    experiment = start("stream", stream=True).experiment
    with pytest.raises(LLMLiteError, match="read as a stream") as error:
        measures.comparable(None, experiment.dataset)
    one_sentence(error)


def test_scores_and_studies_are_kept_on_disk(made, start, monkeypatch):
    folder = made.run_folder("honest-seed-2")
    assert {f"{what}.json" for what in ("scores", *STUDIES)} < {p.name for p in folder.iterdir()}
    for study in STUDIES:
        monkeypatch.setitem(STUDIES, study, refuse)
    monkeypatch.setattr(runs, "comparable", refuse)
    monkeypatch.setattr(Trainer, "_optimiser_step", refuse)
    again = start()
    assert again.scores("honest-seed-2") == json.loads((folder / "scores.json").read_text())
    for study in STUDIES:
        found = again.study(study, "honest-seed-2")
        assert found == json.loads((folder / f"{study}.json").read_text())
        assert found["measures"]
    assert made.study("attention", "honest-seed-1") != made.study("attention", "honest-seed-2")


# -- grids and commands ---------------------------------------------------------------------------


def test_a_grid_has_a_row_an_epoch_of_every_configuration_and_seed(made):
    table = made.grids("revised")
    configurations = sorted(tuple(point.values()) for point in TINY.revised_grid.points())
    expected = [(*c, seed, epoch) for seed in (1, 2) for c in configurations for epoch in (1, 2)]
    columns = ["learning_rate", "n_layer", "n_head", "n_embd", "seed", "epoch"]
    assert sorted(map(tuple, table[columns].to_numpy().tolist())) == sorted(expected)
    seeds = table[table.epoch == 2].groupby("seed").valid_loss
    assert set(seeds.get_group(1)) & set(seeds.get_group(2)) == set()
    assert len(made.grids("first")) == 2 * 4, "one seed"


def test_the_longer_run_is_the_grids_corner_for_twice_as_many_epochs(made):
    table = made.grids("longer")
    assert table.epoch.tolist() == [1, 2, 3, 4] * 2
    corner = table[["learning_rate", "n_layer", "n_head", "n_embd"]].drop_duplicates()
    assert corner.to_numpy().tolist() == [[4e-3, 2, 4, 16]]
    assert table.groupby("seed").lr.last().tolist() == [0, 0]  # one schedule, not two


def test_a_command_is_one_that_the_parser_takes(made, text):
    parser = build_parser()
    for name in made.names:
        program, *arguments = shlex.split(made.command(name))
        parsed = parser.parse_args(arguments)
        assert (program, parsed.command, parsed.only) == ("llmlite", "audit", [name])
        assert (parsed.profile, parsed.device) == ("quick", "cpu")
        assert (parsed.data, parsed.out) == (str(text), str(made.experiment.out))
        assert not parsed.list
    assert made.train("mask")["command"] == made.command("mask")


def test_a_command_is_one_that_the_parser_takes_with_other_data_too(start):
    command = start("other", vocab_size=310).command("mask")
    if command is not None:
        try:
            build_parser().parse_args(shlex.split(command)[1:])
        except SystemExit:
            pytest.fail(f"{command} is refused")


# -- all of it ------------------------------------------------------------------------------------


def test_the_evidence_is_what_the_records_say(made, gathered):
    assert gathered.leak == {name: made.record(name) for name in made.leak_runs}
    for test, name in zip(gathered.tests, made.honest_runs, strict=True):
        articles = made.scores(name)["side by side"]
        nats, tokens = (sum(article[f] for article in articles) for f in ("nats", "tokens"))
        assert test == pytest.approx(nats / tokens)
    steps = [made.train(name)["epochs"][-1]["step"] for name in made.honest_runs]
    assert [len(log) for log in gathered.norms] == steps
    assert sorted(gathered.studies) == sorted(STUDIES)
    for study, seeds in gathered.studies.items():
        assert seeds == [made.study(study, name) for name in made.honest_runs]
    for grid in ("first", "revised", "longer"):
        pd.testing.assert_frame_equal(getattr(gathered, grid), made.grids(grid))


def test_the_scorecard_and_its_records_are_written(made, gathered):
    rows = scorecard.scorecard(gathered)
    assert [row.number for row in rows] == list(range(1, 17))
    assert {row.verdict for row in rows} <= set(VERDICTS)
    folder = scorecard.save(made, gathered, rows)
    assert folder == made.experiment.out / "figures"
    assert {p.name for p in folder.iterdir()} == {
        "scorecard.md",
        "scorecard-short.md",
        "audit.json",
    }

    long, short = ((folder / f"scorecard{end}.md").read_text("utf-8") for end in ("", "-short"))
    for page, bars in ((long, 8), (short, 4)):
        table = [line for line in page.splitlines() if line.startswith("|")]
        assert [line.count("|") for line in table] == [bars] * 18
        assert "profile quick, own text" in page
    assert f"**{claims.headline(gathered)}**" in short

    def not_json(constant):
        raise AssertionError(f"{constant} is not JSON")

    written = json.loads((folder / "audit.json").read_text("utf-8"), parse_constant=not_json)
    assert written["profile"] == "quick"
    assert written["scorecard"] == [asdict(row) for row in rows]
    assert sorted(written["runs"]) == sorted(made.names)
    for name, run in written["runs"].items():
        assert run["command"] == made.shown_command(name)
        assert str(made.experiment.out) not in json.dumps(run)  # nothing of this machine
        assert run["epochs"]
        assert run["environment"]["commit"]
    assert written["runs"]["no-mask"]["measures"] == made.record("no-mask")["measures"]
    honest = written["runs"]["honest-seed-1"]
    assert tuple(honest["scores"]) == RULES
    assert honest["scores"]["side by side"]["tokens"] == len(made.experiment.ids["test"]) - 1
    assert honest["studies"]["coherence"].keys() == gathered.studies["coherence"][0].keys() - {
        "rows"
    }
    epochs = written["runs"]["grid-longer-seed-2"]["epochs"]
    assert [(epoch["seed"], epoch["epoch"]) for epoch in epochs] == [(2, n) for n in (1, 2, 3, 4)]
