"""Moving a lake: the same files and rows at the other place, and one lake in use at any time."""

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.chores import move as moving
from tasks.chores.move import move
from tasks.errors import LakeError
from tasks.lake import MODELS, MOVED, MOVING, PAGES, Lake, tables
from tasks.settings import Settings, load_settings
from tests.places import Place, bucket

NIGHT = dt.date(2026, 11, 20)
SETTINGS = load_settings()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a small lake in a folder."""
    lake = Lake(tmp_path / "shop")
    fill(lake)
    return tmp_path / "shop"


def fill(lake: Lake) -> None:
    with lake.in_use():
        for value in (1.0, 2.0):  # the first is of an old version
            row = {"dt": NIGHT, "metric": "HR@5", "value": value}
            rows = pa.Table.from_pylist([row], schema=tables.METRICS.schema)
            lake.replace(tables.METRICS, rows, nights=[NIGHT])
        lake.storage.write(f"{MODELS}/v/weights", b"\0" * 3000)
        lake.storage.write(f"{PAGES}/{NIGHT}/events/page.html", "ü".encode())
        lake.storage.write("source.txt", b"/data/events\n")


def content(lake: Lake) -> dict[str, bytes]:
    storage = lake.storage
    return {file.path: storage.read(file.path) for file in moving._files(lake)}


def test_a_moved_lake_is_the_same_there_and_refused_where_it_was(
    folder: Path, root: Place, tmp_path: Path
) -> None:
    target = root if isinstance(root, str) else tmp_path / "other"
    old, new = Lake(folder), Lake(target)
    before = content(old)
    done = move(SETTINGS, folder, target)
    assert content(new) == before and done["files"] == done["copied"] == len(before)
    assert done["rows"]["metrics"] == 1
    with new.in_use():
        assert new.scan(tables.METRICS).collect()["value"].to_list() == [2.0]
        fill(new)
    for turn in (old.in_use, old.alone):
        with pytest.raises(LakeError, match=f"was moved: set lake.root to {target}"), turn():
            pass
    assert move(SETTINGS, folder, target)["copied"] == 0
    with pytest.raises(LakeError, match=f"was moved to {target}: move it from there"):
        move(SETTINGS, folder, tmp_path / "third")
    # And back, to a place of its own.
    move(SETTINGS, target, tmp_path / "back")
    assert content(Lake(tmp_path / "back")) == content(new)


def test_a_move_that_was_killed_goes_on_and_nothing_uses_half_a_lake(
    folder: Path, root: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = root if isinstance(root, str) else tmp_path / "other"
    old, new = Lake(folder), Lake(target)
    send, sent = type(new.storage).send, []

    def killed(self: object, file: Path, path: str) -> None:
        if len(sent) == 3:
            raise KeyboardInterrupt
        sent.append(path)
        send(self, file, path)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(moving, "AT_ONCE", 1)
        patch.setattr(type(new.storage), "send", killed)
        with pytest.raises(KeyboardInterrupt):
            move(SETTINGS, folder, target)
    with pytest.raises(LakeError, match="is a copy that is not whole yet"), new.in_use():
        pass
    new.storage.write(sent[0], b"?" * len(new.storage.read(sent[0])))  # damaged, of the same size
    new.storage.write("events/of-before.parquet", b"?")
    with old.in_use():  # the lake is there still, and goes on
        old.storage.write(f"{MODELS}/w/weights", b"\1")
    before = content(old)
    done = move(SETTINGS, folder, target)
    assert content(new) == before and MOVING not in new.storage.names()
    assert done["copied"] == len(before) - 2


def test_a_place_that_a_lake_cannot_be_moved_to_is_named(folder: Path, tmp_path: Path) -> None:
    def refused(source: Path, target: Path, says: str) -> None:
        with pytest.raises(LakeError, match=says):
            move(SETTINGS, source, target)

    refused(folder, folder, "both places are")
    refused(tmp_path / "none", tmp_path / "other", "there is no lake at")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letters").touch()
    refused(folder, tmp_path / "full", r"is not empty \(it has letters\)")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / MOVING).write_text("/lakes/another")
    refused(folder, tmp_path / "begun", "has the begun copy of the lake at /lakes/another")
    assert MOVED not in Lake(folder).storage.names()


@pytest.mark.servers
def test_the_keys_of_a_connection_are_those_of_both_places(folder: Path, store: str) -> None:
    with bucket(store) as url:
        settings: Settings = load_settings(lake={"root": folder, "endpoint": store})
        assert move(settings, folder, f"{url}/lake")["files"] == len(content(Lake(folder)))
