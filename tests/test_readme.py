"""The tables of README.md are those of the records."""

from conftest import REPOSITORY

from llmlite.benchmarks import benchmark
from llmlite.readme import tokenizer_speed, training_speed


def test_the_table_of_speed_is_the_records():
    def rows(**seconds):
        return {name.replace("_", " "): {"median_s": value} for name, value in seconds.items()}

    record = {
        "training": {"8,192": rows(llmlite=2.0, HF=5.0)},
        "encoding": {"train": rows(llmlite=0.5, HF=1.0, tiktoken=0.4)},
        "decoding": rows(llmlite=0.1, tiktoken=0.125),
        "memory": {"llmlite": 4.04},
        "exactness": {"a": {"texts": 3, "different": 0}, "b": {"texts": 4, "different": 1}},
        "environment": {"processor": "P", "cores": 2, "numpy": "2.4", "commit": "abc"},
        "versions": {"tiktoken": "0.14"},
        "data": "some text",
        "rounds": 5,
    }
    lines = tokenizer_speed(record).splitlines()
    assert lines[0] == "| time over llmlite's | HF | tiktoken |"
    assert "| training, 8,192 tokens | 2.50 | – |" in lines
    assert "| encoding, train | 2.00 | 0.80 |" in lines
    assert "| decoding | – | 1.25 |" in lines
    for words in ("some text, P, 2 cores", "4.0 × the text", "7 texts: 1 differ", "tiktoken 0.14"):
        assert words in lines[-1]


def speed_record(device="CPU (x86_64, 2 threads)"):
    def row(seconds, ours=0.5, **more):
        return {"ours_over_it": ours / seconds, "tokens_per_s": 2500 / seconds, **more}

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
        "environment": {
            "processor": "P", "cores": 2, "torch": "2.13", "commit": "abc", "device": device
        },
        "versions": {"transformers": "5.0"},
        "equality": {"steps": 100, "largest_difference": 9.5e-7},
        "rounds": 5,
    }  # fmt: skip


def test_the_tables_of_training_and_generation_are_the_records():
    generation = speed_record("NVIDIA H100")
    generation["cases"] = {"batch 1": generation["cases"]["256-float32-2"]}
    text = training_speed({"train-cpu": speed_record(), "generate-cuda": generation})
    training, generated = (part.splitlines() for part in text.split("\n\n|"))
    peers = "transformers sdpa, torch.compile | llmlite, 2 processes"
    assert training[0].startswith(f"| time over llmlite's | {peers} | above the floor | ")
    assert (
        training[2]
        == "| training, window 256, batch 16, float32, 2 threads | 2.00 | 0.50 | 2.3 × | 0.75 |"
    )
    assert training[3] == "| training, window 32, batch 8, bfloat16, 1 thread | – | – | 7.0 × | – |"
    for words in ("P, 2 cores", "5 runs", "transformers 5.0", "commit abc", "differ by 1e-06"):
        assert words in training[-1]
    assert generated[0] == f" time over llmlite's | {peers} | llmlite, tokens/s |"  # a GPU's
    assert generated[2] == "| generation, batch 1 | 2.00 | 0.50 | 5,000 |"
    assert generated[-1].startswith("NVIDIA H100, medians")
    assert "steps" not in generated[-1]


def test_from_how_many_steps_on_compiling_pays():
    record = speed_record()
    about = training_speed({"train-cpu": record}).splitlines()[-1]
    assert about.endswith("differ by 1e-06 at most."), "nothing there was not compiled"
    for case, seconds in zip(record["cases"].values(), (30.0, 10.0), strict=True):
        case["contestants"]["llmlite"] |= {"compile_s": seconds, "step_s": 0.2}
        plain = {"compile_s": 0.1, "step_s": 0.3, "ours_over_it": 0.7}
        case["contestants"]["plain GPT"] = plain
    about = training_speed({"train-cpu": record}).splitlines()[-1]
    assert "Compiling takes 10 to 30 s" in about
    assert "paid back after 100 to 300 steps" in about


def test_the_table_of_a_gpu_is_the_record_of_its_check():
    record = benchmark("gpu-h100")
    text = training_speed({"gpu-h100": record})
    _, _, row, _, about = text.splitlines()
    peers, best = record["peers"]["256 × 128"], record["best"]["256 × 128"]
    assert row.startswith("| training, window 256, batch 128, bfloat16 | ")
    assert f" | {peers['transformers, torch.compile']['times_ours']:.2f} | " in row
    rows = record["speed"]["256 × 128"]["variants"]
    assert f" | {rows['eager']['step_s'] / rows[best]['step_s']:.2f} | " in row
    assert row.endswith(f" | {rows[best]['above_floor']:.1f} × |")
    for words in (record["environment"]["device"], "10.4 × at batch 1 and 5.8 ×", "in float16"):
        assert words in about
    assert text in (REPOSITORY / "README.md").read_text("utf-8")
