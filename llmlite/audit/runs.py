"""Train the audit's runs, measure what each hypothesis predicts, and keep both as records.

Every run has a folder below `out/audit`, with record.json (see checkpoint.py) and measures.json.
What is there is used again; an interrupted run carries on.
"""

import json
import shlex
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from llmlite import paper
from llmlite.audit.plan import HEADS, Run, plan
from llmlite.checkpoint import load_model
from llmlite.config import DataConfig, fingerprint
from llmlite.errors import LLMLiteError
from llmlite.experiment import GRIDS, Experiment
from llmlite.files import write_json
from llmlite.flaws import flawed_windows, mistakes
from llmlite.generate import complete
from llmlite.guard import loss_by_position
from llmlite.interpret import attention_maps
from llmlite.metrics import repetition_rate
from llmlite.model import GPT
from llmlite.progress import tqdm
from llmlite.search import epochs_table, hyperparameter_search
from llmlite.train import Trainer
from llmlite.windows import TokenWindows

SENTENCE = " The cat sat on the mat and looked at the dog ."  # of the attention maps
GENERATED = 24  # tokens of the greedy continuation
MEASURES = "measures.json"


class Audit:
    """The audit of one experiment, whose profile says how much of it to run.

    `leak_runs` look for 1.17; `honest_runs` are the best configuration with several seeds, and
    `grids` both grids with several seeds: the scorecard judges the paper's claims by them.
    """

    def __init__(self, experiment: Experiment):
        self.experiment, self.settings = experiment, experiment.profile.audit
        self.folder = experiment.out / "audit"
        self._texts: dict[DataConfig, Experiment] = {}

    @cached_property
    def leak_runs(self) -> dict[str, Run]:
        return {run.name: run for run in plan(self.settings, self.experiment.data)}

    @cached_property
    def honest_runs(self) -> dict[str, Run]:
        """The paper's best configuration, as the package does it, a run a seed."""
        settings, data = self.settings, self.experiment.data
        shape = {"n_layer": settings.deep, "n_head": HEADS, "n_embd": settings.model.n_embd}
        model = self.experiment.model_config(**shape)
        return {
            f"honest-seed-{seed}": Run(
                f"honest-seed-{seed}", data, model, replace(settings.honest, seed=seed)
            )
            for seed in settings.seeds
        }

    @property
    def runs(self) -> dict[str, Run]:
        return self.leak_runs | self.honest_runs

    def train(self, name: str) -> dict:
        """Train a run, or carry it on, or find it finished; its record."""
        return self._trainer(self.runs[name]).fit()

    def model(self, name: str) -> GPT:
        """A run's model: for the leak's runs at its end, since their loss only falls."""
        self.train(name)
        return load_model(self.run_folder(name) / "best.safetensors", self.experiment.device)[0]

    def run_folder(self, name: str) -> Path:
        return self._trainer(self.runs[name]).folder

    def record(self, name: str) -> dict:
        """A run's record, with what was measured of its model: trained and measured if need be."""
        record = self.train(name)
        path = self.run_folder(name) / MEASURES
        if not path.exists():
            write_json(path, measure(self.model(name), self.runs[name], self))
        return record | {"name": name, "measures": json.loads(path.read_text("utf-8"))}

    def grid(self, grid: str, seed: int) -> pd.DataFrame:
        """Every epoch of every run of a grid, with this seed: a row an epoch."""
        experiment, folder = self.experiment, self.folder / "grids" / f"{grid}-seed-{seed}"
        table = hyperparameter_search(
            getattr(experiment.profile, f"{grid}_grid"),
            experiment.model_config(),
            replace(getattr(self.settings, f"{grid}_grid"), seed=seed),
            experiment.ids,
            folder,
            experiment.about,
            experiment.device,
            experiment.data.stride,
            experiment.progress,
            self.command(f"grid-{grid}-seed-{seed}"),
        )
        return epochs_table(table, folder).assign(seed=seed)

    @property
    def grid_names(self) -> dict[str, tuple[str, int]]:
        return {
            f"grid-{grid}-seed-{seed}": (grid, seed)
            for seed in self.settings.seeds
            for grid in reversed(GRIDS)
        }

    @property
    def names(self) -> list[str]:
        """All that `make` can make, the telling ones first."""
        return [*self.runs, *self.grid_names]

    def make(self, only: list[str] | None = None) -> None:
        """Train and measure what starts with one of `only`, or everything that is not there."""
        chosen = [n for n in self.names if not only or n.startswith(tuple(only))]
        if not chosen:
            raise LLMLiteError(
                f"No run of the audit starts with {', '.join(only)}; there are "
                f"{', '.join(self.names)}."
            )
        bar = tqdm(chosen, desc="Audit", unit="run", disable=not self.experiment.progress)
        for name in bar:
            bar.set_postfix_str(name)
            if name in self.runs:
                self.record(name)
            else:
                self.grid(*self.grid_names[name])

    def command(self, name: str) -> str | None:
        """What to type in a shell to make a run, in any folder that it is typed in."""
        train = self.experiment.command("audit")
        return f"{train} --only {shlex.quote(name)}" if train else None

    # -- inside -------------------------------------------------------------------------------

    def text(self, data: DataConfig) -> Experiment:
        """The experiment's text with another vocabulary or another way to cut it."""
        experiment = self.experiment
        if data == experiment.data:
            return experiment
        key = replace(data, padding=False, shift=1, split="official")  # of windows, not of text
        if key not in self._texts:
            usual = asdict(experiment.profile.data)
            changes = {
                field: value for field, value in asdict(key).items() if value != usual[field]
            }
            self._texts[key] = Experiment(
                experiment.profile.name,
                changes.pop("source", None),
                experiment.out,
                experiment.device,
                experiment.progress,
                **changes,
            )
        return self._texts[key]

    def windows(self, run: Run) -> dict[str, TokenWindows]:
        text, train = self.text(run.data), run.train
        limits = train.train_tokens, train.valid_tokens
        device = self.experiment.device
        return flawed_windows(text.corpus, text.tokenizer, text.ids, run.data, *limits, device)

    def _trainer(self, run: Run) -> Trainer:
        text = self.text(run.data)
        about = text.about | mistakes(run.data)
        identity = [str(run.model), str(run.train), run.data.stride, about]
        return Trainer(
            run.model,
            run.train,
            text.ids,
            self.folder / f"{run.name}-{fingerprint(identity)[:8]}",
            about,
            self.experiment.device,
            run.data.stride,
            self.experiment.progress,
            self.command(run.name),
            windows=self.windows(run) if run.name in self.leak_runs else None,
        )


def measure(model: GPT, run: Run, audit: Audit) -> dict:
    """What the hypotheses predict differently, measured on a trained run's model (see facts.py)."""
    text = audit.text(run.data)
    windows = audit.windows(run)
    return {
        "loss_by_position": loss_by_position(model, windows["valid"]).tolist(),
        "true": last_position(model, text.ids["test"], audit.settings.windows)
        | {
            "tokens_per_word": len(text.ids["test"])
            / text.corpus.counts("test").words_and_line_ends
        },
        "greedy": _greedy(model, text),
        "attention": _first_layer(model, text),
    }


def last_position(model: GPT, ids: torch.Tensor, limit: int) -> dict[str, float]:
    """The loss of predicting what no window shows: the token after its end, in nats per token.

    This is the true loss of any model, masked or not, with a whole window as context. ids:
    (tokens,), of which `limit` windows are scored, spread evenly. error: the mean's standard error.
    """
    size = model.config.block_size
    starts = np.unique(np.linspace(0, len(ids) - size - 1, limit).astype(np.int64))
    windows = TokenWindows(ids, size, 1, only=torch.from_numpy(starts))
    losses = []
    model.eval()
    with torch.inference_mode():
        for index in torch.arange(len(windows)).split(256):
            inputs, targets = windows[index]
            logits = model(inputs.to(model.device)).logits[:, -1].float().cpu()
            losses.append(
                torch.nn.functional.cross_entropy(logits, targets[:, -1], reduction="none")
            )
    losses = torch.cat(losses).double()
    return {
        "nats": losses.mean().item(),
        "error": (losses.std() / len(losses) ** 0.5).item(),
        "windows": len(losses),
    }


def _greedy(model: GPT, text: Experiment) -> dict:
    """The likeliest continuation of the paper's prompt, each token from scratch: no cache serves a
    model whose later tokens change what earlier ones see."""
    prompt = paper.ABLATION_PROMPT
    (continuation,) = complete(model, text.tokenizer, prompt, GENERATED, temperature=0, fast=False)
    return {"text": prompt + continuation, "repetition": repetition_rate(continuation.split())}


def _first_layer(model: GPT, text: Experiment) -> dict:
    """Layer 0 on one sentence, (head, query, key), and over the test split's sentences the mean
    weight of each head on the token itself, the one before it and the one after it."""
    ids = torch.tensor(text.tokenizer.encode(SENTENCE))[: model.config.block_size]
    sums, positions = np.zeros((3, model.config.n_head)), 0
    for sentence in text.test_sentences():
        first = attention_maps(model, sentence)[0]  # (head, query, key)
        for i, offset in enumerate((0, -1, 1)):
            sums[i] += first.diagonal(offset, 1, 2).sum(-1).numpy()
        positions += len(sentence)
    own, before, after = sums / positions
    return {
        "tokens": [text.tokenizer.decode([i]) for i in ids],
        "map": np.round(attention_maps(model, ids)[0].numpy(), 4).tolist(),
        "self": own.tolist(),
        "previous": before.tolist(),
        "next": after.tolist(),
    }
