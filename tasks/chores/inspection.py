"""What `ingest` would understand of a source, without writing anything.

For each part: its format, the columns taken, the unit of its times, its first and last time, its
rows, and what would be rejected and why; then the first events as rows, and settings that pin this
reading down.
"""

import datetime as dt
import json
from dataclasses import dataclass, replace
from typing import Any

import duckdb
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tasks.errors import SourceError
from tasks.lake import duck
from tasks.night.ingest import Reading, classify, moment, set_night, set_types
from tasks.settings import PROFILE_KEYS, Settings, SourceSettings
from tasks.sources import Part, source_of
from tasks.sources.files import FilePart
from tasks.sources.rows import ROLES, columns_of
from tasks.sources.text import SourceFile, counted_names

PARTS = 20  # shown
EVENTS = 5  # shown
REASONS = 10  # shown
FLOAT = r"-?\d+\.0"  # how a float that was a whole number is written
TEXT = 80  # characters of a line that is shown


@dataclass(frozen=True)
class Inspected:
    """How one part was understood, and what of it would be rejected."""

    name: str
    reading: Reading
    rejected: int
    filtered: int
    floats: list[str]  # of user and item those whose ids all end in ".0"
    rejects: list[tuple[str, int, int, str]]  # reason, rows, the first one, how it reads
    events: list[tuple[Any, ...]]


def inspect(settings: Settings, console: Console) -> None:
    """Print how the source is understood.

    Raises
    ------
    SourceError
        It cannot be read as events; the message names what to set.
    """
    settings = settings.model_copy(
        update={
            # A line that is broken is shown like any other that would be rejected.
            "source": settings.source.model_copy(update={"broken_rows": "quarantine"}),
            "ingest": settings.ingest.model_copy(update={"settle_minutes": 0}),
        }
    )
    source = source_of(settings)
    with duck.connect(settings) as con:
        today = dt.datetime.now(dt.UTC).date()
        times = set_night(con, today, bootstrap=True, late_days=0)
        set_types(con, settings.source)
        readings = [_read(con, part, settings.source) for part in source.parts(*times)]
    if not any(one.reading.rows for one in readings):
        raise SourceError(f"{source} has no rows: deliver events, or name another source")
    console.print(_parts(readings), soft_wrap=True)
    if floats := sorted({role for one in readings for role in one.floats}):
        console.print(Text(_ends_told(floats)), soft_wrap=True)
    for shown in (_rejects(readings), _events(readings)):
        console.print(shown)
        console.print()
    left_out: list[str] = getattr(source, "left_out", [])
    if left_out:
        console.print(Text(f"Files left out: {', '.join(left_out)}\n"), soft_wrap=True)
    console.print(Text("Settings that pin this reading down:\n", "bold"))
    console.print(Text(pinned(settings.source, readings, left_out)), soft_wrap=True)


def _read(con: duckdb.DuckDBPyConnection, part: Part, source: SourceSettings) -> Inspected:
    with part.open(con):
        rows, unit, classes = classify(con, part, source)
        whole = f"bool_and(regexp_full_match({{}}, '{FLOAT}')) FILTER (WHERE reason IS NULL)"
        counts = duck.one_row(
            con,
            "SELECT count(*) FILTER (WHERE reason IS NOT NULL AND class <> 'filtered') "
            "AS rejected, count(*) FILTER (WHERE class = 'filtered') AS filtered, "
            f"{whole.format('user_id')} AS user, {whole.format('item_id')} AS item "
            "FROM classified_rows",
        )
        rejects = con.execute(
            "SELECT reason, count(*), min(row_number), coalesce(arg_min(raw, row_number), '') "
            "FROM classified_rows WHERE reason IS NOT NULL AND class <> 'filtered' "
            f"GROUP BY reason ORDER BY count(*) DESC, reason LIMIT {REASONS}"
        ).fetchall()
        events = con.execute(
            "SELECT user_id, item_id, event_type, ts, weight, row_number FROM classified_rows "
            f"WHERE reason IS NULL AND class <> 'filtered' ORDER BY row_number LIMIT {EVENTS}"
        ).fetchall()
    reading = Reading.of(part, rows, unit, classes)
    if isinstance(part, FilePart) and part.format in ("json", "jsonl"):
        reading = replace(reading, columns=_found_keys(con, part, source))
    return Inspected(
        part.name,
        reading,
        counts["rejected"],
        counts["filtered"],
        [role for role in ("user", "item") if counts[role]],
        rejects,
        events,
    )


def _found_keys(
    con: duckdb.DuckDBPyConnection, part: FilePart, source: SourceSettings
) -> dict[str, tuple[str, ...]]:
    """Return which of the keys that are looked for the objects of a file have."""
    with part.place.fetched(part.path) as path:
        counts = counted_names(con, SourceFile(path, str(part), part.format, {}, {}), source)
    found = {
        role: tuple(name for name in columns_of(source, role) if counts[name]) for role in ROLES
    }
    return {role: names for role, names in found.items() if names}


def _parts(readings: list[Inspected]) -> Text:
    shown = Text("What is read\n", "bold")
    for one in readings[:PARTS]:
        told = f"{one.name}: {one.reading.rows_told()}\n    {one.reading.columns_told()}\n"
        shown.append(told, "not bold")
    if len(readings) > PARTS:
        shown.append(f"and {len(readings) - PARTS} more\n", "not bold")
    return shown


def _ends_told(roles: list[str]) -> str:
    ids = " and ".join(f"{role} ids" for role in roles)
    return (
        f'All {ids} end in ".0", as if a tool had made floats of whole numbers. They are texts and '
        'stay as they are: "7.0" is another id than "7". Deliver whole numbers if other files have '
        "them.\n"
    )


def _rejects(readings: list[Inspected]) -> Table | Text:
    rejected = sum(one.rejected for one in readings)
    title = f"Rows that would go to quarantine: {rejected:,}"
    if filtered := sum(one.filtered for one in readings):
        title += f" (and {filtered:,} of other types than source.event_types)"
    if not rejected:
        return Text(title, "bold")
    table = table_of(title, "part", "row", "why", "rows", "as read")
    for one in readings:
        for reason, count, first, raw in one.rejects:
            shown = raw if len(raw) <= TEXT else raw[:TEXT] + "..."
            add_row(table, one.name, str(first), reason, f"{count:,}", shown)
    return table


def _events(readings: list[Inspected]) -> Table:
    table = table_of("The first events", "user_id", "item_id", "event_type", "ts", "weight", "row")
    for one in readings:
        for user, item, kind, ts, weight, row in one.events:
            if table.row_count < EVENTS:
                shown = "" if weight is None else str(weight)
                add_row(table, user, item, kind, moment(ts), shown, str(row))
    return table


def pinned(source: SourceSettings, readings: list[Inspected], left_out: list[str]) -> str:
    """Return the settings that read the same again, whatever the files will look like, as TOML."""
    values: dict[str, Any] = {"kind": source.kind, "path": source.path}
    defaults = SourceSettings()
    # What the settings or a profile say already.
    said = ("connection", "table", "query", "endpoint", "region", *sorted(PROFILE_KEYS))
    values |= {k: getattr(source, k) for k in said if getattr(source, k) != getattr(defaults, k)}
    formats = {kind for one in readings for kind in one.reading.formats}
    if source.kind == "files" and len(formats) == 1 and not left_out:
        values["format"] = formats.pop()  # with which files of any name are read
    for role in ROLES:
        found = {name.rstrip("=") for one in readings for name in one.reading.columns.get(role, ())}
        values[f"{role}_columns"] = [name for name in columns_of(source, role) if name in found]
    units = {unit for one in readings if one.reading.rows for unit in one.reading.units}
    if len(units) == 1:
        values["time_unit"] = units.pop()
    weights = values.pop("event_weights", {})
    lines = ["[source]", *(f"{key} = {as_toml(value)}" for key, value in values.items())]
    if weights:
        pairs = ", ".join(f"{as_toml(kind)} = {weight}" for kind, weight in weights.items())
        lines.append(f"event_weights = {{ {pairs} }}")
    return "\n".join(lines)


def as_toml(value: Any) -> str:
    """Return a value as TOML writes it: a text, a number or a list of texts."""
    # A JSON string or list of strings is one of TOML, too.
    return json.dumps(value if not isinstance(value, tuple) else list(value), ensure_ascii=False)


def table_of(title: str, *columns: str) -> Table:
    """Return an empty table that is printed without lines."""
    table = Table(title=title, title_justify="left", title_style="bold", pad_edge=False, box=None)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def add_row(table: Table, *cells: str) -> None:
    """Add a row that is printed as it is: brackets in ids and paths are no markup."""
    table.add_row(*map(Text, cells))
