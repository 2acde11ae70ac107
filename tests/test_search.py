"""A grid → its table: what each run comes to, what fails, and what a second call does."""

import re
from dataclasses import replace

import pandas as pd
import pytest
import torch

from llmlite import train
from llmlite.config import DataConfig, ModelConfig, SearchSpace, TrainConfig
from llmlite.data import Dataset
from llmlite.files import BusyError, CheckpointError, DiskFullError, LLMLiteError, MissingRunError
from llmlite.plan.search import (
    best_row,
    epochs_table,
    grid,
    hyperparameter_search,
    search,
    search_log,
)
from llmlite.run import LAST, PREVIOUS, RECORD, Run, read_record
from llmlite.train import Compute, Trainer

GRID = SearchSpace(learning_rate=(0.02, 0.0001), n_layer=(1,), n_head=(1, 2), n_embd=(8,))
NARROW = replace(GRID, n_head=(1,))
DATA = DataConfig(vocab_size=10, block_size=8)
BASE = Run(
    "digits",
    DATA,
    ModelConfig(vocab_size=10, block_size=8, n_layer=1, n_embd=8, dropout=0.0),
    TrainConfig(epochs=2, batch_size=8, amp="off", patience=0),
)
IDS = torch.arange(700) % 10
DIGITS = Dataset.of_ids({"train": IDS, "valid": IDS[:100], "test": IDS[:100]}, DATA, {"data": "d"})
COLUMNS = [
    "learning_rate", "n_layer", "n_head", "n_embd", "status", "reason", "train_loss", "valid_loss",
    "perplexity", "best_epoch", "epochs", "steps", "parameters", "tokens_per_second", "seconds",
]  # fmt: skip


def search_in(folder, space=GRID, base=BASE, progress=False):
    return hyperparameter_search(space, base, DIGITS, folder, Compute(progress=progress))


def folders_in(folder, space=GRID):
    return [run.folder(folder, DIGITS.about) for run in grid(space, BASE)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, table) of a search that nothing went wrong in; not to be changed."""
    folder = tmp_path_factory.mktemp("search")
    return folder, search_in(folder)


@pytest.fixture
def fits(monkeypatch):
    """The runs that were trained, in order, as (learning rate, heads)."""
    calls, original = [], Trainer._resume

    def counted(self):
        calls.append((self.config.learning_rate, self.run.model.n_head))
        return original(self)

    monkeypatch.setattr(Trainer, "_resume", counted)
    return calls


def fail_one(monkeypatch, error):
    """Let the second configuration fail with `error`."""
    original = Trainer._train_epoch

    def failing(self):
        if (self.config.learning_rate, self.run.model.n_head) == (0.02, 2):
            raise error
        return original(self)

    monkeypatch.setattr(Trainer, "_train_epoch", failing)


# -- the table ------------------------------------------------------------------------------------


def test_the_table_has_a_row_a_configuration_as_its_record_says(finished):
    folder, table = finished
    assert list(table.columns) == COLUMNS
    assert table[COLUMNS[:4]].to_dict("records") == list(GRID.points())
    assert set(table.status) == {"finished"}
    assert set(table.epochs) == {2}
    assert set(table.steps) == {2 * 11}  # 87 windows of 8 tokens in batches of 8
    runs = folders_in(folder)
    assert {p.name for p in folder.iterdir()} == {*(run.name for run in runs), "results.csv"}
    for run, row in zip(runs, table.to_dict("records"), strict=True):
        record = read_record(run)
        assert record["identity"]["train"]["learning_rate"] == row["learning_rate"]
        assert record["identity"]["model"]["n_head"] == row["n_head"]
        assert record["identity"]["data"] == "d"
        best = min(record["epochs"], key=lambda epoch: epoch["valid_loss"])
        assert [row[c] for c in COLUMNS[6:9]] == [best[c] for c in COLUMNS[6:9]]
        assert (row["best_epoch"], row["parameters"]) == (best["epoch"], record["parameters"])
    written = pd.read_csv(folder / "results.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(written, table)


def test_the_best_row_is_the_lowest_perplexity_that_finished(finished):
    assert best_row(finished[1])["learning_rate"] == 0.02, "little time is given"
    table = pd.DataFrame(
        {
            "status": ["finished", "failed", "finished", "missing"],
            "reason": ["", "NaN", "", "Not here."],
            "perplexity": [3.0, 1.0, 2.0, None],
        }
    )
    assert best_row(table).name == 2
    with pytest.raises(LLMLiteError, match=r"No configuration of the grid finished \(NaN; Not"):
        best_row(table.iloc[[1, 3]])
    with pytest.raises(MissingRunError):
        best_row(table.iloc[[3]])


def test_epochs_and_log_are_in_the_papers_form(finished):
    folder, table = finished
    epochs = epochs_table(grid(GRID, BASE), folders_in(folder))
    assert epochs.epoch.tolist() == [1, 2] * 4
    assert epochs.n_head.tolist() == [1, 1, 2, 2] * 2
    assert epochs.valid_loss.tolist()[::2] == [
        read_record(run)["epochs"][0]["valid_loss"] for run in folders_in(folder)
    ]
    parts = search_log(table, epochs).split("\n\n")
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


def test_progress_prints_the_same_log(tmp_path, capsys):
    table = search_in(tmp_path, NARROW, progress=True)
    output = capsys.readouterr()
    assert output.out == ""
    lines = output.err.replace("\x1b[A", "").splitlines()  # the bars move the cursor up
    log = search_log(table, epochs_table(grid(NARROW, BASE), folders_in(tmp_path, NARROW)))
    expected = [line for line in log.splitlines() if line.startswith(("Epoch", "Final"))]
    assert [line for line in lines if line.startswith(("Epoch", "Final"))] == expected


def test_what_is_missing_where_nothing_is_trained_is_a_row_that_says_so(tmp_path):
    def train(run):
        if run.model.n_head == 2:
            raise MissingRunError("Not here.")
        return Trainer(run, DIGITS, run.folder(tmp_path, DIGITS.about), Compute("cpu", False)).fit()

    table = search(grid(GRID, BASE), train, tmp_path / "table.csv", progress=False)
    assert table.status.tolist() == ["finished", "missing"] * 2
    assert table.reason[1] == "Not here."
    assert set(epochs_table(grid(GRID, BASE), folders_in(tmp_path)).n_head) == {1}
    with pytest.raises(MissingRunError, match="digits-lr0"):
        epochs_table(grid(GRID, BASE), folders_in(tmp_path / "none"))


# -- failures and second calls --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "At step 1, cpu ran out of memory"),
        (RuntimeError("No memory here.\nMore about it"), "No memory here."),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_a_configuration_that_fails_is_a_row_and_is_tried_again(
    tmp_path, monkeypatch, fits, error, reason
):
    with monkeypatch.context() as patch:
        fail_one(patch, error)
        table = search_in(tmp_path)
    assert table.status.tolist() == ["finished", "failed", "finished", "finished"]
    assert table.reason[1].startswith(reason)
    assert "\n" not in table.reason[1]
    assert table.perplexity.isna().tolist() == [False, True, False, False]
    assert len(epochs_table(grid(GRID, BASE), folders_in(tmp_path))) == 3 * 2
    log = search_log(table, epochs_table(grid(GRID, BASE), folders_in(tmp_path)))
    assert log.split("\n\n")[1].split("\n")[1].startswith(f"Failed (0.02, 1, 2, 8): {reason}")
    fits.clear()
    assert set(search_in(tmp_path).status) == {"finished"}
    assert fits == [(0.02, 2)]


def test_a_run_that_diverges_is_a_row_and_the_search_goes_on(tmp_path, monkeypatch):
    table = search_in(tmp_path, replace(NARROW, learning_rate=(1e30, 0.02)))
    assert table.status.tolist() == ["failed", "finished"]
    assert re.search(r"became (nan|inf) at step \d+ of 22", table.reason[0])
    monkeypatch.setattr(train, "total_loss", lambda *_, **__: (1e6, 100))
    table = search_in(tmp_path / "validation", NARROW)
    assert table.status.tolist() == ["failed"] * 2


def test_a_shape_that_cannot_be_is_refused_before_anything_is_trained(tmp_path, fits):
    with pytest.raises(LLMLiteError, match="n_embd 8 cannot be shared among n_head 3"):
        search_in(tmp_path, replace(GRID, n_head=(2, 3)))
    assert fits == []


def test_a_mistake_in_the_program_is_not_hidden_as_a_failure(tmp_path, monkeypatch):
    fail_one(monkeypatch, TypeError("a bug"))
    with pytest.raises(TypeError, match="a bug"):
        search_in(tmp_path)


@pytest.mark.parametrize("error", [BusyError("Taken."), DiskFullError("Full.")])
def test_what_the_next_configuration_would_meet_as_well_stops_the_search(
    tmp_path, monkeypatch, fits, error
):
    fail_one(monkeypatch, error)
    with pytest.raises(type(error), match=str(error)):
        search_in(tmp_path)
    assert fits == [(0.02, 1), (0.02, 2)]
    assert pd.read_csv(tmp_path / "results.csv").n_head.tolist() == [1]


def test_an_interrupted_search_carries_on_and_a_finished_one_trains_nothing(
    tmp_path, monkeypatch, finished, fits
):
    with monkeypatch.context() as patch:
        fail_one(patch, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            search_in(tmp_path)
    assert pd.read_csv(tmp_path / "results.csv").n_head.tolist() == [1]
    fits.clear()
    table = search_in(tmp_path)
    assert fits == [(0.02, 2), (0.0001, 1), (0.0001, 2)]
    assert table.perplexity.tolist() == finished[1].perplexity.tolist()
    fits.clear()
    pd.testing.assert_frame_equal(search_in(tmp_path), table)
    assert fits == []


def test_only_what_is_new_is_trained(tmp_path, fits):
    search_in(tmp_path, NARROW)
    search_in(tmp_path)
    assert fits == [(0.02, 1), (0.0001, 1), (0.02, 2), (0.0001, 2)]
    fits.clear()
    search_in(tmp_path, NARROW, replace(BASE, train=replace(BASE.train, epochs=1)))
    assert len(fits) == 2, "another length of training is another run"


def test_a_damaged_run_stops_the_search_and_is_not_trained_over(tmp_path):
    search_in(tmp_path)
    run = folders_in(tmp_path)[2]
    (run / RECORD).unlink()
    for name in (LAST, PREVIOUS):
        (run / name).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=re.escape(run.name)):
        search_in(tmp_path)
    assert (run / f"damaged-{LAST}").read_bytes() == b"damaged"
    assert not (run / LAST).exists()
