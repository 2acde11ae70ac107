"""Texts that a tokenizer may stumble over, made at random from a seed."""

import random

# Scripts, signs and planes by their first and last code point, each drawn from in runs: those of
# Europe, Hebrew, Arabic, Devanagari and Thai with marks and digits of their own, Hangul in parts
# and whole, spaces and joiners, fractions, mathematics, kana, Han, private use; planes 1, 2 and 14.
SCRIPTS = [(0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x5FF)]
SCRIPTS += [(0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x2000, 0x206F)]
SCRIPTS += [(0x2150, 0x218F), (0x2200, 0x22FF), (0x3040, 0x30FF), (0x4E00, 0x9FFF)]
SCRIPTS += [(0xAC00, 0xD7A3), (0xE000, 0xE0FF), (0x10300, 0x1034F), (0x1D400, 0x1D7FF)]
SCRIPTS += [(0x1F300, 0x1FAFF), (0x20000, 0x2A6DF), (0xE0000, 0xE01EF)]
ASCII = " " * 12 + "'" * 6 + "\n\n\t\r0123456789sdmtlvreSDMTLVRE" + 'aabcehino.,;:!?-@_/()"#'
MARKS = "\u0300\u0301\u0308\u0327\u0323\u064b\u093e\u20dd\u3099"
EMOJI = "🙂👩👧🏽♂❤🇩🇪🏴" + "\u200d\u200d\ufe0f\u20e3"


def random_texts(n: int, seed: int) -> list[str]:
    """`n` texts of 0 to 60 characters, the same for the same seed; no lone surrogates. Each is of
    one or two kinds: any code point, runs of one script, ASCII with many blanks, apostrophes and
    digits, letters with combining marks, and sequences of emoji."""
    rng = random.Random(seed)

    def any_code() -> str:
        code = rng.randrange(0x110000 - 0x800)  # as many as are not surrogates
        return chr(code if code < 0xD800 else code + 0x800)

    def run_of_script() -> str:
        first, last = rng.choice(SCRIPTS)
        return "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 8)))

    kinds = [
        any_code,
        run_of_script,
        lambda: rng.choice(ASCII),
        lambda: rng.choice(ASCII) + "".join(rng.choices(MARKS, k=rng.randint(0, 2))),
        lambda: rng.choice(EMOJI),
    ]
    texts = []
    for _ in range(n):
        length, chosen, text = rng.randint(0, 60), rng.choices(kinds, k=2), ""
        while len(text) < length:
            text += rng.choice(chosen)()
        texts.append(text[:length])
    return texts
