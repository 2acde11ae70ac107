"""Claim 9 (§IV.B): "The university student Howard organization." is coherent.

How like real text generated text is, by which words stand side by side. Knows nothing about files.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from llmlite import paper
from llmlite.errors import LLMLiteError
from llmlite.generate import complete, remove_repeated_tokens
from llmlite.metrics import distinct_n, repetition_rate
from llmlite.model import GPT
from llmlite.studies.counts import collect, measure, measure_all, share

SAMPLING = {"temperature": 0.8, "top_k": 50}  # ours, since the paper does not say how it sampled
FUNCTION_WORDS = 20  # the most frequent words of the training text
CONTRASTS = (
    ("filtered", "real"),
    ("filtered", "generated"),
    ("filtered", "filtered, shuffled"),
    ("generated", "real"),
)


@dataclass(frozen=True)
class Reference:
    """What the training text tells about words: which stand side by side, and the most frequent."""

    pairs: set[tuple[str, str]]
    frequent: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> "Reference":
        words = text.split()
        common = Counter(words).most_common(FUNCTION_WORDS)
        return cls(set(pairwise(words)), tuple(word for word, _ in common))

    def attested(self, words: Sequence[str]) -> tuple[int, int]:
        """(pairs of neighbours that are neighbours in the training text, all pairs)."""
        pairs = list(pairwise(words))
        return sum(pair in self.pairs for pair in pairs), len(pairs)


def coherence(
    model: GPT,
    tokenizer,
    train_text: str,
    test_text: str,
    samples: int,
    tokens: int,
    seed: int = 0,
    progress: bool = False,
) -> dict:
    """How like real text the paper's filtered continuation is: in `measures`, over six kinds,

        generated   continuations of the paper's prompt, from its last word on
        filtered    the same after the paper's filter, which leaves each word once
        real        passages of the test text that start with a paragraph, each as long as one of
                    the continuations; also "real, filtered"
        shuffled    "real, shuffled" and "filtered, shuffled", their words in random order

    the share of attested pairs, neighbours that are neighbours somewhere in the training text; the
    share of function words, its most frequent; repetition and distinct-2 as in metrics.py.
    "position" is where a kind's share of attested pairs lies on the scale from that of real words
    shuffled, 0, to that of real text, 1.
    """
    prompt, rng = paper.GENERATION_PROMPT, np.random.default_rng(seed)
    texts = complete(
        model, tokenizer, prompt, tokens, samples, seed=seed, progress=progress, **SAMPLING
    )
    kinds = {
        "generated": [continued_words(prompt, prompt + text) for text in texts],
        "filtered": [continued_words(prompt, remove_repeated_tokens(prompt + t)) for t in texts],
    }
    kinds["real"] = passages(test_text, [len(words) for words in kinds["generated"]], rng)
    kinds["real, filtered"] = [remove_repeated_tokens(" ".join(w)).split() for w in kinds["real"]]
    for kind in ("real", "filtered"):
        kinds[f"{kind}, shuffled"] = [rng.permutation(words).tolist() for words in kinds[kind]]
    reference = Reference.of(train_text)
    counts = {
        kind: collect([_count(words, reference) for words in texts])
        for kind, texts in kinds.items()
    }
    measures = measure_all(counts, CONTRASTS, of="continuations")
    attested = {kind: named["attested pairs"] for kind, named in counts.items()}
    for kind in ("filtered", "generated", "real, filtered"):
        measures[f"position: {kind}"] = position(
            attested[kind], attested["real, shuffled"], attested["real"]
        )
    return {
        "claim": 9,
        "samples": samples,
        "tokens": tokens,
        "prompt": prompt,
        "sampling": SAMPLING,
        "function words": list(reference.frequent),
        "measures": measures,
        "rows": [
            {kind: " ".join(words) for kind, words in zip(kinds, sample, strict=True)}
            for sample in zip(*kinds.values(), strict=True)
        ],
    }


def continued_words(prompt: str, text: str) -> list[str]:
    """The words of `text`, which starts with `prompt`, from the prompt's last word on.

    A continuation may make that word longer, and forms a pair with it if it does not.
    """
    return text.split()[len(prompt.split()) - 1 :]


def passages(text: str, lengths: Sequence[int], rng: np.random.Generator) -> list[list[str]]:
    """So many words of `text` from the start of a paragraph on, for each of `lengths`.

    No two start alike; a passage runs on through what follows, as generated text does. Raises
    LLMLiteError if there are too few paragraphs.
    """
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


def position(counts: np.ndarray, zero: np.ndarray, one: np.ndarray) -> dict[str, float | str]:
    """Where the share of `counts` lies on the scale from that of `zero` to that of `one`."""

    def on_scale(sums: np.ndarray) -> np.ndarray:
        at, start, end = (share(sums[:, i]) for i in range(3))
        if np.any(end <= start):
            raise LLMLiteError(
                "The test text has no more word pairs in common with the training text than its "
                "words shuffled, so there is no scale; take more samples or another text."
            )
        return (at - start) / (end - start)

    return measure(np.stack([counts, zero, one], axis=1), "continuations", on_scale)


def _count(words: list[str], reference: Reference) -> dict[str, tuple[float, float]]:
    return {
        "attested pairs": reference.attested(words),
        "function words": (sum(word in reference.frequent for word in words), len(words)),
        "repetition": (repetition_rate(words), 1),
        "distinct-2": (distinct_n(words, 2), 1),
    }
