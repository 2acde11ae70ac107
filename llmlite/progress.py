"""The progress bar: widgets in a notebook that somebody watches, text everywhere else."""

import os

# Set for notebooks that run without anybody (reproduce.py): their text bars reach the terminal.
HEADLESS_VARIABLE = "LLMLITE_HEADLESS"

if os.environ.get(HEADLESS_VARIABLE):
    from tqdm import tqdm as tqdm
else:
    from tqdm.auto import tqdm as tqdm
