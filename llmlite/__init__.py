"""LLM-Lite: a careful reproduction of "Implement a LLM-Lite" (J.-C. Huang, University of Oregon).

Data flows one way: text → articles → splits → tokenizer → token ids → windows → model → loss,
and from a trained model → scores, text, maps. Each arrow is one module of this package.
"""

import getpass
import os
import tempfile

__version__ = "0.1.0"

# Libraries look for a home and a name, some when they are imported; in a container whose user is in
# no list there is neither.
if os.path.expanduser("~") == "~":
    _home = tempfile.TemporaryDirectory(prefix="llmlite-home-")  # gone when the process ends
    os.environ["HOME"] = _home.name
try:
    getpass.getuser()
except (KeyError, OSError):
    os.environ["USER"] = "nobody"
