"""The environment that is promised: environment.yml, Makefile and constraints.txt say the same."""

import re
import shlex
import tomllib
from importlib.metadata import PackageNotFoundError, distribution

import yaml
from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"].values()
LINES = [line for lines in (PROJECT["dependencies"], *EXTRAS) for line in lines]
ASKED = [r for r in map(Requirement, LINES) if r.name != PROJECT["name"]]  # which asks for extras
CONSTRAINTS = (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines()
PINNED = [line.split("==") for line in CONSTRAINTS if not line.startswith("#")]
PINS = {canonicalize_name(name): Version(version) for name, version in PINNED}


def test_conda_and_make_install_the_same_on_a_python_that_the_package_asks_for():
    conda = yaml.safe_load((REPOSITORY / "environment.yml").read_text("utf-8"))
    assert (conda["name"], conda["channels"]) == (PROJECT["name"], ["conda-forge"])
    python, pip, section = conda["dependencies"]
    assert pip == "pip", "conda wants it named where a pip section follows"
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    (command,) = re.findall(r"-m pip install .*", makefile)
    words = shlex.split(command)
    assert shlex.split(" ".join(section["pip"])) == words[words.index("-c") :]
    (checked,) = re.findall(r"sys\.version_info < \((\d+), (\d+)\)", makefile)
    assert PROJECT["requires-python"] == f">={'.'.join(checked)}"
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))
    assert f"Python {'.'.join(checked)} or later" in (REPOSITORY / "README.md").read_text("utf-8")


def test_every_requirement_is_pinned_once_within_its_bounds_and_none_has_an_upper_one():
    """In Colab the PyTorch that is installed stays."""
    assert len(PINS) == len(PINNED)
    assert all(re.fullmatch(r">=[\d.]+", str(requirement.specifier)) for requirement in ASKED)
    wrong = [r for r in ASKED if not r.specifier.contains(PINS[canonicalize_name(r.name)])]
    assert wrong == []


def test_what_a_pinned_package_needs_is_pinned():
    """So that the same command installs the same versions next year. But for PyTorch, whose builds
    bring exact versions of CUDA's libraries, and for what is not installed here as it is pinned."""
    seen = set()
    for name, pin in PINS.items():
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        if name != "torch" and Version(package.version).public == pin.public:
            needs = [Requirement(line) for line in package.requires or []]
            here = [r for r in needs if not r.marker or r.marker.evaluate({"extra": ""})]
            seen |= {canonicalize_name(requirement.name) for requirement in here}
    assert {"torch", "nbclient", "pillow"} <= seen, "llmlite[dev] is installed here"
    assert not seen - PINS.keys() - {"setuptools", "pip"}, "what venv and PyTorch bring"
