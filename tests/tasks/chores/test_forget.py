"""Forgetting people: nothing of them is left, all others stay as they were."""

import datetime as dt
import hashlib
import html
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open

from tasks.chores.forget import USER_TABLES, Names, forget, read_users
from tasks.errors import ForgetError, LakeError
from tasks.lake import PAGES, Lake, tables
from tasks.settings import REPO, Settings, load_settings
from tasks.steps import run_step
from tests.places import Place, got
from tests.tasks.nights import table

NIGHT = dt.date(2026, 11, 2)
DAYS = [NIGHT - dt.timedelta(days=1), NIGHT]
ANN = "ann-of-the-example"  # the smallest id and the largest: both extremes of Delta's statistics
ZOE = 'zoë "z", <of the> example'
OTHERS = ["ann-of-the-example-2", "bob", "cleo"]
STEPS = ("ingest", "check-events", "build-sequences", "check-sequences")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Give settings on two nights of JSON lines, and on a lake in a folder."""
    return settings_of(tmp_path, tmp_path / "lake")


@pytest.fixture
def anywhere(tmp_path: Path, root: Place) -> Settings:
    """Give the same on a lake in a folder, and on one in a store."""
    return settings_of(tmp_path, root)


def settings_of(tmp_path: Path, root: Place) -> Settings:
    """Write two nights of JSON lines, some of them unusable."""
    (tmp_path / "events").mkdir()
    for day in DAYS:
        rows: list[dict[str, Any]] = [
            {"user_id": user, "item_id": item, "ts": f"{day}T0{hour}:00:00Z"}
            for hour, item in enumerate("abc")
            for user in (ANN, ZOE, *OTHERS)
        ]
        rows += [  # of items that have no other event
            {"user_id": user, "item_id": f"{day}-{number}", "ts": f"{day}T05:00:00Z"}
            for number, user in enumerate((ANN, ZOE, *OTHERS))
        ]
        rows += [
            {"user_id": user, "item_id": None, "ts": f"{day}T09:00:00Z"} for user in (ANN, ZOE)
        ]
        rows += [
            {"user_id": None, "item_id": "a", "ts": f"{day}T09:00:00Z", "invited_by": ANN},
            {"user_id": OTHERS[0], "item_id": None, "ts": f"{day}T09:00:00Z"},
        ]
        file = tmp_path / "events" / f"{day}.jsonl"
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return load_settings(
        lake={"root": root},
        source={"path": str(tmp_path / "events")},
        quality={"max_quarantined_share": 1.0},
        sequences={"min_item_events": 2},
        duckdb={"threads": 2},
    )


def run_nights(settings: Settings, nights: list[dt.date] = DAYS) -> None:
    for night in nights:
        for step in STEPS:
            run_step(step, settings, night)
        lake = Lake(settings.lake.root)
        users = lake.scan(tables.SEQUENCES, night, night).select(
            "dt", "user_id", "n_events", "last_ts"
        )
        labels = users.with_columns(
            intent_id=pl.lit(1, pl.Int32),
            confidence=pl.lit(1.0, pl.Float32),
            runner_up_id=pl.lit(None, pl.Int32),
            runner_up_confidence=pl.lit(None, pl.Float32),
            model_version=pl.lit("made by hand"),
        )
        lake.replace(tables.INTENT_LABELS, labels.collect(), nights=[night])
        item = pl.Struct({"item_id": pl.String, "share": pl.Float32})
        evidence = labels.select(
            "dt",
            "user_id",
            "intent_id",
            "model_version",
            calibrated_confidence=pl.lit(0.9, pl.Float32),
            clear=True,
            held_since=pl.lit(None, pl.Date),
            items=pl.lit([], pl.List(item)),
            intents=pl.lit(
                [], pl.List(pl.Struct({"intent_id": pl.Int32, "probability": pl.Float32}))
            ),
        )
        lake.replace(tables.LABEL_EVIDENCE, evidence.collect(), nights=[night])
        scored = pl.Struct({"item_id": pl.String, "score": pl.Float32})
        recommended = labels.select(
            "dt",
            "user_id",
            "model_version",
            items=pl.lit([{"item_id": "a", "score": 1.5}], pl.List(scored)),
        )
        lake.replace(tables.USER_RECOMMENDATIONS, recommended.collect(), nights=[night])


def files_naming(root: Path, users: list[str]) -> list[str]:
    """Search every file of a lake, by other means than `forget` does."""
    forms = {
        form
        for user in users
        for form in (user, json.dumps(user)[1:-1], html.escape(user), json.dumps(json.dumps(user)))
    }
    found = []
    for file in sorted(root.rglob("*")):
        if not file.is_file():
            continue
        text = file.read_bytes().decode("utf-8", errors="replace")
        if file.suffix == ".parquet":
            text += str(pq.ParquetFile(file).read().to_pylist())
        # The other id that begins like one of them may be anywhere.
        text = text.replace(OTHERS[0], "")
        if any(form in text for form in forms):
            found.append(str(file.relative_to(root)))
    return found


def content(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    whole = {**tables.TABLES}
    for name in ("forgotten", "steps", "check_results", "sequence_inputs"):
        del whole[name]
    return {name: table(settings, which).to_dicts() for name, which in whole.items()}


def test_every_table_with_user_ids_is_known() -> None:
    assert {table.name for table in USER_TABLES} == {
        "events",
        "sequences",
        "left_out_events",
        "intent_labels",
        "intent_users",
        "label_evidence",
        "user_recommendations",
    }


@pytest.mark.slow
def test_nothing_of_a_forgotten_person_is_left_and_all_others_stay(
    anywhere: Settings, tmp_path: Path
) -> None:
    settings = anywhere
    run_nights(settings)
    root, storage = settings.lake.root, Lake(settings.lake.root).storage
    page = f"{PAGES}/2026-11-02/events/made by hand.html"
    text = f"<p title='{ANN}'>such as {html.escape(ZOE)}, {OTHERS[0]}</p>"
    storage.write(page, text.encode())
    assert len(files_naming(got(root, tmp_path / "before"), [ANN, ZOE])) > 10
    before = content(settings)
    report = forget(settings, [ANN, ZOE])

    assert files_naming(got(root, tmp_path / "after"), [ANN, ZOE]) == []
    after = content(settings)
    for name, rows in before.items():
        kept = [
            row
            for row in rows
            if row.get("user_id") not in (ANN, ZOE)
            and (ANN not in row.get("raw", "") or OTHERS[0] in row["raw"])
            and json.dumps(ZOE, ensure_ascii=False) not in row.get("raw", "")
        ]
        assert after[name] == kept, name
    told = report["tables"]
    assert {name: one["rows_removed"] for name, one in told.items()} == {
        "events": 16,
        "sequences": 4,
        "left_out_events": 6,
        "intent_labels": 4,
        "intent_users": 0,
        "label_evidence": 4,
        "user_recommendations": 4,
        "quarantine": 6,
        "steps": 0,
        "check_results": 0,
    }
    assert [one["left"] for one in told.values()] == [0] * len(told)
    told_now = storage.read(page).decode()
    assert told_now == f"<p title='forgotten'>such as forgotten, {OTHERS[0]}</p>"
    assert ANN not in json.dumps(report) and "zo" not in json.dumps(report)


@pytest.mark.slow
def test_forgetting_again_finds_nothing_to_do(settings: Settings) -> None:
    run_nights(settings)
    forget(settings, [ANN])
    before = content(settings)
    again = forget(settings, [ANN])
    assert content(settings) == before
    assert again["users_not_forgotten_before"] == 0
    assert {one["rows_removed"] for one in again["tables"].values()} == {0}


@pytest.mark.slow
def test_later_nights_and_backfills_leave_forgotten_people_out(settings: Settings) -> None:
    run_nights(settings, DAYS[:1])
    forget(settings, [ANN, ZOE])
    before = content(settings)
    summary = run_step("ingest", settings, DAYS[0])
    assert (
        summary["rows_forgotten"] == 11
    )  # 4 events and a rejected row each, and one that names her
    after = content(settings)
    assert after["events"] == before["events"]
    assert [row["raw"] for row in after["quarantine"]] == [
        row["raw"] for row in before["quarantine"]
    ]
    run_nights(settings, DAYS[1:])
    assert files_naming(settings.lake.root, [ANN, ZOE]) == []
    assert set(table(settings, tables.SEQUENCES, NIGHT)["user_id"]) == set(OTHERS)


def test_a_night_without_forgotten_people_tells_so(settings: Settings) -> None:
    assert run_step("ingest", settings, NIGHT)["rows_forgotten"] == 0


@pytest.mark.slow
def test_the_list_of_forgotten_people_names_nobody(settings: Settings) -> None:
    run_nights(settings, DAYS[:1])
    forget(settings, [ANN])
    forget(settings, [ZOE, ANN])
    rows = table(settings, tables.FORGOTTEN)
    assert rows.height == 2
    salt = rows["salt"].unique().item()
    assert set(rows["user_hash"]) == {
        hashlib.sha256((salt + user).encode()).hexdigest() for user in (ANN, ZOE)
    }


@pytest.mark.slow
def test_what_a_check_told_of_a_person_is_made_unreadable(settings: Settings) -> None:
    run_nights(settings, DAYS[:1])
    lake = Lake(settings.lake.root)
    told = {"warnings": [f"3 rows, such as {ANN}"], "rows": 12}
    rows = lake.scan(tables.STEPS).filter(pl.col("step") == "check-events").collect()
    rows = rows.with_columns(summary=pl.lit(json.dumps(told)))
    lake.replace(tables.STEPS, rows, nights=DAYS[:1], within={"step": "check-events"})
    found = lake.scan(tables.CHECK_RESULTS).filter(pl.col("step") == "check-events").collect()
    found = found.with_columns(value=12.0, observed=pl.lit(f"12 of 20 rows, such as {ANN}"))
    lake.replace(tables.CHECK_RESULTS, found, nights=DAYS[:1], within={"step": "check-events"})
    report = forget(settings, [ANN, "12"])
    summaries = lake.scan(tables.STEPS).filter(pl.col("step") == "check-events").collect()
    assert json.loads(summaries["summary"].item()) == {
        "warnings": ["3 rows, such as forgotten"],
        "rows": 12,
    }
    assert lake.scan(tables.STEPS).collect().height == len(STEPS)
    results = lake.scan(tables.CHECK_RESULTS).collect()
    of_events = results.filter(step="check-events")
    assert set(of_events["observed"]) == {"forgotten of 20 rows, such as forgotten"}
    assert set(of_events["value"]) == {12.0} and results.height > of_events.height
    assert report["tables"]["check_results"]["rows_changed"] == of_events.height
    assert files_naming(lake.root, [ANN]) == []


def test_an_id_is_found_as_a_word_and_not_as_a_part_of_another() -> None:
    names = Names(["u1", "a.b"])
    for text in ("u1", '{"user":"u1"}', "x,u1,y", "u1\t3", "for a.b.", "(u1)"):
        assert names.within(text), text
    for text in ("u12", "xu1", "u1-2", "u1_a", "aXb", "a.bc"):
        assert not names.within(text), text


def test_a_number_is_no_word_of_a_page_s_markup() -> None:
    page = "<style>p { margin: 12 }</style><p class='x' width=12>12 rows</p>"
    assert Names(["12"]).redacted_page(page) == page.replace(">12 rows", ">forgotten rows")


@pytest.mark.parametrize("users", [[], [""], ["ann", ""]])
def test_no_id_is_no_order_to_forget(settings: Settings, users: list[str]) -> None:
    run_step("ingest", settings, DAYS[0])
    with pytest.raises(ForgetError, match="no user is named"):
        forget(settings, users)


def test_a_lake_that_is_not_there_is_named(settings: Settings) -> None:
    with pytest.raises(LakeError, match="there is no lake at"):
        forget(settings, [ANN])
    assert not settings.lake.root.exists()


def test_ids_come_from_a_file_with_one_a_line(tmp_path: Path) -> None:
    file = tmp_path / "users.txt"
    file.write_text(f"\ufeff{ANN}\r\n\n{ZOE}\n with blanks \n", encoding="utf-8")
    assert read_users(file) == [ANN, ZOE, " with blanks "]
    with pytest.raises(ForgetError, match="cannot be read"):
        read_users(tmp_path / "missing.txt")


def _hold(root: Path, held: Any, release: Any) -> None:
    with Lake(root).in_use():
        held.set()
        release.wait(60)


@pytest.mark.slow
def test_forgetting_waits_for_the_step_that_runs(settings: Settings) -> None:
    run_nights(settings, DAYS[:1])
    spawn = multiprocessing.get_context("spawn")
    held, release = spawn.Event(), spawn.Event()
    other = spawn.Process(target=_hold, args=(settings.lake.root, held, release))
    other.start()
    assert held.wait(60)
    command = [sys.executable, "-m", "tasks", "forget", "--user", ANN, "--lake"]
    process = subprocess.Popen(
        [*command, str(settings.lake.root)],
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    assert b"waiting until the steps that run on the lake have ended" in process.stderr.readline()
    assert files_naming(settings.lake.root, [ANN])
    release.set()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["tables"]["events"]["rows_removed"] == 4
    other.join()
    assert files_naming(settings.lake.root, [ANN]) == []


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.2])
def test_forgetting_that_was_killed_is_completed_by_doing_it_again(
    settings: Settings, delay: float
) -> None:
    run_nights(settings)
    code = (
        "import sys; from tasks.chores.forget import forget;"
        "from tasks.settings import load_settings;"
        "settings = load_settings(**{'lake.root': sys.argv[1]}); print('go', flush=True);"
        "forget(settings, sys.argv[2:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(settings.lake.root), ANN, ZOE],
        cwd=REPO,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"go\n"
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    forget(settings, [ANN, ZOE])
    assert files_naming(settings.lake.root, [ANN, ZOE]) == []
    assert set(table(settings, tables.EVENTS)["user_id"]) == set(OTHERS)
    assert table(settings, tables.EVENTS).height == 24


@pytest.mark.slow
def test_a_model_has_nothing_of_single_users(night_done: Settings) -> None:
    lake = Lake(night_done.lake.root)
    users = set(lake.scan(tables.SEQUENCES).collect()["user_id"])
    files = [file for file in (lake.root / "model_files").rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".json", ".parquet", ".safetensors"}
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, "numpy") as weights:
                for name in weights.keys():  # noqa: SIM118 - it is no mapping
                    assert len(users) not in weights.get_slice(name).get_shape(), name
        elif file.suffix == ".parquet":
            assert not users & set(pl.read_parquet(file)["item_id"])
        else:
            assert not Names(users).within(file.read_text())


@pytest.mark.slow
def test_what_a_killed_job_of_spark_has_left_names_nobody(settings: Settings) -> None:
    run_step("ingest", settings, DAYS[0])
    with Lake(settings.lake.root).scratch(tables.SEQUENCES) as folder:
        assert not Path(folder).exists()
    left = Path(f"{folder}-of-a-killed-job") / "core_users-3"
    left.mkdir(parents=True)
    pl.DataFrame({"user_id": [ANN, "bob"]}).write_parquet(left / "part-0.parquet")
    # Of another table's columns, as what waits between two statements is.
    pl.DataFrame({"item_index": [1]}).write_parquet(left / "part-1.parquet")
    forget(settings, [ANN])
    assert list(left.glob("*")) == []
