"""Ingest, checks, k-core and sequences at 1, 10 and 100 million events: tables of docs/results.md.

    python bench/size.py --events 1e6 1e7            # generate what is missing, then measure
    python bench/size.py --events 1e8 --only-generate

Events are generated once for each size and seed below --folder and used again. Each step runs as
`python -m tasks` does it, in a process of its own, on --threads threads and with DuckDB held to
--memory; so do the same k-core and histories in pandas and in Polars, as one would write them
first, and what the checks are held against, one scan of all columns of `events`. Time is that of
the whole process, imports included.
"""

import argparse
import datetime as dt
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
from rich.console import Console
from rich.table import Table

from bench.record import add_option, record
from tasks.lake import Lake, duck, tables
from tasks.settings import load_settings

REPO = Path(__file__).resolve().parent.parent
NIGHTS, LAST_NIGHT = 60, dt.date(2026, 3, 1)
EVENTS_A_USER, EVENTS_AN_ITEM = 20, 100
CORE, LAST_EVENTS = 5, 50
CORE_STEP, SCAN = f"sequences, {CORE}-core", "scan"

# One night's rows, in order of time. Who and what come from a Zipf-Mandelbrot law (weight of the
# r-th: (r + shift)^-exponent), drawn by its inverse from hashes of the row's number: any part of
# the log can be made on its own, in any order, and is the same. Hashes of one number each: of
# several, DuckDB combines them in a way that would tie the item to the user.
NIGHT_ROWS = """
COPY (
    WITH drawn AS (
        SELECT
            row_number,
            hash(4 * ($seed * 1000000000000 + row_number)) / 18446744073709551616.0 AS who,
            hash(4 * ($seed * 1000000000000 + row_number) + 1) / 18446744073709551616.0 AS what,
            hash(4 * ($seed * 1000000000000 + row_number) + 2) / 18446744073709551616.0 AS rest
        FROM range($first, $stop) AS rows (row_number)
    ),

    ranked AS (
        SELECT
            *,
            least(floor(pow($user_low + who * $user_span, $user_power) - $user_shift), $users - 1)
                ::BIGINT AS user_rank,
            least(floor(pow($item_low + what * $item_span, $item_power) - $item_shift), $items - 1)
                ::BIGINT AS item_rank
        FROM drawn
    )

    SELECT
        -- Neither ids nor their order say how busy a user or how popular an item is.
        printf('%016x', hash($seed * 1000000000000 + user_rank)) AS user_id,
        printf('i%08d', (item_rank * 7919 + 104729) % $items) AS item_id,
        CASE WHEN rest < 0.9 THEN 'view' WHEN rest < 0.97 THEN 'cart' ELSE 'purchase' END
            AS event_type,
        make_timestamp(($midnight + (row_number - $first + rest) * $us_a_row)::BIGINT) AS timestamp
    FROM ranked
) TO '{file}' (FORMAT parquet)
"""


def generate(folder: Path, events: int, seed: int, threads: int) -> Path:
    """Write `events/dt=YYYY-MM-DD/events.parquet`, unless they are there; return `events`.

    NIGHTS nights hold `events` rows, of `events` / 20 users and `events` / 100 items; one night
    more, in `next/`, holds a hundredth of them again. Memory does not grow with `events`.
    """
    done = folder / "events"
    if done.exists():
        return done
    unfinished = folder / ".unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    world = _world(events // EVENTS_A_USER, events // EVENTS_AN_ITEM) | {"seed": seed}
    with duckdb.connect(config={"threads": threads, "memory_limit": "2GB"}) as con:
        for number in range(NIGHTS + 1):
            night = LAST_NIGHT + dt.timedelta(days=number - NIGHTS + 1)
            first, stop = events * number // NIGHTS, events * (number + 1) // NIGHTS
            if number == NIGHTS:
                first, stop = events, events + events // 100
            file = unfinished / ("events" if number < NIGHTS else "next") / f"dt={night}"
            file.mkdir(parents=True)
            midnight = dt.datetime.combine(night, dt.time(), dt.UTC)
            con.execute(
                NIGHT_ROWS.format(file=str(file / "events.parquet").replace("'", "''")),
                world
                | {
                    "first": first,
                    "stop": stop,
                    "midnight": int(midnight.timestamp()) * 1_000_000,
                    "us_a_row": 86_400_000_000 / (stop - first),
                },
            )
    shutil.rmtree(folder / "next", ignore_errors=True)
    (unfinished / "next").replace(folder / "next")
    (unfinished / "events").replace(done)
    unfinished.rmdir()
    return done


def _world(users: int, items: int) -> dict[str, float]:
    """Return the parameters of the laws: users to some thousand events, items to 1 % of all."""
    values: dict[str, float] = {"users": users, "items": items}
    for name, size, exponent, shift in (
        ("user", users, 0.85, users / 5000),
        ("item", items, 1.2, 20.0),
    ):
        low = shift ** (1 - exponent)
        values[f"{name}_shift"] = shift
        values[f"{name}_low"] = low
        values[f"{name}_span"] = (size + shift) ** (1 - exponent) - low
        values[f"{name}_power"] = 1 / (1 - exponent)
    return values


def with_pandas(events: Path, histories: Path) -> None:
    """Filter and list histories in pandas as one would at first."""
    frame = pd.read_parquet(events, columns=["user_id", "item_id", "timestamp"])
    rows = 0
    while rows != len(frame):
        rows = len(frame)
        frame = frame[frame.groupby("user_id")["user_id"].transform("size") >= CORE]
        frame = frame[frame.groupby("item_id")["item_id"].transform("size") >= CORE]
    frame = frame.sort_values(["user_id", "timestamp"], kind="stable")
    frame = frame.groupby("user_id").tail(LAST_EVENTS)
    frame["item"] = frame["item_id"].astype("category").cat.codes
    frame.groupby("user_id")["item"].agg(list).reset_index().to_parquet(histories)


def with_polars(events: Path, histories: Path) -> None:
    """Filter and list histories in Polars as one would at first."""
    frame = pl.read_parquet(
        events / "*/*.parquet", columns=["user_id", "item_id", "timestamp"], hive_partitioning=False
    )
    rows = 0
    while rows != frame.height:
        rows = frame.height
        frame = frame.filter(pl.len().over("user_id") >= CORE)
        frame = frame.filter(pl.len().over("item_id") >= CORE)
    (
        frame.with_columns(item=pl.col("item_id").rank("dense").cast(pl.Int32))
        .sort("timestamp", maintain_order=True)
        .group_by("user_id")
        .agg(pl.col("item").tail(LAST_EVENTS))
        .write_parquet(histories)
    )


def scan(lake: Path, threads: int) -> None:
    """Read every column of `events` once."""
    settings = load_settings(**{"lake.root": str(lake), "duckdb.threads": threads})
    with duck.connect(settings) as con:
        Lake(lake).view(con, tables.EVENTS)
        largest = (f"max({name})" for name in tables.EVENTS.schema.names)
        con.sql(f"SELECT {', '.join(largest)} FROM events").fetchall()


BASELINES = {"pandas": with_pandas, "polars": with_polars}


def measure(folder: Path, events: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Run everything once on a lake of its own; return a row a step."""
    lake = folder / "lake"
    shutil.rmtree(lake, ignore_errors=True)
    spill = folder / "spill"
    core = [f"sequences.min_{kind}_events={CORE}" for kind in ("user", "item")]
    tomorrow = LAST_NIGHT + dt.timedelta(days=1)
    source, more, new = folder / "events", folder / "next", events // 100
    plan: list[tuple[str, str, dt.date, Path, int, list[str]]] = [
        ("ingest", "ingest", LAST_NIGHT, source, events, []),
        ("checks", "check-events", LAST_NIGHT, source, events, []),
        (CORE_STEP, "build-sequences", LAST_NIGHT, source, events, core),
        ("+1 %: ingest", "ingest", tomorrow, more, new, []),
        # Added to the night before, so each right after that night by the same settings.
        (f"+1 %: {CORE_STEP}", "build-sequences", tomorrow, more, new, core),
        ("sequences", "build-sequences", LAST_NIGHT, source, events, []),
        ("+1 %: sequences", "build-sequences", tomorrow, more, new, []),
    ]
    rows = []
    for label, step, night, path, count, changes in plan:
        command = [sys.executable, "-m", "tasks", step, "--night", str(night), "--quiet"]
        command += ["--lake", str(lake)]
        if step == "ingest":
            command += ["--events", str(path)]
        for change in (
            f"duckdb.threads={given.threads}",
            f"duckdb.memory_limit={given.memory}",
            f"duckdb.temp_directory={spill}",
            f"sequences.last_events={LAST_EVENTS}",
            *changes,
        ):
            command += ["--set", change]
        rows.append(_run(label, command, count, given.threads))
        if label == "ingest":
            rows.append(_run(SCAN, _alone(SCAN, folder, given), count, given.threads))
    for name in given.against:
        rows.append(_run(name, _alone(name, folder, given), events, given.threads))
    for left in (lake, spill):
        shutil.rmtree(left, ignore_errors=True)
    return rows


def _alone(name: str, folder: Path, given: argparse.Namespace) -> list[str]:
    """Write the command that runs in a process of its own what is no step."""
    command = [sys.executable, __file__, "--alone", name, "--folder", str(folder)]
    return [*command, "--threads", str(given.threads), "--baseline-gb", str(given.baseline_gb)]


def _run(label: str, command: list[str], events: int, threads: int) -> dict[str, Any]:
    print(f"{events:,} events: {label} ...", file=sys.stderr)
    limits = {"POLARS_MAX_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=REPO, stdout=subprocess.DEVNULL, env=os.environ | limits
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    return {
        "events": events,
        "step": label,
        "failed": process.returncode != 0,
        "wall_s": round(wall, 2),
        "cpu_s": round(used.ru_utime + used.ru_stime, 2),
        "peak_gb": round(used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9, 2),
    }


def show(measured: dict[int, list[dict[str, Any]]]) -> None:
    """Print a table a size."""
    for events, rows in measured.items():
        of_step = {row["step"]: row for row in rows}
        table = Table(title=f"{events:,} events", title_justify="left", box=None)
        table.add_column("step")
        for column in ("wall s", "CPU s", "events/s", "peak GB", "next to"):
            table.add_column(column, justify="right")
        for row in rows:
            if row["failed"]:
                table.add_row(row["step"], "failed", "", "", f"{row['peak_gb']:.2f}", "")
                continue
            measure = "CPU" if row["step"] == "checks" else "wall"
            beside = {"checks": SCAN, **dict.fromkeys(BASELINES, CORE_STEP)}.get(row["step"])
            ratio = ""
            if beside:
                times = row[f"{measure.lower()}_s"] / of_step[beside][f"{measure.lower()}_s"]
                ratio = f"{beside}: {times:.1f} x {measure}"
            table.add_row(
                row["step"],
                f"{row['wall_s']:.1f}",
                f"{row['cpu_s']:.1f}",
                f"{row['events'] / row['wall_s']:,.0f}",
                f"{row['peak_gb']:.2f}",
                ratio,
            )
        Console(width=None if sys.stdout.isatty() else 100).print(table)


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """Let a program be told which generated logs to measure, and DuckDB's memory."""
    parser.add_argument("--events", type=float, nargs="+", default=[1e6, 1e7], metavar="N")
    default = Path(tempfile.gettempdir()) / "elcrec-size"
    parser.add_argument("--folder", type=Path, default=default, help=f"for all data ({default})")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--memory", default="8GB", help="DuckDB's limit")


def main() -> int:
    """Generate, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_log_options(parser)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--against", nargs="*", choices=BASELINES, default=list(BASELINES))
    parser.add_argument(
        "--baseline-gb", type=float, default=12, help="what does not fit into it has failed"
    )
    parser.add_argument("--only-generate", action="store_true")
    add_option(parser)
    parser.add_argument("--alone", choices=[SCAN, *BASELINES], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone == SCAN:
        scan(given.folder / "lake", given.threads)
        return 0
    if given.alone:
        limit = int(given.baseline_gb * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        with tempfile.TemporaryDirectory(dir=given.folder) as result:
            BASELINES[given.alone](given.folder / "events", Path(result) / "histories.parquet")
        return 0
    measured = {}
    for events in map(int, given.events):
        folder = given.folder.absolute() / f"{events}-{given.seed}"
        start = time.perf_counter()
        print(f"{events:,} events in {folder / 'events'}", file=sys.stderr)
        generate(folder, events, given.seed, given.threads)
        print(f"generated in {time.perf_counter() - start:.1f} s", file=sys.stderr)
        if not given.only_generate:
            measured[events] = measure(folder, events, given)
    show(measured)
    record(given.record, {"rows": [row for rows in measured.values() for row in rows]})
    return int(any(row["failed"] for rows in measured.values() for row in rows))


if __name__ == "__main__":
    sys.exit(main())
