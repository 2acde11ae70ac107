import re
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import torch

from llmlite import search, train
from llmlite.checkpoint import read_record
from llmlite.config import ModelConfig, SearchSpace, TrainConfig
from llmlite.errors import BusyError, CheckpointError, DiskFullError, LLMLiteError
from llmlite.files import hold
from llmlite.search import best_row, epochs_table, hyperparameter_search, read_results, search_log
from llmlite.train import Trainer

GRID = SearchSpace(learning_rate=(0.02, 0.0001), n_layer=(1,), n_head=(1, 2), n_embd=(8,))
CONFIG = TrainConfig(epochs=2, batch_size=8, amp="off", patience=0)
COLUMNS = [
    "learning_rate", "n_layer", "n_head", "n_embd", "run", "status", "reason", "train_loss",
    "valid_loss", "perplexity", "best_epoch", "epochs", "steps", "parameters",
    "tokens_per_second", "seconds",
]  # fmt: skip


def search_in(folder, space=GRID, config=CONFIG, progress=False, command=None, **options):
    ids = torch.arange(700) % 10
    model = ModelConfig(vocab_size=10, block_size=8, dropout=0.0)
    return hyperparameter_search(
        space, model, config, {"train": ids, "valid": ids[:100]}, folder, {"data": "digits"},
        progress=progress, command=command, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, table) of a search that nothing went wrong in; not to be changed."""
    folder = tmp_path_factory.mktemp("search")
    return folder, search_in(folder)


@pytest.fixture
def fits(monkeypatch):
    """The runs that were trained, in order, as (learning rate, heads)."""
    calls, original = [], Trainer._train_epoch

    def counted(self):
        point = (self.config.learning_rate, self.model.config.n_head)
        if not self.epochs:
            calls.append(point)
        return original(self)

    monkeypatch.setattr(Trainer, "_train_epoch", counted)
    return calls


def fail_one(monkeypatch, error, learning_rate=0.02, n_head=2):
    """Let one configuration fail with `error`."""
    original = Trainer._train_epoch

    def failing(self):
        if (self.config.learning_rate, self.model.config.n_head) == (learning_rate, n_head):
            raise error
        return original(self)

    monkeypatch.setattr(Trainer, "_train_epoch", failing)


# -- the table ------------------------------------------------------------------------------------


def test_the_table_has_a_row_a_configuration(finished):
    folder, table = finished
    assert list(table.columns) == COLUMNS
    assert table[["learning_rate", "n_layer", "n_head", "n_embd"]].to_dict("records") == list(
        GRID.points()
    )
    assert set(table.status) == {"finished"}
    assert set(table.epochs) == {2}
    assert set(table.steps) == {2 * 11}  # 87 windows of 8 tokens in batches of 8
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*table.run, "results.csv", ".lock"]
    )


def test_a_row_is_what_the_runs_record_says(finished):
    folder, table = finished
    for row in table.to_dict("records"):
        record = read_record(folder / row["run"])
        assert record["identity"]["train"]["learning_rate"] == row["learning_rate"]
        assert record["identity"]["model"]["n_head"] == row["n_head"]
        assert record["identity"]["data"] == "digits"
        best = min(record["epochs"], key=lambda epoch: epoch["valid_loss"])
        for column in ("train_loss", "valid_loss", "perplexity"):
            assert row[column] == best[column]
        assert row["best_epoch"] == best["epoch"]
        assert row["parameters"] == record["parameters"]


def test_results_are_read_back_as_they_were_written(finished):
    folder, table = finished
    pd.testing.assert_frame_equal(
        read_results(folder).drop(columns="reason"), table.drop(columns="reason")
    )
    assert read_results(folder).reason.isna().all()


def test_there_are_no_results_before_a_search(tmp_path):
    with pytest.raises(LLMLiteError, match="run the search first"):
        read_results(tmp_path)


def test_runs_may_lie_elsewhere_and_are_shared_with_other_searches(tmp_path, fits):
    runs, narrow = tmp_path / "runs", replace(GRID, n_head=(1,))
    table = search_in(tmp_path / "search" / "a", runs=runs)
    again = search_in(tmp_path / "search" / "b", narrow, runs=runs)
    assert len(fits) == 4
    assert table.run.str.startswith("../../runs/lr").all()
    assert again.run.tolist() == table.run[table.n_head == 1].tolist()
    assert len(epochs_table(again, tmp_path / "search" / "b")) == 2 * 2
    assert search_log(again, tmp_path / "search" / "b").count("Final Perplexity") == 2


def test_where_nothing_may_be_trained_what_is_missing_is_a_row_that_says_so(tmp_path, capsys):
    search_in(tmp_path, replace(GRID, n_head=(1,)))
    table = search_in(tmp_path, progress=True, only_read="Not here.")
    assert table.status.tolist() == ["finished", "missing"] * 2
    assert table.reason[1].endswith("Not here.")
    assert len(list(tmp_path.glob("lr*"))) == 2
    assert set(epochs_table(table, tmp_path).n_head) == {1}
    assert best_row(table).n_head == 1
    assert printed_log(capsys) == []
    empty = search_in(tmp_path / "none", only_read="Not here.")
    with pytest.raises(LLMLiteError, match="No configuration of the grid finished"):
        best_row(empty)


def test_the_best_row_is_the_lowest_perplexity_that_finished():
    table = pd.DataFrame(
        {
            "run": ["a", "b", "c", "d"],
            "status": ["finished", "failed", "finished", "finished"],
            "reason": ["", "NaN", "", ""],
            "perplexity": [3.0, 1.0, 2.0, 4.0],
        }
    )
    assert best_row(table)["run"] == "c"
    table.loc[1, "perplexity"] = None
    assert best_row(table)["run"] == "c"


def test_the_larger_rate_wins_where_little_time_is_given(finished):
    assert best_row(finished[1])["learning_rate"] == 0.02


def test_epochs_table_has_a_row_an_epoch(finished):
    folder, table = finished
    epochs = epochs_table(table, folder)
    assert epochs.epoch.tolist() == [1, 2] * 4
    assert epochs.n_head.tolist() == [1, 1, 2, 2] * 2
    assert epochs.valid_loss.tolist()[::2] == [
        read_record(folder / run)["epochs"][0]["valid_loss"] for run in table.run
    ]


def test_the_log_has_the_papers_form(finished):
    folder, table = finished
    parts = search_log(table, folder).split("\n\n")
    assert len(parts) == 4
    lines = parts[3].split("\n")
    assert lines[0] == "Running config: lr=0.0001, layers=1, heads=2, embed_dim=8"
    for number, line in enumerate(lines[1:3], start=1):
        assert re.fullmatch(
            rf"Epoch {number}: Train Loss=\d\.\d{{4}}, Val Loss=\d\.\d{{4}}, "
            r"Perplexity=\d+\.\d{4}, LR=0\.\d{6}, GradNorm=\d\.\d{4}e[+-]\d\d",
            line,
        )
    assert lines[3:] == [f"Final Perplexity for (0.0001, 1, 2, 8): {table.perplexity.iloc[3]:.4f}"]


def test_the_log_shows_a_failure(tmp_path, monkeypatch):
    fail_one(monkeypatch, RuntimeError("Out of memory. Tried to allocate 9 GiB"))
    log = search_log(search_in(tmp_path), tmp_path).split("\n\n")
    assert log[1].split("\n") == [
        "Running config: lr=0.02, layers=1, heads=2, embed_dim=8",
        "Failed (0.02, 1, 2, 8): Out of memory. Tried to allocate 9 GiB",
    ]


def printed_log(capsys):
    output = capsys.readouterr()
    assert output.out == ""
    starts = ("Running config", "Epoch", "Final", "Failed")
    lines = output.err.replace("\x1b[A", "").splitlines()  # the bars move the cursor up
    return [line for line in lines if line.startswith(starts)]


def test_progress_prints_the_same_log(tmp_path, capsys):
    table = search_in(tmp_path, progress=True)
    expected = search_log(table, tmp_path).splitlines()
    assert printed_log(capsys) == [line for line in expected if line]
    search_in(tmp_path, progress=True)
    assert printed_log(capsys) == []  # what is finished is not announced again


# -- failures and second calls --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "At step 1, cpu ran out of memory"),
        (RuntimeError("No memory here.\nMore about it"), "No memory here."),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_a_configuration_that_runs_out_of_memory_is_a_row_with_its_reason(
    tmp_path, monkeypatch, error, reason
):
    fail_one(monkeypatch, error)
    table = search_in(tmp_path)
    assert table.status.tolist() == ["finished", "failed", "finished", "finished"]
    assert table.reason[1].startswith(reason)
    assert "\n" not in table.reason[1]
    assert table.perplexity.isna().tolist() == [False, True, False, False]
    assert read_results(tmp_path).reason[1] == table.reason[1]
    assert best_row(table).name != 1
    assert set(epochs_table(table, tmp_path).n_head[2:4]) == {1}  # nothing of the failed one


def test_a_run_that_diverges_is_a_row_and_the_search_goes_on(tmp_path):
    table = search_in(tmp_path, replace(GRID, learning_rate=(1e30, 0.02)))
    assert table.status.tolist() == ["failed", "failed", "finished", "finished"]
    assert re.search(r"became (nan|inf) at step \d+ of 22", table.reason[0])
    assert list(read_results(tmp_path).columns) == COLUMNS


def test_a_shape_that_cannot_be_is_a_row_and_the_search_goes_on(tmp_path):
    table = search_in(tmp_path, replace(GRID, n_head=(3, 2), learning_rate=(0.02,)))
    assert table.status.tolist() == ["failed", "finished"]
    assert "n_embd 8 cannot be shared among n_head 3" in table.reason[0]


def test_a_mistake_in_the_program_is_not_hidden_as_a_failure(tmp_path, monkeypatch):
    fail_one(monkeypatch, TypeError("a bug"))
    with pytest.raises(TypeError, match="a bug"):
        search_in(tmp_path)


def test_a_second_call_trains_nothing_and_gives_the_same_table(finished, fits):
    folder, table = finished
    again = search_in(folder)
    assert fits == []
    pd.testing.assert_frame_equal(again, table)


def test_a_second_call_tries_again_what_failed(tmp_path, monkeypatch, fits):
    with monkeypatch.context() as patch:
        fail_one(patch, torch.OutOfMemoryError("CUDA out of memory."))
        assert search_in(tmp_path).status[1] == "failed"
    assert fits == [(0.02, 1), (0.0001, 1), (0.0001, 2)]
    fits.clear()
    table = search_in(tmp_path)
    assert fits == [(0.02, 2)]
    assert set(table.status) == {"finished"}


def test_an_interrupted_search_leaves_its_table_and_carries_on(
    tmp_path, monkeypatch, finished, fits
):
    with monkeypatch.context() as patch:
        fail_one(patch, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            search_in(tmp_path)
    assert read_results(tmp_path).n_head.tolist() == [1]
    fits.clear()
    table = search_in(tmp_path)
    assert fits == [(0.02, 2), (0.0001, 1), (0.0001, 2)]
    assert table.perplexity.tolist() == finished[1].perplexity.tolist()


def test_a_larger_grid_trains_only_what_is_new(tmp_path, fits):
    search_in(tmp_path, replace(GRID, learning_rate=(0.02,)))
    fits.clear()
    search_in(tmp_path)
    assert fits == [(0.0001, 1), (0.0001, 2)]


def test_another_length_of_training_is_another_run(tmp_path, fits):
    one = replace(GRID, learning_rate=(0.02,), n_head=(1,))
    runs = [search_in(tmp_path, one, replace(CONFIG, epochs=n)).run[0] for n in (1, 2)]
    assert len(fits) == 2
    assert runs[0] != runs[1]
    assert all(run.startswith("lr0.02-1l-1h-8d-") for run in runs)


def test_no_configuration_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(
        search.Trainer,
        "_train_epoch",
        lambda self: (_ for _ in ()).throw(RuntimeError("No memory")),
    )
    table = search_in(tmp_path)
    assert table.status.tolist() == ["failed"] * 4
    for found in (table, read_results(tmp_path)):
        with pytest.raises(LLMLiteError, match=r"No configuration .* \(No memory\)"):
            best_row(found)


def test_a_damaged_run_stops_the_search_and_is_not_trained_over(tmp_path):
    run = search_in(tmp_path).run[2]
    (tmp_path / run / "record.json").unlink()
    for name in ("last.pt", "previous.pt"):
        (tmp_path / run / name).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=re.escape(run)):
        search_in(tmp_path)
    assert (tmp_path / run / "damaged-last.pt").read_bytes() == b"damaged"
    assert not (tmp_path / run / "last.pt").exists()


@pytest.mark.parametrize("error", [BusyError("Taken."), DiskFullError("Full.")])
def test_what_the_next_configuration_would_meet_as_well_stops_the_search(
    tmp_path, monkeypatch, fits, error
):
    fail_one(monkeypatch, error)
    with pytest.raises(type(error), match=str(error)):
        search_in(tmp_path)
    assert fits == [(0.02, 1)]
    assert read_results(tmp_path).n_head.tolist() == [1]


def test_a_second_search_in_the_folder_is_told_so_and_leaves_it_alone(tmp_path, fits):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(BusyError, match=f"in use by process {holder.pid}"):
        search_in(tmp_path)
    assert fits == []
    assert not (tmp_path / "results.csv").exists()
    holder.communicate()
    assert set(search_in(tmp_path).status) == {"finished"}
    fits.clear()
    with hold(tmp_path):  # there is nothing to train any more, so nobody has to wait
        assert set(search_in(tmp_path).status) == {"finished"}
    assert fits == []


HOLD = """
import sys
from llmlite.files import hold
with hold(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_runs_records_say_how_to_carry_the_search_on(tmp_path):
    table = search_in(tmp_path, replace(GRID, learning_rate=(0.02,)), command="llmlite search x")
    assert {read_record(tmp_path / run)["command"] for run in table.run} == {"llmlite search x"}


def test_a_validation_loss_without_a_perplexity_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "total_loss", lambda *_, **__: (1e6, 100))
    assert search_in(tmp_path).status.tolist() == ["failed"] * 4
