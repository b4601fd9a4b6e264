"""Adding a night's events to earlier histories gives the rows of building anew, or is not done."""

import datetime as dt
import random
import shutil
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from tasks.errors import NotReadyError, SettingsError
from tasks.lake import Lake, tables
from tasks.night.sequences import build_sequences
from tests.tasks.night.test_sequences import Event, day, histories, settings_for, write_events
from tests.tasks.nights import mark_ingested

USERS, ITEMS = 12, 20
CORE = {"min_user_events": 2, "min_item_events": 3}


def write_day(root: Path, number: int, chance: random.Random, rows: int = 25) -> None:
    """Replace the events of a day, some of them of the same user and time."""
    events: list[Event] = [
        (
            f"u{chance.randrange(USERS)}",
            f"i{chance.randrange(ITEMS)}",
            day(number),
            chance.randrange(4),
        )
        for _ in range(rows)
    ]
    write_events(root, events, source=chance.choice(["a.csv", "b.csv"]))


def sequences(root: Path, number: int) -> pl.DataFrame:
    return Lake(root).scan(tables.SEQUENCES, day(number), day(number)).sort("user_id").collect()


def kept_items(root: Path, number: int) -> dict[str, list[str]]:
    return histories(root, day(number))


def left_out(root: Path, number: int) -> pl.DataFrame:
    rows = Lake(root).scan(tables.LEFT_OUT_EVENTS, day(number), day(number))
    return rows.sort("position").collect()


def build(root: Path, number: int, **settings: Any) -> dt.date | None:
    """Build a night's histories, see that they are those of all events, return their base."""
    mark_ingested(root, [day(number)])  # also a night without events
    summary = build_sequences(settings_for(root, **settings), day(number))
    anew = root.with_name("anew")
    shutil.rmtree(anew, ignore_errors=True)
    shutil.copytree(root, anew)
    shutil.rmtree(anew / "sequence_inputs")
    other = build_sequences(settings_for(anew, **settings), day(number))
    assert other["added_to"] is None
    assert sequences(root, number).equals(sequences(anew, number))
    assert left_out(root, number).equals(left_out(anew, number))
    same = ["users", "events", "users_left_out", "items_known"]
    if "session_minutes" not in settings:  # of the events that were read: not the same ones
        same.append("events_left_out")
    assert [summary[key] for key in same] == [other[key] for key in same]
    return summary["added_to"] and dt.date.fromisoformat(summary["added_to"])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a lake with the events of days 0 to 4 and the histories of nights 0 to 3, once."""
    chance = random.Random(1)
    root = tmp_path_factory.mktemp("built") / "lake"
    for number in range(5):
        write_day(root, number, chance)
    for number in range(4):
        build(root, number, last_events=6)
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    """Give a test a copy of that lake, for itself."""
    return Path(shutil.copytree(built, tmp_path / "lake"))


@pytest.mark.slow
def test_a_night_adds_its_events_to_the_histories_of_the_night_before(root: Path) -> None:
    assert build(root, 4, last_events=6) == day(3)


@pytest.mark.slow
def test_a_night_that_runs_again_gives_the_same(root: Path) -> None:
    for _ in range(2):
        assert build(root, 3, last_events=6) == day(2)


@pytest.mark.slow
def test_a_night_without_events_hands_the_histories_on(root: Path) -> None:
    build(root, 4, last_events=6)
    assert build(root, 6, last_events=6) == day(4)


@pytest.mark.slow
def test_late_events_are_added_to_the_last_night_before_them(root: Path) -> None:
    write_day(root, 2, random.Random(7), rows=40)
    assert build(root, 4, last_events=6) == day(1)


@pytest.mark.slow
def test_events_before_the_first_night_are_not_missed(root: Path) -> None:
    write_day(root, -1, random.Random(7))
    assert build(root, 4, last_events=6) is None


def test_a_past_day_whose_events_are_gone_is_not_in_the_histories(root: Path) -> None:
    nothing = tables.EVENTS.schema.empty_table()
    Lake(root).replace(tables.EVENTS, nothing, nights=[day(0)])
    assert build(root, 4, last_events=6) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "other", [{"last_events": 5}, {"last_events": 7}, {"session_minutes": 60}, {"detailed": True}]
)
def test_histories_by_other_rules_are_built_anew(root: Path, other: dict[str, int]) -> None:
    assert build(root, 4, **{"last_events": 6, **other}) is None
    # And do not become the base of the others.
    assert build(root, 5, last_events=6) == day(3)


def test_a_base_that_was_written_to_by_another_hand_is_not_added_to(root: Path) -> None:
    Lake(root).replace(tables.SEQUENCES, sequences(root, 3).head(3), nights=[day(3)])
    assert build(root, 4, last_events=6) == day(2)


def test_a_vocabulary_that_was_made_anew_makes_the_histories_anew(root: Path) -> None:
    known = Lake(root).scan(tables.ITEMS).collect().with_columns(pl.col("item_index") + 100)
    shutil.rmtree(root / "items")
    Lake(root).append(tables.ITEMS, known)
    assert build(root, 4, last_events=6) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cut", "settings"),
    [
        (tables.SEQUENCE_INPUTS, {"last_events": 6}),
        (tables.SEQUENCE_INPUTS, CORE),
        (tables.LEFT_OUT_EVENTS, CORE),
    ],
)
def test_a_night_whose_run_was_cut_short_is_not_added_to(
    root: Path, cut: tables.Table, settings: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Lake.replace

    def crash(self: Lake, table: tables.Table, *args: Any, **kwargs: Any) -> None:
        if table is cut:
            raise KeyboardInterrupt
        replace(self, table, *args, **kwargs)

    for number in (2, 3):
        build(root, number, **settings)
    write_day(root, 3, random.Random(7))
    with monkeypatch.context() as broken:
        broken.setattr(Lake, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            build_sequences(settings_for(root, **settings), day(3))
    assert build(root, 4, **settings) == day(2)


@pytest.mark.slow
def test_a_lake_that_was_moved_goes_on(root: Path) -> None:
    moved = root.with_name("moved")
    root.rename(moved)
    assert build(moved, 4, last_events=6) == day(3)


@pytest.mark.slow
def test_a_core_grows_from_that_of_the_night_before(tmp_path: Path) -> None:
    root = tmp_path / "lake"
    first = [("old", "a", 1), ("new", "a", 2), ("old", "b", 3), ("old", "c", 4), ("other", "a", 5)]
    write_events(root, [(user, item, day(0), hour) for user, item, hour in first])
    core = {"min_user_events": 2, "min_item_events": 2}
    with pytest.raises(SettingsError, match="none of 3 users is left"):
        build_sequences(settings_for(root, **core), day(0))
    write_events(root, [("new", "c", day(1), 1), ("last", "c", day(1), 2)])
    assert build(root, 1, **core) is None
    assert kept_items(root, 1) == {"new": ["a", "c"], "old": ["a", "c"]}
    # b comes in, and with it an event of `old` from between two others.
    write_events(root, [("last", "b", day(2), 1), ("other", "b", day(2), 2)])
    assert build(root, 2, **core) == day(1)
    assert kept_items(root, 2) == {
        "last": ["c", "b"],
        "new": ["a", "c"],
        "old": ["a", "b", "c"],
        "other": ["a", "b"],
    }
    assert left_out(root, 2).is_empty()
    assert build(root, 3, **core) == day(2)  # without an event
    assert kept_items(root, 3) == kept_items(root, 2)


@pytest.mark.slow
def test_without_a_core_that_of_the_night_before_is_no_base(root: Path) -> None:
    assert build(root, 3, **CORE) is None
    assert not left_out(root, 3).is_empty()
    assert build(root, 4, last_events=6) == day(2)
    build(root, 3, last_events=6)
    assert left_out(root, 3).is_empty()
    build(root, 3, **CORE)
    assert build(root, 5, **CORE) == day(3)


@pytest.mark.slow
def test_a_core_of_a_version_that_kept_no_events_left_out_is_no_base(root: Path) -> None:
    build(root, 3, **CORE)
    inputs = Lake(root).scan(tables.SEQUENCE_INPUTS, day(3), day(3)).collect()
    older = inputs.with_columns(core_items=pl.lit(None, inputs.schema["core_items"]))
    Lake(root).replace(tables.SEQUENCE_INPUTS, older, nights=[day(3)])
    assert build(root, 4, **CORE) is None


@pytest.mark.slow
def test_where_more_is_left_out_than_kept_it_is_not_kept_for_the_next_night(tmp_path: Path) -> None:
    root = tmp_path / "lake"
    often = [(user, item, day(0), 1) for user in "xy" for item in "ab"]
    core = {"min_user_events": 2, "min_item_events": 2}
    for others, base in ((4, day(0)), (5, None)):
        once = [(f"u{number}", f"i{number}", day(0), 2) for number in range(others)]
        write_events(root, often + once)
        write_events(root, [("x", "a", day(1), 1)])
        summary = build_sequences(settings_for(root, **core), day(0))
        assert (summary["events"], summary["events_left_out"]) == (4, others)
        assert left_out(root, 0).is_empty() == (base is None)
        assert build(root, 1, **core) == base


def test_a_base_that_another_run_writes_meanwhile_is_asked_for_once_more(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = Lake.view

    def write_first(self: Lake, con: Any, table: tables.Table, *args: Any, **kwargs: Any) -> None:
        if table is tables.SEQUENCES and args[:1] == ("base",):
            self.replace(tables.SEQUENCES, sequences(root, 3).head(3), nights=[day(3)])
        view(self, con, table, *args, **kwargs)

    monkeypatch.setattr(Lake, "view", write_first)
    with pytest.raises(NotReadyError, match="another run has written night 2026-11-13"):
        build_sequences(settings_for(root, last_events=6), day(4))


def test_events_that_come_while_they_are_read_are_read_once_more(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_early(con: duckdb.DuckDBPyConnection, lake: Lake) -> int:
        lake.view(con, tables.ITEMS)
        write_events(root, [("u1", "new tonight", day(4), 1)])
        lake.view(con, tables.EVENTS, first=day(4), last=day(4))
        return 0

    monkeypatch.setattr("tasks.night.sequences._add_new_items", too_early)
    with pytest.raises(NotReadyError, match="while they were read"):
        build_sequences(settings_for(root, last_events=6), day(4))


@pytest.mark.slow
def test_a_base_without_the_events_it_left_out_is_not_added_to(root: Path) -> None:
    build(root, 3, **CORE)
    nothing = tables.LEFT_OUT_EVENTS.schema.empty_table()
    Lake(root).replace(tables.LEFT_OUT_EVENTS, nothing, nights=[day(3)])
    assert build(root, 4, **CORE) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "settings"),
    [
        (0, {}),
        (1, {}),
        (2, {}),
        (3, {"session_minutes": 60}),
        (4, {"min_user_events": 4}),
        (5, {"min_item_events": 3}),
        (6, {"min_user_events": 3, "min_item_events": 4}),
        (7, {"min_user_events": 3, "min_item_events": 3, "session_minutes": 60}),
        (8, {"detailed": True}),
        (9, {"detailed": True, "session_minutes": 60}),
        (10, {"detailed": True, "min_user_events": 3, "min_item_events": 4}),
    ],
)
def test_nights_in_any_order_with_late_events_between_are_those_of_all_events(
    tmp_path: Path, seed: int, settings: dict[str, int]
) -> None:
    chance = random.Random(seed)
    root = tmp_path / "lake"
    has_core = settings_for(root, **settings).sequences.has_core
    # Enough for each core, and then left as they are.
    write_day(root, 0, chance, rows=90 if has_core else 25)
    bases = []
    for _ in range(14):
        for _ in range(chance.randrange(3)):
            late = chance.randrange(int(has_core), 6)
            write_day(root, late, chance, rows=chance.randrange(1, 30))
        number = chance.randrange(6)
        bases.append(build(root, number, last_events=5, **settings))
    assert set(map(bool, bases)) == {True, False}
