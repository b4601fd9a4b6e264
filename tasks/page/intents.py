"""The intents of a night: the table to search and sort, and the map."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl
from markupsafe import Markup

from tasks.lake import tables
from tasks.page import charts, words
from tasks.page.intent import MOST
from tasks.page.links import Links
from tasks.page.night import window
from tasks.page.reader import SIZES, PageLake
from tasks.registry import names, places
from tasks.registry.profiles import BEFORE

CATEGORIES, TITLES = 3, 2  # shown of each intent
SHORTEST = 3  # letters of a word that has another number
KINDS = {"category": "category", "item": "item", "word": "word of titles"}

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

    search: words that have to be in the number, the name, or what the view of the intent shows as
    more often than others. sort: a key of `SORTS`; up: the smallest first.
    """
    rows = listed(lake, night, links)
    shown = [row | {"why": why(row, search)} for row in rows if _matches(row, search)]
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
    more_often = features(lake, night)
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
        of_kind = more_often.get(intent, {})
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
                    f"Users with this intent, last {words.plural(len(nights), 'night')}, "
                    f"now {row['users']:,}",
                ),
                "bar": charts.bar(
                    row["share"], f"{row['share']:.1%} of the users with an intent", width=72
                ),
                "confidence": confidence,
                "categories": [one.text for one in of_kind.get("category", [])[:CATEGORIES]],
                "titles": [one.text for one in of_kind.get("item", [])[:TITLES]],
                "more_often": of_kind,
                "text": searched(
                    [str(intent), title, *(one.text for kind in of_kind.values() for one in kind)]
                ),
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


class Feature(NamedTuple):
    """What an intent has more often than others, and how much more, as they are shown."""

    text: str
    strength: str


def features(lake: PageLake, night: dt.date) -> dict[int, dict[str, list[Feature]]]:
    """Return what each intent has more often than others, as its view shows it, by kind.

    Titles stand for items, ids where there is no title.
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
        .filter(pl.col("is_over"), pl.col("kind").is_in(list(KINDS)))
        # What may be chance stands only where nothing is surely so.
        .filter((pl.col("score") != 0) | ((pl.col("score") == 0).all().over("intent_id", "kind")))
        .sort("intent_id", "kind", "rank")
    )
    found: dict[int, dict[str, list[Feature]]] = {}
    for intent, kind, value, title, share, of_all in rows.select(
        "intent_id", "kind", "value", "title", "share", "expected_share"
    ).iter_rows():
        listed = found.setdefault(intent, {}).setdefault(kind, [])
        if len(listed) < MOST[kind]:
            strength = words.percent(share, 0 if share >= 0.1 else 1)
            if of_all:
                strength += f", {words.times(share / of_all)} as often as all users"
            listed.append(Feature(words.shown(title or value, 48), strength))
    return found


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


def searched(texts: Iterable[str]) -> str:
    """Return the text in which a search looks: each word once, with its other number after it.

    So a part of "comedy" and "comedies" is found where one of them is written.
    """
    found: dict[str, None] = {}
    for text in texts:
        for word in words.shown(text).casefold().split():
            found[word] = None
            found[_other_number(word)] = None
    return " ".join(found)


def why(row: Mapping[str, Any], search: str) -> list[dict[str, str]]:
    """Return where the words of a search are in a row: the text, and of what kind it is."""
    asked = search.casefold().split()
    places = [("number", str(row["intent"]), ""), ("name", row["name"], "")]
    places += [(KINDS[kind], *one) for kind, found in row["more_often"].items() for one in found]
    return [
        {"kind": kind, "text": text, "strength": strength}
        for kind, text, strength in places
        if any(word in searched([text]) for word in asked)
    ]


def _other_number(word: str) -> str:
    """Return an English word in the plural if it is in the singular, or the other way round."""
    bare = word.rstrip(",;:.!?)")
    if len(bare) < SHORTEST or not bare.isalpha():
        return word
    if bare.endswith("ies"):
        return f"{bare[:-3]}y"
    if bare.endswith("s") and not bare.endswith("ss"):
        return bare[:-1]
    if bare.endswith("y") and bare[-2] not in "aeiou":
        return f"{bare[:-1]}ies"
    return f"{bare}{'es' if bare.endswith(('s', 'x', 'z', 'ch', 'sh')) else 's'}"


def _matches(row: Mapping[str, Any], search: str) -> bool:
    return all(word in row["text"] for word in search.casefold().split())


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
            title=f"{row['name']} (intent {row['intent']}): "
            f"{words.plural(row['users'], 'user')}, {words.percent(row['share'])}",
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
