"""A model applied to histories: what `label` and `recommend` write, and `evaluate` foresees."""

import datetime as dt
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from elcrec import Labels
from elcrec.errors import ELCRecError
from tasks.errors import ModelError
from tasks.lake import Lake, tables
from tasks.lake.duck import sql
from tasks.registry.histories import read_histories
from tasks.registry.vocabulary import renumbered
from tasks.registry.weights import Loaded
from tasks.settings import LabelSettings, RecommendSettings

USERS_A_BATCH = 65_536  # bounds the memory, whatever the number of users
DIGITS = 3  # of shares, confidences and scores: more are noise, and files half as large


def last_labelled(lake: Lake, *, before: dt.date) -> dt.date | None:
    """Return the newest night with labels that is before this one."""
    return max(
        (night for night in lake.nights(tables.INTENT_LABELS) if night < before), default=None
    )


def labelled_histories(
    con: duckdb.DuckDBPyConnection, lake: Lake, night: dt.date, previous: dt.date | None
) -> duckdb.DuckDBPyRelation:
    """Return the night's histories, each with its user's label of the night `previous`, if any.

    And with the night since which that label is held, if it is.

    A row a user: see `sql/labelled_histories.sql`.
    """
    last = previous or night  # of the night itself nothing is read
    lake.view(con, tables.SEQUENCES, first=night, last=night)
    lake.view(con, tables.INTENT_LABELS, "previous_labels", first=last, last=last)
    lake.view(con, tables.LABEL_EVIDENCE, "previous_evidence", first=last, last=last)
    return con.sql(sql("labelled_histories"), params={"night": night})


def label_batch(
    histories: pa.RecordBatch,
    model: Loaded,
    numbers: npt.NDArray[np.int32],
    night: dt.date,
    version: str,
    rules: LabelSettings,
    labelled: dt.date | None,
    *,
    evidence: bool = False,
) -> Labels:
    """Label one batch of `sequences`, each with its user's previous label; users keep their order.

    numbers: the model's number of each item_index (`model_numbers`).
    rules: how many times as probable as the user's previous intent another one must be to replace
        it. An intent that was born after the night `labelled` was not there to be chosen then: for
        it `probability_ratio` is enough for every user.
    labelled: the night of the previous labels; None without any.
    evidence: whether to say why, too, for `evidence_rows`.

    Raises ModelError when the model cannot be applied or gives confidences that are no numbers.
    """
    try:
        items = read_histories(histories, night)
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
            evidence=evidence,
        )
    except ELCRecError as error:
        raise ModelError(f"model {version} cannot label night {night}: {error}") from error
    if not np.isfinite(labels.confidence[labels.intent >= 0]).all():
        raise ModelError(
            f"model {version} gives confidences that are no numbers on night {night}: "
            "its weights are damaged; delete its folder, and train and promote it again"
        )
    return labels


def label_rows(
    histories: pa.RecordBatch, labels: Labels, model: Loaded, night: dt.date, version: str
) -> pa.RecordBatch:
    """Return the rows of `intent_labels` of one batch of `sequences`, in its order."""
    rows, ids = histories.num_rows, model.intents.ids
    known = labels.intent >= 0
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
    return _batch(columns, tables.INTENT_LABELS)


def evidence_rows(
    histories: pa.RecordBatch,
    labels: Labels,
    model: Loaded,
    night: dt.date,
    version: str,
    rules: LabelSettings,
) -> pa.RecordBatch:
    """Return the rows of `label_evidence` of one batch of `sequences`, in its order.

    labels: with evidence.
    """
    why = labels.evidence
    assert why is not None
    rows, ids = histories.num_rows, model.intents.ids
    known, sure = labels.intent >= 0, np.isfinite(why.confidence)
    held = known & (labels.intent != why.intents[:, 0])
    since = histories.column("held_since").fill_null(night)
    confidence = why.confidence.round(DIGITS)
    named, likely = why.items > 0, why.intents >= 0
    item_ids = model.item_ids.gather(why.items[named] - 1).to_arrow().cast(pa.string())
    shares, probabilities = why.shares[named], why.probabilities[likely]
    columns = {
        "dt": pa.repeat(pa.scalar(night), rows),
        "user_id": histories.column("user_id"),
        "intent_id": _nullable(ids[labels.intent], known),
        "calibrated_confidence": _nullable(confidence, sure),
        "clear": _nullable(confidence >= rules.clear_above, sure),
        "held_since": pc.if_else(pa.array(held), since, pa.scalar(None, since.type)),
        "items": _lists(named, {"item_id": item_ids, "share": pa.array(shares.round(DIGITS))}),
        "intents": _lists(
            likely,
            {
                "intent_id": pa.array(ids[why.intents[likely]]),
                "probability": _nullable(probabilities.round(DIGITS), np.isfinite(probabilities)),
            },
        ),
        "model_version": pa.repeat(pa.scalar(version), rows),
    }
    return _batch(columns, tables.LABEL_EVIDENCE)


def recommendation_rows(
    histories: pa.RecordBatch,
    model: Loaded,
    numbers: npt.NDArray[np.int32],
    night: dt.date,
    version: str,
    asked: RecommendSettings,
) -> pa.RecordBatch:
    """Return the rows of `user_recommendations` of one batch of `sequences`, in its order.

    numbers: the model's number of each item_index (`model_numbers`).

    Raises ModelError when the model cannot be applied or gives scores that are no numbers.
    """
    rows, n_items = histories.num_rows, model.model.n_items
    try:
        items = renumbered(read_histories(histories, night), numbers)
        best, scores = model.model.recommend(items, min(asked.top_k, n_items), asked.leave_out_had)
    except ELCRecError as error:
        raise ModelError(f"model {version} cannot recommend on night {night}: {error}") from error
    there = best > 0
    of_known = np.repeat(np.arange(rows), items.lengths)[items.items <= n_items]
    without = ~there[:, 0] & (np.bincount(of_known, minlength=rows) > 0)
    # Only who has had every item that the model knows may be left without one.
    for user in np.flatnonzero(without).tolist():
        if np.unique(items[user][items[user] <= n_items]).size < n_items:
            raise ModelError(
                f"model {version} gives scores that are no numbers on night {night}: "
                "its weights are damaged; delete its folder, and train and promote it again"
            )
    named = model.item_ids.gather(best[there] - 1).to_arrow().cast(pa.string())
    columns = {
        "dt": pa.repeat(pa.scalar(night), rows),
        "user_id": histories.column("user_id"),
        "items": _lists(there, {"item_id": named, "score": pa.array(scores[there].round(DIGITS))}),
        "model_version": pa.repeat(pa.scalar(version), rows),
    }
    return _batch(columns, tables.USER_RECOMMENDATIONS)


def _batch(columns: dict[str, pa.Array], table: tables.Table) -> pa.RecordBatch:
    schema = table.schema
    return pa.RecordBatch.from_arrays(
        [columns[field.name].cast(field.type) for field in schema], schema=schema
    )


def _nullable(values: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> pa.Array:
    return pa.array(values, mask=~valid)


def _lists(there: npt.NDArray[np.bool_], fields: dict[str, pa.Array]) -> pa.Array:
    """Return a list of structs for each row of `there`, of as many as it has True; fields: flat."""
    ends = np.concatenate([[0], there.sum(1).cumsum()]).astype(np.int32)
    structs = pa.StructArray.from_arrays(list(fields.values()), names=list(fields))
    return pa.ListArray.from_arrays(pa.array(ends), structs)
