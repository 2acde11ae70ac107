"""The studies of claims 9 to 13, by the name that their records have on disk."""

from collections.abc import Callable

from llmlite.audit.heads import ablation, attention
from llmlite.audit.samples import StudySize
from llmlite.audit.text import coherence, prompt_sensitivity, sampling

STUDIES: dict[str, Callable[..., dict]] = {  # of a GPT, a Dataset and a StudySize
    "coherence": coherence,
    "prompt_sensitivity": prompt_sensitivity,
    "sampling": sampling,
    "ablation": ablation,
    "attention": attention,
}

__all__ = ["STUDIES", "StudySize"]
