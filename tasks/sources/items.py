"""The view `source_rows` over a catalogue of items: id, title, categories, and all other columns.

It is made of the same parts as that of events (`tasks.sources.rows`), and read by the same readers.
Its columns: `row_number`, `raw` (null where the row is an item), `item_id`, `title`, `categories`,
`attributes`, `broken` (why the line cannot be parsed at all) and `unread` (why a value cannot be
read).
"""

from collections.abc import Iterable, Mapping

from tasks.errors import SourceError
from tasks.lake.duck import identifier, literal
from tasks.settings import CatalogueSettings
from tasks.sources.rows import (
    EXACT_BITS,
    LIST,
    NESTED,
    Field,
    Object,
    Table,
    filled,
    identified,
    in_json,
    in_text,
    needed,
    pointer,
)

BARS = "|"  # between categories in text, where the settings do not say otherwise


def item_rows(
    part: object,
    source: CatalogueSettings,
    columns: Mapping[str, str] | Object,
    *,
    reader: str,
    row_number: str,
    raw: str,
    broken: str = "NULL::VARCHAR",
    types: Mapping[str, str] | None = None,
    folders: Mapping[str, str | None] | None = None,
    blanks_between: Iterable[str] = (),
) -> str:
    """Write the SELECT of the view `source_rows` over what has the named columns of items.

    Parameters
    ----------
    part, source, columns, reader, row_number, raw, broken, types, folders
        As for `tasks.sources.rows.source_rows`.
    blanks_between
        Columns of which the format says that blanks separate their values.

    Raises
    ------
    SourceError
        There is no column of the item, or it or the title holds no single values.
    """
    record = columns if isinstance(columns, Object) else Table(columns, types)
    below = {
        name: Field("NULL::VARCHAR" if value is None else literal(value))
        for name, value in (folders or {}).items()
    }
    item, item_names = _single(part, record, columns, source.item_columns, "item", below)
    if item is None:
        assert not isinstance(columns, Object)
        needed(part, columns, source.item_columns, "source.item_columns")
        raise AssertionError("needed() has raised")
    title, title_names = _single(part, record, columns, source.title_columns, "title", below)
    lists = _categories(record, source, below, set(blanks_between))
    if (told := getattr(part, "columns", None)) is not None:
        names = {"item": item_names, "title": title_names, "category": list(lists)}
        told.update({role: " or ".join(found) for role, found in names.items() if found})
        if len(lists) > 1:
            told["category"] = " and ".join(lists)
    taken = {"the item": item.sql, "the title": title.sql if title else "NULL::VARCHAR"}
    taken |= {f"the category {n}": one.sql for n, one in enumerate(lists.values(), 1)}
    given = ", ".join(f"{sql} AS {identifier(name)}" for name, sql in taken.items())
    item_id, no_item = identified(Field('"the item"', item.type), "item", source)
    named = Field('"the title"', title.type if title else "VARCHAR")
    categories = [
        one.words(f'"the category {n}"', source) for n, one in enumerate(lists.values(), 1)
    ]
    values = {
        "row_number": row_number,
        "item_id": item_id,
        "title": filled(in_text(named), source),
        "categories": _different(categories),
        "attributes": _others(columns, types, source, {*item_names[:1], *title_names[:1], *lists}),
        "broken": broken,
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
                ELSE {raw}
            END AS raw
        FROM (SELECT *, {found} FROM (SELECT *, {given} FROM {reader}))
    """


def _single(
    part: object,
    record: Table | Object,
    columns: Mapping[str, str] | Object,
    wanted: tuple[str, ...],
    role: str,
    below: Mapping[str, Field],
) -> tuple[Field | None, list[str]]:
    """Return the value of a role that has one, and the names it is taken from.

    Of JSON each row has the first of these names that its object has.
    """
    found = {name: field for name in wanted if (field := record.field(name))}
    outside = [below[name] for name in wanted if name in below]
    if isinstance(columns, Object):
        given = [f"nullif({field.sql}::VARCHAR, 'null')" for field in found.values()]
        given += [f"to_json({field.sql})::VARCHAR" for field in outside[:1]]
        return Field(f"coalesce({', '.join([*given, 'NULL'])})::JSON", "JSON"), list(found)
    if not found:
        return (outside[0] if outside else None), []
    name, field = next(iter(found.items()))
    if field.type.endswith("]") or field.type.startswith(NESTED):
        raise SourceError(
            f"column {name} of {part} is no single value but {field.type[:100]}: name one in it in "
            f"source.{role}_columns, such as {name}.key"
        )
    return field, [name]


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
    record: Table | Object,
    source: CatalogueSettings,
    below: Mapping[str, Field],
    blanks_between: set[str],
) -> dict[str, _Category]:
    """Return every column of categories that is there, by its name."""
    found: dict[str, _Category] = {}
    for name in source.category_columns:
        separator = source.category_separator
        if separator == "auto" and name in blanks_between:
            separator = " "
        path = LIST.fullmatch(name)
        # An object has whatever is asked for; a table may have a column with brackets in its name.
        if (not path or isinstance(record, Table)) and (field := record.field(name)):
            # A list is one whatever the separator of texts.
            found[name] = _Category(field, separator, listed=field.type.endswith("]"))
        elif path and (field := record.field(path["list"])):
            key = pointer(path["rest"].split(".")) if path["rest"] else ""
            found[name] = _Category(field, separator, key, listed=isinstance(record, Table))
        elif name in below:
            found[name] = _Category(below[name], separator)
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


def _others(
    columns: Mapping[str, str] | Object,
    types: Mapping[str, str] | None,
    source: CatalogueSettings,
    used: set[str],
) -> str:
    """Write the columns that are neither item, title nor category as one JSON object."""
    if isinstance(columns, Object):
        return _other_keys(columns, source)
    pairs = []
    for name, column in columns.items():
        if name in used:
            continue
        kind = types[name] if types else "VARCHAR"
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
