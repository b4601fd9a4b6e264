"""Where files and tables lie: in a folder of this machine, or in an S3-compatible store.

An object is copied to this machine while it is read, one at a time and in small pieces, so that
each format, compression and check is the same as that of a file.
"""

import datetime as dt
import glob
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

import pyarrow as pa

from tasks import stores
from tasks.errors import SourceError
from tasks.settings import ReadSettings, Settings
from tasks.sources.lines import compression_of
from tasks.stores import Said

PIECE = 8 * 1024 * 1024  # bytes of an object that are in memory at a time, about
START = 64 * 1024  # bytes of a file that tell its kind

# Tables by a folder of theirs, and what has to be in it.
TABLES = {
    "_delta_log": ("a Delta", "", 'set source.kind = "delta" and source.path to this folder'),
    ".hoodie": ("a Hudi", "", "export its rows to Parquet files"),
    "metadata": ("an Iceberg", ".metadata.json", "export its rows to Parquet files"),
}
NO_FILE = "no file, but a pipe, a socket or a device"
A_FOLDER = "a folder that source.path fits: let it fit the files within"
A_LINK = "a link to a folder, which is not followed: name the folder in source.path"


class Found(NamedTuple):
    """A file, by its path below the place with / between the folders."""

    name: str
    modified: dt.datetime


class Place(Protocol):
    """Files below a common root."""

    passed: dict[str, str]  # what `find` met that is no file, and what it is

    def find(self) -> list[Found]:
        """List the files in the order of their folders and names.

        Names that start with a dot or an underscore, and what is in such folders, are left out.

        Raises
        ------
        SourceError
            A folder is a table whose files hold rows that it no longer has.
        """
        ...

    def start(self, name: str) -> bytes:
        """Return the first bytes of a file, unpacked."""
        ...

    def shown(self, name: str) -> str:
        """Return how messages name a file."""
        ...

    def fetched(self, name: str) -> AbstractContextManager[Path]:
        """Have a file on this machine within the block."""
        ...


def place_of(settings: Settings) -> Place:
    """Return the place that `source.path` names: a folder, a file or a glob, or the URL of one.

    Raises
    ------
    SourceError
        The path is not set, does not exist, or is a URL of another kind.
    """
    path = settings.source.path
    if not path:
        raise SourceError(
            "source.path is not set: name a folder, a file or a glob with events, "
            "for example ELCREC_SOURCE__PATH=events/"
        )
    if "://" not in path:
        return Folder(Path(path))
    scratch = Path(settings.duckdb.temp_directory or tempfile.gettempdir())
    return Bucket(settings.source, scratch)


class Folder:
    """Files of this machine; a link may not lead out of the folder."""

    def __init__(self, path: Path) -> None:
        self.only, self.root, self.pattern = None, path, "**"
        self.passed: dict[str, str] = {}
        if path.is_file():
            self.only, self.root = path, path.parent
        elif path.exists() and not path.is_dir():
            raise SourceError(
                f"source.path is {path}, which is {NO_FILE}: write the events to a file"
            )
        elif not path.is_dir():
            self.root = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
            self.pattern = str(path.relative_to(self.root))
            if self.pattern == "." or not self.root.is_dir():
                raise SourceError(
                    f"source.path is {path}, which does not exist: correct the path, or mount it"
                )

    def find(self) -> list[Found]:
        """List the files; SourceError for a file or a folder that lies outside of the folder."""
        self.passed = {}
        files = {self.only.name: self.only} if self.only else self._listed()
        root = self.root.resolve()
        names = list(files) if self.only else _visible(files)
        parents = {self.root / parent for name in names for parent in PurePosixPath(name).parents}
        logs = {
            (parent / log).relative_to(self.root).as_posix()
            for parent in parents
            for log in _logs_in(parent)
        }
        _refuse_tables(self.root, names, logs)
        for folder in self.root.parents:  # a folder of one of its partitions
            _refuse_tables(folder, ["."], _logs_in(folder))
        for name in names:
            try:
                name.encode()
            except UnicodeEncodeError:
                raise SourceError(
                    f"{self.root} has a file whose name is not UTF-8, {os.fsencode(name)!r}: "
                    "rename it"
                ) from None
            if not (real := files[name].resolve()).is_relative_to(root):
                raise _leads_out(files[name], real, self.root)
        return [
            Found(name, dt.datetime.fromtimestamp(files[name].stat().st_mtime, dt.UTC))
            for name in names
        ]

    def _listed(self) -> dict[str, Path]:
        """Return every file that the pattern names, by its path below the root."""
        pattern, root = self.pattern.split("/"), self.root.resolve()
        files: dict[str, Path] = {}
        if "**" not in pattern:  # which names a depth: to look at all below would take longer
            for path in self.root.glob(self.pattern):
                name = path.relative_to(self.root).as_posix()
                if self._is_file(name, path):
                    files[name] = path
            return files
        for folder, folders, names in os.walk(self.root):
            here = Path(folder)
            below = "" if here == self.root else f"{here.relative_to(self.root).as_posix()}/"
            for name in folders:
                link = here / name
                if not link.is_symlink() or not _visible([below + name]):
                    continue
                # A link is not followed: it may lead to a folder that it lies in.
                if not (real := link.resolve()).is_relative_to(root):
                    raise _leads_out(link, real, self.root)
                self.passed[f"{below}{name}"] = A_LINK
            for name in names:
                path, name = here / name, f"{below}{name}"
                if _matches(name.split("/"), pattern) and self._is_file(name, path):
                    files[name] = path
        return files

    def _is_file(self, name: str, path: Path) -> bool:
        """Whether it is a file; what else it is is told in `passed`.

        Raises SourceError for a link to nothing, whose rows would be missing.
        """
        if path.is_file() or not _visible([name]):
            return path.is_file()
        if not path.exists():
            raise SourceError(
                f"{path} is a link to {path.readlink()}, where nothing is: deliver the file "
                "itself, or remove the link"
            )
        if not path.is_dir():
            self.passed[name] = NO_FILE
        elif path.is_symlink():
            self.passed[name] = A_LINK
        elif any(path.iterdir()):
            self.passed[name] = A_FOLDER
        return False

    def shown(self, name: str) -> str:
        """Return the path."""
        return str(self.root / name)

    def fetched(self, name: str) -> AbstractContextManager[Path]:
        """Return the path: it is here."""
        return nullcontext(self.root / name)

    def start(self, name: str) -> bytes:
        """Return the first bytes of a file, unpacked."""
        with (self.root / name).open("rb") as file:
            return _unpacked(file.read(START))


SAID = Said(
    url="source.path",
    connection="source.connection",
    endpoint="source.endpoint",
    region="source.region",
    error=SourceError,
)


class Address(stores.Address):
    """What `source.path` names in an S3-compatible store, by a URL such as s3://bucket/events."""

    def __init__(self, source: ReadSettings) -> None:
        super().__init__(
            source.path,
            SAID,
            connection=source.connection,
            endpoint=source.endpoint,
            region=source.region,
            schemes=("s3",),
        )


class Bucket:
    """Objects of an S3-compatible store below a prefix, or that fit a glob."""

    def __init__(self, source: ReadSettings, scratch: Path) -> None:
        self.address, self.scratch = Address(source), scratch
        self.passed: dict[str, str] = {}
        parts = self.address.parts
        self.root = list(takewhile(lambda part: not glob.has_magic(part), parts))
        self.pattern = parts[len(self.root) :]
        self.store = self.address.store()

    def find(self) -> list[Found]:
        """List the objects; SourceError for a bucket that is not there or not open to us."""
        import obstore

        prefix = "/".join(self.root)
        with self.address.explaining():
            objects = [one for chunk in obstore.list(self.store, prefix or None) for one in chunk]
            if not objects and prefix and not self.pattern:
                try:
                    objects = [obstore.head(self.store, prefix)]
                except FileNotFoundError:
                    raise SourceError(
                        f"source.path is {self.address.url}, where nothing is: correct it"
                    ) from None
                self.root.pop()
                return [Found(objects[0]["path"].rpartition("/")[2], objects[0]["last_modified"])]
        # An empty object that is named as a folder is how some tools make one.
        folders = {str(parent) for one in objects for parent in PurePosixPath(one["path"]).parents}
        start = len(prefix) + 1 if prefix else 0
        found = {
            one["path"][start:]: one["last_modified"]
            for one in objects
            if len(one["path"]) > start and (one["size"] or one["path"] not in folders)
        }
        names = [
            name
            for name in _visible(found)
            if not self.pattern or _matches(name.split("/"), self.pattern)
        ]
        logs = {
            folder[start:]
            for folder in folders
            if not (ending := TABLES.get(folder.rpartition("/")[2], ("", "", ""))[1])
            or any(
                one["path"].startswith(f"{folder}/") and one["path"].endswith(ending)
                for one in objects
            )
        }
        _refuse_tables(self.address.url, names, logs)
        for name in _visible(found):
            for parent in PurePosixPath(name).parents[:-1] if name not in names else ():
                if _matches(list(parent.parts), self.pattern):
                    self.passed[str(parent)] = A_FOLDER
        return [Found(name, found[name]) for name in names]

    def shown(self, name: str) -> str:
        """Return the URL."""
        return f"s3://{self.address.bucket}/{'/'.join([*self.root, name])}"

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """Copy the object to a temporary folder, which is removed at the end of the block."""
        import obstore

        self.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="elcrec-object-", dir=self.scratch) as folder:
            path = Path(folder) / PurePosixPath(name).name
            with self.address.explaining(), path.open("wb") as file:
                got = obstore.get(self.store, "/".join([*self.root, name]))
                for piece in got.stream(min_chunk_size=PIECE):
                    file.write(piece)
            yield path

    def start(self, name: str) -> bytes:
        """Return the first bytes of an object, unpacked."""
        import obstore

        key = "/".join([*self.root, name])
        with self.address.explaining():
            size = obstore.head(self.store, key)["size"]
            if not size:
                return b""
            found = obstore.get_range(self.store, key, start=0, end=min(size, START))
            return _unpacked(bytes(found))


def _unpacked(start: bytes) -> bytes:
    """Unpack the first bytes of a file, as far as they reach."""
    kind = compression_of(start)
    if kind is None:
        return start
    found = b""
    with suppress(OSError), pa.input_stream(pa.BufferReader(start), compression=kind) as stream:
        while piece := stream.read(1024):
            found += piece
    return found


def _logs_in(folder: Path) -> set[str]:
    """Return which folders of a table's log are in a folder."""
    return {
        log
        for log, (_, ending, _) in TABLES.items()
        if (folder / log).is_dir() and (not ending or any((folder / log).glob(f"*{ending}")))
    }


def _leads_out(link: Path, real: Path, root: Path) -> SourceError:
    what = "folder" if real.is_dir() else "file"
    return SourceError(f"{link} leads to {real}, outside of {root}: put the {what} itself there")


def _refuse_tables(root: object, names: Iterable[str], folders: AbstractSet[str]) -> None:
    """Raise SourceError for files of a table whose log says which of its files count.

    names and folders are paths below the root.
    """
    above = {parent for name in names for parent in (PurePosixPath(), *PurePosixPath(name).parents)}
    for parent in sorted(above):
        for log, (kind, _, mend) in TABLES.items():
            if (parent / log).as_posix() in folders:
                where = root if parent == PurePosixPath() else f"{parent} in {root}"
                raise SourceError(
                    f"{where} is {kind} table, whose files also hold rows that it no longer has: "
                    f"{mend}"
                )


def _visible(names: Iterable[str]) -> list[str]:
    shown = (name for name in names if not re.search(r"(^|/)[._]", name))
    return sorted(shown, key=lambda name: name.split("/"))


def _matches(parts: list[str], pattern: list[str]) -> bool:
    """Whether a path fits a glob, part by part; ** stands for any number of folders."""
    if not pattern:
        return not parts
    if pattern == ["**"]:
        return True
    if pattern[0] == "**":
        return any(_matches(parts[n:], pattern[1:]) for n in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
