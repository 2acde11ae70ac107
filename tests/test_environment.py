"""The environment that is promised: environment.yml, Makefile and constraints.txt say the same."""

import re
import shlex
import shutil
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA = (  # the first that there is solves the environment
    ("micromamba", "create", "--yes"),
    ("mamba", "env", "create"),
    ("conda", "env", "create"),
)


@pytest.fixture(scope="module")
def pins() -> dict[str, Version]:
    """constraints.txt: canonical name → version."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {}
    for line in lines:
        if line.startswith("#"):
            continue
        requirement = Requirement(line)
        (exact,) = requirement.specifier
        assert exact.operator == "==", line
        name = canonicalize_name(requirement.name)
        assert name not in pinned, f"{name} is pinned twice"
        pinned[name] = Version(exact.version)
    return pinned


@pytest.fixture(scope="module")
def conda_file() -> dict:
    return yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))


def requirements() -> list[Requirement]:
    """What pyproject.toml asks for, every extra included and llmlite[...] left out."""
    listed = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    asked = [Requirement(line) for line in listed]
    return [requirement for requirement in asked if requirement.name != PROJECT["name"]]


def asked_by(name: str, extra: str, pins: dict[str, Version]) -> list[Requirement]:
    """What an installed package needs here, for one of its extras ("": without any).

    Nothing, if it is not installed as it is pinned; and nothing for PyTorch, whose builds bring
    exact versions of CUDA's libraries.
    """
    try:
        package = distribution(name)
    except PackageNotFoundError:
        return []
    other = name in pins and Version(package.version).public != pins[name].public
    if other or name == "torch":
        return []
    asked = [Requirement(line) for line in package.requires or []]
    return [r for r in asked if not r.marker or r.marker.evaluate({"extra": extra})]


def everything_below(pins: dict[str, Version]) -> set[str]:
    """The names of all packages that the installed llmlite[dev] needs, and those that they need."""
    project = canonicalize_name(PROJECT["name"])
    found, todo = set(), [(project, ""), (project, "dev")]
    while todo:
        name, extra = todo.pop()
        if (name, extra) not in found:
            found.add((name, extra))
            for requirement in asked_by(name, extra, pins):
                below = canonicalize_name(requirement.name)
                todo += [(below, more) for more in ("", *requirement.extras)]
    return {name for name, _ in found} - {project}


def test_environment_yml_names_the_project_and_a_python_that_it_runs_on(conda_file):
    assert conda_file["name"] == PROJECT["name"]
    assert conda_file["channels"] == ["conda-forge"]
    (python,) = [d for d in conda_file["dependencies"] if str(d).startswith("python=")]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))
    assert "pip" in conda_file["dependencies"], "conda wants it named where a pip section follows"


def test_conda_and_make_install_the_same(conda_file):
    (section,) = [d["pip"] for d in conda_file["dependencies"] if isinstance(d, dict)]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    (command,) = re.findall(r"-m pip install .*", makefile)
    words = shlex.split(command)
    assert shlex.split(" ".join(section)) == words[words.index("-c") :]


def test_the_python_that_make_asks_for_is_the_packages(conda_file):
    makefile = (ROOT / "Makefile").read_text("utf-8")
    (checked,) = re.findall(r"sys\.version_info < \((\d+), (\d+)\)", makefile)
    assert PROJECT["requires-python"] == ">=" + ".".join(checked)
    readme = (ROOT / "README.md").read_text("utf-8")
    assert f"Python {'.'.join(checked)} or later" in readme


def test_every_extra_that_the_readme_installs_exists():
    readme = (ROOT / "README.md").read_text("utf-8")
    named = re.findall(r"pip install [^`\n]*\[([a-z,]+)\]", readme)
    assert named
    assert {extra for extras in named for extra in extras.split(",")} <= EXTRAS.keys()


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_a_requirement_is_pinned_within_its_bounds(pins, requirement):
    name = canonicalize_name(requirement.name)
    assert name in pins, f"{name} is in pyproject.toml and not in constraints.txt"
    assert requirement.specifier.contains(pins[name])


def test_everything_below_the_requirements_is_pinned(pins):
    """So that the same command installs the same versions next year."""
    found = everything_below(pins)
    assert {"torch", "papermill", "numpy"} <= found, "llmlite[dev] is installed here"
    assert not found - pins.keys() - {"setuptools", "pip"}, "what venv and PyTorch bring"


@pytest.mark.slow
def test_conda_can_solve_it(tmp_path):
    command = next((c for c in CONDA if shutil.which(c[0])), None)
    if command is None:
        pytest.skip(f"none of {', '.join(c[0] for c in CONDA)} is on the PATH")
    prefix = str(tmp_path / "environment")
    done = subprocess.run(
        [*command, "--dry-run", "--prefix", prefix, "--file", "environment.yml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode and "connection" in (done.stdout + done.stderr).lower():
        pytest.skip(f"{command[0]} does not reach its channel")
    assert done.returncode == 0, done.stderr
