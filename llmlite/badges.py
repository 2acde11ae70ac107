"""Small SVG badges for README.md, drawn from records, so that they say what is so.

Knows nothing about files.
"""

from xml.sax.saxutils import escape

GREY, BLUE = "#555555", "#0072B2"
LETTER = 6.6  # pixels; wide enough for the average letter of DejaVu Sans at 11 px

BADGE = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="{text}">
<title>{text}</title>
<rect width="{width}" height="20" rx="3" fill="{grey}"/>
<path d="M{left} 0h{right_less}a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3h-{right_less}z" fill="{blue}"/>
<g fill="#ffffff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">
<text x="{label_x}" y="14">{label}</text>
<text x="{value_x}" y="14">{value}</text>
</g>
</svg>
"""


def badge(label: str, value: str) -> str:
    """An SVG of two fields: what, and what it is."""
    left, right = (round(LETTER * len(text)) + 12 for text in (label, value))
    return BADGE.format(
        width=left + right,
        left=left,
        right_less=right - 3,
        grey=GREY,
        blue=BLUE,
        label_x=left / 2,
        value_x=left + right / 2,
        label=escape(label),
        value=escape(value),
        text=escape(f"{label}: {value}", {'"': "&quot;"}),
    )


def badges(record: dict, word_perplexity: float) -> dict[str, str]:
    """Name → SVG, from the record of the trained model that is shown (pretrained/record.json)."""
    device = record["environment"]["device"]
    return {
        "perplexity": badge("test perplexity per word", f"{word_perplexity:.0f}"),
        "data": badge("data", record["data"]),
        "profile": badge("profile", record["profile"]),
        "device": badge("made on", device.split(" (")[0]),
    }
