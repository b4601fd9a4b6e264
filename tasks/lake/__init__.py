"""The lake: where it lies (`storage`), Delta tables (`delta`, `tables`), DuckDB (`duck`)."""

from tasks.lake.delta import (
    LOG,
    MODELS,
    PAGES,
    TRAINING,
    ConcurrentWriteError,
    Lake,
    Nights,
    column_types,
    model_folder,
)
from tasks.lake.storage import LOCK, LOCKS, hold_lock, storage_at, storage_of

__all__ = [
    "LOCK",
    "LOCKS",
    "LOG",
    "MODELS",
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
