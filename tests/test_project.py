"""The repository's own texts: links lead somewhere, commands can be typed, versions agree."""

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from unittest import mock

import pytest
import yaml

import llmlite
from llmlite.cli import COMMANDS
from llmlite.cli.options import parse
from llmlite.files import LLMLiteError

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)|(?:src|href)=\"([^\"]+)\"")
REGISTRIES = "pypi|pythonhosted|npmjs|crates|debian|anaconda"
REGISTRY_HOST = re.compile(rf"\b(?:{REGISTRIES})\.(?:org|com|io|net)\b", re.IGNORECASE)
MACHINE_PATH = re.compile(r"(?<![\w.~])/(?:work|root|home/\w+)/\w")


def listed() -> list[Path]:
    """What a clone holds once everything here is committed: all files but the ignored ones."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    names = done.stdout.split("\0") if done.returncode == 0 else []
    return [ROOT / name for name in names if (ROOT / name).is_file()]


FILES = listed()
pytestmark = pytest.mark.skipif(not FILES, reason="this is no git repository: nothing is listed")


def prose(path: Path) -> str:
    """A Markdown file, or the Markdown cells of a notebook. Of what changed, what changed last: a
    release speaks of its own options."""
    text = path.read_text("utf-8")
    if path.name == "CHANGELOG.md":
        text = text.split("\n## [0")[0]
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return text


PAGES = [path for path in FILES if path.suffix in (".md", ".ipynb")]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())


def without_code(text: str) -> str:
    return SPAN.sub("", FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to headings."""
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", FENCE.sub("", text), re.MULTILINE):
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found.append(slug)
        if found.count(slug) > 1:
            found.append(f"{slug}-{found.count(slug) - 1}")
    return set(found)


def broken_links(page: Path, text: str) -> list[str]:
    there = {page.resolve(), *(f.resolve() for f in FILES)}
    there |= {folder for file in there for folder in file.parents}
    broken = []
    for match in LINK.finditer(without_code(text)):
        link = match[1] or match[2]
        if re.match(r"[a-z]+:", link):  # https:, mailto:, a notebook's attachment:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if target not in there or (anchor and anchor not in anchors(prose(target))):
            broken.append(link)
    return broken


def fenced(text: str) -> list[str]:
    """The lines of fenced code, continued ones joined."""
    code = "\n".join(FENCE.findall(text)).replace("\\\n", " ")
    return [line.strip() for line in code.splitlines()]


def mentioned(text: str) -> list[str]:
    """Code within lines of text."""
    return SPAN.findall(FENCE.sub("", text))


def made(line: str) -> list[str]:
    """The words after `make` in a line of code: targets, and NAME=value."""
    command = re.search(r"^(?:\w+=\S+ +)*make((?: +[\w-]+(?:=\S*)?)+)", line.split(" #")[0])
    return command[1].split() if command else []


def typed(line: str) -> list[list[str]]:
    """The arguments of each call of llmlite that a line of code shows.

    Parts in [brackets] are taken, "…" is left out, capitals such as N are 1, and where single words
    stand between bars each of them is a command.
    """
    call = re.search(r"(?:^|[\s/])(?:llmlite|-m llmlite\.cli) +(?=[a-z])(.*)", line)
    if not call:
        return []
    shown = re.sub(r"[\[\]…]", " ", call[1])
    parts = shlex.split(shown, comments=True)
    if "|" in parts and all((word == "|") == bool(i % 2) for i, word in enumerate(parts)):
        return [[word] for word in parts[::2]]
    if "|" in parts:
        parts = parts[: parts.index("|")]
    return [[re.sub(r"^[A-Z][A-Z:]*$", "1", word) for word in parts]]


@each_page
def test_links_lead_to_files_and_headings_of_the_repository(page):
    assert not broken_links(page, prose(page))


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("[a](Makefile) ![b](figures/README.md#figures) [c](https://example.com/x)", []),
        ("[a](no/such.md)", ["no/such.md"]),
        ("![a](runs/quick/x.png)", ["runs/quick/x.png"]),
        ('<img src="none.png">', ["none.png"]),
        ("# One `two`, three\n[a](#one-two-three)", []),
        ("[a](figures/README.md#no-such-heading)", ["figures/README.md#no-such-heading"]),
        ("`[a](none)` and\n```\n[b](none)\n```\n", []),
    ],
)
def test_a_broken_link_is_found(text, broken, tmp_path):
    page = ROOT / "README.md"
    assert [link for link in broken_links(page, text) if not link.startswith("#")] == broken


def test_anchors_are_those_that_github_gives():
    text = "# A & B\n## From a shell\n```\n# no heading\n```\n## `code`, [link](x.md)\n## A & B\n"
    assert anchors(text) == {"a--b", "from-a-shell", "code-link", "a--b-1"}


@each_page
def test_what_make_is_told_exists(page):
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z]+) *[?:]?=", makefile, re.MULTILINE))
    text = prose(page)
    words = [word for line in (*fenced(text), *mentioned(text)) for word in made(line)]
    assert {word for word in words if "=" not in word} <= targets
    assert {word.split("=")[0] for word in words if "=" in word} <= variables


def test_every_target_of_make_is_phony():
    """A file or folder called `site` or `test` must not keep make from its work."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    (phony,) = re.findall(r"^\.PHONY:(.*)", makefile, re.MULTILINE)
    assert set(phony.split()) == set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def mistakes(lines: list[str]) -> list[str]:
    """What llmlite says of the calls in these lines that it does not understand."""
    wrong = []
    for line in lines:
        for name, *arguments in typed(line):
            try:
                with mock.patch("llmlite.cli.options._text_bytes", return_value=100_000):
                    parse(name, COMMANDS[name], arguments)
            except (LLMLiteError, KeyError) as error:
                wrong.append(str(error))
            except SystemExit:  # after --help; whatever else tyro refuses is an LLMLiteError
                pass
    return wrong


@each_page
def test_commands_can_be_typed_as_they_stand(page):
    assert not mistakes(fenced(prose(page)))


@each_page
def test_commands_that_are_mentioned_exist(page):
    """In a sentence, `llmlite search --ray.address` may do without the option's value."""
    wrong = mistakes(mentioned(prose(page)))
    assert not [message for message in wrong if not re.search("[Mm]issing value|expects", message)]


def test_commands_are_found_in_lines_of_code():
    assert typed("llmlite prepare | search | runs     # each with --help") == [
        ["prepare"],
        ["search"],
        ["runs"],
    ]
    assert typed('.venv/bin/llmlite generate "The cat" -n 3 | head') == [
        ["generate", "The cat", "-n", "3"]
    ]
    torchrun = "torchrun --nproc-per-node N -m llmlite.cli train … --stream  # on N GPUs"
    assert typed(torchrun) == [["train", "--stream"]]
    assert typed("llmlite search [--stride N]") == [["search", "--stride", "1"]]
    assert typed("from llmlite.tokenizer import x") == typed("llmlite/stream.py") == []
    assert made("DATA=x make bench-train test PROFILE=full  # make tea") == [
        "bench-train",
        "test",
        "PROFILE=full",
    ]
    assert made("python make_sample.py") == []


def test_no_text_names_a_registry_host_or_somebodys_folder():
    found = []
    for path in FILES:
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue  # a picture, or weights
        named = [*REGISTRY_HOST.findall(text), *MACHINE_PATH.findall(text)]
        found += [f"{path.relative_to(ROOT)}: {name}" for name in named]
    assert not found


def test_git_takes_in_the_records_of_runs():
    """An ignored folder called runs once kept them all out."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    path = "figures/records/runs/a-run/record.json"
    assert subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 1


def test_the_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    titles = re.findall(r"^## \[(.+?)\](?: - \d{4}-\d{2}-\d{2})?$", changes, re.MULTILINE)
    released = [title for title in titles if title != "Unreleased"]
    assert len(titles) == len(re.findall(r"^## ", changes, re.MULTILINE)), "a title is malformed"
    assert "Unreleased" not in titles[1:]
    assert released[0] == project["version"] == llmlite.__version__ == citation()["version"]


def citation() -> dict:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))


def test_the_citation_has_what_its_format_requires():
    """The Citation File Format 1.2.0, as far as this file uses it."""
    cited = citation()
    assert cited["cff-version"] == "1.2.0"
    assert cited["type"] == "software"
    assert isinstance(cited["version"], str)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert cited["license"] == project["license"]
    for entry in (cited, *cited["references"]):
        assert entry["title"]
        assert entry["authors"]
        for author in entry["authors"]:
            assert author.keys() <= {"name"} or author.keys() >= {"family-names", "given-names"}
    assert all(reference["type"] for reference in cited["references"])
    assert cited["message"]


def test_the_citation_names_the_paper_and_wikitext():
    paper, wikitext = citation()["references"]
    assert paper["title"] == "Implement a LLM-Lite"
    assert "year" not in paper, "the paper's text states none"
    assert wikitext["identifiers"] == [{"type": "other", "value": "arXiv:1609.07843"}]
