"""The paper's claims about text and attention (§IV.B to IV.E, claims 9 to 13), on many samples.

Each study takes a trained model and gives a dict that JSON can hold: `claim`, `samples`, `measures`
(name → value, low, high and of, an intervals.Interval as a dict) and `rows`, what the measures come
from. Studies measure and do not judge. They know nothing about files.

    coherence   claim 9                   counts   what was counted in each sample → measures
    sampling    claims 10 and 11          heads    claims 12 and 13
"""

from llmlite.studies.coherence import coherence
from llmlite.studies.heads import ablation, attention
from llmlite.studies.sampling import PROMPTS, prompt_sensitivity, sampling

__all__ = ["PROMPTS", "ablation", "attention", "coherence", "prompt_sensitivity", "sampling"]
