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

Where the model or the evaluation looks at types, weights and times of events
(`settings.keeps_details`), histories hold them, too. When one of them begins to, the next night is
built from all events.
"""

import datetime as dt
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from tasks.errors import LakeError, NightError, NotReadyError
from tasks.lake import ConcurrentWriteError, Lake, duck, tables
from tasks.night.core import (
    in_order,
    k_core,
    last_of_each,
    once_a_session,
    stable_order,
    strongest_a_session,
)
from tasks.registry.histories import Fingerprint, no_user_left, take_fingerprint
from tasks.settings import SequenceSettings, Settings

log = logging.getLogger(__name__)

# To be raised when the same events and settings come to give other histories: the night after then
# builds its own anew.
RULES = 1
ROWS_A_BATCH = 500_000


@dataclass(frozen=True)
class Events:
    """Events as columns; users ascend, and the events of each are in the order of a history.

    `users` [n] are numbers of the table `users`, `items` [n] indices of `items`, `ts_us` [n]
    microseconds since 1970. Where histories hold them, `types` [n] are places in the variable
    type_names, from 1, and `weights` [n] NaN for an event without one.
    """

    users: npt.NDArray[np.int32]
    items: npt.NDArray[np.int32]
    ts_us: npt.NDArray[np.int64]
    types: npt.NDArray[np.int32] | None = None
    weights: npt.NDArray[np.float32] | None = None

    def take(self, which: npt.NDArray[Any]) -> "Events":
        """Return some of the events, by a mask or by their positions."""
        return Events(
            self.users[which],
            self.items[which],
            self.ts_us[which],
            None if self.types is None else self.types[which],
            None if self.weights is None else self.weights[which],
        )

    def and_then(self, later: "Events") -> tuple["Events", npt.NDArray[np.bool_]]:
        """Append to each user's events those that come after them; also a mask of the former."""
        if not len(self.users):
            return later, np.zeros(len(later.users), dtype=np.bool_)
        columns = {
            name: np.concatenate([values, getattr(later, name)])
            for name, values in vars(self).items()
            if values is not None
        }
        order = stable_order(columns["users"])
        return Events(**columns).take(order), order < len(self.users)


@dataclass(frozen=True)
class Base:
    """An earlier night whose histories the events since then are added to."""

    night: dt.date
    written: str  # what stands for its rows


@dataclass(frozen=True)
class Core:
    """What a night's events come to when rare users and items are left out.

    With a base, `events` and `left_out` are of what was left out then and of the events since:
    what is in the core since the base is in neither.
    """

    events: Events
    left_out: Events
    items: npt.NDArray[np.bool_]  # by index, those of the base too
    users_left_out: int
    brought_back: npt.NDArray[np.int32]  # users of the base who get older events back, ascending


def build_sequences(settings: Settings, night: dt.date) -> dict[str, Any]:
    """Add new items to `items` and write the night's partition of `sequences`.

    Raises
    ------
    LakeError
        The night was not ingested.
    NightError
        There are no events up to the end of the night.
    SettingsError
        The smallest numbers of events leave no user.
    NotReadyError
        Another run has written what is read here, meanwhile.
    """
    lake, rules = Lake.of(settings), settings.sequences
    if night not in lake.nights(tables.INGESTS):
        raise LakeError(f"night {night} was not ingested: run the step ingest of that night first")
    # Before any event is read: if another run replaces events meanwhile, what is recorded below
    # will match nothing later.
    detailed = settings.keeps_details
    inputs = _Inputs(lake, rules, night, detailed=detailed)
    base = _base(lake, rules, inputs, night)
    if settings.engine.kind == "spark":
        return _build_on_spark(settings, inputs, base, night)
    with duck.connect(settings) as con:
        _open_views(con, lake, base, night)
        _refuse_no_base_or_events(inputs, base, _count(con, "events"), night)
        new_items = _add_new_items(con, lake)
        con.execute(duck.sql("users"))
        user_ids = con.table("users").order("user_number").to_arrow_table()["user_id"]
        types = _number_types(con) if detailed else pa.array([], pa.string())
        events = _events(con, "events", rules, detailed=detailed)
        left_out = _count(con, "events") - len(events.users)  # again in the same session
        core = None
        if rules.has_core:
            core = _core(
                con, rules, events, len(user_ids), _core_items(con, lake, base), detailed=detailed
            )
            left_out += len(core.left_out.users)
            events = _whole_where_brought_back(con, rules, core, user_ids, detailed=detailed)
        if not len(events.users) and not base:
            raise no_user_left(rules, len(user_ids))
        rows: Any = _history_rows(events, user_ids, types, rules, night)
        if base:
            con.register("added", rows.read_all())
            limits = {"night": night, "last_events": rules.last_events}
            rows = con.sql(duck.sql("extended_sequences"), params=limits)
        lake.replace(tables.SEQUENCES, rows, nights=[night])
        lake.view(con, tables.SEQUENCES, first=night, last=night)
        kept = con.table("sequences").aggregate("count(*), sum(n_events)::BIGINT").fetchall()[0]
        core_items = None
        # With more left out than kept, building anew is no dearer than to add to it.
        if core and len(core.left_out.users) <= kept[1]:
            core_items = np.flatnonzero(core.items)
            rows = _left_out_rows(core.left_out, user_ids, types, night)
            lake.replace(tables.LEFT_OUT_EVENTS, rows, nights=[night])
        elif lake.files(tables.LEFT_OUT_EVENTS, night, night):  # of a run by other settings
            nothing = tables.LEFT_OUT_EVENTS.schema.empty_table()
            lake.replace(tables.LEFT_OUT_EVENTS, nothing, nights=[night])
        # Read and hashed here once: train, evaluate and promote name their model by it.
        data = take_fingerprint(settings, night) if kept[0] else None
        inputs.record(night, core_items, data)
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


def _build_on_spark(
    settings: Settings, inputs: "_Inputs", base: Base | None, night: dt.date
) -> dict[str, Any]:
    """Do the same on a cluster; the steps that train take the fingerprint of the histories."""
    from tasks.spark.sequences import opened, write_histories

    with opened(settings, night, base.night if base else None) as histories:
        _refuse_no_base_or_events(inputs, base, histories.n_events, night)
        built = write_histories(histories)
    inputs.record(night, built.core_items, None)
    return {
        "users": built.users,
        "events": built.events,
        "users_left_out": built.users_left_out,
        "events_left_out": built.events_left_out,
        "items_known": built.items_known,
        "items_new": built.items_new,
        "added_to": base.night.isoformat() if base else None,
    }


def _refuse_no_base_or_events(
    inputs: "_Inputs", base: Base | None, events: int, night: dt.date
) -> None:
    """Raise when the base is another than was found, or there is nothing to build from."""
    if base and inputs.written(base.night) != base.written:
        raise NotReadyError(f"another run has written night {base.night}: begin once more")
    if not events and not base:
        raise NightError(
            f"there are no events up to night {night} in {inputs.lake.root}: "
            "run the step ingest of that night first"
        )


def _open_views(
    con: duckdb.DuckDBPyConnection, lake: Lake, base: Base | None, night: dt.date
) -> None:
    """Create the views of what is read, all of the files of now."""
    base_night = base.night if base else dt.date.min  # of which there is nothing
    lake.view(con, tables.EVENTS, "all_events", last=night)
    later = duckdb.ColumnExpression("dt") > duckdb.ConstantExpression(base_night)
    events = con.table("all_events")
    (events.filter(later) if base else events).create_view("events")
    lake.view(con, tables.SEQUENCES, "base", base_night, base_night)
    lake.view(con, tables.LEFT_OUT_EVENTS, first=base_night, last=base_night)
    con.register("brought_back", pa.table({"user_id": pa.array([], pa.string())}))


class _Inputs:
    """What histories are made from, as the tables hold it now."""

    def __init__(
        self, lake: Lake, settings: SequenceSettings, night: dt.date, *, detailed: bool
    ) -> None:
        self.lake = lake
        # No name is ever used again: a partition that is written anew has other files.
        self.events = _names(lake.files(tables.EVENTS, last=night))
        self.others: list[Any] = [RULES, settings.rules(), lake.identity(tables.ITEMS)]
        if detailed:  # without, the histories of before are as good as they were
            self.others.append("types, weights, times")

    def fingerprint(self, night: dt.date) -> str:
        """Return what stands for all that the histories up to a night are made from."""
        return _fingerprint(
            [
                *self.others,
                [name for name in self.events if name[: len("dt=YYYY-MM-DD")] <= f"dt={night}"],
            ]
        )

    def written(self, night: dt.date) -> str:
        """Return what stands for the rows that have been written of a night."""
        return _fingerprint(
            [
                name
                for table in (tables.SEQUENCES, tables.LEFT_OUT_EVENTS)
                for name in _names(self.lake.files(table, night, night))
            ]
        )

    def record(
        self,
        night: dt.date,
        core_items: npt.NDArray[np.int64] | None,
        data: Fingerprint | None,
    ) -> None:
        """Note that the night's histories, which have just been written, are made from these."""
        row = {
            "dt": night,
            "inputs": self.fingerprint(night),
            "files": self.written(night),
            "core_items": core_items,
            "data_fingerprint": data.digest if data else None,
            "data_items": data.n_items if data else None,
            "data_trainable": data.n_trainable if data else None,
            "data_files": data.files if data else None,
        }
        rows = pa.Table.from_pylist([row], schema=tables.SEQUENCE_INPUTS.schema)
        self.lake.replace(tables.SEQUENCE_INPUTS, rows, nights=[night])


def _base(lake: Lake, settings: SequenceSettings, inputs: _Inputs, night: dt.date) -> Base | None:
    """Return the newest earlier night whose histories need the events since and nothing else."""
    earlier = lake.scan(tables.SEQUENCE_INPUTS, last=night - dt.timedelta(days=1))
    # What was left out is not always kept, and was not before a core was added to.
    with_core = pl.col("core_items").is_not_null() == settings.has_core
    for day, made_from, written in (
        earlier.filter(with_core)
        .select("dt", "inputs", "files")
        .collect()
        .sort("dt", descending=True)
        .iter_rows()
    ):
        if made_from == inputs.fingerprint(day) and written == inputs.written(day):
            log.info("histories of night %s are those of %s and the events since", night, day)
            return Base(day, written)
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


def _number_types(con: duckdb.DuckDBPyConnection) -> pa.Array:
    """Set the variable type_names, and return the types of events in the order of their numbers."""
    names = con.sql(duck.sql("type_names")).to_arrow_table()["event_type"].combine_chunks()
    con.execute("SET VARIABLE type_names = $names::VARCHAR[]", {"names": names.to_pylist()})
    return names


def _events(
    con: duckdb.DuckDBPyConnection, relation: str, settings: SequenceSettings, *, detailed: bool
) -> Events:
    """Read a view of events, user by user, without what came again in the same session."""
    columns = _events_in_time(con, relation, detailed=detailed)
    users = columns.pop("users")
    order = stable_order(users)
    of_user = np.bincount(users)
    # One after the other, for each takes the place of one as large.
    users = np.repeat(np.arange(len(of_user), dtype=np.int32), of_user)
    for name in columns:
        columns[name] = columns[name][order]
    del order
    events = Events(users, **columns)
    return _once_a_session(events, settings.session_minutes) if settings.session_minutes else events


def _once_a_session(events: Events, minutes: float) -> Events:
    """Leave the last event of an item in a session; it gets the type of the strongest of them."""
    users, items, ts_us, weights = events.users, events.items, events.ts_us, events.weights
    once = events.take(once_a_session(users, items, ts_us, minutes=minutes))
    if events.types is None or weights is None:
        return once
    strongest = strongest_a_session(users, items, ts_us, weights, minutes=minutes)
    return replace(once, types=events.types[strongest], weights=weights[strongest])


def _core_items(
    con: duckdb.DuckDBPyConnection, lake: Lake, base: Base | None
) -> npt.NDArray[np.bool_]:
    """Mark the items that are in the core of the base, by index."""
    [(last_item,)] = con.table("items").aggregate("max(item_index)").fetchall()
    marks = np.zeros(last_item + 1, dtype=np.bool_)
    if base:
        inputs = lake.scan(tables.SEQUENCE_INPUTS, base.night, base.night)
        marks[inputs.select(pl.col("core_items").explode()).collect().to_series().to_numpy()] = True
    return marks


def _core(
    con: duckdb.DuckDBPyConnection,
    settings: SequenceSettings,
    events: Events,
    users: int,
    core_items: npt.NDArray[np.bool_],
    *,
    detailed: bool,
) -> Core:
    """Find the users and items with enough events, from those of the base on.

    users: how many there are in the table `users`.
    """
    # Which columns are taken is settled here: a query around this one need not keep its order.
    found = con.sql(duck.sql("coded_left_out_events")).to_arrow_table()
    left_before = Events(
        **{name: _filled(found.column(of)) for name, of in _columns(detailed).items()}
    )
    events, was_left_out = left_before.and_then(events)
    of_base = np.zeros(users, dtype=np.bool_)
    of_base[con.execute(duck.sql("users_of_base")).fetchnumpy()["user_number"]] = True
    kept = k_core(
        events.users,
        events.items,
        min_user=settings.min_user_events,
        min_item=settings.min_item_events,
        core_users=of_base,
        core_items=core_items,
    )
    left_out = events.take(~kept)
    brought_back = np.unique(events.users[kept & was_left_out & of_base[events.users]])
    events = events.take(kept)
    core_users = of_base
    core_users[events.users] = True
    core_items[events.items] = True
    return Core(
        events=events,
        left_out=left_out,
        items=core_items,
        users_left_out=len(np.unique(left_out.users[~core_users[left_out.users]])),
        brought_back=brought_back,
    )


def _whole_where_brought_back(
    con: duckdb.DuckDBPyConnection,
    settings: SequenceSettings,
    core: Core,
    user_ids: pa.ChunkedArray,
    *,
    detailed: bool,
) -> Events:
    """Return the core's events, of users whose older events it brings back all they have in it.

    Where in a history such an event belongs, only all of its events can say.
    """
    users = core.brought_back
    if not len(users):
        return core.events
    con.register("brought_back", pa.table({"user_id": user_ids.take(pa.array(users))}))
    con.execute(duck.sql("events_of_brought_back"))
    whole = _events(con, "events_of_brought_back", settings, detailed=detailed)
    others = core.events.take(~np.isin(core.events.users, users))
    events, _ = others.and_then(whole.take(core.items[whole.items]))
    return events


# The columns of Events, and where each is read from.
COLUMNS = {"users": "user_number", "items": "item_index", "ts_us": "ts_us"}
DETAILS = {"types": "type_number", "weights": "weight"}
KINDS = {"ts_us": np.int64, "read": np.int64, "weights": np.float32}  # the others: int32


def _columns(detailed: bool) -> dict[str, str]:
    return COLUMNS | DETAILS if detailed else COLUMNS


def _filled(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[Any]:
    """Return an array of numpy; a weight that is null is NaN."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_floating(column.type):
        column = column.fill_null(float("nan"))
    values: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values


def _events_in_time(
    con: duckdb.DuckDBPyConnection, relation: str, *, detailed: bool
) -> dict[str, npt.NDArray[Any]]:
    """Read the columns of Events, in the order of a history."""
    con.table(relation).create_view("read_events")
    con.execute(duck.sql("event_sources"))
    events = _count(con, relation)
    of = _columns(detailed) | {"read": "read"}
    columns = {name: np.empty(events, KINDS.get(name, np.int32)) for name in of}
    coded = con.sql(duck.sql("coded_events")).select(*of.values())
    end = 0
    for batch in coded.to_arrow_reader(ROWS_A_BATCH):
        start, end = end, end + batch.num_rows
        for name, column in columns.items():
            column[start:end] = _filled(batch.column(of[name]))
    if end != events:
        raise NotReadyError(
            f"{events - end} of {events} events are of items that came to the events of nights "
            "before while they were read: begin once more"
        )
    ts_us, read = columns["ts_us"], columns.pop("read")
    if not in_order(ts_us, read):
        order = stable_order(ts_us)
        # As a rule rows of the same time come as they were read.
        if not in_order(ts_us[order], read[order]):
            order = stable_order(read)
            order = order[stable_order(ts_us[order])]
        columns = {name: values[order] for name, values in columns.items()}
    return columns


def _history_rows(
    events: Events,
    user_ids: pa.ChunkedArray,
    type_names: pa.Array,
    settings: SequenceSettings,
    night: dt.date,
) -> pa.RecordBatchReader:
    """Stream the last events of each user as rows of `sequences`."""
    of_user = np.bincount(events.users)
    users = np.flatnonzero(of_user)
    n_events = of_user[users]
    last_us = events.ts_us[np.cumsum(n_events) - 1]
    kept = last_of_each(n_events, settings.last_events)
    items = events.items[kept]
    details = events.take(kept) if events.types is not None else None
    lengths = np.minimum(n_events, settings.last_events)
    ends = np.cumsum(lengths)

    def columns(batch: slice) -> dict[str, Any]:
        offsets = np.concatenate([[0], np.cumsum(lengths[batch])])
        end = ends[batch][-1]
        rows = slice(end - offsets[-1], end)

        def lists(values: pa.Array) -> pa.ListArray:
            return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)

        found = {
            "user_id": user_ids.take(pa.array(users[batch])).combine_chunks(),
            "items": lists(pa.array(items[rows])),
            "n_events": pa.array(n_events[batch], pa.int32()),
            "last_ts": pa.array(last_us[batch]).cast(tables.TIME),
        }
        if details:
            types, weights = _details(details, rows, type_names)
            times = pa.array(details.ts_us[rows]).cast(tables.TIME)
            found |= {"types": lists(types), "weights": lists(weights), "times": lists(times)}
        return found

    return _stream(tables.SEQUENCES, night, len(users), columns)


def _details(events: Events, rows: slice, type_names: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return the names of types and the weights of some events."""
    assert events.types is not None and events.weights is not None
    weights = events.weights[rows]
    names = type_names.take(pa.array(events.types[rows] - 1))
    return names, pa.array(weights, mask=np.isnan(weights))


def _left_out_rows(
    events: Events, user_ids: pa.ChunkedArray, type_names: pa.Array, night: dt.date
) -> pa.RecordBatchReader:
    """Stream events as rows of `left_out_events`."""

    def columns(batch: slice) -> dict[str, Any]:
        found = {
            "user_id": user_ids.take(pa.array(events.users[batch])).combine_chunks(),
            "item_index": pa.array(events.items[batch]),
            "ts": pa.array(events.ts_us[batch]).cast(tables.TIME),
            "position": pa.array(np.arange(batch.start, batch.stop)),
        }
        if events.types is not None:
            types, weights = _details(events, batch, type_names)
            found |= {"event_type": types, "weight": weights}
        return found

    return _stream(tables.LEFT_OUT_EVENTS, night, len(events.users), columns)


def _stream(
    table: tables.Table, night: dt.date, rows: int, columns: Callable[[slice], dict[str, Any]]
) -> pa.RecordBatchReader:
    """Make rows of a night, some at a time."""

    def batches() -> Iterator[pa.RecordBatch]:
        for first in range(0, rows, ROWS_A_BATCH):
            batch = slice(first, min(first + ROWS_A_BATCH, rows))
            count = batch.stop - first
            nothing = {field.name: pa.nulls(count, field.type) for field in table.schema}
            nights = pa.repeat(pa.scalar(night, pa.date32()), count)
            found = nothing | {"dt": nights} | columns(batch)
            yield pa.RecordBatch.from_pydict(found, schema=table.schema)

    return pa.RecordBatchReader.from_batches(table.schema, batches())


def _count(con: duckdb.DuckDBPyConnection, relation: str) -> int:
    """Return the number of rows of a table or view."""
    return int(con.table(relation).aggregate("count(*)").fetchall()[0][0])
