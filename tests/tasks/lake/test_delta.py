"""The lake: whole partitions in one transaction, and readers that see one version."""

import datetime as dt
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from tasks.errors import LakeError, NotReadyError
from tasks.lake import ConcurrentWriteError, Lake, column_types, tables
from tasks.lake.duck import connect
from tasks.lake.tables import ITEMS, METRICS, STEPS, TABLES
from tasks.settings import load_settings
from tasks.steps import run_step
from tests.places import PLACES, bucket

DAYS = [dt.date(2026, 11, day) for day in range(1, 6)]


@pytest.fixture(params=PLACES)
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lake]:
    if request.param == "folder":
        yield Lake(tmp_path / "my lake's (folder) ü*")
    else:
        with bucket(request.getfixturevalue("store")) as url:
            yield Lake(f"{url}/a.b-c_d/lake")


def write(lake: Lake, table: tables.Table, rows: pa.Table) -> None:
    """Write a table as another version of this project did."""
    write_deltalake(
        lake.path(table),
        rows,
        partition_by=list(table.partition_by) or None,
        storage_options=lake.storage.delta_options,
    )


def version(lake: Lake, table: tables.Table) -> int:
    return DeltaTable(lake.path(table), storage_options=lake.storage.delta_options).version()


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


@pytest.mark.parametrize("which", TABLES.values(), ids=lambda which: which.name)
def test_files_are_compressed(lake: Lake, which: tables.Table) -> None:
    row = dict.fromkeys(which.schema.names) | dict.fromkeys(which.partition_by, "x")
    if "dt" in row:
        row["dt"] = DAYS[0]
    lake.append(which, pa.Table.from_pylist([row], schema=which.schema))
    [file] = lake.data_files(which)
    group = pq.read_metadata(pa.BufferReader(lake.storage.read(file.path))).row_group(0)
    assert {group.column(i).compression for i in range(group.num_columns)} == {"ZSTD"}


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
    "streamed",
    [
        lambda rows: pl.DataFrame(rows).select(pl.all().reverse()),
        lambda rows: rows.select(METRICS.schema.names[::-1]),
        lambda rows: rows.to_reader(),
    ],
    ids=["polars", "columns in another order", "reader"],
)
def test_any_arrow_stream_can_be_written(lake: Lake, streamed: Callable[[pa.Table], Any]) -> None:
    lake.replace(METRICS, streamed(metrics((DAYS[0], 1.0))), nights=[DAYS[0]])
    assert content(lake) == [(DAYS[0], 1.0)]


def test_data_with_other_columns_is_refused(lake: Lake) -> None:
    with pytest.raises(ValueError, match="the table has"):
        lake.replace(METRICS, pa.table({"dt": DAYS}), nights=DAYS)


def test_a_damaged_table_is_named(lake: Lake) -> None:
    lake.replace(METRICS, metrics((DAYS[0], 1.0)), nights=[DAYS[0]])
    for entry in lake.log_files(METRICS):
        lake.storage.write(entry.path, b"{")
    with pytest.raises(LakeError, match="metrics"):
        lake.nights(METRICS)


OLD = {  # tables as they were before some of their columns, and what these hold in old rows
    "ingests": {"rows_late": 0, "rows_repeat": 0, "rows_busy": 0, "rows_filtered": 0},
    "events": {"ingested": DAYS[0], "weight": None},
    "intent_profiles": {"came_from": None, "top_items": None},
    "items": {"first_seen": None},
    "label_counts": {"held": None, "of_intents": None},
}


@pytest.mark.parametrize("name", OLD)
def test_a_table_from_before_some_of_its_columns_reads_as_if_it_had_them_and_gets_them(
    lake: Lake, name: str
) -> None:
    table, con = TABLES[name], connect(load_settings())

    def row(value: int, day: dt.date) -> pa.Table:
        """Fill in whatever column is no date, list or null with the value."""
        usual = {
            "string": str(value),
            "bool": True,
            "timestamp[us, tz=UTC]": dt.datetime(2026, 1, 1),
        }
        cells = {
            field.name: day
            if pa.types.is_date(field.type)
            else None
            if pa.types.is_nested(field.type)
            else usual.get(str(field.type), value)
            for field in table.schema
        }
        return pa.Table.from_pylist([cells], schema=table.schema)

    def put(rows: pa.Table, day: dt.date) -> None:
        if table.partition_by:
            lake.replace(table, rows, nights=[day])
        else:
            lake.append(table, rows, after=lake.version(table))

    def read() -> list[dict[str, Any]]:
        lake.view(con, table)
        by_polars = lake.scan(table).collect()
        by_duckdb = con.table(table.name).pl()
        assert by_polars.schema == pl.DataFrame(table.schema.empty_table()).schema
        rows = by_polars.sort(pl.all().exclude("top_items", "came_from")).to_dicts()
        assert sorted(map(str, by_duckdb.to_dicts())) == sorted(map(str, rows))
        return rows

    first = row(1, DAYS[0])
    write(lake, table, first.drop(list(OLD[name])))
    old = first.to_pylist()[0] | OLD[name]
    assert read() == [old]
    assert version(lake, table) == 0  # who reads writes nothing
    second = row(2, DAYS[1])
    put(second, DAYS[1])
    assert read() == [old, *second.to_pylist()]
    assert lake.columns(table) == column_types(table.schema)
    third = row(3, DAYS[2])
    put(third, DAYS[2])
    assert read() == [old, *second.to_pylist(), *third.to_pylist()]
    if table.partition_by:
        assert lake.scan(table, DAYS[0], DAYS[0]).collect().to_dicts() == [old]
        lake.view(con, table, first=DAYS[0], last=DAYS[0])  # no file has the columns
        assert con.table(table.name).pl().to_dicts() == [old]


@pytest.mark.slow
def test_a_night_on_a_lake_from_before_some_columns_is_that_of_a_lake_with_them(
    tmp_path: Path,
) -> None:
    source = tmp_path / "events"
    source.mkdir()

    def deliver(day: dt.date, *rows: str) -> None:
        (source / f"{day}.csv").write_text("user_id,item_id,ts\n" + "".join(rows))

    def night(lake: Lake, day: dt.date) -> dict[str, Any]:
        settings = load_settings(
            **{"lake.root": lake.root, "source.path": str(source), "duckdb.threads": 1}
        )
        summaries = [run_step(step, settings, day) for step in ("ingest", "check-events")]
        return summaries[0] | {"warnings": summaries[1]["warnings"]}

    old, new = Lake(tmp_path / "old"), Lake(tmp_path / "new")
    deliver(DAYS[0], f"ann,a,{DAYS[0]}T01:00Z\n", f"bob,b,{DAYS[0]}T02:00Z\n")
    for lake in (old, new):
        night(lake, DAYS[0])
    for table in (tables.EVENTS, tables.INGESTS):
        rows = old.scan(table).drop(list(OLD[table.name])).collect().to_arrow()
        shutil.rmtree(old.path(table))
        write_deltalake(old.path(table), rows, partition_by=["dt"])
    deliver(DAYS[1], f"ann,c,{DAYS[1]}T01:00Z\n", f"ann,late,{DAYS[0]}T03:00Z\n")
    for day in (DAYS[1], DAYS[0], DAYS[1]):
        assert night(old, day) == night(new, day)
        for table in (tables.EVENTS, tables.INGESTS, tables.NIGHT_STATS):
            rows = [sorted(map(str, lake.scan(table).collect().rows())) for lake in (old, new)]
            assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (
            pa.field("value", pa.string()),
            "value of type string, not double: the lake is of another",
        ),
        (pa.field("mood", pa.string()), "mood of type string, which is unknown here: the lake is"),
    ],
)
def test_a_table_of_another_version_is_one_sentence(
    lake: Lake, column: pa.Field, says: str
) -> None:
    rows = pa.table(
        {"dt": [DAYS[0]], column.name: ["x"]}, schema=pa.schema([METRICS.schema[0], column])
    )
    write(lake, METRICS, rows)
    with pytest.raises(LakeError, match=says) as error:
        lake.replace(METRICS, metrics((DAYS[0], 1.0)), nights=[DAYS[0]])
    assert "\n" not in str(error.value)
    assert version(lake, METRICS) == 0


def stage(lake: Lake, folder: Path | str, rows: pa.Table, tmp_path: Path, name: str = "") -> None:
    """Write a file of one night as another process would, with what Spark leaves beside it."""
    day = rows["dt"][0].as_py()
    file = tmp_path / "part.parquet"
    pq.write_table(rows.drop_columns("dt"), file)
    below = str(folder).removeprefix(f"{lake.root}/")
    lake.storage.send(file, f"{below}/dt={day}/{name or f'part-{uuid.uuid4().hex}'}.parquet")
    lake.storage.write(f"{below}/_SUCCESS", b"")
    lake.storage.write(f"{below}/dt={day}/.part.parquet.crc", b"crc")


def test_staged_files_become_the_night_when_the_block_ends(lake: Lake, tmp_path: Path) -> None:
    lake.replace(METRICS, metrics((DAYS[0], 1), (DAYS[1], 2)), nights=DAYS[:2])
    with lake.staged(METRICS, DAYS[1], of="evaluate of DAYS[1]") as folder:
        stage(lake, folder, metrics((DAYS[1], 5), (DAYS[1], 6)), tmp_path)
        stage(lake, folder, metrics((DAYS[1], 7)), tmp_path)
        assert content(lake) == [(DAYS[0], 1), (DAYS[1], 2)]
    assert content(lake) == [(DAYS[0], 1), (DAYS[1], 5), (DAYS[1], 6), (DAYS[1], 7)]
    assert version(lake, METRICS) == 2  # one transaction
    assert [name for name in lake.storage.folders(METRICS.name) if "staged" in name] == []
    with lake.staged(METRICS, DAYS[1], of="evaluate of DAYS[1]"):
        pass
    assert content(lake) == [(DAYS[0], 1)]


def test_what_a_killed_run_has_staged_is_not_visible_and_goes_with_vacuum(
    lake: Lake, tmp_path: Path
) -> None:
    lake.replace(METRICS, metrics((DAYS[0], 1)), nights=DAYS[:1])
    left = f"{lake.path(METRICS)}/staged-0123"
    stage(lake, left, metrics((DAYS[0], 5)), tmp_path)
    lake.storage.write(f"metrics/staged-0123/_temporary/0/dt={DAYS[0]}/part.parquet", b"half")
    assert content(lake) == [(DAYS[0], 1)]
    lake.vacuum(METRICS, 0)
    assert [file.path for file in lake.storage.files("metrics") if "staged" in file.path] == []
    assert content(lake) == [(DAYS[0], 1)]


def test_of_two_runs_that_stage_the_same_night_one_commits(lake: Lake, tmp_path: Path) -> None:
    lake.replace(METRICS, metrics((DAYS[0], 1)), nights=DAYS[:1])
    with (
        pytest.raises(NotReadyError, match="metrics of night 2026-11-01 meanwhile"),
        lake.staged(METRICS, DAYS[0], of="evaluate") as slow,
    ):
        stage(lake, slow, metrics((DAYS[0], 8)), tmp_path)
        with lake.staged(METRICS, DAYS[0], of="evaluate") as fast:
            stage(lake, fast, metrics((DAYS[0], 9)), tmp_path)
    assert content(lake) == [(DAYS[0], 9)]


def test_a_commit_between_the_look_and_the_own_one_is_refused(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.replace(METRICS, metrics((DAYS[0], 1)), nights=DAYS[:1])
    plain = Lake._commit_properties

    def late(self: Lake, *given: Any, **named: Any) -> Any:
        monkeypatch.setattr(Lake, "_commit_properties", plain)
        with Lake(lake.root, lake.storage).staged(METRICS, DAYS[0], of="evaluate") as fast:
            stage(lake, fast, metrics((DAYS[0], 9)), tmp_path)
        return plain(self, *given, **named)

    with (
        pytest.raises(NotReadyError, match="metrics of night 2026-11-01 meanwhile"),
        lake.staged(METRICS, DAYS[0], of="evaluate") as slow,
    ):
        stage(lake, slow, metrics((DAYS[0], 8)), tmp_path)
        monkeypatch.setattr(Lake, "_commit_properties", late)
    assert content(lake) == [(DAYS[0], 9)]


def test_staged_files_of_other_columns_or_another_night_are_refused(
    lake: Lake, tmp_path: Path
) -> None:
    lake.replace(METRICS, metrics((DAYS[0], 1)), nights=DAYS[:1])
    with (
        pytest.raises(ValueError, match="columns are"),
        lake.staged(METRICS, DAYS[0], of="evaluate") as folder,
    ):
        stage(lake, folder, metrics((DAYS[0], 5)).drop_columns("value"), tmp_path)
    with (
        pytest.raises(ValueError, match="is not of night 2026-11-01"),
        lake.staged(METRICS, DAYS[0], of="evaluate") as folder,
    ):
        stage(lake, folder, metrics((DAYS[1], 5)), tmp_path)
    assert content(lake) == [(DAYS[0], 1)]


def test_staged_rows_are_added_after_the_version_that_they_follow_from(
    lake: Lake, tmp_path: Path
) -> None:
    def stage_item(folder: Path | str, index: int) -> None:
        row = {"item_id": f"i{index}", "item_index": index, "first_seen": DAYS[0]}
        pq.write_table(pa.Table.from_pylist([row], schema=ITEMS.schema), tmp_path / "item")
        below = str(folder).removeprefix(f"{lake.root}/")
        lake.storage.send(tmp_path / "item", f"{below}/part-{index}.parquet")

    before = lake.version(ITEMS)
    with lake.staged(ITEMS, None, of="new items", after=before) as folder:
        stage_item(folder, 1)
    with (
        pytest.raises(ConcurrentWriteError),
        lake.staged(ITEMS, None, of="new items", after=before) as folder,
    ):
        stage_item(folder, 2)
    assert lake.scan(ITEMS).collect()["item_index"].to_list() == [1]
