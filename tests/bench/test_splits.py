"""The split at a time: what is learned, what is asked for, and how figures are averaged."""

import numpy as np
import polars as pl
import pytest

from bench.quality import first_after
from bench.splits import Log, Side, by_time, left_out, two_times
from elcrec import Histories
from elcrec.evaluation import hit_rate_and_ndcg, popularity_baseline, popularity_ranks
from elcrec.histories import Split
from elcrec.intents import intent_lift


def log(*events: tuple[str, str, int]) -> Log:
    return Log.of(pl.DataFrame(events, schema=["user", "item", "time"], orient="row"))


@pytest.fixture
def small() -> Log:
    return log(
        ("a", "x", 1),
        ("a", "y", 2),
        ("b", "y", 3),
        ("b", "z", 4),
        ("a", "z", 10),  # the first target of a
        ("a", "x", 11),  # a had it before
        ("a", "new", 12),  # nobody had it before 10
        ("b", "x", 13),  # the target of b
        ("c", "x", 14),  # c has no history yet
        ("c", "y", 15),  # the target of c, who was not there before 10
    )


def drawn(users: int = 60, items: int = 30, events: int = 2_000) -> Log:
    rng = np.random.default_rng(3)
    item = rng.zipf(1.5, events) % items
    return Log.of(
        pl.DataFrame({"user": rng.integers(users, size=events), "item": item}).with_row_index(
            "time"
        )
    )


def test_items_are_numbered_as_they_appear(small: Log) -> None:
    assert small.items.tolist() == [1, 2, 2, 3, 3, 1, 4, 1, 1, 2]


def test_what_came_before_the_time_is_learned_and_what_came_after_is_asked(small: Log) -> None:
    side = by_time(small, 10)
    assert side.n_items == 3
    assert [history.tolist() for history in side.learn] == [[1, 2], [2, 3], []]
    assert side.users.tolist() == [0, 1, 2]
    assert side.asked.targets.tolist() == [3, 1, 2]
    assert [history.tolist() for history in side.asked.histories] == [[1, 2], [2, 3], [1]]


def test_a_history_goes_on_after_the_time_up_to_its_target() -> None:
    side = by_time(
        log(("a", "x", 1), ("b", "y", 1), ("b", "z", 2), ("a", "y", 5), ("a", "z", 6)), 5
    )
    assert [history.tolist() for history in side.asked.histories] == [[1], [1, 2]]
    assert side.asked.targets.tolist() == [2, 3]


def test_validation_knows_nothing_from_its_end_on(small: Log) -> None:
    side = by_time(small, 10, until=13)
    assert side.users.tolist() == [0]
    later = log(*zip("ab", "xy", (1, 2), strict=True), ("a", "y", 5), ("b", "x", 9))
    assert by_time(later, 5, until=9).users.tolist() == [0]


def test_the_validation_ends_where_the_test_begins() -> None:
    events = drawn()
    validation, test = two_times(events)
    ends = events.time_at(0.9)
    learned_by_test = test.learn.items.size
    assert learned_by_test == (events.times < ends).sum()
    assert validation.learn.items.size == (events.times < events.time_at(0.8)).sum()
    assert validation.users.size + validation.learn.items.size <= learned_by_test


def test_a_user_counts_once_however_many_targets_there_are(small: Log) -> None:
    side = by_time(small, 10)
    several = Side(side.learn, side.n_items, side.asked, np.array([0, 0, 1]))
    assert several.figures(np.array([0, 50, 0]))["HR@5"] == pytest.approx((0.5 + 1) / 2)


def test_with_one_target_a_user_figures_are_those_of_leave_one_out() -> None:
    rng = np.random.default_rng(0)
    histories = Histories.from_lists([rng.permutation(np.arange(1, 31))[:8] for _ in range(50)])
    _, test = left_out(histories, 30)
    counts = np.bincount(test.asked.histories.items, minlength=31)
    ranks = popularity_ranks(test.asked, counts)
    assert test.figures(ranks) == pytest.approx(popularity_baseline(histories, 30, cutoffs=(5, 20)))
    assert test.figures(ranks) == pytest.approx(hit_rate_and_ndcg(ranks, (5, 20)))
    labels = rng.integers(4, size=50)
    assert test.lift(labels) == pytest.approx(intent_lift(labels, histories, 30))


def test_labels_count_for_users_who_had_a_history_then_alone(small: Log) -> None:
    many = Histories.from_lists([[1, 2, 30], [1, 2, 30], [3, 4, 29], [3, 4, 29], []])
    asked = Split(Histories.from_lists([[1, 2], [3, 4], [5]]), np.array([30, 29, 6], np.int32))
    side = Side(many, 30, asked, np.array([0, 2, 4]))
    with_stranger = side.lift(np.array([0, 0, 1, 1, -1]))
    known = Split(asked.histories.slice(0, 2), asked.targets[:2])
    assert with_stranger == Side(many, 30, known, np.array([0, 2])).lift(np.array([0, 0, 1, 1, -1]))


def test_the_epoch_is_chosen_by_what_users_did_first_after_the_validation_time() -> None:
    validation, _ = two_times(drawn())
    histories, held_out = first_after(validation)
    known = histories.drop_last(2, held_out)
    np.testing.assert_array_equal(known.items, validation.learn.items)
    for user in np.flatnonzero(held_out):
        mine = np.flatnonzero(validation.users == user)[0]
        assert histories[user][-2] == validation.asked.targets[mine]
    asked = np.unique(validation.users)
    assert held_out[asked].sum() == (validation.learn.lengths[asked] > 0).sum() == held_out.sum()
