"""Our tokenizer in the forms of other libraries: tokenizer.json, tiktoken, GPT-2's two files.

Knows only what a vocabulary is: merges, a split pattern, the bytes of each token. The libraries
themselves are optional; each is imported where it is asked for.
"""

import json
from pathlib import Path

from llmlite.errors import TokenizerError
from llmlite.tokenizer.learn import BYTE_ORDER, Pair
from llmlite.tokenizer.split import GPT2_SPLIT_PATTERN, Splitter

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
        steps = [_split(pattern), {**byte_level, "use_regex": False}]
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


def read_tokenizer_json(path: str | Path, special: str) -> tuple[list[Pair], str]:
    """The merges and the split pattern in a `tokenizer.json`: ours, or one of GPT-2's kind.

    TokenizerError if it cannot be read, or would give any text other ids than this package's
    tokenizer does with these merges: a normalizer, a template, further added tokens, …
    """
    content = _read_object(path, "tokenizer.json")
    try:
        vocab, merges = content["model"]["vocab"], content["model"]["merges"]
        written = [
            (f"{path}, merge {number}", merge if isinstance(merge, list) else merge.split(" "))
            for number, merge in enumerate(merges, start=1)
        ]
        pairs, tokens = _pairs(written)
        _check_ids(vocab, tokens, special, f"The vocabulary of {path}", "its list of merges")
        theirs = _behaviour(content)
        pattern = _first_pattern(theirs["pre_tokenizer"])
    except (AttributeError, LookupError, TypeError):
        raise TokenizerError(
            f"{path} does not hold byte-level byte pairs; only a tokenizer of GPT-2's kind is read."
        ) from None
    ours = _behaviour(json.loads(tokenizer_json(pairs, pattern, special)))
    for part, value in theirs.items():
        if value != ours[part]:
            raise TokenizerError(
                f"{path} has another {part} than llmlite's tokenizer: {str(value)[:200]}; "
                "only a tokenizer of GPT-2's kind is read."
            )
    if pattern != GPT2_SPLIT_PATTERN and not _covers(pattern):
        raise TokenizerError(
            f"{path} has the split pattern {pattern!r}, which leaves characters out, and llmlite's "
            "tokenizer would lose them; only a pattern that matches every character is read."
        )
    return pairs, pattern


def _behaviour(content: dict) -> dict:
    """What decides about ids and texts in a tokenizer.json; offsets and settings of calls do not.

    Neither does `unk_token`, since no text has an unknown byte.
    """
    model = content["model"]
    added = ("id", "content", "special", "single_word", "lstrip", "rstrip")
    options = "dropout continuing_subword_prefix end_of_word_suffix byte_fallback ignore_merges"
    return {
        "model": model.get("type", "BPE"),
        **{name: model.get(name) or None for name in options.split()},
        "normalizer": content.get("normalizer"),
        "pre_tokenizer": _steps(content["pre_tokenizer"]),
        "post_processor": _additions(content.get("post_processor")),
        "decoder": content["decoder"]["type"],
        "list of added tokens": [
            {key: token[key] for key in added} for token in content["added_tokens"]
        ],
    }


def _additions(post_processor: dict | None) -> dict | None:
    """A post-processor, or None for one that adds no token to a text, as transformers writes it."""
    if post_processor is None or post_processor["type"] == "ByteLevel":  # moves offsets only
        return None
    if [list(part) for part in post_processor.get("single", [])] == [["Sequence"]]:
        return None
    return post_processor


def _steps(pre_tokenizer: dict) -> list[dict]:
    """A pre-tokenizer as single steps, with the pattern that ByteLevel may bring spelled out."""
    if pre_tokenizer["type"] == "Sequence":
        return [step for part in pre_tokenizer["pretokenizers"] for step in _steps(part)]
    if pre_tokenizer["type"] != "ByteLevel":
        return [pre_tokenizer]
    byte_level = {"type": "ByteLevel", "add_prefix_space": pre_tokenizer["add_prefix_space"]}
    return [*([_split(GPT2_SPLIT_PATTERN)] * pre_tokenizer.get("use_regex", True)), byte_level]


def _split(pattern: str) -> dict:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "invert": False,
        "behavior": "Isolated",
    }


def _first_pattern(steps: list[dict]) -> str:
    """The pattern of the first step, or GPT-2's, with which the comparison then fails."""
    return steps[0].get("pattern", {}).get("Regex", GPT2_SPLIT_PATTERN)


def _covers(pattern: str) -> bool:
    """Whether the words of a text with every character once hold all of it."""
    every = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000))))
    return sum(map(len, Splitter(pattern).find(every))) == len(every)


def read_gpt2(vocab: str | Path, merges: str | Path, special: str) -> list[Pair]:
    """The merges in GPT-2's `vocab.json` and `merges.txt`.

    TokenizerError if they cannot be read, do not belong together, or number the tokens otherwise
    than bytes, merges, special token, as GPT-2 does and this package needs.
    """
    ids = _read_object(vocab, "vocabulary")
    written = [
        (f"{merges}, line {number}", line.split(" "))
        for number, line in enumerate(_read(merges).split("\n"), start=1)
        if line.strip() and not (number == 1 and line.startswith("#version"))
    ]
    pairs, tokens = _pairs(written)
    _check_ids(ids, tokens, special, vocab, merges)
    return pairs


def _pairs(written: list[tuple[str, list[str]]]) -> tuple[list[Pair], list[str]]:
    """Merges as pairs of ids, and all tokens; `written`: where a merge stands, and its tokens."""
    tokens, id_of = list(_CHARACTERS), {token: i for i, token in enumerate(_CHARACTERS)}
    pairs: list[Pair] = []
    for where, parts in written:
        if len(parts) != 2 or any(part not in id_of for part in parts):
            raise TokenizerError(
                f"{where}: {' '.join(parts)[:40]!r} is not a merge of two earlier tokens; "
                "restore the file."
            )
        token = "".join(parts)
        if token in id_of:
            raise TokenizerError(f"{where}: makes {token!r} a second time.")
        pairs.append((id_of[parts[0]], id_of[parts[1]]))
        id_of[token] = len(tokens)
        tokens.append(token)
    return pairs, tokens


def _check_ids(
    ids: dict[str, int], tokens: list[str], special: str, vocab: str | Path, merges: str | Path
) -> None:
    """TokenizerError if `ids` are not the places in `tokens`; the files are named as given."""
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


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}.") from None


def _read_object(path: str | Path, what: str) -> dict:
    try:
        content = json.loads(_read(path))
    except ValueError as error:
        raise TokenizerError(f"{path} is not JSON: {error}.") from None
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} is not a {what}: a JSON object.")
    return content
