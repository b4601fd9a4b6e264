"""The view `source_rows` over a catalogue of items: id, title, categories, and all other columns.

It is made of the same parts as that of events (`tasks.sources.rows`), and read by the same readers.
Its columns: `row_number`, `raw` (null where the row is an item), `item_id`, `title`, `categories`,
`attributes`, `broken` (why the line cannot be parsed at all) and `unread` (why a value cannot be
read).
"""

from tasks.lake.duck import identifier, literal
from tasks.settings import CatalogueSettings
from tasks.sources.rows import (
    EXACT_BITS,
    LIST,
    Field,
    Object,
    Rows,
    Table,
    chosen_field,
    columns_of,
    filled,
    identified,
    in_folder,
    in_json,
    in_text,
    pointer,
    tell_columns,
)

BARS = "|"  # between categories in text, where the settings do not say otherwise


def item_rows(part: object, source: CatalogueSettings, rows: Rows) -> str:
    """Write the SELECT of the view `source_rows` over the items that rows are.

    part, source: as for `tasks.sources.rows.source_rows`.

    Raises SourceError when there is no column of the item, or it or the title holds no single
    values.
    """
    record = rows.record
    item = chosen_field(part, record, rows, "item", source) or Field("NULL::VARCHAR")
    title = chosen_field(part, record, rows, "title", source)
    lists = _categories(record, source, rows)
    of_item, of_title = _names(record, source, "item"), _names(record, source, "title")
    tell_columns(part, {"item": of_item, "title": of_title, "category": tuple(lists)})
    taken = {"the item": item.sql, "the title": title.sql if title else "NULL::VARCHAR"}
    taken |= {f"the category {n}": one.sql for n, one in enumerate(lists.values(), 1)}
    given = ", ".join(f"{sql} AS {identifier(name)}" for name, sql in taken.items())
    item_id, no_item = identified(Field('"the item"', item.type), "item", source)
    named = Field('"the title"', title.type if title else "VARCHAR")
    categories = [
        one.words(f'"the category {n}"', source) for n, one in enumerate(lists.values(), 1)
    ]
    values = {
        "row_number": rows.row_number,
        "item_id": item_id,
        "title": filled(in_text(named), source),
        "categories": _different(categories),
        "attributes": _others(rows, source, {*of_item[:1], *of_title[:1], *lists}),
        "broken": rows.broken,
        "unread": f"coalesce({no_item}, {_no_title(named)})",
    }
    found = ", ".join(f'{value} AS "its {name}"' for name, value in values.items())
    shown = ", ".join(f'"its {name}" AS {name}' for name in values)
    return f"""
        SELECT
            {shown},
            CASE
                WHEN "its broken" IS NULL AND "its unread" IS NULL AND "its item_id" IS NOT NULL
                    THEN NULL
                ELSE {rows.raw}
            END AS raw
        FROM (SELECT *, {found} FROM (SELECT *, {given} FROM {rows.reader}))
    """


def _names(record: Table | Object, source: CatalogueSettings, role: str) -> tuple[str, ...]:
    """Return the columns that a role is taken from; of JSON any of them, in this order."""
    found = tuple(name for name in columns_of(source, role) if record.field(name))
    return found if isinstance(record, Object) else found[:1]


def _no_title(title: Field) -> str:
    """Write why a title is there and cannot be read, else null."""
    if title.type == "JSON":
        nested = f"json_type({title.sql}) IN ('OBJECT', 'ARRAY')"
        return f"CASE WHEN {nested} THEN 'the title is an object or a list' END"
    if title.type == "BLOB":
        text = in_text(title)
        return (
            f"CASE WHEN {title.sql} IS NOT NULL AND {text} IS NULL "
            "THEN 'the title is bytes that are no text in UTF-8' END"
        )
    return "NULL"


class _Category:
    """One column of categories: its value, and how its words are told apart."""

    def __init__(self, field: Field, separator: str, key: str = "", *, listed: bool = False):
        """key: a JSON pointer to the word in each element of a list; listed: it is a list."""
        self.sql = in_json(field) if listed else field.sql
        self.is_json = listed or field.type == "JSON"
        self.separator, self.key = separator, key
        if not self.is_json:
            self.sql = in_text(field)

    def words(self, value: str, source: CatalogueSettings) -> str:
        """Write the words of a value as a list of texts, none of them blank."""
        text = f"({value} ->> '$')" if self.is_json else value
        whens = f"WHEN {text} IS NULL THEN []"
        if self.is_json:
            whens += f" WHEN json_type({value}) = 'ARRAY' THEN {self._elements(value)}"
        if self.separator == "auto":
            # Text with a bracket is mostly no list.
            is_list = f"{text} LIKE '[%' AND json_valid({text})"
            whens += f" WHEN {is_list} THEN {self._elements(text)}"
        words = f"CASE {whens} ELSE {self._split(text)} END"
        kept = filled("trim(word)", source)
        return (
            f"list_filter(list_transform({words}, lambda word: {kept}), "
            "lambda word: word IS NOT NULL)"
        )

    def _elements(self, value: str) -> str:
        """Write the elements of a JSON list, and those of lists in it, as texts."""
        inner = (
            f"list_transform(json_extract({value}, '$[*]'), lambda one: CASE "
            "WHEN json_type(one) = 'ARRAY' THEN json_extract(one, '$[*]') ELSE [one] END)"
        )
        return (
            f"list_transform(flatten({inner}), "
            f"lambda one: json_extract_string(one, {literal(self.key or '$')}))"
        )

    def _split(self, text: str) -> str:
        separator = BARS if self.separator == "auto" else self.separator
        if not separator:
            return f"[{text}]"
        if not separator.strip():
            return rf"regexp_split_to_array(trim({text}), '\s+')"
        return f"string_split({text}, {literal(separator)})"


def _categories(
    record: Table | Object, source: CatalogueSettings, rows: Rows
) -> dict[str, _Category]:
    """Return every column of categories that is there, by its name."""
    found: dict[str, _Category] = {}
    for name in source.category_columns:
        separator = source.category_separator
        if separator == "auto" and name in rows.blanks_between:
            separator = " "
        path = LIST.fullmatch(name)
        # An object has whatever is asked for; a table may have a column with brackets in its name.
        if (not path or isinstance(record, Table)) and (field := record.field(name)):
            # A list is one whatever the separator of texts.
            found[name] = _Category(field, separator, listed=field.type.endswith("]"))
        elif path and (field := record.field(path["list"])):
            key = pointer(path["rest"].split(".")) if path["rest"] else ""
            found[name] = _Category(field, separator, key, listed=isinstance(record, Table))
        elif name in rows.folders:
            found[name] = _Category(in_folder(rows.folders[name]), separator)
    return found


def _different(lists: list[str]) -> str:
    """Write the words of several lists, each once, in their order."""
    if not lists:
        return "[]::VARCHAR[]"
    words = lists[0] if len(lists) == 1 else f"list_concat({', '.join(lists)})"
    return (
        f"list_reduce({words}, lambda known, word: CASE WHEN list_contains(known, word) THEN known "
        "ELSE list_append(known, word) END, []::VARCHAR[])"
    )


def _others(rows: Rows, source: CatalogueSettings, used: set[str]) -> str:
    """Write the columns that are neither item, title nor category as one JSON object."""
    if isinstance(rows.columns, Object):
        return _other_keys(rows.columns, source)
    pairs = []
    for name, column in rows.columns.items():
        if name in used:
            continue
        kind = rows.types[name] if rows.types else "VARCHAR"
        value = filled(f"{column}::VARCHAR", source) if kind == "VARCHAR" else f"to_json({column})"
        if kind in EXACT_BITS:  # JSON has no infinity
            value = f"CASE WHEN isfinite({column}) THEN to_json({column}) END"
        pairs.append(f"{literal(name)}, {value}")
    return f"json_object({', '.join(pairs)})::VARCHAR" if pairs else "NULL::VARCHAR"


def _other_keys(record: Object, source: CatalogueSettings) -> str:
    """Write the keys of a JSON object that nothing is taken from, with their values as they are."""
    taken = [literal(name) for name in source.category_columns]
    for names in filter(None, (source.item_columns, source.title_columns)):
        whens = " ".join(
            f"WHEN nullif({record.field(name).sql}::VARCHAR, 'null') IS NOT NULL "
            f"THEN {literal(name)}"
            for name in names
        )
        taken.append(f"coalesce(CASE {whens} END, '')")
    singles = ", ".join(map(literal, (*source.item_columns, *source.title_columns)))
    place = "'/' || replace(replace(one, '~', '~0'), '/', '~1')"
    pair = f"to_json(one)::VARCHAR || ':' || json_extract({record.sql}, {place})::VARCHAR"
    keys = (
        f"list_filter(json_keys({record.sql}), "
        f"lambda one: NOT list_contains([{', '.join(taken)}], one) "
        f"AND NOT (list_contains([{singles}], one) "
        f"AND json_extract({record.sql}, {place})::VARCHAR = 'null'))"
    )
    return (
        f"nullif('{{' || array_to_string(list_transform({keys}, lambda one: {pair}), ',') || '}}', "
        "'{}')"
    )
