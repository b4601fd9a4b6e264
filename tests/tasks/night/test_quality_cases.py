"""What each expectation on a night's events lets pass and what it does not, case by case."""

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from tasks.errors import QualityError
from tasks.lake import Lake, tables
from tasks.night.quality import SUITES, check_events
from tasks.settings import Settings, load_settings

NIGHT = dt.date(2026, 11, 20)
MIDNIGHT = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
TYPES = [{"event_type": "cart", "events": 40}, {"event_type": "view", "events": 160}]


def _events() -> list[dict[str, Any]]:
    """Make 200 events, one each 432 s: 40 users, 20 items, each fifth one a cart."""
    return [
        {
            "dt": NIGHT,
            "user_id": f"user{number % 40}",
            "item_id": f"item{number % 20}",
            "event_type": "view" if number % 5 else "cart",
            "ts": MIDNIGHT + dt.timedelta(seconds=432 * number),
            "weight": 1.0,
            "source": "a.csv",
            "row_number": number + 1,
            "ingested": NIGHT,
        }
        for number in range(200)
    ]


def _earlier() -> list[dict[str, Any]]:
    """Count as many events on each of the 28 nights before; the first is the one just before."""
    return [{"dt": NIGHT - age * DAY, "events": 200, "event_types": TYPES} for age in range(1, 29)]


@dataclass
class Night:
    """What a check finds in the lake: a night as others are, until a case changes it."""

    events: list[dict[str, Any]] = field(default_factory=_events)
    ingest: dict[str, Any] = field(
        default_factory=lambda: {
            "dt": NIGHT,
            "source": "a.csv",
            "rows_read": 200,
            "rows_events": 200,
            "rows_quarantined": 0,
            "rows_duplicate": 0,
            "rows_late": 0,
            "rows_filtered": 0,
            "rows_other_nights": 0,
            "bootstrap": False,
        }
    )
    earlier: list[dict[str, Any]] = field(default_factory=_earlier)
    reads: list[dict[str, Any]] = field(default_factory=list)  # of the catalogue
    known_users: int = 36
    known_items: int = 18
    quality: dict[str, Any] = field(default_factory=dict)
    events_schema: pa.Schema = tables.EVENTS.schema

    def put(self, root: Path) -> Settings:
        """Write the tables below a folder; return settings on them."""
        lake = Lake(root)
        before = NIGHT - DAY
        # Not by the lake, which would refuse columns that are not its own.
        rows = pa.Table.from_pylist(self.events, schema=self.events_schema)
        write_deltalake(lake.path(tables.EVENTS), rows, partition_by=["dt"])
        _write(lake, tables.INGESTS, [self.ingest])
        _write(lake, tables.NIGHT_STATS, self.earlier)
        _write(lake, tables.CATALOGUE_READS, self.reads)
        if self.reads:
            _write(lake, tables.STEPS, [{"dt": before, "step": "check-events"}])
        users = [{"dt": before, "user_id": f"user{number}"} for number in range(self.known_users)]
        _write(lake, tables.SEQUENCES, users)
        items = [
            {"item_id": f"item{n}", "item_index": n + 1, "first_seen": before}
            for n in range(self.known_items)
        ]
        lake.append(tables.ITEMS, pa.Table.from_pylist(items, schema=tables.ITEMS.schema))
        return load_settings(
            lake={"root": root}, quality=self.quality, duckdb={"threads": 1}, source={"path": "x"}
        )


def _write(lake: Lake, table: tables.Table, rows: list[dict[str, Any]]) -> None:
    nights = sorted({row["dt"] for row in rows})
    if nights:
        lake.replace(table, pa.Table.from_pylist(rows, schema=table.schema), nights=nights)


Change = Callable[[Night], None]


def first(**values: Any) -> Change:
    """Change the first event."""
    return lambda night: night.events[0].update(values)


def last(**values: Any) -> Change:
    return lambda night: night.events[-1].update(values)


def many(count: int, **values: Any) -> Change:
    """Change the first events."""

    def change(night: Night) -> None:
        for event in night.events[:count]:
            event.update(values)

    return change


def again(**values: Any) -> Change:
    """Add the first event again, from another row."""
    return lambda night: night.events.append({**night.events[0], "row_number": 999, **values})


def counted(**values: int) -> Change:
    return lambda night: night.ingest.update(values)


def given(**values: Any) -> Change:
    """Change what else a check finds."""

    def change(night: Night) -> None:
        for name, value in values.items():
            setattr(night, name, value)

    return change


def catalogue(**values: int) -> Change:
    """Let the night have a catalogue of 100 items, as the night before it."""
    tonight = {"items": 100, "rows_read": 100, "rows_rejected": 0, "night_items": 20}
    reads = [
        {"dt": NIGHT - DAY, "items": 100},
        {"dt": NIGHT, **tonight, "items_without_title": 0, **values},
    ]
    return given(reads=reads)


def usual(events: int, which: Callable[[int], bool]) -> Change:
    """Let the nights of some ages have so many events."""

    def change(night: Night) -> None:
        for age, row in enumerate(night.earlier, start=1):
            if which(age):
                row["events"] = events

    return change


def young(change: Change) -> Change:
    """Let only two nights of the same weekday be known."""

    def changed(night: Night) -> None:
        change(night)
        del night.earlier[20:]

    return changed


def until(hour: int) -> Change:
    """Let the last event be of this hour, and those after it of a second after an earlier one."""

    def change(night: Night) -> None:
        end = MIDNIGHT + dt.timedelta(hours=hour)
        for event in night.events:
            if event["ts"] > end:
                event["ts"] -= dt.timedelta(hours=24 - hour, seconds=1)
        night.events[100]["ts"] = end

    return change


def weekday(age: int) -> bool:
    return age % 7 == 0


def last_week(age: int) -> bool:
    return age < 7


def other(age: int) -> bool:
    return age > 7 and not weekday(age)


def other_type(weights: type[pa.DataType] | Any) -> Change:
    at = tables.EVENTS.schema.get_field_index("weight")
    return given(events_schema=tables.EVENTS.schema.set(at, pa.field("weight", weights)))


READ = (tables.EVENTS, tables.INGESTS, tables.NIGHT_STATS, tables.SEQUENCES, tables.ITEMS)
COLUMNS = sum(len(table.schema) for table in READ)

SLIVER = (
    "the night does not have far fewer events than nights of its weekday, or than the 28 nights "
    "before it until three of its weekday are known"
)
UNTIL = "until three of its weekday are known"
LIKE_28 = f"the night has about as many events as the median of the 28 nights before it, {UNTIL}"
LIKE_7 = f"the night has about as many events as the median of the 7 nights before it, {UNTIL}"
LIKE_WEEKDAY = (
    "the night has about as many events as the median of the same weekday in the 28 nights "
    "before it"
)

# What an expectation says, what of a night breaks it, and what is found.
BREAKS: list[tuple[str, Change, str]] = [
    ("the night has enough events", given(quality={"min_events": 201}), "200, expected at least"),
    *(
        (f"{name} is filled in", first(**{name: None}), "1, the first in a")
        for name in ("user_id", "item_id", "event_type", "ts", "source", "row_number")
    ),
    *(
        (f"{name} is not empty", first(**{name: ""}), "1, the first in a.csv row 1, expected")
        for name in ("user_id", "item_id", "event_type")
    ),
    *(
        (
            f"{name} is no longer than quality.max_id_length",
            first(**{name: "é" * 501}),
            "1, the first in a.csv row 1",
        )
        for name in ("user_id", "item_id")
    ),
    ("no event is of the time after the night", last(ts=MIDNIGHT + DAY), "1, the first in a.csv r"),
    (
        "the time lies in the day that the event is stored under",
        first(ts=MIDNIGHT - dt.timedelta(microseconds=1)),
        "1, the first in a.csv row 1,",
    ),
    ("no event is there twice", again(), "1, expected at most 0"),
    ("few of the night's rows are unusable", counted(rows_quarantined=11), "0.055, expected at"),
    ("few of the night's rows are exact duplicates", counted(rows_duplicate=11), "0.055, expe"),
    (SLIVER, usual(2020, weekday), "0.099, expected at least 0.1"),
    (LIKE_28, young(usual(402, other)), "0.498, expected at least 0.5 and at most 2"),
    (LIKE_28, young(usual(99, other)), "2.02, expected"),
    (LIKE_7, young(usual(402, last_week)), "0.498, expected"),
    (LIKE_7, young(usual(99, last_week)), "2.02, expected"),
    (LIKE_WEEKDAY, usual(402, weekday), "0.498, expected"),
    (LIKE_WEEKDAY, usual(99, weekday), "2.02, expected"),
    ("events reach close to the end of the night", until(17), "7.0, expected at most 6)"),
    ("some of the night's users have a history", given(known_users=3), "0.925, expected"),
    ("some of the night's items are known", given(known_items=1), "0.95, expected at most 0.9"),
    (
        "no user has far too large a share of the night's events",
        many(41, user_id="bot"),
        "0.205, expected at most 0.2",
    ),
    (
        "no item has far too large a share of the night's events",
        many(101, item_id="page"),
        "0.505, expected at most 0.5",
    ),
    (
        "the event types are mixed as in the 7 nights before (total variation distance)",
        many(52, event_type="cart"),
        "0.205, expected at most 0.2",
    ),
    (
        "the catalogue does not have far fewer items than the last one whose check passed",
        catalogue(items=9),
        "0.09, expected at least 0.1",
    ),
    (
        "most of the night's items have a title in the catalogue",
        catalogue(items_without_title=5),
        "0.25, expected at most 0.2",
    ),
    (
        "most rows of the catalogue can be used",
        catalogue(rows_rejected=6),
        "0.06, expected at most 0.05",
    ),
    (
        "the tables have the columns and types that this version reads",
        other_type(pa.float64()),
        f"1 of {COLUMNS} rows, such as events.weight is double, not float",
    ),
    (
        "the tables have the columns and types that this version reads",
        given(events_schema=tables.EVENTS.schema.append(pa.field("mood", pa.string()))),
        f"1 of {COLUMNS + 1} rows, such as events.mood is unknown",
    ),
]
# A night of so few events is unlike the others in the milder sense, too.
ALONG = {SLIVER: {LIKE_WEEKDAY}}

# As far as a night may go, all at once where one does not hide the other.
ALLOWED: dict[str, list[Change]] = {
    "few events": [given(quality={"min_events": 200}), usual(400, lambda age: True)],
    "many events": [usual(100, lambda age: True)],
    "a tenth of the events": [
        usual(2000, lambda age: True),
        given(quality={"warn_volume_below": 0.1}),
    ],
    "odd rows": [
        first(user_id="é" * 500, item_id="é" * 500, weight=None, ts=MIDNIGHT),
        last(ts=MIDNIGHT + DAY - dt.timedelta(microseconds=1)),
        again(ts=MIDNIGHT + dt.timedelta(seconds=1)),
        again(weight=2.0),
        counted(rows_quarantined=10, rows_duplicate=10),
    ],
    "catalogue": [catalogue(items=10, items_without_title=4, rows_rejected=5)],
    "silence": [until(18), given(known_users=4, known_items=2)],
    "crowds": [
        many(40, user_id="bot"),
        many(100, item_id="page"),
        many(50, event_type="cart"),
    ],
}


def expectations(*suites: str) -> list[dict[str, Any]]:
    """Read the suites; without names, all of them."""
    return [
        {"suite": file.stem, **expectation}
        for file in sorted(SUITES.glob("*.json"))
        if not suites or file.stem in suites
        for expectation in json.loads(file.read_text("utf-8"))["expectations"]
    ]


ON_EVENTS = expectations(
    *("checked_columns", "checked_events", "checked_ingest", "checked_night", "checked_catalogue")
)
SEVERITY = {one["description"]: one["severity"] for one in ON_EVENTS}
MEND = {one["description"]: one["meta"]["mend"] for one in ON_EVENTS}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("expects", "change", "found"), BREAKS, ids=[f"{says} {was}"[:70] for says, _, was in BREAKS]
)
def test_what_an_expectation_is_for_breaks_it_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, expects: str, change: Change, found: str
) -> None:
    night = Night()
    change(night)
    settings = night.put(tmp_path / "lake")
    broken = {expects} | ALONG.get(expects, set())
    stops = "critical" in {SEVERITY[one] for one in broken}
    if stops:
        with pytest.raises(QualityError) as error:
            check_events(settings, NIGHT)
        told = str(error.value)
    else:
        (told,) = check_events(settings, NIGHT)["warnings"]
    assert f"not met: {expects} (found {found}" in told
    assert MEND[expects] in told
    assert {one for one in SEVERITY if f"not met: {one} (" in caplog.text} == broken


def rhythm(events: dict[bool, int]) -> Change:
    """Let nights of the weekday have so many events, and the others so many."""

    def change(night: Night) -> None:
        for age, row in enumerate(night.earlier, start=1):
            row["events"] = events[weekday(age)]

    return change


@pytest.mark.slow
@pytest.mark.parametrize("events", [{True: 200, False: 3000}, {True: 200, False: 20}])
def test_a_weekly_rhythm_is_no_fault(tmp_path: Path, events: dict[bool, int]) -> None:
    night = Night()
    rhythm(events)(night)
    assert check_events(night.put(tmp_path / "lake"), NIGHT)["warnings"] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("events", "broken"),
    [
        ({True: 420, False: 3000}, {LIKE_WEEKDAY}),
        ({True: 420, False: 200}, {LIKE_WEEKDAY}),
        ({True: 80, False: 200}, {LIKE_WEEKDAY}),
        ({True: 2100, False: 200}, {LIKE_WEEKDAY, SLIVER}),
    ],
)
def test_a_drop_or_rise_within_a_weekly_rhythm_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, events: dict[bool, int], broken: set[str]
) -> None:
    night = Night()
    rhythm(events)(night)
    settings = night.put(tmp_path / "lake")
    if SLIVER in broken:
        with pytest.raises(QualityError, match="not have far fewer events"):
            check_events(settings, NIGHT)
    else:
        assert len(check_events(settings, NIGHT)["warnings"]) == 1
    assert {one for one in SEVERITY if f"not met: {one} (" in caplog.text} == broken


@pytest.mark.slow
@pytest.mark.parametrize("changes", ALLOWED.values(), ids=ALLOWED)
def test_a_night_may_go_as_far_as_the_limits(tmp_path: Path, changes: list[Change]) -> None:
    night = Night()
    for change in changes:
        change(night)
    assert check_events(night.put(tmp_path / "lake"), NIGHT)["warnings"] == []


def test_every_expectation_on_events_has_its_case() -> None:
    assert {expects for expects, _, _ in BREAKS} == set(SEVERITY)
    assert len(SEVERITY) == len(ON_EVENTS)


def early(night: Night) -> None:
    """Let all events be of the first minutes."""
    for number, event in enumerate(night.events):
        event["ts"] = MIDNIGHT + dt.timedelta(seconds=number)


ODD = [
    many(150, user_id="bot", item_id="new", event_type="other"),
    early,
    given(known_items=0),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        [
            given(earlier=[row for row in _earlier() if row["dt"] < NIGHT - 26 * DAY]),
            many(200, event_type="other"),
            usual(5000, lambda age: True),
            given(known_users=0, known_items=0),
        ],
        [given(quality={"min_compared_events": 201}), usual(20, lambda age: True), *ODD],
        [counted(bootstrap=True), usual(5000, lambda age: True), given(known_items=1)],
    ],
    ids=["two nights before", "too few events", "first night"],
)
def test_a_night_is_not_held_against_what_is_not_known(
    tmp_path: Path, changes: list[Change]
) -> None:
    night = Night()
    for change in changes:
        change(night)
    assert check_events(night.put(tmp_path / "lake"), NIGHT)["warnings"] == []


def stats(settings: Settings) -> pl.DataFrame:
    return Lake(settings.lake.root).scan(tables.NIGHT_STATS).sort("dt").collect()


@pytest.mark.slow
def test_the_counts_of_a_night_are_kept_and_stay_when_events_come_late(tmp_path: Path) -> None:
    settings = Night().put(tmp_path / "lake")
    check_events(settings, NIGHT)
    counts = stats(settings)
    assert counts.height == 29
    assert counts.to_dicts()[-1] == {
        "dt": NIGHT,
        "events": 200,
        "last_ts": MIDNIGHT + dt.timedelta(seconds=432 * 199),
        "event_types": TYPES,
        "users": 40,
        "largest_user_events": 5,
        "new_users": 4,
        "items": 20,
        "largest_item_events": 10,
        "new_items": 2,
    }
    late = {**_events()[0], "user_id": "late", "item_id": "late", "ingested": NIGHT + DAY}
    lake = Lake(settings.lake.root)
    lake.append(tables.EVENTS, pa.Table.from_pylist([late], schema=tables.EVENTS.schema))
    item = {"item_id": "item19", "item_index": 20, "first_seen": NIGHT}
    lake.append(tables.ITEMS, pa.Table.from_pylist([item], schema=tables.ITEMS.schema))
    _write(lake, tables.SEQUENCES, [{"dt": NIGHT, "user_id": "user39"}])
    _write(lake, tables.NIGHT_STATS, [{"dt": NIGHT + DAY, "events": 1_000_000}])
    assert check_events(settings, NIGHT)["warnings"] == []
    assert stats(settings).head(29).equals(counts)


@pytest.mark.slow
def test_the_first_night_counts_the_days_before_it_and_nothing_as_new(tmp_path: Path) -> None:
    night = Night(earlier=[], known_users=0, known_items=0)
    night.ingest["bootstrap"] = True
    for event in night.events[:150]:
        event["dt"] -= 3 * DAY
        event["ts"] -= 3 * DAY
    night.events[0]["dt"] = NIGHT - 29 * DAY
    night.events[0]["ts"] = MIDNIGHT - 29 * DAY
    settings = night.put(tmp_path / "lake")
    for _ in range(2):
        assert check_events(settings, NIGHT)["warnings"] == []
        counts = stats(settings)
        assert counts["dt"].to_list() == [NIGHT - 3 * DAY, NIGHT]
        assert counts["events"].to_list() == [149, 50]
        assert counts["users"].to_list() == [None, 40]
        assert counts["new_users"].to_list() == counts["new_items"].to_list() == [None, None]
        # What the next step adds changes nothing when the night is checked again.
        items = [{"item_id": "item0", "item_index": 1, "first_seen": NIGHT - 3 * DAY}]
        Lake(settings.lake.root).append(
            tables.ITEMS, pa.Table.from_pylist(items, schema=tables.ITEMS.schema)
        )


@pytest.mark.slow
def test_repeats_of_a_large_night_are_looked_for_among_some_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.night.quality.REPEATS_AMONG", 50)
    night = Night()
    night.events += [{**event, "row_number": 1000 + n} for n, event in enumerate(_events())]
    with pytest.raises(QualityError, match="no event is there twice") as error:
        check_events(night.put(tmp_path / "lake"), NIGHT)
    found = int(str(error.value).split("(found ")[1].split(",")[0])
    assert 0 < found < 200
