"""The night's rows of the source become `events`, or go to `quarantine`.

The first night ever takes all rows before its end; each later night, and a backfill, takes the
rows of its own day. The first night stays the first when it runs again, and then leaves the days
that the files have no rows of any more. Exact duplicates (same user, item, type, time and weight)
are dropped and counted.

A night also reads `ingest.late_days` behind itself: an event of these days that their own nights
did not see is added to its own day, once, with `ingested` saying which night brought it. For each
part, rows read = events + late + quarantined + duplicates + repeats and users' rows above
the caps + filtered (of a type that is not asked for) + rows of other nights; each of these is
counted on its own, and the step stops when they disagree.

The catalogue of items, where there is one, is read with them (`tasks.night.catalogue`).
"""

import datetime as dt
import functools
import logging
import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from tasks.errors import NightError, SourceError
from tasks.lake import Lake, Nights, duck, tables
from tasks.lake.duck import literal
from tasks.lake.forgotten import leave_out
from tasks.night.catalogue import stage_catalogue, write_catalogue
from tasks.settings import IngestSettings, Settings, SourceSettings
from tasks.sources import Part, Source, source_of
from tasks.sources.rows import ROLES
from tasks.sources.units import (
    SYNTHETIC_EPOCH,
    US_PER_UNIT,
    limits_of,
    plain_times,
    refuse_dates,
    unit_of,
)

log = logging.getLogger(__name__)
# How the source was understood, in one line: `make run` prints what is logged here.
understood = logging.getLogger(f"{__name__}.understood")

UNLIMITED = 2**62
ROWS_A_BATCH = 4_000_000
NAMED = 20  # files that are left out, in the summary


@dataclass(frozen=True)
class Reading:
    """How rows were understood, of one part or of several together."""

    formats: frozenset[str]
    rows: int
    units: frozenset[str]
    first: dt.datetime | None
    last: dt.datetime | None
    columns: dict[str, tuple[str, ...]]  # that were taken for each role

    @classmethod
    def of(cls, part: Part, rows: int, unit: str, classes: dict[str, Any]) -> "Reading":
        """Put together what is known of a part that was classified."""
        told: dict[str, tuple[str, ...]] = getattr(part, "columns", {})
        columns = {role: names for role, names in told.items() if names}
        kind = frozenset({getattr(part, "format", "table")})
        return cls(kind, rows, frozenset({unit}), classes["first_ts"], classes["last_ts"], columns)

    def __add__(self, other: "Reading") -> "Reading":
        return Reading(
            self.formats | other.formats,
            self.rows + other.rows,
            # A file without rows has no times in any unit.
            (self.units if self.rows else frozenset())
            | (other.units if other.rows else frozenset()),
            min(filter(None, (self.first, other.first)), default=None),
            max(filter(None, (self.last, other.last)), default=None),
            {
                role: tuple(
                    dict.fromkeys([*self.columns.get(role, ()), *other.columns.get(role, ())])
                )
                for role in {**self.columns, **other.columns}
            },
        )

    def rows_told(self) -> str:
        """Say the format, the number of rows, and the unit and the range of their times."""
        line = f"{' and '.join(sorted(self.formats))}, {self.rows:,} rows"
        if self.first and self.last:
            units = " or ".join(sorted(self.units))
            line += f", times in {units} from {moment(self.first)} to {moment(self.last)}"
        return line

    def columns_told(self) -> str:
        """Say which columns are the user, the item, the time, the type and the weight."""
        names = {role: " or ".join(found) for role, found in self.columns.items()}
        columns = [f"{role} {names.get(role, 'none')}" for role in ROLES[:5]]
        if session := names.get("session"):
            columns[0] += f", else session {session}"
        return ", ".join(columns)

    def __str__(self) -> str:
        return f"{self.rows_told()}; {self.columns_told()}" if self.columns else self.rows_told()


def moment(ts: dt.datetime) -> str:
    """Write a moment as 2026-11-02 12:00:00Z."""
    return ts.astimezone(dt.UTC).isoformat(" ").replace("+00:00", "Z")


@dataclass
class PartCounts:
    """What became of the rows of one part, say a file."""

    reading: Reading
    rows_read: int
    other_nights: int
    events: int = 0
    late: int = 0
    quarantined: int = 0
    duplicates: int = 0
    repeats: int = 0
    over_cap: int = 0
    filtered: int = 0

    @property
    def unaccounted(self) -> int:
        """Rows read that are in none of the counts."""
        known = self.events + self.late + self.quarantined + self.duplicates + self.repeats
        return self.rows_read - known - self.over_cap - self.filtered - self.other_nights


def ingest(settings: Settings, night: dt.date) -> dict[str, Any]:
    """Write the night's partitions of `events`, `quarantine`, `source_versions` and `ingests`.

    Nothing is written before every file has been read and the counts agree.

    Raises
    ------
    SourceError
        A file cannot be read as events or items, or the counts do not agree.
    NightError
        The files have no event of the night.
    """
    lake = Lake.of(settings)
    # A backfill of a night before the first one must not read everything anew: the files of
    # the nights before may be gone by now.
    others = [known for known in lake.nights(tables.INGESTS) if known != night]
    earlier_run = lake.scan(tables.INGESTS, night, night).collect()
    bootstrap = bool(earlier_run["bootstrap"].any()) if earlier_run.height else not others
    source = source_of(settings)
    with duck.connect(settings) as con:
        times = set_night(con, night, bootstrap, settings.ingest.late_days)
        set_types(con, settings.source)
        parts = source.parts(*times)
        catalogue = stage_catalogue(con, settings, night)
        left_out: Sequence[str] = getattr(source, "left_out", ())
        # An enumeration, for a row with its part's number takes a third less time than with its
        # name. In the order of the names: of equal events the first one stays.
        names = ", ".join(literal(name) for name in sorted(part.name for part in parts)) or "''"
        con.execute(f"CREATE TYPE part_name AS ENUM ({names})")
        con.execute(duck.sql("staged_table"))
        counts = {part.name: _stage(con, part, settings.source) for part in parts}
        if counts:
            _tell(source, counts)
        forgotten = leave_out(con, lake)
        for name, rows in forgotten.items():
            counts[name].rows_read -= rows  # as if the source did not have them
        _leave_out(con, settings.ingest)
        window = dt.timedelta(days=settings.ingest.late_days)
        lake.view(
            con, tables.EVENTS, "earlier_events", None if bootstrap else night - window, night
        )
        con.execute(duck.sql("known_events"), {"night": night})
        con.execute(duck.sql("late_events"), {"night": night})
        mirrored = [part.name for part in parts if getattr(part, "mirrors", False)]
        if mirrored and not bootstrap:
            con.execute(duck.sql("gone_events"), {"sources": mirrored})
        else:
            con.execute("CREATE TEMP TABLE gone_events AS FROM known_events LIMIT 0")
        lake.view(con, tables.QUARANTINE, "earlier_quarantine", last=night - dt.timedelta(days=1))
        con.execute(duck.sql("night_rejects"), {"night": night})
        _settle(con, counts)
        if not any(count.events for count in counts.values()):
            raise NightError(
                _nothing_to_do(con, source, night, counts, [] if bootstrap else others)
            )
        if bootstrap and settings.ingest.max_quiet_days:
            _refuse_night_long_after(con, source, night, settings.ingest.max_quiet_days)
        late = Counter(_by_day(con, "late_events"))
        gone = _by_day(con, "gone_events")
        late.update(gone)
        # What an old version of a table does not have may have come to it since.
        anew = [
            part.name
            for part in parts
            if not part.versions or settings.source.reread or part.name in mirrored
        ]
        summary = _write(con, lake, night, counts, parts, anew, bootstrap, earlier_run, late)
        summary |= write_catalogue(con, lake, night, catalogue)
    if late:
        changed = ", ".join(f"{day} ({late[day]} rows)" for day in sorted(late))
        log.warning(
            "%d events came late and are now in their own days%s; histories and labels of these "
            "nights do not know them unless they run again: %s",
            sum(late.values()) - sum(gone.values()),
            f", and {sum(gone.values())} are gone from theirs" if gone else "",
            changed,
        )
    return {
        "source": str(source),
        **summary,
        "files_left_out": len(left_out),
        "left_out": list(left_out[:NAMED]),
        "rows_forgotten": sum(forgotten.values()),
        "changed_nights": {day.isoformat(): late[day] for day in sorted(late)},
    }


def set_night(
    con: duckdb.DuckDBPyConnection, night: dt.date, bootstrap: bool, late_days: int
) -> tuple[dt.datetime | None, dt.datetime]:
    """Tell the statements which times are the night's own, and which it reads behind itself.

    Returns from when (None: no beginning) and up to when it reads.
    """
    midnight = dt.datetime.combine(night, dt.time(), dt.UTC)
    end = midnight + dt.timedelta(days=1)
    window = None if bootstrap else midnight - dt.timedelta(days=late_days)
    times = {"first_ts": None if bootstrap else midnight, "window_ts": window, "end_ts": end}
    for name, ts in times.items():
        con.execute(f"SET VARIABLE {name} = $ts::TIMESTAMPTZ", {"ts": ts})
    con.execute("SET VARIABLE night = $night::DATE", {"night": night})
    return window, end


def _by_day(con: duckdb.DuckDBPyConnection, table: str) -> dict[dt.date, int]:
    return dict(con.execute(f"SELECT dt, count(*) FROM {table} GROUP BY dt").fetchall())


def _leave_out(con: duckdb.DuckDBPyConnection, settings: IngestSettings) -> None:
    """Fill `left_out_rows` with the staged events that are duplicates or above the caps.

    Few are, and which may be is found by hashes alone. To sort these and to count is done here:
    grouping as many rows takes DuckDB three times as long.
    """
    caps = settings.model_dump(include={"max_user_events", "max_repeats"})
    caps = {cap: limit or UNLIMITED for cap, limit in caps.items()}
    staged = con.sql("SELECT count(*) FROM staged WHERE reason IS NULL").fetchall()[0][0]
    hashes = np.empty(staged, np.uint64)
    # As many numbers as there are events, within limits: other users' days seldom share one.
    bits = min(max(int(staged).bit_length(), 10), 22)
    of_day = np.zeros(1 << bits, np.int64)
    con.execute("SET VARIABLE day_shift = $bits::UBIGINT", {"bits": 64 - bits})
    end = 0
    for batch in con.sql(duck.sql("event_hashes")).to_arrow_reader(ROWS_A_BATCH):
        start, end = end, end + batch.num_rows
        hashes[start:end] = batch.column("row_hash").to_numpy()
        of_day += np.bincount(batch.column("user_day").to_numpy(), minlength=of_day.size)
    hashes = pl.Series(hashes).sort().to_numpy()  # by all cores, as numpy does not
    shared = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    con.register("shared_hashes", pl.DataFrame({"row_hash": shared}))
    crowded = np.flatnonzero(of_day > min(caps.values())).astype(np.uint32)
    con.register("crowded_days", pl.DataFrame({"user_day": crowded}))
    con.execute(duck.sql("duplicate_rows"))
    con.execute(duck.sql("left_out_rows"), caps)


def set_types(con: duckdb.DuckDBPyConnection, source: SourceSettings) -> None:
    """Tell the statements which types of events are taken, and what one of a type weighs."""
    con.execute("SET VARIABLE event_types = $t::VARCHAR[]", {"t": source.event_types or None})
    weights = source.event_weights
    con.execute(
        "SET VARIABLE event_weights = MAP($types::VARCHAR[], $weights::FLOAT[])",
        {"types": list(weights), "weights": list(weights.values())},
    )


def latest_night(settings: Settings) -> dt.date:
    """Return the UTC date of the last event in the source, of those that are over by now.

    Raises
    ------
    SourceError
        A file cannot be read as events.
    NightError
        The files have no event of a day that is over.
    """
    yesterday = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)
    source = source_of(settings)
    with duck.connect(settings) as con:
        times = set_night(con, yesterday, bootstrap=True, late_days=0)
        set_types(con, settings.source)
        days: list[dt.date | None] = []
        for part in source.parts(*times):
            with part.open(con):
                classify(con, part, settings.source)
                days.append(duck.one_row(con, duck.sql("last_event"))["last_day"])
    known = [day for day in days if day]
    if not known:
        raise NightError(
            f"{source} has no usable event of {yesterday} or before: no night can be run on it"
        )
    return max(known)


def _stage(con: duckdb.DuckDBPyConnection, part: Part, source: SourceSettings) -> PartCounts:
    """Put the rows of one part that matter to the night into `staged`."""
    with part.open(con):
        rows_read, unit, classes = classify(con, part, source)
        con.execute(duck.sql("staged"), {"source": part.name})
        # Counted only where it is asked for: it is one more pass.
        filtered = Counter[str]()
        if source.event_types:
            filtered.update(duck.one_row(con, duck.sql("filtered_counts")))
    reading = Reading.of(part, rows_read, unit, classes)
    log.info("%s: %s", part, reading)
    return PartCounts(
        reading=reading,
        rows_read=rows_read,
        filtered=filtered["filtered"],
        other_nights=classes["other_nights"] + filtered["other_nights"],
    )


def _tell(source: Source, counts: dict[str, PartCounts]) -> None:
    """Log in one line how the source was understood."""
    whole = functools.reduce(operator.add, (count.reading for count in counts.values()))
    parts = f"{len(counts)} files of " if len(counts) > 1 else ""
    understood.info("%s is read as %s%s", source, parts, whole)


def classify(
    con: duckdb.DuckDBPyConnection, part: Part, source: SourceSettings
) -> tuple[int, str, dict[str, Any]]:
    """Tell the rows of the part that is open apart; return their number, time unit and classes."""
    profile = duck.one_row(con, duck.sql("source_profile"))
    if profile["first_broken"] is not None and source.broken_rows == "stop":
        raise SourceError(
            f"{part} line {profile['first_broken']} is {profile['broken']}: correct the line, "
            'or let such lines go to quarantine with source.broken_rows = "quarantine"'
        )
    numbers = profile["numeric_times"] * 2 > profile["timed"]
    if numbers:
        dates = duck.one_row(con, duck.sql("date_numbers"))
        if dates["date_numbers"] * 2 > profile["numeric_times"]:
            refuse_dates(part, dates["date_number"])
    middle = profile["middle_time"] or 0.0
    unit = unit_of(part, source.time_unit, middle) if numbers else "iso"
    con.execute("SET VARIABLE unit = $unit", {"unit": unit})
    con.execute("SET VARIABLE us_per_unit = $us", {"us": US_PER_UNIT[unit]})
    duck.set_variables(con, limits_of(unit, middle))
    duck.set_variables(con, plain_times(unit, middle))
    con.execute(duck.sql("classified_rows"))
    classes = duck.one_row(con, duck.sql("class_counts"))
    named = source.time_format or unit
    _refuse_wrong_unit(con, part, named, profile, classes)
    return profile["rows_read"], named, classes


def _refuse_wrong_unit(
    con: duckdb.DuckDBPyConnection,
    part: Part,
    unit: str,
    profile: dict[str, Any],
    classes: dict[str, Any],
) -> None:
    """Stop when most times are no dates: that is no slip in some rows, but a wrong setting."""
    if classes["unusable_times"] * 2 > profile["timed"]:
        row = {"row": classes["first_unusable_time"]}
        raw = con.execute("SELECT raw FROM source_rows WHERE row_number = $row", row).fetchone()
        raise SourceError(
            f"{classes['unusable_times']} of {profile['timed']} times of {part} are no dates "
            f"between 1970 and 2199 when read as {unit}, the first in row "
            f"{classes['first_unusable_time']}: {_shortened(raw[0] or '' if raw else '')}; "
            "correct source.time_unit or source.time_columns"
        )


def _settle(con: duckdb.DuckDBPyConnection, counts: dict[str, PartCounts]) -> None:
    """Fill in what is written and what is not, and hold the sum against the rows read."""
    found = con.execute(duck.sql("night_counts")).fetchall()
    for name, events, duplicates, repeats, over_cap, late, rejects, others in found:
        count = counts[name]
        count.events, count.duplicates, count.late = events, duplicates, late
        count.repeats, count.over_cap, count.quarantined = repeats, over_cap, rejects
        count.other_nights += others
    for name, count in counts.items():
        if count.unaccounted:
            raise SourceError(
                f"{name}: {count.rows_read} rows were read, but {count.unaccounted} of them are in "
                "no count; the file changed while it was read: run the step again"
            )


def _refuse_night_long_after(
    con: duckdb.DuckDBPyConnection, source: Source, night: dt.date, most: int
) -> None:
    """Refuse a first night whose newest event is long before it: nearly always it is a slip.

    Later nights need an event of their own. A lake that began with such a night would read no
    earlier one whole any more, so nothing is written.
    """
    newest_day = "SELECT max(ts)::DATE AS day FROM staged WHERE reason IS NULL"
    newest = duck.one_row(con, newest_day)["day"]
    quiet = (night - newest).days
    # Times that are made up say nothing about the night.
    if quiet > most and newest.isoformat() != SYNTHETIC_EPOCH[:10]:
        raise NightError(
            f"night {night} lies {quiet} days after {newest}, the day of the newest event of "
            f"{source}: run night {newest}, deliver the events that are missing, or raise "
            f"ingest.max_quiet_days, which is {most}"
        )


def _nothing_to_do(
    con: duckdb.DuckDBPyConnection,
    source: Source,
    night: dt.date,
    counts: dict[str, PartCounts],
    others: list[dt.date],
) -> str:
    """Say why a night has no events."""
    readings = [count.reading for count in counts.values()]
    days = [ts.date() for one in readings for ts in (one.first, one.last) if ts]
    message = f"night {night} has no events in {source}"
    if days:
        message += f", whose rows lie between {min(days)} and {max(days)}"
    if filtered := sum(count.filtered for count in counts.values()):
        message += f"; source.event_types leaves {filtered} rows out"
    reject = con.execute("SELECT source, row_number, reason FROM night_rejects LIMIT 1").fetchone()
    if reject:
        rejected = sum(count.quarantined for count in counts.values())
        message += (
            f"; {rejected} rows are unusable, the first: {reject[0]} row {reject[1]}, {reject[2]}"
        )
    message += ": choose another night, or deliver its events"
    if others:
        message += (
            f" (this lake has nights from {others[0]} to {others[-1]} already, so only rows of the "
            "night itself are read; for another source set another lake.root)"
        )
    return message


def _write(
    con: duckdb.DuckDBPyConnection,
    lake: Lake,
    night: dt.date,
    counts: dict[str, PartCounts],
    parts: Sequence[Part],
    anew: list[str],
    bootstrap: bool,
    earlier_run: pl.DataFrame,
    late: dict[dt.date, int],
) -> dict[str, Any]:
    """Replace the partitions; `ingests` comes last, so a rerun after a crash starts the same.

    `anew` names the parts that have all that their source has of the night: what another night
    brought from one of these, and is not there, is gone.
    """
    kept: list[dict[str, Any]] = []
    behind: list[dt.date] = []
    nights: Nights
    if bootstrap and earlier_run.is_empty():
        nights = (dt.date.min, night)
    elif bootstrap:
        days = con.sql("SELECT DISTINCT dt FROM staged WHERE reason IS NULL").fetchall()
        nights = sorted({night, *(day for (day,) in days)})
        kept = _kept_files(lake, night, nights, earlier_run, counts)
    else:
        # Days that it brought late events to, now or when it ran before.
        brought = con.execute(
            "SELECT DISTINCT dt FROM earlier_events WHERE ingested = $night AND dt < $night",
            {"night": night},
        ).fetchall()
        behind = sorted({*late, *(day for (day,) in brought)})
        nights = [*behind, night]
    con.execute(
        duck.sql("kept_events"),
        {
            "late_days": behind,
            "first": dt.date(1970, 1, 1) if bootstrap else night,
            "sources": anew,
        },
    )
    con.execute(duck.sql("night_events"))
    rejects = con.table("night_rejects")
    if kept:
        # A copy: the view reads the files that are about to be replaced.
        lake.view(con, tables.QUARANTINE, "night_quarantine", first=night, last=night)
        con.execute(duck.sql("kept_rejects"), {"sources": [row["source"] for row in kept]})
        rejects = rejects.union(con.table("kept_rejects"))
    lake.replace(tables.EVENTS, con.table("night_events"), nights=nights)
    lake.replace(tables.QUARANTINE, rejects, nights=[night])
    _keep_versions(lake, night, parts)
    rows = [
        {
            "dt": night,
            "source": name,
            "rows_read": count.rows_read,
            "rows_events": count.events,
            "rows_quarantined": count.quarantined,
            "rows_duplicate": count.duplicates,
            "rows_repeat": count.repeats,
            "rows_busy": count.over_cap,
            "rows_late": count.late,
            "rows_filtered": count.filtered,
            "rows_other_nights": count.other_nights,
            "bootstrap": bootstrap,
        }
        for name, count in counts.items()
    ]
    lake.replace(
        tables.INGESTS,
        pa.Table.from_pylist([*rows, *kept], schema=tables.INGESTS.schema),
        nights=[night],
    )
    summary: dict[str, Any] = {
        key: sum(row[key] for row in rows) for key in rows[0] if key.startswith("rows_")
    }
    return {"files": len(rows), **summary, "bootstrap": bootstrap}


def _keep_versions(lake: Lake, night: dt.date, parts: Sequence[Part]) -> None:
    """Write down which versions the night read, so that it reads the same when it runs again."""
    rows = [
        {
            "dt": night,
            "source": part.name,
            "table_id": part.versions.table_id,
            "version": part.versions.version,
            "after_version": part.versions.after,
            "since": part.versions.since,
        }
        for part in parts
        if part.versions
    ]
    if rows or night in lake.nights(tables.SOURCE_VERSIONS):
        lake.replace(
            tables.SOURCE_VERSIONS,
            pa.Table.from_pylist(rows, schema=tables.SOURCE_VERSIONS.schema),
            nights=[night],
        )


def _kept_files(
    lake: Lake,
    night: dt.date,
    replaced: list[dt.date],
    earlier_run: pl.DataFrame,
    counts: dict[str, PartCounts],
) -> list[dict[str, Any]]:
    """Return the rows of `ingests` of files that are gone, but have events on days that stay."""
    staying = (
        lake.scan(tables.EVENTS, last=night)
        .filter(~pl.col("dt").is_in(replaced))
        .select(pl.col("source").unique())
        .collect()["source"]
    )
    gone = set(staying) - set(counts)
    kept = earlier_run.filter(pl.col("source").is_in(list(gone))).to_dicts()
    if kept:
        log.warning(
            "%d files that night %s read before are gone, such as %s: their days stay as they are",
            len(kept),
            night,
            kept[0]["source"],
        )
    return kept


def _shortened(text: str, length: int = 200) -> str:
    return text if len(text) <= length else text[:length] + "..."
