"""Our tokenizer against HF tokenizers and tiktoken, on the same text in one run.

make bench-tokenizer                    # the bundled sample, or the folder in $LLMLITE_DATA

Every contestant gets the text in the form that suits it. All train on lines; HF tokenizers reads
them from the file itself, which is its fastest way. It encodes line by line, so that it can use its
threads; the others encode the whole. Times include making the ids a Python list.
"""

import os
import random
import re
import tempfile
from pathlib import Path

import common
from texts import check_ids, hf_trainer, random_texts

from llmlite.config import DataConfig
from llmlite.data import SPLITS, Dataset
from llmlite.files import tqdm
from llmlite.sources import DATA_VARIABLE
from llmlite.tokenizer import BPETokenizer
from llmlite.tokenizer.words import batches

OURS = "llmlite"
TRAINING = (OURS, "HF tokenizers", "HF, 1 thread")
ENCODING = (*TRAINING, "tiktoken", "tiktoken, 1 thread")


def by_line(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def contestant(name: str, folder: str, text: str, size: int = 0):
    """size: of the vocabulary to train; 0: encode."""
    threads = 1 if name.endswith("1 thread") else os.cpu_count()
    os.environ.update(RAYON_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="true")
    path = Path(folder, f"{text}.txt")
    content = path.read_bytes().decode("utf-8")
    if size and name == OURS:
        lines = by_line(content)
        return lambda: BPETokenizer.train(lines, size + 1), None  # and <|endoftext|>
    if size:
        hf, trainer = hf_trainer(size)
        return lambda: hf.train([str(path)], trainer), None
    ours = BPETokenizer.load(Path(folder, "tokenizer.json"))
    if name == OURS:
        return lambda: ours.encode(content), list
    if "HF" in name:
        hf, lines = ours.to_tokenizers(), by_line(content)
        # Cut at other places, so exactness() compares the ids.
        return lambda: [i for line in hf.encode_batch_fast(lines) for i in line.ids], None
    tiktoken = ours.to_tiktoken()
    if threads == 1:
        return lambda: tiktoken.encode_ordinary(content), list

    def threaded() -> list[int]:
        parts = [part for group, _ in batches([content]) for part in group]
        found = tiktoken.encode_ordinary_batch(parts, num_threads=threads)
        return [i for ids in found for i in ids]

    return threaded, list


def unrepeated(text: str, n_bytes: int) -> str:
    """Made-up words of 3 to 12 letters, as frequent as in the text, none of them twice."""
    rng, letters = random.Random(1), re.sub("[^a-z]", "", text[:100_000])
    lengths = (rng.randint(3, 12) for _ in range(n_bytes // 8))
    return " ".join(dict.fromkeys("".join(rng.choices(letters, k=length)) for length in lengths))


def exactness(ours: BPETokenizer, corpus: Dataset, n_strings: int) -> dict[str, dict[str, int]]:
    """Of how many texts the ids are those of HF tokenizers and tiktoken; it ends if any differ."""
    cases, rows = {split: corpus.articles(split) for split in SPLITS}, {}
    cases["random strings"] = random_texts(n_strings, seed=1)
    for name, texts in tqdm(cases.items(), desc="Compare", unit="text set"):
        rows[name] = {"texts": len(texts), "tokens": check_ids(ours, texts), "different": 0}
    return rows


def main() -> None:
    options = common.options(__doc__, rounds=5)
    source = os.environ.get(DATA_VARIABLE)
    corpus = Dataset(DataConfig(source=source or "sample"), ".")
    train = corpus.text("train")
    sizes = [8192, 16384, 32000] if source else [8192]  # the sample allows no more
    sizes = [280] if options.tiny else sizes
    ours = BPETokenizer.train(by_line(train), sizes[-1] + 1)
    made_up = unrepeated(train, 2**15 if options.tiny else 2**21)
    texts = {"train": train, "test": corpus.text("test"), "no word twice": made_up}
    n_bytes = {name: len(text.encode()) for name, text in texts.items()}

    def measure(title: str, names: tuple[str, ...], text: str, **task) -> dict:
        rounds, task = dict.fromkeys(names, options.rounds), {"text": text, **task}
        return common.compete(title, contestant, rounds, n_bytes[text], "bytes", **task)

    with tempfile.TemporaryDirectory() as folder:
        ours.save(Path(folder, "tokenizer.json"))
        for name, text in texts.items():
            Path(folder, f"{name}.txt").write_text(text, encoding="utf-8", newline="")
        found = {"data": corpus.name, "bytes": n_bytes["train"], "training": {}, "encoding": {}}
        for n in sizes:
            row = measure(f"Training, {n:,}", TRAINING, "train", folder=folder, size=n)
            found["training"][f"{n:,}"] = row
        for text in texts:
            row = measure(f"Encoding {text}", ENCODING, text, folder=folder)
            found["encoding"][text] = row
    exact = exactness(ours, corpus, 50 if options.tiny else 100_000)
    name = f"tokenizer-{corpus.name.lower().replace(' ', '-')}"
    common.record(options, name, ("tokenizers", "tiktoken"), **found, exactness=exact)


if __name__ == "__main__":
    main()
