"""A check is told by what it observed, with a unit and the limit, whether it was met or not."""

import json
import math

import pytest

from tasks.night.quality import SUITES
from tasks.page import checks
from tasks.page.words import BLANK


def said(suite: str, expectation: str, **row: object) -> tuple[str, str]:
    usual = {"met": True, "value": None, "observed": None, "expected": None}
    column = row.pop("column", None)
    which = {"suite": suite, "column_name": column, "expectation": expectation}
    return checks.said(usual | row | which)


def test_every_check_of_the_suites_has_a_sentence() -> None:
    for file in sorted(SUITES.glob("*.json")):
        suite = json.loads(file.read_text("utf-8"))
        for one in suite["expectations"]:
            column, expects = one["kwargs"].get("column"), one["description"]
            known = (
                (file.stem, expects) in checks.OF_ROWS
                or column in checks.FIGURES
                or (column is None and file.stem in checks.ALL_ROWS)
            )
            assert known, f"{file.stem}: {expects}"


@pytest.mark.parametrize(
    ("column", "value", "expected", "text", "limit"),
    [
        (
            "largest_user_share",
            0.349,
            "at most 0.2",
            f"One user made 34.9{BLANK}% of the night's events",
            f"at most 20{BLANK}%",
        ),
        (
            "volume",
            1.504,
            "at least 0",
            f"The night has 1.5{BLANK}times the events of the median of the same weekday (of all",
            "none",
        ),
        (
            "volume_7",
            0.45,
            "at least 0.5 and at most 2",
            f"The night has 0.45{BLANK}times the events of the median",
            f"at least 0.5 and at most 2{BLANK}times",
        ),
        ("silent_hours", 7.2, "at most 6", f"No event in the last 7.2{BLANK}hours", "at most 6"),
        ("user_id_missing", 1.0, "at most 0", "1 event without a user id", "at most 0"),
    ],
)
def test_a_figure_is_written_in_its_unit_beside_its_limit(
    column: str, value: float, expected: str, text: str, limit: str
) -> None:
    found = said("any", "whatever", column=column, value=value, expected=expected)
    assert found[0].startswith(text)
    assert found[1].startswith(limit)


def test_rows_that_break_an_expectation_are_counted() -> None:
    row = {"column": "user_id", "observed": "3 of 943 rows, such as u1", "met": False}
    assert said("checked_labels", "a user has one label", **row) == (
        "3 of 943 labels are of a user with another label, for example u1",
        "at most 0",
    )
    text, limit = said(
        "checked_labels",
        "nearly every user has an intent",
        observed="90 of 943 rows",
        expected="in 0.95 of the rows",
    )
    assert text == "90 of 943 users have no intent"
    assert limit == f"at most 5{BLANK}%"


def test_a_check_that_the_page_does_not_know_says_whether_it_was_met() -> None:
    text, _ = said("new", "all is well", column="new", value=3.0, met=False)
    assert text == "Not met: all is well (observed: 3)"
    text, _ = said("new", "all is well", observed="nothing to compare with")
    assert text == "Not asked on this night: whether all is well"
    assert not checks.is_asked({"value": None, "observed": "nothing to compare with"})
    assert checks.is_asked({"value": None, "observed": "0 of 9 rows"})
    assert checks.is_asked({"value": 0.0, "observed": None})


@pytest.mark.parametrize(
    ("value", "observed", "expected", "nearness"),
    [
        (0.15, None, "at most 0.2", 0.75),
        (0.3, None, "at most 0.2", 1.5),
        (4.0, None, "at least 1", 0.25),
        (0.0, None, "at least 1", math.inf),
        (0.8, None, "at least 0.5 and at most 2", 0.625),
        (1.8, None, "at least 0.5 and at most 2", 0.9),
        (0.0, None, "at most 0", 0.0),
        (3.0, None, "at most 0", math.inf),
        (1.5, None, "at least 0", 0.0),
        (7.0, None, None, 0.0),
        (None, "4 of 100 rows, such as u1", "in 0.95 of the rows", 0.8),
        (None, "0 of 100 rows", "at least 0 and at most 1", 0.0),
        (None, "1 of 100 rows", "at least 0 and at most 1", math.inf),
        (None, "nothing to compare with", "at most 0.2", 0.0),
    ],
)
def test_how_near_a_check_is_to_its_limit(
    value: float | None, observed: str | None, expected: str | None, nearness: float
) -> None:
    row = {"value": value, "observed": observed, "expected": expected}
    assert checks.nearness(row) == pytest.approx(nearness)


def test_every_check_of_the_suites_says_what_to_do() -> None:
    for file in sorted(SUITES.glob("*.json")):
        for one in json.loads(file.read_text("utf-8"))["expectations"]:
            row = {
                "suite": file.stem,
                "column_name": one["kwargs"].get("column"),
                "expectation": one["description"],
            }
            told = checks.mend(row)
            assert told and told[0].isupper() and told.endswith(".")
    assert checks.mend({"suite": "x", "column_name": None, "expectation": "of old"}) is None
