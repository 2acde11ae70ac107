"""Files, and the folder of a run, held, whole and damaged: weights, states, records; all runs."""

import errno
import hashlib
import io
import json
import math
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import save
from test_train import trainer

from llmlite import files, run
from llmlite.config import DataConfig, ModelConfig, TrainConfig
from llmlite.files import CheckpointError, LLMLiteError, hold, replacing, write_json
from llmlite.model import GPT
from llmlite.run import Run, load_model, load_state, read_record, save_state, save_weights

CONFIG = ModelConfig(vocab_size=40, block_size=8, n_layer=2, n_head=2, n_embd=12, dropout=0.5)
RUN = Run("a run", DataConfig(vocab_size=40, block_size=8), CONFIG, TrainConfig())
ABOUT = {"data": "pairs", "tokenizer_fingerprint": "abc"}


def test_a_file_has_its_old_content_or_its_new_one_and_none_lies_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "new folder" / "record.json"
    for content in ({"loss": 1.5}, {"loss": 1.25, "name": "ü"}):
        write_json(path, content)
        assert json.loads(path.read_text("utf-8")) == content
    for number in (math.nan, math.inf):
        with pytest.raises(ValueError, match="JSON"):
            write_json(path, {"loss": number})
    with pytest.raises(OSError) as error:  # noqa: PT011, of a kind for each system
        write_json(path.parent, {})
    assert error.value.filename == str(path.parent), "and not what is written in its place"

    def half():
        with replacing(path) as aside:
            assert (aside.parent, aside.suffix) == (path.parent, ".json"), "writers go by it"
            aside.write_bytes(b"half of the r")
            raise KeyboardInterrupt

    def killed(aside, to):
        assert (json.loads(aside.read_text("utf-8")), to) == ({"loss": 1.0}, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    for write in (half, lambda: write_json(path, {"loss": 1.0})):
        with pytest.raises(KeyboardInterrupt):
            write()
    assert json.loads(path.read_text("utf-8")) == content
    assert list(path.parent.iterdir()) == [path]


def test_what_a_link_points_to_stays_as_it_is(tmp_path):
    mine, folder = tmp_path / "mine", tmp_path / "folder"
    mine.write_text("of mine")
    folder.mkdir()
    (folder / ".owner").symlink_to(mine)
    with hold(folder), pytest.raises(files.BusyError, match=f"in use by process {os.getpid()} on "):
        hold(folder).__enter__()
    (folder / ".lock").unlink()
    (folder / ".lock").symlink_to(mine)
    with pytest.raises(LLMLiteError, match=r"cannot be locked .*it is a link"):
        hold(folder).__enter__()
    assert mine.read_text() == "of mine"
    assert not files.is_held(folder)


@pytest.mark.parametrize("owner", [lambda path: path.mkdir(), lambda p: p.symlink_to("/dev/zero")])
def test_whoever_holds_a_folder_is_named_if_that_can_be_read(tmp_path, owner):
    with hold(tmp_path):
        (tmp_path / ".owner").unlink()
        owner(tmp_path / ".owner")
        with pytest.raises(files.BusyError, match="in use by another process; wait"):
            hold(tmp_path).__enter__()
        assert files.is_held(tmp_path)
        (tmp_path / ".owner").rename(tmp_path / ".other")


@pytest.mark.parametrize("error", [NotImplementedError("no flock"), OSError(errno.EOPNOTSUPP, "?")])
def test_a_file_system_without_locks_is_called_so(tmp_path, monkeypatch, error):
    monkeypatch.setattr("llmlite.files.FileLock.acquire", Mock(side_effect=error))
    with pytest.raises(LLMLiteError, match=r"cannot be locked .* file system that has locks"):
        hold(tmp_path).__enter__()
    (tmp_path / ".lock").touch()
    assert not files.is_held(tmp_path)


def test_a_run_is_found_by_all_that_it_is_and_by_nothing_else(tmp_path):
    folder = RUN.folder(tmp_path, ABOUT)
    assert re.fullmatch(r"lr0.001-2l-2h-12d-[0-9a-f]{8}", folder.name)
    assert replace(RUN, name="another plan's", keeps=("steps",)).folder(tmp_path, ABOUT) == folder
    others = [
        replace(RUN, train=replace(RUN.train, seed=1)).folder(tmp_path, ABOUT),
        replace(RUN, model=replace(CONFIG, dropout=0.0)).folder(tmp_path, ABOUT),
        replace(RUN, data=replace(RUN.data, stride=4)).folder(tmp_path, ABOUT),
        RUN.folder(tmp_path, ABOUT | {"data": "others"}),
    ]
    assert len({folder, *others}) == 5


def test_the_command_is_what_was_typed(monkeypatch):
    typed = "llmlite train --out 'a folder'"
    programs = {"/bin/llmlite": typed, "llmlite/cli/__main__.py": typed, "ipykernel.py": None}
    for program, command in programs.items():
        monkeypatch.setattr(sys, "argv", [program, "train", "--out", "a folder"])
        assert run.typed_command() == command


def test_a_saved_model_comes_back_with_its_logits_and_header(tmp_path):
    model, path = GPT(CONFIG), tmp_path / "new folder" / "model.safetensors"
    save_weights(CONFIG, model.state_dict(), path, **ABOUT)
    loaded, header = load_model(path)
    ids = torch.randint(0, 40, (3, 8))
    assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)
    assert loaded.config == CONFIG
    assert not loaded.training
    assert header.items() >= ABOUT.items()


def test_what_is_no_whole_model_of_ours_is_refused_by_name(tmp_path):
    path, weights = tmp_path / "model.safetensors", GPT(CONFIG).state_dict()
    with pytest.raises(CheckpointError, match=f"There is no model at {path}; train one first"):
        load_model(path)

    def with_config(config: str, **changes) -> bytes:
        header = {"format": run.FORMAT, "config": config} | changes
        return save(weights, header | {"sha256": run._checksum(weights, header)})

    # Fewer layers than there are weights for, more than fit in any memory, and what no model has.
    changes = [{"n_layer": n} for n in (1, 0, 10**9, "2", 2.0)]
    changes += [{"n_embd": 16}, {"n_embd": 10**8}, {"n_wheels": 4}, {"causal": None}]
    configs = ["{", "[" * 9999, *(json.dumps(vars(CONFIG) | change) for change in changes)]
    broken = [with_config(config) for config in configs]
    whole = with_config(json.dumps(vars(CONFIG)), **ABOUT)
    parts = whole[:0], whole[:100], whole[:-1], save(weights, {"format": run.FORMAT})
    numbers = {name: weight.int() for name, weight in weights.items()}
    parts += (run.weights_bytes(CONFIG, numbers),)
    flipped = (whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :] for i in range(0, len(whole), 97))
    for kind in (math.nan, math.inf):
        weights["norm.weight"][0] = kind
        broken.append(with_config(json.dumps(vars(CONFIG))))
    for content in (*broken, *parts, *flipped, None):
        path.unlink(missing_ok=True)
        path.write_bytes(content) if content is not None else os.mkfifo(path)
        with pytest.raises(CheckpointError, match=f"{path} is damaged or no model of llmlite"):
            load_model(path)


def test_a_damaged_or_foreign_state_is_set_aside_and_not_executed(tmp_path, monkeypatch, capsys):
    path, pickled = tmp_path / "last.pt", io.BytesIO()
    save_state({"model": torch.arange(1000)}, tmp_path)
    whole = path.read_bytes()
    with monkeypatch.context() as patch:  # what the machine lacks is not the file's fault
        patch.setattr(torch, "load", Mock(side_effect=torch.OutOfMemoryError))
        with pytest.raises(torch.OutOfMemoryError):
            load_state(tmp_path, "cpu")
    assert torch.equal(load_state(tmp_path, "cpu")["model"], torch.arange(1000))
    torch.save({"step": tmp_path}, pickled)  # an object that only code of its own makes again
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZipFile", Mock(side_effect=AssertionError("it is too large")))
        with pytest.raises(CheckpointError, match="to start anew"):
            load_state(tmp_path, "cpu", most=len(whole) - 1)
        assert f"it has more than {len(whole) - 1:,} bytes" in capsys.readouterr().err
    parts = [whole[:kept] for kept in (0, 300, -1)]
    flipped = whole[:1500] + bytes([whole[1500] ^ 1]) + whole[1501:]  # one bit of a number
    for content in (*parts, flipped, pickled.getvalue()):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="to start anew") as error:
            load_state(tmp_path, "cpu")
        assert str(tmp_path) in str(error.value)
        said = re.escape(str(path)) + r" is damaged or no checkpoint .* it is damaged-last\.pt now"
        assert re.search(said, capsys.readouterr().err)
        assert (tmp_path / "damaged-last.pt").read_bytes() == content
        assert load_state(tmp_path, "cpu") is None


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The record of a run, and its folder."""
    folder = tmp_path_factory.mktemp("trained")
    return trainer(folder).fit(), folder


def test_a_record_is_read_where_there_is_one_and_named_where_it_is_damaged(tmp_path, trained):
    path, identity = tmp_path / "record.json", trained[0]["identity"]
    assert read_record(tmp_path / "nowhere") is None
    for status in ("running", "finished"):
        record = trained[0] | {"status": status, "command": "llmlite train --text Ångström"}
        write_json(path, record)
        assert read_record(tmp_path) == record
        done = record if status == "finished" else None
        assert run.finished_record(tmp_path, identity) == run.finished_record(tmp_path) == done
        assert run.finished_record(tmp_path, identity | {"data": "others"}) is None
    worst = max(record["epochs"], key=lambda epoch: epoch["valid_loss"])
    changes = {"best": worst}, {"best": None}, {"epochs": [{}]}, {"command": []}, {"identity": {}}
    contents = [json.dumps(record | change).encode() for change in changes]
    for content in (*contents, b"", b'{"status": "fini', b"\xff\xfe", b"[" * 9999, b"[]", None):
        path.unlink()
        path.write_bytes(content) if content is not None else os.mkfifo(path)
        with pytest.raises(CheckpointError, match=re.escape(str(path))):
            read_record(tmp_path)
        assert run.finished_record(tmp_path) is None, "whoever looks at many sees the others"


def test_a_log_of_steps_is_read_or_named(tmp_path, trained):
    rows = (trained[1] / "steps.jsonl").read_text("utf-8").splitlines(True)

    def write(text, **changes):
        (tmp_path / "steps.jsonl").write_text(text, "utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()
        record = run.read_record(trained[1]) | {"steps_sha256": digest} | changes
        write_json(tmp_path / "record.json", record)

    write("".join(rows[::5]))
    assert run.read_steps(tmp_path).step.tolist() == [1, 6, 11, 16, 21], "of an archive"
    text = "".join(rows)
    wrong = ["{", "[" * 9999, "1\n", '{"step": 1}\n', text[:-9]]
    wrong += [text.replace('loss": 3', 'loss": []'), text.replace(" 1,", " null,")]
    for content, seal in (*((content, {}) for content in wrong), (text, {"steps_sha256": "0"})):
        write(content, **seal)
        with pytest.raises(CheckpointError, match=r"steps\.jsonl is lost or damaged"):
            run.read_steps(tmp_path)


def test_environment_and_commit_are_what_a_number_depends_on(tmp_path, monkeypatch):
    found = run.environment("cpu")
    assert found.keys() == {"llmlite", "python", "torch", "numpy", "device", "commit"}
    assert found["torch"] == torch.__version__
    assert re.fullmatch(r"CPU \(.+, 1 thread\)", found["device"])
    now = run.commit.__wrapped__  # for a process keeps its first answer, as it does the code
    assert run.commit() == found["commit"]
    for end, mark in (("", ""), ("-dirty", "+")):
        monkeypatch.setenv("LLMLITE_COMMIT", "0123456789abcdef" + end)
        assert now() == "0123456789" + mark
    monkeypatch.delenv("LLMLITE_COMMIT")
    package, installed = tmp_path / "llmlite", tmp_path / "venv" / "llmlite"
    for folder in (package, installed):
        folder.mkdir(parents=True)
    (package / "run.py").write_text("one")
    monkeypatch.setattr(run, "__file__", str(package / "run.py"))
    git = "git -c user.name=a -c user.email=a@b.c"
    script = f"git init -q; git add .; {git} commit -qm First; git rev-parse --short=10 HEAD"
    head = subprocess.check_output(["sh", "-ec", script], cwd=tmp_path, text=True).strip()
    (tmp_path / "README.md").write_text("changes no number")
    assert now() == head
    (package / "run.py").write_text("two")
    assert now() == head + "+"
    monkeypatch.setattr(run, "__file__", str(installed / "run.py"))
    assert now() == "unknown", "in somebody else's repository"
    monkeypatch.setenv("PATH", "")  # without git
    noted = '{"vcs_info": {"commit_id": "0123456789abcdef"}}'
    monkeypatch.setattr(run, "distribution", lambda _: SimpleNamespace(read_text=lambda _: noted))
    assert now() == "0123456789"


def test_a_row_a_run_the_last_written_first(tmp_path, trained):
    with pytest.raises(LLMLiteError, match="There are no runs below"):
        run.runs_table(tmp_path)
    first = trained[0]["epochs"][0] | {"valid_loss": 4.5, "perplexity": 90.0}
    epochs = [first, first | {"valid_loss": 4.4, "perplexity": 89.0}]
    done = trained[0] | {"epochs": epochs, "best": epochs[1], "command": "rm x"}
    records = {
        "runs/finished": done | {"command": "llmlite train; rm x"},
        "elsewhere/failed": done | {"status": "failed", "reason": "It diverged."},
        "runs/interrupted": done | {"status": "running", "epochs": [], "best": None},
        "runs/held": done | {"status": "running", "epochs": epochs[:1], "best": epochs[0]},
        "runs/damaged": {"status": "finished"},
    }
    for age, (name, record) in enumerate(records.items()):
        write_json(tmp_path / name / "record.json", record)
        os.utime(tmp_path / name / "record.json", (1000 - age,) * 2)
    write_json(tmp_path / "pretrained" / "record.json", {"name": "a model that ships"})
    (tmp_path / "pretrained" / "model.safetensors").touch()
    (tmp_path / "runs" / "link").mkdir()
    (tmp_path / "runs" / "link" / "record.json").symlink_to("nowhere")
    with hold(tmp_path / "runs/held"):
        table = run.runs_table(tmp_path)
    assert table.run.tolist() == list(records)
    assert table.state.tolist() == ["finished", "failed", "interrupted", "running", "damaged"]
    assert table.epochs.tolist()[:4] == ["2 of 2", "2 of 2", "0 of 2", "1 of 2"]
    assert table.perplexity.fillna(0).tolist() == [89, 89, 0, 90, 0]
    assert table.command.tolist()[:4] == ["llmlite 'train;' rm x", "", "", ""]
    assert table.reason.tolist()[:4] == ["", "It diverged.", "", ""]
    assert "damaged or of another version" in table.reason[4]
