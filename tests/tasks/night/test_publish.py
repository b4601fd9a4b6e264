"""Publishing: whole nights or nothing, the same again, held to the contract with the readers."""

import contextlib
import datetime as dt
import json
import multiprocessing
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest

from tasks.chores.forget import forget
from tasks.errors import LakeError, PublishError, SettingsError
from tasks.lake import Lake, tables
from tasks.night.publish import publish
from tasks.settings import REPO, Settings, load_settings
from tasks.targets import contract, parquet
from tests.places import EVERYWHERE, Place
from tests.tasks.labels import (
    labels_of,
    publish_old_write_new,
    write_companions,
    write_labels,
    write_recommendations,
)

NIGHT = dt.date(2026, 11, 20)
NEXT = NIGHT + dt.timedelta(days=1)
USERS = ["ann", "bob", "cleo", 'zoë "z"']


@pytest.fixture
def settings(tmp_path: Path, place: Place) -> Settings:
    """Give settings on a lake with the labels of a night, published to a folder."""
    settings = load_settings(
        lake={"root": place},
        publish={"parquet": str(tmp_path / "published")},
        duckdb={"threads": 1},
    )
    write_labels(settings, NIGHT, labels_of(NIGHT, USERS))
    return settings


def changed(settings: Settings, section: str, **values: Any) -> Settings:
    new = getattr(settings, section).model_copy(update=values)
    return settings.model_copy(update={section: new})


def in_parquet(settings: Settings) -> pl.DataFrame:
    files = f"{settings.publish.parquet}/dt=*/*.parquet"
    rows = pl.read_parquet(files, hive_partitioning=True, try_parse_hive_dates=True)
    return rows.select(contract.NAMES).sort("dt", "user_id")


def test_the_contract_is_what_the_table_of_labels_has() -> None:
    schema = tables.INTENT_LABELS.schema
    assert [(column.name, column.type) for column in contract.COLUMNS] == list(
        zip(schema.names, schema.types, strict=True)
    )


def test_what_is_published_with_labels_is_the_lake_s_list_and_its_keys_hold() -> None:
    assert tuple(one.table for one in contract.COMPANIONS) == tables.WITH_LABELS
    for one in contract.COMPANIONS:
        named = {*one.key, *one.filled, *one.ranges, *one.choices}
        assert named <= set(one.table.schema.names), one.name


def test_without_a_target_the_labels_are_held_to_the_contract(settings: Settings) -> None:
    alone = changed(settings, "publish", parquet="")
    assert publish(alone, NIGHT) == {
        "labels": 4,
        "contract_version": contract.VERSION,
        "revision": 1,
        "why": "first run",
        "labels_changed": 0,
        "targets": ["Delta table intent_labels"],
    }


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (pl.lit("ann").alias("user_id"), "3 of a user who has another"),
        (pl.lit(None, pl.Int32).alias("n_events"), "4 without a value that is promised"),
        (pl.lit(None, pl.Float32).alias("confidence"), "3 with half an intent"),
        (pl.lit(1.5, pl.Float32).alias("confidence"), "4 with a confidence outside of 0 to 1"),
        (pl.lit(float("nan"), pl.Float32).alias("confidence"), "outside of 0 to 1"),
    ],
)
def test_labels_that_break_the_contract_are_not_published(
    settings: Settings, broken: pl.Expr, says: str
) -> None:
    publish(settings, NIGHT)
    before = in_parquet(settings)
    write_labels(settings, NIGHT, labels_of(NIGHT, USERS).with_columns(broken))
    with pytest.raises(PublishError, match=f"break version 1 .*{says}.*nothing was published"):
        publish(settings, NIGHT)
    assert in_parquet(settings).equals(before)


def test_a_column_of_another_type_breaks_the_contract() -> None:
    with duckdb.connect() as con:
        columns = ", ".join(
            f"NULL::{'BIGINT' if column.name == 'n_events' else 'VARCHAR'} AS {column.name}"
            for column in contract.COLUMNS[1:]
        )
        con.execute(f"CREATE VIEW intent_labels AS SELECT {columns}, 1 AS more")
        with pytest.raises(
            PublishError, match=r"dt is missing.*n_events is int64 instead of int32.*more is int32"
        ):
            contract.validate(con, NIGHT)


def test_a_night_without_labels_is_named(settings: Settings) -> None:
    with pytest.raises(LakeError, match=f"no rows for night {NEXT}: run label"):
        publish(settings, NEXT)
    assert not Path(settings.publish.parquet).exists()


# Parquet files


@EVERYWHERE
def test_a_night_is_one_file_of_the_columns_and_the_version(settings: Settings) -> None:
    publish(settings, NIGHT)
    write_labels(settings, NEXT, labels_of(NEXT, USERS[:2]))
    summary = publish(settings, NEXT)
    folder = Path(settings.publish.parquet)
    assert summary["targets"][1] == f"Parquet files in {folder}"
    files = sorted(file for file in folder.rglob("*") if not file.is_dir())
    assert [file.parent.name for file in files] == ["dt=2026-11-20", "dt=2026-11-21"]
    assert all(re.fullmatch(r"intent_labels-\w{16}\.parquet", file.name) for file in files)
    expected = pl.concat([labels_of(NIGHT, USERS), labels_of(NEXT, USERS[:2])])
    assert in_parquet(settings).equals(expected)
    written = pq.read_schema(files[1])
    assert written.metadata[b"contract_version"] == b"1"
    assert set(written.metadata) == {b"contract_version", b"revisions", b"published_with"}
    promised = {column.name: column.type for column in contract.COLUMNS[1:]}
    assert dict(zip(written.names, written.types, strict=True)) == promised


@pytest.mark.slow
@EVERYWHERE
def test_publishing_again_leaves_what_publishing_once_does(settings: Settings) -> None:
    folder = Path(settings.publish.parquet)
    publish(settings, NIGHT)
    [before] = folder.rglob("*.parquet")
    written = before.stat()
    publish(settings, NIGHT)
    [after] = folder.rglob("*.parquet")
    assert after == before and after.stat() == written
    write_labels(settings, NIGHT, labels_of(NIGHT, ["dora"]))
    publish(settings, NIGHT)
    assert in_parquet(settings)["user_id"].to_list() == ["dora"]


def with_labels(settings: Settings, night: dt.date = NIGHT) -> dict[str, pl.DataFrame]:
    """Read what belongs to the labels of a night as docs/labels.md says: what their file names."""
    [labels] = (Path(settings.publish.parquet) / f"dt={night}").glob("*.parquet")
    named = json.loads(pq.read_schema(labels).metadata[b"published_with"])
    folder = Path(settings.publish.parquet + "_with") / f"dt={night}"
    return {table: pl.read_parquet(folder / name) for table, name in named.items()}


@pytest.mark.slow
@EVERYWHERE
def test_what_belongs_to_labels_is_in_files_that_they_name(settings: Settings) -> None:
    labels = labels_of(NIGHT, USERS)
    write_companions(settings, NIGHT, labels, "Garden")
    publish(settings, NIGHT)
    found = with_labels(settings)
    for table in tables.WITH_LABELS:
        in_lake = Lake(settings.lake.root).scan(table).drop("dt").collect()
        rows = found[table.name].select(in_lake.columns)
        assert sorted(map(repr, rows.rows())) == sorted(map(repr, in_lake.rows())), table.name
    folder = Path(settings.publish.parquet + "_with")
    written = {file: file.stat() for file in folder.rglob("*.parquet")}
    assert len(written) == len(tables.WITH_LABELS)
    publish(settings, NIGHT)
    assert {file: file.stat() for file in folder.rglob("*.parquet")} == written
    write_companions(settings, NIGHT, labels, "Kitchen")
    assert publish(settings, NIGHT)["why"] == "other profiles"
    assert with_labels(settings)["intent_names"]["name"].to_list() == ["Kitchen 0", "Kitchen 1"]
    assert len(list(folder.rglob("*.parquet"))) == len(tables.WITH_LABELS), "the old ones are gone"


@pytest.mark.slow
def test_recommendations_come_and_go_with_a_revision_and_none_leave_nothing(
    settings: Settings,
) -> None:
    labels = labels_of(NIGHT, USERS)
    write_companions(settings, NIGHT, labels, "Garden")
    write_recommendations(settings, NIGHT, labels.clear())
    publish(settings, NIGHT)
    folder = Path(settings.publish.parquet + "_with")
    without = {file.name: file.stat() for file in folder.rglob("*.parquet")}
    assert len(without) == len(tables.WITH_LABELS) - 1
    assert "user_recommendations" not in with_labels(settings)
    lake = Lake(settings.lake.root)
    [revision] = lake.scan(tables.LABEL_REVISIONS).collect().to_dicts()
    assert "user_recommendations" not in json.loads(revision["published_with"])
    write_recommendations(settings, NIGHT, labels)
    assert publish(settings, NIGHT)["why"] == "other recommendations"
    assert publish(settings, NIGHT)["revision"] == 2, "the same again is no other state"
    found = with_labels(settings)["user_recommendations"]
    assert found["user_id"].to_list() == USERS and found["items"].list.len().to_list() == [2] * 4
    write_recommendations(settings, NIGHT, labels.clear())
    assert publish(settings, NIGHT)["revision"] == 3
    assert {file.name: file.stat() for file in folder.rglob("*.parquet")} == without
    because = lake.scan(tables.LABEL_REVISIONS).sort("revision").collect()["because"]
    assert because[2] == "its labels are the same, and user_recommendations of the night is not"


@pytest.mark.slow
def test_labels_name_the_profiles_of_before_until_they_are_swapped(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_old_write_new(settings, NIGHT, USERS)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(parquet, "_swap", killed)
        publish(settings, NIGHT)
    assert in_parquet(settings).height == 4
    assert with_labels(settings)["intent_profiles"]["name"].to_list() == ["Old 0", "Old 1"]
    publish(settings, NIGHT)
    assert in_parquet(settings).height == 1
    assert with_labels(settings)["intent_profiles"]["name"].to_list() == ["New 0"]
    folder = Path(settings.publish.parquet + "_with")
    assert [path.name for path in folder.iterdir()] == [f"dt={NIGHT}"]
    assert len(list(folder.rglob("*.parquet"))) == len(tables.WITH_LABELS)


@pytest.mark.slow
def test_a_reader_never_sees_half_a_night(settings: Settings, tmp_path: Path) -> None:
    users = [f"u{number}" for number in range(20_000)]
    versions = [labels_of(NIGHT, users), labels_of(NIGHT, users[:10_000])]
    others = []
    for number, labels in enumerate(versions):
        other = changed(settings, "lake", root=tmp_path / f"lake-{number}")
        write_labels(other, NIGHT, labels)
        others.append(other)
    publish(others[0], NIGHT)
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_publish_often, args=(other,)) for other in others]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        # A file that was listed and has been replaced since is gone: never another of its name.
        with contextlib.suppress(FileNotFoundError):
            seen.add(in_parquet(settings).height)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert seen == {10_000, 20_000}


def _publish_often(settings: Settings) -> None:
    for _ in range(8):
        publish(settings, NIGHT)


@pytest.mark.slow
def test_publishing_that_was_killed_is_completed_by_doing_it_again(settings: Settings) -> None:
    publish(settings, NIGHT)
    before = in_parquet(settings)
    write_labels(settings, NIGHT, labels_of(NIGHT, [f"u{n}" for n in range(1000)]))
    code = (
        "import datetime as dt, os, signal, sys;"
        "from tasks.night import publish; from tasks.settings import load_settings;"
        "from tasks.targets import parquet;"
        "parquet._swap = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
        "given = dict(zip(('lake.root', 'publish.parquet'), sys.argv[1:]));"
        f"publish.publish(load_settings(**given), dt.date.fromisoformat('{NIGHT}'))"
    )
    paths = [str(settings.lake.root), settings.publish.parquet]
    killed = subprocess.run([sys.executable, "-c", code, *paths], cwd=REPO, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert in_parquet(settings).equals(before)
    publish(settings, NIGHT)
    assert in_parquet(settings).height == 1000
    assert [path.name for path in Path(settings.publish.parquet).iterdir()] == [f"dt={NIGHT}"]


def test_a_folder_that_cannot_be_the_target_is_named(settings: Settings, tmp_path: Path) -> None:
    def refused(folder: Path, says: str) -> None:
        with pytest.raises(PublishError, match=re.escape(says)):
            publish(changed(settings, "publish", parquet=str(folder)), NIGHT)

    refused(settings.lake.root / "intent_labels", "inside of the lake")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "which is no folder")
    other = tmp_path / "other" / "dt=2020-01-01" / "part-0.parquet"
    other.parent.mkdir(parents=True)
    other.touch()
    refused(tmp_path / "other", f"{other} is none of the files that publish writes")
    for folder, says in (
        (tmp_path / "published" / "with", "inside of publish.parquet"),
        (settings.lake.root / "with", "inside of the lake"),
    ):
        with pytest.raises(PublishError, match=f"publish.parquet_with is .* {says}"):
            publish(changed(settings, "publish", parquet_with=str(folder)), NIGHT)
    assert [file.name for file in (tmp_path / "other").rglob("*.*")] == ["part-0.parquet"]


def test_a_url_of_another_kind_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"publish\.parquet .* write a URL as s3://"):
        load_settings(publish={"parquet": "gs://bucket/labels"})


def test_labels_and_what_is_with_them_are_both_folders_or_both_urls() -> None:
    with pytest.raises(SettingsError, match="name two folders or two URLs"):
        load_settings(publish={"parquet": "s3://bucket/labels", "parquet_with": "with"})


def test_a_relative_folder_is_below_that_of_the_settings() -> None:
    assert load_settings(publish={"parquet": "out"}).publish.parquet == str(REPO / "out")


@pytest.mark.slow
@EVERYWHERE
def test_a_forgotten_person_goes_from_the_published_files(settings: Settings) -> None:
    publish(settings, NIGHT)
    write_labels(settings, NEXT, labels_of(NEXT, USERS[:1]))
    publish(settings, NEXT)
    folder = Path(settings.publish.parquet)
    (folder / ".new").mkdir()
    (folder / ".new" / "unnamed").write_text("left by a killed run")
    report = forget(settings, ["bob", USERS[3], "nobody"])
    target = f"Parquet files in {folder}"
    assert report["targets"] == {target: {"rows_removed": 2, "nights_rewritten": 1, "left": 0}}
    kept = pl.concat([labels_of(NIGHT, USERS), labels_of(NEXT, USERS[:1])])
    assert in_parquet(settings).equals(kept.filter(~pl.col("user_id").is_in(["bob", USERS[3]])))
    assert sorted(path.name for path in folder.iterdir()) == [f"dt={NIGHT}", f"dt={NEXT}"]
    assert forget(settings, ["bob"])["targets"][target]["rows_removed"] == 0


@pytest.mark.slow
@EVERYWHERE
def test_a_forgotten_person_goes_from_what_is_published_with_labels(settings: Settings) -> None:
    write_companions(settings, NIGHT, labels_of(NIGHT, USERS), "Garden")
    publish(settings, NIGHT)
    folder = Path(settings.publish.parquet + "_with")
    left_by_killed = folder / "dt=2026-01-01" / "intent_users-0123456789abcdef.parquet"
    left_by_killed.parent.mkdir()
    [users] = folder.glob(f"dt={NIGHT}/intent_users-*")
    left_by_killed.write_bytes(users.read_bytes())
    report = forget(settings, ["bob"])
    # His label, its evidence, what he is recommended, and that he is close to his intent.
    done = {"rows_removed": 4, "nights_rewritten": 1, "left": 0}
    assert list(report["targets"].values()) == [done]
    found = with_labels(settings)
    for table in ("label_evidence", "intent_users", "user_recommendations"):
        assert not found[table].is_empty() and "bob" not in found[table]["user_id"], table
    assert found["intent_profiles"].height == 2
    assert not any("bob" in str(pl.read_parquet(file).rows()) for file in folder.rglob("*.parquet"))
