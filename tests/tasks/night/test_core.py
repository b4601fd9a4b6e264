"""Order and k-core on columns of numbers, against the plain way to say it."""

import numpy as np
import pytest

from tasks.night.core import (
    US_A_DAY,
    US_A_MINUTE,
    in_order,
    k_core,
    last_of_each,
    once_a_session,
    stable_order,
    strongest_a_session,
)


@pytest.mark.parametrize("highest", [1, 1000, 2**40, 2**62])
@pytest.mark.parametrize("rows", [0, 1, 3000])
def test_equal_keys_keep_their_order_however_wide_the_keys_are(rows: int, highest: int) -> None:
    chance = np.random.default_rng(rows)
    keys = chance.integers(-highest, highest, rows, dtype=np.int64)
    assert stable_order(keys).tolist() == sorted(range(rows), key=lambda row: keys[row])
    runs = np.concatenate([np.sort(keys), np.sort(keys)])
    assert stable_order(runs).tolist() == sorted(range(2 * rows), key=lambda row: runs[row])


def test_order_looks_at_the_second_key_only_where_the_first_is_the_same() -> None:
    first = np.array([1, 1, 2])
    assert in_order(first, np.array([5, 6, 0]))
    assert not in_order(first, np.array([6, 5, 7]))
    assert not in_order(np.array([2, 1]), np.array([1, 2]))


@pytest.mark.parametrize(("min_user", "min_item"), [(1, 1), (2, 1), (1, 4), (3, 2), (5, 5)])
@pytest.mark.parametrize("seed", range(5))
def test_the_core_is_what_remains_when_rare_ones_are_dropped_again_and_again(
    seed: int, min_user: int, min_item: int
) -> None:
    chance = np.random.default_rng(seed)
    users = np.sort((60 * chance.random(250) ** 2).astype(np.int32))
    items = (50 * chance.random(250) ** 2).astype(np.int32)
    left = np.ones(len(users), dtype=np.bool_)
    while True:
        often = np.bincount(users[left], minlength=60)[users] >= min_user
        wanted = np.bincount(items[left], minlength=50)[items] >= min_item
        if (left & often & wanted).sum() == left.sum():
            break
        left &= often & wanted
    kept = k_core(users, items, min_user=min_user, min_item=min_item)
    assert kept.tolist() == left.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_a_core_grows_from_an_earlier_one_and_the_events_outside_of_it(seed: int) -> None:
    chance = np.random.default_rng(seed)
    users = (60 * chance.random(400) ** 2).astype(np.int32)
    items = (50 * chance.random(400) ** 2).astype(np.int32)
    first = np.flatnonzero(chance.random(400) < 0.7)
    first = first[np.argsort(users[first], kind="stable")]
    by_user = np.argsort(users, kind="stable")
    before = first[k_core(users[first], items[first], min_user=3, min_item=4)]
    whole = by_user[k_core(users[by_user], items[by_user], min_user=3, min_item=4)]
    outside = by_user[~np.isin(by_user, before)]
    core_users, core_items = np.zeros(60, bool), np.zeros(50, bool)
    core_users[users[before]], core_items[items[before]] = True, True
    joined = k_core(
        users[outside],
        items[outside],
        min_user=3,
        min_item=4,
        core_users=core_users,
        core_items=core_items,
    )
    assert 0 < len(before) < len(whole) < 400
    assert set(before) | set(outside[joined]) == set(whole)


def test_the_last_of_each_run_are_marked() -> None:
    marks = last_of_each(np.array([3, 1, 5, 2]), 2)
    assert marks.astype(int).tolist() == [0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("rows", [0, 1, 400])
@pytest.mark.parametrize("minutes", [0.5, 30, 5000])
@pytest.mark.parametrize("at_once", [1, 100, 2_000_000])
def test_an_item_counts_once_a_session_where_it_came_last(
    rows: int, minutes: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.night.core.AT_ONCE", at_once)
    chance = np.random.default_rng(rows)
    users = np.sort(chance.integers(0, 5, rows))
    items = chance.integers(0, 6, rows)
    ts_us = chance.integers(0, 3 * 24 * 60, rows) * US_A_MINUTE
    ts_us = ts_us[np.lexsort((ts_us, users))]
    sessions: list[list[int]] = []
    for row in range(rows):
        goes_on = (
            row > 0
            and users[row] == users[row - 1]
            and ts_us[row] // US_A_DAY == ts_us[row - 1] // US_A_DAY
            and ts_us[row] - ts_us[row - 1] <= minutes * US_A_MINUTE
        )
        sessions[-1:] = [[*sessions[-1], row]] if goes_on else [*sessions[-1:], [row]]
    kept = {max(row for row in session if items[row] == item)
            for session in sessions for item in set(items[session])}  # fmt: skip
    marks = once_a_session(users, items, ts_us, minutes=minutes)
    assert set(np.flatnonzero(marks)) == kept
    weights = chance.choice(np.array([np.nan, 0.5, 1, 5], np.float32), rows)
    heavy = np.where(np.isnan(weights), 1, weights)
    strongest = {
        max(same): max(same, key=lambda row: (heavy[row], row))
        for session in sessions
        for item in set(items[session])
        for same in [[row for row in session if items[row] == item]]
    }
    found = strongest_a_session(users, items, ts_us, weights, minutes=minutes)
    assert found.tolist() == [strongest[row] for row in sorted(kept)]
