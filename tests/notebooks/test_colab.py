"""The notebooks in Colab: the set-up cell installs the package there, from a git address."""

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest
from conftest import REPOSITORY
from notebooks.test_notebooks import NOTEBOOKS, code_cells

from llmlite import __version__


@pytest.fixture
def repository(tmp_path) -> Path:
    """A git repository whose one commit holds the working tree as it is, ignored files left out."""
    git = ["git", "--git-dir", tmp_path / "repository", "--work-tree", REPOSITORY]
    git += ["-c", "user.name=test", "-c", "user.email=test", "-c", "commit.gpgsign=false"]
    for command in ("init -q", "add --all", "commit -q --no-verify -m all"):
        subprocess.run([*git, *command.split()], cwd=REPOSITORY, check=True)
    return tmp_path / "repository"


@pytest.fixture
def colab(tmp_path) -> Path:
    """A virtual environment; outside it, where pip takes nothing away, links to all packages."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(folder).iterdir():
            if "llmlite" not in entry.name.lower():
                (packages / entry.name).symlink_to(entry)
    venv.create(tmp_path / "venv", symlinks=True)
    (installed,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (installed / "colab.pth").write_text(f"{packages}\n")
    return tmp_path / "venv"


def run(colab: Path, program: str = "", **parameters: str) -> subprocess.CompletedProcess:
    """The first notebook's parameters, these set otherwise, its set-up cell, and `program`."""
    first, setup = ("".join(cell["source"]) for cell in code_cells(NOTEBOOKS[0])[:2])
    given = [f"{name} = {value!r}" for name, value in parameters.items()]
    # What IPython makes of %pip.
    pip = "import subprocess; subprocess.check_call([sys.executable, '-m', 'pip', 'install', '-q', "
    setup = setup.replace("%pip install -q {", pip).replace("}\n", "])\n")
    content = colab.parent / "content"
    (content / "llmlite").mkdir(parents=True, exist_ok=True)  # a folder is not the package
    usual = {name: os.environ[name] for name in os.environ.keys() - {"PYTHONPATH", "LLMLITE_DATA"}}
    return subprocess.run(
        [colab / "bin" / "python", "-c", "\n".join([first, *given, setup, program])],
        cwd=content,
        env=usual | {"CUDA_VISIBLE_DEVICES": "", "PIP_RETRIES": "2"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_set_up_cell_installs_the_package_and_nothing_else_once(colab, repository):
    sample = {"profile": "quick", "data": "sample"}
    refused = run(colab, **sample)
    assert "Directory '..' is not installable" in refused.stderr, "no clone, and no address"

    done = run(colab, **sample, repository=repository.as_uri())
    if "(from versions: none)" in done.stdout + done.stderr:
        pytest.skip("pip finds no package index, which building the package needs")
    assert done.returncode == 0, done.stderr
    line = done.stdout.strip()
    assert line.startswith("profile quick · data bundled sample (sample) · device CPU"), line
    (commit,) = repository.glob("refs/heads/*")
    assert line.endswith(f"commit {commit.read_text()[:10]}")
    help_page = subprocess.run([colab / "bin" / "llmlite", "--help"], capture_output=True)
    assert b"usage: llmlite" in help_page.stdout

    # Above all no other PyTorch: Colab's has CUDA.
    (installed,) = colab.glob("lib/python*/site-packages")
    there = {entry.name for entry in installed.iterdir()} - {"__pycache__"}
    assert there == {"colab.pth", "llmlite", f"llmlite-{__version__}.dist-info"}

    # Modules, the model that ships, and what the wheel takes from another folder.
    for source, target in {"llmlite": "llmlite", "data/sample": "llmlite/sample"}.items():
        for file in (REPOSITORY / source).rglob("*.*"):
            packed = installed / target / file.relative_to(REPOSITORY / source)
            assert "__pycache__" in file.parts or packed.read_bytes() == file.read_bytes()

    again = run(colab, "import llmlite; print(llmlite.__file__)", **sample)
    assert again.stdout == f"{line}\n{installed / 'llmlite' / '__init__.py'}\n", "no pip, no clone"
