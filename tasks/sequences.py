"""Each user's history up to the end of the night, and the vocabulary of items.

The vocabulary `items` holds every item ever seen and only grows: an index once given is never
changed or reused, whatever is run again or backfilled. A history keeps the last events of a user
by time; events of the same time are in the order they were read, by the file's name, then by their
row in it. Neither depends on anything that came later, so a backfill orders them the same. With
`sequences.session_minutes` an item counts once a session, which ends with its day at the latest.

Where an earlier night's histories were built from what the tables hold still, the night adds the
events since then to them; otherwise it reads all events. Both give the same rows. More events only
ever add to a core, so with smallest numbers of events, too, what was in it stays: the night looks
for what joins it among the events that were left out and the new ones.
"""

import datetime as dt
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks import duck, tables
from tasks.core import in_order, k_core, last_of_each, once_a_session, stable_order
from tasks.errors import NightError, SettingsError
from tasks.lake import ConcurrentWriteError, Lake
from tasks.settings import SequenceSettings, Settings

log = logging.getLogger(__name__)

# To be raised when the same events and settings come to give other histories: the night after then
# builds its own anew.
RULES = 1
ROWS_A_BATCH = 500_000

Column = npt.NDArray[Any]


@dataclass(frozen=True)
class Events:
    """Events as columns; users ascend, and the events of each are in the order of a history.

    `users` [n] are numbers of the table `users`, `items` [n] indices of `items`, `ts_us` [n]
    microseconds since 1970.
    """

    users: Column
    items: Column
    ts_us: Column

    def take(self, which: npt.NDArray[Any]) -> "Events":
        """Return some of the events, by a mask or by their positions."""
        return Events(self.users[which], self.items[which], self.ts_us[which])

    def and_then(self, later: "Events") -> tuple["Events", npt.NDArray[np.bool_]]:
        """Return each user's events and those that come after them, and which came first."""
        users = np.concatenate([self.users, later.users])
        order = stable_order(users)
        items = np.concatenate([self.items, later.items])[order]
        ts_us = np.concatenate([self.ts_us, later.ts_us])[order]
        return Events(users[order], items, ts_us), order < len(self.users)


@dataclass(frozen=True)
class Base:
    """An earlier night whose histories the events since then are added to."""

    night: dt.date
    core_items: npt.NDArray[np.int32] | None  # None: the settings leave out no user or item


@dataclass(frozen=True)
class Core:
    """The events of a core, those it leaves out, and its items.

    With a base both are of what was left out then and of the events since. Of the users of the
    relation `anew` it is whole histories.
    """

    events: Events
    left_out: Events
    items: npt.NDArray[np.int64]  # ascending
    users_left_out: int


def build_sequences(settings: Settings, night: dt.date) -> dict[str, Any]:
    """Add new items to `items` and write the night's partition of `sequences`.

    Raises
    ------
    NightError
        There are no events up to the end of the night.
    SettingsError
        The smallest numbers of events leave no user.
    """
    lake, rules = Lake(settings.lake.root), settings.sequences
    # Before any event is read: if another run replaces events meanwhile, what is recorded below
    # will match nothing later.
    inputs = _Inputs(lake, rules, night)
    base = _base(lake, rules, inputs, night)
    with duck.connect(settings) as con:
        since = base.night + dt.timedelta(days=1) if base else None
        lake.view(con, tables.EVENTS, first=since, last=night)
        if not _count(con, "events") and not base:
            raise NightError(
                f"there are no events up to night {night} in {lake.root}: "
                "run the step ingest of that night first"
            )
        before = base.night if base else dt.date.min
        lake.view(con, tables.SEQUENCES, "base", before, before)
        lake.view(con, tables.LEFT_OUT_EVENTS, first=before, last=before)
        con.register("anew", pa.table({"user_id": pa.array([], pa.string())}))
        new_items = _add_new_items(con, lake)
        con.execute(duck.sql("users"))
        read = _count(con, "events")
        events = _events(con, rules)
        left_out = read - len(events.users)  # again in the same session
        core = _core(con, lake, rules, events, base, night) if rules.has_core else None
        if core:
            events = core.events
            left_out += len(core.left_out.users)
        if not len(events.users) and not base:
            raise SettingsError(
                f"none of {_count(con, 'users')} users is left: sequences.min_user_events is "
                f"{rules.min_user_events} and sequences.min_item_events is "
                f"{rules.min_item_events}; lower them, or wait for more events"
            )
        rows: Any = _history_rows(con, events, rules, night)
        if base:
            con.register("added", rows.read_all())
            limits = {"night": night, "last_events": rules.last_events}
            rows = con.sql(duck.sql("extended_sequences"), params=limits)
        lake.replace(tables.SEQUENCES, rows, nights=[night])
        if core:
            rows = _left_out_rows(con, core.left_out, night)
            lake.replace(tables.LEFT_OUT_EVENTS, rows, nights=[night])
        elif lake.files(tables.LEFT_OUT_EVENTS, night, night):  # by the settings of another run
            nothing = tables.LEFT_OUT_EVENTS.schema.empty_table()
            lake.replace(tables.LEFT_OUT_EVENTS, nothing, nights=[night])
        inputs.record(night, core)
        lake.view(con, tables.SEQUENCES, first=night, last=night)
        kept = con.table("sequences").aggregate("count(*), sum(n_events)::BIGINT").fetchall()[0]
        items = _count(con, "items")
    return {
        "users": kept[0],
        "events": kept[1],
        "users_left_out": core.users_left_out if core else 0,
        "events_left_out": left_out,
        "items_known": items,
        "items_new": new_items,
        "added_to": base.night.isoformat() if base else None,
    }


class _Inputs:
    """What histories are made from, as the tables hold it now."""

    def __init__(self, lake: Lake, settings: SequenceSettings, night: dt.date) -> None:
        self.lake = lake
        # No name is ever used again: a partition that is written anew has other files.
        self.events = _names(lake.files(tables.EVENTS, last=night))
        self.others = [RULES, settings.rules(), lake.identity(tables.ITEMS)]

    def fingerprint(self, night: dt.date) -> str:
        """Return what stands for all that the histories up to a night are made from."""
        return _fingerprint(
            [
                *self.others,
                [name for name in self.events if name[: len("dt=YYYY-MM-DD")] <= f"dt={night}"],
            ]
        )

    def written(self, night: dt.date) -> str:
        """Return what stands for what has been written of a night."""
        files = [
            self.lake.files(table, night, night)
            for table in (tables.SEQUENCES, tables.LEFT_OUT_EVENTS)
        ]
        return _fingerprint(_names([*files[0], *files[1]]))

    def record(self, night: dt.date, core: Core | None) -> None:
        """Note that the night's histories, which have just been written, are made from these."""
        row = {
            "dt": night,
            "inputs": self.fingerprint(night),
            "files": self.written(night),
            "core_items": core.items if core else None,
        }
        rows = pa.Table.from_pylist([row], schema=tables.SEQUENCE_INPUTS.schema)
        self.lake.replace(tables.SEQUENCE_INPUTS, rows, nights=[night])


def _base(lake: Lake, settings: SequenceSettings, inputs: _Inputs, night: dt.date) -> Base | None:
    """Return the newest earlier night whose histories need the events since and nothing else."""
    earlier = lake.scan(tables.SEQUENCE_INPUTS, last=night - dt.timedelta(days=1)).collect()
    for row in earlier.sort("dt", descending=True).iter_rows(named=True):
        day, core_items = row["dt"], row["core_items"]
        if settings.has_core == (core_items is not None) and (row["inputs"], row["files"]) == (
            inputs.fingerprint(day),
            inputs.written(day),
        ):
            log.info("histories of night %s are those of %s and the events since", night, day)
            return Base(day, np.array(core_items, np.int32) if settings.has_core else None)
    log.info(
        "histories of night %s are built from all events: no earlier night's were built with the "
        "settings and from the events of now",
        night,
    )
    return None


def _names(files: list[str]) -> list[str]:
    """Return the names of a table's files below its folder."""
    return ["/".join(file.split("/")[-2:]) for file in files]


def _fingerprint(described: Any) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


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


def _events(con: duckdb.DuckDBPyConnection, settings: SequenceSettings) -> Events:
    """Read the view `events`, user by user, without what came again in the same session."""
    users, items, ts_us = _events_in_time(con, _count(con, "events"))
    order = stable_order(users)
    of_user = np.bincount(users)
    # One after the other, for each takes the place of one as large.
    users = np.repeat(np.arange(len(of_user), dtype=np.int32), of_user)
    items = items[order]
    ts_us = ts_us[order]
    del order
    events = Events(users, items, ts_us)
    if settings.session_minutes:
        minutes = settings.session_minutes
        events = events.take(once_a_session(users, events.items, events.ts_us, minutes=minutes))
    return events


def _core(
    con: duckdb.DuckDBPyConnection,
    lake: Lake,
    settings: SequenceSettings,
    events: Events,
    base: Base | None,
    night: dt.date,
) -> Core:
    """Look for the users and items with enough events, from those of the base on."""
    user_ids = _user_ids(con)
    [(last_item,)] = con.table("items").aggregate("max(item_index)").fetchall()
    in_core = np.zeros(len(user_ids), dtype=np.bool_)
    core_items = np.zeros(last_item + 1, dtype=np.bool_)
    was_left_out = np.zeros(len(events.users), dtype=np.bool_)
    if base and base.core_items is not None:
        core_items[base.core_items] = True
        in_core[con.execute(duck.sql("users_of_base")).fetchnumpy()["user_number"]] = True
        found = con.execute(duck.sql("coded_left_out_events")).fetchnumpy()
        before = Events(found["user_number"], found["item_index"], found["ts_us"])
        events, was_left_out = before.and_then(events)
    kept = k_core(
        events.users,
        events.items,
        min_user=settings.min_user_events,
        min_item=settings.min_item_events,
        core_users=in_core,
        core_items=core_items,
    )
    left_out, older = events.take(~kept), kept & was_left_out & in_core[events.users]
    anew = np.unique(events.users[older])
    events = events.take(kept)
    core_items[events.items] = True
    in_core[events.users] = True
    if len(anew):
        # An item that has joined brings back older events of users who were in the core already:
        # where in their histories, only all of their events can say.
        lake.view(con, tables.EVENTS, "all_events", last=night)
        con.register("anew", pa.table({"user_id": user_ids.take(pa.array(anew))}))
        con.execute(duck.sql("events_of_users_anew"))
        whole = _events(con, settings)
        events = events.take(~np.isin(events.users, anew))
        events, _ = events.and_then(whole.take(core_items[whole.items]))
    return Core(
        events=events,
        left_out=left_out,
        items=np.flatnonzero(core_items),
        users_left_out=len(np.unique(left_out.users[~in_core[left_out.users]])),
    )


def _events_in_time(
    con: duckdb.DuckDBPyConnection, events: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Read user, item and time of each event, in the order of a history."""
    con.execute(duck.sql("event_sources"))
    user, item = np.empty(events, np.int32), np.empty(events, np.int32)
    ts_us, read = np.empty(events, np.int64), np.empty(events, np.int64)
    columns: dict[str, npt.NDArray[Any]]
    columns = {"user_number": user, "item_index": item, "ts_us": ts_us, "read": read}
    end = 0
    for batch in con.sql(duck.sql("coded_events")).to_arrow_reader(ROWS_A_BATCH):
        start, end = end, end + batch.num_rows
        for name, column in columns.items():
            column[start:end] = batch.column(name).to_numpy()
    assert end == events, f"{end} of {events} events have a user, an item and a source"
    if not in_order(ts_us, read):
        order = stable_order(ts_us)
        # As a rule rows of the same time come as they were read.
        if not in_order(ts_us[order], read[order]):
            order = stable_order(read)
            order = order[stable_order(ts_us[order])]
        user, item, ts_us = user[order], item[order], ts_us[order]
    return user, item, ts_us


def _history_rows(
    con: duckdb.DuckDBPyConnection, events: Events, settings: SequenceSettings, night: dt.date
) -> pa.RecordBatchReader:
    """Stream the last events of each user as rows of `sequences`."""
    of_user = np.bincount(events.users)
    users = np.flatnonzero(of_user)
    n_events = of_user[users]
    last_us = events.ts_us[np.cumsum(n_events) - 1]
    items = events.items[last_of_each(n_events, settings.last_events)]
    lengths = np.minimum(n_events, settings.last_events)
    ends = np.cumsum(lengths)
    user_ids = _user_ids(con)

    def columns(batch: slice) -> dict[str, Any]:
        offsets = np.concatenate([[0], np.cumsum(lengths[batch])])
        end = ends[batch][-1]
        of_batch = pa.array(items[end - offsets[-1] : end])
        return {
            "user_id": user_ids.take(pa.array(users[batch])).combine_chunks(),
            "items": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), of_batch),
            "n_events": pa.array(n_events[batch], pa.int32()),
            "last_ts": pa.array(last_us[batch]).cast(tables.TIME),
        }

    return _stream(tables.SEQUENCES, night, len(users), columns)


def _left_out_rows(
    con: duckdb.DuckDBPyConnection, events: Events, night: dt.date
) -> pa.RecordBatchReader:
    """Stream events as rows of `left_out_events`."""
    user_ids = _user_ids(con)
    positions = np.arange(len(events.users))

    def columns(batch: slice) -> dict[str, Any]:
        return {
            "user_id": user_ids.take(pa.array(events.users[batch])).combine_chunks(),
            "item_index": pa.array(events.items[batch]),
            "ts": pa.array(events.ts_us[batch]).cast(tables.TIME),
            "position": pa.array(positions[batch]),
        }

    return _stream(tables.LEFT_OUT_EVENTS, night, len(events.users), columns)


def _stream(
    table: tables.Table, night: dt.date, rows: int, columns: Callable[[slice], dict[str, Any]]
) -> pa.RecordBatchReader:
    """Make rows of a night, some at a time."""

    def batches() -> Iterator[pa.RecordBatch]:
        for first in range(0, rows, ROWS_A_BATCH):
            batch = slice(first, min(first + ROWS_A_BATCH, rows))
            nights = pa.repeat(pa.scalar(night, pa.date32()), batch.stop - first)
            yield pa.RecordBatch.from_pydict({"dt": nights, **columns(batch)}, schema=table.schema)

    return pa.RecordBatchReader.from_batches(table.schema, batches())


def _user_ids(con: duckdb.DuckDBPyConnection) -> pa.ChunkedArray:
    """Return the id of each number of the table `users`."""
    return con.sql("SELECT user_id FROM users ORDER BY user_number").to_arrow_table()["user_id"]


def _count(con: duckdb.DuckDBPyConnection, relation: str) -> int:
    """Return the number of rows of a table or view."""
    return int(con.table(relation).aggregate("count(*)").fetchall()[0][0])
