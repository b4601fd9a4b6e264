"""Which events and items `make run` and `make up` read, where tables go, which night is run."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from local.console import out
from local.generator import generate
from tasks.errors import PipelineError
from tasks.lake import NOT_OF_THE_LAKE, storage_of
from tasks.night.ingest import latest_night
from tasks.settings import REPO, ModelSettings, Settings, load_settings
from tasks.sources import source_of

GENERATED = REPO / "build" / "generated"
GENERATED_INTENTS = 8
GENERATED_EPOCHS = 10  # enough to find them, and a first try takes minutes
LAKES = REPO / "lakes"
OWNER = "source.txt"  # the file of a lake that names the source of its tables


@dataclass(frozen=True)
class Source:
    """Where the events of a run come from and where its tables go."""

    settings: Settings
    overrides: Mapping[str, Any]  # dotted settings, handed to the DAG run as params
    truth: Path | None = None  # the planted intents, when the events are generated


def choose_source(
    events: str | None, lake: str | None, last_night: date, items: str | None = None
) -> Source:
    """Settle the source: the one named, else the settings' own, else generated events.

    Events that the settings do not name have the catalogue that is named with them, or none.
    """
    settings = load_settings()
    own = _place(lake) if lake else None
    overrides: dict[str, Any] = {}
    truth = None
    if events:
        named = _existing(events, "EVENTS")
        root = own or LAKES / _lake_name(named)
        overrides = {"source.path": named, "lake.root": str(_claimed(root, named))}
    elif settings.source.path or settings.source.kind == "postgres":
        if own:
            overrides = {"lake.root": str(_claimed(own, str(source_of(settings))))}
    else:
        path, truth, catalogue = generated_events(last_night)
        overrides["catalogue.path"] = str(catalogue)
        # A world for each last night: on the same date, two of them do different things.
        root = own or LAKES / f"generated-{last_night}"
        overrides |= {"source.path": str(path), "lake.root": str(_claimed(root, str(path)))}
        if settings.model.n_intents == ModelSettings().n_intents:
            overrides["model.n_intents"] = GENERATED_INTENTS
        if settings.model.max_epochs == ModelSettings().max_epochs:
            overrides["model.max_epochs"] = GENERATED_EPOCHS
    if "source.path" in overrides:
        # The settings' readers wait for labels of the settings' own source, and for no others.
        overrides |= {"publish.parquet": "", "publish.postgres_connection": ""}
        overrides.setdefault("catalogue.path", "")
    if items:
        overrides["catalogue.path"] = _existing(items, "ITEMS")
    return Source(load_settings(**overrides), overrides, truth)


def choose_night(asked: date | None, source: Source) -> date:
    """Return the night asked for, else the last one the events have."""
    if asked:
        return asked
    return latest_night(source.settings)


def generated_events(last_night: date) -> tuple[Path, Path, Path]:
    """Return a folder of generated events that end with a night, true intents, and catalogue."""
    folder = GENERATED / last_night.isoformat()
    catalogue = folder / "catalogue.parquet"
    if not (folder / "events").exists() or not catalogue.exists():
        out.print(
            f"Generating events with {GENERATED_INTENTS} known intents, last night {last_night}"
        )
        generate(
            folder,
            users=800,
            items=300,
            intents=GENERATED_INTENTS,
            nights=30,
            last_night=last_night,
            seed=42,
        )
    return folder / "events", folder / "truth.parquet", catalogue


def yesterday() -> date:
    """Return the newest UTC date that is over."""
    return datetime.now(UTC).date() - timedelta(days=1)


def _existing(named: str, variable: str) -> str:
    if "://" in named:
        return named.rstrip("/")  # what is there shows when it is read
    path = Path(named).expanduser().absolute()
    if not path.exists() and not any(character in named for character in "*?["):
        raise PipelineError(f"there is no file or folder {named}: correct {variable}")
    return os.path.normpath(path)


def _lake_name(source: str) -> str:
    name = source.rpartition("/")[2].split(".")[0]
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "events"


def _place(lake: str) -> Path | str:
    return lake.rstrip("/") if "://" in lake else Path(lake).expanduser().absolute()


def _claimed(root: Path | str, source: str) -> Path | str:
    """Return a lake that is the source's own: events of two must not become one history.

    Its file `source.txt` says whose it is. A lake without tables is anybody's.
    """
    storage = storage_of(load_settings(**{"lake.root": root}))
    owner = storage.at(OWNER)
    if set(storage.names()) - NOT_OF_THE_LAKE - {OWNER}:
        try:
            other = storage.read(OWNER).decode().strip()
        except FileNotFoundError:
            raise PipelineError(
                f"{root} holds files, but no {OWNER} that names their source: if it is {source}, "
                f"write that path into {owner}; else name another folder with LAKE=folder"
            ) from None
        if other != source:
            raise PipelineError(
                f"{root} holds the tables of another source ({other}): give this one a lake of "
                f"its own with LAKE=folder, or delete {root}; if that source has only moved to "
                f"{source}, write its new path into {owner}"
            )
    storage.write(OWNER, f"{source}\n".encode())
    return root
