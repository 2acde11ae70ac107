"""Paired tests on a grid whose effects were put in by hand, against scipy's."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp, ttest_rel

from llmlite.audit.trends import (
    FACTORS,
    best_losses,
    changes,
    epochs_to_reach,
    ranking,
)
from llmlite.config import SearchSpace
from llmlite.intervals import paired

SPACE = SearchSpace((1e-3, 5e-4), (2, 6), (2, 4), (64,))
SEEDS = (1, 2, 3)
# In nats: half the rate, 6 layers, 4 heads, and what 4 heads bring in addition with 6 layers.
RATE, DEPTH, HEADS, BOTH = 0.20, -0.30, -0.05, -0.10


def loss(point: dict) -> float:
    low, deep, many = point["learning_rate"] < 1e-3, point["n_layer"] == 6, point["n_head"] == 4
    return 5 + RATE * low + DEPTH * deep + HEADS * many + BOTH * (deep and many)


@pytest.fixture
def epochs() -> pd.DataFrame:
    """A row an epoch, three a run: the second is the best. Runs differ by chance as well."""
    rng, rows = np.random.default_rng(0), []
    for seed in SEEDS:
        for point in SPACE.points():
            lowest = loss(point) + rng.normal(0, 0.02)
            for epoch, above in ((1, 0.9), (2, 0.0), (3, 0.1)):
                rows.append({**point, "seed": seed, "epoch": epoch, "valid_loss": lowest + above})
    return pd.DataFrame(rows).sample(frac=1, random_state=1)  # order must not matter


@pytest.fixture
def losses(epochs) -> pd.Series:
    return best_losses(epochs)


def of(losses: pd.Series, **levels) -> np.ndarray:
    """The losses of the runs with these values, in one order whatever the values."""
    return losses.xs(tuple(levels.values()), level=list(levels)).sort_index().to_numpy()


def assert_interval(ours, after, before):
    theirs = ttest_rel(after, before)
    low, high = theirs.confidence_interval()
    assert ours.value == pytest.approx(np.mean(after - before))
    assert (ours.low, ours.high) == pytest.approx((low, high))
    assert ours.of == f"{len(after)} pairs"


def test_a_run_counts_by_its_lowest_loss(epochs, losses):
    assert losses.index.names == FACTORS
    assert len(losses) == len(SPACE) * len(SEEDS)
    second = epochs[epochs.epoch == 2].set_index(FACTORS).valid_loss
    pd.testing.assert_series_equal(losses, second.sort_index())


@pytest.mark.parametrize(
    ("factor", "before", "after", "expected"),
    [
        ("learning_rate", 5e-4, 1e-3, -RATE),
        ("n_layer", 2, 6, DEPTH + BOTH / 2),
        ("n_head", 2, 4, HEADS + BOTH / 2),
    ],
)
def test_an_effect_is_scipys_paired_t_test(losses, factor, before, after, expected):
    ours = paired(changes(losses, factor))
    assert_interval(ours, of(losses, **{factor: after}), of(losses, **{factor: before}))
    assert ours.value == pytest.approx(expected, abs=0.03)
    assert ours.of == "12 pairs"


def test_a_pair_differs_in_the_factor_alone(losses):
    found = changes(losses, "n_head")
    assert sorted(found.index.names) == sorted(set(FACTORS) - {"n_head"})
    for index, change in found.items():
        rest = dict(zip(found.index.names, index, strict=True))
        two, four = (
            losses[tuple((rest | {"n_head": heads})[factor] for factor in FACTORS)]
            for heads in (2, 4)
        )
        assert change == four - two


def test_a_run_without_a_partner_is_left_out(losses):
    partial = losses.drop([(1e-3, 2, 4, 64, 1), (5e-4, 6, 2, 64, 3)])
    expected = changes(losses, "n_head").drop([(1e-3, 2, 64, 1), (5e-4, 6, 64, 3)])
    pd.testing.assert_series_equal(changes(partial, "n_head"), expected)


def test_a_change_of_changes_is_the_difference_of_two_effects(losses):
    ours = paired(changes(changes(losses, "n_head"), "n_layer"))
    change = {n: of(losses, n_head=4, n_layer=n) - of(losses, n_head=2, n_layer=n) for n in (2, 6)}
    assert_interval(ours, change[6], change[2])
    assert ours.value == pytest.approx(BOTH, abs=0.03)
    assert ours.high < 0
    assert ours.of == "6 pairs"


def test_a_change_of_changes_needs_all_four_runs(losses):
    partial = losses.drop([(1e-3, 2, 4, 64, 1)])
    assert len(changes(changes(partial, "n_head"), "n_layer")) == 5


def test_epochs_to_reach_a_loss_worked_out_by_hand():
    runs = {
        (1e-3, 2, 2, 64, 1): [5.0, 4.0, 3.0],
        (1e-3, 2, 2, 64, 2): [4.0, 5.0, 3.9],
        (1e-3, 2, 4, 64, 1): [5.0, 4.5, 4.4],
        (1e-3, 6, 4, 64, 1): [1.0, 1.0, 1.0],  # has no target
    }
    table = pd.DataFrame(
        [
            {**dict(zip(FACTORS, run, strict=True)), "epoch": epoch, "valid_loss": loss}
            for run, losses in runs.items()
            for epoch, loss in enumerate(losses, 1)
        ]
    )
    targets = pd.Series(
        [4.0, 4.0, 4.3, 2.0],
        pd.MultiIndex.from_tuples([*list(runs)[:3], (9.0, 9, 9, 9, 9)], names=FACTORS),
    )
    reached = epochs_to_reach(table, targets)
    assert reached.index.equals(targets.index)
    assert reached.tolist()[:2] == [2, 1]
    assert reached.isna().tolist() == [False, False, True, True]


def test_ranking_is_by_the_mean_and_paired_by_seed(losses):
    table = ranking(losses)
    means = losses.groupby(FACTORS[:-1]).mean().sort_values()
    assert [tuple(row) for row in table[FACTORS[:-1]].to_numpy()] == list(means.index)
    assert table.loss.tolist() == pytest.approx(means.tolist())
    assert table.iloc[0][FACTORS[:-1]].tolist() == [1e-3, 6, 4, 64]
    assert table.behind[0] == 0
    assert table.loc[0, ["low", "high"]].isna().all()
    best = losses.loc[means.index[0]]
    for row, configuration in enumerate(means.index[1:], 1):
        behind = losses.loc[configuration] - best
        low, high = ttest_1samp(behind, 0).confidence_interval()
        assert table.behind[row] == pytest.approx(behind.mean())
        assert (table.low[row], table.high[row]) == pytest.approx((low, high))


def test_a_configuration_of_fewer_seeds_is_ranked_as_if_it_had_all():
    """Seed 2 is worse by 0.5 for those that have it; 4 layers have seed 1 alone."""
    values = {
        (2, 1): 4.0,
        (2, 2): 4.5,
        (4, 1): 3.5,
        (6, 1): 3.0,
        (6, 2): 3.5,
    }
    index = [(1e-3, layers, 4, 64, seed) for layers, seed in values]
    losses = pd.Series(list(values.values()), pd.MultiIndex.from_tuples(index, names=FACTORS))
    table = ranking(losses)
    assert table.n_layer.tolist() == [6, 4, 2]
    assert table.loss.tolist() == pytest.approx([3.25, 3.75, 4.25])
    assert table.behind.tolist() == pytest.approx([0.0, 0.5, 1.0])
    one_pair, two_pairs = table.iloc[1], table.iloc[2]
    assert (one_pair.low, one_pair.high) == (-math.inf, math.inf)
    assert (two_pairs.low, two_pairs.high) == pytest.approx((1.0, 1.0))
