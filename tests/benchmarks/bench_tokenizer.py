"""Our tokenizer against HF tokenizers and tiktoken, on the same text in one run.

make bench-tokenizer                    # the bundled sample, or the folder in $LLMLITE_DATA
"""

import os

import tiktoken
import tokenizers
from common import alternate, arguments, record, table
from tokenizers import models, pre_tokenizers, trainers

from llmlite.config import DataConfig
from llmlite.data import DATA_VARIABLE, load_corpus
from llmlite.tokenizer import GPT2_SPLIT_PATTERN, BPETokenizer


def hf_tokenizer(text: str, vocab_size: int) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,  # ours counts <|endoftext|>
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], rounds=3)
    parser.add_argument("--vocab-size", type=int, default=4096, help="(default: 4096)")
    options = parser.parse_args()
    source = os.environ.get(DATA_VARIABLE) or "sample"
    corpus = load_corpus(DataConfig(source=source))
    text, size = corpus.splits["train"], options.vocab_size

    ours, theirs = BPETokenizer.train(text, size), hf_tokenizer(text, size)
    ranks = {token: i for i, token in enumerate(ours.token_bytes[:-1])}
    tik = tiktoken.Encoding(
        "ours", pat_str=GPT2_SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={}
    )
    ids = ours.encode(text)
    assert ids == theirs.encode(text).ids == tik.encode_ordinary(text), "the ids must be equal"

    training = alternate(
        {
            "llmlite": lambda: BPETokenizer.train(text, size),
            "HF tokenizers": lambda: hf_tokenizer(text, size),
        },
        options.rounds,
    )
    encoding = alternate(
        {  # a fresh object each time: no cache of words seen before
            "llmlite": lambda: BPETokenizer(ours.merges).encode(text),
            "HF tokenizers": lambda: theirs.encode(text),
            "tiktoken": lambda: tik.encode_ordinary(text),
        },
        options.rounds,
    )
    n = len(text.encode())
    train_rows = table(f"Training, {size} tokens, {corpus.name}", training, "llmlite", n, "bytes")
    encode_rows = table(f"Encoding, {len(ids):,} tokens", encoding, "llmlite", n, "bytes")
    record(
        "tokenizer",
        "cpu",
        data=corpus.name,
        bytes=n,
        vocab_size=size,
        versions={"tokenizers": tokenizers.__version__, "tiktoken": tiktoken.__version__},
        training=train_rows,
        encoding=encode_rows,
    )


if __name__ == "__main__":
    main()
