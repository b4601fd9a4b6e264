"""Decide whether the night's model may label users, or the one before goes on.

A model whose labels have collapsed, or that ranks held-out events worse than the last promoted
model on the same users, never labels anybody unless promote.force says so.
"""

import datetime as dt
import logging
from typing import Any

import polars as pl

from tasks import tables
from tasks.errors import ModelError
from tasks.evaluate import ALL_USERS, LARGEST_SHARE, NDCG, SPLIT, UTILISATION
from tasks.lake import Lake
from tasks.models import model_of_night, promoted, registered
from tasks.settings import PromoteSettings, Settings

log = logging.getLogger(__name__)

Metrics = dict[str, float]


def promote(settings: Settings, night: dt.date) -> dict[str, Any]:
    """Promote the night's model when it meets the limits and is not worse than the last promoted.

    The outcome follows from the settings, the night's metrics and the promotions of earlier
    nights. Of one night at most one model is promoted, the latest decided on.

    Raises ModelError when the model is not evaluated, and when it fails and no earlier one is
    there to label instead.
    """
    lake = Lake(settings.lake.root)
    version = model_of_night(settings, night).version
    before = promoted(lake, until=night - dt.timedelta(days=1))
    measured = _measured(lake, night)
    if version not in measured:
        raise ModelError(f"model {version} is not evaluated: run evaluate --night {night} first")
    forced = settings.promote.force
    if before is not None and before[0] not in measured and not forced:
        raise ModelError(
            f"the last promoted model {before[0]} is not evaluated on night {night}: "
            f"run evaluate --night {night} again"
        )
    last = measured.get(before[0]) if before is not None else None

    failings = find_failings(settings.promote, measured[version], last)
    accepted = forced or not failings
    _mark(lake, night, version if accepted else None)
    why = "; ".join(failings)
    if accepted and failings:
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
        "labels_with": version if accepted or before is None else before[0],
        "compared_with": before[0] if before is not None else None,
        "failings": failings,
    }


def find_failings(limits: PromoteSettings, new: Metrics, last: Metrics | None) -> list[str]:
    """Say what speaks against a model, each with both figures; nothing does if the list is empty.

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
    least = (1 - limits.max_ndcg_drop) * last[NDCG] if last is not None else 0.0
    if not ndcg >= least:
        against = (
            f"more than promote.max_ndcg_drop {limits.max_ndcg_drop:.0%} below {last[NDCG]:.4f} "
            "of the last promoted model"
            if last is not None
            else "which is no figure to promote by"
        )
        failings.append(f"its {NDCG} is {ndcg:.4f}, {against}")
    return failings


def _measured(lake: Lake, night: dt.date) -> dict[str, Metrics]:
    """Read the night's metrics by model version."""
    rows = (
        lake.scan(tables.METRICS, first=night, last=night)
        .filter(pl.col("split") == SPLIT, pl.col("slice") == ALL_USERS)
        .select("model_version", "metric", "value")
        .collect()
    )
    measured: dict[str, Metrics] = {}
    for version, metric, value in rows.iter_rows():
        measured.setdefault(version, {})[metric] = value
    return measured


def _mark(lake: Lake, night: dt.date, version: str | None) -> None:
    """Make this version the only promoted one of its night, or none."""
    rows = registered(lake, night)
    chosen = pl.col("model_version") == version if version else pl.lit(False)
    lake.replace(tables.MODELS, rows.with_columns(promoted=chosen), nights=[night])
