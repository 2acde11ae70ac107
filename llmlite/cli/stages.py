"""From text to a model, its scores and the notebooks that show them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from llmlite.cli.options import PARTS, UNNAMED, Work
from llmlite.config import AXES, Amount, FastPaths, Thousands
from llmlite.files import LLMLiteError

TRAINED = ("data", "model", "train", "searched", "revised")  # what a trained model depends on
FROM = Annotated[Path | None, tyro.conf.arg(name="from")]
MOST = 8  # runs side by side on a CPU, unless more are asked for: each takes up to a gigabyte


@dataclass(frozen=True)
class Prepare(Work):
    """load the corpus, train the tokenizer, encode"""

    PARTS = ("data",)

    def run(self) -> None:
        experiment = self.experiment()
        print(experiment.dataset.table().to_string())
        print(f"Tokenizer and tokens are in {experiment.out}")


@dataclass(frozen=True)
class Search(Work):
    """train every configuration of a grid"""

    PARTS = ("data", "model", "first", "revised")

    grid: Literal["first", "revised"] = "revised"  # first: fixed rate; revised: warmup + cosine

    def run(self) -> None:
        from llmlite.plan.search import best_row

        experiment = self.experiment()
        table = experiment.search(self.grid)
        columns = [*AXES, "status", "perplexity", "seconds"]
        print(table.reindex(columns=columns).to_string(index=False))
        best = best_row(table)
        values = ", ".join(f"{axis} {best[axis]:g}" for axis in AXES)
        print(f"Best: {values}; validation perplexity {best.perplexity:.2f} per token")
        print(f"Table: {experiment.out / f'search-{self.grid}.csv'}")


@dataclass(frozen=True)
class Train(Work):
    """train one configuration from scratch: the profile's, or else the grid's best"""

    PARTS = TRAINED

    def run(self) -> None:
        from llmlite.run import outcome

        experiment = self.experiment()
        run = experiment.retraining()
        experiment.model_of(run)  # whose weights may be lost
        record = experiment.train(run)
        print(f"{record['parameters']:,} parameters: {outcome(record)}")
        print(f"Model, record and step log: {experiment.folder(run)}")


@dataclass(frozen=True)
class Evaluate(Work):
    """score the trained model on the test split"""

    PARTS = TRAINED

    # also in windows that slide by half, and by lm-evaluation-harness's rule, with 95% intervals
    # over the articles, and beside what counting comes to on the same text
    all: bool = False

    def run(self) -> None:
        from llmlite.audit.baselines import by_counting
        from llmlite.audit.measures import comparable, score_table
        from llmlite.metrics import stated

        experiment = self.experiment()
        score, dataset = experiment.test_score(), experiment.dataset
        print(
            f"Test Loss: {score.loss:.4f} nats per token\n"
            f"Test Perplexity: {score.perplexity:.2f} per token, "
            f"{stated(score.word_perplexity, 2)} per word and line end\n"
            f"Bits per byte: {score.bits_per_byte:.4f}\n"
            f"({score.tokens:,} tokens, {score.words:,} words and line ends, {score.bytes:,} "
            f"bytes; context: {score.context})"
        )
        if self.all:
            table = score_table([comparable(experiment.model, dataset)])
            print(f"\n{table.T.to_string()}\n")
            for row in by_counting(dataset, progress=experiment.progress):
                print(f"{row.name}: {stated(row.perplexity, 2)} per word and line end")


@dataclass(frozen=True)
class RunPlan(Work):
    """train all that the notebooks show, the most telling first"""

    PARTS = PARTS

    # stop before so many minutes are over; the same command goes on with what is missing
    minutes: Amount | None = None
    # runs whose names begin so, such as retrain or no-mask; all if not given
    only: tuple[str, ...] = ()
    # runs side by side; they share a GPU, so that its pauses are filled, or the cores; 3 with CUDA,
    # else one a core, at most 8, if not given
    processes: Thousands | None = None
    # one file of the records of all finished runs, at most 16 MB, written every minute and at the
    # end, from which `llmlite reproduce` draws the notebooks on any machine;
    # llmlite-PROFILE.tar.gz in --out if not given
    archive: Path | None = None
    # an archive of before, or a folder of records such as figures/records/full, to begin with: what
    # it holds is not trained again; --archive, if it is there
    start: FROM = None
    list: bool = False  # name the plan's runs and their state, and train nothing
    paths: Annotated[FastPaths, UNNAMED] = FastPaths()

    def run(self) -> None:
        from llmlite.parallel import cores
        from llmlite.plan.archive import unpack
        from llmlite.plan.runner import work_through
        from llmlite.plan.whole import chosen, whole_plan

        experiment = self.experiment(paths=self.paths)
        archive = self.archive or experiment.out / f"llmlite-{experiment.profile.name}.tar.gz"
        if start := self.start or (archive if archive.exists() else None):
            unpack(start, experiment.out, experiment.profile.name)
        runs = chosen(whole_plan(experiment), self.only)
        if self.list:
            for run in runs:
                state = "done" if experiment.is_done(run) else "open"
                print(f"{state:5} {run.name}  {experiment.folder(run).name}")
            return
        on_gpu = experiment.device.startswith("cuda")
        processes = self.processes or (3 if on_gpu else min(cores(), MOST))
        left = work_through(experiment, self.only, self.minutes, processes, archive)
        print(f"Archive: {archive}, {archive.stat().st_size / 2**20:.1f} MiB")
        if left:
            names = ", ".join(run.name for run in left[:8]) + (" and more" if len(left) > 8 else "")
            print(f"Not done ({len(left)}): {names}. The same command goes on with them.")
        else:
            print("All done.")


@dataclass(frozen=True)
class Runs:
    """list what was trained below a folder, and how to carry on"""

    out: Path | None = None  # the folder to look in; the clone's runs/ if not given

    def run(self) -> None:
        from llmlite.experiment import project_root
        from llmlite.run import runs_table

        print(runs_table(self.out or project_root() / "runs").to_string(index=False, na_rep=""))


@dataclass(frozen=True)
class Reproduce(Work):
    """run the notebooks headlessly with papermill"""

    only: tuple[str, ...] = ()  # numbers of the notebooks to run, such as 01 04; all if not given
    # an archive that `llmlite run` has left, to draw from: that needs no GPU
    start: FROM = None

    def run(self) -> None:
        from llmlite.cli.notebooks import find_notebooks, report, run_notebooks
        from llmlite.experiment import project_root
        from llmlite.plan.archive import unpack

        if self.text:
            raise LLMLiteError(
                "The notebooks speak of WikiText-2; for your own text there are `llmlite train "
                "--text`, `evaluate --text` and `generate --text`."
            )
        root, profile = project_root(), self.settings.name
        out = self.out or root / "runs" / profile
        if self.start:
            unpack(self.start, out, profile)
        notebooks = find_notebooks(root / "notebooks", self.only)
        print(f"Profile {profile}: {len(notebooks)} notebooks into {out}")
        print(report(run_notebooks(notebooks, out, profile, self.source, self.device), out))
