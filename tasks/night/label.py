"""Label every user with the promoted model, say why, and profile the intents.

A user keeps the intent of the last labelled night before this one until another is many times as
sure, so that labels do not flicker.

All tables are written as whole partitions of the night, each in one transaction: a reader sees
the state before or after. A run killed between two of them is completed by running it again.
"""

import datetime as dt
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.errors import LakeError, ModelError
from tasks.lake import Lake, tables
from tasks.lake.duck import connect, spill_file
from tasks.registry.labelling import (
    USERS_A_BATCH,
    evidence_rows,
    label_batch,
    label_rows,
    labelled_histories,
    last_labelled,
)
from tasks.registry.profiles import profile
from tasks.registry.versions import promoted
from tasks.registry.vocabulary import model_numbers
from tasks.registry.weights import Loaded, load
from tasks.settings import Settings

log = logging.getLogger(__name__)

# How evidence waits on disk until the labels are written.
SPILLED = pa.ipc.IpcWriteOptions(compression="lz4")


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
    previous = last_labelled(lake, before=night)
    return label_with(settings, night, *chosen, previous=previous, gives_names=True)


def label_with(
    settings: Settings,
    night: dt.date,
    version: str,
    trained: dt.date,
    *,
    previous: dt.date | None,
    gives_names: bool = False,
) -> dict[str, Any]:
    """Label and profile one night, which has histories, with a registered model.

    Parameters
    ----------
    version, trained
        The model and its night.
    previous
        The night whose labels this one's are held against; None: the model's own are taken.
    gives_names
        Whether intents without a name get one.
    """
    lake = Lake.of(settings)
    model = load(settings, version)
    if settings.engine.kind == "spark":
        from tasks.spark.label import write_labels

        write_labels(settings, night, version, previous)
    else:
        _write_labels(settings, night, version, model, previous)
    # The labels are read back from the lake, so that the profiles are of them as they stand.
    profiles = profile(
        settings,
        night,
        model,
        with_retired=trained == night,
        previous=previous,
        gives_names=gives_names,
    )
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


def _write_labels(
    settings: Settings, night: dt.date, version: str, model: Loaded, previous: dt.date | None
) -> None:
    """Write labels and evidence, with DuckDB and the model here."""
    lake = Lake.of(settings)
    numbers = model_numbers(lake, model.item_ids)
    rules = settings.label
    with connect(settings) as con, spill_file(settings) as spilled:
        histories = labelled_histories(con, lake, night, previous)

        def labels(evidence: pa.ipc.RecordBatchStreamWriter) -> Iterator[pa.RecordBatch]:
            """Yield rows of labels; why they are so goes to a file meanwhile, in the same pass."""
            for batch in histories.to_arrow_reader(USERS_A_BATCH):
                found = label_batch(
                    batch, model, numbers, night, version, rules, previous, evidence=True
                )
                evidence.write(evidence_rows(batch, found, model, night, version, rules))
                yield label_rows(batch, found, model, night, version)

        with pa.ipc.new_stream(spilled, tables.LABEL_EVIDENCE.schema, options=SPILLED) as evidence:
            stream = pa.RecordBatchReader.from_batches(
                tables.INTENT_LABELS.schema, labels(evidence)
            )
            lake.replace(tables.INTENT_LABELS, stream, nights=[night])
        spilled.seek(0)
        lake.replace(tables.LABEL_EVIDENCE, pa.ipc.open_stream(spilled), nights=[night])
