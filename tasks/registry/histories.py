"""The histories of a night as a model reads them, and the digest that stands for all of them."""

import datetime as dt
import hashlib
import json

import numpy as np
import numpy.typing as npt
import polars as pl

from elcrec import Histories
from tasks.errors import LakeError, ModelError
from tasks.lake import Lake, tables
from tasks.lake.duck import connect, sql
from tasks.registry.vocabulary import model_numbers, renumbered
from tasks.settings import Settings

# Leave-one-out takes two events of a history and trains on what is left.
MIN_EVENTS = 3
USERS_A_BATCH = 65_536  # bounds the memory, whatever the number of users


def trainable_histories(settings: Settings, night: dt.date) -> Histories:
    """Read the histories of `trainable_users`."""
    return trainable_users(settings, night)[0]


def trainable_users(
    settings: Settings, night: dt.date
) -> tuple[Histories, npt.NDArray[np.datetime64]]:
    """Read the histories of at least MIN_EVENTS items, by item_index, and the times they end at.

    In the order of user_id. Raises ModelError when no user has as many.
    """
    with connect(settings) as con:
        Lake(settings.lake.root).view(con, tables.SEQUENCES, first=night, last=night)
        found = con.sql(sql("trainable_histories"), params={"min_events": MIN_EVENTS})
        rows = found.to_arrow_table()
    histories = Histories.from_arrow(rows.column("items"))
    if len(histories) == 0:
        raise ModelError(
            f"no user of night {night} has {MIN_EVENTS} events or more, so there is nothing to "
            "train on: wait for more events, or loosen sequences.last_events and the k-core"
        )
    return histories, rows.column("last_ts").to_numpy()


def data_fingerprint(settings: Settings, night: dt.date, item_ids: pl.Series) -> str:
    """Hash users, items and histories, the same for any item_index and any order of rows.

    Raises LakeError when the night has no histories.
    """
    lake = Lake(settings.lake.root)
    numbers = model_numbers(lake, item_ids)
    # One hash a column, so that where a batch ends makes no difference.
    users, lengths, items = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    found = 0
    with connect(settings) as con:
        lake.view(con, tables.SEQUENCES, first=night, last=night)
        ordered = con.sql(sql("fingerprinted_histories"))
        for batch in ordered.to_arrow_reader(USERS_A_BATCH):
            histories = renumbered(Histories.from_arrow(batch.column("items")), numbers)
            users.update(batch.column("user_hash").to_numpy().data)
            lengths.update(histories.lengths.data)
            items.update(histories.items.data)
            found += len(histories)
    if not found:
        raise LakeError(
            f"table sequences has no rows for night {night}: run build-sequences for it first"
        )
    names = hashlib.sha256(json.dumps(item_ids.to_list()).encode()).hexdigest()
    return hashlib.sha256(
        (names + users.hexdigest() + lengths.hexdigest() + items.hexdigest()).encode()
    ).hexdigest()
