"""The intents of a night: the table to search and sort, and the map."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl
from markupsafe import Markup

from tasks.lake import tables
from tasks.page import charts, words
from tasks.page.links import Links
from tasks.page.night import window
from tasks.page.reader import SIZES, PageLake
from tasks.registry import names, places
from tasks.registry.profiles import BEFORE

CATEGORIES, TITLES = 3, 2  # shown of each intent

# What the table can be sorted by, and whether the largest comes first when it is chosen.
SORTS = {
    "name": False,
    "users": True,
    "change": True,
    "confidence": True,
    "age": True,
}


def view(
    lake: PageLake,
    night: dt.date,
    links: Links,
    *,
    search: str = "",
    sort: str = "users",
    up: bool | None = None,
) -> dict[str, Any]:
    """Return the rows and the map of the intents of a night.

    search: words that the number, the name, a category or a title has to contain. sort: a key of
    `SORTS`; up: the smallest first.
    """
    rows = listed(lake, night, links)
    shown = [row for row in rows if _matches(row, search)]
    key = sort if sort in SORTS else "users"
    ascending = not SORTS[key] if up is None else up
    known = [row for row in shown if row["sort"][key] is not None]
    unknown = [row for row in shown if row["sort"][key] is None]
    known.sort(key=lambda row: row["intent"])
    known.sort(key=lambda row: row["sort"][key], reverse=not ascending)
    in_view = {row["intent"] for row in shown}
    compared = next((row["compared"] for row in rows if row["compared"]), None)
    return {
        "rows": [*known, *unknown],
        "all": len(rows),
        "in_use": sum(row["users"] > 0 for row in rows),
        "users": sum(row["users"] for row in rows),
        "map": map_of(rows, links, in_view if search else None),
        "placed": sum(row["place"] is not None for row in rows),
        "sort": key,
        "up": ascending,
        "search": search,
        "compared": compared,
    }


def listed(lake: PageLake, night: dt.date, links: Links) -> list[dict[str, Any]]:
    """Return a row an intent of a night, the largest first."""
    nights = window(lake, night)
    history = lake.kept(tables.INTENT_PROFILES, SIZES, nights[0] if nights else night, night)
    sizes: dict[int, dict[dt.date, tuple[int, float]]] = {}
    for day, intent, users, share in history.select(
        "dt", "intent_id", "users", "share"
    ).iter_rows():
        sizes.setdefault(intent, {})[day] = (users, share)
    now = lake.kept(
        tables.INTENT_PROFILES,
        ("dt", "intent_id", "users", "share", "status", "born", "confidence_deciles"),
        night,
        night,
    ).sort(["users", "intent_id"], descending=[True, False])
    categories, titles = features(lake, night)
    called = names.shown(lake, night)
    where = places.of(lake)
    found = []
    for row in now.to_dicts():
        intent = row["intent_id"]
        of_it = sizes.get(intent, {})
        name = called.of(intent)
        change, compared = _change(of_it, night, set(nights))
        series = [of_it[one][0] if one in of_it else None for one in nights]
        deciles = row["confidence_deciles"] or []
        confidence = deciles[4] if len(deciles) == 9 else None
        title = name.name if name else f"Intent {intent}"
        found.append(
            {
                "intent": intent,
                "href": links.intent(intent),
                "name": words.shown(title, 60),
                "named_by": words.shown(name.by, 60) if name and name.by else None,
                "users": row["users"],
                "share": row["share"],
                "status": row["status"],
                "born": row["born"],
                "is_new": row["born"] == night,
                "change": change,
                "compared": compared,
                "course": charts.spark(
                    series,
                    f"Users with this intent, last {len(nights)} nights, now {row['users']:,}",
                ),
                "bar": charts.bar(
                    row["share"], f"{row['share']:.1%} of the users with an intent", width=72
                ),
                "confidence": confidence,
                "categories": categories.get(intent, []),
                "titles": titles.get(intent, []),
                "place": where.get(intent),
                "sort": {
                    "name": title.casefold(),
                    "users": row["users"],
                    "change": change,
                    "confidence": confidence,
                    "age": (night - row["born"]).days if row["born"] else None,
                },
            }
        )
    return found


def features(lake: PageLake, night: dt.date) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Return the first categories and item titles of each intent, ids where there is no title."""
    rows = (
        lake.kept(
            tables.INTENT_FEATURES,
            ("dt", "intent_id", "kind", "value", "title", "is_over", "rank"),
            night,
            night,
        )
        .filter(pl.col("is_over"), pl.col("kind").is_in(["category", "item"]))
        .sort("intent_id", "kind", "rank")
    )
    categories: dict[int, list[str]] = {}
    titles: dict[int, list[str]] = {}
    for intent, kind, value, title in rows.select(
        "intent_id", "kind", "value", "title"
    ).iter_rows():
        found, most = (categories, CATEGORIES) if kind == "category" else (titles, TITLES)
        if len(found.setdefault(intent, [])) < most:
            found[intent].append(words.shown(title or value, 48))
    return categories, titles


def _change(
    sizes: Mapping[dt.date, tuple[int, float]], night: dt.date, nights: set[dt.date]
) -> tuple[int | None, int | None]:
    """Return the change in users since a week before, or the nearest night there is to compare.

    The second is how many nights back that is.
    """
    if night not in sizes:
        return None, None
    for back in (7, 1, 28):
        assert back in BEFORE
        then = night - dt.timedelta(days=back)
        if then in nights:
            before = sizes.get(then)
            return (sizes[night][0] - (before[0] if before else 0)), back
    return None, None


def _matches(row: Mapping[str, Any], search: str) -> bool:
    text = " ".join(
        [str(row["intent"]), row["name"], *row["categories"], *row["titles"]]
    ).casefold()
    return all(word in text for word in search.casefold().split())


def map_of(
    rows: Sequence[Mapping[str, Any]], links: Links, in_view: set[int] | None = None
) -> Markup:
    """Draw the map; intents that are not in view (None: all are) stand aside."""
    dots: Iterable[charts.Dot] = (
        charts.Dot(
            x=row["place"][0],
            y=row["place"][1],
            size=row["share"],
            name=row["name"],
            title=f"{row['name']} (intent {row['intent']}): {row['users']:,} users, "
            f"{row['share']:.1%}",
            href=links.intent(row["intent"]),
            style=_style(row, in_view),
        )
        for row in rows
        if row["place"] is not None and row["users"] > 0
    )
    return charts.dots(dots, "Map of the intents: near ones are alike, larger ones have more users")


def _style(row: Mapping[str, Any], in_view: set[int] | None) -> str:
    if in_view is not None and row["intent"] not in in_view:
        return "aside"
    return "born" if row["is_new"] else ""
