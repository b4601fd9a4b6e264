"""Ingest: every format and unit, what bad input gets, and counts that reconcile."""

import datetime as dt
import gzip
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tasks.errors import NightError, PipelineError, SourceError
from tasks.lake import Lake, tables
from tasks.night.ingest import ingest, latest_night
from tasks.settings import REPO, Settings, load_settings
from tests.places import EVERYWHERE, Place

NIGHT = dt.date(2026, 11, 2)
MIDNIGHT = dt.datetime(2026, 11, 2, tzinfo=dt.UTC)

SUFFIXES = ("", ".gz", ".zst")

# user, item, time, type, weight; the last one is of the night after.
EVENTS: list[tuple[str, str, dt.datetime, str, float | None]] = [
    ("ann", "a", MIDNIGHT - dt.timedelta(days=1), "view", 1.0),
    ("ann", "b", MIDNIGHT, "buy", 2.5),
    ("böb", "a", MIDNIGHT + dt.timedelta(hours=3, milliseconds=250), "view", None),
    ("ann", "a", MIDNIGHT + dt.timedelta(hours=23, minutes=59, seconds=59), "view", 1.0),
    ("böb", "b", MIDNIGHT + dt.timedelta(days=1), "view", 1.0),
]


def settings_for(source: Path, lake: Place, late_days: int = 3, **options: Any) -> Settings:
    return load_settings(
        source={"path": str(source), **options},
        ingest={"late_days": late_days},
        lake={"root": lake},
        duckdb={"threads": 2},
    )


@pytest.fixture
def run(tmp_path: Path, place: Place) -> Callable[..., dict[str, Any]]:
    """Ingest a file or folder below tmp_path into a lake."""

    def ingest_it(source: str | Path, night: dt.date = NIGHT, **options: Any) -> dict[str, Any]:
        return ingest(settings_for(tmp_path / source, place, **options), night)

    return ingest_it


@pytest.fixture
def lake(place: Place) -> Lake:
    return Lake(place)


def events_of(lake: Lake) -> pl.DataFrame:
    """Events in order, without the night that brought them."""
    return lake.scan(tables.EVENTS).sort("ts", "source", "row_number").drop("ingested").collect()


def rows_of(lake: Lake, table: tables.Table) -> list[dict[str, Any]]:
    return lake.scan(table).sort("dt", "source").collect().to_dicts()


def text_of(time: dt.datetime, unit: str) -> str:
    microseconds = (time - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
    return {
        "iso": time.isoformat().replace("+00:00", "Z"),
        "iso without zone": time.strftime("%Y-%m-%d %H:%M:%S.%f"),
        "iso of elsewhere": time.astimezone(dt.timezone(dt.timedelta(hours=5.5))).isoformat(),
        "s": f"{microseconds / 1e6}",
        "ms": str(microseconds // 1000),
        "us": str(microseconds),
        "ns": str(microseconds * 1000),
    }[unit]


def write_events(path: Path, kind: str, unit: str = "iso") -> Path:
    """Write EVENTS as `kind`."""
    rows = [
        {"user_id": user, "item_id": item, "timestamp": text_of(time, unit), "event": event,
         "rating": weight, "more": 'a "quoted", odd\tvalue'}
        for user, item, time, event, weight in EVENTS
    ]  # fmt: skip
    frame = pl.DataFrame(rows)
    if kind == "parquet":
        frame.write_parquet(path)
    elif kind == "csv":
        frame.write_csv(path)
    elif kind == "tsv":
        frame.write_csv(path, separator="\t")
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "inter":
        types = {"timestamp": "float", "rating": "float", "user_id": "token", "item_id": "token"}
        plain = frame.drop("more").rename({c: f"{c}:{types.get(c, 'token')}" for c in frame.columns
                                           if c != "more"})  # fmt: skip
        plain.write_csv(path, separator="\t")
    return path


def compressed(path: Path, suffix: str) -> Path:
    """Compress a file in place of itself."""
    target = path.with_name(path.name + suffix)
    kind = {".gz": "gzip", ".zst": "zstd"}[suffix]
    with pa.output_stream(str(target), compression=kind) as stream:
        stream.write(path.read_bytes())
    path.unlink()
    return target


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("parquet", ""),  # compressed inside
        *((kind, suffix) for kind in ("csv", "tsv", "jsonl", "inter") for suffix in SUFFIXES),
    ],
)
def test_every_format_gives_the_same_events(
    tmp_path: Path, run: Callable[..., Any], lake: Lake, kind: str, suffix: str
) -> None:
    path = write_events(tmp_path / f"events.{kind}", kind)
    if suffix:
        path = compressed(path, suffix)
    summary = run(path.name)
    found = events_of(lake)
    assert summary["rows_read"] == 5
    assert summary["rows_other_nights"] == 1
    wanted = ["user_id", "item_id", "ts", "event_type", "weight"]
    assert list(found.select(wanted).iter_rows()) == EVENTS[:4]
    assert found["dt"].to_list() == [time.date() for _, _, time, *_ in EVENTS[:4]]
    assert found["source"].unique().to_list() == [path.name]
    first_line = 1 if kind in ("parquet", "jsonl") else 2
    assert found["row_number"].to_list() == [first_line + row for row in range(4)]


@pytest.mark.parametrize(
    "unit", ["s", "ms", "us", "ns", "iso", "iso without zone", "iso of elsewhere"]
)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_units_of_time_are_told_apart(
    tmp_path: Path, run: Callable[..., Any], lake: Lake, unit: str, kind: str
) -> None:
    run(write_events(tmp_path / f"events.{kind}", kind, unit).name)
    assert events_of(lake)["ts"].to_list() == [time for _, _, time, *_ in EVENTS[:4]]


@pytest.mark.parametrize(
    "kind",
    [pa.timestamp("us", tz="UTC"), pa.timestamp("us"), pa.timestamp("ms", tz="Asia/Tokyo"),
     pa.timestamp("ns"), pa.timestamp("s")],
    ids=str,
)  # fmt: skip
def test_parquet_times_with_a_type_are_taken_as_they_are(
    tmp_path: Path, run: Callable[..., Any], lake: Lake, kind: pa.DataType
) -> None:
    times = [MIDNIGHT + dt.timedelta(hours=hour) for hour in (1, 2)]
    table = pa.table(
        {
            "user": pa.array([1, 2], pa.int64()),
            "item": pa.array([7, 8], pa.int32()),
            "ts": pa.array(times, pa.timestamp("us", tz="UTC")).cast(kind),
        }
    )
    pq.write_table(table, tmp_path / "events.parquet")
    run("events.parquet", time_unit="s")
    found = events_of(lake)
    assert found["ts"].to_list() == times
    assert found["user_id"].to_list() == ["1", "2"]
    assert found["event_type"].to_list() == ["event", "event"]


def test_sequence_files_keep_the_order_of_their_lines(
    tmp_path: Path, run: Callable[..., Any], lake: Lake
) -> None:
    (tmp_path / "seq.txt").write_text("u1 c a b a\n\nu2 a\nu3\n")
    summary = run("seq.txt")
    found = events_of(lake)
    assert summary["rows_read"] == 6
    assert summary["rows_quarantined"] == 1  # u3 has no item
    first = found.filter(pl.col("user_id") == "u1").sort("ts")
    assert first["item_id"].to_list() == ["c", "a", "b", "a"]
    assert found["ts"].max() < MIDNIGHT
    assert found["source"].unique().to_list() == ["seq.txt (synthetic times)"]
    (rejected,) = rows_of(lake, tables.QUARANTINE)
    assert (rejected["row_number"], rejected["raw"], rejected["reason"]) == (4, "u3", "no item")


def test_synthetic_times_do_not_depend_on_the_night(tmp_path: Path) -> None:
    (tmp_path / "seq.txt").write_text("u1 c a b a\nu2 a\n")
    found = []
    for name, night in (("one", NIGHT), ("two", NIGHT - dt.timedelta(days=3000))):
        ingest(settings_for(tmp_path / "seq.txt", tmp_path / name), night)
        found.append(events_of(Lake(tmp_path / name)))
    assert found[0].equals(found[1])


@pytest.mark.slow
def test_published_beauty_is_read_whole_and_in_order(tmp_path: Path, real_data: Path) -> None:
    source = real_data / "Beauty.txt"
    if not source.is_file():
        pytest.skip(f"{source} is not there")
    summary = ingest(settings_for(source, tmp_path / "lake"), NIGHT)
    assert summary["rows_events"] == summary["rows_read"] == 198_502
    found = lake_histories(Lake(tmp_path / "lake"))
    written = {
        user: items for user, *items in map(str.split, source.read_text("utf-8").splitlines())
    }
    assert found == written


def lake_histories(lake: Lake) -> dict[str, list[str]]:
    grouped = (
        lake.scan(tables.EVENTS).sort("ts").group_by("user_id").agg(pl.col("item_id")).collect()
    )
    return dict(grouped.iter_rows())


@pytest.mark.slow
def test_movielens_night_by_night_equals_all_at_once(tmp_path: Path, real_data: Path) -> None:
    source = real_data / "ml-100k.inter"
    if not source.is_file():
        pytest.skip(f"{source} is not there")
    nights = [dt.date(1998, 4, 19) + dt.timedelta(days=day) for day in range(4)]
    for night in nights:
        ingest(settings_for(source, tmp_path / "nightly"), night)
    ingest(settings_for(source, tmp_path / "at once"), nights[-1])
    nightly, at_once = (events_of(Lake(tmp_path / name)) for name in ("nightly", "at once"))
    assert nightly.height == 100_000
    assert nightly.equals(at_once)


def test_only_rows_of_the_night_go_in_after_the_first_night(
    tmp_path: Path, run: Callable[..., Any], lake: Lake
) -> None:
    write_events(tmp_path / "events.csv", "csv")
    run("events.csv", NIGHT)
    later = run("events.csv", NIGHT + dt.timedelta(days=1))
    assert later["bootstrap"] is False
    assert (later["rows_events"], later["rows_other_nights"]) == (1, 4)
    assert events_of(lake).height == 5


def test_a_backfill_of_a_night_before_the_first_leaves_the_other_nights(
    tmp_path: Path, run: Callable[..., Any], lake: Lake
) -> None:
    write_events(tmp_path / "events.csv", "csv")
    with (tmp_path / "events.csv").open("a") as file:
        file.write("ann,old,2026-10-20,view,1,\n")
    run("events.csv", NIGHT)
    before = events_of(lake)
    # By now only the file of the night before is still there.
    (tmp_path / "events.csv").write_text(
        f"user_id,item_id,ts\nann,z,{text_of(EVENTS[0][2], 'iso')}"
    )
    run("events.csv", NIGHT - dt.timedelta(days=1))
    after = events_of(lake)
    assert after.filter(pl.col("dt") == NIGHT).equals(before.filter(pl.col("dt") == NIGHT))
    assert after.filter(pl.col("dt") < NIGHT)["item_id"].to_list() == ["old", "z"]


def three_days_of_files(folder: Path) -> list[dt.date]:
    """Write a file a day, each with good rows, a row without a user and one without a time."""
    folder.mkdir()
    days = [NIGHT + dt.timedelta(days=number) for number in (-1, 0, 1)]
    for day in days:
        rows = [f"ann,i{hour},{day}T{hour:02d}:00\n" for hour in range(20)]
        rows += [f",a,{day}T05:00\n", "ann,a,\n"]
        (folder / f"{day}.csv").write_text(HEAD + "".join(rows))
    return days


def everything(lake: Lake) -> dict[str, list[dict[str, Any]]]:
    return {
        name: lake.scan(tables.TABLES[name]).collect().sort(pl.all()).to_dicts() for name in WRITES
    }


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_latest_night_is_that_of_the_last_event_in_any_file(tmp_path: Path, kind: str) -> None:
    (tmp_path / "events").mkdir()
    for day in (3, 5, 4):
        row = {"user_id": "ann", "item_id": "a", "ts": f"2025-11-0{day}"}
        frame = pl.DataFrame([row])
        write_it = {"csv": frame.write_csv, "jsonl": frame.write_ndjson}.get(kind)
        (write_it or frame.write_parquet)(tmp_path / "events" / f"{day}.{kind}")
    settings = settings_for(tmp_path / "events", tmp_path / "lake")
    assert latest_night(settings) == dt.date(2025, 11, 5)


@pytest.mark.slow
@EVERYWHERE
def test_the_first_night_again_after_a_later_one_changes_nothing(
    tmp_path: Path, run: Callable[..., Any], lake: Lake
) -> None:
    *_, night, later = three_days_of_files(tmp_path / "events")
    summary = run("events", night)
    assert (summary["rows_events"], summary["rows_quarantined"]) == (40, 5)
    run("events", later)
    before = everything(lake)
    assert run("events", night) == summary
    assert everything(lake) == before


def late_file(folder: Path, days: list[dt.date]) -> None:
    """Write a file with an event of each day, one of them twice, and a row without an item."""
    rows = "".join(f"bob,a,{day}T01:00\n" for day in [*days, days[0]]) + f"bob,,{days[0]}T02:00\n"
    (folder / "late.csv").write_text(HEAD + rows)


@pytest.mark.slow
@EVERYWHERE
def test_late_events_go_to_their_own_days_once_and_the_run_names_these(
    tmp_path: Path, run: Callable[..., Any], lake: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    first, night, later = three_days_of_files(tmp_path / "events")
    last = later + dt.timedelta(days=1)
    run("events", night)
    assert run("events", later)["changed_nights"] == {}
    assert "came late" not in caplog.text
    late_file(tmp_path / "events", [first, later, last])
    summary = run("events", last)
    assert summary["changed_nights"] == {str(first): 1, str(later): 1}
    assert (summary["rows_events"], summary["rows_late"]) == (1, 2)
    assert "2 events came late and are now in their own days" in caplog.text
    assert f"run again: {first} (1 rows), {later} (1 rows)" in caplog.text
    bob = lake.scan(tables.EVENTS).filter(pl.col("user_id") == "bob").sort("dt").collect()
    assert bob["dt"].to_list() == [first, later, last]
    assert bob["ingested"].to_list() == [last] * 3
    late = [row for row in rows_of(lake, tables.QUARANTINE) if row["source"] == "late.csv"]
    assert [(row["dt"], row["reason"]) for row in late] == [(last, "no item")]

    # Again, and the nights behind again: each event once, wherever it is counted.
    before = everything(lake)
    assert run("events", last) == summary
    assert everything(lake) == before
    for again in (later, last):
        run("events", again)
    assert events_of(lake).filter(pl.col("user_id") == "bob").height == 3
    owners = lake.scan(tables.EVENTS).filter(pl.col("user_id") == "bob").sort("dt").collect()
    assert owners["ingested"].to_list() == [last, later, last]
    assert run("events", last)["changed_nights"] == {str(first): 1}


@pytest.mark.slow
def test_events_that_come_later_than_the_window_are_not_read(
    tmp_path: Path, run: Callable[..., Any], lake: Lake
) -> None:
    first, night, later = three_days_of_files(tmp_path / "events")
    run("events", night)
    late_file(tmp_path / "events", [first, later])
    summary = run("events", later, late_days=1)
    assert (summary["rows_late"], summary["changed_nights"]) == (0, {})
    assert events_of(lake).filter(pl.col("user_id") == "bob")["ts"].dt.date().to_list() == [later]
    assert run("events", later, late_days=2)["changed_nights"] == {str(first): 1}


@pytest.mark.slow
def test_rows_added_to_a_file_that_was_read_are_late_too(
    tmp_path: Path, run: Callable[..., Any], lake: Lake
) -> None:
    _, night, later = three_days_of_files(tmp_path / "events")
    run("events", night)
    with (tmp_path / "events" / f"{night}.csv").open("a") as file:
        file.write(f"bob,a,{night}T01:00\n")
    assert run("events", later)["changed_nights"] == {str(night): 1}
    assert events_of(lake).filter(pl.col("user_id") == "bob").height == 1


@pytest.mark.slow
@EVERYWHERE
def test_late_events_whose_file_is_gone_outlive_a_backfill_of_their_day(
    tmp_path: Path, run: Callable[..., Any], lake: Lake
) -> None:
    _, night, later = three_days_of_files(tmp_path / "events")
    last = later + dt.timedelta(days=1)
    run("events", night)
    run("events", later)
    late_file(tmp_path / "events", [later, last])
    run("events", last)
    before = events_of(lake)
    (tmp_path / "events" / "late.csv").unlink()
    run("events", later)
    assert events_of(lake).equals(before)


@pytest.mark.slow
def test_the_first_night_again_leaves_the_days_whose_files_are_gone(
    tmp_path: Path, run: Callable[..., Any], lake: Lake
) -> None:
    first, night, later = three_days_of_files(tmp_path / "events")
    run("events", night)
    run("events", later)
    before = everything(lake)
    (tmp_path / "events" / f"{first}.csv").unlink()
    run("events", night)
    assert everything(lake) == before


@EVERYWHERE
def test_running_twice_leaves_identical_tables(
    tmp_path: Path, run: Callable[..., Any], lake: Lake
) -> None:
    folder = tmp_path / "events"
    folder.mkdir()
    for kind in ("csv", "parquet"):  # the same events twice, so with duplicates
        write_events(folder / f"events.{kind}", kind)
    with (folder / "events.csv").open("a") as file:
        file.write(",a,2026-11-02,view,1,\n")
    seen = []
    for _ in range(2):
        summary = run("events")
        seen.append(
            (summary, *(rows_of(lake, table) for table in (tables.QUARANTINE, tables.INGESTS)),
             events_of(lake).to_dicts())
        )  # fmt: skip
    assert seen[0] == seen[1]


def test_exact_duplicates_are_dropped_and_counted_where_they_were_read_last(
    tmp_path: Path, run: Callable[..., Any], lake: Lake
) -> None:
    folder = tmp_path / "events"
    (folder / "sub").mkdir(parents=True)
    row = "ann,a,2026-11-02T10:00:00Z,{}\n"
    head = "user_id,item_id,ts,rating\n"
    (folder / "b.csv").write_text(head + row.format("1") * 3 + row.format("2") + row.format(""))
    (folder / "sub" / "c.csv").write_text(head + row.format("1.0") + row.format(""))
    summary = run("events")
    assert (summary["rows_events"], summary["rows_duplicate"]) == (3, 4)
    assert events_of(lake)["source"].unique().to_list() == ["b.csv"]
    assert [row["rows_duplicate"] for row in rows_of(lake, tables.INGESTS)] == [2, 2]


REJECTS = [
    (",a,2026-11-02T01:00:00Z", "no user"),
    ("  ,a,2026-11-02T01:00:00Z", "no user"),
    ("ann,,2026-11-02T01:00:00Z", "no item"),
    ("ann,a,", "no time"),
    ("ann,a,yesterday", "time cannot be read"),
    ("ann,a,57811-01-01", "time"),
    ("ann,a,1066-10-14", "time lies outside of 1970 to 2199"),
]


def test_unusable_rows_go_to_quarantine_with_file_row_and_reason(
    tmp_path: Path, run: Callable[..., Any], lake: Lake
) -> None:
    good = "ann,a,2026-11-02T0{}:00:00Z"
    lines = ["user_id,item_id,ts"]
    for number, (line, _) in enumerate(REJECTS):
        lines += [good.format(number), line]
    (tmp_path / "events.csv").write_text("\n".join([*lines, good.format(9)]))
    summary = run("events.csv")
    found = lake.scan(tables.QUARANTINE).sort("row_number").collect().to_dicts()
    assert summary["rows_quarantined"] == len(REJECTS) == len(found)
    for number, ((line, reason), row) in enumerate(zip(REJECTS, found, strict=True)):
        assert row["dt"] == NIGHT
        assert row["source"] == "events.csv"
        assert row["row_number"] == 3 + 2 * number
        assert row["reason"].startswith(reason)
        assert row["raw"] == line


def test_a_rejected_row_without_time_belongs_to_the_first_night_that_met_it(
    tmp_path: Path, run: Callable[..., Any], lake: Lake
) -> None:
    write_events(tmp_path / "events.csv", "csv")
    with (tmp_path / "events.csv").open("a") as file:
        file.write("ann,a,,view,1,\n")
    assert run("events.csv", NIGHT)["rows_quarantined"] == 1
    assert run("events.csv", NIGHT + dt.timedelta(days=1))["rows_quarantined"] == 0
    assert [row["dt"] for row in rows_of(lake, tables.QUARANTINE)] == [NIGHT]


@pytest.mark.parametrize(
    ("kind", "broken", "number"),
    [
        ("csv", "ann,a\n", 7),
        ("csv", "ann,a,2026-11-02,view,1,x,y\n", 7),
        ("csv", "b\xf6b,a,2026-11-02,view,1,x\n", 7),
        ("jsonl", '{"user_id": "ann", "item_id"\n', 6),
        ("jsonl", "b\xf6b\n", 6),
    ],
)
def test_broken_lines_stop_the_run_or_go_to_quarantine(
    tmp_path: Path, run: Callable[..., Any], lake: Lake, kind: str, broken: str, number: int
) -> None:
    path = write_events(tmp_path / f"events.{kind}", kind)
    with path.open("ab") as file:
        file.write(broken.encode("latin-1"))
    with pytest.raises(SourceError) as error:
        run(path.name)
    assert f"{path} line {number}" in str(error.value)
    assert lake.nights(tables.EVENTS) == []

    summary = run(path.name, broken_rows="quarantine")
    (row,) = rows_of(lake, tables.QUARANTINE)
    assert (summary["rows_read"], summary["rows_events"], summary["rows_quarantined"]) == (6, 4, 1)
    assert row["row_number"] == number
    assert row["raw"][:1] == broken[:1]


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_a_row_without_a_user_is_of_its_session_where_one_is_asked_for(
    tmp_path: Path, run: Callable[..., Any], lake: Lake, kind: str
) -> None:
    (tmp_path / "events").mkdir()
    rows = [
        {"user_id": "ann", "sid": "s1", "item_id": "a"},
        {"user_id": None, "sid": "s1", "item_id": "b"},
        {"user_id": " ", "sid": "s2", "item_id": "c"},
        {"user_id": None, "sid": None, "item_id": "d"},
    ]
    only = [{"item_id": "e", "sid": "7"}]  # a file that knows no users
    for name, content in (("both", rows), ("only", only)):
        frame = pl.DataFrame(content).with_columns(ts=pl.lit("2026-11-02T01:00:00Z"))
        path = tmp_path / "events" / f"{name}.{kind}"
        {"csv": frame.write_csv, "parquet": frame.write_parquet, "jsonl": frame.write_ndjson}[kind](
            path
        )
    summary = run("events", session_columns=["session", "sid"])
    assert (summary["rows_events"], summary["rows_quarantined"]) == (4, 1)
    assert sorted(events_of(lake)["user_id"]) == ["ann", "session:7", "session:s1", "session:s2"]
    (tmp_path / "events" / f"only.{kind}").unlink()
    assert run("events")["rows_quarantined"] == 3  # unless it is asked for


def test_a_json_key_is_found_wherever_it_first_appears(
    tmp_path: Path, run: Callable[..., Any], lake: Lake
) -> None:
    rows: list[dict[str, Any]] = [{"user": f"u{n}", "ts": "2026-11-02"} for n in range(1500)]
    rows += [{"userId": "ann", "ts": "2026-11-02", "item": "a", "score": 2.5, "event": "buy"}]
    rows += [{"user": "bob", "time": "2026-11-02", "itemId": 7, "rating": 3}] * 2
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("a.jsonl")
    found = events_of(lake).select("user_id", "item_id", "event_type", "weight", "row_number")
    assert list(found.iter_rows()) == [
        ("ann", "a", "buy", 2.5, 1501),
        ("bob", "7", "event", 3.0, 1502),
    ]


LINE_NUMBERS: dict[str, tuple[str, str | bytes, list[int], list[int]]] = {
    # The numbers of the lines with an event of user ann, and of those that go to quarantine.
    "blank lines": ("csv", "H\n\nG\n\n\nG\n,a,2026-11-02\n\nG\n", [3, 6, 9], [7]),
    "Windows": ("csv", "H\r\n\r\nG\r\n\r\nbad\r\nG\r\n", [3, 6], [5]),
    "broken lines": ("csv", "H\nbad\nG\n\nbad\nbad,\nG\nG\n", [3, 7, 8], [2, 5, 6]),
    "not UTF-8": ("csv", b"H\nG\nb\xf6b,a,2026-11-02\nG\n", [2, 4], [3]),
    "values with line ends": (
        "csv",
        'H\nG\nann,"a\n\n""b""",2026-11-02\n\nG\nbad\n"x\ny"\nG\n,"a\n",2026-11-02\nG\n',
        [2, 3, 7, 11, 14],
        [8, 9, 12],
    ),
    "a stray quote": ("csv", 'H\nann,5" tv,2026-11-02\n\nG\nbad\nG\n', [2, 4, 6], [5]),
    "a stray separator": ("csv", "H\nann,\x01,2026-11-02\nG\nbad\nG\n", [2, 3, 5], [4]),
    "JSON lines": ("jsonl", b"G\n\nb\xf6b\n{\nG\n \nG\n", [1, 5, 7], [3, 4]),
}


@pytest.mark.parametrize("case", LINE_NUMBERS)
def test_rows_are_numbered_by_the_line_where_they_begin(
    tmp_path: Path, run: Callable[..., Any], lake: Lake, case: str
) -> None:
    kind, text, events, rejected = LINE_NUMBERS[case]
    row = {"user_id": "ann", "item_id": "a", "ts": "2026-11-02"}
    good = json.dumps(row) if kind == "jsonl" else ",".join(row.values())
    content = text.encode() if isinstance(text, str) else text
    path = tmp_path / f"events.{kind}"
    content = content.replace(b"H", HEAD.strip().encode())
    while b"G" in content:  # each at another time, so that none is a duplicate
        time = b"2026-11-02 00:%02d" % content.count(b"G")
        content = content.replace(b"G", good.encode().replace(b"2026-11-02", time), 1)
    path.write_bytes(content)
    summary = run(path.name, broken_rows="quarantine")
    assert events_of(lake)["row_number"].sort().to_list() == events
    found = lake.scan(tables.QUARANTINE).sort("row_number").collect()["row_number"].to_list()
    assert found == rejected
    assert summary["rows_read"] == len(events) + len(rejected)


def write(path: Path, content: str | bytes) -> None:
    path.write_bytes(content.encode() if isinstance(content, str) else content)


HEAD = "user_id,item_id,ts\n"
GOOD = HEAD + "ann,a,2026-11-02\n" * 50

BAD_INPUT: dict[str, tuple[dict[str, str | bytes], dict[str, Any], list[str]]] = {
    "no source": ({}, {"path": ""}, ["source.path is not set"]),
    "nothing there": ({}, {"path": "/no/such/folder"}, ["/no/such/folder", "does not exist"]),
    "empty folder": ({}, {}, ["has no event files", "source.format"]),
    "folder with none": ({"README.md": "hello"}, {}, ["has no event files", "README.md"]),
    "empty file": ({"a.csv": ""}, {}, ["a.csv is empty"]),
    "empty compressed file": ({"a.csv.gz": gzip.compress(b"")}, {}, ["a.csv.gz is empty"]),
    "missing column": (
        {"a.csv": "user_id,thing,ts\nann,a,2026-11-02\n"},
        {},
        ["a.csv has no column item_id", "it has user_id, thing, ts", "source.item_columns"],
    ),
    "missing key": (
        {"a.jsonl": '{"user_id": 1, "ts": 1}\n'},
        {},
        ["a.jsonl has no column item_id", "source.item_columns"],
    ),
    "column twice": ({"a.csv": "user_id,item_id,ts,ts\n1,2,3,4\n"}, {}, ["two columns named ts"]),
    "no Parquet": ({"a.parquet": GOOD}, {}, ["a.parquet is no Parquet"]),
    "Parquet cut short": ({"a.parquet": b"PAR1" + b"x" * 99}, {}, ["no readable Parquet file"]),
    "JSON cut short": ({"a.jsonl": '{"user_id": 1, "it'}, {}, ["a.jsonl", "line 1"]),
    "gzip cut short": ({"a.csv.gz": gzip.compress(GOOD.encode())[:-6]}, {}, ["a.csv.gz is cut"]),
    "no gzip": ({"a.csv.gz": GOOD}, {}, ["a.csv.gz", "not compressed as its name says"]),
    "no zstd": ({"a.csv.zst": GOOD}, {}, ["a.csv.zst", "not compressed as its name says"]),
    "empty line first": ({"a.csv": "\n" + GOOD}, {}, ["a.csv is empty"]),
    "Latin-1 header": ({"a.csv": "user_id,item_id,ts,größe\n".encode("latin-1")}, {}, ["UTF-8"]),
    "times too small": ({"a.csv": HEAD + "ann,a,20261102\n"}, {}, ["20261102", "source.time_unit"]),
    "contradicted unit": (
        {"a.csv": HEAD + "ann,a,1793600000\n"},
        {"time_unit": "ms"},
        ["looks like s", 'source.time_unit is "ms"'],
    ),
    "milliseconds as seconds": (
        {"a.csv": HEAD + "ann,a,1793600000000\n"},
        {"time_unit": "s"},
        ["looks like ms"],
    ),
    "words as times": (
        {"a.csv": HEAD + "ann,a,monday\nann,b,tuesday\n"},
        {},
        ["2 of 2 times", "row 2", "monday", "source.time_columns"],
    ),
    "no numbers as times": (
        {"a.csv": HEAD + "ann,a,inf\nann,b,-inf\nann,c,Infinity\n"},
        {},
        ["3 of 3 times", "inf", "source.time_columns"],
    ),
    "all rows unusable": ({"a.csv": HEAD + ",a,2026-11-02\n"}, {}, ["a.csv row 2, no user"]),
    "header only": ({"a.csv": HEAD}, {}, ["night 2026-11-02 has no events"]),
    "another time": (
        {"a.csv": HEAD + "ann,a,2026-12-24\nann,a,2026-12-26\n"},
        {},
        ["night 2026-11-02 has no events", "between 2026-12-24 and 2026-12-26"],
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_one_sentence_and_writes_nothing(
    tmp_path: Path, lake: Lake, case: str
) -> None:
    files, options, says = BAD_INPUT[case]
    source = tmp_path / "events"
    source.mkdir()
    for name, content in files.items():
        write(source / name, content)
    settings = load_settings(source={"path": str(source), **options}, lake={"root": lake.root})
    with pytest.raises(PipelineError) as error:
        ingest(settings, NIGHT)
    message = str(error.value)
    assert all(word in message for word in says), message
    assert "\n" not in message
    assert lake.nights(tables.EVENTS) == []


def test_bad_input_leaves_the_nights_before_as_they_were(
    tmp_path: Path, run: Callable[..., Any], lake: Lake
) -> None:
    (tmp_path / "events.csv").write_text(GOOD)
    run("events.csv", NIGHT)
    before = events_of(lake)
    (tmp_path / "events.csv").write_text(HEAD + "ann,a\n")
    for night in (NIGHT, NIGHT + dt.timedelta(days=1)):
        with pytest.raises(SourceError):
            run("events.csv", night)
    assert events_of(lake).equals(before)


def test_another_source_in_the_same_lake_is_told_so(
    tmp_path: Path, run: Callable[..., Any], lake: Lake
) -> None:
    (tmp_path / "one.csv").write_text(GOOD)
    (tmp_path / "two.csv").write_text(GOOD)
    run("one.csv", NIGHT)
    with pytest.raises(NightError, match=r"lake\.root"):
        run("two.csv", NIGHT + dt.timedelta(days=1))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_file_cut_short_anywhere_is_never_taken_for_a_shorter_one(
    tmp_path: Path,
    run: Callable[..., Any],
    lake: Lake,
    suffix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # So that looking for the header does not read the whole file.
    monkeypatch.setattr("tasks.sources.lines.BLOCK", 4096)
    plain = tmp_path / "events.csv"
    lines = [f"user{i * i},item{i * 31 % 977},2026-11-02\n" for i in range(20_000)]
    plain.write_text(HEAD + "".join(lines))
    path = compressed(plain, suffix)
    whole = path.read_bytes()
    for share in (0.2, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(SourceError, match="is cut short"):
            run(path.name)
    assert lake.nights(tables.EVENTS) == []


def test_a_single_wrong_time_among_many_goes_to_quarantine(
    tmp_path: Path, run: Callable[..., Any], lake: Lake
) -> None:
    rows = [f"ann,i{i},{1793600000 + i}\n" for i in range(20)]
    (tmp_path / "events.csv").write_text(HEAD + "".join(rows) + "ann,i,1793600000000\n")
    assert run("events.csv")["rows_quarantined"] == 1
    (row,) = rows_of(lake, tables.QUARANTINE)
    assert row["reason"] == "time lies outside of 1970 to 2199"


def test_names_of_columns_and_files_are_never_run_as_sql(
    tmp_path: Path, run: Callable[..., Any], lake: Lake
) -> None:
    user, item, time = "u'; DROP TABLE staged; --", 'i"tem', "t/~1 ime $x"
    for name, kind in (
        ("a'b\"[1]*?.csv", "csv"),
        ("p'q.parquet", "parquet"),
        ("j'k.jsonl", "jsonl"),
    ):
        folder = tmp_path / kind
        folder.mkdir()
        row = {user: "ann", item: "a'b", time: "2026-11-02"}
        if kind == "jsonl":
            (folder / name).write_text(json.dumps(row))
        else:
            getattr(pl.DataFrame([row]), f"write_{kind}")(folder / name)
        summary = ingest(
            settings_for(
                folder, tmp_path / f"lake {kind}",
                user_columns=[user], item_columns=[item], time_columns=[time],
            ),
            NIGHT,
        )  # fmt: skip
        assert summary["rows_events"] == 1
        assert events_of(Lake(tmp_path / f"lake {kind}"))["source"].to_list() == [name]


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, run: Callable[..., Any]) -> None:
    (tmp_path / "secret.csv").write_text(GOOD)
    folder = tmp_path / "events"
    folder.mkdir()
    (folder / "link.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(SourceError, match="outside of"):
        run("events")


def test_a_glob_takes_the_files_it_names(
    tmp_path: Path, run: Callable[..., Any], lake: Lake
) -> None:
    for name in ("a-1.csv", "a-2.csv", "b.csv", ".a-3.csv"):
        (tmp_path / name).write_text(GOOD)
    run("a-*.csv")
    assert [row["source"] for row in rows_of(lake, tables.INGESTS)] == ["a-1.csv", "a-2.csv"]


def test_files_with_other_names_are_read_when_the_format_is_set(
    tmp_path: Path, run: Callable[..., Any]
) -> None:
    (tmp_path / "data.dat").write_text(GOOD.replace(",", "::"))
    (tmp_path / "data.dat").write_text(GOOD.replace(",", "^"))
    with pytest.raises(SourceError, match=r"source\.format"):
        run("data.dat")
    assert run("data.dat", format="csv", separator="^")["rows_read"] == 50


ROW = st.tuples(
    st.sampled_from(["", " ", "ann", "bob"]),
    st.sampled_from(["", "a", "b"]),
    st.sampled_from(["", "x", "2026-11-01T05:00", "2026-11-02T06:00", "2026-11-03T00:00"]),
    st.sampled_from(["", "1", "2.5", "nan", "much"]),
)


@pytest.mark.slow
@hypothesis_settings(max_examples=15, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=30))
def test_every_row_read_is_accounted_for(
    rows: list[tuple[str, str, str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    # Enough good rows that neither the night is empty nor most times are wrong.
    rows = [*rows, *(("ann", f"good{i}", "2026-11-02T07:00", "") for i in range(31))]
    lines = ["user_id,item_id,ts,weight", *(",".join(row) for row in rows)]
    (folder / "events.csv").write_text("\n".join(lines))
    summary = ingest(settings_for(folder / "events.csv", folder / "lake"), NIGHT)

    in_time = {"2026-11-01T05:00", "2026-11-02T06:00", "2026-11-02T07:00"}
    usable = [
        row for row in rows if row[0].strip() and row[1] and row[2] in in_time and row[3] != "much"
    ]
    distinct = {(*row[:3], "" if row[3] == "nan" else row[3]) for row in usable}
    other = [row for row in rows if row[2] == "2026-11-03T00:00"]
    assert summary["rows_read"] == len(rows)
    assert summary["rows_events"] == len(distinct)
    assert summary["rows_duplicate"] == len(usable) - len(distinct)
    assert summary["rows_other_nights"] == len(other)
    assert summary["rows_quarantined"] == len(rows) - len(usable) - len(other)


def test_counts_that_do_not_agree_stop_the_step(
    tmp_path: Path, run: Callable[..., Any], lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "events.csv").write_text(GOOD)
    from tasks.lake import duck

    kept = duck.sql

    def losing(name: str) -> str:
        return kept(name) + (" AND row_number <> 7" if name == "staged" else "")

    monkeypatch.setattr(duck, "sql", losing)
    with pytest.raises(SourceError, match="1 of them are in no count"):
        run("events.csv")
    assert lake.nights(tables.EVENTS) == []


WRITES = ["events", "quarantine", "ingests"]


@pytest.mark.slow
@pytest.mark.parametrize("survives", range(len(WRITES)), ids=["none", "events", "quarantine"])
def test_a_kill_between_two_writes_is_mended_by_a_rerun(
    tmp_path: Path, lake: Lake, survives: int
) -> None:
    write_events(tmp_path / "events.csv", "csv")
    with (tmp_path / "events.csv").open("a") as file:
        file.write(",a,,view,1,\n")
    code = f"""
import datetime, os, signal, sys
from tasks.night.ingest import ingest
from tasks.lake import Lake
from tasks.settings import load_settings
kept, left = Lake.replace, [{survives}]
def replace(self, *args, **kwargs):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    kept(self, *args, **kwargs)
Lake.replace = replace
settings = load_settings(source={{"path": {str(tmp_path / "events.csv")!r}}},
                         lake={{"root": {str(lake.root)!r}}})
ingest(settings, datetime.date({NIGHT.year}, {NIGHT.month}, {NIGHT.day}))
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=REPO, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [name for name in WRITES if lake.nights(tables.TABLES[name])] == WRITES[:survives]

    def whole(root: Path) -> list[list[dict[str, Any]]]:
        ingest(settings_for(tmp_path / "events.csv", root), NIGHT)
        return [
            Lake(root).scan(tables.TABLES[name]).collect().sort(pl.all()).to_dicts()
            for name in WRITES
        ]

    assert whole(lake.root) == whole(tmp_path / "untouched")
