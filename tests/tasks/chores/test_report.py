"""The report prints what the tables hold, whatever is in them."""

import datetime as dt
import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from tasks.chores import report
from tasks.lake import Lake, tables
from tasks.settings import Settings, load_settings

NIGHT = dt.date(2026, 11, 20)
# Of a shop that names things as it likes: rich reads the first as a style, the second as its end.
USER, ITEM = "[red]", "[/item]"
PASSED = {"passed": 3, "expectations": 3, "warnings": ["ids such as [/bold] are odd"]}


def row(table: tables.Table, **values: Any) -> pl.DataFrame:
    """Return one row of a table, of the night; what is not named is null."""
    names = dict.fromkeys(table.schema.names)
    empty = pl.from_arrow(table.schema.empty_table())
    return pl.DataFrame([names | {"dt": NIGHT} | values], schema=pl.DataFrame(empty).schema)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Give settings on a lake with one user, one intent and every step done."""
    settings = load_settings(**{"lake.root": str(tmp_path / "a lake")})
    lake = Lake(settings.lake.root)
    label = {"user_id": USER, "intent_id": 0, "confidence": 1.0, "n_events": 3}
    last = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)
    model = "20261120-00000000"
    lake.replace(
        tables.INTENT_LABELS,
        row(tables.INTENT_LABELS, **label, last_ts=last, model_version=model),
        nights=[NIGHT],
    )
    top = [{"item_id": ITEM, "lift": 7.0}]
    profile = {"intent_id": 0, "users": 1, "share": 1.0, "top_items": top, "status": "active"}
    lake.replace(tables.INTENT_PROFILES, row(tables.INTENT_PROFILES, **profile), nights=[NIGHT])
    steps = [
        row(tables.STEPS, step=name, seconds=1.0, peak_mb=100.0, summary=json.dumps(PASSED))
        for name in report.STEPS
    ]
    lake.replace(tables.STEPS, pl.concat(steps), nights=[NIGHT])
    return settings


def printed(settings: Settings) -> str:
    written = io.StringIO()
    report.show(settings, NIGHT, console=Console(file=written, width=200))
    return written.getvalue()


def test_brackets_in_data_are_printed_as_they_are(settings: Settings) -> None:
    text = printed(settings)
    for said in (f"{USER} ", f"{ITEM} (7.0)", "ids such as [/bold] are odd"):
        assert said in text


def test_a_check_that_failed_when_it_ran_again_has_not_passed(settings: Settings) -> None:
    assert printed(settings).count("passed with warnings") == 3
    nothing = tables.STEPS.schema.empty_table()
    Lake(settings.lake.root).replace(
        tables.STEPS, nothing, nights=[NIGHT], within={"step": "check-labels"}
    )
    text = printed(settings)
    assert text.count("passed with warnings") == 2
    (line,) = (
        line for line in text.splitlines() if line.startswith("labels  ") and "/" not in line
    )
    assert line.split()[:2] == ["labels", "none"]


def test_a_report_names_the_targets_that_have_the_labels(settings: Settings) -> None:
    targets = ["Delta table intent_labels", "Parquet files in /out", "table t of connection c"]

    def printed_with(known: list[str]) -> str:
        summary = json.dumps({"targets": known})
        Lake(settings.lake.root).replace(
            tables.STEPS,
            row(tables.STEPS, step="publish", seconds=1.0, peak_mb=100.0, summary=summary),
            nights=[NIGHT],
            within={"step": "publish"},
        )
        return printed(settings)

    assert "Parquet files in /out and table t of connection c\n" in printed_with(targets)
    assert "published" not in printed_with(targets[:1])


def test_a_report_of_labels_without_recorded_steps_prints_what_there_is(settings: Settings) -> None:
    nothing = tables.STEPS.schema.empty_table()
    Lake(settings.lake.root).replace(tables.STEPS, nothing, nights=[NIGHT])
    assert "passed" not in printed(settings)


def test_a_report_shows_both_evaluations_where_there_are_both(settings: Settings) -> None:
    assert "By time" not in printed(settings)
    names = {"dt": NIGHT, "slice": "all"}
    rows = [
        row(tables.METRICS, **names, model_version=version, split=split, metric=metric, value=value)
        for version, split, metric, value in (
            ("20261120-00000000", "test", "NDCG@20", 0.1234),
            ("20261119-00000000", "time", "NDCG@20", 0.0567),
            ("20261119-00000000", "time", "users", 1500.0),
            ("popularity", "time", "NDCG@20", 0.0345),
            ("popularity", "time", "users", 1500.0),
        )
    ]
    Lake(settings.lake.root).replace(tables.METRICS, pl.concat(rows), nights=[NIGHT])
    text = printed(settings)
    by_time = text[text.index("By time") : text.index("Intents")]
    for said in ("1,500 users", "20261119-00000000", "0.0567", "popularity", "0.0345"):
        assert said in by_time
    assert "0.1234" in text[text.index("Evaluation (test") : text.index("By time")]
