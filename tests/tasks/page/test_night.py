"""The night view says whether a night is good, and why its model was promoted or rejected."""

import datetime as dt
import json
import re
from html import unescape
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from tasks.lake import Lake, tables
from tasks.page import checks, night
from tasks.page.links import Links
from tasks.page.reader import PageLake
from tasks.page.words import BLANK
from tasks.registry.figures import LIFT, NDCG, NEW_ITEMS, SPLIT, against, change_of
from tasks.settings import Settings
from tasks.steps import STEPS
from tests.tasks.nights import NIGHT
from tests.tasks.page.conftest import MARKUP, Ask

NEW, OLD = "20261120-new", "20261119-old"
PROMOTED = {
    "model_version": NEW,
    "promoted": True,
    "labels_with": NEW,
    "compared_with": OLD,
    "reasons": [],
    "doubts": [],
}
KEPT_OUT = PROMOTED | {
    "promoted": False,
    "labels_with": OLD,
    "reasons": ["its NDCG@20 is 0.1000, -20.0% against the last promoted model"],
}


def write(lake: Lake, table: tables.Table, rows: list[dict[str, Any]]) -> None:
    dated = [{"dt": NIGHT, **row} for row in rows]
    lake.replace(table, pa.Table.from_pylist(dated, schema=table.schema), nights=[NIGHT])


def write_steps(lake: Lake, promote: dict[str, Any], *, without: str | None = None) -> None:
    started = dt.datetime.combine(NIGHT, dt.time(1), tzinfo=dt.UTC)
    rows = [
        {
            "step": name,
            "started_at": started,
            "seconds": 90.0,
            "peak_mb": 1234.0,
            "summary": json.dumps(promote if name == "promote" else {}),
        }
        for name in STEPS
        if name != without
    ]
    write(lake, tables.STEPS, rows)


def check(met: bool, severity: str) -> dict[str, Any]:
    return {
        "step": "check-events",
        "suite": "checked_night",
        "column_name": "largest_user_share",
        "expectation": "no user has too large a share of the night's events",
        "severity": severity,
        "met": met,
        "value": 0.25,
        "expected": "at most 0.2",
    }


def view(settings: Settings) -> dict[str, Any]:
    return night.view(settings, PageLake.there(settings), NIGHT, Links())


@pytest.mark.parametrize(
    ("promote", "rows", "state", "reasons"),
    [
        (PROMOTED, [check(True, "critical")], night.GOOD, []),
        (
            PROMOTED,
            [check(False, "warning")],
            night.LOOK,
            [f"One user made 25.0{BLANK}% of the night's events; limit: at most 20{BLANK}%"],
        ),
        (
            PROMOTED,
            [check(False, "critical")],
            night.BAD,
            [f"One user made 25.0{BLANK}% of the night's events; limit: at most 20{BLANK}%"],
        ),
        (KEPT_OUT, [], night.LOOK, ["The new model was rejected"]),
        (PROMOTED | {"chosen_by_hand": True, "promoted": False}, [], night.GOOD, []),
    ],
)
def test_a_night_is_good_or_asks_for_a_look_or_is_not_good(
    lake: Lake,
    settings: Settings,
    promote: dict[str, Any],
    rows: list[dict[str, Any]],
    state: str,
    reasons: list[str],
) -> None:
    write_steps(lake, promote)
    write(lake, tables.CHECK_RESULTS, rows)
    verdict = view(settings)["verdict"]
    assert verdict.state == state
    assert len(verdict.reasons) == len(reasons)
    for told, expected in zip(verdict.reasons, reasons, strict=True):
        assert told.said.startswith(expected)


def test_a_step_that_did_not_end_is_named(lake: Lake, settings: Settings) -> None:
    write_steps(lake, PROMOTED, without="check-labels")
    told = view(settings)
    assert told["verdict"].state == night.BAD
    [reason] = told["verdict"].reasons
    assert reason.said == "check-labels failed or has not ended"
    assert "log" in reason.mend and reason.href == "#steps"
    [row] = [row for row in told["steps"] if not row["ran"]]
    assert row["name"] == "check-labels"


def fail(lake: Lake, at: str, **of_check: Any) -> None:
    """Make the night one that stopped at a step: it has no labels."""
    started = dt.datetime.combine(NIGHT, dt.time(1), tzinfo=dt.UTC)
    ended = list(STEPS)[: list(STEPS).index(at)]
    step = {"started_at": started, "seconds": 1.0, "peak_mb": 1.0, "summary": "{}"}
    write(lake, tables.STEPS, [{"step": name, **step} for name in ended])
    write(lake, tables.CHECK_RESULTS, [check(False, "critical") | of_check])
    for table in (tables.INTENT_PROFILES, tables.INTENT_LABELS, tables.LABEL_COUNTS):
        write(lake, table, [])


def test_a_night_that_stopped_names_the_step_and_what_did_not_run(
    lake: Lake, settings: Settings, ask: Ask
) -> None:
    fail(lake, "check-events")
    told = view(settings)
    [reason] = told["verdict"].reasons
    after = len(STEPS) - 1 - list(STEPS).index("check-events")
    assert reason.said.startswith("check-events failed: One user made")
    assert reason.said.endswith(f"; the {after} steps after it did not run")
    figures = {tile.name: tile for tile in told["tiles"]}
    assert figures["Clear labels"].value == "no labels"
    assert figures["Users with a label"].course == "" and not figures["Clear labels"].beside
    assert told["compared"] == 2, "the two nights before have labels"
    assert ask().get("/night", params={"night": str(NIGHT)}).status_code == 200


def write_stats(lake: Lake, events: int) -> None:
    write(lake, tables.NIGHT_STATS, [{"events": events}])


@pytest.mark.parametrize("least", [1, 100])
def test_the_user_who_made_too_many_events_is_named_where_it_may_be(
    lake: Lake, ask: Ask, least: int
) -> None:
    write_steps(lake, PROMOTED)
    write(lake, tables.CHECK_RESULTS, [check(False, "warning")])
    write_stats(lake, 3)
    row = lake.scan(tables.EVENTS, NIGHT, NIGHT).collect().to_dicts()[0]
    write(lake, tables.EVENTS, [row | {"user_id": user} for user in (MARKUP, "u01", MARKUP)])
    page = ask(page={"min_users": least}).get("/night").text
    assert MARKUP not in page
    assert ("It is user" in unescape(page)) == (least == 1)
    assert (f"{MARKUP}, with 2 events" in unescape(page)) == (least == 1)
    if least == 1:
        assert re.search(r'href="/users\?night=[^"]*">This user</a>', page)
    else:
        assert "too few users for the page to name it" in page


def test_a_night_of_very_many_events_says_how_to_find_the_user(
    lake: Lake, settings: Settings
) -> None:
    write_steps(lake, PROMOTED)
    write(lake, tables.CHECK_RESULTS, [check(False, "warning")])
    write_stats(lake, night.MOST_EVENTS + 1)
    [reason] = view(settings)["verdict"].reasons
    assert f"dt = {NIGHT} by user_id" in reason.said
    told = night.view(settings, PageLake.there(settings), NIGHT, Links(), names_users=False)
    assert "user_id" not in told["verdict"].reasons[0].said


@pytest.mark.parametrize(
    ("earlier", "said"),
    [
        ([], ""),
        ([True, True], " (new: met on the last 2 nights that made this check)"),
        ([True], " (new: met on the last night that made this check)"),
        ([False, True, False], " (on 2 of the last 3 nights that made this check too)"),
        ([False, False], " (on the last 2 nights that made this check too)"),
    ],
)
def test_a_warning_says_whether_it_is_new(
    lake: Lake, settings: Settings, earlier: list[bool], said: str
) -> None:
    write_steps(lake, PROMOTED)
    write(lake, tables.CHECK_RESULTS, [check(False, "warning")])
    for back, met in enumerate(earlier, 1):
        day = NIGHT - back * dt.timedelta(days=1)
        rows = [{"dt": day, **check(met, "warning")}]
        made = pa.Table.from_pylist(rows, schema=tables.CHECK_RESULTS.schema)
        lake.replace(tables.CHECK_RESULTS, made, nights=[day])
    profiles = lake.scan(tables.INTENT_PROFILES, NIGHT, NIGHT).collect()
    day = NIGHT - 3 * dt.timedelta(days=1)
    lake.replace(tables.INTENT_PROFILES, profiles.with_columns(dt=pl.lit(day)), nights=[day])
    told = night.view(settings, PageLake.there(settings), NIGHT, Links(), names_users=False)
    [reason] = told["verdict"].reasons
    assert reason.said.endswith(f"at most 20{BLANK}%{said}")


def test_the_time_of_a_step_that_did_nothing_before_is_no_percentage() -> None:
    assert night._usual_time(13.9, [0.1, 0.1]) == "new step: took no time before"
    assert night._usual_time(0.3, [0.1, 0.1]) == f"usually 0.1{BLANK}s, +200{BLANK}%"
    assert night._usual_time(None, [0.1]) is None


def test_a_night_from_before_recommendations_has_ended_well_without_them(
    lake: Lake, settings: Settings
) -> None:
    write_steps(lake, PROMOTED, without="recommend")
    assert view(settings)["verdict"].state == night.GOOD


def test_a_model_is_shown_against_its_limits_with_intervals(lake: Lake, settings: Settings) -> None:
    write_steps(lake, KEPT_OUT)
    figures = [
        {"model_version": NEW, "slice": NEW_ITEMS, "metric": NDCG, "value": 0.1},
        {"model_version": NEW, "slice": "all", "metric": "utilisation", "value": 0.1},
    ]
    for other, ends in ((OLD, (-0.2, -0.3, -0.1)), ("popularity", (5.0, 4.0, 6.0))):
        for end, value in zip(("estimate", "low", "high"), ends, strict=True):
            metric = change_of(NDCG, end)
            figures.append(
                {"model_version": NEW, "slice": against(other), "metric": metric, "value": value}
            )
    write(lake, tables.METRICS, [{"split": SPLIT, **row} for row in figures])
    told = view(settings)
    assert "was rejected" in told["decision"]["sentence"]
    [shown] = told["intervals"]
    rows = {row["what"]: row for row in shown["rows"]}
    assert not rows["than the model before"]["met"]
    assert rows["than popularity"]["met"]
    # So far to the better that it would hide the others: told in words.
    assert [row["what"] for row in shown["far"]] == ["than popularity"]
    assert "popularity" not in shown["chart"] and "interval bad" in shown["chart"]
    [rule] = told["rules"]
    assert (rule.what, rule.met) == ("Use of the intents", False)
    assert LIFT not in {one["name"] for one in told["intervals"]}


def test_labels_that_changed_are_told_apart_by_new_events(lake: Lake, settings: Settings) -> None:
    tiles = {tile.name: tile for tile in view(settings)["tiles"]}
    # Of 36 users who were there before, two changed, one of whom had a new event.
    counts = lake.scan(tables.LABEL_COUNTS, NIGHT, NIGHT).collect().to_dicts()[0]
    assert counts["compared"] == counts["users"] == 36
    assert counts["changed"] == 2
    assert tiles["Labels changed"].value.startswith("5.6")
    [of_active] = tiles["Labels changed"].beside
    assert of_active.endswith(f"with new events, usually 0.0{BLANK}%, +5.6 points")
    said, href = tiles["Labels changed"].more or ("", "")
    assert said.startswith("Who changed") and href == f"/flows?since={NIGHT - dt.timedelta(days=1)}"
    assert tiles["Users with a label"].beside[-1].startswith("usually 36")


def write_held(lake: Lake, held: dict[int, int | None], *, compared: int = 200) -> None:
    """Write counts of labels; held: how many of 200 are held, by nights before the last."""
    for before, number in held.items():
        one = NIGHT - before * dt.timedelta(days=1)
        row: dict[str, int | None] = dict.fromkeys(("clear", "changed", "idle", "idle_changed"), 0)
        row |= {"users": 210, "users_with_intent": 200, "compared": compared, "held": number}
        rows = pa.Table.from_pylist([{"dt": one, **row}], schema=tables.LABEL_COUNTS.schema)
        lake.replace(tables.LABEL_COUNTS, rows, nights=[one])


def held_tile(settings: Settings) -> night.Tile:
    tiles: list[night.Tile] = view(settings)["tiles"]
    return next(one for one in tiles if one.name == "Labels held")


def test_labels_that_are_held_stand_beside_those_of_the_nights_before(
    lake: Lake, settings: Settings
) -> None:
    write_held(lake, {2: 8, 1: 12, 0: 31})
    tile = held_tile(settings)
    assert tile.value == f"15.5{BLANK}%"
    assert tile.beside == [
        "31 of 200: the model now prefers another intent",
        f"usually 5.0{BLANK}%, +10.5 points",
    ]
    assert "over 3 nights" in tile.course
    assert tile.meaning and "more than 20 times as probable" in tile.meaning


@pytest.mark.parametrize(
    ("held", "compared", "value", "beside"),
    [
        (None, 200, "\N{EN DASH}", "not counted on this night"),
        (0, 0, f"0.0{BLANK}%", "there is no night before whose labels could stay"),
    ],
    ids=["from before they were counted", "the first night"],
)
def test_a_night_without_held_labels_says_why(
    lake: Lake, settings: Settings, held: int | None, compared: int, value: str, beside: str
) -> None:
    write_held(lake, {2: None, 1: None, 0: held}, compared=compared)
    tile = held_tile(settings)
    assert (tile.value, tile.beside) == (value, [beside])


def test_a_model_of_too_few_users_is_promoted_although_it_may_be_no_better(
    lake: Lake, settings: Settings
) -> None:
    write_steps(lake, PROMOTED | {"doubts": ["30 users are too few to tell"]})
    assert "was promoted although" in view(settings)["decision"]["sentence"]


def write_clear(
    lake: Lake, clear: dict[int, int], of_intents: dict[int, int] | None = None
) -> None:
    """Write counts of labels; clear: how many of 100 are clear, by nights before the last.

    of_intents: the same of intent 1 alone.
    """
    for before, number in clear.items():
        one = NIGHT - before * dt.timedelta(days=1)
        row: dict[str, Any] = dict.fromkeys(("compared", "changed", "idle", "idle_changed"), 0)
        row |= {"users": 100, "users_with_intent": 100, "clear": number}
        if of_intents and before in of_intents:
            row["of_intents"] = [{"intent_id": 1, "clear": of_intents[before]}]
        rows = pa.Table.from_pylist([{"dt": one, **row}], schema=tables.LABEL_COUNTS.schema)
        lake.replace(tables.LABEL_COUNTS, rows, nights=[one])


@pytest.mark.parametrize(
    ("clear", "warns"), [({2: 90, 1: 87, 0: 84}, True), ({1: 88, 0: 85}, False)]
)
def test_a_fall_of_clear_labels_within_a_week_asks_for_a_look(
    lake: Lake, settings: Settings, clear: dict[int, int], warns: bool
) -> None:
    write_steps(lake, PROMOTED)
    write_clear(lake, {2: 88} | clear, of_intents={2: 9, 0: 1})
    told = view(settings)
    assert told["verdict"].state == (night.LOOK if warns else night.GOOD)
    if warns:
        [reason] = told["verdict"].reasons
        assert reason.said.startswith(f"Clear labels fell from 90.0{BLANK}% on ")
        assert re.search(
            r"Most in: [^(]*\(9\d\s% of 1\d users not clear, 10\s% then\)", reason.said
        )
        assert reason.href == "/intents?sort=confidence&order=up"
    tile = next(one for one in told["tiles"] if one.name == "Clear labels")
    assert tile.beside[0] == f"{100 - clear[0]} of 100 are not clear"
    assert "points" in tile.beside[1]
    assert tile.meaning and f"at least 50{BLANK}% likely" in tile.meaning


def test_a_figure_of_a_night_is_compared_with_a_week_before() -> None:
    days = {NIGHT - one * dt.timedelta(days=1): one for one in range(10)}
    assert days[night._week_before(days, NIGHT) or NIGHT] == 7
    young = {day: one for day, one in days.items() if one < 3}
    assert young[night._week_before(young, NIGHT) or NIGHT] == 2
    assert night._week_before({NIGHT: 0}, NIGHT) is None


def test_each_point_of_the_verdict_says_what_to_do_and_leads_to_what_explains_it(
    lake: Lake, settings: Settings, ask: Ask
) -> None:
    suite = json.loads((checks.SUITES / "checked_night.json").read_text("utf-8"))
    [user_share] = [
        one for one in suite["expectations"] if one["kwargs"]["column"] == "largest_user_share"
    ]
    of_intents = check(False, "warning") | {
        "step": "check-labels",
        "suite": "checked_label_totals",
        "expectation": "of old",
        "column_name": "utilisation",
        "expected": "at least 0.3",
    }
    write_steps(lake, KEPT_OUT)
    of_events = check(False, "warning") | {"expectation": user_share["description"]}
    write(lake, tables.CHECK_RESULTS, [of_events, of_intents])
    reasons = view(settings)["verdict"].reasons
    assert [one.href for one in reasons] == ["#model", "/models#read", "/intents"]
    assert reasons[1].mend == f"See{user_share['meta']['mend'][3:]}."
    assert reasons[2].mend == "The log of the check says what to do."  # it is none of the suites'
    page = unescape(ask().get("/night").text)
    for one in reasons:
        assert one.said in page and one.mend in page
    # Each leads to a part of the page that there is.
    for href in re.findall(r'<small>[^<]*<a href="([^"]*)">', page.partition("</section>")[0]):
        path, _, part = href.partition("#")
        there = page if not path else ask().get(path).text
        assert not part or f'id="{part}"' in there


def test_checks_are_in_the_order_of_how_near_they_are_to_their_limit(
    lake: Lake, settings: Settings, ask: Ask
) -> None:
    def one(name: str, **row: Any) -> dict[str, Any]:
        return check(True, "critical") | {"expectation": name, "column_name": name} | row

    write_steps(lake, PROMOTED)
    rows = [
        one("nothing to check", value=None, observed="nothing to compare with"),
        one("far", value=0.01),
        one("none", value=0.0, expected="at most 0", step="check-labels"),
        one("near", value=0.19),
        one("within two", value=0.8, expected="at least 0.5 and at most 2"),
        one("rows", value=None, observed="4 of 100 rows", expected="in 0.95 of the rows"),
        one("warns", value=0.21, met=False, severity="warning"),
        one("stops", value=0.21, met=False),
    ]
    write(lake, tables.CHECK_RESULTS, rows)
    told = view(settings)
    assert [row["expects"] for row in told["checks"]] == [
        *("stops", "warns", "near", "rows", "within two", "far", "none", "nothing to check")
    ]
    assert [row["expects"] for row in told["nearest"]] == ["near", "rows", "within two"]
    assert f"95{BLANK}% of the way to it" in ask().get("/night").text


def test_events_stand_beside_all_nights_and_beside_those_of_the_weekday(
    lake: Lake, settings: Settings
) -> None:
    def beside(events: dict[int, int]) -> list[str]:
        for back, number in events.items():
            one = NIGHT - back * dt.timedelta(days=1)
            row = dict.fromkeys(tables.NIGHT_STATS.schema.names, 1)
            row |= {"dt": one, "events": number, "event_types": [], "last_ts": None}
            rows = pa.Table.from_pylist([row], schema=tables.NIGHT_STATS.schema)
            lake.replace(tables.NIGHT_STATS, rows, nights=[one])
        tiles = {tile.name: tile for tile in view(settings)["tiles"]}
        return tiles["Events of the night"].beside

    # Two Fridays are too few, as they are for the check.
    assert beside({0: 100, 1: 400, 7: 50, 14: 50}) == [f"usually 400, \N{MINUS SIGN}75{BLANK}%"]
    assert beside({21: 50}) == [
        f"on a Friday usually 50, +100{BLANK}%; the check compares with this",
        f"usually 400, \N{MINUS SIGN}75{BLANK}%",
    ]


def test_the_longest_step_and_the_rows_read_are_said_in_words(
    lake: Lake, settings: Settings, ask: Ask
) -> None:
    write_steps(lake, PROMOTED)
    steps = lake.scan(tables.STEPS, NIGHT, NIGHT).collect()
    longer = pl.when(step="train").then(270.0).otherwise(pl.col("seconds"))
    lake.replace(tables.STEPS, steps.with_columns(seconds=longer), nights=[NIGHT])
    write(lake, tables.CHECK_RESULTS, [check(True, "warning")])
    counts = dict.fromkeys(
        (name for name in tables.INGESTS.schema.names if name.startswith("rows_")), 0
    )
    write(lake, tables.INGESTS, [counts | {"rows_read": 9, "rows_events": 8, "rows_late": 1}])
    page = unescape(ask().get("/night").text).replace(BLANK, " ")
    assert "The longest step was train: 4 min 30 s, 23 % of the time" in page
    assert "The step with the most memory was " in page and "at its peak" in page
    assert "9 rows read: 8 events of this night, no duplicate, no unusable row." in page


def test_how_far_clear_labels_fell_in_all_is_said_where_it_is_far() -> None:
    clear = {NIGHT - back * dt.timedelta(days=1): share for back, share in ((20, 0.9), (7, 0.7))}
    told = night._since_most(clear | {NIGHT: 0.68}, NIGHT)
    day = NIGHT - dt.timedelta(days=20)
    assert told and f"{BLANK}" in told and "22.0 points since" in told and f"{day:%Y}" in told
    assert night._since_most(clear | {NIGHT: 0.88}, NIGHT) is None
    assert night._since_most({NIGHT: 0.1}, NIGHT) is None and night._since_most({}, NIGHT) is None
