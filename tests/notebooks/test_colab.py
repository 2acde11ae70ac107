"""The first cells of every notebook as Colab runs them: many packages, no llmlite and no clone.

An environment like Colab's is a virtual one that sees everything that the tests' own has installed,
but for llmlite. One notebook's set-up cell really installs the package there, from a git address.
"""

import json
import os
import shutil
import subprocess
import sysconfig
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmlite.cli.notebooks import find_notebooks

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = find_notebooks(ROOT / "notebooks")
IDS = [path.stem for path in NOTEBOOKS]
FORGOTTEN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LLMLITE_DATA")

# Runs the cells of several notebooks in one process, to import PyTorch once.
ALL_CELLS = """
import contextlib, io, json, sys
shown = []
for cells in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(cells, {"__name__": "__main__"})
    shown.append(out.getvalue())
import llmlite
print(json.dumps([llmlite.__file__, shown]))
"""


@dataclass(frozen=True)
class Colab:
    """An interpreter without llmlite, and an empty working folder with Colab's sample_data/."""

    folder: Path

    @property
    def content(self) -> Path:
        return self.folder / "content"

    @property
    def installed(self) -> Path:
        """Where pip puts what it installs here."""
        (packages,) = (self.folder / "venv").glob("lib/python*/site-packages")
        return packages

    def run(self, program: str, given: str = "") -> subprocess.CompletedProcess:
        usual = {name: value for name, value in os.environ.items() if name not in FORGOTTEN}
        here = {"CUDA_VISIBLE_DEVICES": "", "PIP_DEFAULT_TIMEOUT": "15", "PIP_RETRIES": "2"}
        return subprocess.run(
            [self.folder / "venv" / "bin" / "python", "-c", program],
            cwd=self.content,
            env=usual | here,
            input=given,
            capture_output=True,
            text=True,
        )

    def pytorch(self) -> str:
        """PyTorch's file and when it was written."""
        program = (
            "import importlib.util, os\n"
            "origin = importlib.util.find_spec('torch').origin\n"
            "print(os.path.realpath(origin), os.stat(origin).st_mtime_ns)"
        )
        return self.run(program).stdout


def make_colab(folder: Path) -> Colab:
    colab = Colab(folder)
    (colab.content / "sample_data").mkdir(parents=True)
    packages = folder / "colab" / "site-packages"  # outside venv: pip takes nothing away from here
    packages.mkdir(parents=True)
    for key in ("purelib", "platlib"):
        for entry in Path(sysconfig.get_path(key)).iterdir():
            link = packages / entry.name
            if "llmlite" not in entry.name.lower() and not link.is_symlink():
                link.symlink_to(entry)
    venv.create(folder / "venv", symlinks=True)
    (colab.installed / "colab.pth").write_text(f"{packages}\n")
    return colab


def first_cells(path: Path, **parameters: str) -> str:
    """The parameters' cell, `parameters` set otherwise, and the cell after it, as one program."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    (first,) = [i for i, c in enumerate(code) if "parameters" in c["metadata"].get("tags", [])]
    given = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    # What IPython makes of %pip.
    pip = "import subprocess; subprocess.check_call([sys.executable, '-m', 'pip', 'install', '-q', "
    setup = (
        "".join(code[first + 1]["source"]).replace("%pip install -q {", pip).replace("}\n", "])\n")
    )
    return "\n".join(["".join(code[first]["source"]), given, setup])


def git(folder: Path, *arguments: str) -> str:
    names = ["-c", "user.name=test", "-c", "user.email=test", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", folder, *names, *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A git repository whose one commit holds the working tree as it is, ignored files left out."""
    copy = tmp_path_factory.mktemp("repository")
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in listed.split("\0"):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    git(copy, "init", "-q")
    git(copy, "add", "--all")
    git(copy, "commit", "-q", "--no-verify", "-m", "as it is")
    return copy


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Colab:
    return make_colab(tmp_path_factory.mktemp("bare"))


@dataclass(frozen=True)
class Installed:
    colab: Colab
    shown: str  # by the notebook whose cell installed the package
    pytorch: str  # what Colab.pytorch() said before


@pytest.fixture(scope="module")
def installed(repository, tmp_path_factory) -> Installed:
    """Colab after the first notebook's cells, told the repository's address."""
    colab = make_colab(tmp_path_factory.mktemp("colab"))
    (colab.content / "llmlite").mkdir()  # a folder of the package's name is not the package
    pytorch = colab.pytorch()
    address = repository.as_uri()
    done = colab.run(first_cells(NOTEBOOKS[0], profile="quick", data="sample", repository=address))
    if "(from versions: none)" in done.stdout + done.stderr:
        pytest.skip("pip finds no package index, which building the package needs")
    assert done.returncode == 0, done.stderr
    return Installed(colab, done.stdout, pytorch)


@pytest.fixture(scope="module")
def second_time(installed) -> tuple[str, dict[str, str]]:
    """The file of llmlite, and what each notebook's cells show where the package is installed."""
    programs = [first_cells(path, profile="quick", data="sample") for path in NOTEBOOKS]
    done = installed.colab.run(ALL_CELLS, json.dumps(programs))
    assert done.returncode == 0, done.stderr
    file, shown = json.loads(done.stdout.splitlines()[-1])
    return file, dict(zip(IDS, shown, strict=True))


def test_the_set_up_cell_is_short_and_the_same_in_all_notebooks():
    cells = {
        first_cells(path, profile="quick").partition("profile = 'quick'")[2] for path in NOTEBOOKS
    }
    assert len(cells) == 1
    assert len([line for line in cells.pop().splitlines() if line.strip()]) <= 8


def test_without_a_clone_and_an_address_there_is_nothing_to_install(bare):
    done = bare.run(first_cells(NOTEBOOKS[0]))
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Directory '..' is not installable" in done.stderr


def test_the_cell_installs_the_package_from_the_address(installed, repository):
    line = installed.shown.strip()
    assert line.startswith("profile quick · data bundled sample (sample) · device CPU"), line
    assert line.endswith(f"commit {git(repository, 'rev-parse', 'HEAD')[:10]}")
    command = installed.colab.installed.parents[2] / "bin" / "llmlite"
    help_page = subprocess.run([command, "--help"], capture_output=True, text=True)
    assert "usage: llmlite" in help_page.stdout


def test_nothing_but_the_package_is_installed(installed):
    """Above all not another PyTorch: Colab's has CUDA."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    there = {entry.name for entry in installed.colab.installed.iterdir()}
    assert there - {"__pycache__"} == {"colab.pth", "llmlite", f"llmlite-{version}.dist-info"}
    assert installed.pytorch.startswith("/"), "PyTorch was there before"
    assert installed.colab.pytorch() == installed.pytorch


def test_an_installed_package_holds_every_file(installed, repository):
    """Modules, the model that ships, tables, and what the wheel takes from other folders."""
    build = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    folders = {"llmlite": "llmlite", **build["targets"]["wheel"]["force-include"]}
    expected = {}
    for source, target in folders.items():
        for file in (repository / source).rglob("*"):
            if file.is_file():
                expected[f"{target}/{file.relative_to(repository / source).as_posix()}"] = file
    packages = installed.colab.installed
    differs = [
        name
        for name, file in expected.items()
        if not (packages / name).is_file() or (packages / name).read_bytes() != file.read_bytes()
    ]
    assert not differs
    assert {"llmlite/experiment.py", "llmlite/sample/wiki.train.raw"} <= expected.keys()


@pytest.mark.parametrize("name", IDS)
def test_the_cells_run_where_the_package_is_installed(installed, second_time, name):
    file, shown = second_time
    assert Path(file).is_relative_to(installed.colab.installed), "not the clone's"
    assert shown[name] == installed.shown
