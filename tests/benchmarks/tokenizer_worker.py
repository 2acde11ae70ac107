"""One contestant of bench_tokenizer.py: reads a task a line, answers with a line of JSON.

Every contestant gets the text in the form that suits it. All train on lines; HF tokenizers reads
them from the file itself, which is its fastest way. It encodes line by line, so that it can use its
threads; the others encode the whole. Times include making the ids a Python list.
"""

import hashlib
import json
import os
import resource
import sys
import time
from pathlib import Path

from llmlite.tokenizer import BYTE_ORDER, BPETokenizer
from llmlite.tokenizer.learn import BYTE_CHARACTERS
from llmlite.tokenizer.words import batches


def by_line(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def digest(content) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def peak_memory() -> int:
    """The most memory that this process has held, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux ru_maxrss begins with the peak of the process that started this
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Ours:
    form = "whole"

    def __init__(self, tokenizer: BPETokenizer):
        self.tokenizer = tokenizer

    def train(self, lines, size):
        return BPETokenizer.train(lines, size + 1)  # and <|endoftext|>

    def merges(self, tokenizer):
        return [[tokenizer.token_bytes[i].hex() for i in pair] for pair in tokenizer.merges]

    def encode(self, text):
        return self.tokenizer.encode(text)


class HF(Ours):
    form = "by line"

    def __init__(self, tokenizer: BPETokenizer):
        self.tokenizer = tokenizer.to_tokenizers()

    def train(self, _, size):
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train([str(Path(sys.argv[2]) / "train.txt")], trainer)  # its fastest way
        return tokenizer

    def merges(self, tokenizer):
        byte = dict(zip(BYTE_CHARACTERS, BYTE_ORDER, strict=True))
        merges = json.loads(tokenizer.to_str())["model"]["merges"]
        return [[bytes(byte[c] for c in token).hex() for token in pair] for pair in merges]

    def encode(self, text):
        return [i for line in self.tokenizer.encode_batch_fast(text) for i in line.ids]


class Tiktoken(Ours):
    def __init__(self, tokenizer: BPETokenizer):
        self.tokenizer = tokenizer.to_tiktoken()

    def encode(self, text):
        return self.tokenizer.encode_ordinary(text)


class TiktokenThreaded(Tiktoken):
    def encode(self, text):
        parts = [part for group, _ in batches([text]) for part in group]
        found = self.tokenizer.encode_ordinary_batch(parts, num_threads=os.cpu_count())
        return [i for ids in found for i in ids]


CONTESTANTS = {
    "llmlite": Ours,
    "HF tokenizers": HF,
    "HF, 1 thread": HF,
    "tiktoken": TiktokenThreaded,
    "tiktoken, 1 thread": Tiktoken,
}


def answer(contestant: Ours, texts: dict[str, str], task: str, argument) -> dict:
    """Do the task; {} if the contestant cannot."""
    if task in ("train", "memory"):
        if isinstance(contestant, Tiktoken):
            return {}
        given = by_line(texts["train"])
        before = peak_memory()
        start = time.perf_counter()
        trained = contestant.train(given, argument)
        seconds = time.perf_counter() - start
        if task == "memory":
            grown = peak_memory() - before
            return {"peak_bytes": grown, "text_bytes": len(texts["train"].encode())}
        return {"seconds": seconds, "result": digest(contestant.merges(trained)), "form": "merges"}
    text = texts[argument]
    given = by_line(text) if contestant.form == "by line" else text
    start = time.perf_counter()
    result = contestant.encode(given)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "result": digest(result), "form": contestant.form}


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    contestant = CONTESTANTS[name](BPETokenizer.load(folder / "tokenizer.json"))
    texts = {path.stem: path.read_bytes().decode("utf-8") for path in sorted(folder.glob("*.txt"))}
    for line in sys.stdin:
        task, argument = json.loads(line)
        print(json.dumps(answer(contestant, texts, task, argument)), flush=True)


if __name__ == "__main__":
    main()
