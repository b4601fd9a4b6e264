"""Labels as Parquet files, a folder a night: `<folder>/dt=YYYY-MM-DD/intent_labels-<hash>.parquet`.

A night's folder is swapped for the new one in one step. Its file is named after what is in it: a
reader that has listed the folder before opens the very file that it listed, or finds it gone; with
a file of the same name it could read the footer of one and the columns of the other.

The revisions of the night are in the metadata of its file, as JSON: so they come with the labels,
and whoever reads the folder finds nothing in it but labels.

What is published with the labels (`contract.COMPANIONS`) is in another folder,
`<with>/dt=YYYY-MM-DD/<table>-<hash>.parquet`. The metadata of the labels' file names these files. A
night without recommendations has no file of them.
So labels and what belongs to them change in the one step in which the labels do: new files come
before it, beside those of before, and what no labels name any more goes after it. A reader who
opens the labels first finds the files that they name, or finds that they are gone and begins again.
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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb
import polars as pl
import pyarrow as pa

from tasks.errors import PublishError
from tasks.lake import duck, hold_lock, tables
from tasks.settings import Settings
from tasks.targets import contract

FILES = "dt=*/*.parquet"
LABELS = tables.INTENT_LABELS.name
HASHED = r"-[0-9a-f]{16}\.parquet"
OURS = re.compile(LABELS + HASHED)
OURS_WITH = re.compile(f"({'|'.join(one.name for one in contract.COMPANIONS)}){HASHED}")
REVISIONS = "revisions"  # in a file's metadata: a JSON list of the night's revisions
WITH = "published_with"  # in it, too: the names of the files that belong to the labels, by table
NEW = ".new"  # below the folder: a night that is not finished; afterwards, the one before
PART = ".part"  # below the other folder: a file that is not finished


class Night(NamedTuple):
    """The files of a night as they were made: that of the labels, and those that it names."""

    labels: Path
    with_labels: list[Path]


def write_night(
    con: duckdb.DuckDBPyConnection,
    views: Mapping[str, str],
    folder: Path,
    day: str,
    revisions: pa.Table,
) -> Night:
    """Write the files of a day into a folder; the name of each ends in a digest of its content.

    views: with the rows of the day, by table. revisions: of any days.
    """
    named = {}
    with_labels = []
    for companion in contract.COMPANIONS:
        if companion.name in views:
            rows = con.table(duck.identifier(views[companion.name]))
            if companion.only_with_rows and not rows.limit(1).fetchall():
                continue
            columns = companion.table.schema.names
            order = ", ".join(companion.key or columns).removeprefix("dt, ")
            rows = rows.order(order)
            file = _write(con, rows, columns, folder / companion.name, {})
            named[companion.name] = file.name
            with_labels.append(file)
    of_day = [row for row in revisions.to_pylist() if row["dt"].isoformat() == day]
    metadata = {
        contract.KEY: str(contract.VERSION),
        REVISIONS: json.dumps(of_day, default=str),
    }
    if named:
        metadata[WITH] = json.dumps(named)
    rows = con.table(duck.identifier(views[LABELS])).order("user_id")
    return Night(_write(con, rows, contract.NAMES, folder / LABELS, metadata), with_labels)


def named_by(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the names of the files that belong to labels, by table, from their file's metadata.

    They are joined to a folder: nothing else than what publish writes is one.
    """
    named: dict[str, str] = json.loads(metadata.get(WITH, "{}"))
    return {table: name for table, name in named.items() if OURS_WITH.fullmatch(name)}


def rows_of(users: Sequence[str], rows: duckdb.DuckDBPyRelation) -> int:
    """Count the rows of these users; a table without users has none."""
    if "user_id" not in rows.columns:
        return 0
    return len(rows.filter(_is_one_of(users)))


def without(
    users: Sequence[str], files: Mapping[str, duckdb.DuckDBPyRelation]
) -> tuple[int, dict[str, str]]:
    """Make views of a night's rows but for those of these users.

    files: the rows of each table. Returns how many rows are left out, and the views by table.
    """
    found = 0
    views = {}
    for table, rows in files.items():
        found += rows_of(users, rows)
        if "user_id" in rows.columns:
            rows = rows.filter(~_is_one_of(users))
        views[table] = f"others in {table}"
        rows.create_view(views[table])
    return found, views


def _is_one_of(users: Sequence[str]) -> duckdb.Expression:
    return duckdb.ColumnExpression("user_id").isin(*map(duckdb.ConstantExpression, users))


class ParquetFolder:
    """The folder that `publish.parquet` names, and that of what is published with the labels."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder = Path(settings.publish.parquet)
        beside = self.folder.with_name(f"{self.folder.name}_with")
        self.with_labels = Path(settings.publish.parquet_with or beside)

    def __str__(self) -> str:
        return f"Parquet files in {self.folder}"

    def check(self) -> None:
        """Refuse a folder that is none, that is the lake's, or whose nights have others' files."""
        root = self.settings.lake.root
        for setting, folder, ours in (
            ("publish.parquet", self.folder, OURS),
            ("publish.parquet_with", self.with_labels, OURS_WITH),
        ):
            if isinstance(root, Path) and folder.resolve().is_relative_to(root.resolve()):
                raise PublishError(
                    f"{setting} is {folder}, inside of the lake {root}, where files that are in no "
                    "table are deleted: name a folder outside of it"
                )
            if folder.exists() and not folder.is_dir():
                raise PublishError(f"{setting} is {folder}, which is no folder: name one")
            for file in folder.glob("dt=*/*"):
                if not ours.fullmatch(file.name):
                    raise PublishError(
                        f"{file} is none of the files that publish writes, and readers of the "
                        f"folder would take it for one: move it away, or name another {setting}"
                    )
        if self.with_labels.resolve().is_relative_to(self.folder.resolve()):
            raise PublishError(
                f"publish.parquet_with is {self.with_labels}, inside of publish.parquet, where "
                "readers would take its files for labels: name a folder outside of it"
            )

    def publish(self, con: duckdb.DuckDBPyConnection, night: dt.date, revisions: pa.Table) -> None:
        """Replace the night's files; with the same content and revisions they stay untouched."""
        self.folder.mkdir(parents=True, exist_ok=True)
        names = (LABELS, *(companion.name for companion in contract.COMPANIONS))
        with self._locked():
            self._replace(con, dict(zip(names, names, strict=True)), f"dt={night}", revisions)

    def forget(self, users: Sequence[str], revisions: pa.Table) -> dict[str, int]:
        """Write the nights anew that have rows of these users; what a killed run left goes, too."""
        removed = nights = left = 0
        if self.folder.is_dir():
            with self._locked(), duck.connect(self.settings) as con:
                for file in sorted(self.folder.glob(FILES)):
                    files = {
                        table: con.read_parquet(str(path), hive_partitioning=False)
                        for table, path in self._files_of(file).items()
                    }
                    found, views = without(users, files)
                    if found:
                        self._replace(con, views, file.parent.name, revisions)
                        removed += found
                        nights += 1
                    else:
                        self._clear(file.parent.name)
                for folder in self.with_labels.glob("dt=*"):  # a run was killed before its labels
                    if not (self.folder / folder.name).exists():
                        shutil.rmtree(folder)
                for file in (*self.folder.glob(FILES), *self.with_labels.glob(FILES)):
                    rows = con.read_parquet(str(file), hive_partitioning=False)
                    left += rows_of(users, rows)
        return {"rows_removed": removed, "nights_rewritten": nights, "left": left}

    def _replace(
        self,
        con: duckdb.DuckDBPyConnection,
        views: Mapping[str, str],
        night: str,
        revisions: pa.Table,
    ) -> None:
        """Make the rows of views, by table, those of a night, which is the name of its folder."""
        new = self.folder / NEW
        new.mkdir()
        labels, with_labels = write_night(con, views, new, night.removeprefix("dt="), revisions)
        for file in with_labels:
            self._add(file, night)
        folder = self.folder / night
        if not (folder / labels.name).exists():
            # On the disk before readers can find it: a crash leaves the night before or this one.
            for path in (labels, new):
                _sync(path)
            if folder.exists():
                _swap(new, folder)
            else:
                new.rename(folder)
            _sync(self.folder)
        shutil.rmtree(new, ignore_errors=True)
        self._clear(night)

    def _add(self, file: Path, night: str) -> None:
        """Move a file to those of a night that are not the labels'; one that is there stays."""
        folder = self.with_labels / night
        if not (folder / file.name).exists():
            folder.mkdir(parents=True, exist_ok=True)
            # It may be on another file system; the name without a hash is none of a reader's.
            part = shutil.copyfile(file, self.with_labels / PART)
            _sync(Path(part))
            Path(part).rename(folder / file.name)
            _sync(folder)
        file.unlink()

    def _files_of(self, labels: Path) -> dict[str, Path]:
        """Return the files of a night by table: that of the labels, and those that it names."""
        folder = self.with_labels / labels.parent.name
        named = named_by(pl.read_parquet_metadata(labels))
        files = {table: folder / name for table, name in named.items()}
        return {LABELS: labels} | {table: file for table, file in files.items() if file.exists()}

    def _clear(self, night: str) -> None:
        """Delete the files of a night that its labels do not name."""
        [labels] = (self.folder / night).glob("*.parquet")
        named = set(self._files_of(labels).values())
        for file in (self.with_labels / night).glob("*.parquet"):
            if file not in named:
                file.unlink()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder alone, and take away what a killed run left; it held this lock, too."""
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            hold_lock(handle, fcntl.LOCK_EX, self.folder, "another run has published")
            shutil.rmtree(self.folder / NEW, ignore_errors=True)
            (self.with_labels / PART).unlink(missing_ok=True)
            yield
        finally:
            os.close(handle)


def _write(
    con: duckdb.DuckDBPyConnection,
    rows: duckdb.DuckDBPyRelation,
    columns: Sequence[str],
    path: Path,
    metadata: Mapping[str, str],
) -> Path:
    """Write rows without `dt`, which is the folder's, and name the file after what is in it."""
    key_values = ", ".join(f"{key}: {duck.literal(value)}" for key, value in metadata.items())
    written_with = f", KV_METADATA {{{key_values}}}" if metadata else ""
    chosen = ", ".join(name for name in columns if name != "dt")
    query = rows.select(chosen).sql_query()
    con.execute(
        f"COPY ({query}) TO {duck.literal(str(path))} "
        f"(FORMAT parquet, COMPRESSION zstd{written_with})"
    )
    with path.open("rb") as written:
        content = hashlib.file_digest(written, "sha256").hexdigest()[:16]
    return path.rename(path.with_name(f"{path.name}-{content}.parquet"))


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
