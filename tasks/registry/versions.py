"""Which models there are, and which one labels a night.

Which model labels a night is a question of dates alone: the newest promoted one of that night or
before it, whatever was trained since. A person may choose another, any of that night or before
(`tasks.registry.choices`).
"""

import datetime as dt

import polars as pl

from elcrec.errors import ELCRecError
from tasks.lake import Lake, tables
from tasks.registry import intent_ids


def registered(lake: Lake, night: dt.date) -> pl.DataFrame:
    """Return the models of one night."""
    return lake.scan(tables.MODELS, first=night, last=night).collect().sort("model_version")


def promoted(lake: Lake, *, until: dt.date) -> tuple[str, dt.date] | None:
    """Return the model that labels a night: its version and its own night.

    It is the newest promoted one of `until` or before it, or the one that a person has chosen for
    that night or a later one up to `until`.
    """
    models = lake.scan(tables.MODELS, last=until).select("model_version", "dt", "promoted")
    by_rules = models.filter("promoted").select(
        "model_version", "dt", since=pl.col("dt"), chosen=pl.lit(False)
    )
    choices = lake.scan(tables.CHOICES, last=until).select("model_version", since="dt")
    by_hand = choices.join(models, on="model_version").select(
        "model_version", "dt", "since", chosen=pl.lit(True)
    )
    newest = (
        pl.concat([by_rules, by_hand]).sort("since", "chosen", "model_version").tail(1).collect()
    )
    return newest.select("model_version", "dt").row(0) if newest.height else None


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
    try:
        return intent_ids.read_any(lake.model_dir(version)).next_id
    except ELCRecError:
        return 0


def anchor(lake: Lake, version: str) -> str | None:
    """Return the model of the last training from scratch that this one goes back to, maybe itself.

    It is the first one, from this one over its parents, that was not trained on from another. Small
    steps of trainings that go on add up; against this one they show.
    None for a model that is not registered.
    """
    columns = ("model_version", "parent_version", "warm", "settings_fingerprint")
    rows = lake.scan(tables.MODELS).select(*columns).collect().iter_rows()
    models = {name: facts for name, *facts in rows}
    found = version if version in models else None
    while found:
        parent, warm, made = models[found]
        if parent not in models:
            break
        # Of rows from before: a parent of other settings lends no weights.
        if not (models[parent][2] == made if warm is None else warm):
            break
        found = parent
    return found
