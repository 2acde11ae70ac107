"""Claims 9 to 11 (§IV.B, IV.C): is the text coherent, and what do wording and sampling do to it?

A study gives what JSON can hold: among it `measures`, as `intervals.measure_all` names them, and
`rows`, the texts that were drawn, but for those that BLEU compares."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from llmlite import paper
from llmlite.audit import said
from llmlite.audit.plan import StudySize
from llmlite.data import Dataset
from llmlite.files import LLMLiteError
from llmlite.generate import (
    complete,
    generate,
    next_token_probabilities,
    prompt_ids,
    remove_repeated_tokens,
)
from llmlite.intervals import measure_all, out_of, over_samples, share
from llmlite.metrics import bleu_matrix, distinct_n, off_diagonal
from llmlite.model import GPT

SAMPLING = {"temperature": 0.8, "top_k": 50}  # ours, since the paper does not say how it sampled


def attested(texts: Sequence[list[str]], known: set[tuple[str, str]]) -> np.ndarray:
    """(texts, 2): how many pairs of neighbours are `known`, and how many there are."""
    found = [[pair in known for pair in pairwise(words)] for words in texts]
    return np.array([(sum(pairs), len(pairs)) for pairs in found])


def continued_words(prompt: str, text: str) -> list[str]:
    """The words of `text` from the last one of `prompt`, which it starts with, on."""
    # That word may be longer now, and forms a pair with the next if it is not.
    return text.split()[len(prompt.split()) - 1 :]


def coherence(model: GPT, dataset: Dataset, size: StudySize) -> dict:
    """Claim 9: how like real text the paper's continuation is, before and after its filter, which
    leaves each word once: "position" is where its share of attested pairs lies on the scale from
    that of real words shuffled, 0, to that of real text, 1."""
    prompt, rng = paper.GENERATION_PROMPT, np.random.default_rng(0)
    to_continue = (model, dataset.tokenizer, prompt, size.tokens, size.samples)
    texts = [prompt + text for text in complete(*to_continue, seed=0, **SAMPLING)]
    kinds = {
        "generated": [continued_words(prompt, text) for text in texts],
        "filtered": [continued_words(prompt, remove_repeated_tokens(text)) for text in texts],
    }
    # Passages of the test text, each as long as one of the continuations.
    kinds["real"] = passages(dataset.text("test"), [len(w) for w in kinds["generated"]], rng)
    kinds["real, filtered"] = [remove_repeated_tokens(" ".join(w)).split() for w in kinds["real"]]
    for kind in ("real", "filtered"):
        kinds[f"{kind}, shuffled"] = [rng.permutation(words).tolist() for words in kinds[kind]]
    known = set(pairwise(dataset.text("train").split()))
    pairs = {kind: attested(texts, known) for kind, texts in kinds.items()}
    counts = {kind: {"attested pairs": found} for kind, found in pairs.items()}
    positions = {
        f"position: {kind}": on_scale(pairs[kind], pairs["real, shuffled"], pairs["real"])
        for kind in ("filtered", "generated", "real, filtered")
    }
    contrasts = [("filtered", kind) for kind in ("real", "generated", "filtered, shuffled")]
    contrasts.append(("generated", "real"))
    how = {"samples": size.samples, "tokens": size.tokens, "prompt": prompt, "sampling": SAMPLING}
    return how | {
        "measures": measure_all(counts, contrasts, of="continuations") | positions,
        "rows": {kind: [" ".join(words) for words in texts] for kind, texts in kinds.items()},
    }


def passages(text: str, lengths: Sequence[int], rng: np.random.Generator) -> list[list[str]]:
    """So many words of `text` from the start of a paragraph on, for each of `lengths`; no two start
    alike. Raises LLMLiteError if there are too few paragraphs."""
    words, starts = [], []
    for line in text.split("\n"):
        if line.strip() and not line.startswith(" ="):
            starts.append(len(words))
        words += line.split()
    starts = [start for start in starts if start + max(lengths) <= len(words)]
    if len(starts) < len(lengths):
        raise LLMLiteError(
            f"The test text has {len(starts)} paragraphs to start a passage of {max(lengths)} "
            f"words from, and {len(lengths)} are needed; ask for fewer samples."
        )
    drawn = rng.choice(starts, len(lengths), replace=False).tolist()
    return [words[start : start + length] for start, length in zip(drawn, lengths, strict=True)]


def on_scale(counts: np.ndarray, zero: np.ndarray, one: np.ndarray) -> dict[str, float | str]:
    """Where the share of `counts` lies on the scale from that of `zero` to that of `one`, with its
    interval. All three: (texts, 2), text i of each drawn again together."""

    def place(sums: np.ndarray) -> np.ndarray:
        at, start, end = (share(sums[:, i]) for i in range(3))
        if np.any(end <= start):
            raise LLMLiteError(
                "The test text has no more word pairs in common with the training text than its "
                "words shuffled, so there is no scale; take more samples or another text."
            )
        return (at - start) / (end - start)

    return asdict(over_samples(np.stack([counts, zero, one], axis=1), "continuations", place))


PROMPTS = tuple(said("prompts")["wordings"])


def prompt_sensitivity(model: GPT, dataset: Dataset, size: StudySize) -> dict:
    """Claim 10: BLEU between continuations of different PROMPTS, and of the same prompt as the
    control: a low BLEU is due to the wording only as far as it is lower than the latter."""
    n = size.samples
    # A seed a prompt: with a common one, texts would look alike by chance.
    drawn = [
        complete(model, dataset.tokenizer, prompt, size.tokens, 2 * n, seed=i, **SAMPLING)
        for i, prompt in enumerate(PROMPTS)
    ]
    # Sample i of a prompt meets sample i of every other one, and sample n + i of its own.
    others = [off_diagonal(bleu_matrix([t[i] for t in drawn])) for i in range(n)]
    own = [[off_diagonal(bleu_matrix([t[i], t[n + i]])) for t in drawn] for i in range(n)]
    counts = {"different prompts": _bleu_counts(others), "same prompt": _bleu_counts(own)}
    measures = measure_all(counts, [("different prompts", "same prompt")], of="samples")
    how = {"samples": n, "tokens": size.tokens, "prompts": list(PROMPTS), "sampling": SAMPLING}
    return how | {"measures": measures}


def _bleu_counts(scores: list) -> dict[str, np.ndarray]:
    """scores: (samples, …), all comparisons of a sample."""
    scores = np.reshape(scores, (len(scores), -1))
    counted = {f"share below {paper.BLEU_THRESHOLD}": scores < paper.BLEU_THRESHOLD, "BLEU": scores}
    return {name: out_of(c.sum(axis=1), scores.shape[1]) for name, c in counted.items()}


LOW, HIGH = f"temperature {paper.LOW_TEMPERATURE}", "temperature 1.0"
SETTINGS = {LOW: {"temperature": paper.LOW_TEMPERATURE}, HIGH: {"temperature": 1.0}}
SETTINGS |= {f"top-k {k}": {"temperature": 1.0, "top_k": k} for k in (10, 50, 200, 1000)}
COMPARED = [(LOW, HIGH), *((f"top-k {k}", "top-k 10") for k in (50, 200, 1000))]


def sampling(model: GPT, dataset: Dataset, size: StudySize) -> dict:
    """Claim 11: what SETTINGS do to continuations of the paper's prompt; "paragraph" is its tokens
    before its end. All draw with the same random numbers, so sample i is compared with sample i.
    Raises LLMLiteError for a text longer than the window."""
    prompt, tokenizer, end = paper.GENERATION_PROMPT, dataset.tokenizer, dataset.tokenizer.eot_id
    ids = prompt_ids(tokenizer, prompt).repeat(size.samples, 1)
    start = ids.size(1)
    if start + size.tokens > model.config.block_size:
        raise LLMLiteError(
            f"The prompt's {start} tokens and {size.tokens} more do not fit into the model's "
            f"window of {model.config.block_size}; ask for fewer."
        )
    known = set(pairwise(dataset.text("train").split()))
    counts, texts = {}, {}
    for name, options in SETTINGS.items():
        drawn = generate(model, ids, size.tokens, seed=0, **options)
        rest = drawn[:, start:].tolist()
        new = [row[: row.index(end) + 1] if end in row else row for row in rest]
        texts[name] = [tokenizer.decode([i for i in row if i != end]) for row in new]
        words = [continued_words(prompt, prompt + text) for text in texts[name]]
        counts[name] = {
            "entropy": entropies(model, drawn, start, [len(row) for row in new], options),
            "distinct-2": out_of([distinct_n(w, 2) for w in words]),
            "attested pairs": attested(words, known),
            "paragraph": out_of([_paragraph(row, tokenizer) for row in new]),
        }
    how = {"samples": size.samples, "tokens": size.tokens, "prompt": prompt}
    measures = measure_all(counts, COMPARED, of="continuations")
    return how | {"measures": measures, "rows": texts}


@torch.inference_mode()
def entropies(model, ids: Tensor, start: int, steps: Sequence[int], options: dict) -> np.ndarray:
    """(samples, 2): entropy of the distributions drawn from, in nats, summed over steps; the steps.
    ids: (samples, time), drawn with `options` after `start` tokens; steps: how many count, of each.
    """
    sums = []
    for row, n in zip(ids, steps, strict=True):
        logits = model(row[None, : start + n - 1]).logits[0, start - 1 :].float()
        sums.append(torch.special.entr(next_token_probabilities(logits, **options)).sum())
    return out_of(torch.stack(sums).tolist(), steps)  # read once: a read waits


def _paragraph(ids: Sequence[int], tokenizer) -> int:
    """How many of `ids` stand before the first that ends a line or the text."""
    ends = (i == tokenizer.eot_id or "\n" in tokenizer.decode([i]) for i in ids)
    return next((n for n, ends_here in enumerate(ends) if ends_here), len(ids))
