"""Going back to an earlier model: it labels from a night on, and later nights go on from it."""

import datetime as dt
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tasks.__main__ import app
from tasks.errors import ModelError, NightError
from tasks.lake import Lake, tables
from tasks.night.evaluate import evaluate
from tasks.night.label import label
from tasks.night.promote import promote
from tasks.night.train import train
from tasks.registry.choices import roll_back
from tasks.registry.versions import promoted
from tasks.registry.weights import load
from tasks.settings import Settings
from tests.tasks.nights import NIGHT, small_settings, table, write_histories

FIRST, SECOND, THIRD = (NIGHT + dt.timedelta(days=days) for days in range(3))
MODEL = {
    "n_intents": 3,
    "max_epochs": 1,
    "device": "cpu",
    "threads": 1,
    "overrides": {"dim": 8},
    # So that each night's intents are new ones.
    "from_scratch": True,
    "least_overlap": 1.0,
}


def with_promote(settings: Settings, **promote: Any) -> Settings:
    return settings.model_copy(update={"promote": settings.promote.model_copy(update=promote)})


def run_night(settings: Settings, night: dt.date) -> dict[str, Any]:
    train(settings, night)
    evaluate(settings, night)
    summary = promote(settings, night)
    label(settings, night)
    return summary


@pytest.fixture(scope="module")
def two_nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run two nights whose models were both promoted."""
    settings = small_settings(tmp_path_factory.mktemp("two") / "lake", model=MODEL)
    rng = np.random.default_rng(3)  # each night's intents are of other users
    for night in (FIRST, SECOND, THIRD):
        histories = {f"u{u:02}": rng.integers(1, 12, 6).tolist() for u in range(30)}
        write_histories(settings, night, histories)
    for night in (FIRST, SECOND):
        run_night(with_promote(settings, force=True), night)
    return settings.lake.root


@pytest.fixture
def settings(two_nights: Path, tmp_path: Path) -> Settings:
    shutil.copytree(two_nights, tmp_path / "lake")
    return small_settings(tmp_path / "lake", model=MODEL)


def version_of(settings: Settings, night: dt.date) -> str:
    return str(table(settings, tables.MODELS, night)["model_version"].item())


def labelled_by(settings: Settings, night: dt.date) -> set[str]:
    return set(table(settings, tables.INTENT_LABELS, night)["model_version"])


@pytest.mark.slow
def test_a_rollback_holds_from_its_night_on_and_outlives_reruns(settings: Settings) -> None:
    lake = Lake(settings.lake.root)
    old, new = version_of(settings, FIRST), version_of(settings, SECOND)
    assert promoted(lake, until=SECOND) == (new, SECOND)
    first_labels = table(settings, tables.INTENT_LABELS, FIRST)
    summary = roll_back(settings, SECOND, old)
    assert summary["labels_with"] == old and summary["before"] == new
    assert summary["nights_labelled_since"] == [SECOND.isoformat()]
    recorded = table(settings, tables.CHOICES)

    for _ in range(2):
        outcome = promote(settings, SECOND)
        assert outcome["labels_with"] == old and outcome["chosen_by_hand"]
        assert outcome["kept_old"] is False
        label(settings, SECOND)
        assert labelled_by(settings, SECOND) == {old}
    roll_back(settings, SECOND, old)
    assert table(settings, tables.CHOICES).equals(recorded)

    # The night before is what it was, also when it runs again.
    run_night(with_promote(settings, force=True), FIRST)
    assert table(settings, tables.INTENT_LABELS, FIRST).equals(first_labels)


@pytest.mark.slow
def test_the_night_after_goes_on_from_the_chosen_model_with_ids_that_nobody_had(
    settings: Settings,
) -> None:
    old, new = version_of(settings, FIRST), version_of(settings, SECOND)
    taken_back = set(load(settings, new).intents.ids.tolist())
    roll_back(settings, SECOND, old)
    promote(settings, SECOND)
    label(settings, SECOND)
    outcome = run_night(with_promote(settings, force=True), THIRD)
    assert outcome["compared_with"] == old and outcome["promoted"]
    [row] = table(settings, tables.MODELS, THIRD).to_dicts()
    assert row["parent_version"] == old
    ids = set(load(settings, row["model_version"]).intents.ids.tolist())
    known = set(load(settings, old).intents.ids.tolist())
    assert taken_back - known and ids - known
    assert not (ids - known) & taken_back
    # A later promotion ends what was chosen for the night before.
    assert promoted(Lake(settings.lake.root), until=THIRD) == (row["model_version"], THIRD)


def test_promote_version_goes_back_within_a_run_and_force_takes_the_nights_own_again(
    settings: Settings,
) -> None:
    lake = Lake(settings.lake.root)
    old, new = version_of(settings, FIRST), version_of(settings, SECOND)
    outcome = promote(with_promote(settings, version=old), SECOND)
    assert outcome["labels_with"] == old and not outcome["promoted"]
    assert promoted(lake, until=SECOND) == (old, FIRST)
    free = table(settings, tables.CHOICES)["next_intent_id"].item()
    outcome = promote(with_promote(settings, force=True), SECOND)
    assert outcome["labels_with"] == new and outcome["promoted"]
    assert promoted(lake, until=SECOND) == (new, SECOND)
    assert promote(settings, SECOND) == outcome
    assert table(settings, tables.CHOICES)["next_intent_id"].item() >= free


def test_what_cannot_be_gone_back_to_is_told_and_changes_nothing(settings: Settings) -> None:
    lake = Lake(settings.lake.root)
    old, new = version_of(settings, FIRST), version_of(settings, SECOND)
    other = small_settings(settings.lake.root, model=MODEL | {"seed": 9})

    def refused(given: Settings, night: dt.date, version: str, said: str) -> None:
        for how in (
            lambda: roll_back(given, night, version),
            lambda: promote(with_promote(given, version=version), night),
        ):
            with pytest.raises(ModelError, match=said):
                how()
        assert table(settings, tables.CHOICES).is_empty()
        assert promoted(lake, until=SECOND) == (new, SECOND)

    refused(settings, SECOND, "20261120-nothing", f"there is no model .* are {old}, {new}")
    refused(settings, SECOND, "../../etc", "there is no model '../../etc'")
    refused(settings, FIRST, new, f"is of night {SECOND}, which night {FIRST} knows nothing of")
    refused(other, SECOND, old, "was trained on other settings .* promote.force")
    [weights] = lake.model_dir(old).glob("*.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    refused(settings, SECOND, old, f"model {old} .* cannot be used")
    weights.write_bytes(whole)
    # Taken all the same, it holds when the night runs again, on whatever settings.
    shutil.rmtree(lake.model_dir(new))
    assert roll_back(with_promote(other, force=True), SECOND, old)["labels_with"] == old
    assert promote(other, SECOND)["labels_with"] == old
    shown = table(settings, tables.INTENT_PROFILES)["intent_id"].max()
    assert table(settings, tables.CHOICES)["next_intent_id"].item() == shown + 1


def test_a_model_whose_night_ran_again_is_not_gone_back_to(settings: Settings) -> None:
    """Its ids may mean another intent by now."""
    lake, old = Lake(settings.lake.root), version_of(settings, FIRST)
    rows = table(settings, tables.SEQUENCES, FIRST)
    lake.replace(tables.SEQUENCES, rows.filter(pl.col("user_id") != "u03"), nights=[FIRST])
    train(settings, FIRST)
    models = table(settings, tables.MODELS, FIRST)
    assert dict(models.select("model_version", "superseded").iter_rows())[old] is True
    assert models.height == 2 and models["superseded"].sum() == 1
    with pytest.raises(ModelError, match=f"model {old} is superseded: night {FIRST} ran again"):
        roll_back(settings, SECOND, old)
    assert roll_back(with_promote(settings, force=True), SECOND, old)["labels_with"] == old


def test_the_command_rolls_back(settings: Settings) -> None:
    old = version_of(settings, FIRST)
    options = ["--night", str(SECOND), "--lake", str(settings.lake.root)]
    for key, value in MODEL.items():
        options += ["--set", f"model.{key}={json.dumps(value) if key == 'overrides' else value}"]
    done = CliRunner().invoke(app, ["rollback", "--to", old, *options])
    assert done.exit_code == 0, done.output
    assert promoted(Lake(settings.lake.root), until=SECOND) == (old, FIRST)
    nowhere = settings.lake.root.parent / "nowhere"
    done = CliRunner().invoke(app, ["rollback", "--to", old, "--lake", str(nowhere)])
    assert isinstance(done.exception, NightError) and not nowhere.exists()
