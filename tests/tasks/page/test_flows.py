"""What changed between two nights: sizes are exact, moves are summed."""

import datetime as dt
import re
from html import unescape

import polars as pl
import pytest

from tasks.lake import Lake, tables
from tasks.page import flows, words
from tasks.page.links import Links
from tasks.page.reader import PageLake
from tasks.settings import Settings
from tests.tasks.nights import NIGHT
from tests.tasks.page.conftest import Ask, begin
from tests.tasks.profiles import Users, profile_by_hand

DAY = dt.timedelta(days=1)
FIRST: Users = {f"u{n:02}": (n // 10, [1 + n // 10]) for n in range(30)}


def then(**changed: int | None) -> Users:
    return {user: (changed.get(user, intent), items) for user, (intent, items) in FIRST.items()}


@pytest.mark.slow
def test_what_grew_shrank_came_and_ended_is_told(settings: Settings) -> None:
    # Intent 2 ends, most of it goes to 1; a part of 0 becomes the new intent 5.
    second = then(**{f"u2{n}": 1 for n in range(10)}, u00=5, u01=5, u02=5)
    third = {
        user: (5 if user == "u03" else intent, items) for user, (intent, items) in second.items()
    }
    third["new"] = (1, [1])
    profile_by_hand(settings, NIGHT, FIRST)
    profile_by_hand(settings, NIGHT + DAY, second, previous=NIGHT)
    profile_by_hand(settings, NIGHT + 2 * DAY, third, previous=NIGHT + DAY)
    lake = PageLake.there(settings)
    told = flows.view(lake, NIGHT, NIGHT + 2 * DAY, Links())
    assert [(row["intent"], row["then"], row["now"]) for row in told["grew"]] == [(1, 10, 21)]
    assert [(row["intent"], row["change"]) for row in told["shrank"]] == [(0, -4)]
    assert [row["intent"] for row in told["born"]] == [5]
    assert [row["intent"] for row in told["retired"]] == [2]
    assert [(one["users"], one["share"]) for one in told["splits"]] == [(4, 0.4)]
    assert [(one["users"], one["share"]) for one in told["mergers"]] == [(10, 1.0)]
    assert (told["moved"], told["came"], told["went"]) == (14, 1, 0)
    assert told["users_after"] - told["users_before"] == told["came"] - told["went"]
    assert told["missing"] == []


@pytest.mark.slow
def test_the_default_is_a_week_before_or_the_nearest_night_to_it(settings: Settings) -> None:
    for days in (0, 3, 9):
        profile_by_hand(settings, NIGHT + days * DAY, FIRST)
    lake = PageLake.there(settings)
    assert flows.view(lake, None, NIGHT + 9 * DAY, Links())["since"] == NIGHT + 3 * DAY
    assert not flows.view(lake, None, NIGHT, Links())["known"]
    assert not flows.view(lake, NIGHT + 3 * DAY, NIGHT, Links())["known"]


@pytest.mark.slow
def test_a_night_without_recorded_moves_is_named(settings: Settings) -> None:
    profile_by_hand(settings, NIGHT, FIRST)
    profile_by_hand(settings, NIGHT + DAY, FIRST)  # as a relabelled night: held against none
    told = flows.view(PageLake.there(settings), NIGHT, NIGHT + DAY, Links())
    assert told["missing"] == [NIGHT + DAY]


@pytest.mark.slow
def test_the_number_beside_a_name_is_all_that_went_from_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows, "RIBBONS", 1)
    profile_by_hand(settings, NIGHT, FIRST)
    second = then(u00=1, u01=1, u02=1, u03=2, u04=2, u20=1)
    profile_by_hand(settings, NIGHT + DAY, second, previous=NIGHT)
    told = flows.view(PageLake.there(settings), NIGHT, NIGHT + DAY, Links())
    beside = re.findall(r'class="muted"> (\d+)<', str(told["chart"]))
    # 0 has three moves to 1 that are drawn, and two others; 1 has one other.
    assert sorted(map(int, beside)) == [1, 2, 4, 5]
    assert [one["moves"] for one in told["listed"]] == [3, 2, 1], "the table is whole"
    assert flows.PAIRS > flows.RIBBONS, "the table has what is not drawn"
    assert (told["shown"], told["moves"]) == (1, 3)


@pytest.mark.slow
def test_what_did_not_happen_is_said_in_one_line(settings: Settings) -> None:
    profile_by_hand(settings, NIGHT, FIRST)
    profile_by_hand(settings, NIGHT + DAY, then(u00=1), previous=NIGHT)
    told = flows.view(PageLake.there(settings), NIGHT, NIGHT + DAY, Links())
    assert told["absent"] == "born, retired, split or merged"


@pytest.mark.slow
def test_usual_nights_to_begin_with_are_a_click_away(settings: Settings, ask: Ask) -> None:
    for days in (0, 21, 27, 28):
        profile_by_hand(settings, NIGHT + days * DAY, FIRST)
    page = unescape(ask().get("/flows").text)
    found = dict(re.findall(r'<a href="(/flows[^"]*)">([^<]*before)</a>', page))
    assert {called: re.search(r"since=([\d-]*)", href)[1] for href, called in found.items()} == {  # type: ignore[index]
        "the night before": str(NIGHT + 27 * DAY),
        "four weeks before": str(NIGHT),
    }
    assert "<strong>a week before</strong>" in page
    young = unescape(ask().get("/flows", params={"night": str(NIGHT + 21 * DAY)}).text)
    assert "<strong>the night before</strong>" in young and "first night" not in young
    young = unescape(ask().get("/flows", params={"night": str(NIGHT + 27 * DAY)}).text)
    assert re.search(rf'since={NIGHT}">27 days before</a>', young)
    month = ask().get("/flows", params={"since": str(NIGHT)}).text
    assert "<strong>four weeks before</strong>" in month


@pytest.mark.slow
def test_the_first_night_of_the_month_is_a_click_away(settings: Settings) -> None:
    for days in (0, 12, 18, 28):
        profile_by_hand(settings, NIGHT + days * DAY, FIRST)
    told = flows.view(PageLake.there(settings), None, NIGHT + 28 * DAY, Links())
    assert [(one["name"], one["night"]) for one in told["shortcuts"]] == [
        ("the night before", dt.date(2026, 12, 8)),
        ("four weeks before", dt.date(2026, 11, 20)),
        ("the first night of the month", dt.date(2026, 12, 2)),
    ]


@pytest.mark.slow
def test_the_nearest_night_stands_for_a_week_before(settings: Settings) -> None:
    for days in (0, 9, 10):
        profile_by_hand(settings, NIGHT + days * DAY, FIRST)
    told = flows.view(PageLake.there(settings), None, NIGHT + 10 * DAY, Links())
    begins = {one["night"]: one["name"] for one in told["shortcuts"]}
    assert begins[NIGHT + 9 * DAY] == "the night before"
    assert begins[NIGHT] == "10 days before"
    assert told["since"] == NIGHT, "what the page begins with is what it offers"


@pytest.mark.slow
def test_an_intent_that_lived_between_the_two_nights_is_named(settings: Settings) -> None:
    for days in (0, 1, 2):
        profile_by_hand(settings, NIGHT + days * DAY, FIRST)
    lake = PageLake.there(settings)
    rows = lake.scan(tables.INTENT_PROFILES, NIGHT + DAY, NIGHT + DAY).collect()
    short = rows.head(1).with_columns(
        intent_id=pl.lit(77, pl.Int32), status=pl.lit("retired"), users=pl.lit(0, pl.Int32)
    )
    short = short.cast(dict(rows.schema))
    lake.replace(tables.INTENT_PROFILES, pl.concat([rows, short]), nights=[NIGHT + DAY])
    lake = PageLake.there(settings)
    assert flows.view(lake, NIGHT, NIGHT + 2 * DAY, Links())["passed"] == ["Intent 77"]
    assert flows.view(lake, NIGHT + DAY, NIGHT + 2 * DAY, Links())["passed"] == []


def test_a_night_that_was_not_finished_retires_nothing(lake: Lake, ask: Ask) -> None:
    failed = NIGHT + 4 * DAY
    begin(lake, failed)
    page = unescape(ask().get("/flows", params={"night": str(failed)}).text)
    assert "This night was not finished; it has no labels." in page
    assert "Retired" not in page and '<form class="search"' not in page
    for path in ("/intents", "/intents/1"):
        other = ask().get(path, params={"night": str(failed)}).text
        assert "was not finished; it has no labels" in other
    of_night = ask().get("/night", params={"night": str(failed)}).text
    assert "No model of this night was promoted or rejected" in of_night
    from_it = flows.view(PageLake(lake.root), failed, failed + DAY, Links())
    assert from_it["unfinished"] == failed and not from_it["known"]
    before = flows.view(PageLake(lake.root), NIGHT - DAY, NIGHT, Links())
    assert before["unfinished"] is None and before["known"]


def test_every_night_that_was_begun_is_in_the_menu_in_its_place(lake: Lake, ask: Ask) -> None:
    begin(lake, NIGHT + 4 * DAY)
    page = unescape(ask().get("/intents", params={"night": str(NIGHT)}).text)
    options = re.findall(r"<option[^>]*>([^<]*)</option>", page)
    assert options[:3] == [
        f"{words.day(NIGHT + 4 * DAY)} · no labels",
        f"no night on {words.span(NIGHT + DAY, NIGHT + 3 * DAY)}",
        f"{words.day(NIGHT)} · newest with labels",
    ]
    assert re.search(rf'night={NIGHT + 4 * DAY}[^"]*" rel="next"', page)
    assert "1 newer night has no labels" in page
    after = unescape(ask().get("/night", params={"night": str(NIGHT + 4 * DAY)}).text)
    assert re.search(rf'night={NIGHT}[^"]*" rel="prev"', after)
    assert "newer night" not in after


def test_moves_that_are_drawn_on_both_sides_are_counted() -> None:
    moved = pl.DataFrame(
        # The two largest are drawn: from 1 and 3, to 2 and 4.
        [(1, 2, 9), (3, 4, 8), (1, 4, 3), (5, 4, 2), (1, 6, 2), (None, 4, 1)],
        schema={"one": pl.Int32, "two": pl.Int32, "users": pl.Int64},
        orient="row",
    )
    assert flows._twice(moved, moved.head(2)) == 3
    assert flows._twice(moved, moved) == 0


def test_nights_that_are_missing_between_two_are_told(lake: Lake, settings: Settings) -> None:
    begin(lake, NIGHT + DAY)
    profile_by_hand(settings, NIGHT + 5 * DAY, FIRST)
    told = flows.view(PageLake(lake.root), NIGHT, NIGHT + 5 * DAY, Links())
    assert told["without"] == [
        f"no labels on {words.day(NIGHT + DAY)}",
        f"no night on {words.span(NIGHT + 2 * DAY, NIGHT + 4 * DAY)}",
    ]


def test_data_and_models_counts_a_night_that_was_not_finished(lake: Lake, ask: Ask) -> None:
    begin(lake, NIGHT + 2 * DAY)
    page = unescape(ask().get("/models", params={"night": str(NIGHT + 2 * DAY)}).text)
    assert "0 rejected, 1 night not finished" in page
    assert f"without labels: {words.day(NIGHT + 2 * DAY)}." in page
    assert f"There is no night on {words.day(NIGHT + DAY)}." in page
    assert "not finished" not in ask().get("/models", params={"night": str(NIGHT)}).text.replace(
        "begun and is not finished", ""
    )
