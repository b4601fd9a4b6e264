"""The logs of bench/details.py have in them what they are drawn for, and are cut at a moment."""

import numpy as np
import polars as pl
import pytest

from bench import details
from elcrec.details import DAY_US


@pytest.fixture(autouse=True)
def few_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(details, "USERS", 120)


def of_own_intent(log: details.Log, of_type: int) -> np.ndarray:
    """Share of each user's events of a type that are of the user's intent."""
    users = np.repeat(np.arange(len(log.before)), log.before.lengths)
    intents = (log.before.items - 1) // details.ITEMS_AN_INTENT
    chosen = log.before.types == of_type
    hits = (intents == log.truth[users]) & chosen
    counts = np.bincount(users[chosen], minlength=len(log.before))
    return np.bincount(users[hits], minlength=len(log.before))[counts > 0] / counts[counts > 0]


@pytest.mark.parametrize(("kind", "views"), [("plain", 0.85), ("accidental", 0.5), ("twins", 0.42)])
def test_purchases_are_of_the_own_intent_and_views_as_often_as_the_log_is_drawn_for(
    kind: str, views: float
) -> None:
    log = details.draw_log(kind, seed=1)
    assert (of_own_intent(log, details.PURCHASE) == 1).all()
    assert of_own_intent(log, details.VIEW).mean() == pytest.approx(views, abs=0.08)


def test_in_drift_some_users_had_another_intent_before() -> None:
    shares = of_own_intent(details.draw_log("drift", seed=1), details.PURCHASE)
    assert 0.3 < (shares == 1).mean() < 0.9


def test_a_log_is_cut_at_a_moment_and_asks_for_what_is_new_to_the_user() -> None:
    after = enumerate([(6, 2), (8, 1), (9, 2)])
    rows = [
        *((0, day * DAY_US, item, 1, 1.0) for day, item in enumerate([5, 6, 7])),
        *((0, 9 * DAY_US + place, item, kind, 1.0) for place, (item, kind) in after),
        *((1, day * DAY_US, 5, 1, 1.0) for day in range(2)),
        *((2, day * DAY_US, 5, 1, 1.0) for day in range(3)),
    ]
    events = pl.DataFrame(rows, ("user", "ts_us", "item", "type", "weight"), orient="row")
    log = details.cut(events, 9 * DAY_US, np.array([3, 4, 5]), 9)
    assert log.before.items.tolist() == [5, 6, 7, 5, 5, 5]  # user 1 has too few
    assert log.truth.tolist() == [3, 5]
    assert log.targets["all"].tolist() == [8, 0]
    assert log.targets["purchases"].tolist() == [9, 0]
    assert log.before.until_us == 9 * DAY_US
    again = details.draw_log("plain", seed=1), details.draw_log("plain", seed=1)
    assert again[0].before.items.tolist() == again[1].before.items.tolist()


def test_the_summary_is_of_all_seeds() -> None:
    rows = [
        {"log": "plain", "seed": seed, "switch": "items alone", "figures": {"NMI": value}}
        for seed, value in ((1, 0.5), (2, 0.7))
    ]
    [found] = details.summary(rows)
    assert found["seeds"] == 2
    assert found["mean"]["NMI"] == pytest.approx(0.6)
    assert found["spread"]["NMI"] == pytest.approx(0.1414, abs=1e-4)
