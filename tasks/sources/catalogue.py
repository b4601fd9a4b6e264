"""The catalogue of items as a source: the kinds, formats and readers are those of events."""

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb

from tasks.errors import NightError, NotReadyError, SourceError
from tasks.settings import CatalogueSettings, Settings
from tasks.sources import Part, source_of

KEYS = "|".join(sorted(CatalogueSettings.model_fields, key=len, reverse=True))


class Catalogue:
    """What the settings under `catalogue` name; `str` is how messages name it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings.catalogue
        # Its kinds are those of the source, and ask for it there.
        with _of_the_catalogue():
            self._source = source_of(settings.model_copy(update={"source": self.settings}))

    def __str__(self) -> str:
        return in_its_words(str(self._source))

    @property
    def left_out(self) -> Sequence[str]:
        """Files that are none of items, once `parts` has listed the others."""
        found: Sequence[str] = getattr(self._source, "left_out", ())
        return found

    def parts(self, night: dt.date) -> list[Part]:
        """List what is to be read whole for a night, in the order in which rows count.

        Raises SourceError when there is nothing to read, or the settings do not name it.
        """
        end = dt.datetime.combine(night, dt.time(), dt.UTC) + dt.timedelta(days=1)
        with _of_the_catalogue():
            return sorted(self._source.parts(None, end), key=lambda part: part.name)


@contextmanager
def opened(con: duckdb.DuckDBPyConnection, part: Part) -> Iterator[None]:
    """Have the view `source_rows` of a part, with the columns of `tasks.sources.items`.

    Raises SourceError when it cannot be read as items.
    """
    with _of_the_catalogue(), part.open(con):
        yield


def in_its_words(text: str) -> str:
    """Name the settings of the catalogue where the readers name those of the source."""
    return re.sub(rf"\bsource\.({KEYS})\b", r"catalogue.\1", text)


@contextmanager
def _of_the_catalogue() -> Iterator[None]:
    """Have errors name the settings of the catalogue."""
    try:
        yield
    except (SourceError, NightError, NotReadyError) as error:
        raise type(error)(in_its_words(str(error))) from error
