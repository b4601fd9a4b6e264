"""Take out of the lake what is too old to be needed: nights, models, pages and old files.

How old is counted in nights back from the newest ingested one, so that a lake of past events keeps
its own; and nothing goes that was made or worked on within `retention.min_age_hours` by the clock.
What a promoted model stands on stays whatever its age. It is done while no step runs.
"""

import datetime as dt
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from tasks.lake import MODELS, PAGES, TRAINING, Lake, tables
from tasks.lake.storage import File
from tasks.lake.tables import Table
from tasks.registry.catalogue import catalogue_night
from tasks.registry.inputs import keep_digests
from tasks.registry.versions import anchor, promoted
from tasks.settings import Settings

log = logging.getLogger(__name__)

# The setting under `retention` that says how many nights of a table stay. The tables that are not
# here stay whole: they are small, and later nights are told by them what earlier ones did.
KEPT_BY = {
    tables.EVENTS: "events_nights",
    tables.QUARANTINE: "quarantine_nights",
    tables.SEQUENCES: "sequences_nights",
    tables.SEQUENCE_INPUTS: "sequences_nights",
    tables.LEFT_OUT_EVENTS: "left_out_nights",
    tables.INTENT_LABELS: "labels_nights",
    tables.LABEL_EVIDENCE: "labels_nights",
    tables.INTENT_PROFILES: "labels_nights",
    tables.INTENT_FEATURES: "labels_nights",
    tables.INTENT_NEXT_ITEMS: "labels_nights",
    tables.INTENT_USERS: "labels_nights",
    tables.INTENT_FLOWS: "labels_nights",
    tables.LABEL_COUNTS: "labels_nights",
    tables.USER_RECOMMENDATIONS: "labels_nights",
    tables.CATALOGUE: "labels_nights",
    tables.STEPS: "steps_nights",
    tables.CHECK_RESULTS: "steps_nights",
}


@dataclass
class Plan:
    """What upkeep would take out, in the order in which it goes."""

    nights: dict[Table, list[dt.date]] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)  # folders of weights; their rows stay
    trainings: list[str] = field(default_factory=list)  # what killed trainings left behind
    pages: list[str] = field(default_factory=list)  # folders of a night's quality pages
    old_files: dict[Table, list[File]] = field(default_factory=dict)  # of old versions of tables

    def summary(self) -> dict[str, Any]:
        """Say what goes, by names below the lake's root."""
        old = [file for files in self.old_files.values() for file in files]
        return {
            "nights": {
                table.name: [night.isoformat() for night in nights]
                for table, nights in self.nights.items()
            },
            "models": self.models,
            "trainings": self.trainings,
            "pages": self.pages,
            "old_files": {table.name: len(files) for table, files in self.old_files.items()},
            "old_files_mb": round(sum(file.size for file in old) / 1e6, 1),
        }


def upkeep(settings: Settings, *, dry_run: bool = False) -> dict[str, Any]:
    """Take out what the settings under `retention` do not keep; return what went, or would go.

    The files of a partition that goes now go at a later call, when they are old enough.

    Raises LakeError when there is no lake, or a table of it cannot be read.
    """
    lake = Lake.there(settings)
    with lake.alone():
        removals = plan(settings)
        summary = {"dry_run": dry_run, **removals.summary()}
        if dry_run:
            return summary
        for table, nights in removals.nights.items():
            keep_digests(settings, table, nights)
            lake.replace(table, table.schema.empty_table(), nights=nights)
            log.info("%s: %d nights up to %s removed", table.name, len(nights), nights[-1])
        for folder in removals.models + removals.trainings + removals.pages:
            lake.storage.remove(folder)
            log.info("%s removed", lake.storage.at(folder))
        for table in removals.old_files:
            lake.vacuum(table, settings.retention.min_age_hours)
        lake.turns.tidy()
    return summary


def plan(settings: Settings) -> Plan:
    """Work out what the settings do not keep, without touching anything."""
    lake, keep = Lake.of(settings), settings.retention
    ingested = lake.nights(tables.INGESTS)
    recent = _nights_worked_on(lake, keep.min_age_hours)
    standing = _promoted_models(lake, recent)
    standing_nights = {night for _, night in standing}
    removals = Plan()

    def old(nights: list[dt.date], kept: int, needed: set[dt.date]) -> list[dt.date]:
        if not kept or not ingested:
            return []
        first = ingested[-1] - dt.timedelta(days=kept - 1)
        return [night for night in nights if night < first and night not in needed]

    for table, setting in KEPT_BY.items():
        needed = set(recent)
        if table in (tables.SEQUENCES, tables.SEQUENCE_INPUTS):
            # What the promoted models were trained on, and what the next night adds its events to.
            needed |= standing_nights | _before(lake.nights(tables.SEQUENCES), recent)
        elif table in (tables.LEFT_OUT_EVENTS, tables.INTENT_LABELS, tables.LABEL_EVIDENCE):
            # What the next night adds its events to, and what it holds its labels against.
            needed |= _before(lake.nights(table), recent)
        elif table is tables.CATALOGUE:
            needed |= _catalogues_read(lake, recent, removals.nights)
        if going := old(lake.nights(table), getattr(keep, setting), needed):
            removals.nights[table] = going

    models = lake.scan(tables.MODELS).select("dt", "model_version").collect()
    going_nights = old(sorted(set(models["dt"])), keep.models_nights, recent)
    # Later models are held against the one of the last training from scratch.
    anchors = {first for version, _ in standing if (first := anchor(lake, version))}
    stays = (
        {version for version, _ in standing}
        | anchors
        | set(models.filter(~pl.col("dt").is_in(going_nights))["model_version"])
    )
    since = dt.datetime.now(dt.UTC) - dt.timedelta(hours=keep.min_age_hours)

    def folders(parent: str, but: set[str]) -> list[str]:
        """Return the folders in which nothing was written within the last hours."""
        paths = [
            f"{parent}/{name}"
            for name in lake.storage.folders(parent)
            if not name.startswith(".") and name not in but
        ]
        return [path for path in paths if lake.storage.written(path) <= since]

    if keep.models_nights:
        removals.models = folders(MODELS, stays)
    removals.trainings = folders(TRAINING, set())
    pages = sorted(night for name in lake.storage.folders(PAGES) if (night := _night(name)))
    removals.pages = [f"{PAGES}/{night}" for night in old(pages, keep.pages_nights, recent)]
    for table in tables.TABLES.values():
        if files := lake.vacuum(table, keep.min_age_hours, dry_run=True):
            removals.old_files[table] = files
    return removals


def _nights_worked_on(lake: Lake, hours: int) -> set[dt.date]:
    """Return the nights that a step of the last hours has run on: they may still be going on."""
    since = dt.datetime.now(dt.UTC) - dt.timedelta(hours=hours)
    steps = lake.scan(tables.STEPS).select("dt", "started_at", "seconds")
    ended = pl.col("started_at") + pl.duration(seconds="seconds")
    return set(steps.filter(ended > since).collect()["dt"])


def _catalogues_read(
    lake: Lake, recent: set[dt.date], going: Mapping[Table, list[dt.date]]
) -> set[dt.date]:
    """Return the nights of the catalogues that a night reads which stays, or is worked on.

    The last one is among them: the next night reads it if nothing changes.
    """
    stay = set(lake.nights(tables.INTENT_LABELS)) - set(going.get(tables.INTENT_LABELS, []))
    read = (catalogue_night(lake, night) for night in {*stay, *recent, dt.date.max})
    return {night for night in read if night}


def _before(nights: list[dt.date], recent: set[dt.date]) -> set[dt.date]:
    """Return the last of these nights, and the last before each recent one."""
    earlier = [[night for night in nights if night < one] for one in (dt.date.max, *recent)]
    return {found[-1] for found in earlier if found}


def _promoted_models(lake: Lake, nights: set[dt.date]) -> set[tuple[str, dt.date]]:
    """Return the models that label, and those before them to go back to: version and night.

    That is as of the last night, and as of each of `nights`, for a backfill reads its own time's.
    """
    found = set()
    for night in (dt.date.max, *nights):
        last = promoted(lake, until=night)
        if last is None:
            continue
        found.add(last)
        if before := promoted(lake, until=last[1] - dt.timedelta(days=1)):
            found.add(before)
    return found


def _night(folder: str) -> dt.date | None:
    try:
        return dt.date.fromisoformat(folder)
    except ValueError:
        return None
