"""One profile in one folder: each stage is made when it is first asked for, and kept on disk.

    dataset → grids → best configuration → trained model → scores, studies, figures

The notebooks and the command line share this object, so each of them can run alone: what an
earlier stage should have left is made on the spot, and what is there is used. Text and tokenizers
lie in the folder itself, runs below `runs`, each under a fingerprint of all that it is."""

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from llmlite import files
from llmlite import run as runs
from llmlite.audit.heads import STUDIES
from llmlite.audit.plan import StudySize, audit_of
from llmlite.config import AXES, DataConfig, FastPaths, TrainConfig, with_data
from llmlite.data import Dataset
from llmlite.files import CheckpointError, LLMLiteError, MissingRunError, replacing, tqdm
from llmlite.metrics import Score, evaluate
from llmlite.model import GPT
from llmlite.parallel import gpu_bytes, resolve_device, world
from llmlite.plan.search import at, best_point, best_row, epochs_table, grid, point, search
from llmlite.plots.style import save
from llmlite.pretrained import Pretrained, load_pretrained
from llmlite.profiles import Profile, changed, get_profile
from llmlite.run import RECORD, WEIGHTS, Record, Run, environment
from llmlite.sources import resolve_source
from llmlite.tokenizer import BPETokenizer
from llmlite.train import Compute, Trainer

PRETRAINED = "pretrained"  # the folder of what was measured of the model that ships
SEEDS = "seeds.csv"  # the scores of the trained model, a row a seed


def project_root() -> Path:
    """The clone that the working folder lies in, else the working folder itself."""
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / "llmlite/experiment.py").exists()), here)


class Experiment:
    """profile: "auto", "quick", "small", "full" or a Profile. data: where the text comes from
    ("sample", "hub", a folder, a file, or "auto": $LLMLITE_DATA or else the Hub; None: as the
    profile says). out: the folder to work in (None: runs/PROFILE). device: "auto", "cpu" or "cuda".
    paths: how the engine computes. changes: of the profile, such as **{"train.epochs": 5}."""

    def __init__(
        self,
        profile: str | Profile = "auto",
        data: str | Path | None = None,
        out: str | Path | None = None,
        device: str = "auto",
        progress: bool = True,
        paths: FastPaths = FastPaths(),
        **changes,
    ):
        # papermill and YAML make numbers, None and lists of words: 2024, null, [1].
        data, out = (None if path in (None, "") else str(path) for path in (data, out))
        device = resolve_device("auto" if device is None else str(device))
        if not isinstance(profile, Profile):
            profile = get_profile("auto" if profile is None else str(profile), gpu_bytes(device))
        if follow := changes.keys() & {"model.vocab_size", "model.block_size"}:
            said = f"{' and '.join(sorted(follow))} follow the data's"
            raise LLMLiteError(f"{said}; set data.vocab_size and data.block_size.")
        if data:
            changes["data.source"] = data
        if changes.keys() & {"train.learning_rate", *(f"model.{axis}" for axis in AXES[1:])}:
            changes["searched"] = False  # what is to be retrained is given
        self.profile = changed(profile, changes)
        self.out = Path(out) if out else project_root() / "runs" / self.profile.name
        self.data = self.profile.data  # of most runs; others cut the same text otherwise
        self.compute = Compute(device, progress and world().main, paths)
        self.only_read = None  # why nothing is trained here, in a sentence, if so
        if self.profile.needs_gpu and device == "cpu":
            how = f"is trained on a GPU, by `llmlite run --profile {self.profile.name}`"
            self.only_read = f"profile {self.profile.name} {how}, and shown here from its records."
        self.pretrained: Pretrained | None = None
        self._datasets: dict[DataConfig, Dataset] = {}

    def __str__(self) -> str:
        """The line that stands on top of every notebook."""
        about = environment(self.device)
        device = about["device"]
        if self.only_read:
            device = f"shown on {device}, trained on {self.made_on()}"
        source = resolve_source(self.data.source)
        place = source if source in ("hub", "sample") else "folder"  # without its path
        return (
            f"profile {self.profile.name} · data {self.dataset.name} ({place}) · "
            f"device {device} · commit {about['commit']}"
        )

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
    def tokenizer(self) -> BPETokenizer:
        return self.dataset.tokenizer

    @property
    def runs(self) -> Path:
        return (self.out / "runs").absolute()

    def folder(self, run: Run) -> Path:
        return run.folder(self.runs, self.dataset_of(run.data).about)

    def trainer(self, run: Run, compute: Compute | None = None) -> Trainer:
        return Trainer(run, self.dataset_of(run.data), self.folder(run), compute or self.compute)

    def record(self, run: Run) -> Record | None:
        """Of a run, however far it came; None where there is none that can be used."""
        return runs.record_of(self.folder(run), run.identity(self.dataset_of(run.data).about))

    def train(self, run: Run, compute: Compute | None = None) -> Record:
        """Train a run, or carry it on, or find it finished; its record. Raises MissingRunError
        where nothing is trained. compute: if not as the experiment's other runs."""
        record = self.record(run)
        if world().size == 1 and record and record["status"] == "finished":
            return record
        if self.only_read:
            raise MissingRunError(f"There is no finished run {run.name}: {self.only_read}")
        return self.trainer(run, compute).fit()

    def model_of(self, run: Run) -> GPT:
        """A run's model after its best epoch, trained first if need be, and once more if only its
        record is here."""
        record, folder = self.train(run), self.folder(run)
        try:
            return runs.model_in(folder, record, self.device)
        except CheckpointError as error:
            if self.only_read:
                said = f"There is no model of run {run.name}: {self.only_read}"
                raise MissingRunError(said) from None
            if world().main:
                tqdm.write(f"{error} Run {run.name} is trained again.", sys.stderr)
        return runs.model_in(folder, self.trainer(run).fit(again=True), self.device)

    def measured(self, run: Run, what: str) -> dict:
        """One of the run's measures, from its folder if it is there."""

        def measure() -> dict:
            return run.measures[what](self.model_of(run), self.dataset_of(run.data))

        return self._kept(self.folder(run), what, partial(self.train, run), measure)

    def _kept(self, folder: Path, what: str, record: Callable, measure: Callable) -> dict:
        """A measure in a folder; measured if it is not there. Both are asked when they are needed:
        to measure may be to train once more."""
        if (found := runs.read_measure(folder, what, record())) is not None:
            return found
        if (folder / f"{what}.json").exists() and world().main:
            said = f"{folder / what}.json is damaged or of another training; it is measured again."
            tqdm.write(said, sys.stderr)
        result = measure()
        return runs.write_measure(folder, what, record(), result)

    def is_trained(self, run: Run) -> bool:
        record = self.record(run)
        return bool(record) and record["status"] == "finished"

    def is_done(self, run: Run) -> bool:
        """Trained, and all of its measures there?"""
        folder, record = self.folder(run), self.record(run)
        return self.is_trained(run) and all(
            runs.read_measure(folder, what, record) is not None for what in run.measures
        )

    def make(self, run: Run) -> None:
        """Train and measure, or what is left of it."""
        self.train(run)
        for what in run.measures:
            self.measured(run, what)

    def search_runs(self, name: str, runs: list[Run]) -> pd.DataFrame:
        """The table of any runs, also written to NAME.csv."""
        table = search(runs, self.train, self.out / f"{name}.csv", self.compute)
        if missing := (table.status == "missing").sum():
            print(f"{name}: {missing} of {len(table)} configurations are missing; {self.only_read}")
        return table

    def epochs(self, runs: list[Run]) -> pd.DataFrame:
        return epochs_table(runs, map(self.record, runs))

    def made_on(self) -> str:
        """The devices that the runs here were trained on; where there are none yet, this one."""
        records = (runs.record_of(path.parent) for path in self.runs.glob(f"*/{RECORD}"))
        names = {record["environment"]["device"] for record in records if record}
        return " and ".join(sorted(names)) or environment(self.device)["device"]

    def run(self, name: str, train: TrainConfig) -> Run:
        """The profile's model on its data, trained so."""
        return Run(name, self.data, with_data(self.profile.model, self.data), train)

    def grid(self, name: str) -> list[Run]:
        """§IV.A: the runs of the "first" grid (fixed rate) or the "revised" one."""
        if name not in ("first", "revised"):
            raise LLMLiteError(f"There is no grid '{name}'; choose first or revised.")
        chosen = getattr(self.profile, name)
        return grid(chosen.space, self.run(f"search-{name}", chosen.train))

    def search(self, name: str = "revised") -> pd.DataFrame:
        """A row a configuration (see plan.search.search)."""
        return self.search_runs(f"search-{name}", self.grid(name))

    def searched_best(self) -> dict | None:
        """The best of the revised grid; None while some of it is left to train."""
        return best_point(self.grid("revised"), self.record)

    @property
    def best_configuration(self) -> dict:
        """`searched_best`, searched for if need be."""
        return self.searched_best() or best_row(self.search("revised"))[list(AXES)].to_dict()

    @property
    def known_configuration(self) -> bool:
        """Is it known what to retrain, without a search?"""
        return not self.profile.searched or self.searched_best() is not None

    @cached_property
    def configuration(self) -> dict:
        """The values of AXES to retrain: the profile's, or the search's best."""
        if self.profile.searched:
            return self.best_configuration
        return point(self.run("retrain", self.profile.train))

    def retraining(self, seed: int | None = None) -> Run:
        """§III.F: one configuration from scratch for longer."""
        train = self.profile.train if seed is None else replace(self.profile.train, seed=seed)
        run = at(self.configuration, self.run(f"retrain-seed-{train.seed}", train))
        keeps = ("steps", "weights") if train.seed == self.profile.seeds[0] else ("steps",)
        return replace(run, measures={"test_score": _test_score}, keeps=keeps)

    def retrain(self) -> dict:
        return self.train(self.retraining())

    @property
    def model(self) -> GPT:
        """The retrained model at its best epoch, trained first if need be."""
        if self.pretrained:
            return self.pretrained.model
        run = self.retraining()
        if self.progress and not self.is_trained(run):
            print("There is no trained model here yet: training it now, as in notebook 03.")
        return self.model_of(run)

    def or_pretrained(self) -> "Experiment":
        """This experiment, or where it has trained nothing yet, the model that comes with the
        package in its place: with that model's tokenizer, on this experiment's text."""
        if self.known_configuration:
            run = self.retraining()
            record = self.record(run)
            # Records alone, of another machine, have no model.
            there = (self.folder(run) / WEIGHTS).exists()
            if there or (record and record["status"] != "finished"):
                return self
        pretrained = load_pretrained(self.device)
        shape, tokenizer = pretrained.model.config, pretrained.tokenizer
        windows = {"vocab_size": shape.vocab_size, "block_size": shape.block_size, "stride": None}
        profile = replace(self.profile, data=replace(self.data, **windows))
        ready = Experiment(profile, None, self.out, self.device, self.progress)
        ready.pretrained = pretrained
        ready._datasets[ready.data] = self.dataset.like(tokenizer, **windows)
        if self.progress:
            print(f"No model is trained here yet; this is {pretrained}.")
        return ready

    def test_score(self, seed: int | None = None) -> Score:
        """The trained model on the whole test split, windows side by side (Fig. 1)."""
        kept = self.measured(self.retraining(seed), "test_score")
        try:
            score = Score(**{k: v for k, v in kept.items() if k != "environment"})
            if min(score.perplexity, score.word_perplexity, score.bits_per_byte) >= 0:
                return score
        except (TypeError, ArithmeticError):
            pass  # of somebody's own making
        path = self.folder(self.retraining(seed)) / "test_score.json"
        raise CheckpointError(f"{path} holds no score; delete it to measure again.")

    def seed_scores(self) -> pd.DataFrame:
        """The trained model once for each of the profile's seeds, also written to `seeds.csv`: a
        row a seed, test split."""
        rows = {}
        for seed in self.profile.seeds:
            best, score = self.train(self.retraining(seed))["best"], self.test_score(seed)
            units = score.loss, score.perplexity, score.word_perplexity, score.bits_per_byte
            rows[seed] = [best["epoch"], best["valid_loss"], *units]
        columns = ["best epoch", "validation loss", "test loss"]
        columns += ["perplexity per token", "perplexity per word", "bits per byte"]
        table = pd.DataFrame.from_dict(rows, "index", columns=columns).rename_axis("seed")
        with replacing(self.out / SEEDS) as aside:
            table.to_csv(aside)
        return table

    @property
    def study_size(self) -> StudySize:
        """How much of the model the notebooks look at."""
        return audit_of(self.profile.name).study

    def study(self, name: str) -> dict:
        """One of the audit's STUDIES, of the trained model."""
        return self.measure(name, partial(STUDIES[name], size=self.study_size))

    def measure(self, what: str, function: Callable) -> dict:
        """What a function of (model, dataset) finds of the trained model, or of the one that ships
        in its place; kept."""
        if not (ready := self.pretrained):
            return self.measured(replace(self.retraining(), measures={what: function}), what)
        # It is measured on any text, by the profile's sizes.
        of = self.dataset.about | {"profile": self.profile.name}
        record = ready.record | {"identity": ready.record["identity"] | of}
        made = partial(function, ready.model, self.dataset)
        return self._kept(self.out / PRETRAINED, what, lambda: record, made)

    def save_figure(self, figure: Figure, name: str, caption: str) -> Figure:
        """Write `figures/NAME.png` and `NAME.svg`, and keep the caption, with where its numbers are
        from, for the gallery. Returns the figure."""
        folder = self.out / "figures"
        for suffix in (".png", ".svg"):
            with replacing(folder / f"{name}{suffix}") as aside:
                save(figure, aside)
        caption += f" Profile {self.profile.name}, {self.dataset.name}, {self.made_on()}"
        caption += f"; {self.pretrained}." if self.pretrained else "."
        captions = folder / "captions.json"
        with files.locked(self.out / ".captions.lock"):  # other notebooks have figures, too
            known = {}
            with suppress(FileNotFoundError, ValueError):  # what is damaged is drawn again
                known = files.read_json(captions, dict[str, str])
            files.write_json(captions, dict(sorted((known | {name: caption}).items())))
        return figure


def _test_score(model: GPT, dataset: Dataset) -> dict:
    """A Score, and where it was computed."""
    name = "Test" if dataset.progress else None
    score = evaluate(model, dataset.ids["test"], dataset.counts("test"), progress=name)
    return {**asdict(score), "environment": environment(model.device)}
