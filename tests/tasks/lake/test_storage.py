"""Where a lake lies: the same in a folder and in a store, and what is said when a store fails."""

import datetime as dt
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import Context
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from tasks import stores
from tasks.connections import azure_options, looked_up_by
from tasks.errors import LakeError, NotReadyError, SettingsError
from tasks.lake import ConcurrentWriteError, Lake, storage_of
from tasks.lake.duck import connect
from tasks.lake.storage import Bucket, storage_at
from tasks.lake.tables import METRICS
from tasks.settings import REPO, load_settings
from tests.places import Place, bucket

NIGHT = dt.date(2026, 11, 1)


def metrics(value: float) -> pa.Table:
    row = {"dt": NIGHT, "metric": "HR@5", "value": value}
    return pa.Table.from_pylist([row], schema=METRICS.schema)


def test_every_module_takes_the_lake_that_the_settings_name() -> None:
    """A lake by its root alone has no keys but those of the environment."""
    rooms = ("tasks/night", "tasks/chores", "tasks/registry", "tasks/sources", "local", "dags")
    files = [*(file for room in rooms for file in (REPO / room).rglob("*.py"))]
    files += [*(REPO / "tasks").glob("*.py"), *(REPO / "docs" / "examples").glob("*.py")]
    by_root = [
        str(file) for file in files if re.search(r"\bLake(\.there)?\([^)]*root", file.read_text())
    ]
    assert len(files) > 50 and by_root == []


def test_files_are_written_listed_read_and_deleted(root: Place) -> None:
    storage = storage_at(root)
    assert not storage.is_there() and storage.files() == [] and storage.names("none") == []
    storage.write("a/b/one.txt", "ü".encode())
    storage.write("a/two.json", b"{}")
    storage.write("ab/three", b"")
    assert storage.is_there()
    assert [(file.path, file.size) for file in storage.files("a")] == [
        ("a/b/one.txt", 2),
        ("a/two.json", 2),
    ]
    assert (storage.names("a"), storage.folders("a")) == (["b", "two.json"], ["b"])
    assert storage.folders() == ["a", "ab"]
    assert storage.read("a/b/one.txt").decode() == "ü"
    age = dt.datetime.now(dt.UTC) - storage.written("a")
    assert abs(age) < dt.timedelta(minutes=1)
    with pytest.raises(FileNotFoundError, match="a/none"):
        storage.read("a/none")
    storage.delete(["a/two.json", "a/none"])
    storage.remove("a")
    storage.remove("a")
    assert [file.path for file in storage.files()] == ["ab/three"]
    assert str(storage.at("ab/three")) == f"{root}/ab/three"


def test_a_folder_takes_the_place_of_another_and_can_be_read_here(
    root: Place, tmp_path: Path
) -> None:
    storage = storage_at(root)
    for names in (["old.json", "weights"], ["model.json", "deep/weights"]):
        made = tmp_path / "made"
        for name in names:
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_text(name)
        storage.put(made, "model_files/v")
        for left in sorted(made.rglob("*"), reverse=True):
            left.rmdir() if left.is_dir() else left.unlink()
    with storage.fetched("model_files/v") as here:
        found = {
            path.relative_to(here).as_posix(): path.read_text()
            for path in here.rglob("*")
            if path.is_file()
        }
        assert here.name == "v"
    assert found == {"model.json": "model.json", "deep/weights": "deep/weights"}
    with storage.fetched("model_files/none") as here:
        assert not here.exists()


def test_what_was_kept_of_work_is_found_again(root: Place) -> None:
    storage = storage_at(root)
    for number in (1, 2):
        with storage.working("model_files/.training/v") as work:
            points = work.path / "checkpoints"
            found = sorted(path.name for path in points.iterdir()) if points.exists() else []
            assert found == ([] if number == 1 else ["state-1", "state.json"])
            points.mkdir(parents=True, exist_ok=True)
            for old in points.glob("state-*"):
                old.unlink()
            (points / f"state-{number}").write_text("tensors")
            (points / "state.json").write_text(str(number))
            work.keep()
    kept = [file.path.rpartition("/")[2] for file in storage.files("model_files/.training")]
    assert kept == ["state-2", "state.json"]


Faulty = Callable[[dict[str, Any]], str | None]


@pytest.fixture
def faulty(store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[Faulty]]]:
    """Give a lake's URL, and a list of what says which requests the store answers with a fault."""
    from moto.server import DomainDispatcherApplication

    plain, faults = DomainDispatcherApplication.__call__, []  # type: ignore[var-annotated]

    def answered(self: Any, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        for fault in faults:
            if said := fault(environ):
                if said == "cut":
                    environ["wsgi.input"].read(100)
                    environ["werkzeug.socket"].close()
                    return []
                status, _, code = said.partition(" ")
                body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
                start_response(f"{status} no", [("Content-Length", str(len(body)))])
                return [body]
        return plain(self, environ, start_response)

    monkeypatch.setattr(DomainDispatcherApplication, "__call__", answered)
    monkeypatch.setattr(stores, "RETRIES", 2)
    with bucket(store) as url:
        yield f"{url}/lake", faults
        faults.clear()


def first_of_each(said: str, *methods: str) -> Faulty:
    """Answer the first request of each object and method so."""
    seen = set()

    def fault(environ: dict[str, Any]) -> str | None:
        request = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"]
        if request in seen or (methods and request[0] not in methods):
            return None
        seen.add(request)
        return said

    return fault


def always(said: str, *methods: str) -> Faulty:
    return lambda environ: said if environ["REQUEST_METHOD"] in methods else None


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.parametrize(
    "fault",
    [
        first_of_each("503 SlowDown"),
        first_of_each("500 InternalError"),
        first_of_each("429 TooManyRequests"),
        first_of_each("cut", "PUT"),
    ],
    ids=["busy", "broken", "throttled", "cut"],
)
def test_what_passes_is_asked_again(
    faulty: tuple[str, list[Faulty]], tmp_path: Path, fault: Faulty
) -> None:
    url, faults = faulty
    lake = Lake(url)
    faults.append(fault)
    lake.replace(METRICS, metrics(1.0), nights=[NIGHT])
    lake.replace(METRICS, metrics(2.0), nights=[NIGHT])
    con = connect(load_settings())
    lake.view(con, METRICS)
    assert con.execute("SELECT value FROM metrics").fetchall() == [(2.0,)]
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "weights").write_bytes(b"w" * 20_000_000)  # in several parts
    lake.storage.put(tmp_path / "made", "model_files/v")
    assert lake.storage.read("model_files/v/weights") == b"w" * 20_000_000
    assert lake.vacuum(METRICS, 0) and lake.scan(METRICS).collect().height == 1


SENTENCES = {
    "403 AccessDenied": "is refused (AccessDenied) when it is to be written: give keys that may "
    "list, read, write and delete there, in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or in the "
    "connection that lake.connection names",
    "400 ExpiredToken": "is refused (ExpiredToken) when it is to be written: renew the keys",
    "404 NoSuchBucket": "there is no bucket test-",
    "301 PermanentRedirect": "is in another region: correct lake.region",
}


@pytest.mark.servers
@pytest.mark.parametrize("said", SENTENCES)
def test_what_a_person_has_to_mend_is_one_sentence_and_nothing_is_half_there(
    faulty: tuple[str, list[Faulty]], tmp_path: Path, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    url, faults = faulty
    lake = Lake(url)
    lake.replace(METRICS, metrics(1.0), nights=[NIGHT])
    before = lake.storage.files()
    faults.append(always(said, "PUT", "POST"))
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "weights").write_text("w")

    def written(how: Callable[[], object]) -> None:
        with caplog.at_level(logging.DEBUG), pytest.raises(LakeError) as raised:
            how()
        told = str(raised.value)
        assert SENTENCES[said] in told and "\n" not in told and "secret" not in told + caplog.text

    written(lambda: lake.replace(METRICS, metrics(2.0), nights=[NIGHT]))
    written(lambda: lake.storage.write("file", b""))
    written(lambda: lake.storage.put(tmp_path / "made", "model_files/v"))
    faults.clear()
    assert lake.storage.files() == before
    assert lake.scan(METRICS).collect()["value"].to_list() == [1.0]


@pytest.mark.servers
def test_a_store_that_stays_away_is_waited_for_by_a_later_try(
    faulty: tuple[str, list[Faulty]],
) -> None:
    url, faults = faulty
    lake = Lake(url)
    lake.replace(METRICS, metrics(1.0), nights=[NIGHT])
    rows, con = lake.scan(METRICS), connect(load_settings())
    lake.view(con, METRICS)
    faults.append(always("503 SlowDown", "GET", "PUT"))

    def in_a_step(how: Callable[[], object]) -> None:
        with lake.storage.explaining():  # as `in_use` does
            how()

    for how in (
        lambda: lake.replace(METRICS, metrics(2.0), nights=[NIGHT]),
        lambda: lake.nights(METRICS),
        lambda: lake.storage.read("file"),
        lambda: in_a_step(rows.collect),
        lambda: in_a_step(lambda: con.execute("SELECT value FROM metrics").fetchall()),
    ):
        with pytest.raises(NotReadyError, match=rf"^{url} cannot be (read|written): ") as raised:
            how()
        assert "\n" not in str(raised.value)
    faults.clear()
    assert rows.collect()["value"].to_list() == [1.0]


def test_what_other_places_say_is_not_taken_for_the_lake_s(tmp_path: Path) -> None:
    said = stores.StoreAwayError("s3://log/x cannot be read: Generic S3 error")
    storage = Bucket(stores.Address("s3://b/lake", SAID), tmp_path)
    with pytest.raises(stores.StoreAwayError, match="s3://log/x"), storage.explaining():
        raise said
    with pytest.raises(OSError, match="No space"), storage.explaining():
        raise OSError(28, "No space left on device")


SAID = stores.Said(url="lake.root", connection="lake.connection", error=LakeError)


def test_a_signature_in_an_address_is_not_told() -> None:
    text = "Error performing PUT https://a.blob.core.windows.net/c/k?sv=1&sig=hidden in 3 ms"
    address = stores.Address("az://lakes/shop", SAID)
    with pytest.raises(NotReadyError) as raised, address.explaining(OSError):
        raise OSError(text)
    assert "hidden" not in str(raised.value) and "az://lakes/shop cannot be written" in str(
        raised.value
    )


def test_keys_of_azure_come_from_a_connection() -> None:
    uri = "wasb://account:a%2F8%3D@/?account_url=http%3A%2F%2F127.0.0.1%3A10000%2Faccount"
    with looked_up_by(lambda _: uri):
        assert azure_options("blobs") == {
            "account_name": "account",
            "account_key": "a/8=",
            "endpoint": "http://127.0.0.1:10000/account",
        }
        settings = load_settings(lake={"root": "az://lakes/shop", "connection": "blobs"})
        storage = storage_of(settings)
    assert str(storage.at("events")) == "az://lakes/shop/events"
    assert storage.delta_options and storage.delta_options["allow_http"] == "true"
    with looked_up_by(lambda _: "wasb://account:not-a-key@"):
        settings = load_settings(lake={"root": "az://lakes/other", "connection": "blobs"})
        with pytest.raises(LakeError, match="az://lakes/other cannot be reached") as refused:
            storage_of(settings)
    assert "not-a-key" not in str(refused.value) and "\n" not in str(refused.value)
    for wrong, says in {
        "aws://key:hidden@/": "of type aws, not wasb",
        "wasb://account:hid/den@/": "no valid account and key",
        "wasb://account@/?tenant_id=x": "has tenant_id, which is not read here",
    }.items():
        with looked_up_by(lambda _, uri=wrong: uri), pytest.raises(SettingsError) as raised:
            azure_options("blobs")
        assert says in str(raised.value) and "hid" not in str(raised.value).replace("which", "")


@pytest.mark.slow
@pytest.mark.servers
def test_a_table_is_opened_with_few_requests_however_many_versions_it_has(
    faulty: tuple[str, list[Faulty]],
) -> None:
    url, faults = faulty
    lake, asked = Lake(url), []
    for value in range(24):
        lake.replace(METRICS, metrics(float(value)), nights=[NIGHT])
    faults.append(lambda environ: asked.append(environ["PATH_INFO"]))
    assert lake.scan(METRICS).collect()["value"].to_list() == [23.0]
    assert len(asked) < 40  # without a checkpoint, two for each version


@pytest.mark.slow
@pytest.mark.servers
def test_a_commit_of_a_run_that_has_lost_its_turn_is_refused(store: str) -> None:
    with bucket(store) as url:
        lake = Lake(f"{url}/lake")
        with lake.in_use():
            lake.replace(METRICS, metrics(1.0), nights=[NIGHT])
            holder = lake.turns.held()
            assert holder
            before = lake.storage.files("metrics")
            fence = (lake._fence, holder.app_id, holder.token + 1)
            Context().run(*fence)  # as who takes the turn over does
            with pytest.raises(LakeError, match="has lost its turn at"):
                lake.replace(METRICS, metrics(2.0), nights=[NIGHT])
        assert lake.scan(METRICS).collect()["value"].to_list() == [1.0]
        assert len(lake.log_files(METRICS)) == len(before)  # the fence, where a data file was
        with suppress(LakeError), lake.in_use():
            lake.replace(METRICS, metrics(3.0), nights=[NIGHT])
        assert lake.scan(METRICS).collect()["value"].to_list() == [3.0]


@pytest.mark.slow
@pytest.mark.servers
def test_a_turn_that_is_lost_while_rows_are_written_is_lost(store: str) -> None:
    with bucket(store) as url:
        lake = Lake(f"{url}/lake")
        with lake.in_use():
            lake.replace(METRICS, metrics(1.0), nights=[NIGHT])
            holder = lake.turns.held()
            assert holder

            def rows() -> Iterator[pa.RecordBatch]:
                fence = threading.Thread(target=lake._fence, args=(holder.app_id, holder.token + 1))
                fence.start()
                fence.join()
                yield from metrics(2.0).to_batches()

            late = pa.RecordBatchReader.from_batches(METRICS.schema, rows())
            with pytest.raises(LakeError, match="has lost its turn at"):
                lake.replace(METRICS, late, nights=[NIGHT])
        assert lake.scan(METRICS).collect()["value"].to_list() == [1.0]


@pytest.mark.slow
@pytest.mark.servers
def test_a_run_that_holds_the_lake_reads_of_a_log_what_is_new(
    faulty: tuple[str, list[Faulty]],
) -> None:
    url, faults = faulty
    lake, asked = Lake(url), []
    for value in range(5):
        lake.replace(METRICS, metrics(float(value)), nights=[NIGHT])
    with lake.in_use():
        assert lake.files(METRICS)
        faults.append(lambda environ: asked.append(environ["PATH_INFO"]))
        for _ in range(10):
            assert lake.files(METRICS)
        assert len(asked) == 20  # a list, and the name of the last checkpoint


def test_a_table_that_a_run_keeps_open_is_the_newest(root: Place) -> None:
    lake = Lake(root)

    def by_another(value: float) -> None:
        Context().run(lake.replace, METRICS, metrics(value), nights=[NIGHT])

    def values() -> list[float]:
        return lake.scan(METRICS).collect()["value"].to_list()

    with lake.in_use():
        assert values() == []
        by_another(1.0)
        assert values() == [1.0]
        version = lake.version(METRICS)
        by_another(2.0)
        with pytest.raises(ConcurrentWriteError):
            lake.append(METRICS, metrics(9.0), after=version)
        assert values() == [2.0]
        lake.replace(METRICS, metrics(3.0), nights=[NIGHT])
        with Lake(root).in_use():
            assert values() == [3.0]
    for value in range(4, 16):  # over a checkpoint
        by_another(float(value))
    with lake.alone():
        assert values() == [15.0]
        lake.purge(METRICS)
        assert values() == [15.0]
        lake.replace(METRICS, metrics(16.0), nights=[NIGHT])
        lake.purge(METRICS)
        lake.purge(METRICS)
        assert values() == [16.0]
    with lake.in_use():
        assert values() == [16.0]


def test_rows_of_data_files_are_read_whatever_version_has_them(root: Place) -> None:
    lake = Lake(root)
    lake.replace(METRICS, metrics(1.0), nights=[NIGHT])
    [file] = lake.data_files(METRICS)
    name = file.path.removeprefix("metrics/")
    lake.replace(METRICS, metrics(2.0), nights=[NIGHT])
    rows = lake.rows_of(METRICS, [name])
    assert isinstance(rows, pl.LazyFrame) and rows.collect()["value"].to_list() == [1.0]
    lake.vacuum(METRICS, 0)
    assert lake.rows_of(METRICS, [name]) is None


def test_a_file_gets_another_place(root: Place) -> None:
    storage = storage_at(root)
    storage.write("a/one", b"1")
    storage.rename("a/one", "b/deep/two")
    assert [file.path for file in storage.files()] == ["b/deep/two"]
    assert storage.read("b/deep/two") == b"1"
