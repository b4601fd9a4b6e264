"""The table of intents: what a search finds, and why; and which intents are most alike."""

import pytest

from tasks.lake import Lake
from tasks.page import intent, intents
from tasks.page.links import Links
from tasks.page.reader import PageLake
from tasks.settings import Settings
from tests.tasks.nights import NIGHT
from tests.tasks.page.conftest import Ask


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
