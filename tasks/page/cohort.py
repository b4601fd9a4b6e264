"""The users of an intent, or those who moved, as a file, streamed: a part of it is in memory.

This is the one thing on the page that reads a night's labels; it is a download, not a view.
"""

import datetime as dt
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from tasks.lake import Lake, tables
from tasks.lake.duck import connect, sql
from tasks.registry import names
from tasks.settings import Settings

ROWS = 50_000  # in memory at a time
MEDIA = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
# A spreadsheet takes a text that begins so for a formula, and runs it; a number is none.
FORMULA = re.compile(r"(?![+-]?\d+(\.\d+)?\Z)[=+\-@\t\r]")


@dataclass(frozen=True)
class Filters:
    """Which users of an intent are asked for; by default all of them."""

    clear: bool = False
    least_confidence: float = 0.0  # calibrated; where there is none, only 0 lets a user pass
    least_events: int = 0
    active_since: dt.date | None = None


def rows(
    settings: Settings, lake: Lake, night: dt.date, intent: int, filters: Filters
) -> Iterator[pa.RecordBatch]:
    """Yield the users of an intent that pass the filters, sorted by user."""
    with connect(settings) as con:
        for table in (tables.INTENT_LABELS, tables.LABEL_EVIDENCE):
            lake.view(con, table, first=night, last=night)
        values = {
            "intent": intent,
            "clear": filters.clear,
            "confidence": filters.least_confidence,
            "events": filters.least_events,
            "since": filters.active_since or dt.date.min,
        }
        found = con.sql(sql("intent_cohort"), params=values)
        yield from found.to_arrow_reader(ROWS)


def moved(
    settings: Settings, lake: Lake, since: dt.date, night: dt.date, intent: int | None
) -> Iterator[pa.RecordBatch]:
    """Yield the users whose intent differs between two nights, sorted by user.

    Each with number and name of both intents; of none where the user had no label, or has none.

    intent: only those who had it, or have it now; None: all.
    """
    called = names.shown(lake, night)
    with connect(settings) as con:
        lake.view(con, tables.INTENT_LABELS, "labels_before", since, since)
        lake.view(con, tables.INTENT_LABELS, "labels_after", night, night)
        found = con.sql(sql("moved_users"), params={"intent": intent})
        for batch in found.to_arrow_reader(ROWS):
            columns = {"user_id": batch.column("user_id")}
            for side in ("from", "to"):
                ids = batch.column(f"{side}_intent_id")
                found_names = [None if one is None else called.of(one) for one in ids.to_pylist()]
                told = [name.name if name else None for name in found_names]
                columns |= {f"{side}_intent_id": ids, f"{side}_name": pa.array(told, pa.string())}
            yield pa.RecordBatch.from_pydict(columns)


def as_csv(
    batches: Iterator[pa.RecordBatch], columns: Sequence[str] | None = None
) -> Iterator[bytes]:
    """Write batches as CSV, with a header line, and with no text that a spreadsheet would run."""
    from pyarrow import csv as pa_csv  # only a download takes its memory

    first = True
    for batch in batches:
        out = io.BytesIO()
        options = pa_csv.WriteOptions(include_header=first)
        pa_csv.write_csv(pa.Table.from_batches([_harmless(batch)]), out, options)
        yield out.getvalue()
        first = False
    if first:
        yield (",".join(f'"{name}"' for name in columns or SCHEMA.names) + "\n").encode()


def as_parquet(batches: Iterator[pa.RecordBatch]) -> Iterator[bytes]:
    """Write batches as a Parquet file; a part goes out as soon as it is written."""
    from pyarrow import parquet as pq  # only a download takes its memory

    sink = _Sink()
    writer = None
    for batch in batches:
        writer = writer or pq.ParquetWriter(sink, batch.schema, compression="zstd")
        writer.write_batch(batch)
        yield sink.taken()
    if writer is None:
        writer = pq.ParquetWriter(sink, SCHEMA, compression="zstd")
    writer.close()
    yield sink.taken()


SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("intent_id", pa.int32()),
        ("how_sure", pa.float32()),
        ("clear", pa.bool_()),
        ("n_events", pa.int32()),
        ("last_ts", tables.TIME),
    ]
)
MOVED = ("user_id", "from_intent_id", "from_name", "to_intent_id", "to_name")
TEXTS = ("user_id", "from_name", "to_name")  # that come from people


def _harmless(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Put an apostrophe before a text that a spreadsheet would take for a formula."""
    for at, name in enumerate(batch.schema.names):
        if name in TEXTS:
            texts = [
                f"'{one}" if one is not None and FORMULA.match(one) else one
                for one in batch.column(at).to_pylist()
            ]
            batch = batch.set_column(at, batch.schema.field(at), pa.array(texts, pa.string()))
    return batch


class _Sink(io.RawIOBase):
    """A file that is written to, and whose bytes are taken away."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._at = 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        part = bytes(data)  # type: ignore[call-overload]
        self._parts.append(part)
        self._at += len(part)
        return len(part)

    def tell(self) -> int:
        return self._at

    def taken(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)
