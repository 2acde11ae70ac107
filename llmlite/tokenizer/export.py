"""Our tokenizer as an object of HF `tokenizers` or of `tiktoken`, with the same ids.

Both libraries are optional; each is imported where it is asked for.
"""

from llmlite.errors import TokenizerError
from llmlite.tokenizer.learn import BYTE_ORDER, Pair
from llmlite.tokenizer.words import GPT2_SPLIT_PATTERN

# How GPT-2's files write bytes: those that print as themselves, the others from U+0100 on.
_N_PRINTABLE = 188
BYTE_CHARACTERS = [chr(byte) for byte in BYTE_ORDER[:_N_PRINTABLE]]
BYTE_CHARACTERS += [chr(256 + i) for i in range(256 - _N_PRINTABLE)]


def imported(name: str):
    """The module `name`, or TokenizerError that says how to get it."""
    try:
        return __import__(name)
    except ImportError:
        raise TokenizerError(f"This needs {name}: pip install {name}.") from None


def as_tokenizers(merges: list[Pair], pattern: str, special: str):
    """A `tokenizers.Tokenizer`; TokenizerError if the merges make `special` out of plain text."""
    hf = imported("tokenizers")
    tokens = list(BYTE_CHARACTERS)
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    if special in tokens:
        raise TokenizerError(
            f"The merges make {special} out of ordinary text, so HF tokenizers cannot tell it from "
            "the special token; use a split pattern that cuts it, as GPT-2's does."
        )
    model = hf.models.BPE(
        vocab={token: i for i, token in enumerate([*tokens, special])},
        merges=[(tokens[left], tokens[right]) for left, right in merges],
    )
    tokenizer = hf.Tokenizer(model)
    is_gpt2 = pattern == GPT2_SPLIT_PATTERN
    byte_level = hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=is_gpt2)
    if not is_gpt2:
        split = hf.pre_tokenizers.Split(hf.Regex(pattern), "isolated")
        byte_level = hf.pre_tokenizers.Sequence([split, byte_level])
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = hf.decoders.ByteLevel()
    tokenizer.add_special_tokens([special])
    return tokenizer


def as_tiktoken(name: str, token_bytes: list[bytes], pattern: str, special: str):
    """A `tiktoken.Encoding`; the last of `token_bytes` is the special token."""
    *ordinary, _ = token_bytes
    return imported("tiktoken").Encoding(
        name,
        pat_str=pattern,
        mergeable_ranks={token: i for i, token in enumerate(ordinary)},
        special_tokens={special: len(ordinary)},
        explicit_n_vocab=len(token_bytes),
    )
