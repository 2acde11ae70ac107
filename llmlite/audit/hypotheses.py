"""Which mistake explains the paper's numbers: hypotheses, whose predictions stand in
hypotheses.toml, written before anything was measured, against the records of plan.py's runs."""

import warnings
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import pandas as pd
import torch
from torch import nn

from llmlite import paper
from llmlite.audit import said
from llmlite.config import TrainConfig
from llmlite.engine import learning_rate

EPOCH_STEPS = paper.TOTAL_STEPS // paper.SEARCH_EPOCHS
FITS, FAILS, SILENT = "fits", "does not", "–"


@dataclass(frozen=True)
class Hypothesis:
    """A mistake, the switch that makes it, and what it predicts."""

    name: str
    switch: str
    run: str  # the audit's run that makes it
    predicts: str
    layout: str | None = None  # how windows lie, where it says so: see `steps_by_layout`
    divided: bool = False  # is the training loss logged after the division
    scaled: bool = False  # is the norm logged before unscaling
    tenth: bool = False  # is the warmup a tenth of the steps
    every_batch: bool = False  # does the scheduler go at every batch, accumulated or not


SAID = said("hypotheses")
HYPOTHESES = tuple(Hypothesis(**row) for row in SAID["hypotheses"])
FACTS = SAID["facts"]  # what is published, and what it is


def predictions() -> pd.DataFrame:
    """What each hypothesis predicts, as stated before the runs."""
    said = pd.DataFrame(HYPOTHESES)[["name", "switch", "predicts"]]
    return said.set_index("name").rename_axis("hypothesis")


def mistakes_of_the_windows() -> dict[str, str]:
    """The hypotheses that have a run of their own: run → its name in words."""
    own = {h.run: h.name for h in reversed(HYPOTHESES) if h.run not in ("mask", "no-mask")}
    return own | {"mask": "all is right", "no-mask": "no causal mask"}


def outcomes(records: dict[str, dict]) -> pd.DataFrame:
    """What the runs did: a row a run. records: as `Audit.record` gives them, by name."""
    rows = {}
    for name, record in records.items():
        epochs, measures = record["epochs"], record["measures"]
        positions = measures["loss_by_position"]
        rows[name] = {
            "window": len(positions),
            "steps an epoch": record["steps_per_epoch"],
            "perplexity, epoch 1": epochs[0]["perplexity"],
            "perplexity, end": epochs[-1]["perplexity"],
            "loss, end": epochs[-1]["valid_loss"],
            "loss, first position": positions[0],
            "loss, last position": positions[-1],
            "mean of the others": float(np.mean(positions[:-1])),
            "true perplexity": float(np.exp(measures["true"]["nats"])),
            "leak found": measures["leaks"],
            "layer 0 on the next token": max(measures["attention"]["next"]),
            "text": measures["greedy"]["text"].replace("\n", "↵"),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("run")


def windows_times_loss(records: dict[str, dict]) -> pd.DataFrame:
    """The leading explanation's sharpest prediction: mean loss × window = loss at the last
    position, whatever the window. A row a run."""
    rows = {}
    for name, record in records.items():
        x = np.array(record["measures"]["loss_by_position"])
        rows[name] = [len(x), x.mean(), x[-1] / len(x), x[-1], x.mean() * len(x)]
    columns = ["window", "mean loss", "predicted: last position / window"]
    columns += ["loss at the last position", "mean loss × window"]
    return pd.DataFrame.from_dict(rows, "index", columns=columns).rename_axis("run")


def other_numbers(plain: dict, scaled: dict) -> pd.DataFrame:
    """The paper's log beside ours, C3 to C5. plain, scaled: the records of "no-mask" and of
    "scaled-norm"."""
    last, end = plain["epochs"][-1], scaled["epochs"][-1]
    after = last["train_loss"] / last["valid_loss"]
    before = after * plain["identity"]["train"]["accumulation"]
    losses = paper.ACCUMULATED_LOSSES, paper.PLAIN_LOSSES
    divided, undivided = (f"{train / valid:.2f}" for train, valid in losses)
    scaled_norms = "{:.1e} to {:.1e}".format(*paper.SCALED_NORMS)
    plain_norms = "{:g} to {:g}".format(*paper.PLAIN_NORMS)
    skipped = f"{scaled['skipped']} of {end['step']}"
    overflow, every_batch = (
        "warned" if scheduler_warns(**{how: True}) else "no warning"
        for how in ("overflow", "every_batch")
    )
    rows = {
        "training over validation loss, logged after the division": (divided, f"{after:.2f}"),
        "training over validation loss, logged before": (undivided, f"{before:.2f}"),
        "gradient norm, logged before unscaling (fp16)": (scaled_norms, f"{end['grad_norm']:.1e}"),
        "gradient norm, logged after": (plain_norms, f"{last['grad_norm']:.3f}"),
        "optimiser steps skipped for overflow (fp16)": ("not stated", skipped),
        "scheduler, if the first step is skipped for overflow": ("warned", overflow),
        "scheduler, if stepped at every batch": ("warned", every_batch),
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["paper", "here"])


def steps_by_layout(tokens_per_word: float, lines_per_word: float) -> dict[str, float]:
    """Optimiser steps an epoch at the paper's size (batch 128, 4 accumulated, 80% of WikiText-2):
    layout → steps. Both arguments are measured on a text."""
    words = paper.CORPUS_WORDS * paper.TRAINING_SHARE
    windows = {
        "stride 1": words * tokens_per_word,
        "side by side": words * tokens_per_word / paper.BLOCK_SIZE,
        "lines": words * lines_per_word,
    }
    return {name: n / (128 * paper.ACCUMULATION) for name, n in windows.items()}


def rates_at_epoch_ends(warmup_fraction: float) -> dict[int, float]:
    """The learning rate after each epoch of the paper's ten, 5,000 steps each."""
    config, epochs = TrainConfig(warmup_fraction=warmup_fraction), range(1, paper.SEARCH_EPOCHS + 1)
    return {n: learning_rate(n * EPOCH_STEPS - 1, paper.TOTAL_STEPS, config) for n in epochs}


def rate_error(warmup_fraction: float) -> float:
    """Largest difference to the rates in the paper's log, relative to the peak."""
    ours = rates_at_epoch_ends(warmup_fraction)
    return max(abs(ours[epoch] - rate) for epoch, rate in paper.EPOCH_RATES.items()) / 1e-3


def scheduler_warns(overflow: bool = False, every_batch: bool = False) -> bool:
    """C5: does PyTorch warn of `lr_scheduler.step()` before `optimizer.step()`, in two steps of
    four accumulated batches? Shown on its own classes, since this package has no scheduler.
    overflow: the first gradient is infinite, so GradScaler leaves out that step. every_batch: the
    scheduler goes at every batch, not at every optimiser step."""
    layer = nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(layer.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    scaler = torch.amp.GradScaler("cpu")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for batch in range(1, 9):
            x = torch.full((1, 1), torch.inf if overflow and batch == 1 else 1.0)
            scaler.scale(layer(x).sum() / 4).backward()
            if batch % 4 == 0:
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
            if every_batch or batch % 4 == 0:
                scheduler.step()
    return any("lr_scheduler.step()" in str(warning.message) for warning in caught)


def fits(records: dict[str, dict], steps: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(verdicts, values): hypotheses × facts, and first what the paper has. records: as for
    `outcomes`. steps: `Audit.steps`, of which the vocabulary nearest to the paper's counts."""
    steps = steps.loc[np.log(steps["stride 1"] / EPOCH_STEPS).abs().idxmin()]
    cells = {"the paper": {fact: (SILENT, value) for fact, value in FACTS.items()}}
    for h in HYPOTHESES:
        found = _cells(h, records[h.run], records["scaled-norm"], steps)
        cells[h.name] = {fact: found.get(fact, (SILENT, "")) for fact in FACTS}
    table = pd.DataFrame(cells, FACTS).T
    return table.map(itemgetter(0)), table.map(itemgetter(1))


def _cells(h: Hypothesis, record: dict, scaled: dict, steps: pd.Series) -> dict[str, tuple]:
    """What the hypothesis says something of: fact → (does it fit, value in words)."""
    epochs = record["epochs"]
    first, last = epochs[0]["valid_loss"], epochs[-1]["valid_loss"]
    logged = epochs[-1]["train_loss"]  # after the division, by all runs
    if not h.divided:
        logged *= record["identity"]["train"]["accumulation"]
    ratio, published = logged / last, paper.ACCUMULATED_LOSSES[0] / paper.ACCUMULATED_LOSSES[1]
    norm = (scaled if h.scaled else record)["epochs"][-1]["grad_norm"]
    low, high = paper.SCALED_NORMS
    repetition = record["measures"]["greedy"]["repetition"]
    cells = {
        "C1 loss at the end": (1 / 3 < last / paper.TEST_LOSS < 3, f"{last:.3f}"),
        "C1 first over last epoch": (1.1 < first / last < 1.7, f"{first / last:.2f}"),
        "C3 training over validation loss": (0.8 < ratio / published < 1.25, f"{ratio:.2f}"),
        "C4 gradient norm": (low / 2 < norm < high * 2, f"{norm:.2g}"),
        "C7 text repeats itself": (repetition > 0.5, f"{repetition:.2f}"),
    }
    if h.layout:
        at = steps[h.layout]
        cells["C2 steps an epoch"] = 0.95 < at / EPOCH_STEPS < 1.05, f"{at:,.0f}"
    if h.every_batch:
        cells["C5 scheduler's warning"] = scheduler_warns(every_batch=True), "every batch"
    elif h.scaled:  # steps that overflow in fp16 would explain the warning as well
        skipped = scaled["skipped"]
        warned = scheduler_warns(overflow=skipped > 0)
        cells["C5 scheduler's warning"] = warned, f"{skipped} skipped"
    if h.tenth:
        error = rate_error(0.1)
        cells["C6 rates in the log"] = error < 0.002, f"off by {error:.1%}"
    return {fact: (FITS if fit else FAILS, value) for fact, (fit, value) in cells.items()}
