"""The night's figures: of the model, of popularity, of the last promoted model, of the truth."""

import datetime as dt
import math
import shutil
from pathlib import Path

import polars as pl
import pytest

from tasks import tables
from tasks.errors import LakeError, ModelError
from tasks.evaluate import evaluate, recovery
from tasks.label import label
from tasks.lake import Lake
from tasks.models import model_of_night
from tasks.promote import promote
from tasks.settings import Settings
from tasks.train import train
from tests.tasks.nights import NIGHT, SMALL_MODEL, small_settings, table

NEXT_NIGHT = NIGHT + dt.timedelta(days=1)
WEAKER_MODEL = SMALL_MODEL | {"max_epochs": 1, "overrides": {"dim": 8, "layers": 1}}


def figures(settings: Settings, night: dt.date) -> dict[tuple[str, str], float]:
    rows = table(settings, tables.METRICS, night)
    rows = rows.filter(pl.col("split") == "test", pl.col("slice") == "all")
    return {(v, m): x for v, m, x in rows.select("model_version", "metric", "value").iter_rows()}


def test_labels_recover_the_planted_intents(
    night_done: Settings, trained: tuple[Path, Path]
) -> None:
    found = recovery(night_done, NIGHT, trained[1])
    assert found["users"] == 640
    assert found["NMI"] >= 0.9
    assert found["ARI"] >= 0.9


def test_the_model_beats_popularity_and_its_labels_are_worth_something(
    night_done: Settings,
) -> None:
    measured, version = figures(night_done, NIGHT), model_of_night(night_done, NIGHT).version
    names = {f"{m}@{k}" for m in ("HR", "NDCG") for k in (5, 10, 20)}
    assert {m for v, m in measured if v == "popularity"} == names
    assert {m for v, m in measured if v == version} == names | {
        "n_intents",
        "perplexity",
        "utilisation",
        "largest_share",
        "intent_lift@20",
    }
    assert all(math.isfinite(value) for value in measured.values())
    for name in names:
        assert measured[version, name] > 1.5 * measured["popularity", name], name
    assert measured[version, "intent_lift@20"] > 2
    assert measured[version, "utilisation"] > 0.9


def test_a_rerun_leaves_identical_figures(night_done: Settings) -> None:
    before = table(night_done, tables.METRICS)
    evaluate(night_done, NIGHT)
    assert table(night_done, tables.METRICS).equals(before)


def next_night(settings: Settings) -> Settings:
    """Make the night after: users come back with a new item, and settings of a weaker model."""
    lake = Lake(settings.lake.root)
    item = pl.DataFrame({"item_id": ["new"], "item_index": [999], "first_seen": [NEXT_NIGHT]})
    lake.append(tables.ITEMS, item.cast({"item_index": pl.Int32}))
    rows = lake.scan(tables.SEQUENCES, first=NIGHT, last=NIGHT).collect().sort("user_id")
    came_back = pl.int_range(pl.len()) < 50
    longer = pl.col("items").list.concat(pl.lit([999], dtype=pl.List(pl.Int32)))
    items = pl.when(came_back).then(longer).otherwise("items")
    last_ts = pl.col("last_ts") + pl.duration(days=came_back.cast(pl.Int64))
    rows = rows.with_columns(dt=pl.lit(NEXT_NIGHT), items=items, last_ts=last_ts)
    lake.replace(tables.SEQUENCES, rows, nights=[NEXT_NIGHT])
    return small_settings(settings.lake.root, model=WEAKER_MODEL)


def churn_of(settings: Settings, night: dt.date) -> dict[tuple[str, str], float]:
    rows = table(settings, tables.METRICS, night).filter(pl.col("split") == "labels")
    return {(u, m): x for u, m, x in rows.select("slice", "metric", "value").iter_rows()}


def test_the_last_promoted_model_is_measured_on_the_same_users(
    night_done: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = model_of_night(night_done, NIGHT).version
    weaker = next_night(night_done)
    new = train(weaker, NEXT_NIGHT)["model_version"]
    evaluate(weaker, NEXT_NIGHT)
    measured = figures(weaker, NEXT_NIGHT)
    assert {v for v, _ in measured} == {last, new, "popularity"}
    # 50 targets are an item the old model has never seen: it may find none of them.
    assert measured[last, "HR@20"] < figures(weaker, NIGHT)[last, "HR@20"]
    rows = table(weaker, tables.METRICS, NEXT_NIGHT).filter(pl.col("slice") == f"against {last}")
    assert set(rows["model_version"]) == {new}
    changes = dict(rows.select("metric", "value").iter_rows())
    for metric in ("NDCG@20", "intent_lift@20"):
        estimate = measured[new, metric] / measured[last, metric] - 1
        assert changes[f"{metric} change"] == pytest.approx(estimate, abs=1e-6)
        assert changes[f"{metric} change low"] < estimate < changes[f"{metric} change high"] < 0
    assert promote(weaker, NEXT_NIGHT)["labels_with"] == last

    # What would change in the labels is what does when the model labels after all.
    churn = churn_of(weaker, NEXT_NIGHT)
    assert not churn_of(weaker, NIGHT)
    promote(
        small_settings(weaker.lake.root, model=WEAKER_MODEL, promote={"force": True}), NEXT_NIGHT
    )
    label(weaker, NEXT_NIGHT)
    before, after = (table(weaker, tables.INTENT_LABELS, night) for night in (NIGHT, NEXT_NIGHT))
    both = before.join(after, on="user_id", suffix="_after").filter(
        pl.col("intent_id").is_not_null()
    )
    changed = ~both["intent_id"].eq_missing(both["intent_id_after"])
    idle = both["last_ts"] == both["last_ts_after"]
    assert churn == {
        ("all", "users"): both.height,
        ("all", "label_churn"): changed.mean(),
        ("idle", "users"): both.height - 50,
        ("idle", "label_churn"): changed.filter(idle).mean(),
    }
    assert 0 < churn["idle", "label_churn"] < 1
    monkeypatch.setattr("tasks.evaluate.CHURN_USERS", 200)
    evaluate(weaker, NEXT_NIGHT)
    sampled = churn_of(weaker, NEXT_NIGHT)
    assert 100 < sampled["all", "users"] < 260
    assert sampled["all", "label_churn"] == pytest.approx(churn["all", "label_churn"], abs=0.15)


def test_a_promoted_model_that_is_gone_stops_the_comparison_unless_forced(
    night_done: Settings,
) -> None:
    last = model_of_night(night_done, NIGHT).version
    weaker = next_night(night_done)
    new = train(weaker, NEXT_NIGHT)["model_version"]
    shutil.rmtree(Lake(weaker.lake.root).model_dir(last))
    with pytest.raises(ModelError, match=rf"{last} .* cannot be used .*the folder is missing"):
        evaluate(weaker, NEXT_NIGHT)
    assert table(weaker, tables.METRICS, NEXT_NIGHT).is_empty()
    forced = small_settings(weaker.lake.root, model=WEAKER_MODEL, promote={"force": True})
    evaluate(forced, NEXT_NIGHT)
    assert {v for v, _ in figures(forced, NEXT_NIGHT)} == {new, "popularity"}
    assert promote(forced, NEXT_NIGHT)["labels_with"] == new


def test_a_model_of_other_settings_is_not_taken_for_the_nights(night_done: Settings) -> None:
    other = small_settings(night_done.lake.root, model=SMALL_MODEL | {"seed": 5})
    with pytest.raises(ModelError, match="is not trained: run train --night 2026-11-20 first"):
        evaluate(other, NIGHT)


def test_recovery_needs_a_truth_and_labels(night_done: Settings, tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="is missing: generate the events again"):
        recovery(night_done, NIGHT, tmp_path / "none.parquet")
    pl.DataFrame({"user_id": ["nobody"], "intent": [0]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(LakeError, match="has a label for night 2026-11-20"):
        recovery(night_done, NIGHT, tmp_path / "other.parquet")
