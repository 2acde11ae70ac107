"""Scores of a model and of generated text. Knows nothing about files or training.

Loss is in nats per token. Perplexity per token depends on the vocabulary, so two tokenizers cannot
be compared by it; perplexity per word and bits per byte can.
"""

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from torch import Tensor
from torch.nn import functional as F

from llmlite.data import Counts
from llmlite.errors import LLMLiteError
from llmlite.progress import tqdm
from llmlite.windows import to_tensor


@dataclass(frozen=True)
class Score:
    """How well a model predicts a text: `nats` over `tokens` that spell `words` and `bytes`."""

    nats: float
    tokens: int
    words: int
    bytes: int

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """Per token."""
        return perplexity(self.loss)

    @property
    def word_perplexity(self) -> float:
        """Per whitespace word and line end, as the literature on WikiText counts."""
        return perplexity(self.nats / self.words)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes


def perplexity(loss: float) -> float:
    """exp(loss); infinite where that is too large for a float."""
    return math.exp(loss) if loss < 709 else math.inf


@torch.inference_mode()
def total_loss(
    model,
    ids: Tensor | np.ndarray,
    batch_size: int = 32,
    head_mask: Tensor | None = None,
    progress: str | None = None,
) -> tuple[float, int]:
    """(nats, tokens): the model's loss summed over ids[1:], every token scored exactly once.

    ids: (tokens,), a tensor or an array, mapped from a file or not: a batch at a time is brought to
    the model's device. Windows of the model's block_size stand side by side, so a token sees
    between 1 and block_size tokens before it; the last window may be shorter. In float32, without
    dropout. `progress` names a progress bar.
    """
    if len(ids) < 2:
        raise LLMLiteError(f"A loss needs a text of at least two tokens; this one has {len(ids)}.")
    was_training = model.training
    model.eval()
    size = model.config.block_size
    end = (len(ids) - 1) // size * size  # of the last whole window
    step = batch_size * size
    batches = [(start, min(start + step, end), size) for start in range(0, end, step)]
    if end < len(ids) - 1:
        batches.append((end, len(ids) - 1, len(ids) - 1 - end))
    nats = torch.zeros((), dtype=torch.float64, device=model.device)
    for start, stop, width in tqdm(
        batches,
        desc=progress,
        unit="batch",
        disable=progress is None,
        leave=False,
    ):
        part = to_tensor(ids[start : stop + 1], model.device)
        x, y = part[:-1].view(-1, width), part[1:].view(-1, width)
        logits = model(x, head_mask=head_mask).logits
        losses = F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), reduction="none")
        nats += losses.double().sum()
    model.train(was_training)
    return nats.item(), len(ids) - 1


def evaluate(model, ids: Tensor | np.ndarray, counts: Counts, progress: str | None = None) -> Score:
    """The Score of `model` on a split: its token ids, and the counts of the text they spell."""
    nats, tokens = total_loss(model, ids, progress=progress)
    return Score(nats, tokens, counts.words_and_line_ends, counts.bytes)


# -- generated text -------------------------------------------------------------------------------


def bleu_matrix(texts: Sequence[str]) -> np.ndarray:
    """Pairwise sentence BLEU (§IV.C), (n, n): row = reference, column = hypothesis, in [0, 1].

    Words are split at white space, up to 4-grams count equally, and a count of 0 is smoothed
    (Chen and Cherry, 2014, method 1), since short continuations seldom share a 4-gram.
    """
    words = [text.split() for text in texts]
    smooth = SmoothingFunction().method1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about n-grams that do not overlap, which is the point
        return np.array(
            [
                [
                    sentence_bleu([reference], hypothesis, smoothing_function=smooth)
                    for hypothesis in words
                ]
                for reference in words
            ]
        )


def off_diagonal(matrix: np.ndarray) -> np.ndarray:
    """The entries of a square matrix that compare two different things."""
    return matrix[~np.eye(len(matrix), dtype=bool)]


def distinct_n(items: Sequence, n: int) -> float:
    """Distinct n-grams over all n-grams (Li et al., 2016); 1.0 is no repetition, 0.0 no n-gram."""
    grams = list(zip(*(items[i:] for i in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition_rate(items: Sequence, window: int = 8) -> float:
    """Share of items that also occur among the `window` items just before them."""
    repeated = sum(item in items[max(0, i - window) : i] for i, item in enumerate(items))
    return repeated / len(items) if items else 0.0


def text_statistics(texts: Sequence[str]) -> dict[str, float]:
    """Means over continuations: words, words of the first sentence, distinct-2, repetition rate."""
    split = [text.split() for text in texts]
    first = [words[: words.index(".")] if "." in words else words for words in split]
    return {
        "words": float(np.mean([len(words) for words in split])),
        "first sentence": float(np.mean([len(words) for words in first])),
        "distinct-2": float(np.mean([distinct_n(words, 2) for words in split])),
        "repetition": float(np.mean([repetition_rate(words) for words in split])),
    }


def most_common_share(items: Sequence) -> float:
    """Share of the single most frequent item: 1.0 for a text that is stuck on one word."""
    return max(Counter(items).values()) / len(items) if items else 0.0
