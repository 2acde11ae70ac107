"""The static site: whole, self-contained, true to its sources; and, in a browser, readable."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import build
import nbformat
import pytest
import torch
from bs4 import BeautifulSoup
from conftest import REPOSITORY
from publish import captions_in

from llmlite.interpret import attention_maps
from llmlite.pretrained import load_pretrained

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("[0-9]*.ipynb"))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site") / "site"
    build.main(["--out", str(out)])
    return out


@pytest.fixture(scope="module")
def soups(site) -> dict[str, BeautifulSoup]:
    """Every page, by its name."""
    pages = sorted(site.glob("*.html"))
    return {path.name: BeautifulSoup(path.read_text("utf-8"), "html.parser") for path in pages}


@pytest.fixture(scope="module")
def attention(site) -> dict:
    data = re.search("const ATTENTION = (.*);", (site / "attention.html").read_text("utf-8"))
    return json.loads(data[1])


def words(text: str) -> str:
    return " ".join(text.split())


# --- the pages, as files


def test_every_page_is_there_whole_and_links_lead_to_it(site, soups):
    pages = {"index.html", "scorecard.html", "attention.html", "model.html"}
    assert set(soups) == pages | {f"{path.stem}.html" for path in NOTEBOOKS}
    for page, soup in soups.items():
        ids = [tag["id"] for tag in soup(id=True)]
        assert len(ids) == len(set(ids)), page
        assert len(soup("h1")) == 1, page
        assert all(len(image["alt"]) > 10 for image in soup("img")), page
        assert all(table.find_parent(class_="scroll") for table in soup("table")), page
        for tag in soup(href=True) + soup(src=True):
            target = tag.get("href") or tag.get("src")
            if re.match(r"https?:|mailto:", target):
                assert tag.name == "a", f"{page} loads {target}"
            elif not target.startswith("data:"):
                path, _, anchor = target.partition("#")
                assert (site / (path or page)).is_file(), f"{page}: {target}"
                assert not anchor or soups[path or page].find(id=anchor), f"{page}: {target}"
    for path in site.glob("static/*"):
        assert not re.search(r"https?://|@import|url\(", path.read_text("utf-8")), path


def test_the_front_page_shows_figures_and_findings(soups):
    front = soups["index.html"]
    captions = captions_in((REPOSITORY / "figures/README.md").read_text("utf-8"))
    shown = {f.img["src"]: words(f.figcaption.text) for f in front.select(".gallery figure")}
    assert shown == {f"figures/{name}.png": words(text) for name, text in captions.items()}
    assert len(shown) == len(list((REPOSITORY / "figures").glob("*.png")))
    marks = [mark.text for mark in soups["scorecard.html"].table.select(".verdict")]
    tally = dict(item.text.split(" ", 1)[::-1] for item in front.select(".tally li"))
    assert {verdict: int(count) for verdict, count in tally.items()} == Counter(marks)


def test_a_notebook_is_shown_with_its_outputs(soups):
    """As text: what stands in <angle brackets> has been escaped."""
    for path in NOTEBOOKS:
        soup = soups[f"{path.stem}.html"]
        cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        outputs = [output for cell in cells for output in cell.outputs]
        data = [output.get("data", {}) for output in outputs]
        assert len(soup.select("main img")) == sum("image/png" in each for each in data)
        assert len(soup("table")) >= sum("<table" in str(each) for each in data)
        shown = words(soup.main.get_text())
        texts = [cell.source for cell in cells]
        texts += [output.text for output in outputs if output.output_type == "stream"]
        assert not [text for text in texts if words(text) not in shown]


# --- what is made of a text


def test_openings_and_pictures_descriptions():
    assert build.opening("# T\n\n![badge](b.svg)\n\nOne.\n\nTwo.") == ("T", "One.")
    assert build.opening("# T\n\nIt shows\n\n1. x") == ("T", "It shows …")
    v4 = nbformat.v4
    cells = [
        v4.new_markdown_cell("# A\n\n## Section"),
        v4.new_code_cell('save(draw(), "one")'),
        v4.new_code_cell("draw()"),
    ]
    for cell in cells[1:]:
        cell.outputs = [v4.new_output("display_data", {"image/png": ""})]
    build.describe_pictures(v4.new_notebook(cells=cells), {"one": "First."})
    assert [cell.outputs[0].metadata.alt for cell in cells[1:]] == ["First.", "Section"]


def test_markdown_becomes_html_that_fits_in(tmp_path):
    text = """[n](../notebooks/01_prepare.ipynb) [gone](../llmlite/model.py) `<unk>` a < b\n
| | n | verdict |\n|---|---|---|\n| x | 1.5 | **not reproduced** |\n| y | -2 | reproduced |"""
    html = build.Site(tmp_path).html(text, "figures/scorecard.md")
    soup = BeautifulSoup(html, "html.parser")
    assert [a["href"] for a in soup("a")] == ["01_prepare.html"]
    assert soup.p.get_text() == "n gone <unk> a < b"
    assert [cell.get_text() for cell in soup(class_="number")] == ["n", "1.5", "-2"]
    assert [mark["data-verdict"] for mark in soup("span")] == ["not reproduced", "reproduced"]
    assert soup.table.parent["class"] == ["scroll"]


def test_the_explorer_has_the_models_own_maps(attention):
    pretrained = load_pretrained()
    first = next(iter(build.SENTENCES))
    assert first in (REPOSITORY / "notebooks/07_attention_maps.ipynb").read_text("utf-8")
    for text, shown in zip(build.SENTENCES, attention["sentences"], strict=True):
        assert "".join(shown["tokens"]) == text
        expected = attention_maps(pretrained.model, torch.tensor(pretrained.tokenizer.encode(text)))
        below = [row[: i + 1] for maps in expected.flatten(0, 1) for i, row in enumerate(maps)]
        rows = [row for layer in shown["maps"] for head in layer for row in head]
        for row, weights in zip(rows, below, strict=True):
            assert row == pytest.approx((1000 * weights).tolist(), abs=0.501)


# --- in a browser


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no browser here: neither chromium nor google-chrome")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        yield driver.chromium.launch(executable_path=path, args=arguments)


@pytest.fixture
def page(browser):
    """A page on a phone's screen; at the end of the test it must have no complaints."""
    complaints = []
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="light")
    page.on("console", lambda m: m.type in ("error", "warning") and complaints.append(m.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    page.close()
    assert complaints == []


def brightness(page) -> int:
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_fits_on_a_phone(site, soups, page, theme):
    page.emulate_media(color_scheme=theme)
    for name in soups:
        page.goto((site / name).as_uri())
        page.evaluate("document.querySelectorAll('img').forEach((i) => (i.loading = 'eager'))")
        page.wait_for_function("[...document.images].every((i) => i.complete)")
        assert page.evaluate("[...document.images].every((i) => i.naturalWidth)"), name
        page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 390, name
        assert (brightness(page) < 200) == (theme == "dark")


@pytest.mark.slow
def test_one_clicks_through_the_site_and_keeps_ones_colours(site, page):
    page.goto((site / "index.html").as_uri())
    page.set_viewport_size({"width": 1280, "height": 800})
    page.click("#theme")
    page.click("header >> text='Scorecard'")
    assert page.inner_text("h1").startswith("Scorecard")
    assert brightness(page) < 200
    page.click("header >> text='Notebooks'")
    page.click(".chapters a >> nth=0")
    for path in NOTEBOOKS[1:]:
        page.click("a[rel=next]")
        assert page.url.endswith(f"{path.stem}.html")
    assert page.locator("a[rel=next]").count() == 0


@pytest.mark.slow
def test_the_explorer_draws_what_is_chosen(site, attention, page):
    page.goto((site / "attention.html").as_uri())

    def weights(css):
        shown = "(all) => all.map((e) => e.style.getPropertyValue('--weight') ** 2 * 1000)"
        return page.locator(css).evaluate_all(shown)

    heads = attention["sentences"][0]["maps"][0]
    flat = [[weight for row in head for weight in row] for head in heads]
    mean = [sum(each) / len(heads) for each in zip(*flat, strict=True)]
    assert weights("#map th ~ td") == pytest.approx(mean, abs=1e-3)
    page.select_option("#sentence", "2")
    page.select_option("#layer", str(attention["layers"] - 1))
    page.select_option("#head", "1")
    sentence = attention["sentences"][2]
    rows, tokens = sentence["maps"][-1][1], sentence["tokens"]
    flat = [weight for row in rows for weight in row]
    assert weights("#map th ~ td") == pytest.approx(flat, abs=1e-3)
    assert page.locator("#strip button").all_inner_texts() == tokens
    page.focus("#strip button >> nth=4")  # it needs no mouse
    page.keyboard.press("Enter")
    expected = [*rows[4], *[0] * (len(tokens) - 5)]
    assert weights("#strip button") == pytest.approx(expected, abs=1e-3)
    assert f"{max(rows[4]) / 1000:.3f}" in page.inner_text("#looks")
    page.hover("#map tr:nth-child(7) td:nth-child(4)")
    assert page.inner_text("#weight").endswith(f": {rows[5][2] / 1000:.3f}")
