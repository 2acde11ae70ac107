"""Texts that a tokenizer may stumble over, made at random from a seed, and what becomes of them."""

import random
from functools import partial

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from llmlite.tokenizer import END_OF_TEXT, BPETokenizer

ASCII = " " * 12 + "'" * 6 + "\n\n\t\r0123456789sdmtlvreSDMTLVRE" + 'aabcehino.,;:!?-@_/()"#'
MARKS = "\u0300\u0301\u0308\u0327\u0323\u064b\u093e\u20dd\u3099"
EMOJI = "🙂👩👧🏽♂❤🇩🇪🏴" + "\u200d\u200d\ufe0f\u20e3"


def random_texts(n: int, seed: int) -> list[str]:
    """`n` texts of 0 to 60 characters, the same for the same seed; no lone surrogates. Each is of
    one or two kinds: any code point, runs of one script, ASCII with many blanks, apostrophes and
    digits, letters with combining marks, and sequences of emoji."""
    rng = random.Random(seed)

    def neighbours(first: int, n: int) -> str:
        codes = (first + rng.randrange(64) for _ in range(n))
        return "".join(chr(c) for c in codes if c < 0xD800 or 0xE000 <= c < 0x110000)

    kinds = [
        lambda: neighbours(rng.randrange(0x110000), 1),
        # Most scripts have low code points, so each power of two comes as often.
        lambda: neighbours(int(2 ** rng.uniform(5, 20)), rng.randint(1, 8)),
        *(partial(rng.choice, signs) for signs in (ASCII, ASCII[18:] + MARKS, EMOJI)),
    ]
    texts = []
    for _ in range(n):
        length, chosen, text = rng.randint(0, 60), rng.choices(kinds, k=2), ""
        while len(text) < length:
            text += rng.choice(chosen)()
        texts.append(text[:length])
    return texts


def hf_trainer(vocab_size: int) -> tuple[Tokenizer, trainers.BpeTrainer]:
    """HF's byte-level BPE, and what trains it to so many tokens, which has no special one."""
    tokenizer, split = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = split
    options = {"initial_alphabet": split.alphabet(), "show_progress": False}
    return tokenizer, trainers.BpeTrainer(vocab_size=vocab_size, **options)


def with_special(tokenizer: BPETokenizer, text: str) -> list[int]:
    """Ids where <|endoftext|> is the special token wherever it stands, as HF has it."""
    first, *others = [tokenizer.encode(part) for part in text.split(END_OF_TEXT)]
    return first + [i for ids in others for i in (tokenizer.eot_id, *ids)]


def check_ids(tokenizer: BPETokenizer, texts: list[str]) -> int:
    """All ways and all libraries encode the texts alike, and they come back. → How many tokens."""
    each = [tokenizer.encode(text) for text in texts]
    special = [with_special(tokenizer, text) for text in texts]
    assert [ids.tolist() for ids in tokenizer.encode_batch_to_arrays(iter(texts))] == each
    hf, tik = tokenizer.to_tokenizers(), tokenizer.to_tiktoken()
    assert [encoding.ids for encoding in hf.encode_batch(texts)] == special
    assert hf.decode_batch(special, skip_special_tokens=False) == texts
    assert tik.encode_ordinary_batch(texts, num_threads=1) == each
    assert tik.encode_batch(texts, num_threads=1, allowed_special="all") == special
    assert [tokenizer.decode(ids) for ids in each] == texts
    assert list(map(tokenizer.decode, special)) == tik.decode_batch(special) == texts
    return sum(map(len, each))
