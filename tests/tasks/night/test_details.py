"""Types, weights and times of events reach the model of a night, wherever it is asked."""

import datetime as dt
import random
from typing import Any

import polars as pl
import pytest

from elcrec import ELCRec, Histories
from tasks.errors import LakeError, ModelError
from tasks.lake import Lake, tables
from tasks.night.evaluate import evaluate
from tasks.night.label import label
from tasks.night.promote import promote
from tasks.night.recommend import recommend
from tasks.night.sequences import build_sequences
from tasks.night.train import train
from tasks.registry.figures import BY_TIME
from tasks.registry.histories import fingerprint
from tasks.registry.weights import load
from tasks.settings import Settings
from tests.tasks.night.test_sequences import Event, write_events
from tests.tasks.nights import NIGHT, SMALL_MODEL, small_settings, table

LOOKS = {
    "types": ["view", "cart", "purchase"],
    "gap_vectors": True,
    "idle_vectors": True,
    "half_life_days": 3.0,
    "weigh_events": True,
}
TINY = SMALL_MODEL | {"n_intents": 2, "max_epochs": 2}
SIZE = {"dim": 8, "layers": 1}
NEXT_NIGHT = NIGHT + dt.timedelta(days=1)
USERS, ITEMS = 60, 20


def settings_for(root: str, looks: dict[str, Any], **model: Any) -> Settings:
    model = TINY | {"overrides": SIZE | looks} | model
    loose = {"max_largest_share": 0.9}
    return small_settings(root, model=model, recommend={"top_k": 3}, promote=loose)


@pytest.fixture
def detailed(settings: Settings) -> Settings:
    """Give settings of a model that looks at everything, and a lake with events of two nights."""
    chance, events = random.Random(3), list[Event]()
    for user in range(USERS):
        for step in range(chance.randrange(4, 9)):
            night = NIGHT - dt.timedelta(days=chance.randrange(6))
            item = 1 + (user + step * chance.randint(1, 2)) % ITEMS
            events.append((f"u{user}", f"i{item:02}", night, chance.randrange(24)))
    events += [(f"u{user}", "i03", NEXT_NIGHT, 9) for user in range(0, USERS, 2)]
    write_events(settings.lake.root, events)
    return settings_for(settings.lake.root, LOOKS)


@pytest.mark.slow
def test_every_step_of_a_night_asks_the_model_with_them(
    detailed: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Histories] = {}

    def watch(patched: pytest.MonkeyPatch, name: str, step: str) -> None:
        whole = getattr(ELCRec, name)

        def asked(self: ELCRec, histories: Any, *rest: Any, **given: Any) -> Any:
            of = histories if isinstance(histories, Histories) else histories.histories
            seen.setdefault(f"{step}.{name}", of)
            return whole(self, histories, *rest, **given)

        patched.setattr(ELCRec, name, asked)

    build_sequences(detailed, NIGHT)
    for step, run, names in (
        ("train", train, ("fit",)),
        ("evaluate", evaluate, ("ranks", "transform")),
        ("promote", promote, ()),
        ("label", label, ("transform",)),
        ("recommend", recommend, ("recommend",)),
    ):
        with monkeypatch.context() as patched:
            for name in names:
                watch(patched, name, step)
            run(detailed, NIGHT)
    assert len(seen) == 5
    end_us = int(dt.datetime.combine(NEXT_NIGHT, dt.time(), dt.UTC).timestamp()) * 1_000_000
    for name, histories in seen.items():
        assert set(histories.type_names) == {"view", "cart", "purchase"}, name
        assert histories.weights is not None and histories.ts_us is not None, name
        # What is asked without the newest events is not asked at the end of the night.
        assert histories.until_us == (None if name.startswith("evaluate") else end_us), name
    assert table(detailed, tables.INTENT_LABELS, NIGHT)["intent_id"].null_count() == 0

    # The next night trains on, and judges the model of the night by the first event after it.
    build_sequences(detailed, NEXT_NIGHT)
    summary = train(detailed, NEXT_NIGHT)
    assert summary["trained_on_from"] is not None
    evaluate(detailed, NEXT_NIGHT)
    by_time = table(detailed, tables.METRICS, NEXT_NIGHT).filter(split=BY_TIME, metric="users")
    assert by_time["value"].max() == USERS / 2
    model = load(detailed, summary["model_version"]).model
    assert model.config.types == ("view", "cart", "purchase")


@pytest.mark.slow
def test_histories_built_without_them_are_refused_until_they_are_built_again(
    detailed: Settings,
) -> None:
    root = detailed.lake.root
    build_sequences(settings_for(root, {}), NIGHT)
    with pytest.raises(LakeError, match="without types, weights and times"):
        train(detailed, NIGHT)
    build_sequences(detailed, NIGHT)
    assert train(detailed, NIGHT)["trained"]


@pytest.mark.slow
def test_a_model_that_looks_at_items_alone_is_the_one_from_before(detailed: Settings) -> None:
    alone = settings_for(detailed.lake.root, {})
    build_sequences(alone, NIGHT)
    without = fingerprint(alone, NIGHT).digest
    version = train(alone, NIGHT)["model_version"]
    # Neither the types nor the weights of events make another model of it.
    events = Lake(alone.lake.root).scan(tables.EVENTS).collect()
    for night, rows in events.with_columns(event_type=pl.lit("other"), weight=pl.lit(2.0)).group_by(
        "dt"
    ):
        rows = rows.cast({"weight": events.schema["weight"]})
        Lake(alone.lake.root).replace(tables.EVENTS, rows, nights=[night[0]])
    build_sequences(alone, NIGHT)
    assert fingerprint(alone, NIGHT).digest == without
    assert train(alone, NIGHT) == {"model_version": version, "n_items": ITEMS, "trained": False}
    # They do where they are looked at.
    build_sequences(detailed, NIGHT)
    with_them = fingerprint(detailed, NIGHT).digest
    assert with_them != without
    Lake(alone.lake.root).replace(tables.EVENTS, events, nights=sorted(events["dt"].unique()))
    build_sequences(detailed, NIGHT)
    assert fingerprint(detailed, NIGHT).digest != with_them


@pytest.mark.slow
def test_target_types_that_nobody_has_end_in_a_sentence(detailed: Settings) -> None:
    asked = settings_for(detailed.lake.root, {}, target_types=["refund"])
    assert asked.model.reads_details
    build_sequences(asked, NIGHT)
    with pytest.raises(ModelError, match="target_types"):
        train(asked, NIGHT)
    asked = settings_for(detailed.lake.root, {}, target_types=["purchase"])
    assert train(asked, NIGHT)["trained"]
