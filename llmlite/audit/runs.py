"""Train the audit's runs, measure their models, and keep everything as records.

Every run has a folder below `out/audit` with record.json (see checkpoint.py) and what was measured
of its model. What is there is used again; an interrupted run carries on.
"""

import json
import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from llmlite.audit.hypotheses import steps_by_layout
from llmlite.audit.measures import comparable, predicted
from llmlite.audit.plan import HEADS, Run, plan
from llmlite.audit.studies import STUDIES, StudySize
from llmlite.checkpoint import load_model, read_record, run_folder
from llmlite.config import DataConfig, SearchSpace, TrainConfig
from llmlite.data import SPLITS, mistakes, resolve_source, text_to_rows
from llmlite.errors import LLMLiteError, MissingRunError
from llmlite.experiment import Experiment
from llmlite.files import write_json
from llmlite.model import GPT
from llmlite.progress import tqdm
from llmlite.search import AXES, Trial, epochs_table, read_results
from llmlite.train import Trainer
from llmlite.windows import TokenWindows, windows_of

LONGER = "longer"  # the deepest configuration of the revised grid, for twice as many epochs


class Audit:
    """The audit of one experiment, whose profile says how much of it to run.

    `leak_runs` look for 1.17; `honest_runs` are the best configuration and `grid_runs` the grids,
    each with several seeds: the scorecard judges the paper's claims by them.
    """

    def __init__(self, experiment: Experiment):
        self.experiment, self.settings = experiment, experiment.profile.audit
        self.folder = experiment.out / "audit"
        self._texts: dict[DataConfig, Experiment] = {}

    # -- what there is to make ----------------------------------------------------------------

    @cached_property
    def leak_runs(self) -> dict[str, Run]:
        return {run.name: run for run in plan(self.settings, self.experiment.data)}

    @cached_property
    def honest_runs(self) -> dict[str, Run]:
        """The paper's best configuration, as the package does it, a run a seed."""
        settings, data = self.settings, self.experiment.data
        shape = {"n_layer": settings.deep, "n_head": HEADS, "n_embd": settings.model.n_embd}
        model = self.experiment.model_config(**shape)
        names = {f"honest-seed-{seed}": seed for seed in settings.seeds}
        return {
            name: Run(name, data, model, replace(settings.honest, seed=seed))
            for name, seed in names.items()
        }

    @property
    def grid_runs(self) -> dict[str, tuple[str, int]]:
        pairs = [(g, s) for s in self.settings.seeds for g in ("revised", LONGER)]
        pairs += [("first", s) for s in self.settings.first_seeds]
        return {f"grid-{grid}-seed-{seed}": (grid, seed) for grid, seed in pairs}

    @property
    def names(self) -> list[str]:
        """All that `make` can make, the telling ones first."""
        return [*self.leak_runs, *self.honest_runs, *self.grid_runs]

    def make(self, only: list[str] | None = None) -> None:
        """Train and measure what starts with one of `only`, or everything that is not there."""
        unknown = [o for o in only or [] if not any(n.startswith(o) for n in self.names)]
        if unknown:
            raise LLMLiteError(
                f"No run of the audit starts with {', '.join(unknown)}; there are "
                f"{', '.join(self.names)}."
            )
        chosen = [n for n in self.names if not only or n.startswith(tuple(only))]
        with tqdm(chosen, desc="Audit", unit="run", disable=not self.experiment.progress) as bar:
            for name in bar:
                bar.set_postfix_str(name)
                with suppress(MissingRunError):  # is said where it is shown
                    self._make(name)

    def _make(self, name: str) -> None:
        if name in self.leak_runs:
            self.record(name)
        elif name in self.honest_runs:
            self.scores(name)
            for study in STUDIES:
                self.study(study, name)
        else:
            self.grid(*self.grid_runs[name])

    # -- runs and what was measured of them ---------------------------------------------------

    def train(self, name: str) -> dict:
        """Train a run, or carry it on, or find it finished; its record."""
        return self.trainer(name).fit()

    def model(self, name: str) -> GPT:
        """A run's model after its best epoch."""
        self.train(name)
        return load_model(self.run_folder(name) / "best.safetensors", self.experiment.device)[0]

    def run_folder(self, name: str) -> Path:
        run = self._run(name)
        runs = self.experiment.runs
        return run_folder(runs, run.model, run.train, run.data.stride, self._about(run))

    def record(self, name: str) -> dict:
        """The record of one of `leak_runs`, and what was measured of its model."""
        run, record = self.leak_runs[name], self.train(name)
        measures = self._kept(
            name,
            "measures",
            lambda model: predicted(
                model,
                self.text(run.data).dataset,
                self.windows(run),
                self.settings.windows,
                self.settings.sentences,
            ),
        )
        return record | {
            "command": self.shown_command(name),
            "measures": measures,
            "skipped": sum(epoch["skipped"] for epoch in record["epochs"]),
        }

    def scores(self, name: str) -> dict[str, list[dict]]:
        """How one of `honest_runs` predicts the test split: rule → a Score an article."""
        text = self.experiment
        return self._kept(
            name, "scores", lambda model: comparable(model, text.dataset, text.progress)
        )

    def study(self, study: str, name: str) -> dict:
        """One of STUDIES of the text or the attention of one of `honest_runs`."""
        text, size = self.experiment, StudySize.of(self.settings)
        return self._kept(name, study, lambda model: STUDIES[study](model, text.dataset, size))

    def grid(self, grid: str, seed: int) -> pd.DataFrame:
        """Every epoch of every run of a grid, or of LONGER, with this seed: a row an epoch."""
        space, config = self._grid(grid, seed)
        folder = self._grid_folder(grid, seed)
        command = self.command(f"grid-{grid}-seed-{seed}")
        table = self.experiment.search_space(space, config, folder, command)
        return epochs_table(table, folder).assign(seed=seed)

    def grid_trials(self, grid: str, seed: int) -> list[Trial]:
        """The configurations of a grid, each by itself."""
        command = self.command(f"grid-{grid}-seed-{seed}")
        folder = self._grid_folder(grid, seed)
        return self.experiment.trials(*self._grid(grid, seed), folder, command)

    def _grid(self, grid: str, seed: int) -> tuple[SearchSpace, TrainConfig]:
        """Its configurations, and how they are trained."""
        which = "revised" if grid == LONGER else grid
        space = getattr(self.experiment.profile, f"{which}_grid")
        config = replace(getattr(self.settings, f"{which}_grid"), seed=seed)
        if seed != self.settings.seeds[0]:
            space = space.corners()  # enough to see by how much a trend depends on the seed
        if grid == LONGER:
            space = SearchSpace(**{axis: (max(getattr(space, axis)),) for axis in AXES})
            config = replace(config, epochs=2 * config.epochs)
        return space, config

    def _grid_folder(self, grid: str, seed: int) -> Path:
        return self.folder / "grids" / f"{grid}-seed-{seed}"

    def grid_environment(self, grid: str, seed: int) -> dict:
        """Versions, device and commit of a grid's runs, from the record of the first of them."""
        folder = self._grid_folder(grid, seed)
        results = read_results(folder)
        return read_record(folder / results[results.status == "finished"].run.iloc[0])[
            "environment"
        ]

    def grids(self, grid: str) -> pd.DataFrame:
        """`grid` for all of its seeds, but for those that are missing and cannot be made here; no
        row if all are."""
        parts = [pd.DataFrame(columns=[*AXES, "seed", "epoch", "valid_loss"])]
        for which, seed in self.grid_runs.values():
            if which == grid:
                with suppress(MissingRunError):
                    parts.append(self.grid(grid, seed))
        return pd.concat(parts[1:] or parts, ignore_index=True)

    def leaks(self) -> dict[str, dict]:
        """`record` of each of `leak_runs`, but for those that are missing and cannot be made."""
        made, missing = {}, []
        for name in self.leak_runs:
            try:
                made[name] = self.record(name)
            except MissingRunError:
                missing.append(name)
        if missing:
            print(f"Missing: {', '.join(missing)}; {self.experiment.only_read}")
        return made

    def command(self, name: str) -> str | None:
        """What to type in a shell to make a run, in any folder that it is typed in."""
        command = self.experiment.command("audit")
        return f"{command} --only {shlex.quote(name)}" if command else None

    def shown_command(self, name: str) -> str:
        """`command` for other people's eyes: without the paths of this machine."""
        experiment = self.experiment
        source = resolve_source(experiment.data.source)
        if source not in ("hub", "sample"):
            source = f"path/to/{experiment.corpus.name.replace(' ', '-')}"
        return f"llmlite audit --profile {experiment.profile.name} --data {source} --only {name}"

    @cached_property
    def steps(self) -> pd.DataFrame:
        """Optimiser steps an epoch at the paper's size, by vocabulary: a column a layout."""
        rows = {}
        for vocab_size in self.settings.vocabularies:
            text = self.text(replace(self.experiment.data, vocab_size=vocab_size))
            words = sum(text.corpus.counts(split).words_and_line_ends for split in SPLITS)
            tokens = sum(len(ids) for ids in text.ids.values())
            lines = sum(
                bool(row.strip())
                for split in SPLITS
                for row in text_to_rows(text.corpus.splits[split])
            )
            rows[vocab_size] = {
                "tokens per word": tokens / words,
                **steps_by_layout(tokens / words, lines / words),
            }
        return pd.DataFrame(rows).T.rename_axis("vocabulary")

    # -- what a run is made from --------------------------------------------------------------

    def text(self, data: DataConfig) -> Experiment:
        """The experiment's text with the vocabulary and the windows of `data`."""
        experiment = self.experiment
        if data == experiment.data:
            return experiment
        # Mistakes are of the windows alone; text and tokens are the same without them.
        clean = replace(data, padding=False, shift=1, split=experiment.data.split)
        if clean not in self._texts:
            usual = asdict(experiment.data)
            changes = {field: v for field, v in asdict(clean).items() if v != usual[field]}
            self._texts[clean] = experiment.like(**changes)
        return self._texts[clean]

    def windows(self, run: Run) -> dict[str, TokenWindows]:
        """Those of a run's three splits, with its mistakes."""
        dataset = self.text(run.data).dataset
        return windows_of(dataset, run.data, run.train, self.experiment.device)

    def _run(self, name: str) -> Run:
        return (self.leak_runs | self.honest_runs)[name]

    def _about(self, run: Run) -> dict[str, str]:
        return self.text(run.data).about | mistakes(run.data)

    def trainer(self, name: str) -> Trainer:
        run = self._run(name)
        return Trainer(
            run.model,
            run.train,
            self.text(run.data).ids,
            self.run_folder(name),
            self._about(run),
            self.experiment.device,
            run.data.stride,
            self.experiment.progress,
            self.command(name),
            windows=self.windows(run) if name in self.leak_runs else None,
            paths=self.experiment.paths,
            only_read=self.experiment.only_read,
        )

    def _kept(self, name: str, what: str, make: Callable[[GPT], dict]) -> dict:
        """What `make` gives of a run's model, from the run's folder if it is there."""
        path = self.run_folder(name) / f"{what}.json"
        if not path.exists():
            write_json(path, make(self.model(name)))
        return json.loads(path.read_text("utf-8"))
