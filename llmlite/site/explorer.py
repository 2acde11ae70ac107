"""The data of the attention explorer: the maps of every head on a few sentences, as JavaScript.

A page that is opened from a folder may load scripts but no other files, so the data is a script.
"""

import json

import torch
from torch import Tensor

from llmlite.interpret import attention_maps
from llmlite.pretrained import Pretrained

# Each with what to look for; the first is notebook 07's.
SENTENCES = (
    (
        " The cat sat on the mat and looked at the dog .",
        "The paper's sentence: who looks at the verb “sat”, and who at the token just before?",
    ),
    (
        " Mary met John at the station , and later John wrote to Mary .",
        "A name comes again: does its second place look back at the first?",
    ),
    (
        ' " I will come back , " she said , " when the war is over . "',
        "A quotation: which head ties a closing mark to the opening one?",
    ),
    (
        " They sold apples , pears , plums , bread , butter and cheese .",
        "A list: do its commas look at each other?",
    ),
    (
        " In 1914 the town had 310 houses ; in 1921 it had 98 .",
        "Numbers: the second half has the shape of the first.",
    ),
    (
        " The songs that the singer of the band wrote were released in Japan .",
        "The subject is far from its verb: does “were” find “songs”?",
    ),
)


def attention_data(pretrained: Pretrained) -> dict:
    """What the explorer shows: {model, layers, heads, sentences: [{text, note, tokens, maps}]}.

    maps: as `thousandths` gives them, from the model's maps of that sentence.
    """
    model, tokenizer = pretrained.model, pretrained.tokenizer
    sentences = []
    for text, note in SENTENCES:
        ids = tokenizer.encode(text)
        maps = attention_maps(model, torch.tensor(ids))
        tokens = [tokenizer.decode([i]) for i in ids]
        sentences.append(
            {"text": text.strip(), "note": note, "tokens": tokens, "maps": thousandths(maps)}
        )
    return {
        "model": str(pretrained),
        "layers": model.config.n_layer,
        "heads": model.config.n_head,
        "sentences": sentences,
    }


def thousandths(maps: Tensor) -> list:
    """(layer, head, query, key) → nested lists of integers from 0 to 1000.

    A query's list ends with itself: what comes later it cannot see.
    """
    whole = (maps * 1000).round().int().tolist()
    return [
        [[row[: query + 1] for query, row in enumerate(head)] for head in layer] for layer in whole
    ]


def as_script(data: dict) -> str:
    """`data` as a script that makes it the constant ATTENTION."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"const ATTENTION = {text};\n"
