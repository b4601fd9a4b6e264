"""The histories of a night as a model reads them, and the digest that stands for all of them."""

import datetime as dt
import hashlib
import json
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from elcrec import Histories
from tasks.errors import LakeError, ModelError, SettingsError
from tasks.lake import Lake, tables
from tasks.lake.duck import connect, sql
from tasks.registry.held_out import held_out
from tasks.registry.vocabulary import model_numbers, renumbered, vocabulary
from tasks.settings import SequenceSettings, Settings

# Leave-one-out takes two events of a history and trains on what is left.
MIN_EVENTS = 3
USERS_A_BATCH = 65_536  # bounds the memory, whatever the number of users


@dataclass(frozen=True)
class Fingerprint:
    """What stands for all histories of a night.

    digest: of `data_fingerprint`. n_items: different items in the histories.
    n_trainable: users with at least MIN_EVENTS.
    files: which files held the histories when it was taken.
    """

    digest: str
    n_items: int
    n_trainable: int
    files: str


@dataclass(frozen=True)
class Trainable:
    """Users with at least MIN_EVENTS, in the order of user_id.

    histories: of `n` users, by item_index. last_ts: `[n]`, the times they end at.
    user_hashes: uint64 `[n]`, of the ids.
    """

    histories: Histories
    last_ts: npt.NDArray[np.datetime64]
    user_hashes: npt.NDArray[np.uint64]

    def held_out(self, one_in: int) -> npt.NDArray[np.bool_] | None:
        """Tell who is held out, bool `[n]` (`tasks.registry.held_out`); None is everybody."""
        return held_out(self.user_hashes, one_in) if one_in > 1 else None


def read_histories(rows: pa.Table | pa.RecordBatch, night: dt.date | None = None) -> Histories:
    """Make histories of rows of `sequences`, by item_index, with what they say of each event.

    night: at whose end nothing else has happened; None where later events are left out.
    """
    details = (rows.column(name) for name in ("types", "weights", "times"))
    histories = Histories.from_arrow(rows.column("items"), *details)
    if night is None:
        return histories
    end = dt.datetime.combine(night + dt.timedelta(days=1), dt.time(), dt.UTC)
    return replace(histories, until_us=int(end.timestamp()) * 1_000_000)


def no_user_left(rules: SequenceSettings, users: int) -> SettingsError:
    """Return the error that the smallest numbers of events leave none of so many users."""
    return SettingsError(
        f"none of {users} users is left: sequences.min_user_events is {rules.min_user_events} and "
        f"sequences.min_item_events is {rules.min_item_events}; lower them, or wait for more events"
    )


def trainable_users(settings: Settings, night: dt.date) -> Trainable:
    """Read the histories of a night that a model can learn from.

    Raises ModelError when no user has MIN_EVENTS events, LakeError when the histories were built
    without what the model is to look at.
    """
    with connect(settings) as con:
        Lake.of(settings).view(con, tables.SEQUENCES, first=night, last=night)
        found = con.sql(sql("trainable_histories"), params={"min_events": MIN_EVENTS})
        rows = found.to_arrow_table()
    histories = read_histories(rows, night)
    if len(histories) == 0:
        raise ModelError(
            f"no user of night {night} has {MIN_EVENTS} events or more, so there is nothing to "
            "train on: wait for more events, or loosen sequences.last_events and the k-core"
        )
    if settings.model.reads_details and histories.ts_us is None:
        raise LakeError(
            f"the histories of night {night} were built without types, weights and times, which "
            "the model is to look at: run build-sequences for it again"
        )
    hashes = rows.column("user_hash").to_numpy()
    return Trainable(histories, rows.column("last_ts").to_numpy(), hashes)


def fingerprint(settings: Settings, night: dt.date) -> Fingerprint:
    """Return the fingerprint of a night's histories: the recorded one while it holds, or a new one.

    `build-sequences` records it, so that the steps after it need not read all histories for it. It
    holds while the histories lie in the same files: what writes them anew, as `forget` does, gives
    them others.

    Raises LakeError when the night has no histories.
    """
    lake = Lake.of(settings)
    recorded = lake.scan(tables.SEQUENCE_INPUTS, first=night, last=night).select(
        "data_fingerprint", "data_items", "data_trainable", "data_files"
    )
    files = _files(lake, night)
    for digest, n_items, n_trainable, of_files in recorded.collect().iter_rows():
        if of_files == files and n_trainable is not None:
            return Fingerprint(digest, n_items, n_trainable, files)
    return take_fingerprint(settings, night)


def take_fingerprint(settings: Settings, night: dt.date) -> Fingerprint:
    """Read all histories of a night and compute their fingerprint; raises as `fingerprint`."""
    # The files first: where the histories are written anew meanwhile, the record will not hold.
    files = _files(Lake.of(settings), night)
    item_ids = vocabulary(settings, night)
    digest, n_trainable = data_fingerprint(settings, night, item_ids)
    return Fingerprint(digest, len(item_ids), n_trainable, files)


def _files(lake: Lake, night: dt.date) -> str:
    """Return what stands for the files of a night's histories: no name is ever used again."""
    names = ["/".join(file.split("/")[-2:]) for file in lake.files(tables.SEQUENCES, night, night)]
    described = json.dumps([lake.identity(tables.ITEMS), sorted(names)])
    return hashlib.sha256(described.encode()).hexdigest()


def data_fingerprint(settings: Settings, night: dt.date, item_ids: pl.Series) -> tuple[str, int]:
    """Hash users, items, histories and the times they end at, all that a model is made from.

    The same for any item_index and any order of rows. Returns the digest, and how many users a
    model can learn from.

    Raises LakeError when the night has no histories.
    """
    lake = Lake.of(settings)
    numbers = model_numbers(lake, item_ids)
    # One hash a column, so that where a batch ends makes no difference.
    users, ends, lengths, items = (hashlib.sha256() for _ in range(4))
    details = None  # histories without have the fingerprint that they had before there were any
    found = n_trainable = 0
    with connect(settings) as con:
        lake.view(con, tables.SEQUENCES, first=night, last=night)
        ordered = con.sql(sql("fingerprinted_histories"))
        for batch in ordered.to_arrow_reader(USERS_A_BATCH):
            histories = renumbered(read_histories(batch), numbers)
            if histories.ts_us is not None:
                details = details or hashlib.sha256()
                _add_details(details, histories)
            users.update(batch.column("user_hash").to_numpy().data)
            ends.update(batch.column("last_us").to_numpy().data)
            lengths.update(histories.lengths.data)
            items.update(histories.items.data)
            found += len(histories)
            n_trainable += int((histories.lengths >= MIN_EVENTS).sum())
    if not found:
        raise LakeError(
            f"table sequences has no rows for night {night}: run build-sequences for it first"
        )
    names = hashlib.sha256(json.dumps(item_ids.to_list()).encode()).hexdigest()
    every = (users, ends, lengths, items, details)
    columns = "".join(column.hexdigest() for column in every if column is not None)
    return hashlib.sha256((names + columns).encode()).hexdigest(), n_trainable


def _add_details(digest: "hashlib._Hash", histories: Histories) -> None:
    """Add what histories say of each event beside its item."""
    assert histories.ts_us is not None
    digest.update(histories.ts_us.data)
    if histories.weights is not None:
        digest.update(histories.weights.data)
    if histories.types is not None:
        # Numbers of types are those of a batch; names are the same wherever a batch ends.
        digests = [hashlib.sha256(name.encode()).digest()[:8] for name in histories.type_names]
        names = np.array([b"", *digests], "S8")
        digest.update(names[histories.types].data)
