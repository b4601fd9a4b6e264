"""Decide whether the night's model may label users, or the one before goes on.

A model never labels anybody unless promote.force says so when its labels have collapsed, when it is
no better than the strongest simple baseline or its labels say less than popularity, or when it is
worse than the last promoted one, or than the anchor, on the same held-out events.

The anchor is the model of the last training from scratch that the last promoted one goes back to.
A drop that is allowed every night would add up to any drop; against the anchor it does not.

Worse is what is surely worse. NDCG@20 and intent lift@20 of a night's users vary by chance, the
more the fewer they are, and a night comes every day: to refuse what merely looks lower would refuse
every other model that is as good. So a model is refused when even the upper end of the one-sided
interval of the relative change, by the paired bootstrap over users, is below the drop that the
settings allow. A model that has become worse by just what is allowed is refused one time in twenty.
Where the users are too few to tell, the model is promoted, and a warning says so.

All of it is of users whose newest event is of an item that is new to them: repeats cannot inflate
it.
"""

import datetime as dt
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from tasks.errors import ModelError
from tasks.lake import Lake, tables
from tasks.registry.choices import roll_back
from tasks.registry.figures import (
    ALL_USERS,
    CHURN,
    FLOOR,
    IDLE_USERS,
    LABELS,
    LARGEST_SHARE,
    LIFT,
    NDCG,
    NEW_ITEMS,
    POPULARITY,
    SPLIT,
    USERS,
    UTILISATION,
    Metrics,
    against,
    change_of,
)
from tasks.registry.identity import model_of_night
from tasks.registry.versions import anchor, promoted, registered
from tasks.settings import PromoteSettings, Settings

log = logging.getLogger(__name__)

# The bootstrap of fewer users takes chance for certainty: of so few nothing is sure.
FEWEST_USERS = 50


@dataclass(frozen=True)
class Figures:
    """What was measured of a model, for the rules.

    new: over all users; on_new_items: over those whose target is new to them.
    floor: baselines by name, each with its own NDCG@20 and the change from it to the model.
    earlier: the change from earlier models, by what they are called in a sentence.
    churn: the share that would get another label, of all users and of idle ones, if they had any.
    """

    new: Metrics
    on_new_items: Metrics
    floor: Mapping[str, tuple[float, Metrics]] = field(default_factory=dict)
    earlier: Mapping[str, Metrics] = field(default_factory=dict)
    churn: Metrics = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What speaks against a model, and what its users were too few to tell; each a sentence."""

    failings: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def promote(settings: Settings, night: dt.date) -> dict[str, Any]:
    """Promote the night's model when it meets the limits and is not worse than the last promoted.

    The outcome follows from the settings, the night's metrics and the promotions of earlier
    nights. Of one night at most one model is promoted, the latest decided on.

    Where a person has chosen a model for the night (promote.version, or `roll_back` before), that
    one labels, and promote.force chooses the night's own instead.

    Raises ModelError when the model is not evaluated, and when it fails and no earlier one is
    there to label instead; for promote.version as `roll_back` does.
    """
    lake = Lake.of(settings)
    chosen = lake.scan(tables.CHOICES, first=night, last=night).collect()["model_version"]
    if settings.promote.version:
        roll_back(settings, night, settings.promote.version)
        return _by_hand(lake, night, settings.promote.version)
    if len(chosen) and not settings.promote.force:
        return _by_hand(lake, night, chosen.item())
    version = model_of_night(settings, night).version
    if len(chosen):
        roll_back(settings, night, version)
        return _by_hand(lake, night, version)
    before = promoted(lake, until=night - dt.timedelta(days=1))
    forced = settings.promote.force
    verdict = judge(settings.promote, _figures(lake, night, version, before, forced=forced))
    reasons = verdict.failings
    accepted = forced or not reasons
    _mark(lake, night, version if accepted else None)
    why = "; ".join(reasons)
    if accepted and reasons:
        log.warning("model %s is promoted by promote.force although %s", version, why)
    elif accepted and verdict.doubts:
        log.warning("model %s is promoted; %s", version, "; ".join(verdict.doubts))
    elif accepted:
        log.info("model %s is promoted", version)
    elif before is not None:
        log.warning("model %s is not promoted, %s goes on: %s", version, before[0], why)
    else:
        raise ModelError(
            f"model {version} is not fit to label and no earlier model is there to do it: {why}; "
            "train longer or on other settings, loosen the limits under promote, or set "
            "promote.force to take it as it is"
        )
    return {
        "model_version": version,
        "promoted": accepted,
        "chosen_by_hand": False,
        "kept_old": not accepted,
        "reasons": reasons,
        "doubts": verdict.doubts,
        "labels_with": version if accepted or before is None else before[0],
        "compared_with": before[0] if before is not None else None,
    }


def _by_hand(lake: Lake, night: dt.date, version: str) -> dict[str, Any]:
    """Tell the outcome of a promotion of a night for which a person has chosen a model."""
    before = promoted(lake, until=night - dt.timedelta(days=1))
    log.warning("night %s is labelled by model %s, which a person has chosen", night, version)
    return {
        "model_version": version,
        "promoted": version in registered(lake, night)["model_version"],
        "chosen_by_hand": True,
        "kept_old": False,
        "reasons": [],
        "doubts": [],
        "labels_with": version,
        "compared_with": before[0] if before is not None else None,
    }


def judge(limits: PromoteSettings, figures: Figures) -> Verdict:
    """Say what speaks against a model, each with both figures; nothing does without failings.

    A figure that is missing or no number fails its limit.
    """
    verdict = Verdict()
    _labels(limits, figures, verdict)
    _floor(figures, verdict)
    for of_whom, change in figures.earlier.items():
        _earlier(limits, figures.on_new_items, of_whom, change, verdict)
    return verdict


def _labels(limits: PromoteSettings, figures: Figures, verdict: Verdict) -> None:
    """Judge what labels the model gives, to how many of its intents and to whom other ones."""
    # Each comparison is written so that NaN fails it.
    used = figures.new.get(UTILISATION, float("nan"))
    if not used >= limits.min_utilisation:
        verdict.failings.append(
            f"its labels use {used:.3f} of the intents, below promote.min_utilisation "
            f"{limits.min_utilisation:.3f}"
        )
    largest = figures.new.get(LARGEST_SHARE, float("nan"))
    if not largest <= limits.max_largest_share:
        verdict.failings.append(
            f"its largest intent holds {largest:.3f} of the users, above "
            f"promote.max_largest_share {limits.max_largest_share:.3f}"
        )
    for users, of_whom, name in (
        (ALL_USERS, "users", "max_churn"),
        (IDLE_USERS, "users without new events", "max_idle_churn"),
    ):
        ceiling: float = getattr(limits, name)
        if users in figures.churn and not figures.churn[users] <= ceiling:
            verdict.failings.append(
                f"it would give {figures.churn[users]:.3f} of the {of_whom} another label than "
                f"they had, above promote.{name} {ceiling:.3f}"
            )


def _floor(figures: Figures, verdict: Verdict) -> None:
    """Hold the model against the strongest simple baseline, and its labels against popularity."""
    if figures.new and not figures.on_new_items:
        verdict.doubts.append(
            "no user's newest event is of an item that is new to the user, so nothing says whether "
            "the model is better than simple baselines"
        )
        return
    ndcg = figures.on_new_items.get(NDCG, float("nan"))
    if not ndcg >= 0:
        verdict.failings.append(f"its {NDCG} is {ndcg:.4f}, which is no figure to promote by")
        return
    strongest = max(figures.floor, key=lambda name: figures.floor[name][0], default="")
    theirs, change = figures.floor.get(strongest, (float("nan"), {}))
    lift = figures.on_new_items.get(LIFT, float("nan"))
    users = int(change.get(USERS, 0))
    for metric, against_what, of_change in (
        (
            NDCG,
            f"its {NDCG} is {ndcg:.4f}, and that of the simple baseline {strongest} {theirs:.4f}",
            change,
        ),
        (
            LIFT,
            f"its {LIFT} is {lift:.2f}, and without any intents it would be 1",
            figures.floor.get(POPULARITY, (0.0, {}))[1],
        ),
    ):
        low, high = (of_change.get(change_of(metric, end), float("nan")) for end in ("low", "high"))
        if users >= FEWEST_USERS and not high >= 0:
            verdict.failings.append(
                f"{against_what}: it is surely no better (by {high:+.1%} at most)"
            )
        elif not low > 0:
            verdict.doubts.append(
                f"{against_what}: {users} users with a newest item that is new to them are too few "
                f"to tell that it is better (from {low:+.1%} to {high:+.1%})"
            )


def _earlier(
    limits: PromoteSettings, new: Metrics, of_whom: str, change: Metrics, verdict: Verdict
) -> None:
    """Hold the model against an earlier one."""
    if change.get(USERS) == 0:
        verdict.doubts.append(
            f"no user's newest event is of an item that is new to the user, so it is not compared "
            f"with {of_whom}"
        )
        return
    for metric, name in ((NDCG, "max_ndcg_drop"), (LIFT, "max_lift_drop")):
        limit: float = getattr(limits, name)
        highest = change.get(change_of(metric, "high"), float("nan"))
        if not highest >= -limit:
            estimate = change.get(change_of(metric), float("nan"))
            verdict.failings.append(
                f"its {metric} is {new.get(metric, float('nan')):.4f}, {estimate:+.1%} against "
                f"{of_whom} and surely no better than {highest:+.1%}, beyond "
                f"promote.{name} {limit:.1%}"
            )


def _figures(
    lake: Lake, night: dt.date, version: str, before: tuple[str, dt.date] | None, *, forced: bool
) -> Figures:
    """Read what `evaluate` measured; raises ModelError when it did not measure what is needed."""
    measured = _measured(lake, night, SPLIT)
    new = measured.get((version, ALL_USERS))
    if new is None or not any((version, against(name)) in measured for name in FLOOR):
        raise ModelError(f"model {version} is not evaluated: run evaluate --night {night} first")
    earlier = {}
    if before is not None:
        earlier[before[0]] = f"the last promoted model, {before[0]},"
        first = anchor(lake, before[0])
        # One that is gone has been warned of by `evaluate`.
        if first is not None and first not in (before[0], version) and lake.has_model(first):
            earlier[first] = f"the model of the last training from scratch, {first},"
    missing = [name for name in earlier if (version, against(name)) not in measured]
    if missing and not forced:
        raise ModelError(
            f"model {version} is not compared with {earlier[missing[0]].removesuffix(',')} "
            f"on night {night}: run evaluate --night {night} again"
        )
    churn = {
        users: metrics[CHURN]
        for (measured_version, users), metrics in _measured(lake, night, LABELS).items()
        if measured_version == version
    }
    return Figures(
        new=new,
        on_new_items=measured.get((version, NEW_ITEMS), {}),
        floor={
            name: (
                measured.get((name, NEW_ITEMS), {}).get(NDCG, 0.0),
                measured[version, against(name)],
            )
            for name in FLOOR
            if (version, against(name)) in measured
        },
        earlier={
            of_whom: measured[version, against(name)]
            for name, of_whom in earlier.items()
            if name not in missing
        },
        churn=churn if before is not None else {},
    )


def _measured(lake: Lake, night: dt.date, split: str) -> dict[tuple[str, str], Metrics]:
    """Read the night's metrics of a split by model version and slice."""
    rows = (
        lake.scan(tables.METRICS, first=night, last=night)
        .filter(pl.col("split") == split)
        .select("model_version", "slice", "metric", "value")
        .collect()
    )
    measured: dict[tuple[str, str], Metrics] = {}
    for version, users, metric, value in rows.iter_rows():
        measured.setdefault((version, users), {})[metric] = value
    return measured


def _mark(lake: Lake, night: dt.date, version: str | None) -> None:
    """Make this version the only promoted one of its night, or none."""
    rows = registered(lake, night)
    chosen = pl.col("model_version") == version if version else pl.lit(False)
    lake.replace(tables.MODELS, rows.with_columns(promoted=chosen), nights=[night])
