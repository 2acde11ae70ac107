"""The benchmarks run, on little, and record what they say they do; their page is the records'."""

import json
import os
import subprocess
import sys
import threading

import pytest
import tables
from bench_train import OURS, PEERS
from conftest import REPOSITORY
from workers import CallError, Worker

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


def test_a_process_that_fails_says_why_and_one_that_hangs_is_given_up():
    worker = Worker(threading.Event, {})
    with pytest.raises(CallError, match="TypeError"):
        worker.call("wait", timeout="long")
    assert worker.call("is_set") is False
    with pytest.raises(CallError, match=r"No answer in 0\.3 s"):
        worker.call("wait", 0.3)
    with pytest.raises(CallError, match="ended with code -9"):
        worker.call("is_set")
    with pytest.raises(CallError, match="ended with code 1"):
        Worker(threading.Event, {}, no_such="option").call("is_set")


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


def assert_measured(rows, amount, unit):
    ours = rows["llmlite"]["median_s"]
    for row in rows.values():
        assert 0 < row["min_s"] <= row["median_s"] <= row["max_s"]
        assert row[f"{unit}_per_s"] == pytest.approx(amount / row["median_s"])
        assert row["ours_over_it"] == pytest.approx(ours / row["median_s"])


@pytest.mark.slow
def test_the_tokenizers_benchmark_compares_ids_and_measures(run_script):
    _, record = run_script("bench_tokenizer.py", "--rounds", "1")
    assert_measured(record["training"]["280"], record["bytes"], "bytes")
    assert [len(rows) for rows in record["encoding"].values()] == [5, 5, 5]
    assert record["exactness"]["random strings"]["texts"] == 50
    assert "0 differ." in tables.tokenizer_speed(record)


@pytest.mark.slow
def test_the_trainings_benchmark_measures_each_contestant(run_script):
    _, record = run_script("bench_train.py", "--rounds", "2")
    (case,) = record["cases"].values()
    rows = case["contestants"]
    assert tuple(rows) == (OURS, *PEERS)
    assert_measured(rows, case["steps"] * 4 * case["shape"]["block_size"], "tokens")
    assert [row["step_s"] * 3 for row in rows.values()] == [
        row["median_s"] for row in rows.values()
    ]
    assert tables.training_speed(record)


@pytest.mark.slow
def test_the_generations_benchmark_compares_texts_and_measures(run_script):
    _, record = run_script("bench_generate.py", "--rounds", "1")
    assert_measured(record["cases"]["batch 2"]["contestants"], 2 * 20, "tokens")
    assert tables.generation_speed(record)


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
    variants = speed["variants"]
    assert variants[best].items() > record["recommended"].items()
    assert variants.keys() > {"eager", "compile, merged", best}
    for row in variants.values():
        assert row["tokens_per_s"] == pytest.approx(16 * 4 / row["step_s"])
        assert row["step_s"] >= variants[best]["step_s"]
    assert len(peers) == 3
    for row in peers.values():
        assert row["times_ours"] == row["step_s"] / variants[best]["step_s"]
