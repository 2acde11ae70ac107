"""How large the project is and may be, for `make lint`; to be run in the root of the repository."""

import sys
from pathlib import Path


def lines(folder: str) -> int:
    return sum(len(p.read_text("utf-8").splitlines()) for p in Path(folder).rglob("*.py"))


SIZES = {
    "lines of package": (lines("llmlite"), 9_170),
    "modules at its top": (len(list(Path("llmlite").glob("*.py"))), 20),
    "lines of tests": (lines("tests"), 8_800),
    "bytes of README.md": (len(Path("README.md").read_bytes()), 10_000),
}
print(" · ".join(f"{size:,} {what} of {most:,}" for what, (size, most) in SIZES.items()))
if over := [what for what, (size, most) in SIZES.items() if size > most]:
    sys.exit(f"Too many {', '.join(over)}: delete something (CONTRIBUTING.md).")
