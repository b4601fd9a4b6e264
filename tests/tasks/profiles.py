"""Nights with labels that are made by hand, for the tests of profiles and names.

No model is trained: what is profiled are the labels, and an untrained model has centres, too.
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl
import torch

from elcrec import Config, ELCRec
from elcrec.model import Network
from tasks.lake import Lake, tables
from tasks.registry.intent_ids import Intent, Intents
from tasks.registry.profiles import profile
from tasks.registry.weights import Loaded
from tasks.settings import Settings
from tests.tasks.nights import table, write_histories

# A user's intent and history.
Users = Mapping[str, tuple[int | None, Sequence[int]]]


def untrained(ids: Iterable[int], items: int, born: dt.date) -> Loaded:
    """Return a model of these intents that knows the items i1 to i<items>."""
    ids = list(ids)
    model = ELCRec(Config(n_intents=len(ids), dim=8, heads=1, layers=1, device="cpu"))
    torch.manual_seed(0)
    model.network, model.n_items = Network(model.config, items), items
    intents = [Intent(intent_id=number, born=born) for number in ids]
    return Loaded(
        model,
        pl.Series("item_id", [f"i{number}" for number in range(1, items + 1)]),
        Intents(of_centers=intents, retired=[], next_id=max(ids, default=-1) + 1),
    )


def write_catalogue(
    settings: Settings, night: dt.date, items: Mapping[int, tuple[str | None, Sequence[str]]]
) -> None:
    """Make this the catalogue from a night on: title and categories of each item."""
    rows = [
        {
            "dt": night,
            "item_id": f"i{number}",
            "title": title,
            "categories": list(categories),
            "attributes": None,
        }
        for number, (title, categories) in items.items()
    ]
    empty = pl.from_arrow(tables.CATALOGUE.schema.empty_table())
    assert isinstance(empty, pl.DataFrame)
    lake = Lake(settings.lake.root)
    lake.replace(tables.CATALOGUE, pl.DataFrame(rows, empty.schema), nights=[night])


def label_by_hand(settings: Settings, night: dt.date, users: Users) -> None:
    """Put histories and labels into the lake."""
    write_histories(settings, night, {user: list(items) for user, (_, items) in users.items()})
    empty = pl.from_arrow(tables.INTENT_LABELS.schema.empty_table())
    assert isinstance(empty, pl.DataFrame)
    labels = pl.DataFrame(
        {
            "dt": night,
            "user_id": list(users),
            "intent_id": [intent for intent, _ in users.values()],
            "confidence": [None if intent is None else 0.75 for intent, _ in users.values()],
            "runner_up_id": None,
            "runner_up_confidence": None,
            "n_events": [len(items) for _, items in users.values()],
            "last_ts": dt.datetime.combine(night, dt.time(12), tzinfo=dt.UTC),
            "model_version": "made by hand",
        },
        schema=empty.schema,
    )
    Lake(settings.lake.root).replace(tables.INTENT_LABELS, labels, nights=[night])


def profile_by_hand(
    settings: Settings,
    night: dt.date,
    users: Users,
    *,
    previous: dt.date | None = None,
    gives_names: bool = True,
    ids: Iterable[int] = (),
) -> list[dict[str, Any]]:
    """Label and profile a night; return its `intent_profiles`.

    ids: of intents besides those of the users.
    """
    label_by_hand(settings, night, users)
    living = sorted({intent for intent, _ in users.values() if intent is not None} | set(ids))
    most = max((item for _, items in users.values() for item in items), default=1)
    model = untrained(living, most, night)
    profile(settings, night, model, with_retired=True, previous=previous, gives_names=gives_names)
    return table(settings, tables.INTENT_PROFILES, night).sort("intent_id").to_dicts()


def names_of(settings: Settings, night: dt.date) -> dict[int, str | None]:
    """Return what the intents of a night are called in its tables."""
    rows = table(settings, tables.INTENT_PROFILES, night).sort("intent_id")
    return dict(rows.select("intent_id", "name").iter_rows())
