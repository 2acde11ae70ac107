"""Watchers: event files read back with TensorBoard's own reader; the chart on a fake display."""

import json
import sys
from types import SimpleNamespace

import IPython.display
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llmlite.checkpoint import read_record, read_steps
from llmlite.config import ModelConfig, TrainConfig
from llmlite.errors import LLMLiteError
from llmlite.live import NotebookChart, TensorBoardLog, in_watched_notebook, watchers
from llmlite.progress import HEADLESS_VARIABLE
from llmlite.train import Trainer

MODEL = ModelConfig(vocab_size=20, block_size=8, n_layer=1, n_head=1, n_embd=8, dropout=0.0)
CONFIG = TrainConfig(epochs=3, batch_size=4, checkpoint_every=4, patience=0, amp="off")
STEPS = 10  # in an epoch


def train(folder, *own, config=CONFIG):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(20, (STEPS * 4 * 8 + 1,), generator=generator)
    ids = {"train": ids, "valid": ids[:50]}
    log = TensorBoardLog(folder / "tensorboard")
    watching = [log, *own]
    return Trainer(MODEL, config, ids, folder, {}, progress=False, watchers=watching).fit()


def scalars(folder):
    """{name: [(step, value), …]} as TensorBoard shows them."""
    reader = EventAccumulator(str(folder / "tensorboard")).Reload()
    names = reader.Tags()["scalars"]
    return {name: [(e.step, e.value) for e in reader.Scalars(name)] for name in names}


def assert_equal_to_the_logs(folder):
    shown, steps = scalars(folder), read_steps(folder)
    epochs = read_record(folder)["epochs"]
    expected = {
        f"train/{name}": list(zip(steps.step, steps[name], strict=True))
        for name in ("loss", "grad_norm", "lr")
    }
    columns = {
        "valid/loss": "valid_loss",
        "valid/perplexity": "perplexity",
        "speed/tokens_per_second": "tokens_per_second",
    }
    expected |= {tag: [(e["step"], e[key]) for e in epochs] for tag, key in columns.items()}
    assert shown.keys() == expected.keys()
    for name, points in expected.items():
        assert [step for step, _ in shown[name]] == [step for step, _ in points], name
        values = [value for _, value in points]
        assert [value for _, value in shown[name]] == pytest.approx(values, rel=1e-6), name


def test_tensorboard_shows_what_the_logs_say(tmp_path):
    train(tmp_path)
    assert len(scalars(tmp_path)["train/loss"]) == 3 * STEPS
    assert_equal_to_the_logs(tmp_path)


class StopError(Exception):
    pass


class StopAt:
    """Interrupts the run once the log has reached a step."""

    def __init__(self, step):
        self.step = step

    def on_steps(self, rows):
        if rows[-1]["step"] >= self.step:
            raise StopError

    def on_epoch(self, epoch):
        pass

    def close(self):
        pass


def test_after_a_resume_no_step_is_there_twice(tmp_path):
    # Checkpoints are written at 4, 8, 10 (an epoch's end), …, after the steps were shown: the run
    # stops between the two, with 9 to 12 on the event files and 10 in the last checkpoint.
    with pytest.raises(StopError):
        train(tmp_path, StopAt(12))
    assert [step for step, _ in scalars(tmp_path)["train/loss"]] == list(range(1, 13))
    train(tmp_path)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    assert_equal_to_the_logs(tmp_path)


def test_a_log_that_was_closed_can_be_taken_up_by_the_same_process(tmp_path):
    log = TensorBoardLog(tmp_path / "tensorboard")
    row = {"loss": 1.0, "lr": 0.1, "grad_norm": 2.0}
    for first in (1, 3):
        log.on_steps([{"step": step, **row} for step in range(first, first + 4)])
        log.close()
    assert [step for step, _ in scalars(tmp_path)["train/loss"]] == [1, 2, 3, 4, 5, 6]


def test_a_step_that_fp16_left_out_has_no_gradient(tmp_path):
    log = TensorBoardLog(tmp_path / "tensorboard")
    row = {"loss": 1.0, "lr": 0.1}
    log.on_steps([{"step": 1, "grad_norm": None, **row}, {"step": 2, "grad_norm": 3.0, **row}])
    log.close()
    assert scalars(tmp_path)["train/grad_norm"] == [(2, 3.0)]
    assert [step for step, _ in scalars(tmp_path)["train/loss"]] == [1, 2]


def test_without_tensorboard_it_is_one_sentence(tmp_path, monkeypatch, one_sentence):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(LLMLiteError) as error:
        TensorBoardLog(tmp_path)
    assert "pip install 'llmlite[tensorboard]'" in one_sentence(error)


def test_a_run_that_is_finished_writes_no_event_files(tmp_path):
    train(tmp_path)
    before = sorted((tmp_path / "tensorboard").iterdir())
    train(tmp_path)
    assert sorted((tmp_path / "tensorboard").iterdir()) == before


# -- the chart ------------------------------------------------------------------------------------


@pytest.fixture
def screen(monkeypatch):
    """What a notebook's one output cell has shown, one after the other."""
    shown = []

    def display(content, display_id):
        assert display_id is True, "it has to be found again"
        shown.append(("new", content))
        return SimpleNamespace(
            update=lambda content, raw=False: shown.append(("same place", content))
        )

    monkeypatch.setattr(IPython.display, "display", display)
    return shown


def test_the_chart_is_redrawn_in_place_once_an_epoch_and_then_cleared(tmp_path, screen):
    record = train(tmp_path, NotebookChart())
    assert [place for place, _ in screen] == ["new", "same place", "same place", "same place"]
    *figures, last = [content for _, content in screen]
    for number, figure in enumerate(figures, start=1):
        training, validation = figure.axes[0].lines
        epochs = record["epochs"][:number]
        assert list(training.get_xdata()) == [e["epoch"] for e in epochs]
        assert list(training.get_ydata()) == [e["train_loss"] for e in epochs]
        assert list(validation.get_ydata()) == [e["valid_loss"] for e in epochs]
    assert last == {"text/plain": ""}


def test_a_chart_that_is_taken_up_again_shows_each_epoch_once(screen):
    chart = NotebookChart()
    epoch = {"train_loss": 1.0, "valid_loss": 2.0, "perplexity": 7.4}
    for number in (1, 2):
        chart.on_epoch({"epoch": number, **epoch})
    chart.close()
    chart.on_epoch({"epoch": 2, **epoch})
    assert screen[-1][0] == "new"
    assert list(screen[-1][1].axes[0].lines[0].get_xdata()) == [1, 2]


def test_a_run_that_ends_before_its_first_epoch_clears_nothing(screen):
    NotebookChart().close()
    assert screen == []


@pytest.mark.parametrize(
    ("shell", "headless", "watched"),
    [
        (SimpleNamespace(kernel=object()), None, True),
        (SimpleNamespace(kernel=object()), "1", False),
        (SimpleNamespace(), None, False),  # IPython in a terminal
        (None, None, False),  # a program that has only imported it
    ],
)
def test_charts_are_for_kernels_that_somebody_watches(
    monkeypatch, tmp_path, shell, headless, watched
):
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    monkeypatch.delenv(HEADLESS_VARIABLE, raising=False)
    if headless:
        monkeypatch.setenv(HEADLESS_VARIABLE, headless)
    assert in_watched_notebook() is watched
    charts = [w for w in watchers(tmp_path, tensorboard=False) if isinstance(w, NotebookChart)]
    assert len(charts) == watched
    assert [type(w) for w in watchers(tmp_path, tensorboard=True)][-1] is TensorBoardLog


def test_a_real_kernel_is_told_from_a_program(tmp_path):
    """What Jupyter starts, asked what it thinks it is."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        answers = []
        client.execute_interactive(
            "from llmlite.live import in_watched_notebook; print(in_watched_notebook())",
            output_hook=lambda message: answers.append(message["content"].get("text", "")),
            timeout=60,
        )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert "True" in "".join(answers)
    assert not in_watched_notebook()


def test_an_experiments_run_has_its_event_files_beside_its_record(tmp_path):
    from llmlite.cli import main

    for split in ("train", "valid", "test"):
        text = "".join(f" \n = {split} {i} = \n \n The cat {i} sat . \n" for i in range(40))
        (tmp_path / f"wiki.{split}.raw").write_text(text, encoding="utf-8")
    arguments = ["train", "--profile", "quick", "--data", tmp_path, "--out", tmp_path / "out"]
    arguments += ["--vocab-size", 270, "--block-size", 16, "--epochs", 1, "--tensorboard"]
    arguments += ["--n-layer", 1, "--n-head", 1, "--n-embd", 8, "--learning-rate", "1e-3"]
    assert main([str(argument) for argument in arguments]) == 0
    (record,) = (tmp_path / "out").glob("runs/*/record.json")
    assert_equal_to_the_logs(record.parent)
    assert "--tensorboard" in json.loads(record.read_text("utf-8"))["command"]


def test_each_run_of_a_search_has_its_event_files(tmp_path):
    from llmlite.config import SearchSpace
    from llmlite.search import hyperparameter_search

    ids = torch.randint(20, (200,), generator=torch.Generator().manual_seed(0))
    ids = {"train": ids, "valid": ids[:50]}
    space, out = SearchSpace((1e-2, 1e-3), (1,), (1,), (8,)), tmp_path / "search"
    hyperparameter_search(space, MODEL, CONFIG, ids, out, {}, progress=False, tensorboard=True)
    runs = [path.parent for path in out.glob("*/record.json")]
    assert len(runs) == 2
    for folder in runs:
        assert_equal_to_the_logs(folder)
