"""Histories of a night, computed by Spark: the same rows as `tasks.night.sequences` builds.

The order of a history, sessions and the core are SQL. Each round that looks for the core reads how
often each user has each item, which is kept by the executors, and the users and items that the
round before left. What reaches this process is counts, and the numbers of the core's items.
"""

import contextlib
import datetime as dt
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from tasks.errors import NotReadyError
from tasks.lake import ConcurrentWriteError, Lake, tables
from tasks.registry.histories import no_user_left
from tasks.settings import SequenceSettings, Settings
from tasks.spark.frames import append, kept, replace, statement, view
from tasks.spark.session import session

if TYPE_CHECKING:
    import numpy.typing as npt
    from pyspark.sql.connect.dataframe import DataFrame
    from pyspark.sql.connect.session import SparkSession

log = logging.getLogger(__name__)
STEP = "build-sequences"


@dataclass(frozen=True)
class Built:
    """What came of it: counts, and the core's items where the events left out are kept."""

    users: int
    events: int
    users_left_out: int
    events_left_out: int
    items_known: int
    items_new: int
    core_items: "npt.NDArray[np.int64] | None"


class Histories:
    """The views of one session that histories of a night are built from.

    What is read several times is kept as Parquet files in `scratch`, a folder of all machines: an
    executor that dies takes nothing with it, and no plan grows with the rounds.

    base: the night that the events since are added to; None: all events are read.
    """

    def __init__(
        self,
        spark: "SparkSession",
        settings: Settings,
        night: dt.date,
        base: dt.date | None,
        scratch: str,
    ) -> None:
        self.scratch, self.kept = scratch, 0
        self.counts: dict[str, int] = {}  # of names whose rows are kept in files
        self.spark, self.lake, self.night, self.base = spark, Lake.of(settings), night, base
        self.rules: SequenceSettings = settings.sequences
        self.detailed = settings.keeps_details
        base_night = base or dt.date.min  # of which there is nothing
        view(spark, self.lake, tables.EVENTS, "all_events", last=night)
        since = base_night + dt.timedelta(days=1) if base else None
        view(spark, self.lake, tables.EVENTS, "events", since, night)
        self.n_events = self.count("events")
        for table, name in (
            (tables.SEQUENCES, "base"),
            (tables.LEFT_OUT_EVENTS, "left_out_events"),
            (tables.SEQUENCE_INPUTS, "sequence_inputs"),
        ):
            view(spark, self.lake, table, name, base_night, base_night)
        self.view("base_items", statement(spark, "base_items"))
        self.view("brought_back", self.frame("base").select("user_id").limit(0))

    def view(self, name: str, rows: "DataFrame") -> None:
        """Give rows a name for the statements after."""
        rows.createOrReplaceTempView(name)
        self.counts.pop(name, None)

    def frame(self, name: str) -> "DataFrame":
        """Return the rows of a name."""
        return self.spark.table(name)

    def kept_view(self, name: str, rows: "DataFrame") -> "DataFrame":
        """Compute rows, keep them in files, and give what is read there a name."""
        self.kept += 1
        rows, count = kept(self.spark, rows, f"{self.scratch}/{name}-{self.kept}")
        self.view(name, rows)
        self.counts[name] = count
        return rows

    def count(self, name: str) -> int:
        """Return the number of rows of a name."""
        return self.counts[name] if name in self.counts else int(self.frame(name).count())

    def add_new_items(self) -> int:
        """Give the items of `events` that have none their index, and create the view `items`."""
        while True:
            version = self.lake.version(tables.ITEMS)
            view(self.spark, self.lake, tables.ITEMS)
            new = self.kept_view("new_items", statement(self.spark, "new_items"))
            if not (count := self.count("new_items")):
                return 0
            try:
                append(self.lake, tables.ITEMS, new, "new items", after=version)
            except ConcurrentWriteError:
                log.info("items was written to by another run meanwhile: reading it again")
                continue
            view(self.spark, self.lake, tables.ITEMS)
            return count

    def count_in_sessions(self, read: str) -> int:
        """Make `counted_events`: of the events of a name those that count; return how many do."""
        self.view("read_events", self.frame(read))
        numbered = statement(self.spark, "numbered_events", detailed=self.detailed)
        self.view("numbered_events", numbered)
        events = self.n_events if read == "events" else self.count(read)
        found = numbered.count()
        if found != events:
            raise NotReadyError(
                f"{events - found} of {events} events are of items that came to the events of "
                "nights before while they were read: begin once more"
            )
        if not self.rules.session_minutes:
            self.view("counted_events", numbered)
            return events
        minutes = self.rules.session_minutes
        self.kept_view(
            "counted_events", statement(self.spark, "session_events", session_minutes=minutes)
        )
        return self.count("counted_events")

    def find_core(self) -> None:
        """Make `judged_events`, each with whether it is in the core, from those that count."""
        self.view("candidate_events", statement(self.spark, "candidate_events"))
        counts = self.kept_view("event_counts", statement(self.spark, "event_counts"))
        self.view("core_items", counts.select("item_index").distinct())
        left, rounds = self.count("core_items"), 0
        while True:
            rounds += 1
            self.kept_view(
                "core_users",
                statement(self.spark, "core_users", min_user=self.rules.min_user_events),
            )
            self.kept_view(
                "core_items",
                statement(self.spark, "core_items", min_item=self.rules.min_item_events),
            )
            before, left = left, self.count("core_items")
            if left == before:
                break
        log.info("the core was found in %d rounds", rounds)
        self.kept_view("judged_events", statement(self.spark, "judged_events"))
        self.kept_view("night_core_items", statement(self.spark, "night_core_items"))

    def bring_back(self) -> None:
        """Make `whole_events` of the core; users who get older events back have all theirs."""
        self.kept_view("brought_back", statement(self.spark, "brought_back"))
        if self.count("brought_back"):
            self.view("events_of_brought_back", statement(self.spark, "events_of_brought_back"))
            self.count_in_sessions("events_of_brought_back")
            self.view("whole_events", statement(self.spark, "whole_events"))
        else:
            self.view("whole_events", self.frame("judged_events").where("kept"))

    def write(self) -> tuple[int, int]:
        """Write the night's partition of `sequences`; return its users and their events."""
        limits = {"night": self.night, "last_events": self.rules.last_events}
        rows = statement(self.spark, "histories", **limits, detailed=self.detailed)
        if self.base:
            self.view("added", rows)
            rows = statement(self.spark, "extended_sequences", **limits)
        replace(self.lake, tables.SEQUENCES, rows, self.night, STEP)
        view(self.spark, self.lake, tables.SEQUENCES, first=self.night, last=self.night)
        [(users, events)] = statement(self.spark, "sequence_totals").collect()
        return users, events or 0

    def write_left_out(self) -> None:
        """Write the night's partition of `left_out_events`."""
        order = ("user_id", "ts", "source", "row_number")
        left_out = self.frame("judged_events").where("NOT kept").repartitionByRange("user_id")
        placed = left_out.sortWithinPartitions(*order).selectExpr(
            *("user_id", "item_index", "ts", "event_type", "weight"),
            "monotonically_increasing_id() AS place",
        )
        self.kept_view("placed_events", placed)
        rows = statement(self.spark, "left_out_rows", night=self.night)
        replace(self.lake, tables.LEFT_OUT_EVENTS, rows, self.night, STEP)


@contextlib.contextmanager
def opened(settings: Settings, night: dt.date, base: dt.date | None) -> Iterator[Histories]:
    """Open the views of a night in a session of its own."""
    lake = Lake.of(settings)
    with session(settings) as spark, lake.scratch(tables.SEQUENCES) as scratch:
        yield Histories(spark, settings, night, base, str(scratch))


def write_histories(histories: Histories) -> Built:
    """Write a night's histories, its new items, and where they can be added to, what is left out.

    Raises NotReadyError when another run has written what is read here, meanwhile; SettingsError
    when the smallest numbers of events leave no user.
    """
    lake, rules, night = histories.lake, histories.rules, histories.night
    new_items = histories.add_new_items()
    left_out = histories.n_events - histories.count_in_sessions("events")
    core_left_out = users_left_out = 0
    if rules.has_core:
        histories.find_core()
        core_left_out = histories.frame("judged_events").where("NOT kept").count()
        [(users_left_out,)] = statement(histories.spark, "left_out_users").collect()
        histories.bring_back()
    else:
        histories.view("whole_events", histories.frame("counted_events"))
    if not histories.base and histories.frame("whole_events").isEmpty():
        raise no_user_left(rules, histories.frame("events").select("user_id").distinct().count())
    users, events = histories.write()
    core_items = None
    # With more left out than kept, building anew is no dearer than to add to it.
    if rules.has_core and core_left_out <= events:
        found = histories.frame("night_core_items").toArrow()["item_index"].to_numpy()
        core_items = np.sort(found.astype(np.int64))
        histories.write_left_out()
    elif lake.files(tables.LEFT_OUT_EVENTS, night, night):  # of a run by other settings
        nothing = tables.LEFT_OUT_EVENTS.schema.empty_table()
        lake.replace(tables.LEFT_OUT_EVENTS, nothing, nights=[night])
    return Built(
        users=users,
        events=events,
        users_left_out=users_left_out,
        events_left_out=left_out + core_left_out,
        items_known=lake.scan(tables.ITEMS).select(pl.len()).collect().item(),
        items_new=new_items,
        core_items=core_items,
    )
