"""Tables of the lake as data frames of Spark, and data frames as partitions of the lake.

What Spark reads are the files that Delta's log names, and what it writes are Parquet files that
`Lake.staged` commits: Spark itself needs nothing of Delta, and no row passes through this process.
"""

import datetime as dt
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from tasks.lake import Lake, tables
from tasks.lake.delta import ROWS_BY_USER
from tasks.lake.duck import sql

if TYPE_CHECKING:
    from pyspark.sql.connect.dataframe import DataFrame
    from pyspark.sql.connect.session import SparkSession
    from pyspark.sql.types import StructType

# A path that Spark is given is a pattern. (The settings keep other signs out of lake.root.)
OF_PATTERNS = re.compile(r"([*?{}])")


def schema_of(table: tables.Table) -> "StructType":
    """Return a table's columns as Spark names their types."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of pandas, by which nothing goes here
        from pyspark.sql.pandas.types import from_arrow_schema

        return from_arrow_schema(table.schema)


def frame(
    spark: "SparkSession",
    lake: Lake,
    table: tables.Table,
    first: dt.date | None = None,
    last: dt.date | None = None,
) -> "DataFrame":
    """Return the rows of nights first..last (both included) from the files of now."""
    schema = schema_of(table)
    files = lake.files(table, first, last)
    if not files:
        nothing = [f"CAST(NULL AS {f.dataType.simpleString()}) AS {f.name}" for f in schema.fields]
        return spark.sql(f"SELECT {', '.join(nothing)} WHERE false")
    rows = (
        spark.read.schema(schema)
        .option("basePath", str(lake.path(table)))
        .parquet(*map(_pattern, files))
    )
    return rows.selectExpr(
        *(
            f"coalesce({name}, {table.before[name]}) AS {name}" if name in table.before else name
            for name in table.schema.names
        )
    )


def view(
    spark: "SparkSession",
    lake: Lake,
    table: tables.Table,
    name: str | None = None,
    first: dt.date | None = None,
    last: dt.date | None = None,
) -> None:
    """Create a view of nights first..last (both included) in a session, as `Lake.view` does."""
    frame(spark, lake, table, first, last).createOrReplaceTempView(name or table.name)


def statement(spark: "SparkSession", name: str, **parameters: Any) -> "DataFrame":
    """Return the rows of `sql/spark/<name>.sql`; parameters are bound (:night), never formatted."""
    return spark.sql(sql(f"spark/{name}"), args=parameters)


def replace(lake: Lake, table: tables.Table, rows: "DataFrame", night: dt.date, step: str) -> None:
    """Make rows the whole content of the night's partition, in one transaction.

    rows: with the table's columns, in any order. Of a table by user they are sorted by user.
    """
    with lake.staged(table, night, of=f"{step} of night {night}") as folder:
        rows = rows.select(*table.schema.names)
        if table.by_user:
            rows = rows.repartitionByRange("user_id").sortWithinPartitions("dt", "user_id")
        _write(rows, table, str(folder))


def append(lake: Lake, table: tables.Table, rows: "DataFrame", step: str, *, after: int) -> None:
    """Add rows to a table without partitions that is at the version `after`, or to none.

    Raises ConcurrentWriteError when it is at a later one.
    """
    with lake.staged(table, None, of=step, after=after) as folder:
        _write(rows.select(*table.schema.names), table, str(folder))


def kept(spark: "SparkSession", rows: "DataFrame", folder: str) -> tuple["DataFrame", int]:
    """Compute rows into Parquet files of a folder; return them as they are there, and how many."""
    rows.write.option("compression", "zstd").parquet(folder)
    # The files say it themselves: a job of Spark would take longer than to ask them.
    count = sum(pq.read_metadata(file).num_rows for file in Path(folder).glob("*.parquet"))
    return spark.read.schema(rows.schema).parquet(_pattern(folder)), count


def _write(rows: "DataFrame", table: tables.Table, folder: str) -> None:
    schema = schema_of(table)
    rows = rows.selectExpr(
        *(f"CAST({f.name} AS {f.dataType.simpleString()}) AS {f.name}" for f in schema.fields)
    )
    writer = rows.write.option("compression", "zstd")
    if table.by_user:
        writer = writer.option("parquet.block.row.count.limit", str(ROWS_BY_USER))
    if table.partition_by:
        writer = writer.partitionBy(*table.partition_by)
    writer.parquet(folder)


def _pattern(path: str) -> str:
    return OF_PATTERNS.sub(r"\\\1", path)
