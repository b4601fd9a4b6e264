"""The lake: where it lies (`storage`), Delta tables (`delta`, `tables`), DuckDB (`duck`)."""

from tasks.lake.delta import (
    LOG,
    MODELS,
    NOT_OF_THE_LAKE,
    PAGES,
    TRAINING,
    ConcurrentWriteError,
    Lake,
    Nights,
    column_types,
    model_folder,
)
from tasks.lake.storage import MOVED, MOVING, hold_lock, storage_at, storage_of

__all__ = [
    "LOG",
    "MODELS",
    "MOVED",
    "MOVING",
    "NOT_OF_THE_LAKE",
    "PAGES",
    "TRAINING",
    "ConcurrentWriteError",
    "Lake",
    "Nights",
    "column_types",
    "hold_lock",
    "model_folder",
    "storage_at",
    "storage_of",
]
