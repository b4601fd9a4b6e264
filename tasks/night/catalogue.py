"""The catalogue of items in the step ingest: read whole, and written where it has changed.

Only the newest night of a lake reads the catalogue, as it is then. The other nights keep what they
have: a rerun or a backfill sees the catalogue that its night saw, or the newest one before it where
the night did not run yet. The newest night that runs again reads anew, so that a catalogue can be
mended.

A partition of `catalogue` is written only where it differs from the newest one before the night.
`catalogue_reads` says of each night which partition it reads, and what was counted. It is written
last: a step that was killed does the same when it runs again.

Of several rows of an item the last one counts: the one of the last file by name, and in it of the
last row. A row that says the same is counted as a duplicate, another one as replaced.
"""

import datetime as dt
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from tasks.errors import SourceError
from tasks.lake import Lake, duck, tables
from tasks.registry.catalogue import catalogue_night, view_catalogue
from tasks.registry.inputs import digests
from tasks.settings import Settings
from tasks.sources import Part
from tasks.sources.catalogue import Catalogue, in_its_words, opened

log = logging.getLogger(__name__)

COLUMNS = tuple(name for name in tables.CATALOGUE.schema.names if name != "dt")


@dataclass(frozen=True)
class ReadCatalogue:
    """A catalogue that was read: the table `catalogue_items` has its items.

    counts: rows_read, and what it is the sum of. rejected: for each part and reason how many rows
    cannot be used, and the first of them.
    """

    source: str
    parts: list[Part]
    left_out: list[str]  # files that are none of items
    counts: dict[str, int]
    rejected: list[dict[str, Any]]
    replaced_item: str | None  # one whose rows disagree


def stage_catalogue(
    con: duckdb.DuckDBPyConnection, settings: Settings, night: dt.date
) -> ReadCatalogue | None:
    """Read the catalogue for a night.

    None where this night reads none: there is none, or a later night has been ingested.

    Raises
    ------
    SourceError
        The catalogue cannot be read, or has a broken line and `catalogue.broken_rows` is "stop".
    """
    if not settings.catalogue.is_set:
        return None
    ingested = Lake.of(settings).nights(tables.INGESTS)
    if later := [one for one in ingested if one > night]:
        log.info(
            "night %s keeps the catalogue that it has, for night %s has been ingested since",
            night,
            later[-1],
        )
        return None
    read = read_catalogue(con, settings, night)
    if read.replaced_item is not None:
        log.warning(
            "%d rows of %s are of items that have another row further down, which counts, such as "
            "item %r: leave one of them out, or join their categories before",
            read.counts["rows_replaced"],
            read.source,
            _shortened(read.replaced_item),
        )
    for one in read.rejected:
        log.warning(
            "%d rows of %s in %s are no items, the first is row %d: %s",
            one["rows"],
            read.source,
            one["source"],
            one["first_row"],
            one["reason"],
        )
    return read


def read_catalogue(
    con: duckdb.DuckDBPyConnection, settings: Settings, night: dt.date
) -> ReadCatalogue:
    """Read the catalogue as it is now into the tables `catalogue_rows` and `catalogue_items`.

    Raises SourceError as `stage_catalogue` does.
    """
    source = Catalogue(settings)
    parts = source.parts(night)
    con.execute(duck.sql("catalogue_rows_table"))
    for number, part in enumerate(parts):
        with opened(con, part):
            broken = con.execute(duck.sql("catalogue_broken")).fetchall()
            if broken and settings.catalogue.broken_rows == "stop":
                ((row, why),) = broken
                raise SourceError(
                    f"{part} line {row} is {in_its_words(why)}: correct the line, or leave such "
                    'lines out with catalogue.broken_rows = "quarantine"'
                )
            con.execute(duck.sql("catalogue_rows"), {"part": number})
        told = (columns_told(role, names) for role, names in getattr(part, "columns", {}).items())
        log.info("%s: catalogue; %s", part, ", ".join(told) or "no columns but that of the item")
    con.execute(duck.sql("catalogue_items"), {"night": night})
    counts = duck.one_row(con, duck.sql("catalogue_counts"))
    replaced_item = counts.pop("replaced_item")
    rejected = [
        {
            "source": parts[number].name,
            "reason": in_its_words(reason),
            "rows": rows,
            "first_row": first,
        }
        for number, reason, rows, first in con.execute(duck.sql("catalogue_rejects")).fetchall()
    ]
    return ReadCatalogue(str(source), parts, list(source.left_out), counts, rejected, replaced_item)


def columns_told(role: str, names: Sequence[str]) -> str:
    """Say which columns a role is taken from: of items one of them, of categories all."""
    between = " and " if role == "category" else " or "
    return f"{role} {between.join(names) or 'none'}"


def write_catalogue(
    con: duckdb.DuckDBPyConnection,
    lake: Lake,
    night: dt.date,
    read: ReadCatalogue | None,
) -> dict[str, Any]:
    """Write what `stage_catalogue` has read, and which catalogue the night has.

    Returns what the summary of the step says of it: nothing where there is no catalogue.
    """
    known = catalogue_night(lake, night)
    if read is None and known is None:
        return {}
    if read is not None:
        known, digest, items = _written(con, lake, night)
    else:
        lake.view(con, tables.CATALOGUE, "kept_catalogue", known, known)
        (digest,) = digests(con.table("kept_catalogue"), COLUMNS).values()
        items = len(con.table("kept_catalogue"))
    row = {
        "dt": night,
        "source": read and read.source,
        **(read.counts if read else {}),
        "rejected": read.rejected if read else [],
        "catalogue_night": known,
        "digest": digest,
        "items": items,
        **_coverage(con, lake, night),
    }
    rows = pa.Table.from_pylist([row], schema=tables.CATALOGUE_READS.schema)
    lake.replace(tables.CATALOGUE_READS, rows, nights=[night])
    counted = {name: row[name] for name in tables.CATALOGUE_READS.schema.names if name in row}
    del counted["dt"], counted["digest"], counted["rejected"]
    return {"catalogue": {**counted, "catalogue_night": known and known.isoformat()}}


def _written(
    con: duckdb.DuckDBPyConnection, lake: Lake, night: dt.date
) -> tuple[dt.date | None, str | None, int]:
    """Write the catalogue where it differs from the one before; return which one the night has.

    That is its night, its digest and the number of items that were read.
    """
    found = con.table("catalogue_items")
    items = len(found)
    digest = digests(found, COLUMNS).get(night)
    before = catalogue_night(lake, night - dt.timedelta(days=1))
    digest_before = None
    if before is not None:
        lake.view(con, tables.CATALOGUE, "catalogue_before", before, before)
        (digest_before,) = digests(con.table("catalogue_before"), COLUMNS).values()
    if not items or digest == digest_before:
        # What an earlier run of the night has written is no more what it reads.
        if night in lake.nights(tables.CATALOGUE):
            lake.replace(tables.CATALOGUE, tables.CATALOGUE.schema.empty_table(), nights=[night])
        return before, digest_before, items
    lake.replace(tables.CATALOGUE, found, nights=[night])
    return night, digest, items


def _coverage(con: duckdb.DuckDBPyConnection, lake: Lake, night: dt.date) -> dict[str, int]:
    """Count the night's items that have no row, and no title."""
    lake.view(con, tables.EVENTS, "items_of_night", night, night)
    view_catalogue(con, lake, night)
    covered = duck.one_row(con, duck.sql("catalogue_coverage"))
    otherwise, example = covered.pop("written_otherwise"), covered.pop("otherwise_item")
    if otherwise:
        log.warning(
            "%d items of night %s have no row in the catalogue, but would have one if a number "
            "were written in the other way, such as %s: write ids in the catalogue as in events",
            otherwise,
            night,
            _shortened(example),
        )
    return covered


def _shortened(text: str, length: int = 100) -> str:
    return text if len(text) <= length else text[:length] + "..."
