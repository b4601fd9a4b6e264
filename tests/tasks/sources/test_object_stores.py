"""Events in an S3-compatible store: the same as in a folder, and what is said when it is not so."""

import datetime as dt
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from typer.testing import CliRunner

from tasks.__main__ import app
from tasks.connections import looked_up_by
from tasks.errors import PipelineError, SettingsError, SourceError
from tasks.lake import Lake, tables
from tasks.night.ingest import ingest, latest_night
from tasks.settings import Settings, load_settings
from tasks.sources import source_of
from tasks.sources.places import Address
from tests.servers import free_port, s3

NIGHT = dt.date(2026, 11, 2)
HEADER = "user_id,item_id,timestamp\n"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3() as address:
        yield address


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give an empty bucket `log`, and this process keys."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": server,
        "AWS_ALLOW_HTTP": "false",  # the address says it
    }.items():
        monkeypatch.setenv(name, value)
    httpx.post(f"{server}/moto-api/reset", trust_env=False).raise_for_status()
    store = boto3.resource("s3", endpoint_url=server, region_name="us-east-1")
    return store.create_bucket(Bucket="log")


def settings_for(path: str, lake: Path, **source: Any) -> Settings:
    return load_settings(
        source={"path": path, **source},
        lake={"root": lake},
        duckdb={"threads": 2, "temp_directory": str(lake.parent / "scratch")},
    )


def rows(user: str, *hours: int) -> str:
    return HEADER + "".join(f"{user},i{hour},2026-11-02T{hour:02}:00:00Z\n" for hour in hours)


def names(path: str, tmp_path: Path, **source: Any) -> list[str]:
    end = dt.datetime(2026, 11, 3, tzinfo=dt.UTC)
    settings = settings_for(path, tmp_path / "lake", **source)
    return [part.name for part in source_of(settings).parts(None, end)]


def content(root: Path) -> list[pl.DataFrame]:
    lake = Lake(root)
    return [
        lake.scan(table).sort("dt", "source", *more).collect()
        for table, more in (
            (tables.EVENTS, ["row_number"]),
            (tables.QUARANTINE, ["row_number"]),
            (tables.INGESTS, []),
        )
    ]


def test_a_store_gives_the_same_events_as_a_folder(tmp_path: Path, bucket: Any) -> None:
    folder = tmp_path / "events"
    day = folder / "dt=2026-11-02"
    day.mkdir(parents=True)
    (folder / "a b.csv").write_text(rows("ann", 1, 2) + ",no user,2026-11-02T05:00:00Z\n")
    (day / "ö#?%41[x].csv.gz").write_bytes(gzip.compress(rows("bob", 3, 4).encode()))
    (day / "lines.jsonl").write_text('{"user": 7, "item": "x", "ts": 1793620800}\n')
    pl.DataFrame({"user": ["c"], "item": [1], "ts": [1793620800000]}).write_parquet(
        day / "p.parquet"
    )
    with pa.output_stream(str(day / "z.csv.zst"), compression="zstd") as stream:
        stream.write(rows("dan", 6, 7, 8).encode())
    # Nothing but its first bytes says what it is: ids, which do not belong to a log with times.
    (day / "seq.txt").write_text("u1 a b c\n")
    (folder / "_SUCCESS").write_text("")
    (day / ".part.csv").write_text("hidden")
    (folder / "notes.md").write_text("not events")
    for path in folder.rglob("*"):
        if path.is_file():
            bucket.upload_file(str(path), f"shop/{path.relative_to(tmp_path).as_posix()}")
    bucket.put_object(Key="shop/events/", Body=b"")  # how a web page makes a folder
    bucket.put_object(Key="shop/events/dt=2026-11-02/", Body=b"")
    bucket.put_object(Key="shop/events-of-others/x.csv", Body=rows("eve", 1).encode())

    local = ingest(settings_for(str(folder), tmp_path / "one"), NIGHT)
    stored = ingest(settings_for("s3://log/shop/events/", tmp_path / "two"), NIGHT)
    assert local.pop("source") != stored.pop("source")
    assert local["left_out"] == ["dt=2026-11-02/seq.txt", "notes.md"]
    assert stored == local and local["rows_read"] == 10 and local["rows_quarantined"] == 1
    for one, two in zip(content(tmp_path / "one"), content(tmp_path / "two"), strict=True):
        assert one.equals(two)
    assert not list((tmp_path / "scratch").glob("elcrec-*"))


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("s3://log", ["a/b/two.csv", "a/one.csv", "c.csv", "d/e/f/three.csv"]),
        ("s3://log/a", ["b/two.csv", "one.csv"]),
        ("s3://log/a/one.csv", ["one.csv"]),
        ("s3://log/a/*.csv", ["one.csv"]),
        ("s3://log/*/*/*.csv", ["a/b/two.csv"]),
        ("s3://log/**/t*.csv", ["a/b/two.csv", "d/e/f/three.csv"]),
        ("s3://log/[cd]*", ["c.csv"]),
    ],
)
def test_a_url_names_a_prefix_an_object_or_a_glob(
    tmp_path: Path, bucket: Any, path: str, wanted: list[str]
) -> None:
    for key in ("a/one.csv", "a/b/two.csv", "c.csv", "d/e/f/three.csv", "_x/no.csv"):
        bucket.put_object(Key=key, Body=rows("u", 1).encode())
        (tmp_path / "log" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "log" / key).write_text(rows("u", 1))
    assert names(path, tmp_path) == wanted
    assert names(path.replace("s3://log", f"{tmp_path}/log"), tmp_path) == wanted


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("s3://nowhere/x", "there is no bucket nowhere: correct source.path or source.endpoint"),
        ("s3://log/nothing", "s3://log/nothing, where nothing is"),
        ("s3://log/empty/*.csv", "has no event files"),
        ("s3://log/../etc", "without empty parts, . and .."),
        ("s3://log//x", "without empty parts"),
        ("s3:///x", "of URLs those are read that are written s3://bucket/folder"),
        ("gs://log/x", "of URLs those are read that are written s3://bucket/folder"),
        ("file:///etc", "of URLs those are read that are written s3://bucket/folder"),
        ("s3://log/bad", "s3://log/bad/x.csv is empty"),
        ("s3://log/cut", "s3://log/cut/x.csv.gz is cut short: deliver it again"),
        ("s3://log/columns", "s3://log/columns/x.csv has no column user_id"),
        ("s3://log/keys", "rename the object"),
    ],
)
def test_what_a_person_has_to_mend_is_one_sentence(
    tmp_path: Path, bucket: Any, path: str, sentence: str
) -> None:
    for key, body in {
        "empty/readme.md": b"x",
        "bad/x.csv": b"",
        "cut/x.csv.gz": gzip.compress(rows("u", *range(24)).encode())[:-20],
        "columns/x.csv": b"a,b\n1,2\n",
        "keys//x.csv": b"x",
    }.items():
        bucket.put_object(Key=key, Body=body)
    with pytest.raises(SourceError) as raised:
        ingest(settings_for(path, tmp_path / "lake"), NIGHT)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
    assert not list((tmp_path / "scratch").glob("elcrec-*"))


def delta_options(server: str) -> dict[str, str]:
    """Let deltalake write to the store."""
    return {"aws_endpoint_url": server, "allow_http": "true", "aws_region": "us-east-1"}


def event(day: int, hour: int, item: str) -> dict[str, Any]:
    return {
        "user_id": "ann",
        "item_id": item,
        "ts": dt.datetime(2026, 11, day, hour, tzinfo=dt.UTC),
    }


def test_a_delta_table_in_a_store_gives_each_night_what_it_gives_in_a_folder(
    tmp_path: Path, server: str, bucket: Any
) -> None:
    places: dict[str, dict[str, str] | None] = {
        str(tmp_path / "events"): None,
        "s3://log/shop/events": delta_options(server),
    }

    def put(*events: dict[str, Any]) -> None:
        for place, options in places.items():
            write_deltalake(
                place, pl.DataFrame(events).to_arrow(), mode="append", storage_options=options
            )

    def night(day: int, **source: Any) -> tuple[int, dict[str, int]]:
        summaries = [
            ingest(
                settings_for(place, tmp_path / str(n), kind="delta", **source),
                dt.date(2026, 11, day),
            )
            for n, place in enumerate(places)
        ]
        assert summaries[0].pop("source") != summaries[1].pop("source")
        assert summaries[0] == summaries[1]
        local, stored = (content(tmp_path / str(n)) for n in range(2))
        assert all(one.equals(two) for one, two in zip(local, stored, strict=True))
        return summaries[1]["rows_read"], summaries[1]["changed_nights"]

    put(event(1, 10, "before"), event(2, 10, "own"))
    put(event(3, 0, "early"))  # here before night 2 runs
    assert night(2) == (2, {})
    put(event(3, 10, "next"), event(2, 23, "late"))
    assert night(3) == (3, {"2026-11-02": 1})  # the file of `before` is not read again
    put(event(2, 12, "later"), event(4, 10, "last"))
    assert night(2) == (2, {})  # the version that it read before
    assert night(4) == (2, {"2026-11-02": 1})
    # As it is now; what the last night brought late is of its own day then.
    assert night(2, reread=True)[0] == 6
    for place, options in places.items():
        DeltaTable(place, storage_options=options).delete("item_id = 'own'")
    assert night(2, reread=True)[0] == 5


@pytest.mark.parametrize("where", ["s3://log/shop/events", "s3://log/nothing", "s3://nowhere/x"])
def test_what_a_person_has_to_mend_of_a_delta_table_in_a_store_is_one_sentence(
    tmp_path: Path, server: str, bucket: Any, where: str
) -> None:
    says = {
        "s3://log/shop/events": "lacks data files of its newest version 0",
        "s3://log/nothing": "s3://log/nothing, which is no Delta table",
        "s3://nowhere/x": "there is no bucket nowhere: correct source.path or source.endpoint",
    }
    table = pl.DataFrame([event(2, 10, "a")]).to_arrow()
    write_deltalake("s3://log/shop/events", table, storage_options=delta_options(server))
    bucket.objects.filter(Prefix="shop/events/part-").delete()
    with pytest.raises(SourceError) as raised:
        ingest(settings_for(where, tmp_path / "lake", kind="delta"), NIGHT)
    assert says[where] in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (OSError("Kernel error -> Generic S3 error\n \x1b[31m↳\x1b[0m ... 503"), ConnectionError),
        (OSError("Generic S3 error\n \x1b[31m↳\x1b[0m GET http://169.254.169.254/"), SourceError),
        (OSError("Operation not supported\n \x1b[31m↳\x1b[0m loading credentials"), SourceError),
        (OSError("The operation lacked the necessary privileges to complete"), SourceError),
        (OSError("<Code>NoSuchBucket</Code> Generic S3 error"), SourceError),
        (OSError(28, "No space left on device"), OSError),
    ],
)
def test_what_deltalake_says_of_a_store_is_told_apart(
    tmp_path: Path, error: Exception, becomes: type[Exception]
) -> None:
    address = Address(settings_for("s3://log/table", tmp_path / "lake").source)
    with pytest.raises(becomes) as raised, address.explaining(OSError):
        raise error
    assert "\n" not in str(raised.value) and "\x1b" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["files", "delta"])
def test_a_store_that_does_not_answer_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    address = f"http://127.0.0.1:{free_port()}"
    settings = settings_for("s3://log/x", tmp_path / "lake", endpoint=address, kind=kind)
    with pytest.raises(ConnectionError, match="s3://log/x cannot be read") as raised:
        ingest(settings, NIGHT)
    assert not isinstance(raised.value, PipelineError) and "secret" not in str(raised.value)


@pytest.fixture
def keys(server: str, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """Give the only keys that the store takes."""
    bucket.put_object(Key="events/a.csv", Body=rows("ann", 1).encode())
    table = pl.DataFrame([event(2, 10, "a")]).to_arrow()
    write_deltalake("s3://log/table", table, storage_options=delta_options(server))
    people = boto3.client("iam", endpoint_url=server, region_name="us-east-1")
    people.create_user(UserName="reader")
    policy = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    people.put_user_policy(
        UserName="reader",
        PolicyName="read",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [policy]}),
    )
    made = people.create_access_key(UserName="reader")["AccessKey"]
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)

    def asked(actions_without_keys: str) -> None:
        address = f"{server}/moto-api/reset-auth"
        httpx.post(address, content=actions_without_keys, trust_env=False).raise_for_status()

    asked("0")
    yield made["AccessKeyId"], made["SecretAccessKey"]
    asked("inf")


@pytest.mark.parametrize(
    ("kind", "path"), [("files", "s3://log/events"), ("delta", "s3://log/table")]
)
def test_keys_and_address_come_from_a_connection(
    tmp_path: Path, server: str, keys: tuple[str, str], kind: str, path: str
) -> None:
    pair = ":".join(key.replace("/", "%2F").replace("+", "%2B") for key in keys)
    address = server.replace(":", "%3A").replace("/", "%2F")
    uri = f"aws://{pair}@/?endpoint_url={address}&region_name=us-east-1"
    settings = settings_for(path, tmp_path / "lake", kind=kind, connection="event_store")
    with looked_up_by(lambda name: {"event_store": uri}[name]):
        assert ingest(settings, NIGHT)["rows_events"] == 1


@pytest.mark.parametrize(
    ("kind", "path"), [("files", "s3://log/events"), ("delta", "s3://log/table")]
)
def test_keys_come_from_the_environment(
    tmp_path: Path,
    server: str,
    keys: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    path: str,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys[1])
    # The settings go before the environment.
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    settings = settings_for(path, tmp_path / "lake", kind=kind, endpoint=server)
    assert ingest(settings, NIGHT)["rows_events"] == 1


@pytest.mark.parametrize(
    ("kind", "path"), [("files", "s3://log/events"), ("delta", "s3://log/table")]
)
def test_keys_that_are_refused_are_a_sentence_without_them(
    tmp_path: Path,
    server: str,
    keys: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    path: str,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    settings = settings_for(path, tmp_path / "lake", kind=kind, endpoint=server)
    with pytest.raises(SourceError, match=f"{path} is refused") as raised:
        ingest(settings, NIGHT)
    assert "not-the-secret" not in str(raised.value) and keys[0] not in str(raised.value)


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("postgresql://me:hidden@db/log", "of type postgresql, not aws"),
        ("aws://key:hid/den@/", "has no valid key and secret"),
        ("aws://hidden@/", "has no valid key and secret"),
        ("aws://key:hidden@/?role_arn=arn", "has role_arn, which is not read here"),
        ("aws://key:hidden@/?__extra__=%7B%22role_arn%22%3A+%22a%22%7D", "has role_arn"),
    ],
)
def test_a_connection_that_is_no_store_is_refused_without_its_secret(
    tmp_path: Path, uri: str, sentence: str
) -> None:
    settings = settings_for("s3://log/events", tmp_path / "lake", connection="event_store")
    with (
        looked_up_by(lambda _: uri),
        pytest.raises(SettingsError, match="connection event_store") as raised,
    ):
        source_of(settings)
    assert sentence in str(raised.value) and "hid" not in str(raised.value).replace("which", "")


def test_the_command_line_takes_a_url(
    tmp_path: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put_object(Key="events/a.csv", Body=rows("ann", 1, 2).encode())
    lake = str(tmp_path / "lake")
    arguments = ["ingest", "--events", "s3://log/events", "--night", str(NIGHT), "--lake", lake]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert Lake(tmp_path / "lake").scan(tables.EVENTS).collect().height == 2


def test_the_last_night_of_a_store_is_found(tmp_path: Path, bucket: Any) -> None:
    bucket.put_object(Key="events/a.csv", Body=rows("ann", 1).encode())
    assert latest_night(settings_for("s3://log/events", tmp_path / "lake")) == NIGHT


def test_a_catalogue_may_lie_in_a_store(tmp_path: Path, bucket: Any) -> None:
    rows = pl.DataFrame({"item_id": [1, 2], "title": ["A", "B"]})
    rows.head(1).write_csv(tmp_path / "items.csv")
    bucket.upload_file(str(tmp_path / "items.csv"), "shop/items.csv")
    write_deltalake("s3://log/table", rows.to_arrow(), storage_options={"allow_http": "true"})
    bucket.put_object(Key="events.csv", Body=b"user_id,item_id,ts\nu,1,2026-11-02T01:00:00Z\n")
    lakes = (tmp_path / str(number) for number in range(3))

    def read(**catalogue: str) -> dict[str, Any]:
        source = {"path": "s3://log/events.csv"}
        return ingest(
            load_settings(source=source, catalogue=catalogue, lake={"root": next(lakes)}), NIGHT
        )

    assert read(path="s3://log/shop")["catalogue"]["items"] == 1
    assert read(path="s3://log/table", kind="delta")["catalogue"]["items"] == 2
    with pytest.raises(SourceError, match=r"catalogue\.path is s3://log/nothing, where nothing is"):
        read(path="s3://log/nothing")
