"""Automatic names: made of what sets an intent apart, kept with its id, and the same every time."""

import datetime as dt
from typing import Any

import polars as pl
import pytest

from tasks.lake import Lake, tables
from tasks.registry import names
from tasks.registry.names import compose, kept_meaning, meaning_of
from tasks.settings import Settings
from tests.tasks.nights import NIGHT, small_settings, table
from tests.tasks.profiles import Users, names_of, profile_by_hand, write_catalogue

DAY = dt.timedelta(days=1)
# Three themes of ten items each: 1 to 10 are of kitchens, 11 to 20 of gardens, 21 to 30 of music.
THEMES = ("Kitchen", "Garden", "Music")
CATALOGUE = {
    number: (f"{word} thing {number}", [theme, "Anything"])
    for theme, word, first in zip(THEMES, ("Pan", "Spade", "Drum"), (1, 11, 21), strict=True)
    for number in range(first, first + 10)
}


def users_of(themes: dict[int, int], count: int = 30) -> Users:
    """Make users of intents, each of which has items of one theme, and one item of another."""
    users: dict[str, tuple[int | None, list[int]]] = {}
    for intent, theme in themes.items():
        for number in range(count):
            own = [1 + 10 * theme + (number + step) % 10 for step in range(4)]
            users[f"u{intent}-{number}"] = (intent, [*own, 1 + (7 * number) % 30])
    return users


def feature(kind: str, value: str, score: float = 1.0, **more: Any) -> dict[str, Any]:
    row = {"kind": kind, "value": value, "title": None, "is_over": True, "z": 3.0}
    return row | {"log_odds": score + 0.5, "score": score} | more


def test_a_name_begins_with_the_most_over_represented_category(settings: Settings) -> None:
    write_catalogue(settings, NIGHT, CATALOGUE)
    profile_by_hand(settings, NIGHT, users_of({0: 0, 1: 1, 2: 2}))
    assert names_of(settings, NIGHT) == {0: "Kitchen Pan", 1: "Garden Spade", 2: "Music Drum"}
    rows = table(settings, tables.INTENT_NAMES)
    assert rows.select("dt", "intent_id", "why").rows() == [(NIGHT, n, "born") for n in range(3)]
    assert rows["rests_on"].to_list()[0] == ["Kitchen", "pan"]


@pytest.mark.slow
def test_without_a_catalogue_a_name_is_of_item_ids_until_there_is_one(settings: Settings) -> None:
    users = users_of({0: 0, 1: 1})
    profile_by_hand(settings, NIGHT, users)
    first = names_of(settings, NIGHT)
    assert all(name and name.split()[0].startswith("i") for name in first.values())
    profile_by_hand(settings, NIGHT + DAY, users)
    assert names_of(settings, NIGHT + DAY) == first
    write_catalogue(settings, NIGHT + 2 * DAY, CATALOGUE)
    profile_by_hand(settings, NIGHT + 2 * DAY, users)
    assert names_of(settings, NIGHT + 2 * DAY) == {0: "Kitchen Pan", 1: "Garden Spade"}
    assert set(table(settings, tables.INTENT_NAMES, NIGHT + 2 * DAY)["why"]) == {"catalogue"}


@pytest.mark.slow
def test_ten_nights_of_drift_keep_the_names_until_the_meaning_has_gone(settings: Settings) -> None:
    """Intent 0 goes from kitchens to music, a tenth of its users a night; the others stay."""
    write_catalogue(settings, NIGHT, CATALOGUE)
    given: list[str | None] = []
    for age in range(11):
        night = NIGHT + age * DAY
        users = dict(users_of({0: 0, 1: 1}))
        users |= {
            f"u0-{number}": items
            for number, items in enumerate(users_of({0: 2}).values())
            if number < 3 * age
        }
        profile_by_hand(settings, night, users, previous=night - DAY if age else None)
        found = names_of(settings, night)
        assert found[1] == "Garden Spade"
        given.append(found[0])
    # Until half of its users have gone, and by then it has more to do with music.
    assert given == ["Kitchen Pan"] * 6 + ["Music Drum"] * 5
    rows = table(settings, tables.INTENT_NAMES).filter(intent_id=0)
    assert rows.select("name", "why").rows() == [
        ("Kitchen Pan", "born"),
        ("Music Drum", "drifted"),
    ]


@pytest.mark.slow
def test_a_backfill_and_a_relabel_leave_the_names(settings: Settings) -> None:
    write_catalogue(settings, NIGHT, CATALOGUE)
    nights = [NIGHT + age * DAY for age in range(4)]
    made = [users_of({0: 0, 1: 1} | ({2: 2} if age > 1 else {})) for age in range(4)]
    for night, users in zip(nights, made, strict=True):
        profile_by_hand(settings, night, users, previous=night - DAY)
    before = [table(settings, which).to_dicts() for which in WITH_NAMES]
    for night, users in list(zip(nights, made, strict=True))[1:3]:
        profile_by_hand(settings, night, users, previous=night - DAY)
    assert [table(settings, which).to_dicts() for which in WITH_NAMES] == before
    # A relabelled night has what its labels are called, and gives no name to what has none.
    profile_by_hand(settings, nights[0], users_of({0: 0, 2: 2}), gives_names=False)
    assert names_of(settings, nights[0]) == {0: "Kitchen Pan", 2: None}
    assert table(settings, tables.INTENT_NAMES).to_dicts() == before[0]
    assert names.shown(Lake(settings.lake.root), nights[0]).automatic[2].name == "Music Drum"


WITH_NAMES = (tables.INTENT_NAMES, tables.INTENT_PROFILES, tables.INTENT_FEATURES)


@pytest.mark.slow
def test_names_of_the_living_differ_also_when_a_person_brings_one_back(settings: Settings) -> None:
    settings = small_settings(settings.lake.root, label={"rename_below": 0})
    write_catalogue(settings, NIGHT, CATALOGUE)
    profile_by_hand(settings, NIGHT, users_of({0: 0, 1: 1}))
    # Intent 0 is away when intent 5 comes with the same meaning, and gets its name.
    profile_by_hand(settings, NIGHT + DAY, users_of({1: 1, 5: 0}))
    assert names_of(settings, NIGHT + DAY) == {1: "Garden Spade", 5: "Kitchen Pan"}
    profile_by_hand(settings, NIGHT + 2 * DAY, users_of({0: 0, 1: 1, 5: 0}))
    found = names_of(settings, NIGHT + 2 * DAY)
    assert found[0] == "Kitchen Pan", "the one that had it first keeps it"
    assert len(set(found.values())) == 3
    assert table(settings, tables.INTENT_NAMES, NIGHT + 2 * DAY)["why"].to_list() == ["taken"]


@pytest.mark.slow
def test_an_intent_without_users_gets_a_name_when_it_has_some(settings: Settings) -> None:
    write_catalogue(settings, NIGHT, CATALOGUE)
    profile_by_hand(settings, NIGHT, users_of({0: 0, 1: 1}), ids=[2])
    assert names_of(settings, NIGHT)[2] is None
    profile_by_hand(settings, NIGHT + DAY, users_of({0: 0, 1: 1, 2: 2}))
    assert names_of(settings, NIGHT + DAY)[2] == "Music Drum"
    profile_by_hand(settings, NIGHT + 2 * DAY, users_of({0: 0, 1: 1}), ids=[2])
    assert names_of(settings, NIGHT + 2 * DAY)[2] == "Music Drum", "and keeps it without users"


@pytest.mark.slow
def test_a_night_that_runs_again_names_as_it_did(settings: Settings) -> None:
    write_catalogue(settings, NIGHT, CATALOGUE)
    users = users_of({0: 0, 1: 1})
    profile_by_hand(settings, NIGHT, users)
    before = [table(settings, which).to_dicts() for which in WITH_NAMES]
    profile_by_hand(settings, NIGHT, users)
    assert [table(settings, which).to_dicts() for which in WITH_NAMES] == before


@pytest.mark.slow
def test_zero_keeps_a_name_for_good(settings: Settings) -> None:
    keeping = small_settings(settings.lake.root, label={"rename_below": 0})
    write_catalogue(keeping, NIGHT, CATALOGUE)
    profile_by_hand(keeping, NIGHT, users_of({0: 0, 1: 1}))
    profile_by_hand(keeping, NIGHT + DAY, users_of({0: 2, 1: 1}))
    assert names_of(keeping, NIGHT + DAY)[0] == "Kitchen Pan"


@pytest.mark.parametrize(
    ("features", "taken", "name"),
    [
        ([feature("category", "War"), feature("category", "Drama")], set(), "War Drama"),
        ([feature("category", "War"), feature("category", "Drama")], {"drama war"}, "War Drama 7"),
        (
            [feature("category", name) for name in ("War", "Drama", "Crime")],
            {"drama war"},
            "War Drama Crime",
        ),
        ([feature("category", "War"), feature("word", "war"), feature("word", "star")], set(),
         "War Star"),
        ([feature("category", "Home & Garden Tools"), feature("word", "grill")], set(),
         "Home & Garden Grill"),
        ([feature("item", "17", title="The Empire Strikes Back"), feature("item", "2")], set(),
         "2 Empire Strikes"),
        ([feature("category", "Drama"), feature("item", "1", title="Like Water For Chocolate"),
          feature("item", "2", title="Nikita (La Femme Nikita), The")], set(), "Drama Nikita"),
        ([feature("item", "a\x1b[31m\u202eb\n c")], set(), "a [31m"),
        ([feature("category", "Kitchen", score=0, z=0.5), feature("item", "17")], set(), "17 7"),
        ([], set(), "Intent 7"),
    ],
)  # fmt: skip
def test_a_name_is_two_to_four_words_that_are_not_taken(
    features: list[dict[str, Any]], taken: set[str], name: str
) -> None:
    assert compose(7, features, taken)[0] == name


def test_names_of_many_intents_of_one_meaning_all_differ() -> None:
    features = [feature("category", name) for name in ("War", "Drama", "Crime")]
    taken: set[str] = set()
    for intent in range(50):
        name, _ = compose(intent, features, taken)
        assert 2 <= len(name.split()) <= 4 and names.same(name) not in taken
        taken.add(names.same(name))


def test_meaning_is_of_categories_and_what_is_new_takes_nothing_away() -> None:
    then = [
        feature("category", "War", 1.5),
        feature("category", "Drama", 0.5),
        feature("item", "1"),
    ]
    meaning = meaning_of(then)
    assert [one["value"] for one in meaning] == ["War", "Drama"]
    assert kept_meaning(meaning, then) == 1
    assert kept_meaning(meaning, [*then, feature("category", "Crime", 9)]) == 1
    assert kept_meaning(meaning, then[:1]) == pytest.approx(2 / 3)
    assert kept_meaning(meaning, [feature("category", "War", -2.5, is_over=False)]) == 0
    assert kept_meaning([], then) == 1


@pytest.mark.slow
def test_the_order_of_rows_decides_nothing(settings: Settings) -> None:
    write_catalogue(settings, NIGHT, CATALOGUE)
    users = users_of({0: 0, 1: 1, 2: 0})
    profile_by_hand(settings, NIGHT, users)
    before = [table(settings, which).to_dicts() for which in WITH_NAMES]
    other = small_settings(settings.lake.root.parent / "other")
    write_catalogue(other, NIGHT, dict(reversed(CATALOGUE.items())))
    profile_by_hand(other, NIGHT, dict(reversed(users.items())))
    same = [table(other, which).to_dicts() for which in WITH_NAMES]
    assert pl.DataFrame(same[0]).equals(pl.DataFrame(before[0])) and same == before
