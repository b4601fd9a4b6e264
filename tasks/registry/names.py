"""Names of intents: automatic ones that are kept from night to night, and those that people give.

An intent is named once, by what sets it apart on the night that its id is born, and keeps the name
until too little of that is left. The names of a night follow from the rows of `intent_names` of the
nights before it, as the ids do from the models before; so a backfill gives the same names, and a
relabelled night gives none.

A person's name (`given_names`) counts before the automatic one. It is in the tables of every night
after those that were labelled when it was given, and at once in what shows names to people.
"""

import datetime as dt
import itertools
import logging
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import pyarrow as pa

from tasks.lake import Lake, tables
from tasks.settings import Settings

log = logging.getLogger(__name__)

BORN, DRIFTED, TAKEN, CATALOGUE = "born", "drifted", "taken", "catalogue"
LEAST_WORDS, MOST_WORDS = 2, 4
WORDS_OF_A_VALUE = 3  # that a long category gives to a name
WORDS_OF_A_TITLE = 2
LONGEST_WORD = 24  # characters; an item id may be any text
CHOICE = 4  # features of a kind that a name may be made of
THEME = math.log(2)  # score of a word that says what an intent is about: surely twice the odds
SOMEWHAT = 1.0  # z of a category that is better than no word for a name
ARTICLES = {"a", "an", "the"}

# A turn of the lake: who reads the names that people gave for a night, or adds one.
TURN = "names of intents"

NAMED_FOR = pa.schema([("intent_id", pa.int32()), ("kind", pa.string()), ("value", pa.string())])
EFFECTIVE = pa.schema(
    [
        ("intent_id", pa.int32()),
        ("name", pa.string()),
        ("description", pa.string()),
        ("named_by", pa.string()),
        ("kept_meaning", pa.float64()),
    ]
)

Feature = Mapping[str, Any]  # kind, value, log_odds and, of intent_features, more


@dataclass(frozen=True)
class Name:
    """What an intent is called; of an automatic name `by` and `description` are None."""

    name: str
    night: dt.date  # that gave it, or from which on it counts
    meaning: tuple[Feature, ...]
    description: str | None = None
    by: str | None = None
    rests_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class Names:
    """The names of intents by their ids: the automatic ones, and those that people gave."""

    automatic: Mapping[int, Name]
    given: Mapping[int, Name]

    def of(self, intent: int) -> Name | None:
        """Return what an intent is called."""
        return self.given.get(intent) or self.automatic.get(intent)

    def features(self) -> pa.Table:
        """Return the features that names stand on, for `sql/intent_features.sql`."""
        rows = {
            (intent, feature["kind"], feature["value"])
            for names in (self.automatic, self.given)
            for intent, name in names.items()
            for feature in name.meaning
        }
        columns = zip(*sorted(rows), strict=True) if rows else [[], [], []]
        return pa.table(list(map(pa.array, columns)), schema=NAMED_FOR)

    def effective(self, features: pl.DataFrame) -> pa.Table:
        """Return the names in effect, for `sql/intent_profiles.sql`.

        features: the rows of `intent_features` of the night.
        """
        of_intent = _by_intent(features)
        rows = []
        for intent in sorted({*self.automatic, *self.given}):
            name = self.of(intent)
            assert name is not None
            kept = None
            if intent in self.given and intent in of_intent:
                kept = kept_meaning(name.meaning, of_intent[intent])
            told = {"name": name.name, "description": name.description, "named_by": name.by}
            rows.append({"intent_id": intent, **told, "kept_meaning": kept})
        return pa.Table.from_pylist(rows, schema=EFFECTIVE)


def known(lake: Lake, night: dt.date, *, but_its_own: bool = False) -> Names:
    """Return the names that the tables of a night go by.

    but_its_own: without the automatic ones that the night itself gave: it is about to give them.
    """
    last = night - dt.timedelta(days=1) if but_its_own else night
    with lake.turn(TURN):
        given = lake.scan(tables.GIVEN_NAMES).filter(pl.col("dt") <= night).collect()
    automatic = lake.scan(tables.INTENT_NAMES, last=last).sort("dt").collect()
    return Names(_automatic(automatic), _given(given))


def shown(lake: Lake, night: dt.date) -> Names:
    """Return the names that people see beside the intents of a night, whatever its tables say.

    What a person named counts at once. An id that had no name by then has the first one after: a
    night that was relabelled by a later model has such ids.
    """
    rows = lake.scan(tables.INTENT_NAMES).sort("dt").collect()
    later, until = rows.filter(pl.col("dt") > night), rows.filter(pl.col("dt") <= night)
    automatic = _automatic(later.reverse()) | _automatic(until)
    return Names(automatic, _given(lake.scan(tables.GIVEN_NAMES).collect()))


def _automatic(rows: pl.DataFrame) -> dict[int, Name]:
    """Return the last name of each intent, in the order of the rows."""
    columns = ("intent_id", "name", "dt", "meaning", "rests_on")
    return {
        intent: Name(name, night, tuple(meaning), rests_on=tuple(rests_on))
        for intent, name, night, meaning, rests_on in rows.select(columns).iter_rows()
    }


def _given(rows: pl.DataFrame) -> dict[int, Name]:
    """Return the last name that a person gave to each intent, unless it was taken back."""
    columns = ("intent_id", "name", "dt", "meaning", "description", "given_by")
    ordered = rows.sort("given_at", maintain_order=True).select(columns)
    newest = {
        intent: Name(name, night, tuple(meaning), description, by)
        for intent, name, night, meaning, description, by in ordered.iter_rows()
    }
    return {intent: name for intent, name in newest.items() if name.name}


def give(
    settings: Settings,
    night: dt.date,
    before: Names,
    living: Iterable[int],
    features: pl.DataFrame,
) -> Names:
    """Name the intents of a night that need a name; return the names of the night.

    An intent without users has nothing that sets it apart, and stays without a name.

    before: the names without those that the night itself gave.
    living: the ids of the intents that there are, with users or without.
    features: the rows of `intent_features` of the night.
    """
    ids = sorted(living)
    of_intent = _by_intent(features)
    taken = {same(before.given[intent].name) for intent in ids if intent in before.given}
    why = {intent: BORN for intent in ids if intent not in before.automatic}
    # Of two that have the same name the one that had it first keeps it. Two that were never there
    # on the same night may have it, and a person may bring one of them back.
    for intent in sorted(set(ids) - set(why), key=lambda one: (before.automatic[one].night, one)):
        kept = before.automatic[intent]
        if reason := _outlived(kept, of_intent.get(intent), settings.label.rename_below):
            why[intent] = reason
        elif same(kept.name) in taken:
            why[intent] = TAKEN
        else:
            taken.add(same(kept.name))
    rows = []
    automatic = dict(before.automatic)
    for intent in sorted(why):
        its_own = of_intent.get(intent, [])
        if not its_own and why[intent] == BORN:
            continue
        name, rests_on = compose(intent, its_own, taken)
        taken.add(same(name))
        if intent in automatic and automatic[intent].name == name:
            continue
        meaning = meaning_of(its_own)
        automatic[intent] = Name(name, night, tuple(meaning), rests_on=tuple(rests_on))
        given = {"name": name, "why": why[intent], "rests_on": rests_on, "meaning": meaning}
        rows.append({"dt": night, "intent_id": intent, **given})
    table = pa.Table.from_pylist(rows, schema=tables.INTENT_NAMES.schema)
    Lake.of(settings).replace(tables.INTENT_NAMES, table, nights=[night])
    if rows:
        told = "; ".join(f"{row['intent_id']} {row['name']} ({row['why']})" for row in rows)
        log.info("night %s names %d intents: %s", night, len(rows), told)
    return replace(before, automatic=automatic)


def tell_of_drift(effective: pa.Table, least: float) -> None:
    """Warn of each intent that is not any more what a person named it for.

    effective: as `Names.effective` returns it. least: the smallest `kept_meaning` that is enough.
    """
    for row in effective.to_pylist():
        if row["kept_meaning"] is not None and row["kept_meaning"] < least:
            log.warning(
                "intent %d, which %s named %s, is not what it was then: %.0f %% of what set it "
                "apart does so now (quality.min_kept_meaning is %g): look at it with `report "
                "--intent %d`, and name it anew with `name`",
                row["intent_id"],
                row["named_by"],
                row["name"],
                100 * row["kept_meaning"],
                least,
                row["intent_id"],
            )


def _outlived(name: Name, features: list[Feature] | None, least: float) -> str | None:
    """Say why a name does not fit its intent any more; None: it does.

    It has drifted when less than the share `least` of its meaning is left, or when its users do not
    have more often than others what the name begins with.
    """
    if features is None:
        return None
    kinds_then, kinds_now = (
        {one["kind"] for one in meaning} for meaning in (name.meaning, meaning_of(features))
    )
    if kinds_then == {"item"} and kinds_now & {"category", "word"}:
        return CATALOGUE
    present = {(one["kind"], one["value"]) for one in features if one["is_over"]}
    begins_with = [one for one in name.meaning if [one["value"]] == list(name.rests_on[:1])]
    lost = any((one["kind"], one["value"]) not in present for one in begins_with)
    return DRIFTED if least and (lost or kept_meaning(name.meaning, features) < least) else None


def meaning_of(features: Iterable[Feature]) -> list[dict[str, Any]]:
    """Return what sets an intent apart: its categories; without any its words, else its items."""
    over = [one for one in features if one["is_over"]]
    for surely, kind in itertools.product((True, False), ("category", "word", "item")):
        found = [one for one in over if one["kind"] == kind and (one["score"] > 0 or not surely)]
        if found:
            return [{name: one[name] for name in ("kind", "value", "log_odds")} for one in found]
    return []


def kept_meaning(then: Iterable[Feature], now: Iterable[Feature]) -> float:
    """Return how much of what set an intent apart does so now, from 0 to 1.

    It is sum min(l, l') / sum l over the features of then, l their log-odds ratios then and l' now,
    0 where they are negative. What sets it apart besides now takes nothing away.
    """
    present = {(one["kind"], one["value"]): max(one["log_odds"], 0.0) for one in now}
    past = {(one["kind"], one["value"]): one["log_odds"] for one in then}
    total = sum(past.values())
    kept = sum(min(odds, present.get(feature, 0.0)) for feature, odds in past.items())
    return kept / total if total > 0 else 1.0


def compose(intent: int, features: list[Feature], taken: set[str]) -> tuple[str, list[str]]:
    """Make a name of two to four words that is not taken; return it and what it rests on.

    It begins with what sets the intent apart most. More is added by and by until the name is none
    of those that are taken; in the end the id of the intent.
    """
    pool = list(_parts(features))
    # The two best first, then these with one or two more, and what is of one part last.
    combined = [
        (0, *rest)
        for size in range(MOST_WORDS)
        for rest in itertools.combinations(range(1, len(pool)), size)
    ]
    combined.sort(key=lambda chosen: (len(chosen) == 1, chosen))
    parts = [[pool[place] for place in chosen] for chosen in combined] if pool else []
    candidates = [
        ([word for words, _ in some for word in words], [value for _, value in some])
        for some in parts
    ]
    candidates = [
        (words, rests_on)
        for words, rests_on in candidates
        if len(words) <= MOST_WORDS and len({same(word) for word in words}) == len(words)
    ]
    for words, rests_on in candidates:
        if len(words) >= LEAST_WORDS and same(" ".join(words)) not in taken:
            return " ".join(words), rests_on
    with_room = [one for one in candidates if len(one[0]) < MOST_WORDS]
    words, rests_on = with_room[0] if with_room else (["Intent"], [])
    for count in itertools.count():  # an item may be called like an id
        name = " ".join([*words, f"{intent}" + "'" * count])
        if same(name) not in taken:
            return name, rests_on
    raise AssertionError


def _parts(features: list[Feature]) -> Iterator[tuple[list[str], str]]:
    """Yield what a name may be made of, the best first: its words, and the feature's value."""
    over = [one for one in features if one["is_over"]]
    categories = [one for one in over if one["kind"] == "category"]
    surely = [one for one in categories if one["score"] > 0]
    words = [one for one in over if one["kind"] == "word" and one["score"] >= THEME]
    somewhat = [one for one in categories if one["score"] <= 0 and one["z"] >= SOMEWHAT]
    # The first category says where the intent is, a word says more of it than a second one does.
    for one in [*surely[:1], *words[:CHOICE], *surely[1:CHOICE], *somewhat[:CHOICE]]:
        if found := clean(one["value"]).split()[:WORDS_OF_A_VALUE]:
            if one["kind"] == "word":
                found[0] = found[0][:1].upper() + found[0][1:]
            yield [word[:LONGEST_WORD] for word in found], one["value"]
    items = [(_item_words(one), one["value"]) for one in over if one["kind"] == "item"]
    # A title that is short enough to be named whole comes before the beginning of a long one.
    for whole in (True, False):
        for found, value in items[:CHOICE]:
            if found and whole == (len(found) <= WORDS_OF_A_TITLE):
                yield [word[:LONGEST_WORD] for word in found[:WORDS_OF_A_TITLE]], value


def _item_words(item: Feature) -> list[str]:
    """Return the words of an item's title without articles at its ends; of its id without one."""
    title = re.sub(r"\(.*?\)", " ", clean(item["title"] or ""))
    found = [word for part in title.split() if (word := part.strip(",:;"))]
    for end in (0, -1):
        if len(found) > 1 and found[end].casefold() in ARTICLES:
            del found[end]
    return found or clean(item["value"]).split()


def clean(text: str) -> str:
    """Return a text without what is no letter to a reader: control characters, runs of blanks."""
    seen = (" " if unicodedata.category(one)[0] in "CZ" else one for one in text)
    return " ".join(unicodedata.normalize("NFC", "".join(seen)).split())


def same(name: str) -> str:
    """Return what is equal for names that a reader takes for the same, whatever their order."""
    return " ".join(sorted(clean(name).casefold().split()))


def _by_intent(features: pl.DataFrame) -> dict[int, list[Feature]]:
    """Return the features of each intent, of each kind the one of the first rank first."""
    rows: dict[int, list[Feature]] = {}
    for row in features.sort("intent_id", "kind", "is_over", "rank").iter_rows(named=True):
        rows.setdefault(row["intent_id"], []).append(row)
    return rows
