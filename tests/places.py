"""Places for a lake: a folder, and a bucket of a store that runs in this process."""

import datetime as dt
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.lake import storage_at
from tests.servers import s3

Place = Path | str


@pytest.fixture(scope="session")
def store() -> Iterator[str]:
    """Run a store; give its address."""
    with s3() as address:
        yield address


@contextmanager
def bucket(address: str) -> Iterator[str]:
    """Make an empty bucket that this process has keys of; yields its URL."""
    url = f"s3://test-{uuid.uuid4().hex}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in keys(address).items():
            patch.setenv(name, value)
        made = httpx.put(f"{address}/{url.removeprefix('s3://')}", trust_env=False)
        made.raise_for_status()
        yield url


def keys(address: str) -> dict[str, str]:
    """Return the environment in which the store is reached."""
    return {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": address,
        "AWS_REGION": "us-east-1",
    }


# Of a test that uses `root`: the store is asked for by the test that has the mark alone.
PLACES = ["folder", pytest.param("store", marks=[pytest.mark.servers, pytest.mark.slow])]
EVERYWHERE = pytest.mark.parametrize("place", PLACES, indirect=True)


@pytest.fixture(params=PLACES)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Give a place in which no lake is yet: a folder, then one in a store."""
    yield from _place(request, tmp_path)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Give a place as `root` does, but a folder alone to tests that are not marked EVERYWHERE."""
    yield from _place(request, tmp_path)


def _place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if getattr(request, "param", "folder") == "folder":
        yield tmp_path / "lake"
    else:
        with bucket(request.getfixturevalue("store")) as url:
            yield f"{url}/lake"


def put(folder: Path, place: Place) -> None:
    """Make a place hold the files of a folder."""
    storage = storage_at(place)
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        path = file.relative_to(folder).as_posix()
        if isinstance(place, Path):
            storage.write(path, file.read_bytes())
        else:
            bucket_name, _, key = place.removeprefix("s3://").partition("/")
            _backend().put_object(bucket_name, f"{key}/{path}", file.read_bytes())


def got(place: Place, to: Path) -> Path:
    """Return a folder with the files of a place, to be looked at; of a store it is a copy."""
    if isinstance(place, Path):
        return place
    storage = storage_at(place)
    for file in storage.files():
        copy = to / file.path
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(storage.read(file.path))
    return to


def age(place: Place, folder: str, *, hours: float) -> None:
    """Let what is in a folder of a place have been written some hours ago."""
    then = dt.datetime.now(dt.UTC) - dt.timedelta(hours=hours)
    if isinstance(place, Path):
        for path in (*(place / folder).rglob("*"), place / folder):
            os.utime(path, (then.timestamp(), then.timestamp()))
        return
    name, _, key = place.removeprefix("s3://").partition("/")
    for path, found in _backend().buckets[name].keys.items():
        if path.startswith(f"{key}/{folder}/"):
            found.last_modified = then.replace(tzinfo=None)


def objects(place: str) -> list[tuple[str, dt.datetime]]:
    """Return the objects of a place in a store of this process, and when they were written."""
    name, _, key = place.removeprefix("s3://").partition("/")
    keys_there = _backend().buckets[name].keys
    while True:
        try:
            found = [(path, one.last_modified) for path, one in keys_there.items()]
            break
        except RuntimeError:  # it is written to meanwhile
            continue
    return [(path, written) for path, written in found if path.startswith(f"{key}/")]


def _backend() -> Any:
    from moto.s3.models import s3_backends

    return s3_backends["123456789012"]["aws"]
