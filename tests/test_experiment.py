"""A profile in a folder: each stage is made when it is asked for, once, and found again."""

import json
import os
import re
import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from filelock import FileLock
from matplotlib.figure import Figure
from matplotlib.image import imread
from safetensors.torch import load
from tiny_plan import PROFILE, TRAIN, files, open_plan

from llmlite.config import AXES
from llmlite.experiment import Experiment
from llmlite.files import CheckpointError, LLMLiteError, write_json
from llmlite.parallel import local_device
from llmlite.pretrained import load_pretrained
from llmlite.run import RECORD, WEIGHTS, commit, read_record, write_measure
from llmlite.tokenizer import BPETokenizer

SEARCHED = replace(PROFILE, searched=True, train=replace(TRAIN, epochs=2, learning_rate=1.0))


@pytest.fixture
def start(some_articles, tmp_path):
    """An experiment on the articles, always in the same folder."""
    return partial(open_plan, some_articles, tmp_path / "out", profile=SEARCHED)


def retrained(experiment):
    return experiment.folder(experiment.retraining())


def test_a_searched_experiment_makes_each_stage_when_asked_and_once(start):
    experiment = start()
    assert not experiment.out.exists()
    assert experiment.searched_best() is None
    assert not experiment.known_configuration
    with pytest.raises(LLMLiteError, match="no grid 'third'; choose first or revised"):
        experiment.search("third")
    best = experiment.configuration
    searched, runs = files(experiment), experiment.grid("revised")
    assert {path.parent for path in searched} == set(map(experiment.folder, runs))
    table = experiment.search()
    assert files(experiment) == searched
    lowest = table.perplexity.idxmin()
    # The best is read from records, what failed aside; nothing is trained for it.
    for failed, left in ((1 - lowest, lowest), (lowest, 1 - lowest)):
        path = experiment.folder(runs[failed]) / RECORD
        record = read_record(path.parent)
        write_json(path, record | {"status": "failed"})
        expected = {axis: table[axis][left] for axis in AXES}
        assert start().best_configuration == start().searched_best() == expected
        write_json(path, record | {"status": "running"})
        assert start().searched_best() is None
        write_json(path, record)
    changed = files(experiment).items() - searched.items()
    assert {path.name for path, _ in changed} == {RECORD}
    assert best == {axis: table[axis][lowest] for axis in AXES}
    assert [type(best[axis]) for axis in AXES] == [float, int, int, int]

    score, record = experiment.test_score(), experiment.retrain()
    identity = record["identity"]
    trained = {"learning_rate": best["learning_rate"], "epochs": 2}
    assert identity["train"].items() >= trained.items()
    assert identity["model"].items() >= {"n_head": 2, "vocab_size": 300, "block_size": 64}.items()
    assert identity["tokenizer_fingerprint"] == experiment.tokenizer.fingerprint

    made = files(experiment)
    for again in (experiment, start()):
        assert (again.test_score(), again.retrain()) == (score, record)
        assert again.best_configuration == best
    assert files(experiment) == made
    kept = json.loads((retrained(experiment) / "test_score.json").read_text("utf-8"))
    assert kept.items() > asdict(score).items()
    assert kept["environment"]["commit"] == commit()


def test_what_is_given_is_retrained_as_it_stands_without_a_search(start):
    more = {"train.epochs": 1, "model.dropout": 0.3}
    known, run = start(**more, **{"model.n_layer": 3}), start(searched=False, **more).retraining(5)
    assert known.configuration == {"learning_rate": 1.0, "n_layer": 3, "n_head": 4, "n_embd": 16}
    assert (run.model.n_layer, run.model.dropout) == (2, 0.3)
    assert (run.train.epochs, run.train.seed, run.train.learning_rate) == (1, 5, 1.0)
    for given in ({"train.learning_rate": 0.1}, {"model.n_head": 2}, {"model.n_embd": 32}):
        assert start(**given).known_configuration
    assert not start(**more).known_configuration
    assert not known.runs.exists()


def test_seeds_are_runs_of_their_own_and_scored_alike(whole):
    experiment = whole.experiment
    table = experiment.seed_scores()
    assert table.index.tolist() == [1337, 1]
    assert experiment.folder(experiment.retraining(1337)) == retrained(experiment), "as usual"
    best, score = experiment.train(experiment.retraining(1))["best"], experiment.test_score(1)
    assert table.loc[1].to_dict() == {
        "best epoch": best["epoch"], "validation loss": best["valid_loss"],
        "test loss": score.loss, "perplexity per token": score.perplexity,
        "perplexity per word": score.word_perplexity, "bits per byte": score.bits_per_byte,
    }  # fmt: skip
    assert table["test loss"].is_unique
    kept = pd.read_csv(experiment.out / "seeds.csv", index_col="seed")
    pd.testing.assert_frame_equal(kept, table)


@pytest.mark.parametrize(("memory", "name"), [(0, "quick"), (16e9, "small"), (30e9, "full")])
def test_auto_goes_by_the_memory_of_the_device(tmp_path, monkeypatch, memory, name):
    monkeypatch.setattr("llmlite.parallel.local_device", local_device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: memory > 0)
    properties = SimpleNamespace(total_memory=memory)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    experiment = Experiment(out=tmp_path)
    assert (experiment.device, experiment.profile.name) == ("cuda" if memory else "cpu", name)
    assert Experiment(out=tmp_path, device="cpu").profile.name == "quick"


def test_figures_and_captions_of_notebooks_that_draw_at_a_time(start):
    experiment, figure = start(), Figure(figsize=(2, 1))
    folder = experiment.out / "figures"
    assert experiment.save_figure(figure, "b-loss", "The loss.") is figure
    drawn = (folder / "b-loss.svg").read_bytes()
    assert b"<svg" in drawn
    with FileLock(experiment.out / ".captions.lock"):  # as another notebook has it
        writer = Thread(target=experiment.save_figure, args=(figure, "a-rate", "The rate."))
        writer.start()
        writer.join(1)
        assert list(json.loads((folder / "captions.json").read_text("utf-8"))) == ["b-loss"]
    writer.join()
    experiment.save_figure(figure, "b-loss", "The loss again.")
    captions = json.loads((folder / "captions.json").read_text("utf-8"))
    assert list(captions) == ["a-rate", "b-loss"]
    about = f"The loss again. Profile tiny, {experiment.dataset.name}, CPU"
    assert captions["b-loss"].startswith(about)
    assert (folder / "b-loss.svg").read_bytes() == drawn, "the same figure, the same bytes"
    assert imread(folder / "a-rate.png").size > 0
    assert len(list(folder.iterdir())) == 2 * 2 + 1


def test_parameters_of_a_notebook_may_be_numbers_or_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = Experiment("quick", "sample", 2024, None, progress=False)
    assert (experiment.out, experiment.device) == (Path("2024"), "cpu")
    for wrong, said in (({"device": 0}, "no device '0'"), ({"profile": 3}, "no profile '3'")):
        with pytest.raises(LLMLiteError, match=said):
            Experiment(**wrong)


def garbage(path, _):
    path.write_text("{")


def flip(path, _):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def of_its_text(path, _):
    BPETokenizer([]).save(path, json.loads(path.read_text("utf-8"))["of"])


def of_seed_1(path, other):
    shutil.copy(other / path.name, path)


def of_the_test_split(path, _):
    for end in (".json", ".bin"):
        shutil.copy(path.with_name(f"test{end}"), path.with_suffix(end))


@pytest.mark.parametrize(("name", "change", "said"), [
    (WEIGHTS, lambda path, _: path.unlink(), "no model at .* is trained again"),
    (WEIGHTS, of_seed_1, "another training.* is trained again"),
    (WEIGHTS, flip, "checksum.* is trained again"),
    ("test_score.json", of_seed_1, "another training; it is measured again"),
    ("test_score.json", garbage, "is damaged or .* it is measured again"),
    ("test_score.json", flip, "is damaged or .* it is measured again"),
    (RECORD, garbage, r"is damaged; it is damaged-record\.json now"),
    ("tokenizer-*", garbage, "cannot be read as a tokenizer.* It is trained again"),
    ("tokenizer-*", of_its_text, "has 257 tokens, not 300. It is"),
    ("tokenizer-*", lambda path, _: BPETokenizer([]).save(path), "learnt from another text. It is"),
    ("tokens-*/valid.bin", flip, "valid.bin: .* not those that were written; they are made again"),
    ("tokens-*/valid.bin", lambda path, _: os.truncate(path, 0), "valid.bin: .* are made again"),
    ("tokens-*/valid.json", garbage, "valid.bin: .* are made again"),
    ("tokens-*/valid.bin", lambda path, _: (path.unlink(), os.mkfifo(path)), "its tokens are lost"),
    ("tokens-*/valid.json", flip, "valid.bin: .* they are made again"),
    ("tokens-*/train.json", of_the_test_split, "train.bin: .* of another text"),
])  # fmt: skip
def test_the_damaged_is_made_again(two_seeds, some_articles, tmp_path, capsys, name, change, said):
    out = shutil.copytree(two_seeds, tmp_path / "out")
    experiment = open_plan(some_articles, out)
    folder, other = (experiment.folder(experiment.retraining(seed)) for seed in (1337, 1))
    weights, score = load((folder / WEIGHTS).read_bytes()), experiment.test_score()
    ids = experiment.dataset.ids["valid"].tolist()
    (path,) = [*folder.glob(name), *out.glob(name)]
    change(path, other)
    capsys.readouterr()
    for again in (True, False):
        found = open_plan(some_articles, out)
        assert found.model.config.n_embd == 16
        assert (found.test_score(), found.dataset.ids["valid"].tolist()) == (score, ids)
        err = capsys.readouterr().err
        assert bool(re.search(said, err)) == again == bool(err), "once, and only what was changed"
    kept = load((folder / WEIGHTS).read_bytes())
    assert all(torch.equal(kept[name], weights[name]) for name in weights)


@pytest.mark.parametrize("forged", [
    {}, {"nats": 1.0, "tokens": [1], "words": 1, "bytes": 1},
    {"nats": 1.0, "tokens": 1, "words": 0, "bytes": 1}, {"nats": 1, "tokens": 1, "wheels": 4},
])  # fmt: skip
def test_a_score_that_somebody_made_up_is_refused(two_seeds, some_articles, tmp_path, forged):
    experiment = open_plan(some_articles, shutil.copytree(two_seeds, tmp_path / "out"))
    run, folder = experiment.retraining(), retrained(experiment)
    write_measure(folder, "test_score", experiment.record(run), forged)
    with pytest.raises(CheckpointError, match=r"test_score\.json holds no score"):
        experiment.test_score()


def test_where_nothing_is_trained_the_model_that_ships_stands_in(start, capsys):
    experiment = start(profile=PROFILE, progress=True)
    shown, shipped = experiment.or_pretrained(), load_pretrained("cpu")
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
    # What is or is being trained here is shown in its place.
    record = experiment.retrain()
    assert experiment.or_pretrained() is experiment
    (retrained(experiment) / WEIGHTS).unlink()
    write_json(retrained(experiment) / RECORD, record | {"status": "running"})
    assert experiment.or_pretrained() is experiment
    write_json(retrained(experiment) / RECORD, record)
    assert start(profile=PROFILE, needs_gpu=True).or_pretrained().pretrained, "of records alone"
