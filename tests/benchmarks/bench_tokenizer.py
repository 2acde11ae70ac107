"""Our tokenizer against HF tokenizers and tiktoken, on the same text in one run.

make bench-tokenizer                    # the bundled sample, or the folder in $LLMLITE_DATA

Each contestant lives in a process of its own (see tokenizer_worker.py), because HF tokenizers reads
its number of threads once, when it starts. They take turns: while one works, the others wait.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from common import alternate, arguments, record, table
from texts import random_texts
from tokenizer_worker import CONTESTANTS, by_line

from llmlite.config import DataConfig
from llmlite.data import SPLITS, Dataset
from llmlite.files import TokenizerError, tqdm
from llmlite.sources import DATA_VARIABLE
from llmlite.tokenizer import BPETokenizer

OURS, THREADED, SINGLE, TIKTOKEN_THREADED, TIKTOKEN = CONTESTANTS
SIZES = (8192, 16384, 32000)
GOALS = {"training": 1.0, "encoding train": 1.0, "encoding": 1.5, "memory": 10.0}


class Worker:
    """A contestant in its own process, told what to do line by line."""

    def __init__(self, name: str, folder: Path):
        threads = "1" if name.endswith("1 thread") else str(os.cpu_count())
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("tokenizer_worker.py")), name, folder],
            env={**os.environ, "RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, task: str, argument) -> dict:
        self.process.stdin.write(json.dumps([task, argument]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} failed at {task} {argument}; its error is above.")
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], rounds=5)
    parser.add_argument(
        "--vocab-size", type=int, nargs="+", default=SIZES, help=f"(default: {SIZES})"
    )
    parser.add_argument(
        "--strings", type=int, default=100_000, help="random strings to compare (default: 100000)"
    )
    options = parser.parse_args()
    corpus = Dataset(DataConfig(source=os.environ.get(DATA_VARIABLE) or "sample"), ".")
    text = corpus.text("train")
    sizes, ours = reachable(text, options.vocab_size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours.save(folder / "tokenizer.json")
        texts = {"train": text, "test": corpus.text("test"), "no word twice": unrepeated(2**21)}
        for split, content in texts.items():
            (folder / f"{split}.txt").write_text(content, encoding="utf-8", newline="")
        workers = {name: Worker(name, folder) for name in CONTESTANTS}
        results = {
            "training": {
                f"{size:,}": measure(
                    workers, "train", size, text, options.rounds, f"{size:,} tokens"
                )
                for size in sizes
            },
            "encoding": {
                split: measure(workers, "encode", split, content, options.rounds, split)
                for split, content in texts.items()
            },
            "memory": {name: workers_memory(name, folder, sizes[-1]) for name in (OURS, THREADED)},
        }
        for worker in workers.values():
            worker.close()
    results["ratios"] = ratios(results)
    results["exactness"] = exactness(ours, corpus, options.strings)
    record(
        options.out,
        f"tokenizer {corpus.name}",
        "cpu",
        data=corpus.name,
        bytes=len(text.encode()),
        rounds=options.rounds,
        versions={name: version(name) for name in ("tokenizers", "tiktoken")},
        **results,
    )


def reachable(text: str, sizes: list[int]) -> tuple[list[int], BPETokenizer]:
    """The sizes that the text is large enough for, and our tokenizer of the largest."""
    possible = []
    for size in sorted(sizes):
        try:
            ours = BPETokenizer.train(by_line(text), size + 1)  # and <|endoftext|>
        except TokenizerError as error:
            print(f"No vocabulary of {size:,}: {error}")
        else:
            possible.append(size)
    if not possible:
        sys.exit("The text is too small for every size; name a smaller one with --vocab-size.")
    return possible, ours


def unrepeated(n_bytes: int) -> str:
    """Made-up words of 3 to 12 letters, as frequent as in English, none of them twice."""
    rng, words, size = random.Random(1), {}, 0
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    shares = [120, 90, 80, 75, 70, 67, 63, 60, 60, 43, 40, 28, 28]
    shares += [24, 22, 24, 20, 19, 10, 15, 20, 8, 2, 1, 2, 1]
    while size < n_bytes:
        word = "".join(rng.choices(letters, shares, k=rng.randint(3, 12)))
        if word not in words:
            words[word] = None
            size += len(word) + 1
    return " ".join(words)


def measure(workers, task: str, argument, text: str, rounds: int, what: str) -> dict:
    """Seconds of every contestant that can do the task; all results must be the same."""
    answers = {name: worker(task, argument) for name, worker in workers.items()}  # and warm up
    able = {name: workers[name] for name, answer in answers.items() if answer}
    for form in {answer["form"] for answer in answers.values() if answer}:
        results = {a["result"] for a in answers.values() if a and a["form"] == form}
        if len(results) != 1:
            sys.exit(f"{task} {what}: the results differ: {answers}")
    runs = {
        name: (lambda worker=worker: worker(task, argument)["seconds"])
        for name, worker in able.items()
    }
    title = {"train": "Training", "encode": "Encoding"}[task]
    seconds = alternate(runs, rounds)
    return table(f"{title}: {what}", seconds, OURS, len(text.encode()), "bytes")


def workers_memory(name: str, folder: Path, size: int) -> float:
    """The peak memory that training takes in a fresh process, over the size of the text."""
    worker = Worker(name, folder)
    answer = worker("memory", size)
    worker.close()
    return answer["peak_bytes"] / answer["text_bytes"]


def ratios(results: dict) -> dict[str, dict[str, float]]:
    """Ours over the peer that each goal names, printed beside the goal."""

    def over(rows: dict, peers: list[str]) -> float:
        return rows[OURS]["median_s"] / min(
            rows[peer]["median_s"] for peer in peers if peer in rows
        )

    peers = [THREADED, SINGLE, TIKTOKEN]
    found = {f"training {k}": over(v, [THREADED]) for k, v in results["training"].items()}
    found |= {f"encoding {k}": over(v, peers) for k, v in results["encoding"].items()}
    found["memory of training, over the text's"] = results["memory"][OURS]
    print("\nOurs over the fastest peer (tiktoken with one thread, HF tokenizers with all)")
    rows = {}
    for name, ratio in found.items():
        goal = next(goal for prefix, goal in GOALS.items() if name.startswith(prefix))
        rows[name] = {"ratio": ratio, "goal": goal}
        print(f"  {name:38} {ratio:5.2f}   goal {goal:4.1f}  {'' if ratio <= goal else 'MISSED'}")
    return rows


def exactness(ours: BPETokenizer, corpus, n_strings: int) -> dict[str, dict[str, int]]:
    """Texts whose ids differ from those of HF tokenizers or tiktoken: there must be none."""
    hf, tik = ours.to_tokenizers(), ours.to_tiktoken()
    cases = {split: corpus.articles(split) for split in SPLITS}
    for split in ("valid", "test"):
        raw = (
            Path(os.environ.get(DATA_VARIABLE, "")).parent / "wikitext-2-raw" / f"wiki.{split}.raw"
        )
        if raw.is_file():
            cases[f"{split}, raw"] = by_line(raw.read_text(encoding="utf-8"))
        else:
            print(f"No {raw}: the raw {split} split is not compared.")
    cases["random strings"] = random_texts(n_strings, seed=1)
    print("\nExactness: texts whose ids, or whose text decoded again, differ")
    rows = {}
    for name, texts in tqdm(cases.items(), desc="Compare", unit="text set"):
        batch = [ids.tolist() for ids in ours.encode_batch_to_arrays(texts)]
        alike = zip(
            texts, batch, hf.encode_batch(texts), tik.encode_ordinary_batch(texts), strict=True
        )
        wrong = sum(
            not (a == b.ids == c == ours.encode(text) and ours.decode(a) == text)
            for text, a, b, c in alike
        )
        n_tokens = int(np.sum([len(a) for a in batch]))
        rows[name] = {"texts": len(texts), "tokens": n_tokens, "different": wrong}
        print(f"  {name:16} {len(texts):8,} texts {n_tokens:10,} tokens  {wrong} different")
    if any(row["different"] for row in rows.values()):
        sys.exit("Some ids differ: nothing is recorded.")
    return rows


if __name__ == "__main__":
    main()
