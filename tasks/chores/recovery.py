"""How far the labels of generated events agree with the intents that were planted."""

import datetime as dt
from pathlib import Path

import polars as pl

from tasks.errors import LakeError
from tasks.lake import Lake, tables
from tasks.settings import Settings


def recovery(settings: Settings, night: dt.date, truth: Path) -> dict[str, float]:
    """Compare a night's labels with known intents (`truth.parquet` of the generator).

    Returns NMI and ARI over the labelled users of whom the truth is known, and their number.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    if not truth.is_file():
        raise LakeError(f"{truth} with the true intents is missing: generate the events again")
    labels = Lake.of(settings).scan(tables.INTENT_LABELS, first=night, last=night)
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
