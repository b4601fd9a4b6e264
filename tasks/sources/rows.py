"""The view `source_rows` over whatever has named columns: which one is the user, which the time.

A name in the settings is that of a column, or a path into one: `properties.product_id` is a key of
an object, `events[].aid` one of each element of a list, `history[ ]` each word of a text, and
`shown[ -].1` what stands before the first "-" in each word.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from tasks.errors import SourceError
from tasks.lake.duck import literal
from tasks.settings import ReadSettings, SourceSettings
from tasks.sources.units import END_OF_TIME, SMALLEST_TIME

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
KNOWN_ZONE = r"(Z| ?UTC| ?GMT| [A-Za-z_]+/[A-Za-z_/+-]+)"

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
            if found := self.field(name[: dot.start()]) if dot.start() else None:
                keys = name[dot.end() :].split(".")
                return Field(f"json_extract({in_json(found)}, {literal(pointer(keys))})", "JSON")
        return None


class Object:
    """A record that is a JSON object, with keys of its own."""

    def __init__(self, sql: str) -> None:
        self.sql = sql

    def field(self, name: str) -> Field:
        """Return the value of a key; of a key with dots in it first, else of the path."""
        pointers = dict.fromkeys((pointer([name]), pointer(name.split("."))))
        found = [f"json_extract({self.sql}, {literal(pointer)})" for pointer in pointers]
        return Field(f"coalesce({', '.join(found)})" if found[1:] else found[0], "JSON")


def source_rows(
    part: object,
    source: SourceSettings,
    columns: Mapping[str, str] | Object,
    *,
    reader: str,
    row_number: str,
    raw: str,
    broken: str = "NULL::VARCHAR",
    types: Mapping[str, str] | None = None,
    folders: Mapping[str, str | None] | None = None,
    unit_known: bool = True,
    ordered: bool = True,
) -> str:
    """Write the SELECT of the view `source_rows` over what has named columns.

    Parameters
    ----------
    part
        For messages.
    source
        Says which columns are wanted, the first that is there of each role.
    columns
        Expression of each column by the name that the part gives it, or a JSON object.
    reader
        What stands behind FROM, gives all that the expressions use.
    row_number, raw, broken
        Expressions of these columns of the view.
    types
        DuckDB type of each column, FLOAT16 for a float of two bytes; None: all are taken as text.
    folders
        Values of columns that stand in the path of the part, for roles that it has no column for.
    unit_known
        Whether the variable `unit` says by then in which unit numbers are times. If not, `raw` is
        null also where they are a time in some unit.
    ordered
        Whether the reader gives its rows in the same order each time: of lists, events are then
        numbered through.

    Raises
    ------
    SourceError
        There is no column of the user (or session), the item or the time, or it holds no single
        values.
    """
    record = columns if isinstance(columns, Object) else Table(columns, types)
    exploded = _Exploded(part, record, source)
    wanted = {
        role: _chosen_field(part, exploded, columns, role, source, folders or {}) for role in ROLES
    }
    if (told := getattr(part, "columns", None)) is not None:
        names = {role: exploded.names(role, source, folders or {}) for role in ROLES}
        told.update({role: " or ".join(found) for role, found in names.items() if found})
    if exploded.elements:
        reader = (
            '(SELECT *, row_number() OVER () AS "its number" FROM '
            '(SELECT *, unnest("its elements") AS "its element", '
            'generate_subscripts("its elements", 1) AS "its position" FROM '
            '(SELECT * REPLACE (CASE WHEN len("its elements") > 0 THEN "its elements" ELSE [NULL] '
            f'END AS "its elements") FROM (SELECT *, {exploded.elements} AS "its elements" '
            f"FROM {reader}))))"
        )
        row_number = '"its number"' if ordered else f'{row_number} + "its position"'
    # Each value is taken out of its row once, and only then looked at from all sides.
    given = {role: field for role, field in wanted.items() if field}
    taken = ", ".join(f'{field.sql} AS "the {role}"' for role, field in given.items())
    named = {role: Field(f'"the {role}"', field.type) for role, field in given.items()}
    user, no_user = identified(named.get("user"), "user", source)
    if "session" in named:
        session_id, _ = identified(named["session"], "session", source)
        user = f"coalesce({user}, {literal(SESSION)} || ({session_id}))"
    item, no_item = identified(named.get("item"), "item", source)
    kind, _ = identified(named.get("type"), "type", source)
    strength = "NULL::FLOAT"
    if weight := named.get("weight"):
        strength = f"TRY_CAST({in_text(weight)} AS FLOAT)"
    time = _time(named["time"], source)
    values = {
        "row_number": row_number,
        "user_id": user,
        "item_id": item,
        "event_type": f"coalesce({kind}, 'event')",
        "weight": strength,
        "has_time": time.given,
        "time_number": time.number,
        "time_stamp": time.stamp,
        "broken": broken,
        "unread": f"coalesce({no_user}, {no_item})",
        "unread_time": time.unread,
    }
    found = ", ".join(f'{value} AS "its {name}"' for name, value in values.items())
    # A date as text would have to be read for it, so it is only where it is read anyway.
    sound = []
    if time.numbers and unit_known:
        us = "\"its time_number\" * getvariable('us_per_unit')"
        sound.append(f"getvariable('unit') <> 'iso' AND {us} BETWEEN 1 AND {LAST_US}")
    elif time.numbers:
        smallest = SMALLEST_TIME["s"]
        sound.append(f'"its time_number" BETWEEN {smallest:.0f} AND {LAST_US}000')
    if not time.numbers or not unit_known:
        sound.append(f'epoch_us("its time_stamp") BETWEEN 1 AND {LAST_US}')
    return f"""
        SELECT
            "its row_number" AS row_number,
            -- To write it for each row takes as long as to read them.
            CASE
                WHEN "its broken" IS NULL AND "its user_id" IS NOT NULL
                    AND "its item_id" IS NOT NULL AND ({" OR ".join(sound)}) THEN NULL
                ELSE {raw}
            END AS raw,
            "its user_id" AS user_id,
            "its item_id" AS item_id,
            "its event_type" AS event_type,
            CASE WHEN isfinite("its weight") THEN "its weight" END AS weight,
            "its has_time" AS has_time,
            "its time_number" AS time_number,
            "its time_stamp" AS time_stamp,
            "its broken" AS broken,
            "its unread" AS unread,
            "its unread_time" AS unread_time
        FROM (SELECT *, {found} FROM (SELECT *, {taken} FROM {reader}))
    """


ROLES, NEEDED = SourceSettings.roles, SourceSettings.needed


class _Exploded:
    """A record of which one list may have been taken apart: a path with [] leads into it."""

    def __init__(self, part: object, record: Record, source: SourceSettings) -> None:
        self.part, self.record = part, record
        self.elements = self.list = ""
        for role in ROLES:
            for name in getattr(source, f"{role}_columns"):
                self._find(name)

    def _find(self, name: str) -> None:
        found = LIST.fullmatch(name)
        if not found or (isinstance(self.record, Table) and name in self.record.columns):
            return
        if not (field := self.record.field(found["list"])):
            return
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
        else:
            self.elements = f"json_extract({in_json(field)}, '$[*]')"

    def field(self, name: str) -> Field | None:
        """Return the column of this name, or what a path leads to."""
        found = LIST.fullmatch(name)
        if not found or f"{found['list']}[{found['signs']}]" != self.list:
            return self.record.field(name)
        signs, rest = found["signs"], found["rest"]
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

    def names(
        self, role: str, source: SourceSettings, folders: Mapping[str, str | None]
    ) -> list[str]:
        """Return the columns that a role is taken from; of JSON any of them, in this order."""
        wanted = getattr(source, f"{role}_columns")
        found = [name for name in wanted if self.field(name)]
        if isinstance(self.record, Object):
            return found
        return (found or [f"{name}=" for name in wanted if name in folders])[:1]


def _chosen_field(
    part: object,
    record: Record,
    columns: Mapping[str, str] | Object,
    role: str,
    source: SourceSettings,
    folders: Mapping[str, str | None],
) -> Field | None:
    """Return the first column that is there, of the part and else of its folders."""
    names = getattr(source, f"{role}_columns")
    below = [
        Field("NULL::VARCHAR" if folders[name] is None else literal(str(folders[name])))
        for name in names
        if name in folders
    ]
    found = [field for name in names if (field := record.field(name))]
    if isinstance(columns, Object):
        # Each line has keys of its own: the first of these that it has, whatever others have.
        given = [f"nullif({field.sql}::VARCHAR, 'null')" for field in found]
        given += [f"to_json({field.sql})::VARCHAR" for field in below[:1]]
        return Field(f"coalesce({', '.join([*given, 'NULL'])})::JSON", "JSON") if given else None
    if found or below:
        field = [*found, *below][0]
        if field.type.endswith("]") or field.type.startswith(NESTED):
            name = next(name for name in names if record.field(name) == field)
            raise SourceError(
                f"column {name} of {part} is no single value but {field.type[:100]}: name one in "
                f"it in source.{role}_columns, such as {name}.key, or {name}[] for each element"
            )
        return field
    if role in NEEDED and not (role == "user" and _chosen_session(record, source, folders)):
        needed(part, columns, names, f"source.{role}_columns")
    return None


def _chosen_session(
    record: Record, source: SourceSettings, folders: Mapping[str, str | None]
) -> bool:
    return any(record.field(name) or name in folders for name in source.session_columns)


def needed(part: object, columns: Iterable[str], wanted: tuple[str, ...], setting: str) -> str:
    """Return the first wanted column that is there; SourceError without one."""
    name = next((name for name in wanted if name in columns), None)
    if name is None:
        raise SourceError(
            f"{part} has no column {' or '.join(wanted)}; it has {', '.join(columns)}: "
            f"name the right one in {setting}"
        )
    return name


def chosen(part: object, columns: Iterable[str], source: SourceSettings) -> dict[str, str]:
    """Return which column is the user, item, time and, where there is one, type, weight, session.

    Raises SourceError when there is none of the first three; a session does for a user.
    """
    record = _Exploded(part, Table(dict.fromkeys(columns, "")), source)
    there = dict.fromkeys(columns)
    found = {}
    for role in ROLES:
        wanted = getattr(source, f"{role}_columns")
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


def _time(field: Field, source: SourceSettings) -> _Time:
    sql, kind = field
    zone = source.time_zone
    none, not_unread = "NULL::DOUBLE", "NULL::VARCHAR"
    if kind.startswith(("TIMESTAMP", "DATE")):
        # A cast would ask the calendar of the time zone, which takes longer than to read the file.
        us = f"epoch_ns({sql}) // 1000" if kind == "TIMESTAMPTZ_NS" else f"epoch_us({sql})"
        stamp = f"make_timestamptz({us})"
        zoned = kind.startswith(("TIMESTAMP WITH", "TIMESTAMPTZ"))
        if zone != "UTC" and kind.startswith("TIMESTAMP") and not zoned:
            stamp = f"timezone({literal(zone)}, make_timestamp(epoch_us({sql})))"
        return _Time(f"{sql} IS NOT NULL", none, stamp, not_unread, numbers=False)
    text = in_text(field)
    given = f"({filled(text, source)}) IS NOT NULL"
    if source.time_format:
        if kind in EXACT_BITS:
            text = _whole(sql, 53, text)
        stamp = _parsed(text, source.time_format, zone)
        return _Time(given, none, stamp, not_unread, numbers=False)
    number = f"TRY_CAST({text} AS DOUBLE)"
    if kind in EXACT_BITS or kind.endswith("INT") or kind in ("INTEGER", "UINTEGER"):
        return _Time(given, number, "NULL::TIMESTAMPTZ", not_unread, numbers=True)
    stamp = f"TRY_CAST({text} AS TIMESTAMPTZ)"
    if zone != "UTC":
        # Whatever stands behind the time: a cast to TIMESTAMP would leave it out, known or not.
        has_zone = r":[\d.]+([^\d.: ]| +\S)"
        stamp = (
            f"CASE WHEN regexp_matches({text}, {literal(has_zone)}) THEN {stamp} "
            f"ELSE timezone({literal(zone)}, TRY_CAST({text} AS TIMESTAMP)) END"
        )
    ends = f"({text} < ':' AND {text}[-1] BETWEEN '0' AND '9')"
    known = f"regexp_full_match({text}, {literal('.*[0-9]' + KNOWN_ZONE)})"
    stamp = f"CASE WHEN {ends} OR {known} THEN {stamp} END"
    guess = rf"regexp_extract({text}, '\d\d:\d\d.*\d ?\(?([A-Za-z]{{2,5}})\)?$', 1)"
    unread = (
        f"CASE WHEN {ends} OR {known} THEN NULL WHEN {guess} <> '' THEN 'the zone ' || {guess} || "
        "' of the time has several meanings: write an offset such as +01:00' END"
    )
    return _Time(given, number, stamp, unread, numbers=True)


def _parsed(text: str, pattern: str, zone: str) -> str:
    """Write a text of a format of its own as a moment."""
    form = literal(pattern)
    stamp = f"TRY_STRPTIME({text}, {form})"
    if DIGITS.search(pattern):
        stamp = f"CASE WHEN strftime({stamp}, {form}) = {text} THEN {stamp} END"
    return stamp if "%z" in pattern else f"timezone({literal(zone)}, {stamp})"


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
