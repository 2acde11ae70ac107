"""The studies of claims 9 to 13, each a function of (model, dataset, size), by the name that its
records have on disk."""

from llmlite.audit.heads import ablation, attention
from llmlite.audit.text import coherence, prompt_sensitivity, sampling

STUDIES = {f.__name__: f for f in (coherence, prompt_sensitivity, sampling, ablation, attention)}
