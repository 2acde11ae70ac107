"""The benchmarks run, on little, and record what they say they do; their page is the records'."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import tables
import torch
from bench_train import PEERS
from conftest import REPOSITORY
from floors import DATA_SHEETS, Peak, floor, step_bytes

from llmlite.config import ModelConfig
from llmlite.engine import step_operations

FOLDER = REPOSITORY / "tests" / "benchmarks"


def test_the_page_is_that_of_the_records():
    text = (FOLDER / "README.md").read_text("utf-8")
    assert text == tables.page()
    record = tables.benchmark("generate-cpu")["cases"]["batch 64"]["contestants"]
    theirs, plain = (
        record[name]["median_s"] / record["llmlite"]["median_s"]
        for name in ("transformers generate", "llmlite, plain")
    )
    assert f"| generation, batch 64 | {theirs:.2f} | {plain:.2f} |" in text


def test_the_floor_is_the_larger_of_two_times():
    shape = ModelConfig(vocab_size=10, block_size=3, n_layer=1, n_head=2, n_embd=4, dropout=0.0)
    state = 4 * (10 * 4 + 3 * 4 + 12 * 16 + 13 * 4 + 8) * 4  # four numbers a parameter, float32
    kept = 3 * (10 + 1) * 4  # values for 3 tokens: ten widths a layer, one before the last norm
    assert step_bytes(shape, 1, torch.bfloat16) == 2 * (state + kept * 2)
    assert step_bytes(shape, 5, torch.float32) == 2 * (state + 5 * kept * 4)
    found = floor(ModelConfig(), 2, torch.bfloat16, Peak(operations=1e12, bytes=1e18))
    operations = step_operations(ModelConfig(), 2)
    traffic = step_bytes(ModelConfig(), 2, torch.bfloat16)
    seconds = pytest.approx(operations / 1e12)
    assert found == {"operations": operations, "bytes": traffic, "seconds": seconds}
    found = floor(ModelConfig(), 2, torch.bfloat16, Peak(operations=1e18, bytes=1e9))
    assert found["seconds"] == pytest.approx(traffic / 1e9)
    assert DATA_SHEETS["NVIDIA H100 80GB HBM3"] == (989.4e12, 3.35e12)


@pytest.fixture
def run_script(tmp_path):
    """(name, options) → what it prints, the record. Compiling takes minutes and is PyTorch's
    business: here torch.compile gives back what it got."""

    def run(name, *options, out=tmp_path):
        command = [sys.executable, FOLDER / name, "--tiny", "--out", out, *options]
        environment = {**os.environ, "TORCHDYNAMO_DISABLE": "1", "LLMLITE_DATA": ""}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (path,) = tmp_path.iterdir()
        return done.stdout, json.loads(path.read_text("utf-8"))

    return run


def competitions(record: dict) -> Iterator[dict]:
    """The rows of each, by contestant, wherever they lie in a record."""
    if isinstance(record.get("llmlite"), dict):
        yield record
    for part in record.values():
        yield from competitions(part) if isinstance(part, dict) else ()


@pytest.mark.slow
@pytest.mark.parametrize(("script", "table", "competing", "said"), [
    ("bench_tokenizer.py", tables.tokenizer_speed, [3, 5, 5, 5], "texts: 0 differ."),
    ("bench_train.py", tables.training_speed, [1 + len(PEERS)], "window 64, batch 4, float32, 1 t"),
    ("bench_generate.py", tables.generation_speed, [3], "generation, batch 2"),
])  # fmt: skip
def test_a_benchmark_measures_and_makes_its_table(run_script, script, table, competing, said):
    _, record = run_script(script, "--rounds", "2")
    assert [len(rows) for rows in competitions(record)] == competing
    for rows in competitions(record):
        for row in rows.values():
            assert 0 < row["min_s"] <= row["median_s"] <= row["max_s"]
            assert row["ours_over_it"] == rows["llmlite"]["median_s"] / row["median_s"]
    assert said in table(record)


@pytest.mark.slow
def test_the_check_of_a_gpu_runs_through_and_recommends_what_it_measured(run_script, tmp_path):
    options = ["--device", "cpu", "--seconds", "3000"]  # however busy the machine is
    said, record = run_script("check_gpu.py", *options, out=tmp_path / "gpu.json")
    assert not record["errors"]
    assert [row["same_text"] for row in record["seconds"].values()] == [True, True]
    checks = record["checks"].values()
    assert [row for row in checks if not row.get("passed")] == [{"skipped": "needs CUDA"}] * 4
    name, _, found = said.splitlines()[-1].partition(": ")
    assert (name, json.loads(found)) == ("RECOMMENDED", record["recommended"])
    (speed,), (peers,), (best,) = (record[n].values() for n in ("speed", "peers", "best"))
    variants, floor_s = speed["variants"], speed["floor"]["seconds"]
    assert variants[best].items() > record["recommended"].items()
    assert variants.keys() > {"eager", "compile, merged", best}
    for row in variants.values():
        assert row["tokens_per_s"] == pytest.approx(16 * 4 / row["step_s"])
        assert row["above_floor"] == pytest.approx(row["step_s"] / floor_s)
        assert row["step_s"] >= variants[best]["step_s"]
    assert len(peers) == 3
    for row in peers.values():
        assert row["times_ours"] == row["step_s"] / variants[best]["step_s"]
