"""Helpers that put a lake into the state in which a model step finds it."""

import contextlib
import datetime as dt
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from tasks.lake import Lake, tables
from tasks.settings import Settings, load_settings

NIGHT = dt.date(2026, 11, 20)

# The smallest model that finds eight intents among a few hundred users, in seconds on one core.
SMALL_MODEL = {
    "n_intents": 8,
    "max_epochs": 12,
    "patience": 4,
    "seed": 2,
    "device": "cpu",
    "threads": 1,
    "max_length": 30,
    "overrides": {"dim": 32, "layers": 1, "batch_users": 64},
}


@contextlib.contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Let writes fail in the middle of a file, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def small_settings(root: Path | str, **sections: Any) -> Settings:
    return load_settings(
        **{
            "lake": {"root": root},
            "model": SMALL_MODEL,
            "duckdb": {"threads": 1},
            **sections,
        }
    )


def write_histories(
    settings: Settings,
    night: dt.date,
    histories: dict[str, list[int]],
    idle_since: tuple[dt.date, set[str]] | None = None,
) -> None:
    """Put histories into `sequences`, and their items into `items`.

    idle_since: users whose last event was on this night; that of all others was on `night`.
    """
    since, idle = idle_since or (night, set())
    lake = Lake(settings.lake.root)
    frame = pl.DataFrame(
        {
            "dt": night,
            "user_id": list(histories),
            "items": list(histories.values()),
            "n_events": [len(items) for items in histories.values()],
            "last_ts": [
                dt.datetime.combine(since if user in idle else night, dt.time(12), tzinfo=dt.UTC)
                for user in histories
            ],
        },
        schema_overrides={
            "dt": pl.Date,
            "items": pl.List(pl.Int32),
            "n_events": pl.Int32,
            "last_ts": pl.Datetime("us", "UTC"),
        },
    )
    # Histories without what events say beside their items: those columns are null.
    every = pl.concat([pl.Schema(tables.SEQUENCES.schema).to_frame(), frame], how="diagonal")
    lake.replace(tables.SEQUENCES, every, nights=[night])
    here = set(lake.scan(tables.ITEMS).collect()["item_index"])
    new = sorted({item for items in histories.values() for item in items} - here)
    if new:
        added = {"item_id": [f"i{item}" for item in new], "item_index": new, "first_seen": night}
        lake.append(tables.ITEMS, pl.DataFrame(added, schema_overrides={"item_index": pl.Int32}))


def histories_of(events: Path, until: dt.date) -> dict[str, list[int]]:
    """Order generated events into histories, items numbered as they first appear."""
    log = (
        pl.scan_parquet(events / "*" / "events.parquet")
        .drop_nulls()
        .unique()
        .filter(pl.col("timestamp").dt.date() <= until)
        .sort("timestamp", "user_id", "item_id", "event_type")
    )
    numbered = log.select(pl.col("item_id").unique(maintain_order=True)).with_row_index("n", 1)
    listed = (
        log.join(numbered, on="item_id", maintain_order="left")
        .group_by("user_id")
        .agg(pl.col("n").cast(pl.Int32))
        .sort("user_id")
        .collect()
    )
    return dict(zip(listed["user_id"], listed["n"].to_list(), strict=True))


def mark_ingested(root: Path | str, nights: Iterable[dt.date]) -> None:
    """Let a lake whose events were put there by hand say that ingest has run for these nights."""
    counts = {name: 0 for name in tables.INGESTS.schema.names if name.startswith("rows_")}
    rows = [{"dt": night, "source": "events.csv", **counts, "bootstrap": False} for night in nights]
    frame = pl.DataFrame(rows)
    Lake(root).replace(tables.INGESTS, frame, nights=[row["dt"] for row in rows])


def table(settings: Settings, which: tables.Table, night: dt.date | None = None) -> pl.DataFrame:
    """Read a table, or one night of it, in an order that does not depend on files."""
    rows = Lake(settings.lake.root).scan(which, first=night, last=night).collect()
    return rows.sort(*(c for c, kind in rows.schema.items() if not kind.is_nested()))
