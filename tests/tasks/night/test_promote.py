"""Which models may label: absolute limits, comparison with the last one, and a person's word."""

import datetime as dt
import logging
import re
from typing import Any

import polars as pl
import pytest

from tasks.errors import ModelError
from tasks.lake import Lake, tables
from tasks.night.promote import Figures, Verdict, judge, promote
from tasks.registry.identity import identify, register
from tasks.registry.versions import anchor, promoted
from tasks.settings import PromoteSettings, Settings
from tests.tasks.nights import NIGHT, SMALL_MODEL, small_settings, table, write_histories

LIMITS = PromoteSettings(
    max_ndcg_drop=0.1,
    max_lift_drop=0.2,
    max_churn=0.5,
    max_idle_churn=0.3,
    min_utilisation=0.2,
    max_largest_share=0.5,
)
GOOD = {
    "users": 1000.0,
    "NDCG@20": 0.1,
    "intent_lift@20": 2.0,
    "utilisation": 0.8,
    "largest_share": 0.1,
}
COLLAPSED = GOOD | {"utilisation": 0.1, "largest_share": 0.99}


def change(
    ndcg: float, lift: float = 0.0, width: float = 0.05, users: float = 1000
) -> dict[str, float]:
    """Figures of a comparison whose bounds are so far from the estimates."""
    return {"users": users} | {
        f"{metric} change{bound}": value + step
        for metric, value in (("NDCG@20", ndcg), ("intent_lift@20", lift))
        for bound, step in (("", 0.0), (" low", -width), (" high", width))
    }


SAME, WORSE, UNSURE = change(0.0), change(-0.4), change(-0.4, -0.4, width=0.35)
NEXT_NIGHT = NIGHT + dt.timedelta(days=1)
BETTER = change(0.5, 0.8)  # than a baseline


def verdict(
    new: dict[str, float],
    against_last: dict[str, float] | None = None,
    churn: dict[str, float] | None = None,
    popularity: dict[str, float] = BETTER,
    cooccurrence: dict[str, float] = BETTER,
) -> Verdict:
    earlier = {} if against_last is None else {"the last promoted model": against_last}
    floor = {"popularity": (0.03, popularity), "co-occurrence": (0.05, cooccurrence)}
    return judge(LIMITS, Figures(new, new, floor, earlier, churn or {}))


@pytest.mark.parametrize(
    ("new", "against_last", "expected"),
    [
        (GOOD, None, []),
        (GOOD, SAME, []),
        (GOOD, UNSURE, []),
        (GOOD, change(-0.14), []),
        (GOOD, change(-0.16), ["NDCG@20 is 0.1000, -16.0% against the last promoted model and"]),
        (GOOD, change(0.1, -0.24), []),
        (GOOD, change(0.1, -0.26), ["no better than -21.0%, beyond promote.max_lift_drop 20.0%"]),
        (GOOD | {"utilisation": 0.2, "largest_share": 0.5}, None, []),
        (GOOD | {"utilisation": 0.19}, None, ["use 0.190 of the intents, below"]),
        (GOOD | {"largest_share": 0.51}, None, ["holds 0.510 of the users, above"]),
        (COLLAPSED, WORSE, ["utilisation", "largest_share", "NDCG@20"]),
        (GOOD | {"NDCG@20": float("nan")}, None, ["NDCG@20 is nan"]),
        (GOOD | {"utilisation": float("nan")}, SAME, ["use nan of the intents"]),
        ({"NDCG@20": 0.1, "utilisation": 0.8}, None, ["largest intent holds nan"]),
        (GOOD, {}, ["surely no better than +nan%", "intent_lift@20"]),
    ],
)
def test_limits_say_what_speaks_against_a_model_with_both_figures(
    new: dict[str, float], against_last: dict[str, float] | None, expected: list[str]
) -> None:
    failings = verdict(new, against_last).failings
    assert len(failings) == len(expected)
    for failing, part in zip(failings, expected, strict=True):
        assert part in failing


@pytest.mark.parametrize(
    ("churn", "expected"),
    [
        ({"all": 0.5, "idle": 0.3}, []),
        ({"all": 0.51, "idle": 0.3}, ["0.510 of the users another label .*max_churn 0.500"]),
        ({"all": 0.2, "idle": 0.31}, ["0.310 of the users without new events .*max_idle_churn"]),
        ({"all": 0.2, "idle": float("nan")}, ["nan of the users without"]),
        ({"all": 0.9}, ["max_churn"]),
    ],
)
def test_a_model_that_would_relabel_too_many_fails(
    churn: dict[str, float], expected: list[str]
) -> None:
    failings = verdict(GOOD, SAME, churn).failings
    assert len(failings) == len(expected)
    for failing, part in zip(failings, expected, strict=True):
        assert re.search(part, failing)


@pytest.mark.parametrize(
    ("floor", "failings", "doubts"),
    [
        ({}, [], []),
        # A model that is worthless passed on a first night, and so did labels that are.
        (
            {"cooccurrence": change(-0.9, -0.9)},
            ["NDCG@20 is 0.1000, and that of the simple baseline co-occurrence 0.0500: .* -85.0%"],
            [],
        ),
        ({"popularity": change(0.5, -0.6)}, ["intent_lift@20 is 2.00, .* would be 1: "], []),
        # Of the baselines the strongest counts.
        ({"popularity": change(-0.9, 0.8)}, [], []),
        ({"cooccurrence": change(-0.02)}, [], ["1000 users .* too few .*from -7.0% to .3.0%"]),
        ({"cooccurrence": change(0.02)}, [], ["too few to tell that it is better"]),
        ({"popularity": change(0.5, 0.02)}, [], ["intent_lift@20 .* too few to tell"]),
        # Of very few users nothing is sure, whatever the bootstrap says.
        (
            {"cooccurrence": change(-0.9, users=12), "popularity": change(0.5, -0.6, users=12)},
            [],
            ["12 users", "12 users"],
        ),
        ({"cooccurrence": {"users": 1000.0}}, ["surely no better .by .nan%"], []),
    ],
)
def test_a_model_that_is_surely_no_better_than_a_simple_baseline_fails(
    floor: dict[str, Any], failings: list[str], doubts: list[str]
) -> None:
    found = verdict(GOOD, None, **floor)
    for said, expected in ((found.failings, failings), (found.doubts, doubts)):
        assert len(said) == len(expected), said
        for sentence, part in zip(said, expected, strict=True):
            assert re.search(part, sentence)


def test_where_all_targets_are_repeats_nothing_is_sure_and_that_is_said() -> None:
    nobody = {"users": 0.0}
    floor = {"popularity": (0.0, nobody), "co-occurrence": (0.0, nobody)}
    earlier = {"the last promoted model": nobody}
    found = judge(LIMITS, Figures(GOOD, {}, floor, earlier))
    assert found.failings == [] and len(found.doubts) == 2
    assert all("new to the user" in doubt for doubt in found.doubts)


def after_evaluation(
    settings: Settings,
    night: dt.date,
    metrics: dict[str, float],
    against_last: dict[str, float] | None,
    churn: float | None = None,
    against_anchor: dict[str, float] | None = None,
    floor: dict[str, float] = BETTER,
) -> str:
    """Leave what train and evaluate leave: the night's model and figures of it and of the last."""
    write_histories(settings, night, {"ann": [1, 2, 3, night.day]})
    lake, identity = Lake(settings.lake.root), identify(settings, night)
    register(lake, night, identity, 8)
    before = promoted(lake, until=night - dt.timedelta(days=1))
    measured = {(identity.version, users): metrics for users in ("all", "new items")}
    for baseline in ("popularity", "co-occurrence"):
        measured[baseline, "new items"] = {"NDCG@20": 0.01}
        measured[identity.version, f"against {baseline}"] = floor
    if against_last is not None and before is not None:
        measured[identity.version, f"against {before[0]}"] = against_last
    if against_anchor is not None and before is not None:
        measured[identity.version, f"against {anchor(lake, before[0])}"] = against_anchor
    rows = [
        (night, version, "test", users, metric, value)
        for (version, users), figures in measured.items()
        for metric, value in figures.items()
    ]
    if churn is not None:
        rows.append((night, identity.version, "labels", "idle", "label_churn", churn))
    frame = pl.DataFrame(rows, schema=tables.METRICS.schema.names, orient="row")
    lake.replace(tables.METRICS, frame, nights=[night])
    lake.model_dir(identity.version).mkdir(parents=True, exist_ok=True)
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


@pytest.mark.slow
def test_a_worse_model_is_kept_from_the_labels_with_a_warning_that_says_why(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    old = after_evaluation(settings, NIGHT, GOOD, None)
    promote(settings, NIGHT)
    new = after_evaluation(settings, NEXT_NIGHT, GOOD, WORSE)
    summary = promote(settings, NEXT_NIGHT)
    assert summary["promoted"] is False and summary["labels_with"] == old
    assert summary["kept_old"] is True
    [reason] = summary["reasons"]
    assert "NDCG@20" in reason and f"the last promoted model, {old}," in reason
    [warning] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    for part in (new, old, reason):
        assert part in warning
    assert promoted(Lake(settings.lake.root), until=NEXT_NIGHT) == (old, NIGHT)


@pytest.mark.slow
def test_a_model_that_would_relabel_idle_users_is_kept_from_the_labels(settings: Settings) -> None:
    old = after_evaluation(settings, NIGHT, GOOD, None)
    promote(settings, NIGHT)
    after_evaluation(settings, NEXT_NIGHT, GOOD, SAME, churn=0.31)
    summary = promote(settings, NEXT_NIGHT)
    assert summary["kept_old"] and summary["labels_with"] == old
    assert "0.310 of the users without new events" in summary["reasons"][0]
    after_evaluation(settings, NEXT_NIGHT, GOOD, SAME, churn=0.29)
    assert promote(settings, NEXT_NIGHT)["promoted"]


@pytest.mark.slow
def test_force_promotes_a_worse_model(settings: Settings) -> None:
    after_evaluation(settings, NIGHT, GOOD, None)
    promote(settings, NIGHT)
    new = after_evaluation(settings, NEXT_NIGHT, COLLAPSED, WORSE)
    forced = small_settings(settings.lake.root, promote={"force": True})
    summary = promote(forced, NEXT_NIGHT)
    assert summary["promoted"] and summary["labels_with"] == new and len(summary["reasons"]) == 3
    assert summary["kept_old"] is False


def test_a_first_model_beyond_the_limits_ends_the_run_and_labels_nobody(
    settings: Settings,
) -> None:
    after_evaluation(settings, NIGHT, COLLAPSED, None)
    with pytest.raises(ModelError, match=r"not fit to label .*promote\.force to take it"):
        promote(settings, NIGHT)
    assert promoted(Lake(settings.lake.root), until=NIGHT) is None


@pytest.mark.slow
def test_a_backfilled_night_is_compared_with_nights_before_it_only(settings: Settings) -> None:
    """A better model of a later night must not keep a past night from what it would have got."""
    later = after_evaluation(settings, NEXT_NIGHT, GOOD, None)
    promote(settings, NEXT_NIGHT)
    past = after_evaluation(settings, NIGHT, GOOD, None)
    assert promote(settings, NIGHT)["labels_with"] == past
    assert promoted(Lake(settings.lake.root), until=NEXT_NIGHT) == (later, NEXT_NIGHT)


@pytest.mark.slow
def test_of_one_night_the_model_decided_on_last_is_the_promoted_one(settings: Settings) -> None:
    after_evaluation(settings, NIGHT, GOOD, None)
    promote(settings, NIGHT)
    changed = small_settings(settings.lake.root, model=SMALL_MODEL | {"seed": 7})
    second = after_evaluation(changed, NIGHT, GOOD, None)
    assert promote(changed, NIGHT)["compared_with"] is None
    models = table(settings, tables.MODELS)
    assert models.height == 2
    assert models.filter("promoted")["model_version"].to_list() == [second]


@pytest.mark.slow
def test_rules_are_not_applied_to_figures_that_are_missing(settings: Settings) -> None:
    after_evaluation(settings, NIGHT, GOOD, None)
    promote(settings, NIGHT)
    after_evaluation(settings, NEXT_NIGHT, GOOD, None)
    with pytest.raises(
        ModelError, match=r"not compared with the last promoted model, .* run evaluate"
    ):
        promote(settings, NEXT_NIGHT)
    empty: Any = tables.METRICS.schema.empty_table()
    Lake(settings.lake.root).replace(tables.METRICS, empty, nights=[NEXT_NIGHT])
    with pytest.raises(ModelError, match="is not evaluated: run evaluate --night 2026-11-21"):
        promote(settings, NEXT_NIGHT)


def test_a_worthless_model_of_a_first_night_ends_the_run_and_labels_nobody(
    settings: Settings,
) -> None:
    worthless = GOOD | {"NDCG@20": 0.0001, "intent_lift@20": 0.4}
    after_evaluation(settings, NIGHT, worthless, None, floor=change(-0.9, -0.6))
    with pytest.raises(ModelError, match=r"not fit to label .* surely no better"):
        promote(settings, NIGHT)
    assert promoted(Lake(settings.lake.root), until=NIGHT) is None


def test_where_users_are_too_few_to_tell_the_night_goes_on_with_a_warning(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    version = after_evaluation(settings, NIGHT, GOOD, None, floor=change(0.1, 0.1, width=0.3))
    summary = promote(settings, NIGHT)
    assert summary["promoted"] and len(summary["doubts"]) == 2
    [warning] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert version in warning and "too few to tell" in warning


@pytest.mark.slow
def test_a_model_that_is_worse_by_many_small_steps_is_kept_from_the_labels(
    settings: Settings,
) -> None:
    """Each night is a little worse than the one before, and all of them by more than is allowed."""
    nights = [NIGHT + dt.timedelta(days=days) for days in range(4)]
    small_step = change(-0.049)
    first = after_evaluation(settings, nights[0], GOOD, None)
    promote(settings, nights[0])
    # The anchor is the last promoted model itself.
    second = after_evaluation(settings, nights[1], GOOD, small_step)
    assert promote(settings, nights[1])["promoted"]
    lake = Lake(settings.lake.root)
    assert anchor(lake, second) == first
    after_evaluation(settings, nights[2], GOOD, small_step)
    with pytest.raises(ModelError, match=f"last training from scratch, {first} .* run evaluate"):
        promote(settings, nights[2])
    third = after_evaluation(settings, nights[2], GOOD, small_step, against_anchor=change(-0.098))
    assert promote(settings, nights[2])["promoted"]
    after_evaluation(settings, nights[3], GOOD, small_step, against_anchor=change(-0.2))
    summary = promote(settings, nights[3])
    assert summary["kept_old"] and summary["labels_with"] == third
    [reason] = summary["reasons"]
    assert f"the model of the last training from scratch, {first}," in reason


@pytest.mark.slow
def test_an_anchor_that_is_gone_is_none_any_more(settings: Settings) -> None:
    nights = [NIGHT + dt.timedelta(days=days) for days in range(3)]
    first = after_evaluation(settings, nights[0], GOOD, None)
    promote(settings, nights[0])
    after_evaluation(settings, nights[1], GOOD, SAME)
    promote(settings, nights[1])
    after_evaluation(settings, nights[2], GOOD, SAME)
    Lake(settings.lake.root).model_dir(first).rmdir()
    assert promote(settings, nights[2])["promoted"]
