"""What changed between any two nights: which intents grew, shrank, split, merged, came and went.

Sizes are exact for any two nights. Moves are those of every night between, summed: a user who moved
twice counts twice, so that what came less what went is always how much an intent grew.
"""

import datetime as dt
from collections.abc import Mapping
from typing import Any

import polars as pl
from markupsafe import Markup

from tasks.lake import tables
from tasks.page import charts, words
from tasks.page.intent import name_of
from tasks.page.links import Links
from tasks.page.reader import SIZES, PageLake
from tasks.registry import names

RIBBONS = 24  # largest moves that are drawn
PAIRS = 400  # largest moves in the table
LISTED = 12  # of those that grew, and of those that shrank
PART = 0.2  # of an intent's users at least that went to, or came from, one other: a split or merger
# What the usual nights to begin with are called, by how many days back they are.
SHORTCUTS = {7: "a week before", 28: "four weeks before"}
NEAR = 3  # days that a night may be off which stands for one of these
OTHERS = "other intents"
NOBODY, GONE = "new, or no intent", "gone, or no intent"


def view(lake: PageLake, since: dt.date | None, night: dt.date, links: Links) -> dict[str, Any]:
    """Return what the view of flows shows, from a night (None: a week before) to another."""
    labelled = lake.nights(tables.INTENT_PROFILES)
    nights = [one for one in labelled if one < night]
    unfinished = next((one for one in (night, since) if one and _unfinished(lake, one)), None)
    if unfinished:
        return {
            "since": since,
            "since_nights": nights[::-1],
            "known": False,
            "unfinished": unfinished,
            "shortcuts": _shortcuts(nights, night, links) if unfinished != night else [],
        }
    if since is None:
        week = night - dt.timedelta(days=7)
        since = min(nights, key=lambda one: abs((one - week).days), default=None)
    shortcuts = _shortcuts(nights, night, links)
    if since is None or since not in nights:
        return {
            "since": since,
            "since_nights": nights[::-1],
            "known": False,
            "unfinished": None,
            "shortcuts": shortcuts,
        }
    before, after = _sizes(lake, since), _sizes(lake, night)
    called = names.shown(lake, night)
    moved, missing = _moves(lake, since, night)
    rows = [_row(intent, before, after, called, links) for intent in sorted({*before, *after})]
    grew = [row for row in rows if row["kind"] == "grew"]
    shrank = [row for row in rows if row["kind"] == "shrank"]
    born = [row for row in rows if row["kind"] == "born"]
    retired = [row for row in rows if row["kind"] == "retired"]
    splits = _parts(moved, before, after, called, links, to_new=True)
    mergers = _parts(moved, before, after, called, links, to_new=False)
    largest = moved.head(RIBBONS)
    events = {"born": born, "retired": retired, "split": splits, "merged": mergers}
    return {
        "since": since,
        "since_nights": nights[::-1],
        "shortcuts": shortcuts,
        "known": True,
        "unfinished": None,
        "without": _without(lake, since, night),
        "between": len([one for one in nights if since < one]) + 1,
        "grew": sorted(grew, key=lambda row: -row["change"])[:LISTED],
        "shrank": sorted(shrank, key=lambda row: row["change"])[:LISTED],
        "born": born,
        "retired": retired,
        "passed": [
            name_of(called, intent)
            for intent in sorted(_retired(lake, since, night) - {*before, *after})
        ],
        "absent": _and([word for word, found in events.items() if not found]),
        "steady": sum(row["kind"] == "steady" for row in rows),
        "splits": splits,
        "mergers": mergers,
        "chart": _chart(moved, largest, called, links),
        "twice": _twice(moved, largest),
        "listed": _listed(moved.head(PAIRS), called, links),
        "unlisted": max(0, moved.height - PAIRS),
        "moved": _users(moved, pl.col("one").is_not_null() & pl.col("two").is_not_null()),
        "came": _users(moved, pl.col("one").is_null()),
        "went": _users(moved, pl.col("two").is_null()),
        "shown": min(RIBBONS, moved.height),
        "moves": moved.height,
        "missing": missing,
        "users_before": sum(before.values()),
        "users_after": sum(after.values()),
    }


def _shortcuts(nights: list[dt.date], night: dt.date, links: Links) -> list[dict[str, Any]]:
    """Return the usual nights to begin with, of those that there are: nights before one."""
    if not nights:
        return []
    begin = {max(nights): "the night before"}
    for back, called in SHORTCUTS.items():
        nearest = min(nights, key=lambda one: (abs((night - one).days - back), one))
        off = abs((days := (night - nearest).days) - back)
        if off <= NEAR:
            begin.setdefault(nearest, f"{days} days before" if off else called)
    in_month = [one for one in nights if one >= night.replace(day=1)]
    if in_month and min(in_month) > min(nights):
        begin.setdefault(min(in_month), "the first night of the month")
    if min(nights) > night - dt.timedelta(days=max(SHORTCUTS)):
        begin.setdefault(min(nights), "the first night of all")
    return [
        {"name": called, "night": one, "href": links.flows(one)}
        for one, called in begin.items()
        if one in nights
    ]


def _unfinished(lake: PageLake, night: dt.date) -> bool:
    """Say whether a night was begun and has no labels."""
    return night in lake.nights(tables.STEPS) and night not in lake.nights(tables.INTENT_PROFILES)


def _without(lake: PageLake, since: dt.date, night: dt.date) -> list[str]:
    """Say which nights between two others have no labels, and which there are none of."""
    begun = [one for one in lake.begun() if since <= one <= night]
    failed = [one for one in begun if _unfinished(lake, one)]
    missing = words.between(begun)
    return [
        *([f"no labels on {words.spans(failed)}"] if failed else []),
        *([f"no night on {words.spans(missing)}"] if missing else []),
    ]


def _retired(lake: PageLake, since: dt.date, night: dt.date) -> set[int]:
    """Return the intents that were retired after one night, up to another."""
    rows = lake.kept(tables.INTENT_PROFILES, SIZES, since + dt.timedelta(days=1), night)
    return set(rows.filter(status="retired")["intent_id"])


def _users(moved: pl.DataFrame, which: pl.Expr) -> int:
    return int(moved.filter(which)["users"].sum())


def _sizes(lake: PageLake, night: dt.date) -> dict[int, int]:
    rows = lake.kept(tables.INTENT_PROFILES, SIZES, night, night).filter(
        pl.col("status") != "retired"
    )
    return dict(rows.select("intent_id", "users").iter_rows())


def _row(
    intent: int,
    before: Mapping[int, int],
    after: Mapping[int, int],
    called: names.Names,
    links: Links,
) -> dict[str, Any]:
    then, now = before.get(intent), after.get(intent)
    if then is None:
        kind = "born"
    elif now is None:
        kind = "retired"
    else:
        kind = "grew" if now > then else "shrank" if now < then else "steady"
    change = (now or 0) - (then or 0)
    return {
        "intent": intent,
        "name": name_of(called, intent),
        "href": links.intent(intent) if now is not None else None,
        "then": then,
        "now": now,
        "change": change,
        "relative": change / then if then else None,
        "kind": kind,
    }


def _moves(lake: PageLake, since: dt.date, night: dt.date) -> tuple[pl.DataFrame, list[dt.date]]:
    """Return the moves of the nights after one, summed, and the nights that have none recorded.

    A row a pair of intents, the largest first: one, two (null for none) and users.
    """
    first = since + dt.timedelta(days=1)
    moved = lake.moves(first, night)
    recorded = lake.nights(tables.INTENT_FLOWS)
    labelled = [one for one in lake.nights(tables.INTENT_PROFILES) if first <= one <= night]
    missing = sorted({*labelled} - {*recorded})
    return moved.sort(["users", "one", "two"], descending=[True, False, False]), missing


def _parts(
    moved: pl.DataFrame,
    before: Mapping[int, int],
    after: Mapping[int, int],
    called: names.Names,
    links: Links,
    *,
    to_new: bool,
) -> list[dict[str, Any]]:
    """Return the moves by which an intent gave much of itself to another.

    to_new: to one that is new, which is a split; else by one that ended, which is a merger.
    """
    new, ended = sorted({*after} - {*before}), sorted({*before} - {*after})
    side = pl.col("two").is_in(new) if to_new else pl.col("one").is_in(ended)
    found = []
    for one, two, users in moved.filter(side).iter_rows():
        then = before.get(one)
        if then and two in after and users >= PART * then:
            found.append(_pair(one, two, users, users / then, called, links))
    return found


def _pair(
    one: int | None,
    two: int | None,
    users: int,
    share: float,
    called: names.Names,
    links: Links,
) -> dict[str, Any]:
    return {
        "one": name_of(called, one),
        "two": name_of(called, two),
        "href": links.intent(two) if two is not None else None,
        "users": users,
        "share": min(1.0, share),
    }


def _chart(moved: pl.DataFrame, largest: pl.DataFrame, called: names.Names, links: Links) -> Markup:
    """Draw the largest moves, and what else went from or to an intent that is drawn, as others.

    So the number beside a name is all that went from it, or came to it.
    """
    hrefs = {
        name_of(called, intent): links.intent(intent)
        for one, two, _ in largest.iter_rows()
        for intent in (one, two)
        if intent is not None
    }
    pairs = [
        charts.Ribbon(name_of(called, one, NOBODY), name_of(called, two, GONE), users)
        for one, two, users in largest.iter_rows()
    ]
    rest = _rest(moved, largest)
    from_drawn, to_drawn = (
        rest.join(largest.select(side).unique(), on=side, how="semi", nulls_equal=True)
        .group_by(side)
        .agg(pl.col("users").sum())
        .sort(["users", side], descending=[True, False])
        .iter_rows()
        for side in ("one", "two")
    )
    pairs += [
        charts.Ribbon(name_of(called, one, NOBODY), OTHERS, users, "rest")
        for one, users in from_drawn
    ]
    pairs += [
        charts.Ribbon(OTHERS, name_of(called, two, GONE), users, "rest") for two, users in to_drawn
    ]
    return charts.ribbons(
        pairs,
        "The largest moves between intents: where users came from, and where they went",
        hrefs=hrefs,
    )


def _rest(moved: pl.DataFrame, largest: pl.DataFrame) -> pl.DataFrame:
    """Return the pairs that are not drawn as such."""
    return moved.join(largest, on=["one", "two"], how="anti", nulls_equal=True)


def _twice(moved: pl.DataFrame, largest: pl.DataFrame) -> int:
    """Return how many moves between two intents that are drawn are too small to be a pair."""
    rest = _rest(moved, largest)
    for side in ("one", "two"):
        rest = rest.join(largest.select(side).unique(), on=side, how="semi", nulls_equal=True)
    return int(rest["users"].sum())


def _listed(moves: pl.DataFrame, called: names.Names, links: Links) -> list[dict[str, Any]]:
    """Return moves as rows of a table."""
    return [
        {
            "one": name_of(called, one, NOBODY),
            "two": name_of(called, two, GONE),
            "one_href": None if one is None else links.intent(one),
            "two_href": None if two is None else links.intent(two),
            "moves": users,
        }
        for one, two, users in moves.iter_rows()
    ]


def _and(parts: list[str]) -> str:
    """Join words: born, retired or split."""
    return " or ".join(", ".join(parts).rsplit(", ", 1))
