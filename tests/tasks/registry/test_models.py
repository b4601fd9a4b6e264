"""How models are named, and which one labels a night."""

import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from elcrec.config import PRESETS, Config
from tasks.errors import LakeError, ModelError
from tasks.lake import Lake, tables
from tasks.registry.histories import trainable_users
from tasks.registry.identity import configure, identify, model_of_night, register
from tasks.registry.versions import promoted, registered
from tasks.registry.weights import is_complete, load
from tasks.settings import REPO, Settings, load_settings
from tests.tasks.nights import NIGHT, SMALL_MODEL, small_settings, write_histories

HISTORIES = {"ann": [1, 2, 3], "bob": [2, 3, 4, 5], "eve": [5]}
NEXT_NIGHT = NIGHT + dt.timedelta(days=1)


def test_the_override_that_the_settings_file_shows_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = (REPO / "settings.toml").read_text("utf-8")
    uncommented = shown.replace("# dim = 128", "dim = 128")
    assert uncommented != shown
    (tmp_path / "settings.toml").write_text(uncommented, "utf-8")
    monkeypatch.setenv("ELCREC_SETTINGS", str(tmp_path / "settings.toml"))
    assert configure(load_settings()).dim == 128


def test_version_names_the_night_and_does_not_depend_on_the_order_of_rows(
    settings: Settings,
) -> None:
    write_histories(settings, NIGHT, HISTORIES)
    first = identify(settings, NIGHT)
    write_histories(settings, NIGHT, dict(reversed(HISTORIES.items())))
    assert identify(settings, NIGHT) == first
    assert first.version.startswith("20261120-")
    assert first.n_items == 5


@pytest.mark.parametrize(
    "changed",
    [
        {"ann": [1, 2, 3], "bob": [2, 3, 5, 4], "eve": [5]},
        {"ann": [1, 2, 3], "bob": [2, 3, 4, 5]},
        {"ann": [2, 3, 4, 5], "bob": [1, 2, 3], "eve": [5]},
    ],
    ids=["order within a history", "a user less", "histories swapped"],
)
def test_other_histories_make_another_version(
    settings: Settings, changed: dict[str, list[int]]
) -> None:
    write_histories(settings, NIGHT, HISTORIES)
    before = identify(settings, NIGHT)
    write_histories(settings, NIGHT, changed)
    after = identify(settings, NIGHT)
    assert after.version != before.version
    assert after.settings_fingerprint == before.settings_fingerprint


def test_corrected_times_make_another_version(settings: Settings) -> None:
    """Who came lately decides which intents are given up: a model of other times is another one."""
    write_histories(settings, NIGHT, HISTORIES)
    before = identify(settings, NIGHT)
    write_histories(settings, NIGHT, HISTORIES, (NIGHT - dt.timedelta(days=30), {"bob"}))
    assert identify(settings, NIGHT).version != before.version


@pytest.mark.parametrize(
    ("sections", "same"),
    [
        ({"model": SMALL_MODEL | {"seed": 99}}, False),
        ({"model": SMALL_MODEL | {"overrides": {"dim": 16}}}, False),
        ({"sequences": {"last_events": 10}}, False),
        ({"model": SMALL_MODEL | {"threads": 7, "device": "auto"}}, True),
        ({"promote": {"force": True}}, True),
    ],
)
def test_settings_that_shape_the_model_make_another_version(
    settings: Settings, sections: dict[str, Any], same: bool
) -> None:
    write_histories(settings, NIGHT, HISTORIES)
    other = small_settings(settings.lake.root, **sections)
    assert (identify(other, NIGHT).version == identify(settings, NIGHT).version) is same


def test_another_default_of_the_library_makes_another_version(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_histories(settings, NIGHT, HISTORIES)
    before = identify(settings, NIGHT)
    monkeypatch.setitem(PRESETS, "default", {"recency": 0.7})
    assert identify(settings, NIGHT).version != before.version


def test_the_default_preset_trains_for_a_night_and_the_paper_as_published(
    settings: Settings,
) -> None:
    default = configure(small_settings(settings.lake.root, model={}))
    assert (default.max_epochs, default.patience) == (10, 5)
    paper = {"preset": "paper", "dataset": "sports"}
    published = Config.preset("paper", "sports", seed=42)
    assert configure(small_settings(settings.lake.root, model=paper)) == published
    shorter = configure(small_settings(settings.lake.root, model=paper | {"max_epochs": 3}))
    assert (shorter.max_epochs, shorter.patience) == (3, published.patience)
    ablated = configure(small_settings(settings.lake.root, model=paper | {"ablation": "B+ICL"}))
    assert ablated == published.ablation("B+ICL") != published


def test_a_model_is_applied_with_the_threads_of_the_settings(night_done: Settings) -> None:
    version = model_of_night(night_done, NIGHT).version
    before = torch.get_num_threads()
    try:
        for threads in (2, 1):
            asked = small_settings(night_done.lake.root, model=SMALL_MODEL | {"threads": threads})
            load(asked, version)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_items_first_seen_on_a_later_night_change_no_earlier_version(settings: Settings) -> None:
    write_histories(settings, NIGHT, HISTORIES)
    before = identify(settings, NIGHT)
    write_histories(settings, NEXT_NIGHT, {"ann": [1, 2, 3, 6, 7]})
    assert identify(settings, NIGHT) == before


def test_a_night_without_histories_has_no_model(settings: Settings) -> None:
    write_histories(settings, NIGHT, HISTORIES)
    with pytest.raises(LakeError, match="no rows for night 2026-11-21: run build-sequences"):
        identify(settings, NEXT_NIGHT)


def test_histories_are_read_in_the_order_of_users_and_short_ones_left_out(
    settings: Settings,
) -> None:
    write_histories(settings, NIGHT, dict(reversed(HISTORIES.items())))
    read = trainable_users(settings, NIGHT).histories
    assert [list(read[user]) for user in range(len(read))] == [[1, 2, 3], [2, 3, 4, 5]]


def test_registering_twice_leaves_one_row_and_keeps_its_promotion(settings: Settings) -> None:
    write_histories(settings, NIGHT, HISTORIES)
    lake, identity = Lake(settings.lake.root), identify(settings, NIGHT)
    register(lake, NIGHT, identity, 8)
    rows = registered(lake, NIGHT)
    lake.replace(tables.MODELS, rows.with_columns(promoted=True), nights=[NIGHT])
    register(lake, NIGHT, identity, 8)
    assert registered(lake, NIGHT)["promoted"].to_list() == [True]
    assert registered(lake, NIGHT)["parent_version"].to_list() == [None]


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        (dt.date(2026, 11, 17), None),
        (dt.date(2026, 11, 18), "a"),
        (dt.date(2026, 11, 19), "a"),
        (dt.date(2026, 11, 20), "c"),
        (dt.date(2027, 1, 1), "c"),
    ],
)
def test_the_newest_promoted_model_until_a_night_labels_it(
    settings: Settings, until: dt.date, expected: str | None
) -> None:
    lake = Lake(settings.lake.root)
    for day, version, is_promoted in [(18, "a", True), (19, "b", False), (20, "c", True)]:
        night = dt.date(2026, 11, day)
        text = dict.fromkeys(("path", "settings_fingerprint", "data_fingerprint"), "x")
        row = {"dt": night, "model_version": version, "promoted": is_promoted, **text}
        frame = pl.DataFrame([row]).with_columns(
            parent_version=pl.lit(None, pl.String),
            warm=False,
            first_free_id=pl.lit(0, pl.Int32),
            next_intent_id=pl.lit(8, pl.Int32),
            superseded=False,
            held_out_one_in=1,
        )
        lake.replace(tables.MODELS, frame, nights=[night])
    found = promoted(lake, until=until)
    assert (found[0] if found else None) == expected


def test_a_model_that_is_not_trained_is_named_with_the_mend(settings: Settings) -> None:
    write_histories(settings, NIGHT, HISTORIES)
    with pytest.raises(ModelError, match=r"is not trained: run train --night 2026-11-20 first"):
        model_of_night(settings, NIGHT)


def test_a_damaged_model_is_no_complete_one_and_says_what_to_do(night_done: Settings) -> None:
    version = model_of_night(night_done, NIGHT).version
    folder = Lake(night_done.lake.root).model_dir(version)
    assert is_complete(folder)
    [weights] = folder.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    assert not is_complete(folder)
    with pytest.raises(ModelError, match=rf"model {version} in .* cannot be used .*run train"):
        load(night_done, version)
