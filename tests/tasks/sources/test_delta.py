"""A Delta table as a source: what a night reads of it, and that it reads the same again."""

import datetime as dt
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from tasks.errors import SourceError
from tasks.lake import Lake, tables
from tasks.night.ingest import ingest
from tasks.settings import Settings, load_settings

NIGHT = dt.date(2026, 11, 2)
DAY = dt.timedelta(days=1)
WANTED = ["user_id", "item_id", "ts", "event_type", "weight"]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return tmp_path / "shop"


@pytest.fixture
def settings(tmp_path: Path, shop: Path) -> Callable[..., Settings]:
    def given(lake: str = "lake", late_days: int = 3, **source: Any) -> Settings:
        return load_settings(
            source={"kind": "delta", "path": str(shop), **source},
            ingest={"late_days": late_days},
            lake={"root": tmp_path / lake},
            duckdb={"threads": 1},
        )

    return given


def row(text: str, user: str | None = "ann", item: str = "a") -> dict[str, Any]:
    ts = dt.datetime.fromisoformat(f"2026-{text}").replace(tzinfo=dt.UTC)
    return {"user_id": user, "item_id": item, "ts": ts}


def put(shop: Path, *rows: dict[str, Any], **how: Any) -> int:
    """Append a version with these rows; return its number."""
    frame = pl.DataFrame(rows, schema={"user_id": pl.String, "item_id": pl.String,
                                       "ts": pl.Datetime("us", "UTC")})  # fmt: skip
    write_deltalake(shop, frame.to_arrow(), mode="append", **how)
    return DeltaTable(shop).version()


def items_of(settings: Settings) -> dict[str, list[str]]:
    """Items of the events of each day."""
    events = Lake(settings.lake.root).scan(tables.EVENTS).sort("ts", "row_number").collect()
    return {
        str(day)[5:]: part["item_id"].to_list()
        for (day,), part in events.group_by("dt", maintain_order=True)
    }


def everything(settings: Settings) -> list[dict[str, Any]]:
    events = Lake(settings.lake.root).scan(tables.EVENTS).collect()
    return events.sort("ts", "row_number").to_dicts()


def versions_of(settings: Settings) -> list[tuple[Any, ...]]:
    read = Lake(settings.lake.root).scan(tables.SOURCE_VERSIONS).sort("dt").collect()
    return list(read.select("dt", "version", "after_version", "since").iter_rows())


def test_a_night_reads_new_files_and_what_was_there_of_its_own_day(
    shop: Path, settings: Callable[..., Settings]
) -> None:
    put(shop, row("10-20 10:00", item="old"), row("11-01 10:00", item="before"))
    put(shop, row("11-02 10:00", item="own"))
    put(shop, row("11-03 00:10", item="early"))  # here before night 2 runs
    assert ingest(settings(), NIGHT)["rows_read"] == 3
    put(shop, row("11-03 12:00", item="next"), row("11-02 23:00", item="late"))
    summary = ingest(settings(), NIGHT + DAY)
    assert summary["rows_read"] == 3  # neither of the files that hold the days before
    assert summary["changed_nights"] == {"2026-11-02": 1}
    assert items_of(settings()) == {
        "10-20": ["old"], "11-01": ["before"], "11-02": ["own", "late"], "11-03": ["early", "next"],
    }  # fmt: skip
    assert versions_of(settings()) == [(NIGHT, 2, None, None), (NIGHT + DAY, 3, 2, NIGHT + DAY)]


@pytest.mark.slow
def test_a_night_that_runs_again_reads_the_same_range_and_keeps_what_came_since(
    shop: Path, settings: Callable[..., Settings]
) -> None:
    put(shop, row("11-02 10:00"))
    first = ingest(settings(), NIGHT)
    put(shop, row("11-03 10:00"), row("11-02 11:00", item="late"))
    second = ingest(settings(), NIGHT + DAY)
    put(shop, row("11-02 12:00", item="later"), row("11-03 12:00", item="later"))
    put(shop, row("11-04 10:00"))
    ingest(settings(), NIGHT + 2 * DAY)
    seen, versions = everything(settings()), versions_of(settings())
    for night, summary in ((NIGHT, first), (NIGHT + DAY, second), (NIGHT, first)):
        assert ingest(settings(), night) == summary | {"changed_nights": summary["changed_nights"]}
        assert everything(settings()) == seen
        assert versions_of(settings()) == versions


@pytest.mark.slow
def test_a_backfill_gives_what_the_nightly_runs_gave(
    shop: Path, settings: Callable[..., Settings]
) -> None:
    for day in range(1, 7):
        put(
            shop, row(f"11-0{day} 10:00", item=f"i{day}"), row(f"11-0{day + 1} 00:10", item="early")
        )
        if day > 1:
            ingest(settings("nightly"), dt.date(2026, 11, day))
    columns = [*WANTED, "row_number", "source"]
    nightly = [{name: event[name] for name in columns} for event in everything(settings("nightly"))]
    # From nothing, with a gap, and a night in between last of all.
    for day in (2, 3, 6, 4, 5):
        ingest(settings("backfill"), dt.date(2026, 11, day))
    backfill = [
        {name: event[name] for name in columns} for event in everything(settings("backfill"))
    ]
    assert backfill == nightly


def test_the_night_after_a_gap_reads_the_days_of_the_gap(
    shop: Path, settings: Callable[..., Settings]
) -> None:
    put(shop, row("11-02 10:00"))
    put(shop, row("11-03 10:00", item="gap"))
    ingest(settings(), NIGHT)
    put(shop, row("11-04 10:00", item="own"))
    assert ingest(settings(), NIGHT + 2 * DAY)["changed_nights"] == {"2026-11-03": 1}
    assert items_of(settings())["11-03"] == ["gap"]


def test_reread_takes_the_table_as_it_is_now(shop: Path, settings: Callable[..., Settings]) -> None:
    put(shop, row("11-02 10:00", item="wrong"), row("11-02 11:00", item="right"))
    ingest(settings(), NIGHT)
    DeltaTable(shop).delete("item_id = 'wrong'")
    ingest(settings(), NIGHT)
    assert items_of(settings()) == {"11-02": ["wrong", "right"]}
    ingest(settings(reread=True), NIGHT)
    assert items_of(settings()) == {"11-02": ["right"]}
    assert versions_of(settings()) == [(NIGHT, 1, None, None)]


def test_a_rewritten_table_gives_no_event_twice(
    shop: Path, settings: Callable[..., Settings]
) -> None:
    for hour in range(4):
        put(shop, row(f"11-02 1{hour}:00"))
    ingest(settings(), NIGHT)
    put(shop, row("11-03 10:00"))
    DeltaTable(shop).optimize.compact()
    summary = ingest(settings(), NIGHT + DAY)
    assert (summary["rows_read"], summary["rows_events"], summary["rows_late"]) == (5, 1, 0)
    assert len(everything(settings())) == 5


@pytest.mark.slow
@pytest.mark.parametrize("what", ["log", "files"])
def test_a_version_that_is_gone_is_read_as_the_table_is_now(
    shop: Path, settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture, what: str
) -> None:
    put(shop, row("11-02 10:00", item="one"))
    put(shop, row("11-02 11:00", item="two"))
    ingest(settings(), NIGHT)
    put(shop, row("11-03 10:00"))
    ingest(settings(), NIGHT + DAY)
    seen = items_of(settings())
    table = DeltaTable(shop)
    if what == "files":
        table.optimize.compact()
        table.vacuum(0, dry_run=False, enforce_retention_duration=False)
    else:
        table.create_checkpoint()
        for version in (0, 1):
            (shop / "_delta_log" / f"{version:020}.json").unlink()
    caplog.set_level(logging.WARNING)
    ingest(settings(), NIGHT)
    assert "version 1 of Delta table" in caplog.text
    ingest(settings(), NIGHT + DAY)
    assert items_of(settings()) == seen


def test_a_table_made_anew_is_read_from_its_start(
    shop: Path, settings: Callable[..., Settings]
) -> None:
    put(shop, row("11-02 10:00"))
    put(shop, row("11-02 11:00"))
    ingest(settings(), NIGHT)
    shutil.rmtree(shop)
    put(shop, row("11-02 12:00", item="moved"))
    put(shop, row("11-03 10:00"))
    ingest(settings(), NIGHT + DAY)
    assert items_of(settings())["11-02"] == ["a", "a", "moved"]
    assert versions_of(settings())[-1] == (NIGHT + DAY, 1, None, None)


@pytest.mark.parametrize("kind", ["timestamp", "ntz", "date", "s", "ms", "us", "float", "text"])
def test_a_time_of_any_type_is_read_by_night(
    shop: Path, settings: Callable[..., Settings], kind: str
) -> None:
    cast: dict[str, Callable[[pl.Expr], pl.Expr]] = {
        "timestamp": lambda ts: ts,
        "ntz": lambda ts: ts.dt.replace_time_zone(None),
        "date": lambda ts: ts.dt.date(),
        "s": lambda ts: ts.dt.epoch("s").cast(pl.Int32),
        "ms": lambda ts: ts.dt.epoch("ms"),
        "us": lambda ts: ts.dt.epoch("us"),
        "float": lambda ts: ts.dt.epoch("us") / 1e6,
        "text": lambda ts: ts.dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    for day in range(1, 4):
        rows = [row(f"11-0{day} 10:00", item=f"i{day}"), row(f"11-0{day + 1} 00:10", item="early")]
        frame = pl.DataFrame(rows).with_columns(cast[kind](pl.col("ts")).alias("ts"))
        write_deltalake(shop, frame.to_arrow(), mode="append")
        if day > 1:
            read = ingest(settings(late_days=0), dt.date(2026, 11, day))["rows_read"]
    # Of the last night: its file and the one before; of text all, for what may be in it is unknown.
    assert read == (6 if kind == "text" else 4)
    days = items_of(settings())
    assert {day: sorted(items) for day, items in days.items()} == {
        "11-01": ["i1"], "11-02": ["early", "i2"], "11-03": ["early", "i3"],
    }  # fmt: skip


@pytest.mark.slow
def test_a_row_that_no_night_asks_for_goes_to_quarantine_once(
    shop: Path, settings: Callable[..., Settings]
) -> None:
    many = [row("11-02 10:00", item=f"i{n}") for n in range(9)]
    put(shop, *many)
    ingest(settings(), NIGHT)
    put(shop, {**row("11-03 10:00"), "ts": None}, row("11-03 10:00"))
    put(shop, {**row("11-03 10:00"), "ts": dt.datetime(2300, 1, 1, tzinfo=dt.UTC)})
    assert ingest(settings(), NIGHT + DAY)["rows_quarantined"] == 2
    put(shop, row("11-04 10:00"))
    assert ingest(settings(), NIGHT + 2 * DAY)["rows_quarantined"] == 0
    assert ingest(settings(), NIGHT + DAY)["rows_quarantined"] == 2
    rejects = Lake(settings().lake.root).scan(tables.QUARANTINE).collect()
    assert sorted(rejects["reason"]) == ["no time", "time lies outside of 1970 to 2199"]


def test_partitions_and_columns_that_came_later_are_read(
    shop: Path, settings: Callable[..., Settings]
) -> None:
    for day, more in ((1, {}), (2, {"rating": 2.5})):
        frame = pl.DataFrame([{**row(f"11-0{day} 10:00"), "event": "buy now", **more}])
        write_deltalake(
            shop, frame.to_arrow(), mode="append", partition_by=["event"], schema_mode="merge"
        )
    ingest(settings(), NIGHT)
    seen = [tuple(event[name] for name in WANTED) for event in everything(settings())]
    at = dt.datetime(2026, 11, 1, 10, tzinfo=dt.UTC)
    assert seen == [
        ("ann", "a", at, "buy now", None),
        ("ann", "a", at + DAY, "buy now", 2.5),
    ]


def needing(shop: Path, **protocol: Any) -> None:
    """Say in the log that the table needs a feature."""
    configuration = protocol.pop("configuration", {})
    log = shop / "_delta_log" / f"{0:020}.json"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        line.get("protocol", {}).update(protocol)
        if "metaData" in line:
            line["metaData"]["configuration"] |= configuration
            schema = json.loads(line["metaData"]["schemaString"])
            for number, column in enumerate(schema["fields"] if configuration else []):
                of_it = {"id": number, "physicalName": f"c{number}"}
                column["metadata"] = {f"delta.columnMapping.{k}": v for k, v in of_it.items()}
            line["metaData"]["schemaString"] = json.dumps(schema)
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))


VECTORS = {
    "minReaderVersion": 3,
    "minWriterVersion": 7,
    "readerFeatures": ["deletionVectors"],
    "writerFeatures": ["deletionVectors"],
}
MAPPING = {
    "minReaderVersion": 2,
    "minWriterVersion": 5,
    "configuration": {"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "3"},
}


def relinked(shop: Path) -> None:
    """Put a link out of the table in the place of its file."""
    (file,) = shop.glob("*.parquet")
    file.symlink_to(file.rename(shop.parent / "elsewhere.parquet"))


def elsewhere(shop: Path) -> None:
    """Let the log name a file outside of the table, which is there."""
    (file,) = shop.glob("*.parquet")
    log = shop / "_delta_log" / f"{0:020}.json"
    log.write_text(log.read_text().replace(file.name, "../elsewhere.parquet"))
    file.rename(shop.parent / "elsewhere.parquet")


ERRORS: dict[str, tuple[Callable[[Path], Any], dict[str, Any], list[str]]] = {
    "no path": (lambda _: None, {"path": ""}, ["source.path is not set"]),
    "no table": (lambda shop: shop.rename(shop.parent / "x"), {}, ["shop", "no Delta table"]),
    "no such column": (
        lambda _: None,
        {"user_columns": ["customer"]},
        ["no column customer", "it has user_id, item_id, ts", "source.user_columns"],
    ),
    "a broken log": (
        lambda shop: (shop / "_delta_log" / f"{0:020}.json").write_text("{"),
        {},
        ["cannot be read", "_delta_log"],
    ),
    "deletion vectors": (lambda shop: needing(shop, **VECTORS), {}, ["deletionVectors", "PURGE"]),
    "column mapping": (
        lambda shop: needing(shop, **MAPPING),
        {},
        ["column mapping by name", "copy"],
    ),
    "a file that is gone": (
        lambda shop: next(shop.glob("*.parquet")).unlink(),
        {},
        ["lacks data files", "version 0", "restore"],
    ),
    "a link out of the table": (relinked, {}, ["leads to", "elsewhere.parquet", "outside of"]),
    "a log that names a file elsewhere": (elsewhere, {}, ["leads to", "outside of"]),
    "a URL that leaves its bucket": (
        lambda _: None,
        {"path": "s3://shop/../other"},
        ["s3://shop/../other", "without empty parts, . and .."],
    ),
    "a file that is cut short": (
        lambda shop: next(shop.glob("*.parquet")).write_bytes(b"PAR1 and no more"),
        {},
        ["cannot be read (Parquet", ".parquet", "restore"],
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_a_person_has_to_mend_is_one_sentence(
    shop: Path, settings: Callable[..., Settings], case: str
) -> None:
    put(shop, row("11-02 10:00"))
    spoil, source, says = ERRORS[case]
    spoil(shop)
    with pytest.raises(SourceError) as error:
        ingest(settings(**source), NIGHT)
    assert all(part in str(error.value) for part in says), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_rows_that_were_changed_stop_the_night_unless_they_are_followed(
    shop: Path, settings: Callable[..., Settings]
) -> None:
    put(shop, row("11-01 10:00", item="old"), row("11-01 11:00", item="x"))
    ingest(settings(), NIGHT - DAY)
    put(shop, row("11-02 10:00", item="own"))
    DeltaTable(shop).update(predicate="item_id = 'old'", new_values={"item_id": "new"})
    with pytest.raises(SourceError, match=r'version 2 .*\(UPDATE\).* source\.changes = "follow"'):
        ingest(settings(), NIGHT)
    assert items_of(settings()) == {"11-01": ["old", "x"]}
    summary = ingest(settings(changes="follow"), NIGHT)
    assert summary["changed_nights"] == {"2026-11-01": 2}  # one is gone, one is there
    assert items_of(settings()) == {"11-01": ["new", "x"], "11-02": ["own"]}
    before = everything(settings())
    ingest(settings(changes="follow"), NIGHT)
    assert everything(settings()) == before
    ingest(settings(changes="follow"), NIGHT - DAY)
    assert items_of(settings()) == {"11-01": ["new", "x"], "11-02": ["own"]}


def test_rows_that_were_deleted_and_merged_are_followed_night_by_night(
    shop: Path, settings: Callable[..., Settings]
) -> None:
    follow = settings(changes="follow")
    put(shop, row("11-01 10:00", item="a"), row("11-01 11:00", item="b"))
    ingest(follow, NIGHT - DAY)
    put(shop, row("11-02 10:00", item="c"), row("11-02 11:00", item="d"))
    DeltaTable(shop).delete("item_id = 'a'")
    ingest(follow, NIGHT)
    assert items_of(follow) == {"11-01": ["b"], "11-02": ["c", "d"]}
    merged = pl.DataFrame([row("11-02 11:00", item="e"), row("11-03 01:00", item="f")]).to_arrow()
    (
        DeltaTable(shop)
        .merge(merged, "s.ts = t.ts", source_alias="s", target_alias="t")
        .when_matched_update_all()
        .when_not_matched_insert_all()
        .execute()
    )
    summary = ingest(follow, NIGHT + DAY)
    assert items_of(follow) == {"11-01": ["b"], "11-02": ["c", "e"], "11-03": ["f"]}
    assert summary["changed_nights"] == {"2026-11-02": 2}
