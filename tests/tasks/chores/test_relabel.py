"""Labelling past nights with a named model: the model's own labels, in any order, or a sentence."""

import datetime as dt
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.chores.relabel import nights_to_relabel, relabel, relabel_night
from tasks.errors import LakeError, ModelError, NightError
from tasks.lake import Lake, tables
from tasks.lake.tables import TABLES
from tasks.night.label import label
from tasks.registry.versions import promoted
from tasks.settings import Settings
from tests.places import Place, put
from tests.tasks.nights import NIGHT, small_settings, table, write_histories

NIGHTS = [NIGHT + dt.timedelta(days=days) for days in range(3)]
LABEL_TABLES = (tables.INTENT_LABELS, tables.LABEL_EVIDENCE, tables.INTENT_PROFILES)


pytestmark = pytest.mark.slow  # of the three nights that all of them look at


@pytest.fixture(scope="module")
def three_nights(trained: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Label two more nights after the trained one, each with histories that go on."""
    root = tmp_path_factory.mktemp("relabel") / "lake"
    shutil.copytree(trained[0], root)
    settings = small_settings(root)
    frame = table(settings, tables.SEQUENCES, NIGHT)
    histories = dict(zip(frame["user_id"], frame["items"].to_list(), strict=True))
    for number, night in enumerate(NIGHTS[1:], 1):
        # Somebody else's taste: without a hold these users change their labels.
        others = list(histories.values())[number * 3 :] + list(histories.values())[: number * 3]
        moved = {
            user: own + other[:6]
            for (user, own), other in zip(histories.items(), others, strict=True)
        }
        write_histories(settings, night, moved)
        label(settings, night)
    lake = Lake(root)
    event = {"user_id": "u", "item_id": "i", "event_type": "view", "source": "s"}
    rows = [
        event | {"dt": night, "ts": None, "weight": None, "ingested": night} for night in NIGHTS
    ]
    schema = pl.from_arrow(tables.EVENTS.schema.empty_table()).schema  # type: ignore[union-attr]
    columns = set(schema)
    kept = [{key: value for key, value in row.items() if key in columns} for row in rows]
    lake.replace(tables.EVENTS, pl.DataFrame(kept, schema=schema), nights=NIGHTS)
    return settings


@pytest.fixture
def settings(three_nights: Settings, tmp_path: Path) -> Settings:
    """Give settings on a private copy of the lake with three nights."""
    shutil.copytree(three_nights.lake.root, tmp_path / "lake")
    return small_settings(tmp_path / "lake")


@pytest.fixture
def anywhere(three_nights: Settings, root: Place) -> Settings:
    """Give settings on a copy of that lake in a folder, and on one in a store."""
    assert isinstance(three_nights.lake.root, Path)
    put(three_nights.lake.root, root)
    return small_settings(root)


def version_of(settings: Settings) -> str:
    found = promoted(Lake(settings.lake.root), until=NIGHTS[-1])
    assert found is not None
    return found[0]


def content(settings: Settings) -> dict[str, list[str]]:
    return {name: sorted(map(str, table(settings, one).rows())) for name, one in TABLES.items()}


def labels(settings: Settings) -> list[Any]:
    return [table(settings, which) for which in LABEL_TABLES]


def same(one: list[pl.DataFrame], other: list[pl.DataFrame]) -> bool:
    return all(a.equals(b) for a, b in zip(one, other, strict=True))


def test_order_and_repetition_make_no_difference(anywhere: Settings) -> None:
    settings = anywhere
    version = version_of(settings)
    nightly = labels(settings)
    relabel(settings, NIGHTS[0], NIGHTS[2], version)
    in_order = labels(settings)
    assert not same(nightly, in_order)  # the nights held labels, this does not
    for night in (NIGHTS[2], NIGHTS[0], NIGHTS[1]):
        relabel_night(settings, night, version)
    assert same(labels(settings), in_order)


def test_nights_side_by_side_leave_what_one_after_the_other_leaves(settings: Settings) -> None:
    version = version_of(settings)
    relabel(settings, NIGHTS[0], NIGHTS[2], version)
    in_order = labels(settings)
    Lake(settings.lake.root).replace(
        tables.INTENT_LABELS, tables.INTENT_LABELS.schema.empty_table(), nights=NIGHTS
    )
    failures: list[Exception] = []

    def one(night: dt.date) -> None:
        try:
            relabel_night(settings, night, version)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=one, args=[night]) for night in NIGHTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert same(labels(settings), in_order)


def test_a_relabelled_night_is_checked_and_tells_of_it(settings: Settings) -> None:
    version = version_of(settings)
    outside = table(settings, tables.INTENT_LABELS, NIGHTS[2])
    done = relabel(settings, NIGHTS[0], NIGHTS[1], version)
    assert list(done["nights"]) == [str(NIGHTS[0]), str(NIGHTS[1])]
    rows = table(settings, tables.STEPS, NIGHTS[1])
    said = {row["step"]: json.loads(row["summary"]) for row in rows.to_dicts()}
    assert said["label"]["model_version"] == version
    assert "check-labels" in said
    assert table(settings, tables.INTENT_LABELS, NIGHTS[2]).equals(outside)


def test_a_night_labelled_again_by_its_own_step_is_as_it_was(settings: Settings) -> None:
    nightly = labels(settings)
    relabel(settings, NIGHTS[0], NIGHTS[2], version_of(settings))
    for night in NIGHTS:
        label(settings, night)
    assert same(labels(settings), nightly)


def test_a_model_of_a_later_night_is_taken_with_a_warning(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    lake = Lake(settings.lake.root)
    rows = table(settings, tables.MODELS, NIGHT)
    nothing = tables.MODELS.schema.empty_table()
    lake.replace(tables.MODELS, nothing, nights=[NIGHT])
    lake.replace(tables.MODELS, rows.with_columns(dt=NIGHTS[2]), nights=[NIGHTS[2]])
    relabel(settings, NIGHTS[0], NIGHTS[0], version_of(settings))
    assert f"was trained on night {NIGHTS[2]}: it knows what came after 1" in caplog.text


FUTURE = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=1)
EARLY = NIGHT - dt.timedelta(days=1)


@pytest.mark.parametrize(
    ("first", "last", "version", "error", "says"),
    [
        (NIGHTS[1], NIGHTS[0], None, NightError, f"ends on {NIGHTS[0]}, before it begins"),
        (EARLY, NIGHT, None, NightError, f"before the first event, which is of {NIGHT}"),
        (NIGHT, FUTURE, None, NightError, f"night {FUTURE} is not over yet"),
        (NIGHT, NIGHT, "20261120-00000000", ModelError, "no model 20261120-00000000 in .*newest"),
        (NIGHT, NIGHT, "../../etc", ModelError, r"no model \.\./\.\./etc"),
        (NIGHT, NIGHT, "x' OR '1'='1", ModelError, "no model x' OR"),
        (NIGHT, NIGHTS[2] + dt.timedelta(days=1), None, LakeError, "no histories for night"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_relabelled_is_one_sentence_and_nothing_changes(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    first: dt.date,
    last: dt.date,
    version: str | None,
    error: type[Exception],
    says: str,
) -> None:
    before = content(settings)
    with pytest.raises(error, match=says) as raised:
        relabel(settings, first, last, version or version_of(settings))
    assert "\n" not in str(raised.value)
    assert content(settings) == before


def test_a_model_of_other_settings_needs_a_word(settings: Settings) -> None:
    other = small_settings(settings.lake.root, sequences={"last_events": 9})
    version = version_of(settings)
    before = content(settings)
    with pytest.raises(ModelError, match="trained on other settings"):
        relabel(other, NIGHT, NIGHT, version)
    assert content(settings) == before
    assert nights_to_relabel(other, NIGHT, NIGHT, version, other_settings=True) == [NIGHT]


def test_a_lake_without_events_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="there are no events in"):
        nights_to_relabel(small_settings(tmp_path / "none"), NIGHT, NIGHT, "v")
