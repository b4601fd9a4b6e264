"""A night that is run after later ones leaves what it leaves when it is run in its turn."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from tasks.lake import Lake, model_folder, tables
from tasks.settings import Settings
from tasks.steps import run_step
from tests.places import PLACES, Place, bucket
from tests.tasks.nights import NIGHT, small_settings, table

STEPS = ("ingest", "build-sequences", "train", "evaluate", "promote", "label")
NIGHTS = [NIGHT + dt.timedelta(days=days) for days in range(3)]
MODEL = {
    "n_intents": 3,
    "max_epochs": 2,
    "seed": 1,
    "device": "cpu",
    "threads": 1,
    "overrides": {"dim": 8},
}


def write_source(folder: Path) -> Path:
    """Write three nights of events, each with items of its own, and some users more every night.

    The third has two items of the second as well: run before it, it numbers them first.
    """
    rows = [
        {
            "user_id": f"u{user:02}",
            "item_id": f"a{user % 2 + 3}"
            if number == 2 and event == 3
            else f"{'cab'[number]}{(user * (number + 1) + event * 3) % 5}",
            "timestamp": dt.datetime.combine(night, dt.time(event, user), dt.UTC),
        }
        for number, night in enumerate(NIGHTS)
        for user in range(20 + 5 * number)
        for event in range(4)
    ]
    folder.mkdir()
    pl.DataFrame(rows).write_parquet(folder / "events.parquet")
    return folder


def run_nights(root: Place, source: Path, order: list[int]) -> Settings:
    settings = small_settings(
        root,
        model=MODEL,
        source={"path": str(source)},
        ingest={"late_days": 0},  # else a night takes the events of one before it that did not run
        promote={"force": True},
    )
    for number in order:
        for step in STEPS:
            run_step(step, settings, NIGHTS[number - 1])
    return settings


pytestmark = pytest.mark.slow  # of the nights that all of them look at


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source") / "events")


@pytest.fixture(scope="module")
def in_turn(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Run the nights in their turn, on a lake in a folder."""
    return run_nights(tmp_path_factory.mktemp("in_turn") / "lake", source, [1, 2, 3])


@pytest.fixture(scope="module", params=PLACES)
def lakes(
    request: pytest.FixtureRequest,
    source: Path,
    in_turn: Settings,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Settings, Settings]]:
    """Run the nights with the second one left for last, too: in a folder, and in a store."""
    order = [1, 3, 2]
    if request.param == "folder":
        root = tmp_path_factory.mktemp("backfilled") / "lake"
        yield in_turn, run_nights(root, source, order)
    else:
        with bucket(request.getfixturevalue("store")) as url:
            yield in_turn, run_nights(f"{url}/lake", source, order)


def test_the_order_of_nights_numbers_items_in_another_way(
    lakes: tuple[Settings, Settings],
) -> None:
    """Without this the other tests would hold for no reason."""
    in_turn, backfilled = (table(settings, tables.ITEMS) for settings in lakes)
    assert set(in_turn["item_id"]) == set(backfilled["item_id"])
    assert not in_turn.equals(backfilled)


@pytest.mark.parametrize(
    "which",
    [tables.MODELS, tables.METRICS, tables.INTENT_LABELS, tables.INTENT_PROFILES],
    ids=lambda which: which.name,
)
def test_backfill_of_a_past_night_equals_the_nightly_run(
    lakes: tuple[Settings, Settings], which: tables.Table
) -> None:
    in_turn, backfilled = (table(settings, which, NIGHTS[1]) for settings in lakes)
    assert in_turn.height and in_turn.equals(backfilled)


def test_backfill_of_a_past_night_makes_the_very_same_model(
    lakes: tuple[Settings, Settings],
) -> None:
    contents = []
    for settings in lakes:
        [version] = table(settings, tables.MODELS, NIGHTS[1])["model_version"]
        storage = Lake(settings.lake.root).storage
        files = [file.path for file in storage.files(model_folder(version))]
        contents.append({path: storage.read(path) for path in files})
    assert contents[0] == contents[1] and len(contents[0]) == 4


def test_no_item_of_a_later_night_is_in_a_backfilled_model(
    lakes: tuple[Settings, Settings],
) -> None:
    _, backfilled = lakes
    [version] = table(backfilled, tables.MODELS, NIGHTS[1])["model_version"]
    file = f"{model_folder(version)}/vocabulary.parquet"
    content = Lake(backfilled.lake.root).storage.read(file)
    known = pl.read_parquet(content)["item_id"].to_list()
    assert known == [f"{night}{item}" for night in "ac" for item in range(5)]
