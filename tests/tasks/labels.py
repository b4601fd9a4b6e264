"""Labels for the tests of what reads them, put into the lake without a model."""

import datetime as dt
from typing import Any

import polars as pl

from tasks.lake import Lake, tables
from tasks.night.publish import publish
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


def write_companions(settings: Settings, night: dt.date, labels: pl.DataFrame, name: str) -> None:
    """Put what is published with these labels into the lake: all names of intents begin with name.

    The text is that of people who mean no good: quotes, what SQL and JSON read, and NUL.
    """
    model = labels["model_version"][0]
    intents = sorted(labels["intent_id"].drop_nulls().unique())
    meaning = [{"kind": "word", "value": "a", "log_odds": 1.5}]
    rows: dict[tables.Table, list[dict[str, Any]]] = {
        tables.LABEL_EVIDENCE: [
            {
                "user_id": row["user_id"],
                "intent_id": row["intent_id"],
                "calibrated_confidence": row["confidence"],
                "clear": row["confidence"] and row["confidence"] > 0.5,
                "items": [{"item_id": HOSTILE, "share": 0.5}],
                "intents": [{"intent_id": 0, "probability": 0.75}],
                "model_version": model,
            }
            for row in labels.to_dicts()
        ],
        tables.INTENT_PROFILES: [
            {
                "intent_id": intent,
                "users": 2,
                "share": 0.5,
                "top_items": [{"item_id": "i1", "lift": 2.0}],
                "status": "active",
                "name": f"{name} {intent}",
                "confidence_deciles": [0.5] * 9,
            }
            for intent in intents
        ],
        tables.INTENT_FEATURES: [
            {
                "intent_id": intent,
                "kind": "category",
                "value": HOSTILE + "\0",
                "is_over": True,
                "rank": 1,
                **dict.fromkeys(("share", "expected_share", "log_odds", "score"), 0.5),
            }
            for intent in intents
        ],
        tables.INTENT_NEXT_ITEMS: [
            {"intent_id": 0, "rank": 1, "item_id": "i1", "title": HOSTILE, "score": 1.5}
        ],
        tables.INTENT_USERS: [
            {"intent_id": row["intent_id"], "rank": rank, "user_id": row["user_id"]}
            for rank, row in enumerate(labels.drop_nulls("intent_id").to_dicts(), 1)
        ],
        tables.INTENT_FLOWS: [{"from_intent_id": None, "to_intent_id": 0, "users": 2}],
        tables.INTENT_NAMES: [
            {
                "intent_id": intent,
                "name": f"{name} {intent}",
                "why": "born",
                "rests_on": [HOSTILE],
                "meaning": meaning,
            }
            for intent in intents
        ],
    }
    write_recommendations(settings, night, labels)
    for table, found in rows.items():
        schema = pl.DataFrame(table.schema.empty_table()).schema
        frame = pl.DataFrame([{"dt": night} | row for row in found], schema=schema)
        Lake(settings.lake.root).replace(table, frame, nights=[night])


def write_recommendations(settings: Settings, night: dt.date, labels: pl.DataFrame) -> None:
    """Recommend each user of these labels two items; without labels, the night has none."""
    schema = pl.DataFrame(tables.USER_RECOMMENDATIONS.schema.empty_table()).schema
    items = [{"item_id": HOSTILE, "score": 1.5}, {"item_id": "i1", "score": -0.5}]
    rows = [
        {"dt": night, "user_id": user, "items": items, "model_version": model}
        for user, model in labels.select("user_id", "model_version").iter_rows()
    ]
    frame = pl.DataFrame(rows, schema=schema)
    Lake(settings.lake.root).replace(tables.USER_RECOMMENDATIONS, frame, nights=[night])


def publish_old_write_new(settings: Settings, night: dt.date, users: list[str]) -> None:
    """Publish labels of these users with names "Old …", then put labels of dora with "New …"."""
    for name, those in (("Old", users), ("New", ["dora"])):
        labels = labels_of(night, those)
        write_labels(settings, night, labels)
        write_companions(settings, night, labels, name)
        if name == "Old":
            publish(settings, night)


HOSTILE = """'); DROP TABLE x; -- "{}[] <b>"""
