"""The view `source_rows` over whatever has named columns: which one is the user, which the time.

A name in the settings is that of a column, or a path into one: `properties.product_id` is a key of
an object, `events[].aid` one of each element of a list, `history[ ]` each word of a text, and
`shown[ -].1` what stands before the first "-" in each word.
"""

import dataclasses
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import duckdb

from tasks.errors import SourceError
from tasks.lake.duck import literal
from tasks.settings import ReadSettings, SourceSettings
from tasks.sources.units import END_OF_TIME, SMALLEST_TIME

NS = int(SMALLEST_TIME["ns"])  # from here on whole numbers are nanoseconds
LAST_US = int(END_OF_TIME.timestamp()) * 1_000_000 - 1

SESSION = "session:"  # before the id of a session that stands for a user

# What Unicode has as space, and what has no width: a value of these alone is blank.
BLANK = r"[\s\p{Z}\x{85}\x{180e}\x{200b}-\x{200d}\x{2060}\x{feff}]*"
# Up to so many bits each whole number has a float of its own. DuckDB reads FLOAT16 as FLOAT.
EXACT_BITS = {"FLOAT16": 11, "FLOAT": 24, "DOUBLE": 53}
NESTED = ("STRUCT", "MAP", "UNION", "VARIANT")
# Formats whose numbers follow each other: each must then have all its digits.
DIGITS = re.compile(r"%[YmdHMS]%[mdHMSy]")
# What a text may end with besides a digit to be taken as it says: any other zone is a guess.
KNOWN_ZONE = r"(?i)(Z| ?UTC| ?GMT| [A-Z_]+/[A-Z_/+-]+)"
NO_WEIGHT = "the weight is no finite number such as 3.5 (source.weight_columns)"

LIST = re.compile(r"(?P<list>.+?)\[(?P<signs>[^\]]{0,2})\](?:\.(?P<rest>.+))?")


class Field(NamedTuple):
    """A value of a row: its expression, and its DuckDB type, "JSON" or "FLOAT16"."""

    sql: str
    type: str = "VARCHAR"


class Record(Protocol):
    """What a row is made of."""

    def field(self, name: str) -> Field | None:
        """Return the column of this name, or what a path leads to; None without its column."""
        ...


class Table:
    """A record of named columns, all of them known."""

    def __init__(self, columns: Mapping[str, str], types: Mapping[str, str] | None = None) -> None:
        self.columns, self.types = columns, types

    def field(self, name: str) -> Field | None:
        """Return the column of this name, or what a path leads to in one."""
        if name in self.columns:
            column = self.columns[name]
            return (
                Field(column, self.types[name])
                if self.types
                else Field(f"CAST({column} AS VARCHAR)")
            )
        for dot in re.finditer(r"\.", name):
            if (column := name[: dot.start()]) in self.columns:
                found = _within(self.field(column), name[dot.end() :].split("."))
                kind = (self.types or {}).get(name)
                return found._replace(type=kind) if found and kind else found
        return None


def _within(value: Field | None, keys: list[str]) -> Field | None:
    """Return what a path of keys leads to in a value; None in a struct without such a key."""
    if value is None or not keys:
        return value
    if value.type.startswith(("STRUCT(", "MAP(")) and not value.type.endswith("]"):
        # As JSON a value would lose its type, and with it what tells whether it can be an id.
        types = dict(duckdb.sqltype(value.type).children)
        key = literal(keys[0])
        if value.type.startswith("STRUCT("):
            if keys[0] not in types:
                return None
            inner = Field(f"struct_extract({value.sql}, {key})", str(types[keys[0]]))
            return _within(inner, keys[1:])
        if str(types["key"]) == "VARCHAR":
            inner = Field(f"map_extract_value({value.sql}, {key})", str(types["value"]))
            return _within(inner, keys[1:])
    return Field(f"json_extract({in_json(value)}, {literal(pointer(keys))})", "JSON")


class Object:
    """A record that is a JSON object, with keys of its own."""

    def __init__(self, sql: str) -> None:
        self.sql = sql

    def field(self, name: str) -> Field:
        """Return the value of a key; of a key with dots in it first, else of the path."""
        pointers = dict.fromkeys((pointer([name]), pointer(name.split("."))))
        found = [f"json_extract({self.sql}, {literal(pointer)})" for pointer in pointers]
        return Field(f"coalesce({', '.join(found)})" if found[1:] else found[0], "JSON")

    def twice(self, names: Iterable[str]) -> str:
        """Write that one of the keys on the way to these names is there twice, else null."""
        wanted: dict[str, set[str]] = {}
        for name in names:
            keys = name.split(".")
            for n, key in enumerate(keys):
                wanted.setdefault(pointer(keys[:n]), set()).add(key)
            wanted[""].add(name)
        # To look at the keys takes longer than to find that none is there twice at all.
        signs = sorted(re.escape(json.dumps(key)) for keys in wanted.values() for key in keys)
        maybe = "|".join([*(f"{sign}.*{sign}" for sign in signs), r"\\u"])  # or an escape is one
        cases = []
        for parent, among in wanted.items():
            listed = ", ".join(map(literal, sorted(among)))
            there = f"json_keys({self.sql}{f', {literal(parent)}' if parent else ''})"
            found = f"list_filter({there}, lambda key: key IN ({listed}))"
            count = f"len(list_filter({found}, lambda one: one = key))"
            twice = f"list_filter({found}, lambda key: {count} > 1)"
            cases.append(f"'the object has two keys ' || ({twice})[1]")
        return (
            f"CASE WHEN regexp_matches({self.sql}::VARCHAR, {literal(f'(?s){maybe}')}) "
            f"THEN coalesce({', '.join(cases)}) END"
        )


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a part, as they can be looked at by SQL.

    columns: expression of each column by the name that the part gives it, or a JSON object.
    reader: what stands behind FROM, gives all that the expressions use.
    row_number, raw, broken: expressions of these columns of the view `source_rows`.
    types: DuckDB type of each column, FLOAT16 for a float of two bytes; None: all are texts.
    folders: values of columns that stand in the path of the part, for roles that it has no column
        for.
    ordered: whether the reader gives its rows in the same order each time: of lists, events are
        then numbered through.
    blanks_between: columns of which the format says that blanks separate their values.
    """

    columns: Mapping[str, str] | Object
    reader: str
    row_number: str
    raw: str
    broken: str = "NULL::VARCHAR"
    types: Mapping[str, str] | None = None
    folders: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    ordered: bool = True
    blanks_between: Collection[str] = ()

    @property
    def record(self) -> Table | Object:
        """What a row is made of."""
        if isinstance(self.columns, Object):
            return self.columns
        return Table(self.columns, self.types)


def source_rows(part: object, source: SourceSettings, rows: Rows) -> str:
    """Write the SELECT of the view `source_rows` over the events that rows are.

    Parameters
    ----------
    part
        For messages. Where it has `columns`, it is told there which ones each role is taken from.
    source
        Says which columns are wanted, the first that is there of each role.

    Raises
    ------
    SourceError
        There is no column of the user (or session), the item or the time, or it holds no single
        values.
    """
    exploded = _Exploded(part, rows.record, source)
    wanted = {role: chosen_field(part, exploded, rows, role, source) for role in ROLES}
    tell_columns(part, {role: exploded.names(role, source, rows.folders) for role in ROLES})
    reader, row_number = rows.reader, rows.row_number
    if exploded.elements:
        reader = (
            '(SELECT *, row_number() OVER () AS "its number" FROM '
            '(SELECT *, unnest("its elements") AS "its element", '
            'generate_subscripts("its elements", 1) AS "its position" FROM '
            '(SELECT * REPLACE (CASE WHEN len("its elements") > 0 THEN "its elements" ELSE [NULL] '
            f'END AS "its elements") FROM (SELECT *, {exploded.elements} AS "its elements" '
            f"FROM {reader}))))"
        )
        row_number = '"its number"' if rows.ordered else f'{row_number} + "its position"'
    # Each value is taken out of its row once, and only then looked at from all sides.
    given = {role: field for role, field in wanted.items() if field}
    taken = ", ".join(f'{field.sql} AS "the {role}"' for role, field in given.items())
    named = {role: Field(f'"the {role}"', field.type) for role, field in given.items()}
    user, no_user = identified(named.get("user"), "user", source)
    item, no_item = identified(named.get("item"), "item", source)
    kind, no_kind = identified(named.get("type"), "type", source)
    unread = [*exploded.twice(source), no_user, no_item, no_kind]
    if "session" in named:
        session_id, no_session = identified(named["session"], "session", source)
        unread.append(f"CASE WHEN {user} IS NULL THEN {no_session} END")
        user = f"coalesce({user}, {literal(SESSION)} || ({session_id}))"
    weight, no_weight = _weight(named.get("weight"), source)
    if named["time"].type in ("FLOAT", "FLOAT16"):
        refuse_short_floats(part)
    time = _time(named["time"], source)
    values = {
        "row_number": row_number,
        "user_id": user,
        "item_id": item,
        "event_type": f"coalesce({kind}, 'event')",
        "weight": weight,
        "has_time": time.given,
        "time_number": time.number,
        "time_stamp": time.stamp,
        "broken": rows.broken,
        "unread": f"coalesce({', '.join(unread)})",
        "unread_time": time.unread,
    }
    found = ", ".join(f'{value} AS "its {name}"' for name, value in values.items())
    plain = has_plain_time('"its time_number"', '"its time_stamp"')
    no_value = f'coalesce("its unread", {no_weight})'
    return f"""
        SELECT
            "its row_number" AS row_number,
            -- To write it for each row takes as long as to read them.
            CASE
                WHEN "its broken" IS NULL AND "its has_time" AND "its user_id" IS NOT NULL
                    AND "its item_id" IS NOT NULL AND {no_value} IS NULL
                    AND ({plain}) THEN NULL
                ELSE {rows.raw}
            END AS raw,
            "its user_id" AS user_id,
            "its item_id" AS item_id,
            "its event_type" AS event_type,
            CASE WHEN isfinite("its weight") THEN "its weight" END AS weight,
            "its has_time" AS has_time,
            {time.rounded_down} AS time_number,
            "its time_stamp" AS time_stamp,
            "its broken" AS broken,
            {no_value} AS unread,
            "its unread_time" AS unread_time
        FROM (SELECT *, {found} FROM (SELECT *, {taken} FROM {reader}))
    """


def has_plain_time(number: str, stamp: str) -> str:
    """Write whether a time is like those that are taken, by the variables of `PlainTimes`."""
    return (
        f"({number} >= getvariable('plain_from') AND {number} < getvariable('plain_to') "
        f"AND NOT coalesce({number} >= getvariable('first_date') "
        f"AND {number} < getvariable('last_date'), false)) "
        f"OR (getvariable('plain_stamps') AND epoch_us({stamp}) BETWEEN 1 AND {LAST_US})"
    )


ROLES, NEEDED = SourceSettings.roles, SourceSettings.needed


class _Exploded:
    """A record of which one list may have been taken apart: a path with [] leads into it."""

    def __init__(self, part: object, record: Record, source: SourceSettings) -> None:
        self.part, self.record = part, record
        self.elements = self.list = self.type = ""  # of the elements
        for role in ROLES:
            for name in columns_of(source, role):
                self._find(name)

    def _find(self, name: str) -> None:
        found = LIST.fullmatch(name)
        if not found or (isinstance(self.record, Table) and name in self.record.columns):
            return
        if not (field := self.record.field(found["list"])):
            return
        if found["signs"].isdigit() or "[" in (found["rest"] or ""):
            raise SourceError(
                f"a column in the settings is {name}, which cannot be read of {self.part}: one "
                "list is taken apart, and each element of it, as in events[].item_id, is a row"
            )
        named = f"{found['list']}[{found['signs']}]"
        if self.list and named != self.list:
            raise SourceError(
                f"{self.part} can be taken apart by one list only, but the columns in the settings "
                f"name {self.list} and {named}: leave one out"
            )
        self.list = named
        if signs := found["signs"]:
            text = in_text(field)
            split = (
                rf"regexp_split_to_array(trim({text}), '\s+')"
                if signs[0] == " "
                else f"string_split({text}, {literal(signs[0])})"
            )
            self.elements = f"list_filter({split}, lambda word: trim(word) <> '')"
        elif field.type.endswith("]"):
            self.type = re.sub(r"\[\d*\]$", "", field.type)
            self.elements = f"({field.sql})::{self.type}[]"
        else:
            self.elements = f"json_extract({in_json(field)}, '$[*]')"

    def field(self, name: str) -> Field | None:
        """Return the column of this name, or what a path leads to."""
        found = LIST.fullmatch(name)
        if not found or f"{found['list']}[{found['signs']}]" != self.list:
            return self.record.field(name)
        signs, rest = found["signs"], found["rest"]
        if not signs and self.type:
            return _within(Field('"its element"', self.type), rest.split(".") if rest else [])
        if not signs:
            return Object('"its element"').field(rest) if rest else Field('"its element"', "JSON")
        if rest is None:
            return Field('"its element"')
        if len(signs) < 2 or not rest.isdigit():
            raise SourceError(
                f"a column in the settings is {name}: of each word a part is named by a second "
                "sign and its number, such as shown[ -].1"
            )
        return Field(f'string_split("its element", {literal(signs[1])})[{int(rest)}]')

    def twice(self, source: SourceSettings) -> list[str]:
        """Write for each object that a row is made of that a key of it is there twice."""
        if not isinstance(self.record, Object):
            return []
        names = [name for role in ROLES for name in columns_of(source, role)]
        lists = [LIST.fullmatch(name) for name in names]
        outer = [found["list"] if found else name for name, found in zip(names, lists, strict=True)]
        inner = [found["rest"] for found in lists if found and found["rest"] and not found["signs"]]
        objects = [self.record.twice(dict.fromkeys(outer))]
        if inner and self.elements:
            objects.append(Object('"its element"').twice(dict.fromkeys(inner)))
        return objects

    def names(
        self, role: str, source: SourceSettings, folders: Mapping[str, str | None]
    ) -> list[str]:
        """Return the columns that a role is taken from; of JSON any of them, in this order."""
        wanted = columns_of(source, role)
        found = [name for name in wanted if self.field(name)]
        if isinstance(self.record, Object):
            return found
        return (found or [f"{name}=" for name in wanted if name in folders])[:1]


def chosen_field(
    part: object, record: Record, rows: Rows, role: str, source: ReadSettings
) -> Field | None:
    """Return the first column of a role that is there, of the part and else of its folders.

    record: what the columns are looked for in: that of the rows, or what is made of it.

    Raises SourceError when it holds no single values, or a needed role has none.
    """
    names, folders = columns_of(source, role), rows.folders
    below = [in_folder(folders[name]) for name in names if name in folders]
    found = [field for name in names if (field := record.field(name))]
    if isinstance(rows.columns, Object):
        # Each line has keys of its own: the first of these that it has, whatever others have.
        given = [f"nullif({field.sql}::VARCHAR, 'null')" for field in found]
        given += [f"to_json({field.sql})::VARCHAR" for field in below[:1]]
        return Field(f"coalesce({', '.join([*given, 'NULL'])})::JSON", "JSON") if given else None
    if found or below:
        field = [*found, *below][0]
        if field.type.endswith("]") or field.type.startswith(NESTED):
            name = next(name for name in names if record.field(name) == field)
            each = f", or {name}[] for each element" if isinstance(record, _Exploded) else ""
            raise SourceError(
                f"column {name} of {part} is no single value but {field.type[:100]}: name one in "
                f"it in source.{role}_columns, such as {name}.key{each}"
            )
        return field
    if role in source.needed and not (role == "user" and _chosen_session(record, source, folders)):
        needed(part, rows.columns, names, f"source.{role}_columns")
    return None


def in_folder(value: str | None) -> Field:
    """Return the value of a column that stands in the path of a part."""
    return Field("NULL::VARCHAR" if value is None else literal(value))


def tell_columns(part: object, names: Mapping[str, Sequence[str]]) -> None:
    """Let a part that wants to know have the columns that each role is taken from."""
    if (told := getattr(part, "columns", None)) is not None:
        told.update({role: tuple(found) for role, found in names.items() if found})


def _chosen_session(
    record: Record, source: ReadSettings, folders: Mapping[str, str | None]
) -> bool:
    return any(record.field(name) or name in folders for name in columns_of(source, "session"))


def needed(part: object, columns: Iterable[str], wanted: tuple[str, ...], setting: str) -> str:
    """Return the first wanted column that is there; SourceError without one."""
    name = next((name for name in wanted if name in columns), None)
    if name is None:
        there = ", ".join(name or '""' for name in columns)
        missing = f"no column {' or '.join(wanted)}; it has" if wanted else "the columns"
        raise SourceError(f"{part} has {missing} {there}: name the right one in {setting}")
    return name


def chosen(part: object, columns: Iterable[str], source: SourceSettings) -> dict[str, str]:
    """Return which column is the user, item, time and, where there is one, type, weight, session.

    Raises SourceError when there is none of the first three; a session does for a user.
    """
    record = _Exploded(part, Table(dict.fromkeys(columns, "")), source)
    there = dict.fromkeys(columns)
    found = {}
    for role in ROLES:
        wanted = columns_of(source, role)
        found[role] = next((name for name in wanted if record.field(name)), None)
        if role in NEEDED and found[role] is None:
            if role == "user" and _chosen_session(record, source, {}):
                continue
            needed(part, there, wanted, f"source.{role}_columns")
    return {role: name for role, name in found.items() if name is not None}


def columns_of(source: ReadSettings, role: str) -> tuple[str, ...]:
    """Return the names of columns that the settings give for a role."""
    names: tuple[str, ...] = getattr(source, f"{role}_columns")
    return names


def column_of(columns: Iterable[str], name: str) -> str:
    """Return the column that a name is, or leads into."""
    return next(
        column
        for column in sorted(columns, key=len, reverse=True)
        if name == column or name.startswith((f"{column}.", f"{column}["))
    )


def identified(field: Field | None, role: str, source: ReadSettings) -> tuple[str, str]:
    """Write a value as an id, null when it is none; and why it cannot be one, else null.

    A whole number is the same id however it is stored: 123 is 123.0.
    """
    if field is None:
        return "NULL::VARCHAR", "NULL"
    sql, kind = field
    if kind == "JSON":
        text, number = f"({sql} ->> '$')", f"TRY_CAST({sql} ->> '$' AS DOUBLE)"
        is_nested = f"json_type({sql}) IN ('OBJECT', 'ARRAY')"
        is_number = f"json_type({sql}) = 'DOUBLE'"
        whole = _whole(number, 53, text)
        return (
            f"CASE WHEN {sql} IS NULL OR {is_nested} THEN NULL WHEN {is_number} THEN {whole} "
            f"ELSE {filled(text, source)} END",
            f"CASE WHEN {is_nested} THEN 'the {role} is an object or a list' "
            f"WHEN {is_number} AND {_inexact(number, 53)} THEN {_too_large(role)} END",
        )
    if bits := EXACT_BITS.get(kind):
        return (
            _whole(sql, bits, f"{sql}::VARCHAR"),
            f"CASE WHEN {_inexact(sql, bits)} THEN {_too_large(role)} END",
        )
    if kind.startswith("DECIMAL"):
        return rf"regexp_replace({sql}::VARCHAR, '\.0*$', '')", "NULL"
    if kind == "BLOB":
        return (
            filled(in_text(field), source),
            f"CASE WHEN {sql} IS NOT NULL AND {in_text(field)} IS NULL "
            f"THEN 'the {role} is bytes that are no text in UTF-8' END",
        )
    if kind.endswith("INT") or kind in ("INTEGER", "UINTEGER", "UUID"):
        return f"{sql}::VARCHAR", "NULL"
    return filled(in_text(field), source), "NULL"


def _weight(field: Field | None, source: SourceSettings) -> tuple[str, str]:
    """Write a value as a weight; and, by the column "its weight", why it cannot be one."""
    if field is None:
        return "NULL::FLOAT", "NULL"
    sql, kind = field
    if _is_number(kind):
        given = _given(sql, kind, source)
        number = f"CASE WHEN {given} THEN {sql} END"
    else:
        number = in_text(field)
        given = f"({filled(number, source)}) IS NOT NULL"
    return (
        f"TRY_CAST({number} AS FLOAT)",
        f'CASE WHEN isfinite("its weight") THEN NULL WHEN {given} THEN {literal(NO_WEIGHT)} END',
    )


def _given(number: str, kind: str, source: ReadSettings) -> str:
    """Write whether there is a number. NaN, and numbers of `source.null_values`, stand for none."""
    given = [f"{number} IS NOT NULL"]
    if kind in EXACT_BITS:
        given.append(f"NOT isnan({number})")
    if none := [value for value in source.null_values if re.fullmatch(r"-?\d+(\.\d+)?", value)]:
        given.append(f"{number} NOT IN ({', '.join(none)})")
    return " AND ".join(given)


def _is_number(kind: str) -> bool:
    return kind in (*EXACT_BITS, "INTEGER", "UINTEGER") or bool(
        re.fullmatch(r"U?[A-Z]*INT|DECIMAL\(.*\)", kind)
    )


def _whole(number: str, bits: int, text: str) -> str:
    """Write a float as an id: without a fraction as the whole number, as long as it is exact."""
    return (
        f"CASE WHEN NOT isfinite({number}) OR abs({number}) >= {2**bits} THEN NULL "
        f"WHEN {number} = trunc({number}) THEN {number}::BIGINT::VARCHAR ELSE {text} END"
    )


def _inexact(number: str, bits: int) -> str:
    # This number itself too: the whole number after it is stored as the same float.
    return f"isfinite({number}) AND abs({number}) >= {2**bits}"


def _too_large(role: str) -> str:
    return literal(f"the {role} is a float too large to be exact")


def in_text(field: Field) -> str:
    """Write a value as text."""
    if field.type == "JSON":
        return f"({field.sql} ->> '$')"
    if field.type == "BLOB":
        return f"TRY(decode({field.sql}))"
    return field.sql if field.type == "VARCHAR" else f"({field.sql}::VARCHAR)"


def in_json(field: Field) -> str:
    """Write a value as JSON; null when it is a text that is none."""
    if field.type == "JSON":
        return field.sql
    if field.type != "VARCHAR":
        return f"to_json({field.sql})"
    return f"CASE WHEN json_valid({field.sql}) THEN {field.sql}::JSON END"


def filled(text: str, source: ReadSettings) -> str:
    """Null for a value that is blank, or one of `source.null_values`."""
    # One pattern: DuckDB makes a join of a list of texts, for every row.
    nulls = ("".join(f"\\x{{{ord(sign):x}}}" for sign in value) for value in source.null_values)
    none = f"regexp_full_match({text}, {literal('|'.join([BLANK, *nulls]))})"
    # To look closer takes longer than to read them; few are so short or begin with a blank.
    longest = max((len(value.encode()) for value in source.null_values), default=0)
    plain = f"{text} > '!' AND {text} < '~' AND strlen({text}) > {longest}"
    return f"CASE WHEN {plain} THEN {text} WHEN NOT {none} THEN {text} END"


class _Time(NamedTuple):
    """A time in SQL: whether there is one, it as a number, as a moment, if neither why."""

    given: str
    number: str
    stamp: str
    unread: str
    numbers: bool  # whether it may be a number
    whole: str = ""  # the number without a fraction, if it is exact only so

    @property
    def rounded_down(self) -> str:
        """The column "its time_number", nanoseconds to microseconds.

        As floats they would be rounded, and the last ones of a day into the next.
        """
        number = '"its time_number"'
        if not self.whole:
            return number
        us = f"coalesce(({self.whole} // 1000 * 1000)::DOUBLE, {number})"
        return f"CASE WHEN {number} >= {NS} THEN {us} ELSE {number} END"


def _time(field: Field, source: SourceSettings) -> _Time:
    sql, kind = field
    zone = source.time_zone
    none, not_unread = "NULL::DOUBLE", "NULL::VARCHAR"
    if kind.startswith(("TIMESTAMP", "DATE")):
        # A cast would ask the calendar of the time zone, which takes longer than to read the file.
        if kind == "DATE":
            sql = f"{sql}::TIMESTAMP"
        # epoch_us would round nanoseconds, and the last ones of a day into the next.
        us = f"epoch_ns({sql}) // 1000" if kind.endswith("_NS") else f"epoch_us({sql})"
        stamp = f"make_timestamptz({us})"
        zoned = kind.startswith(("TIMESTAMP WITH", "TIMESTAMPTZ"))
        if zone != "UTC" and not zoned:
            stamp = f"timezone({literal(zone)}, make_timestamp({us}))"
        return _Time(f"{sql} IS NOT NULL", none, stamp, not_unread, False)
    text = in_text(field)
    given = f"({filled(text, source)}) IS NOT NULL"
    if source.time_format:
        if kind in EXACT_BITS:
            text = _whole(sql, 53, text)
        stamp = _parsed(text, source.time_format, zone)
        return _Time(given, none, stamp, not_unread, False)
    if _is_number(kind) and not kind.startswith("DECIMAL"):
        number, whole = f"{sql}::DOUBLE", "" if kind in EXACT_BITS else sql
        given = _given(sql, kind, source)
        if kind in EXACT_BITS:
            # The statistics of a Parquet file say nothing of NaN, and DuckDB compares by them.
            number = f"CASE WHEN NOT isnan({sql}) THEN {number} END"
        return _Time(given, number, "NULL::TIMESTAMPTZ", not_unread, True, whole)
    number = f"TRY_CAST({text} AS DOUBLE)"
    digits = rf"regexp_extract({text}, '^\s*\+?(\d{{18,20}})(\.\d*)?\s*$', 1)"
    stamp = f"TRY_CAST({text} AS TIMESTAMPTZ)"
    if zone != "UTC":
        # Whatever stands behind the time: a cast to TIMESTAMP would leave it out, known or not.
        has_zone = r":[\d.]+([^\d.: ]| +\S)"
        stamp = (
            f"CASE WHEN regexp_matches({text}, {literal(has_zone)}) THEN {stamp} "
            f"ELSE timezone({literal(zone)}, TRY_CAST({text} AS TIMESTAMP)) END"
        )
    ends = f"({text} < ':' AND {text}[-1] BETWEEN '0' AND '9')"
    # DuckDB takes any hours for an offset. A text without one is shorter.
    far = rf"(strlen({text}) > 19 AND regexp_matches({text}, '[+-](1[5-9]|[2-9]\d)(:?\d\d)*$'))"
    ends = f"({ends} AND NOT {far})"
    known = f"regexp_full_match({text}, {literal('.*[0-9]' + KNOWN_ZONE)})"
    stamp = f"CASE WHEN {ends} OR {known} THEN {stamp} END"
    guess = rf"regexp_extract({text}, '\d\d:\d\d.*\d ?\(?([A-Za-z]{{2,5}})\)?$', 1)"
    unread = (
        f"CASE WHEN {ends} OR {known} THEN NULL WHEN upper({guess}) IN ('AM', 'PM') THEN "
        "'the time has AM or PM: set source.time_unit to its format, which may be "
        '"%m/%d/%Y %I:%M %p"\' '
        f"WHEN {guess} <> '' THEN 'the zone ' || {guess} || "
        "' of the time has several meanings: write an offset such as +01:00' END"
    )
    return _Time(given, number, stamp, unread, True, f"TRY_CAST({digits} AS HUGEINT)")


def _parsed(text: str, pattern: str, zone: str) -> str:
    """Write a text of a format of its own as a moment."""
    form = literal(pattern)
    stamp = f"TRY_STRPTIME({text}, {form})"
    if DIGITS.search(pattern):
        stamp = f"CASE WHEN strftime({stamp}, {form}) = {text} THEN {stamp} END"
    return stamp if "%z" in pattern else f"timezone({literal(zone)}, {stamp})"


def refuse_names_twice(part: object, names: Sequence[str]) -> None:
    """Raise SourceError for two columns of one name; columns without one are never asked for."""
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise SourceError(f"{part} has two columns named {twice}: rename one of them")


def refuse_short_floats(part: object) -> None:
    """Raise SourceError for times that are floats of 32 bits or fewer."""
    raise SourceError(
        f"the times of {part} are floats of 32 bits or fewer, which hold seconds since 1970 only "
        "to some two minutes: deliver them as whole numbers, floats of 64 bits or timestamps, or "
        "name another column in source.time_columns"
    )


def by_position(reader: str, names: Sequence[str], *more: str) -> tuple[str, dict[str, str]]:
    """Name the columns of a reader by their position, whatever the part calls them.

    A name of the part may differ from another in capitals only, or be one that a SELECT here uses.

    Parameters
    ----------
    names
        Of the columns, in their order.
    more
        Names of what the reader gives behind these.

    Returns
    -------
    The reader with its columns named, and the expression of each column by the name of the part.
    """
    columns = {name: f"c{n}" for n, name in enumerate(names)}
    return f"{reader} AS part ({', '.join([*columns.values(), *more])})", columns


def numbered_by_content(columns: list[str]) -> str:
    """Write the expression of a `row_number` that a row's own values give: 40 bits of a hash.

    For rows without an order of their own. Two rows may share a number: it only breaks ties.
    """
    return f"(md5_number_upper(json_array({', '.join(columns)})::VARCHAR) >> 24)::BIGINT"


def as_json(columns: Mapping[str, str]) -> str:
    """Write the expression of a row's columns as one JSON object, for `raw`."""
    pairs = (f"{literal(name)}, {column}::VARCHAR" for name, column in columns.items())
    return f"json_object({', '.join(pairs)})::VARCHAR"


def pointer(keys: Iterable[str]) -> str:
    """Return the JSON pointer of a path of keys."""
    return "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in keys)
