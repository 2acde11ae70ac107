"""One function a figure. Each draws what it is given, computes nothing and returns the figure."""
# ruff: noqa: F401

from llmlite.plots.attention import (
    attention_by_layer,
    attention_grid,
    attention_map,
    first_layer_maps,
    head_effects,
    head_intervals,
)
from llmlite.plots.audit import (
    effects,
    hypotheses_and_facts,
    loss_by_position,
    positions_by_run,
    published_curves,
    window_sizes,
    yardsticks,
)
from llmlite.plots.text import (
    article_lengths,
    bleu_heatmap,
    next_tokens,
    sampling_settings,
    token_lengths,
    token_strips,
    tokens_per_word,
)
from llmlite.plots.training import (
    final_perplexities,
    gradient_norm,
    learning_curves,
    learning_rate_schedule,
    losses,
)
