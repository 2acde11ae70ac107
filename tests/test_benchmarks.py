"""The benchmarks run, on little, and record what they say they do."""

import json
import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY


def test_the_tokenizers_benchmark_measures_compares_and_records(tmp_path):
    for split in ("train", "valid", "test"):
        text = "".join(f" \n = {split} {i} = \n \n Cat {i} sat on a mat . \n" for i in range(90))
        (tmp_path / f"wiki.{split}.raw").write_text(text, encoding="utf-8")
    script = REPOSITORY / "tests" / "benchmarks" / "bench_tokenizer.py"
    options = ["--rounds", "1", "--vocab-size", "280", "9999", "--strings", "50"]
    done = subprocess.run(
        [sys.executable, script, *options, "--out", tmp_path / "records"],
        env={**os.environ, "LLMLITE_DATA": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "No vocabulary of 9,999" in done.stdout
    (path,) = (tmp_path / "records").iterdir()
    record = json.loads(path.read_text("utf-8"))
    assert record["training"].keys() == {"280"}
    assert record["training"]["280"].keys() == {"llmlite", "HF tokenizers", "HF, 1 thread"}
    assert record["encoding"].keys() == {"train", "test", "no word twice"}
    assert record["encoding"]["test"].keys() > {"llmlite", "tiktoken", "tiktoken, 1 thread"}
    row = record["decoding"]["llmlite"]
    assert 0 < row["min_s"] <= row["median_s"] <= row["max_s"]
    assert record["ratios"]["decoding"]["ratio"] == pytest.approx(
        row["median_s"] / record["decoding"]["tiktoken, 1 thread"]["median_s"]
    )
    assert record["exactness"]["random strings"]["texts"] == 50
    assert all(rows["different"] == 0 for rows in record["exactness"].values())
    assert {"processor", "cores", "commit", "numpy"} <= record["environment"].keys()
