"""The ids that a new intent may get: every registered model reserves its own."""

import datetime as dt

import polars as pl

from elcrec.errors import ELCRecError
from tasks.lake import Lake, model_folder, tables
from tasks.registry import intent_ids


def first_free_id(lake: Lake, night: dt.date, version: str, made: str) -> int:
    """Return the id from which on this model of the night gives its new intents theirs.

    Every registered model keeps the ids of its intents to itself, promoted or not, for any of them
    may come to label: by a person's choice, or by `relabel`. So the id is above those of all models
    of earlier nights, and of those of its own night that were made with other settings. A model
    that is superseded labels nothing any more and keeps nothing: so a night that runs again gives
    what it would have given had its events been there in time. What later nights have does not
    count either, so that a backfill does as the nightly run did. A model that is registered has its
    id in its row, and keeps it when it is trained again.

    made: the fingerprint of the settings of the model.
    """
    models = lake.scan(tables.MODELS, last=night).select(
        "dt",
        "model_version",
        "settings_fingerprint",
        "superseded",
        "first_free_id",
        "next_intent_id",
    )
    choices = lake.scan(tables.CHOICES, last=night - dt.timedelta(days=1))
    earliest = free = choices.select(pl.col("next_intent_id").max()).collect().item() or 0
    for day, other, others_made, superseded, first_free, next_id in models.collect().iter_rows():
        if other == version:
            # Of a row from before these were written down only choices decided.
            return int(earliest if first_free is None else first_free)
        if others_made != made if day == night else not superseded:
            free = max(free, _next_id(lake, other) if next_id is None else next_id)
    return int(free)


def _next_id(lake: Lake, version: str) -> int:
    """Read the next free id from a model's folder; without one it can label nobody any more."""
    file = f"{model_folder(version)}/{intent_ids.FILE}"
    try:
        return intent_ids.parsed(lake.storage.read(file), file).next_id
    except (FileNotFoundError, ELCRecError):
        return 0
