"""The project's static site: front page, scorecard, notebooks, figures, attention explorer.

    python figures/site/build.py [--out build/site]

All that it shows comes from files of the clone when it is built. It is read from its folder, with
no server and no network.
"""

import argparse
import os
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import bleach
import jinja2
import nbformat
import torch
from bs4 import BeautifulSoup, Tag
from nbconvert.exporters import HTMLExporter
from nbconvert.filters import markdown2html

from llmlite.cli import guarded
from llmlite.cli.terminal import careful
from llmlite.interpret import attention_maps
from llmlite.pretrained import load_pretrained

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where publish.py lies
from publish import BLOCK, captions_in, copy, write

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
README, SCORECARD, GALLERY = "README.md", "figures/scorecard.md", "figures/README.md"
CARD = "llmlite/pretrained/README.md"
HERO = "08_loss_by_position"  # the figure on top of the front page
FOLDED = 12  # lines of code from which on a cell is folded away: prose and results come first
LONG = 48  # characters from which on a table's cell may not be squeezed into a narrow column
# All that is left of the HTML of Markdown and of notebooks' outputs, which may be anybody's: no
# scripts, no forms, nothing that is loaded from elsewhere.
TAGS = """a blockquote br code del details div em h1 h2 h3 h4 h5 h6 hr img li ol p pre span strong
sub summary sup table tbody td tfoot th thead tr ul""".split()  # noqa: SIM905
ADDRESSES = {
    ("a", "href"): re.compile(r"(https?:|mailto:|#|[\w./-]+(#|$)).*"),
    ("img", "src"): re.compile(r"data:image/png;base64,[\w+/=\s]*|(?!//)[\w./-]+"),
}
OTHERS = {"alt", "class", "colspan", "data-verdict", "id", "rowspan", "tabindex"}
NUMBER = re.compile(r"[-+−–]?[\d.,]+([eE][-+]?\d+)?%?( ?\[.*\])?|–|NaN|nan")

# Each with what to look for; the first is notebook 07's.
SENTENCES = {
    " The cat sat on the mat and looked at the dog .": (
        "The paper's sentence: who looks at the verb “sat”, and who at the token just before?"
    ),
    " Mary met John at the station , and later John wrote to Mary .": (
        "A name comes again: does its second place look back at the first?"
    ),
    ' " I will come back , " she said , " when the war is over . "': (
        "A quotation: which head ties a closing mark to the opening one?"
    ),
    " They sold apples , pears , plums , bread , butter and cheese .": (
        "A list: do its commas look at each other?"
    ),
    " In 1914 the town had 310 houses ; in 1921 it had 98 .": (
        "Numbers: the second half has the shape of the first."
    ),
    " The songs that the singer of the band wrote were released in Japan .": (
        "The subject is far from its verb: does “were” find “songs”?"
    ),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make the static site.")
    parser.add_argument("--out", type=Path, default=ROOT / "build/site", help="%(default)s")
    out = parser.parse_args(arguments).out

    def work() -> None:
        with careful():
            Site(out).build()
            print(f"Site: {out / 'index.html'}")

    return guarded("build.py", work)


class Site:
    """out: the folder that the pages are written into, over those of an earlier time."""

    def __init__(self, out: Path):
        self.out = out
        self.notebooks = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
        # Page of the site, by the file of the clone that it shows: links between files lead there.
        self.pages = {README: "index.html", GALLERY: "index.html#figures"}
        self.pages |= {SCORECARD: "scorecard.html", CARD: "model.html"}
        self.pages |= {f"notebooks/{path.name}": f"{path.stem}.html" for path in self.notebooks}
        self.captions = captions_in(read(GALLERY))
        self.verdicts = Counter(re.findall(r"\| \*\*(.+?)\*\* \|", read(SCORECARD)))
        self.templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def build(self) -> None:
        left_out = shutil.ignore_patterns("site", "records", "badges", "*.md")
        for source in (HERE / "static", ROOT / "figures"):
            to = self.out / source.name
            if to.is_symlink():  # what it leads to is not the site's
                to.unlink()
            shutil.copytree(source, to, ignore=left_out, copy_function=copy, dirs_exist_ok=True)
        for source in (SCORECARD, CARD):
            text = re.sub(r"\A---\n.*?\n---\n", "", read(source), flags=re.DOTALL)  # a card's YAML
            body = self.html(text, source)
            self.write("article", self.pages[source], title=opening(text)[0], body=body)
        self.write("attention", "attention.html", title="Attention explorer", data=attention_data())
        chapters = [self.chapter(path) for path in self.notebooks]
        around = [None, *chapters, None]
        for i, chapter in enumerate(chapters):
            self.write("article", before=around[i], after=around[i + 2], **chapter)
        readme = read(README)
        title, introduction = opening(readme)
        heading, found = findings(readme)
        self.write(
            "index",
            "index.html",
            title=title,
            introduction=self.html(introduction, README),
            hero=HERO,
            verdicts=self.verdicts,
            heading=heading,
            findings=self.html(found, README),
            chapters=chapters,
            captions=self.captions,
        )

    def write(self, template: str, page: str, **content) -> None:
        html = self.templates.get_template(f"{template}.html.j2").render(page=page, **content)
        write(self.out / page, html)

    def chapter(self, path: Path) -> dict[str, str]:
        """What the pages say of a notebook: page, title, introduction and body (both HTML)."""
        notebook = nbformat.read(path, as_version=4)
        describe_pictures(notebook, self.captions)
        source = f"notebooks/{path.name}"
        title, introduction = opening(notebook.cells[0].source)
        exporter = HTMLExporter(
            template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True
        )
        return {
            "page": self.pages[source],
            "title": title,
            "introduction": self.html(introduction, source),
            "body": self.tidy(exporter.from_notebook_node(notebook)[0], source),
        }

    def html(self, text: str, source: str) -> str:
        """Markdown of the clone's file `source` as HTML."""
        return self.tidy(markdown2html(text), source)

    def tidy(self, html: str, source: str) -> str:
        """`html`, made of the clone's file `source`, as it stands in a page."""
        soup = BeautifulSoup(html, "html.parser")
        for tag in soup(["style", "script"]):  # of pandas, a copy in each table
            tag.decompose()
        for cell in soup(class_="code_cell"):
            fold(soup, cell)
        for table in soup("table"):
            self.tidy_table(soup, table)
        for code in soup("pre"):
            code["tabindex"] = 0  # a keyboard can scroll it
        for link in soup("a", href=re.compile("^(?!https?:|mailto:|#)")):
            target = (ROOT / source).parent / link["href"].partition("#")[0]
            name = Path(os.path.relpath(target.resolve(), ROOT)).as_posix()
            if name in self.pages or (self.out / name).is_file():
                link["href"] = self.pages.get(name, name)
            else:
                link.unwrap()  # the site has no such page: its text stays
        # Last, so that what a browser is given is what was looked at.
        schemes = ["http", "https", "mailto", "data"]
        return bleach.clean(str(soup), TAGS, may_stay, schemes, strip=True).strip()

    def tidy_table(self, soup: BeautifulSoup, table: Tag) -> None:
        for tag in (table, *table(True)):
            for attribute in ("border", "style", "valign", "class"):
                tag.attrs.pop(attribute, None)
        for cell in table("td"):
            text = cell.get_text(strip=True)
            if text in self.verdicts:
                mark = soup.new_tag("span", string=text, attrs={"class": "verdict"})
                mark["data-verdict"] = text
                cell.clear()
                cell.append(mark)
            elif len(text) > LONG:
                cell["class"] = "long"
        # A column of numbers is set to the right. Columns are counted from there: on the left a
        # cell may span several rows.
        rows = [row(["td", "th"])[::-1] for row in table("tr")]
        body = [row for row in rows if not row[0].find_parent("thead")]
        for column in range(min(map(len, body), default=0)):
            if all(NUMBER.fullmatch(row[column].get_text(strip=True)) for row in body):
                for row in rows:
                    if column < len(row):
                        row[column]["class"] = "number"
        table.wrap(soup.new_tag("div", attrs={"class": "scroll", "tabindex": 0}))


def may_stay(tag: str, attribute: str, value: str) -> bool:
    pattern = ADDRESSES.get((tag, attribute))
    return bool(pattern.fullmatch(value)) if pattern else attribute in OTHERS


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def opening(text: str) -> tuple[str, str]:
    """(title, first paragraph) of a page, badges left out; "…" where a list ends its sentence."""
    title, *paragraphs = text.strip().split("\n\n")
    first = next(paragraph for paragraph in paragraphs if not paragraph.startswith("!["))
    return title.removeprefix("# "), f"{first} …" if first[-1].isalnum() else first


def findings(readme: str) -> tuple[str, str]:
    """(heading above it, Markdown) of the block that figures/publish.py writes."""
    block = BLOCK.search(readme)
    return re.findall(r"^## (.+)$", readme[: block.start()], re.MULTILINE)[-1], block[1]


def describe_pictures(notebook: nbformat.NotebookNode, captions: dict[str, str]) -> None:
    """Give every picture the text that stands in for it: the caption of the figure that its cell
    saves, or else the heading above it."""
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = [heading, *re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE)][-1]
            continue
        names = (name for name in re.findall(r'"(\w+)"', cell.source) if name in captions)
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                output.metadata["alt"] = captions.get(next(names, None), heading)


def fold(soup: BeautifulSoup, cell: Tag) -> None:
    """Hide a notebook's parameters and its long code until somebody asks for them."""
    code = cell.find(class_="input")
    lines = code.get_text().strip().count("\n") + 1
    if lines >= FOLDED or "celltag_parameters" in cell["class"]:
        folded = code.wrap(soup.new_tag("details"))
        folded.insert(0, soup.new_tag("summary", string=f"Code, {lines} lines"))


def attention_data() -> dict:
    """What the explorer shows: {layers, heads, sentences: [{text, note, tokens, maps}]}."""
    pretrained = load_pretrained()
    model, tokenizer = pretrained.model, pretrained.tokenizer
    sentences = []
    for text, note in SENTENCES.items():
        ids = tokenizer.encode(text)
        maps = thousandths(attention_maps(model, torch.tensor(ids)))
        tokens = [tokenizer.decode([i]) for i in ids]
        sentences.append({"text": text.strip(), "note": note, "tokens": tokens, "maps": maps})
    config = model.config
    return {"layers": config.n_layer, "heads": config.n_head, "sentences": sentences}


def thousandths(maps: torch.Tensor) -> list:
    """(layer, head, query, key) → nested lists of integers from 0 to 1000. A query's list ends with
    itself: what comes later it cannot see."""
    whole = (maps * 1000).round().int().tolist()
    return [[[row[: q + 1] for q, row in enumerate(head)] for head in layer] for layer in whole]


if __name__ == "__main__":
    sys.exit(main())
