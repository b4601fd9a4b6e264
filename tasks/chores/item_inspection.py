"""What `ingest` would understand of a catalogue of items, without writing anything.

For each part its format and the columns taken; then what becomes of the rows, the most frequent
categories, the first items as rows, and settings that pin this reading down.
"""

import datetime as dt
from typing import Any

import duckdb
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tasks.chores.inspection import PARTS, add_row, as_toml, table_of
from tasks.errors import SourceError
from tasks.lake import duck
from tasks.night.catalogue import ReadCatalogue, columns_told, read_catalogue
from tasks.settings import CATALOGUE_PROFILE_KEYS, CatalogueSettings, Settings
from tasks.sources.files import FilePart
from tasks.sources.rows import columns_of
from tasks.sources.text import SourceFile, counted_names

ITEMS = 5  # shown
CATEGORIES = 10  # shown
TEXT = 60  # characters of a title or of attributes that are shown


def inspect_items(settings: Settings, console: Console) -> None:
    """Print how the catalogue is understood.

    Raises
    ------
    SourceError
        It cannot be read as items; the message names what to set.
    """
    if not settings.catalogue.is_set:
        raise SourceError("catalogue.path is not set: name a catalogue with --items")
    settings = settings.model_copy(
        update={
            # A line that is broken is shown like any other that would be rejected.
            "catalogue": settings.catalogue.model_copy(update={"broken_rows": "quarantine"}),
            "ingest": settings.ingest.model_copy(update={"settle_minutes": 0}),
        }
    )
    with duck.connect(settings) as con:
        read = read_catalogue(con, settings, dt.datetime.now(dt.UTC).date())
        columns = [_columns(con, part, settings.catalogue) for part in read.parts]
        console.print(_parts(read, columns), soft_wrap=True)
        for shown in (_rows(con, read), _rejects(read), _categories(con), _items(con)):
            if shown is not None:
                console.print(shown)
                console.print()
    if read.left_out:
        console.print(Text(f"Files left out: {', '.join(read.left_out)}\n"), soft_wrap=True)
    console.print(Text("Settings that pin this reading down:\n", "bold"))
    console.print(Text(_pinned(settings.catalogue, read, columns)), soft_wrap=True)


def _columns(
    con: duckdb.DuckDBPyConnection, part: Any, catalogue: CatalogueSettings
) -> dict[str, list[str]]:
    """Return which columns each role of a part is taken from, of JSON the keys that are there."""
    wanted = {role: columns_of(catalogue, role) for role in CatalogueSettings.roles}
    if not isinstance(part, FilePart) or part.format not in ("json", "jsonl"):
        told = getattr(part, "columns", {})
        return {
            role: [name for name in names if name in told.get(role, ())]
            for role, names in wanted.items()
        }
    with part.place.fetched(part.path) as path:
        file = SourceFile(path, str(part), part.format, {}, {})
        counts = counted_names(con, file, catalogue)
    return {role: [name for name in names if counts[name]] for role, names in wanted.items()}


def _parts(read: ReadCatalogue, columns: list[dict[str, list[str]]]) -> Text:
    shown = Text("What is read of the catalogue\n", "bold")
    for part, found in list(zip(read.parts, columns, strict=True))[:PARTS]:
        told = (columns_told(role, names) for role, names in found.items())
        shown.append(f"{part.name}: {_format(part)}\n    {', '.join(told)}\n", "not bold")
    if len(read.parts) > PARTS:
        shown.append(f"and {len(read.parts) - PARTS} more\n", "not bold")
    return shown


def _format(part: Any) -> str:
    return part.format if isinstance(part, FilePart) else "table"


def _rows(con: duckdb.DuckDBPyConnection, read: ReadCatalogue) -> Table:
    ((untitled, unsorted),) = con.execute(
        "SELECT count_if(title IS NULL), count_if(len(categories) = 0) FROM catalogue_items"
    ).fetchall()
    table = table_of("Rows", "rows", "what becomes of them")
    for name, says in (
        ("rows_read", "read"),
        ("items", "items"),
        ("rows_duplicate", "say the same as another row of the item"),
        ("rows_replaced", "are of items that have another row further down, which counts"),
        ("rows_rejected", "cannot be used"),
    ):
        add_row(table, f"{read.counts[name]:,}", says)
    add_row(table, f"{untitled:,}", "items without a title")
    add_row(table, f"{unsorted:,}", "items without a category")
    return table


def _rejects(read: ReadCatalogue) -> Table | None:
    if not read.rejected:
        return None
    table = table_of("Rows that cannot be used", "part", "row", "why", "rows")
    for one in read.rejected:
        add_row(table, one["source"], str(one["first_row"]), one["reason"], f"{one['rows']:,}")
    return table


def _categories(con: duckdb.DuckDBPyConnection) -> Table:
    table = table_of("Categories", "category", "items")
    for name, items in con.execute(
        "SELECT one, count(*) FROM (SELECT unnest(categories) AS one FROM catalogue_items) "
        f"GROUP BY one ORDER BY count(*) DESC, one LIMIT {CATEGORIES}"
    ).fetchall():
        add_row(table, visible(name), f"{items:,}")
    return table


def _items(con: duckdb.DuckDBPyConnection) -> Table:
    table = table_of("The first items", "item_id", "title", "categories", "attributes")
    for item, named, words, others in con.execute(
        "SELECT item_id, title, categories, attributes FROM catalogue_rows WHERE reason IS NULL "
        f"ORDER BY part, row_number LIMIT {ITEMS}"
    ).fetchall():
        shown = [visible(one) for one in (item, named or "", " | ".join(words), others or "")]
        add_row(table, *shown)
    return table


def visible(text: str, length: int = TEXT) -> str:
    """Return a text as it can be shown: what would steer a terminal is written as an escape."""
    shown = text if len(text) <= length else f"{text[:length]}..."
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii")
        for sign in shown
    )


def _pinned(
    catalogue: CatalogueSettings, read: ReadCatalogue, columns: list[dict[str, list[str]]]
) -> str:
    """Return the settings that read the same again, as TOML."""
    defaults = CatalogueSettings()
    values: dict[str, Any] = {"kind": catalogue.kind, "path": catalogue.path}
    said = ("connection", "table", "query", "endpoint", "region", *sorted(CATALOGUE_PROFILE_KEYS))
    values |= {
        key: getattr(catalogue, key)
        for key in said
        if getattr(catalogue, key) != getattr(defaults, key)
    }
    formats = {_format(part) for part in read.parts}
    if catalogue.kind == "files" and len(formats) == 1 and not read.left_out:
        values["format"] = formats.pop()
    for role in CatalogueSettings.roles:
        found = {name for one in columns for name in one[role]}
        if names := [name for name in columns_of(catalogue, role) if name in found]:
            values[f"{role}_columns"] = names
    lines = (f"{key} = {as_toml(value)}" for key, value in values.items())
    return "\n".join(["[catalogue]", *lines])
