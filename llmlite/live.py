"""Watching a run while it works: TensorBoard's event files, and a chart in a notebook.

A watcher is any object with `on_steps(rows)`, rows as in steps.jsonl; `on_epoch(epoch)`, an entry
of record.json's epochs; and `close()`. The Trainer calls them; they see numbers, never tensors.
"""

import os
import sys
from pathlib import Path

import pandas as pd

from llmlite.errors import LLMLiteError
from llmlite.plots import losses
from llmlite.progress import HEADLESS_VARIABLE


def watchers(folder: str | Path, tensorboard: bool) -> list:
    """Those of a run in `folder`: a chart where somebody looks on, event files on request."""
    chosen = [NotebookChart()] if in_watched_notebook() else []
    return chosen + ([TensorBoardLog(Path(folder) / "tensorboard")] if tensorboard else [])


def in_watched_notebook() -> bool:
    """Is this a Jupyter kernel with somebody in front of it?"""
    if os.environ.get(HEADLESS_VARIABLE) or "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return hasattr(shell, "kernel")  # a shell in a terminal has none


class TensorBoardLog:
    """Writes event files into `folder`, to look at with `tensorboard --logdir`.

    LLMLiteError if TensorBoard is not installed. A run that was interrupted takes up its last
    checkpoint and takes the steps after it again: they replace those written before.
    """

    def __init__(self, folder: str | Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise LLMLiteError(
                "TensorBoard is not installed here; install it with "
                "`pip install 'llmlite[tensorboard]'`."
            ) from None
        self.folder, self._make_writer = Path(folder), SummaryWriter
        self._writer = None

    def on_steps(self, rows: list[dict]) -> None:
        if self._writer is None:  # now it is known where the run begins, or carries on
            first = rows[0]["step"]
            self._writer = self._make_writer(str(self.folder), purge_step=first)
        for row in rows:
            self._write(row["step"], {f"train/{name}": row[name] for name in ("loss", "lr")})
            if row["grad_norm"] is not None:  # fp16 scaling left the step out
                self._write(row["step"], {"train/grad_norm": row["grad_norm"]})
        self._writer.flush()

    def on_epoch(self, epoch: dict) -> None:
        if self._writer is None:  # stopped between the epoch's last step and its end
            self._writer = self._make_writer(str(self.folder), purge_step=epoch["step"] + 1)
        scalars = {
            "valid/loss": epoch["valid_loss"],
            "valid/perplexity": epoch["perplexity"],
            "speed/tokens_per_second": epoch["tokens_per_second"],
        }
        self._write(epoch["step"], scalars)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, step: int, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)


class NotebookChart:
    """Fig. 9 in the making: losses and perplexity by epoch, drawn in place after each epoch.

    It is gone at the end, when the notebook draws the figure from the run's record. A run that
    carries on shows the epochs that this kernel has seen.
    """

    def __init__(self):
        self._epochs: list[dict] = []
        self._display = None

    def on_steps(self, rows: list[dict]) -> None:
        """Steps come too fast to draw."""

    def on_epoch(self, epoch: dict) -> None:
        from IPython.display import display

        before = [past for past in self._epochs if past["epoch"] < epoch["epoch"]]
        self._epochs = [*before, epoch]
        table = pd.DataFrame(self._epochs)
        figure = losses(table, best=table.epoch[table.valid_loss.idxmin()])
        if self._display is None:
            self._display = display(figure, display_id=True)
        else:
            self._display.update(figure)

    def close(self) -> None:
        if self._display is not None:
            self._display.update({"text/plain": ""}, raw=True)
            self._display = None
