"""Histories and the vocabulary: order, k-core, indices that never change."""

import datetime as dt
import logging
import multiprocessing
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.errors import LakeError, NightError, SettingsError
from tasks.lake import Lake, duck, tables
from tasks.night.ingest import ingest
from tasks.night.sequences import _add_new_items, build_sequences
from tasks.settings import Settings, load_settings
from tests.places import Place
from tests.tasks.nights import mark_ingested

NIGHT = dt.date(2026, 11, 10)

# user, item, night, hour
Event = tuple[str, str, dt.date, int]


def settings_for(root: Place, *, detailed: bool = False, **sequences: Any) -> Settings:
    """Make settings; detailed: of a model that looks at types, weights and times."""
    model = {"overrides": {"weigh_events": True}} if detailed else {}
    settings = {"lake": {"root": root}, "sequences": sequences, "model": model}
    return load_settings(**settings, duckdb={"threads": 2})


def day(number: int) -> dt.date:
    return NIGHT + dt.timedelta(days=number)


def write_events(root: Place, events: list[Event], *, source: str = "events.csv") -> None:
    """Put events into the lake as ingest does, in rows numbered as given."""
    frame = pl.DataFrame(
        [
            {
                "dt": night,
                "user_id": user,
                "item_id": item,
                "event_type": ("view", "cart", "purchase")[number % 3],
                "ts": dt.datetime.combine(night, dt.time(hour), dt.UTC),
                "weight": (None, 1.5, 5.0)[number % 3],
                "source": source,
                "row_number": number,
                "ingested": night,
            }
            for number, (user, item, night, hour) in enumerate(events, start=1)
        ],
        schema_overrides={"weight": pl.Float32, "ts": pl.Datetime("us", "UTC")},
    )
    for night, rows in frame.group_by("dt"):
        Lake(root).replace(tables.EVENTS, rows, nights=[night[0]])
    mark_ingested(root, frame["dt"].unique())


def histories(root: Place, night: dt.date = NIGHT) -> dict[str, list[str]]:
    """Read the histories of a night back as item ids."""
    lake = Lake(root)
    names = dict(lake.scan(tables.ITEMS).select("item_index", "item_id").collect().iter_rows())
    rows = lake.scan(tables.SEQUENCES, night, night).select("user_id", "items").collect()
    return {user: [names[item] for item in items] for user, items in rows.iter_rows()}


def details(root: Place, user: str) -> dict[str, list[Any] | None]:
    """Read what a user's history of NIGHT says of its events."""
    rows = Lake(root).scan(tables.SEQUENCES, NIGHT, NIGHT).filter(user_id=user).collect()
    return {name: rows[name].to_list()[0] for name in ("types", "weights", "times")}


def vocabulary(root: Place) -> list[tuple[str, int, dt.date]]:
    return list(Lake(root).scan(tables.ITEMS).sort("item_index").collect().iter_rows())


@pytest.mark.slow
@pytest.mark.parametrize("core", [1, 5])
def test_published_beauty_comes_out_exactly(tmp_path: Path, real_data: Path, core: int) -> None:
    source = real_data / "Beauty.txt"
    if not source.is_file():
        pytest.skip(f"{source} is not there")
    settings = load_settings(
        source={"path": str(source)},
        lake={"root": tmp_path},
        sequences={"min_user_events": core, "min_item_events": core},
    )
    ingest(settings, NIGHT)
    summary = build_sequences(settings, NIGHT)
    assert (summary["users"], summary["items_known"], summary["events"]) == (
        22_363,
        12_101,
        198_502,
    )
    lines = [line.split() for line in source.read_text("utf-8").splitlines()]
    assert histories(tmp_path) == {user: items for user, *items in lines}
    indices = Lake(tmp_path).scan(tables.ITEMS).select("item_index").collect().to_series()
    assert sorted(indices) == list(range(1, 12_102))


def test_a_history_is_in_order_of_time(tmp_path: Path) -> None:
    events = [("ann", "late", day(0), 9), ("ann", "early", day(-3), 9), ("ann", "mid", day(0), 8)]
    write_events(tmp_path, events)
    build_sequences(settings_for(tmp_path), NIGHT)
    assert histories(tmp_path) == {"ann": ["early", "mid", "late"]}


@pytest.mark.slow
def test_an_item_counts_once_a_session(tmp_path: Path) -> None:
    seen = [("ann", item, day(-1), hour) for item, hour in (("a", 9), ("b", 10), ("a", 11))]
    later = [("ann", "b", day(-1), 14), ("ann", "b", day(-1), 23), ("ann", "b", day(0), 0)]
    write_events(tmp_path, [*seen, *later, ("bob", "a", day(-1), 11), ("bob", "c", day(-1), 12)])
    build_sequences(settings_for(tmp_path), NIGHT)
    assert histories(tmp_path)["ann"] == ["a", "b", "a", "b", "b", "b"]
    summary = build_sequences(settings_for(tmp_path, session_minutes=60), NIGHT)
    # A session ends after an hour without an event, with the day, and is of one user.
    assert histories(tmp_path) == {"ann": ["b", "a", "b", "b", "b"], "bob": ["a", "c"]}
    assert (summary["events"], summary["events_left_out"]) == (7, 1)
    rows = Lake(tmp_path).scan(tables.SEQUENCES, NIGHT, NIGHT).sort("user_id").collect()
    assert rows["n_events"].to_list() == [5, 2]
    # What counts once is one event of the smallest number, too.
    build_sequences(settings_for(tmp_path, session_minutes=240, min_item_events=3), NIGHT)
    assert histories(tmp_path) == {"ann": ["b", "b", "b"]}


def test_a_history_says_what_its_events_do_where_the_model_looks_at_it(tmp_path: Path) -> None:
    seen = [("ann", "a", day(-1), 9), ("bob", "a", day(-1), 9), ("ann", "b", day(0), 8)]
    write_events(tmp_path, seen)
    build_sequences(settings_for(tmp_path), NIGHT)
    assert details(tmp_path, "ann") == {"types": None, "weights": None, "times": None}
    assert build_sequences(settings_for(tmp_path, detailed=True), NIGHT)["users"] == 2
    times = [dt.datetime.combine(day(n), dt.time(h), dt.UTC) for n, h in ((-1, 9), (0, 8))]
    expected = {"types": ["cart", "view"], "weights": [1.5, None], "times": times}
    assert details(tmp_path, "ann") == expected
    build_sequences(settings_for(tmp_path, detailed=True, last_events=1), NIGHT)
    assert details(tmp_path, "ann") == {name: values[1:] for name, values in expected.items()}


def test_of_a_session_the_strongest_type_stays(tmp_path: Path) -> None:
    # In turn a cart of 1.5, a purchase of 5, a view without a weight.
    write_events(tmp_path, [("ann", "a", NIGHT, hour) for hour in (9, 10, 11)])
    build_sequences(settings_for(tmp_path, detailed=True, session_minutes=60), NIGHT)
    last = dt.datetime.combine(NIGHT, dt.time(11), dt.UTC)
    assert details(tmp_path, "ann") == {"types": ["purchase"], "weights": [5.0], "times": [last]}


def test_settings_without_sessions_are_those_from_before_there_were_any() -> None:
    plain = load_settings().sequences
    assert plain.rules() == {"last_events": 256, "min_user_events": 1, "min_item_events": 1}
    assert "session_minutes" in load_settings(sequences={"session_minutes": 30}).sequences.rules()


def test_events_of_the_same_time_are_in_the_order_they_were_read(tmp_path: Path) -> None:
    items = ["d", "b", "a", "c", "b", "e"]
    write_events(tmp_path, [("ann", item, day(0), 9) for item in items])
    for last_events in (256, 4):
        build_sequences(settings_for(tmp_path, last_events=last_events), NIGHT)
        assert histories(tmp_path) == {"ann": items[-last_events:]}


def test_events_of_the_same_time_are_in_the_order_of_their_files(tmp_path: Path) -> None:
    chance = random.Random(3)
    rows = [
        {
            "dt": NIGHT,
            "user_id": f"u{chance.randrange(4)}",
            "item_id": f"i{number}",
            "event_type": "event",
            "ts": dt.datetime.combine(NIGHT, dt.time(chance.randrange(3)), dt.UTC),
            "weight": None,
            "source": chance.choice(["b.csv", "B.csv", "a/b.csv"]),
            "row_number": chance.randrange(10**6),
            "ingested": NIGHT,
        }
        for number in range(100)
    ]
    types = {"weight": pl.Float32, "ts": pl.Datetime("us", "UTC")}
    Lake(tmp_path).replace(
        tables.EVENTS, pl.DataFrame(rows, schema_overrides=types), nights=[NIGHT]
    )
    mark_ingested(tmp_path, [NIGHT])
    build_sequences(settings_for(tmp_path), NIGHT)
    rows.sort(key=lambda row: (row["ts"], str(row["source"]), row["row_number"]))
    assert histories(tmp_path) == {
        user: [row["item_id"] for row in rows if row["user_id"] == user]
        for user in sorted({str(row["user_id"]) for row in rows})
    }


def test_a_history_keeps_the_last_events_and_counts_all(tmp_path: Path) -> None:
    write_events(tmp_path, [("ann", f"i{hour}", day(0), hour) for hour in range(10)])
    build_sequences(settings_for(tmp_path, last_events=3), NIGHT)
    (row,) = Lake(tmp_path).scan(tables.SEQUENCES).collect().to_dicts()
    assert histories(tmp_path)["ann"] == ["i7", "i8", "i9"]
    assert row["n_events"] == 10
    assert row["last_ts"] == dt.datetime.combine(NIGHT, dt.time(9), dt.UTC)


def test_a_night_reads_no_event_of_a_later_night(root: Place) -> None:
    events = [("ann", "a", day(0), 1), ("ann", "b", day(1), 1), ("bob", "c", day(1), 1)]
    write_events(root, events)
    build_sequences(settings_for(root), NIGHT)
    assert histories(root) == {"ann": ["a"]}
    assert vocabulary(root) == [("a", 1, day(0))]


@pytest.mark.slow
def test_new_items_get_the_next_indices_by_day_then_by_id(root: Place) -> None:
    events = [("u", "z", day(-2), 5), ("u", "b", day(0), 1), ("u", "a", day(0), 2)]
    write_events(root, events)
    build_sequences(settings_for(root), NIGHT)
    known = [("z", 1, day(-2)), ("a", 2, day(0)), ("b", 3, day(0))]
    assert vocabulary(root) == known
    write_events(root, [*events, ("u", "0", day(1), 1), ("u", "a", day(1), 2)])
    build_sequences(settings_for(root), day(1))
    assert vocabulary(root) == [*known, ("0", 4, day(1))]


@pytest.mark.slow
def test_a_rerun_or_a_backfill_changes_no_index_and_no_row(root: Place) -> None:
    events = [(f"u{i % 7}", f"i{i % 11}", day(i % 5 - 4), i % 24) for i in range(200)]
    write_events(root, events)
    lake = Lake(root)

    def build(night: dt.date) -> tuple[pl.DataFrame, list[tuple[str, int, dt.date]]]:
        build_sequences(settings_for(root), night)
        return lake.scan(tables.SEQUENCES, night, night).sort("user_id").collect(), vocabulary(root)

    nightly = {day(number): build(day(number))[0] for number in range(-4, 1)}
    final = vocabulary(root)
    for night in (day(0), day(-3), day(-3)):
        rows, items = build(night)
        assert rows.equals(nightly[night])
        assert items == final


def test_two_runs_that_meet_give_each_item_one_index(
    root: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_events(root, [("ann", "a", day(0), 1), ("ann", "b", day(0), 2)])
    append, met = Lake.append, []

    def after_the_other_run(self: Lake, *args: Any, **kwargs: Any) -> None:
        if not met:
            met.append(True)
            build_sequences(settings_for(root), NIGHT)
        append(self, *args, **kwargs)

    monkeypatch.setattr(Lake, "append", after_the_other_run)
    write_events(root, [("ann", "c", day(-1), 1)])
    build_sequences(settings_for(root), NIGHT)
    assert [row[:2] for row in vocabulary(root)] == [("c", 1), ("a", 2), ("b", 3)]
    assert histories(root) == {"ann": ["c", "a", "b"]}


def k_core(events: list[Event], users: int, items: int) -> list[Event]:
    """Filter as the definition says, one pass after the other."""
    while True:
        by_user = [user for user, *_ in events]
        by_item = [item for _, item, *_ in events]
        kept = [
            event
            for event in events
            if by_user.count(event[0]) >= users and by_item.count(event[1]) >= items
        ]
        if kept == events:
            return kept
        events = kept


@pytest.mark.parametrize(("users", "items"), [(1, 3), (3, 1), (4, 3), (5, 4)])
def test_k_core_is_repeated_until_every_user_and_item_has_enough(
    tmp_path: Path, users: int, items: int
) -> None:
    # Rare items make users rare, which makes items rare: one pass is not enough.
    chance = random.Random(5)
    events = [
        (f"u{int(40 * chance.random() ** 2)}", f"i{int(30 * chance.random() ** 2)}", day(0), i % 24)
        for i in range(150)
    ]
    write_events(tmp_path, events)
    summary = build_sequences(
        settings_for(tmp_path, min_user_events=users, min_item_events=items), NIGHT
    )
    kept = k_core(events, users, items)
    found = histories(tmp_path)
    assert 0 < len(kept) < len(events)
    assert {user: len(history) for user, history in found.items()} == {
        user: [event[0] for event in kept].count(user) for user, *_ in kept
    }
    assert summary["events"] == len(kept)
    assert summary["events_left_out"] == len(events) - len(kept)
    assert len(vocabulary(tmp_path)) == len({item for _, item, *_ in events})


def test_settings_that_leave_no_user_are_named(tmp_path: Path) -> None:
    write_events(tmp_path, [("ann", "a", day(0), 1), ("bob", "a", day(0), 2)])
    before = settings_for(tmp_path)
    build_sequences(before, NIGHT)
    with pytest.raises(SettingsError, match=r"none of 2 users.*min_user_events is 5"):
        build_sequences(settings_for(tmp_path, min_user_events=5), NIGHT)
    assert histories(tmp_path) == {"ann": ["a"], "bob": ["a"]}


def test_a_night_that_was_not_read_or_has_no_events_names_the_step_to_run(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="was not ingested: run the step ingest"):
        build_sequences(settings_for(tmp_path), NIGHT)
    mark_ingested(tmp_path, [NIGHT])
    with pytest.raises(NightError, match=r"no events up to night .* run the step ingest"):
        build_sequences(settings_for(tmp_path), NIGHT)


def test_a_night_is_not_built_from_the_nights_before_alone(tmp_path: Path) -> None:
    write_events(tmp_path, [("ann", "a", NIGHT, 1)])
    build_sequences(settings_for(tmp_path), NIGHT)
    with pytest.raises(LakeError, match="night 2026-11-11 was not ingested"):
        build_sequences(settings_for(tmp_path), day(1))


def test_a_crash_after_the_vocabulary_was_written_is_mended_by_a_rerun(
    root: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_events(root, [("ann", "a", day(0), 1), ("ann", "b", day(0), 2)])

    def crash(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(Lake, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            build_sequences(settings_for(root), NIGHT)
    items = vocabulary(root)
    build_sequences(settings_for(root), NIGHT)
    assert vocabulary(root) == items
    assert histories(root) == {"ann": ["a", "b"]}


ROUNDS = 15


def _add_items(root: Path, run: int, each: Any, met: Any) -> None:
    """Add the items of every second night, each as the other run adds those of the night beside."""

    class Counter(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            met.value += "written to by another run" in record.getMessage()

    logging.getLogger("tasks.night.sequences").addHandler(Counter())
    logging.getLogger("tasks.night.sequences").setLevel(logging.INFO)
    lake = Lake(root)
    with duck.connect(settings_for(root)) as con:
        for number in range(run, 2 * ROUNDS, 2):
            lake.view(con, tables.EVENTS, first=day(number), last=day(number))
            each.wait(60)
            _add_new_items(con, lake)


@pytest.mark.slow
def test_two_runs_that_meet_give_no_index_twice_and_change_none(tmp_path: Path) -> None:
    # Each night has items of its own, and some that the other run meets at the same time.
    events = [
        ("u", item, day(number), 1)
        for number in range(2 * ROUNDS)
        for some in range(3)
        for item in (f"of night {number:02d} {some}", f"of both {number // 2:02d} {some}")
    ]
    write_events(tmp_path, events)
    spawn = multiprocessing.get_context("spawn")
    each, met = spawn.Barrier(2), [spawn.Value("i", 0), spawn.Value("i", 0)]
    runs = [
        spawn.Process(target=_add_items, args=(tmp_path, run, each, met[run])) for run in (0, 1)
    ]
    for process in runs:
        process.start()
    seen: dict[str, int] = {}
    while any(process.is_alive() for process in runs):
        known = {item: index for item, index, _ in vocabulary(tmp_path)}
        assert {item: known.get(item) for item in seen} == seen
        seen = known
    assert [process.exitcode for process in runs] == [0, 0]
    rows = vocabulary(tmp_path)
    assert {item: index for item, index, _ in rows if item in seen} == seen
    assert [index for _, index, _ in rows] == [*range(1, len(rows) + 1)]
    assert sorted(item for item, _, _ in rows) == sorted({item for _, item, _, _ in events})
    assert met[0].value + met[1].value > 0, "the runs never met: this has shown nothing"
