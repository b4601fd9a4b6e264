"""The table of intents: what a search finds, and why; and which intents are most alike."""

import re

import polars as pl
import pyarrow as pa
import pytest

from tasks.chores import naming
from tasks.lake import Lake, tables
from tasks.page import intent, intents
from tasks.page.links import Links
from tasks.page.reader import PageLake
from tasks.settings import Settings
from tests.tasks.nights import NIGHT
from tests.tasks.page.conftest import MARKUP, Ask


@pytest.mark.parametrize("asked", ["comedy", "comedies", "Comedie", "plain simple", "drama"])
def test_a_word_is_found_in_both_its_numbers(asked: str) -> None:
    text = intents.searched(["Comedy", "Dramas", "Plain & simple"])
    assert all(word in text for word in asked.casefold().split())


@pytest.mark.parametrize(
    ("word", "other"),
    [("boxes", "boxe"), ("box", "boxes"), ("day", "days"), ("kiss", "kisses"), ("17", "17")],
)
def test_another_number_is_guessed_from_the_end_of_a_word(word: str, other: str) -> None:
    assert other in intents.searched([word]).split()


def test_a_search_finds_what_the_view_of_an_intent_shows_and_says_where(
    lake: Lake, settings: Settings, ask: Ask
) -> None:
    read = PageLake.there(settings)
    told = intents.view(read, NIGHT, Links(), search="comedies")
    assert told["rows"]
    for row in told["rows"]:
        [comedy] = [one for one in row["why"] if one["text"] == "Comedy"]
        assert comedy["kind"] == "category" and "as often as all users" in comedy["strength"]
        groups = intent.about(read, NIGHT, row["intent"], Links())
        assert groups
        shown = {one["value"] for group in groups["features"] for one in group["rows"]}
        assert "Comedy" in shown
    page = ask().get("/intents?q=comedies").text
    assert "Found in: <mark>Comedy</mark> (category: " in page
    assert "Found in" not in ask().get("/intents").text


def test_the_most_alike_intents_are_the_nearest_that_have_users(
    lake: Lake, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        intent.places, "of", lambda _: {0: (0, 0), 1: (0, 2), 2: (1, 0), 3: (5, 5), 9: (0, 0.1)}
    )
    told = intent.view(settings, PageLake.there(settings), NIGHT, 0, Links())
    assert told
    assert [one["href"][:10] for one in told["alike"]] == ["/intents/2", "/intents/1", "/intents/3"]


def test_what_a_person_wrote_of_an_intent_is_found(
    lake: Lake, settings: Settings, ask: Ask
) -> None:
    described = f"{'Quiet words. ' * 40}For whoever repairs bicycles at home. {MARKUP}"
    naming.name(settings, 1, "Handy people", description=described, by="ann")
    read = PageLake.there(settings)
    for asked in ("bicycles", "BICYCLE", "handy repairs"):
        [row] = intents.view(read, NIGHT, Links(), search=asked)["rows"]
        assert row["intent"] == 1
        [found] = [one for one in row["why"] if one["kind"] == "description"]
        assert "repairs bicycles" in found["text"] and len(found["text"]) < 200
    page = ask().get("/intents?q=bicycle").text
    assert "(description)" in page
    assert "<script>alert" not in ask().get("/intents?q=alert").text
    naming.name(settings, 1, "", by="ann")
    assert not intents.view(PageLake.there(settings), NIGHT, Links(), search="bicycle")["rows"]


def test_the_most_alike_pairs_are_the_nearest_on_the_map() -> None:
    places = {1: (0.0, 0.0), 2: (0.0, 0.1), 3: (1.0, 1.0), 4: (1.0, 1.3), 5: (0.0, 0.01), 6: None}
    rows = [
        {"intent": intent, "place": place, "users": 0 if intent == 5 else 9}
        for intent, place in places.items()
    ]
    pairs = [(one["intent"], two["intent"]) for one, two in intents.alike(rows, 2)]
    assert pairs == [(1, 2), (3, 4)]
    assert intents.alike(rows[:1]) == []


def test_what_users_do_is_found_before_what_an_intent_is_called(
    lake: Lake, settings: Settings, ask: Ask
) -> None:
    for which in intents.view(PageLake.there(settings), NIGHT, Links())["rows"]:
        naming.name(settings, which["intent"], f"Plain {which['intent']}", by="ann")
    rows = intents.view(PageLake.there(settings), NIGHT, Links())["rows"]
    has = {
        row["intent"]: any("Plain" in one.text for one in row["more_often"]["item"])
        for row in rows
        if "item" in row["more_often"]
    }
    told = intents.view(PageLake.there(settings), NIGHT, Links(), search="plain")
    order = [row["intent"] not in told["by_name"] for row in told["rows"]]
    assert order == sorted(order, reverse=True)
    assert told["by_name"] == {row["intent"] for row in rows if not has.get(row["intent"])}
    assert (
        told["by_name"] and "Found only in what it is called" in ask().get("/intents?q=plain").text
    )


def test_an_intent_that_was_asked_for_is_marked_on_the_map(
    lake: Lake, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intent.places, "of", lambda _: {0: (0, 0), 1: (0, 2), 2: (1, 0)})
    page = ask().get("/intents?show=1").text
    [title] = re.findall(r'class="place[^"]* asked" aria-label="([^"]*)"', page)
    assert "(intent 1)" in title and title.endswith("the one that was asked for")
    assert "asked for" not in ask().get("/intents").text
    assert ask().get("/intents?show=x").status_code == 404
    assert "show=1" in ask().get("/intents/1").text


def test_an_intent_most_of_whose_labels_are_not_clear_is_marked(
    lake: Lake, settings: Settings, ask: Ask
) -> None:
    [counts] = lake.scan(tables.LABEL_COUNTS, NIGHT, NIGHT).collect().to_dicts()
    # Intent 1 has eleven users; of intent 2 nothing is known.
    for clear, marked in ((5, True), (6, False)):
        row = counts | {"of_intents": [{"intent_id": 1, "clear": clear}]}
        rows = pa.Table.from_pylist([row], schema=tables.LABEL_COUNTS.schema)
        lake.replace(tables.LABEL_COUNTS, rows, nights=[NIGHT])
        listed = intents.view(PageLake.there(settings), NIGHT, Links())["rows"]
        assert {one["intent"]: one["is_unclear"] for one in listed if one["intent"] in (1, 2)} == {
            1: marked,
            2: False,
        }
        shown = ask().get("/intents/1").text
        assert re.search(rf"{clear} of 11 are <[^>]*>clear<", shown)
    assert "are <" not in ask().get("/intents/2").text.partition("<dt>Born")[0]


def test_nothing_that_is_as_often_everywhere_is_listed_as_more_often(
    lake: Lake, settings: Settings
) -> None:
    rows = lake.scan(tables.INTENT_FEATURES, NIGHT, NIGHT).collect()
    same = rows.with_columns(
        is_over=pl.lit(True), share=(pl.col("expected_share") * 1.04).cast(rows.schema["share"])
    )
    lake.replace(tables.INTENT_FEATURES, same, nights=[NIGHT])
    read = PageLake.there(settings)
    assert not any(row["more_often"] for row in intents.view(read, NIGHT, Links())["rows"])
    told = intent.about(read, NIGHT, 1, Links())
    assert told and not told["features"]
