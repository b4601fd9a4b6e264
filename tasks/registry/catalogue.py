"""Which catalogue of items a night reads."""

import datetime as dt

import duckdb

from tasks.lake import Lake, tables


def catalogue_night(lake: Lake, night: dt.date) -> dt.date | None:
    """Return the night whose partition of `catalogue` a night reads: the newest until then.

    None where there is no catalogue of the night or of one before it.
    """
    return max((one for one in lake.nights(tables.CATALOGUE) if one <= night), default=None)


def view_catalogue(con: duckdb.DuckDBPyConnection, lake: Lake, night: dt.date) -> None:
    """Create the view `catalogue` of the partition that a night reads; without one it is empty."""
    its = catalogue_night(lake, night) or dt.date.min
    lake.view(con, tables.CATALOGUE, first=its, last=its)
