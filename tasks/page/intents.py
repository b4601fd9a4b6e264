"""The intents of a night: the table to search and sort, and the map."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tasks.chores.naming import LONGEST_DESCRIPTION
from tasks.lake import tables
from tasks.page import charts, words, zoom
from tasks.page.features import features
from tasks.page.links import Links
from tasks.page.night import window
from tasks.page.reader import SIZES, PageLake
from tasks.page.zoom import Part
from tasks.registry import names, places
from tasks.registry.profiles import BEFORE

MOSTLY = 0.5  # of an intent's labels: where more than these are not clear, the table says so
CATEGORIES, TITLES = 3, 2  # shown of each intent
PAIRS = 3  # of the most alike intents that are named
SHORTEST = 3  # letters of a word that has another number
LONGEST_PART = 160  # characters of that
AROUND = 4  # words of a description that are shown before and after one that was searched
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
    part: Part = charts.WHOLE,
    show: int | None = None,
) -> dict[str, Any]:
    """Return the rows and the map of the intents of a night.

    search: words that have to be in the number, the name, the description that a person gave, or
    what the view of the intent shows as more often than others. sort: a key of `SORTS`; up: the
    smallest first. part: of the map; of another than the whole, only its intents are in the table.
    show: an intent that the map marks.
    """
    rows = listed(lake, night, links)
    where = units_of(rows)
    shown = [
        row | {"why": why(row, search)}
        for row in rows
        if _matches(row, search)
        and (not part.level or (row["intent"] in where and part.has(where[row["intent"]])))
    ]
    key = sort if sort in SORTS else "users"
    ascending = not SORTS[key] if up is None else up
    known = [row for row in shown if row["sort"][key] is not None]
    unknown = [row for row in shown if row["sort"][key] is None]
    known.sort(key=lambda row: row["intent"])
    known.sort(key=lambda row: row["sort"][key], reverse=not ascending)
    # What the users of an intent do comes before what the intent is only called.
    by_what = [row for row in (*known, *unknown) if not row["why"] or _is_preference(row["why"])]
    by_name = [row for row in (*known, *unknown) if row["why"] and not _is_preference(row["why"])]
    in_view = {row["intent"] for row in shown}
    compared = next((row["compared"] for row in rows if row["compared"]), None)
    return {
        "rows": [*by_what, *by_name],
        "by_name": {row["intent"] for row in by_name} if search else set(),
        "all": len(rows),
        "in_use": sum(row["users"] > 0 for row in rows),
        "users": sum(row["users"] for row in rows),
        **_map(
            rows,
            where,
            links,
            part,
            in_view if search else None,
            show,
            asked={"q": search, "sort": sort, "order": {None: "", True: "up", False: "down"}[up]},
        ),
        "alike": [] if part.level else alike(rows),
        "sort": key,
        "up": ascending,
        "search": search,
        "compared": compared,
    }


def _is_preference(why: Iterable[Mapping[str, str]]) -> bool:
    return any(one["kind"] in KINDS.values() for one in why)


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
    more_often, clear = features(lake, night), lake.clear(night)
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
        description = (name.description if name and name.by else None) or ""
        found.append(
            {
                "intent": intent,
                "href": links.intent(intent),
                "name": words.shown(title, 60),
                "named_by": words.shown(name.by, 60) if name and name.by else None,
                "description": description,
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
                "is_unclear": clear.get(intent, row["users"]) < (1 - MOSTLY) * row["users"],
                "categories": [one.text for one in of_kind.get("category", [])[:CATEGORIES]],
                "titles": [one.text for one in of_kind.get("item", [])[:TITLES]],
                "more_often": of_kind,
                "text": searched(
                    [
                        *(str(intent), title),
                        *(one.text for kind in of_kind.values() for one in kind),
                    ],
                    description,
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


def searched(texts: Iterable[str], description: str = "") -> str:
    """Return the text in which a search looks: each word once, with its other number after it.

    So a part of "comedy" and "comedies" is found where one of them is written. Texts are looked
    through as far as they are shown; a description is shown as a whole.
    """
    found: dict[str, None] = {}
    for text in (*map(words.shown, texts), words.shown(description, LONGEST_DESCRIPTION)):
        for word in text.casefold().split():
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
    ] + [
        {"kind": "description", "text": part, "strength": ""}
        for part in [_around(row["description"], asked)]
        if part
    ]


def _around(description: str, asked: Sequence[str]) -> str:
    """Return the part of a description around the first of some words; nothing where none is."""
    found = words.shown(description, LONGEST_DESCRIPTION).split()
    at = next(
        (at for at, word in enumerate(found) if any(one in searched([word]) for one in asked)), None
    )
    if at is None:
        return ""
    first, last = max(0, at - AROUND), at + AROUND + 1
    part = words.shown(" ".join(found[first:last]), LONGEST_PART)
    return f"{'… ' if first else ''}{part}{' …' if found[last:] else ''}"


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


def units_of(rows: Sequence[Mapping[str, Any]]) -> dict[int, zoom.Place]:
    """Return where on the map each intent with a place and users is."""
    return zoom.units(
        {
            row["intent"]: row["place"]
            for row in rows
            if row["place"] is not None and row["users"] > 0
        }
    )


def alike(rows: Sequence[Mapping[str, Any]], most: int = PAIRS) -> list[tuple[Any, Any]]:
    """Return the pairs of intents that are nearest on the map, the nearest first: two rows each."""
    there = [row for row in rows if row["place"] is not None and row["users"] > 0]
    points = np.array([row["place"] for row in there]).reshape(-1, 2)
    one, two = np.triu_indices(len(there), 1)
    apart = ((points[one] - points[two]) ** 2).sum(axis=1)
    few = np.argpartition(apart, most)[:most] if len(apart) > most else np.arange(len(apart))
    return [(there[one[at]], there[two[at]]) for at in sorted(few, key=lambda at: (apart[at], at))]


def _map(
    rows: Sequence[Mapping[str, Any]],
    where: Mapping[int, zoom.Place],
    links: Links,
    part: Part,
    in_view: set[int] | None,
    show: int | None,
    asked: Mapping[str, str],
) -> dict[str, Any]:
    """Draw a part of the map, and say where one can go from there.

    Intents that are not in view (None: all are) stand aside. show: one that is marked. asked: of
    the address, which stays.
    """

    def to(other: Part) -> str | None:
        return links.part(other.written, **asked)

    def inside(other: Part) -> int:
        return sum(map(other.has, where.values()))

    closer = {}
    if part.level < zoom.DEEPEST and inside(part) > zoom.FEW:
        quarters = {name: part.quarter(*at) for name, at in zoom.QUARTERS.items()}
        closer = {name: one for name, one in quarters.items() if inside(one) and to(one)}
    beside = {name: part.beside(*by) for name, by in zoom.SIDES.items()} if part.level else {}
    points = (
        charts.Dot(
            *where[row["intent"]],
            size=row["share"],
            name=row["name"],
            title=f"{row['name']} (intent {row['intent']}): "
            f"{words.plural(row['users'], 'user')}, {words.percent(row['share'])}"
            f"{', the one that was asked for' if row['intent'] == show else ''}",
            href=links.intent(row["intent"]),
            style=f"{_style(row, in_view)}{' asked' if row['intent'] == show else ''}".strip(),
        )
        for row in rows
        if row["intent"] in where
    )
    label = "Map of the intents: near ones are alike, larger ones have more users"
    return {
        "map": charts.dots(
            points,
            label,
            part=part,
            quarters={name: href for name, one in closer.items() if (href := to(one))},
        ),
        "zoom": part.written,
        "larger": 2**part.level,
        "inside": inside(part),
        "overview": charts.overview(where.values(), part) if part.level else None,
        "closer": [
            {"name": name, "href": to(one), "intents": inside(one)} for name, one in closer.items()
        ],
        "beside": [{"name": name, "href": to(one)} for name, one in beside.items() if one],
        "out": to(part.around()) if part.level > 1 else None,
        "whole": to(charts.WHOLE) if part.level else None,
    }


def _style(row: Mapping[str, Any], in_view: set[int] | None) -> str:
    if in_view is not None and row["intent"] not in in_view:
        return "aside"
    return "born" if row["is_new"] else ""
