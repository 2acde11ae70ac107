"""The repository's own texts: links lead somewhere, commands can be typed, versions agree."""

import json
import re
import shlex
import subprocess
import tomllib
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from unittest import mock

import pytest
import yaml
from conftest import REPOSITORY

import llmlite
from llmlite.cli import COMMANDS
from llmlite.cli.options import parse
from llmlite.files import LLMLiteError

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(\s*<?([^)\s]+?)>?\)|(?:src|href)=\"([^\"]+)\"")
REGISTRIES = "pypi|pythonhosted|npmjs|crates|debian|anaconda"
FOREIGN = re.compile(
    rf"\b(?:{REGISTRIES})\.(?:org|com|io|net)\b|(?<![\w.~])/(?:work|root|home/\w+)/\w",
    re.IGNORECASE,
)

LIST = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
LISTED = subprocess.run(LIST, cwd=REPOSITORY, capture_output=True, text=True).stdout.split("\0")
FILES = [REPOSITORY / name for name in LISTED if (REPOSITORY / name).is_file()]
pytestmark = pytest.mark.skipif(not FILES, reason="this is no git repository: nothing is listed")
PAGES = [path for path in FILES if path.suffix in (".md", ".ipynb")]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))


def prose(path: Path) -> str:
    """A Markdown file without what earlier releases say of their own options, or a notebook's."""
    text = path.read_text("utf-8")
    if path.suffix == ".md":
        return text.split("\n## [0")[0]
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


# -- links ----------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """Those that GitHub gives to headings."""
    headings = re.findall(r"^#+ +(.+?) *#*$", FENCE.sub("", text), re.MULTILINE)
    shown = [re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in shown]
    return {slug for slug in slugs if slugs.count(slug) == 1}  # others have numbers


@each_page
def test_links_lead_to_files_and_headings_of_the_repository(page):
    there = {folder for file in FILES for folder in (file, *file.parents)}
    broken = []
    for match in LINK.finditer(SPAN.sub("", FENCE.sub("", prose(page)))):
        link = match[1] or match[2]
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if re.match(r"[a-z]+:", name):  # https:, mailto:, a notebook's attachment:
            continue
        if target not in there or (anchor and anchor not in anchors(prose(target))):
            broken.append(link)
    in_colab = re.findall(r"colab\S+/blob/[^/\s]+/(\S+?\.ipynb)", prose(page))
    assert not broken + [name for name in in_colab if REPOSITORY / name not in there]


def test_the_readmes_tree_has_every_module_and_nothing_that_is_not_there():
    """A path is the first word of a line, indented below its folder's."""
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    (tree,) = (block for block in FENCE.findall(readme) if re.search(r"^\W*llmlite/", block, re.M))
    above: dict[int, str] = {}  # by indentation
    paths = []
    for line in tree.splitlines():
        indent, name = re.match(r"([^\w.]*)(\S*)", line).groups()
        if re.fullmatch(r"[\w./-]*(/|\.[a-z]\w*)|Makefile|LICENSE", name):
            above = {depth: folder for depth, folder in above.items() if depth < len(indent)}
            paths.append("".join(above.values()) + name)
            above[len(indent)] = name
    files = {path.relative_to(REPOSITORY).as_posix() for path in FILES}
    folders = {f"{folder}/" for name in files for folder in Path(name).parents}
    assert set(paths) - files - folders <= {"runs/"}, "which runs leave"
    modules = {name for name in files if re.match(r"llmlite/.*(?<!__init__|__main__)\.py$", name)}
    alone = {f for f in paths if sum(path.startswith(f) for path in paths) == 1} - {"llmlite/"}
    missing = {name for name in modules if f"{Path(name).parent}/" not in alone} - set(paths)
    assert not missing


# -- commands -------------------------------------------------------------------------------------


def typed(line: str) -> list[list[str]]:
    """The arguments of the calls of llmlite in a line of code: what is in [brackets] is taken, "…"
    left out, capitals such as N are 1, single words between bars are commands, each of them."""
    call = re.search(r"(?:^|[\s/])(?:llmlite|-m llmlite\.cli) +(?=[a-z])(.*)", line)
    words = shlex.split(re.sub(r"[\[\]…]", " ", call[1]), comments=True) if call else []
    if "|" in words and all((word == "|") == bool(i % 2) for i, word in enumerate(words)):
        return [[word] for word in words[::2]]
    until = words.index("|") if "|" in words else len(words)
    return [[re.sub(r"^[A-Z][A-Z:]*$", "1", word) for word in words[:until]]] if words else []


def mistakes(line: str) -> list[str]:
    """What cannot be typed in a line of code: calls of llmlite and of make, and names of files."""
    wrong = []
    for name, *arguments in typed(line):
        try:
            with mock.patch("llmlite.cli.options._text_bytes", return_value=100_000):
                parse(name, COMMANDS[name], arguments)
        except (LLMLiteError, KeyError) as error:
            wrong.append(str(error))
        except SystemExit:  # after --help; whatever else tyro refuses is an LLMLiteError
            pass
    command = line.split(" #")[0]
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    if made := re.search(r"^(?:\w+=\S+ +)*make((?: +[\w-]+(?:=\S*)?)+)", command):
        for word in made[1].split():
            name, is_variable, _ = word.partition("=")
            if not re.search(rf"\$\({name}\b" if is_variable else rf"^{name}:", makefile, re.M):
                wrong.append(f"make {word}")
    if re.search(r"\b(python3?|conda)\b", command):
        names = re.findall(r"[\w/.-]+\.(?:py|yml)\b", command)
        wrong += [name for name in names if not (REPOSITORY / name).is_file()]
    extras = re.findall(r"pip install .*\[([a-z,]+)\]", command)
    known = project()["optional-dependencies"]
    return wrong + [extra for names in extras for extra in names.split(",") if extra not in known]


def project() -> dict:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]


@each_page
def test_commands_can_be_typed_as_they_stand(page):
    text = prose(page).replace("\\\n", " ")
    code = "\n".join(FENCE.findall(text))
    wrong = [mistake for line in code.splitlines() for mistake in mistakes(line.strip())]
    assert not wrong
    spans = [mistake for span in SPAN.findall(FENCE.sub("", text)) for mistake in mistakes(span)]
    # In a sentence, `llmlite search --ray` may do without the option's value.
    assert not [what for what in spans if not re.search("[Mm]issing value|expects", what)]


def test_every_target_of_make_is_phony_and_explained():
    """A file or folder called `site` or `test` must not keep make from its work."""
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    (phony,) = re.findall(r"^\.PHONY:(.*)", makefile, re.MULTILINE)
    assert set(phony.split()) == set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))


def test_each_stop_of_the_tour_is_there():
    contributing = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    stops = re.findall(r"^\d+\. .*(?:\n(?!\d+\.|\n).*)*", contributing, re.MULTILINE)
    assert 10 <= len(stops) <= 19
    for stop in stops:
        places = re.findall(r"`([\w/]+\.(?:py|ipynb))(?:::([\w.]+))?`", stop)
        assert places, stop
        for file, function in places:
            assert (REPOSITORY / file).is_file() or (REPOSITORY / "llmlite" / file).is_file(), stop
            if function:
                module = import_module(f"llmlite.{file.removesuffix('.py').replace('/', '.')}")
                assert attrgetter(function)(module), stop


# -- the rest -------------------------------------------------------------------------------------


def test_no_text_names_a_registry_host_or_somebodys_folder():
    found = []
    for path in FILES:
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue  # a picture, or weights
        found += [f"{path}: {name}" for name in FOREIGN.findall(text)]
    assert not found


def test_git_takes_in_the_records_of_runs():
    """An ignored folder called runs once kept them all out."""
    path = "figures/records/runs/a-run/record.json"
    assert subprocess.run(["git", "check-ignore", "-q", path], cwd=REPOSITORY).returncode == 1


def test_changelog_package_and_citation_agree():
    changes = (REPOSITORY / "CHANGELOG.md").read_text("utf-8")
    titles = re.findall(r"^## \[(.+?)\](?: - \d{4}-\d{2}-\d{2})?$", changes, re.MULTILINE)
    assert len(titles) == len(re.findall(r"^## ", changes, re.MULTILINE)), "a title is malformed"
    assert "Unreleased" not in titles[1:]
    released = [title for title in titles if title != "Unreleased"]
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text("utf-8"))
    assert released[0] == project()["version"] == llmlite.__version__ == cited["version"]
    assert cited["license"] == project()["license"]
    paper, wikitext = cited["references"]
    for entry in (cited, paper, wikitext):
        assert entry["title"]
        assert entry["type"]
        for author in entry["authors"]:
            assert author.keys() <= {"name"} or author.keys() >= {"family-names", "given-names"}
    assert paper["title"] == "Implement a LLM-Lite"
    assert "year" not in paper, "the paper's text states none"
    assert wikitext["identifiers"] == [{"type": "other", "value": "arXiv:1609.07843"}]
