"""`python -m llmlite.cli …` is `llmlite …`, for torchrun."""

import sys

from llmlite.cli import main

sys.exit(main())
