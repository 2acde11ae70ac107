"""What a run shows, gathered in one folder, and put where the repository shows it.

A rendered folder holds
    notebooks/     as executed, without the run's own parameters
    figures/       PNG and SVG, with captions; the scorecard and the audit's records
    tables/        the sections of README.md that the run's records give
    records/       of all runs, as `llmlite run` has left them, and the seeds' scores
    pretrained/    the trained model in half precision, its tokenizer, record and card
What a run has not made is left out of it, and stays as it is in the repository.
"""

import json
import re
import shutil
from pathlib import Path

from llmlite.audit import Audit
from llmlite.audit.scorecard import RECORDS, SCORECARD, SHORT
from llmlite.badges import badges
from llmlite.benchmarks import benchmark, benchmarks_folder
from llmlite.errors import LLMLiteError
from llmlite.experiment import SEEDS, Experiment
from llmlite.metrics import Score
from llmlite.plan import chosen, plan, stage
from llmlite.pretrained import FILES, RECORD, ship
from llmlite.readme import results, tokenizer_speed, training_speed
from llmlite.reproduce import INJECTED, tags, write_notebook
from llmlite.runs import RENDERED

TOKENIZER_RECORD = "tokenizer-wikitext-2-v1"  # the benchmarks that the README shows
# Those there are.
SPEED_RECORDS = ("gpu-h100", "train-cuda", "train-cpu", "generate-cuda", "generate-cpu")
SHIPPED = Path("llmlite/pretrained")
CAPTIONS = "captions.json"


def gather(experiment: Experiment) -> Path:
    """Put together what this experiment's run has made, anew, in `out/rendered`."""
    out, folder = experiment.out, experiment.out / RENDERED
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("notebooks", "figures", "tables", "records"):
        (folder / name).mkdir(parents=True)
    for notebook in sorted((out / "notebooks").glob("*.ipynb")):
        content = json.loads(notebook.read_text("utf-8"))
        # Whoever opens the published notebook starts from its own parameters, not this run's.
        content["cells"] = [c for c in content["cells"] if INJECTED not in tags(c)]
        write_notebook(folder / "notebooks" / notebook.name, content)
    made = out / "figures"
    pictures = [*made.glob("*.png"), *made.glob("*.svg"), made / CAPTIONS]
    for path in (*pictures, made / SCORECARD, made / RECORDS):
        if path.exists():
            _copy(path, folder / "figures" / path.name)
    if (made / SHORT).exists():
        _copy(made / SHORT, folder / "tables" / "scorecard.md")
    stage(experiment, chosen(plan(Audit(experiment)), None), folder / "records")
    if any(out.glob("runs/*/test_score.json")):
        _gather_model(experiment, folder)
    return folder


def _gather_model(experiment: Experiment, folder: Path) -> None:
    (folder / "tables" / "results.md").write_text(results(experiment), encoding="utf-8")
    if (experiment.out / SEEDS).exists():
        _copy(experiment.out / SEEDS, folder / "records" / SEEDS)
    (folder / "pretrained").mkdir()
    ship(experiment, folder / "pretrained")


def _copy(path: Path, to: Path) -> None:
    shutil.copyfile(path, _ready(to))


def _ready(path: Path) -> Path:
    """`path`, with the folder that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def publish(experiment: Experiment, root: Path) -> None:
    """Show in the clone at `root` what this experiment's run has made."""
    place(gather(experiment), root)


def place(folder: Path, root: Path) -> None:
    """Put a rendered folder's contents where the clone at `root` shows them, and its tables into
    README.md, beside those of speed where they were measured."""
    for path in sorted((folder / "notebooks").glob("*.ipynb")):
        shutil.copyfile(path, root / "notebooks" / path.name)
    _place_figures(folder / "figures", root / "figures")
    for part in sorted((folder / "records").iterdir()):
        target = root / "figures" / "records" / part.name
        if part.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(part, target)
        else:
            _copy(part, target)
    if (folder / "pretrained").is_dir():
        for name in FILES:
            shutil.copyfile(folder / "pretrained" / name, _ready(root / SHIPPED / name))
        record = json.loads((folder / "pretrained" / RECORD).read_text("utf-8"))
        for name, drawn in badges(record, Score(**record["scores"]).word_perplexity).items():
            _ready(root / "figures" / "badges" / f"{name}.svg").write_text(drawn, encoding="utf-8")
    tables = {path.stem: path.read_text("utf-8") for path in (folder / "tables").glob("*.md")}
    readme = root / "README.md"
    text = readme.read_text("utf-8")
    for name, section in (_speed() | tables).items():
        text = with_section(text, name, section)
    readme.write_text(text, "utf-8")


def _place_figures(made: Path, figures: Path) -> None:
    """Copy figures and what lies with them; the gallery's captions are those of all there are."""
    figures.mkdir(exist_ok=True)
    for path in sorted(made.iterdir()):
        if path.name != CAPTIONS:
            shutil.copyfile(path, figures / path.name)
    page = figures / "README.md"
    shown = captions_in(page.read_text("utf-8")) if page.exists() else {}
    shown = {name: text for name, text in shown.items() if (figures / f"{name}.png").exists()}
    shown |= json.loads((made / CAPTIONS).read_text("utf-8"))
    page.write_text(gallery(dict(sorted(shown.items()))), encoding="utf-8")


def _speed() -> dict[str, str]:
    """The README's sections that benchmarks give."""
    sections = {"speed": tokenizer_speed(benchmark(TOKENIZER_RECORD))}
    recorded = [n for n in SPEED_RECORDS if (benchmarks_folder() / f"{n}.json").exists()]
    if recorded:
        sections["training speed"] = training_speed({name: benchmark(name) for name in recorded})
    return sections


def with_section(readme: str, name: str, section: str) -> str:
    """`readme` with `section` between the two marks of this name."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if not (start in readme and end in readme):
        raise LLMLiteError(f"README.md has no {start} and {end} to write between.")
    head, rest = readme.split(start)
    return f"{head}{start}\n{section}\n{end}{rest.split(end)[1]}"


def gallery(captions: dict[str, str]) -> str:
    """figures/README.md: every figure with its caption."""
    parts = [
        "# Figures\n",
        "Drawn by the notebooks from records; `llmlite reproduce --publish` puts them here. Each "
        "caption names where its numbers are from: the profile, the data and the device. Beside "
        "each picture lies an SVG of it, the [scorecard](scorecard.md) of the paper's claims, and "
        "in [records](records) the runs' own.\n",
    ]
    for name, caption in captions.items():
        parts.append(f"## {name}\n\n{caption}\n\n![{name}]({name}.png)\n")
    return "\n".join(parts)


def captions_in(page: str) -> dict[str, str]:
    """The captions that `gallery` wrote, by figure."""
    return dict(re.findall(r"^## (\S+)\n\n(.*?)\n\n!\[", page, re.MULTILINE | re.DOTALL))
