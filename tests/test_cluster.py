"""A search on a real Ray cluster of this machine: the local table, whatever becomes of a worker."""

import json
import os
import re
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from llmlite.config import DataConfig, ModelConfig, SearchSpace, TrainConfig
from llmlite.data import Dataset
from llmlite.files import CheckpointError, LLMLiteError
from llmlite.plan import cluster
from llmlite.plan.cluster import RayOptions, on_ray
from llmlite.plan.search import grid, hyperparameter_search
from llmlite.run import Run, read_record
from llmlite.train import Compute

GRID = SearchSpace(learning_rate=(0.02, 0.0001), n_layer=(1,), n_head=(1, 2), n_embd=(8,))
POINT = SearchSpace((0.02,), (1,), (1,), (8,))
DATA = DataConfig(vocab_size=10, block_size=8)
MODEL = ModelConfig(vocab_size=10, block_size=8, n_layer=1, n_embd=8, dropout=0.0)
CONFIG = TrainConfig(epochs=4, batch_size=8, amp="off", patience=0, checkpoint_every=110)
BASE = Run("digits", DATA, MODEL, CONFIG)
SHORT = replace(BASE, train=TrainConfig(epochs=1, batch_size=64, amp="off"))
IDS = {"train": torch.arange(7_000) % 10, "valid": torch.arange(100) % 10}
DIGITS = Dataset.of_ids(IDS | {"test": IDS["valid"]}, DATA, {"data": "digits"})
TIMING = ["tokens_per_second", "seconds"]
HERE = Path(__file__).parent


@pytest.fixture(scope="module", params=[pytest.param("ray", marks=pytest.mark.slow)])
def two_cpus():
    """A cluster of this machine's cores. To start one takes long, so the tests share it: each finds
    it started already, uses it whatever the address, and leaves it running.
    """
    import ray

    cluster._connect(ray, "local")
    yield RayOptions("nowhere:1")
    assert ray.is_initialized(), "no search ends what it did not start"
    ray.shutdown()


def search_in(folder, space=GRID, base=BASE, ray=None):
    return hyperparameter_search(space, base, DIGITS, folder, Compute(progress=False), ray)


# -- without a cluster ----------------------------------------------------------------------------

REFUSED = [
    ({"address": "127.0.0.1:1"}, "no Ray cluster to be had at '127.0.0.1:1'"),
    ({"address": "ray://127.0.0.1:1"}, "no Ray cluster to be had at 'ray://127.0.0.1:1'"),
    ({"address": "nonsense"}, "no Ray cluster to be had at 'nonsense'"),
    ({"gpus_per_run": 2}, "2 GPUs"),
    ({"gpus_per_run": -1}, "-1 GPUs"),
    ({"cpus_per_run": 0}, "0 CPUs"),
]


@pytest.mark.parametrize(("options", "words"), REFUSED)
def test_what_cannot_be_had_is_said_at_once(tmp_path, options, words, one_sentence):
    with pytest.raises(LLMLiteError) as error:
        search_in(tmp_path, ray=RayOptions(**options))
    assert words in one_sentence(error)


def test_without_ray_one_sentence_says_how_to_install_it(tmp_path, monkeypatch, one_sentence):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LLMLiteError, match=r"pip install llmlite\[ray\]") as error:
        search_in(tmp_path, ray=RayOptions("local"))
    one_sentence(error)


@pytest.mark.parametrize(
    ("given", "device", "gpus"),
    [(None, "cpu", 0), (None, "cuda", 1), (None, "cuda:1", 1), (0.25, "cpu", 0.25), (0, "cuda", 0)],
)
def test_a_run_gets_a_whole_gpu_unless_it_is_told_otherwise(given, device, gpus):
    options, compute = RayOptions(gpus_per_run=given).on(Compute(device))
    assert options.gpus_per_run == gpus
    assert compute.device == ("cuda" if gpus else "cpu")


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
    assert table.status.tolist() == ["finished"] * 4
    pd.testing.assert_frame_equal(
        table.drop(columns=TIMING), local.drop(columns=TIMING), rtol=0, atol=1e-6
    )
    written = pd.read_csv(tmp_path / "cluster" / "results.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(written, table)


def test_what_fails_in_a_worker_is_a_row_in_its_place(tmp_path, two_cpus):
    space = SearchSpace((1e30, 0.02), (1,), (2,), (8,))
    table = search_in(tmp_path, space, SHORT, two_cpus)
    assert table.status.tolist() == ["failed", "finished"]
    assert table.learning_rate.tolist() == [1e30, 0.02]
    assert re.search(r"became (nan|inf) at step \d+ of 14", table.reason[0])
    again = search_in(tmp_path, space, SHORT, two_cpus)
    assert again.iloc[1].tolist() == table.iloc[1].tolist(), "what is finished is skipped"


def test_a_damaged_run_stops_the_search_with_its_own_error(tmp_path, two_cpus, one_sentence):
    (run,) = grid(POINT, SHORT)
    record = run.folder(tmp_path, DIGITS.about) / "record.json"
    record.parent.mkdir()
    record.write_text("{")
    with pytest.raises(CheckpointError, match=re.escape(record.parent.name)) as error:
        search_in(tmp_path, POINT, SHORT, two_cpus)
    one_sentence(error)


def test_a_machine_that_does_not_see_the_folder_says_so(tmp_path, two_cpus, one_sentence):
    with pytest.raises(LLMLiteError, match=r"does not see .*gone; put the output") as error:
        list(on_ray(str, [0], two_cpus, tmp_path / "gone"))
    one_sentence(error)


def test_a_run_whose_workers_are_lost_again_and_again_is_said(two_cpus, monkeypatch, one_sentence):
    monkeypatch.setattr(cluster, "RETRIES", 0)
    with pytest.raises(LLMLiteError, match="A run's worker was lost 1 times") as error:
        list(on_ray(lambda _: os.kill(os.getpid(), signal.SIGKILL), [0], two_cpus, HERE))
    one_sentence(error)


def test_a_mistake_in_the_program_is_not_hidden_as_a_failure(two_cpus):
    with pytest.raises(TypeError, match="can only concatenate"):
        list(on_ray(lambda item: item + 1, ["a bug"], two_cpus, HERE))


def test_more_than_any_machine_has_is_refused_instead_of_waited_for(
    tmp_path, two_cpus, one_sentence
):
    with pytest.raises(LLMLiteError, match=r"No machine .* has 99 CPUs and 0 GPUs") as error:
        search_in(tmp_path, ray=RayOptions(cpus_per_run=99))
    one_sentence(error)


def test_a_worker_uses_as_many_threads_as_it_was_given_cpus(two_cpus):
    for cpus in {1, min(2, os.cpu_count())}:
        options = RayOptions(cpus_per_run=cpus)
        assert list(on_ray(lambda _: torch.get_num_threads(), [0], options, HERE)) == [(0, cpus)]
