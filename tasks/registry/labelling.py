"""A model applied to histories: what the step `label` writes and `evaluate` foresees."""

import datetime as dt
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from elcrec import Histories
from elcrec.errors import ELCRecError
from tasks.errors import ModelError
from tasks.lake import Lake, tables
from tasks.lake.duck import sql
from tasks.registry.vocabulary import renumbered
from tasks.registry.weights import Loaded
from tasks.settings import LabelSettings

USERS_A_BATCH = 65_536  # bounds the memory, whatever the number of users


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
    rules: LabelSettings,
    labelled: dt.date | None,
) -> pa.RecordBatch:
    """Label one batch of `sequences`, each with its user's previous label; rows keep their order.

    numbers: the model's number of each item_index (`model_numbers`).
    rules: how many times as probable as the user's previous intent another one must be to replace
        it. An intent that was born after the night `labelled` was not there to be chosen then: for
        it `probability_ratio` is enough for every user.
    labelled: the night of the previous labels; None without any.

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
            np.where(idle, rules.idle_probability_ratio, rules.probability_ratio),
            np.array(
                [rules.probability_ratio if labelled and day > labelled else np.inf for day in born]
            ),
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
