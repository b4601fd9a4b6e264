"""Take out of the lake what is too old to be needed: nights, models, pages and old files.

How old is counted in nights back from the newest ingested one, so that a lake of past events keeps
its own; and nothing goes that was made or worked on within `retention.min_age_hours` by the clock.
What a promoted model stands on stays whatever its age. It is done while no step runs.
"""

import datetime as dt
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from tasks.lake import Lake, tables
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
    tables.CATALOGUE: "labels_nights",
    tables.STEPS: "steps_nights",
    tables.CHECK_RESULTS: "steps_nights",
}


@dataclass
class Plan:
    """What upkeep would take out, in the order in which it goes."""

    nights: dict[Table, list[dt.date]] = field(default_factory=dict)
    models: list[Path] = field(default_factory=list)  # folders of weights; their rows stay
    trainings: list[Path] = field(default_factory=list)  # what killed trainings left behind
    pages: list[Path] = field(default_factory=list)  # folders of a night's quality pages
    old_files: dict[Table, list[Path]] = field(default_factory=dict)  # of old versions of tables

    def summary(self, lake: Lake) -> dict[str, Any]:
        """Say what goes, by names below the lake's folder."""

        def below(paths: list[Path]) -> list[str]:
            return [str(path.relative_to(lake.root)) for path in paths]

        old = [file for files in self.old_files.values() for file in files]
        return {
            "nights": {
                table.name: [night.isoformat() for night in nights]
                for table, nights in self.nights.items()
            },
            "models": below(self.models),
            "trainings": below(self.trainings),
            "pages": below(self.pages),
            "old_files": {table.name: len(files) for table, files in self.old_files.items()},
            "old_files_mb": round(sum(file.stat().st_size for file in old) / 1e6, 1),
        }


def upkeep(settings: Settings, *, dry_run: bool = False) -> dict[str, Any]:
    """Take out what the settings under `retention` do not keep; return what went, or would go.

    The files of a partition that goes now go at a later call, when they are old enough.

    Raises LakeError when there is no lake, or a table of it cannot be read.
    """
    lake = Lake.there(settings.lake.root)
    with lake.alone():
        removals = plan(settings)
        summary = {"dry_run": dry_run, **removals.summary(lake)}
        if dry_run:
            return summary
        for table, nights in removals.nights.items():
            keep_digests(settings, table, nights)
            lake.replace(table, table.schema.empty_table(), nights=nights)
            log.info("%s: %d nights up to %s removed", table.name, len(nights), nights[-1])
        for folder in removals.models + removals.trainings + removals.pages:
            shutil.rmtree(folder)
            log.info("%s removed", folder)
        for table in removals.old_files:
            lake.vacuum(table, settings.retention.min_age_hours)
    return summary


def plan(settings: Settings) -> Plan:
    """Work out what the settings do not keep, without touching anything."""
    lake, keep = Lake(settings.lake.root), settings.retention
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
    grown_old = _older_than(keep.min_age_hours)
    folder = lake.root / "model_files"
    if keep.models_nights:
        removals.models = [
            path
            for path in _folders(folder)
            if not path.name.startswith(".") and path.name not in stays and grown_old(path)
        ]
    removals.trainings = [path for path in _folders(folder / ".training") if grown_old(path)]
    pages = {night: path for path in _folders(lake.root / "quality") if (night := _night(path))}
    removals.pages = [pages[night] for night in old(sorted(pages), keep.pages_nights, recent)]
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


def _older_than(hours: int) -> Callable[[Path], bool]:
    """Return what tells whether nothing in a folder was written within the last hours."""
    limit = time.time() - hours * 3600

    def old(folder: Path) -> bool:
        return all(path.stat().st_mtime <= limit for path in (folder, *folder.rglob("*")))

    return old


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


def _night(folder: Path) -> dt.date | None:
    try:
        return dt.date.fromisoformat(folder.name)
    except ValueError:
        return None
