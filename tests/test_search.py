"""A grid → its table: what each run comes to, what fails, what a second call does."""

from collections import Counter

import pandas as pd
import pytest
import torch

from llmlite.config import DataConfig, ModelConfig, SearchSpace, TrainConfig
from llmlite.data import Dataset
from llmlite.files import BusyError, CheckpointError, DiskFullError, LLMLiteError, MissingRunError
from llmlite.plan.search import best_row, epochs_table, grid, row_of, search_log
from llmlite.plan.search import hyperparameter_search as search
from llmlite.run import Run, read_record
from llmlite.train import Compute, Trainer

GRID = SearchSpace(learning_rate=(0.02, 0.0001), n_layer=(1,), n_head=(1, 2), n_embd=(8,))
ALL = [(0.02, 1), (0.02, 2), (0.0001, 1), (0.0001, 2)]  # its rates and heads, in order
DATA = DataConfig(vocab_size=10, block_size=8)
MODEL = ModelConfig(vocab_size=10, block_size=8, n_layer=1, n_embd=8, dropout=0.0)
TRAIN = TrainConfig(epochs=2, batch_size=8, amp="off", checkpoint_every=99)
BASE = Run("digits", DATA, MODEL, TRAIN)
IDS = torch.arange(700) % 10
DIGITS = Dataset.of_ids({"train": IDS, "valid": IDS[:100], "test": IDS[:100]}, DATA, {"data": "d"})
COLUMNS = [
    "learning_rate", "n_layer", "n_head", "n_embd", "status", "reason", "train_loss", "valid_loss",
    "perplexity", "best_epoch", "epochs", "steps", "parameters", "tokens_per_second", "seconds",
]  # fmt: skip


def search_in(folder, progress=False):
    return search(GRID, BASE, DIGITS, folder, Compute(progress=progress))


def folders_in(folder):
    return [run.folder(folder, DIGITS.about) for run in grid(GRID, BASE)]


def epochs_in(folder):
    return epochs_table(grid(GRID, BASE), map(read_record, folders_in(folder)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, table) of a search that nothing went wrong in, to be found again."""
    folder = tmp_path_factory.mktemp("search")
    return folder, search_in(folder)


def test_the_table_has_a_row_a_configuration_as_its_record_says(finished):
    folder, table = finished
    assert list(table.columns) == COLUMNS
    assert table[COLUMNS[:4]].to_dict("records") == list(GRID.points())
    runs = folders_in(folder)
    assert {p.name for p in folder.iterdir()} == {*(run.name for run in runs), "results.csv"}
    for run, row in zip(runs, table.to_dict("records"), strict=True):
        record = read_record(run)
        best, last = record["best"], record["epochs"][-1]
        assert [row[c] for c in COLUMNS[6:9]] == [best[c] for c in COLUMNS[6:9]]
        assert (row["best_epoch"], row["parameters"]) == (best["epoch"], record["parameters"])
        # 87 windows of 8 tokens in batches of 8
        assert [row[c] for c in ("status", "epochs", "steps")] == ["finished", 2, 2 * 11]
        assert row["tokens_per_second"] == round(last["tokens_per_second"])
        assert row["seconds"] == round(record["seconds"], 1)
    row = row_of(grid(GRID, BASE)[-1], record | {"best": record["epochs"][0]})
    assert (row["best_epoch"], row["epochs"]) == (1, 2), "the best epoch need not be the last"
    written = pd.read_csv(folder / "results.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(written, table)


def test_the_best_row_is_the_lowest_perplexity_that_finished():
    status, reason = ["finished", "failed", "finished", "missing"], ["", "NaN", "", "Not here."]
    perplexity = [3.0, 1.0, 2.0, None]
    table = pd.DataFrame({"status": status, "reason": reason, "perplexity": perplexity})
    assert best_row(table).name == 2
    with pytest.raises(LLMLiteError, match=r"No configuration of the grid finished \(NaN; Not"):
        best_row(table.iloc[[1, 3]])
    with pytest.raises(MissingRunError):
        best_row(table.iloc[[3]])


def test_epochs_and_log_are_in_the_papers_form_and_printed(tmp_path, finished, capsys):
    folder, table = finished
    epochs, records = epochs_in(folder), map(read_record, folders_in(folder))
    losses = [epoch["valid_loss"] for record in records for epoch in record["epochs"]]
    expected = [[e, rate, heads, 1337] for rate, heads in ALL for e in (1, 2)]
    assert epochs[["epoch", "learning_rate", "n_head", "seed"]].to_numpy().tolist() == expected
    assert epochs.valid_loss.tolist() == losses
    first, *lines, last = search_log(table, epochs).split("\n\n")[2].split("\n")
    assert first == "Running config: lr=0.0001, layers=1, heads=1, embed_dim=8"
    assert [line.split(":")[0] for line in lines] == ["Epoch 1", "Epoch 2"]
    assert last == f"Final Perplexity for (0.0001, 1, 1, 8): {table.perplexity.iloc[2]:.4f}"
    assert search_in(folder, progress=True).equals(table), "found, not trained again"
    out, err = capsys.readouterr()
    assert (out, last in err) == ("", True)
    with pytest.raises(MissingRunError, match="digits-lr0"):
        epochs_in(tmp_path)


STOPS = [BusyError, DiskFullError, CheckpointError, TypeError, KeyboardInterrupt]
FAILURES = [
    (torch.OutOfMemoryError("CUDA out of memory."), "At step 1, cpu ran out of memory"),
    (RuntimeError("No memory here.\nMore about it"), "No memory here."),
    (RuntimeError(), "RuntimeError"),
]


def test_an_error_stops_all_or_is_a_row_that_is_tried_again(tmp_path, finished, monkeypatch):
    train, errors, trained = Trainer._train_epoch, [], Counter()

    def fail(self):
        point = self.config.learning_rate, self.run.model.n_head
        trained[point] += 1
        if errors and point == ALL[1]:
            raise errors.pop()
        return train(self)

    monkeypatch.setattr(Trainer, "_train_epoch", fail)
    for kind in STOPS:
        errors.append(kind("Taken."))
        with pytest.raises(kind, match="Taken"):
            search_in(tmp_path)
    assert trained == {ALL[0]: 2, ALL[1]: len(STOPS)}
    assert pd.read_csv(tmp_path / "results.csv").n_head.tolist() == [1]
    for error, reason in FAILURES:
        errors.append(error)
        table, epochs = search_in(tmp_path), epochs_in(tmp_path)
        assert table.status.tolist() == ["finished", "failed", "finished", "finished"]
        assert table.perplexity.isna().tolist() == [False, True, False, False]
        assert table.reason[1].startswith(reason)
        assert "\n" not in table.reason[1]
        assert len(epochs) == 3 * 2
        assert f"\nFailed (0.02, 1, 2, 8): {reason}" in search_log(table, epochs)
    assert search_in(tmp_path).perplexity.tolist() == finished[1].perplexity.tolist()
    tries = len(STOPS) + len(FAILURES)
    assert trained == dict.fromkeys(ALL, 2) | {ALL[1]: tries + 2}, "what is finished stays so"
