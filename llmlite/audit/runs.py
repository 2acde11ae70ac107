"""The audit of one experiment: which runs there are, and what was measured of them."""

from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from shlex import quote

import pandas as pd

from llmlite.audit.heads import STUDIES
from llmlite.audit.hypotheses import steps_by_layout
from llmlite.audit.measures import comparable, predicted
from llmlite.audit.mixtures import mixtures
from llmlite.audit.plan import HEADS, audit_of, leak_runs
from llmlite.config import AXES, SearchSpace, with_data
from llmlite.data import SPLITS
from llmlite.experiment import Experiment
from llmlite.files import MissingRunError
from llmlite.plan.search import grid
from llmlite.run import Run
from llmlite.sources import resolve_source
from llmlite.windows import lines_of

LONGER = "longer"  # the deepest configuration of the revised grid, for twice as many epochs


class Audit:
    """`leak_runs` look for 1.17; by `honest_runs`, the best configuration, and `grid_runs`, each
    with several seeds, the scorecard judges the paper's claims."""

    def __init__(self, experiment: Experiment):
        self.experiment, self.config = experiment, audit_of(experiment.profile.name)

    @cached_property
    def leak_runs(self) -> dict[str, Run]:
        made = {}
        for run in leak_runs(self.config, self.experiment.data):
            measure = partial(predicted, run=run, config=self.config)
            made[run.name] = replace(run, measures={"measures": measure})
        return made

    @cached_property
    def honest_runs(self) -> dict[str, Run]:
        """The paper's best configuration, as the package does it, a run a seed."""
        config, data = self.config, self.experiment.data
        shape = {"n_layer": config.deep, "n_head": HEADS, "n_embd": config.model.n_embd}
        model = with_data(self.experiment.profile.model, data, **shape)
        measures = {name: partial(study, size=config.study) for name, study in STUDIES.items()}
        measures = {"scores": comparable} | measures
        # Until it is known what is retrained, it may be this, whose weights are needed.
        keeps = () if self.experiment.known_configuration else ("weights",)
        runs = {}
        for seed in config.seeds:
            name, train = f"honest-seed-{seed}", replace(config.honest, seed=seed)
            once = {} if runs else {"mixtures": mixtures}
            runs[name] = Run(name, data, model, train, measures | once, keeps)
        return runs

    @cached_property
    def grid_runs(self) -> dict[str, list[Run]]:
        """The runs of each grid with each seed, by the beginning of their names."""
        pairs = [(g, s) for s in self.config.seeds for g in ("revised", LONGER)]
        pairs += [("first", s) for s in self.config.first_seeds]
        return {f"grid-{which}-seed-{seed}": self.grid(which, seed) for which, seed in pairs}

    def grid(self, which: str, seed: int) -> list[Run]:
        """The runs of a grid, or of LONGER, with this seed."""
        name = "revised" if which == LONGER else which
        space = getattr(self.experiment.profile, name).space
        train = replace(getattr(self.config, f"{name}_grid"), seed=seed)
        if seed != self.config.seeds[0]:
            space = space.corners()  # enough to see by how much a trend depends on the seed
        if which == LONGER:
            space = SearchSpace(**{axis: (max(getattr(space, axis)),) for axis in AXES})
            train = replace(train, epochs=2 * train.epochs)
        return grid(space, self.experiment.run(f"grid-{which}-seed-{seed}", train))

    def record(self, name: str) -> dict:
        """The record of one of `leak_runs`, and what was measured of its model."""
        run = self.leak_runs[name]
        record = self.experiment.train(run)
        return record | {
            "command": self.command(name),
            "measures": self.experiment.measured(run, "measures"),
            "skipped": sum(epoch["skipped"] for epoch in record["epochs"]),
        }

    def leaks(self) -> dict[str, dict]:
        """`record` of each of `leak_runs`, but for those that are missing and cannot be made."""
        made = {}
        for name in self.leak_runs:
            with suppress(MissingRunError):
                made[name] = self.record(name)
        if missing := [name for name in self.leak_runs if name not in made]:
            print(f"Missing: {', '.join(missing)}; {self.experiment.only_read}")
        return made

    def measured(self, what: str) -> list[dict]:
        """Of each of `honest_runs`, "scores", how it predicts the test split (rule → a Score an
        article), or one of STUDIES."""
        return [self.experiment.measured(run, what) for run in self.honest_runs.values()]

    def grids(self, which: str) -> pd.DataFrame:
        """Every epoch of every run of a grid with all of its seeds, but for those that are missing
        and cannot be made; no row if all are."""
        parts = [pd.DataFrame(columns=[*AXES, "seed", "epoch", "valid_loss"])]
        for name, runs in self.grid_runs.items():
            if name.startswith(f"grid-{which}-"):
                self.experiment.search_runs(name, runs)
                with suppress(MissingRunError):
                    parts.append(self.experiment.epochs(runs))
        return pd.concat(parts[1:] or parts, ignore_index=True)

    def command(self, name: str) -> str:
        """What makes a run, as other people would type it: without the paths of this machine."""
        experiment = self.experiment
        source = resolve_source(experiment.data.source)
        if source not in ("hub", "sample"):
            source = quote(f"path/to/{experiment.dataset.name.replace(' ', '-')}")
        return f"llmlite run --profile {experiment.profile.name} --data {source} --only {name}"

    @cached_property
    def steps(self) -> pd.DataFrame:
        """Optimiser steps an epoch at the paper's size, by vocabulary: a column a layout."""
        rows = {}
        for vocab_size in self.config.vocabularies:
            dataset = self.experiment.dataset.like(vocab_size=vocab_size)
            words = sum(dataset.counts(split).words_and_line_ends for split in SPLITS)
            tokens = sum(len(ids) for ids in dataset.ids.values())
            lines = sum(len(lines_of(dataset.text(split))) for split in SPLITS)
            rows[vocab_size] = {
                "tokens per word": tokens / words,
                **steps_by_layout(tokens / words, lines / words),
            }
        return pd.DataFrame(rows).T.rename_axis("vocabulary")
