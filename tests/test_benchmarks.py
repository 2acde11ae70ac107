"""The benchmarks run, on little, and record what they say they do; their page is the records'."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
import tables
from conftest import REPOSITORY
from gpu_worker import PEERS

from llmlite.config import ModelConfig
from llmlite.engine import step_operations

FOLDER = REPOSITORY / "tests" / "benchmarks"


def test_the_page_is_that_of_the_records():
    text = (FOLDER / "README.md").read_text("utf-8")
    assert re.findall(r"<!-- (?!end)(.*) -->", text) == list(tables.TABLES)
    assert text == tables.page()


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
    ("bench_train.py", tables.training_speed, [5], "window 64, batch 4, float32, 1 t"),
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
    variants, (floor_s, peak) = speed["variants"], speed["floor"].values()
    shape = ModelConfig(vocab_size=64, block_size=16, n_layer=1, n_head=2, n_embd=16)
    assert floor_s == step_operations(shape, 4) / peak
    assert variants[best].items() > record["recommended"].items()
    assert variants.keys() > {"eager", "compile, merged", best}
    for row in variants.values():
        assert row["tokens_per_s"] == pytest.approx(16 * 4 / row["step_s"])
        assert row["above_floor"] == pytest.approx(row["step_s"] / floor_s)
        assert row["step_s"] >= variants[best]["step_s"]
    assert peers.keys() == {*PEERS, "ours"}
    for row in peers.values():
        assert row["times_ours"] == row["step_s"] / variants[best]["step_s"]
