"""The night view says whether a night is good, and why its model was promoted or rejected."""

import datetime as dt
import json
from typing import Any

import pyarrow as pa
import pytest

from tasks.lake import Lake, tables
from tasks.page import night
from tasks.page.reader import PageLake
from tasks.page.words import BLANK
from tasks.registry.figures import LIFT, NDCG, NEW_ITEMS, SPLIT, against, change_of
from tasks.settings import Settings
from tasks.steps import STEPS
from tests.tasks.nights import NIGHT

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
    return night.view(settings, PageLake.there(settings), NIGHT)


@pytest.mark.parametrize(
    ("promote", "checks", "state", "reasons"),
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
    checks: list[dict[str, Any]],
    state: str,
    reasons: list[str],
) -> None:
    write_steps(lake, promote)
    write(lake, tables.CHECK_RESULTS, checks)
    verdict = view(settings)["verdict"]
    assert verdict.state == state
    assert len(verdict.reasons) == len(reasons)
    for told, expected in zip(verdict.reasons, reasons, strict=True):
        assert told.startswith(expected)


def test_a_step_that_did_not_end_is_named(lake: Lake, settings: Settings) -> None:
    write_steps(lake, PROMOTED, without="check-labels")
    told = view(settings)
    assert told["verdict"].state == night.BAD
    assert told["verdict"].reasons == ["check-labels failed or did not run; its log says why"]
    [row] = [row for row in told["steps"] if not row["ran"]]
    assert row["name"] == "check-labels"


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
    assert tiles["Users with a label"].beside[-1].startswith("usually 36")


def test_a_model_of_too_few_users_is_promoted_although_it_may_be_no_better(
    lake: Lake, settings: Settings
) -> None:
    write_steps(lake, PROMOTED | {"doubts": ["30 users are too few to tell"]})
    assert "was promoted although" in view(settings)["decision"]["sentence"]


def write_clear(lake: Lake, clear: dict[int, int]) -> None:
    """Write counts of labels; clear: how many of 100 are clear, by nights before the last."""
    for before, number in clear.items():
        one = NIGHT - before * dt.timedelta(days=1)
        row = dict.fromkeys(("compared", "changed", "idle", "idle_changed"), 0)
        row |= {"users": 100, "users_with_intent": 100, "clear": number}
        rows = pa.Table.from_pylist([{"dt": one, **row}], schema=tables.LABEL_COUNTS.schema)
        lake.replace(tables.LABEL_COUNTS, rows, nights=[one])


@pytest.mark.parametrize(
    ("clear", "warns"), [({2: 90, 1: 87, 0: 84}, True), ({1: 88, 0: 85}, False)]
)
def test_a_fall_of_clear_labels_within_a_week_asks_for_a_look(
    lake: Lake, settings: Settings, clear: dict[int, int], warns: bool
) -> None:
    write_steps(lake, PROMOTED)
    write_clear(lake, {2: 88} | clear)
    told = view(settings)
    assert told["verdict"].state == (night.LOOK if warns else night.GOOD)
    if warns:
        [reason] = told["verdict"].reasons
        assert reason.startswith(f"Clear labels fell from 90.0{BLANK}% on ")
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
