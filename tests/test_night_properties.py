"""Whatever is logged, comes late or runs again: no night looks ahead, none loses a row.

Random logs are delivered night by night, some rows days after they happened, some broken, some
twice. Held against them are the contracts 1 (point in time), 2 (idempotent), 3 (a backfill equals
the nightly run) and 5 (no row is lost silently), on the steps ingest and build-sequences.
"""

import datetime as dt
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.lake import Lake, tables
from tasks.settings import Settings, load_settings
from tasks.steps import run_step

FIRST = dt.date(2026, 11, 1)
NIGHTS = 3
LAST_EVENTS = 4
SCHEMA = {
    "user_id": pl.String,
    "item_id": pl.String,
    "timestamp": pl.Datetime("us", "UTC"),
    "visit": pl.String,
}
SESSION = dt.timedelta(hours=1)  # some of TIMES are no further apart
WRITTEN = (tables.EVENTS, tables.QUARANTINE, tables.INGESTS, tables.ITEMS, tables.SEQUENCES)

Row = tuple[str | None, str | None, dt.datetime | None, str | None]
Log = list[tuple[Row, int]]


def night(number: int) -> dt.date:
    return FIRST + dt.timedelta(days=number)


# Few users, items and times: rows that are the same and rows of the same time must happen. Days
# before the first night and after the last are in the log, too.
TIMES = st.builds(
    lambda day, hour: dt.datetime.combine(night(day), dt.time(hour), dt.UTC),
    st.integers(-2, NIGHTS),
    st.sampled_from([0, 11, 12, 23]),
)
ROWS = st.tuples(
    st.sampled_from(["ann", "bob", "cem", None]),
    st.sampled_from(["a", "b", "c", "d", None]),
    st.one_of(TIMES, TIMES, TIMES, st.none()),
    st.sampled_from(["v", None]),
)
LOGS: st.SearchStrategy[Log] = st.lists(
    st.tuples(ROWS, st.integers(0, NIGHTS - 1)), min_size=5, max_size=40
)


def deliver(log: Log, source: Path, number: int) -> None:
    """Write what comes on one night: its part of the log, and one event of the night itself."""
    sure = ("sue", "s", dt.datetime.combine(night(number), dt.time(6), dt.UTC), None)
    rows = [sure, *(row for row, delivered in log if delivered == number)]
    source.mkdir(exist_ok=True)
    pl.DataFrame(rows, SCHEMA, orient="row").write_parquet(source / f"part-{number}.parquet")


def settings_for(root: Path, source: Path, sessions: bool) -> Settings:
    return load_settings(
        lake={"root": root},
        source={"path": str(source), "session_columns": ["visit"] if sessions else []},
        sequences={
            "last_events": LAST_EVENTS,
            "session_minutes": SESSION / dt.timedelta(minutes=1) if sessions else 0,
        },
        duckdb={"threads": 1},
    )


def content(lake: Lake, which: tables.Table, only: int | None = None) -> list[dict[str, Any]]:
    day = None if only is None else night(only)
    rows = lake.scan(which, day, day).collect()
    return rows.sort(*(name for name in rows.columns if name != "items")).to_dicts()


def run_twice(given_settings: Settings, step: str, number: int) -> dict[str, Any]:
    """Run a step and see that running it again changes no row."""
    lake = Lake(given_settings.lake.root)
    summary = run_step(step, given_settings, night(number))
    once = [content(lake, table) for table in WRITTEN]
    run_step(step, given_settings, night(number))
    assert [content(lake, table) for table in WRITTEN] == once
    return summary


def run_night(given_settings: Settings, number: int) -> None:
    lake = Lake(given_settings.lake.root)
    ingested = run_twice(given_settings, "ingest", number)
    hold_every_row(lake, ingested, number)
    run_twice(given_settings, "build-sequences", number)
    hold_histories(given_settings, number)


def hold_every_row(lake: Lake, ingested: dict[str, Any], number: int) -> None:
    """See that each row of each file is in one count, and what is counted in the tables."""
    counts = content(lake, tables.INGESTS, number)
    source = {row["source"] for row in counts}
    assert source and ingested["rows_read"] == sum(row["rows_read"] for row in counts)
    for row in counts:
        parts = [name for name in row if name.startswith("rows_") and name != "rows_read"]
        assert row["rows_read"] == sum(row[part] for part in parts)
    rejected = Counter(row["source"] for row in content(lake, tables.QUARANTINE, number))
    assert rejected == Counter({r["source"]: n for r in counts if (n := r["rows_quarantined"])})
    events = content(lake, tables.EVENTS)
    assert all(row["ts"].date() == row["dt"] for row in events)
    assert len({(row["source"], row["row_number"]) for row in events}) == len(events)


def hold_log(lake: Lake, log: Log, sessions: bool) -> None:
    """See that the events are those of the log that are whole and over, each once."""
    end = dt.datetime.combine(night(NIGHTS), dt.time(), dt.UTC)
    expected = set()
    for (user, item, ts, visit), _ in log:
        user = f"session:{visit}" if sessions and visit and not user else user
        if user and item and ts and ts < end:
            expected.add((user, item, ts))
    found = [(row["user_id"], row["item_id"], row["ts"]) for row in content(lake, tables.EVENTS)]
    others = [row for row in found if row[0] != "sue"]
    assert len(others) == len(expected) and set(others) == expected
    assert len(found) - len(others) == NIGHTS


def hold_histories(given_settings: Settings, number: int) -> None:
    """See that a night's histories are the events before its end, in their order."""
    lake = Lake(given_settings.lake.root)
    end = dt.datetime.combine(night(number + 1), dt.time(), dt.UTC)
    events = [row for row in content(lake, tables.EVENTS) if row["ts"] < end]
    events.sort(key=lambda row: (row["ts"], row["source"], row["row_number"]))
    expected: dict[str, list[dict[str, Any]]] = {}
    for row in events:
        expected.setdefault(row["user_id"], []).append(row)
    if given_settings.sequences.session_minutes:
        expected = {user: once_a_session(rows) for user, rows in expected.items()}
    assert histories(lake, number) == {
        user: ([row["item_id"] for row in rows[-LAST_EVENTS:]], len(rows), rows[-1]["ts"])
        for user, rows in expected.items()
    }


def once_a_session(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the events after which the same item comes again in their session."""
    sessions: list[list[dict[str, Any]]] = []
    for row in rows:
        last = sessions[-1][-1] if sessions else None
        if not last or row["dt"] != last["dt"] or row["ts"] - last["ts"] > SESSION:
            sessions.append([])
        sessions[-1].append(row)
    return [
        row
        for session in sessions
        for place, row in enumerate(session)
        if row["item_id"] not in {later["item_id"] for later in session[place + 1 :]}
    ]


def histories(lake: Lake, number: int) -> dict[str, tuple[list[str], int, dt.datetime]]:
    names = dict(lake.scan(tables.ITEMS).select("item_index", "item_id").collect().iter_rows())
    assert sorted(names) == list(range(1, len(names) + 1))
    return {
        row["user_id"]: ([names[item] for item in row["items"]], row["n_events"], row["last_ts"])
        for row in content(lake, tables.SEQUENCES, number)
    }


@pytest.mark.slow
@settings(
    max_examples=8,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(log=LOGS, backfill=st.permutations(range(NIGHTS)), sessions=st.booleans())
def test_nights_hold_their_contracts_on_any_log(
    log: Log, backfill: Sequence[int], sessions: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        nightly = settings_for(Path(folder) / "nightly", source, sessions)
        for number in range(NIGHTS):
            deliver(log, source, number)
            run_night(nightly, number)
        # All files are there now: nights that run again take what came late.
        for number in backfill:
            hold_every_row(
                Lake(nightly.lake.root), run_step("ingest", nightly, night(number)), number
            )
            run_step("build-sequences", nightly, night(number))
            hold_histories(nightly, number)
        in_turn = settings_for(Path(folder) / "in_turn", source, sessions)
        for number in range(NIGHTS):
            for step in ("ingest", "build-sequences"):
                run_step(step, in_turn, night(number))
        # Those of a night were built before backfills after it brought more of its past.
        for number in backfill:
            run_step("build-sequences", nightly, night(number))
        lakes = Lake(nightly.lake.root), Lake(in_turn.lake.root)
        # Which night brought an event is the one thing that may differ.
        events = [
            [row | {"ingested": None} for row in content(lake, tables.EVENTS)] for lake in lakes
        ]
        assert events[0] == events[1]
        hold_log(lakes[0], log, sessions)
        for number in range(NIGHTS):
            assert histories(lakes[0], number) == histories(lakes[1], number)
