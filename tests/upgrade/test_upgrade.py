"""A lake that the code of commit 298a321 made goes on with the code of now.

`make_lake.py` made it: ten nights of sixty users, published to a folder.
"""

import datetime as dt
import shutil
import tarfile
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tasks.chores.stale import FRESH, NOT_KNOWN, standings
from tasks.lake import Lake, tables
from tasks.registry.versions import promoted
from tasks.registry.weights import load
from tasks.settings import Settings, load_settings
from tasks.steps import STEPS, run_step
from tests.tasks.nights import table
from tests.upgrade.make_lake import ARCHIVE, LAST, MODEL, NIGHTS

NEXT = LAST + dt.timedelta(days=1)
CHECKS = [name for name in STEPS if name.startswith("check-")]


pytestmark = pytest.mark.slow  # a night with its checks, and two without


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("upgrade")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def settings_in(folder: Path) -> Settings:
    overrides = {"dim": 16, "layers": 1, "batch_users": 16}
    return load_settings(
        lake={"root": folder / "lake"},
        source={"path": str(folder / "events")},
        model=MODEL | {"overrides": overrides},
        promote={"force": True},
        publish={"parquet": str(folder / "published")},
        duckdb={"threads": 1},
    )


@pytest.fixture(scope="module")
def before(unpacked: Path) -> dict[str, pl.DataFrame]:
    """Return the tables as the old code left them."""
    settings = settings_in(unpacked)
    return {name: table(settings, which) for name, which in tables.TABLES.items()}


@pytest.fixture(scope="module")
def gone_on(
    unpacked: Path, before: dict[str, pl.DataFrame], tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """Run the night after the last one, with all its steps."""
    folder = tmp_path_factory.mktemp("gone-on")
    shutil.copytree(unpacked, folder, dirs_exist_ok=True)
    settings = settings_in(folder)
    for name in STEPS:
        run_step(name, settings, NEXT)
    return settings


def test_the_archive_is_small_and_holds_the_ten_nights(unpacked: Path) -> None:
    assert ARCHIVE.stat().st_size < 1_000_000
    settings = settings_in(unpacked)
    assert Lake(settings.lake.root).nights(tables.INTENT_LABELS) == NIGHTS
    assert "inputs" not in Lake(settings.lake.root).columns(tables.STEPS), "it is of before"


def test_the_nights_of_before_are_read_as_they_were_written(
    gone_on: Settings, before: dict[str, pl.DataFrame]
) -> None:
    for name in ("events", "sequences", "intent_labels", "intent_profiles", "metrics", "items"):
        rows = table(gone_on, tables.TABLES[name])
        if "dt" in rows.columns:
            rows = rows.filter(pl.col("dt") <= LAST)
        assert before[name].height
        if name == "items":
            rows = rows.head(before[name].height)
        assert rows.equals(before[name]), name


def test_the_ids_of_intents_survive(gone_on: Settings, before: dict[str, pl.DataFrame]) -> None:
    """The next night trains on from the last model, and intents that live on have their ids."""
    lake = Lake(gone_on.lake.root)
    last, now = promoted(lake, until=LAST), promoted(lake, until=NEXT)
    assert last is not None and now is not None and now[1] == NEXT
    models = table(gone_on, tables.MODELS, NEXT).filter(model_version=now[0])
    assert models["parent_version"].to_list() == [last[0]]
    old, new = load(gone_on, last[0]).intents, load(gone_on, now[0]).intents
    carried_on = set(old.ids.tolist()) & set(new.ids.tolist())
    assert carried_on
    ever = set(before["intent_profiles"]["intent_id"])
    assert all(one > max(ever) for one in set(new.ids.tolist()) - ever), "a new intent has a new id"
    born = dict(before["intent_profiles"].select("intent_id", "born").unique().iter_rows())
    after = table(gone_on, tables.INTENT_PROFILES, NEXT).select("intent_id", "born").iter_rows()
    assert all(born[one] == night for one, night in after if one in carried_on)
    labels = table(gone_on, tables.INTENT_LABELS)
    both = labels.filter(dt=LAST).join(labels.filter(dt=NEXT), on="user_id")
    kept = both.filter(pl.col("intent_id") == pl.col("intent_id_right")).height / both.height
    assert kept > 0.5, "most users keep their intent over the upgrade"


def test_what_was_published_is_taken_over(
    gone_on: Settings, unpacked: Path, before: dict[str, pl.DataFrame]
) -> None:
    published = pl.read_parquet(
        f"{gone_on.publish.parquet}/dt=*/*.parquet",
        hive_partitioning=True,
        try_parse_hive_dates=True,
    ).sort("dt", "user_id")
    names = before["intent_labels"].columns
    old = published.filter(pl.col("dt") <= LAST).select(names)
    assert old.equals(before["intent_labels"].sort("dt", "user_id"))
    assert published.filter(dt=NEXT).height
    for night in NIGHTS:
        files = [
            [file.name for file in (folder / f"dt={night}").iterdir()]
            for folder in (Path(gone_on.publish.parquet), unpacked / "published")
        ]
        assert files[0] == files[1], "a night that did not run again is not touched"
    revisions = table(gone_on, tables.LABEL_REVISIONS)
    assert revisions.select("dt", "revision", "why").rows() == [(NEXT, 1, "first run")]


def test_nights_of_before_are_not_known_to_be_up_to_date_and_the_new_one_is(
    gone_on: Settings,
) -> None:
    found = standings(gone_on)
    assert [one.state for one in found] == [NOT_KNOWN] * len(NIGHTS) + [FRESH]
    assert "is not recorded" in found[0].line


@pytest.mark.parametrize("night", [NIGHTS[4], LAST], ids=["one of the middle", "the last one"])
def test_a_night_of_before_that_is_backfilled_is_what_it_was_or_a_sentence_says_why_not(
    unpacked: Path, before: dict[str, pl.DataFrame], tmp_path: Path, night: dt.date
) -> None:
    """It goes on from a model of the old code and is held against its labels."""
    shutil.copytree(unpacked, tmp_path, dirs_exist_ok=True)
    settings = settings_in(tmp_path)
    for name in STEPS:
        if name not in CHECKS:  # they only read
            run_step(name, settings, night)
    histories = table(settings, tables.SEQUENCES, night)
    assert histories.equals(before["sequences"].filter(dt=night)), "the data are the same"
    made = table(settings, tables.MODELS, night)
    was = before["models"].filter(dt=night, promoted=True)
    labels = table(settings, tables.INTENT_LABELS, night)
    same_settings = set(made.filter("promoted")["settings_fingerprint"]) == set(
        was["settings_fingerprint"]
    )
    [revision] = table(settings, tables.LABEL_REVISIONS, night).to_dicts()
    if same_settings:
        # A model's name hashes what its histories are known by, and that has changed since.
        named = "model_version"
        # Another version may round a probability in another way.
        was_labels = before["intent_labels"].filter(dt=night)
        assert_frame_equal(labels.drop(named), was_labels.drop(named), rel_tol=0, abs_tol=1e-5)
        kept = made.filter("promoted")
        same_data = kept["data_fingerprint"].to_list() == was["data_fingerprint"].to_list()
        assert (kept[named].to_list() == was[named].to_list()) == same_data
    else:
        assert "trained on other settings, or by another version of elcrec" in revision["because"]
        ids = set(before["intent_profiles"]["intent_id"])
        assert set(labels["intent_id"].drop_nulls()) & ids, "and ids live on all the same"
    assert revision["run"] == "command line"
    # The other nights are as they were, and so is what was published of them.
    others = table(settings, tables.INTENT_LABELS).filter(pl.col("dt") != night)
    assert others.equals(before["intent_labels"].filter(pl.col("dt") != night))
