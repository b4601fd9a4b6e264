"""What is told of a user: one number under one word, and the label always among the intents."""

import datetime as dt

import polars as pl
import pyarrow as pa
import pytest

from tasks.lake import Lake, tables
from tasks.page import people
from tasks.page.features import Feature
from tasks.page.links import Links
from tasks.page.reader import PageLake
from tasks.settings import LabelSettings, Settings
from tests.tasks.nights import NIGHT
from tests.tasks.page.conftest import MARKUP, Ask, begin


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


def test_a_label_that_is_less_sure_without_a_new_event_is_explained(
    lake: Lake, settings: Settings, ask: Ask
) -> None:
    def course(*found: tuple[float | None, int | None]) -> list[dict[str, object]]:
        return [
            {"night": NIGHT - back * dt.timedelta(days=1), "intent": 1, "confidence": sure}
            | {"new_events": events}
            for back, (sure, events) in enumerate(found)
        ]

    told = people._without_event(course((0.3, 0), (0.31, 2), (0.78, 2), (0.1, None)))
    assert told is None  # it changed on nights with new events alone
    told = people._without_event(course((0.5, 1), (0.3, 0), (0.78, 2)))
    assert told == {"night": NIGHT - dt.timedelta(days=1), "before": 0.78, "after": 0.3}
    assert people._without_event(course((0.5, 0), (None, 0), (0.78, 2))) is None
    change(lake, "u01", calibrated_confidence=pl.lit(0.05))
    assert "without a new event of the user" in ask().get("/users?id=u01").text


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


def test_a_label_is_tied_to_the_categories_of_its_intent(
    lake: Lake, settings: Settings, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    monkeypatch.setattr(
        people,
        "features",
        lambda *_: {0: {"category": [Feature("Comedy", ""), Feature("War", "")]}},
    )
    told = people.view(settings, PageLake.there(settings), NIGHT, "u02", Links())
    assert told
    assert told["ties"].typical == ["Comedy", "War"]
    # Of i1, the one item that is told of, the label has three quarters of its evidence.
    assert told["ties"].share == told["ties"].listed == pytest.approx(0.75)
    assert (told["ties"].events, len(told["items"])) == (1, 2)  # i6 is not in the catalogue
    [because] = told["because"]
    assert because["categories"] == [("Comedy", True), (MARKUP[:47] + "…", False)]
    page = ask().get("/users?id=u02").text
    assert "<strong>Comedy</strong>, &lt;script&gt;" in page and "<script>alert" not in page
    assert (
        "75\N{NO-BREAK SPACE}% of the evidence" in page and "has 1 such item among 2 events" in page
    )


def test_where_no_item_is_of_the_intent_the_page_says_so(
    lake: Lake, settings: Settings, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    monkeypatch.setattr(people, "features", lambda *_: {0: {"category": [Feature("War", "")]}})
    page = ask().get("/users?id=u02").text
    assert "No item in this list is of this category." in page
    assert "has 0 such items among 2 events" in page
    monkeypatch.setattr(people, "features", lambda *_: {})
    assert "more often than others:" not in ask().get("/users?id=u02").text


def recommend(lake: Lake, items: dict[str, list[str]], night: dt.date = NIGHT) -> None:
    rows = [
        {
            "dt": night,
            "user_id": user,
            "items": [{"item_id": item, "score": -float(at)} for at, item in enumerate(its)],
            "model_version": "made by hand",
        }
        for user, its in items.items()
    ]
    schema = tables.USER_RECOMMENDATIONS.schema
    lake.replace(
        tables.USER_RECOMMENDATIONS, pa.Table.from_pylist(rows, schema=schema), nights=[night]
    )


def test_what_to_recommend_is_shown_with_titles_the_best_first(lake: Lake, ask: Ask) -> None:
    recommend(lake, {"u01": ["i4", MARKUP, "i2"], "u02": []})
    page = ask().get("/users?id=u01").text
    listed = page.partition("What to recommend next")[2].partition("</ol>")[0]
    assert "<script>alert" not in listed
    assert [listed.index(one) for one in ("Plain &amp; simple", "&lt;script&gt;", "\\u202e")] == (
        sorted(listed.index(one) for one in ("Plain &amp; simple", "&lt;script&gt;", "\\u202e"))
    )
    for user in ("u02", "u03"):  # nothing is recommended, or the night has no row of the user
        assert "What to recommend next" not in ask().get(f"/users?id={user}").text
    before = NIGHT - dt.timedelta(days=1)
    assert "What to recommend next" not in ask().get(f"/users?id=u01&night={before}").text


def test_a_lake_without_recommendations_shows_none(lake: Lake, ask: Ask) -> None:
    answer = ask().get("/users?id=u01")
    assert answer.status_code == 200 and "What to recommend next" not in answer.text


def test_all_events_of_a_user_who_is_new_are_new(lake: Lake, settings: Settings) -> None:
    labels = lake.scan(tables.INTENT_LABELS, NIGHT, NIGHT).collect()
    row = labels.filter(pl.col("user_id") == "u02")
    new = row.with_columns(user_id=pl.lit("came"), n_events=pl.lit(3, labels.schema["n_events"]))
    lake.replace(tables.INTENT_LABELS, pl.concat([labels, new]), nights=[NIGHT])
    told = people.view(settings, PageLake.there(settings), NIGHT, "came", Links())
    assert told
    assert [one["new_events"] for one in told["spells"]] == [3, 0]
    there = people.view(settings, PageLake.there(settings), NIGHT, "u02", Links())
    assert there
    assert [one["new_events"] for one in there["course"]] == [0, 0, None], "of old: not known"


def test_a_user_who_came_later_or_a_night_without_labels_is_no_unknown_user(
    lake: Lake, ask: Ask
) -> None:
    labels = lake.scan(tables.INTENT_LABELS, NIGHT, NIGHT).collect()
    row = labels.filter(pl.col("user_id") == "u02")
    new = row.with_columns(user_id=pl.lit(MARKUP + "2"))
    lake.replace(tables.INTENT_LABELS, pl.concat([labels, new]), nights=[NIGHT])
    before = NIGHT - dt.timedelta(days=1)
    page = ask().get("/users", params={"id": MARKUP + "2", "night": str(before)}).text
    assert "first seen on" in page and "No such user" not in page and MARKUP not in page
    assert f"night={NIGHT}" in page
    failed = NIGHT + dt.timedelta(days=1)
    begin(lake, failed)
    page = ask().get("/users", params={"id": "u02", "night": str(failed)}).text
    assert "it has no labels" in page and "No such user" not in page
    nobody = ask().get("/users", params={"id": "nobody"}).text
    assert "No such user" in nobody
