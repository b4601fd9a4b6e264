"""Decide whether the night's model may label users, or the one before goes on.

A model whose labels have collapsed, or that is worse than the last promoted one on the same
held-out events, never labels anybody unless promote.force says so.

Worse is what is surely worse. NDCG@20 and intent lift@20 of a night's users vary by chance, the
more the fewer they are, and a night comes every day: to refuse what merely looks lower would refuse
every other model that is as good. So a model is refused when even the upper end of the one-sided
interval of the relative change, by the paired bootstrap over users, is below the drop that the
settings allow. A model that has become worse by just what is allowed is refused one time in twenty.
"""

import datetime as dt
import logging
from typing import Any

import polars as pl

from tasks.errors import ModelError
from tasks.lake import Lake, tables
from tasks.registry.choices import roll_back
from tasks.registry.figures import (
    ALL_USERS,
    CHURN,
    IDLE_USERS,
    LABELS,
    LARGEST_SHARE,
    LIFT,
    NDCG,
    SPLIT,
    UTILISATION,
    Metrics,
    against,
    change_of,
)
from tasks.registry.identity import model_of_night
from tasks.registry.versions import promoted, registered
from tasks.settings import PromoteSettings, Settings

log = logging.getLogger(__name__)


def promote(settings: Settings, night: dt.date) -> dict[str, Any]:
    """Promote the night's model when it meets the limits and is not worse than the last promoted.

    The outcome follows from the settings, the night's metrics and the promotions of earlier
    nights. Of one night at most one model is promoted, the latest decided on.

    Where a person has chosen a model for the night (promote.version, or `roll_back` before), that
    one labels, and promote.force chooses the night's own instead.

    Raises ModelError when the model is not evaluated, and when it fails and no earlier one is
    there to label instead; for promote.version as `roll_back` does.
    """
    lake = Lake(settings.lake.root)
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
    measured = _measured(lake, night, SPLIT)
    new = measured.get((version, ALL_USERS))
    if new is None:
        raise ModelError(f"model {version} is not evaluated: run evaluate --night {night} first")
    forced = settings.promote.force
    change = measured.get((version, against(before[0]))) if before is not None else None
    if before is not None and change is None and not forced:
        raise ModelError(
            f"model {version} is not compared with the last promoted one, {before[0]}, "
            f"on night {night}: run evaluate --night {night} again"
        )

    churn = {
        users: metrics[CHURN]
        for (measured_version, users), metrics in _measured(lake, night, LABELS).items()
        if measured_version == version
    }
    reasons = find_failings(settings.promote, new, change, churn if before is not None else {})
    accepted = forced or not reasons
    _mark(lake, night, version if accepted else None)
    why = "; ".join(reasons)
    if accepted and reasons:
        log.warning("model %s is promoted by promote.force although %s", version, why)
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
        "labels_with": version,
        "compared_with": before[0] if before is not None else None,
    }


def find_failings(
    limits: PromoteSettings, new: Metrics, change: Metrics | None, churn: Metrics
) -> list[str]:
    """Say what speaks against a model, each with both figures; nothing does if the list is empty.

    change: how it differs from the last promoted model, if there is one (`evaluate.compare`).
    churn: the share that would get another label, of all users and of idle ones, if they had any.
    A figure that is missing or no number fails its limit.
    """
    failings = []
    # Each comparison is written so that NaN fails it.
    used = new.get(UTILISATION, float("nan"))
    if not used >= limits.min_utilisation:
        failings.append(
            f"its labels use {used:.3f} of the intents, below promote.min_utilisation "
            f"{limits.min_utilisation:.3f}"
        )
    largest = new.get(LARGEST_SHARE, float("nan"))
    if not largest <= limits.max_largest_share:
        failings.append(
            f"its largest intent holds {largest:.3f} of the users, above "
            f"promote.max_largest_share {limits.max_largest_share:.3f}"
        )
    ndcg = new.get(NDCG, float("nan"))
    if not ndcg >= 0:
        failings.append(f"its {NDCG} is {ndcg:.4f}, which is no figure to promote by")
    for users, of_whom, name in (
        (ALL_USERS, "users", "max_churn"),
        (IDLE_USERS, "users without new events", "max_idle_churn"),
    ):
        if users in churn and not churn[users] <= (ceiling := getattr(limits, name)):
            failings.append(
                f"it would give {churn[users]:.3f} of the {of_whom} another label than they had, "
                f"above promote.{name} {ceiling:.3f}"
            )
    if change is None:
        return failings
    for metric, name in ((NDCG, "max_ndcg_drop"), (LIFT, "max_lift_drop")):
        limit: float = getattr(limits, name)
        highest = change.get(change_of(metric, "high"), float("nan"))
        if not highest >= -limit:
            estimate = change.get(change_of(metric), float("nan"))
            failings.append(
                f"its {metric} is {new.get(metric, float('nan')):.4f}, {estimate:+.1%} against the "
                f"last promoted model's and surely no better than {highest:+.1%}, beyond "
                f"promote.{name} {limit:.1%}"
            )
    return failings


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
