import io
import json
import os
import pickle
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmlite import checkpoint
from llmlite.checkpoint import (
    commit,
    environment,
    load_model,
    load_state,
    read_record,
    read_steps,
    save_model,
    save_state,
)
from llmlite.config import ModelConfig
from llmlite.errors import CheckpointError
from llmlite.files import write_json
from llmlite.model import GPT

CONFIG = ModelConfig(vocab_size=40, block_size=8, n_layer=2, n_head=2, n_embd=12, dropout=0.5)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return GPT(CONFIG)


# -- weights --------------------------------------------------------------------------------------


def test_the_same_weights_give_the_same_bytes(tiny_model, tmp_path):
    about = {f"key {i}": "value" for i in range(8)}  # 40,320 orders
    for name in ("a", "b", "c"):
        save_model(tiny_model, tmp_path / name, **about)
    first = (tmp_path / "a").read_bytes()
    assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes() == first
    loaded = load_file(tmp_path / "a")
    assert loaded.keys() == tiny_model.state_dict().keys()
    assert all(loaded[name].equal(weight) for name, weight in tiny_model.state_dict().items())


def test_a_saved_model_comes_back_with_its_logits_and_header(tmp_path, model):
    path = tmp_path / "new folder" / "model.safetensors"
    save_model(model, path, tokenizer_fingerprint="abc", data="pairs")
    loaded, header = load_model(path)
    ids = torch.randint(0, 40, (3, 8))
    assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)
    assert loaded.config == CONFIG
    assert not loaded.training
    assert header["tokenizer_fingerprint"] == "abc"
    assert header["data"] == "pairs"
    assert json.loads(header["config"])["n_embd"] == 12


def refused(path):
    with pytest.raises(CheckpointError, match=re.escape(str(path))) as error:
        load_model(path)
    return str(error.value)


def test_a_missing_model_says_what_to_do(tmp_path):
    assert "train one first" in refused(tmp_path / "model.safetensors")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"format": "llmlite-gpt-0"}])
def test_foreign_weights_are_refused(tmp_path, metadata):
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(2)}, path, metadata)
    assert "does not hold an llmlite model" in refused(path)


def header_of(**changes):
    return json.dumps({**vars(CONFIG), **changes})


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"config": "{"},
        {"config": "[]"},
        {"config": header_of(n_wheels=4)},
        {"config": header_of(n_layer=1)},  # fewer than there are weights for
        {"config": header_of(n_embd=16)},
    ],
    ids=["no config", "cut short", "no object", "unknown field", "other layers", "other width"],
)
def test_a_header_that_does_not_fit_the_weights_is_refused(tmp_path, model, header):
    path = tmp_path / "model.safetensors"
    save_file(model.state_dict(), path, {"format": checkpoint.FORMAT, **header})
    assert "damaged or not a model" in refused(path)


@pytest.mark.parametrize("kept", [0, 4, 100, -1], ids=["empty", "4 bytes", "100 bytes", "1 less"])
def test_a_truncated_model_is_refused(tmp_path, model, kept):
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    path.write_bytes(path.read_bytes()[:kept])
    assert "damaged or not a model" in refused(path)


def test_a_pickle_in_place_of_weights_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps({"format": checkpoint.FORMAT}))
    refused(path)


# -- training states ------------------------------------------------------------------------------


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_state_comes_back(tmp_path):
    weights = {"w": torch.arange(3.0)}
    state = {"identity": {}, "step": 3, "epochs": [{"loss": 1.5}], "model": weights}
    save_state(state, tmp_path)
    loaded = load_state(tmp_path, "cpu")
    assert (loaded["step"], loaded["epochs"]) == (3, [{"loss": 1.5}])
    assert torch.equal(loaded["model"]["w"], torch.tensor([0.0, 1.0, 2.0]))


def test_where_nothing_was_saved_there_is_no_state(tmp_path):
    assert load_state(tmp_path, "cpu") is None


def refused_state(folder, capsys):
    """What is said of a folder without a whole checkpoint: (the error, what went before it)."""
    with pytest.raises(CheckpointError) as error:
        load_state(folder, "cpu")
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    return str(error.value), capsys.readouterr().err


def test_a_file_with_something_else_in_it_is_named_and_set_aside(tmp_path, capsys):
    path = tmp_path / "last.pt"
    torch.save({"weights": torch.zeros(2)}, path)
    error, named = refused_state(tmp_path, capsys)
    assert f"{path} is not a checkpoint of llmlite" in named
    assert "start the run from its beginning" in error
    assert (tmp_path / "damaged-last.pt").exists()
    assert load_state(tmp_path, "cpu") is None


def test_a_file_that_was_not_written_as_it_should_be_does_not_become_the_last(
    tmp_path, monkeypatch
):
    """A disk that loses a bit: the new file is read again before it takes the old one's place."""
    save_state({"step": 1}, tmp_path)
    seal = checkpoint._seal
    monkeypatch.setattr(checkpoint, "_seal", lambda content: seal(bytes(content) + b"x"))
    with pytest.raises(CheckpointError, match="truncated or was changed"):
        save_then_verify_with(seal, {"step": 2}, tmp_path, monkeypatch)
    assert load_state(tmp_path, "cpu")["step"] == 1
    assert not (tmp_path / "previous.pt").exists()


def save_then_verify_with(seal, state, folder, monkeypatch):
    """Write with the wrong checksum that is patched in, and verify with the right one."""
    verified = checkpoint._verified

    def verify(path):
        monkeypatch.setattr(checkpoint, "_seal", seal)
        return verified(path)

    monkeypatch.setattr(checkpoint, "_verified", verify)
    save_state(state, folder)


def test_a_header_with_an_impossible_shape_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    header = {"format": "llmlite-gpt-1", "config": json.dumps({"n_layer": 0})}
    save_file({"a": torch.zeros(1)}, path, header)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        load_model(path)


def test_no_code_from_a_state_is_executed(tmp_path, capsys):
    """Not even where somebody made the checksum fit."""
    trace, content = tmp_path / "was executed", io.BytesIO()
    torch.save({"step": Malicious(trace)}, content)
    data = content.getvalue()
    (tmp_path / "last.pt").write_bytes(checkpoint._seal(data) + data)
    _, named = refused_state(tmp_path, capsys)
    assert "last.pt cannot be read" in named
    assert not trace.exists()
    torch.load(io.BytesIO(data), weights_only=False)  # it does do harm where it is let
    assert trace.exists()


@pytest.mark.parametrize("kept", [0, 10, 60, 300, -1])
def test_a_truncated_state_is_named(tmp_path, capsys, kept):
    save_state({"model": torch.zeros(1000)}, tmp_path)
    path = tmp_path / "last.pt"
    path.write_bytes(path.read_bytes()[:kept])
    _, named = refused_state(tmp_path, capsys)
    assert str(path) in named


def test_weights_that_were_changed_are_refused(tmp_path, model):
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert "changed since it was written" in refused(path)


# -- records --------------------------------------------------------------------------------------


def test_there_is_no_record_before_there_is_one(tmp_path):
    assert read_record(tmp_path / "nowhere") is None
    write_json(tmp_path / "record.json", {"status": "running", "name": "Ångström"})
    assert read_record(tmp_path) == {"status": "running", "name": "Ångström"}


@pytest.mark.parametrize("content", [b"", b'{"status": "fini', b"\xff\xfe"])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path / "record.json"))):
        read_record(tmp_path)


def test_the_step_log_reads_a_step_without_a_norm(tmp_path):
    (tmp_path / "steps.jsonl").write_text(
        '{"step": 1, "epoch": 1, "lr": 0.1, "loss": 2.5, "grad_norm": null}\n'
        '{"step": 2, "epoch": 1, "lr": 0.2, "loss": 2.25, "grad_norm": 0.5}\n'
    )
    steps = read_steps(tmp_path)
    assert steps.step.tolist() == [1, 2]
    assert steps.loss.tolist() == [2.5, 2.25]
    assert steps.grad_norm.isna().tolist() == [True, False]


# -- where a number comes from --------------------------------------------------------------------


def test_environment_has_what_a_number_depends_on():
    found = environment("cpu")
    assert found.keys() == {"llmlite", "python", "torch", "numpy", "device", "commit"}
    assert found["torch"] == torch.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert re.fullmatch(rf"CPU \(.+, {torch.get_num_threads()} threads?\)", found["device"])
    assert all(isinstance(value, str) for value in found.values())
    json.dumps(found)


def test_commit_names_the_clone_and_whether_the_package_was_changed(tmp_path, monkeypatch):
    def git(*arguments):
        name = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *name, *arguments],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout.strip()

    package = tmp_path / "llmlite"
    package.mkdir()
    (package / "checkpoint.py").write_text("one")
    monkeypatch.setattr(checkpoint, "__file__", str(package / "checkpoint.py"))
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "First")
    head = git("rev-parse", "HEAD")[:10]
    assert now() == head
    (tmp_path / "README.md").write_text("changes no number")
    assert now() == head
    (package / "checkpoint.py").write_text("two")
    assert commit() == head, "a process keeps the code that it started with"
    assert now() == head + "+"


def now():
    """What a process that starts now would say."""
    commit.cache_clear()
    return commit()


@pytest.fixture(autouse=True)
def forget_the_commit(monkeypatch):
    monkeypatch.delenv("LLMLITE_COMMIT", raising=False)
    yield
    commit.cache_clear()


@pytest.mark.parametrize(("end", "mark"), [("", ""), ("-dirty", "+")])
def test_the_commit_that_is_given_is_believed(monkeypatch, end, mark):
    monkeypatch.setenv("LLMLITE_COMMIT", "0123456789abcdef" + end)
    assert now() == "0123456789" + mark


def test_commit_is_unknown_when_installed_inside_somebody_elses_repository(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    package = tmp_path / "venv" / "llmlite"
    package.mkdir(parents=True)
    monkeypatch.setattr(checkpoint, "__file__", str(package / "checkpoint.py"))
    assert now() == "unknown"


def test_commit_is_unknown_without_a_clone_or_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(checkpoint, "__file__", str(tmp_path / "checkpoint.py"))
    assert now() == "unknown"
    monkeypatch.setenv("PATH", "")
    assert now() == "unknown"
