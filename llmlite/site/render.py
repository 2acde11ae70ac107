"""Markdown and notebooks → HTML that fits into a page of the site.

nbconvert does the work; what it leaves is tidied here: links lead to pages of the site, wide tables
and code scroll in their own box, headings have names, pictures have sizes.
"""

import os
import posixpath
import re
import struct
from pathlib import Path

from bs4 import BeautifulSoup, Tag
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from llmlite.audit.rows import VERDICTS

TEMPLATES = Path(__file__).parent / "templates"
LONG = 48  # characters in a table's cell from which on it may not be squeezed into a column
FOLDED = 12  # lines of code from which on a cell is folded away: prose and results come first
NUMBER = re.compile(r"[-+−–]?[\d.,]+([eE][-+]?\d+)?%?( ?\[.*\])?|–|NaN|nan")
VERDICT_CLASSES = dict(zip(VERDICTS, ("yes", "no", "flaw", "open"), strict=True))  # in site.css
EXTERNAL = re.compile(r"(https?|mailto):")


class Renderer:
    """links: page of the site, or file of it, by the clone's file that it is made from; both
    relative. to: the folder that the site is built in."""

    def __init__(self, links: dict[str, str], to: Path):
        self.links = links
        self.to = to
        self.exporter = HTMLExporter(
            template_name="notebook",
            extra_template_basedirs=[str(TEMPLATES)],
            exclude_anchor_links=True,
        )
        self.exporter.register_preprocessor(
            "nbconvert.preprocessors.ExtractOutputPreprocessor", enabled=True
        )

    def markdown(self, text: str, source: str, page: str) -> str:
        """`text` of the clone's file `source` as HTML for `page`."""
        renderer = IPythonRenderer(escape=False, exclude_anchor_links=True)
        return self._tidy(MarkdownWithMath(renderer=renderer).render(text), source, page)

    def line(self, text: str, source: str, page: str) -> str:
        """As `markdown`, for a paragraph that stands inside something else."""
        return self.markdown(text, source, page).removeprefix("<p>").removesuffix("</p>")

    def notebook(self, notebook: NotebookNode, source: str, page: str) -> str:
        """`notebook` as HTML for `page`; its pictures are written into a folder beside it."""
        folder = Path(page).with_suffix("").name
        resources = {"unique_key": "output", "output_files_dir": folder, "folded": FOLDED}
        html, made = self.exporter.from_notebook_node(notebook, resources)
        for name, content in made["outputs"].items():
            path = (self.to / page).parent / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return self._tidy(html, source, page)

    def _tidy(self, html: str, source: str, page: str) -> str:
        soup = BeautifulSoup(html, "html.parser")
        for style in soup("style"):  # pandas', a copy in each table
            style.decompose()
        _name_headings(soup)
        for table in soup("table"):
            _tidy_table(soup, table)
        for code in soup("pre"):
            code["tabindex"] = 0  # a keyboard can scroll it
        for link in soup("a", href=True):
            self._lead(link, source, page)
        for image in soup("img"):
            size = png_size((self.to / page).parent / image["src"])
            image["width"], image["height"] = size
            image["loading"] = "lazy"
        return str(soup).strip()

    def _lead(self, link: Tag, source: str, page: str) -> None:
        """Let `link` lead to the site's page of the file that it names; only its text stays where
        the site has none."""
        if EXTERNAL.match(link["href"]) or link["href"].startswith("#"):
            return
        path, _, anchor = link["href"].partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if target not in self.links:
            link.unwrap()
            return
        if target == self.links[target]:  # a file as it is, on the site as in the clone
            anchor = ""
        link["href"] = relative(self.links[target], page) + (f"#{anchor}" if anchor else "")


def relative(target: str, page: str) -> str:
    """The link from `page` to `target`, both relative to the site."""
    return os.path.relpath(target, posixpath.dirname(page) or ".").replace(os.sep, "/")


def png_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels, from the file's first chunk."""
    with open(path, "rb") as file:
        return struct.unpack(">II", file.read(24)[16:])


def _name_headings(soup: BeautifulSoup) -> None:
    names = set()
    for heading in soup(re.compile("^h[1-6]$")):
        slug = re.sub(r"[^a-z0-9]+", "-", heading.get_text().lower()).strip("-") or "part"
        name, n = slug, 1
        while name in names:
            n += 1
            name = f"{slug}-{n}"
        names.add(name)
        heading["id"] = name


def _tidy_table(soup: BeautifulSoup, table: Tag) -> None:
    for tag in (table, *table(True)):
        for attribute in ("border", "style", "valign", "class"):
            tag.attrs.pop(attribute, None)
    for cell in table(["td", "th"]):
        text = cell.get_text(strip=True)
        if cell.name == "th" and not text:
            cell.name = "td"  # an empty cell heads nothing
        if cell.name == "td" and text in VERDICT_CLASSES:
            cell.clear()
            mark = {"class": f"verdict {VERDICT_CLASSES[text]}"}
            cell.append(soup.new_tag("span", string=text, attrs=mark))
        elif len(text) > LONG:
            cell["class"] = "long"
    _align_numbers(table)
    box = {"class": "scroll", "tabindex": 0, "role": "group", "aria-label": "Table"}
    table.wrap(soup.new_tag("div", attrs=box))


def _align_numbers(table: Tag) -> None:
    """A column of numbers is set to the right, its head too. Columns are counted from the right: on
    the left a cell may span several rows."""
    rows = [list(reversed(row(["td", "th"]))) for row in table("tr")]
    body = [row for row in rows if not row[0].find_parent("thead")]
    for column in range(min(map(len, body), default=0)):
        if all(NUMBER.fullmatch(row[column].get_text(strip=True)) for row in body):
            for row in rows:
                if column < len(row):
                    row[column]["class"] = "number"
