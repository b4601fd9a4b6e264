"""Labels for the tests of what reads them, put into the lake without a model."""

import datetime as dt

import polars as pl

from tasks.lake import Lake, tables
from tasks.settings import Settings


def labels_of(night: dt.date, users: list[str]) -> pl.DataFrame:
    """Make a label for each user; every third user has no intent."""
    none = [number % 3 == 2 for number in range(len(users))]
    return pl.DataFrame(
        {
            "dt": night,
            "user_id": users,
            "intent_id": [None if no else number % 2 for number, no in enumerate(none)],
            "confidence": [None if no else 0.75 for no in none],
            "runner_up_id": [None if no else 1 - number % 2 for number, no in enumerate(none)],
            "runner_up_confidence": [None if no else 0.25 for no in none],
            "n_events": 3,
            "last_ts": dt.datetime.combine(night, dt.time(12, 30), tzinfo=dt.UTC),
            "model_version": "20261101-abc",
        },
        schema=pl.from_arrow(tables.INTENT_LABELS.schema.empty_table()).schema,
    )


def write_labels(settings: Settings, night: dt.date, labels: pl.DataFrame) -> None:
    """Make these the labels of the night."""
    Lake(settings.lake.root).replace(tables.INTENT_LABELS, labels, nights=[night])
