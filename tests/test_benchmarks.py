"""The benchmarks run, on little, and record what they say they do; their page is the records'."""

import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from benchmarks import tables
from benchmarks.floors import Floor, Peak, floor, step_bytes
from conftest import REPOSITORY

from llmlite.config import ModelConfig
from llmlite.engine import step_operations

slow = pytest.mark.slow
SHAPE = ModelConfig(vocab_size=10, block_size=3, n_layer=1, n_head=2, n_embd=4, dropout=0.0)


def test_the_table_of_speed_is_the_records():
    def rows(**seconds):
        return {name.replace("_", " "): {"median_s": value} for name, value in seconds.items()}

    record = {
        "training": {"8,192": rows(llmlite=2.0, HF=5.0)},
        "encoding": {"train": rows(llmlite=0.5, HF=1.0, tiktoken=0.4)},
        "memory": {"llmlite": 4.04},
        "exactness": {"a": {"texts": 3, "different": 0}, "b": {"texts": 4, "different": 1}},
        "environment": {"processor": "P", "cores": 2, "numpy": "2.4", "commit": "abc"},
        "versions": {"tiktoken": "0.14"},
        "data": "some text",
        "rounds": 5,
    }
    lines = tables.tokenizer_speed(record).splitlines()
    assert lines[0] == "| time over llmlite's | HF | tiktoken |"
    assert "| training, 8,192 tokens | 2.50 | – |" in lines
    assert "| encoding, train | 2.00 | 0.80 |" in lines
    for words in ("some text, P, 2 cores", "4.0 × the text", "7 texts: 1 differ", "tiktoken 0.14"):
        assert words in lines[-1]


def speed_record():
    def row(seconds, ours=0.5, **more):
        return {"ours_over_it": ours / seconds, **more}

    peer = "transformers sdpa, torch.compile"
    first = {
        "llmlite": row(0.5, above_floor=2.34, peak_bytes=300),
        peer: row(1.0, peak_bytes=400),
        "llmlite, 2 processes": row(0.25),
    }
    second = {"llmlite": row(0.5, above_floor=7.0, peak_bytes=1)}
    return {
        "cases": {
            "256-float32-2": {"batch": 16, "shape": {"block_size": 256}, "contestants": first,
                              "threads": 2, "bfloat16": False},
            "32-bfloat16-1": {"batch": 8, "shape": {"block_size": 32}, "contestants": second,
                              "threads": 1, "bfloat16": True},
        },
        "environment": {"processor": "P", "cores": 2, "torch": "2.13", "commit": "abc"},
        "versions": {"transformers": "5.0"},
        "equality": {"steps": 100, "largest_difference": 9.5e-7},
        "rounds": 5,
    }  # fmt: skip


def test_the_tables_of_training_and_generation_are_the_records():
    generation = speed_record()
    generation["cases"] = {"batch 1": generation["cases"]["256-float32-2"]}
    training = tables.training_speed(speed_record()).splitlines()
    generated = tables.generation_speed(generation).splitlines()
    peers = "transformers sdpa, torch.compile | llmlite, 2 processes"
    assert training[0].startswith(f"| time over llmlite's | {peers} | above the floor | ")
    assert training[2:4] == [
        "| training, window 256, batch 16, float32, 2 threads | 2.00 | 0.50 | 2.3 × | 0.75 |",
        "| training, window 32, batch 8, bfloat16, 1 thread | – | – | 7.0 × | – |",
    ]
    for words in ("P, 2 cores", "5 runs", "transformers 5.0", "commit abc", "differ by 1e-06"):
        assert words in training[-1]
    assert generated[0] == f"| time over llmlite's | {peers} |"
    assert generated[2] == "| generation, batch 1 | 2.00 | 0.50 |"
    assert "steps" not in generated[-1]


def test_from_how_many_steps_on_compiling_pays():
    record = speed_record()
    assert tables.training_speed(record).endswith("1e-06 at most."), "nothing was not compiled"
    for case, seconds in zip(record["cases"].values(), (30.0, 10.0), strict=True):
        case["contestants"]["llmlite"] |= {"compile_s": seconds, "step_s": 0.2}
        plain = {"compile_s": 0.1, "step_s": 0.3, "ours_over_it": 0.7}
        case["contestants"]["plain GPT"] = plain
    about = tables.training_speed(record).splitlines()[-1]
    assert "Compiling takes 10 to 30 s" in about
    assert "paid back after 100 to 300 steps" in about


def test_the_page_of_benchmarks_is_that_of_the_records():
    text = (REPOSITORY / "tests" / "benchmarks" / "README.md").read_text("utf-8")
    assert text == tables.page()
    record = tables.benchmark("gpu-h100")
    (row,) = (line for line in text.splitlines() if "window 256, batch 128, bfloat16" in line)
    peers, best = record["peers"]["256 × 128"], record["best"]["256 × 128"]
    assert f" | {peers['transformers, torch.compile']['times_ours']:.2f} | " in row
    rows = record["speed"]["256 × 128"]["variants"]
    assert f" | {rows['eager']['step_s'] / rows[best]['step_s']:.2f} | " in row
    assert row.endswith(f" | {rows[best]['above_floor']:.1f} × |")
    assert "| 250 M | 2.75 | 0.72 |" in text, "the most that was held, with tokens mapped or not"


@slow
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
    row = record["training"]["280"]["llmlite"]
    assert 0 < row["min_s"] <= row["median_s"] <= row["max_s"]
    assert record["ratios"]["training 280"]["ratio"] == pytest.approx(
        row["median_s"] / record["training"]["280"]["HF tokenizers"]["median_s"]
    )
    assert record["exactness"]["random strings"]["texts"] == 50
    assert all(rows["different"] == 0 for rows in record["exactness"].values())
    assert {"processor", "cores", "commit", "numpy"} <= record["environment"].keys()


def run_script(name, *options, **environment):
    script = REPOSITORY / "tests" / "benchmarks" / name
    done = subprocess.run(
        [sys.executable, script, *map(str, options)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@slow
def test_the_trainings_benchmark_measures_each_contestant_and_its_distance_to_the_floor(tmp_path):
    names = ["plain GPT, torch.compile", "plain GPT, flash, torch.compile", "plain GPT"]
    names += ["transformers sdpa, torch.compile", "HF Trainer, torch.compile"]
    cuda = torch.cuda.is_available()
    names += [] if cuda else ["llmlite, 2 processes"]
    options = ["--tiny", "--rounds", 3, "--steps", 2, "--contestants", *names]
    # Compiling takes a minute and is PyTorch's business; here torch.compile gives back what it got.
    run_script("bench_train.py", *options, "--out", tmp_path, TORCHDYNAMO_DISABLE="1")
    record = json.loads((tmp_path / f"train-{'cuda' if cuda else 'cpu'}.json").read_text("utf-8"))
    assert record["equality"]["steps"] == 100
    assert record["equality"]["largest_difference"] < 1e-5
    assert record["equality"]["last_loss"] < record["equality"]["first_loss"] - 0.1
    (case,) = record["cases"].values()
    shape = ModelConfig(**case["shape"])
    rates = Peak(**case["peak"])
    expected = asdict(floor(shape, case["batch"], torch.float32, rates))
    assert case["floor"].items() >= expected.items()
    rows = case["contestants"]
    assert rows.keys() == {"llmlite", *names}
    for name, row in rows.items():
        assert 0 < row["min_s"] <= row["median_s"] <= row["max_s"]
        step = row["median_s"] / 2
        assert row["tokens_per_s"] == pytest.approx(4 * shape.block_size / step)
        assert row["above_floor"] == pytest.approx(step / case["floor"]["seconds"])
        assert row["ours_over_it"] == pytest.approx(rows["llmlite"]["median_s"] / row["median_s"])
        assert row["peak_bytes"] > (0 if cuda else 1e8), name
        assert row["processor_s"] > 0
    assert rows[case["strongest"]]["median_s"] == min(rows[n]["median_s"] for n in names[:5])
    assert all(row["compile_s"] >= 0 for row in rows.values())
    if not cuda:
        twice = rows["llmlite, 2 processes"]["peak_bytes"] / rows["llmlite"]["peak_bytes"]
        assert 1.7 < twice < 2.5, "of both processes"


@slow
def test_the_sweeps_benchmark_times_a_search_from_a_cold_start(tmp_path):
    for split in ("train", "valid", "test"):
        text = "".join(f" \n = {split} {i} = \n \n Cat {i} sat on a mat . \n" for i in range(90))
        (tmp_path / f"wiki.{split}.raw").write_text(text, encoding="utf-8")
    options = ["--profile", "quick", "--grids", "first", "--data.vocab-size", 280]
    options += ["--data.block-size", 16]
    out = run_script(
        "bench_sweep.py", *options, "--out", tmp_path / "records", LLMLITE_DATA=str(tmp_path)
    )
    assert "2 configurations in" in out
    (path,) = (tmp_path / "records").iterdir()
    record = json.loads(path.read_text("utf-8"))
    assert path.name.startswith("sweep-")
    assert record["profile"] == "quick"
    assert record["grids"].keys() == {"first"}
    (sweep,) = record["grids"]["first"]
    assert [row["n_embd"] for row in sweep["configurations"]] == [32, 64]
    assert all(row["status"] == "finished" for row in sweep["configurations"])
    assert sweep["training_s"] == pytest.approx(sum(r["seconds"] for r in sweep["configurations"]))
    assert sweep["total_s"] > sweep["training_s"] + 1, "a Python that imports PyTorch, at least"


@slow
def test_the_generations_benchmark_compares_texts_and_records_rates_and_memory(tmp_path):
    options = ["--tiny", "--rounds", 1, "--batch", 2, "--prompt", 4, "--new", 20]
    options += ["--device", "cpu", "--out", tmp_path]
    run_script("bench_generate.py", *options, OMP_NUM_THREADS="1")
    record = json.loads((tmp_path / "generate-cpu.json").read_text("utf-8"))
    assert (record["prompt"], record["new"], record["shape"]["n_layer"]) == (4, 20, 2)
    case = record["cases"]["batch 2"]
    rows = case["contestants"]
    assert rows.keys() == {"llmlite", "llmlite, plain", "transformers generate"}
    for name, row in rows.items():
        assert 0 < row["min_s"] <= row["median_s"] <= row["max_s"]
        assert row["tokens_per_s"] == pytest.approx(2 * 20 / row["median_s"])
        assert row["peak_bytes"] > 1e8, name
        assert 0 <= row["generation_bytes"] < row["peak_bytes"]
    theirs = rows["transformers generate"]
    assert case["ratio"] == pytest.approx(theirs["median_s"] / rows["llmlite"]["median_s"])
    assert case["same_text"]
    assert case["different_tokens"] > 3


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
    assert record["recommended"].keys() == {"compile", "graph", "merge", "spell"}
    (speed,), (peers,) = record["speed"].values(), record["peers"].values()
    assert speed["variants"].keys() > {"eager", "compile, merged", *record["best"].values()}
    for row in speed["variants"].values():
        assert row["tokens_per_s"] == pytest.approx(16 * 4 / row["step_s"])
    assert peers["ours"]["times_ours"] == 1
    assert len(peers) == 3


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
