"""What a check observed, in a sentence with its unit, and beside it the limit.

The suites say what they expect. The page says what was observed, so that no line says the opposite
of what happened.
"""

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import tasks.night
from tasks.page import words
from tasks.page.words import BLANK

SUITES = Path(tasks.night.__file__).parent / "suites"

SHARE, TIMES, HOURS = "share", "times", "hours"
ROWS = re.compile(r"(\d+) of (\d+) rows(?:, such as (.*))?", re.DOTALL)
NUMBER = re.compile(r"\d+(?:\.\d+)?")
MOSTLY = re.compile(r"in (\d+(?:\.\d+)?) of the rows")
BOUND = re.compile(r"at (least|most) (-?\d+(?:\.\d+)?)")

# Figures of a night, by column: their unit, and a sentence with the figure in it. A unit that is
# not among those above is a noun, in the singular.
FIGURES = {
    "events": ("event", "The night has {}"),
    "user_id_missing": ("event", "{} without a user id"),
    "item_id_missing": ("event", "{} without an item id"),
    "event_type_missing": ("event", "{} without a type"),
    "ts_missing": ("event", "{} without a time"),
    "source_missing": ("event", "{} without the name of their file"),
    "row_number_missing": ("event", "{} without the number of their row"),
    "user_id_empty": ("event", "{} with an empty user id"),
    "item_id_empty": ("event", "{} with an empty item id"),
    "event_type_empty": ("event", "{} with an empty type"),
    "user_id_long": ("event", "{} with too long a user id"),
    "item_id_long": ("event", "{} with too long an item id"),
    "after_night": ("event", "{} with a time after the end of the night"),
    "other_day": ("event", "{} stored under another day than that of their time"),
    "repeated": ("event", "{} that are there twice"),
    "quarantined_share": (SHARE, "{} of the night's rows are unusable"),
    "duplicate_share": (SHARE, "{} of the night's rows are exact duplicates"),
    "volume": (
        TIMES,
        "The night has {} the events of the median of the same weekday (of all of the 28 nights "
        "before it until three of the weekday are known)",
    ),
    "volume_28": (TIMES, "The night has {} the events of the median of the 28 nights before it"),
    "volume_7": (TIMES, "The night has {} the events of the median of the 7 nights before it"),
    "volume_weekday": (
        TIMES,
        "The night has {} the events of the median of the same weekday in the 28 nights before it",
    ),
    "silent_hours": (HOURS, "No event in the last {} of the night"),
    "new_user_share": (SHARE, "{} of the night's users have no history yet"),
    "new_item_share": (SHARE, "{} of the night's items are new"),
    "largest_user_share": (SHARE, "One user made {} of the night's events"),
    "largest_item_share": (SHARE, "One item has {} of the night's events"),
    "type_shift": (SHARE, "The mix of event types differs by {} from the 7 nights before"),
    "catalogue_size": (TIMES, "The catalogue has {} the items of the last one that passed"),
    "untitled_share": (SHARE, "{} of the night's items have no title in the catalogue"),
    "rejected_share": (SHARE, "{} of the rows of the catalogue are unusable"),
    "users_without_label": ("user", "{} with a history and without a label"),
    "labels_without_evidence": ("label", "{} without evidence of the same model"),
    "unlabelled_share": (SHARE, "{} of the users have no intent"),
    "largest_share": (SHARE, "The largest intent has {} of the users"),
    "utilisation": (SHARE, "The use of the intents is {} of what equal sizes would give"),
    "labels_without_recommendations": ("label", "{} without recommendations of the same model"),
    "recommendations_without_label": ("user", "{} with recommendations and without a label"),
    "faulty_lists": ("user", "{} with a recommended item that is missing or named twice"),
    "unordered_lists": ("user", "{} whose recommended items are not in order of their scores"),
    "lists_with_had_items": ("user", "{} with recommended items that are in the history"),
    "users_without_items": ("user", "{} with an intent and without a recommended item"),
    "kept_meaning": (SHARE, "The named intent that changed most has kept {} of its meaning"),
}

# Rows that break an expectation, by suite and expectation: the noun of a row, and a sentence with
# their number in it; {allowed} is what the limit allows in a row.
OF_ROWS = {
    ("checked_columns", "the tables have the columns and types that this version reads"): (
        "column",
        "{} differ from what this version reads",
    ),
    ("checked_items", "an item has one index"): ("item", "{} have more than one index"),
    ("checked_items", "an index has one item"): ("item", "{} share their index with another"),
    ("checked_labels", "user_id is filled in"): ("label", "{} have no user id"),
    ("checked_labels", "a user has one label"): ("label", "{} are of a user with another label"),
    ("checked_labels", "model_version is filled in"): ("label", "{} have no model version"),
    ("checked_labels", "a label's user has a history"): (
        "label",
        "{} are of a user without a history",
    ),
    ("checked_labels", "a label's intent has a profile"): (
        "label",
        "{} are of an intent without a profile",
    ),
    ("checked_labels", "the confidence lies between 0 and 1"): (
        "label",
        "{} have a confidence that is not {allowed}",
    ),
    ("checked_labels", "the runner-up's confidence lies between 0 and 1"): (
        "label",
        "{} have a runner-up with a confidence that is not {allowed}",
    ),
    ("checked_labels", "nearly every user has an intent"): ("user", "{} have no intent"),
    ("checked_sequences", "user_id is filled in"): ("history", "{} have no user id"),
    ("checked_sequences", "a user has one history"): (
        "history",
        "{} are of a user with another history",
    ),
    (
        "checked_sequences",
        "a history has at least one item and at most sequences.last_events",
    ): ("history", "{} do not have {allowed} items"),
    ("checked_sequences", "a history is no longer than the user's events are many"): (
        "history",
        "{} have more items than their user has events",
    ),
    ("checked_sequences", "no item of a history is missing"): (
        "history",
        "{} have an item that is missing",
    ),
    ("checked_sequences", "item indices start at 1"): (
        "history",
        "{} have an item with an index below 1",
    ),
    ("checked_sequences", "item indices are in the vocabulary"): (
        "history",
        "{} have an item with an index that no item has",
    ),
    ("checked_sequences", "last_ts is filled in"): (
        "history",
        "{} have no time of the last event",
    ),
    ("checked_sequences", "no history reaches past the end of the night"): (
        "history",
        "{} reach past the end of the night",
    ),
}
# How many rows there are, by suite.
ALL_ROWS = {"checked_labels": "label", "checked_sequences": "history"}


def is_asked(row: Mapping[str, Any]) -> bool:
    """Tell whether there was something to check; `met` says nothing where there was not.

    row: of `check_results`.
    """
    return row["value"] is not None or bool(ROWS.fullmatch(row["observed"] or ""))


def said(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a check observed, in a sentence, and its limit.

    row: of `check_results`.
    """
    suite, column, expectation = row["suite"], row["column_name"], row["expectation"]
    value, observed, limit = row["value"], row["observed"], row["expected"] or ""
    rows = ROWS.fullmatch(observed or "") if value is None else None
    if rows and (suite, expectation) in OF_ROWS:
        noun, sentence = OF_ROWS[suite, expectation]
        few, every, example = rows.groups()
        number = f"{int(few):,} of {_counted(int(every), noun)}"
        if mostly := MOSTLY.search(limit):
            most = f"at most {words.percent(1 - float(mostly[1]), 0)}"
        else:
            most = "at most 0"
        text = sentence.format(number, allowed=limit)
        return text + (f", for example {words.shown(example, 100)}" if example else ""), most
    if value is not None and column is None and suite in ALL_ROWS:
        return f"There are {_counted(value, ALL_ROWS[suite])}", limit
    if value is not None and column in FIGURES:
        unit, sentence = FIGURES[column]
        return sentence.format(_written(value, unit)), _limit(limit, unit)
    expectation = words.shown(expectation, 200)
    if not is_asked(row):
        return f"Not asked on this night: whether {expectation}", _limit(limit, _unit(column))
    seen = words.shown(observed, 200) if value is None else f"{value:,.4g}"
    return f"{'Met' if row['met'] else 'Not met'}: {expectation} (observed: {seen})", limit


def nearness(row: Mapping[str, Any]) -> float:
    """Return how much of its limit a check has used up: 1 at the limit, more beyond it.

    0 where there is no limit to come near to: of what must not be there at all, nothing is there,
    or the check had nothing to look at.

    row: of `check_results`.
    """
    value, limit = row["value"], row["expected"] or ""
    if rows := ROWS.fullmatch(row["observed"] or "") if value is None else None:
        few, every = int(rows[1]), int(rows[2])
        mostly = MOSTLY.search(limit)
        allowed = 1 - float(mostly[1]) if mostly else 0.0
        return _used(few / every if every else 0.0, allowed)
    if value is None:
        return 0.0
    used = [0.0]
    for side, bound in BOUND.findall(limit):
        at, observed = float(bound), float(value)
        used.append(_used(observed, at) if side == "most" else _used(at, observed))
    return max(used)


def _used(part: float, whole: float) -> float:
    if part <= 0:
        return 0.0
    return part / whole if whole > 0 else math.inf


def mend(row: Mapping[str, Any]) -> str | None:
    """Return what to do when a check is not met, a sentence; None: the suites do not know it.

    row: of `check_results`. A row of an earlier version may be of a check that is no more.
    """
    known = _mends().get((row["suite"], row["column_name"], row["expectation"]))
    return known and f"{known[:1].upper()}{known[1:]}."


@cache
def _mends() -> dict[tuple[str, str | None, str], str]:
    return {
        (file.stem, one["kwargs"].get("column"), one["description"]): one["meta"]["mend"]
        for file in sorted(SUITES.glob("*.json"))
        for one in json.loads(file.read_text("utf-8"))["expectations"]
    }


def sentence(text: str, limit: str) -> str:
    """Join what was observed and its limit to one line."""
    return f"{text}; limit: {limit}" if limit else text


def _unit(column: str | None) -> str:
    return FIGURES[column][0] if column in FIGURES else ""


def _written(value: float, unit: str) -> str:
    if unit == SHARE:
        return words.percent(value)
    if unit in (TIMES, HOURS):
        return f"{value:,.3g}{BLANK}{unit}"
    return _counted(value, unit)


def _counted(value: float, noun: str) -> str:
    return words.plural(value, noun, "histories" if noun == "history" else None)


def _limit(limit: str, unit: str) -> str:
    """Write the numbers of a limit in its unit: at most 0.2 of a share is at most 20 %."""
    if unit == TIMES and limit == "at least 0":
        return "none"
    if unit == SHARE:
        return NUMBER.sub(lambda found: f"{100 * float(found[0]):.3g}{BLANK}%", limit)
    if not unit or not limit:
        return limit
    last = float(NUMBER.findall(limit)[-1])
    return f"{limit}{BLANK}{unit if unit in (TIMES, HOURS) or last == 1 else unit + 's'}"
