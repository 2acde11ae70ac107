"""Optimisers at equal budget: what is drawn and tabled of their records."""

import math

from llmlite.run import Record


def final_loss(record: Record) -> float:
    """The validation loss at the end, nats per token; infinite where a run diverged."""
    return record["epochs"][-1]["valid_loss"] if record["status"] == "finished" else math.inf
