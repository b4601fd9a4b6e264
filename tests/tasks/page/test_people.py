"""What is told of a user: one number under one word, and the label always among the intents."""

import datetime as dt

import polars as pl
import pytest

from tasks.lake import Lake, tables
from tasks.page import people
from tasks.page.links import Links
from tasks.page.reader import PageLake
from tasks.settings import LabelSettings, Settings
from tests.tasks.nights import NIGHT
from tests.tasks.page.conftest import Ask


def change(lake: Lake, user: str, **columns: pl.Expr) -> None:
    rows = lake.scan(tables.LABEL_EVIDENCE, NIGHT, NIGHT).collect()
    mine = pl.col("user_id") == user
    changed = {
        name: pl.when(mine).then(value.cast(rows.schema[name])).otherwise(pl.col(name))
        for name, value in columns.items()
    }
    lake.replace(tables.LABEL_EVIDENCE, rows.with_columns(**changed), nights=[NIGHT])


def surest(*intents: tuple[int, float]) -> pl.Expr:
    listed = [{"intent_id": intent, "probability": sure} for intent, sure in intents]
    return pl.lit(pl.Series([listed]))


def test_a_label_that_is_kept_is_listed_beside_the_intent_that_is_preferred(
    lake: Lake, settings: Settings, ask: Ask
) -> None:
    change(
        lake,
        "u01",
        calibrated_confidence=pl.lit(0.004),
        held_since=pl.lit(dt.date(2026, 11, 19)),
        intents=surest((2, 0.93), (1, 0.03), (3, 0.01)),
    )
    told = people.view(settings, PageLake.there(settings), NIGHT, "u01", Links())
    assert told
    assert [one["is_label"] for one in told["top"]] == [False, False, False, True]
    assert told["top"][-1]["probability"] == pytest.approx(0.004)
    assert told["preferred"]["probability"] == pytest.approx(0.93)
    shown = ask().get("/users?id=u01").text
    assert "The model now prefers" in shown and "more than 20 times as probable" in shown
    assert "supports no intent" not in shown


def test_the_most_probable_label_is_listed_once_and_nothing_is_preferred(
    lake: Lake, settings: Settings, ask: Ask
) -> None:
    told = people.view(settings, PageLake.there(settings), NIGHT, "u02", Links())
    assert told
    assert [one["is_label"] for one in told["top"]] == [True, False]
    assert told["preferred"] is None
    assert "prefers" not in ask().get("/users?id=u02").text


def test_the_course_has_the_confidence_that_the_page_shows_everywhere(
    lake: Lake, settings: Settings
) -> None:
    told = people.view(settings, PageLake.there(settings), NIGHT, "u01", Links())
    assert told
    assert [one["confidence"] for one in told["course"]] == pytest.approx([0.25, 0.25, 0.25])


def test_where_nothing_is_calibrated_no_other_number_takes_its_place(
    lake: Lake, settings: Settings
) -> None:
    change(lake, "u01", calibrated_confidence=pl.lit(None), intents=pl.lit(None))
    told = people.view(settings, PageLake.there(settings), NIGHT, "u01", Links())
    assert told
    assert {one["probability"] for one in told["top"]} == {None}
    assert told["course"][0]["confidence"] is None


def test_the_shares_of_the_evidence_add_up(lake: Lake, settings: Settings) -> None:
    told = people.view(settings, PageLake.there(settings), NIGHT, "u01", Links())
    assert told
    assert sum(one["share"] for one in told["because"]) + told["other_items"] == pytest.approx(1)


def test_examples_are_sorted_by_the_confidence_that_is_shown(
    lake: Lake, settings: Settings
) -> None:
    told = people.examples(PageLake.there(settings), NIGHT, ["u01", "u02", "u03"], 5)
    assert [one["user"] for one in told] == ["u02", "u03", "u01"]


def test_users_to_begin_with_are_of_no_small_intent(lake: Lake, ask: Ask) -> None:
    shown = ask(page={"min_users": 12}).get("/users").text
    assert "/users?" in shown and "id=u1" not in shown
    assert "id=u1" in ask().get("/users").text
    assert ask().get("/users?id=u01").text.index('name="id"') < 4_000  # the box is on top


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ({}, "only after a new event of the user, and when another intent is more than 20 times"),
        ({"idle_probability_ratio": 20}, "only when another intent is more than 20 times"),
        ({"idle_probability_ratio": 50}, "or more than 50 times if the user has no new event"),
        ({"probability_ratio": 1}, "and when another intent is more probable"),
    ],
)
def test_when_a_label_changes_is_said_from_the_settings(
    ratios: dict[str, float], said: str
) -> None:
    assert said in people.changes_when(LabelSettings.model_validate(ratios))
