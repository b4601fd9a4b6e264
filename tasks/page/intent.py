"""One intent: what its users are after, its history, where they came from, who they are."""

import datetime as dt
import math
from collections.abc import Sequence
from typing import Any

import polars as pl
from markupsafe import Markup

from tasks.lake import tables
from tasks.page import charts, people, pictures, words, zoom
from tasks.page.features import MOST, is_more
from tasks.page.links import Links
from tasks.page.reader import SIZES, PageLake
from tasks.registry import names, places
from tasks.settings import Settings

KINDS = {
    "category": "Categories",
    "item": "Items",
    "word": "Words of titles",
    "event_type": "Kinds of events",
}
SELDOM = 5
HISTORY = 10  # newest items shown of an example user
LARGEST_FLOWS = 8  # of each side; the others are together
FLOW_NIGHTS = 7
ALIKE = 4  # nearest intents that are named


def view(
    settings: Settings, lake: PageLake, night: dt.date, intent: int, links: Links
) -> dict[str, Any] | None:
    """Return what the view of one intent shows; None: the night has no such intent."""
    told = about(lake, night, intent, links)
    if told is None:
        return None
    called = names.shown(lake, night)
    hidden = told["profile"]["users"] < settings.page.min_users
    expected = [item["id"] for item in told["next_items"]]
    return told | {
        "clear": lake.clear(night).get(intent),
        "images": pictures.of(settings.page, lake, night, expected),
        **_neighbours(lake, night, intent, called, links),
        "history": _history(lake, night, intent),
        "flows": _flows(lake, night, intent, called, links),
        "hidden": hidden,
        "min_users": settings.page.min_users,
        "examples": [] if hidden else _examples(lake, night, intent),
    }


def about(lake: PageLake, night: dt.date, intent: int, links: Links) -> dict[str, Any] | None:
    """Return what an intent is about, without a user; None: the night has no such intent."""
    rows = lake.scan(tables.INTENT_PROFILES, night, night).filter(intent_id=intent).collect()
    if rows.is_empty():
        return None
    profile = rows.to_dicts()[0]
    called = names.shown(lake, night)
    name = called.of(intent)
    features = lake.scan(tables.INTENT_FEATURES, night, night).filter(intent_id=intent).collect()
    return {
        "intent": intent,
        "name": words.shown(name.name, 80) if name else f"Intent {intent}",
        "is_named": bool(name and name.by),
        "named_by": words.shown(name.by, 60) if name and name.by else None,
        # What counts after the newest night is said of that night where it is given.
        "is_later": bool(name and name.by and name.night > night)
        and night != max(lake.nights(tables.INTENT_LABELS)),
        "given": name.name if name and name.by else "",
        "description": name.description if name and name.by else None,
        "automatic": words.shown(called.automatic[intent].name, 80)
        if intent in called.automatic
        else None,
        "profile": profile,
        "came_from": [
            {
                "name": name_of(called, one["intent_id"]),
                "href": links.intent(one["intent_id"]),
                "share": one["share"],
            }
            # The shares are those of each night's own training: of its first users on one alone.
            for one in (profile["came_from"] or [] if profile["born"] == night else [])
            if one["intent_id"] != intent
        ],
        "confidence": _confidence(profile["confidence_deciles"] or []),
        "features": _features(features, is_over=True),
        "seldom": _features(features, is_over=False),
        "next_items": _next_items(lake, night, intent),
        "images": {},
    }


def name_of(called: names.Names, intent: int | None, otherwise: str = "no intent") -> str:
    """Return what an intent is called on the page."""
    if intent is None:
        return otherwise
    name = called.of(intent)
    return words.shown(name.name, 60) if name else f"Intent {intent}"


def _confidence(deciles: Sequence[float]) -> dict[str, str] | None:
    if len(deciles) != 9:
        return None
    return {
        "low": words.sure(deciles[0]),
        "middle": words.sure(deciles[4]),
        "high": words.sure(deciles[8]),
    }


def _features(rows: pl.DataFrame, *, is_over: bool) -> list[dict[str, Any]]:
    """Return what the intent's users have more often or less often than all, by kind."""
    found = []
    for kind, title in KINDS.items():
        most = MOST[kind] if is_over else SELDOM
        of_kind = (
            rows.filter(pl.col("kind") == kind, is_more() if is_over else ~pl.col("is_over"))
            .sort("rank")
            .to_dicts()
        )
        # What may be chance stands only where nothing is surely so.
        sure = [row for row in of_kind if row["score"] != 0]
        of_kind = (sure or of_kind)[:most]
        # Of each kind the longest bar is nearly whole: words are much rarer than items.
        scale = 1.1 * max(
            [row["share"] for row in of_kind] + [row["expected_share"] for row in of_kind],
            default=1.0,
        )
        listed = [
            {
                "value": words.shown(row["title"] or row["value"], 60),
                "id": words.shown(row["value"]) if kind == "item" and row["title"] else None,
                "share": words.percent(row["share"], 0 if row["share"] >= 0.1 else 1),
                "times": row["share"] / row["expected_share"] if row["expected_share"] else None,
                "bar": charts.bar(
                    row["share"] / scale if scale else 0.0,
                    f"{words.percent(row['share'])} here, "
                    f"{words.percent(row['expected_share'])} of all users",
                    mark=row["expected_share"] / scale if scale else 0.0,
                    width=120,
                ),
            }
            for row in of_kind
        ]
        # Kinds of events are few, and nearly always mixed as they are everywhere.
        if listed and (sure or kind != "event_type"):
            found.append({"kind": kind, "title": title, "rows": listed, "is_sure": bool(sure)})
    return found


def _next_items(lake: PageLake, night: dt.date, intent: int) -> list[dict[str, Any]]:
    rows = (
        lake.scan(tables.INTENT_NEXT_ITEMS, night, night)
        .filter(intent_id=intent)
        .sort("rank")
        .collect()
    )
    return [
        {
            "title": words.shown(row["title"] or row["item_id"], 60),
            "id": row["item_id"],
        }
        for row in rows.to_dicts()
    ]


def _neighbours(
    lake: PageLake, night: dt.date, intent: int, called: names.Names, links: Links
) -> dict[str, Any]:
    """Return the intents that are nearest on the map, of those that have users, and where that is.

    alike: none where the intent has no place. on_map: the part of the map around the intent; None
    where the map does not have it.
    """
    where = places.of(lake)
    sizes = lake.kept(tables.INTENT_PROFILES, SIZES, night, night).filter(pl.col("users") > 0)
    there = {other: where[other] for other in sizes["intent_id"] if other in where}
    here = where.get(intent)
    if here is None:
        return {"alike": [], "on_map": None}
    near = sorted(
        (math.dist(here, place), other) for other, place in there.items() if other != intent
    )
    on_map = None
    if intent in there:
        part = zoom.closest(intent, zoom.units(there))
        on_map = links.part(part.written, show=intent)
    return {
        "alike": [
            {"name": name_of(called, other), "href": links.intent(other)}
            for _, other in near[:ALIKE]
        ],
        "on_map": on_map,
    }


def _history(lake: PageLake, night: dt.date, intent: int) -> dict[str, Any]:
    """Return the size of the intent on every night since its birth."""
    rows = lake.kept(tables.INTENT_PROFILES, SIZES, None, night).filter(intent_id=intent).sort("dt")
    days, users, shares = (rows[name].to_list() for name in ("dt", "users", "share"))
    tell = [
        f"{words.plural(count, 'user')}, {words.percent(share)}"
        for count, share in zip(users, shares, strict=True)
    ]
    chart = Markup("")
    if len(days) > 1:
        chart = charts.lines(
            [words.day(day) for day in days],
            [charts.Line("users", users)],
            f"Users of this intent, {words.day(days[0])} to {words.day(days[-1])}: "
            f"from {users[0]:,} to {users[-1]:,}",
            tell={"users": tell},
        )
    table = [
        {"day": day, "users": count, "share": share}
        for day, count, share in zip(days, users, shares, strict=True)
    ]
    return {"chart": chart, "rows": table[::-1]}


def _flows(
    lake: PageLake, night: dt.date, intent: int, called: names.Names, links: Links
) -> dict[str, Any]:
    """Return who came and who went over the last nights, moves summed."""
    first = night - dt.timedelta(days=FLOW_NIGHTS - 1)
    rows = (
        lake.scan(tables.INTENT_FLOWS, first, night)
        .filter(
            (pl.col("from_intent_id") == intent) | (pl.col("to_intent_id") == intent),
        )
        .collect()
    )
    nights = [one for one in lake.nights(tables.INTENT_FLOWS) if first <= one <= night]
    labelled = lake.nights(tables.INTENT_LABELS)
    before = max((one for one in labelled if nights and one < nights[0]), default=None)
    moved = rows.filter(~pl.col("from_intent_id").eq_missing(pl.col("to_intent_id")))
    came, went = (
        moved.filter(pl.col(here) == intent)
        .group_by(there)
        .agg(pl.col("users").sum())
        .sort(["users", there], descending=[True, False])
        .iter_rows()
        for here, there in (("to_intent_id", "from_intent_id"), ("from_intent_id", "to_intent_id"))
    )
    sides = {}
    for side, found, none in (
        ("came", came, "new, or without an intent"),
        ("went", went, "gone, or without an intent"),
    ):
        listed = [
            {
                "name": name_of(called, other, none),
                "href": None if other is None else links.intent(other),
                "moves": moves,
            }
            for other, moves in found
        ]
        rest = listed[LARGEST_FLOWS:]
        sides[side] = listed[:LARGEST_FLOWS] + (
            [
                {
                    "name": f"{len(rest)} others",
                    "href": None,
                    "moves": sum(one["moves"] for one in rest),
                }
            ]
            if rest
            else []
        )
    return {
        **sides,
        "nights": len(nights),
        "first": nights[0] if nights else None,
        "before": before,
        "sum_came": sum(one["moves"] for one in sides["came"]),
        "sum_went": sum(one["moves"] for one in sides["went"]),
    }


def _examples(lake: PageLake, night: dt.date, intent: int) -> list[dict[str, Any]]:
    rows = (
        lake.scan(tables.INTENT_USERS, night, night)
        .filter(intent_id=intent)
        .sort("rank")
        .select("user_id")
        .collect()
    )
    return people.examples(lake, night, rows["user_id"].to_list(), HISTORY)
