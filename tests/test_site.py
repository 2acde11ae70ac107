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
CAPTIONS = captions_in((REPOSITORY / "figures/README.md").read_text("utf-8"))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Built into a folder that has other things in it, and links in places of its own."""
    out = tmp_path_factory.mktemp("site") / "site"
    (out / ".git").mkdir(parents=True)
    for name in (".git/HEAD", "CNAME", "../text"):
        (out / name).write_text("Somebody's.")
    (out / "../folder").mkdir()
    (out / "index.html").symlink_to(out / "../text")
    (out / "static").symlink_to(out / "../folder")
    assert build.main(["--out", "/dev/null/x"]) == 2, "which is said"
    assert build.main(["--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def soups(site) -> dict[str, BeautifulSoup]:
    """Every page, by its name."""
    pages = sorted(site.glob("*.html"))
    return {path.name: BeautifulSoup(path.read_text("utf-8"), "html.parser") for path in pages}


def explored(site: Path) -> dict:
    page = (site / "attention.html").read_text("utf-8")
    return json.loads(re.search("const ATTENTION = (.*);", page)[1])


def words(text: str) -> str:
    return " ".join(text.split())


def test_every_page_is_there_whole_and_links_lead_to_it(site, soups):
    pages = {"index.html", "scorecard.html", "attention.html", "model.html"}
    assert set(soups) == pages | {f"{path.stem}.html" for path in NOTEBOOKS}
    for page, soup in soups.items():
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
    for name in (".git/HEAD", "CNAME", "../text"):
        assert (site / name).read_text() == "Somebody's.", "stays as it is"
    assert not list((site / "../folder").iterdir())


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)> <svg onload=alert(1)>',
    "<a href='javascript:alert(1)'>x</a> [x](javascript:alert(1)) [x](data:text/html,x)",
    "<a href='../../../etc/passwd'>x</a>",
    "<img src='https://x.org/y.png'> <img src='//x.org/y.png'> ![x](https://x.org/y.png)",
    "<iframe src='https://x.org'></iframe> <form action='https://x.org'><input></form>",
    "<style>@import 'https://x.org'</style> <div style='background: url(https://x.org)'>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_others_commands_no_browser(tmp_path, text):
    site, path = build.Site(tmp_path), tmp_path / NOTEBOOKS[0].name
    site.captions = {"a_figure": text}
    outputs = [{"text/html": text}, {"text/markdown": text}, {"image/png": "AAAA"}]
    outputs = [nbformat.v4.new_output("display_data", data) for data in outputs]
    cells = [nbformat.v4.new_markdown_cell(f"# {text}\n\n{text}")]
    cells += [nbformat.v4.new_code_cell('"a_figure"', outputs=outputs)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    site.write("article", **site.chapter(path))
    data = {"layers": 0, "heads": 0, "sentences": [{"text": text, "tokens": ["</script>"]}]}
    site.write("attention", "attention.html", title=text, data=data)
    assert explored(tmp_path) == data
    for page, scripts in ((f"{path.stem}.html", 1), ("attention.html", 3)):
        soup = BeautifulSoup((tmp_path / page).read_text("utf-8"), "lxml")
        assert len(soup("script")) == scripts
        assert not soup(["style", "svg", "math", "iframe", "form", "input"])
        attributes = {name: value for tag in soup(True) for name, value in tag.attrs.items()}
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("style", "--weight").startswith("--weight")
        assert all(re.match("data:image/png;|x$", image["src"]) for image in soup("img", src=True))
        assert all(re.match(r"#|\w+\.html", link["href"]) for link in soup.main("a", href=True))


def test_the_front_page_shows_figures_and_the_tally_of_the_scorecard(soups):
    front, scorecard = soups["index.html"], soups["scorecard.html"]
    assert scorecard.main.find("a", href="08_reproduction_audit.html"), "a file of the clone"
    assert soups["01_prepare.html"].select("td.number"), "at the right"
    shown = {f.img["src"]: words(f.figcaption.text) for f in front.select(".gallery figure")}
    assert shown == {f"figures/{name}.png": words(text) for name, text in CAPTIONS.items()}
    assert len(shown) == len(list((REPOSITORY / "figures").glob("*.png")))
    marks = [mark["data-verdict"] for mark in scorecard.table.select(".verdict")]
    tally = dict(item.text.split(" ", 1)[::-1] for item in front.select(".tally li"))
    assert {verdict: int(count) for verdict, count in tally.items()} == Counter(marks)


def test_a_notebook_is_shown_with_its_outputs(soups):
    for path in NOTEBOOKS:
        main = soups[f"{path.stem}.html"].main
        cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        outputs = [output for cell in cells for output in cell.outputs]
        data = [output.get("data", {}) for output in outputs]
        assert len(main("img")) == sum("image/png" in each for each in data)
        assert {image["alt"] for image in main("img")} & set(CAPTIONS.values())
        assert len(main("table")) >= sum("<table" in str(each) for each in data)
        texts = [cell.source for cell in cells]
        texts += [output.text for output in outputs if output.output_type == "stream"]
        shown = words(main.get_text())
        assert not [text for text in texts if words(text) not in shown]


def test_the_explorer_has_the_models_own_maps(site):
    pretrained = load_pretrained()
    for text, shown in zip(build.SENTENCES, explored(site)["sentences"], strict=True):
        assert "".join(shown["tokens"]) == text
        expected = attention_maps(pretrained.model, torch.tensor(pretrained.tokenizer.encode(text)))
        rows = [row for layer in shown["maps"] for head in layer for row in head]
        for row, weights in zip(rows, expected.flatten(0, 2), strict=True):
            assert row == pytest.approx((1000 * weights[: len(row)]).tolist(), abs=0.501)
            assert weights[len(row) :].sum() == 0, "what comes later"


# --- in a browser


@pytest.fixture
def page():
    """A page on a phone's screen; at the end of the test it must have no complaints."""
    if (path := shutil.which("chromium") or shutil.which("google-chrome")) is None:
        pytest.skip("there is no browser here: neither chromium nor google-chrome")
    playwright = pytest.importorskip("playwright.sync_api")
    complaints = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="light")
        page.on("console", lambda m: m.type in ("error", "warning") and complaints.append(m.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        yield page
    assert complaints == []


def is_dark(page) -> bool:
    page.wait_for_load_state()
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)[:3])) < 200


@pytest.mark.slow
def test_every_page_fits_on_a_phone_and_has_the_readers_colours(site, soups, page):
    for name in soups:
        page.goto((site / name).as_uri())
        page.evaluate("[...document.images].forEach((i) => (i.loading = 'eager'))")
        page.wait_for_function("[...document.images].every((i) => i.complete)")
        assert page.evaluate("[...document.images].every((i) => i.naturalWidth)"), name
        page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 390, name
    assert not is_dark(page)
    page.emulate_media(color_scheme="dark")
    page.reload()
    assert is_dark(page), "the phone's choice"
    page.click("#theme")
    page.click("header >> text='Notebooks'")
    page.click(".chapters a >> nth=0")
    for path in NOTEBOOKS[1:]:
        page.click("a[rel=next]")
        assert page.url.endswith(f"{path.stem}.html")
    assert not is_dark(page), "the reader's"


@pytest.mark.slow
def test_the_explorer_draws_what_is_chosen(site, page):
    def weights(css):
        shown = "(all) => all.map((e) => e.style.getPropertyValue('--weight') ** 2 * 1000)"
        return page.locator(css).evaluate_all(shown)

    page.goto((site / "attention.html").as_uri())
    assert sum(weights("#map tr:last-child td")) == pytest.approx(1000, abs=20), "a mean"
    for menu, choice in (("#sentence", "2"), ("#layer", "1"), ("#head", "3")):
        page.select_option(menu, choice)
    rows = explored(site)["sentences"][2]["maps"][1][3]
    assert weights("#map th ~ td") == pytest.approx([w for row in rows for w in row], abs=1e-3)
    page.focus("#strip button >> nth=4")  # it needs no mouse
    page.keyboard.press("Enter")
    assert weights("#strip button")[:5] == pytest.approx(rows[4], abs=1e-3)
    page.hover("#map tr:nth-child(7) td:nth-child(4)")
    assert page.inner_text("#weight").endswith(f": {rows[5][2] / 1000:.3f}")
