"""Where events come from: the interface that every kind of source has, and which one is asked for.

A night asks its source for parts (`Source.parts`): files, say, or the rows of a table within the
night. Each part in its turn becomes the DuckDB view `source_rows` (`Part.open`), is read a few
times, and is closed again. The view may be lazy, so that a part need not fit into memory; each
time it is queried it must give the same rows. Its columns:

=============  ============  =====================================================================
`row_number`   BIGINT        where the row is in the part, from 1, the same whenever it is read:
                             line of a text file (with its header) where the row begins, row of a
                             Parquet file, of a file whose rows are lists the event in it, or of a
                             table 40 bits of a hash of its values
`raw`          VARCHAR       the line as read; of Parquet and tables the columns as JSON; may be
                             null where the row is an event
`user_id`      VARCHAR       null when blank or a null marker, unless `source.session_columns` has a
                             session for it
`item_id`      VARCHAR       null when blank or a null marker
`event_type`   VARCHAR       "event" when the part has no such column
`weight`       FLOAT         null when the part has none, or it is blank, a null marker or NaN
`has_time`     BOOLEAN       whether the time is filled in
`time_number`  DOUBLE        the time as a number, in a unit that is not known yet
`time_stamp`   TIMESTAMPTZ   the time as a date and clock; without a zone it is UTC
`broken`       VARCHAR       why the line cannot be parsed at all, else null
`unread`       VARCHAR       why an id, a type or a weight is there and cannot be read, else null
`unread_time`  VARCHAR       the same of the time
=============  ============  =====================================================================

`tasks.sources.rows` writes the SELECT of this view for whatever has named columns. Names and paths
of the settings never become SQL: they are quoted as literals or identifiers.
"""

import datetime as dt
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

import duckdb

from tasks.settings import Settings

# The class of each `source.kind` as "module:class", imported when it is asked for: a client
# library that a run does not need costs it nothing.
KINDS = {
    "files": "tasks.sources.files:Files",
    "delta": "tasks.sources.delta:Delta",
    "postgres": "tasks.sources.postgres:Postgres",
}


@dataclass(frozen=True)
class Versions:
    """Which state of a table with versions a night reads, kept so that it reads the same again."""

    table_id: str
    version: int
    after: int | None  # the version that an earlier night read; None: no file is known
    since: dt.date | None  # the first day that this earlier night did not read


class Part(Protocol):
    """What is read in one go; `str` is how messages name it.

    `columns`, where it has them, are those taken for each role (user, item, time, type, weight,
    session), known once it has been opened. Where `mirrors` is true, an event of a day behind the
    night that the part does not have any more goes from the lake.
    """

    @property
    def name(self) -> str:
        """The part as `source` of its events, unlike any other and the same every night."""
        ...

    @property
    def versions(self) -> Versions | None:
        """Which state is read; None for a part without versions, which is read as it is now."""
        ...

    def open(self, con: duckdb.DuckDBPyConnection) -> AbstractContextManager[None]:
        """Create the temporary view `source_rows` over the part, readable within the block.

        Within it, also what the view's queries raise about the data becomes a sentence. At its
        end whatever was put aside for reading is removed.

        Raises
        ------
        SourceError
            The part cannot be read as events: a person has to mend it. What may pass by itself,
            such as a network that is gone, comes as it is and is tried again.
        """
        ...


class Source(Protocol):
    """A place that events come from; `str` is how messages name it, without secrets.

    One that leaves files out names them in `left_out`, once `parts` has listed the others.
    """

    def __init__(self, settings: Settings) -> None: ...

    def parts(self, first: dt.datetime | None, end: dt.datetime) -> Sequence[Part]:
        """List what has rows between these times (UTC), in an order that is always the same.

        A part may have rows of other times too; they are counted and left. The night's own rows
        and those of the days behind it that it reads are all from `first` to before `end`.

        Parameters
        ----------
        first
            Midnight of the first day that is read; None: all before `end`.
        end
            Midnight after the night.

        Raises
        ------
        SourceError
            There is nothing to read, or the settings do not name it.
        """
        ...


def source_of(settings: Settings) -> Source:
    """Return the source that the settings name."""
    module, _, name = KINDS[settings.source.kind].partition(":")
    kind: type[Source] = getattr(import_module(module), name)
    return kind(settings)
