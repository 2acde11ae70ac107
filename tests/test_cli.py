"""The command line: help that teaches, results on stdout, errors in one sentence, exit code 2."""

import json
import re
import subprocess
import sys

import pytest
from tiny_plan import write_corpus

from llmlite.cli import COMMANDS, main
from llmlite.cli.options import Work, parse
from llmlite.data import SPLITS
from llmlite.experiment import Experiment
from llmlite.files import LLMLiteError
from llmlite.plan.cluster import RayOptions
from llmlite.profiles import PROFILES, own_profile
from llmlite.run import read_record, typed_command
from llmlite.sources import sample_folder

TINY = [
    *("--data.vocab-size", "280", "--data.block-size", "16", "--model.n-layer", "1"),
    *("--model.n-head", "2", "--model.n-embd", "16", "--train.learning-rate", "0.002"),
    *("--train.epochs", "1", "--train.batch-size", "64", "--train.seed", "5", "--device", "cpu"),
]


@pytest.fixture
def shared(tmp_path):
    """Where to work, and on what text."""
    corpus = write_corpus(tmp_path / "text")
    return ["--profile", "quick", "--data", corpus, "--out", tmp_path / "out"]


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def sentence(err):
    """What is left on stderr besides progress bars must be one line that ends like a sentence."""
    lines = [line for line in err.strip().splitlines() if line.startswith("llmlite:")]
    assert len(lines) == 1
    assert "Traceback" not in err
    assert lines[0].endswith(".")
    return lines[0]


# -- help -----------------------------------------------------------------------------------------

HELP = {
    "prepare": "--data.block-size INT tokens in a window (default: 64)",
    "search": "first: fixed rate; revised: warmup + cosine (default: revised)",
    "train": "--train.learning-rate FLOAT the peak (default: 0.004)",
    "evaluate": "by lm-evaluation-harness's rule, with 95% intervals over the articles",
    "run": "runs whose names begin so, such as retrain or no-mask; all if not given (default: )",
    "runs": "the folder to look in; the clone's runs/ if not given (default: None)",
    "generate": "--top-k {None}|INT keep the K likeliest (default: 50)",
    "chat": "--seed INT the same seed gives the same text (default: 0)",
    "export": "--to {None}|PATH a new or empty folder (default: None)",
    "import": "has config.json, model.safetensors and tokenizer.json (default: None)",
    "reproduce": "numbers of the notebooks to run, such as 01 04; all if not given (default: )",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_help_has_defaults_and_the_comments_of_fields(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert not stop.value.code
    text = re.sub(r"[│╭╮╰╯─\s]+", " ", capsys.readouterr().out)
    assert COMMANDS[command].__doc__ in text
    assert HELP[command] in text
    works = issubclass(COMMANDS[command], Work)
    assert ("--profile STR auto, quick, small or full" in text) is works
    bare = re.findall(r"--[\w.-]+ (?:[A-Z]+ )?\(default", text)
    assert [option for option in bare if "." not in option] == [], "said nothing about"


def test_the_top_level_help_lists_every_command(capsys):
    for words, code in ((["--help"], 0), ([], 0), (["fly"], 2)):
        assert main(words) == code
        text = "".join(capsys.readouterr())
        assert all(f"  {name} " in text for name in COMMANDS)
    assert "there is no command 'fly'" in text


# -- options --------------------------------------------------------------------------------------


def test_dotted_options_reach_the_run(shared):
    words = ["--model.dropout=0.25", "--train.epochs", "4", "--revised.space.n-head", "1", "2"]
    words += ["--data.stride", "8", "--train.no-fast", "--searched"]
    work = parse("train", COMMANDS["train"], [*map(str, shared), *words])
    assert work.changes == {
        "model.dropout": 0.25,
        "train.epochs": 4,
        "revised.space.n_head": (1, 2),
        "data.stride": 8,
        "train.fast": False,
        "searched": True,
    }
    experiment = work.experiment()
    assert experiment.profile.model.dropout == 0.25
    assert (experiment.profile.train.epochs, experiment.profile.train.fast) == (4, False)
    assert experiment.data.stride == 8
    assert experiment.data.block_size == PROFILES["quick"].data.block_size
    assert len(experiment.grid("revised")) == 2 * 2 * 2
    assert experiment.profile.searched


REFUSED = [
    (["prepare", "--data", "no/such/folder"], "no/such/folder"),
    (["prepare", "--profile", "huge"], "quick, small, full"),
    (["prepare", "--profile"], "--profile"),
    (["prepare", "--device", "tpu"], "no device 'tpu'"),
    (["prepare", "--data.vocab-size", "100"], "257"),
    (["prepare", "--data.block-size", "0"], "block_size"),
    (["prepare", "--data.block-size", "many"], "--data.block-size"),
    (["prepare", "--data.stride", "999"], "stride"),
    (["prepare", "--text", "no/such/file"], "no/such/file"),
    (["train", "--model.n-head", "3"], "multiple of n_head"),
    (["train", "--model.width", "3"], "--model.width"),
    (["train", "--epochs", "3"], "--epochs"),
    (["search", "--grid", "third"], "third"),
    (["search", "--gpus-per-run", "1"], "--ray ADDRESS"),
    (["run", "--only", "no-such-run"], "Nothing in the plan begins with no-such-run"),
    (["generate", "The cat", "--device", "tpu"], "no device 'tpu'"),
    (["runs", "--out", "nowhere"], "no runs below nowhere"),
    (["export"], "--to"),
    (["import"], "--to"),
    (["reproduce", "--from", "no.tar.gz"], "no records of `llmlite run` at no.tar.gz"),
    (["reproduce", "--text", "a tale.txt"], "There is no file or folder"),
    (["train", "--text", "a tale.txt", "--data", "sample"], "--text stands for --data"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED)
def test_bad_input_is_one_sentence_and_exit_code_2(
    capsys, shared, tmp_path, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    command, *rest = arguments
    if command in ("prepare", "train", "search", "run"):  # what is given last counts
        rest = [*(s for s in shared if "--text" not in rest or s not in shared[:4]), *rest]
    code, _, err = run(capsys, command, *rest)
    assert code == 2
    assert words in sentence(err)
    assert not list((tmp_path / "out").glob("runs/*")), "nothing is trained"


def test_a_path_that_cannot_be_written_is_one_sentence(capsys, shared, tmp_path):
    (tmp_path / "out").write_text("not a folder")
    code, _, err = run(capsys, "prepare", *shared, "--data.vocab-size", "270")
    assert code == 2
    assert str(tmp_path / "out") in sentence(err)


def test_a_search_goes_to_the_cluster_that_was_named(capsys, shared, monkeypatch):
    def search(self, grid, ray):
        assert (grid, ray) == ("first", RayOptions("10.0.0.1:6379", 0.25, 2))
        raise LLMLiteError("Got there.")

    monkeypatch.setattr(Experiment, "search", search)
    words = ["--ray", "10.0.0.1:6379", "--gpus-per-run", "0.25", "--cpus-per-run", "2"]
    code, _, err = run(capsys, "search", "--grid", "first", *shared, *words)
    assert (code, sentence(err)) == (2, "llmlite: Got there.")


@pytest.mark.parametrize(
    ("argv", "typed"),
    [
        (["/bin/llmlite", "train", "--data", "my text"], "llmlite train --data 'my text'"),
        (["/src/llmlite/cli/__main__.py", "search"], "llmlite search"),
        (["/bin/ipykernel_launcher.py", "-f", "x.json"], None),
        (["-c"], None),
    ],
)
def test_a_record_has_what_was_typed_in_a_shell(monkeypatch, argv, typed):
    monkeypatch.setattr(sys, "argv", argv)
    assert typed_command() == typed


def test_the_installed_command_runs():
    command = [sys.executable, "-m", "llmlite.cli", "prepare", "--data", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


# -- the way from text to a model -----------------------------------------------------------------


def test_what_is_given_in_full_is_trained_without_a_search(capsys, shared, tmp_path):
    out = tmp_path / "out"
    code, text, _ = run(capsys, "train", *shared, *TINY, "--searched")
    assert code == 0
    assert "perplexity" in text
    (folder,) = (out / "runs").iterdir()
    assert str(folder) in text
    identity = read_record(folder)["identity"]
    assert identity["model"].items() >= {"n_layer": 1, "n_embd": 16, "block_size": 16}.items()
    assert identity["train"].items() >= {"seed": 5, "learning_rate": 0.002}.items()
    code, text, _ = run(capsys, "runs", "--out", out)
    assert code == 0
    assert "finished" in text
    assert folder.name in text


def test_a_search_and_what_follows_from_it(capsys, shared, tmp_path):
    narrow = ["--revised.space.n-layer", "1", "--revised.space.learning-rate", "0.01", "0.002"]
    narrow += ["--revised.space.n-embd", "16", "--revised.space.n-head", "2"]
    narrow += ["--revised.train.epochs", "1", *TINY[:4]]
    code, text, _ = run(capsys, "prepare", *shared, *TINY[:4])
    assert code == 0
    assert "own text" in text
    code, text, _ = run(capsys, "search", *shared, *narrow)
    assert code == 0
    assert "Best: learning_rate" in text
    best = json.loads(re.search(r"learning_rate ([\d.]+)", text)[1])
    code, text, _ = run(capsys, "evaluate", *shared, *narrow, "--searched", "--train.epochs", "1")
    assert code == 0
    assert "Test Perplexity" in text
    (scored,) = (tmp_path / "out").glob("runs/*/test_score.json")
    assert read_record(scored.parent)["identity"]["train"]["learning_rate"] == best


def test_the_plan_is_named_and_nothing_is_made(capsys, shared, tmp_path):
    shared += ["--data.vocab-size", "280"]
    code, text, _ = run(capsys, "run", "--list", "--only", "no-mask", "unshifted", *shared)
    assert code == 0
    header, *lines = text.splitlines()
    assert header.startswith("profile quick")
    assert lines[0].split()[:2] == ["open", "no-mask-deep"]
    names = ["no-mask-deep", "no-mask", "no-mask-batch", "no-mask-window-8", "no-mask-window-12"]
    names += ["unshifted", "no-mask-seed-2", "no-mask-seed-3"]
    assert [line.split()[1] for line in lines] == names
    assert not (tmp_path / "out" / "runs").exists()


@pytest.fixture
def tale(tmp_path):
    """22 kB of prose in one file."""
    text = (sample_folder() / "wiki.train.raw").read_text("utf-8")[:22_000]
    path = tmp_path / "a tale.txt"
    path.write_text(text.replace("\n \n", "\n\n"), encoding="utf-8")
    return path


def test_own_text_is_trained_on_with_sizes_that_fit_it(capsys, tale, tmp_path):
    own = own_profile(tale.stat().st_size)
    work = parse("train", COMMANDS["train"], ["--text", str(tale), "--device", "cpu"])
    assert (work.settings, work.changes) == (own, {})
    shared = ["--text", tale, "--out", tmp_path / "out", *TINY]
    code, text, _ = run(capsys, "train", *shared)
    assert code == 0
    assert "own text" in text.splitlines()[0]
    assert "profile own" in text.splitlines()[0]
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    identity = read_record(folder)["identity"]
    assert "a tale" in identity["data"]
    assert identity["model"]["dropout"] == own.model.dropout, "the rest is as the size has it"
    code, text, _ = run(capsys, "evaluate", *shared)
    assert code == 0
    assert "Bits per byte" in text
    assert list((tmp_path / "out" / "runs").iterdir()) == [folder]
    assert set(SPLITS) == {p.stem for p in (tmp_path / "out").glob("tokens-*/*.bin")}
