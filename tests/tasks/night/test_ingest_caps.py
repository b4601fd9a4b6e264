"""Users that are no people: of too many events a day the first stay, the others are counted."""

import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.lake import Lake, tables
from tasks.night.ingest import ingest
from tasks.settings import Settings, load_settings

NIGHT = dt.date(2026, 3, 2)
CAPPED = {"max_user_events": 5, "max_repeats": 2, "late_days": 1}


def settings_with(root: Path, **caps: Any) -> Settings:
    return load_settings(
        source={"path": str(root / "log")}, lake={"root": root / "lake"}, ingest=caps
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Write two days of a bot with twelve items, a user with one item four times, and a person."""
    rows = []
    for day in (NIGHT - dt.timedelta(days=1), NIGHT):
        rows += [("bot", f"i{n:02}", f"{day}T10:{n:02}:00") for n in range(12)]
        rows += [("fan", "song", f"{day}T11:00:0{n}") for n in range(4)]
        rows += [("person", "book", f"{day}T12:00:00")]
    (tmp_path / "log").mkdir()
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    # The newest first: what stays goes by time, not by place.
    frame.reverse().write_csv(tmp_path / "log" / "events.csv")
    return tmp_path


def test_the_first_events_of_a_day_stay_and_the_others_are_counted_by_reason(log: Path) -> None:
    settings = settings_with(log, **CAPPED)
    summary = ingest(settings, NIGHT)
    assert (summary["rows_read"], summary["rows_events"]) == (34, 16)
    assert (summary["rows_busy"], summary["rows_repeat"]) == (14, 4)
    events = Lake(settings.lake.root).scan(tables.EVENTS, NIGHT, NIGHT).collect()
    bot = events.filter(pl.col("user_id") == "bot")["item_id"]
    assert sorted(bot) == ["i00", "i01", "i02", "i03", "i04"]
    assert events["user_id"].value_counts().sort("user_id").rows() == [
        ("bot", 5),
        ("fan", 2),
        ("person", 1),
    ]


def test_what_was_left_out_is_no_late_event_of_the_next_night(log: Path) -> None:
    settings = settings_with(log, **CAPPED)
    ingest(settings, NIGHT - dt.timedelta(days=1))
    summary = ingest(settings, NIGHT)
    assert (summary["rows_events"], summary["rows_late"]) == (8, 0)
    assert summary["changed_nights"] == {}


def test_a_cap_of_zero_is_none(log: Path) -> None:
    summary = ingest(settings_with(log, max_user_events=0, max_repeats=0), NIGHT)
    assert (summary["rows_events"], summary["rows_busy"], summary["rows_repeat"]) == (34, 0, 0)


def test_people_are_far_below_the_defaults(log: Path) -> None:
    assert ingest(settings_with(log), NIGHT)["rows_events"] == 34
