"""The items of a night's model, and the number that a model has for each."""

import datetime as dt

import numpy as np
import numpy.typing as npt
import polars as pl

from elcrec import Histories
from tasks.lake import Lake, tables
from tasks.lake.duck import connect, sql
from tasks.settings import Settings


def vocabulary(settings: Settings, night: dt.date) -> pl.Series:
    """Return the ids of all items in the night's histories, in the order of their model numbers."""
    lake = Lake.of(settings)
    with connect(settings) as con:
        lake.view(con, tables.SEQUENCES, first=night, last=night)
        lake.view(con, tables.ITEMS)
        item_ids: pl.Series = con.sql(sql("model_vocabulary")).pl()["item_id"]
    return item_ids


def model_numbers(lake: Lake, item_ids: pl.Series) -> npt.NDArray[np.int32]:
    """Map each item_index of the lake to a model's number for that item, int32 `[indices + 1]`.

    Item `item_ids[n]` has number n + 1; an item that the model does not know has one number more
    than it has items, which `elcrec` leaves out; 0 stays 0.
    """
    known = pl.DataFrame({"item_id": item_ids}).with_row_index("number", offset=1).lazy()
    items = lake.scan(tables.ITEMS).select("item_id", "item_index")
    found = items.join(known, on="item_id").select("item_index", "number").collect()
    largest = items.select(pl.col("item_index").max()).collect().item() or 0
    numbers = np.full(largest + 1, len(item_ids) + 1, np.int32)
    numbers[found["item_index"].to_numpy()] = found["number"].to_numpy()
    numbers[0] = 0
    return numbers


def renumbered(histories: Histories, numbers: npt.NDArray[np.int32]) -> Histories:
    """Return histories of item_index as those of the model that `numbers` is of."""
    return histories.with_items(numbers[histories.items])
