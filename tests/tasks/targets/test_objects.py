"""Labels published to a store: one whole object a night, whenever a reader looks."""

import datetime as dt
import threading
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.chores.forget import forget
from tasks.errors import PublishError
from tasks.lake import storage_at
from tasks.lake.storage import parquet
from tasks.night.publish import publish
from tasks.settings import Settings, load_settings
from tests.places import bucket
from tests.tasks.labels import labels_of, write_labels

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
    assert set(metadata) == {b"contract_version", b"revisions"}
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


def test_a_place_that_cannot_be_the_target_is_named(settings: Settings) -> None:
    def refused(url: str, says: str) -> None:
        target = settings.publish.model_copy(update={"parquet": url})
        with pytest.raises(PublishError, match=says):
            publish(settings.model_copy(update={"publish": target}), NIGHT)

    refused(f"{settings.lake.root}/intent_labels", "inside of the lake")
    refused("s3://no-such-bucket/labels", "there is no bucket no-such-bucket: correct publish")
    storage_at(settings.publish.parquet).write("dt=2020-01-01/part-0.parquet", b"")
    refused(settings.publish.parquet, "part-0.parquet is none of the files that publish writes")
