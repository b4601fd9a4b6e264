"""Which catalogue a night reads."""

import datetime as dt
from pathlib import Path

import pyarrow as pa

from tasks.lake import Lake, tables
from tasks.registry.catalogue import catalogue_night

DAY = dt.timedelta(days=1)
NIGHT = dt.date(2026, 11, 3)


def test_a_night_reads_the_newest_catalogue_that_is_not_of_a_later_night(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    assert catalogue_night(lake, NIGHT) is None
    for night in (NIGHT, NIGHT + 3 * DAY):
        row = {"dt": night, "item_id": "a", "title": None, "categories": [], "attributes": None}
        rows = pa.Table.from_pylist([row], schema=tables.CATALOGUE.schema)
        lake.replace(tables.CATALOGUE, rows, nights=[night])
    assert catalogue_night(lake, NIGHT - DAY) is None
    assert catalogue_night(lake, NIGHT) == NIGHT
    assert catalogue_night(lake, NIGHT + 2 * DAY) == NIGHT
    assert catalogue_night(lake, NIGHT + 9 * DAY) == NIGHT + 3 * DAY
