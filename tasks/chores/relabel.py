"""Label a range of past nights with one model that is named, without training.

A relabelled night follows from the model and the night's histories alone: its labels are the
model's own and are not held against those of the night before. So nights can be relabelled in any
order and side by side, and a range done twice, or in two halves, is the same. The night after the
range holds its labels against the relabelled ones when it runs.

The model may be of a later night than those it labels: such labels are not point in time, and
their `model_version` says so.
"""

import datetime as dt
import functools
import logging
import os
from typing import Any

import polars as pl

from tasks.errors import LakeError, ModelError, NightError
from tasks.lake import Lake, tables
from tasks.night.label import label_with
from tasks.registry.identity import settings_fingerprint
from tasks.settings import Settings
from tasks.steps import AFTER_LABEL, check_night, run_step

log = logging.getLogger(__name__)

SHOWN = 3  # nights or versions that a message names


def relabel(
    settings: Settings,
    first: dt.date,
    last: dt.date,
    version: str,
    *,
    other_settings: bool = False,
) -> dict[str, Any]:
    """Relabel nights first..last one after the other, each with the steps that follow `label`.

    Raises as `nights_to_relabel` does, before anything is written.
    """
    nights = nights_to_relabel(settings, first, last, version, other_settings=other_settings)
    done = {}
    for night in nights:
        done[night.isoformat()] = relabel_night(settings, night, version)
        for name in AFTER_LABEL:
            run_step(name, settings, night)
    return {"model_version": version, "nights": done}


def relabel_night(
    settings: Settings, night: dt.date, version: str, *, at_once: int = 1
) -> dict[str, Any]:
    """Do the step `label` of one night with the model of this version.

    at_once: nights that are relabelled side by side; they share the cores that `model.threads`
    does not settle.

    Raises ModelError for a model that is not registered or cannot be used, LakeError for a night
    without histories.
    """
    trained = _night_of(Lake.of(settings), version)
    work = functools.partial(label_with, version=version, trained=trained, previous=None)
    shared = sharing_cores(settings, at_once)
    return run_step("label", shared, night, work, relabelled_with=version)


def sharing_cores(settings: Settings, at_once: int) -> Settings:
    """Return settings by which a model takes its part of the cores, unless `model.threads` is set.

    at_once: steps that run side by side.
    """
    if settings.model.threads:
        return settings
    threads = max(1, (os.cpu_count() or 1) // at_once)
    model = settings.model.model_copy(update={"threads": threads})
    return settings.model_copy(update={"model": model})


def nights_to_relabel(
    settings: Settings,
    first: dt.date,
    last: dt.date,
    version: str,
    *,
    other_settings: bool = False,
) -> list[dt.date]:
    """Return the nights first..last, both included, when all of them can be relabelled.

    other_settings: whether the model may be one that was trained on other settings.

    Raises
    ------
    NightError
        The range ends before it begins, is not over, or begins before the first event.
    ModelError
        There is no such model, or it is superseded, or it was trained on other settings.
    LakeError
        There are no events, or a night has no histories.
    """
    lake = Lake.of(settings)
    if last < first:
        raise NightError(
            f"the range ends on {last}, before it begins on {first}: swap the two dates"
        )
    check_night(last)
    days = lake.nights(tables.EVENTS)
    if not days:
        raise LakeError(f"there are no events in {lake.root}: correct lake.root, or run a night")
    if first < days[0]:
        raise NightError(
            f"night {first} is before the first event, which is of {days[0]}: "
            f"begin the range on {days[0]} or later"
        )
    trained = _night_of(lake, version)
    if _is_superseded(lake, version):
        raise ModelError(
            f"model {version} is superseded: night {trained} ran again with the same settings, and "
            "ids of its intents may mean another one by now; name the model of that run"
        )
    if not other_settings and not _fits(settings, lake, version):
        raise ModelError(
            f"model {version} was trained on other settings of the model or the histories than "
            "those in effect: name another model, give this run the settings it was trained on, "
            "or allow other settings"
        )
    nights = [first + dt.timedelta(days=days) for days in range((last - first).days + 1)]
    with_histories = set(lake.nights(tables.SEQUENCES))
    if missing := [night for night in nights if night not in with_histories]:
        raise LakeError(
            f"there are no histories for {_named(missing, 'night', 'nights')}: run them first "
            "(a backfill builds them again where they were not kept), or leave them out"
        )
    if early := sum(night < trained for night in nights):
        log.warning(
            "model %s was trained on night %s: it knows what came after %d of the nights that it "
            "is to label",
            version,
            trained,
            early,
        )
    return nights


def _night_of(lake: Lake, version: str) -> dt.date:
    """Return the night of a registered model; raises ModelError when there is none."""
    versions = lake.scan(tables.MODELS).select("dt", "model_version").collect().sort(pl.all())
    found = versions.filter(pl.col("model_version") == version)["dt"]
    if found.is_empty():
        newest = versions["model_version"].to_list()[: -SHOWN - 1 : -1]
        known = f"the newest are {', '.join(newest)}" if newest else "none is trained yet"
        raise ModelError(f"there is no model {version} in {lake.root}: {known}")
    night: dt.date = found.item()
    return night


def _is_superseded(lake: Lake, version: str) -> bool:
    rows = lake.scan(tables.MODELS).filter(pl.col("model_version") == version).collect()
    return bool(rows["superseded"].item())


def _fits(settings: Settings, lake: Lake, version: str) -> bool:
    rows = lake.scan(tables.MODELS).filter(pl.col("model_version") == version).collect()
    return bool(rows["settings_fingerprint"].item() == settings_fingerprint(settings))


def _named(nights: list[dt.date], one: str, several: str) -> str:
    """Name nights as a sentence does, the first few of many."""
    shown = ", ".join(map(str, nights[:SHOWN]))
    more = f" and {len(nights) - SHOWN} more" if len(nights) > SHOWN else ""
    return f"{one if len(nights) == 1 else several} {shown}{more}"
