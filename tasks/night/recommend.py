"""Recommend each user the items to expect next, by the model that labelled the night: optional.

Nothing is written unless `recommend.top_k` asks for items: then a row a user of the night. What a
run with other settings has written for the night is replaced, or taken away.

The partition is written as a whole in one transaction: a reader sees the state before or after.
"""

import datetime as dt
import logging
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from tasks.errors import LakeError
from tasks.lake import Lake, tables
from tasks.lake.duck import connect
from tasks.settings import Settings

log = logging.getLogger(__name__)

USERS_A_BATCH = 65_536  # bounds the memory, whatever the number of users


def recommend(settings: Settings, night: dt.date) -> dict[str, Any]:
    """Recommend items to every user of `sequences`, for one night that is labelled.

    A user none of whose items the model knows gets a row without items.

    Returns the number of items asked for, the users with a row, and those of them without items.

    Raises LakeError without labels or histories of the night, ModelError when the model of the
    labels is damaged or cannot be applied.
    """
    if settings.recommend.top_k:
        return _recommend(settings, night)
    lake = Lake.of(settings)
    if lake.files(tables.USER_RECOMMENDATIONS, night, night):
        nothing = tables.USER_RECOMMENDATIONS.schema.empty_table()
        lake.replace(tables.USER_RECOMMENDATIONS, nothing, nights=[night])
        log.info("recommendations of night %s removed: recommend.top_k is 0", night)
    return {"top_k": 0, "users": 0, "users_without_items": 0}


def _recommend(settings: Settings, night: dt.date) -> dict[str, Any]:
    """Replace the night's rows; they come in the order of the histories, by user."""
    # They load torch, which a night without recommendations need not wait for.
    from tasks.registry.labelling import recommendation_rows
    from tasks.registry.vocabulary import model_numbers
    from tasks.registry.weights import load

    lake, asked = Lake.of(settings), settings.recommend
    version = _labelled_with(lake, night)
    if not lake.files(tables.SEQUENCES, night, night):
        raise LakeError(
            f"table sequences has no rows for night {night}: run build-sequences for it first"
        )
    model = load(settings, version)
    numbers = model_numbers(lake, model.item_ids)
    users = without_items = 0
    with connect(settings) as con:
        lake.view(con, tables.SEQUENCES, first=night, last=night)
        histories = con.table("sequences").select("user_id", "items", "types", "weights", "times")

        def rows() -> Iterator[pa.RecordBatch]:
            nonlocal users, without_items
            for batch in histories.to_arrow_reader(USERS_A_BATCH):
                found = recommendation_rows(batch, model, numbers, night, version, asked)
                users += found.num_rows
                without_items += int((found.column("items").value_lengths().to_numpy() == 0).sum())
                yield found

        stream = pa.RecordBatchReader.from_batches(tables.USER_RECOMMENDATIONS.schema, rows())
        lake.replace(tables.USER_RECOMMENDATIONS, stream, nights=[night])
    log.info(
        "up to %d items recommended to each of %d users by model %s, %d users have none",
        asked.top_k,
        users,
        version,
        without_items,
    )
    return {
        "model_version": version,
        "top_k": asked.top_k,
        "users": users,
        "users_without_items": without_items,
    }


def _labelled_with(lake: Lake, night: dt.date) -> str:
    """Return the model that labelled a night, whether it was promoted or named by a person."""
    labels = lake.scan(tables.INTENT_LABELS, night, night)
    versions = labels.select("model_version").head(1).collect()["model_version"]
    if versions.is_empty():
        raise LakeError(
            f"table intent_labels has no rows for night {night}: run label for it first"
        )
    return str(versions.item())
