"""A person's choice of the model that labels, from a night on."""

import datetime as dt
import logging
from typing import Any

import polars as pl
import pyarrow as pa

from tasks.errors import ModelError
from tasks.lake import Lake, tables
from tasks.registry.identity import settings_fingerprint
from tasks.registry.versions import promoted
from tasks.registry.weights import Loaded, load
from tasks.settings import Settings

log = logging.getLogger(__name__)


def roll_back(settings: Settings, night: dt.date, version: str) -> dict[str, Any]:
    """Let this model label from the night on, until a model of a later night is promoted.

    It is recorded in `choices`, which steps read as they do promotions: nights before it are as
    they were, later ones train on from this model and are compared with it, and give new intents
    ids that no model had before, those that are taken back included. Another choice for the same
    night replaces it. Labels are not written: that is for `label` and the nights after.

    Raises ModelError, and changes nothing, when there is no such model, it is of a later night, its
    files are missing or damaged, or it is superseded or was trained on other settings (unless
    promote.force is set).
    """
    lake = Lake.of(settings)
    models = lake.scan(tables.MODELS).sort("dt", "model_version").collect()
    found = models.filter(pl.col("model_version") == version)
    if found.is_empty():
        known = models.filter(pl.col("dt") <= night)["model_version"].to_list()[-5:]
        raise ModelError(
            f"there is no model {version!r} in {lake.root}: those of night {night} and before are "
            f"{', '.join(known) or 'none'} (the last five of table models)"
        )
    row = found.row(0, named=True)
    if row["dt"] > night:
        raise ModelError(
            f"model {version} is of night {row['dt']}, which night {night} knows nothing of: "
            "choose a model of that night or before, or a later night"
        )
    if row["settings_fingerprint"] != settings_fingerprint(settings) and not settings.promote.force:
        raise ModelError(
            f"model {version} was trained on other settings than the present ones (model, "
            "sequences, or the version of elcrec), so the night after would train from scratch: "
            "put those settings back first, or set promote.force to take it as it is"
        )
    if row["superseded"] and not settings.promote.force:
        raise ModelError(
            f"model {version} is superseded: night {row['dt']} ran again with the same settings, "
            "and ids of its intents may mean another one by now; choose the model of that run, or "
            "set promote.force to take it as it is"
        )
    target = load(settings, version)
    before = promoted(lake, until=night)
    choices = lake.scan(tables.CHOICES, first=night, last=night).collect()
    if choices["model_version"].to_list() != [version]:
        free = _free_id(settings, target)
        choice = {"dt": night, "model_version": version, "next_intent_id": free}
        rows = pa.Table.from_pylist([choice], schema=tables.CHOICES.schema)
        lake.replace(tables.CHOICES, rows, nights=[night])
    labelled = [one for one in lake.nights(tables.INTENT_LABELS) if one >= night]
    log.info("from night %s on, model %s labels", night, version)
    return {
        "night": night.isoformat(),
        "labels_with": version,
        "before": before[0] if before is not None else None,
        "nights_labelled_since": [one.isoformat() for one in labelled],
    }


def _free_id(settings: Settings, target: Loaded) -> int:
    """Return an id above all that intents have had, in labels and in the models that count."""
    lake = Lake.of(settings)
    shown = lake.scan(tables.INTENT_PROFILES).select(pl.col("intent_id").max()).collect().item()
    earlier = lake.scan(tables.CHOICES).select(pl.col("next_intent_id").max()).collect().item()
    free = max(target.intents.next_id, -1 if shown is None else shown + 1, earlier or 0)
    last = promoted(lake, until=dt.date.max)
    if last is not None:
        try:
            free = max(free, load(settings, last[0]).intents.next_id)
        except ModelError as error:  # a model that is gone is a reason to go back
            log.warning("%s; the ids of its intents are known by the labels alone", error)
    return free
