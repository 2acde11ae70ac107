"""All stages on somebody's own text: an Experiment whose sizes fit it (see owntext.py).

Each text has a folder of its own, known by a fingerprint: what was made from one is never taken for
another.
"""

import json
import shlex
from functools import cached_property
from pathlib import Path

import torch

from llmlite.experiment import Experiment, project_root
from llmlite.files import replacing, write_json
from llmlite.generate import generate
from llmlite.owntext import (
    name_of,
    own_profile,
    read_source,
    size_for,
    split_text,
    vocabulary_for,
)


class OwnText(Experiment):
    """All stages on the text at `path`, in `out` (None: runs/own-NAME) or, where that holds another
    text, in a folder of its own below it.

    The splits are written to `text/NAME` there, as the files that `load_corpus` reads.
    """

    def __init__(
        self,
        path: str | Path,
        out: str | Path | None = None,
        device: str = "auto",
        progress: bool = True,
    ):
        self.path = Path(path).expanduser().absolute()
        self.base = Path(out or project_root() / "runs" / f"own-{name_of(self.path)}")
        self.source = read_source(path, self.base, progress)
        splits, self.cuts = split_text(self.source)
        n_bytes, cuda = self.source.n_bytes, device != "cpu" and torch.cuda.is_available()
        vocab_size = vocabulary_for(splits["train"], size_for(n_bytes).vocab_size)
        home = self._home()
        self.text_folder = home / "text" / self.source.name
        profile = own_profile(n_bytes, vocab_size, cuda)
        super().__init__(profile, str(self.text_folder), home, device, progress)
        about = {"name": self.source.name, "fingerprint": self.source.fingerprint}
        write_json(home / "text" / "source.json", about)
        for split, text in splits.items():
            with replacing(self.text_folder / f"wiki.{split}.raw") as aside:
                aside.write_text(text, encoding="utf-8", newline="\n")

    def _home(self) -> Path:
        """Where this text's runs lie: two texts never share a folder."""
        known = self.base / "text" / "source.json"
        if not known.exists():
            return self.base
        if json.loads(known.read_text("utf-8"))["fingerprint"] == self.source.fingerprint:
            return self.base
        return self.base / f"text-{self.source.fingerprint[:8]}"

    def command(self, name: str) -> str:
        """The shell command that carries all of it on, whichever stage is asked for."""
        words = ["llmlite", "reproduce", "--text", self.path, "--out", self.base.absolute()]
        if self.device_given:
            words += ["--device", self.device]
        return shlex.join(map(str, words))

    @cached_property
    def prompt(self) -> str:
        """How the test split begins, up to the end of a word."""
        start = self.corpus.splits["test"].lstrip()[:121]
        whole_words, _, _ = start.rpartition(" ")
        return (whole_words or start).strip()

    def sample(self, tokens: int = 100, seed: int = 0) -> str:
        """The model's own continuation of `prompt`, at temperature 0.8 from the 50 likeliest."""
        start = torch.tensor([self.tokenizer.encode(self.prompt)], device=self.model.device)
        row = generate(self.model, start, tokens, 0.8, 50, seed=seed)[0, start.size(1) :].tolist()
        end = row.index(self.tokenizer.eot_id) if self.tokenizer.eot_id in row else len(row)
        return self.tokenizer.decode(row[:end])
