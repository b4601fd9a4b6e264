"""Profiles of a night: what users do next, who is closest, where they came from, how many."""

import datetime as dt
import os
import signal
import subprocess
import sys

import pytest

from tasks.chores.forget import forget
from tasks.lake import Lake, tables
from tasks.registry import profiles
from tasks.registry.inputs import inputs_of
from tasks.settings import REPO, Settings
from tests.tasks.nights import NIGHT, table
from tests.tasks.profiles import Users, profile_by_hand, write_catalogue

DAY = dt.timedelta(days=1)
BEFORE: Users = {f"u{n}": (n // 10, [1 + n // 10, 4 + n % 3]) for n in range(30)}
# Two users of intent 0 go to 1, one of them loses the label, and one is new.
NOW: Users = BEFORE | {
    "u0": (1, [1, 4]),
    "u1": (1, [1, 4, 5]),
    "u2": (None, []),
    "new": (0, [1, 4, 4, 4, 4, 4]),
}
OF_PROFILES = (
    tables.INTENT_FEATURES,
    tables.INTENT_NEXT_ITEMS,
    tables.INTENT_USERS,
    tables.INTENT_FLOWS,
    tables.INTENT_NAMES,
    tables.INTENT_PROFILES,
)


@pytest.mark.slow
def test_flows_say_where_users_came_from_and_went_to(settings: Settings) -> None:
    profile_by_hand(settings, NIGHT, BEFORE)
    assert table(settings, tables.INTENT_FLOWS, NIGHT).is_empty()
    profile_by_hand(settings, NIGHT + DAY, NOW, previous=NIGHT)
    flows = table(settings, tables.INTENT_FLOWS, NIGHT + DAY)
    found = {(one, other): users for _, one, other, users in flows.iter_rows()}
    assert found == {(0, 0): 7, (0, 1): 2, (0, None): 1, (None, 0): 1, (1, 1): 10, (2, 2): 10}
    assert sum(found.values()) == len(NOW)


@pytest.mark.slow
def test_sizes_are_held_against_those_of_earlier_nights(settings: Settings) -> None:
    profile_by_hand(settings, NIGHT - 6 * DAY, BEFORE)
    profile_by_hand(settings, NIGHT, {user: BEFORE[user] for user in list(BEFORE)[:20]})
    profile_by_hand(settings, NIGHT + DAY, NOW | {"one": (7, [1])})
    sizes = profiles.sizes(Lake(settings.lake.root), NIGHT + DAY).to_dicts()
    kept = [[row[f"users{end}"] for end in ("", "_1", "_7", "_28")] for row in sizes]
    assert kept == [
        [8, 10, 10, None],
        [12, 10, 10, None],
        [10, None, 10, None],
        [1, None, None, None],
    ]
    assert sizes[0]["share"] == pytest.approx(8 / 31)
    assert sizes[0]["share_1"] == pytest.approx(1 / 2)


def test_closest_users_are_the_surest_and_are_forgotten(settings: Settings) -> None:
    profile_by_hand(settings, NIGHT, NOW)
    closest = table(settings, tables.INTENT_USERS, NIGHT).filter(intent_id=0).sort("rank")
    assert closest["user_id"].to_list() == ["new", "u3", "u4", "u5", "u6"]
    removed = forget(settings, ["new"])["tables"]["intent_users"]
    assert removed["rows_removed"] == 1 and removed["left"] == 0
    assert "new" not in table(settings, tables.INTENT_USERS)["user_id"].to_list()
    assert table(settings, tables.INTENT_USERS).height == 14


def test_next_items_have_titles_and_are_those_of_the_centre(settings: Settings) -> None:
    write_catalogue(settings, NIGHT, {1: ("One", []), 2: (None, [])})
    profile_by_hand(settings, NIGHT, BEFORE)
    rows = table(settings, tables.INTENT_NEXT_ITEMS, NIGHT).sort("intent_id", "rank")
    assert rows.height == 3 * 6, "all six items, for there are no more"
    for _, of_intent in rows.group_by("intent_id"):
        assert of_intent["score"].is_sorted(descending=True)
        assert of_intent["rank"].to_list() == list(range(1, 7))
        assert of_intent["item_id"].n_unique() == 6
    assert dict(rows.select("item_id", "title").unique().iter_rows())["i1"] == "One"
    assert rows.filter(item_id="i2")["title"].null_count() == 3


@pytest.mark.slow
def test_names_of_nights_before_are_what_a_night_stands_on(settings: Settings) -> None:
    def stood_on() -> list[str]:
        found = inputs_of(settings, "label", NIGHT + DAY)
        return [one.digest for one in found if one.input == "names before"]

    assert stood_on() == [], "an old lake has none, and its nights are not stale for that"
    profile_by_hand(settings, NIGHT, BEFORE)
    before = stood_on()
    profile_by_hand(settings, NIGHT, BEFORE)
    profile_by_hand(settings, NIGHT + DAY, NOW)
    assert stood_on() == before and len(before) == 1
    profile_by_hand(settings, NIGHT, NOW | {"one": (7, [1])})
    assert stood_on() != before
    assert not any(
        one.input == "names before"
        for one in inputs_of(settings, "label", NIGHT + DAY, relabelled_with="x")
    )


# Profiles a night in a process that kills itself before the n-th table is written.
KILLED = """
import os, signal, sys
from tasks.lake import Lake
from tasks.settings import load_settings
from tests.tasks.profiles import profile_by_hand
from tests.tasks.nights import NIGHT, small_settings
from tests.tasks.registry.test_profiles import DAY, NOW, OF_PROFILES

replace = Lake.replace
def replace_or_die(self, table, *arguments, **more):
    if table is OF_PROFILES[int(sys.argv[2])]:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, table, *arguments, **more)
Lake.replace = replace_or_die
profile_by_hand(small_settings(sys.argv[1]), NIGHT + DAY, NOW, previous=NIGHT)
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", [1, 4, 5])
def test_a_run_killed_between_two_tables_is_completed_by_another(
    settings: Settings, place: int
) -> None:
    profile_by_hand(settings, NIGHT, BEFORE)
    arguments = [str(settings.lake.root), str(place)]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], cwd=REPO, check=False, env=environment
    )
    assert killed.returncode == -signal.SIGKILL
    assert table(settings, tables.INTENT_PROFILES, NIGHT + DAY).is_empty()
    profile_by_hand(settings, NIGHT + DAY, NOW, previous=NIGHT)
    after = [table(settings, which).to_dicts() for which in OF_PROFILES]
    profile_by_hand(settings, NIGHT + DAY, NOW, previous=NIGHT)
    assert [table(settings, which).to_dicts() for which in OF_PROFILES] == after
    assert all(rows for rows in after)
