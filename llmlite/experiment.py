"""One profile in one folder: each stage is made when it is first asked for, and kept on disk.

    corpus → tokenizer → ids → search → best configuration → trained model

The notebooks and the command line share this object, so each of them can run alone: what an
earlier stage should have left is made on the spot, and what is there is used.
"""

import json
import shlex
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from matplotlib.figure import Figure

from llmlite.budget import announce
from llmlite.checkpoint import (
    commit,
    device_name,
    environment,
    load_model,
    read_record,
    run_folder,
)
from llmlite.choice import choose_data
from llmlite.cluster import RayOptions
from llmlite.commands import shell_command
from llmlite.config import DataConfig, ModelConfig, SearchSpace, TrainConfig, with_data
from llmlite.data import Corpus, Dataset, mistakes, resolve_source
from llmlite.engine import FastPaths
from llmlite.errors import LLMLiteError
from llmlite.files import replacing, write_json
from llmlite.live import watchers
from llmlite.metrics import Score, evaluate
from llmlite.model import GPT
from llmlite.parallel import check_device, gpu_bytes, local_device, world
from llmlite.plots.style import save
from llmlite.pretrained import Pretrained, load_pretrained
from llmlite.profiles import Profile, get_profile
from llmlite.search import AXES, Trial, best_row, hyperparameter_search, trials
from llmlite.tokenizer import BPETokenizer
from llmlite.train import Trainer
from llmlite.windows import windows_of

GRIDS = ("first", "revised")
SEEDS = "seeds.csv"  # the scores of the trained model, a row a seed


def project_root() -> Path:
    """The clone that the working folder lies in, else the working folder itself."""
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / "llmlite/experiment.py").exists()), here)


class Experiment:
    """profile: "auto", "quick", "small", "full" or a Profile. data: where the text comes from
    ("sample", "hub", a folder, or "auto": $LLMLITE_DATA or else the Hub; None: as the profile
    says). out: the folder to work in (None: runs/PROFILE). device: "auto", "cpu" or "cuda".
    configuration: values of AXES for the trained model (what it leaves out is the profile's choice
    or the search's best). training: fields of the retraining's TrainConfig to set otherwise.
    tensorboard: write event files into the run's folder. paths: how the engine computes. changes:
    as `training`, for DataConfig.
    """

    def __init__(
        self,
        profile: str | Profile = "auto",
        data: str | None = None,
        out: str | Path | None = None,
        device: str = "auto",
        progress: bool = True,
        configuration: dict | None = None,
        training: dict | None = None,
        tensorboard: bool = False,
        paths: FastPaths = FastPaths(),  # noqa: B008, it is frozen
        **changes,
    ):
        check_device(device)
        self.world = world()
        several = self.world.size > 1 and device == "cuda"  # each process has a GPU of its own
        self.device = local_device() if device == "auto" or several else device
        if not isinstance(profile, Profile):
            profile = get_profile(profile, gpu_bytes(self.device))
        self.profile, self.paths = profile, paths
        self.device_given = device != "auto"
        if data:
            changes["source"] = str(data)
        self.out = Path(out) if out else project_root() / "runs" / self.profile.name
        replace(self.profile.data, **changes)  # complains of what is wrong, before any work
        self.given_configuration, self.changes = configuration or {}, changes
        self._given = (self.profile.retrain_configuration or {}) | (configuration or {})
        self.training = training or {}
        self.pretrained: Pretrained | None = None
        self._said: set[Path] = set()  # of which searches it was said that runs are missing
        self.progress, self.tensorboard = progress and self.world.main, tensorboard

    def __str__(self) -> str:
        """The line that stands on top of every notebook."""
        here = device_name(self.device)
        device = f"shown on {here}, trained on {self.made_on()}" if self.only_read else here
        return (
            f"profile {self.profile.name} · data {self.corpus.name} ({self._source()}) · "
            f"device {device} · commit {commit()}"
        )

    def made_on(self) -> str:
        """The devices that the runs here were trained on; where there are none yet, this one."""
        records = (read_record(path.parent) for path in self.runs.glob("*/record.json"))
        names = {record["environment"]["device"] for record in records}
        return " and ".join(sorted(names)) or device_name(self.device)

    def _source(self) -> str:
        """Where the text comes from, without the path to it."""
        source = resolve_source(self.data.source)
        return source if source in ("hub", "sample") else "folder"

    def command(self, name: str) -> str | None:
        """What to type in a shell for the same as this object; see commands.py."""
        return shell_command(self, name)

    @property
    def runs(self) -> Path:
        """Where all runs lie, whoever wants them: grids, retraining, audit. Absolute, since a run's
        folder tells it from others."""
        return (self.out / "runs").absolute()

    @property
    def only_read(self) -> str | None:
        """Why nothing is trained here, in a sentence; None where it is."""
        if not self.profile.needs_gpu or self.device != "cpu":
            return None
        return (
            f"profile {self.profile.name} is trained on a GPU, by `llmlite run --profile "
            f"{self.profile.name}`, and shown here from its records."
        )

    # -- data (notebook 01) -------------------------------------------------------------------

    @cached_property
    def data(self) -> DataConfig:
        """Text, vocabulary and windows: the profile's, but for what was given."""
        return replace(self.profile.data, **self.changes)

    def data_choice(self) -> pd.DataFrame:
        """Other vocabularies, windows and strides than `data`, and how they fare (choice.py)."""
        return choose_data(self)

    def like(self, training: dict | None = None, **changes) -> "Experiment":
        """This experiment with other training or data; in the same folder."""
        other = Experiment(
            self.profile,
            None,
            self.out,
            self.device if self.device_given else "auto",
            self.progress,
            self.given_configuration,
            self.training | (training or {}),
            self.tensorboard,
            self.paths,
            **self.changes | changes,
        )
        other.dataset = self.dataset.like(**changes)
        return other

    @cached_property
    def dataset(self) -> Dataset:
        return Dataset(self.data, self.out, self.progress)

    @property
    def corpus(self) -> Corpus | Dataset:
        """The text of each split, or with `stream` what is kept of it."""
        return self.dataset if self.data.stream else self.dataset.corpus

    @property
    def tokenizer(self) -> BPETokenizer:
        return self.dataset.tokenizer

    @property
    def ids(self) -> dict[str, torch.Tensor] | dict[str, np.ndarray]:
        return self.dataset.ids

    @property
    def about(self) -> dict[str, str]:
        """What every record says of its data and tokenizer."""
        return self.dataset.about

    def split_table(self) -> pd.DataFrame:
        return self.dataset.table()

    # -- search (notebook 02) -----------------------------------------------------------------

    def search_folder(self, grid: str) -> Path:
        if grid not in GRIDS:
            raise LLMLiteError(f"There is no grid '{grid}'; choose {' or '.join(GRIDS)}.")
        return self.out / "search" / grid

    def search(self, grid: str = "revised", ray: RayOptions | None = None) -> pd.DataFrame:
        """§IV.A: the "first" grid (fixed rate) or the "revised" one (warmup + cosine).

        ray: the cluster to train it on, where it is not this process.
        """
        if made := mistakes(self.data):
            raise LLMLiteError(
                f"A grid is searched without mistakes, and this data has some ({', '.join(made)}); "
                "leave them out, or see llmlite.audit."
            )
        folder, command = self.search_folder(grid), self.command(f"search --grid {grid}")
        if command and ray:
            command += f" {shlex.join(ray.arguments())}"
        return self.search_space(*self._grid(grid), folder, command, ray)

    def search_trials(self, grid: str) -> list[Trial]:
        """The configurations of a grid, each by itself."""
        command = self.command(f"search --grid {grid}")
        return self.trials(*self._grid(grid), self.search_folder(grid), command)

    def _grid(self, grid: str) -> tuple[SearchSpace, TrainConfig]:
        return getattr(self.profile, f"{grid}_grid"), getattr(self.profile, f"{grid}_search")

    def search_space(
        self,
        space: SearchSpace,
        config: TrainConfig,
        folder: Path,
        command: str | None,
        ray: RayOptions | None = None,
    ) -> pd.DataFrame:
        """`hyperparameter_search` on this experiment's text; the runs lie with all others."""
        settings = self._search_settings(space, config, folder, command)
        if ray is None and self.progress:
            self._announce(self._waiting(trials(**settings)))
        table = hyperparameter_search(ids=self.ids, ray=ray, **settings)
        if (missing := (table.status == "missing").sum()) and folder not in self._said:
            self._said.add(folder)
            grid = f"{folder.name}: {missing} of {len(table)} configurations are missing"
            print(f"{grid}; {self.only_read}")
        return table

    def _waiting(self, grid: list[Trial]) -> list[Trainer]:
        """Of the configurations that are not trained yet, and can be."""
        waiting = []
        for trial in grid:
            with suppress(LLMLiteError):  # there is no such shape: its row will say so
                if not trial.finished():
                    waiting.append(trial.trainer(self.ids))
        return waiting

    def trials(
        self, space: SearchSpace, config: TrainConfig, folder: Path, command: str | None
    ) -> list[Trial]:
        """What `search_space` would train."""
        return trials(**self._search_settings(space, config, folder, command))

    def _search_settings(self, space, config, folder: Path, command: str | None) -> dict:
        return {
            "space": space,
            "model": self.model_config(),
            "config": config,
            "folder": folder.absolute(),
            "about": self.about,
            "device": self.device,
            "stride": self.data.stride,
            "progress": self.progress,
            "command": command,
            "tensorboard": self.tensorboard,
            "runs": self.runs,
            "paths": self.paths,
            "only_read": self.only_read,
        }

    def model_config(self, **changes) -> ModelConfig:
        return with_data(self.profile.model, self.data, **changes)

    def searched_best(self) -> dict | None:
        """The values of AXES with the lowest validation perplexity in the revised grid, if none of
        it is left to train: by the runs' records, what failed aside."""
        records = [(trial.point, trial.record()) for trial in self.search_trials("revised")]
        if not all(record and record["status"] in ("finished", "failed") for _, record in records):
            return None
        finished = [(r["best"]["perplexity"], p) for p, r in records if r["status"] == "finished"]
        return min(finished, key=lambda pair: pair[0])[1] if finished else None

    @cached_property
    def best_configuration(self) -> dict:
        """The values of AXES with the lowest validation perplexity in the revised grid, which is
        searched if need be."""
        if best := self.searched_best():
            return best
        best = best_row(self.search("revised"))
        return {axis: best[axis].item() for axis in AXES}

    @property
    def knows_configuration(self) -> bool:
        """Is it given what to retrain, so that no search has to find it?"""
        return set(AXES) <= set(self._given)

    @cached_property
    def configuration(self) -> dict:
        """The values of AXES to retrain: what was given, and for the rest the search's best."""
        if self.knows_configuration:
            return {axis: self._given[axis] for axis in AXES}
        return self.best_configuration | self._given

    # -- the trained model (notebook 03) ------------------------------------------------------

    def retrain(self) -> dict:
        """§III.F: one configuration from scratch for longer. Returns the run's record."""
        self._announce([self.trainer])
        return self.trainer.fit()

    def _announce(self, trainers: list[Trainer]) -> None:
        """Before a long stage, say how long it is."""
        alone = self.progress and self.world.size == 1 and not self.only_read
        if alone and trainers and (sentence := announce(trainers)):
            print(sentence)

    @cached_property
    def trainer(self) -> Trainer:
        """Of the retraining."""
        shape = dict(self.configuration)
        rate = shape.pop("learning_rate")
        model = self.model_config(**shape)
        config = replace(self.profile.retrain, learning_rate=rate, **self.training)
        about, windows = self.about, None
        if mistakes(self.data):
            windows = windows_of(self.dataset, self.data, config, self.device)
        folder = run_folder(self.runs, model, config, self.data.stride, about)
        return Trainer(
            model,
            config,
            self.ids,
            folder,
            about,
            self.device,
            self.data.stride,
            self.progress,
            self.command("train"),
            watchers(folder, self.tensorboard),
            windows,
            self.paths,
            self.only_read,
        )

    @property
    def run_folder(self) -> Path:
        """Where the retrained model, its record and its step log lie."""
        return self.trainer.folder

    @cached_property
    def model(self) -> GPT:
        """The retrained model at its best epoch, trained first if need be."""
        if self.progress and not self.trainer.finished():
            print("There is no trained model here yet: training it now, as in notebook 03.")
        self.retrain()
        return load_model(self.run_folder / "best.safetensors", self.device)[0]

    def with_seed(self, seed: int) -> "Experiment":
        """The same, its trained model begun from other weights and another order of the text."""
        return self.like(training={"seed": seed})

    def or_pretrained(self) -> "Experiment":
        """This experiment, or where it has trained nothing yet, the model that comes with the
        package in its place: with that model's tokenizer, on this experiment's text."""
        if self._is_retrained():
            return self
        pretrained = load_pretrained(self.device)
        config = pretrained.model.config
        ready = self.like(vocab_size=config.vocab_size, block_size=config.block_size, stride=None)
        ready.dataset = ready.dataset.like(tokenizer=pretrained.tokenizer)
        ready.pretrained, ready.model = pretrained, pretrained.model
        if self.progress:
            print(f"No model is trained here yet; this is {pretrained}.")
        return ready

    def _is_retrained(self) -> bool:
        """Is there a model of the retraining here, or one that is being trained? Asked without a
        search, where there was none. Records alone, of another machine, have no model."""
        if not (self.knows_configuration or self.searched_best()):
            return False
        record = read_record(self.run_folder)
        finished = record and record["status"] == "finished"
        return bool(record) and not (
            finished and not (self.run_folder / "best.safetensors").exists()
        )

    def test_score(self) -> Score:
        """The trained model on the whole test split, windows side by side (Fig. 1).

        Computed once, and kept in `test_score.json` beside the model.
        """
        path = self.run_folder / "test_score.json"
        if not path.exists():
            name = "Test" if self.progress else None
            counts = self.corpus.counts("test")
            score = evaluate(self.model, self.ids["test"], counts, progress=name)
            write_json(path, {**asdict(score), "environment": environment(self.device)})
        kept = json.loads(path.read_text("utf-8"))
        kept.pop("environment")
        return Score(**kept)

    def seed_scores(self) -> pd.DataFrame:
        """The trained model once for each of the profile's seeds: a row a seed, test split.

        Also written to `seeds.csv`.
        """
        rows = []
        for seed in self.profile.seeds:
            mine = self.trainer.config.seed == seed  # trained and scored already, as a rule
            experiment = self if mine else self.with_seed(seed)
            best, score = experiment.retrain()["best"], experiment.test_score()
            rows.append(
                {
                    "seed": seed,
                    "best epoch": best["epoch"],
                    "validation loss": best["valid_loss"],
                    "test loss": score.loss,
                    "perplexity per token": score.perplexity,
                    "perplexity per word": score.word_perplexity,
                    "bits per byte": score.bits_per_byte,
                }
            )
        table = pd.DataFrame(rows).set_index("seed")
        with replacing(self.out / SEEDS) as aside:
            table.to_csv(aside)
        return table

    def study(self, name: str) -> dict:
        """One of audit.STUDIES of the trained model, kept as NAME.json in the run's folder. That of
        the model that comes with the package is not kept."""
        from llmlite.audit.studies import STUDIES, StudySize  # the audit imports this module

        path = None if self.pretrained else self.run_folder / f"{name}.json"
        if path and path.exists():
            return json.loads(path.read_text("utf-8"))
        study = STUDIES[name](self.model, self.dataset, StudySize.of(self.profile.audit))
        if path:
            write_json(path, study)
        return study

    # -- what a reader looks at ---------------------------------------------------------------

    def save_figure(
        self, figure: Figure, name: str, caption: str, source: str | None = None
    ) -> Figure:
        """Write `figures/NAME.png` and `NAME.svg`, and keep its caption for the gallery. Returns
        the figure.

        The caption ends with where its numbers are from: `source`, or this experiment.
        """
        folder = self.out / "figures"
        for suffix in (".png", ".svg"):
            with replacing(folder / f"{name}{suffix}") as aside:
                save(figure, aside)
        source = source or (
            f"Profile {self.profile.name}, {self.corpus.name}, {self.made_on()}"
            + (f"; {self.pretrained}." if self.pretrained else ".")
        )
        captions = folder / "captions.json"
        with FileLock(self.out / ".captions.lock"):  # other notebooks have figures, too
            known = json.loads(captions.read_text("utf-8")) if captions.exists() else {}
            write_json(captions, dict(sorted((known | {name: f"{caption} {source}"}).items())))
        return figure
