"""A search on a real Ray cluster of this machine: the local table, whatever becomes of a worker."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from llmlite.checkpoint import read_record
from llmlite.cluster import RayOptions, run_all
from llmlite.search import Trial, hyperparameter_search, read_results

from llmlite import cluster
from llmlite.config import ModelConfig, SearchSpace, TrainConfig
from llmlite.errors import CheckpointError, LLMLiteError

GRID = SearchSpace(learning_rate=(0.02, 0.0001), n_layer=(1,), n_head=(1, 2), n_embd=(8,))
CONFIG = TrainConfig(epochs=4, batch_size=8, amp="off", patience=0, checkpoint_every=110)
MODEL = ModelConfig(vocab_size=10, block_size=8, dropout=0.0)
IDS = {"train": torch.arange(7_000) % 10, "valid": torch.arange(100) % 10}
TIMING = ["tokens_per_second", "seconds"]


@pytest.fixture(scope="module", params=[pytest.param("ray", marks=pytest.mark.slow)])
def two_cpus():
    """A cluster of this machine's cores. To start one takes long, so the tests share it: each finds
    it started already, uses it whatever the address, and leaves it running.
    """
    ray = cluster._ray()
    with cluster._connected(ray, "local"):
        yield RayOptions("nowhere:1")
        assert ray.is_initialized(), "no search ends what it did not start"
    assert not ray.is_initialized(), "what a search starts, it ends"


def search_in(folder, space=GRID, config=CONFIG, **options):
    return hyperparameter_search(
        space, MODEL, config, IDS, folder, {"data": "digits"}, progress=False, **options
    )


# -- without a cluster ----------------------------------------------------------------------------


def test_without_ray_one_sentence_says_how_to_install_it(tmp_path, monkeypatch, one_sentence):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LLMLiteError, match=r"pip install llmlite\[ray\]") as error:
        search_in(tmp_path, ray=RayOptions("local"))
    one_sentence(error)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"])
def test_an_address_without_a_cluster_is_said_at_once(tmp_path, address, one_sentence):
    with pytest.raises(LLMLiteError, match=f"no Ray cluster to be had at '{address}'") as error:
        search_in(tmp_path, ray=RayOptions(address))
    one_sentence(error)


def test_ray_is_imported_only_when_asked_for():
    code = "import sys, llmlite.cluster; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("given", "device", "gpus"),
    [(None, "cpu", 0), (None, "cuda", 1), (None, "cuda:1", 1), (0.25, "cpu", 0.25), (0, "cuda", 0)],
)
def test_a_run_gets_a_whole_gpu_unless_it_is_told_otherwise(given, device, gpus):
    assert RayOptions(gpus_per_run=given).gpus(device) == gpus


@pytest.mark.parametrize("wrong", [{"gpus_per_run": 2}, {"gpus_per_run": -1}, {"cpus_per_run": 0}])
def test_impossible_shares_are_refused(wrong, one_sentence):
    with pytest.raises(LLMLiteError, match=next(iter(wrong))) as error:
        RayOptions(**wrong)
    one_sentence(error)


# -- with one -------------------------------------------------------------------------------------


def kill_a_worker(folder, timeout=60):
    """SIGKILL a process that is between its first and its last epoch.

    Returns (name of the run, the epochs in its record).
    """
    give_up = time.monotonic() + timeout
    while time.monotonic() < give_up:
        time.sleep(0.02)
        for path in folder.glob("*/record.json"):
            try:
                (pid,) = re.findall(r"^process (\d+) ", (path.parent / ".owner").read_text())
                os.kill(int(pid), signal.SIGSTOP)
            except (FileNotFoundError, ProcessLookupError, ValueError):
                continue  # it is done already, or only beginning
            record = json.loads(path.read_text())
            if record["status"] == "running" and 0 < len(record["epochs"]) < CONFIG.epochs:
                os.kill(int(pid), signal.SIGKILL)
                return path.parent.name, record["epochs"]
            os.kill(int(pid), signal.SIGCONT)
    raise TimeoutError("No worker was in mid-trial.")


@pytest.mark.filterwarnings("ignore::llmlite.metrics.ImplausibleLossWarning")  # ids that repeat
def test_a_killed_worker_is_replaced_and_the_table_is_that_of_the_local_search(tmp_path, two_cpus):
    with ThreadPoolExecutor() as threads:
        killed = threads.submit(kill_a_worker, tmp_path / "cluster")
        table = search_in(tmp_path / "cluster", ray=two_cpus)
        run, epochs_before = killed.result()
    record = read_record(tmp_path / "cluster" / run)
    assert len(record["epochs"]) == 4
    # Their times, to the last digit: nobody trained these epochs a second time.
    assert record["epochs"][: len(epochs_before)] == epochs_before

    local = search_in(tmp_path / "local")
    for ours, theirs in (
        (table, local),
        (read_results(tmp_path / "cluster"), read_results(tmp_path / "local")),
    ):
        pd.testing.assert_frame_equal(
            ours.drop(columns=TIMING), theirs.drop(columns=TIMING), rtol=0, atol=1e-6
        )
    assert table.status.tolist() == ["finished"] * 4


def test_what_fails_in_a_worker_is_a_row_in_its_place(tmp_path, two_cpus):
    grid = SearchSpace((1e30, 0.02), (1,), (3, 2), (8,))
    config = TrainConfig(epochs=1, batch_size=64, amp="off")
    table = search_in(tmp_path, grid, config, ray=two_cpus)
    assert table.status.tolist() == ["failed", "failed", "failed", "finished"]
    assert "n_embd 8 cannot be shared among n_head 3" in table.reason[0]
    assert re.search(r"became (nan|inf) at step \d+ of 14", table.reason[1])
    assert table[["learning_rate", "n_head"]].to_dict("list") == {
        "learning_rate": [1e30, 1e30, 0.02, 0.02],
        "n_head": [3, 2, 3, 2],
    }
    again = search_in(tmp_path, grid, config, ray=two_cpus)
    assert again.iloc[3].tolist() == table.iloc[3].tolist(), "what is finished is skipped"


def test_a_damaged_run_stops_the_search_with_its_own_error(tmp_path, two_cpus, one_sentence):
    point = SearchSpace((0.02,), (1,), (1,), (8,))
    config = TrainConfig(epochs=1, batch_size=64, amp="off")
    (run,) = search_in(tmp_path, point, config, ray=two_cpus).run
    (tmp_path / run / "record.json").write_text("{")
    with pytest.raises(CheckpointError, match=re.escape(run)) as error:
        search_in(tmp_path, point, config, ray=two_cpus)
    one_sentence(error)


def trial_in(folder):
    return Trial(
        next(GRID.points()), MODEL, CONFIG, folder, {"data": "digits"}, "cpu", None, False, None
    )


def test_a_machine_that_does_not_see_the_folder_says_so(tmp_path, two_cpus, one_sentence):
    with pytest.raises(LLMLiteError, match=r"does not see .*gone; put the output") as error:
        list(run_all([trial_in(tmp_path / "gone")], IDS, two_cpus, 0))
    one_sentence(error)


def test_a_run_whose_workers_are_lost_again_and_again_is_a_failed_row(
    tmp_path, two_cpus, monkeypatch
):
    class Deadly(Trial):
        def run(self, ids):
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(cluster, "RETRIES", 0)
    trial = Deadly(**trial_in(tmp_path).__dict__)
    ((number, row),) = run_all([trial], IDS, two_cpus, 0)
    assert number == 0
    assert row["status"] == "failed"
    assert row["reason"].startswith("Its worker was lost 1 times: ")
    assert row["run"] == trial.name


def test_a_mistake_in_the_program_is_not_hidden_as_a_failure(tmp_path, two_cpus):
    class Mistaken(Trial):
        def run(self, ids):
            raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        list(run_all([Mistaken(**trial_in(tmp_path).__dict__)], IDS, two_cpus, 0))


def test_more_than_any_machine_has_is_refused_instead_of_waited_for(
    tmp_path, two_cpus, one_sentence
):
    with pytest.raises(LLMLiteError, match=r"No machine .* has 99 CPUs and 0 GPUs") as error:
        search_in(tmp_path, ray=RayOptions(cpus_per_run=99))
    one_sentence(error)


def test_a_worker_uses_as_many_threads_as_it_was_given_cpus(tmp_path, two_cpus):
    class Counting(Trial):
        def run(self, ids):
            return {"threads": torch.get_num_threads(), "tokens": len(ids["train"])}

    trials = [Counting(**trial_in(tmp_path).__dict__)]
    for cpus in {1, min(2, os.cpu_count())}:
        options = RayOptions(cpus_per_run=cpus)
        assert list(run_all(trials, IDS, options, 0)) == [(0, {"threads": cpus, "tokens": 7_000})]


def test_ids_that_are_mapped_from_a_file_are_mapped_by_the_worker_as_well(tmp_path, two_cpus):
    class Describing(Trial):
        def run(self, ids):
            return {"type": type(ids["train"]).__name__, "ids": ids["train"][:3].tolist()}

    np.save(tmp_path / "train.npy", np.arange(5, 50, dtype=np.uint16))
    ids = {"train": np.load(tmp_path / "train.npy", mmap_mode="r")}
    trial = Describing(**trial_in(tmp_path).__dict__)
    assert list(run_all([trial], ids, two_cpus, 0)) == [(0, {"type": "memmap", "ids": [5, 6, 7]})]
