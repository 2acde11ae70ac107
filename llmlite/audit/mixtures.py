"""Memory beside a model: p(w) = Σ_m weight_m · p_m(w) of it, of counts of the training text, and of
a cache of recent text (Grave et al., 2017), p_cache(w | h_t) ∝ Σ_{i < t, w_i = w} exp(θ h_t · h_i),
where w_i was predicted from the hidden state h_i. The cache crosses the ends of articles. Nothing
is trained for it: θ and the weights are those that suit a part of the validation split."""

import numpy as np
import torch

from llmlite import metrics
from llmlite.audit.baselines import KneserNey
from llmlite.audit.measures import by_article
from llmlite.data import Dataset
from llmlite.model import GPT
from llmlite.windows import to_tensor

CACHE = 2_000  # tokens back
THETAS = (0.0, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)  # at 0 it is how often a token came of late
VALID = 50_000  # tokens of the validation split, its first
MIXED = {"alone": [0], "with the 5-gram": [0, 1], "with a cache": [0, 2], "with both": [0, 1, 2]}


def mixtures(model: GPT, dataset: Dataset) -> dict:
    """How each of MIXED predicts the test split, a Score an article, and what was chosen for it."""
    n_grams = KneserNey(np.asarray(dataset.ids["train"]), dataset.tokenizer.vocab_size)
    valid = probabilities(model, n_grams, dataset.ids["valid"][:VALID], THETAS)
    tried = {theta: best_weights(valid[[0, i]])[1] for i, theta in enumerate(THETAS, 2)}
    theta = min(tried, key=tried.get)
    valid = valid[[0, 1, 2 + THETAS.index(theta)]]
    test = probabilities(model, n_grams, dataset.ids["test"], [theta])
    made, context = {}, metrics.context_in_words(model.config, model.config.block_size // 2)
    for name, rows in MIXED.items():
        weights, found = best_weights(valid[rows])
        scores = by_article(dataset, -np.log(weights @ test[rows]), f"{context}, {name}")
        made[name] = {"weights": weights.tolist(), "validation": found, "scores": scores}
    return {"theta": theta, "by_theta": tried, "mixtures": made}


@torch.inference_mode()
def probabilities(model: GPT, n_grams: KneserNey, ids: metrics.Ids, thetas) -> np.ndarray:
    """Of each of ids[1:] by the model, the n-grams and a cache for each θ, (2 + thetas, tokens - 1)
    float64, in windows that slide by half. An empty cache says what the model says."""
    size, found = model.config.block_size, []
    keys, words = model.token_embedding.weight[:0], to_tensor(ids[:0], model.device)
    batches = metrics.windows_over(ids, size, size // 2, max(1, 512 // size))  # fit a CPU's cache
    for hidden, targets in metrics.window_hidden(model, batches):
        hidden, targets, n = hidden.flatten(0, 1), targets.flatten(), min(CACHE, len(words))
        keys, words = torch.cat([keys[-CACHE:], hidden]), torch.cat([words[-CACHE:], targets])
        similar, same = hidden @ keys.T, words == targets[:, None]  # (targets, keys)
        # Target i is key n + i, and looks at the CACHE keys before that.
        hide = ~torch.ones_like(same).tril(n - 1).triu(n - CACHE)
        softmaxes = ((t * similar).masked_fill_(hide, -torch.inf).softmax(1) for t in thetas)
        rows = [-metrics.losses_of(model, hidden, targets).double()]
        rows += [(weights * same).sum(1).double().log() for weights in softmaxes]
        found.append(torch.stack(rows).cpu())
    found = torch.cat(found, 1).numpy()
    found[1:, 0] = found[0, 0]
    return np.exp(np.insert(found, 1, n_grams.log_probabilities(np.asarray(ids)), axis=0))


def best_weights(given: np.ndarray) -> tuple[np.ndarray, float]:
    """(weights, (models,), perplexity) of the best mixture for tokens to which each model gives
    `given`, (models, tokens), by expectation maximisation (Jelinek and Mercer, 1980)."""
    weights = np.full(len(given), 1 / len(given))
    for _ in range(100):  # towards the one maximum: the log-likelihood is concave in the weights
        weights = (weights[:, None] * given / (weights @ given)).mean(1)
    return weights, metrics.perplexity(-np.log(weights @ given).mean())
