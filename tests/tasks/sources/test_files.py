"""Files as a source: folders of days, columns that differ, files that are still being written."""

import datetime as dt
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.errors import NightError, NotReadyError, PipelineError
from tasks.lake import Lake, tables
from tasks.night.ingest import ingest
from tasks.settings import load_settings

NIGHT = dt.date(2026, 11, 20)
HEAD = "user_id,item_id,timestamp\n"

Ingest = Callable[..., dict[str, Any]]


def day(number: int) -> dt.date:
    """Return a day counted from NIGHT."""
    return NIGHT + dt.timedelta(days=number)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "events"


@pytest.fixture
def run(tmp_path: Path, folder: Path) -> Ingest:
    def ingest_it(
        night: dt.date = NIGHT,
        lake: str = "lake",
        late_days: int = 2,
        settle_minutes: float = 0,
        **source: Any,
    ) -> dict[str, Any]:
        settings = load_settings(
            source={"path": str(folder), **source},
            ingest={"late_days": late_days, "settle_minutes": settle_minutes},
            lake={"root": tmp_path / lake},
            duckdb={"threads": 1},
        )
        return ingest(settings, night)

    return ingest_it


def events(lake: Path) -> pl.DataFrame:
    found = Lake(lake).scan(tables.EVENTS).sort("ts", "user_id", "source", "row_number")
    return found.drop("ingested").collect()


def write(folder: Path, name: str, *rows: str, head: str = HEAD) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(head + "".join(f"{row}\n" for row in rows))
    return file


def write_days(folder: Path, *numbers: int) -> None:
    """Write two files a day: one event in the first, one at each end of the day in the second."""
    for number in numbers:
        below = f"dt={day(number)}"
        write(folder, f"{below}/a.csv", f"ann,i{number},{day(number)}T12:00")
        write(folder, f"{below}/shop=7/b.csv", f"bob,x,{day(number)}T00:00",
              f"bob,y,{day(number)}T23:59")  # fmt: skip


@pytest.mark.slow
def test_a_night_reads_the_folders_of_its_own_days_only(folder: Path, run: Ingest) -> None:
    write_days(folder, *range(-4, 4))
    assert run()["files"] == 12  # the first night: every day before, and the one after
    # Whoever opens one of these is told that it cannot be read.
    for number in (-4, -3, 3):
        (folder / f"dt={day(number)}" / "a.csv").write_text("neither user nor item\n")
    summary = run(day(1), late_days=2)
    assert summary["files"] == 10  # from the two days that may be late, and one more on either side
    assert (summary["rows_events"], summary["rows_late"]) == (3, 0)


@pytest.mark.slow
def test_folders_of_days_change_nothing_but_what_is_read(
    tmp_path: Path, folder: Path, run: Ingest
) -> None:
    write_days(folder, -4)
    write(folder, "flat.csv", f"eve,z,{day(-1)}T05:00", f"eve,z,{day(1)}T05:00")
    seen = {"days": ("dt", []), "all": ("", [])}
    for number in range(3):
        # Late, within the window: in the folder of its own day, and in that of its arrival.
        write(folder, f"dt={day(number - 1)}/late.csv", f"kim,k{number},{day(number - 1)}T07:00")
        write(folder, f"dt={day(number)}/arrived.csv", f"lea,l{number},{day(number - 2)}T07:00")
        # Folders by the date of another zone than UTC.
        write(folder, f"dt={day(number + 1)}/east.csv", f"sue,s{number},{day(number)}T22:00")
        write(folder, f"dt={day(number - 1)}/west.csv", f"tom,t{number},{day(number)}T03:00")
        for lake, (key, summaries) in seen.items():
            summaries.append(run(day(number), lake, day_folders=key))
    for one, other in zip(seen["days"][1], seen["all"][1], strict=True):
        for count in ("rows_events", "rows_late", "rows_duplicate", "changed_nights"):
            assert one[count] == other[count]
        assert one["rows_read"] <= other["rows_read"]
    assert seen["days"][1][2]["rows_read"] < seen["all"][1][2]["rows_read"]
    assert events(tmp_path / "days").equals(events(tmp_path / "all"))
    before = events(tmp_path / "days")
    for number in (1, 0):  # backfills: what later nights brought stays
        run(day(number), "days")
        assert events(tmp_path / "days").equals(before)


@pytest.mark.parametrize("name", ["dt=__HIVE_DEFAULT_PARTITION__", "dt=2026-13-01", "dt=week 1"])
def test_a_folder_of_no_day_is_read_every_night(folder: Path, run: Ingest, name: str) -> None:
    write_days(folder, 0)
    write(folder, f"{name}/a.csv", f"eve,z,{day(0)}T05:00")
    assert run()["rows_events"] == 4


def test_the_folders_may_have_another_name(folder: Path, run: Ingest) -> None:
    write(folder, f"event_date={day(0)}/a.csv", f"ann,a,{day(0)}T05:00")
    write(folder, f"event_date={day(9)}/a.csv", "unreadable")
    assert run(day_folders="event_date")["files"] == 1


def test_a_night_without_a_folder_says_which_there_are(folder: Path, run: Ingest) -> None:
    write_days(folder, 0)
    run()
    with pytest.raises(NightError) as raised:
        run(day(9))
    assert f"no folder from dt={day(6)} to {day(10)}, only dt={day(0)} to {day(0)}" in str(
        raised.value
    )


def test_files_of_one_night_may_differ_in_their_columns(
    tmp_path: Path, folder: Path, run: Ingest
) -> None:
    write(folder, "a.csv", f"7,1,{NIGHT}T01:00")
    write(folder, "b.csv", f"x,1.5,{NIGHT}T02:00,8,2", head="new,rating,timestamp,item_id,user\n")
    lines = [
        f'{{"ts": "{NIGHT}T03:00", "user": 7, "item": "one", "more": [1]}}',
        f'{{"item": 2, "user": "7", "ts": "{NIGHT}T04:00", "event": "buy"}}',
    ]
    write(folder, "c.jsonl", *lines, head="")
    at = dt.datetime.combine(NIGHT, dt.time(1), dt.UTC)
    table = pl.DataFrame({"timestamp": [at], "item": [1], "user": [7], "extra": [None]})
    table.write_parquet(folder / "d.parquet")  # the event of a.csv, its ids as integers
    ids = pl.DataFrame({"item": ["1"], "user": ["7"], "timestamp": [at.replace(hour=6)]})
    ids.write_parquet(folder / "e.parquet")
    summary = run()
    assert (summary["rows_read"], summary["rows_events"], summary["rows_duplicate"]) == (6, 5, 1)
    found = events(tmp_path / "lake").select("user_id", "item_id", "event_type", "weight")
    assert found.rows() == [
        ("7", "1", "event", None),
        ("2", "8", "event", 1.5),
        ("7", "one", "event", None),
        ("7", "2", "buy", None),
        ("7", "1", "event", None),
    ]


TYPED = "user_id,item_id,timestamp,event_type,weight\n"


def write_types(folder: Path) -> None:
    rows = (
        f"ann,a,{NIGHT}T01:00,view,",
        f"ann,b,{NIGHT}T02:00,cart,",
        f"ann,c,{NIGHT}T03:00,purchase,7",
        f",,{NIGHT}T04:00,login,",  # no event of the types asked for, so none that is broken
        f"ann,,{NIGHT}T05:00,view,",
        f"bob,a,{day(-1)}T01:00,login,",
        f"bob,a,{day(2)}T01:00,cart,",
    )
    write(folder, "a.csv", *rows, head=TYPED)


def test_only_events_of_the_types_asked_for_are_taken_and_the_others_counted(
    tmp_path: Path, folder: Path, run: Ingest
) -> None:
    write_types(folder)
    summary = run(event_types=["view", "purchase"])
    assert summary["rows_filtered"] == 3  # the first night answers for the day before, too
    assert (summary["rows_events"], summary["rows_quarantined"]) == (2, 1)
    assert (summary["rows_read"], summary["rows_other_nights"]) == (7, 1)
    (counted,) = Lake(tmp_path / "lake").scan(tables.INGESTS).collect().to_dicts()
    assert counted["rows_filtered"] == 3
    write(folder, "b.csv", f"ann,z,{day(1)}T01:00,view,", f"ann,z,{day(0)}T01:00,x,", head=TYPED)
    later = run(day(1), event_types=["view", "purchase"])
    assert (later["rows_filtered"], later["rows_events"], later["rows_late"]) == (0, 1, 0)


def test_a_night_whose_types_are_all_left_out_says_so(folder: Path, run: Ingest) -> None:
    write_types(folder)
    with pytest.raises(NightError, match=r"source\.event_types leaves 6 rows out"):
        run(event_types=["views"])


def test_events_without_a_weight_get_that_of_their_type(
    tmp_path: Path, folder: Path, run: Ingest
) -> None:
    write_types(folder)
    run(event_weights={"view": 1, "purchase": 10})
    found = events(tmp_path / "lake").filter(pl.col("dt") == NIGHT)
    assert found.select("event_type", "weight").rows() == [
        ("view", 1.0),
        ("cart", None),
        ("purchase", 7.0),
    ]


@pytest.mark.slow
def test_other_weights_do_not_make_events_of_the_nights_before_late(
    tmp_path: Path, folder: Path, run: Ingest
) -> None:
    write_types(folder)
    write(folder, "b.csv", f"ann,z,{day(1)}T01:00,view,", f"ann,z,{day(2)}T01:00,view,", head=TYPED)
    run()
    assert run(day(1), event_weights={"view": 1})["changed_nights"] == {}
    assert run(day(2), event_weights={"view": 2})["changed_nights"] == {}
    assert run(day(1))["changed_nights"] == {}
    assert events(tmp_path / "lake").height == 7


def set_age(file: Path, minutes: float) -> None:
    moment = time.time() - minutes * 60
    os.utime(file, (moment, moment))


def test_a_file_that_may_still_be_written_is_waited_for(
    tmp_path: Path, folder: Path, run: Ingest
) -> None:
    write(folder, "a.csv", f"ann,a,{NIGHT}T01:00")
    file = write(folder, "b.csv", f"ann,b,{NIGHT}T01:00")
    set_age(folder / "a.csv", 30)
    set_age(file, 4)
    with pytest.raises(NotReadyError, match=r"b\.csv was changed at .* for 5 minutes") as raised:
        run(settle_minutes=5)
    assert not isinstance(raised.value, PipelineError)  # it is tried again
    assert not (tmp_path / "lake" / "events").exists()
    set_age(file, 6)
    assert run(settle_minutes=5)["rows_events"] == 2
    set_age(file, -60)  # a clock that is an hour ahead
    assert run(settle_minutes=5)["rows_events"] == 2


def test_files_of_the_day_after_are_left_to_its_night_while_they_are_written(
    tmp_path: Path, folder: Path, run: Ingest
) -> None:
    set_age(write(folder, f"dt={day(0)}/a.csv", f"ann,a,{day(0)}T01:00"), 60)
    after = write(folder, f"dt={day(1)}/a.csv", f"ann,b,{day(0)}T23:00", f"ann,c,{day(1)}T01:00")
    assert run(settle_minutes=5)["rows_events"] == 1
    set_age(after, 60)
    assert run(day(1), settle_minutes=5)["rows_late"] == 1
    assert events(tmp_path / "lake").height == 3
    set_age(after, 0)
    with pytest.raises(NotReadyError):  # no night after it would take what is late
        run(settle_minutes=5, late_days=0)
