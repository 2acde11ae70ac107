"""The pages, one after the other, into a folder that is replaced as a whole."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from llmlite.errors import LLMLiteError
from llmlite.pretrained import load_pretrained
from llmlite.progress import tqdm
from llmlite.publish import captions_in
from llmlite.reproduce import find_notebooks
from llmlite.site import sources
from llmlite.site.explorer import as_script, attention_data
from llmlite.site.folder import replacing_folder

README, GALLERY, SCORECARD = "README.md", "figures/README.md", "figures/scorecard.md"
CARD = "llmlite/pretrained/README.md"  # there is none before a model has been shipped
HERO = "08_loss_by_position"
SHOWN = (".png", ".svg", ".json")  # of figures/: what a page may lead to
STATIC = Path(__file__).parent / "static"


def build_site(root: Path, to: Path, progress: bool) -> Path:
    """Make the site of the clone at `root` in the folder `to`, and return its front page.

    `to` changes only when all pages are there. Raises LLMLiteError where a source is missing, or
    `to` holds something else than a site.
    """
    try:
        import jinja2  # noqa: F401
        import nbconvert  # noqa: F401
    except ImportError:
        raise LLMLiteError(
            "Making the site needs nbconvert; install it with pip install 'llmlite[notebooks]'."
        ) from None
    sources.read(root, README)  # says so first if this is no clone
    with replacing_folder(to) as aside:
        Site(root, aside).build(progress)
    return to / "index.html"


@dataclass(frozen=True)
class Chapter:
    """A notebook as the site's pages speak of it. introduction: HTML, on the front page."""

    page: str
    title: str
    introduction: str


class Site:
    """root: the clone. to: an empty folder."""

    def __init__(self, root: Path, to: Path):
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        from llmlite.site.render import TEMPLATES, Renderer, relative

        self.root, self.to = root, to
        self.notebooks = find_notebooks(root / "notebooks")
        self.captions = captions_in(sources.read(root, GALLERY))
        self.pages = {README: "index.html", GALLERY: "index.html", SCORECARD: "scorecard.html"}
        if (root / CARD).exists():
            self.pages[CARD] = "model.html"
        for path in self.notebooks:
            self.pages[f"notebooks/{path.name}"] = f"notebooks/{path.stem}.html"
        figures = [p for p in sorted((root / "figures").iterdir()) if p.suffix in SHOWN]
        self.files = [f"figures/{path.name}" for path in figures]
        self.render = Renderer(self.pages | {name: name for name in self.files}, to)
        self.templates = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.relative = relative

    def build(self, progress: bool) -> None:
        """Write every page, with a bar over them."""
        for name in self.files:
            (self.to / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(self.root / name, self.to / name)
        shutil.copytree(STATIC, self.to / "static")
        jobs = [("scorecard", self._scorecard), ("attention", self._attention)]
        if CARD in self.pages:
            jobs.append(("model", self._model))
        opened = [self._open(path) for path in self.notebooks]
        chapters = [chapter for chapter, _ in opened]
        jobs += [
            (chapter.page, lambda i=i, nb=notebook: self._notebook(i, nb, chapters))
            for i, (chapter, notebook) in enumerate(opened)
        ]
        jobs.append(("index", lambda: self._front(chapters)))
        with tqdm(jobs, desc="Site", unit="page", disable=not progress) as bar:
            for name, job in bar:
                bar.set_postfix_str(name)
                job()

    def _write(self, template: str, page: str, title: str, **content) -> None:
        html = self.templates.get_template(template).render(
            title=title,
            page=page,
            site=sources.opening(sources.read(self.root, README))[0],
            has_model=CARD in self.pages,
            link=lambda target: self.relative(target, page),
            **content,
        )
        path = self.to / page
        path.parent.mkdir(exist_ok=True)
        path.write_text(html, encoding="utf-8")

    def _open(self, path: Path):
        import nbformat

        notebook = nbformat.read(path, as_version=4)
        title, text = sources.introduction(notebook)
        source = f"notebooks/{path.name}"
        sources.describe_pictures(notebook, self.captions)
        text = self.render.line(text, source, "index.html")
        return Chapter(self.pages[source], title, text), notebook

    def _notebook(self, i: int, notebook, chapters: list[Chapter]) -> None:
        chapter = chapters[i]
        body = self.render.notebook(notebook, f"notebooks/{self.notebooks[i].name}", chapter.page)
        before = chapters[i - 1] if i else None
        after = chapters[i + 1] if i + 1 < len(chapters) else None
        self._write(
            "notebook.html.j2", chapter.page, chapter.title, body=body, before=before, after=after
        )

    def _article(self, source: str, text: str) -> None:
        page = self.pages[source]
        body = self.render.markdown(text, source, page)
        self._write("article.html.j2", page, sources.opening(text)[0], body=body)

    def _scorecard(self) -> None:
        self._article(SCORECARD, sources.read(self.root, SCORECARD))

    def _model(self) -> None:
        self._article(CARD, sources.without_front_matter(sources.read(self.root, CARD)))

    def _attention(self) -> None:
        data = attention_data(load_pretrained())
        script = self.to / "attention-data.js"
        script.write_text(as_script(data), encoding="utf-8")
        self._write("attention.html.j2", "attention.html", "Attention explorer", data=data)

    def _front(self, chapters: list[Chapter]) -> None:
        from llmlite.site.render import VERDICT_CLASSES, png_size

        readme = sources.read(self.root, README)
        title, text = sources.opening(readme)
        page = "index.html"
        parts = {name: sources.section(readme, name) for name in ("scorecard", "results")}
        figures = [
            {
                "name": name,
                "caption": self.render.line(caption, GALLERY, page),
                "alt": caption,
                "png": f"figures/{name}.png",
                "svg": f"figures/{name}.svg" if f"figures/{name}.svg" in self.files else None,
                "size": png_size(self.to / f"figures/{name}.png"),
            }
            for name, caption in self.captions.items()
        ]
        hero = next((figure for figure in figures if figure["name"] == HERO), None)
        self._write(
            "index.html.j2",
            page,
            title,
            introduction=self.render.markdown(text, README, page),
            verdicts=sources.verdict_counts(sources.read(self.root, SCORECARD)),
            verdict_classes=VERDICT_CLASSES,
            parts={name: self.render.markdown(t, README, page) for name, t in parts.items()},
            chapters=chapters,
            figures=figures,
            hero=hero,
        )
