"""Scores of a model and of generated text. Knows nothing about files or training.

Loss is in nats per token. Perplexity per token depends on the vocabulary, so two tokenizers cannot
be compared by it; perplexity per word and bits per byte can. All of them depend on how much of the
text a model may look back on, so a Score says that as well.
"""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from llmlite.data import Counts
from llmlite.files import LLMLiteError, tqdm
from llmlite.windows import TokenWindows, to_tensor

UNSCORED = -100  # in place of a target that is context alone
LOGITS = 2**26  # numbers in the logits that are held at a time, 256 MiB in float32
CACHED_LOGITS = 2**21  # fit a CPU's cache: the softmax reads them again, thrice as fast from there
SOME = 1_000_000  # tokens that the entropy is estimated from: a corpus may be larger than memory

Ids = Tensor | np.ndarray  # (tokens,), an array possibly mapped from a file


@dataclass(frozen=True)
class Score:
    """How well a model predicts a text: `nats` over `tokens` that spell `words` and `bytes`."""

    nats: float
    tokens: int
    words: int
    bytes: int
    context: str = "not stated"  # what each token was predicted from, in words

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
    def byte_perplexity(self) -> float:
        return perplexity(self.nats / self.bytes)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes


def perplexity(loss: float) -> float:
    """exp(loss); infinite where that is too large for a float."""
    return math.exp(loss) if loss < 709 else math.inf


# -- loss of a model ------------------------------------------------------------------------------


class Windows(NamedTuple):
    """Windows of one length: i reads ids[starts[i] : starts[i] + width] and predicts the ids one
    further on; the first `context[i]` of these are not scored."""

    starts: np.ndarray  # (windows,)
    width: int
    context: np.ndarray  # (windows,)


def windows_over(tokens: int, size: int, stride: int | None, batch_size: int) -> Iterator[Windows]:
    """Batches of windows of up to `size` inputs that score ids[1 : tokens + 1], each token once.

    stride: as in `token_losses`. LLMLiteError for nothing to score, or a stride that skips tokens.
    """
    if tokens < 1:
        raise LLMLiteError(f"A loss needs a text of two tokens or more; this one has {tokens + 1}.")
    if stride is not None and not 1 <= stride <= size:
        raise LLMLiteError(
            f"A window of {size} tokens cannot slide by {stride}; choose a stride from 1 to {size}."
        )
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
    return (
        Windows(starts, width, np.full(len(starts), context))
        for places, width, context in parts
        for i in range(0, len(places), batch_size)
        for starts in [np.array(places[i : i + batch_size])]
    )


def context_in_words(config, stride: int | None = None) -> str:
    """What each token is predicted from where a text is scored as in `token_losses`."""
    size, least, how = config.block_size, 1, "windows side by side"
    if stride is not None:
        least, how = size - stride + 1, f"sliding by {stride}; the first window from 1"
    if not getattr(config, "causal", True):
        return f"all of a window of {size} tokens, later ones too ({how})"
    return f"{least} to {size} tokens ({how})" if least < size else f"{size} tokens ({how})"


def windows_at_once(device: torch.device, width: int) -> int:
    """Windows of `width` tokens in a batch: fills a GPU; leaves the wide layer in a CPU's cache."""
    return max(1, (2**16 if device.type == "cuda" else 2**11) // width)


@torch.no_grad()
def losses_of(model, hidden: Tensor, targets: Tensor) -> Tensor:
    """The loss of each target in nats, (…) float32 as `targets`, 0 where it is UNSCORED.

    hidden (…, n_embd): what `model.hidden` gives. A part of it at a time meets the vocabulary: the
    logits of a large batch would not fit in memory.
    """
    weight = model.token_embedding.weight
    rows = max(1, (CACHED_LOGITS if weight.device.type == "cpu" else LOGITS) // len(weight))
    parts = zip(hidden.flatten(0, -2).split(rows), targets.flatten().split(rows), strict=True)
    how = {"ignore_index": UNSCORED, "reduction": "none"}
    losses = [F.cross_entropy(F.linear(x, weight).float(), y, **how) for x, y in parts]
    return torch.cat(losses).view(targets.shape)


def window_losses(
    model,
    ids: Ids,
    batches: Iterable[Windows],
    head_mask: Tensor | None = None,
    progress: str | None = None,
) -> Iterator[tuple[Windows, Tensor]]:
    """Yield each batch with its losses, (windows, width) float32, 0 where a token is not scored."""
    shown = {"desc": progress, "disable": progress is None, "unit": "token", "leave": False}
    with tqdm(total=len(ids) - 1, **shown) as bar, ExitStack() as at_the_end:
        at_the_end.callback(model.train, model.training)  # back to the mode that it was in
        model.eval()
        for batch in batches:
            x, y = TokenWindows(ids, batch.width, stride=1)[batch.starts]
            x, y = x.to(model.device), y.to(model.device)
            context = torch.from_numpy(batch.context).to(model.device).unsqueeze(1)
            y = y.masked_fill(torch.arange(batch.width, device=model.device) < context, UNSCORED)
            hidden, _ = model.hidden(x, head_mask)
            least = int(batch.context.min())  # what is context in all windows needs no logits
            losses = losses_of(model, hidden[:, least:], y[:, least:])
            yield batch, F.pad(losses, (least, 0))
            bar.update(y.numel() - int(batch.context.sum()))


@torch.inference_mode()
def total_loss(
    model,
    ids: Ids,
    batch_size: int | None = None,
    head_mask: Tensor | None = None,
    progress: str | None = None,
    stride: int | None = None,
) -> tuple[float, int]:
    """(nats, tokens): the model's loss summed over ids[1:], every token scored exactly once.

    batch_size: windows at a time (None: to suit the device). progress: what a bar is called.
    stride: as in `token_losses`.
    """
    at_once = batch_size or windows_at_once(model.device, model.config.block_size)
    batches = windows_over(len(ids) - 1, model.config.block_size, stride, at_once)
    nats = torch.zeros((), dtype=torch.float64, device=model.device)
    for _, losses in window_losses(model, ids, batches, head_mask, progress):
        nats += losses.double().sum()
    return nats.item(), len(ids) - 1


@torch.inference_mode()
def token_losses(model, ids: Ids, stride: int | None = None, progress: str | None = None) -> Tensor:
    """The loss of each of ids[1:] in nats, (tokens - 1,), float32 on the CPU.

    stride: None sets windows side by side, so that a token sees 1 to block_size tokens. A number
    slides one window by so many tokens: each after the first scores its last `stride` tokens, which
    see at least block_size - stride + 1. The last is moved back to be whole, and scores the rest.
    """
    size = model.config.block_size
    batches = windows_over(len(ids) - 1, size, stride, windows_at_once(model.device, size))
    return collect(window_losses(model, ids, batches, progress=progress), len(ids) - 1)


def collect(parts: Iterable[tuple[Windows, Tensor]], tokens: int) -> Tensor:
    """All that `window_losses` yields, (tokens,) on the CPU: of ids[1:], NaN where not scored."""
    collected = np.full(tokens, np.nan, np.float32)
    for windows, losses in parts:
        offsets = np.arange(windows.width)
        scored = offsets >= windows.context[:, None]
        collected[(windows.starts[:, None] + offsets)[scored]] = losses.cpu().numpy()[scored]
    return torch.from_numpy(collected)


@torch.inference_mode()
def loss_by_position(model, windows: TokenWindows) -> Tensor:
    """Nats per token at each position of the window, (block_size,) float64 on the CPU."""
    # Read once, at the end: each read would wait for the device.
    sums = torch.zeros(windows.block_size, dtype=torch.float64, device=model.device)
    with ExitStack() as at_the_end:
        at_the_end.callback(model.train, model.training)
        model.eval()
        indices = torch.arange(len(windows), device=windows.device)
        for index in indices.split(windows_at_once(model.device, windows.block_size)):
            inputs, targets = (part.to(model.device) for part in windows[index])
            hidden, _ = model.hidden(inputs)
            sums += losses_of(model, hidden, targets).double().sum(0)
    return sums.cpu() / len(windows)


def evaluate(
    model, ids: Ids, counts: Counts, progress: str | None = None, stride: int | None = None
) -> Score:
    """The Score of `model` on a split: its ids, and the counts of the text that they spell."""
    sums = total_loss(model, ids, progress=progress, stride=stride)
    context = context_in_words(model.config, stride)
    return Score(*sums, counts.words_and_line_ends, counts.bytes, context)


def article_scores(
    losses: Tensor, ids: Ids, articles: Sequence[str], eot_id: int, context: str
) -> list[Score]:
    """A Score for each article of a split; together they are that of the split.

    losses: of ids[1:]. ids: with <|endoftext|> before each article; the one after it counts as its
    last token. LLMLiteError if these do not belong together.
    """
    starts = np.flatnonzero(np.asarray(ids) == eot_id)
    if len(starts) != len(articles) or len(losses) != len(ids) - 1 or starts[:1].tolist() != [0]:
        raise LLMLiteError(
            f"Ids and articles are not of the same split: {len(ids)} ids with {len(starts)} ends "
            f"of text (the first must be the first id) and {len(losses)} losses (one fewer than "
            f"ids) for {len(articles)} articles."
        )
    parts = losses.double().tensor_split(starts[1:].tolist())
    counts = [Counts.of(text, articles=1) for text in articles]
    return [
        Score(part.sum().item(), len(part), count.words_and_line_ends, count.bytes, context)
        for part, count in zip(parts, counts, strict=True)
    ]


# -- a loss that is too good to be true -----------------------------------------------------------


class ImplausibleLossWarning(UserWarning):
    """A loss that no language model has on natural text: something shows it the answers."""


def unigram_entropy(ids: Ids) -> float:
    """Nats per token of guessing by frequency, from the first million of ids."""
    counts = torch.bincount(to_tensor(ids[:SOME])).double()
    return torch.special.entr(counts / counts.sum()).sum().item()


def leak_floor(ids: Ids, block_size: int) -> float:
    """The validation loss below which a leak is likelier than learning, in nats per token."""
    # A model that sees its targets copies them, all but the last one of a window, which nothing
    # shows. There it hardly beats guessing by frequency, so its mean loss tends to the unigram
    # entropy / block_size; it has twice that before it has quite learnt to copy. An honest model
    # of natural text stays above half of the entropy: a third at most, for windows below 6 tokens.
    return min(2 / block_size, 1 / 3) * unigram_entropy(ids)


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


# -- generated text -------------------------------------------------------------------------------


def bleu_matrix(texts: Sequence[str]) -> np.ndarray:
    """Pairwise sentence BLEU (§IV.C), (n, n): row = reference, column = hypothesis, in [0, 1].

    Words are split at white space, up to 4-grams count equally, and a count of 0 is smoothed
    (Chen and Cherry, 2014, method 1), since short continuations seldom share a 4-gram.
    """
    # Here, since nltk brings scikit-learn and scipy.stats with it: a third of a notebook's start.
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    words = [text.split() for text in texts]
    bleu = partial(sentence_bleu, smoothing_function=SmoothingFunction().method1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about n-grams that do not overlap, which is the point
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
    first = [words[: words.index(".")] if "." in words else words for words in split]
    return {
        "words": float(np.mean([len(words) for words in split])),
        "first sentence": float(np.mean([len(words) for words in first])),
        "distinct-2": float(np.mean([distinct_n(words, 2) for words in split])),
        "repetition": float(np.mean([repetition_rate(words) for words in split])),
    }
