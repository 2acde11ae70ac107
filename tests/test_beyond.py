"""Notebook 09: its runs, what is measured of them, and tables checked by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from llmlite import interpret
from llmlite.audit.heads import attention, by_head
from llmlite.audit.plan import StudySize
from llmlite.beyond.plan import BEYOND, OPTIMISERS, Beyond
from llmlite.beyond.tables import compared, heads_table, more_heads, specialisation
from llmlite.config import DataConfig, ModelConfig
from llmlite.files import LLMLiteError

ABOUT = DataConfig("a folder", "a name")


def beyond(profile="small", losses=None) -> Beyond:
    """Of an experiment that has records of these: rate → validation loss, None: diverged."""

    def record(run):
        if (rate := run.train.learning_rate) not in (losses or {}):
            return None
        epoch = {"epoch": 1, "step": 9, "train_loss": 1, "tokens_per_second": 1}
        best = epoch | {"valid_loss": losses[rate], "perplexity": losses[rate]}
        status = "finished" if losses[rate] else "failed"
        return {"status": status, "best": best, "epochs": [best], "parameters": 1, "seconds": 1}

    profile = SimpleNamespace(name=profile)
    return Beyond(SimpleNamespace(profile=profile, data=ABOUT, record=record))


@pytest.mark.parametrize("profile", ["quick", "small", "full"])
def test_runs_differ_in_one_factor_and_have_one_budget_and_one_order_of_windows(profile):
    plan, runs = beyond(profile), beyond(profile).runs()
    config = plan.config
    assert len({run.name for run in runs}) == len({(run.model, run.train) for run in runs}) + 1
    same = {"optimizer": "adamw", "learning_rate": 1.0, "weight_decay": 0.0, "seed": 0}
    assert len({replace(run.train, **same) for run in runs}) == 1
    assert {run.data for run in runs} == {replace(config.data, source="a folder", name="a name")}
    heads = [run for run in runs if run.measures]
    assert len(heads) == len(config.space) * len(config.seeds)
    shape = {"n_layer": 2, "n_head": 4}
    assert len({(replace(run.model, **shape), run.train.learning_rate) for run in heads}) == 1
    decays = {run.train.optimizer: run.train.weight_decay for run in runs}
    assert decays == {"sgd": 0.0, "adam": 0.0, "adamw": 0.1, "muon": 0.1}
    rates = {n: [r.train.learning_rate for r in plan.optimiser_runs(n)] for n in OPTIMISERS}
    assert rates["adam"] == rates["adamw"] == rates["muon"] == list(config.rates)
    assert rates["sgd"] == pytest.approx([100 * rate for rate in config.rates])


def test_the_best_rate_is_trained_with_the_other_seeds_once_all_are_tried():
    losses = {3e-4: 4.0, 1e-3: 3.0, 3e-3: 3.5, 1e-2: None}
    assert len(beyond(losses=losses).optimiser_runs("muon")) == 5, "one is left to try"
    *tried, one, other = beyond(losses=losses | {3e-2: 9.0}).optimiser_runs("muon")
    assert {run.train.seed for run in tried} == {1337}
    assert [(r.train.learning_rate, r.train.seed) for r in (one, other)] == [(1e-3, 1), (1e-3, 2)]
    assert replace(one.train, seed=1337) == tried[1].train
    assert len(beyond(losses=dict.fromkeys(BEYOND["small"].rates)).optimiser_runs("muon")) == 5
    with pytest.raises(LLMLiteError, match="'huge' has no sizes"):
        beyond("huge")


def test_what_heads_look_at_is_the_audits_and_their_cost_the_loss_without_them(
    make_model, articles
):
    model = make_model(ModelConfig(300, 96, n_layer=2, n_head=2, n_embd=16))
    found, ids = specialisation(model, articles, 3, 50), articles.ids["valid"][:50]
    study = by_head(attention(model, articles, StudySize(sentences=3)))
    for name in interpret.STATISTICS:
        assert np.ravel(found[name]) == pytest.approx(study[name].value.to_numpy(), rel=1e-5)
    for layer, head in np.ndindex(2, 2):
        cost = interpret.loss_without(model, ids, [head], [layer]) - found["loss"]
        assert found["cost"][layer][head] == pytest.approx(cost)


def test_heads_are_tabled_and_compared_within_seeds():
    measure = {"previous": [[0.2, 0.4], [0.6, 0.8]], "entropy": [[1.0, 3.0], [2.0, 2.0]]}
    measure |= {"distance": [[1.0, 3.0], [5.0, 5.0]], "cost": [[0.1, 0.3], [0.0, 0.0]]}
    experiment = SimpleNamespace(
        measured=lambda run, what: measure, record=lambda run: {"best": {"valid_loss": 4.5}}
    )
    table = heads_table(experiment, beyond().head_runs()[:1])
    assert table.index.tolist() == [(2, 1, 1337)]
    expected = {"previous": 0.5, "distance": 3.5, "entropy": 2, "cost": 0.1, "loss": 4.5}
    assert table.iloc[0].to_dict() == pytest.approx(expected | {"spread": 2**0.5 / 2})
    values = {(2, 1, 0): 5.0, (2, 1, 1): 6.0, (2, 4, 0): 4.9, (2, 4, 1): 5.7}
    column = pd.Series(values).rename_axis(["n_layer", "n_head", "seed"])
    change = more_heads(column, 1, 4)[2]
    # Student's t of -0.1 and -0.3: a standard error of 0.1, and 12.706 of them.
    assert (change.value, change.high) == pytest.approx((-0.2, -0.2 + 1.2706), abs=1e-4)


def test_optimisers_are_compared_by_hand():
    def run(name, rate, seed, losses):
        of = {"optimizer": name, "learning_rate": rate, "seed": seed}
        return pd.DataFrame({"step": [10, 20, 30], "valid_loss": losses, **of})

    parts = [
        *(run("adamw", 1e-3, seed, [6, 5, 4.0 + seed]) for seed in (0, 1)),
        run("adamw", 1e-2, 0, [6, 5, 3.0]),  # of one seed: not the best of its search
        *(run("muon", 1e-2, seed, [5, 3 + seed, 2]) for seed in (0, 1)),
        *(run("sgd", 1.0, seed, [9, 8, 7]) for seed in (0, 1)),
    ]
    table = compared(pd.concat(parts))
    assert table.rate.to_dict() == {"adamw": 1e-3, "muon": 1e-2, "sgd": 1.0}
    assert [x.value for x in table.loss] == [4.5, 2, 7]
    assert [x.value for x in table["minus AdamW"]] == [0, -2.5, 2.5]
    # Seed 0: from 5 at step 10 to 3 at step 20, so 4 at 15; seed 1: 5 at once, at step 10.
    shares = table["share of steps"]
    assert shares["muon"].value == pytest.approx((15 / 30 + 10 / 30) / 2)
    assert shares["sgd"] is None
