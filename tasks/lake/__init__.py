"""The lake: Delta tables below one folder (`delta`), what they hold (`tables`), DuckDB (`duck`)."""

from tasks.lake.delta import (
    LOCK,
    LOG,
    ConcurrentWriteError,
    Lake,
    Nights,
    column_types,
    hold_lock,
)

__all__ = [
    "LOCK",
    "LOG",
    "ConcurrentWriteError",
    "Lake",
    "Nights",
    "column_types",
    "hold_lock",
]
