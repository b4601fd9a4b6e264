"""The lake as the page reads it: small tables are kept in memory, a night at a time.

Files of a Delta table never change, so what was read of a night holds until the night has other
files. Which files there are is asked at most every `FRESH` seconds: to open a table takes as long
as to read a little of it, and a view reads ten.
"""

import datetime as dt
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from deltalake import DeltaTable

from tasks.lake import Lake, tables
from tasks.lake.storage import Storage
from tasks.lake.tables import Table

FRESH = 2.0  # seconds for which a table that was opened holds
NIGHTS_AT_ONCE = 8  # that are read from files
MOST_KEPT = 48 * 10**6  # bytes of rows in memory

# Of these tables the page reads all columns, and often.
SMALL = frozenset(
    table.name
    for table in (
        *(tables.INTENT_NAMES, tables.GIVEN_NAMES, tables.INTENT_PLACES, tables.LABEL_COUNTS),
        *(tables.MODELS, tables.CHOICES, tables.NIGHT_STATS, tables.INGESTS, tables.METRICS),
        *(tables.CHECK_RESULTS, tables.CATALOGUE_READS, tables.LABEL_REVISIONS),
    )
)
# Of the others, what is shown of many nights.
SIZES = ("dt", "intent_id", "users", "share", "status", "born")
RUNS = ("dt", "step", "started_at", "seconds", "peak_mb", "summary")

MOVES = {"one": pl.Int32, "two": pl.Int32, "users": pl.Int64}

Key = tuple[str, tuple[str, ...], dt.date | None]
Files = tuple[str, ...]


class PageLake(Lake):
    """A lake to read only; its small tables are read once, for any number of requests at once."""

    def __init__(self, root: Path | str, storage: Storage | None = None) -> None:
        """Take the lake of a folder, or of a URL."""
        super().__init__(root, storage)
        self._lock = threading.Lock()
        self._opened: dict[str, tuple[float, DeltaTable | None]] = {}
        self._listed: dict[str, tuple[DeltaTable | None, dict[dt.date | None, Files]]] = {}
        self._rows: OrderedDict[Key, tuple[Files, pl.DataFrame]] = OrderedDict()
        self._bytes = 0

    def scan(
        self, table: Table, first: dt.date | None = None, last: dt.date | None = None
    ) -> pl.LazyFrame:
        """Return the rows of nights first..last, those of small tables from memory."""
        if table.name in SMALL:
            return self.kept(table, tuple(table.schema.names), first, last).lazy()
        return super().scan(table, first, last)

    def nights(self, table: Table) -> list[dt.date]:
        """Return the nights that have rows of a table, oldest first."""
        return sorted(night for night in self._files(table) if night is not None)

    def begun(self) -> list[dt.date]:
        """Return the nights of which a step has ended or that have labels, oldest first."""
        return sorted({*self.nights(tables.STEPS), *self.nights(tables.INTENT_PROFILES)})

    def kept(
        self,
        table: Table,
        columns: Sequence[str],
        first: dt.date | None = None,
        last: dt.date | None = None,
    ) -> pl.DataFrame:
        """Return some columns of nights first..last (both included), and keep them in memory."""
        listed = {
            night: files
            for night, files in self._files(table).items()
            if night is None
            or ((first is None or first <= night) and (last is None or night <= last))
        }
        columns = tuple(columns)
        found: dict[dt.date | None, pl.DataFrame] = {}
        with self._lock:
            for night, files in listed.items():
                kept = self._rows.get((table.name, columns, night))
                if kept and kept[0] == files:
                    found[night] = kept[1]
                    self._rows.move_to_end((table.name, columns, night))
        missing = [night for night in listed if night not in found]
        for night, rows in self._read(table, columns, missing).items():
            found[night] = rows
            self._keep((table.name, columns, night), listed[night], rows)
        empty = pl.Schema(table.schema).to_frame()
        return pl.concat([empty.select(columns), *(found[night] for night in listed)])

    def clear(self, night: dt.date) -> dict[int, int]:
        """Return how many labels of an intent are clear, by intent; of those where it is known."""
        of_intents = self.scan(tables.LABEL_COUNTS, night, night).select("of_intents").collect()
        return {
            one["intent_id"]: one["clear"]
            for [found] in of_intents.iter_rows()
            for one in found or []
        }

    def moves(self, first: dt.date, last: dt.date) -> pl.DataFrame:
        """Return the moves between intents of nights first..last (both included), summed.

        A row a pair of intents: one, two (null for none) and users. The sum of a month that lies
        within is kept in memory, so that a year takes no more than twelve of them.
        """
        listed = self._files(tables.INTENT_FLOWS)
        months: dict[dt.date, list[dt.date]] = {}
        for night in sorted(one for one in listed if one is not None):
            months.setdefault(night.replace(day=1), []).append(night)
        found = [pl.DataFrame(schema=MOVES)]
        for month, nights in months.items():
            some = [night for night in nights if first <= night <= last]
            if not some:
                continue
            key: Key = ("moves of a month", (), month)
            files = tuple(file for night in nights for file in listed[night])
            whole = len(some) == len(nights)
            with self._lock:
                kept = self._rows.get(key) if whole else None
            if kept and kept[0] == files:
                found.append(kept[1])
                continue
            rows = (
                super()
                .scan(tables.INTENT_FLOWS, some[0], some[-1])
                .select(one="from_intent_id", two="to_intent_id", users="users")
                .filter(~pl.col("one").eq_missing(pl.col("two")))
                .group_by("one", "two")
                .agg(pl.col("users").sum())
                .collect()
            )
            if whole:
                self._keep(key, files, rows)
            found.append(rows)
        return pl.concat(found).group_by("one", "two").agg(pl.col("users").sum())

    def forget(self, table: Table) -> None:
        """Look at a table's files anew the next time: this process has written to it."""
        with self._lock:
            self._opened.pop(table.name, None)

    def _open(self, table: Table) -> DeltaTable | None:
        """Return the newest version of a table; it may be `FRESH` seconds old."""
        now = time.monotonic()
        with self._lock:
            known = self._opened.get(table.name)
        if known and now - known[0] < FRESH:
            return known[1]
        opened = super()._open(table)
        with self._lock:
            self._opened[table.name] = (now, opened)
        return opened

    def _files(self, table: Table) -> dict[dt.date | None, Files]:
        opened = self._open(table)
        with self._lock:
            known = self._listed.get(table.name)
        if known and known[0] is opened:
            return known[1]
        by_night: dict[dt.date | None, list[str]] = {}
        for file in self.files(table):
            night = None
            if "dt" in table.partition_by:
                folder = next(part for part in file.split("/") if part.startswith("dt="))
                night = dt.date.fromisoformat(folder.removeprefix("dt="))
            by_night.setdefault(night, []).append(file)
        listed = {night: tuple(files) for night, files in by_night.items()}
        with self._lock:
            self._listed[table.name] = (opened, listed)
        return listed

    def _read(
        self, table: Table, columns: tuple[str, ...], nights: list[dt.date | None]
    ) -> dict[dt.date | None, pl.DataFrame]:
        if not nights:
            return {}
        if None in nights:
            return {None: super().scan(table).select(columns).collect()}
        dated = sorted(night for night in nights if night is not None)
        wanted = list(dict.fromkeys(("dt", *columns)))
        found: dict[dt.date | None, pl.DataFrame] = {}
        # Some nights at a time: what is read of many files at once is held at once.
        for at in range(0, len(dated), NIGHTS_AT_ONCE):
            some = dated[at : at + NIGHTS_AT_ONCE]
            scanned = super().scan(table, some[0], some[-1]).select(wanted)
            rows = scanned.filter(pl.col("dt").is_in(some)).collect()
            by_night = rows.partition_by("dt", as_dict=True, maintain_order=True)
            for night in some:
                found[night] = by_night.get((night,), rows.clear()).select(columns)
        return found

    def _keep(self, key: Key, files: Files, rows: pl.DataFrame) -> None:
        with self._lock:
            if before := self._rows.pop(key, None):
                self._bytes -= int(before[1].estimated_size())
            self._rows[key] = (files, rows)
            self._bytes += int(rows.estimated_size())
            while self._bytes > MOST_KEPT and len(self._rows) > 1:
                _, (_, oldest) = self._rows.popitem(last=False)
                self._bytes -= int(oldest.estimated_size())
