import json
import re
import shlex
from dataclasses import asdict, replace
from threading import Thread
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from filelock import FileLock
from llmlite.checkpoint import commit, read_record
from llmlite.search import AXES
from matplotlib.figure import Figure
from matplotlib.image import imread

from llmlite import experiment as module
from llmlite.cli import build_parser
from llmlite.cli.options import experiment_of
from llmlite.config import SearchSpace, TrainConfig
from llmlite.errors import LLMLiteError
from llmlite.experiment import Experiment
from llmlite.files import hold, write_json
from llmlite.metrics import evaluate, total_loss
from llmlite.parallel import local_device
from llmlite.pretrained import load_pretrained
from llmlite.profiles import PROFILES
from llmlite.train import Trainer

TRAIN = TrainConfig(epochs=1, batch_size=16, learning_rate=1e-2, amp="off")


def text_of(articles, word="river"):
    """Articles in WikiText's form."""
    parts = []
    for number in range(articles):
        lines = [
            "", f"= Place {number} =", "", f"Place {number} lies on the {word} {number} .", "",
            "= = History = =", "", f"It was founded in {1800 + number} by a {word} @-@ side .",
        ]  # fmt: skip
        parts.append("".join(f" {line} \n" if line else " \n" for line in lines) + " \n")
    return "".join(parts)


def write_corpus(folder, word="river"):
    folder.mkdir(exist_ok=True)
    for split, articles in (("train", 40), ("valid", 6), ("test", 5)):
        (folder / f"wiki.{split}.raw").write_text(text_of(articles, word), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def tiny_profile(monkeypatch):
    """Profile "quick" with next to nothing to train."""
    profile = replace(
        PROFILES["quick"],
        first_grid=SearchSpace((1e-2,), (1,), (1,), (8, 16)),
        revised_grid=SearchSpace((1e-2, 1e-4), (1,), (2,), (8,)),
        first_search=replace(TRAIN, schedule="fixed"),
        revised_search=TRAIN,
        retrain=replace(TRAIN, epochs=2, learning_rate=1.0),
        retrain_configuration=None,
    )
    monkeypatch.setitem(PROFILES, "quick", profile)


@pytest.fixture
def work(monkeypatch):
    """How often each costly stage was really done."""
    done = {"tokenizer": 0, "encode": 0, "steps": 0}
    tokenizer = module.BPETokenizer
    train, encode = tokenizer.train, tokenizer.encode_batch_to_arrays
    step = Trainer._optimiser_step

    def counted(name, call):
        def wrapper(*args, **kwargs):
            done[name] += 1
            return call(*args, **kwargs)

        return wrapper

    monkeypatch.setattr(tokenizer, "train", staticmethod(counted("tokenizer", train)))
    monkeypatch.setattr(tokenizer, "encode_batch_to_arrays", counted("encode", encode))
    monkeypatch.setattr(Trainer, "_optimiser_step", counted("steps", step))
    return done


@pytest.fixture
def start(tmp_path):
    write_corpus(tmp_path / "text")

    def start(**settings):
        settings = {"vocab_size": 300, "block_size": 16, "progress": False, **settings}
        return Experiment("quick", str(tmp_path / "text"), tmp_path / "out", "cpu", **settings)

    return start


def test_each_stage_is_made_when_it_is_asked_for_and_only_once(start, work):
    experiment = start()
    assert not experiment.out.exists()
    score = experiment.test_score()
    assert score.tokens == len(experiment.ids["test"]) - 1
    assert score.words == len(text_of(5).split()) + text_of(5).count("\n")
    assert 1 < score.perplexity < 300
    assert work["tokenizer"] == 1
    assert work["encode"] == 3, "once a split"
    before = dict(work)
    experiment.test_score()
    experiment.retrain()
    experiment.search("revised")
    assert work == before


def test_a_second_experiment_in_the_folder_uses_what_is_there(start, work):
    first = start()
    first.test_score()
    work.update(dict.fromkeys(work, 0))
    second = start()
    assert second.test_score() == first.test_score()
    assert second.best_configuration == first.best_configuration
    assert second.run_folder == first.run_folder
    assert work == {"tokenizer": 0, "encode": 0, "steps": 0}


def test_another_text_is_never_answered_from_the_old_files(start, tmp_path, work):
    first = start()
    first.retrain()
    old = {path: path.read_bytes() for path in tmp_path.glob("out/**/*") if path.is_file()}
    work.update(dict.fromkeys(work, 0))
    write_corpus(tmp_path / "text", word="mountain")
    second = start()
    record = second.retrain()
    assert min(work.values()) > 0
    assert second.tokenizer.fingerprint != first.tokenizer.fingerprint
    assert second.tokenizer.decode(second.ids["valid"].tolist()).count("mountain") == 12
    assert second.run_folder != first.run_folder
    assert record["identity"]["data_fingerprint"] == second.corpus.fingerprint
    folders = {path.parent.resolve() for path in old}
    assert folders.isdisjoint(
        (second.search_folder("revised") / run).resolve() for run in second.search().run
    )
    changed = [path.name for path, content in old.items() if path.read_bytes() != content]
    assert changed == ["results.csv"]


@pytest.mark.parametrize("change", [{"vocab_size": 280}, {"block_size": 8}, {"stride": 4}])
def test_another_setting_is_another_run(start, work, change):
    first, second = start(), start(**change)
    first.retrain()
    work["steps"] = 0
    second.retrain()
    assert work["steps"] > 0
    assert second.run_folder != first.run_folder


def test_the_best_configuration_of_the_revised_grid_is_trained(start):
    experiment = start()
    table = experiment.search("revised")
    best = experiment.best_configuration
    lowest = min(table.to_dict("records"), key=lambda row: row["perplexity"])
    assert best == {axis: lowest[axis] for axis in AXES}
    assert [type(best[axis]) for axis in AXES] == [float, int, int, int]
    identity = experiment.retrain()["identity"]
    assert identity["train"]["learning_rate"] == best["learning_rate"] != 1.0
    assert identity["train"]["epochs"] == 2
    assert identity["model"]["n_head"] == 2
    assert identity["model"]["vocab_size"] == 300
    assert identity["model"]["block_size"] == 16
    assert identity["tokenizer_fingerprint"] == experiment.tokenizer.fingerprint
    assert read_record(experiment.run_folder)["status"] == "finished"


def test_a_value_that_is_given_takes_the_place_of_the_searchs_best(start):
    experiment = start(configuration={"n_layer": 3}, training={"epochs": 1, "seed": 5})
    best = experiment.best_configuration
    assert experiment.configuration == {**best, "n_layer": 3}
    identity = experiment.retrain()["identity"]
    assert (identity["model"]["n_layer"], identity["model"]["n_head"]) == (3, 2)
    assert identity["train"]["learning_rate"] == best["learning_rate"]
    assert (identity["train"]["epochs"], identity["train"]["seed"]) == (1, 5)


def test_nothing_is_searched_for_where_the_configuration_is_given(start, monkeypatch):
    given = {"learning_rate": 0.003, "n_layer": 1, "n_head": 1, "n_embd": 8}
    profile = replace(PROFILES["quick"], retrain_configuration={**given, "n_head": 4})
    monkeypatch.setitem(PROFILES, "quick", profile)
    assert start().configuration == {**given, "n_head": 4}
    experiment = start(configuration={"n_head": 1})
    identity = experiment.retrain()["identity"]
    assert {**identity["model"], **identity["train"]}.items() >= given.items()
    assert not (experiment.out / "search").exists()


def test_the_test_score_is_kept_beside_the_model_and_read_from_there(start):
    experiment = start()
    score = experiment.test_score()
    kept = json.loads((experiment.run_folder / "test_score.json").read_text("utf-8"))
    assert kept.items() > asdict(score).items()
    assert kept["environment"]["commit"] == commit()
    (experiment.run_folder / "best.safetensors").unlink()
    assert start().test_score() == score


def test_a_run_that_two_want_is_one(start, monkeypatch):
    """The retraining, where it is what the search trained."""
    monkeypatch.setitem(PROFILES, "quick", replace(PROFILES["quick"], retrain=TRAIN))
    experiment = start()
    experiment.test_score()
    runs = {experiment.search_folder("revised") / run for run in experiment.search().run}
    assert experiment.run_folder in {run.resolve() for run in runs}
    assert len(list(experiment.runs.iterdir())) == len(runs) == 2


def test_the_model_is_the_one_of_the_best_epoch(start):
    experiment = start()
    record = experiment.retrain()
    assert not experiment.model.training
    nats, tokens = total_loss(experiment.model, experiment.ids["valid"])
    assert nats / tokens == pytest.approx(record["best"]["valid_loss"], abs=1e-5)


def test_each_grid_has_a_folder_of_its_own(start):
    experiment = start()
    assert experiment.search("first").n_embd.tolist() == [8, 16]
    assert experiment.search("revised").learning_rate.tolist() == [1e-2, 1e-4]
    assert (experiment.out / "search" / "first" / "results.csv").exists()
    assert (experiment.out / "search" / "revised" / "results.csv").exists()
    first = experiment.search_folder("first") / experiment.search("first").run[0]
    assert read_record(first)["identity"]["train"]["schedule"] == "fixed"


def test_the_best_of_a_grid_is_read_from_its_records_what_failed_aside(start, work):
    experiment = start()
    assert experiment.searched_best() is None
    table = experiment.search()
    best, steps = table.perplexity.idxmin(), work["steps"]
    for failed, left in ((1 - best, best), (best, 1 - best)):
        record = read_record(experiment.search_folder("revised") / table.run[failed])
        path = experiment.search_folder("revised") / table.run[failed] / "record.json"
        path.write_text(json.dumps(record | {"status": "failed"}), encoding="utf-8")
        with hold(experiment.search_folder("revised")):
            expected = {axis: table[axis][left] for axis in AXES}
            assert start().best_configuration == start().searched_best() == expected
        path.write_text(json.dumps(record | {"status": "running"}), encoding="utf-8")
        assert start().searched_best() is None
        path.write_text(json.dumps(record), encoding="utf-8")
    assert work["steps"] == steps, "nothing was trained for it"


def test_the_split_table_counts(start):
    experiment = start()
    table = experiment.split_table()
    assert table.index.tolist() == ["train", "valid", "test"]
    assert table.articles.tolist() == [40, 6, 5]
    assert table.words.tolist() == [len(text_of(n).split()) for n in (40, 6, 5)]
    assert table.bytes.tolist() == [len(text_of(n).encode()) for n in (40, 6, 5)]
    assert table.tokens["test"] == len(experiment.ids["test"])


def test_the_first_line_names_profile_data_device_and_commit(start):
    parts = str(start()).split(" · ")
    assert parts[0] == "profile quick"
    assert parts[1] == "data own text in text (folder)"
    assert re.fullmatch(r"device CPU \(.+ 1 thread\)", parts[2])
    assert parts[3] == f"commit {commit()}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"profile": "huge"}, "There is no profile 'huge'; choose auto, quick, small, full"),
        ({"device": "tpu"}, "There is no device 'tpu' here"),
        ({"split": "random"}, "split is 'random'; allowed: official, paper"),
        ({"stride": 1000}, "stride is 1000"),
    ],
)
def test_what_there_is_not_is_said_in_a_sentence(tmp_path, settings, message):
    with pytest.raises(LLMLiteError, match=re.escape(message)):
        Experiment(out=tmp_path, **settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_a_gpu_is_refused(tmp_path):
    with pytest.raises(LLMLiteError, match="There is no device 'cuda' here"):
        Experiment(out=tmp_path, device="cuda")


def test_an_unknown_grid_is_refused_before_anything_is_made(start):
    experiment = start()
    with pytest.raises(LLMLiteError, match="There is no grid 'third'; choose first or revised"):
        experiment.search("third")
    assert not experiment.out.exists()


def test_auto_goes_by_the_memory_of_the_device(tmp_path, monkeypatch):
    monkeypatch.setattr("llmlite.experiment.local_device", local_device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Experiment(out=tmp_path).profile.name == "quick"
    assert Experiment(out=tmp_path).device == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for memory, name in ((16e9, "small"), (40e9, "full")):
        properties = SimpleNamespace(total_memory=memory)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, p=properties: p)
        assert Experiment(out=tmp_path).profile.name == name
    assert Experiment(out=tmp_path).device == "cuda"
    assert Experiment(out=tmp_path, device="cpu").profile.name == "quick"


def typed(command):
    """The experiment that the command line makes of a command."""
    words = shlex.split(command)
    assert words.pop(0) == "llmlite"
    arguments = build_parser().parse_args(words)
    return arguments, experiment_of(arguments)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"split": "paper", "stride": 4, "vocab_size": 290, "name": "wikitext-2-v1"},
        {"configuration": {"learning_rate": 0.1 + 0.2, "n_layer": 2, "n_head": 1, "n_embd": 12}},
        {"training": {"epochs": 3, "batch_size": 5, "accumulation": 2, "amp": "bf16", "seed": 0}},
        {"training": {"fast": False}, "tensorboard": True},
    ],
)
def test_the_command_makes_the_same_experiment(start, settings, tmp_path, monkeypatch):
    experiment = start(**settings)
    monkeypatch.chdir(tmp_path.parent)
    for name in ("train", "search --grid first"):
        arguments, same = typed(experiment.command(name))
        assert arguments.command == name.split()[0]
        assert name == "train" or arguments.grid == "first"
        assert same.profile == experiment.profile
        assert same.data == experiment.data
        assert same.out == experiment.out
        assert same.device == experiment.device
        assert same.model_config() == experiment.model_config()
        assert same.about == experiment.about
        if name == "train":
            assert same.configuration == experiment.configuration
            assert same.training == experiment.training
            assert same.tensorboard == experiment.tensorboard
            assert same.run_folder == experiment.run_folder


def test_the_command_means_the_same_in_any_folder(tmp_path, monkeypatch, capsys):
    write_corpus(tmp_path / "my text")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMLITE_DATA", "my text")
    command = Experiment("quick", "auto", "o'ut", vocab_size=300, progress=False).command("train")
    monkeypatch.delenv("LLMLITE_DATA")
    monkeypatch.chdir("/")
    _, same = typed(command)
    assert same.data.source == str(tmp_path / "my text")
    assert same.out == tmp_path / "o'ut"
    assert "my text" in capsys.readouterr().out
    assert "--device" not in command


@pytest.mark.parametrize(
    ("settings", "search_too"),
    [
        ({"training": {"schedule": "fixed"}}, False),
        ({"training": {"train_tokens": 500}}, False),
        ({"configuration": {"dropout": 0.5}}, False),
        ({"name": "wikitext-1000"}, True),
    ],
)
def test_what_the_command_line_cannot_express_has_no_command(start, settings, search_too):
    experiment = start(**settings)
    assert experiment.command("train") is None
    assert (experiment.command("search --grid first") is None) == search_too


def test_a_window_for_every_token_block_cannot_be_typed_where_the_profile_has_a_stride(start):
    assert Experiment("full", "sample", stride=None).command("train") is None
    assert "--stride" not in Experiment("full", "sample", stride=64).command("train")
    assert "--stride 32" in Experiment("full", "sample", stride=32).command("train")


def test_what_is_as_in_the_profile_is_not_said_again(start):
    same = start(training={"fast": True, "epochs": 2, "schedule": "cosine"})
    assert same.command("train") == start().command("train")


def test_the_records_hold_the_command_that_carries_each_run_on(start):
    experiment = start()
    experiment.retrain()
    assert read_record(experiment.run_folder)["command"] == experiment.command("train")
    table, folder = experiment.search("revised"), experiment.search_folder("revised")
    for run in table.run:
        assert read_record(folder / run)["command"] == experiment.command("search --grid revised")


# -- the audit's mistakes -------------------------------------------------------------------------

GIVEN = {"learning_rate": 1e-2, "n_layer": 1, "n_head": 1, "n_embd": 8}


def inputs_and_targets(windows):
    return windows[torch.arange(len(windows))]


def test_padded_lines_are_trained_on_and_the_record_says_so(start):
    experiment = start(padding=True, configuration=GIVEN)
    record = experiment.retrain()
    assert record["identity"]["padding"] == "counted in the loss"
    assert not {"targets", "split"} & record["identity"].keys()
    assert record["tokens_per_epoch"] == 40 * 4 * 16  # an article has four lines with words
    trainer, tokenizer = experiment.trainer, experiment.tokenizer
    for windows, articles in ((trainer.windows, 40), (trainer.valid_windows, 6)):
        lines = [line for line in text_of(articles).splitlines(keepends=True) if line.strip()]
        inputs, targets = inputs_and_targets(windows)
        for line, x, y in zip(lines, inputs.tolist(), targets.tolist(), strict=True):
            ids = (tokenizer.encode(line) + [tokenizer.eot_id] * 16)[:17]
            assert (x, y) == (ids[:-1], ids[1:])
    assert (inputs == tokenizer.eot_id).any()
    assert record["best"]["valid_loss"] == pytest.approx(
        experiment.model(inputs, targets).loss.item(), abs=1e-5
    )


def test_targets_that_are_the_inputs_are_trained_on_and_the_record_says_so(start):
    usual, experiment = (start(shift=shift, configuration=GIVEN) for shift in (1, 0))
    identity = experiment.retrain()["identity"]
    assert identity["targets"] == "the inputs themselves"
    assert not {"padding", "split"} & identity.keys()
    for windows in (experiment.trainer.windows, experiment.trainer.valid_windows):
        inputs, targets = inputs_and_targets(windows)
        assert torch.equal(inputs, targets)
    assert usual.run_folder != experiment.run_folder
    assert not {"targets", "padding", "split"} & usual.retrain()["identity"].keys()
    assert usual.trainer.valid_windows is None


def test_a_split_after_windowing_is_trained_on_and_the_record_says_so(start):
    training = {"train_tokens": 800, "valid_tokens": 80}
    experiment = start(split="windows", configuration=GIVEN, training=training)
    record = experiment.retrain()
    assert record["identity"]["split"] == "after windowing"
    tokens = sum(min(len(ids), 800) for ids in experiment.ids.values())
    assert record["tokens_per_epoch"] == (tokens - 1) // 16 * 8 // 10 * 16
    assert len(experiment.trainer.valid_windows) == 80 // 16


@pytest.mark.parametrize("change", [{"padding": True}, {"shift": 0}, {"split": "windows"}])
@pytest.mark.parametrize("grid", ["first", "revised"])
def test_a_grid_is_not_searched_with_a_mistake(start, change, grid, one_sentence):
    experiment = start(**change)
    with pytest.raises(LLMLiteError, match="A grid is searched without mistakes") as error:
        experiment.search(grid)
    name = {"shift": "targets"}.get(*change, *change)
    assert f"({name})" in one_sentence(error)
    assert not experiment.out.exists()


@pytest.mark.parametrize("change", [{"padding": True}, {"shift": 0}, {"split": "windows"}])
def test_a_mistake_cannot_be_typed(start, change):
    assert start(**change, configuration=GIVEN).command("train") is None


def test_a_figure_is_saved_with_its_caption(start):
    experiment, figure = start(), Figure(figsize=(2, 1))
    assert experiment.save_figure(figure, "b-loss", "The loss.") is figure
    experiment.save_figure(figure, "a-rate", "The rate.")
    experiment.save_figure(figure, "b-loss", "The loss again.")
    folder = experiment.out / "figures"
    assert (folder / "b-loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    captions = json.loads((folder / "captions.json").read_text("utf-8"))
    assert list(captions) == ["a-rate", "b-loss"]
    assert captions["b-loss"].startswith("The loss again. Profile quick, own text in text, CPU")
    assert {path.name for path in folder.iterdir()} == {
        "a-rate.png", "a-rate.svg", "b-loss.png", "b-loss.svg", "captions.json"
    }  # fmt: skip
    drawn = (folder / "a-rate.svg").read_bytes()
    assert b"<svg" in drawn
    experiment.save_figure(figure, "a-rate", "The rate.")
    assert (folder / "a-rate.svg").read_bytes() == drawn, "the same figure, the same bytes"


def test_captions_of_two_notebooks_do_not_meet(start):
    experiment, figure = start(), Figure(figsize=(2, 1))
    experiment.save_figure(figure, "first", "One.")
    captions = experiment.out / "figures" / "captions.json"
    with FileLock(experiment.out / ".captions.lock"):  # as another notebook has it
        writer = Thread(target=experiment.save_figure, args=(figure, "second", "Two."))
        writer.start()
        writer.join(1)
        assert list(json.loads(captions.read_text("utf-8"))) == ["first"]
    writer.join()
    assert list(json.loads(captions.read_text("utf-8"))) == ["first", "second"]


def test_a_figure_has_at_least_150_dots_an_inch(start):
    experiment, figure = start(), Figure(figsize=(4, 2))
    figure.add_axes((0, 0, 1, 1))
    experiment.save_figure(figure, "plain", "Nothing.")
    height, width, _ = imread(experiment.out / "figures" / "plain.png").shape
    assert width >= 4 * 150
    assert height >= 2 * 150


def test_seeds_are_runs_of_their_own_and_scored_alike(start, monkeypatch):
    monkeypatch.setitem(PROFILES, "quick", replace(PROFILES["quick"], seeds=(1337, 1)))
    experiment = start(configuration=GIVEN)
    table = experiment.seed_scores()
    assert table.index.tolist() == [1337, 1]
    assert experiment.with_seed(1337).run_folder == experiment.run_folder, "the first is the usual"
    other = experiment.with_seed(1)
    assert other.run_folder != experiment.run_folder
    score = other.test_score()
    row = table.loc[1]
    assert row["test loss"] == score.loss != table.loc[1337, "test loss"]
    assert row["perplexity per word"] == score.word_perplexity
    assert row["validation loss"] == other.retrain()["best"]["valid_loss"]
    kept = pd.read_csv(experiment.out / "seeds.csv", index_col="seed")
    pd.testing.assert_frame_equal(kept, table)


def test_a_test_split_is_scored_once(start, monkeypatch):
    scored = []
    monkeypatch.setattr(
        module, "evaluate", lambda *args, **more: scored.append(1) or evaluate(*args, **more)
    )
    experiment = start(configuration=GIVEN)
    assert experiment.test_score() == experiment.test_score()
    table = experiment.seed_scores()
    assert len(scored) == 1
    assert table["test loss"].tolist() == [experiment.test_score().loss]


def test_another_like_it_differs_in_what_was_said_only(start):
    experiment = start(configuration=GIVEN, vocab_size=280)
    other = experiment.like(training={"seed": 5}, block_size=8)
    assert other.data == replace(experiment.data, block_size=8)
    assert (other.out, other.device, other.profile) == (
        experiment.out,
        experiment.device,
        experiment.profile,
    )
    assert other.configuration == experiment.configuration
    assert other.training == experiment.training | {"seed": 5}


def test_where_nothing_is_trained_the_model_that_ships_stands_in(start, capsys):
    experiment = start(progress=True)
    shown = experiment.or_pretrained()
    shipped = load_pretrained("cpu")
    assert "No model is trained here yet" in capsys.readouterr().out
    assert shown.tokenizer.fingerprint == shipped.tokenizer.fingerprint
    assert shown.model.config == shipped.model.config
    assert shown.data.block_size == shipped.model.config.block_size
    ids = [i for i in shown.ids["valid"].tolist() if i != shipped.tokenizer.eot_id]
    assert shipped.tokenizer.decode(ids) == experiment.corpus.splits["valid"]
    assert not experiment.runs.exists()
    shown.save_figure(Figure(figsize=(2, 1)), "x", "Words.")
    captions = json.loads((experiment.out / "figures" / "captions.json").read_text("utf-8"))
    assert captions["x"].endswith(f"; {shipped}."), "a caption says whose model it shows"


def test_what_is_trained_here_is_shown_rather_than_what_ships(start):
    experiment = start(configuration=GIVEN)
    experiment.retrain()
    assert experiment.or_pretrained() is experiment
    (experiment.run_folder / "best.safetensors").unlink()
    assert experiment.or_pretrained().pretrained, "records without a model are not shown as one"


def test_what_is_being_trained_here_is_trained_to_the_end_rather_than_what_ships(start):
    experiment = start(configuration=GIVEN)
    write_json(experiment.run_folder / "record.json", {"status": "running"})
    assert experiment.or_pretrained() is experiment
