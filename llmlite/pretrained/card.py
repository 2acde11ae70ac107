"""The model card: data, licence, scores and limits of a shipped model, from its record."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # loading the model should not wait for what metrics need
    from llmlite.metrics import Score

CARD = """\
---
{front}
---

# A miniature GPT, trained on {title}

{made} Written from `record.json`, which lies beside it.

| | |
|---|---|
| architecture | GPT-2's: {n_layer} layers, {n_head} heads, width {n_embd}, context {block_size}, \
tied embeddings; {parameters:,} parameters |
| tokenizer | byte-level byte pairs, {vocab_size:,} tokens, learnt from the training split |
| weights | float16, safetensors; computed in float32 |
| trained on | {data}, training split |
| training | profile `{profile}`: {n_epochs} epochs, {steps:,} optimiser steps, {precision}, \
seed {seed}; epoch {best} was kept by validation loss |
| made on | {device}, PyTorch {torch}, commit {commit} |

## Scores

These weights, as they are stored, on the whole test split of {data}; {context}:

| perplexity per token | perplexity per word and line end | bits per byte |
|---|---|---|
| {token:.2f} | {word:.1f} | {bits:.3f} |

## Use

```
{use}
```

## Limits

- A model of {millions:.1f} million parameters{words}. Its sentences are
  often grammatical and seldom true; it has no knowledge to speak of, follows no instructions and
  forgets everything before its last {block_size} tokens.
- {seen}
- It repeats whatever bias and error its text has. Use it to learn how such models work, and for
  nothing that matters to anybody.

## Licence

{licence}
"""

WIKITEXT = {
    "front": "language: en\nlicense: mit\nlibrary_name: llmlite\ntags: [gpt2, causal-lm, wikitext]",
    "title": "WikiText-2",
    "made": """\
The retrained configuration of this reproduction of "Implement a LLM-Lite" (§III.F), as
`llmlite reproduce --publish` left it.""",
    "use": """\
llmlite generate "The university student"
llmlite chat
llmlite export --to my-model     # a folder for transformers""",
    "words": ", trained on two million words",
    "seen": """\
It has seen English Wikipedia articles only, tokenised as WikiText is (a space before each comma).
  Where the corpus writes rare words `<unk>`, so does the model.""",
    "licence": """\
The weights and the code are under the MIT licence. WikiText-2 is Merity et al., "Pointer Sentinel
Mixture Models" (2016), text from Wikipedia under CC BY-SA 3.0; it is not included.""",
}

OTHER_TEXT = {
    "front": "license: other\nlibrary_name: llmlite\ntags: [gpt2, causal-lm]",
    "title": "{data}",
    "made": "Made with `llmlite reproduce --text`, or otherwise from a text of its user's.",
    "use": 'llmlite generate --model FOLDER "…"     # FOLDER: where this file lies',
    "words": "",
    "seen": "It has seen this text only, and knows no other style or language.",
    "licence": """\
llmlite's code is under the MIT licence. What may be done with the weights depends on the text,
whose licence llmlite does not know; it is not included.""",
}


def model_card(record: dict, score: "Score") -> str:
    """README.md of a shipped model. `score`: of the weights as they are stored."""
    model, train = record["identity"]["model"], record["identity"]["train"]
    text = WIKITEXT if record["data"].startswith("wikitext") else OTHER_TEXT
    return CARD.format(
        **text | {"title": text["title"].format(data=record["data"])},
        **{key: model[key] for key in ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")},
        **{key: record["environment"][key] for key in ("device", "torch", "commit")},
        parameters=record["parameters"],
        millions=record["parameters"] / 1e6,
        data=record["data"],
        profile=record["profile"],
        n_epochs=len(record["epochs"]),
        steps=record["epochs"][-1]["step"],
        precision=record["amp"],
        seed=train["seed"],
        best=record["best"]["epoch"],
        context=score.context,
        token=score.perplexity,
        word=score.word_perplexity,
        bits=score.bits_per_byte,
    )
