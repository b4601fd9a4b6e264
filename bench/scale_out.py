"""Histories on DuckDB and on Spark from the same events: time, memory, and whether they agree.

    python bench/scale_out.py --url sc://127.0.0.1:15002 --events 1e6

Events of one night are put into the table `events` as `ingest` would, twice: for each engine a lake
of its own. One user has a hundredth of them, and one item a tenth. `build-sequences` runs on both,
each in a process of its own, with sessions and a core. Its summary and a digest of the histories,
which knows no order of rows, have to be the same; otherwise the program fails.

Memory is the peak of the process of the step: on Spark, that of the driver's client, not of the
executors, which their server limits.
"""

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from bench.record import REPO, add_option, record
from tasks.lake import Lake, duck, tables
from tasks.settings import load_settings

NIGHT = dt.date(2026, 3, 1)
EVENTS_A_USER, EVENTS_AN_ITEM = 20, 100
RULES = {"last_events": 50, "session_minutes": 30, "min_user_events": 5, "min_item_events": 5}

# Who and what come from hashes of the row's number, so they are the same in every run. By the third
# power few users and items have many events, and many have few, which the core leaves out.
EVENTS = """
SELECT
    DATE '2026-03-01' AS dt,
    CASE
        WHEN row_number % 100 = 0 THEN 'busy'
        ELSE printf('u%09d', floor(pow(hash(2 * row_number) / pow(2, 64), 3) * $users)::BIGINT)
    END AS user_id,
    CASE
        WHEN hash(row_number) % 10 = 0 THEN 'popular'
        ELSE printf('i%09d', floor(pow(hash(2 * row_number + 1) / pow(2, 64), 3) * $items)::BIGINT)
    END AS item_id,
    'view' AS event_type,
    TIMESTAMPTZ '2026-03-01 00:00:00+00' + to_microseconds(row_number * 86400000000 // $events)
        AS ts,
    NULL::FLOAT AS weight,
    'events' AS source,
    row_number + 1 AS row_number,
    DATE '2026-03-01' AS ingested
FROM range($events) AS rows (row_number)
"""


def main() -> None:
    """Generate, run and compare for each number of events, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", required=True, help="address of a Spark Connect server")
    parser.add_argument("--events", type=float, nargs="+", default=[1e6])
    parser.add_argument("--folder", type=Path, help="where lakes go; all machines of Spark see it")
    add_option(parser)
    given = parser.parse_args()
    figures = []
    with tempfile.TemporaryDirectory(prefix="scale-out-", dir=given.folder) as folder:
        for events in map(int, given.events):
            figures += measure(Path(folder) / str(events), events, given.url)
    shown = Table("events", "engine", "seconds", "peak MB", "users", title="build-sequences")
    for row in figures:
        numbers = (f"{row['seconds']:.1f}", f"{row['peak_mb']:.0f}", f"{row['users']:,}")
        shown.add_row(f"{row['events']:,}", row["engine"], *numbers)
    Console().print(shown)
    record(given.record, figures)


def measure(folder: Path, events: int, url: str) -> list[dict[str, Any]]:
    """Return the figures of both engines; raises RuntimeError when their histories differ."""
    engines = {"duckdb": {}, "spark": {"ELCREC_ENGINE__KIND": "spark", "ELCREC_ENGINE__URL": url}}
    figures, found = [], {}
    for engine, environment in engines.items():
        root = folder / engine
        fill(root, events)
        rules = {f"ELCREC_SEQUENCES__{name.upper()}": str(n) for name, n in RULES.items()}
        command = [sys.executable, "-m", "tasks", "build-sequences"]
        command += ["--night", str(NIGHT), "--lake", str(root)]
        subprocess.run(
            command, cwd=REPO, env=os.environ | rules | environment, check=True, stdout=sys.stderr
        )
        steps = Lake(root).scan(tables.STEPS).collect()
        row = steps.filter(pl.col("step") == "build-sequences").row(0, named=True)
        summary = json.loads(row["summary"])
        found[engine] = (summary, digest(root))
        figures.append(
            {
                "events": events,
                "engine": engine,
                "seconds": row["seconds"],
                "peak_mb": row["peak_mb"],
                "users": summary["users"],
            }
        )
    if found["duckdb"] != found["spark"]:
        raise RuntimeError(f"the engines differ: {found}")
    return figures


def fill(root: Path, events: int) -> None:
    """Put events into a lake, and note that their night was ingested."""
    lake, settings = Lake(root), load_settings(lake={"root": root})
    sizes = {"users": events // EVENTS_A_USER, "items": events // EVENTS_AN_ITEM}
    with duck.connect(settings) as con:
        rows = con.sql(EVENTS, params={"events": events, **sizes})
        lake.replace(tables.EVENTS, rows, nights=[NIGHT])
    counts = {name: 0 for name in tables.INGESTS.schema.names if name.startswith("rows_")}
    counts |= {"rows_read": events, "rows_events": events}
    row = {"dt": NIGHT, "source": "events", **counts, "bootstrap": True}
    lake.replace(tables.INGESTS, pl.DataFrame([row]), nights=[NIGHT])


def digest(root: Path) -> list[tuple[str, int]]:
    """Return what stands for the rows of each table that was built, in any order of rows."""
    lake, settings = Lake(root), load_settings(lake={"root": root})
    found = []
    with duck.connect(settings) as con:
        for table in (tables.SEQUENCES, tables.LEFT_OUT_EVENTS, tables.ITEMS):
            lake.view(con, table)
            total = con.sql(f"SELECT sum(hash(rows)::HUGEINT) FROM {table.name} AS rows")
            found.append((table.name, total.fetchall()[0][0]))
    return found


if __name__ == "__main__":
    main()
