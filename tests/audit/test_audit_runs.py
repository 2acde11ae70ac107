"""The audit's runs field by field; and what was measured of them in a plan that takes seconds."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from tiny_plan import AUDIT, PROFILE, SEEDS, open_plan

from llmlite.audit.hypotheses import steps_by_layout
from llmlite.audit.plan import AUDITS, audit_of, leak_runs
from llmlite.audit.runs import Audit
from llmlite.config import AXES, SearchSpace
from llmlite.data import SPLITS
from llmlite.engine import TrainingLoss
from llmlite.files import LLMLiteError
from llmlite.profiles import PROFILES, changed
from llmlite.run import Run, read_steps
from llmlite.windows import windows_of


@pytest.mark.parametrize("profile", PROFILES)
def test_a_run_makes_the_mistake_in_its_name_and_no_other(profile):
    audit, data = AUDITS[profile], replace(PROFILES[profile].data, source="a folder", name="x")
    (plain, *runs), (seed, *seeds) = leak_runs(audit, data), audit.seeds
    assert (plain.name, plain.model.causal) == ("no-mask", False)
    assert plain.data == replace(audit.data, source="a folder", name="x")
    assert plain.train == replace(audit.train, log_divided_loss=True, seed=seed)
    # In `full` alone the runs that repeat a published one are shorter than it, whose windows are
    # the paper's own: one at every token.
    assert replace(audit.again, epoch_windows=audit.train.epoch_windows) == audit.train
    assert (audit.again == audit.train) is (profile != "full")
    assert (audit.train.epoch_windows is None) is (profile == "full")
    assert audit.scaled.amp == "fp16"

    def short(window: int = audit.data.block_size) -> Run:
        """As many tokens as in `audit.short`, in whole windows of this size."""
        length = {"epochs": audit.short.epochs, "seed": audit.short.seed}
        length["epoch_windows"] = audit.short.epoch_windows * audit.data.block_size // window
        run = changed(plain, {f"train.{name}": value for name, value in length.items()})
        return changed(run, {"data.block_size": window, "model.block_size": window})

    mask, again = {"model.causal": True}, {"train.epoch_windows": audit.again.epoch_windows}
    batch = {"train.batch_size": 2 * audit.train.batch_size}
    expected = {
        "mask": changed(plain, mask | again),
        "no-mask-deep": changed(plain, {"model.n_layer": audit.deep}),
        "no-mask-batch": changed(plain, again | batch),
        **{f"no-mask-window-{n}": short(n) for n in audit.other_windows},
        "unshifted": changed(short(), mask | {"data.shift": 0}),
        "padding": changed(short(audit.padded_window), mask | {"data.padding": True}),
        "split-after-windowing": changed(short(), mask | {"data.split": "windows"}),
        "scaled-norm": replace(plain, train=replace(audit.scaled, log_scaled_norm=True)),
        **{f"no-mask-seed-{n}": changed(plain, again | {"train.seed": n}) for n in seeds},
    }
    for run, (name, like) in zip(runs, expected.items(), strict=True):  # the telling ones first
        assert run == replace(like, name=name)


def test_a_profile_without_an_audit_is_refused():
    with pytest.raises(LLMLiteError, match="'mine' has no audit"):
        audit_of("mine")


def test_the_first_seed_trains_whole_grids_and_the_others_their_corners(some_articles, tmp_path):
    space = SearchSpace((4e-3, 2e-3), (1, 2, 3), (2, 4), (16,))
    profile = replace(PROFILE, revised=replace(PROFILE.revised, space=space))
    audit = Audit(open_plan(some_articles, tmp_path, profile))
    grids = "revised-seed-1337 longer-seed-1337 revised-seed-1 longer-seed-1 first-seed-1337"
    assert list(audit.grid_runs) == [f"grid-{grid}" for grid in grids.split()]

    def points(which, seed):
        runs = audit.grid(which, seed)
        assert {run.train.seed for run in runs} == {seed}
        return [(r.train.learning_rate, r.model.n_layer, r.model.n_head) for r in runs]

    every = [(rate, n, heads) for rate in (4e-3, 2e-3) for n in (1, 2, 3) for heads in (2, 4)]
    assert points("revised", 1337) == every
    assert points("revised", 1) == [point for point in every if point[1] != 2]
    assert points("longer", 1) == [(4e-3, 3, 4)]
    assert audit.grid("longer", 1)[0].train.epochs == 2 * AUDIT.revised_grid.epochs
    for seed, (name, run) in zip(SEEDS, audit.honest_runs.items(), strict=True):
        assert name == f"honest-seed-{seed}"
        assert (run.data, run.train) == (audit.experiment.data, replace(AUDIT.honest, seed=seed))
        size = {"vocab_size": 300, "block_size": 64, "n_layer": 2, "n_head": 4, "n_embd": 16}
        assert run.model == replace(PROFILE.model, **size, causal=True)
        assert ("mixtures" in run.measures) is (seed == SEEDS[0])


MISTAKES = {
    "padding": {"padding": "counted in the loss"},
    "unshifted": {"targets": "the inputs themselves"},
    "split-after-windowing": {"split": "after windowing"},
}


def test_a_record_holds_the_run_its_mistake_and_what_was_measured_of_it(whole):
    experiment, usual = whole.experiment, whole.experiment.dataset
    words = usual.counts("test").words_and_line_ends
    for name, run in whole.leak_runs.items():
        record = whole.record(name)
        identity, measured = record["identity"], record["measures"]
        assert record["status"] == "finished"
        assert experiment.dataset_of(run.data)._source is usual._source, "a text is read once"
        steps = read_steps(experiment.folder(run))
        assert record["skipped"] == steps.grad_norm.isna().sum()
        assert (steps.grad_norm.max() > 1_000) == (name == "scaled-norm"), "the scale is in it"
        source = f"path/to/{usual.name.replace(' ', '-')}"  # nothing of this machine
        assert record["command"] == f"llmlite run --profile tiny --data {source} --only {name}"
        assert (identity["model"], identity["train"]) == (asdict(run.model), asdict(run.train))
        found = {key: identity[key] for key in ("padding", "targets", "split") if key in identity}
        assert found == MISTAKES.get(name, {})
        assert measured["leaks"] is (not run.model.causal)
        assert (max(measured["attention"]["next"]) > 0) is measured["leaks"]
        losses, best = measured["loss_by_position"], record["best"]["valid_loss"]
        assert len(losses) == run.data.block_size
        assert np.mean(losses) == pytest.approx(best, rel=1e-4), "on the windows it was chosen by"
        assert measured["true"]["windows"] == 50
        assert measured["tokens_per_word"] == len(usual.ids["test"]) / words
        windows = windows_of(experiment.dataset_of(run.data), run.data, run.train)["test"]
        inputs, targets = windows[torch.arange(len(windows))]
        assert inputs.equal(targets) is (name == "unshifted")
        with torch.inference_mode():
            loss = TrainingLoss(experiment.model_of(run), None)(inputs, targets).item()
        assert measured["test_loss"] == pytest.approx(loss, rel=1e-5)


def test_a_grid_has_a_row_an_epoch_of_every_configuration_and_seed(whole):
    table = whole.grids("revised")
    points = [tuple(point.values()) for point in PROFILE.revised.space.points()]
    found = table[[*AXES, "seed", "epoch"]].to_numpy().tolist()
    assert sorted(found) == sorted([*point, seed, 1] for seed in SEEDS for point in points)
    assert table.valid_loss.nunique() == len(table)
    assert len(whole.grids("first")) == 1, "one seed"
    longer = whole.grids("longer")
    assert longer.epoch.tolist() == [1, 2] * 2
    assert longer[list(AXES)].drop_duplicates().to_numpy().tolist() == [[2e-3, 1, 2, 8]]
    assert longer.groupby("seed").lr.last().tolist() == [0, 0]  # one schedule, not two


def test_steps_are_counted_on_all_three_splits(whole, some_articles):
    text = "".join((some_articles / f"wiki.{split}.raw").read_text("utf-8") for split in SPLITS)
    words = len(text.split()) + text.count("\n")
    lines = sum(bool(line.strip()) for line in text.split("\n"))
    assert whole.steps.index.tolist() == [300, 320]
    tokens = sum(len(ids) for ids in whole.experiment.dataset.ids.values()) / words
    expected = {"tokens per word": tokens, **steps_by_layout(tokens, lines / words)}
    assert whole.steps.loc[300].to_dict() == pytest.approx(expected)
    assert whole.steps.loc[320, "stride 1"] < whole.steps.loc[300, "stride 1"]
