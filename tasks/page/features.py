"""What an intent has more often than others, as its own view, the table and the users show it."""

import datetime as dt
from typing import NamedTuple

import polars as pl

from tasks.lake import tables
from tasks.page import words
from tasks.page.reader import PageLake

MOST = {"category": 6, "word": 6, "item": 8, "event_type": 4}  # features shown of a kind
LONGEST_NAME = 48  # characters shown of a category, a title or a word
SEARCHED = ("category", "item", "word")


LEAST = 1.05  # times as often as all users, of what is listed as more often


def is_more() -> pl.Expr:
    """Tell of rows of `intent_features` which are so much more often that it is worth a line."""
    return pl.col("is_over") & (pl.col("share") >= LEAST * pl.col("expected_share"))


class Feature(NamedTuple):
    """What an intent has more often than others, and how much more, as they are shown."""

    text: str
    strength: str


def features(
    lake: PageLake, night: dt.date, intent: int | None = None
) -> dict[int, dict[str, list[Feature]]]:
    """Return what each intent has more often than others, as its view shows it, by kind.

    Titles stand for items, ids where there is no title. intent: of this one alone.
    """
    rows = (
        lake.kept(
            tables.INTENT_FEATURES,
            (
                *("dt", "intent_id", "kind", "value", "title", "is_over", "rank", "score"),
                *("share", "expected_share"),
            ),
            night,
            night,
        )
        .filter(True if intent is None else pl.col("intent_id") == intent)
        .filter(is_more(), pl.col("kind").is_in(list(SEARCHED)))
        # What may be chance stands only where nothing is surely so.
        .filter((pl.col("score") != 0) | ((pl.col("score") == 0).all().over("intent_id", "kind")))
        .sort("intent_id", "kind", "rank")
    )
    found: dict[int, dict[str, list[Feature]]] = {}
    for of_it, kind, value, title, share, of_all in rows.select(
        "intent_id", "kind", "value", "title", "share", "expected_share"
    ).iter_rows():
        listed = found.setdefault(of_it, {}).setdefault(kind, [])
        if len(listed) < MOST[kind]:
            strength = words.percent(share, 0 if share >= 0.1 else 1)
            if of_all:
                strength += f", {words.times(share / of_all)} as often as all users"
            listed.append(Feature(words.shown(title or value, LONGEST_NAME), strength))
    return found
