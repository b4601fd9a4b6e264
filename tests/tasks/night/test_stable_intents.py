"""Intent ids from night to night: they keep their users, however the night's model was trained."""

import datetime as dt
import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from elcrec.errors import ELCRecError
from elcrec.matching import match_intents
from tasks.errors import ModelError
from tasks.lake import tables
from tasks.night.evaluate import evaluate
from tasks.night.label import label
from tasks.night.promote import promote
from tasks.night.train import seeds, train
from tasks.registry import intent_ids
from tasks.registry.identity import identify, model_of_night
from tasks.registry.weights import load
from tasks.settings import Settings
from tests.tasks.nights import NIGHT, SMALL_MODEL, small_settings, table, write_histories

NEXT = NIGHT + dt.timedelta(days=1)


def run_night(settings: Settings, night: dt.date) -> dict[str, Any]:
    """Run the steps of the model; it is promoted, whatever it is worth: intents are looked at."""
    forced = settings.promote.model_copy(update={"force": True})
    trained = train(settings, night)
    for step in (evaluate, promote, label):
        step(settings.model_copy(update={"promote": forced}), night)
    return trained


def labels_of(settings: Settings, night: dt.date) -> dict[str, int]:
    rows = table(settings, tables.INTENT_LABELS, night).select("user_id", "intent_id")
    return dict(rows.iter_rows())


def share_kept(before: dict[str, int], after: dict[str, int], users: set[str]) -> float:
    return float(np.mean([before[user] == after[user] for user in sorted(users)]))


def with_next_night(settings: Settings) -> set[str]:
    """Write the histories of NEXT, a sixth of the users with a new event; return the others."""
    rng = np.random.default_rng(0)
    histories = dict(
        table(settings, tables.SEQUENCES, NIGHT).select("user_id", "items").iter_rows()
    )
    idle = {user for user in histories if rng.random() > 1 / 6}
    new_item = 1 + max(item for items in histories.values() for item in items)
    for user in sorted(histories.keys() - idle):
        # What they have had before, now and then an item that is new to everybody.
        again = histories[user][int(rng.integers(len(histories[user])))]
        histories[user] = [*histories[user], again if rng.random() > 0.1 else new_item]
    write_histories(settings, NEXT, histories, idle_since=(NIGHT, idle))
    return idle


@pytest.mark.slow
@pytest.mark.parametrize("anew", [False, True])
def test_users_keep_their_intents_overnight_also_when_training_starts_anew(
    night_done: Settings, anew: bool
) -> None:
    model = SMALL_MODEL | {"from_scratch": anew, "seed": 5 if anew else 2}
    settings = small_settings(night_done.lake.root, model=model)
    idle = with_next_night(settings)
    summary = run_night(settings, NEXT)
    first = table(settings, tables.MODELS, NIGHT)["model_version"].item()
    assert summary["trained_on_from"] == (None if anew else first)
    assert summary["epochs"] <= (SMALL_MODEL["max_epochs"] if anew else 3)
    before, after = labels_of(settings, NIGHT), labels_of(settings, NEXT)
    assert len(idle) > 300
    assert share_kept(before, after, idle) >= 0.97
    assert share_kept(before, after, set(before)) >= 0.9
    profiles = table(settings, tables.INTENT_PROFILES, NEXT)
    carried = profiles.filter(pl.col("born") == NIGHT, pl.col("status") == "active")
    assert carried.height >= 7
    for row in carried.iter_rows(named=True):
        assert row["came_from"][0]["intent_id"] == row["intent_id"]


def with_strangers(settings: Settings, night: dt.date, users: int) -> set[str]:
    """Write the histories of a night: those of NIGHT, and users of items that nobody has had."""
    rng = np.random.default_rng(1)
    histories = dict(
        table(settings, tables.SEQUENCES, NIGHT).select("user_id", "items").iter_rows()
    )
    new_items = 1 + max(item for items in histories.values() for item in items) + np.arange(12)
    strangers = {f"x{user:02}": rng.choice(new_items, 9).tolist() for user in range(users)}
    write_histories(settings, night, histories | strangers)
    return set(strangers)


@pytest.mark.slow
@pytest.mark.parametrize("anew", [False, True])
def test_users_who_fit_no_intent_get_a_new_one_and_nobody_elses_is_taken_over(
    night_done: Settings, anew: bool
) -> None:
    settings = small_settings(night_done.lake.root, model=SMALL_MODEL | {"from_scratch": anew})
    strangers = with_strangers(settings, NEXT, 24)
    assert run_night(settings, NEXT)["intents_born"] == 1
    before, after = labels_of(settings, NIGHT), labels_of(settings, NEXT)
    assert max(before.values()) == 7
    assert np.mean([after[user] == 8 for user in sorted(strangers)]) > 0.9
    assert share_kept(before, after, set(before)) >= 0.99
    [born] = table(settings, tables.INTENT_PROFILES, NEXT).filter(pl.col("born") == NEXT).to_dicts()
    assert (born["intent_id"], born["status"]) == (8, "active")


@pytest.mark.slow
def test_an_intent_that_its_users_have_left_is_retired_and_its_id_never_comes_back(
    night_done: Settings,
) -> None:
    settings = small_settings(night_done.lake.root, model=SMALL_MODEL)
    before = labels_of(settings, NIGHT)
    histories = dict(
        table(settings, tables.SEQUENCES, NIGHT).select("user_id", "items").iter_rows()
    )
    # All who are after intent 2 do from now on what the users of intent 5 did; some never again.
    joined = [items for user, items in histories.items() if before[user] == 5 and len(items) > 6]
    left = sorted(user for user in histories if before[user] == 2)
    for number, user in enumerate(left[8:]):
        histories[user] = [*histories[user], *joined[number % len(joined)][-6:]]
    write_histories(settings, NEXT, histories)
    summary = run_night(settings, NEXT)
    assert summary["intents_retired"] == 1 and summary["intents_born"] == 0
    [gone] = table(settings, tables.INTENT_PROFILES, NEXT).filter(status="retired").to_dicts()
    assert (gone["intent_id"], gone["users"]) == (2, 0)
    after = labels_of(settings, NEXT)
    assert 2 not in after.values() and len(left) > 30
    assert share_kept(before, after, set(before) - set(left)) >= 0.97
    later = NEXT + dt.timedelta(days=1)
    write_histories(settings, later, histories)
    anew = small_settings(settings.lake.root, model=SMALL_MODEL | {"from_scratch": True})
    assert run_night(anew, later)["intents"] == 7
    assert 2 not in table(settings, tables.INTENT_PROFILES, later)["intent_id"]


def test_intents_start_anew_from_those_who_come_and_are_still_after_the_same() -> None:
    before = np.array([0] * 8 + [1] * 3 + [2, -1], np.int32)
    speaking = np.array([True] * 6 + [False] * 7)
    groups = seeds(before, speaking, np.array([0, 1]))
    # Of intent 0 enough speak, of 1 nobody does, 2 is given up, the last user has none.
    assert groups.tolist() == [0] * 6 + [-1, -1] + [1] * 3 + [-1, -1]


@pytest.mark.slow
def test_who_has_no_new_event_keeps_an_intent_that_lives_however_the_model_changed(
    night_done: Settings,
) -> None:
    settings = small_settings(
        night_done.lake.root, model=SMALL_MODEL | {"from_scratch": True, "seed": 11}
    )
    idle = with_next_night(settings)
    run_night(settings, NEXT)
    alive = table(settings, tables.INTENT_PROFILES, NEXT).filter(pl.col("status") != "retired")
    before, after = labels_of(settings, NIGHT), labels_of(settings, NEXT)
    held = {user for user in idle if before[user] in set(alive["intent_id"])}
    assert len(held) > 300 and share_kept(before, after, held) == 1


@pytest.mark.slow
def test_a_model_of_other_settings_lends_its_ids_but_not_its_weights(night_done: Settings) -> None:
    wider = SMALL_MODEL | {"overrides": {"dim": 48, "layers": 1, "batch_users": 64}}
    settings = small_settings(night_done.lake.root, model=wider)
    with_next_night(settings)
    summary = train(settings, NEXT)
    assert summary["trained_on_from"] is None
    assert summary["intents_born"] < 8


@pytest.mark.parametrize(
    ("every", "anew"), [(NEXT.toordinal(), True), (NEXT.toordinal() - 1, False), (0, False)]
)
def test_every_so_many_nights_training_starts_anew(
    night_done: Settings, every: int, anew: bool
) -> None:
    settings = small_settings(night_done.lake.root, model=SMALL_MODEL | {"retrain_nights": every})
    with_next_night(settings)
    identity = identify(settings, NEXT)
    assert identity.parent_version == model_of_night(settings, NIGHT).version
    assert identity.warm != anew


@pytest.mark.slow
def test_a_label_changes_only_when_another_intent_is_many_times_as_sure(
    night_done: Settings,
) -> None:
    changed = []
    for ratio in (1, 3, math.inf):
        settings = small_settings(
            night_done.lake.root,
            model=SMALL_MODEL,
            label={"probability_ratio": ratio, "idle_probability_ratio": ratio},
        )
        with_next_night(settings)
        run_night(settings, NEXT)
        before, after = labels_of(settings, NIGHT), labels_of(settings, NEXT)
        changed.append(1 - share_kept(before, after, set(before)))
    assert changed[0] >= changed[1] >= changed[2]
    # Odds that nothing exceeds: only who had a retired intent changes.
    retired = table(settings, tables.INTENT_PROFILES, NEXT).filter(pl.col("status") == "retired")
    assert changed[2] == 0 or retired.height


@pytest.mark.slow
def test_labelling_again_reads_the_night_before_and_not_itself(night_done: Settings) -> None:
    with_next_night(night_done)
    run_night(night_done, NEXT)
    once = table(night_done, tables.INTENT_LABELS, NEXT)
    label(night_done, NEXT)
    assert table(night_done, tables.INTENT_LABELS, NEXT).equals(once)


def test_a_retired_intent_is_shown_once_with_no_users_and_a_split_names_its_origin() -> None:
    before = intent_ids.named(
        match_intents(
            np.zeros(4, int),
            np.array([0, 0, 1, 1]),
            np.array([3], np.int32),
            2,
            4,
            least_overlap=0.9,
        ),
        NEXT,
        intent_ids.Intents(
            of_centers=[intent_ids.Intent(intent_id=3, born=NIGHT)], retired=[], next_id=4
        ),
    )
    assert before.ids.tolist() == [4, 5]
    shown = before.rows(with_retired=True).to_pylist()
    assert [(row["intent_id"], row["born"], row["retired"]) for row in shown] == [
        (4, NEXT, False),
        (5, NEXT, False),
        (3, NIGHT, True),
    ]
    assert shown[0]["came_from"] == [{"intent_id": 3, "share": 1.0}]
    assert before.rows(with_retired=False).num_rows == 2


def test_centres_are_found_by_id_and_unknown_ids_have_none() -> None:
    intents = intent_ids.Intents(
        of_centers=[intent_ids.Intent(intent_id=i, born=NIGHT) for i in (7, 2, 9)],
        retired=[],
        next_id=10,
    )
    assert intents.centers_of(np.array([9, -1, 7, 3, 2, 12])).tolist() == [2, -1, 0, -1, 1, -1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "lacks intents.json"),
        ("{", "intents.json is damaged"),
        ('{"of_centers": [], "retired": [], "next_id": 0}', "has 0 intents, the model 8"),
        (
            '{"of_centers": [{"intent_id": 5, "born": "2026-01-01"}], "retired": [], "next_id": 5}',
            "not unique or not below next_id",
        ),
    ],
)
def test_damaged_ids_make_the_model_one_that_cannot_be_used(
    night_done: Settings, content: str | None, words: str
) -> None:
    folder = night_done.lake.root / "model_files" / model_of_night(night_done, NIGHT).version
    if content is None:
        (folder / intent_ids.FILE).unlink()
    else:
        (folder / intent_ids.FILE).write_text(content)
    with pytest.raises(ELCRecError, match=words):
        intent_ids.read(folder, 8)
    with pytest.raises(ModelError, match=words):
        load(night_done, folder.name)
