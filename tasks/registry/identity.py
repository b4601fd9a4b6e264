"""The name of a night's model, before and after it is trained.

A version is named after its night, its settings and its data, so a rerun finds or overwrites its
own model and a change of either makes another.
"""

import datetime as dt
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import polars as pl

import elcrec
from elcrec import Config
from elcrec.errors import ELCRecError
from elcrec.estimator import what_it_learns_by
from tasks.errors import ModelError, SettingsError
from tasks.lake import Lake, model_folder, tables
from tasks.registry.free_ids import first_free_id
from tasks.registry.held_out import one_in
from tasks.registry.histories import fingerprint
from tasks.registry.versions import promoted, registered
from tasks.settings import Settings

# Where a night departs from the library's preset: one a day has no time for the last digit.
NIGHTLY = {"default": {"max_epochs": 10, "patience": 5}}

# Fields of the config that came later, with what every model was trained with before. So a lake of
# then goes on with its models.
CAME_LATER = {
    "intent_loss_moves": "both",
    "types": [],
    "gap_vectors": False,
    "idle_vectors": False,
    "half_life_days": 0.0,
    "weigh_events": False,
    "weigh_targets": False,
    "target_types": [],
    "processes": 1,
    "gpu_batch_users": 0,
    "encoder_precision": "float32",
    "warmup_share": 0.0,
}


@dataclass(frozen=True)
class Identity:
    """What a night's model is made of, and the name that follows from it."""

    version: str
    settings_fingerprint: str
    data_fingerprint: str
    n_items: int  # different items in the night's histories
    parent_version: str | None  # the last promoted model of an earlier night
    same_settings: bool  # whether the parent was made with the same
    warm: bool  # whether training goes on from the parent
    first_free_id: int  # smallest id a new intent may get
    held_out_one_in: int  # n, where one user in n is held out


def identify(settings: Settings, night: dt.date) -> Identity:
    """Name the model that these settings train on the night's histories, trained or not.

    Raises LakeError when the night has no histories.
    """
    lake = Lake.of(settings)
    data = fingerprint(settings, night)
    made = settings_fingerprint(settings)
    parent, same_settings, warm = _parent(settings, lake, night, made)
    # What ids are free is not in the name: that changes when models of other settings come, and the
    # model that is there stays the night's.
    held_out = one_in(data.n_trainable, settings.model.held_out_users)
    # Where everybody is held out, as it was before this could be set, models keep their names.
    named_after = f"{parent}{warm}" + (f"{held_out}" if held_out > 1 else "")
    version = f"{night:%Y%m%d}-{_digest(made + data.digest + named_after)[:8]}"
    return Identity(
        version=version,
        settings_fingerprint=made,
        data_fingerprint=data.digest,
        n_items=data.n_items,
        parent_version=parent,
        same_settings=same_settings,
        warm=warm,
        first_free_id=first_free_id(lake, night, version, made),
        held_out_one_in=held_out,
    )


def settings_fingerprint(settings: Settings) -> str:
    """Hash every setting that decides which model is trained on given histories."""
    # The whole config, so that another default of the library makes another model too; but where
    # and how fast a model is computed does not change which model it is.
    config = what_it_learns_by(configure(settings, settings.model.n_intents or None))
    chosen = {
        "config": {
            name: value for name, value in config.items() if (name, value) not in CAME_LATER.items()
        },
        "n_intents": settings.model.n_intents,
        "warm_epochs": settings.model.warm_epochs,
        "least_overlap": settings.model.least_overlap,
        "least_share": settings.model.least_share,
        "left_nights": settings.model.left_nights,
        "sequences": settings.sequences.rules(),
        "elcrec": elcrec.__version__,
    }
    return _digest(json.dumps(chosen, sort_keys=True))


def _parent(
    settings: Settings, lake: Lake, night: dt.date, made: str
) -> tuple[str | None, bool, bool]:
    """Return the last promoted model of an earlier night, if its settings are these, if to go on.

    Nights that train from scratch are told by their date alone, so that a backfill does as the
    nightly run did. A parent of other settings may have another shape: it lends ids, no weights.
    """
    before = promoted(lake, until=night - dt.timedelta(days=1))
    if before is None:
        return None, False, False
    version, its_night = before
    rows = registered(lake, its_night).filter(pl.col("model_version") == version)
    every = settings.model.retrain_nights
    from_nothing = settings.model.from_scratch or (every and night.toordinal() % every == 0)
    same_settings = bool(rows["settings_fingerprint"].item() == made)
    return version, same_settings, bool(not from_nothing and same_settings)


def configure(settings: Settings, n_intents: int | None = None) -> Config:
    """Make the model's config out of the settings; without `n_intents` with the preset's own.

    Raises SettingsError for a setting or override that the model does not know or take.
    """
    chosen = settings.model
    values: dict[str, Any] = {
        "seed": chosen.seed,
        "device": chosen.device,
        "threads": chosen.threads,
        "processes": chosen.processes,
        "max_length": chosen.max_length,
    }
    values |= NIGHTLY.get(chosen.preset, {})
    asked = {
        "max_epochs": chosen.max_epochs,
        "patience": chosen.patience,
        "n_intents": n_intents,
        "target_types": chosen.target_types,
    }
    values |= {name: value for name, value in asked.items() if value}
    values |= chosen.overrides
    try:
        config = Config.preset(chosen.preset, chosen.dataset or None, **values)
        return config.ablation(chosen.ablation)
    except (ELCRecError, TypeError) as error:
        raise SettingsError(f"model.overrides or another setting of model: {error}") from error


def register(lake: Lake, night: dt.date, identity: Identity, next_intent_id: int) -> None:
    """Add a model to those of its night, not promoted; one that is there already stays as it is.

    It supersedes those of the same settings: the night has run again, on other events or from
    another parent.

    next_intent_id: the id above those of its intents, which no other model gives anew.
    """
    before = registered(lake, night)
    rows = before
    if identity.version not in rows["model_version"]:
        added = pl.DataFrame(
            {
                "dt": night,
                "model_version": identity.version,
                "path": model_folder(identity.version),
                "promoted": False,
                "parent_version": identity.parent_version,
                "settings_fingerprint": identity.settings_fingerprint,
                "data_fingerprint": identity.data_fingerprint,
                "warm": identity.warm,
                "first_free_id": identity.first_free_id,
                "next_intent_id": next_intent_id,
                "superseded": False,
                "held_out_one_in": identity.held_out_one_in,
            },
            schema=rows.schema,
        )
        rows = pl.concat([rows, added])
    same_settings = pl.col("settings_fingerprint") == identity.settings_fingerprint
    another = pl.col("model_version") != identity.version
    rows = rows.with_columns(
        superseded=pl.when(same_settings).then(another).otherwise(pl.col("superseded"))
    )
    if not rows.equals(before):
        lake.replace(tables.MODELS, rows, nights=[night])


def model_of_night(settings: Settings, night: dt.date) -> Identity:
    """Return the model that `train` registered for this night, these settings and this data."""
    identity = identify(settings, night)
    if identity.version not in registered(Lake.of(settings), night)["model_version"]:
        raise ModelError(
            f"model {identity.version} (night {night}, present settings and data) is not trained: "
            f"run train --night {night} first"
        )
    return identity


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
