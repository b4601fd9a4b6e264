"""A whole night through Airflow at 1, 10 and 100 million events, and what grows faster than these.

    python bench/night.py --events 1e6 1e7

Each size has the log of bench/size.py and a lake of its own. The first night reads the whole log
and trains from scratch; the next one has a hundredth of it in new events and trains on. Airflow
runs both as `make run` does, with a scheduler and tasks in processes of their own. Time and peak
memory of a step are those that it writes to `steps`; the whole night is Airflow's, its start and
the time between tasks included.

The column `growth` says how many times as much a step takes for ten times the events. A step with
more than 10 there grows faster than the events.
"""

import argparse
import datetime as dt
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from bench.record import add_option, record
from bench.size import LAST_NIGHT, add_log_options, generate
from tasks.lake import Lake, tables
from tasks.steps import STEPS

REPO = Path(__file__).resolve().parent.parent
NIGHTS = {"first": LAST_NIGHT, "next": LAST_NIGHT + dt.timedelta(days=1)}
WHOLE = "whole night"
PLACES = {name: place for place, name in enumerate(STEPS)}


def run_night(events: Path, night: dt.date, lake: Path, home: Path, memory: str) -> float:
    """Run a night through Airflow; return its seconds. Ends the program where the night fails."""
    command = [sys.executable, "-m", "local", "run", "--events", str(events)]
    command += ["--night", str(night), "--lake", str(lake), "--home", str(home)]
    start = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=REPO,
        env=os.environ
        | {
            "ELCREC_DUCKDB__MEMORY_LIMIT": memory,
            # Who has what is drawn at random, and a model that is no better than popularity is
            # otherwise, and rightly, not promoted.
            "ELCREC_PROMOTE__FORCE": "true",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"night {night} on {events} failed:\n{done.stdout[-4000:]}")
    return time.perf_counter() - start


def measure(folder: Path, events: int, memory: str) -> list[dict[str, Any]]:
    """Run both nights on an empty lake; return a row a step and night, and one for the whole."""
    lake, home, source = (folder / f"night-{name}" for name in ("lake", "airflow", "source"))
    rows = []
    for place in (lake, home, source):
        shutil.rmtree(place, ignore_errors=True)
    for which, night in NIGHTS.items():
        print(f"{events:,} events: {which} night ...", file=sys.stderr)
        # One source, which the new night's file comes to.
        came = folder / ("events" if which == "first" else "next")
        shutil.copytree(came, source, copy_function=os.link, dirs_exist_ok=True)
        seconds = run_night(source, night, lake, home, memory)
        found = Lake(lake).scan(tables.STEPS, night, night).collect()
        rows += [
            {
                "events": events,
                "night": which,
                "step": row["step"],
                "seconds": round(row["seconds"], 1),
                "peak_mb": round(row["peak_mb"]),
            }
            for row in sorted(found.to_dicts(), key=lambda row: PLACES[row["step"]])
        ]
        peak = max(row["peak_mb"] for row in rows if row["night"] == which)
        rows.append(
            {"events": events, "night": which, "step": WHOLE, "seconds": round(seconds, 1)}
            | {"peak_mb": peak}
        )
    users = Lake(lake).scan(tables.SEQUENCES, LAST_NIGHT, LAST_NIGHT).select(pl.len()).collect()
    print(f"{events:,} events: {users.item():,} users with a history", file=sys.stderr)
    for place in (lake, home, source):
        shutil.rmtree(place, ignore_errors=True)
    return rows


def growth(rows: Sequence[dict[str, Any]], column: str) -> float | None:
    """Return how many times as much ten times the events take, from the two largest sizes."""
    of_size = sorted((row["events"], row[column]) for row in rows)
    if len(of_size) < 2:
        return None
    (few, less), (many, more) = of_size[-2:]
    if min(less, more) <= 0:
        return None
    return float((more / less) ** (1 / math.log10(many / few)))


def show(rows: Iterable[dict[str, Any]]) -> None:
    """Print a table a night: seconds and MB at each size, and how they grow."""
    rows = list(rows)
    sizes = sorted({row["events"] for row in rows})
    for which in NIGHTS:
        table = Table(title=f"{which} night", title_justify="left", box=None)
        table.add_column("step")
        for size in sizes:
            table.add_column(f"{size:,}\ns", justify="right")
            table.add_column("\nMB", justify="right")
        table.add_column("growth\nof s", justify="right")
        table.add_column("\nof MB", justify="right")
        mine = [row for row in rows if row["night"] == which]
        for step in dict.fromkeys(row["step"] for row in mine):
            of_step = [row for row in mine if row["step"] == step]
            cells = [
                text
                for row in sorted(of_step, key=lambda row: row["events"])
                for text in (f"{row['seconds']:.1f}", f"{row['peak_mb']:,}")
            ]
            grows = [growth(of_step, column) for column in ("seconds", "peak_mb")]
            table.add_row(step, *cells, *("" if one is None else f"{one:.1f}" for one in grows))
        Console(width=None if sys.stdout.isatty() else 110).print(table)


def main() -> None:
    """Generate, run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_log_options(parser)
    add_option(parser)
    given = parser.parse_args()
    rows = []
    for events in map(int, given.events):
        folder = given.folder.absolute() / f"{events}-{given.seed}"
        generate(folder, events, given.seed, os.cpu_count() or 1)
        rows += measure(folder, events, given.memory)
    show(rows)
    record(given.record, {"rows": rows})


if __name__ == "__main__":
    main()
