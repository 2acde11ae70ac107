"""The static site: whole, self-contained, true to its sources; and, in a browser, readable."""

import json
import re
import shutil
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
import torch
from bs4 import BeautifulSoup
from conftest import REPOSITORY

from llmlite.audit.rows import VERDICTS
from llmlite.cli import main
from llmlite.errors import LLMLiteError
from llmlite.interpret import attention_maps
from llmlite.pretrained import load_pretrained
from llmlite.publish import captions_in
from llmlite.site import build_site, sources
from llmlite.site.explorer import SENTENCES, thousandths
from llmlite.site.folder import MARKER, replacing_folder
from llmlite.site.render import Renderer

README = (REPOSITORY / "README.md").read_text("utf-8")
CAPTIONS = captions_in((REPOSITORY / "figures/README.md").read_text("utf-8"))
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("[0-9]*.ipynb"))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    to = tmp_path_factory.mktemp("site") / "site"
    assert build_site(REPOSITORY, to, progress=False) == to / "index.html"
    return to


@pytest.fixture(scope="module")
def soups(site) -> dict[str, BeautifulSoup]:
    """Every page, by its path in the site."""
    return {
        str(path.relative_to(site)): BeautifulSoup(path.read_text("utf-8"), "html.parser")
        for path in sorted(site.rglob("*.html"))
    }


@pytest.fixture(scope="module")
def attention(site) -> dict:
    script = (site / "attention-data.js").read_text("utf-8")
    return json.loads(script.removeprefix("const ATTENTION = ").removesuffix(";\n"))


def words(text: str) -> str:
    return " ".join(text.split())


# --- the pages, as files


def test_every_page_is_there(soups):
    expected = {"index.html", "scorecard.html", "attention.html"}
    expected |= {f"notebooks/{path.stem}.html" for path in NOTEBOOKS}
    if (REPOSITORY / "llmlite/pretrained/README.md").exists():
        expected.add("model.html")
    assert set(soups) == expected


def test_every_link_leads_somewhere_in_the_site(site, soups):
    for page, soup in soups.items():
        for tag in soup(href=True) + soup(src=True):
            target = tag.get("href") or tag.get("src")
            if re.match(r"https?:|mailto:", target):
                assert tag.name == "a", f"{page} loads {target}"
                continue
            if target == "data:,":  # no icon: a browser would ask for one
                continue
            path, _, anchor = target.partition("#")
            at = ((site / page).parent / path).resolve() if path else (site / page).resolve()
            assert at.is_file(), f"{page}: {target}"
            assert at.is_relative_to(site.resolve())
            if anchor:
                there = soups[str(at.relative_to(site.resolve()))]
                assert there.find(id=anchor), f"{page}: {target}"


def test_nothing_is_loaded_from_outside(site):
    for path in [*site.rglob("*.css"), *site.glob("static/*.js")]:
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//cdn|@import|url\(", text), path


def test_pages_are_built_as_a_reader_needs_them(soups):
    for page, soup in soups.items():
        ids = Counter(tag["id"] for tag in soup(id=True))
        assert max(ids.values()) == 1, f"{page}: {ids.most_common(1)}"
        assert soup.html["lang"] == "en"
        levels = [int(tag.name[1]) for tag in soup(re.compile("^h[1-6]$"))]
        assert levels[0] == 1, page
        assert levels.count(1) == 1, page
        assert all(below - above <= 1 for above, below in pairwise(levels))
        assert all(len(image["alt"]) > 10 for image in soup("img")), page
        assert not soup("style"), page
        assert all(table.find_parent(class_="scroll") for table in soup("table", class_=None))


def test_the_front_page_shows_every_figure_with_its_caption(soups):
    gallery = soups["index.html"].find(class_="gallery")
    for name, caption in CAPTIONS.items():
        figure = gallery.find(id=f"figure-{name}")
        assert figure.a["href"] == figure.img["src"] == f"figures/{name}.png"
        assert words(caption) in words(figure.figcaption.get_text())
        svg = (REPOSITORY / f"figures/{name}.svg").exists()
        assert bool(figure.find("a", href=f"figures/{name}.svg")) == svg


def table_rows(markdown: str) -> list[list[str]]:
    rows = [line for line in markdown.splitlines() if re.match(r"\| *[^ |-]", line)]
    return [[re.sub("[*`]", "", cell).strip() for cell in row.split("|")[1:-1]] for row in rows]


@pytest.mark.parametrize(("name", "heading"), [("scorecard", "found"), ("results", "results")])
def test_the_front_page_has_the_readmes_numbers(soups, name, heading):
    part = re.search(f"<!-- {name} -->(.*)<!-- end of {name} -->", README, re.DOTALL)[1]
    table = soups["index.html"].find(id=heading).parent.table
    shown = [[cell.get_text(strip=True) for cell in row(["td", "th"])] for row in table("tr")]
    written = table_rows(part)
    assert len(written) > 5
    assert [row for row in shown if row[0]] == written


def test_the_tally_counts_the_scorecards_verdicts(soups):
    rows = table_rows((REPOSITORY / "figures/scorecard.md").read_text("utf-8"))
    counted = Counter(row[4] for row in rows[1:])
    shown = [item.get_text(" ", strip=True) for item in soups["index.html"].select(".tally li")]
    assert shown == [f"{counted[verdict]} {verdict}" for verdict in VERDICTS]
    page = soups["scorecard.html"].table("span", class_="verdict")
    assert [mark.get_text() for mark in page] == [row[4] for row in rows[1:]]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_shown_with_all_its_outputs(site, soups, path):
    notebook = nbformat.read(path, as_version=4)
    soup = soups[f"notebooks/{path.stem}.html"]
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    data = [output.get("data", {}) for output in outputs]
    pictures = soup.select("main img")
    assert len(pictures) == sum("image/png" in each for each in data)
    assert len(soup.select("main .scroll table")) >= sum("<table" in str(each) for each in data)
    shown = words(soup.main.get_text())
    for output in outputs:
        if output.output_type == "stream":
            assert words(output.text) in shown
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert words(cell.source) in shown
    front = soups["index.html"].find("a", string=soup.h1.get_text())
    assert front["href"] == f"notebooks/{path.stem}.html"


def test_notebooks_lead_to_the_one_before_and_after(soups):
    pages = [f"{path.stem}.html" for path in NOTEBOOKS]
    for before, page, after in zip([None, *pages], pages, [*pages[1:], None], strict=False):
        turn = soups[f"notebooks/{page}"].find(class_="turn")
        assert [a["href"] for a in turn("a")] == [name for name in (before, after) if name]


# --- what is read, and what is made of it


def test_parts_of_a_page():
    page = (
        "# Title\n\nOne.\n\nTwo.\n\n![a](b.png)\n\n## Next\n<!-- x -->\n| 1 |\n<!-- end of x -->\n"
    )
    assert sources.opening(page) == ("Title", "One.\n\nTwo.")
    assert sources.section(page, "x") == "| 1 |"
    assert sources.without_front_matter("---\na: b\n---\n\n# T\n---\n") == "# T\n---\n"
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# 01 · A\n\nIt is 1.17. This shows\n\n1. x")]
    )
    assert sources.introduction(notebook) == ("01 · A", "It is 1.17.")


def test_a_missing_part_is_one_sentence(one_sentence, tmp_path):
    for call in (
        lambda: sources.section("# T", "scorecard"),
        lambda: sources.opening("no title"),
        lambda: build_site(tmp_path, tmp_path / "out", progress=False),
    ):
        with pytest.raises(LLMLiteError) as error:
            call()
        one_sentence(error)
    assert list(tmp_path.iterdir()) == []


def test_without_nbconvert_a_sentence_says_what_to_install(monkeypatch, tmp_path, one_sentence):
    monkeypatch.setitem(sys.modules, "nbconvert", None)
    with pytest.raises(LLMLiteError, match="llmlite\\[notebooks\\]") as error:
        build_site(REPOSITORY, tmp_path / "out", progress=False)
    one_sentence(error)


def test_a_picture_is_described_by_its_caption_or_the_heading_above():
    picture = nbformat.v4.new_output("display_data", {"image/png": ""})
    code = nbformat.v4.new_code_cell
    cells = [
        nbformat.v4.new_markdown_cell("# A\n\n## Section"),
        code('save("one"); save("two")', outputs=[picture, picture.copy()]),
        code("draw()", outputs=[nbformat.v4.new_output("display_data", {"image/png": ""})]),
    ]
    cells[1].outputs[1].metadata = nbformat.NotebookNode()
    notebook = nbformat.v4.new_notebook(cells=cells)
    sources.describe_pictures(notebook, {"one": "First.", "two": "Second."})
    alts = [o.metadata.alt for cell in cells[1:] for o in cell.outputs]
    assert alts == ["First.", "Second.", "Section"]


def test_markdown_becomes_html_that_fits_in(tmp_path):
    links = {"notebooks/08.ipynb": "notebooks/08.html", "figures/a.json": "figures/a.json"}
    text = """## A\n\n## A\n
[n](../notebooks/08.ipynb) [d](a.json) [gone](../llmlite/model.py) [web](https://example.org)\n
| | n | verdict |\n|---|---|---|\n| x | 1.5 | **not reproduced** |\n| y | -2 | reproduced |"""
    html = Renderer(links, tmp_path).markdown(text, "figures/scorecard.md", "notebooks/x.html")
    soup = BeautifulSoup(html, "html.parser")
    assert [a["href"] for a in soup("a")] == ["08.html", "../figures/a.json", "https://example.org"]
    assert "gone" in soup.get_text()
    assert [h["id"] for h in soup("h2")] == ["a", "a-2"]
    assert [c.get_text() for c in soup(class_="number")] == ["n", "1.5", "-2"]
    assert [c["class"] for c in soup("span")] == [["verdict", "no"], ["verdict", "yes"]]
    assert soup.table.parent["class"] == ["scroll"]
    assert [cell.name for cell in soup.tr(["td", "th"])] == ["td", "th", "th"]


# --- the folder


def test_a_site_replaces_a_site_and_nothing_else(tmp_path, one_sentence):
    to = tmp_path / "site"
    with replacing_folder(to) as aside:
        (aside / "old").touch()
    with replacing_folder(to) as aside:
        (aside / "new").touch()
        assert (to / "old").exists()
    assert {path.name for path in to.iterdir()} == {MARKER, "new"}
    with pytest.raises(FileNotFoundError), replacing_folder(to) as aside:
        (aside / "half").rename(aside / "whole")
    assert {path.name for path in to.iterdir()} == {MARKER, "new"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").touch()
    for taken in ("mine", "mine/thesis.txt"):
        with pytest.raises(LLMLiteError) as error, replacing_folder(tmp_path / taken):
            pytest.fail("must not be entered")
        one_sentence(error)
    assert {path.name for path in tmp_path.iterdir()} == {"site", "mine"}
    assert (tmp_path / "mine/thesis.txt").exists()


def test_the_command_line_says_where_and_refuses(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    made = []
    monkeypatch.setattr(
        "llmlite.site.build_site", lambda root, to, progress: made.append((root, to)) or to
    )
    assert main(["site"]) == 0
    assert main(["site", "--to", str(tmp_path)]) == 0
    assert made == [(REPOSITORY, REPOSITORY / "build/site"), (REPOSITORY, tmp_path)]
    assert str(tmp_path) in capsys.readouterr().out


# --- the explorer's data


def test_thousandths_are_the_lower_triangle():
    maps = torch.tensor([[[[1.0, 0.0], [0.2504, 0.7496]]]])
    assert thousandths(maps) == [[[[1000], [250, 750]]]]


def test_the_explorer_shows_the_models_own_maps(site, attention, soups):
    pretrained = load_pretrained()
    config = pretrained.model.config
    assert (attention["layers"], attention["heads"]) == (config.n_layer, config.n_head)
    assert str(pretrained) in words(soups["attention.html"].get_text())
    assert SENTENCES[0][0] in (REPOSITORY / "notebooks/07_attention_maps.ipynb").read_text("utf-8")
    assert (site / "attention-data.js").stat().st_size < 1.5e6
    for (text, _), shown in zip(SENTENCES, attention["sentences"], strict=True):
        assert "".join(shown["tokens"]) == text
        n = len(shown["tokens"])
        expected = attention_maps(pretrained.model, torch.tensor(pretrained.tokenizer.encode(text)))
        assert expected.triu(1).abs().max() == 0
        filled = torch.zeros(config.n_layer, config.n_head, n, n)
        for layer, heads in enumerate(shown["maps"]):
            for head, rows in enumerate(heads):
                assert [len(row) for row in rows] == list(range(1, n + 1))
                for query, row in enumerate(rows):
                    assert abs(sum(row) - 1000) <= len(row) / 2
                    filled[layer, head, query, : query + 1] = torch.tensor(row)
        assert (filled / 1000 - expected).abs().max() <= 0.0005 + 1e-6


# --- in a browser


ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
LEFT = "net::ERR_ABORTED"  # the page was left before its pictures had come


@pytest.fixture(scope="module", params=[pytest.param("chromium", marks=pytest.mark.slow)])
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"there is no browser here: none of {', '.join(names)}")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """open_page(path, width, theme): a page; at the end of the test it must have no complaints."""
    contexts, complaints = [], []

    def listen(page):
        page.on("console", lambda m: m.type in ("error", "warning") and complaints.append(m.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda r: r.failure != LEFT and complaints.append(r.url))

    def opened(path: Path, width: int = 1280, theme: str = "light"):
        size = {"width": width, "height": 800}
        contexts.append(browser.new_context(viewport=size, color_scheme=theme))
        page = contexts[-1].new_page()
        listen(page)
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


# The contrast of each text with the nearest background behind it (WCAG 2.2, 1.4.3).
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (colour) => {
    const [r, g, b] = rgba(colour).slice(0, 3).map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (e) => {
    const colour = e ? getComputedStyle(e).backgroundColor : "white";
    return !e || rgba(colour)[3] === 255 ? colour : behind(e.parentElement);
  };
  const found = {};
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest("svg, noscript")) continue;
    const text = getComputedStyle(e).color, ground = behind(e);
    const [low, high] = [luminance(text), luminance(ground)].sort((a, b) => a - b);
    found[`${text} on ${ground} (${e.className || e.tagName})`] = (high + 0.05) / (low + 0.05);
  }
  return found;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_fits_on_a_phone_and_can_be_read(site, soups, open_page, theme):
    grounds = set()
    page = open_page(site / "index.html", 390, theme)
    for name in soups:
        page.goto((site / name).as_uri())
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 390, name
        page.evaluate("document.querySelectorAll('img').forEach((i) => (i.loading = 'eager'))")
        page.wait_for_function("[...document.images].every((i) => i.complete)")
        broken = "[...document.images].filter((i) => !i.naturalWidth).map((i) => i.src)"
        assert page.evaluate(broken) == [], name
        page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 390, name
        faint = {what: c for what, c in page.evaluate(CONTRAST).items() if c < 4.5}
        assert faint == {}, name
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    (ground,) = grounds
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 200) == (theme == "dark")


def test_navigation_leads_through_the_site(site, open_page):
    page = open_page(site / "index.html")
    for name, heading in [
        ("Scorecard", "Scorecard"),
        ("Attention", "Attention explorer"),
        ("Notebooks", sources.opening(README)[0]),
    ]:
        page.click(f"header >> text='{name}'")
        assert page.inner_text("h1") == heading
    page.click(".chapters a >> nth=0")
    for path in NOTEBOOKS[1:]:
        page.click("a[rel=next]")
        assert page.url.endswith(f"{path.stem}.html")
    assert page.locator("a[rel=next]").count() == 0


def test_the_chosen_colours_are_remembered(site, open_page):
    page = open_page(site / "index.html")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.click("#theme")
    dark = page.evaluate(ground)
    assert dark != light
    page.goto((site / "scorecard.html").as_uri())
    assert page.evaluate(ground) == dark
    page.click("#theme")
    assert page.evaluate(ground) == light


def shades(page) -> list[float]:
    """The weights that the map's cells are coloured by, query by query."""
    cells = page.evaluate(
        "[...document.querySelectorAll('#map rect')].map((r) => [+r.dataset.query, +r.dataset.key,"
        " r.style.getPropertyValue('--weight') ** 2])"
    )
    return [weight for _, _, weight in sorted(cells)]


def test_the_explorer_draws_what_is_chosen(site, attention, open_page):
    page = open_page(site / "attention.html")
    heads = attention["sentences"][0]["maps"][0]
    flat = [[weight / 1000 for row in head for weight in row] for head in heads]
    mean = [sum(weights) / len(heads) for weights in zip(*flat, strict=True)]
    assert shades(page) == pytest.approx(mean, abs=1e-6)
    page.select_option("#head", "1")
    assert shades(page) == pytest.approx(flat[1], abs=1e-6)
    last = attention["layers"] - 1
    page.select_option("#layer", str(last))
    page.select_option("#sentence", "2")
    rows = attention["sentences"][2]["maps"][last][1]
    assert shades(page) == pytest.approx([w / 1000 for row in rows for w in row], abs=1e-6)
    assert page.locator("#strip button").all_inner_texts() == attention["sentences"][2]["tokens"]


def test_a_click_on_a_token_colours_the_earlier_ones(site, attention, open_page):
    page = open_page(site / "attention.html", 390)
    page.select_option("#head", "0")
    page.locator("#strip button").nth(4).click()
    row = attention["sentences"][0]["maps"][0][0][4]
    shown = page.evaluate(
        "[...document.querySelectorAll('#strip button')].map((b) =>"
        " b.style.getPropertyValue('--weight') ** 2 * 1000)"
    )
    assert shown == pytest.approx([*row, *[0] * (len(shown) - 5)], abs=1e-3)
    pressed = page.locator("#strip [aria-pressed=true]")
    assert pressed.all_inner_texts() == [attention["sentences"][0]["tokens"][4]]
    assert f"{max(row) / 1000:.3f}" in page.inner_text("#looks")


def test_the_explorer_needs_no_mouse(site, attention, open_page):
    page = open_page(site / "attention.html")
    sentence = attention["sentences"][0]
    maps, tokens = sentence["maps"][0][0], [token.strip() for token in sentence["tokens"]]
    page.select_option("#head", "0")
    page.focus("#map")
    page.keyboard.press("Home")
    for key in ("ArrowUp", "ArrowUp", "ArrowRight"):
        page.keyboard.press(key)
    query, key = len(tokens) - 3, 1
    expected = f"“{tokens[query]}” attends to “{tokens[key]}”: {maps[query][key] / 1000:.3f}"
    assert page.inner_text("#weight") == expected
    page.focus("#strip button >> nth=2")
    page.keyboard.press("ArrowRight")
    assert page.locator("#strip [aria-pressed=true]").inner_text().strip() == tokens[3]
    assert page.evaluate("document.activeElement.textContent.trim()") == tokens[3]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert page.locator("#strip [aria-pressed=true]").inner_text().strip() == tokens[2]


def test_pointing_at_a_cell_gives_its_weight(site, attention, open_page):
    page = open_page(site / "attention.html")
    page.select_option("#head", "0")
    before = page.inner_text("#weight")
    page.hover("#map rect[data-query='5'][data-key='2']")
    weight = attention["sentences"][0]["maps"][0][0][5][2] / 1000
    assert page.inner_text("#weight").endswith(f": {weight:.3f}")
    page.mouse.move(5, 5)
    assert page.inner_text("#weight") == before
