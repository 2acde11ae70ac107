"""A BPETokenizer as an object of HF `tokenizers` or of `tiktoken`, with the same ids."""

from llmlite.files import TokenizerError
from llmlite.tokenizer.learn import BYTE_ORDER
from llmlite.tokenizer.words import END_OF_TEXT, GPT2_SPLIT_PATTERN

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


def as_tokenizers(ours):
    """A `tokenizers.Tokenizer`."""
    hf = imported("tokenizers")
    tokens = list(BYTE_CHARACTERS)
    for left, right in ours.merges:
        tokens.append(tokens[left] + tokens[right])
    model = hf.models.BPE(
        vocab={token: i for i, token in enumerate([*tokens, END_OF_TEXT])},
        merges=[(tokens[left], tokens[right]) for left, right in ours.merges],
    )
    theirs = hf.Tokenizer(model)
    theirs.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = hf.decoders.ByteLevel()
    theirs.add_special_tokens([END_OF_TEXT])
    return theirs


def as_tiktoken(ours):
    """A `tiktoken.Encoding`."""
    return imported("tiktoken").Encoding(
        f"llmlite-{ours.fingerprint}",
        pat_str=GPT2_SPLIT_PATTERN,
        mergeable_ranks={token: i for i, token in enumerate(ours.token_bytes[:-1])},
        special_tokens={END_OF_TEXT: ours.eot_id},
        explicit_n_vocab=ours.vocab_size,
    )
