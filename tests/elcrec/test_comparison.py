"""The paired bootstrap against drawing users one by one, and against what it must tell apart."""

import numpy as np
import pytest

from elcrec import ELCRecError, comparison
from elcrec.comparison import Change, paired_change
from elcrec.evaluation import ndcg_of_users


def ndcgs(seed: int, users: int, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """NDCG@20 of two models, the first of which ranks `shift` places lower, give or take."""
    rng = np.random.default_rng(seed)
    ranks = rng.geometric(0.02, users) - 1
    other = np.maximum(ranks + rng.integers(-5, 6, users) + shift, 0)
    return ndcg_of_users(other, 20), ndcg_of_users(ranks, 20)


def test_the_interval_is_that_of_drawing_users_with_replacement():
    new, old = ndcgs(0, 500, 2)
    found = paired_change(new, old, resamples=4_000, seed=1)
    rng = np.random.default_rng(2)
    drawn = rng.integers(0, 500, (4_000, 500))
    changes = new[drawn].sum(1, dtype=float) / old[drawn].sum(1, dtype=float) - 1
    assert found.estimate == pytest.approx(new.sum(dtype=float) / old.sum(dtype=float) - 1)
    low, high = np.quantile(changes, [0.05, 0.95])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05 * (high - low))


@pytest.mark.slow
def test_what_is_worse_is_told_from_noise():
    assert all(paired_change(*ndcgs(seed, 2_000, 8)).high < 0 for seed in range(20))
    refused = 0
    for seed in range(100):
        one, other = ndcgs(seed, 2_000, 0)
        coin = np.random.default_rng(seed).random(2_000) < 0.5  # so neither is better
        mixed = paired_change(np.where(coin, one, other), np.where(coin, other, one))
        refused += mixed.high < 0
    # At a confidence of 95 %, one time in twenty.
    assert 0 < refused <= 12


def test_pairs_keep_what_is_the_same_in_both_out_of_the_interval():
    rng = np.random.default_rng(0)
    old = rng.random(300).astype(np.float32)
    change = paired_change((0.9 * old).astype(np.float32), old)
    assert change.low == pytest.approx(-0.1, abs=1e-6) == change.high
    shuffled = paired_change(rng.permutation(0.9 * old), old)
    assert shuffled.high - shuffled.low > 0.05


def test_the_same_seed_gives_the_same_interval_however_small_the_blocks(monkeypatch):
    new, old = ndcgs(3, 400, 1)
    once = paired_change(new, old, seed=5)
    assert paired_change(new, old, seed=5) == once != paired_change(new, old, seed=6)
    monkeypatch.setattr(comparison, "BLOCK_CELLS", 1)
    assert paired_change(new, old, seed=5) == once


def test_hits_of_nothing_are_compared_without_dividing_by_it():
    none, all_hit = np.zeros(50, bool), np.ones(50, bool)
    assert paired_change(none, none) == Change(0.0, 0.0, 0.0)
    assert paired_change(none, all_hit) == Change(-1.0, -1.0, -1.0)
    assert paired_change(all_hit, none) == Change(9.0, 9.0, 9.0)


@pytest.mark.parametrize(
    ("new", "old", "said"),
    [
        ([], [], "two arrays"),
        ([1.0], [1.0, 2.0], "two arrays"),
        ([np.nan], [1.0], "finite"),
        ([-1.0], [1.0], "not below 0"),
    ],
)
def test_figures_that_cannot_be_compared_are_refused(new, old, said):
    with pytest.raises(ELCRecError, match=said):
        paired_change(np.array(new), np.array(old))
