"""# Events by intent

An example of a job downstream. When the labels of a date are there, it joins them to the events of
that date and counts events and users by intent and type. Copy it into your folder of DAGs.

* **Schedule:** the asset `intent_labels`. Each update of the asset names a date as its partition.
  It starts a run for that date, also when the date is backfilled or relabelled.
* **Again:** a run replaces the date in the table `events_by_intent`, in the same lake.
"""

from datetime import UTC, date, datetime

import pyarrow as pa
from airflow.sdk import Asset, PartitionedAssetTimetable, dag, task

from dags.wiring import DEFAULT_ARGS

EVENTS_BY_INTENT = pa.schema(
    [
        ("dt", pa.date32()),
        ("intent_id", pa.int32()),  # null: users without a label
        ("event_type", pa.string()),
        ("users", pa.int64()),
        ("events", pa.int64()),
    ]
)


@task(doc_md="Joins the labels of the run's date to its events and replaces the date.")
def join(partition_key: str | None = None) -> int:
    """Write a row for each intent and type of event; return how many."""
    import polars as pl

    from tasks.lake import Lake, tables
    from tasks.settings import load_settings

    assert partition_key  # every run of this schedule has one
    night = date.fromisoformat(partition_key)
    lake = Lake.of(load_settings())
    labels = lake.scan(tables.INTENT_LABELS, night, night).select("user_id", "intent_id")
    counted = (
        lake.scan(tables.EVENTS, night, night)
        .join(labels, on="user_id", how="left")
        .group_by("dt", "intent_id", "event_type")
        .agg(users=pl.col("user_id").n_unique(), events=pl.len())
        .collect()
    )
    lake.replace(tables.Table("events_by_intent", EVENTS_BY_INTENT), counted, nights=[night])
    return counted.height


@dag(
    schedule=PartitionedAssetTimetable(assets=Asset("intent_labels", group="intents")),
    start_date=datetime(1970, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    tags=["intents", "example"],
    description="Count the events of each intent",
    doc_md=__doc__,
)
def events_by_intent() -> None:
    """Wire the one task."""
    join()


events_by_intent()
