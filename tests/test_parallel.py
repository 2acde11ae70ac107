"""One model in two processes, as torchrun starts them: the same training, written by one."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_train import DROPOUT, assert_same_run, interrupt, random_ids, trainer

from llmlite.parallel import World
from llmlite.run import load_state, read_record, read_steps

TESTS = Path(__file__).resolve().parent


def torchrun(*arguments, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*command, "--nproc-per-node", str(processes), *map(str, arguments)],
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes left: the folder that the first of them writes to."""
    folder = tmp_path_factory.mktemp("two")
    interrupt(trainer(folder / "rank0" / "begun by one"), 19)
    done = torchrun("parallel_worker.py", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "done").exists()
    return folder / "rank0"


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The same runs in one process: folder(name, **changes)."""
    top = tmp_path_factory.mktemp("one")

    def folder(name, **changes):
        trainer(top / name, **changes).fit()
        return top / name

    return folder


def assert_same_losses(two, one):
    ours, theirs = read_steps(two), read_steps(one)
    assert len(ours) == len(theirs)
    assert (ours.loss - theirs.loss).abs().max() < 1e-5
    assert (ours.grad_norm - theirs.grad_norm).abs().max() < 1e-4
    ours, theirs = read_record(two), read_record(one)
    assert ours["processes"] == 2
    for epoch, expected in zip(ours["epochs"], theirs["epochs"], strict=True):
        assert epoch["valid_loss"] == pytest.approx(expected["valid_loss"], abs=1e-5)
        assert epoch["train_loss"] == pytest.approx(expected["train_loss"], abs=1e-5)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("plain", {"fast": False}),
        ("fast", {}),
        ("ragged", {"ids": random_ids(41)}),
        ("accumulated", {"batch_size": 1, "accumulation": 4}),
        ("resumed by two", {}),
    ],
)
def test_two_processes_have_the_losses_of_one_at_the_same_global_batch(two, one, name, changes):
    assert_same_losses(two / name, one(name, **changes))


def test_in_low_precision_too_up_to_its_rounding(two, one):
    ours, theirs = read_steps(two / "low precision"), read_steps(one("bf16", amp="bf16"))
    assert (ours.loss - theirs.loss).abs().max() < 0.02


def test_each_process_drops_out_other_units(two, one):
    """So the losses are not those of one process, but the training comes as far."""
    ours, theirs = read_steps(two / "dropout"), read_steps(one("dropout", model=DROPOUT))
    assert ours.loss.tolist() != theirs.loss.tolist()
    assert ours.loss.iloc[-5:].mean() == pytest.approx(theirs.loss.iloc[-5:].mean(), abs=0.5)


def test_only_the_first_process_writes(two):
    assert not (two.parent / "rank1").exists()
    left = {path.name for path in (two / "fast").iterdir()}
    assert left == {".lock", "best.safetensors", "record.json", "steps.jsonl"}


def test_a_run_that_two_began_is_finished_by_one(two, one, tmp_path):
    folder = tmp_path / "begun by two"
    shutil.copytree(two / "begun by two", folder)
    assert load_state(folder, "cpu")["step"] == 16
    trainer(folder).fit()
    whole = one("whole")
    assert (read_steps(folder).loss - read_steps(whole).loss).abs().max() < 1e-5
    assert len(read_steps(folder)) == 30


def test_a_run_that_one_began_is_finished_by_two(two, one):
    record = read_record(two / "begun by one")
    assert (record["status"], record["processes"]) == ("finished", 2)
    assert_same_losses(two / "begun by one", one("whole again"))


def test_two_processes_are_deterministic(two):
    assert_same_run(two / "resumed by two", two / "fast")


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_parts_of_a_world_make_up_the_whole(size):
    for n in range(10):
        parts = [range(n)[World(rank, size).part(n)] for rank in range(size)]
        assert [i for part in parts for i in part] == list(range(n))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
