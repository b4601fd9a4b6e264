"""Which models may label: absolute limits, comparison with the last one, and a person's word."""

import datetime as dt
import logging
from typing import Any

import polars as pl
import pytest

from tasks import tables
from tasks.errors import ModelError
from tasks.lake import Lake
from tasks.models import identify, promoted, register
from tasks.promote import find_failings, promote
from tasks.settings import PromoteSettings, Settings
from tests.tasks.nights import NIGHT, SMALL_MODEL, small_settings, table, write_histories

LIMITS = PromoteSettings(max_ndcg_drop=0.1, min_utilisation=0.2, max_largest_share=0.5)
GOOD = {"NDCG@20": 0.1, "utilisation": 0.8, "largest_share": 0.1}
COLLAPSED = GOOD | {"utilisation": 0.1, "largest_share": 0.99}
WORSE = GOOD | {"NDCG@20": 0.05}
NEXT_NIGHT = NIGHT + dt.timedelta(days=1)


@pytest.mark.parametrize(
    ("new", "last", "expected"),
    [
        (GOOD, None, []),
        (GOOD, GOOD, []),
        (GOOD, {"NDCG@20": 0.111}, []),
        (GOOD, {"NDCG@20": 0.112}, ["NDCG@20 is 0.1000"]),
        (WORSE, None, []),
        (WORSE, GOOD, ["NDCG@20 is 0.0500, more than promote.max_ndcg_drop 10% below 0.1000"]),
        (GOOD | {"utilisation": 0.2, "largest_share": 0.5}, None, []),
        (GOOD | {"utilisation": 0.19}, None, ["use 0.190 of the intents, below"]),
        (GOOD | {"largest_share": 0.51}, None, ["holds 0.510 of the users, above"]),
        (COLLAPSED, {"NDCG@20": 0.2}, ["utilisation", "largest_share", "NDCG@20"]),
        (GOOD | {"NDCG@20": float("nan")}, None, ["NDCG@20 is nan"]),
        (GOOD | {"utilisation": float("nan")}, GOOD, ["use nan of the intents"]),
        ({"NDCG@20": 0.1, "utilisation": 0.8}, None, ["largest intent holds nan"]),
    ],
)
def test_limits_say_what_speaks_against_a_model_with_both_figures(
    new: dict[str, float], last: dict[str, float] | None, expected: list[str]
) -> None:
    failings = find_failings(LIMITS, new, last)
    assert len(failings) == len(expected)
    for failing, part in zip(failings, expected, strict=True):
        assert part in failing


def after_evaluation(
    settings: Settings, night: dt.date, metrics: dict[str, float], last: dict[str, float] | None
) -> str:
    """Leave what train and evaluate leave: the night's model and figures of it and of the last."""
    write_histories(settings, night, {"ann": [1, 2, 3, night.day]})
    lake, identity = Lake(settings.lake.root), identify(settings, night)
    register(lake, night, identity)
    before = promoted(lake, until=night - dt.timedelta(days=1))
    measured = {identity.version: metrics, "popularity": {"NDCG@20": 0.01}}
    if last is not None and before is not None:
        measured[before[0]] = last
    rows = [
        (night, version, "test", "all", metric, value)
        for version, figures in measured.items()
        for metric, value in figures.items()
    ]
    frame = pl.DataFrame(rows, schema=tables.METRICS.schema.names, orient="row")
    lake.replace(tables.METRICS, frame, nights=[night])
    return identity.version


def test_the_first_model_within_the_limits_is_promoted_and_a_rerun_changes_nothing(
    settings: Settings,
) -> None:
    version = after_evaluation(settings, NIGHT, GOOD, None)
    summary = promote(settings, NIGHT)
    models = table(settings, tables.MODELS)
    assert summary["promoted"] and summary["labels_with"] == version
    assert models["promoted"].to_list() == [True]
    assert promote(settings, NIGHT) == summary
    assert table(settings, tables.MODELS).equals(models)


def test_a_worse_model_is_kept_from_the_labels_with_a_warning_that_says_why(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    old = after_evaluation(settings, NIGHT, GOOD, None)
    promote(settings, NIGHT)
    new = after_evaluation(settings, NEXT_NIGHT, WORSE, GOOD)
    summary = promote(settings, NEXT_NIGHT)
    assert summary["promoted"] is False and summary["labels_with"] == old
    [warning] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    for part in (new, old, "0.0500", "0.1000"):
        assert part in warning
    assert promoted(Lake(settings.lake.root), until=NEXT_NIGHT) == (old, NIGHT)


def test_force_promotes_a_worse_model(settings: Settings) -> None:
    after_evaluation(settings, NIGHT, GOOD, None)
    promote(settings, NIGHT)
    new = after_evaluation(settings, NEXT_NIGHT, COLLAPSED, GOOD)
    forced = small_settings(settings.lake.root, promote={"force": True})
    summary = promote(forced, NEXT_NIGHT)
    assert summary["promoted"] and summary["labels_with"] == new and summary["failings"]


def test_a_first_model_beyond_the_limits_ends_the_run_and_labels_nobody(
    settings: Settings,
) -> None:
    after_evaluation(settings, NIGHT, COLLAPSED, None)
    with pytest.raises(ModelError, match=r"not fit to label .*promote\.force to take it"):
        promote(settings, NIGHT)
    assert promoted(Lake(settings.lake.root), until=NIGHT) is None


def test_a_backfilled_night_is_compared_with_nights_before_it_only(settings: Settings) -> None:
    """A better model of a later night must not keep a past night from what it would have got."""
    later = after_evaluation(settings, NEXT_NIGHT, GOOD | {"NDCG@20": 0.9}, None)
    promote(settings, NEXT_NIGHT)
    past = after_evaluation(settings, NIGHT, GOOD, None)
    assert promote(settings, NIGHT)["labels_with"] == past
    assert promoted(Lake(settings.lake.root), until=NEXT_NIGHT) == (later, NEXT_NIGHT)


def test_of_one_night_the_model_decided_on_last_is_the_promoted_one(settings: Settings) -> None:
    after_evaluation(settings, NIGHT, GOOD, None)
    promote(settings, NIGHT)
    changed = small_settings(settings.lake.root, model=SMALL_MODEL | {"seed": 7})
    second = after_evaluation(changed, NIGHT, WORSE, None)
    assert promote(changed, NIGHT)["compared_with"] is None
    models = table(settings, tables.MODELS)
    assert models.height == 2
    assert models.filter("promoted")["model_version"].to_list() == [second]


def test_rules_are_not_applied_to_figures_that_are_missing(settings: Settings) -> None:
    after_evaluation(settings, NIGHT, GOOD, None)
    promote(settings, NIGHT)
    after_evaluation(settings, NEXT_NIGHT, GOOD, last=None)
    with pytest.raises(ModelError, match=r"last promoted model .* is not evaluated on night"):
        promote(settings, NEXT_NIGHT)
    empty: Any = tables.METRICS.schema.empty_table()
    Lake(settings.lake.root).replace(tables.METRICS, empty, nights=[NEXT_NIGHT])
    with pytest.raises(ModelError, match="is not evaluated: run evaluate --night 2026-11-21"):
        promote(settings, NEXT_NIGHT)
