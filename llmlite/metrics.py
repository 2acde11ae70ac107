"""Scores of a model and of generated text. Knows nothing about files or training.

Perplexity per token depends on the vocabulary, so two tokenizers cannot be compared by it;
perplexity per word and bits per byte can, of tokens that may look back equally far.
"""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from llmlite.data import Counts
from llmlite.files import LLMLiteError, tqdm
from llmlite.windows import Ids, TokenWindows, to_tensor

LOGITS = 2**26  # numbers in the logits that are held at a time, 256 MiB in float32
CACHED_LOGITS = 2**21  # fit a CPU's cache: the softmax reads them again, thrice as fast from there
SOME = 1_000_000  # tokens that the entropy is estimated from: a corpus may be larger than memory

Batch = tuple[Tensor, Tensor, int]  # inputs, targets (windows, time); first targets not scored


@dataclass(frozen=True)
class Score:
    """How well a model predicts a text: `nats` over `tokens` that spell `words` and `bytes`."""

    nats: float
    tokens: int
    words: int  # between white space, and line ends, as the literature on WikiText counts
    bytes: int
    context: str = "not stated"  # what each token was predicted from, in words

    @property
    def loss(self) -> float:  # nats per token
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:  # per token
        return perplexity(self.loss)

    @property
    def word_perplexity(self) -> float:
        return perplexity(self.nats / self.words)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes


def perplexity(loss: float) -> float:
    """exp(loss); infinite where that is too large for a float."""
    return math.exp(loss) if loss < 709 else math.inf


def stated(perplexity: float, digits: int = 1) -> str:
    """A perplexity per word as it is printed. In text without blanks a word is a line."""
    return f"{perplexity:.{digits}f}" if perplexity < 1e9 else "over a billion"


def windows_over(ids: Ids, size: int, stride: int | None, batch_size: int) -> Iterator[Batch]:
    """Batches of windows of up to `size` inputs that score ids[1:], each token once, in order.
    stride: as in `token_losses`. LLMLiteError for nothing to score."""
    tokens = len(ids) - 1
    if tokens < 1:
        raise LLMLiteError(f"A loss needs a text of two tokens or more; this one has {len(ids)}.")
    if stride is None:
        end = tokens // size * size  # of the last whole window
        parts = [(range(0, end, size), size, 0), (range(end, tokens, size), tokens - end, 0)]
    else:
        moved = range(stride, tokens - size + 1, stride)
        left = max(0, tokens - size) % stride
        parts = [
            (range(1), min(size, tokens), 0),
            (moved, size, size - stride),
            (range(tokens - size, tokens - size + (left > 0)), size, size - left),
        ]
    for starts, width, context in parts:
        for i in range(0, len(starts), batch_size):
            windows = TokenWindows(ids, width, stride=1)
            yield *windows[np.array(starts[i : i + batch_size])], context


def context_in_words(config, stride: int | None = None) -> str:
    """What each token is predicted from where a text is scored as in `token_losses`."""
    size, least, how = config.block_size, 1, "windows side by side"
    if stride is not None:
        least, how = size - stride + 1, f"sliding by {stride}; the first window from 1"
    if not config.causal:
        return f"all of a window of {size} tokens, later ones too ({how})"
    return f"{least} to {size} tokens ({how})" if least < size else f"{size} tokens ({how})"


def windows_at_once(device: torch.device, width: int) -> int:
    """Windows of `width` tokens in a batch: fills a GPU; leaves the wide layer in a CPU's cache."""
    return max(1, (2**16 if device.type == "cuda" else 2**11) // width)


def losses_of(model, hidden: Tensor, targets: Tensor) -> Tensor:
    """The loss of each target in nats, (…) float32 as `targets`; hidden (…, n_embd): what
    `model.hidden` gives. A part of it at a time meets the vocabulary: the logits of a large batch
    would not fit in memory."""
    weight = model.token_embedding.weight
    rows = max(1, (CACHED_LOGITS if weight.device.type == "cpu" else LOGITS) // len(weight))
    parts = zip(hidden.flatten(0, -2).split(rows), targets.flatten().split(rows), strict=True)
    losses = [F.cross_entropy(F.linear(x, weight).float(), y, reduction="none") for x, y in parts]
    return torch.cat(losses).view(targets.shape)


def window_hidden(model, batches: Iterable[Batch], head_mask=None) -> Iterator[tuple]:
    """Of what each batch scores (hidden (windows, scored, n_embd), targets), without dropout."""
    training = model.training
    model.eval()
    try:
        for inputs, targets, context in batches:
            inputs, targets = inputs.to(model.device), targets.to(model.device)
            hidden, _ = model.hidden(inputs, head_mask)
            yield hidden[:, context:], targets[:, context:]
    finally:
        model.train(training)


def window_losses(model, batches: Iterable[Batch], head_mask=None) -> Iterator[Tensor]:
    """The losses of `window_hidden`, (windows, scored) float32."""
    return (losses_of(model, *scored) for scored in window_hidden(model, batches, head_mask))


@torch.inference_mode()
def total_loss(model, ids: Ids, batch_size=None, head_mask=None, progress: str | None = None):
    """(nats, tokens): the model's loss summed over ids[1:], in windows side by side.
    batch_size: windows at a time (None: to suit the device). progress: what a bar is called."""
    size, tokens = model.config.block_size, len(ids) - 1
    batches = windows_over(ids, size, None, batch_size or windows_at_once(model.device, size))
    nats = torch.zeros((), dtype=torch.float64, device=model.device)
    shown = {"desc": progress, "disable": progress is None, "unit": "token", "leave": False}
    with tqdm(total=tokens, **shown) as bar:
        for losses in window_losses(model, batches, head_mask):
            nats += losses.double().sum()
            bar.update(losses.numel())
    return nats.item(), tokens


@torch.inference_mode()
def token_losses(model, ids: Ids, stride: int | None = None) -> Tensor:
    """The loss of each of ids[1:] in nats, (tokens - 1,), float32 on the CPU.
    stride: None sets windows side by side, so that a token sees 1 to block_size tokens. A number
    slides one window by so many tokens: each after the first scores its last `stride` tokens, which
    see at least block_size - stride + 1. The last moves back to be whole, and scores the rest."""
    size = model.config.block_size
    batches = windows_over(ids, size, stride, windows_at_once(model.device, size))
    return torch.cat([losses.flatten().cpu() for losses in window_losses(model, batches)])


def batches_of(model, windows: TokenWindows, context: int = 0) -> Iterator[Batch]:
    """All windows in their order, as many at a time as suit the model's device."""
    indices = torch.arange(len(windows), device=windows.device)
    for part in indices.split(windows_at_once(model.device, windows.block_size)):
        yield *windows[part], context


@torch.inference_mode()
def loss_by_position(model, windows: TokenWindows) -> Tensor:
    """Nats per token at each position of the window, (block_size,) float64 on the CPU."""
    batches = batches_of(model, windows)
    sums = sum(losses.double().sum(0) for losses in window_losses(model, batches))
    return sums.cpu() / len(windows)  # read once: each read would wait for the device


def evaluate(model, ids: Ids, counts: Counts, progress: str | None = None) -> Score:
    """The Score of `model` on a split: its ids, and the counts of the text that they spell."""
    sums = total_loss(model, ids, progress=progress)
    return Score(*sums, counts.words_and_line_ends, counts.bytes, context_in_words(model.config))


class ImplausibleLossWarning(UserWarning):
    """A loss that no language model has on natural text: something shows it the answers."""


def leak_floor(ids: Ids, block_size: int) -> float:
    """The validation loss below which a leak is likelier than learning, in nats per token."""
    # A model that sees its targets copies them, all but the last one of a window, which nothing
    # shows. There it hardly beats guessing by frequency, so its mean loss tends to the unigram
    # entropy / block_size; it has twice that before it has quite learnt to copy. An honest model
    # of natural text stays above half of the entropy: a third at most, for windows below 6 tokens.
    counts = torch.bincount(to_tensor(ids[:SOME])).double()
    entropy = torch.special.entr(counts / counts.sum()).sum().item()
    return min(2 / block_size, 1 / 3) * entropy


def warn_if_implausible(loss: float, floor: float, causal: bool) -> str | None:
    """Warn of a mean validation loss below `floor` (see `leak_floor`); what was said, or None."""
    if loss >= floor:
        return None
    why = "" if causal else " (the causal mask is off)"
    text = (
        f"A validation loss of {loss:.4f} nats per token is implausibly low{why}: below "
        f"{floor:.4f}, where a model ends that sees its targets. Check the mask, the targets and "
        "what fills up windows; llmlite.audit.causality.causal_leak(model) tests the mask."
    )
    warnings.warn(text, ImplausibleLossWarning, stacklevel=3)
    return text


def bleu_matrix(texts: Sequence[str]) -> np.ndarray:
    """Pairwise sentence BLEU (§IV.C), (n, n): row = reference, column = hypothesis, in [0, 1].
    Words are split at white space, up to 4-grams count equally, and a count of 0 is smoothed
    (Chen and Cherry, 2014, method 1), since short continuations seldom share a 4-gram."""
    # Here, since nltk brings scikit-learn and scipy.stats with it: a third of a notebook's start.
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    words = [text.split() for text in texts]
    bleu = partial(sentence_bleu, smoothing_function=SmoothingFunction().method1)
    return np.array([[bleu([row], column) for column in words] for row in words])


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
    statistics = {
        "words": [len(words) for words in split],
        "first sentence": [[*words, "."].index(".") for words in split],
        "distinct-2": [distinct_n(words, 2) for words in split],
        "repetition": [repetition_rate(words) for words in split],
    }
    return {name: float(np.mean(values)) for name, values in statistics.items()}
