"""Claims 9 to 11 (§IV.B and IV.C): is the text coherent, and what do wording, temperature and
top-k do to it?

Studies measure and do not judge. Each gives what JSON can hold: among it `measures` (name → value,
low, high and of) and `rows`, what they come from.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from llmlite import paper
from llmlite.audit.samples import StudySize, as_lists, collect, measure, measure_all, share
from llmlite.data import Dataset
from llmlite.files import LLMLiteError
from llmlite.generate import (
    PARAGRAPH,
    complete,
    generate,
    next_token_probabilities,
    remove_repeated_tokens,
)
from llmlite.metrics import bleu_matrix, distinct_n, off_diagonal, repetition_rate, text_statistics
from llmlite.model import GPT

SAMPLING = {"temperature": 0.8, "top_k": 50}  # ours, since the paper does not say how it sampled


@dataclass(frozen=True)
class Reference:
    """The training text's pairs of neighbours, and its most frequent words."""

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


def continued_words(prompt: str, text: str) -> list[str]:
    """The words of `text` from the last one of `prompt`, which it starts with, on."""
    # That word may be longer now, and forms a pair with the next if it is not.
    return text.split()[len(prompt.split()) - 1 :]


# -- claim 9: "The university student Howard organization." is coherent ---------------------------

FUNCTION_WORDS = 20  # the most frequent words of the training text
CONTRASTS = (
    ("filtered", "real"),
    ("filtered", "generated"),
    ("filtered", "filtered, shuffled"),
    ("generated", "real"),
)


def coherence(model: GPT, dataset: Dataset, size: StudySize) -> dict:
    """How like real text the paper's continuation is, before and after the paper's filter, which
    leaves each word once; real text and shuffled words are the controls.

    "position" is where a kind's share of attested pairs lies on the scale from that of real words
    shuffled, 0, to that of real text, 1.
    """
    prompt, rng = paper.GENERATION_PROMPT, np.random.default_rng(0)
    drawn = complete(
        model, dataset.tokenizer, prompt, size.tokens, size.samples, seed=0, **SAMPLING
    )
    texts = [prompt + continuation for continuation in drawn]
    kinds = {
        "generated": [continued_words(prompt, text) for text in texts],
        "filtered": [continued_words(prompt, remove_repeated_tokens(text)) for text in texts],
    }
    # Passages of the test text, each as long as one of the continuations.
    kinds["real"] = passages(dataset.text("test"), [len(w) for w in kinds["generated"]], rng)
    kinds["real, filtered"] = [remove_repeated_tokens(" ".join(w)).split() for w in kinds["real"]]
    for kind in ("real", "filtered"):
        kinds[f"{kind}, shuffled"] = [rng.permutation(words).tolist() for words in kinds[kind]]
    reference = Reference.of(dataset.text("train"))
    counts = {
        kind: collect([_count_words(words, reference) for words in texts])
        for kind, texts in kinds.items()
    }
    attested = {kind: named["attested pairs"] for kind, named in counts.items()}
    positions = {
        f"position: {kind}": position(attested[kind], attested["real, shuffled"], attested["real"])
        for kind in ("filtered", "generated", "real, filtered")
    }
    return {
        "claim": 9,
        "samples": size.samples,
        "tokens": size.tokens,
        "prompt": prompt,
        "sampling": SAMPLING,
        "function words": list(reference.frequent),
        "measures": measure_all(counts, CONTRASTS, of="continuations") | positions,
        "rows": [
            {kind: " ".join(words) for kind, words in zip(kinds, sample, strict=True)}
            for sample in zip(*kinds.values(), strict=True)
        ],
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


def _count_words(words: list[str], reference: Reference) -> dict[str, tuple[float, float]]:
    return {
        "attested pairs": reference.attested(words),  # neighbours in the training text as well
        "function words": (sum(word in reference.frequent for word in words), len(words)),
        "repetition": (repetition_rate(words), 1),
        "distinct-2": (distinct_n(words, 2), 1),
    }


# -- claim 10: most BLEU scores between wordings of a prompt are low ------------------------------

# The first two are the paper's; the other wordings are ours.
PROMPTS = (
    "The university student",
    "A university student",
    "The student",
    "University students",
    "The college student",
    "One university student",
    "A student at the university",
    "The university 's student",
)
DIFFERENT, SAME = "different prompts", "same prompt"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def prompt_sensitivity(
    model: GPT, dataset: Dataset, size: StudySize, prompts: Sequence[str] = PROMPTS
) -> dict:
    """BLEU between continuations of different `prompts`, and of the same prompt as the control: a
    low BLEU can be put down to the wording only as far as it is lower than the latter.
    """
    n = size.samples
    # A seed a prompt: with a common one, texts would look alike by chance.
    drawn = [
        complete(model, dataset.tokenizer, prompt, size.tokens, 2 * n, seed=i, **SAMPLING)
        for i, prompt in enumerate(prompts)
    ]
    # Sample i of a prompt meets sample i of every other one, and sample n + i of its own.
    others = [off_diagonal(bleu_matrix([texts[i] for texts in drawn])) for i in range(n)]
    own = [
        [off_diagonal(bleu_matrix([texts[i], texts[n + i]])) for texts in drawn] for i in range(n)
    ]
    scores = {  # each (samples, comparisons)
        DIFFERENT: np.array(others),
        SAME: np.array(own).reshape(n, -1),
    }
    counts = {name: _bleu_counts(rows) for name, rows in scores.items()}
    return {
        "claim": 10,
        "samples": n,
        "tokens": size.tokens,
        "prompts": list(prompts),
        "sampling": SAMPLING,
        "quantiles": {
            name: {str(q): float(np.quantile(rows, q)) for q in QUANTILES}
            for name, rows in scores.items()
        },
        "measures": measure_all(counts, [(DIFFERENT, SAME)], of="samples"),
        "rows": {name: as_lists(named) for name, named in counts.items()},
    }


def _bleu_counts(scores: np.ndarray) -> dict[str, np.ndarray]:
    total = np.full(len(scores), scores.shape[1])
    below = (scores < paper.BLEU_THRESHOLD).sum(axis=1)
    return {
        f"share below {paper.BLEU_THRESHOLD}": np.stack([below, total], axis=1),
        "BLEU": np.stack([scores.sum(axis=1), total], axis=1),
    }


# -- claim 11: a low temperature is more deterministic, a larger top-k more diverse ---------------

TEMPERATURES = (paper.LOW_TEMPERATURE, 1.0)  # without top-k
TOP_K = (10, 50, 200, 1000)  # at temperature 1
SETTINGS = {f"temperature {t}": {"temperature": t} for t in TEMPERATURES} | {
    f"top-k {k}": {"temperature": 1.0, "top_k": k} for k in TOP_K
}
COMPARED = (
    tuple(f"temperature {t}" for t in TEMPERATURES),
    *((f"top-k {k}", f"top-k {TOP_K[0]}") for k in TOP_K[1:]),
)
POOL = 4  # continuations whose word pairs are counted together


def sampling(
    model: GPT, dataset: Dataset, size: StudySize, prompt: str = paper.GENERATION_PROMPT
) -> dict:
    """What temperature and top-k do to continuations of `prompt`, by SETTINGS and COMPARED.

    All settings draw with the same random numbers, so sample i is compared with sample i. A top-k
    beyond the vocabulary keeps all of it. Raises LLMLiteError for a text longer than the window.
    """
    tokenizer, end = dataset.tokenizer, dataset.tokenizer.eot_id
    start = tokenizer.encode(PARAGRAPH + prompt)
    if len(start) + size.tokens > model.config.block_size:
        raise LLMLiteError(
            f"The prompt's {len(start)} tokens and {size.tokens} more do not fit into the model's "
            f"window of {model.config.block_size}; ask for fewer."
        )
    reference = Reference.of(dataset.text("train"))
    ids = torch.tensor([start]).repeat(size.samples, 1)
    counts, pooled, rows = {}, {}, []
    for name, options in SETTINGS.items():
        drawn = generate(model, ids, size.tokens, seed=0, **options)
        rest = drawn[:, len(start) :].tolist()
        new = [row[: row.index(end) + 1] if end in row else row for row in rest]
        texts = [tokenizer.decode([i for i in row if i != end]) for row in new]
        words = [continued_words(prompt, prompt + text) for text in texts]
        entropy = entropies(model, drawn, len(start), [len(row) for row in new], options)
        counts[name] = {"entropy": entropy} | collect(
            [
                _count_tokens(row, text, split, tokenizer, reference)
                for row, text, split in zip(new, texts, words, strict=True)
            ]
        )
        pooled[name] = {"pooled distinct-2": pooled_distinct_2(words)}
        rows.append({"setting": name, **options, "texts": texts} | as_lists(counts[name]))
    return {
        "claim": 11,
        "samples": size.samples,
        "tokens": size.tokens,
        "prompt": prompt,
        "measures": measure_all(counts, COMPARED, of="continuations")
        | measure_all(pooled, COMPARED, of=f"groups of {POOL} continuations"),
        "rows": rows,
    }


@torch.inference_mode()
def entropies(
    model: GPT, ids: Tensor, start: int, steps: Sequence[int], options: dict
) -> np.ndarray:
    """(samples, 2): entropy of the distributions drawn from, in nats, summed over steps; the steps.

    ids: (samples, time), drawn with `options` after `start` tokens; steps: how many count, of each.
    """
    sums = []
    for row, n in zip(ids, steps, strict=True):
        logits = model(row[None, : start + n - 1]).logits[0, start - 1 :].float()
        sums.append(torch.special.entr(next_token_probabilities(logits, **options)).sum())
    return np.stack([torch.stack(sums).tolist(), steps], axis=1)  # read once: a read waits


def pooled_distinct_2(texts: Sequence[list[str]]) -> np.ndarray:
    """(groups, 2): distinct pairs of neighbours in POOL texts together, and all of their pairs;
    what does not fill a group is left out."""
    # A count over all texts cannot be bootstrapped: a resample repeats texts, and so has fewer
    # distinct pairs than any set of real ones.
    pairs = [list(pairwise(words)) for words in texts]
    groups = [pairs[i : i + POOL] for i in range(0, len(pairs) - POOL + 1, POOL)]
    return np.array([[len(set().union(*group)), sum(map(len, group))] for group in groups], float)


def _count_tokens(
    ids: list[int], text: str, words: list[str], tokenizer, reference: Reference
) -> dict[str, tuple[float, float]]:
    """ids: the tokens drawn, the end of the text with them. text, words: what they spell."""
    ends = [i == tokenizer.eot_id or "\n" in tokenizer.decode([i]) for i in ids]
    return {
        "distinct-2": (distinct_n(words, 2), 1),
        "attested pairs": reference.attested(words),
        "first sentence": (text_statistics([text])["first sentence"], 1),  # words
        "paragraph": (ends.index(True) if any(ends) else len(ids), 1),  # tokens before its end
        "ended": (any(ends), 1),
    }
