"""Labels and profiles of a night: every user, whole partitions, the same every time."""

import datetime as dt
import json
import shutil
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import polars as pl
import pytest

from elcrec import ELCRec, Histories, Labels
from elcrec.matching import first_ids
from tasks.errors import LakeError, ModelError
from tasks.lake import Lake, tables
from tasks.lake.duck import connect, sql
from tasks.night.label import label
from tasks.registry.identity import model_of_night
from tasks.registry.intent_ids import named
from tasks.registry.names import Names
from tasks.registry.profiles import TOP_ITEMS
from tasks.settings import REPO, Settings
from tests.tasks.nights import (
    NIGHT,
    SMALL_MODEL,
    no_file_larger_than,
    small_settings,
    table,
    write_histories,
)

NEXT_NIGHT = NIGHT + dt.timedelta(days=1)


WRITTEN = (tables.INTENT_LABELS, tables.LABEL_EVIDENCE, tables.INTENT_PROFILES)


def all_written(settings: Settings) -> list[Any]:
    return [table(settings, which).to_dicts() for which in WRITTEN]


def test_every_user_has_one_label_with_a_runner_up(night_done: Settings) -> None:
    sequences = table(night_done, tables.SEQUENCES, NIGHT)
    labels = table(night_done, tables.INTENT_LABELS, NIGHT)
    carried = ["user_id", "n_events", "last_ts"]
    assert labels.select(carried).sort("user_id").equals(sequences.select(carried).sort("user_id"))
    assert labels["intent_id"].is_between(0, 7).all()
    assert (labels["intent_id"] != labels["runner_up_id"]).all()
    assert (labels["confidence"] >= labels["runner_up_confidence"]).all()
    assert labels["confidence"].is_between(0, 1).all()
    assert set(labels["model_version"]) == {model_of_night(night_done, NIGHT).version}


def test_profiles_add_up_to_the_labels(night_done: Settings) -> None:
    labels = table(night_done, tables.INTENT_LABELS, NIGHT)
    profiles = table(night_done, tables.INTENT_PROFILES, NIGHT)
    assert profiles["intent_id"].to_list() == list(range(8))
    counted = dict(labels.group_by("intent_id").len().iter_rows())
    assert profiles["users"].to_list() == [counted.get(intent, 0) for intent in range(8)]
    assert profiles["share"].sum() == pytest.approx(1)
    assert set(profiles["born"]) == {NIGHT}
    for items in profiles.filter(pl.col("users") >= 20)["top_items"]:
        lifts = [item["lift"] for item in items]
        assert len(items) == TOP_ITEMS and lifts == sorted(lifts, reverse=True) and lifts[0] > 2


def test_evidence_says_of_each_label_why(night_done: Settings) -> None:
    labels = table(night_done, tables.INTENT_LABELS, NIGHT).sort("user_id")
    evidence = table(night_done, tables.LABEL_EVIDENCE, NIGHT).sort("user_id")
    same = ["dt", "user_id", "intent_id", "model_version"]
    assert evidence.select(same).equals(labels.select(same))
    names = dict(table(night_done, tables.ITEMS).select("item_index", "item_id").iter_rows())
    histories = dict(
        table(night_done, tables.SEQUENCES, NIGHT).select("user_id", "items").iter_rows()
    )
    for row in evidence.iter_rows(named=True):
        own = {names[item] for item in histories[row["user_id"]]}
        shares = [item["share"] for item in row["items"]]
        assert {item["item_id"] for item in row["items"]} <= own
        assert 1 <= len(shares) <= 3 and shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1 + len(shares) * 0.0005 + 1e-6  # each is rounded
    firsts = evidence.with_columns(first=pl.col("intents").list.first())
    assert (firsts["first"].struct["intent_id"] == labels["intent_id"]).all()
    probability = firsts["first"].struct["probability"]
    assert probability.equals(evidence["calibrated_confidence"], check_names=False)
    assert evidence["calibrated_confidence"].is_between(0, 1).all()
    assert evidence["held_since"].null_count() == evidence.height
    limit = night_done.label.clear_above
    assert (evidence["clear"] == (evidence["calibrated_confidence"] >= limit)).all()
    assert evidence["clear"].mean() > 0.5


def test_a_label_is_clear_above_the_limit_of_the_settings(night_done: Settings) -> None:
    sure = table(night_done, tables.LABEL_EVIDENCE, NIGHT)["calibrated_confidence"]
    limit = float(sure.median())
    strict = small_settings(night_done.lake.root, label={"clear_above": limit})
    label(strict, NIGHT)
    clear = table(night_done, tables.LABEL_EVIDENCE, NIGHT)["clear"]
    assert clear.sum() == (sure >= limit).sum() < clear.len()


@pytest.mark.slow
def test_held_since_is_the_first_night_of_holding(night_done: Settings) -> None:
    """Labels of before are set to the runner-up, so that those of idle users are held."""
    lake = Lake(night_done.lake.root)
    before = table(night_done, tables.INTENT_LABELS, NIGHT)
    lake.replace(
        tables.INTENT_LABELS, before.with_columns(intent_id="runner_up_id"), nights=[NIGHT]
    )
    histories = dict(
        table(night_done, tables.SEQUENCES, NIGHT).select("user_id", "items").iter_rows()
    )
    users = list(histories)[:20]
    idle = set(users[:10])
    for night in (NEXT_NIGHT, NEXT_NIGHT + dt.timedelta(days=1)):
        some = {user: histories[user] for user in users}
        write_histories(night_done, night, some, idle_since=(NIGHT, idle))
        labels_before = table(night_done, tables.INTENT_LABELS, night - dt.timedelta(days=1))
        last = dict(
            table(night_done, tables.SEQUENCES, night).select("user_id", "last_ts").iter_rows()
        )
        lake.replace(
            tables.INTENT_LABELS,
            labels_before.with_columns(
                last_ts=pl.col("user_id").replace_strict(last, default=pl.col("last_ts"))
            ),
            nights=[night - dt.timedelta(days=1)],
        )
        label(night_done, night)
        evidence = table(night_done, tables.LABEL_EVIDENCE, night)
        held = evidence.filter(pl.col("user_id").is_in(list(idle)))
        assert set(held["held_since"]) == {NEXT_NIGHT}
        assert (held["intents"].list.first().struct["intent_id"] != held["intent_id"]).all()
    label(night_done, night)
    assert table(night_done, tables.LABEL_EVIDENCE, night).equals(evidence)


def test_users_without_a_known_item_have_evidence_of_nothing(night_done: Settings) -> None:
    histories = {"one": [7], "twice": [7, 7], "new": [4321], "none": []}
    write_histories(night_done, NEXT_NIGHT, histories)
    label(night_done, NEXT_NIGHT)
    rows = table(night_done, tables.LABEL_EVIDENCE, NEXT_NIGHT).rows_by_key("user_id", named=True)
    for user in ("one", "twice"):
        assert rows[user][0]["items"] == [{"item_id": "i7", "share": 1.0}]
        assert len(rows[user][0]["intents"]) == 3
    for user in ("new", "none"):
        for column in ("intent_id", "calibrated_confidence", "clear", "held_since"):
            assert rows[user][0][column] is None
        assert rows[user][0]["items"] == [] == rows[user][0]["intents"]


def test_a_model_from_before_calibration_labels_without_it(night_done: Settings) -> None:
    version = model_of_night(night_done, NIGHT).version
    file = Lake(night_done.lake.root).model_dir(version) / "model.json"
    facts = json.loads(file.read_text())
    del facts["calibration"]
    file.write_text(json.dumps(facts))
    before = table(night_done, tables.INTENT_LABELS)
    label(night_done, NIGHT)
    assert table(night_done, tables.INTENT_LABELS).equals(before)
    evidence = table(night_done, tables.LABEL_EVIDENCE)
    assert evidence["calibrated_confidence"].null_count() == evidence.height
    assert evidence["clear"].null_count() == evidence.height
    assert (evidence["items"].list.len() > 0).all()


def test_a_rerun_leaves_identical_tables(night_done: Settings) -> None:
    before = all_written(night_done)
    label(night_done, NIGHT)
    assert all_written(night_done) == before


def test_labels_do_not_depend_on_the_size_of_batches(
    night_done: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = table(night_done, tables.INTENT_LABELS)
    monkeypatch.setattr("tasks.night.label.USERS_A_BATCH", 37)
    label(night_done, NIGHT)
    after = table(night_done, tables.INTENT_LABELS)
    assert after["intent_id"].equals(before["intent_id"])
    np.testing.assert_allclose(after["confidence"], before["confidence"], atol=1e-5)


def test_a_user_without_a_known_item_gets_a_row_without_an_intent(night_done: Settings) -> None:
    histories = {"old": [1, 2, 3], "mixed": [4321, 1, 2, 3], "new": [4321], "none": []}
    write_histories(night_done, NEXT_NIGHT, histories)
    summary = label(night_done, NEXT_NIGHT)
    rows = table(night_done, tables.INTENT_LABELS, NEXT_NIGHT).rows_by_key("user_id", named=True)
    assert {user: row[0]["intent_id"] is None for user, row in rows.items()} == {
        "old": False,
        "mixed": False,
        "new": True,
        "none": True,
    }
    assert rows["new"][0]["confidence"] is None and rows["new"][0]["runner_up_id"] is None
    assert summary["users"] == 4 and summary["users_without_intent"] == 2
    profiles = table(night_done, tables.INTENT_PROFILES, NEXT_NIGHT)
    assert profiles["users"].sum() == 2 and profiles["share"].sum() == pytest.approx(1)
    assert set(profiles["status"]) == {"active", "empty"}
    assert set(profiles["born"]) == {NIGHT}, "the model, and its intents, are of the night before"


def test_lift_is_the_share_of_the_intent_over_the_share_of_all(settings: Settings) -> None:
    # Item 1: 2 of 2 users of intent 0, 3 of 4 of all. Item 2: 2 of 2, and nobody else.
    # Item 3: one user of intent 0, so too rare for its profile. Repeats count once.
    histories = {"a": [1, 1, 2, 3], "b": [2, 1], "c": [1, 4, 4], "d": [4], "e": []}
    write_histories(settings, NIGHT, histories)
    intents = {"a": 0, "b": 0, "c": 1, "d": 1, "e": None}
    with connect(settings) as con:
        lake = Lake(settings.lake.root)
        lake.view(con, tables.SEQUENCES, first=NIGHT, last=NIGHT)
        lake.view(con, tables.ITEMS)
        labels = pl.DataFrame(
            {"user_id": list(intents), "intent_id": list(intents.values()), "confidence": 0.5}
        )
        con.register("intent_labels", labels.to_arrow())
        con.register("label_evidence", tables.LABEL_EVIDENCE.schema.empty_table())
        con.register("model_intents", named(first_ids(3), NIGHT, None).rows(with_retired=True))
        no_features = table(settings, tables.INTENT_FEATURES)
        con.register("effective_names", Names({}, {}).effective(no_features))
        con.execute(sql("intent_holders"))
        values = {"night": NIGHT, "pool": 30, "top": 10}
        rows = con.sql(sql("intent_profiles"), params=values).pl().to_dicts()
    assert [(row["users"], row["share"], row["status"]) for row in rows] == [
        (2, 0.5, "active"),
        (2, 0.5, "active"),
        (0, 0.0, "empty"),
    ]
    tops = [{item["item_id"]: item["lift"] for item in row["top_items"]} for row in rows]
    assert tops == [
        {"i2": pytest.approx(2.0), "i1": pytest.approx(4 / 3)},
        {"i4": pytest.approx(2.0)},
        {},
    ]
    assert list(tops[0]) == ["i2", "i1"]


# Runs label in a process of its own, which kills itself at the given place.
KILLED_RUN = """
import datetime, os, pathlib, signal, sys
import tasks.night.label
import tasks.registry.profiles
from elcrec import ELCRec
from tests.tasks.nights import small_settings

place, root, night = sys.argv[1:]
tasks.night.label.USERS_A_BATCH = 100
transform, open_statement, batches = ELCRec.transform, tasks.registry.profiles.sql, []
replace = tasks.night.label.Lake.replace

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def transform_and_die(self, *arguments, **more):
    batches.append(arguments)
    return die() if len(batches) == 3 else transform(self, *arguments, **more)

def open_or_die(name):
    return die() if name == "intent_profiles" else open_statement(name)

def replace_or_die(lake, table, data, **where):
    return die() if table.name == "label_evidence" else replace(lake, table, data, **where)

if place == "third batch":
    ELCRec.transform = transform_and_die
elif place == "between labels and evidence":
    tasks.night.label.Lake.replace = replace_or_die
else:
    tasks.registry.profiles.sql = open_or_die
tasks.night.label.label(small_settings(pathlib.Path(root)), datetime.date.fromisoformat(night))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "left"),
    [
        ("third batch", (10, 10, 10)),
        ("between labels and evidence", (250, 10, 10)),
        ("between evidence and profiles", (250, 250, 10)),
    ],
)
def test_a_run_killed_in_the_middle_leaves_whole_partitions_and_a_rerun_completes_it(
    night_done: Settings, place: str, left: tuple[int, int, int]
) -> None:
    histories = {f"u{user}": [1 + user % 50, 60] for user in range(250)}
    write_histories(night_done, NEXT_NIGHT, dict(list(histories.items())[:10]))
    label(night_done, NEXT_NIGHT)
    write_histories(night_done, NEXT_NIGHT, histories)

    def users() -> tuple[int, int, int]:
        labels, evidence = (
            table(night_done, which, NEXT_NIGHT)["user_id"]
            for which in (tables.INTENT_LABELS, tables.LABEL_EVIDENCE)
        )
        profiles = table(night_done, tables.INTENT_PROFILES, NEXT_NIGHT)
        assert profiles.height == 8 and labels.len() == labels.n_unique()
        return labels.len(), evidence.len(), profiles["users"].sum()

    arguments = [place, str(night_done.lake.root), NEXT_NIGHT.isoformat()]
    killed = subprocess.run([sys.executable, "-c", KILLED_RUN, *arguments], cwd=REPO, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert users() == left
    label(night_done, NEXT_NIGHT)
    assert users() == (250, 250, 250)
    same = ["user_id", "intent_id", "model_version"]
    labels, evidence = (
        table(night_done, which, NEXT_NIGHT).select(same).sort("user_id")
        for which in (tables.INTENT_LABELS, tables.LABEL_EVIDENCE)
    )
    assert labels.equals(evidence)


@pytest.mark.slow
@pytest.mark.parametrize("size", [100, 1000])
def test_a_disk_that_is_full_leaves_the_labels_as_they_were(
    night_done: Settings, size: int
) -> None:
    def written() -> list[pl.DataFrame]:
        return [table(night_done, one) for one in WRITTEN]

    before = written()
    with no_file_larger_than(size), pytest.raises(Exception, match="File too large"):
        label(night_done, NIGHT)
    assert all(map(pl.DataFrame.equals, written(), before))
    label(night_done, NIGHT)
    assert all(map(pl.DataFrame.equals, written(), before))


def test_a_night_is_labelled_by_no_model_of_a_later_night(night_done: Settings) -> None:
    the_night_before = NIGHT - dt.timedelta(days=1)
    write_histories(night_done, the_night_before, {"a": [1, 2, 3]})
    with pytest.raises(ModelError, match="no model is promoted on night 2026-11-19 or before"):
        label(night_done, the_night_before)
    assert table(night_done, tables.INTENT_LABELS, the_night_before).is_empty()


def test_bad_states_end_in_one_sentence_and_leave_the_tables_readable(
    night_done: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = all_written(night_done)
    with pytest.raises(LakeError, match="no rows for night 2026-11-21: run build-sequences"):
        label(night_done, NEXT_NIGHT)

    def without_numbers(self: ELCRec, histories: Histories, *_: object, **__: object) -> Labels:
        n = len(histories)
        nan, ids = np.full(n, np.nan, np.float32), np.zeros(n, np.int32)
        return Labels(ids, nan, ids, nan)

    with monkeypatch.context() as patched:
        patched.setattr(ELCRec, "transform", without_numbers)
        with pytest.raises(ModelError, match="confidences that are no numbers") as caught:
            label(night_done, NIGHT)
        assert "\n" not in str(caught.value)

    version = model_of_night(night_done, NIGHT).version
    shutil.rmtree(Lake(night_done.lake.root).model_dir(version))
    with pytest.raises(ModelError, match=rf"{version} .*the folder is missing.*run train"):
        label(night_done, NIGHT)
    assert all_written(night_done) == before


def test_settings_of_another_model_label_with_the_promoted_one(night_done: Settings) -> None:
    """Labelling reads the registry, not the settings: a relabel needs no training."""
    promoted_version = model_of_night(night_done, NIGHT).version
    other = small_settings(night_done.lake.root, model=SMALL_MODEL | {"seed": 9})
    assert label(other, NIGHT)["model_version"] == promoted_version
