"""transformers' GPT-2 of our shape, with our first weights: what benchmarks train against."""

from llmlite.config import ModelConfig
from llmlite.hub import to_gpt2
from llmlite.model import GPT


def training_gpt2(shape: ModelConfig, **options):
    """A GPT2LMHeadModel for training; `options` of its GPT2Config."""
    return to_gpt2(GPT(shape), use_cache=False, **options).train()
