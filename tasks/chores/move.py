"""Move a lake from one place to another: from a folder to a store, back, or between two of a kind.

Every file is copied and read back, and its digest compared; then the tables are counted on both
sides. Until all of it is the same, steps refuse the new place; from then on they refuse the old
one, and say where the lake is. A move that was killed goes on when it is started again: what is
there already is compared, and copied only where it differs. The old files stay for a person to
delete.
"""

import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl

from tasks.errors import LakeError
from tasks.lake import MOVED, MOVING, NOT_OF_THE_LAKE, Lake, tables
from tasks.lake.storage import File
from tasks.settings import Settings

log = logging.getLogger(__name__)

AT_ONCE = 8  # files: a store takes some milliseconds to answer each
EVERY = 1000  # files after which the log says how far it is


def move(settings: Settings, source: Path | str, target: Path | str) -> dict[str, Any]:
    """Copy a lake to an empty place, verify the copy, and let steps use that one alone.

    The keys of a store are those of the settings under `lake`, for both.

    Returns the number of files and bytes, how many were copied now, and the rows of each table.

    Raises LakeError when there is no lake to move, the place is not empty, or the copy differs.
    """
    old, new = (_lake_at(settings, place) for place in (source, target))
    if old.root == new.root:
        raise LakeError(f"both places are {old.root}: name another one to move the lake to")
    if not old.storage.is_there():
        raise LakeError(f"there is no lake at {old.root}: correct the first place")
    # Not as steps do: they refuse a lake that is being moved.
    with old.turns.alone(), new.turns.alone():
        _refuse(old, new)
        if MOVED not in old.storage.names():
            new.storage.write(MOVING, str(old.root).encode())
            files = _files(old)
            _delete_what_is_of_before(new, files)
            copied = _copy(old, new, files)
            rows = _compare(old, new, files)
            old.storage.write(MOVED, str(new.root).encode())
        else:  # killed in the midst of the last two lines, or done
            files, copied, rows = _files(new), 0, _rows(new)
        new.storage.delete([MOVING])
    log.info("the lake is at %s now: set lake.root to it; %s can be deleted", new.root, old.root)
    return {
        "from": str(old.root),
        "to": str(new.root),
        "files": len(files),
        "bytes": sum(file.size for file in files),
        "copied": copied,
        "rows": rows,
    }


def _lake_at(settings: Settings, place: Path | str) -> Lake:
    lake = settings.lake.model_copy(update={"root": place})
    return Lake.of(settings.model_copy(update={"lake": lake}))


def _refuse(old: Lake, new: Lake) -> None:
    if MOVED in old.storage.names():
        other = old.storage.read(MOVED).decode().strip()
        if other != str(new.root):
            raise LakeError(f"the lake at {old.root} was moved to {other}: move it from there")
        return
    there = set(new.storage.names()) - NOT_OF_THE_LAKE
    if MOVING in there:
        other = new.storage.read(MOVING).decode().strip()
        if other != str(old.root):
            raise LakeError(
                f"{new.root} has the begun copy of the lake at {other}: go on with that one, or "
                "name an empty place"
            )
    elif there:
        raise LakeError(
            f"{new.root} is not empty (it has {sorted(there)[0]}): name an empty place, or delete "
            "what is there"
        )


def _files(lake: Lake) -> list[File]:
    """Return the files of a lake, without those that say who works on it or where it went."""
    left = NOT_OF_THE_LAKE | {MOVED, MOVING}
    return [file for file in lake.storage.files() if file.path.partition("/")[0] not in left]


def _delete_what_is_of_before(new: Lake, files: list[File]) -> None:
    """Take away what an earlier copy has and the lake has not any more."""
    wanted = {file.path for file in files}
    new.storage.delete(file.path for file in _files(new) if file.path not in wanted)


def _copy(old: Lake, new: Lake, files: list[File]) -> int:
    """Copy what is not there yet, and read it back; return how many files were copied."""
    sizes = {file.path: file.size for file in _files(new)}

    def copy(file: File) -> bool:
        with old.storage.copied(file.path) as here:
            digest = _digest(here)
            if sizes.get(file.path) == file.size and _digest_there(new, file) == digest:
                return False
            new.storage.send(here, file.path)
        if _digest_there(new, file) != digest:
            raise LakeError(
                f"{new.storage.at(file.path)} is not what was written there: see what else writes "
                "to that place, and move the lake again"
            )
        return True

    copied = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done, was_copied in enumerate(pool.map(copy, files), 1):
            copied += was_copied
            if done % EVERY == 0 or done == len(files):
                log.info("%d of %d files are at %s", done, len(files), new.root)
    return copied


def _compare(old: Lake, new: Lake, files: list[File]) -> dict[str, int]:
    """Make sure that both have the same files and rows; return the rows of each table."""
    wanted = [(file.path, file.size) for file in files]
    for lake in (old, new):
        if [(file.path, file.size) for file in _files(lake)] != wanted:
            raise LakeError(
                f"the files of {lake.root} changed while the lake was copied: stop what writes "
                "there, and move the lake again"
            )
    before, after = _rows(old), _rows(new)
    if before != after:
        different = next(name for name in before if before[name] != after[name])
        raise LakeError(
            f"table {different} has {before[different]} rows at {old.root} and {after[different]} "
            f"at {new.root}: move the lake again"
        )
    return after


def _rows(lake: Lake) -> dict[str, int]:
    return {
        name: lake.scan(table).select(pl.len()).collect().item()
        for name, table in tables.TABLES.items()
    }


def _digest_there(lake: Lake, file: File) -> str:
    with lake.storage.copied(file.path) as copy:
        return _digest(copy)


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
