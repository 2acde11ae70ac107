"""A folder in which runs are trained, measured and found again.

Text and tokenizers lie in the folder itself, runs below `runs`, each under a fingerprint of all
that it is: whoever wants the same run finds it.
"""

import json
from collections.abc import Callable
from copy import copy
from pathlib import Path

import pandas as pd

from llmlite.config import DataConfig, RayOptions
from llmlite.data import Dataset
from llmlite.files import MissingRunError, write_json
from llmlite.model import GPT
from llmlite.parallel import world
from llmlite.plan.cluster import elsewhere
from llmlite.plan.search import epochs_table, search
from llmlite.run import (
    RECORD,
    WEIGHTS,
    Run,
    device_name,
    finished_record,
    load_model,
    read_record,
)
from llmlite.train import Compute, Trainer


class Workspace:
    """out: the folder. data: of most runs; others have other windows or vocabularies over the same
    text. only_read: why nothing is trained here, in a sentence, if so."""

    def __init__(self, out: Path, data: DataConfig, compute: Compute, only_read: str | None = None):
        self.out, self.data, self.compute, self.only_read = out, data, compute, only_read
        self._datasets: dict[DataConfig, Dataset] = {}

    def __getstate__(self) -> dict:
        """Another process opens text and tokens from the folder."""
        return vars(self) | {"_datasets": {}}

    @property
    def device(self) -> str:
        return self.compute.device

    @property
    def progress(self) -> bool:
        return self.compute.progress

    @property
    def dataset(self) -> Dataset:
        return self.dataset_of(self.data)

    def dataset_of(self, data: DataConfig) -> Dataset:
        """The text with the vocabulary and the windows of `data`; what is the same is shared."""
        if data not in self._datasets:
            made = Dataset(data, self.out, self.progress)
            self._datasets[data] = made if data == self.data else self.dataset.like(**vars(data))
        return self._datasets[data]

    @property
    def runs(self) -> Path:
        """Where all runs lie, whoever wants them: grids, retraining, audit."""
        return (self.out / "runs").absolute()

    def folder(self, run: Run) -> Path:
        return run.folder(self.runs, self.dataset_of(run.data).about)

    def trainer(self, run: Run) -> Trainer:
        return Trainer(run, self.dataset_of(run.data), self.folder(run), self.compute)

    def train(self, run: Run) -> dict:
        """Train a run, or carry it on, or find it finished; its record. Raises MissingRunError
        where nothing is trained."""
        identity = run.identity(self.dataset_of(run.data).about)
        if world().size == 1 and (record := finished_record(self.folder(run), identity)):
            return record
        if self.only_read:
            raise MissingRunError(f"There is no finished run {run.name}: {self.only_read}")
        return self.trainer(run).fit()

    def model_of(self, run: Run) -> GPT:
        """A run's model after its best epoch, trained first if need be."""
        self.train(run)
        return load_model(self.folder(run) / WEIGHTS, self.device)[0]

    def measured(self, run: Run, what: str) -> dict:
        """One of the run's measures, from its folder if it is there."""
        return self.kept(run, what, run.measures[what])

    def kept(self, run: Run, what: str, measure: Callable[[GPT, Dataset], dict]) -> dict:
        path = self.folder(run) / f"{what}.json"
        if not path.exists():
            write_json(path, measure(self.model_of(run), self.dataset_of(run.data)))
        return json.loads(path.read_text("utf-8"))

    def is_trained(self, run: Run) -> bool:
        return finished_record(self.folder(run)) is not None

    def is_done(self, run: Run) -> bool:
        """Trained, and all of its measures there?"""
        folder = self.folder(run)
        return self.is_trained(run) and all((folder / f"{m}.json").exists() for m in run.measures)

    def make(self, run: Run) -> None:
        """Train and measure, or what is left of it."""
        self.train(run)
        for what in run.measures:
            self.measured(run, what)

    def search_runs(
        self, name: str, runs: list[Run], ray: RayOptions | None = None
    ) -> pd.DataFrame:
        """The table of any runs, also written to NAME.csv. ray: the cluster to train them on."""
        there = copy(self)
        if ray:
            self.runs.mkdir(parents=True, exist_ok=True)
            ray, there.compute = elsewhere(ray, self.compute)
        table = search(runs, there.train, self.out / f"{name}.csv", self.progress, ray)
        if missing := (table.status == "missing").sum():
            print(f"{name}: {missing} of {len(table)} configurations are missing; {self.only_read}")
        return table

    def epochs(self, runs: list[Run]) -> pd.DataFrame:
        """`epochs_table` of runs that lie here."""
        return epochs_table(runs, [self.folder(run) for run in runs])

    def made_on(self) -> str:
        """The devices that the runs here were trained on; where there are none yet, this one."""
        records = (read_record(path.parent) for path in self.runs.glob(f"*/{RECORD}"))
        names = {record["environment"]["device"] for record in records}
        return " and ".join(sorted(names)) or device_name(self.device)
