"""Label every user with the promoted model, and profile the intents.

A user keeps the intent of the last labelled night before this one until another is many times as
sure, so that labels do not flicker.

Both tables are written as whole partitions of the night, each in one transaction: a reader sees
the state before or after. A run killed between the two is completed by running it again.
"""

import datetime as dt
import logging
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from elcrec import Histories
from elcrec.errors import ELCRecError
from tasks import tables
from tasks.duck import connect, sql
from tasks.errors import LakeError, ModelError
from tasks.lake import Lake
from tasks.models import Loaded, load, model_numbers, promoted, renumbered
from tasks.settings import LabelSettings, Settings

log = logging.getLogger(__name__)

USERS_A_BATCH = 65_536  # bounds the memory, whatever the number of users
TOP_ITEMS = 10  # in a profile
TOP_ITEMS_POOL = 3 * TOP_ITEMS  # the most frequent items of an intent, of which its top is chosen


def label(settings: Settings, night: dt.date) -> dict[str, Any]:
    """Label every user of `sequences` and profile every intent of the model, for one night.

    A user none of whose items the model knows gets a row with intent null.

    Raises ModelError when no model is promoted or its files are damaged, LakeError without
    histories for the night.
    """
    lake = Lake(settings.lake.root)
    if not lake.files(tables.SEQUENCES, night, night):
        raise LakeError(
            f"table sequences has no rows for night {night}: run build-sequences for it first"
        )
    chosen = promoted(lake, until=night)
    if chosen is None:
        raise ModelError(
            f"no model is promoted on night {night} or before: "
            f"run train, evaluate and promote --night {night} first"
        )
    return label_with(settings, night, *chosen, previous=last_labelled(lake, before=night))


def label_with(
    settings: Settings, night: dt.date, version: str, trained: dt.date, *, previous: dt.date | None
) -> dict[str, Any]:
    """Label and profile one night, which has histories, with a registered model.

    Parameters
    ----------
    version, trained
        The model and its night.
    previous
        The night whose labels this one's are held against; None: the model's own are taken.
    """
    lake = Lake(settings.lake.root)
    model = load(settings, version)
    numbers = model_numbers(lake, model.item_ids)
    with connect(settings) as con:
        histories = labelled_histories(con, lake, night, previous)
        labels = (
            label_batch(batch, model, numbers, night, version, settings.label, previous)
            for batch in histories.to_arrow_reader(USERS_A_BATCH)
        )
        stream = pa.RecordBatchReader.from_batches(tables.INTENT_LABELS.schema, labels)
        lake.replace(tables.INTENT_LABELS, stream, nights=[night])
    # Read back from the lake, so that the profiles are of the labels as they stand.
    with connect(settings) as con:
        for table in (tables.INTENT_LABELS, tables.SEQUENCES):
            lake.view(con, table, first=night, last=night)
        lake.view(con, tables.ITEMS)
        con.register("model_intents", model.intents.rows(with_retired=trained == night))
        values = {"night": night, "pool": TOP_ITEMS_POOL, "top": TOP_ITEMS}
        profiles = con.sql(sql("intent_profiles"), params=values).to_arrow_table()
    lake.replace(tables.INTENT_PROFILES, profiles, nights=[night])
    users = lake.scan(tables.INTENT_LABELS, first=night, last=night).select(
        all=pl.len(), without_intent=pl.col("intent_id").null_count()
    )
    [(all_users, without_intent)] = users.collect().rows()
    in_use = int(np.count_nonzero(profiles.column("users").to_numpy()))
    log.info(
        "%d users labelled by model %s, %d without a known item, %d of %d intents in use",
        all_users,
        version,
        without_intent,
        in_use,
        len(model.intents.of_centers),
    )
    return {
        "model_version": version,
        "users": all_users,
        "users_without_intent": without_intent,
        "intents": len(model.intents.of_centers),
        "intents_in_use": in_use,
    }


def last_labelled(lake: Lake, *, before: dt.date) -> dt.date | None:
    """Return the newest night with labels that is before this one."""
    return max(
        (night for night in lake.nights(tables.INTENT_LABELS) if night < before), default=None
    )


def labelled_histories(
    con: duckdb.DuckDBPyConnection, lake: Lake, night: dt.date, previous: dt.date | None
) -> duckdb.DuckDBPyRelation:
    """Return the night's histories, each with its user's label of the night `previous`, if any.

    A row a user: see `sql/labelled_histories.sql`.
    """
    last = previous or night  # of the night itself nothing is read
    lake.view(con, tables.SEQUENCES, first=night, last=night)
    lake.view(con, tables.INTENT_LABELS, "previous_labels", first=last, last=last)
    return con.sql(sql("labelled_histories"), params={"night": night})


def label_batch(
    histories: pa.RecordBatch,
    model: Loaded,
    numbers: npt.NDArray[np.int32],
    night: dt.date,
    version: str,
    hold: LabelSettings,
    labelled: dt.date | None,
) -> pa.RecordBatch:
    """Label one batch of `sequences`, each with its user's previous label; rows keep their order.

    numbers: the model's number of each item_index (`model_numbers`).
    hold: how many times as sure as the previous one another intent must be to replace it. One born
        after the night `labelled`, whose labels are the previous ones, was not there to be chosen:
        for it nobody's odds are larger than `odds`.

    Raises ModelError when the model cannot be applied or gives confidences that are no numbers.
    """
    try:
        items = Histories.from_arrow(histories.column("items"))
        previous = histories.column("previous_id").fill_null(-1).to_numpy()
        idle = histories.column("idle").to_numpy(zero_copy_only=False)
        born = [intent.born for intent in model.intents.of_centers]
        labels = model.model.transform(
            renumbered(items, numbers),
            model.intents.centers_of(previous),
            np.where(idle, hold.idle_odds, hold.odds),
            np.array([hold.odds if labelled and day > labelled else np.inf for day in born]),
        )
    except ELCRecError as error:
        raise ModelError(f"model {version} cannot label night {night}: {error}") from error
    known = labels.intent >= 0
    if not np.isfinite(labels.confidence[known]).all():
        raise ModelError(
            f"model {version} gives confidences that are no numbers on night {night}: "
            "its weights are damaged; delete its folder, and train and promote it again"
        )
    rows, ids = histories.num_rows, model.intents.ids
    columns = {
        "dt": pa.repeat(pa.scalar(night), rows),
        "user_id": histories.column("user_id"),
        "intent_id": _nullable(ids[labels.intent], known),
        "confidence": _nullable(labels.confidence, known),
        "runner_up_id": _nullable(ids[labels.runner_up], labels.runner_up >= 0),
        "runner_up_confidence": _nullable(labels.runner_up_confidence, labels.runner_up >= 0),
        "n_events": histories.column("n_events"),
        "last_ts": histories.column("last_ts"),
        "model_version": pa.repeat(pa.scalar(version), rows),
    }
    schema = tables.INTENT_LABELS.schema
    return pa.RecordBatch.from_arrays(
        [columns[field.name].cast(field.type) for field in schema], schema=schema
    )


def _nullable(values: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> pa.Array:
    return pa.array(values, mask=~valid)
