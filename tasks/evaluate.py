"""Judge the night's model on held-out events, next to popularity and the last promoted model.

Leave-one-out over the users with three events or more: the newest event of each is the target,
every item is ranked but those the user has had. What the labels are worth is measured on labels
made from all but the two newest events. Definitions: `elcrec.evaluation` and `elcrec.intents`.
"""

import datetime as dt
import logging
from pathlib import Path
from typing import Any

import polars as pl

from elcrec import ELCRec, Histories
from elcrec.errors import ELCRecError
from elcrec.evaluation import popularity_baseline
from elcrec.intents import intent_lift, largest_share, perplexity, utilisation
from tasks import tables
from tasks.errors import LakeError, ModelError
from tasks.lake import Lake
from tasks.models import (
    load,
    model_numbers,
    model_of_night,
    promoted,
    renumbered,
    trainable_histories,
)
from tasks.settings import Settings

log = logging.getLogger(__name__)

POPULARITY = "popularity"  # stands in the column model_version of `metrics`
SPLIT = "test"
ALL_USERS = "all"  # the only slice so far
LIFT_CUTOFF = 20

# The metrics that `promote` decides by.
NDCG, UTILISATION, LARGEST_SHARE = "NDCG@20", "utilisation", "largest_share"


def evaluate(settings: Settings, night: dt.date) -> dict[str, Any]:
    """Measure the night's model, popularity and the last promoted model on the night's histories.

    Replaces the night's partition of `metrics`.

    Raises ModelError when the night's model is not trained, or when the last promoted one cannot
    be read and so nothing protects the labels (unless promote.force is set).
    """
    lake = Lake(settings.lake.root)
    version = model_of_night(settings, night).version
    by_index = trainable_histories(settings, night)
    # NDCG@20 decides what is promoted, whatever cutoffs are asked for.
    cutoffs = sorted({*settings.evaluate.cutoffs, LIFT_CUTOFF})

    model = load(settings, version)
    histories = renumbered(by_index, model_numbers(lake, model.item_ids))
    n_items = len(model.item_ids)
    measured = {
        version: judge(model.model, histories, histories, n_items, cutoffs),
        POPULARITY: popularity_baseline(histories, n_items, SPLIT, cutoffs),
    }
    last = promoted(lake, until=night - dt.timedelta(days=1))
    if last is not None and last[0] != version:
        try:
            earlier = load(settings, last[0])
            as_known = renumbered(by_index, model_numbers(lake, earlier.item_ids))
            measured[last[0]] = judge(earlier.model, as_known, histories, n_items, cutoffs)
        except ModelError as error:
            if not settings.promote.force:
                raise ModelError(
                    f"{error}; until then nothing can be compared with it, unless promote.force "
                    "is set to label with the new model unseen"
                ) from error
            log.warning("%s; left out, because promote.force is set", error)

    for name, metrics in measured.items():
        log.info("%s: %s", name, "  ".join(f"{m} {value:.4f}" for m, value in metrics.items()))
    lake.replace(tables.METRICS, _long(measured, night), nights=[night])
    return {"model_version": version, "users": len(histories), "metrics": measured}


def judge(
    model: ELCRec, as_known: Histories, histories: Histories, n_items: int, cutoffs: list[int]
) -> dict[str, float]:
    """Measure one model: HR and NDCG at the cutoffs, and what its labels are worth.

    as_known: the histories in the model's own numbers, which an earlier model has of its own.
    histories: the same in the numbers of the night, 1 to n_items.
    Raises ModelError when the model cannot be applied to the histories.
    """
    try:
        metrics = dict(model.evaluate(as_known, split=SPLIT, cutoffs=cutoffs))
        intents = model.transform(as_known.drop_last(2)).intent
    except ELCRecError as error:
        raise ModelError(f"the model cannot be evaluated: {error}") from error
    n_intents = model.config.n_intents
    metrics |= {
        "n_intents": float(n_intents),
        "perplexity": perplexity(intents),
        UTILISATION: utilisation(intents, n_intents),
        LARGEST_SHARE: largest_share(intents),
    }
    try:
        lift = intent_lift(intents, histories, n_items, LIFT_CUTOFF)
    except ELCRecError as error:  # popularity hits nothing: a ratio to it means nothing
        log.warning("intent_lift@%d is left out: %s", LIFT_CUTOFF, error)
        return metrics
    return metrics | {f"intent_lift@{LIFT_CUTOFF}": lift}


def recovery(settings: Settings, night: dt.date, truth: Path) -> dict[str, float]:
    """Compare a night's labels with known intents (`truth.parquet` of the generator).

    Returns NMI and ARI over the labelled users of whom the truth is known, and their number.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    if not truth.is_file():
        raise LakeError(f"{truth} with the true intents is missing: generate the events again")
    labels = Lake(settings.lake.root).scan(tables.INTENT_LABELS, first=night, last=night)
    both = (
        labels.filter(pl.col("intent_id").is_not_null())
        .join(pl.scan_parquet(truth), on="user_id")
        .select("intent_id", "intent")
        .collect()
    )
    if both.is_empty():
        raise LakeError(
            f"no user of {truth} has a label for night {night}: run label for it, on these events"
        )
    true, found = both["intent"].to_numpy(), both["intent_id"].to_numpy()
    return {
        "users": float(both.height),
        "NMI": float(normalized_mutual_info_score(true, found)),
        "ARI": float(adjusted_rand_score(true, found)),
    }


def _long(measured: dict[str, dict[str, float]], night: dt.date) -> pl.DataFrame:
    rows = [
        (night, version, SPLIT, ALL_USERS, metric, value)
        for version, metrics in measured.items()
        for metric, value in metrics.items()
    ]
    columns = ["dt", "model_version", "split", "slice", "metric", "value"]
    return pl.DataFrame(rows, schema=columns, orient="row")
