"""Claims 10 and 11 (§IV.C): what wording, temperature and top-k do to the text.

Knows nothing about files.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from llmlite import paper
from llmlite.errors import LLMLiteError
from llmlite.generate import PARAGRAPH, complete, generate, next_token_probabilities
from llmlite.metrics import bleu_matrix, distinct_n, off_diagonal, text_statistics
from llmlite.model import GPT
from llmlite.progress import tqdm
from llmlite.studies.coherence import SAMPLING, Reference, continued_words
from llmlite.studies.counts import as_lists, collect, measure_all

# §IV.C: the paper's prompts 1 and 2; the other wordings are ours.
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

TEMPERATURES = (paper.LOW_TEMPERATURE, 1.0)  # without top-k
TOP_K = (10, 50, 200, 1000)  # at temperature 1
SETTINGS = {f"temperature {t}": {"temperature": t} for t in TEMPERATURES} | {
    f"top-k {k}": {"temperature": 1.0, "top_k": k} for k in TOP_K
}
CONTRASTS = (
    tuple(f"temperature {t}" for t in TEMPERATURES),
    *((f"top-k {k}", f"top-k {TOP_K[0]}") for k in TOP_K[1:]),
)
POOL = 4  # continuations whose word pairs are counted together


# -- claim 10: most BLEU scores between wordings of a prompt are low ------------------------------


def prompt_sensitivity(
    model: GPT,
    tokenizer,
    prompts: Sequence[str],
    samples: int,
    tokens: int,
    seed: int = 0,
    progress: bool = False,
) -> dict:
    """BLEU between continuations of different `prompts`, and of the same prompt as the control.

    Two sets of `samples` continuations are drawn for each prompt, every prompt with a seed of its
    own: with a common one texts would look alike by chance. Sample i of a prompt is compared with
    sample i of every other prompt, and with sample i of its own second set. A low BLEU can be put
    down to the wording only as far as it is lower than the latter.

    `quantiles`, of all scores: share of the scores → BLEU.
    """
    if len(prompts) < 2:
        raise LLMLiteError(
            f"Wordings of a prompt are compared with each other; give two or more, not "
            f"{len(prompts)}."
        )
    drawn = [
        complete(
            model, tokenizer, prompt, tokens, 2 * samples, seed=seed * len(prompts) + i, **SAMPLING
        )
        for i, prompt in enumerate(tqdm(prompts, "Prompts", unit="prompt", disable=not progress))
    ]
    scores = {DIFFERENT: [], SAME: []}  # of each sample, (comparisons,)
    for i in tqdm(range(samples), "BLEU", unit="sample", disable=not progress):
        first, second = [t[i] for t in drawn], [t[samples + i] for t in drawn]
        own = [off_diagonal(bleu_matrix(pair)) for pair in zip(first, second, strict=True)]
        scores[DIFFERENT].append(off_diagonal(bleu_matrix(first)))
        scores[SAME].append(np.concatenate(own))
    scores = {name: np.array(rows) for name, rows in scores.items()}  # (samples, comparisons)
    counts = {name: _bleu_counts(rows) for name, rows in scores.items()}
    return {
        "claim": 10,
        "samples": samples,
        "tokens": tokens,
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


def sampling(
    model: GPT,
    tokenizer,
    prompt: str,
    train_text: str,
    samples: int,
    tokens: int,
    seed: int = 0,
    progress: bool = False,
) -> dict:
    """What temperature and top-k do to continuations of `prompt`, by SETTINGS and CONTRASTS.

    All settings draw with the same random numbers, so sample i is compared with sample i. A top-k
    beyond the vocabulary keeps all of it. Measured are

        entropy             of the distributions that tokens were drawn from, nats
        distinct-2          of the words of a continuation
        pooled distinct-2   of the words of POOL continuations together
        attested pairs      as in `coherence`
        first sentence      words before its full stop; all words if there is none
        paragraph           tokens before its end; all tokens if it does not end
        ended               share of paragraphs that end
    """
    prompt = prompt.strip()
    start = tokenizer.encode(PARAGRAPH + prompt)
    _check(model, len(start), samples, tokens)
    reference, ids = Reference.of(train_text), torch.tensor([start]).repeat(samples, 1)
    counts, pooled, rows = {}, {}, []
    for name, options in tqdm(SETTINGS.items(), "Sample", unit="setting", disable=not progress):
        drawn = generate(model, ids, tokens, seed=seed, **options)
        new = [_until_end(row, tokenizer.eot_id) for row in drawn[:, len(start) :].tolist()]
        texts = [tokenizer.decode([i for i in row if i != tokenizer.eot_id]) for row in new]
        words = [continued_words(prompt, prompt + text) for text in texts]
        entropy = entropies(model, drawn, len(start), [len(row) for row in new], options)
        counts[name] = {"entropy": entropy} | collect(
            [
                _count(row, text, split, tokenizer, reference)
                for row, text, split in zip(new, texts, words, strict=True)
            ]
        )
        pooled[name] = {"pooled distinct-2": pooled_distinct_2(words)}
        rows.append({"setting": name, **options, "texts": texts} | as_lists(counts[name]))
    return {
        "claim": 11,
        "samples": samples,
        "tokens": tokens,
        "prompt": prompt,
        "measures": measure_all(counts, CONTRASTS, of="continuations")
        | measure_all(pooled, CONTRASTS, of=f"groups of {POOL} continuations"),
        "rows": rows,
    }


def _check(model: GPT, prompt: int, samples: int, tokens: int) -> None:
    if samples < 2 * POOL:
        raise LLMLiteError(
            f"Sampling is studied on {2 * POOL} continuations or more, not {samples}; ask for more."
        )
    if prompt + tokens > model.config.block_size:
        raise LLMLiteError(
            f"The prompt's {prompt} tokens and {tokens} more do not fit into the model's window "
            f"of {model.config.block_size}; ask for fewer."
        )


def _until_end(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids


@torch.inference_mode()
def entropies(
    model: GPT, ids: Tensor, start: int, steps: Sequence[int], options: dict
) -> np.ndarray:
    """(samples, 2): entropy of the distributions drawn from, in nats, summed over steps; the steps.

    ids: (samples, time) as `generate` gave them with `options`, from prompts of `start` tokens.
    steps: of each sample, the tokens that count.
    """
    sums = []
    for row, n in zip(ids, steps, strict=True):
        logits = model(row[None, : start + n - 1]).logits[0, start - 1 :].float()
        sums.append(torch.special.entr(next_token_probabilities(logits, **options)).sum())
    return np.stack([torch.stack(sums).tolist(), steps], axis=1)  # read once: a read waits


def pooled_distinct_2(texts: Sequence[list[str]]) -> np.ndarray:
    """(groups, 2): distinct pairs of neighbours in POOL texts together, and all of their pairs.

    In groups, since a count over all texts cannot be bootstrapped: a resample repeats texts, and so
    has fewer distinct pairs than any set of real ones. What does not fill a group is left out.
    """
    pairs = [list(pairwise(words)) for words in texts]
    groups = [pairs[i : i + POOL] for i in range(0, len(pairs) - POOL + 1, POOL)]
    return np.array([[len(set().union(*group)), sum(map(len, group))] for group in groups], float)


def _count(
    ids: list[int], text: str, words: list[str], tokenizer, reference: Reference
) -> dict[str, tuple[float, float]]:
    """ids: the tokens drawn, the end of the text with them. text, words: what they spell."""
    ends = [i == tokenizer.eot_id or "\n" in tokenizer.decode([i]) for i in ids]
    return {
        "distinct-2": (distinct_n(words, 2), 1),
        "attested pairs": reference.attested(words),
        "first sentence": (text_statistics([text])["first sentence"], 1),
        "paragraph": (ends.index(True) if any(ends) else len(ids), 1),
        "ended": (any(ends), 1),
    }
