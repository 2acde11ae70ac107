import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from llmlite.cli import main
from llmlite.config import ModelConfig, TrainConfig
from llmlite.errors import LLMLiteError
from llmlite.files import hold
from llmlite.runs import COLUMNS, WIDTH, age_in_words, report, runs_table
from llmlite.train import Trainer

COMMAND = "llmlite train --profile quick --out '/a folder'"


def record(status="finished", done=2, of=3, **changes):
    """A record as the Trainer writes it, in the parts that a list of runs needs."""
    epochs = [{"epoch": n, "perplexity": 90.0 - n} for n in range(1, done + 1)]
    return {
        "status": status,
        "command": COMMAND,
        "identity": {"train": {"epochs": of}},
        "epochs": epochs,
        "best": epochs[-1] if epochs else None,
        **changes,
    }


def write(folder, content, age=0.0):
    folder.mkdir(parents=True)
    path = folder / "record.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    os.utime(path, (time.time() - age,) * 2)
    return folder


def row_of(folder, run):
    return runs_table(folder).set_index("run").loc[run]


def test_a_row_a_run_the_last_written_first(tmp_path):
    write(tmp_path / "quick" / "best-1", record(), age=7200)
    write(tmp_path / "quick" / "search" / "first" / "lr1", record(done=3), age=60)
    table = runs_table(tmp_path)
    assert list(table.columns) == COLUMNS
    assert table.run.tolist() == ["quick/search/first/lr1", "quick/best-1"]
    assert table.epochs.tolist() == [3, 2]
    assert table.of.tolist() == [3, 3]
    assert table.perplexity.tolist() == [87.0, 88.0]
    assert table.age.tolist() == pytest.approx([60, 7200], abs=10)


def test_copies_of_runs_are_not_listed_again(tmp_path):
    write(tmp_path / "best-1", record())
    write(tmp_path / "rendered" / "records" / "best-1", record())
    write(tmp_path / "model", record())
    (tmp_path / "model" / "model.safetensors").touch()
    assert runs_table(tmp_path).run.tolist() == ["best-1"]


def test_the_age_is_that_of_the_last_step_as_well(tmp_path):
    run = write(tmp_path / "a", record("running"), age=7200)
    (run / "steps.jsonl").write_text("{}\n")
    assert row_of(tmp_path, "a").age < 60


def test_a_run_that_nobody_holds_was_interrupted(tmp_path):
    run = write(tmp_path / "a", record("running", done=0))
    assert row_of(tmp_path, "a").state == "interrupted"
    with hold(run):
        assert row_of(tmp_path, "a").state == "running"
    assert row_of(tmp_path, "a").state == "interrupted"
    assert row_of(tmp_path, "a").isna().perplexity
    assert row_of(tmp_path, "a").carry_on == COMMAND


TRAIN = """
import sys, torch
from llmlite.config import ModelConfig, TrainConfig
from llmlite.train import Trainer
ids = torch.arange(3000) % 10
model = ModelConfig(vocab_size=10, block_size=8, n_layer=1, n_head=1, n_embd=8)
config = TrainConfig(epochs=1000, batch_size=8, amp="off", patience=0)
Trainer(model, config, {"train": ids, "valid": ids[:100]}, sys.argv[1], {}, progress=False).fit()
"""


@pytest.mark.slow
def test_a_run_is_running_until_its_process_is_killed(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", TRAIN, str(tmp_path / "a")])
    give_up = time.monotonic() + 60
    while not (tmp_path / "a" / "record.json").exists() and time.monotonic() < give_up:
        time.sleep(0.05)
    assert row_of(tmp_path, "a").state == "running"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert row_of(tmp_path, "a").state == "interrupted"
    assert row_of(tmp_path, "a").of == 1000


def test_what_the_trainer_leaves_is_understood(tmp_path):
    ids = torch.arange(300) % 10
    model = ModelConfig(vocab_size=10, block_size=8, n_layer=1, n_head=1, n_embd=8)
    config = TrainConfig(epochs=2, batch_size=8, amp="off")
    finished = Trainer(
        model, config, {"train": ids, "valid": ids}, tmp_path / "a", {}, progress=False,
        command=COMMAND,
    ).fit()  # fmt: skip
    row = row_of(tmp_path, "a")
    assert (row.state, row.epochs, row.of, row.carry_on) == ("finished", 2, 2, COMMAND)
    assert row.perplexity == finished["best"]["perplexity"]


@pytest.mark.parametrize(
    "content", ["{", "", "[]", "null", '{"status": "running"}', '"finished"', "{\xff}"]
)
def test_a_damaged_record_is_a_row_that_says_so(tmp_path, content):
    write(tmp_path / "good", record())
    write(tmp_path / "bad", content)
    table = runs_table(tmp_path)
    assert sorted(table.state) == ["damaged", "finished"]
    text = report(table)
    assert re.search(r"bad/record\.json is (damaged|not a run's record) .*; delete it\.", text)


def test_a_failed_run_says_why_and_how_to_go_on(tmp_path):
    write(tmp_path / "a", record("failed", done=1, reason="The loss became nan at step 3 of 9."))
    text = report(runs_table(tmp_path))
    assert "a (The loss became nan at step 3 of 9.)\n$ " + COMMAND in text


def test_a_command_is_shown_once_for_all_runs_that_it_carries_on(tmp_path):
    write(tmp_path / "one", record("running"), age=10)
    write(tmp_path / "two", record("failed", reason="Too hot."), age=20)
    write(tmp_path / "other", record("running", command=f"{COMMAND} --epochs 9"), age=30)
    write(tmp_path / "done", record(), age=40)
    write(tmp_path / "busy", record("running"), age=50)
    with hold(tmp_path / "busy"):
        _, *parts = report(runs_table(tmp_path)).split("\n\n")
    assert parts == [
        f"To carry on:\n  one\n  two (Too hot.)\n$ {COMMAND}",
        f"To carry on:\n  other\n$ {COMMAND} --epochs 9",
    ]


def test_a_run_without_a_command_says_what_to_call(tmp_path):
    write(tmp_path / "a", record("running", command=None))
    assert "Experiment(…).retrain()" in report(runs_table(tmp_path))


def test_the_report_stands_in_columns_of_120_characters(tmp_path):
    write(tmp_path / "short", record())
    write(tmp_path / "very" / ("long-" * 40) / "end-of-the-path", record(), age=3600)
    write(tmp_path / "large", record(best={"perplexity": 123456789.123}), age=9e6)
    lines = report(runs_table(tmp_path)).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert max(map(len, lines)) <= WIDTH
    assert lines[0].split() == ["run", "state", "epochs", "perplexity", "last", "written"]
    assert re.match(r"….*/end-of-the-path  ", lines[2])
    for line in lines[1:]:
        assert re.search(r"  finished +2 of 3 +[\d,]+\.\d\d +\d+ \w+ ago$", line)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.7, "59 s"), (60, "1 min"), (3599, "59 min"), (7200, "2 h"), (9e6, "104 d")],
)
def test_an_age_is_said_in_its_largest_whole_unit(seconds, words):
    assert age_in_words(seconds) == words


def test_nothing_to_list_is_said_in_a_sentence(tmp_path, one_sentence):
    assert report(runs_table(tmp_path)) == "There are no runs here yet."
    with pytest.raises(LLMLiteError, match="There is no folder") as error:
        runs_table(tmp_path / "none")
    one_sentence(error)


def test_the_command_lists_runs(tmp_path, capsys):
    write(tmp_path / "mine", record("running"))
    assert main(["runs", "--out", str(tmp_path)]) == 0
    assert f"$ {COMMAND}" in capsys.readouterr().out
    assert main(["runs", "--out", str(tmp_path / "none")]) == 2
