"""Histories are fingerprinted when they are built, and again only when they change."""

import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.lake import Lake, tables
from tasks.night.sequences import build_sequences
from tasks.registry import histories
from tasks.registry.histories import data_fingerprint, fingerprint
from tasks.registry.identity import identify
from tasks.registry.vocabulary import vocabulary
from tasks.settings import Settings
from tests.tasks.nights import NIGHT, mark_ingested, small_settings, table


@pytest.fixture
def built(tmp_path: Path) -> Settings:
    """Give a lake whose histories were built from events."""
    settings = small_settings(tmp_path / "lake")
    events = [(f"u{user}", f"i{user % 3 + step}") for user in range(5) for step in range(4)]
    frame = pl.DataFrame(events, schema=["user_id", "item_id"], orient="row").with_columns(
        dt=pl.lit(NIGHT),
        event_type=pl.lit("view"),
        ts=pl.lit(dt.datetime.combine(NIGHT, dt.time(9), dt.UTC)).cast(pl.Datetime("us", "UTC")),
        weight=pl.lit(None, pl.Float32),
        source=pl.lit("events.csv"),
        row_number=pl.int_range(1, pl.len() + 1),
        ingested=pl.lit(NIGHT),
    )
    Lake(settings.lake.root).replace(tables.EVENTS, frame, nights=[NIGHT])
    mark_ingested(settings.lake.root, [NIGHT])
    build_sequences(settings, NIGHT)
    return settings


def no_reading(*given: Any) -> str:
    raise AssertionError("all histories are read once more")


def rewrite(settings: Settings, which: pl.Expr) -> None:
    rows = table(settings, tables.SEQUENCES, NIGHT).filter(which)
    Lake(settings.lake.root).replace(tables.SEQUENCES, rows, nights=[NIGHT])


def test_the_model_is_named_by_what_build_sequences_recorded_without_reading_the_histories(
    built: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    item_ids = vocabulary(built, NIGHT)
    computed, _ = data_fingerprint(built, NIGHT, item_ids)
    monkeypatch.setattr(histories, "data_fingerprint", no_reading)
    monkeypatch.setattr(histories, "vocabulary", no_reading)
    identity = identify(built, NIGHT)
    assert identity.data_fingerprint == computed
    assert identity.n_items == len(item_ids) == 6


def test_histories_that_were_written_anew_have_a_fingerprint_of_their_own(built: Settings) -> None:
    before = fingerprint(built, NIGHT)
    rewrite(built, pl.lit(True))
    assert fingerprint(built, NIGHT).digest == before.digest
    rewrite(built, pl.col("user_id") != "u2")
    after = fingerprint(built, NIGHT)
    assert (after.digest, after.n_trainable) == data_fingerprint(
        built, NIGHT, vocabulary(built, NIGHT)
    )
    assert after.digest != before.digest


def test_a_lake_without_the_record_is_read(built: Settings) -> None:
    before = fingerprint(built, NIGHT)
    rows = table(built, tables.SEQUENCE_INPUTS).with_columns(
        data_fingerprint=pl.lit(None, pl.String),
        data_items=pl.lit(None, pl.Int32),
        data_files=pl.lit(None, pl.String),
    )
    Lake(built.lake.root).replace(tables.SEQUENCE_INPUTS, rows, nights=[NIGHT])
    assert fingerprint(built, NIGHT) == before
