"""The benchmarks run, on little, and record what they say they do; their page is the records'."""

import json
import os
import subprocess
import sys
from dataclasses import asdict

import bench_train
import pytest
import tables
import torch
from conftest import REPOSITORY
from floors import Floor, Peak, floor, step_bytes
from workers import CallError, Worker

from llmlite.config import ModelConfig
from llmlite.engine import step_operations

slow = pytest.mark.slow
FOLDER = REPOSITORY / "tests" / "benchmarks"


def test_the_page_is_that_of_the_records():
    text = (FOLDER / "README.md").read_text("utf-8")
    assert text == tables.page()
    tokenizer, gpu, train, generate, memory = (
        tables.benchmark(name)
        for name in ("tokenizer-wikitext-2-v1", "gpu-h100", "train-cpu", "generate-cpu", "memory")
    )

    def over(rows, peer, ours="llmlite", key="median_s"):
        return f"{rows[peer][key] / rows[ours][key]:.2f}"

    def row(beginning):
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {beginning} |"))
        return [cell.strip() for cell in line.strip("|").split("|")][1:]

    rows, cells = tokenizer["training"]["8,192"], row("training, 8,192 tokens")
    assert cells == [over(rows, "HF tokenizers"), over(rows, "HF, 1 thread"), "–", "–"]
    assert row("encoding, train")[2] == over(tokenizer["encoding"]["train"], "tiktoken")
    rows = gpu["speed"]["256 × 128"]["variants"]
    peers, best = gpu["peers"]["256 × 128"], gpu["best"]["256 × 128"]
    cells = row("training, window 256, batch 128, bfloat16")
    assert cells[0] == over(peers, "transformers, torch.compile", "ours", "step_s")
    assert cells[3:5] == [over(rows, name, best, "step_s") for name in ("graph", "eager")]
    rows = train["cases"]["256-bfloat16-2"]["contestants"]
    cells = row("training, window 256, batch 16, bfloat16, 2 threads")
    assert cells[1] == over(rows, "plain GPT")
    assert cells[-1] == over(rows, "llmlite", "transformers sdpa, torch.compile", "peak_bytes")
    steps = []
    for case in train["cases"].values():
        ours, plain = (case["contestants"][name] for name in ("llmlite", "plain GPT"))
        steps.append(ours["compile_s"] / (plain["step_s"] - ours["step_s"]))
    assert f"paid back after {min(steps):.0f} to {max(steps):.0f} steps" in text
    rows = generate["cases"]["batch 64"]["contestants"]
    assert row("generation, batch 64")[0] == over(rows, "transformers generate")
    held = [run["samples"] for run in memory["runs"] if run["tokens"] == 250_000_000]
    most = [max(s["anonymous"] + s["file"] for s in samples) / 1e9 for samples in held]
    assert row("250 M") == [f"{gigabytes:.2f}" for gigabytes in most]


def run_script(name, *options, **environment) -> str:
    done = subprocess.run(
        [sys.executable, FOLDER / name, *map(str, options)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def assert_measured(rows, per_second, unit):
    ours, *_ = rows.values()
    for row in rows.values():
        assert 0 < row["min_s"] <= row["median_s"] <= row["max_s"]
        assert row[f"{unit}_per_s"] == pytest.approx(per_second / row["median_s"])
        assert row["ours_over_it"] == pytest.approx(ours["median_s"] / row["median_s"])
        assert row["peak_bytes"] > 1e8


@slow
def test_the_tokenizers_benchmark_compares_ids_and_measures(tmp_path):
    for split in ("train", "valid", "test"):
        text = "".join(f" \n = {split} {i} = \n \n Cat {i} sat on a mat . \n" for i in range(90))
        (tmp_path / f"wiki.{split}.raw").write_text(text, encoding="utf-8")
    options = ["--rounds", 1, "--sizes", 280, 9999, "--strings", 50, "--out", tmp_path / "records"]
    out = run_script("bench_tokenizer.py", *options, LLMLITE_DATA=str(tmp_path))
    assert "No vocabulary of 9,999" in out
    (path,) = (tmp_path / "records").iterdir()
    record = json.loads(path.read_text("utf-8"))
    assert record["training"].keys() == {"280"}
    assert_measured(record["training"]["280"], record["bytes"], "bytes")
    assert record["encoding"].keys() == {"train", "test", "no word twice"}
    assert len(record["encoding"]["test"]) == 5
    assert record["exactness"]["random strings"]["texts"] == 50
    assert all(rows["different"] == 0 for rows in record["exactness"].values())
    assert {"processor", "cores", "commit", "numpy"} <= record["environment"].keys()
    assert tables.tokenizer_speed(record)


@slow
def test_the_trainings_benchmark_measures_each_contestant_and_its_distance_to_the_floor(tmp_path):
    # Compiling takes a minute and is PyTorch's business; here torch.compile gives back what it got.
    options = ["--tiny", "--rounds", 2, "--out", tmp_path]
    run_script("bench_train.py", *options, TORCHDYNAMO_DISABLE="1")
    record = json.loads((tmp_path / "train-cpu.json").read_text("utf-8"))
    assert record["equality"]["steps"] == 100
    assert record["equality"]["largest_difference"] < 1e-5
    assert record["equality"]["last_loss"] < record["equality"]["first_loss"] - 0.1
    (case,) = record["cases"].values()
    shape, rows = ModelConfig(**case["shape"]), case["contestants"]
    expected = asdict(floor(shape, case["batch"], torch.float32, Peak(**case["peak"])))
    assert case["floor"].items() >= expected.items()
    assert tuple(rows) == bench_train.CONTESTANTS
    assert_measured(rows, case["steps"] * 4 * shape.block_size, "tokens")
    for row in rows.values():
        assert row["above_floor"] == pytest.approx(row["step_s"] / case["floor"]["seconds"])
    assert rows[case["strongest"]]["median_s"] == min(
        rows[n]["median_s"] for n in rows if n != "llmlite"
    )
    assert tables.training_speed(record)


@slow
def test_the_generations_benchmark_compares_texts_and_measures(tmp_path):
    options = ["--tiny", "--rounds", 1, "--batches", 2, "--prompt", 4, "--new", 20]
    run_script("bench_generate.py", *options, "--out", tmp_path)
    record = json.loads((tmp_path / "generate-cpu.json").read_text("utf-8"))
    case = record["cases"]["batch 2"]
    assert_measured(case["contestants"], 2 * 20, "tokens")
    theirs = case["contestants"]["transformers generate"]
    assert case["ratio"] == pytest.approx(1 / theirs["ours_over_it"])
    assert tables.generation_speed(record)


@slow
def test_the_memorys_benchmark_sees_tokens_in_memory(tmp_path):
    options = ["--steps", 2, "--tokens", 20_000_000, "--times", 1, "--out", tmp_path]
    run_script("bench_memory.py", *options)
    record = json.loads((tmp_path / "memory.json").read_text("utf-8"))
    held, mapped = (run["samples"][0]["anonymous"] for run in record["runs"])
    assert 0.5 < (held - mapped) / (8 * 20_000_000) < 2
    assert tables.training_memory(record)


@slow
def test_the_check_of_a_gpu_runs_through_on_a_cpu_and_recommends_what_it_measured(tmp_path):
    out = tmp_path / "gpu.json"
    options = ["--tiny", "--device", "cpu", "--seconds", 600, "--out", out]
    last = run_script("check_gpu.py", *options).splitlines()[-1]
    record = json.loads(out.read_text("utf-8"))
    assert not record["errors"]
    assert all(isinstance(took, float) for took in record["parts"].values()), "none left out"
    for name, row in record["checks"].items():
        assert row.get("passed") or row == {"skipped": "needs CUDA"}, name
    assert sum(row.get("passed", False) for row in record["checks"].values()) == 10
    name, _, found = last.partition(": ")
    assert (name, json.loads(found)) == ("RECOMMENDED", record["recommended"])
    (speed,), (peers,), (best,) = (record[n].values() for n in ("speed", "peers", "best"))
    assert speed["variants"][best].items() > record["recommended"].items()
    assert speed["variants"].keys() > {"eager", "compile, merged", best}
    for row in speed["variants"].values():
        assert row["tokens_per_s"] == pytest.approx(16 * 4 / row["step_s"])
        assert row["step_s"] >= speed["variants"][best]["step_s"]
    assert peers.pop("ours")["times_ours"] == 1
    for row in peers.values():
        assert row["times_ours"] == row["step_s"] / speed["variants"][best]["step_s"]


def test_a_process_that_fails_says_why_and_one_that_hangs_is_given_up():
    worker = Worker("threading", "Event", {})
    with pytest.raises(CallError, match="TypeError"):
        worker.call("wait", timeout="long")
    assert worker.call("is_set") is False
    with pytest.raises(CallError, match=r"No answer in 0\.3 s"):
        worker.call("wait", 0.3)
    with pytest.raises(CallError, match="given up before"):
        worker.call("is_set")
    with pytest.raises(CallError, match=r"code 1\n(.*\n)*ModuleNotFoundError"):
        Worker("no_such_module", "Event", {}).call("is_set")


SHAPE = ModelConfig(vocab_size=10, block_size=3, n_layer=1, n_head=2, n_embd=4, dropout=0.0)


def test_bytes_by_hand_for_a_tiny_model():
    state = 4 * (10 * 4 + 3 * 4 + 12 * 16 + 13 * 4 + 8) * 4  # four numbers a parameter, float32
    kept = 3 * (10 + 1) * 4  # values for 3 tokens: ten widths a layer, one before the last norm
    assert step_bytes(SHAPE, 1, 2) == 2 * (state + kept * 2)
    assert step_bytes(SHAPE, 5, 4) == 2 * (state + 5 * kept * 4)


def test_the_floor_is_the_larger_of_two_times():
    rates = Peak(operations=1e12, bytes=1e9, source="measured")
    found = floor(ModelConfig(), 2, torch.bfloat16, rates)
    assert found.operations == step_operations(ModelConfig(), 2)
    assert found.bytes == step_bytes(ModelConfig(), 2, 2)
    assert found.seconds_by_operations == pytest.approx(found.operations / 1e12)
    assert found.seconds_by_bytes == pytest.approx(found.bytes / 1e9)
    assert floor(ModelConfig(), 2, torch.float32, rates).bytes > found.bytes
    assert (Floor(1, 1, 2.0, 3.0).seconds, Floor(1, 1, 2.0, 3.0).binds) == (3.0, "bytes")
    assert (Floor(1, 1, 5.0, 3.0).seconds, Floor(1, 1, 5.0, 3.0).binds) == (5.0, "operations")
