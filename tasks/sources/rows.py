"""The view `source_rows` over whatever has named columns: which one is the user, which the time."""

from collections.abc import Iterable

from tasks.errors import SourceError
from tasks.lake.duck import literal
from tasks.settings import SourceSettings
from tasks.sources.units import END_OF_TIME

LAST_US = int(END_OF_TIME.timestamp()) * 1_000_000 - 1

SESSION = "session:"  # before the id of a session that stands for a user


def source_rows(
    part: object,
    source: SourceSettings,
    columns: dict[str, str],
    *,
    reader: str,
    row_number: str,
    raw: str,
    broken: str = "NULL::VARCHAR",
    types: dict[str, str] | None = None,
) -> str:
    """Write the SELECT of the view `source_rows` over what has named columns.

    Parameters
    ----------
    part
        For messages.
    source
        Says which columns are wanted, the first that is there of each role.
    columns
        Expression of each column by the name that the part gives it.
    reader
        What stands behind FROM, gives all that the expressions use.
    row_number, raw, broken
        Expressions of these columns of the view.
    types
        DuckDB type of each column; None: all are text.

    Raises
    ------
    SourceError
        There is no column of the user (or session), the item or the time.
    """
    wanted = chosen(part, columns, source)
    item, time = wanted["item"], wanted["time"]
    kind, weight = wanted.get("type"), wanted.get("weight")
    time_type = types[time] if types else "VARCHAR"
    moment = columns[time]
    if time_type.startswith(("TIMESTAMP", "DATE")):
        # A cast would ask the calendar of the time zone, which takes longer than to read the file.
        number, stamp = "NULL::DOUBLE", f"make_timestamptz(epoch_us({moment}))"
        has_time = f"{moment} IS NOT NULL"
        us = f"epoch_us({moment})"
    else:
        number, stamp = (
            f"TRY_CAST({moment} AS DOUBLE)",
            f"TRY_CAST({moment}::VARCHAR AS TIMESTAMPTZ)",
        )
        has_time = f"{_filled(moment)} IS NOT NULL"
        # A date as text would have to be read for it.
        us = (
            f"CASE WHEN getvariable('unit') <> 'iso' THEN {number} * getvariable('us_per_unit') END"
        )
    strength = f"TRY_CAST({columns[weight]} AS FLOAT)" if weight else "NULL::FLOAT"
    user_id = _filled(columns[wanted["user"]]) if "user" in wanted else "NULL"
    if session := wanted.get("session"):
        user_id = f"coalesce({user_id}, {literal(SESSION)} || ({_filled(columns[session])}))"
    item_id = _filled(columns[item])
    sound = f"{broken} IS NULL AND {user_id} IS NOT NULL AND {item_id} IS NOT NULL"
    sound += f" AND {us} BETWEEN 0 AND {LAST_US}"
    return f"""
        SELECT
            {row_number} AS row_number,
            -- To write it for each row takes as long as to read them.
            CASE WHEN {sound} THEN NULL ELSE {raw} END AS raw,
            {user_id} AS user_id,
            {item_id} AS item_id,
            {f"coalesce({_filled(columns[kind])}, 'event')" if kind else "'event'"} AS event_type,
            CASE WHEN isfinite({strength}) THEN {strength} END AS weight,
            {has_time} AS has_time,
            {number} AS time_number,
            {stamp} AS time_stamp,
            {broken} AS broken
        FROM {reader}
    """


def needed(part: object, columns: dict[str, str], wanted: tuple[str, ...], setting: str) -> str:
    """Return the first wanted column that is there; SourceError without one."""
    name = _first_of(columns, wanted)
    if name is None:
        raise SourceError(
            f"{part} has no column {' or '.join(wanted)}; it has {', '.join(columns)}: "
            f"name the right one in {setting}"
        )
    return name


def _first_of(columns: dict[str, str], wanted: tuple[str, ...]) -> str | None:
    return next((name for name in wanted if name in columns), None)


def _filled(expression: str) -> str:
    """Null for a value that is blank."""
    text = f"{expression}::VARCHAR"
    # Few begin with a blank, and to trim the others takes longer than to read them.
    filled = f"CASE WHEN {text} <> '' AND NOT starts_with({text}, ' ') THEN {text}"
    return f"{filled} WHEN trim({text}) <> '' THEN {text} END"


def chosen(part: object, columns: Iterable[str], source: SourceSettings) -> dict[str, str]:
    """Return which column is the user, item, time and, where there is one, type, weight, session.

    Raises SourceError when there is none of the first three; a session does for a user.
    """
    names = dict.fromkeys(columns, "")
    session = _first_of(names, source.session_columns)
    user = _first_of(names, source.user_columns)
    if not session:
        user = needed(part, names, source.user_columns, "source.user_columns")
    found = {
        "user": user,
        "item": needed(part, names, source.item_columns, "source.item_columns"),
        "time": needed(part, names, source.time_columns, "source.time_columns"),
        "type": _first_of(names, source.type_columns),
        "weight": _first_of(names, source.weight_columns),
        "session": session,
    }
    return {role: name for role, name in found.items() if name is not None}


def numbered_by_content(columns: list[str]) -> str:
    """Write the expression of a `row_number` that a row's own values give: 40 bits of a hash.

    For rows without an order of their own. Two rows may share a number: it only breaks ties.
    """
    return f"(md5_number_upper(json_array({', '.join(columns)})::VARCHAR) >> 24)::BIGINT"


def as_json(columns: dict[str, str]) -> str:
    """Write the expression of a row's columns as one JSON object, for `raw`."""
    pairs = (f"{literal(name)}, {column}::VARCHAR" for name, column in columns.items())
    return f"json_object({', '.join(pairs)})::VARCHAR"
