"""Every intent has one place on the map, and keeps it."""

import datetime as dt

import numpy as np
import pytest

from tasks.lake import Lake, tables
from tasks.registry import places
from tasks.settings import Settings
from tests.tasks.nights import NIGHT, table
from tests.tasks.profiles import Users, profile_by_hand

DAY = dt.timedelta(days=1)
USERS: Users = {f"u{n}": (n % 4, [1 + n % 4]) for n in range(12)}


def circle(*degrees: float) -> np.ndarray:
    angles = np.deg2rad(degrees)
    return np.column_stack([np.cos(angles), np.sin(angles)])


@pytest.mark.slow
def test_an_intent_keeps_its_place_and_a_new_one_gets_one(settings: Settings) -> None:
    profile_by_hand(settings, NIGHT, USERS)
    lake = Lake(settings.lake.root)
    before = places.of(lake)
    assert sorted(before) == [0, 1, 2, 3]
    profile_by_hand(settings, NIGHT + DAY, USERS | {"new": (9, [1])}, previous=NIGHT)
    after = places.of(lake)
    assert {intent: after[intent] for intent in before} == before
    assert sorted(after) == [0, 1, 2, 3, 9]
    assert table(settings, tables.INTENT_PLACES, NIGHT + DAY)["intent_id"].to_list() == [9]


@pytest.mark.slow
def test_a_night_that_runs_again_gives_the_same_places(settings: Settings) -> None:
    profile_by_hand(settings, NIGHT, USERS)
    profile_by_hand(settings, NIGHT + DAY, USERS | {"new": (9, [1])}, previous=NIGHT)
    before = places.of(Lake(settings.lake.root))
    profile_by_hand(settings, NIGHT, USERS)
    profile_by_hand(settings, NIGHT + DAY, USERS | {"new": (9, [1])}, previous=NIGHT)
    assert places.of(Lake(settings.lake.root)) == before


def test_a_relabelled_night_gives_no_places(settings: Settings) -> None:
    profile_by_hand(settings, NIGHT, USERS, gives_names=False)
    assert not places.of(Lake(settings.lake.root))


def test_alike_intents_are_near_each_other() -> None:
    apart = places.distances(circle(0, 10, 180, 190))
    laid = places.lay_out(apart)
    assert np.abs(laid).max() == 1
    found = np.linalg.norm(laid[:, None] - laid[None], axis=2)
    assert found[0, 1] < 0.3 and found[2, 3] < 0.3
    assert found[0, 2] > 1.5
    # One at 8 degrees lies beside the first two, one at 185 beside the others.
    new = places.distances(circle(8, 185, 0, 10, 180, 190))[:2, 2:]
    placed = places.among(laid, apart, new)
    assert np.linalg.norm(placed[0] - laid[0]) < 0.4 < np.linalg.norm(placed[0] - laid[2])
    assert np.linalg.norm(placed[1] - laid[2]) < 0.4 < np.linalg.norm(placed[1] - laid[0])


def test_few_intents_and_equal_ones_have_places_too() -> None:
    for centers in (np.ones((1, 3)), np.ones((2, 3)), np.ones((5, 3)), np.zeros((3, 3))):
        laid = places.lay_out(places.distances(centers))
        assert laid.shape == (len(centers), 2) and np.isfinite(laid).all()
    fixed = places.lay_out(places.distances(np.ones((1, 3))))
    alone = places.among(fixed, np.zeros((1, 1)), np.zeros((2, 1)))
    assert np.isfinite(alone).all()


def test_the_places_do_not_depend_on_the_order_of_new_ones() -> None:
    laid = places.lay_out(places.distances(circle(0, 90, 180)))
    apart = places.distances(circle(0, 90, 180))
    new = places.distances(circle(30, 100, 0, 90, 180))[:2, 2:]
    forth, back = places.among(laid, apart, new), places.among(laid, apart, new[::-1])
    assert np.allclose(forth, back[::-1])
