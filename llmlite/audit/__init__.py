"""The audit (notebook 08): where the paper's perplexity of 1.17 comes from, and what of its claims
holds.

    plan        the runs, each with its mistake in plain sight
    runs        train them, measure them, and keep both as records
"""

from llmlite.audit.plan import Run, plan
from llmlite.audit.runs import Audit

__all__ = ["Audit", "Run", "plan"]
