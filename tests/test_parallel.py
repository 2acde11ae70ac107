"""One model in two processes, as torchrun starts them: the same training, written by one."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_train import MODEL, SURE, assert_same_run, interrupt, random_ids, trainer

from llmlite.files import LLMLiteError
from llmlite.parallel import world
from llmlite.run import load_state, read_record, read_steps

SAME = {"train": torch.arange(16 * 8 + 1) % 16, "valid": torch.arange(17), "test": torch.arange(17)}
RUNS = {  # changes, the same in two processes and in one
    "fast": {},
    "plain": {"fast": False},
    "ragged": {"ids": random_ids(41)},  # the last batch has one window: one process has none
    "accumulated": {"batch_size": 1, "accumulation": 4},
    "hardly validated": {"valid_tokens": 17},  # on one window: one process has none
    "resumed by two": {},
    "begun by one": {},
    "low precision": {"amp": "bf16"},
}


def main(top):
    """In every process: each has a folder of its own, so that it can be seen who writes."""
    torch.set_num_threads(1)
    mine = top / f"rank{world().rank}"
    for name in ("begun by two", "resumed by two"):
        interrupt(trainer(mine / name, SURE), 15)
    for name, changes in RUNS.items():
        trainer(mine / name, SURE, **changes).fit()
    trainer(mine / "dropout", MODEL, SAME, batch_size=2).fit()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes left: the folder that the first of them writes to."""
    folder = tmp_path_factory.mktemp("two")
    interrupt(trainer(folder / "rank0" / "begun by one", SURE), 15)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*launch, __file__, folder], cwd=Path(__file__).parent, check=True)
    assert [path.name for path in folder.iterdir()] == ["rank0"], "the first process alone writes"
    return folder / "rank0"


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_have_the_losses_of_one_at_the_same_global_batch(two, tmp_path, name):
    trainer(tmp_path, SURE, **RUNS[name]).fit()
    within = 0.02 if name == "low precision" else 1e-5  # its rounding
    ours, theirs = read_steps(two / name), read_steps(tmp_path)
    assert ours.loss.tolist() == pytest.approx(theirs.loss.tolist(), abs=within)
    assert ours.grad_norm.tolist() == pytest.approx(theirs.grad_norm.tolist(), abs=10 * within)
    ours, theirs = read_record(two / name), read_record(tmp_path)
    assert (ours["status"], ours["processes"]) == ("finished", 2)
    for loss in ("train_loss", "valid_loss"):
        expected = [epoch[loss] for epoch in theirs["epochs"]]
        assert [epoch[loss] for epoch in ours["epochs"]] == pytest.approx(expected, abs=within)


def test_each_process_drops_out_other_units(two, tmp_path):
    """All windows are the same, so only other units make other losses than those of one process."""
    trainer(tmp_path, MODEL, SAME, batch_size=1).fit()
    ours, theirs = read_steps(two / "dropout").loss[0], read_steps(tmp_path).loss[0]
    assert 1e-3 < abs(ours - theirs) < 0.5


def test_one_finishes_what_two_began_and_two_resume_bit_for_bit(two, tmp_path):
    shutil.copytree(two / "begun by two", tmp_path / "begun")
    assert load_state(tmp_path / "begun", "cpu")["step"] == 12
    trainer(tmp_path / "begun", SURE).fit()
    theirs = read_steps(two / "fast").loss.tolist()
    assert read_steps(tmp_path / "begun").loss.tolist() == pytest.approx(theirs, abs=1e-5)
    assert_same_run(two / "resumed by two", two / "fast")


@pytest.mark.parametrize(("size", "rank"), [("2", ""), ("2", "2"), ("2", "x"), ("x", "0")])
def test_a_size_alone_makes_no_world(monkeypatch, size, rank):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "")
    assert world().size == 1
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(LLMLiteError, match="unset it, or use torchrun"):
        world()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
