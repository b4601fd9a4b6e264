"""Labels published to a store: one whole object a night, whenever a reader looks."""

import datetime as dt
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.chores.forget import forget
from tasks.errors import PublishError
from tasks.lake import Lake, storage_at, tables
from tasks.lake.storage import Bucket, File, parquet
from tasks.night.publish import publish
from tasks.settings import Settings, load_settings
from tests.places import bucket
from tests.tasks.labels import (
    labels_of,
    publish_old_write_new,
    write_companions,
    write_labels,
    write_recommendations,
)

pytestmark = [pytest.mark.servers, pytest.mark.slow]

NIGHT = dt.date(2026, 11, 20)
NEXT = NIGHT + dt.timedelta(days=1)
USERS = ["ann", "bob", "cleo", 'zoë "z"']
NAME = "intent_labels.parquet"


@pytest.fixture
def settings(store: str, tmp_path: Path) -> Iterator[Settings]:
    """Give settings on a lake with the labels of a night; what is published is in the store too."""
    with bucket(store) as url:
        settings = load_settings(
            lake={"root": f"{url}/lake"},
            publish={"parquet": f"{url}/labels"},
            duckdb={"threads": 1, "temp_directory": str(tmp_path)},
        )
        write_labels(settings, NIGHT, labels_of(NIGHT, USERS))
        yield settings


def published(settings: Settings) -> dict[str, list[str]]:
    """Read as readers do what they find: the users by object."""
    storage = storage_at(settings.publish.parquet)
    return {
        file.path: parquet(storage, [file.path]).collect()["user_id"].to_list()
        for file in storage.files()
        if not file.path.startswith(".")
    }


def test_a_night_is_one_object_that_is_replaced_whole(settings: Settings) -> None:
    storage = storage_at(settings.publish.parquet)
    publish(settings, NIGHT)
    write_labels(settings, NEXT, labels_of(NEXT, USERS[:2]))
    summary = publish(settings, NEXT)
    assert summary["targets"][1] == f"Parquet files in {settings.publish.parquet}"
    first, second = f"dt={NIGHT}/{NAME}", f"dt={NEXT}/{NAME}"
    assert published(settings) == {first: USERS, second: USERS[:2]}
    metadata = pq.read_schema(pa.BufferReader(storage.read(first))).metadata
    assert set(metadata) == {b"contract_version", b"revisions", b"published_with"}
    before = storage.files(f"dt={NIGHT}")
    publish(settings, NIGHT)
    assert storage.files(f"dt={NIGHT}") == before, "the same labels are not written again"
    write_labels(settings, NIGHT, labels_of(NIGHT, ["dora"]))
    publish(settings, NIGHT)
    assert published(settings) == {first: ["dora"], second: USERS[:2]}


def test_a_reader_finds_each_night_once_and_whole(settings: Settings) -> None:
    publish(settings, NIGHT)
    states = [[f"u{number:04}" for number in range(size)] for size in (3000, 2000, 1000)]

    def publish_them() -> None:
        for users in states:
            write_labels(settings, NIGHT, labels_of(NIGHT, users))
            publish(settings, NIGHT)

    writer, storage = threading.Thread(target=publish_them), storage_at(settings.publish.parquet)
    writer.start()
    seen = {4}
    while writer.is_alive():
        [file] = [one for one in storage.files() if one.path.startswith("dt=")]
        seen.add(pl.read_parquet(storage.read(file.path)).height)
    writer.join()
    assert published(settings) == {f"dt={NIGHT}/{NAME}": states[-1]}
    assert seen <= {4, 3000, 2000, 1000}


def test_a_forgotten_person_goes_from_the_published_objects(settings: Settings) -> None:
    publish(settings, NIGHT)
    write_labels(settings, NEXT, labels_of(NEXT, USERS[:1]))
    publish(settings, NEXT)
    report = forget(settings, ["bob", USERS[3], "nobody"])
    [target] = report["targets"].values()
    assert target == {"rows_removed": 2, "nights_rewritten": 1, "left": 0}
    kept = {f"dt={NIGHT}/{NAME}": ["ann", "cleo"], f"dt={NEXT}/{NAME}": ["ann"]}
    assert published(settings) == kept


def with_labels(settings: Settings) -> dict[str, pl.DataFrame]:
    """Read what belongs to the labels of the night as readers do: what their object names."""
    storage = storage_at(settings.publish.parquet)
    labels = storage.read(f"dt={NIGHT}/{NAME}")
    named = json.loads(pq.read_schema(pa.BufferReader(labels)).metadata[b"published_with"])
    beside = storage_at(f"{settings.publish.parquet}_with")
    return {
        table: pl.read_parquet(beside.read(f"dt={NIGHT}/{name}")) for table, name in named.items()
    }


def beside(settings: Settings) -> list[File]:
    return storage_at(f"{settings.publish.parquet}_with").files()


def test_what_belongs_to_labels_is_in_objects_that_they_name(settings: Settings) -> None:
    labels = labels_of(NIGHT, USERS)
    write_companions(settings, NIGHT, labels, "Garden")
    publish(settings, NIGHT)
    found = with_labels(settings)
    for table in tables.WITH_LABELS:
        in_lake = Lake.of(settings).scan(table).drop("dt").collect()
        rows = found[table.name].select(in_lake.columns)
        assert sorted(map(repr, rows.rows())) == sorted(map(repr, in_lake.rows())), table.name
    before = beside(settings)
    assert len(before) == len(tables.WITH_LABELS)
    publish(settings, NIGHT)
    assert beside(settings) == before, "the same content is not written again"
    write_companions(settings, NIGHT, labels, "Kitchen")
    assert publish(settings, NIGHT)["why"] == "other profiles"
    assert with_labels(settings)["intent_names"]["name"].to_list() == ["Kitchen 0", "Kitchen 1"]
    assert len(beside(settings)) == len(tables.WITH_LABELS), "those of before are gone"


def test_a_night_without_recommendations_has_no_object_of_them(settings: Settings) -> None:
    labels = labels_of(NIGHT, USERS)
    write_companions(settings, NIGHT, labels, "Garden")
    for with_some in (labels.clear(), labels, labels.clear()):
        write_recommendations(settings, NIGHT, with_some)
        publish(settings, NIGHT)
        assert ("user_recommendations" in with_labels(settings)) == (with_some.height > 0)
        assert len(beside(settings)) == len(tables.WITH_LABELS) - with_some.is_empty()


def test_labels_name_what_was_with_them_until_they_are_replaced(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_old_write_new(settings, NIGHT, USERS)
    send = Bucket.send

    def killed_before_labels(self: Bucket, file: Path, path: str, *facts: dict[str, str]) -> None:
        if path.endswith(NAME):
            raise KeyboardInterrupt
        send(self, file, path, *facts)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Bucket, "send", killed_before_labels)
        publish(settings, NIGHT)
    assert published(settings) == {f"dt={NIGHT}/{NAME}": USERS}
    assert with_labels(settings)["intent_profiles"]["name"].to_list() == ["Old 0", "Old 1"]
    assert len(beside(settings)) > len(tables.WITH_LABELS)
    publish(settings, NIGHT)
    assert with_labels(settings)["intent_profiles"]["name"].to_list() == ["New 0"]
    assert len(beside(settings)) == len(tables.WITH_LABELS)


def test_a_forgotten_person_goes_from_what_is_published_with_labels(settings: Settings) -> None:
    write_companions(settings, NIGHT, labels_of(NIGHT, USERS), "Garden")
    publish(settings, NIGHT)
    storage_at(f"{settings.publish.parquet}_with").write(
        f"dt={NEXT}/intent_users-0123456789abcdef.parquet", b"of a run that was killed"
    )
    report = forget(settings, ["ann"])
    [target] = report["targets"].values()
    assert target == {"rows_removed": 4, "nights_rewritten": 1, "left": 0}
    found = with_labels(settings)
    assert found["label_evidence"]["user_id"].to_list() == USERS[1:]
    assert "ann" not in found["intent_users"]["user_id"].to_list()
    assert found["user_recommendations"]["user_id"].to_list() == USERS[1:]
    assert len(beside(settings)) == len(tables.WITH_LABELS), "also what no labels name is gone"


def test_a_place_that_cannot_be_the_target_is_named(settings: Settings) -> None:
    def refused(url: str, says: str, beside: str = "") -> None:
        target = settings.publish.model_copy(update={"parquet": url, "parquet_with": beside})
        with pytest.raises(PublishError, match=says):
            publish(settings.model_copy(update={"publish": target}), NIGHT)

    refused(f"{settings.lake.root}/intent_labels", "inside of the lake")
    refused("s3://no-such-bucket/labels", "there is no bucket no-such-bucket: correct publish")
    labels = settings.publish.parquet
    refused(labels, "publish.parquet_with is .* inside of publish.parquet", f"{labels}/with")
    refused(labels, "publish.parquet_with is .* inside of the lake", f"{settings.lake.root}/with")
    storage_at(labels).write("dt=2020-01-01/part-0.parquet", b"")
    refused(labels, "part-0.parquet is none of the files that publish writes")
