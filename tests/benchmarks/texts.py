"""Texts that a tokenizer may stumble over, made at random from a seed."""

import random

# (first, last): scripts, signs and planes, each drawn from in runs.
SCRIPTS = [
    (0x0020, 0x007E),  # ASCII
    (0x00A0, 0x024F),  # Latin
    (0x0370, 0x03FF),  # Greek
    (0x0400, 0x04FF),  # Cyrillic
    (0x0590, 0x05FF),  # Hebrew
    (0x0600, 0x06FF),  # Arabic, with digits of its own
    (0x0900, 0x097F),  # Devanagari, with vowel signs that are marks
    (0x0E00, 0x0E7F),  # Thai
    (0x1100, 0x11FF),  # Hangul in parts
    (0x2000, 0x206F),  # spaces, dashes, joiners
    (0x2150, 0x218F),  # fractions and Roman numerals
    (0x2200, 0x22FF),  # mathematics
    (0x3040, 0x30FF),  # kana
    (0x4E00, 0x9FFF),  # Han
    (0xAC00, 0xD7A3),  # Hangul
    (0xE000, 0xE0FF),  # private use
    (0x10300, 0x1034F),  # old scripts of plane 1
    (0x1D400, 0x1D7FF),  # mathematical letters and digits
    (0x1F300, 0x1FAFF),  # pictures
    (0x20000, 0x2A6DF),  # Han of plane 2
    (0xE0000, 0xE01EF),  # tags and variation selectors
]
ASCII = (
    " " * 12 + "'" * 6 + "\n\n\t\r" + "0123456789" + "sdmtlvreSDMTLVRE" + 'aabcehino.,;:!?-@_/()"#'
)
MARKS = "\u0300\u0301\u0308\u0327\u0323\u064b\u093e\u20dd\u3099"
EMOJI = "🙂👩👧🏽♂❤🇩🇪🏴" + "\u200d\u200d\ufe0f\u20e3"


def random_texts(n: int, seed: int) -> list[str]:
    """`n` texts of 0 to 60 characters, the same for the same seed; no lone surrogates.

    Five kinds are mixed: any code point, runs of one script, ASCII with many blanks, apostrophes
    and digits, letters with combining marks, and sequences of emoji. A text is of one or two kinds.
    """
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
