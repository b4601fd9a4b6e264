"""Looking users up: their labels, evidence and histories, by the statistics of the files.

Labels, evidence and histories are sorted by user, so the reader of Parquet skips every group of
rows that cannot have the user. Nothing here reads a night's labels as a whole.
"""

import datetime as dt
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import polars as pl

from tasks.lake import tables
from tasks.lake.tables import Table
from tasks.page import pictures, words
from tasks.page.features import LONGEST_NAME, features
from tasks.page.links import Links
from tasks.page.reader import SIZES, PageLake
from tasks.registry import names
from tasks.registry.catalogue import catalogue_night
from tasks.settings import LabelSettings, Settings

NIGHTS = 28  # of labels that are shown
NEWEST = 60  # items of a history that are shown
BROWSED = 24  # intents, the largest ones, whose closest users are offered to begin with
PATIENCE = 0.25  # seconds in which times of events are looked for; more nights are not begun then
MUCH = 0.1  # change of how sure a label is that asks for an explanation
STRIDES = (1, 2, 4, 8, 16, 32, 64, 128)  # days that are looked through at a time, the newest first


def view(
    settings: Settings,
    lake: PageLake,
    night: dt.date,
    user: str,
    links: Links,
    *,
    all_items: bool = False,
) -> dict[str, Any] | None:
    """Return what the user view shows; None: the night has no such user."""
    label = _row(lake, tables.INTENT_LABELS, night, user)
    if label is None:
        return None
    evidence = _row(lake, tables.LABEL_EVIDENCE, night, user)
    called = names.shown(lake, night)
    history = histories(lake, night, [user], None if all_items else NEWEST).get(user, [])
    found_times = times_of(lake, night, user, history)
    share = {one["item_id"]: one["share"] for one in (evidence or {}).get("items") or []}
    expected = _recommended(lake, night, user)
    about = catalogued(lake, night, [*history, *share, *expected])
    title = {item: one.title for item, one in about.items() if one.title is not None}
    ties = _ties(lake, night, label["intent_id"], share, history, about)
    images = pictures.of(settings.page, lake, night, [*history, *expected])
    seen: dict[str, int] = {}
    items = []
    for item in history:  # the newest first
        at = seen[item] = seen.get(item, -1) + 1
        when = found_times.get(item, [])
        items.append(
            {
                "item": words.shown(item),
                "title": words.shown(title.get(item) or item),
                "has_title": item in title,
                "image": images.get(item),
                "time": words.moment(when[at]) if at < len(when) else None,
                "share": share.get(item) if at == 0 else None,
            }
        )
    older = [item for item in share if item not in seen]
    top = _top(label, evidence, called, links)
    return {
        "user": user,
        "label": label,
        "name": _name(called, label["intent_id"]),
        "href": None if label["intent_id"] is None else links.intent(label["intent_id"]),
        "evidence": evidence,
        "because": [
            {
                "title": words.shown(title.get(item) or item),
                "share": of_it,
                "is_older": item in older,
                "categories": ties.of[item],
            }
            for item, of_it in share.items()
        ],
        "ties": ties,
        "recommended": [
            {
                "item": words.shown(item),
                "title": words.shown(title.get(item) or item),
                "has_title": item in title,
                "image": images.get(item),
            }
            for item in expected
        ],
        "other_items": max(0.0, 1 - sum(share.values())) if share else None,
        "top": top,
        "preferred": _preferred(top),
        "changes_when": changes_when(settings.label),
        "clear_above": settings.label.clear_above,
        "course": (course := _course(lake, night, user, called, links)),
        "spells": _spells(course),
        "without_event": _without_event(course),
        "items": items,
        "more": (label["n_events"] or 0) - len(items),
        "all_items": all_items,
        "untimed": sum(one["time"] is None for one in items),
        "titled": any(one["has_title"] for one in items),
    }


def absent(lake: PageLake, night: dt.date, user: str, links: Links) -> dict[str, Any]:
    """Say why a night has no such user: it has no labels, or the user came later, or left.

    Only the labels of nights around it are looked through, as many as the user view shows.
    """
    nights = lake.nights(tables.INTENT_LABELS)
    later = [one for one in nights if one > night][:NIGHTS]
    earlier = [one for one in nights if one < night][-NIGHTS:]
    around = [*earlier, *later]
    seen: list[dt.date] = []
    if around:
        of_user = pl.col("user_id") == user
        rows = lake.scan(tables.INTENT_LABELS, around[0], around[-1]).filter(of_user)
        seen = rows.select("dt").collect()["dt"].to_list()
    first = min((one for one in seen if one > night), default=None)
    last = max((one for one in seen if one < night), default=None)
    return {
        "labelled": night in nights,
        "first": first if last is None else None,
        "last": last,
        "href_first": links.of(first).user(user) if first else None,
        "href_last": links.of(last).user(user) if last else None,
    }


def closest(
    settings: Settings, lake: PageLake, night: dt.date, links: Links
) -> list[dict[str, Any]]:
    """Return users to begin with: the closest ones of the largest intents, none of small ones."""
    sizes = (
        lake.kept(tables.INTENT_PROFILES, SIZES, night, night)
        .filter(pl.col("users") >= settings.page.min_users)
        .sort(["users", "intent_id"], descending=[True, False])
        .head(BROWSED)
    )
    rows = (
        lake.scan(tables.INTENT_USERS, night, night)
        .sort("intent_id", "rank")
        .select("intent_id", "user_id")
        .collect()
    )
    of_intent: dict[int, list[str]] = {}
    for intent, user in rows.iter_rows():
        of_intent.setdefault(intent, []).append(user)
    called = names.shown(lake, night)
    return [
        {
            "name": _name(called, intent),
            "href": links.intent(intent),
            "users": [
                {"shown": words.shown(user, 24), "href": links.user(user)}
                for user in of_intent[intent]
            ],
        }
        for intent in sizes["intent_id"]
        if intent in of_intent
    ]


def changes_when(label: LabelSettings) -> str:
    """Say when a label changes to another intent, by the settings."""
    ratio, idle = label.probability_ratio, label.idle_probability_ratio
    said = (
        f"when another intent is more than {ratio:g} times as probable"
        if ratio > 1
        else "when another intent is more probable"
    )
    if idle == math.inf:
        return f"only after a new event of the user, and {said}"
    if idle == ratio:
        return f"only {said}"
    return f"only {said}, or more than {idle:g} times if the user has no new event"


def examples(
    lake: PageLake, night: dt.date, users: Sequence[str], most: int
) -> list[dict[str, Any]]:
    """Return the newest items of some users, with what speaks for their labels marked."""
    evidence = {
        row["user_id"]: row for row in _rows(lake, tables.LABEL_EVIDENCE, night, users).to_dicts()
    }
    newest = histories(lake, night, users, None)
    title = titles(lake, night, {item for items in newest.values() for item in items})
    found = []
    for user in users:
        told = evidence.get(user) or {}
        share = {one["item_id"]: one["share"] for one in told.get("items") or []}
        items, once = [], set()
        its_own = newest.get(user, [])
        # What speaks for the label is shown even where it is far back.
        for at, item in enumerate(its_own):
            if item in once or (at >= most and item not in share):
                continue
            once.add(item)
            items.append(
                {
                    "title": words.shown(title.get(item) or item, 48),
                    "share": share.get(item),
                    "gap": at >= most,
                }
            )
        found.append(
            {
                "user": user,
                "shown": words.shown(user, 40),
                "items": items,
                "events": len(its_own),
                "confidence": told.get("calibrated_confidence"),
                "clear": told.get("clear"),
            }
        )
    # They are chosen by the model's own confidence; they are sorted by the one that is shown.
    return sorted(
        found, key=lambda one: -one["confidence"] if one["confidence"] is not None else 1.0
    )


def histories(
    lake: PageLake, night: dt.date, users: Sequence[str], newest: int | None
) -> dict[str, list[str]]:
    """Return the item ids of some users' histories, the newest first."""
    rows = _rows(lake, tables.SEQUENCES, night, users, ("user_id", "items"))
    by_user = {
        user: list(reversed(items))[:newest]
        for user, items in rows.iter_rows()
        if items is not None
    }
    wanted = sorted({index for items in by_user.values() for index in items})
    ids = dict(
        lake.scan(tables.ITEMS)
        .filter(pl.col("item_index").is_in(wanted))
        .select("item_index", "item_id")
        .collect()
        .iter_rows()
    )
    return {user: [ids[index] for index in items] for user, items in by_user.items()}


class Catalogued(NamedTuple):
    """What a catalogue says of an item."""

    title: str | None
    categories: tuple[str, ...]


def catalogued(lake: PageLake, night: dt.date, items: Iterable[str]) -> dict[str, Catalogued]:
    """Return what the catalogue of a night says of items; of those that it has."""
    its = catalogue_night(lake, night)
    if its is None:
        return {}
    rows = lake.scan(tables.CATALOGUE, its, its).filter(pl.col("item_id").is_in(sorted(set(items))))
    return {
        item: Catalogued(title, tuple(categories or ()))
        for item, title, categories in rows.select("item_id", "title", "categories")
        .collect()
        .iter_rows()
    }


def titles(lake: PageLake, night: dt.date, items: Iterable[str]) -> dict[str, str]:
    """Return the titles that items have in the catalogue of a night."""
    about = catalogued(lake, night, items)
    return {item: one.title for item, one in about.items() if one.title is not None}


class Ties(NamedTuple):
    """How what speaks for a label ties to the categories that its intent has more often.

    typical: these categories, as the intent's own view shows them. of: for each item that speaks
    for the label its categories, each with whether it is one of them. share: of the evidence, of
    items with one of them; listed: of the evidence, of all items that are listed. events: of the
    history, of items with one of them.
    """

    typical: list[str]
    of: dict[str, list[tuple[str, bool]]]
    share: float
    listed: float
    events: int


def _ties(
    lake: PageLake,
    night: dt.date,
    intent: int | None,
    share: Mapping[str, float],
    history: Sequence[str],
    about: Mapping[str, Catalogued],
) -> Ties:
    """Hold the categories of items that speak for a label against those of its intent."""
    its_own = {} if intent is None else features(lake, night, intent).get(intent, {})
    typical = [one.text for one in its_own.get("category", [])]
    of = {
        item: [
            (text, text in typical)
            for text in (words.shown(one, LONGEST_NAME) for one in one.categories)
        ]
        for item, one in about.items()
    }
    tied = {item for item, its in of.items() if any(shared for _, shared in its)}
    return Ties(
        typical,
        {item: of.get(item, []) for item in share},
        sum(of_it for item, of_it in share.items() if item in tied),
        sum(share.values()),
        sum(item in tied for item in history),
    )


def _recommended(lake: PageLake, night: dt.date, user: str) -> list[str]:
    """Return the items recommended to a user on a night, the best first; none where there are none.

    The step is optional, and a lake from before it has no such table.
    """
    if night not in lake.nights(tables.USER_RECOMMENDATIONS):
        return []
    row = _row(lake, tables.USER_RECOMMENDATIONS, night, user)
    return [one["item_id"] for one in (row or {}).get("items") or []]


def times_of(
    lake: PageLake, night: dt.date, user: str, history: Sequence[str]
) -> dict[str, list[dt.datetime]]:
    """Return when the user had the items of a history, the newest time of each first.

    Events are not sorted by user. So days are looked through from the newest back, until every item
    has its time or `PATIENCE` is over; items further back have none.
    """
    days = [one for one in lake.nights(tables.EVENTS) if one <= night]
    missing = len(history)
    found: dict[str, list[dt.datetime]] = {}
    until = time.monotonic() + PATIENCE
    strides = iter(STRIDES)
    while days and missing > 0 and time.monotonic() < until:
        stride = next(strides, STRIDES[-1])
        days, some = days[:-stride], days[-stride:]
        rows = (
            lake.scan(tables.EVENTS, some[0], some[-1])
            .filter(pl.col("user_id") == user)
            .select("item_id", "ts")
            .collect()
            .sort("ts", descending=True)
        )
        missing -= rows.height
        for item, ts in rows.iter_rows():
            found.setdefault(item, []).append(ts)
    return found


def _row(lake: PageLake, table: Table, night: dt.date, user: str) -> dict[str, Any] | None:
    rows = _rows(lake, table, night, [user]).to_dicts()
    return rows[0] if rows else None


def _rows(
    lake: PageLake,
    table: Table,
    night: dt.date,
    users: Sequence[str],
    columns: Sequence[str] | None = None,
) -> pl.DataFrame:
    rows = lake.scan(table, night, night).filter(pl.col("user_id").is_in(list(users)))
    return rows.select(columns or list(table.schema.names)).collect()


def _name(called: names.Names, intent: int | None) -> str:
    if intent is None:
        return "no intent"
    name = called.of(intent)
    return words.shown(name.name, 60) if name else f"Intent {intent}"


def _top(
    label: dict[str, Any], evidence: dict[str, Any] | None, called: names.Names, links: Links
) -> list[dict[str, Any]]:
    """Return the three most probable intents, or the two that the label names; and the label.

    Where nothing is calibrated there are no probabilities: the model's own mean something else.
    """
    rows = list((evidence or {}).get("intents") or [])
    if not rows:
        both = [label["intent_id"], label["runner_up_id"]]
        if (label["runner_up_confidence"] or 0) > (label["confidence"] or 0):
            both.reverse()
        rows = [{"intent_id": intent, "probability": None} for intent in both]
    if label["intent_id"] not in [row["intent_id"] for row in rows]:
        sure = (evidence or {}).get("calibrated_confidence")
        rows.append({"intent_id": label["intent_id"], "probability": sure})
    return [
        {
            "name": _name(called, row["intent_id"]),
            "href": links.intent(row["intent_id"]),
            "probability": row["probability"],
            "is_label": row["intent_id"] == label["intent_id"],
        }
        for row in rows
        if row["intent_id"] is not None
    ]


def _preferred(top: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the intent that is more probable than the label, if there is one."""
    label = next((one["probability"] for one in top if one["is_label"]), None)
    first = top[0] if top else None
    if first is None or first["is_label"] or first["probability"] == label is not None:
        return None
    return first


def _course(
    lake: PageLake, night: dt.date, user: str, called: names.Names, links: Links
) -> list[dict[str, Any]]:
    """Return the user's label on each of the last nights, the newest first."""
    first = night - dt.timedelta(days=NIGHTS - 1)
    nights = [one for one in lake.nights(tables.INTENT_LABELS) if first <= one <= night]
    if not nights:
        return []
    rows = (
        lake.scan(tables.INTENT_LABELS, first, night)
        .filter(pl.col("user_id") == user)
        .select("dt", "intent_id", "n_events")
        .collect()
    )
    by_night = {row["dt"]: row for row in rows.to_dicts()}
    sure = dict(
        lake.scan(tables.LABEL_EVIDENCE, first, night)
        .filter(pl.col("user_id") == user)
        .select("dt", "calibrated_confidence")
        .collect()
        .iter_rows()
    )
    found: list[dict[str, Any]] = []
    before: dict[str, Any] | None = None
    for one in nights:
        row = by_night.get(one)
        intent = row["intent_id"] if row else None
        changed = bool(row and before and before["intent_id"] != intent)
        new_events = row["n_events"] - before["n_events"] if row and before else None
        if row and not before and one > nights[0]:
            new_events = row["n_events"]  # the user is new: all events are
        found.append(
            {
                "night": one,
                "intent": intent,
                "name": _name(called, intent) if row else "no label",
                "href": links.of(one).intent(intent) if intent is not None else None,
                "confidence": sure.get(one),
                "changed": changed,
                "new_events": new_events,
            }
        )
        before = row or before
    return found[::-1]


def _without_event(course: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the newest night on which a label became much more or less sure without a new event.

    night, and how sure the label was before and is: before, after. None: there is no such night.
    """
    for now, before in pairwise(course):  # the newest first
        sure, was = now["confidence"], before["confidence"]
        if now["intent"] != before["intent"] or now["new_events"] != 0 or None in (sure, was):
            continue
        if abs(sure - was) >= MUCH:
            return {"night": now["night"], "before": was, "after": sure}
    return None


def _spells(course: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join nights of the same label, the newest first: from when to when, and what came in."""
    found: list[dict[str, Any]] = []
    for one in course:
        last = found[-1] if found else None
        if last and last["intent"] == one["intent"] and last["name"] == one["name"]:
            last["first"] = one["night"]
            last["nights"] += 1
            last["new_events"] += one["new_events"] or 0
        else:
            found.append(
                {
                    "intent": one["intent"],
                    "name": one["name"],
                    "href": one["href"],
                    "first": one["night"],
                    "last": one["night"],
                    "nights": 1,
                    "new_events": one["new_events"] or 0,
                }
            )
    return found
