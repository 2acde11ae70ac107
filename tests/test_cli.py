"""The command line: help that teaches, results on stdout, errors in one sentence, exit code 2."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch

from llmlite.cli import COMMANDS, main
from llmlite.cli.options import Work, parse
from llmlite.profiles import PROFILES, own_profile
from llmlite.run import read_record
from llmlite.sources import sample_folder

DATA = ["--device", "cpu", "--data.vocab-size", "280", "--data.block-size", "16"]
TINY = [
    "--model.n-layer", "1", "--model.n-head", "2", "--model.n-embd", "16", "--train.epochs", "1",
    "--train.learning-rate", "0.003", "--train.seed", "5", "--train.train-tokens", "5000",
]  # fmt: skip


@pytest.fixture
def shared(some_articles, tmp_path):
    """Where to work, and on what text."""
    return ["--profile", "quick", "--data", some_articles, "--out", tmp_path / "out"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_help_has_defaults_and_the_comments_of_fields(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert not stop.value.code
    text = re.sub(r"[│╭╮╰╯─\s]+", " ", capsys.readouterr().out)
    assert COMMANDS[command].__doc__ in text
    works = issubclass(COMMANDS[command], Work)
    assert ("--profile STR auto, quick, small or full" in text) is works
    trains = "train" in getattr(COMMANDS[command], "PARTS", ())
    assert ("--train.learning-rate FLOAT the peak (default: 0.004)" in text) is trains
    bare = re.findall(r"--[\w.-]+ (?:[A-Z]+ )?\(default", text)
    assert [option for option in bare if "." not in option] == [], "said nothing about"


@pytest.mark.parametrize("words", [["--help"], ["-h"], []])
def test_the_top_level_help_lists_every_command(llmlite, words):
    shown = llmlite(*words)
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.__doc__)}$", shown, re.MULTILINE)


def test_dotted_options_reach_the_run(shared):
    words = ["--model.dropout=0.25", "--train.epochs", "4", "--revised.space.n-head", "1", "2"]
    words += ["--data.stride", "8", "--train.no-fast", "--searched"]
    work = parse("train", COMMANDS["train"], [*map(str, shared), *words])
    assert work.changes == {
        "model.dropout": 0.25, "train.epochs": 4, "revised.space.n_head": (1, 2),
        "data.stride": 8, "train.fast": False, "searched": True,
    }  # fmt: skip
    experiment = work.experiment()
    assert (experiment.profile.model.dropout, experiment.profile.train.epochs) == (0.25, 4)
    assert experiment.data == replace(PROFILES["quick"].data, source=str(shared[3]), stride=8)
    assert len(experiment.grid("revised")) == 2 * 2 * 2


REFUSED = [
    ("fly", "there is no command 'fly'; choose prepare, search,"),
    ("prepare --data no/such/folder", "no/such/folder"),
    ("prepare --profile huge", "quick, small, full"),
    ("prepare --data.vocab-size 100", "257"),
    ("prepare --data.block-size many", "--data.block-size"),
    ("prepare --text no/such/file", "no/such/file"),
    ("prepare --out a-file --data.vocab-size 270", "a-file"),
    ("train --device cuda", "There is no device 'cuda' here"),
    ("train --model.vocab-size 8", "model.vocab_size follow the data's; set data.vocab_size and"),
    ("train --model.width 3", "--model.width"),
    ("prepare --data ~no-such-user/x", "There is no file or folder ~no-such-user/x"),
    ("prepare --out a\0b", "An option has a NUL in it"),
    ("train --text=", "--text is followed by nothing"),
    ("train --text a-file --data sample", "--text stands for --data"),
    ("search --revised.space.n-head 2 3", "n_embd 64 cannot be shared among n_head 3"),
    ("run --only no-such-run x", "Nothing in the plan begins with no-such-run, x"),
    ("train --train.learning-rate nan", "learning_rate is nan; allowed: a number, 1e-30 to 1e+30"),
    ("train --model.n-embd 65536 --model.n-layer 99", "a model of 5,"),
    ("run --minutes inf", "minutes is inf"),
    ("run --minutes 0", "nothing to do in 0 minutes"),
    ("runs --out nowhere", "no runs below nowhere"),
    ("export", "--to"),
    ("import", "--to"),
    ("reproduce --from no.tar.gz", "no records of `llmlite run` at no.tar.gz"),
    ("reproduce --text a-file", "The notebooks speak of WikiText-2"),
    ("reproduce", "There is no notebook in"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED)
def test_bad_input_is_one_sentence(llmlite, shared, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "a-file").write_text("Not a folder.\n\n" * 2000)
    command, *rest = words.split()
    if command in ("prepare", "train", "search", "run"):  # what is given last counts
        rest = [*(shared[4:] if "--text" in rest else shared), *rest]
    assert said in llmlite(command, *rest, code=2)
    assert not list((tmp_path / "out").glob("runs/*")), "nothing is trained"


SMALL = "There is not enough memory for this"


@pytest.mark.parametrize(("error", "said"), [
    (MemoryError(), f"{SMALL} (MemoryError); ask for less."),
    (RecursionError("maximum depth"), f"{SMALL} (maximum depth); ask for less."),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), f"{SMALL} (DefaultCPUAlloca"),
    (torch.OutOfMemoryError("CUDA out of memory."), f"{SMALL} (CUDA out of memory); ask"),
    (PermissionError(13, "Permission denied", "a-file"), "a-file: Permission denied; name another"),
    (OSError(27, "File too large"), "The output cannot be written: File too large; send"),
    (OSError(5, "?"), "llmlite: [Errno 5] ?."),
    (OSError(), "llmlite: OSError."),
])  # fmt: skip
def test_what_nobody_has_caught_is_one_sentence(llmlite, monkeypatch, error, said):
    monkeypatch.setattr(COMMANDS["runs"], "run", Mock(side_effect=error))
    assert said in llmlite("runs", code=2)


def test_a_closed_stream_is_no_error(monkeypatch):
    for stream in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, stream, None)
    assert main(["fly"]) == 2
    assert main(["--help"]) == 0


@pytest.mark.parametrize(("typed", "said"), [
    ('"$0" -m llmlite.cli "$1"', "f␊l␛y"),
    ('PYTHONIOENCODING=ascii "$0" -m llmlite.cli runs --x', "options: --x; `llmlite runs --help`"),
    ('"$0" -m llmlite.cli --help >/dev/full', "The output cannot be written: No space left"),
    ('"$0" -m llmlite.cli runs --help >/dev/full', "The output cannot be written: No space left"),
    ('"$0" -m llmlite.cli --help | true', None),
])  # fmt: skip
def test_the_installed_command_runs(typed, said):
    command = ["sh", "-c", typed, sys.executable, "f\nl\x1by"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == ((2, 1) if said else (0, 0))
    assert (said or "") in done.stderr


def test_a_user_without_home_and_name_is_given_both():
    code = "import pwd; pwd.getpwuid = {}.__getitem__; import llmlite, getpass, pathlib;"
    code += "print(getpass.getuser(), pathlib.Path.home().is_dir())"
    env = {name: value for name, value in os.environ.items() if "HOME" not in name}
    env = {name: value for name, value in env.items() if name not in ("USER", "LOGNAME")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout == "nobody True\n"


def test_the_plan_is_named_and_nothing_is_made(llmlite, shared, tmp_path):
    only = ["--only", "no-mask-w", "unshifted", "--data.vocab-size", "280"]
    header, *lines = llmlite("run", "--list", *shared, *only).splitlines()
    assert header.startswith("profile quick")
    names = ["no-mask-window-8", "no-mask-window-12", "unshifted"]
    assert [line.split()[:2] for line in lines] == [["open", name] for name in names]
    assert not (tmp_path / "out" / "runs").exists()


def test_own_text_is_trained_on_as_it_is_given_and_otherwise_fits_it(llmlite, tmp_path):
    tale, out = tmp_path / os.fsdecode(b"a tale\xff.txt"), tmp_path / "out"
    text = (sample_folder() / "wiki.train.raw").read_text("utf-8")[:22_000]
    tale.write_text(text.replace("\n \n", "\n\n"), encoding="utf-8")
    own, given = own_profile(tale.stat().st_size), ["--text", tale, "--out", out, *DATA]
    work = parse("train", COMMANDS["train"], ["--text", str(tale), "--device", "cpu"])
    assert (work.settings, work.changes) == (own, {})
    assert "own text" in llmlite("prepare", *given)
    text = llmlite("train", *given, *TINY, "--searched")
    (folder,) = (out / "runs").iterdir()
    for words in ("own text", "profile own", "perplexity", str(folder)):
        assert words in text
    identity = read_record(folder)["identity"]
    shape = {"n_layer": 1, "n_embd": 16, "block_size": 16, "dropout": own.model.dropout}
    assert "a tale" in identity["data"]
    assert identity["model"].items() >= shape.items()
    assert identity["train"].items() >= {"seed": 5, "learning_rate": 0.003}.items()
    assert "Bits per byte" in llmlite("evaluate", *given, *TINY)
    assert list((out / "runs").iterdir()) == [folder]
    listed = llmlite("runs", "--out", out)
    assert ("finished" in listed, folder.name in listed) == (True, True)

    # Where no rate is given, it is searched for.
    given += ["--revised.train.epochs", "1", "--revised.space.n-embd", "8"]
    best = re.search(r"Best: learning_rate ([\d.]+)(?s:.*)Table: ", llmlite("search", *given))
    assert "Test Perplexity" in llmlite("evaluate", *given, "--train.epochs", "1")
    (scored,) = set(out.glob("runs/*/test_score.json")) - {folder / "test_score.json"}
    assert read_record(scored.parent)["identity"]["train"]["learning_rate"] == float(best[1])
