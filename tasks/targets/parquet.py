"""Labels as Parquet files, a folder a night: `<folder>/dt=YYYY-MM-DD/intent_labels-<hash>.parquet`.

A night's folder is swapped for the new one in one step. Its file is named after what is in it: a
reader that has listed the folder before opens the very file that it listed, or finds it gone; with
a file of the same name it could read the footer of one and the columns of the other.

The revisions of the night are in the metadata of its file, as JSON: so they come with the labels,
and whoever reads the folder finds nothing in it but labels.
"""

import contextlib
import ctypes
import datetime as dt
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from tasks.errors import PublishError
from tasks.lake import duck, hold_lock
from tasks.settings import Settings
from tasks.targets import contract

FILES = "dt=*/*.parquet"
OURS = re.compile(r"intent_labels-[0-9a-f]{16}\.parquet")
REVISIONS = "revisions"  # in a file's metadata: a JSON list of the night's revisions
NEW = ".new"  # below the folder: a night that is not finished; afterwards, the one before


def write_labels(
    con: duckdb.DuckDBPyConnection, view: str, file: Path, day: str, revisions: pa.Table
) -> str:
    """Write the labels of a day to a file; return 16 hexadecimal digits that stand for them.

    view: the labels, without those of other days. revisions: of any days.
    """
    columns = ", ".join(name for name in contract.NAMES if name != "dt")  # it is the folder's
    of_night = [row for row in revisions.to_pylist() if row["dt"].isoformat() == day]
    metadata = {
        contract.KEY: str(contract.VERSION),
        REVISIONS: json.dumps(of_night, default=str),
    }
    key_values = ", ".join(f"{key}: {duck.literal(value)}" for key, value in metadata.items())
    con.execute(
        f"COPY (SELECT {columns} FROM {view} ORDER BY user_id) TO {duck.literal(str(file))} "
        f"(FORMAT parquet, COMPRESSION zstd, KV_METADATA {{{key_values}}})"
    )
    with file.open("rb") as written:
        return hashlib.file_digest(written, "sha256").hexdigest()[:16]


class ParquetFolder:
    """The folder that `publish.parquet` names."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder = Path(settings.publish.parquet)

    def __str__(self) -> str:
        return f"Parquet files in {self.folder}"

    def check(self) -> None:
        """Refuse a folder that is none, that is the lake's, or whose nights have others' files."""
        root = self.settings.lake.root
        if isinstance(root, Path) and self.folder.resolve().is_relative_to(root.resolve()):
            raise PublishError(
                f"publish.parquet is {self.folder}, inside of the lake {root}, where files that "
                "are in no table are deleted: name a folder outside of it"
            )
        if self.folder.exists() and not self.folder.is_dir():
            raise PublishError(f"publish.parquet is {self.folder}, which is no folder: name one")
        for file in self.folder.glob("dt=*/*"):
            if not OURS.fullmatch(file.name):
                raise PublishError(
                    f"{file} is none of the files that publish writes, and readers of the folder "
                    "would take it for labels: move it away, or name another publish.parquet"
                )

    def publish(self, con: duckdb.DuckDBPyConnection, night: dt.date, revisions: pa.Table) -> None:
        """Replace the night's folder; one with the same labels and revisions stays untouched."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._replace(con, "intent_labels", self.folder / f"dt={night}", revisions)

    def forget(self, users: Sequence[str], revisions: pa.Table) -> dict[str, int]:
        """Write the nights anew that have rows of these users; what a killed run left goes, too."""
        removed = nights = left = 0
        if self.folder.is_dir():
            with self._locked(), duck.connect(self.settings) as con:
                con.register("wanted", pa.table({"value": pa.array(users, pa.string())}))
                is_wanted = "user_id IN (SELECT value FROM wanted)"
                for file in sorted(self.folder.glob(FILES)):
                    rows = con.read_parquet(str(file))
                    if found := len(rows.filter(is_wanted)):
                        rows.filter(f"NOT {is_wanted}").create_view("others")
                        self._replace(con, "others", file.parent, revisions)
                        removed += found
                        nights += 1
                for file in self.folder.glob(FILES):
                    left += len(con.read_parquet(str(file)).filter(is_wanted))
        return {"rows_removed": removed, "nights_rewritten": nights, "left": left}

    def _replace(
        self, con: duckdb.DuckDBPyConnection, view: str, night: Path, revisions: pa.Table
    ) -> None:
        new = self.folder / NEW
        new.mkdir()
        file = new / "unnamed"
        content = write_labels(con, view, file, night.name.removeprefix("dt="), revisions)
        named = file.rename(new / f"intent_labels-{content}.parquet")
        if not (night / named.name).exists():
            # On the disk before readers can find it: a crash leaves the night before or this one.
            for path in (named, new):
                _sync(path)
            if night.exists():
                _swap(new, night)
            else:
                new.rename(night)
            _sync(self.folder)
        shutil.rmtree(new, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder alone, and take away what a killed run left; it held this lock, too."""
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            hold_lock(handle, fcntl.LOCK_EX, self.folder, "another run has published")
            shutil.rmtree(self.folder / NEW, ignore_errors=True)
            yield
        finally:
            os.close(handle)


def _swap(one: Path, other: Path) -> None:
    """Exchange the names of two folders in one step; Python has no function for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin":
        failed = libc.renamex_np(*paths, 2)  # RENAME_SWAP
    else:
        here = -100  # AT_FDCWD: relative to the current folder
        failed = libc.renameat2(here, paths[0], here, paths[1], 2)  # RENAME_EXCHANGE
    if failed:
        code = ctypes.get_errno()
        if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise PublishError(
                f"the file system of {other} cannot swap folders in one step ({os.strerror(code)}):"
                " name a publish.parquet on a local disk, or remove this folder and run publish "
                "for the night again"
            )
        raise OSError(code, os.strerror(code), str(other))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
