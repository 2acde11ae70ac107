"""The repository's own texts: links lead somewhere, commands can be typed, versions agree, and the
environment that is promised is the same in environment.yml, Makefile and constraints.txt."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import venv
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from operator import attrgetter
from pathlib import Path
from unittest import mock

import pytest
import torch
import yaml
from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import llmlite
from llmlite.cli import COMMANDS
from llmlite.cli.options import parse
from llmlite.files import LLMLiteError

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(\s*<?([^)\s]+?)>?\)|(?:src|href)=\"([^\"]+)\"")
MAKEFILE = (REPOSITORY / "Makefile").read_text("utf-8")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]


def git(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True)


FILES = set(git("ls-files", "--cached", "--others", "--exclude-standard").stdout.splitlines())
FILES = {name for name in FILES if (REPOSITORY / name).is_file()}
pytestmark = pytest.mark.skipif(not FILES, reason="this is no git repository: nothing is listed")
PAGES = sorted(name for name in FILES if name.endswith((".md", ".ipynb")))


def prose(page: str) -> str:
    """A Markdown file without what earlier releases say of their own options, or a notebook's."""
    text = (REPOSITORY / page).read_text("utf-8")
    if page.endswith(".md"):
        return text.split("\n## [0")[0]
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_of_the_repository(page):
    there = {path for name in FILES for path in (REPOSITORY / name, *(REPOSITORY / name).parents)}
    links = ["".join(match) for match in LINK.findall(SPAN.sub("", FENCE.sub("", prose(page))))]
    names = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    targets = [((REPOSITORY / page).parent / name).resolve() for name in names]
    in_colab = re.findall(r"colab\S+/blob/[^/\s]+/(\S+?\.ipynb)", prose(page))
    targets += [REPOSITORY / name for name in in_colab]
    assert [target for target in targets if target not in there] == []


def test_the_readmes_tree_has_every_module_and_nothing_that_is_not_there():
    """Folders stand at the left; below `llmlite/`, indented, is what it holds."""
    (tree,) = (b for b in FENCE.findall(prose("README.md")) if b.startswith("```\nllmlite/"))
    names = re.findall(r"^( *)([\w/.]+)", tree, re.MULTILINE)
    paths = {f"llmlite/{name}" if indent else name for indent, name in names} - {"runs/"}
    folders = {f"{folder}/" for name in FILES for folder in Path(name).parents}
    assert not paths - FILES - folders
    own = {name for name in FILES | folders if re.fullmatch(r"llmlite/((?!__)\w+\.py|\w+/)", name)}
    assert not own - paths


def mistakes(line: str) -> list[str]:
    """What cannot be typed in a line of code: calls of llmlite and of make, and names of files."""
    wrong = []
    if call := re.search(r"(?:^|[\s/])llmlite +([a-z]+)(.*)", line):
        name, words = call[1], shlex.split(call[2].replace("…", ""), comments=True)
        arguments = [re.sub(r"^[A-Z][A-Z:]*$", "1", word) for word in words]  # N, ARCHIVE
        try:
            with mock.patch("llmlite.cli.options._text_bytes", return_value=100_000):
                parse(name, COMMANDS[name], arguments)
        except (LLMLiteError, KeyError) as error:
            wrong.append(str(error))
        except SystemExit:  # after --help; whatever else tyro refuses is an LLMLiteError
            pass
    for module, name in re.findall(r"([\w/]+)\.py::([\w.]+)", line):  # as the tour names functions
        attrgetter(name)(import_module(f"llmlite.{module.replace('/', '.')}"))
    command = line.split(" #")[0]
    if made := re.search(r"^(?:\w+=\S+ +)*make((?: +[\w-]+(?:=\S*)?)+)", command):
        for word in made[1].split():
            name, is_variable, _ = word.partition("=")
            known = rf"\$\({name}\b|^GIVEN :=.* {name}\b" if is_variable else rf"^{name}:"
            if not re.search(known, MAKEFILE, re.M):
                wrong.append(f"make {word}")
    files = re.findall(r"[\w/.-]+\.py\b", command) if "python" in command else []
    return wrong + [name for name in files if not (REPOSITORY / name).is_file()]


@pytest.mark.parametrize("page", PAGES)
def test_commands_can_be_typed_as_they_stand(page):
    text = prose(page).replace("\\\n", " ")
    code = "\n".join(FENCE.findall(text)).splitlines()
    assert not [mistake for line in code for mistake in mistakes(line.strip())]
    spans = [mistake for span in SPAN.findall(FENCE.sub("", text)) for mistake in mistakes(span)]
    # In a sentence, an option may do without its value.
    assert not [what for what in spans if not re.search("[Mm]issing value|expects", what)]


def test_every_target_of_make_is_phony_and_explained():
    """A file or folder called `site` or `test` must not keep make from its work."""
    (phony,) = re.findall(r"^\.PHONY:(.*)", MAKEFILE, re.MULTILINE)
    assert set(phony.split()) == set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))


GIVEN = {  # what make and the shell would read in their own way
    "DATA": """a "b" it's 'c'""",
    "OUT": "$(shell touch made) $$HOME ${HOME}",
    "ARCHIVE": "`touch made`; touch made\n# \\ %",
    "PROFILE": "*; touch made",
    "DEVICE": "cpu --processes 2",
    "REPOSITORY": 'https://x.org/$(shell touch made)"; touch made',
}
NAMED = ["--profile", GIVEN["PROFILE"], "--data", GIVEN["DATA"], "--out", GIVEN["OUT"]]
ARCHIVE, DEVICE = GIVEN["ARCHIVE"], GIVEN["DEVICE"]
CALLS = [["reproduce", *NAMED[:4]]]
CALLS += [["run", *NAMED, "--device", DEVICE, "--archive", ARCHIVE]]
CALLS += [["reproduce", *NAMED, "--device", "cpu", "--from", ARCHIVE]]
CALLS += [["figures/publish.py", *NAMED]]


@pytest.mark.parametrize("given_by", ["words", "environment"])
def test_make_passes_on_what_it_is_given_as_it_stands(tmp_path, given_by):
    for program in ("llmlite", "python"):
        (tmp_path / program).write_text("#!/bin/sh\nprintf '%s\\0' \"$@\" '\n' >> said\n")
        (tmp_path / program).chmod(0o755)
    words = [f"{name}={value}" for name, value in GIVEN.items() if given_by == "words"]
    make = ["make", "-f", REPOSITORY / "Makefile", "BIN=.", "INSTALLED=", *words]
    here = {"cwd": tmp_path, "env": os.environ | (GIVEN if not words else {})}
    subprocess.run([*make, "reproduce", "full", "render"], check=True, **here)
    calls = (tmp_path / "said").read_text("utf-8").split("\0\n\0")[:-1]
    assert [call.split("\0") for call in calls] == CALLS
    for address in ([], ["REPOSITORY=https://github.com/"], ["REPOSITORY=https://x.org/a//"]):
        assert subprocess.run([*make, "colab", *address], **here).returncode, "no address"
    assert not (tmp_path / "made").exists()


def test_make_colab_names_a_fork(tmp_path):
    for name in ("README.md", "notebooks/01_prepare.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    make = ["make", "-C", tmp_path, "-f", REPOSITORY / "Makefile", "colab"]
    subprocess.run([*make, "REPOSITORY=https://github.com/me/a-fork"], check=True)
    assert "colab.research.google.com/github/me/a-fork/" in (tmp_path / "README.md").read_text()
    cells = json.loads((tmp_path / "notebooks/01_prepare.ipynb").read_text("utf-8"))["cells"]
    assert "colab.research.google.com/github/me/a-fork/blob" in "".join(cells[0]["source"])
    assert 'repository = "https://github.com/me/a-fork"' in "".join(cells[1]["source"])


def test_git_has_the_records_of_runs_and_no_registry_host_or_somebodys_folder():
    hosts = r"\b(pypi|pythonhosted|npmjs|crates|debian|anaconda)\.(org|com|io|net)\b"
    folders = r"(^|[^A-Za-z0-9_.~])/(work|root|home/[a-z0-9_]+)/[A-Za-z0-9_]"
    found = git("grep", "--untracked", "-IinE", f"{hosts}|{folders}")
    assert (found.returncode, found.stdout) == (1, "")
    # An ignored folder called runs once kept all records out.
    assert git("check-ignore", "-q", "figures/records/full/runs/a-run/record.json").returncode == 1


def test_changelog_package_and_citation_agree():
    titles = re.findall(r"(?m)^## (.*)", (REPOSITORY / "CHANGELOG.md").read_text("utf-8"))
    released = [title for title in titles if title != "[Unreleased]"]
    version = re.fullmatch(r"\[(.+)\] - \d{4}-\d{2}-\d{2}", released[0])[1]
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text("utf-8"))
    assert version == PROJECT["version"] == llmlite.__version__ == cited["version"]
    assert cited["license"] == PROJECT["license"]


EXTRAS = PROJECT["optional-dependencies"].values()
LINES = [line for lines in (PROJECT["dependencies"], *EXTRAS) for line in lines]
ASKED = [r for r in map(Requirement, LINES) if r.name != PROJECT["name"]]  # which asks for extras
CONSTRAINTS = (REPOSITORY / "constraints.txt").read_text("utf-8")
PINNED = re.findall(r"^([^#\s]+)==(\S+)$", CONSTRAINTS, re.MULTILINE)
PINS = {canonicalize_name(name): Version(version) for name, version in PINNED}


def test_conda_and_make_install_the_same_on_a_python_that_the_package_asks_for():
    conda = yaml.safe_load((REPOSITORY / "environment.yml").read_text("utf-8"))
    assert (conda["name"], conda["channels"]) == (PROJECT["name"], ["conda-forge"])
    python, _, section = conda["dependencies"]
    (words,) = re.findall(r"-m pip install .*(-c .*)", MAKEFILE)
    assert " ".join(section["pip"]) == words.replace("'", "")
    (checked,) = re.findall(r"sys\.version_info < \((\d+), (\d+)\)", MAKEFILE)
    least = ".".join(checked)
    assert PROJECT["requires-python"] == f">={least}"
    assert Version(python.removeprefix("python=")) >= Version(least)
    assert f"Python {least} or later" in (REPOSITORY / "README.md").read_text("utf-8")


def test_what_is_asked_for_is_pinned_once_within_its_bounds_and_has_no_upper_one():
    """What pinned packages ask for as well, so that the same command installs the same versions
    next year: but for PyTorch, whose builds bring exact versions of CUDA's libraries, and for what
    is not installed here as it is pinned. In Colab the PyTorch that is installed stays."""
    assert len(PINS) == len(PINNED) == len(re.findall(r"(?m)^[^#\n]", CONSTRAINTS))
    assert all(re.fullmatch(r">=[\d.]+", str(requirement.specifier)) for requirement in ASKED)
    asked = list(ASKED)
    for name in PINS.keys() - {"torch"}:
        with suppress(PackageNotFoundError):
            package = distribution(name)
            if Version(package.version).public == PINS[name].public:
                asked += map(Requirement, package.requires or [])
    here = [one for one in asked if not one.marker or one.marker.evaluate({"extra": ""})]
    pins = PINS | {"pip": Version("99"), "setuptools": Version("99")}  # venv and PyTorch bring them
    assert [one for one in here if pins[canonicalize_name(one.name)] not in one.specifier] == []


# What a user does, on the bundled sample, and each library that is only asked for late.
WORK = """
options='--profile quick --data sample --device cpu --out out'
small='--model.n-layer 1 --model.n-head 1 --model.n-embd 8 --train.epochs 1'
for command in prepare "train $small" "evaluate $small" "generate $small The" 'reproduce --only 01'
do "$0" -m llmlite.cli $command $options; done
"$0" -m llmlite.cli export --to exported
"$0" -m llmlite.cli import exported --to imported
"$0" -m llmlite.cli generate --model imported --tokens 5 The
"$0" -c 'import datasets; from llmlite.metrics import bleu_matrix
bleu_matrix(datasets.Dataset.from_dict({"text": ["a cat sat", "a dog sat"]})["text"])'
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the lowest versions are for Python 3.11")
def test_the_lowest_versions_that_are_asked_for_work_together(tmp_path):
    """In a fresh environment, but for PyTorch, which is this one's; needs a package index."""
    extras = PROJECT["optional-dependencies"]
    lines = PROJECT["dependencies"] + extras["notebooks"] + extras["hub"]
    lowest = [line.replace(">=", "==") for line in lines if not line.startswith("torch>")]
    venv.create(tmp_path / "venv", with_pip=True)
    (site,) = tmp_path.glob("venv/lib/*/site-packages")
    for name in ("torch", "torchgen", "functorch", "torch-*", "nvidia*", "triton*", "cuda*"):
        for part in Path(torch.__file__).parent.parent.glob(name):
            (site / part.name).symlink_to(part)
    (tmp_path / "notebooks").symlink_to(REPOSITORY / "notebooks")
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    run = partial(subprocess.run, cwd=tmp_path, env=env, capture_output=True, text=True)
    python = tmp_path / "venv" / "bin" / "python"
    done = run([python, "-m", "pip", "install", "--no-compile", "torch", *lowest])
    if "from versions: none" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr[-2000:]
    done = run(["sh", "-exc", WORK, python])
    assert done.returncode == 0, done.stderr[-2000:]
