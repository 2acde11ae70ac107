"""Small made-up data for every figure: FIGURES, function → arguments."""

import numpy as np
import pandas as pd

from llmlite.audit.hypotheses import FAILS, FITS, SILENT
from llmlite.intervals import Interval

EPOCHS = pd.DataFrame(
    {
        "epoch": [1, 2, 3],
        "train_loss": [5.0, 4.0, 3.5],
        "valid_loss": [5.1, 4.2, 4.3],
        "perplexity": [164.0, 66.7, 73.7],
    }
)
STEPS = pd.DataFrame(
    {"step": range(1, 31), "lr": np.linspace(1e-4, 1e-3, 30), "grad_norm": np.geomspace(3, 0.3, 30)}
)
TABLE = pd.DataFrame(
    [
        {"learning_rate": lr, "n_layer": n, "n_head": h, "n_embd": 64, "perplexity": 90 + n - h}
        for lr in (1e-3, 5e-4)
        for n in (2, 4, 6)
        for h in (2, 4)
    ]
)
MAP = np.tril(np.full((4, 4), 0.25))

PER_WORD = "perplexity per word and line end"
YARDSTICKS = pd.DataFrame(
    {"model": ["uniform", "GPT-2"], PER_WORD: [9_000.0, 29.4], "exact": [True, False]}
)
OURS = Interval(50.0, 45.0, 55.0, "3 seeds")
INTERVALS = {
    "clear": Interval(-0.2, -0.3, -0.1, "12 pairs"),
    "not clear": Interval(0.1, -0.1, 0.3, "12 pairs"),
}
WINDOWS = pd.DataFrame(
    {
        "window": [32, 16],
        "mean loss": [0.2, 0.4],
        "predicted: last position / window": [0.19, 0.38],
    }
)
CELLS = pd.DataFrame({"C1": [FITS, FAILS], "C2": [SILENT, FITS]}, ["no mask", "padding"])
VALUES = pd.DataFrame({"C1": ["0.16", "5.1"], "C2": ["", "5,000"]}, ["no mask", "padding"])
HEADS = pd.DataFrame(
    [[0.4, 0.3, 0.5, 3.0, 2.0, 4.0] * 2, [0.2, 0.1, 0.3, 5.0, 4.0, 6.0] * 2],
    pd.MultiIndex.from_tuples([(0, 0), (1, 3)], names=["layer", "head"]),
    pd.MultiIndex.from_product(
        [["previous", "distance", "entropy", "more"], ["value", "low", "high"]]
    ),
)
PAPER = (1.171, 1.1858)
OF_EPOCH = EPOCHS.set_index("epoch")
LOSSES = (
    {"training": OF_EPOCH.train_loss, "validation": OF_EPOCH.valid_loss},
    {"validation": OF_EPOCH.perplexity},
    "title",
    PAPER,
)

FIGURES = {
    "article_lengths": ({"train": [10, 200, 3000], "valid": [20, 400], "test": [30, 500]},),
    "token_lengths": ([0, 4, 3, 2], [0, 9, 5, 1]),
    "token_strips": ({"a": [b" the", b"\n", b"\xc3", b" $x$"], "": [b"word"] * 40}, "title"),
    "tokens_per_word": ({"train": pd.Series({512: 2.5, 1024: 2.0})}, 1024, 1.27, "reference"),
    "final_perplexities": (TABLE, "n_layer", "n_head", "learning_rate", "title"),
    "learning_rate_schedule": (STEPS, STEPS),
    "losses": LOSSES,
    "gradient_norm": (STEPS, 1.0, 5, (1e5, 2e5)),
    "next_tokens": ([" the", " \n"], [0.4, 0.1], "The cat"),
    "bleu_heatmap": (np.array([[1.0, 0.1], [0.2, 1.0]]), ["A", "B"], 0.15),
    "head_effects": (np.array([[0.1, -0.2], [0.0, 0.3]]), 4.0),
    "attention_maps": ({"mask on": MAP, "no mask": MAP.T}, [" The", " cat", " sat", " \n"]),
    "attention_grid": (np.broadcast_to(MAP, (2, 3, 4, 4)),),
    "attention_by_layer": (HEADS, 6.0),
    "loss_by_position": ({"mask": [5.0, 4.0, 4.5], "no mask": [0.01, 0.02, 6.0]}, 0.158),
    "positions_by_run": ({"mask": [5.0, 4.0, 4.5], "padding": [4.0, 0.1]}, 0.158),
    "published_curves": ({"2 layers": ({1: 0.22, 10: 0.16}, [0.23, 0.2, 0.17])},),
    "window_sizes": (WINDOWS, 0.3),
    "hypotheses_and_facts": (CELLS, VALUES),
    "yardsticks": (YARDSTICKS, "ours", OURS, ("paper", 1.17)),
    "intervals": ({"nats": INTERVALS, "more": INTERVALS}, True),
}
