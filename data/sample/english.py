"""Small matters of English: numbers in words, lists, articles, and WikiText's spacing."""

from __future__ import annotations

import re

NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen "
    "twenty thirty forty fifty sixty seventy eighty ninety"
)
WORDS = NUMBERS.split()
UNITS, TENS = WORDS[:20], ["", "", *WORDS[20:]]
ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth",
    "nine": "ninth", "twelve": "twelfth",
}  # fmt: skip


def tokenise(text: str) -> str:
    """Ordinary English to WikiText's spaced form: this is the one place that knows the format."""
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", " @,@ ", text)
    text = re.sub(r"(?<=\d)\.(?=\d)", " @.@ ", text)
    text = re.sub(r"(?<=\w)-(?=\w)", " @-@ ", text)
    text = re.sub(r"'s\b", " 's", text)
    text = re.sub(r"(?<=s)'(?=\s|[.,;:)]|$)", " '", text)
    text = re.sub(r"((?<!@),|[();:?!\"°\u2013\u2212%])", r" \1 ", text)
    text = re.sub(r"\.(?=\s|$)", " .", text)
    return re.sub(r"\s+", " ", text).strip()


def number_word(n: int) -> str:
    """Small numbers in words, as running text has them; larger ones in figures."""
    if 0 <= n < 20:
        return UNITS[n]
    if n < 100:
        return TENS[n // 10] + (f"-{UNITS[n % 10]}" if n % 10 else "")
    return f"{n:,}"


def ordinal(n: int) -> str:
    """Ordinal in words."""
    head, dash, tail = number_word(n).rpartition("-")
    if tail in ORDINALS:
        tail = ORDINALS[tail]
    else:
        tail = tail[:-1] + "ieth" if tail.endswith("y") else tail + "th"
    return head + dash + tail


def join(items: list[str]) -> str:
    """A list in prose: "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def tidy(text: str) -> str:
    """Settle what depends on the neighbouring word: a or an, one or many, the capital letter."""

    def article(match: re.Match[str]) -> str:
        word = match.group(1)
        vowel = re.match(r"[AEIOUaeiou]|8|11\b|18\b|honest|hour", word)
        sounds_like_consonant = re.match(r"(?i)uni|use|usu|eu|one\b|once\b|ura|uru|ut", word)
        return f"{'an' if vowel and not sounds_like_consonant else 'a'} {word}"

    def plural(match: re.Match[str]) -> str:
        count, noun = match.groups()
        if count.lower() in ("one", "1"):
            return f"{count} {noun}"
        return f"{count} {noun[:-1] + 'ies' if noun.endswith('y') else noun + 's'}"

    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\s+([,.;:)])", r"\1", text)
    text = re.sub(r"\b[aA]\(n\) (\S+)", article, text)
    text = re.sub(r"(\S+) ([\w-]+)\(s\)", plural, text).replace("noble gass", "noble gases")
    at = 1 if text.startswith('"') else 0
    return text[:at] + text[at : at + 1].upper() + text[at + 1 :]
