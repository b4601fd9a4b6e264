"""The night's figures: of the model, of popularity, of the last promoted model, of the truth."""

import datetime as dt
import math
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from elcrec import Histories
from tasks.chores.recovery import recovery
from tasks.errors import LakeError, ModelError
from tasks.lake import Lake, tables
from tasks.night.evaluate import by_time_split, evaluate, judge_by_time
from tasks.night.label import label
from tasks.night.promote import promote
from tasks.night.sequences import build_sequences
from tasks.night.train import train
from tasks.registry.figures import BASELINES
from tasks.registry.identity import model_of_night
from tasks.registry.weights import load
from tasks.settings import PromoteSettings, Settings
from tests.tasks.nights import (
    NIGHT,
    SMALL_MODEL,
    mark_ingested,
    small_settings,
    table,
    write_histories,
)

NEXT_NIGHT = NIGHT + dt.timedelta(days=1)
MOVES_IDLE = {
    "idle_probability_ratio": 4
}  # so that users without a new event are seen to change, too
WEAKER_MODEL = SMALL_MODEL | {"max_epochs": 1, "overrides": {"dim": 8, "layers": 1}}


def figures(settings: Settings, night: dt.date, users: str = "all") -> dict[tuple[str, str], float]:
    rows = table(settings, tables.METRICS, night)
    rows = rows.filter(pl.col("split") == "test", pl.col("slice") == users)
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
    for baseline in BASELINES:
        assert {m for v, m in measured if v == baseline} == names | {"users"}
    assert {m for v, m in measured if v == version} == names | {
        "users",
        "repeat_share",
        "same_again_share",
        "n_intents",
        "perplexity",
        "utilisation",
        "largest_share",
        "intent_lift@20",
        "calibration_error",
        "clear_share",
    }
    assert all(math.isfinite(value) for value in measured.values())
    for name in names:
        assert measured[version, name] > 1.5 * measured["popularity", name], name
    assert measured[version, "intent_lift@20"] > 2
    assert measured[version, "utilisation"] > 0.9
    assert measured[version, "calibration_error"] < 0.1
    assert measured[version, "clear_share"] > 0.8


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
    return small_settings(settings.lake.root, model=WEAKER_MODEL, label=MOVES_IDLE)


def churn_of(settings: Settings, night: dt.date) -> dict[tuple[str, str], float]:
    rows = table(settings, tables.METRICS, night).filter(pl.col("split") == "labels")
    return {(u, m): x for u, m, x in rows.select("slice", "metric", "value").iter_rows()}


@pytest.mark.slow
def test_the_last_promoted_model_is_measured_on_the_same_users(
    night_done: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = model_of_night(night_done, NIGHT).version
    weaker = next_night(night_done)
    new = train(weaker, NEXT_NIGHT)["model_version"]
    evaluate(weaker, NEXT_NIGHT)
    measured = figures(weaker, NEXT_NIGHT)
    assert {v for v, _ in measured} == {last, new, *BASELINES}
    # 50 targets are an item the old model has never seen: it may find none of them.
    assert measured[last, "HR@20"] < figures(weaker, NIGHT)[last, "HR@20"]
    rows = table(weaker, tables.METRICS, NEXT_NIGHT).filter(pl.col("slice") == f"against {last}")
    assert set(rows["model_version"]) == {new}
    changes = dict(rows.select("metric", "value").iter_rows())
    on_new_items = figures(weaker, NEXT_NIGHT, "new items")
    assert changes["users"] == on_new_items[new, "users"] < measured[new, "users"]
    for metric in ("NDCG@20", "intent_lift@20"):
        estimate = on_new_items[new, metric] / on_new_items[last, metric] - 1
        assert changes[f"{metric} change"] == pytest.approx(estimate, abs=1e-6)
        assert changes[f"{metric} change low"] < estimate < changes[f"{metric} change high"] < 0
    assert promote(weaker, NEXT_NIGHT)["labels_with"] == last

    # What would change in the labels is what does when the model labels after all.
    churn = churn_of(weaker, NEXT_NIGHT)
    assert not churn_of(weaker, NIGHT)
    forced = weaker.model_copy(update={"promote": PromoteSettings(force=True)})
    promote(forced, NEXT_NIGHT)
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
    monkeypatch.setattr("tasks.night.evaluate.CHURN_USERS", 200)
    evaluate(weaker, NEXT_NIGHT)
    sampled = churn_of(weaker, NEXT_NIGHT)
    assert 100 < sampled["all", "users"] < 260
    assert sampled["all", "label_churn"] == pytest.approx(churn["all", "label_churn"], abs=0.15)


def rank_of(scores: dict[int, float], target: int, history: list[int]) -> int:
    """Rank a target among what the user has not had, whatever scores as high before it."""
    return sum(
        score >= scores[target]
        for item, score in scores.items()
        if item != target and item not in history
    )


def test_by_time_equals_a_plain_computation_user_by_user(night_done: Settings) -> None:
    """The model of the night before on the first event of each user, told by the events alone."""
    lake = Lake(night_done.lake.root)
    rng = np.random.default_rng(4)
    before = dict(table(night_done, tables.SEQUENCES, NIGHT).select("user_id", "items").iter_rows())
    n_items = max(item for items in before.values() for item in items)
    tonight = {
        # n_items + 1 is new to everybody; what a user has had may come again.
        user: rng.integers(1, n_items + 2, rng.integers(1, 4)).tolist()
        for user in [*sorted(before)[:120], "new one", "another"]
    }
    after = {
        user: [*before.get(user, []), *tonight.get(user, [])] for user in {**before, **tonight}
    }
    write_histories(night_done, NEXT_NIGHT, after)
    names = {f"i{item}": item for item in range(1, n_items + 2)}
    events = [(user, f"i{item}") for user, items in tonight.items() for item in items]
    # Of an item that is in no history: the k-core left it out.
    events += [(user, "left out") for user in list(tonight)[:40]]
    frame = pl.DataFrame(events, schema=["user_id", "item_id"], orient="row").with_columns(
        dt=pl.lit(NEXT_NIGHT),
        event_type=pl.lit(""),
        ts=pl.lit(dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)).cast(pl.Datetime("us", "UTC")),
        weight=pl.lit(None, pl.Float32),
        source=pl.lit("x"),
        row_number=pl.int_range(pl.len()),
        ingested=pl.lit(NEXT_NIGHT),
    )
    lake.replace(tables.EVENTS, frame, nights=[NEXT_NIGHT])

    version = model_of_night(night_done, NIGHT).version
    model = load(night_done, version)
    night_items = pl.Series("item_id", sorted(names))
    judged_by_time = judge_by_time(night_done, NEXT_NIGHT, version, model, night_items, [5, 20])
    assert all(list(slices) == ["all"] for slices in judged_by_time.values())
    found = {name: slices["all"] for name, slices in judged_by_time.items()}

    index_of = [names[name] for name in model.item_ids]  # of the model's numbers 1, 2, ...
    number_of = {item: number for number, item in enumerate(index_of, 1)}
    counts = dict.fromkeys(names.values(), 0.0)
    for items in before.values():
        for item in items:
            counts[item] += 1
    ranks: dict[str, list[float]] = {version: [], "popularity": []}
    judged = [user for user in tonight if user in before]
    for user in judged:
        target, history = tonight[user][0], before[user]
        history = [] if target in history else history  # a repeat is ranked among all items
        ranks["popularity"].append(rank_of(counts, target, history))
        if target not in number_of:
            ranks[version].append(math.inf)
            continue
        own = Histories.from_lists([[number_of[item] for item in before[user]]])
        ranked, scores = model.model.recommend(own, len(index_of), exclude_seen=False)
        by_item = dict(zip(ranked[0].tolist(), scores[0].tolist(), strict=True))
        known = [number_of[item] for item in history]
        ranks[version].append(rank_of(by_item, number_of[target], known))
    assert set(found) == set(ranks) and len(judged) == 120
    for name, of_users in ranks.items():
        assert found[name]["users"] == 120
        for k in (5, 20):
            gains = [1 / math.log2(rank + 2) if rank < k else 0 for rank in of_users]
            hits = [rank < k for rank in of_users]
            assert found[name][f"HR@{k}"] == pytest.approx(np.mean(hits))
            assert found[name][f"NDCG@{k}"] == pytest.approx(np.mean(gains), rel=1e-5)
    unknown = [tonight[user][0] == n_items + 1 for user in judged]
    assert found[version]["unknown_targets"] == np.mean(unknown)


@pytest.mark.slow
def test_repeats_are_told_apart_and_a_large_share_of_them_is_said(
    night_done: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    version = model_of_night(night_done, NIGHT).version
    histories = table(night_done, tables.SEQUENCES, NIGHT)["items"]
    long_enough = [items for items in histories.to_list() if len(items) >= 3]
    repeats = sum(items[-1] in items[:-1] for items in long_enough)
    share = repeats / len(long_enough)
    everybody = figures(night_done, NIGHT)
    assert everybody[version, "repeat_share"] == pytest.approx(share)
    of_slice = {name: figures(night_done, NIGHT, name) for name in ("new items", "repeats")}
    assert of_slice["repeats"][version, "users"] == repeats
    assert of_slice["new items"][version, "users"] == len(long_enough) - repeats
    for name in (version, *BASELINES):
        hits = sum(of[name, "users"] * of[name, "HR@20"] for of in of_slice.values())
        assert everybody[name, "HR@20"] == pytest.approx(hits / len(long_enough))
    # Two baselines know only what a user has had, so on new items they are popularity.
    for name in ("last item again", "most frequent item"):
        assert of_slice["new items"][name, "HR@5"] == of_slice["new items"]["popularity", "HR@5"]
        assert of_slice["repeats"][name, "HR@5"] > of_slice["repeats"]["popularity", "HR@5"]

    evaluate(night_done, NIGHT)
    assert "session_minutes" not in caplog.text
    asked = small_settings(night_done.lake.root, evaluate={"max_repeat_share": 0.1})
    evaluate(asked, NIGHT)
    assert f"of {100 * share:.0f} % of the users is of an item that they have had" in caplog.text
    assert "sequences.session_minutes" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(("minutes", "target"), [(0, "c"), (30, "c")])
def test_by_time_the_target_is_the_first_item_of_the_night_with_sessions_too(
    tmp_path: Path, minutes: float, target: str
) -> None:
    """An item that came again in a session is in the history once: events alone say too much."""
    settings = small_settings(tmp_path / "lake", sequences={"session_minutes": minutes})
    lake = Lake(settings.lake.root)
    for night, items in ((NIGHT, "aabb"), (NEXT_NIGHT, "cccd")):
        day = dt.datetime.combine(night, dt.time(9), dt.UTC)
        frame = pl.DataFrame(
            {
                "dt": night,
                "user_id": "ann",
                "item_id": list(items),
                "event_type": "view",
                "ts": [day + dt.timedelta(minutes=number) for number in range(len(items))],
                "weight": pl.Series([None] * len(items), dtype=pl.Float32),
                "source": "events.csv",
                "row_number": range(1, len(items) + 1),
                "ingested": night,
            },
            schema_overrides={"ts": pl.Datetime("us", "UTC")},
        )
        lake.replace(tables.EVENTS, frame, nights=[night])
        mark_ingested(lake.root, [night])
        build_sequences(settings, night)
    names = dict(table(settings, tables.ITEMS).select("item_index", "item_id").iter_rows())
    whole, earlier = by_time_split(settings, NEXT_NIGHT)
    known = [names[item] for item in whole[0].tolist()]
    (count,) = earlier
    assert known[count] == target
    assert known[:count] == (["a", "b"] if minutes else list("aabb"))


def test_the_last_model_is_judged_by_time_on_nights_with_events(night_done: Settings) -> None:
    weaker = next_night(night_done)
    rows = table(night_done, tables.METRICS)
    assert rows.filter(pl.col("split") == "time").is_empty()  # no model before the first night
    lake = Lake(weaker.lake.root)
    model = load(weaker, model_of_night(night_done, NIGHT).version)
    nothing = judge_by_time(weaker, NEXT_NIGHT, "v", model, model.item_ids, [20])
    assert nothing == {} and not lake.nights(tables.EVENTS)


@pytest.mark.slow
def test_the_model_of_the_last_training_from_scratch_is_measured_again_on_the_users_of_tonight(
    night_done: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    lake, first = Lake(night_done.lake.root), model_of_night(night_done, NIGHT).version
    # The night after trained on from it, and was promoted.
    second = f"{NEXT_NIGHT:%Y%m%d}-00000000"
    shutil.copytree(lake.model_dir(first), lake.model_dir(second))
    row = table(night_done, tables.MODELS, NIGHT).with_columns(
        dt=pl.lit(NEXT_NIGHT), model_version=pl.lit(second), parent_version=pl.lit(first), warm=True
    )
    lake.replace(tables.MODELS, row, nights=[NEXT_NIGHT])
    third_night = NEXT_NIGHT + dt.timedelta(days=1)
    rows = table(night_done, tables.SEQUENCES, NIGHT).with_columns(dt=pl.lit(third_night))
    lake.replace(tables.SEQUENCES, rows, nights=[third_night])
    short = SMALL_MODEL | {"warm_epochs": 1, "from_scratch": True, "max_epochs": 1}
    settings = small_settings(lake.root, model=short)
    third = train(settings, third_night)["model_version"]
    evaluate(settings, third_night)
    measured = figures(settings, third_night, "new items")
    assert {name for name, _ in measured} == {first, second, third, *BASELINES}
    # The two are the same weights, on the same users.
    for metric in ("NDCG@20", "intent_lift@20"):
        assert measured[first, metric] == measured[second, metric]
    compared = table(settings, tables.METRICS, third_night).filter(model_version=third)["slice"]
    assert {f"against {first}", f"against {second}"} <= set(compared)
    reasons = promote(settings, third_night)["reasons"]
    assert any(f"the last training from scratch, {first}," in reason for reason in reasons)

    caplog.clear()
    shutil.rmtree(lake.model_dir(first))
    evaluate(settings, third_night)
    assert f"model {first}, of the last training from scratch, is gone" in caplog.text
    assert first not in {name for name, _ in figures(settings, third_night, "new items")}


@pytest.mark.slow
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
    assert {v for v, _ in figures(forced, NEXT_NIGHT)} == {new, *BASELINES}
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
