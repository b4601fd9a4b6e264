"""A person names an intent: the name counts before the automatic one, until a person changes it."""

import datetime as dt
import getpass
from typing import Any

import polars as pl
import pyarrow as pa

from tasks.errors import NamingError
from tasks.lake import Lake, tables
from tasks.registry import names
from tasks.settings import Settings

LONGEST_NAME = 60  # characters
LONGEST_DESCRIPTION = 1_000
SHOWN = 10  # intents that a message names


def name(
    settings: Settings,
    intent: int,
    given: str,
    *,
    description: str | None = None,
    by: str | None = None,
) -> dict[str, Any]:
    """Name an intent, from the night after the newest labelled one on, and at once in reports.

    The row is added to `given_names`, where all earlier ones stay. The same again adds none.

    Parameters
    ----------
    intent
        Its id; an intent of the newest labelled night.
    given
        The name; empty takes the name back, and the automatic one counts again.
    description
        What the intent is about; None leaves what there is.
    by
        Who names it; None: the account that runs this.

    Returns the intent, its name and description now, what it was called before, who named it and
    the first night whose tables have the name.

    Raises
    ------
    LakeError
        There is no lake.
    NamingError
        There is no such intent, or the name or the description is no name, or another intent has
        the name.
    """
    lake = Lake.there(settings)
    given, description = _checked("name", given, LONGEST_NAME), _description(description)
    with lake.in_use(), lake.turn(names.TURN):
        newest = max(lake.nights(tables.INTENT_PROFILES), default=None)
        if newest is None:
            raise NamingError(f"{lake.root} has no intents yet: run a night first")
        known = names.shown(lake, newest)
        _check_intent(lake, newest, intent, given, known)
        before = known.given.get(intent)
        if description is None:
            description = before.description if before and given else None
        now = (given, description or None)
        counts_from = newest + dt.timedelta(days=1)
        if now != ((before.name, before.description) if before else ("", None)):
            features = lake.scan(tables.INTENT_FEATURES, newest, newest)
            its_own = features.filter(intent_id=intent).sort("kind", "rank").collect()
            row = {
                "dt": counts_from,
                "intent_id": intent,
                "name": given,
                "description": description or None,
                "given_by": _checked("by", by or getpass.getuser(), LONGEST_NAME),
                "given_at": dt.datetime.now(dt.UTC),
                "meaning": names.meaning_of(its_own.to_dicts()),
            }
            lake.append(
                tables.GIVEN_NAMES,
                pa.Table.from_pylist([row], schema=tables.GIVEN_NAMES.schema),
            )
        called = names.shown(lake, newest).of(intent)
    was = known.of(intent)
    return {
        "intent_id": intent,
        "name": called.name if called else None,
        "description": called.description if called else None,
        "named_by": called.by if called else None,
        "before": was.name if was else None,
        "in_tables_from": counts_from.isoformat(),
    }


def _checked(what: str, text: str, longest: int) -> str:
    """Return a text of one line without needless blanks; raises NamingError for any other."""
    clean = names.clean(text)
    if clean != " ".join(text.split()):
        raise NamingError(f"{what} has a character that cannot be seen: {text!r}; write it without")
    if len(clean) > longest:
        raise NamingError(f"{what} has {len(clean)} characters: write at most {longest}")
    return clean


def _description(text: str | None) -> str | None:
    return None if text is None else _checked("description", text, LONGEST_DESCRIPTION)


def _check_intent(lake: Lake, night: dt.date, intent: int, given: str, known: names.Names) -> None:
    """Refuse an intent that there is not, and a name that another living one has."""
    rows = lake.scan(tables.INTENT_PROFILES, night, night).filter(pl.col("status") != "retired")
    living = rows.sort("intent_id").collect()["intent_id"].to_list()
    if intent not in living:
        there = ", ".join(map(str, living[:SHOWN])) + ", ..." * (len(living) > SHOWN)
        raise NamingError(
            f"night {night}, the newest labelled one, has no intent {intent}: it has {there}"
        )
    for other in living:
        called = known.of(other)
        if given and other != intent and called and names.same(called.name) == names.same(given):
            raise NamingError(
                f"intent {other} has the name {called.name}: choose another name for intent "
                f"{intent}, or rename intent {other} first"
            )
