"""People who are left out: `forgotten` keeps a salted hash of each id."""

import logging

import duckdb

from tasks.lake import Lake, duck, tables

log = logging.getLogger(__name__)


def leave_out(con: duckdb.DuckDBPyConnection, lake: Lake) -> dict[str, int]:
    """Take the rows of forgotten people from `staged`; return how many, by source file."""
    known = lake.scan(tables.FORGOTTEN).select("salt").head(1).collect()
    if known.is_empty():
        return {}
    lake.view(con, tables.FORGOTTEN)
    con.execute(duck.sql("forgotten_rows"), {"salt": known.item()})
    counts = dict(con.execute(duck.sql("forgotten_counts")).fetchall())
    con.execute(duck.sql("staged_without_forgotten"))
    if counts:
        log.info("%d rows of forgotten people are left out", sum(counts.values()))
    return counts
