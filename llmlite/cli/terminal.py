"""What a command says, where somebody reads it: no character stops it, none commands a terminal.
Names of files, records and text of models may hold any."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress

# A terminal obeys these characters, so there they are replaced by their pictures, …
PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
PICTURES |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
# … and these turn the order of those around them.
PICTURES |= dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD)
LINE_ENDS = {0x0A: 0x240A, 0x2028: 0xFFFD, 0x2029: 0xFFFD}
BAR = re.compile(r"(?:\r|\x1b\[A)*")  # what tqdm begins a bar with, on stderr


def harmless(text: str) -> str:
    """A sentence as it may be printed anywhere."""
    return text.translate(PICTURES | LINE_ENDS)


def take_any_character() -> None:
    """One that stdout's encoding lacks is printed as "?", bytes that stdin's lacks become lone
    surrogates, instead of a UnicodeError. A stream that was closed, as by >&-, is an empty one."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        with suppress(AttributeError):  # in a notebook, say, no stream of bytes
            errors = "surrogateescape" if mode == "r" else "replace"
            getattr(sys, name).reconfigure(errors=errors)


@contextmanager
def careful() -> Iterator[None]:
    """Whatever is printed meanwhile, a terminal shows it and does not obey it; a file or a pipe
    gets it as it is."""
    out, err = (_Terminal(s) if s.isatty() else s for s in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):
        yield


class _Terminal:
    """A stream whose `write` replaces PICTURES; all else is the stream's own."""

    def __init__(self, stream):
        self._stream, self._bars = stream, stream is sys.stderr

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        start = BAR.match(text)[0] if self._bars else ""
        return self._stream.write(start + text.removeprefix(start).translate(PICTURES))
