"""Step 3: each user's history up to the end of the night, and the vocabulary of items.

The vocabulary `items` holds every item ever seen and only grows: an index once given is never
changed or reused, whatever is run again or backfilled. A history keeps the last events of a user
in the order of `sql/sequences.sql`.
"""

import datetime as dt
import logging
from typing import Any

import duckdb

from tasks import duck, tables
from tasks.errors import NightError, SettingsError
from tasks.lake import ConcurrentWriteError, Lake
from tasks.settings import SequenceSettings, Settings

log = logging.getLogger(__name__)


def build_sequences(settings: Settings, night: dt.date) -> dict[str, Any]:
    """Add new items to `items` and write the night's partition of `sequences`.

    Raises
    ------
    NightError
        There are no events up to the end of the night.
    SettingsError
        The smallest numbers of events leave no user.
    """
    lake = Lake(settings.lake.root)
    with duck.connect(settings) as con:
        lake.view(con, tables.EVENTS, last=night)
        users, events = _size(con, "events")
        if not events:
            raise NightError(
                f"there are no events up to night {night} in {lake.root}: "
                "run the step ingest of that night first"
            )
        new_items = _add_new_items(con, lake)
        _keep_events(con, settings.sequences)
        kept_users, kept_events = _size(con, "kept_events")
        if not kept_users:
            raise SettingsError(
                f"none of {users} users is left: sequences.min_user_events is "
                f"{settings.sequences.min_user_events} and sequences.min_item_events is "
                f"{settings.sequences.min_item_events}; lower them, or wait for more events"
            )
        sequences = con.sql(
            duck.sql("sequences"),
            params={"night": night, "last_events": settings.sequences.last_events},
        )
        lake.replace(tables.SEQUENCES, sequences, nights=[night])
        vocabulary = con.execute("SELECT count(*) FROM items").fetchone()
    return {
        "users": kept_users,
        "events": kept_events,
        "users_left_out": users - kept_users,
        "events_left_out": events - kept_events,
        "items_known": vocabulary[0] if vocabulary else 0,
        "items_new": new_items,
    }


def _add_new_items(con: duckdb.DuckDBPyConnection, lake: Lake) -> int:
    """Give the items of `events` that have none their index, and create the view `items`."""
    while True:
        version = lake.version(tables.ITEMS)
        lake.view(con, tables.ITEMS)
        new_items = con.sql(duck.sql("new_items")).to_arrow_table()
        if not new_items.num_rows:
            return 0
        try:
            lake.append(tables.ITEMS, new_items, after=version)
        except ConcurrentWriteError:
            # Another night's run was faster, perhaps with the same items: number them anew.
            log.info("items was written to by another run meanwhile: reading it again")
            continue
        lake.view(con, tables.ITEMS)
        return int(new_items.num_rows)


def _keep_events(con: duckdb.DuckDBPyConnection, settings: SequenceSettings) -> None:
    """Create `kept_events`: the largest part in which each user and item has enough events."""
    if settings.min_user_events == settings.min_item_events == 1:
        con.execute(duck.sql("all_events"))
        return
    con.execute(duck.sql("core"))
    rounds, dropped = 0, 1
    # Dropping users makes items rarer and the other way round: until neither drops any.
    while dropped:
        dropped = sum(
            _count(con, duck.sql(statement), {"least": least})
            for statement, least in (
                ("core_without_rare_users", settings.min_user_events),
                ("core_without_rare_items", settings.min_item_events),
            )
        )
        rounds += 1
    log.info("k-core filter stable after %d rounds", rounds)
    con.execute(duck.sql("core_events"))


def _size(con: duckdb.DuckDBPyConnection, events: str) -> tuple[int, int]:
    """Return the numbers of users and events of a view."""
    users, rows = con.table(events).aggregate("count(DISTINCT user_id), count(*)").fetchall()[0]
    return int(users), int(rows)


def _count(con: duckdb.DuckDBPyConnection, statement: str, parameters: dict[str, Any]) -> int:
    """Return the one number that a statement gives, for a DELETE the rows it took."""
    row = con.execute(statement, parameters).fetchone()
    return int(row[0]) if row else 0
