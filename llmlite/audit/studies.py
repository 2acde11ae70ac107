"""The studies of claims 9 to 13, by the name that their records have on disk."""

from collections.abc import Callable

from llmlite.audit.heads import ablation, attention
from llmlite.audit.samples import StudySize
from llmlite.audit.text import coherence, prompt_sensitivity, sampling
from llmlite.data import Dataset
from llmlite.model import GPT

STUDIES: dict[str, Callable[[GPT, Dataset, StudySize], dict]] = {
    "coherence": coherence,
    "prompt_sensitivity": prompt_sensitivity,
    "sampling": sampling,
    "ablation": ablation,
    "attention": attention,
}
