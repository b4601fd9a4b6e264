"""The histories of a night as a model reads them, and the digest that stands for all of them."""

import datetime as dt
import hashlib
import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from elcrec import Histories
from tasks.errors import LakeError, ModelError
from tasks.lake import Lake, tables
from tasks.lake.duck import connect, sql
from tasks.registry.vocabulary import model_numbers, renumbered, vocabulary
from tasks.settings import Settings

# Leave-one-out takes two events of a history and trains on what is left.
MIN_EVENTS = 3
USERS_A_BATCH = 65_536  # bounds the memory, whatever the number of users


@dataclass(frozen=True)
class Fingerprint:
    """What stands for all histories of a night.

    digest: of `data_fingerprint`. n_items: different items in the histories. files: which files
    held the histories when it was taken.
    """

    digest: str
    n_items: int
    files: str


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
        Lake.of(settings).view(con, tables.SEQUENCES, first=night, last=night)
        found = con.sql(sql("trainable_histories"), params={"min_events": MIN_EVENTS})
        rows = found.to_arrow_table()
    histories = Histories.from_arrow(rows.column("items"))
    if len(histories) == 0:
        raise ModelError(
            f"no user of night {night} has {MIN_EVENTS} events or more, so there is nothing to "
            "train on: wait for more events, or loosen sequences.last_events and the k-core"
        )
    return histories, rows.column("last_ts").to_numpy()


def fingerprint(settings: Settings, night: dt.date) -> Fingerprint:
    """Return the fingerprint of a night's histories: the recorded one while it holds, or a new one.

    `build-sequences` records it, so that the steps after it need not read all histories for it. It
    holds while the histories lie in the same files: what writes them anew, as `forget` does, gives
    them others.

    Raises LakeError when the night has no histories.
    """
    lake = Lake.of(settings)
    recorded = lake.scan(tables.SEQUENCE_INPUTS, first=night, last=night).select(
        "data_fingerprint", "data_items", "data_files"
    )
    files = _files(lake, night)
    for digest, n_items, of_files in recorded.collect().iter_rows():
        if of_files == files:
            return Fingerprint(digest, n_items, files)
    return take_fingerprint(settings, night)


def take_fingerprint(settings: Settings, night: dt.date) -> Fingerprint:
    """Read all histories of a night and compute their fingerprint; raises as `fingerprint`."""
    # The files first: where the histories are written anew meanwhile, the record will not hold.
    files = _files(Lake.of(settings), night)
    item_ids = vocabulary(settings, night)
    return Fingerprint(data_fingerprint(settings, night, item_ids), len(item_ids), files)


def _files(lake: Lake, night: dt.date) -> str:
    """Return what stands for the files of a night's histories: no name is ever used again."""
    names = ["/".join(file.split("/")[-2:]) for file in lake.files(tables.SEQUENCES, night, night)]
    described = json.dumps([lake.identity(tables.ITEMS), sorted(names)])
    return hashlib.sha256(described.encode()).hexdigest()


def data_fingerprint(settings: Settings, night: dt.date, item_ids: pl.Series) -> str:
    """Hash users, items, histories and the times they end at, all that a model is made from.

    The same for any item_index and any order of rows.

    Raises LakeError when the night has no histories.
    """
    lake = Lake.of(settings)
    numbers = model_numbers(lake, item_ids)
    # One hash a column, so that where a batch ends makes no difference.
    users, ends, lengths, items = (hashlib.sha256() for _ in range(4))
    found = 0
    with connect(settings) as con:
        lake.view(con, tables.SEQUENCES, first=night, last=night)
        ordered = con.sql(sql("fingerprinted_histories"))
        for batch in ordered.to_arrow_reader(USERS_A_BATCH):
            histories = renumbered(Histories.from_arrow(batch.column("items")), numbers)
            users.update(batch.column("user_hash").to_numpy().data)
            ends.update(batch.column("last_us").to_numpy().data)
            lengths.update(histories.lengths.data)
            items.update(histories.items.data)
            found += len(histories)
    if not found:
        raise LakeError(
            f"table sequences has no rows for night {night}: run build-sequences for it first"
        )
    names = hashlib.sha256(json.dumps(item_ids.to_list()).encode()).hexdigest()
    columns = "".join(column.hexdigest() for column in (users, ends, lengths, items))
    return hashlib.sha256((names + columns).encode()).hexdigest()
