"""A profile in a folder: each stage is made when it is asked for, once, and found again."""

import json
import pickle
import re
from dataclasses import asdict, replace
from threading import Thread
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from filelock import FileLock
from matplotlib.figure import Figure
from matplotlib.image import imread
from tiny_plan import TRAIN, text_of, write_corpus

from llmlite import data
from llmlite.config import AXES, ModelConfig, SearchSpace
from llmlite.experiment import Experiment
from llmlite.files import LLMLiteError, write_json
from llmlite.metrics import total_loss
from llmlite.parallel import local_device
from llmlite.plan.cluster import RayOptions
from llmlite.pretrained import load_pretrained
from llmlite.profiles import PROFILES, Grid
from llmlite.run import RECORD, WEIGHTS, commit, read_record
from llmlite.train import Trainer

SEARCH = replace(TRAIN, batch_size=16, learning_rate=1e-2, train_tokens=None, valid_tokens=None)
PROFILE = replace(
    PROFILES["quick"],
    model=ModelConfig(n_layer=1, n_head=4, n_embd=8),
    train=replace(SEARCH, epochs=2, learning_rate=1.0),
    first=Grid(SearchSpace((1e-2,), (1,), (1,), (8, 16)), replace(SEARCH, schedule="fixed")),
    revised=Grid(SearchSpace((1e-2, 1e-4), (1,), (2,), (8,)), SEARCH),
    searched=True,
)
GIVEN = {"searched": False, "train.learning_rate": 1e-2}


@pytest.fixture
def work(monkeypatch):
    """How often each costly stage was really done."""
    done = {"tokenizer": 0, "encode": 0, "steps": 0}

    def counted(name, call):
        def wrapper(*args, **kwargs):
            done[name] += 1
            return call(*args, **kwargs)

        return wrapper

    tokenizer = data.BPETokenizer
    encode = tokenizer.encode_batch_to_arrays
    monkeypatch.setattr(tokenizer, "train", staticmethod(counted("tokenizer", tokenizer.train)))
    monkeypatch.setattr(tokenizer, "encode_batch_to_arrays", counted("encode", encode))
    step = Trainer._optimiser_step
    monkeypatch.setattr(Trainer, "_optimiser_step", counted("steps", step))
    return done


@pytest.fixture
def start(tmp_path):
    write_corpus(tmp_path / "text")

    def start(profile=PROFILE, progress=False, **changes):
        changes = {"data.vocab_size": 300, "data.block_size": 16, **changes}
        return Experiment(profile, tmp_path / "text", tmp_path / "out", "cpu", progress, **changes)

    return start


def retrained(experiment):
    """The folder of the retraining."""
    return experiment.folder(experiment.retraining())


# -- each stage once ------------------------------------------------------------------------------


def test_each_stage_is_made_when_it_is_asked_for_and_only_once(start, work):
    experiment = start()
    assert not experiment.out.exists()
    score = experiment.test_score()
    assert score.tokens == len(experiment.dataset.ids["test"]) - 1
    assert score.words == len(text_of(5).split()) + text_of(5).count("\n")
    assert 1 < score.perplexity < 300
    assert work["tokenizer"] == 1
    assert work["encode"] >= 3
    before = dict(work)
    experiment.retrain()
    experiment.search("revised")
    for again in (experiment, start()):
        assert again.test_score() == score
        assert again.best_configuration == experiment.best_configuration
        assert retrained(again) == retrained(experiment)
        assert work == before
    kept = json.loads((retrained(experiment) / "test_score.json").read_text("utf-8"))
    assert kept.items() > asdict(score).items()
    assert kept["environment"]["commit"] == commit()


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
    valid = second.dataset.ids["valid"].tolist()
    assert second.tokenizer.decode(valid).count("mountain") == 12
    assert record["identity"]["data_fingerprint"] == second.dataset.about["data_fingerprint"]
    runs = {retrained(second), *map(second.folder, second.grid("revised"))}
    assert runs.isdisjoint(path.parent for path in old)
    changed = [path.name for path, content in old.items() if path.read_bytes() != content]
    assert changed == ["search-revised.csv"]


# -- what is trained ------------------------------------------------------------------------------


def test_the_best_configuration_of_the_revised_grid_is_trained(start):
    experiment = start()
    table = experiment.search("revised")
    best = experiment.best_configuration
    lowest = min(table.to_dict("records"), key=lambda row: row["perplexity"])
    assert best == experiment.configuration == {axis: lowest[axis] for axis in AXES}
    assert [type(best[axis]) for axis in AXES] == [float, int, int, int]
    record = experiment.retrain()
    identity = record["identity"]
    assert identity["train"]["learning_rate"] == best["learning_rate"] != 1.0
    assert identity["train"]["epochs"] == 2
    assert identity["model"].items() >= {"n_head": 2, "vocab_size": 300, "block_size": 16}.items()
    assert identity["tokenizer_fingerprint"] == experiment.tokenizer.fingerprint
    assert record["status"] == "finished"
    assert not experiment.model.training
    nats, tokens = total_loss(experiment.model, experiment.dataset.ids["valid"])
    assert nats / tokens == pytest.approx(record["best"]["valid_loss"], abs=1e-5)


def test_what_is_given_is_retrained_as_it_stands(start):
    experiment = start(**{"model.n_layer": 3, "train.epochs": 1, "model.dropout": 0.3})
    shape = {"n_layer": 3, "n_head": PROFILE.model.n_head, "n_embd": PROFILE.model.n_embd}
    rate = PROFILE.train.learning_rate
    assert experiment.configuration == {"learning_rate": rate, **shape}
    run = experiment.retraining(5)
    assert (run.model.n_layer, run.model.n_head, run.model.dropout) == (3, shape["n_head"], 0.3)
    assert (run.train.epochs, run.train.seed, run.train.learning_rate) == (1, 5, rate)


def test_nothing_is_searched_for_where_the_configuration_is_known(start, work):
    for known in (start(searched=False), start(**{"model.n_layer": 1})):
        assert known.known_configuration
        assert known.configuration["n_embd"] == PROFILE.model.n_embd
    assert not start(**{"train.epochs": 1}).known_configuration
    assert work["steps"] == 0


def test_a_search_on_a_cluster_is_not_repeated_here(start, monkeypatch):
    trained, train = [], Trainer._resume

    def on_ray(function, items, options, folder):
        function = pickle.loads(pickle.dumps(function))  # as for another machine
        yield from ((number, function(item)) for number, item in enumerate(items))

    monkeypatch.setattr("llmlite.plan.search.on_ray", on_ray)
    monkeypatch.setattr(Trainer, "_resume", lambda self: trained.append(1) or train(self))
    experiment = start(**{"revised.space.learning_rate": (1e30, 1e-2)})
    table = experiment.search("revised", RayOptions("local"))
    assert table.status.tolist() == ["failed", "finished"]
    assert len(trained) == 2, "what failed there is not tried again on this machine"
    assert len(pd.read_csv(experiment.out / "search-revised.csv")) == 2
    assert set(experiment.runs.iterdir()) == set(map(experiment.folder, experiment.grid("revised")))
    assert experiment.searched_best()["learning_rate"] == 1e-2


def test_a_run_that_two_want_is_one(start):
    """The retraining, where it is what the search trained."""
    experiment = start(replace(PROFILE, train=SEARCH))
    experiment.test_score()
    runs = set(map(experiment.folder, experiment.grid("revised")))
    assert retrained(experiment) in runs
    assert set(experiment.runs.iterdir()) == runs


def test_the_best_of_a_grid_is_read_from_its_records_what_failed_aside(start, work):
    experiment = start()
    assert experiment.searched_best() is None
    table, runs = experiment.search(), experiment.grid("revised")
    best, steps = table.perplexity.idxmin(), work["steps"]
    for failed, left in ((1 - best, best), (best, 1 - best)):
        path = experiment.folder(runs[failed]) / RECORD
        record = read_record(path.parent)
        write_json(path, record | {"status": "failed"})
        expected = {axis: table[axis][left] for axis in AXES}
        assert start().best_configuration == start().searched_best() == expected
        write_json(path, record | {"status": "running"})
        assert start().searched_best() is None
        write_json(path, record)
    assert work["steps"] == steps, "nothing was trained for it"


def test_seeds_are_runs_of_their_own_and_scored_alike(start):
    experiment = start(**GIVEN, seeds=(1337, 1))
    table = experiment.seed_scores()
    assert table.index.tolist() == [1337, 1]
    assert experiment.folder(experiment.retraining(1337)) == retrained(experiment), "as usual"
    other, score = experiment.retraining(1), experiment.test_score(1)
    assert experiment.folder(other) != retrained(experiment)
    row = table.loc[1]
    assert row["test loss"] == score.loss != table.loc[1337, "test loss"]
    assert row["perplexity per word"] == score.word_perplexity
    assert row["validation loss"] == experiment.train(other)["best"]["valid_loss"]
    kept = pd.read_csv(experiment.out / "seeds.csv", index_col="seed")
    pd.testing.assert_frame_equal(kept, table)


# -- what is shown --------------------------------------------------------------------------------


def test_the_first_line_names_profile_data_device_and_commit(start):
    parts = str(start()).split(" · ")
    assert parts[:2] == ["profile quick", "data own text in text (folder)"]
    assert re.fullmatch(r"device CPU \(.+ 1 thread\)", parts[2])
    assert parts[3] == f"commit {commit()}"


REFUSED = [
    ({"profile": "huge"}, "There is no profile 'huge'; choose auto, quick, small, full"),
    ({"device": "tpu"}, "There is no device 'tpu' here"),
    ({"data.split": "random"}, "split is 'random'; allowed: official, paper"),
    ({"data.stride": 1000}, "stride is 1000"),
    ({"model.width": 8}, "There is no setting 'width'; there are vocab_size, block_size"),
    ({"configuration": {}}, "There is no setting 'configuration'"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_what_there_is_not_is_said_in_a_sentence(tmp_path, settings, message, one_sentence):
    with pytest.raises(LLMLiteError) as error:
        Experiment(out=tmp_path / "out", **settings)
    assert message in one_sentence(error)
    assert not (tmp_path / "out").exists()


def test_a_grid_that_there_is_not_is_refused(start, one_sentence):
    experiment = start()
    with pytest.raises(LLMLiteError) as error:
        experiment.search("third")
    assert "There is no grid 'third'; choose first or revised" in one_sentence(error)
    assert not experiment.out.exists()


def test_auto_goes_by_the_memory_of_the_device(tmp_path, monkeypatch):
    monkeypatch.setattr("llmlite.parallel.local_device", local_device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Experiment(out=tmp_path).profile.name == "quick"
    assert Experiment(out=tmp_path).device == "cpu"
    with pytest.raises(LLMLiteError, match="There is no device 'cuda' here"):
        Experiment(out=tmp_path, device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for memory, name in ((16e9, "small"), (40e9, "full")):
        properties = SimpleNamespace(total_memory=memory)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, p=properties: p)
        assert Experiment(out=tmp_path).profile.name == name
    assert Experiment(out=tmp_path).device == "cuda"
    assert Experiment(out=tmp_path, device="cpu").profile.name == "quick"


def test_a_figure_is_saved_with_its_caption(start):
    experiment, figure = start(), Figure(figsize=(2, 1))
    figure.add_axes((0, 0, 1, 1))
    assert experiment.save_figure(figure, "b-loss", "The loss.") is figure
    experiment.save_figure(figure, "a-rate", "The rate.")
    experiment.save_figure(figure, "b-loss", "The loss again.")
    folder = experiment.out / "figures"
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
    height, width, _ = imread(folder / "a-rate.png").shape
    assert width >= 2 * 150, "dots an inch"
    assert height >= 1 * 150


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


def test_where_nothing_is_trained_the_model_that_ships_stands_in(start, capsys):
    experiment = start(progress=True)
    shown = experiment.or_pretrained()
    shipped = load_pretrained("cpu")
    assert "No model is trained here yet" in capsys.readouterr().out
    assert shown.tokenizer.fingerprint == shipped.tokenizer.fingerprint
    assert shown.model.config == shipped.model.config
    assert shown.data.block_size == shipped.model.config.block_size
    ids = [i for i in shown.dataset.ids["valid"].tolist() if i != shipped.tokenizer.eot_id]
    assert shipped.tokenizer.decode(ids) == experiment.dataset.text("valid")
    assert not experiment.runs.exists()
    shown.save_figure(Figure(figsize=(2, 1)), "x", "Words.")
    captions = json.loads((experiment.out / "figures" / "captions.json").read_text("utf-8"))
    assert captions["x"].endswith(f"; {shipped}."), "a caption says whose model it shows"


def test_what_is_or_is_being_trained_here_is_shown_rather_than_what_ships(start):
    experiment = start(**GIVEN)
    write_json(retrained(experiment) / RECORD, {"status": "running"})
    assert experiment.or_pretrained() is experiment
    (retrained(experiment) / RECORD).unlink()
    experiment.retrain()
    assert experiment.or_pretrained() is experiment
    (retrained(experiment) / WEIGHTS).unlink()
    reader = start(**GIVEN, needs_gpu=True)
    assert reader.or_pretrained().pretrained, "records without a model are not shown as one"
