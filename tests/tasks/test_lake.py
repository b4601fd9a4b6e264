"""The lake: whole partitions in one transaction, and readers that see one version."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from tasks import tables
from tasks.duck import connect
from tasks.errors import LakeError
from tasks.lake import ConcurrentWriteError, Lake
from tasks.settings import load_settings
from tasks.tables import ITEMS, METRICS, STEPS, TABLES

DAYS = [dt.date(2026, 11, day) for day in range(1, 6)]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "my lake's (folder) ü*")


def metrics(*rows: tuple[dt.date, float]) -> pa.Table:
    return pa.Table.from_pylist(
        [{"dt": day, "metric": "HR@5", "value": value} for day, value in rows],
        schema=METRICS.schema,
    )


def content(lake: Lake, **bounds: dt.date) -> list[tuple[dt.date, float]]:
    rows = lake.scan(METRICS, **bounds).select("dt", "value").sort("dt", "value").collect()
    return list(rows.iter_rows())


def test_replace_touches_only_the_nights_it_names(lake: Lake) -> None:
    lake.replace(METRICS, metrics(*((day, 1.0) for day in DAYS)), nights=(DAYS[0], DAYS[-1]))
    lake.replace(METRICS, metrics((DAYS[1], 2.0), (DAYS[3], 2.0)), nights=[DAYS[1], DAYS[3]])
    assert [value for _, value in content(lake)] == [1.0, 2.0, 1.0, 2.0, 1.0]


def test_replace_by_a_range_empties_the_nights_that_have_no_rows_any_more(lake: Lake) -> None:
    lake.replace(METRICS, metrics(*((day, 1.0) for day in DAYS)), nights=DAYS)
    lake.replace(METRICS, metrics((DAYS[2], 2.0)), nights=(dt.date.min, DAYS[3]))
    assert content(lake) == [(DAYS[2], 2.0), (DAYS[4], 1.0)]
    assert lake.nights(METRICS) == [DAYS[2], DAYS[4]]


def test_replace_with_no_rows_leaves_the_night_empty(lake: Lake) -> None:
    lake.replace(METRICS, metrics((DAYS[0], 1.0), (DAYS[1], 1.0)), nights=DAYS)
    lake.replace(METRICS, METRICS.schema.empty_table(), nights=[DAYS[0]])
    assert content(lake) == [(DAYS[1], 1.0)]


def test_rows_of_another_night_are_refused_and_nothing_is_written(lake: Lake) -> None:
    lake.replace(METRICS, metrics((DAYS[0], 1.0)), nights=[DAYS[0]])
    with pytest.raises(Exception, match=r"(?i)invalid data"):
        lake.replace(METRICS, metrics((DAYS[0], 2.0), (DAYS[1], 2.0)), nights=[DAYS[0]])
    assert content(lake) == [(DAYS[0], 1.0)]


def test_a_stream_that_fails_leaves_the_old_partition_and_its_own_error(lake: Lake) -> None:
    lake.replace(METRICS, metrics((DAYS[0], 1.0)), nights=[DAYS[0]])

    def failing() -> Iterator[pa.RecordBatch]:
        yield from metrics((DAYS[0], 2.0)).to_batches()
        raise ZeroDivisionError("in the middle")

    reader = pa.RecordBatchReader.from_batches(METRICS.schema, failing())
    with pytest.raises(Exception, match="in the middle"):
        lake.replace(METRICS, reader, nights=[DAYS[0]])
    assert content(lake) == [(DAYS[0], 1.0)]


def test_a_reader_goes_on_seeing_the_version_it_opened(lake: Lake) -> None:
    lake.replace(METRICS, metrics((DAYS[0], 1.0)), nights=[DAYS[0]])
    before = lake.scan(METRICS)
    con = connect(load_settings())
    lake.view(con, METRICS)
    lake.replace(METRICS, metrics((DAYS[0], 2.0)), nights=[DAYS[0]])
    assert before.collect()["value"].to_list() == [1.0]
    assert con.execute("SELECT value FROM metrics").fetchall() == [(1.0,)]
    assert content(lake) == [(DAYS[0], 2.0)]


def test_bounds_of_a_read_include_both_ends(lake: Lake) -> None:
    lake.replace(METRICS, metrics(*((day, 1.0) for day in DAYS)), nights=DAYS)
    assert [day for day, _ in content(lake, first=DAYS[1], last=DAYS[3])] == DAYS[1:4]
    con = connect(load_settings())
    lake.view(con, METRICS, "early ones", last=DAYS[1])
    seen = con.execute('SELECT dt FROM "early ones" ORDER BY dt').fetchall()
    assert seen == [(DAYS[0],), (DAYS[1],)]


def test_one_step_of_a_night_is_replaced_without_the_others(lake: Lake) -> None:
    def row(step: str, seconds: float) -> pa.Table:
        return pa.Table.from_pylist(
            [{"dt": DAYS[0], "step": step, "seconds": seconds}], schema=STEPS.schema
        )

    for step, seconds in (("train", 1.0), ("label", 1.0), ("train", 2.0)):
        lake.replace(STEPS, row(step, seconds), nights=[DAYS[0]], within={"step": step})
    found = lake.scan(STEPS).select("step", "seconds").sort("step").collect()
    assert list(found.iter_rows()) == [("label", 1.0), ("train", 2.0)]


def test_append_adds_rows(lake: Lake) -> None:
    for index, item in enumerate("ab", start=1):
        row = {"item_id": item, "item_index": index, "first_seen": DAYS[0]}
        lake.append(ITEMS, pa.Table.from_pylist([row], schema=ITEMS.schema))
    assert lake.scan(ITEMS).sort("item_index").collect()["item_id"].to_list() == ["a", "b"]


def test_rows_computed_from_a_version_that_is_no_longer_the_last_are_refused(lake: Lake) -> None:
    rows = [
        pa.Table.from_pylist(
            [{"item_id": item, "item_index": 1, "first_seen": DAYS[0]}], schema=ITEMS.schema
        )
        for item in "ab"
    ]
    read = [lake.version(ITEMS), lake.version(ITEMS)]
    lake.append(ITEMS, rows[0], after=read[0])
    with pytest.raises(ConcurrentWriteError):
        lake.append(ITEMS, rows[1], after=read[1])
    assert lake.scan(ITEMS).collect()["item_id"].to_list() == ["a"]
    lake.append(ITEMS, rows[1], after=lake.version(ITEMS))
    assert lake.scan(ITEMS).collect().height == 2


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("there", [False, True], ids=["missing", "empty"])
def test_a_table_without_rows_reads_with_its_columns(
    lake: Lake, table: tables.Table, there: bool
) -> None:
    if there:
        lake.append(table, table.schema.empty_table())
    columns = pl.DataFrame(table.schema.empty_table()).schema
    assert lake.scan(table).collect().schema == columns
    con = connect(load_settings())
    lake.view(con, table)
    assert [column[0] for column in con.execute(f"FROM {table.name}").description] == [*columns]


@pytest.mark.parametrize(
    "data",
    [
        pl.DataFrame(metrics((DAYS[0], 1.0))).select(pl.all().reverse()),
        metrics((DAYS[0], 1.0)).select(METRICS.schema.names[::-1]),
        metrics((DAYS[0], 1.0)).to_reader(),
    ],
    ids=["polars", "columns in another order", "reader"],
)
def test_any_arrow_stream_can_be_written(lake: Lake, data: Any) -> None:
    lake.replace(METRICS, data, nights=[DAYS[0]])
    assert content(lake) == [(DAYS[0], 1.0)]


def test_data_with_other_columns_is_refused(lake: Lake) -> None:
    with pytest.raises(ValueError, match="the table has"):
        lake.replace(METRICS, pa.table({"dt": DAYS}), nights=DAYS)


def test_a_damaged_table_is_named(lake: Lake) -> None:
    lake.replace(METRICS, metrics((DAYS[0], 1.0)), nights=[DAYS[0]])
    for entry in (lake.path(METRICS) / "_delta_log").glob("*.json"):
        entry.write_text("{")
    with pytest.raises(LakeError, match="metrics"):
        lake.nights(METRICS)
