"""The progress bar: widgets in a notebook that somebody watches, text everywhere else.

A notebook that runs headlessly has nobody to draw widgets for, but its text bars reach the terminal
that started it (see reproduce.py).
"""

import os

HEADLESS_VARIABLE = "LLMLITE_HEADLESS"

if os.environ.get(HEADLESS_VARIABLE):
    from tqdm import tqdm
else:
    from tqdm.auto import tqdm

__all__ = ["HEADLESS_VARIABLE", "tqdm"]
