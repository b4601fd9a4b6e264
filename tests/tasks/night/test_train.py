"""Training a night's model: registered once, resumed after a kill, clear about bad input."""

import datetime as dt
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from elcrec import ELCRec, EpochReport
from elcrec.distributed import RankLostError
from tasks.errors import LakeError, ModelError, NotReadyError, PipelineError, SettingsError
from tasks.lake import Lake, tables
from tasks.night.train import epoch_line, epochs_left, number_of_intents, time_left, train
from tasks.registry.identity import register
from tasks.registry.weights import load, save
from tasks.settings import Settings
from tests.tasks.nights import (
    NIGHT,
    SMALL_MODEL,
    no_file_larger_than,
    small_settings,
    table,
    write_histories,
)

TINY = SMALL_MODEL | {"n_intents": 2, "max_epochs": 2, "overrides": {"dim": 8, "layers": 1}}
HISTORIES = {f"u{user}": [1 + (user + step) % 6 for step in range(6)] for user in range(12)}


@pytest.fixture
def tiny(settings: Settings) -> Settings:
    """Give settings and histories on which training takes a moment."""
    write_histories(settings, NIGHT, HISTORIES | {"once": [3]})
    return small_settings(settings.lake.root, model=TINY)


def weights(settings: Settings, version: str) -> bytes:
    folder = Lake(settings.lake.root).model_dir(version)
    [file] = folder.glob("*.safetensors")
    return file.read_bytes()


def test_a_trained_model_is_registered_and_loads(tiny: Settings) -> None:
    summary = train(tiny, NIGHT)
    assert summary["trained"] and summary["users"] == 12 and summary["n_items"] == 6
    row = table(tiny, tables.MODELS).row(0, named=True)
    assert row["model_version"] == summary["model_version"]
    assert (row["dt"], row["promoted"], row["parent_version"]) == (NIGHT, False, None)
    assert ELCRec.load(tiny.lake.root / row["path"]).config.n_intents == 2
    assert not (tiny.lake.root / "model_files" / ".training" / row["model_version"]).exists()


def test_a_rerun_trains_nothing_and_leaves_what_was(
    tiny: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    first = train(tiny, NIGHT)
    models, before = table(tiny, tables.MODELS), weights(tiny, first["model_version"])
    caplog.set_level(logging.INFO)
    again = train(tiny, NIGHT)
    assert again["trained"] is False and again["model_version"] == first["model_version"]
    assert "already trained on the same data and settings" in caplog.text
    assert table(tiny, tables.MODELS).equals(models)
    assert weights(tiny, first["model_version"]) == before


@pytest.mark.slow
def test_training_that_was_killed_goes_on_and_ends_with_the_same_weights(
    tiny: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed = train(tiny, NIGHT)
    expected = weights(tiny, undisturbed["model_version"])
    elsewhere = small_settings(tiny.lake.root.parent / "other", model=TINY)
    write_histories(elsewhere, NIGHT, HISTORIES | {"once": [3]})

    def killed(report: EpochReport, left: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("tasks.night.train.epoch_line", killed)
    with pytest.raises(KeyboardInterrupt):
        train(elsewhere, NIGHT)
    monkeypatch.undo()
    assert table(elsewhere, tables.MODELS).is_empty()
    resumed = train(elsewhere, NIGHT)
    assert weights(elsewhere, resumed["model_version"]) == expected


@pytest.mark.slow
def test_a_disk_that_is_full_fails_the_training_and_the_next_ends_with_the_same_weights(
    tiny: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = weights(tiny, train(tiny, NIGHT)["model_version"])
    elsewhere = small_settings(tiny.lake.root.parent / "other", model=TINY)
    write_histories(elsewhere, NIGHT, HISTORIES | {"once": [3]})
    with no_file_larger_than(1000), pytest.raises(OSError, match="File too large"):
        train(elsewhere, NIGHT)  # at the first checkpoint
    with monkeypatch.context() as patched:
        patched.setattr("tasks.night.train.save", full_disk_before(save))
        with pytest.raises(OSError, match="File too large"):
            train(elsewhere, NIGHT)
    with monkeypatch.context() as patched:
        patched.setattr("tasks.night.train.register", full_disk_before(register))
        with pytest.raises(Exception, match="File too large"):
            train(elsewhere, NIGHT)
    assert table(elsewhere, tables.MODELS).is_empty()
    again = train(elsewhere, NIGHT)
    assert weights(elsewhere, again["model_version"]) == expected
    assert table(elsewhere, tables.MODELS).height == 1


def full_disk_before(work: Callable[..., None]) -> Callable[..., None]:
    def on_a_full_disk(*given: Any) -> None:
        with no_file_larger_than(100):
            work(*given)

    return on_a_full_disk


def test_a_model_written_but_not_registered_is_registered_by_a_rerun(tiny: Settings) -> None:
    version = train(tiny, NIGHT)["model_version"]
    Lake(tiny.lake.root).replace(tables.MODELS, tables.MODELS.schema.empty_table(), nights=[NIGHT])
    assert train(tiny, NIGHT)["trained"] is False
    assert table(tiny, tables.MODELS)["model_version"].to_list() == [version]


@pytest.mark.parametrize("part", ["*.safetensors", "model.json", "vocabulary.parquet"])
def test_a_damaged_model_is_trained_again(tiny: Settings, part: str) -> None:
    version = train(tiny, NIGHT)["model_version"]
    before = weights(tiny, version)
    [file] = Lake(tiny.lake.root).model_dir(version).glob(part)
    file.write_bytes(b"half")
    assert train(tiny, NIGHT)["trained"] is True
    assert weights(tiny, version) == before


def test_a_model_trained_on_a_gpu_is_a_whole_one_without_a_gpu(
    tiny: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = train(tiny, NIGHT)["model_version"]
    facts = Lake(tiny.lake.root).model_dir(version) / "model.json"
    facts.write_text(facts.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    assert '"cuda"' in facts.read_text()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    before = weights(tiny, version)
    assert train(tiny, NIGHT)["trained"] is False
    assert '"cuda"' in facts.read_text() and weights(tiny, version) == before
    assert load(tiny, version).model.config.device == "cpu"
    on_gpu = small_settings(tiny.lake.root, model=TINY | {"device": "cuda"})
    with pytest.raises(ModelError, match=r"is whole but cannot be loaded .*'cuda'.*no GPU"):
        load(on_gpu, version)


def test_a_disk_that_cannot_be_read_deletes_no_model(
    tiny: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = train(tiny, NIGHT)["model_version"]
    before = weights(tiny, version)

    def unreadable(*given: Any, **named: Any) -> ELCRec:
        raise OSError("input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(ELCRec, "load", unreadable)
        with pytest.raises(OSError, match="input/output error"):
            train(tiny, NIGHT)
    assert weights(tiny, version) == before


@pytest.mark.parametrize(
    ("users", "expected"), [(5, 5), (100, 8), (2_000, 25), (22_363, 256), (1_000_000, 256)]
)
def test_number_of_intents_follows_the_users(settings: Settings, users: int, expected: int) -> None:
    automatic = small_settings(settings.lake.root, model=SMALL_MODEL | {"n_intents": 0})
    assert number_of_intents(automatic, users) == expected


@pytest.mark.parametrize(
    ("dataset", "n_intents", "expected"), [("beauty", 0, 256), ("toys", 0, 512), ("toys", 7, 7)]
)
def test_the_paper_on_its_data_sets_has_its_number_of_intents(
    settings: Settings, dataset: str, n_intents: int, expected: int
) -> None:
    paper = {"preset": "paper", "dataset": dataset, "n_intents": n_intents}
    of_paper = small_settings(settings.lake.root, model=paper)
    assert number_of_intents(of_paper, 22_363) == expected


@pytest.mark.slow
def test_the_ablations_of_the_paper_train(tiny: Settings) -> None:
    small = {"overrides": {"dim": 8, "layers": 1}, "device": "cpu", "max_epochs": 1}
    paper = small | {"preset": "paper", "n_intents": 2}
    versions = set()
    for ablation in ("full", "B", "B+ICL", "B+ELCM"):
        ablated = small_settings(tiny.lake.root, model=paper | {"ablation": ablation})
        versions.add(train(ablated, NIGHT)["model_version"])
    assert len(versions) == 4


@pytest.mark.parametrize(
    ("histories", "model", "error", "says"),
    [
        ({}, {}, LakeError, "no rows for night 2026-11-20: run build-sequences"),
        ({"a": [1], "b": [1, 2]}, {}, ModelError, "no user of night 2026-11-20 has 3 events"),
        (HISTORIES, {"n_intents": 13}, ModelError, "model.n_intents is 13, but only 12 users"),
        (
            HISTORIES,
            {"preset": "paper", "dataset": "toys", "n_intents": 0},
            ModelError,
            "k of model.dataset 'toys' is 512, but only 12 users",
        ),
        (HISTORIES, {"dataset": "toys"}, SettingsError, "preset 'default' has no data set 'toys'"),
        (HISTORIES, {"overrides": {"width": 4}}, SettingsError, "'width'"),
        (HISTORIES, {"overrides": {"dropout": 2.0}}, SettingsError, "dropout"),
        (HISTORIES, {"overrides": {"dim": "wide"}}, SettingsError, "model.overrides"),
        (
            HISTORIES,
            {"overrides": {"dim": 8, "learning_rate": 1e30}},
            ModelError,
            "training on night 2026-11-20 failed",
        ),
    ],
)
def test_what_cannot_be_trained_ends_in_one_sentence_and_registers_nothing(
    settings: Settings,
    histories: dict[str, list[int]],
    model: dict[str, Any],
    error: type[PipelineError],
    says: str,
) -> None:
    if histories:
        write_histories(settings, NIGHT, histories)
    bad = small_settings(settings.lake.root, model=TINY | model)
    with pytest.raises(error, match=says) as caught:
        train(bad, NIGHT)
    assert "\n" not in str(caught.value)
    assert table(bad, tables.MODELS).is_empty()


REPORT = EpochReport(
    epoch=3,
    max_epochs=30,
    losses={"next_item": 5.25, "intent": 0.5},
    metrics={"NDCG@20": 0.0512},
    best_epoch=2,
    seconds=12.0,
    seconds_left=0.0,
)


def test_epoch_line_tells_progress_and_time_left() -> None:
    line = epoch_line(REPORT, time_left(10.0, 4, 27))
    for part in (
        "epoch 3/30",
        "next_item 5.2500",
        "NDCG@20 0.0512",
        "best epoch 2",
        "12.0 s",
        "40 s if none is better, at most 4 min 30 s left",
    ):
        assert part in line
    assert line.endswith("left")
    assert "best none yet" in epoch_line(replace(REPORT, best_epoch=0), "")
    assert time_left(400.0, 27, 27) == "at most 3 h 00 min left"
    assert time_left(400.0, 0, 0) == "that was the last one"


def test_training_takes_no_more_and_no_fewer_epochs_than_was_said(
    tiny: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[int, int, int]] = []
    real = epochs_left

    def told(report: EpochReport, config: Any, *, warm: bool) -> tuple[int, int]:
        left = real(report, config, warm=warm)
        said.append((report.epoch, *left))
        return left

    monkeypatch.setattr("tasks.night.train.epochs_left", told)
    train(tiny, NIGHT)
    last = said[-1][0]
    for epoch, least, most in said:
        assert epoch + least <= last <= epoch + most
    assert said[-1][1] == 0 and last == len(said)
    config = SimpleNamespace(warmup_epochs=5, max_epochs=30, patience=4)
    # Nothing of a warm-up is the best: patience begins when it is over.
    assert real(replace(REPORT, best_epoch=0), config, warm=False) == (6, 27)
    assert real(REPORT, config, warm=True) == (3, 27)


@pytest.mark.slow
def test_nights_have_models_of_their_own(tiny: Settings) -> None:
    next_night = NIGHT + dt.timedelta(days=1)
    write_histories(tiny, next_night, HISTORIES)
    versions = {train(tiny, night)["model_version"] for night in (NIGHT, next_night)}
    assert set(table(tiny, tables.MODELS)["model_version"]) == versions and len(versions) == 2


@pytest.mark.slow
def test_a_training_from_scratch_starts_from_labels_that_do_not_know_what_is_held_out(
    tiny: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(tiny.lake.root)
    train(tiny, NIGHT)
    rows = table(tiny, tables.MODELS).with_columns(promoted=True)
    lake.replace(tables.MODELS, rows, nights=[NIGHT])
    next_night = NIGHT + dt.timedelta(days=1)
    anew = small_settings(tiny.lake.root, model=TINY | {"from_scratch": True})
    started_at = []
    fit = ELCRec.fit

    def noted(model: ELCRec, *given: Any, **named: Any) -> ELCRec:
        started_at.append(named["groups"].tolist())
        return fit(model, *given, **named)

    monkeypatch.setattr(ELCRec, "fit", noted)
    for place in (-2, 0, 2):  # the newest two as they are, and as two of the older ones
        changed = {
            user: [*items[:-2], *items[place:][:2]] if number % 3 == 0 else items
            for number, (user, items) in enumerate(HISTORIES.items())
        }
        write_histories(tiny, next_night, changed)
        train(anew, next_night)
    assert started_at[0] == started_at[1] == started_at[2]
    assert len(set(started_at[0]) - {-1}) == 2


def ids_of(settings: Settings, version: str) -> set[int]:
    return set(load(settings, version).intents.ids.tolist())


@pytest.mark.slow
def test_another_model_of_the_night_has_ids_of_its_own_and_keeps_them(tiny: Settings) -> None:
    other = small_settings(tiny.lake.root, model=TINY | {"seed": 9})
    lake = Lake(tiny.lake.root)
    first = train(tiny, NIGHT)["model_version"]
    # Its training ended, and it was killed before it was registered.
    lake.replace(tables.MODELS, tables.MODELS.schema.empty_table(), nights=[NIGHT])
    second = train(other, NIGHT)["model_version"]
    assert ids_of(tiny, second) == {0, 1}
    assert train(tiny, NIGHT)["trained"]
    assert ids_of(tiny, first) == {2, 3}
    # Trained again, as when its folder was lost, it has the same ids.
    shutil.rmtree(lake.model_dir(second))
    train(other, NIGHT)
    assert ids_of(tiny, second) == {0, 1}
    assert train(tiny, NIGHT)["trained"] is False


@pytest.mark.slow
def test_a_model_of_several_processes_is_another_and_is_registered_and_loads(
    tiny: Settings,
) -> None:
    alone = train(tiny, NIGHT)["model_version"]
    together = small_settings(tiny.lake.root, model=TINY | {"processes": 2})
    summary = train(together, NIGHT)
    assert summary["trained"] and summary["users"] == 12 and summary["model_version"] != alone
    assert load(together, summary["model_version"]).model.config.processes == 2
    assert weights(together, summary["model_version"]) != weights(tiny, alone)
    assert train(together, NIGHT)["trained"] is False


def test_a_training_that_has_lost_a_process_is_tried_again(
    tiny: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(model: ELCRec, *histories: Any, **arguments: Any) -> ELCRec:
        assert arguments["rendezvous"] == "10.0.0.5:29500"
        raise RankLostError("training process 1 of 2 has ended")

    monkeypatch.setattr(ELCRec, "fit", lost)
    together = small_settings(
        tiny.lake.root, model=TINY | {"processes": 2, "rendezvous": "10.0.0.5:29500"}
    )
    with pytest.raises(NotReadyError, match="has stopped: training process 1 of 2 has ended"):
        train(together, NIGHT)


@pytest.mark.parametrize("address", ["10.0.0.5", "10.0.0.5:", "http://host:1", ":29500", "a b:1"])
def test_an_address_to_meet_at_is_a_host_and_a_port(tiny: Settings, address: str) -> None:
    with pytest.raises(SettingsError, match=r"model\.rendezvous"):
        small_settings(tiny.lake.root, model=TINY | {"rendezvous": address})
