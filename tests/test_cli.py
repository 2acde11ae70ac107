"""The command line: help that teaches, results on stdout, errors in one sentence, exit code 2."""

import json
import subprocess
import sys

import pytest

from llmlite.audit import Audit
from llmlite.cli import main
from llmlite.cluster import RayOptions
from llmlite.errors import LLMLiteError
from llmlite.experiment import Experiment
from llmlite.profiles import PROFILES

COMMANDS = (
    "prepare",
    "search",
    "train",
    "evaluate",
    "generate",
    "chat",
    "audit",
    "run",
    "reproduce",
)
OTHERS = ("export", "import", "render", "runs")


@pytest.fixture
def folder(tmp_path):
    """A corpus of three small articles a split, in WikiText's format."""
    for split in ("train", "valid", "test"):
        articles = "".join(
            f" \n = {split} {i} = \n \n The cat number {i} sat on the mat in the {split} text . \n"
            for i in range(40)
        )
        (tmp_path / f"wiki.{split}.raw").write_text(articles, encoding="utf-8")
    return tmp_path


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_defaults_and_units(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert "default" in text
    assert "--profile" in text
    if command not in ("reproduce",):
        assert "tokens" in text


def test_the_top_level_help_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(command in text for command in (*COMMANDS, *OTHERS))


def test_every_command_tells_what_it_takes(capsys):
    for command in OTHERS:
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert "DIR" in capsys.readouterr().out


def test_a_ready_made_model_needs_a_device_that_is_there(capsys):
    code, _, err = run(capsys, "generate", "The cat", "--device", "tpu")
    assert code == 2
    assert "no device 'tpu'" in sentence(err)


def sentence(err):
    """What is left on stderr besides progress bars must be one line that ends like a sentence."""
    lines = [line for line in err.strip().splitlines() if line.startswith("llmlite:")]
    assert len(lines) == 1
    assert "Traceback" not in err
    assert lines[0].endswith(".")
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "no/such/folder"], "no folder"),
        (["--profile", "huge"], "quick, small, full"),
        (["--device", "tpu"], "device"),
        (["--vocab-size", "100"], "257"),
        (["--block-size", "0"], "block_size"),
        (["--stride", "999"], "stride"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(capsys, folder, tmp_path, arguments, words):
    defaults = ["--profile", "quick", "--out", tmp_path / "out", "--data", folder]
    code, _, err = run(capsys, "prepare", *defaults, *arguments)
    assert code == 2
    assert words in sentence(err)


def test_a_folder_with_a_file_missing_is_named(capsys, folder, tmp_path):
    (folder / "wiki.valid.raw").unlink()
    code, _, err = run(capsys, "prepare", "--data", folder, "--out", tmp_path / "out")
    assert code == 2
    assert "wiki.valid.raw" in sentence(err)


def test_a_corpus_too_small_for_the_vocabulary_says_what_it_allows(capsys, folder, tmp_path):
    code, _, err = run(
        capsys, "prepare", "--profile", "quick", "--data", folder, "--out", tmp_path / "out"
    )
    assert code == 2
    assert "smaller vocab_size" in sentence(err)
    assert not list((tmp_path / "out").glob("*")), "nothing half-written stays behind"


def test_reproduce_without_notebooks_says_so(capsys, tmp_path):
    code, _, err = run(capsys, "reproduce", "--notebooks", tmp_path, "--profile", "quick")
    assert code == 2
    assert "no notebooks" in sentence(err)


def test_a_path_that_cannot_be_written_is_one_sentence(capsys, folder, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    out = tmp_path / "file" / "out"
    arguments = ["--data", folder, "--out", out, "--profile", "quick", "--vocab-size", "270"]
    code, _, err = run(capsys, "prepare", *arguments)
    assert code == 2
    assert "file" in sentence(err)


def test_an_unknown_command_exits_with_2():
    with pytest.raises(SystemExit) as stop:
        main(["fly"])
    assert stop.value.code == 2


def test_the_whole_way_on_ones_own_text(capsys, folder, tmp_path):
    out = tmp_path / "out"
    shared = ["--profile", "quick", "--data", folder, "--out", out, "--device", "cpu"]
    shared += ["--vocab-size", "280", "--block-size", "16"]

    code, text, _ = run(capsys, "prepare", *shared)
    assert code == 0
    assert "own text" in text
    assert "train" in text

    code, text, _ = run(capsys, "evaluate", *shared)  # searches and trains on the spot
    assert code == 0
    assert "Test Perplexity" in text
    assert list(out.glob("runs/*/test_score.json"))

    arguments = ["generate", "The cat", "--tokens", "5", "--seed", "3", *shared]
    first, second = run(capsys, *arguments), run(capsys, *arguments)
    assert first[0] == 0
    assert "The cat" in first[1]
    assert first[1] == second[1], "a seed fixes the text"

    code, _, err = run(capsys, "generate", "  ", *shared)
    assert code == 2
    assert "empty" in sentence(err)
    code, _, err = run(capsys, "generate", "The cat", "-n", "0", *shared)
    assert code == 2
    assert "1 or more" in sentence(err)
    code, _, err = run(capsys, "generate", "The cat", "--temperature", "-1", *shared)
    assert code == 2
    assert "temperature" in sentence(err)


def test_a_configuration_given_in_full_is_trained_without_a_search(capsys, folder, tmp_path):
    out = tmp_path / "out"
    shared = ["--profile", "quick", "--data", folder, "--out", out, "--vocab-size", "280"]
    shared += ["--block-size", "16", "--learning-rate", "0.002", "--n-layer", "1", "--n-head", "2"]
    shared += ["--n-embd", "16", "--epochs", "1", "--batch-size", "4", "--random-seed", "5"]
    code, text, _ = run(capsys, "train", *shared)
    assert code == 0
    assert "perplexity" in text
    assert not (out / "search").exists()
    (record,) = out.glob("runs/*/record.json")
    identity = json.loads(record.read_text())["identity"]
    assert identity["model"]["n_layer"] == 1
    assert identity["train"]["seed"] == 5
    assert identity["train"]["learning_rate"] == 0.002
    code, _, err = run(capsys, "train", *shared, "--n-head", "3")
    assert code == 2
    assert "multiple of n_head" in sentence(err)


def test_the_audit_names_its_runs_and_makes_none(capsys, folder, tmp_path):
    out = tmp_path / "out"
    shared = ["--profile", "quick", "--data", folder, "--out", out]
    code, text, _ = run(capsys, "audit", "--list", *shared)
    assert code == 0
    header, *names = text.splitlines()
    assert header.startswith("profile quick")
    audit = PROFILES["quick"].audit
    assert names[:2] == ["no-mask", "mask"]
    assert len(set(names)) == len(names)
    assert set(names) >= {
        *("no-mask-deep", "no-mask-batch", "unshifted", "padding", "split-after-windowing"),
        *("scaled-norm", *(f"no-mask-window-{size}" for size in audit.other_windows)),
        *(f"no-mask-seed-{seed}" for seed in audit.seeds[1:]),
        *(f"honest-seed-{seed}" for seed in audit.seeds),
        *(f"grid-{g}-seed-{s}" for g in ("first", "revised", "longer") for s in audit.seeds),
    }
    assert not (out / "runs").exists()
    code, _, err = run(capsys, "audit", "--only", "no-such-run", *shared)
    assert code == 2
    assert "No run of the audit starts with no-such-run" in sentence(err)
    assert not (out / "runs").exists()


@pytest.mark.parametrize(("words", "only"), [([], None), (["--only", "a", "b"], ["a", "b"])])
def test_the_audit_makes_what_was_asked_for(capsys, folder, tmp_path, monkeypatch, words, only):
    asked = []
    monkeypatch.setattr(Audit, "make", lambda self, only: asked.append(only))
    out = tmp_path / "out"
    shared = ["--profile", "quick", "--data", folder, "--out", out]
    code, text, _ = run(capsys, "audit", *shared, *words)
    assert (code, asked) == (0, [only])
    assert str(out / "audit") in text


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ([], None),
        (["--ray", "local"], RayOptions("local")),
        (
            ["--ray", "10.0.0.1:6379", "--gpus-per-run", "0.25", "--cpus-per-run", "2"],
            RayOptions("10.0.0.1:6379", 0.25, 2),
        ),
    ],
)
def test_a_search_goes_to_the_cluster_that_was_named(
    capsys, folder, tmp_path, monkeypatch, words, options
):
    def search(self, grid, ray):
        assert (grid, ray) == ("first", options)
        if ray is not None:
            assert ray.arguments()[: len(words)] == words
        raise LLMLiteError("Got there.")

    monkeypatch.setattr(Experiment, "search", search)
    shared = ["--grid", "first", "--profile", "quick", "--data", folder, "--out", tmp_path / "out"]
    code, _, err = run(capsys, "search", *shared, *words)
    assert (code, sentence(err)) == (2, "llmlite: Got there.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpus-per-run", "1"], "--ray ADDRESS"),
        (["--ray", "local", "--gpus-per-run", "3"], "gpus_per_run is 3.0; allowed: 0 to 1"),
    ],
)
def test_shares_of_a_cluster_that_make_no_sense_are_refused(capsys, words, message):
    code, _, err = run(capsys, "search", *words)
    assert code == 2
    assert message in sentence(err)


def test_the_installed_command_runs():
    run = subprocess.run(
        [sys.executable, "-m", "llmlite.cli", "prepare", "--data", "nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
