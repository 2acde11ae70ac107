"""The notebooks in Colab: the set-up cell installs the package there, from a git address."""

import os
import subprocess
import sys
import sysconfig

import pytest
from conftest import REPOSITORY
from notebooks.test_notebooks import NOTEBOOKS, code_cells


@pytest.mark.slow
def test_the_set_up_cell_installs_the_package_and_does_so_once(tmp_path):
    repository, colab = tmp_path / "repository", tmp_path / "colab"
    git = ["git", "--git-dir", repository, "--work-tree", REPOSITORY]
    git += ["-c", "user.name=test", "-c", "user.email=test", "-c", "commit.gpgsign=false"]
    for command in ("init -q", "add --all", "commit -q --no-verify -m all"):
        subprocess.run([*git, *command.split()], cwd=REPOSITORY, check=True)
    (tmp_path / "content" / "llmlite").mkdir(parents=True)  # a folder is not the package
    colab.mkdir()

    def run(address: str) -> subprocess.CompletedProcess:
        """The first notebook's parameters, its set-up cell, and where the package lies then."""
        first, setup = ("".join(cell["source"]) for cell in code_cells(NOTEBOOKS[0])[:2])
        given = f"profile, data, repository = 'quick', 'sample', {address!r}"
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", f"--target={colab}"]
        pip = f"import subprocess; subprocess.check_call({install} + ["  # what %pip does in IPython
        setup = setup.replace("%pip install -q {", pip).replace("}\n", "])\n")
        program = "\n".join([first, given, setup, "import llmlite; print(llmlite.__file__)"])
        paths = [str(colab), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
        here = {"PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run(
            [sys.executable, "-S", "-c", program],  # without the clone that .pth files name
            cwd=tmp_path / "content",
            env=os.environ | here,
            capture_output=True,
            text=True,
        )

    assert "Directory '..' is not installable" in run("").stderr, "no clone, and no address"
    done = run(repository.as_uri())
    if "(from versions: none)" in done.stdout + done.stderr:
        pytest.skip("pip finds no package index, which building the package needs")
    assert done.returncode == 0, done.stderr
    line, file = done.stdout.splitlines()
    assert line.startswith("profile quick · data bundled sample (sample) · device CPU"), line
    (commit,) = repository.glob("refs/heads/*")
    assert line.endswith(f"commit {commit.read_text()[:10]}")
    assert file == str(colab / "llmlite" / "__init__.py")
    assert run("").stdout == done.stdout, "it is there now"

    # Modules, the model that ships, and what the wheel takes from another folder.
    for source, target in {"llmlite": "llmlite", "data/sample": "llmlite/sample"}.items():
        for path in (REPOSITORY / source).rglob("*.*"):
            packed = colab / target / path.relative_to(REPOSITORY / source)
            assert "__pycache__" in path.parts or packed.read_bytes() == path.read_bytes()
