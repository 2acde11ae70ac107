"""Our tokenizer in the forms of other libraries: tokenizer.json, tiktoken, GPT-2's two files.

Knows only what a vocabulary is: merges, a split pattern, the bytes of each token. The libraries
themselves are optional; each is imported where it is asked for.
"""

import json
from pathlib import Path

from llmlite.errors import TokenizerError
from llmlite.tokenizer.learn import BYTE_ORDER, Pair
from llmlite.tokenizer.split import GPT2_SPLIT_PATTERN

# How GPT-2's files write bytes: those that print as themselves, the others from U+0100 on.
_N_PRINTABLE = 188
_CHARACTERS = [chr(byte) for byte in BYTE_ORDER[:_N_PRINTABLE]]
_CHARACTERS += [chr(256 + i) for i in range(256 - _N_PRINTABLE)]


def _written(merges: list[Pair]) -> list[str]:
    """All tokens but the special one as GPT-2's files write them, in the order of their ids."""
    tokens = list(_CHARACTERS)
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return tokens


def tokenizer_json(merges: list[Pair], pattern: str, special: str) -> str:
    """The text of a `tokenizer.json`, as HF tokenizers and transformers read it."""
    tokens = _written(merges)
    if special in tokens:
        raise TokenizerError(
            f"The merges make {special} out of ordinary text, so HF tokenizers cannot tell it from "
            "the special token; use a split pattern that cuts it, as GPT-2's does."
        )
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if pattern == GPT2_SPLIT_PATTERN:
        pre_tokenizer = {**byte_level, "use_regex": True}
    else:
        split = {"type": "Split", "pattern": {"Regex": pattern}, "invert": False}
        steps = [{**split, "behavior": "Isolated"}, {**byte_level, "use_regex": False}]
        pre_tokenizer = {"type": "Sequence", "pretokenizers": steps}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": len(tokens), "content": special, **flags, "special": True}],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate([*tokens, special])},
            "merges": [[tokens[left], tokens[right]] for left, right in merges],
        },
    }
    return json.dumps(content, ensure_ascii=False)


def imported(name: str):
    """The module `name`, or TokenizerError that says how to get it."""
    try:
        return __import__(name)
    except ImportError:
        raise TokenizerError(f"This needs {name}: pip install {name}.") from None


def read_gpt2(vocab: str | Path, merges: str | Path, special: str) -> list[Pair]:
    """The merges in GPT-2's `vocab.json` and `merges.txt`.

    TokenizerError if they cannot be read, do not belong together, or number the tokens otherwise
    than bytes, merges, special token, as GPT-2 does and this package needs.
    """
    ids, lines = _read_vocab(vocab), _read(merges).split("\n")
    tokens, id_of = list(_CHARACTERS), {token: i for i, token in enumerate(_CHARACTERS)}
    pairs: list[Pair] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or any(part not in id_of for part in parts):
            raise TokenizerError(
                f"{merges}, line {number}: {line[:40]!r} is not a merge of two earlier tokens; "
                "restore the file."
            )
        token = "".join(parts)
        if token in id_of:
            raise TokenizerError(f"{merges}, line {number}: makes {token!r} a second time.")
        pairs.append((id_of[parts[0]], id_of[parts[1]]))
        id_of[token] = len(tokens)
        tokens.append(token)
    expected = {token: i for i, token in enumerate(tokens)}
    if special in ids:
        expected[special] = len(tokens)
    for token, i in expected.items():
        if ids.get(token) != i:
            raise TokenizerError(
                f"{vocab} gives {token!r} the id {ids.get(token)}, and {merges} the id {i}: bytes "
                f"come first, then the merges in order, then {special}; use two files that belong "
                "together."
            )
    if len(ids) != len(expected):
        extra = next(token for token in ids if token not in expected)
        raise TokenizerError(f"{vocab} has a token that {merges} does not make: {extra!r}.")
    return pairs


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}.") from None


def _read_vocab(path: str | Path) -> dict[str, int]:
    try:
        ids = json.loads(_read(path))
    except ValueError as error:
        raise TokenizerError(f"{path} is not JSON: {error}.") from None
    if not isinstance(ids, dict):
        raise TokenizerError(f"{path} is not a vocabulary: a JSON object of tokens and ids.")
    return ids
