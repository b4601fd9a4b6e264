"""Label every user with the promoted model, and profile the intents.

A user keeps the intent of the last labelled night before this one until another is many times as
sure, so that labels do not flicker.

Both tables are written as whole partitions of the night, each in one transaction: a reader sees
the state before or after. A run killed between the two is completed by running it again.
"""

import datetime as dt
import logging
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.errors import LakeError, ModelError
from tasks.lake import Lake, tables
from tasks.lake.duck import connect, sql
from tasks.registry.labelling import USERS_A_BATCH, label_batch, labelled_histories, last_labelled
from tasks.registry.versions import promoted
from tasks.registry.vocabulary import model_numbers
from tasks.registry.weights import load
from tasks.settings import Settings

log = logging.getLogger(__name__)

TOP_ITEMS = 10  # in a profile
TOP_ITEMS_POOL = 3 * TOP_ITEMS  # the most frequent items of an intent, of which its top is chosen


def label(settings: Settings, night: dt.date) -> dict[str, Any]:
    """Label every user of `sequences` and profile every intent of the model, for one night.

    A user none of whose items the model knows gets a row with intent null.

    Raises ModelError when no model is promoted or its files are damaged, LakeError without
    histories for the night.
    """
    lake = Lake.of(settings)
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
    lake = Lake.of(settings)
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
