"""Labels and their evidence, computed by the executors of Spark.

Each process of an executor loads the model's weights once, from the lake, and labels the users that
Spark hands it. One pass over the histories gives both tables; what waits to be written is on the
executors' disks.
"""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.lake import Lake, tables
from tasks.registry.labelling import evidence_rows, label_batch, label_rows
from tasks.registry.vocabulary import model_numbers
from tasks.registry.weights import Loaded, load_from
from tasks.settings import LabelSettings, Settings
from tasks.spark.frames import replace, statement, view
from tasks.spark.session import equip, session

if TYPE_CHECKING:
    from pyspark.sql.types import StructType

# What the executors import beside Spark's own packages. Labels hang on torch's version.
NEEDED = ("deltalake", "duckdb", "numpy", "obstore", "polars", "pydantic", "safetensors", "torch")
# One row has what both tables say of a user.
BOTH = pa.schema(
    [*tables.INTENT_LABELS.schema]
    + [
        field
        for field in tables.LABEL_EVIDENCE.schema
        if field.name not in tables.INTENT_LABELS.schema.names
    ]
)


def write_labels(
    settings: Settings, night: dt.date, version: str, previous: dt.date | None
) -> None:
    """Write the night's partitions of `intent_labels` and `label_evidence`.

    Parameters
    ----------
    version
        A registered model.
    previous
        The night whose labels this one's are held against; None: the model's own are taken.
    """
    lake = Lake.of(settings)
    last = previous or night  # of the night itself nothing is read
    with session(settings) as spark:
        equip(spark, NEEDED)
        view(spark, lake, tables.SEQUENCES, first=night, last=night)
        view(spark, lake, tables.INTENT_LABELS, "previous_labels", last, last)
        view(spark, lake, tables.LABEL_EVIDENCE, "previous_evidence", last, last)
        work = Labelling(
            str(lake.root), settings.model.device, version, night, settings.label, previous
        )
        rows = statement(spark, "labelled_histories", night=night).mapInArrow(work, _both())
        rows = rows.persist()
        try:
            replace(lake, tables.INTENT_LABELS, rows, night, "label")
            replace(lake, tables.LABEL_EVIDENCE, rows, night, "label")
        finally:
            rows.unpersist()


def _both() -> "StructType":
    from pyspark.sql.pandas.types import from_arrow_schema

    return from_arrow_schema(BOTH)


@dataclass(frozen=True)
class Labelling:
    """What an executor is to do: label batches of histories with a model of the lake at `root`."""

    root: str
    device: str
    version: str
    night: dt.date
    rules: LabelSettings
    previous: dt.date | None

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Return rows of both tables for each batch of `labelled_histories`, in its order."""
        night, version, rules = self.night, self.version, self.rules
        for batch in batches:
            if not batch.num_rows:
                continue
            model, numbers = _loaded(self.root, self.device, version)
            found = label_batch(
                batch, model, numbers, night, version, rules, self.previous, evidence=True
            )
            labels = label_rows(batch, found, model, night, version)
            evidence = evidence_rows(batch, found, model, night, version, rules)
            columns = [
                (labels if field.name in labels.schema.names else evidence).column(field.name)
                for field in BOTH
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=BOTH)


@lru_cache(maxsize=1)
def _loaded(root: str, device: str, version: str) -> tuple[Loaded, npt.NDArray[np.int32]]:
    """Load a model once a process, with its number of each item_index."""
    lake = Lake(root)
    model = load_from(lake, version, device)
    return model, model_numbers(lake, model.item_ids)
