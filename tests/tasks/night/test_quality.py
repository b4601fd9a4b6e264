"""The checks: what stops a night, what only warns, and what the sentence says."""

import datetime as dt
import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from tasks.errors import LakeError, QualityError
from tasks.lake import Lake, tables
from tasks.night.ingest import ingest
from tasks.night.quality import SUITES, check_events, check_labels, check_sequences
from tasks.night.sequences import build_sequences
from tasks.settings import Settings, load_settings

NIGHT = dt.date(2026, 11, 10)
NOON = dt.datetime(2026, 11, 10, 12, tzinfo=dt.UTC)
USERS = [f"user{number}" for number in range(40)]


@pytest.fixture
def settings(good_night: Settings, tmp_path: Path) -> Settings:
    """Give settings on a private copy of the good night."""
    shutil.copytree(good_night.lake.root, tmp_path / "lake")
    return load_settings(
        source={"path": good_night.source.path},
        lake={"root": tmp_path / "lake"},
        duckdb={"threads": 2},
    )


@pytest.fixture(scope="module")
def good_night(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Make a lake in which one night was ingested, sequenced and labelled."""
    tmp_path = tmp_path_factory.mktemp("good night")
    lines = [
        f"{user},item{number % 7},2026-11-{8 + number % 3:02d}T05:00:{number % 60:02d}Z"
        for number, user in enumerate(USERS * 5)
    ]
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id,ts", *lines]))
    settings = load_settings(
        source={"path": str(tmp_path / "events.csv")},
        lake={"root": tmp_path / "lake"},
        duckdb={"threads": 2},
    )
    ingest(settings, NIGHT)
    build_sequences(settings, NIGHT)
    write(settings, tables.INTENT_LABELS, labels())
    write(settings, tables.LABEL_EVIDENCE, evidence())
    profiles = [{"dt": NIGHT, "intent_id": intent, "users": 10} for intent in range(4)]
    write(settings, tables.INTENT_PROFILES, profiles)
    return settings


def shown(page: str | Path) -> dict[str, str]:
    """Read the overview of a page as a person sees it: what stands behind each of its titles."""
    text = re.sub(
        r"<(script|style).*?</\1>|<[^>]+>", " ", Path(page).read_text("utf-8"), flags=re.S
    )
    return dict(re.findall(r"(Expectation Suite:|Status:)\s+(\w+)", html.unescape(text)))


def labels(**changes: Any) -> list[dict[str, Any]]:
    """Label each user; the changes are for the first one."""
    rows = [
        {
            "dt": NIGHT,
            "user_id": user,
            "intent_id": number % 4,
            "confidence": 0.5,
            "runner_up_id": (number + 1) % 4,
            "runner_up_confidence": 0.25,
            "n_events": 5,
            "last_ts": NOON,
            "model_version": "20261110-abcdef01",
        }
        for number, user in enumerate(USERS)
    ]
    rows[0].update(changes)
    return rows


def evidence() -> list[dict[str, Any]]:
    """Say of each user's label why it is, in the fewest words."""
    return [
        {name: row[name] for name in ("dt", "user_id", "intent_id", "model_version")}
        for row in labels()
    ]


def write(settings: Settings, table: tables.Table, rows: list[dict[str, Any]]) -> None:
    schema = pl.DataFrame(table.schema.empty_table()).schema
    Lake(settings.lake.root).replace(table, pl.DataFrame(rows, schema=schema), nights=[NIGHT])


def change(settings: Settings, table: tables.Table, **values: Any) -> None:
    """Overwrite columns of the first row of the night."""
    rows = Lake(settings.lake.root).scan(table, NIGHT, NIGHT).collect().to_dicts()
    rows[0].update(values)
    write(settings, table, rows)


CHECKS: list[Callable[[Settings, dt.date], dict[str, Any]]] = [
    check_events,
    check_sequences,
    check_labels,
]


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_a_good_night_passes_and_has_its_page(
    settings: Settings, check: Callable[[Settings, dt.date], dict[str, Any]]
) -> None:
    stale = settings.lake.root / "quality" / "2026-11-10" / check.__name__.removeprefix("check_")
    stale.mkdir(parents=True)
    (stale / "of an earlier run.html").touch()
    summary = check(settings, NIGHT)
    assert summary["passed"] == summary["expectations"] > 0
    assert summary["warnings"] == []
    json.dumps(summary)
    pages = summary["pages"]
    assert summary["page"] == next(iter(pages.values()))
    suites = {file.stem for file in stale.glob("expectations/*.html")}
    assert set(pages) == suites
    assert {Path(page) for page in pages.values()} == set(stale.glob("validations/**/*.html"))
    for suite, page in pages.items():
        assert shown(page)["Expectation Suite:"] == suite
        assert shown(page)["Status:"] == "Succeeded"
    assert not (stale / "of an earlier run.html").exists()


@pytest.mark.slow
def test_bad_events_stop_the_night_and_each_is_named(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    rows = Lake(settings.lake.root).scan(tables.EVENTS, NIGHT, NIGHT).collect().to_dicts()
    rows.append(rows[-1])
    faults = {
        "user_id is filled in (found 1, the first in events.csv row ": {"user_id": None},
        "item_id is not empty (found 1, ": {"item_id": ""},
        "source is filled in (found 1, the first in an unknown file row ": {"source": None},
        "time after the night (found 1, ": {"ts": NOON + dt.timedelta(days=1)},
        "no event is there twice (found 1, expected at most 0)": {},
        "that the event is stored under (found 1, ": {"ts": dt.datetime(1960, 1, 1, tzinfo=dt.UTC)},
    }
    for row, fault in zip(rows, faults.values(), strict=False):
        row.update(fault)
    write(settings, tables.EVENTS, rows)
    with pytest.raises(QualityError) as error:
        check_events(settings, NIGHT)
    assert all(says in caplog.text for says in faults)
    assert "events of night 2026-11-10, not met: " in str(error.value)
    assert "(5 more expectations failed)" in str(error.value)
    pages = re.findall(r"/\S+\.html", str(error.value))
    assert [shown(page)["Expectation Suite:"] for page in pages] == ["checked_events"]
    assert all(shown(page)["Status:"] == "Failed" for page in pages)
    assert all(page in caplog.text for page in pages)


@pytest.mark.slow
def test_a_page_says_without_network_what_was_not_met(settings: Settings) -> None:
    change(settings, tables.INGESTS, rows_read=400, rows_events=300, rows_duplicate=100)
    summary = check_events(settings, NIGHT)
    assert (
        summary["page"] == summary["pages"]["checked_ingest"] != summary["pages"]["checked_events"]
    )
    page = Path(summary["page"]).read_text("utf-8")
    assert "few of the night's rows are exact duplicates" in html.unescape(page)
    # The icons of a status come from the network: the page's own style has words for them.
    assert 'td i.fa-times::before { color: #c0262d; content: "not met"; }' in page
    assert re.search(r'<td[^>]*>(\s|<div[^>]*>|<span[^>]*>)*<i class="[^"]*fas fa-times', page)
    check_events(settings, NIGHT)
    assert Path(summary["page"]).exists(), "a page keeps its path when the night runs again"


@pytest.mark.slow
def test_what_is_observed_is_in_the_log_the_table_and_on_the_page_though_all_is_met(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    change(settings, tables.INGESTS, rows_read=400, rows_events=397, rows_quarantined=3)
    with caplog.at_level("INFO"):
        summary = check_events(settings, NIGHT)
    assert summary["warnings"] == []
    said = "events of night 2026-11-10, "
    assert f"{said}quarantined_share: 0.0075, expected at most 0.05" in caplog.text
    assert f"{said}events: 200, expected at least 1" in caplog.text
    assert "volume_7, volume_weekday" in caplog.text
    assert f"{said}15 kinds of faults were looked for, and no row has one" in caplog.text
    assert not [one.name for one in caplog.records if one.name.startswith("great_expectations")]
    page = Path(summary["pages"]["checked_ingest"]).read_text("utf-8")
    assert re.search(r"<td[^>]*>(\s|<div[^>]*>|<span[^>]*>)*0\.0075", page)
    found = results(settings)
    assert len(found) == summary["expectations"] and all(found["met"])
    row = found.filter(column_name="quarantined_share")
    assert row.select("step", "suite", "severity", "value", "observed", "expected").row(0) == (
        "check-events",
        "checked_ingest",
        "critical",
        0.0075,
        None,
        "at most 0.05",
    )


def results(settings: Settings) -> pl.DataFrame:
    return Lake(settings.lake.root).scan(tables.CHECK_RESULTS, NIGHT, NIGHT).collect()


@pytest.mark.slow
def test_the_table_keeps_what_the_last_run_of_each_check_observed(settings: Settings) -> None:
    check_labels(settings, NIGHT)
    labelled = results(settings)
    write(settings, tables.INTENT_LABELS, labels(confidence=2.0))
    check_events(settings, NIGHT)
    with pytest.raises(QualityError):
        check_labels(settings, NIGHT)
    now = results(settings)
    assert now.filter(step="check-labels").height == labelled.height
    (failed,) = now.filter(~pl.col("met")).iter_rows(named=True)
    assert failed["observed"] == "1 of 40 rows, such as 2.0"
    assert failed["expected"] == "at least 0 and at most 1"
    assert set(now["step"]) == {"check-events", "check-labels"}


@pytest.mark.slow
def test_importing_the_checks_logs_nothing() -> None:
    code = (
        "import logging, sys; logging.basicConfig(level=logging.INFO, stream=sys.stdout);"
        "import tasks.night.quality; sys.stdout.flush(); import os; os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""


@pytest.mark.slow
def test_a_thin_night_says_how_many_events_it_has_and_should_have(settings: Settings) -> None:
    strict = settings.model_copy(
        update={"quality": settings.quality.model_copy(update={"min_events": 1000})}
    )
    with pytest.raises(QualityError) as error:
        check_events(strict, NIGHT)
    assert "found 200, expected at least 1000" in str(error.value)
    assert "quality.min_events" in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "stops"), [("rows_quarantined", True), ("rows_duplicate", False)]
)
def test_many_rejects_stop_the_night_and_many_duplicates_only_warn(
    settings: Settings, column: str, stops: bool
) -> None:
    change(settings, tables.INGESTS, **{"rows_read": 400, "rows_events": 300, column: 100})
    if stops:
        with pytest.raises(QualityError, match=r"unusable \(found 0\.25, expected at most 0\.05"):
            check_events(settings, NIGHT)
    else:
        summary = check_events(settings, NIGHT)
        assert summary["passed"] == summary["expectations"] - 1
        assert "duplicates (found 0.25, expected at most 0.05)" in summary["warnings"][0]


@pytest.mark.slow
def test_after_the_first_night_only_the_events_of_the_night_are_checked(
    settings: Settings,
) -> None:
    later = NIGHT + dt.timedelta(days=1)
    source = settings.lake.root.parent / "later.csv"
    source.write_text("user_id,item_id,ts\nann,a,2026-11-11T00:00:00Z\n")
    ingest(load_settings(source={"path": str(source)}, lake={"root": settings.lake.root}), later)
    # A damage of an earlier night is that night's affair.
    change(settings, tables.EVENTS, user_id=None)
    assert check_events(settings, later)["warnings"] == []


def test_checking_a_night_that_was_not_ingested_names_the_step(settings: Settings) -> None:
    with pytest.raises(LakeError, match="ingest"):
        check_events(settings, NIGHT + dt.timedelta(days=1))


@pytest.mark.slow
def test_bad_histories_stop_the_night_and_each_is_named(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    rows = Lake(settings.lake.root).scan(tables.SEQUENCES, NIGHT, NIGHT).sort("user_id").collect()
    faults = [
        ({"user_id": "user1"}, "a user has one history"),
        ({}, "a user has one history"),  # user1 itself
        ({"items": []}, "a history has at least one item and at most sequences.last_events"),
        ({"items": [1] * 300, "n_events": 300}, "(found 2 of 40 rows"),
        ({"items": [1, 1, 1], "n_events": 2}, "no longer than the user's events"),
        ({"items": [1, None], "n_events": 2}, "no item of a history is missing"),
        ({"items": [0, 1], "n_events": 2}, "item indices start at 1"),
        ({"items": [1, 8], "n_events": 2}, "item indices are in the vocabulary"),
        ({"last_ts": NOON + dt.timedelta(days=1)}, "past the end of the night"),
        ({"last_ts": None}, "last_ts is filled in"),
        ({"user_id": None}, "user_id is filled in"),
    ]
    changed = rows.to_dicts()
    for row, (values, _) in zip(changed, faults, strict=False):
        row.update(values)
    write(settings, tables.SEQUENCES, changed)
    with pytest.raises(QualityError):
        check_sequences(settings, NIGHT)
    for _, says in faults:
        assert says in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("double", "says"),
    [
        ({"item_index": 99}, "an item has one index (found 2 of 8 rows"),
        ({"item_id": "other"}, "an index has one item (found 2 of 8 rows"),
    ],
    ids=["item twice", "index twice"],
)
def test_a_damaged_vocabulary_stops_the_night(
    settings: Settings, double: dict[str, Any], says: str
) -> None:
    lake = Lake(settings.lake.root)
    first = lake.scan(tables.ITEMS).collect().to_dicts()[0]
    double = {**first, **double}
    lake.append(tables.ITEMS, pa.Table.from_pylist([double], schema=tables.ITEMS.schema))
    with pytest.raises(QualityError) as error:
        check_sequences(settings, NIGHT)
    assert says in str(error.value)


@pytest.mark.slow
def test_no_history_at_all_stops_the_night(settings: Settings) -> None:
    write(settings, tables.SEQUENCES, [])
    with pytest.raises(QualityError, match=r"there are histories \(found 0"):
        check_sequences(settings, NIGHT)


@pytest.mark.slow
def test_bad_labels_stop_the_night_and_each_is_named(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    faults = {
        "a label's user has a history (found 1 of 41 rows": {"user_id": "nobody"},
        "a label's intent has a profile (found 1 of": {"intent_id": 9},
        "the confidence lies between 0 and 1": {"confidence": 1.5},
        "the runner-up's confidence lies between 0 and 1": {"runner_up_confidence": -0.5},
        "model_version is filled in": {"model_version": None},
        "user_id is filled in": {"user_id": None},
    }
    rows = labels()
    rows.append(rows[-1])
    for row, values in zip(rows, faults.values(), strict=False):
        row.update(values)
    write(settings, tables.INTENT_LABELS, rows)
    with pytest.raises(QualityError):
        check_labels(settings, NIGHT)
    for says in [
        *faults,
        "a user has one label (found 2 of",
        "every user with a history has a label (found 2,",
    ]:
        assert says in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            [{**row, "intent_id": 0} for row in labels()],
            "no intent has nearly all users (found 1.0",
        ),
        ([], "there are labels (found 0"),
        (
            [{**row, "intent_id": None, "confidence": None} for row in labels()],
            "most users have an intent (found 1.0, expected at most 0.5)",
        ),
    ],
    ids=["all in one", "none", "all null"],
)
def test_worthless_labels_stop_the_night(
    settings: Settings, rows: list[dict[str, Any]], says: str
) -> None:
    write(settings, tables.INTENT_LABELS, rows)
    with pytest.raises(QualityError) as error:
        check_labels(settings, NIGHT)
    assert says in str(error.value)


@pytest.mark.slow
def test_a_user_without_intent_is_no_fault_and_many_are_a_warning(settings: Settings) -> None:
    write(settings, tables.INTENT_LABELS, labels(intent_id=None, confidence=None))
    assert check_labels(settings, NIGHT)["warnings"] == []
    unknown = {"intent_id": None, "confidence": None}
    rows = [{**row, **(unknown if number < 5 else {})} for number, row in enumerate(labels())]
    write(settings, tables.INTENT_LABELS, rows)
    (warning,) = check_labels(settings, NIGHT)["warnings"]
    assert "nearly every user has an intent (found 5 of 40 rows" in warning


@pytest.mark.slow
def test_labels_without_evidence_of_their_model_stop_the_night(settings: Settings) -> None:
    rows = evidence()
    rows[3]["model_version"] = "20261109-abcdef01"
    write(settings, tables.LABEL_EVIDENCE, rows[1:])
    with pytest.raises(QualityError, match=r"every label has evidence of the same model \(found 2"):
        check_labels(settings, NIGHT)


@pytest.mark.slow
def test_utilisation_is_the_perplexity_by_the_number_of_intents(settings: Settings) -> None:
    # 20, 10 and 10 users: exp(1.5 ln 2) = 2.83 of 8 intents.
    shares = {0: 0, 1: 0, 2: 1, 3: 2}
    rows = [{**row, "intent_id": shares[row["intent_id"]]} for row in labels()]
    write(settings, tables.INTENT_LABELS, rows)
    profiles = [{"dt": NIGHT, "intent_id": intent} for intent in range(8)]
    write(settings, tables.INTENT_PROFILES, profiles)
    quality = settings.quality.model_copy(update={"min_label_utilisation": 0.36})
    (warning,) = check_labels(settings.model_copy(update={"quality": quality}), NIGHT)["warnings"]
    assert "the intents are used (found 0.3535" in warning


@pytest.mark.slow
def test_a_named_intent_that_has_become_another_one_is_a_warning(settings: Settings) -> None:
    named = {"dt": NIGHT, "status": "active", "named_by": "ann"}
    profiles = [{**named, "intent_id": number, "kept_meaning": 0.9} for number in range(4)]
    profiles[2]["kept_meaning"] = 0.25
    write(settings, tables.INTENT_PROFILES, profiles)
    (warning,) = check_labels(settings, NIGHT)["warnings"]
    assert "are still what they were then (found 0.25, expected at least 0.5)" in warning
    assert "name them anew with tasks name" in warning


def test_every_expectation_says_what_it_expects_and_what_to_do() -> None:
    suites = sorted(SUITES.glob("*.json"))
    assert len(suites) == 10
    for file in suites:
        suite = json.loads(file.read_text("utf-8"))
        assert suite["name"] == file.stem
        for expectation in suite["expectations"]:
            assert expectation["severity"] in ("critical", "warning")
            assert expectation["description"] and expectation["meta"]["mend"]
