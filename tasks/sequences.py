"""Each user's history up to the end of the night, and the vocabulary of items.

The vocabulary `items` holds every item ever seen and only grows: an index once given is never
changed or reused, whatever is run again or backfilled. A history keeps the last events of a user
by time; events of the same time are in the order they were read, by the file's name, then by their
row in it. Neither depends on anything that came later, so a backfill orders them the same. With
`sequences.session_minutes` an item counts once a session, which ends with its day at the latest.

Where an earlier night's histories were built from what the tables hold still, the night adds the
events since then to them; otherwise it reads all events. Both give the same rows.
"""

import datetime as dt
import hashlib
import json
import logging
from collections.abc import Iterator
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


@dataclass(frozen=True)
class Histories:
    """Users and their last items, as columns; users ascend.

    `users` [n] are numbers of the table `users`. `lengths` [n] says how many of `items` belong to
    each, oldest first; `n_events` [n] counts the whole history and `last_us` [n] is when it ends,
    in microseconds since 1970.
    """

    users: npt.NDArray[np.int64]
    items: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int64]
    n_events: npt.NDArray[np.int64]
    last_us: npt.NDArray[np.int64]


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
    # Before any event is read: if another run replaces events meanwhile, what is recorded below
    # will match nothing later.
    inputs = _Inputs(lake, settings.sequences, night)
    base = _base(lake, settings.sequences, inputs, night)
    with duck.connect(settings) as con:
        first = base + dt.timedelta(days=1) if base else None
        lake.view(con, tables.EVENTS, first=first, last=night)
        events = _count(con, "events")
        if not events and not base:
            raise NightError(
                f"there are no events up to night {night} in {lake.root}: "
                "run the step ingest of that night first"
            )
        new_items = _add_new_items(con, lake)
        con.execute(duck.sql("users"))
        users = _count(con, "users")
        histories = _histories(con, settings.sequences, users, events)
        if not len(histories.users) and not base:
            raise SettingsError(
                f"none of {users} users is left: sequences.min_user_events is "
                f"{settings.sequences.min_user_events} and sequences.min_item_events is "
                f"{settings.sequences.min_item_events}; lower them, or wait for more events"
            )
        rows: Any = _rows(con, histories, night)
        if base:
            con.register("added", rows.read_all())
            lake.view(con, tables.SEQUENCES, "base", base, base)
            limits = {"night": night, "last_events": settings.sequences.last_events}
            rows = con.sql(duck.sql("extended_sequences"), params=limits)
        lake.replace(tables.SEQUENCES, rows, nights=[night])
        inputs.record(night)
        lake.view(con, tables.SEQUENCES, first=night, last=night)
        kept = con.table("sequences").aggregate("count(*), sum(n_events)::BIGINT").fetchall()[0]
        items = _count(con, "items")
    return {
        "users": kept[0],
        "events": kept[1],
        "users_left_out": users - len(histories.users),
        "events_left_out": events - int(histories.n_events.sum()),
        "items_known": items,
        "items_new": new_items,
        "added_to": base.isoformat() if base else None,
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

    def record(self, night: dt.date) -> None:
        """Note that the night's histories, which have just been written, are made from these."""
        row = {
            "dt": night,
            "inputs": self.fingerprint(night),
            "files": _fingerprint(_names(self.lake.files(tables.SEQUENCES, night, night))),
        }
        rows = pa.Table.from_pylist([row], schema=tables.SEQUENCE_INPUTS.schema)
        self.lake.replace(tables.SEQUENCE_INPUTS, rows, nights=[night])


def _base(
    lake: Lake, settings: SequenceSettings, inputs: _Inputs, night: dt.date
) -> dt.date | None:
    """Return the newest earlier night whose histories need the events since and nothing else."""
    if settings.min_user_events > 1 or settings.min_item_events > 1:
        log.info(
            "histories of night %s are built from all events: with sequences.min_user_events or "
            "sequences.min_item_events above 1, one event more may bring back older ones",
            night,
        )
        return None
    earlier = lake.scan(tables.SEQUENCE_INPUTS, last=night - dt.timedelta(days=1)).collect()
    for row in earlier.sort("dt", descending=True).iter_rows(named=True):
        day: dt.date = row["dt"]
        if row["inputs"] == inputs.fingerprint(day) and row["files"] == _fingerprint(
            _names(lake.files(tables.SEQUENCES, day, day))
        ):
            log.info("histories of night %s are those of %s and the events since", night, day)
            return day
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


def _histories(
    con: duckdb.DuckDBPyConnection, settings: SequenceSettings, users: int, events: int
) -> Histories:
    """Order the events, leave out rare users and items, keep the last events of each user."""
    user, item, ts_us = _events_in_time(con, events)
    order = stable_order(user)
    of_user = np.bincount(user, minlength=users)
    item = item[order]
    if settings.session_minutes:
        user = np.repeat(np.arange(users, dtype=np.int32), of_user)
        kept = once_a_session(user, item, ts_us[order], minutes=settings.session_minutes)
        of_user = np.bincount(user[kept], minlength=users)
        item, order = item[kept], order[kept]
    if settings.min_user_events > 1 or settings.min_item_events > 1:
        user = np.repeat(np.arange(users, dtype=np.int32), of_user)
        kept = k_core(
            user, item, min_user=settings.min_user_events, min_item=settings.min_item_events
        )
        of_user = np.bincount(user[kept], minlength=users)
        item, order = item[kept], order[kept]
    left = np.flatnonzero(of_user)
    n_events = of_user[left]
    return Histories(
        users=left,
        items=item[last_of_each(n_events, settings.last_events)],
        lengths=np.minimum(n_events, settings.last_events),
        n_events=n_events,
        last_us=ts_us[order[np.cumsum(n_events) - 1]],
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


def _rows(
    con: duckdb.DuckDBPyConnection, histories: Histories, night: dt.date
) -> pa.RecordBatchReader:
    """Stream the histories as rows of `sequences`."""
    user_ids = con.sql("SELECT user_id FROM users ORDER BY user_number").to_arrow_table()["user_id"]
    ends = np.cumsum(histories.lengths)

    def batches() -> Iterator[pa.RecordBatch]:
        for first in range(0, len(histories.users), ROWS_A_BATCH):
            batch = slice(first, first + ROWS_A_BATCH)
            offsets = np.concatenate([[0], np.cumsum(histories.lengths[batch])])
            end = ends[batch][-1]
            users = pa.array(histories.users[batch])
            columns = {
                "dt": pa.repeat(pa.scalar(night, pa.date32()), len(users)),
                "user_id": user_ids.take(users).combine_chunks(),
                "items": pa.ListArray.from_arrays(
                    pa.array(offsets, pa.int32()),
                    pa.array(histories.items[end - offsets[-1] : end]),
                ),
                "n_events": pa.array(histories.n_events[batch], pa.int32()),
                "last_ts": pa.array(histories.last_us[batch]).cast(tables.TIME),
            }
            yield pa.RecordBatch.from_pydict(columns, schema=tables.SEQUENCES.schema)

    return pa.RecordBatchReader.from_batches(tables.SEQUENCES.schema, batches())


def _count(con: duckdb.DuckDBPyConnection, relation: str) -> int:
    """Return the number of rows of a table or view."""
    return int(con.table(relation).aggregate("count(*)").fetchall()[0][0])
