"""One function a figure. Each draws what it is given, computes nothing and returns the figure."""

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
    loss_by_position,
    positions_by_run,
    published_curves,
    window_sizes,
    yardsticks,
)
from llmlite.plots.tables import hypotheses_and_facts, scorecard
from llmlite.plots.text import bleu_heatmap, next_tokens, sampling_grid
from llmlite.plots.tokens import (
    article_lengths,
    contestants,
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
    resident_memory,
)

__all__ = [
    "article_lengths",
    "attention_by_layer",
    "attention_grid",
    "attention_map",
    "bleu_heatmap",
    "contestants",
    "effects",
    "final_perplexities",
    "first_layer_maps",
    "gradient_norm",
    "head_effects",
    "head_intervals",
    "hypotheses_and_facts",
    "learning_curves",
    "learning_rate_schedule",
    "loss_by_position",
    "losses",
    "next_tokens",
    "positions_by_run",
    "published_curves",
    "resident_memory",
    "sampling_grid",
    "scorecard",
    "token_lengths",
    "token_strips",
    "tokens_per_word",
    "window_sizes",
    "yardsticks",
]
