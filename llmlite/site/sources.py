"""What the clone's files say: the README's parts, captions, verdicts, the notebooks' openings.

Everything here takes text and gives text, as Markdown; render.py makes HTML of it.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from llmlite.audit.rows import VERDICTS
from llmlite.errors import LLMLiteError

if TYPE_CHECKING:  # an extra that may be missing: build_site says so
    from nbformat import NotebookNode


def read(root: Path, name: str) -> str:
    """A text file of the clone at `root`. LLMLiteError if it is not there."""
    path = root / name
    if not path.is_file():
        raise LLMLiteError(f"{path} is not there; make the site in a clone of the project.")
    return path.read_text("utf-8")


def opening(page: str) -> tuple[str, str]:
    """(title, what stands before the first picture or section) of a page, badges left out."""
    page = re.sub(r"^!\[[^\n]*figures/badges/[^\n]*\n", "", page, flags=re.MULTILINE)
    found = re.match(r"# ([^\n]+)\n(.*?)(?=^!\[|^## |\Z)", page, re.MULTILINE | re.DOTALL)
    if not found:
        raise LLMLiteError(
            "A page or notebook does not begin with its title, '# …', but with "
            f"{page[:40]!r}; put one there."
        )
    return found[1], found[2].strip()


def section(readme: str, name: str) -> str:
    """What `llmlite reproduce --publish` wrote between the two marks of this name."""
    found = re.search(f"<!-- {name} -->\n(.*?)\n<!-- end of {name} -->", readme, re.DOTALL)
    if not found:
        raise LLMLiteError(
            f"README.md has no part between <!-- {name} --> and <!-- end of {name} -->; restore "
            "the two marks and run llmlite reproduce --publish."
        )
    return found[1]


def verdict_counts(scorecard: str) -> dict[str, int]:
    """How many claims of figures/scorecard.md got each of VERDICTS."""
    return {verdict: scorecard.count(f"| **{verdict}** |") for verdict in VERDICTS}


def without_front_matter(card: str) -> str:
    """A model card without the YAML on top, which is for machines."""
    return re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL).lstrip()


def introduction(notebook: "NotebookNode") -> tuple[str, str]:
    """(title, first paragraph) of a notebook; of the paragraph, the sentences that end in it."""
    title, text = opening(notebook.cells[0].source)
    paragraph = text.split("\n\n")[0]
    return title, re.sub(r"(?<=[.!?]) [^.!?]*(?<![.!?])\Z", "", paragraph)


def describe_pictures(notebook: "NotebookNode", captions: dict[str, str]) -> None:
    """Give every picture of `notebook` the text that stands in for it, as `metadata.alt`.

    That is the caption of the figure that the cell saves, and its name as `metadata.figure`; where
    there is none, the heading above it.
    """
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = ([heading, *re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE)])[-1]
            continue
        names = _figures_in(cell.source, captions)
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                name = next(names, None)
                output.metadata["figure"] = name
                output.metadata["alt"] = captions.get(name, heading)


def _figures_in(source: str, captions: dict[str, str]) -> Iterable[str]:
    return (name for name in re.findall(r'"(\w+)"', source) if name in captions)
