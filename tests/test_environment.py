"""The environment that is promised: environment.yml, Makefile and constraints.txt say the same."""

import re
import shlex
import tomllib
from importlib.metadata import PackageNotFoundError, distribution

import pytest
import yaml
from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
MAKEFILE = (REPOSITORY / "Makefile").read_text("utf-8")
EXTRAS = PROJECT["optional-dependencies"].values()
LINES = [line for lines in (PROJECT["dependencies"], *EXTRAS) for line in lines]
ASKED = [r for r in map(Requirement, LINES) if r.name != PROJECT["name"]]  # which asks for extras


@pytest.fixture(scope="module")
def pins() -> dict[str, Version]:
    """constraints.txt: canonical name → version."""
    lines = (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"==[^,*]+", str(requirement.specifier)) for requirement in pinned)
    names = [canonicalize_name(requirement.name) for requirement in pinned]
    assert len(names) == len(set(names)), "one is pinned twice"
    return {n: Version(str(r.specifier)[2:]) for n, r in zip(names, pinned, strict=True)}


def test_conda_and_make_install_the_same_on_a_python_that_the_package_asks_for():
    conda = yaml.safe_load((REPOSITORY / "environment.yml").read_text("utf-8"))
    assert (conda["name"], conda["channels"]) == (PROJECT["name"], ["conda-forge"])
    python, pip, section = conda["dependencies"]
    assert pip == "pip", "conda wants it named where a pip section follows"
    (command,) = re.findall(r"-m pip install .*", MAKEFILE)
    words = shlex.split(command)
    assert shlex.split(" ".join(section["pip"])) == words[words.index("-c") :]
    (checked,) = re.findall(r"sys\.version_info < \((\d+), (\d+)\)", MAKEFILE)
    assert PROJECT["requires-python"] == f">={'.'.join(checked)}"
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))
    assert f"Python {'.'.join(checked)} or later" in (REPOSITORY / "README.md").read_text("utf-8")


@pytest.mark.parametrize("requirement", ASKED, ids=str)
def test_a_requirement_is_pinned_within_its_bounds(pins, requirement):
    assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])


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
    asked = [] if other or name == "torch" else map(Requirement, package.requires or [])
    return [r for r in asked if not r.marker or r.marker.evaluate({"extra": extra})]


def test_everything_below_the_requirements_is_pinned(pins):
    """So that the same command installs the same versions next year."""
    found = set()
    todo = [(canonicalize_name(r.name), extra) for r in ASKED for extra in ("", *r.extras)]
    while todo:
        if (package := todo.pop()) not in found:
            found.add(package)
            for requirement in asked_by(*package, pins):
                name = canonicalize_name(requirement.name)
                todo += [(name, extra) for extra in ("", *requirement.extras)]
    names = {name for name, _ in found}
    assert {"torch", "nbclient", "pillow"} <= names, "llmlite[dev] is installed here"
    assert not names - pins.keys() - {"setuptools", "pip"}, "what venv and PyTorch bring"
