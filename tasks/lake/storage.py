"""Where a lake lies: in a folder of this machine, or in an object store.

No other module knows which it is. Paths are relative to the lake's root, with / between the
folders. Of a store, only what has to be a file here is copied to this machine, and for as long as
it is needed: the weights of a model while they are loaded, the checkpoints of a training that runs.
"""

import contextlib
import datetime as dt
import errno
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import duckdb
import obstore
import polars as pl
from deltalake.exceptions import DeltaError

from tasks.errors import LakeError
from tasks.lake.leases import Fence, Holder, Leases, holder_of
from tasks.settings import LakeSettings, Settings
from tasks.stores import Address, Said

log = logging.getLogger(__name__)

LOCK = ".lock"
LOCKS = ".locks"  # a file for each of what only one run does at a time
MOVED = "moved_to.txt"  # in a lake that was moved: where it is now
MOVING = "moving_from.txt"  # in a lake that is being copied: where it is still
VOUCHES = ".json"  # a file that says that others are whole: it comes last and goes first
AT_ONCE = 1000  # objects that a store is asked to delete in one request

# A place that a person has to open up or correct; of others, such as a full disk, a retry may help.
NOT_OURS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR),
    *(errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP),
}


class File(NamedTuple):
    """A file, by its path below the root; its size in bytes, and when it was written."""

    path: str
    size: int
    modified: dt.datetime


class Turns(Protocol):
    """Who may do what with a lake at the same time. Each is waited for, and says so in the log."""

    def in_use(self) -> AbstractContextManager[object]:
        """Hold the lake together with other steps; wait while someone has it alone."""
        ...

    def alone(self) -> AbstractContextManager[object]:
        """Hold the lake alone; wait until the steps that run now have ended."""
        ...

    def turn(self, of: str) -> AbstractContextManager[object]:
        """Be the only one who does what `of` names; wait until another who does it has ended."""
        ...

    def held(self) -> Holder | None:
        """Return what holds turns here by leases: each commit is to carry its token."""
        ...

    def tidy(self) -> None:
        """Delete what machines left behind when they died. To be called by who is alone."""
        ...


@dataclass(frozen=True)
class Working:
    """A folder of this machine for work that takes long; `keep` what a kill may not take.

    Where the folder is in the lake, all of it is kept as it is written.
    """

    path: Path
    storage: "Storage"
    folder: str

    def keep(self) -> None:
        """Make what is in the folder now what the next one who works there finds."""
        self.storage.keep(self.path, self.folder)


class Storage(Protocol):
    """Files and tables below a root.

    What a person has to mend is a LakeError; what may pass by itself comes as it is from a folder,
    and as StoreAwayError from a store, which was asked several times then.
    """

    delta_options: dict[str, str] | None  # what deltalake is to be told; it may hold a secret
    polars_options: dict[str, Any] | None  # the same for polars
    table_properties: dict[str, str | None] | None  # of Delta tables that are made here

    def at(self, path: str = "") -> Path | str:
        """Return where something is, for messages and for deltalake: a path or a URL."""
        ...

    def turns(self, fence: Fence) -> Turns:
        """Return who may do what here. fence: of `Leases`."""
        ...

    def is_there(self) -> bool:
        """Tell whether there is anything at the root."""
        ...

    def read(self, path: str) -> bytes:
        """Return what is in a file; FileNotFoundError without one."""
        ...

    def write(self, path: str, content: bytes) -> None:
        """Write a small file, whole or not at all."""
        ...

    def files(self, folder: str = "") -> list[File]:
        """Return every file at any depth of a folder, by path; none if it is not there."""
        ...

    def names(self, folder: str = "") -> list[str]:
        """Return the names of the files and folders in a folder; none if it is not there."""
        ...

    def folders(self, folder: str = "") -> list[str]:
        """Return the names of the folders in a folder, sorted; none if it is not there."""
        ...

    def written(self, folder: str) -> dt.datetime:
        """Return when something in a folder was last written."""
        ...

    def delete(self, paths: Iterable[str]) -> None:
        """Delete files."""
        ...

    def remove(self, folder: str) -> None:
        """Delete a folder with all that is in it; it may not be there."""
        ...

    def copied(self, path: str) -> AbstractContextManager[Path]:
        """Have a file on this machine within the block, to be read."""
        ...

    def send(self, file: Path, path: str) -> None:
        """Copy a file of this machine to a place of the lake, whole or not at all."""
        ...

    def rename(self, path: str, new: str) -> None:
        """Give a file another place of the lake, whole or not at all."""
        ...

    def put(self, made: Path, folder: str) -> None:
        """Put a folder of this machine in the place of one of the lake; it may be moved."""
        ...

    def keep(self, made: Path, folder: str) -> None:
        """Make a folder hold what one of this machine does; what vouches for others comes last."""
        ...

    def fetched(self, folder: str) -> AbstractContextManager[Path]:
        """Have the files of a folder on this machine within the block, to be read."""
        ...

    def working(self, folder: str) -> AbstractContextManager[Working]:
        """Have a folder on this machine to work in, with what was kept of it before."""
        ...

    def explaining(self) -> AbstractContextManager[None]:
        """Turn what a store says within the block into a sentence."""
        ...


class Folder:
    """A lake in a folder of this machine, or one that several machines share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.delta_options: dict[str, str] | None = None
        self.polars_options: dict[str, Any] | None = None
        self.table_properties: dict[str, str | None] | None = None

    def at(self, path: str = "") -> Path:
        """Return the path of something."""
        return self.root / path

    def turns(self, fence: Fence) -> Turns:
        """Return locks of the operating system, which need no fence."""
        return Locks(self.root)

    def is_there(self) -> bool:
        """Tell whether there is a folder."""
        return self.root.is_dir()

    def read(self, path: str) -> bytes:
        """Return what is in a file; FileNotFoundError without one."""
        return (self.root / path).read_bytes()

    def write(self, path: str, content: bytes) -> None:
        """Write a small file beside its place and move it there."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f"{file.name}.new")
        new.write_bytes(content)
        new.replace(file)

    def files(self, folder: str = "") -> list[File]:
        """Return every file at any depth of a folder, by path; none if it is not there."""
        found = []
        for here, _, names in os.walk(self.root / folder):
            for name in names:
                path = Path(here) / name
                with contextlib.suppress(FileNotFoundError):  # it went meanwhile
                    facts = path.stat()
                    time = dt.datetime.fromtimestamp(facts.st_mtime, dt.UTC)
                    found.append(File(path.relative_to(self.root).as_posix(), facts.st_size, time))
        return sorted(found)

    def names(self, folder: str = "") -> list[str]:
        """Return the names of the files and folders in a folder; none if it is not there."""
        place = self.root / folder
        return sorted(path.name for path in place.iterdir()) if place.is_dir() else []

    def folders(self, folder: str = "") -> list[str]:
        """Return the names of the folders in a folder, sorted; none if it is not there."""
        place = self.root / folder
        return (
            sorted(path.name for path in place.iterdir() if path.is_dir()) if place.is_dir() else []
        )

    def written(self, folder: str) -> dt.datetime:
        """Return when something in a folder, or the folder, was last written."""
        place = self.root / folder
        newest = max(path.stat().st_mtime for path in (place, *place.rglob("*")))
        return dt.datetime.fromtimestamp(newest, dt.UTC)

    def delete(self, paths: Iterable[str]) -> None:
        """Delete files."""
        for path in paths:
            (self.root / path).unlink(missing_ok=True)

    def remove(self, folder: str) -> None:
        """Delete a folder with all that is in it; it may not be there."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.root / folder)

    def copied(self, path: str) -> AbstractContextManager[Path]:
        """Return the file: it is here."""
        return contextlib.nullcontext(self.root / path)

    def send(self, file: Path, path: str) -> None:
        """Copy a file beside its place and move it there."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        new = place.with_name(f"{place.name}.new")
        shutil.copyfile(file, new)
        new.replace(place)

    def rename(self, path: str, new: str) -> None:
        """Move a file."""
        place = self.root / new
        place.parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).replace(place)

    def put(self, made: Path, folder: str) -> None:
        """Move a folder into the place of one of the lake."""
        place = self.root / folder
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        shutil.move(made, place)

    def keep(self, made: Path, folder: str) -> None:
        """Do nothing: `made` is the folder."""

    def fetched(self, folder: str) -> AbstractContextManager[Path]:
        """Return the folder: it is here."""
        return contextlib.nullcontext(self.root / folder)

    def working(self, folder: str) -> AbstractContextManager[Working]:
        """Return the folder: what is written there stays."""
        return contextlib.nullcontext(Working(self.root / folder, self, folder))

    def explaining(self) -> AbstractContextManager[None]:
        """Do nothing: no store is asked."""
        return contextlib.nullcontext()


class Bucket:
    """A lake in an object store.

    A file is there when all of it has arrived, never before.
    """

    def __init__(self, address: Address, scratch: Path) -> None:
        self.address, self.scratch = address, scratch
        self.delta_options: dict[str, str] | None = address.delta_options()
        self.polars_options: dict[str, Any] | None = address.polars_options()
        # Who opens a table reads its log from the last checkpoint on, by two requests a version.
        self.table_properties: dict[str, str | None] | None = {"delta.checkpointInterval": "10"}
        self.store = address.store(address.key or None)

    def at(self, path: str = "") -> str:
        """Return the URL of something."""
        return "/".join([self.address.url.rstrip("/"), *([path] if path else [])])

    def turns(self, fence: Fence) -> Turns:
        """Return leases."""
        return Leased(Leases(self.store, str(self.at()), fence=fence))

    def check(self) -> None:
        """Make sure that the turns of this run are its own still; TurnLostError when they are not.

        To be called before each request that takes or replaces something.
        """
        if holder := holder_of(str(self.at())):
            holder.check()

    def is_there(self) -> bool:
        """Tell whether an object is below the root."""
        with self.explaining():
            return bool(next(iter(obstore.list(self.store, chunk_size=1)), None))

    def read(self, path: str) -> bytes:
        """Return what is in an object; FileNotFoundError without one."""
        with self.explaining():
            try:
                return bytes(obstore.get(self.store, path).bytes())
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
                    raise
                missing = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.at(path))
        raise missing

    def write(self, path: str, content: bytes) -> None:
        """Write an object."""
        with self.explaining():
            self.check()
            obstore.put(self.store, path, content)

    def files(self, folder: str = "") -> list[File]:
        """Return every object below a folder, by path; none if there are none."""
        with self.explaining():
            objects = [one for some in obstore.list(self.store, folder or None) for one in some]
        return sorted(File(one["path"], one["size"], one["last_modified"]) for one in objects)

    def names(self, folder: str = "") -> list[str]:
        """Return the names of the objects in a folder, and of the folders there."""
        with self.explaining():
            found = obstore.list_with_delimiter(self.store, folder or None)
        objects = [one["path"].rpartition("/")[2] for one in found["objects"]]
        return sorted([*objects, *map(_name, found["common_prefixes"])])

    def folders(self, folder: str = "") -> list[str]:
        """Return the names of the folders that have an object below them, sorted."""
        with self.explaining():
            found = obstore.list_with_delimiter(self.store, folder or None)["common_prefixes"]
        return sorted(map(_name, found))

    def fact(self, path: str, name: str) -> str | None:
        """Return a value of the metadata of an object; None without it or the object."""
        with self.explaining():
            try:
                attributes = dict(obstore.get(self.store, path, options={"head": True}).attributes)
            except FileNotFoundError:
                return None
        return attributes.get(name)

    def send(self, file: Path, path: str, facts: dict[str, str] | None = None) -> None:
        """Put a file of this machine in the place of an object, with these metadata."""
        with self.explaining():
            self.check()
            obstore.put(self.store, path, file, attributes=facts)

    def written(self, folder: str) -> dt.datetime:
        """Return when something in a folder was last written."""
        return max(file.modified for file in self.files(folder))

    def delete(self, paths: Iterable[str]) -> None:
        """Delete objects; those that vouch for others go first."""
        going = sorted(paths, key=lambda path: (not path.endswith(VOUCHES), path))
        with self.explaining():
            for start in range(0, len(going), AT_ONCE):
                self.check()
                obstore.delete(self.store, going[start : start + AT_ONCE])

    def remove(self, folder: str) -> None:
        """Delete all objects below a folder."""
        self.delete(file.path for file in self.files(folder))

    @contextlib.contextmanager
    def copied(self, path: str) -> Iterator[Path]:
        """Copy an object to this machine; the copy goes at the end of the block."""
        with self._temporary() as here:
            copy = here / "copy"
            self._copy(path, copy)
            yield copy

    def rename(self, path: str, new: str) -> None:
        """Copy an object within the store and delete the old one."""
        with self.explaining():
            self.check()
            obstore.rename(self.store, path, new)

    def put(self, made: Path, folder: str) -> None:
        """Delete what is there and copy a folder of this machine there."""
        self.remove(folder)
        self._send(made, folder)

    def keep(self, made: Path, folder: str) -> None:
        """Copy a folder of this machine there, then delete what is not in it any more."""
        sent = self._send(made, folder)
        self.delete(file.path for file in self.files(folder) if file.path not in sent)

    def _send(self, made: Path, folder: str) -> set[str]:
        files = sorted(
            (file for file in made.rglob("*") if file.is_file()),
            key=lambda file: (file.suffix == VOUCHES, file),
        )
        with self.explaining():
            for file in files:
                self.check()
                obstore.put(self.store, f"{folder}/{file.relative_to(made).as_posix()}", file)
        return {f"{folder}/{file.relative_to(made).as_posix()}" for file in files}

    @contextlib.contextmanager
    def fetched(self, folder: str) -> Iterator[Path]:
        """Copy a folder to this machine, and remove the copy at the end of the block.

        Without objects, the block has the path of a folder that is not there.
        """
        with self._temporary() as here:
            place = here / folder.rpartition("/")[2]
            self._fetch(folder, place)
            yield place

    @contextlib.contextmanager
    def working(self, folder: str) -> Iterator[Working]:
        """Copy a folder to this machine; the copy goes at the end of the block."""
        with self._temporary() as here:
            self._fetch(folder, here)
            yield Working(here, self, folder)

    def _fetch(self, folder: str, place: Path) -> None:
        for file in self.files(folder):
            path = place / file.path.removeprefix(f"{folder}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._copy(file.path, path)

    def _copy(self, path: str, to: Path) -> None:
        with self.explaining(), to.open("wb") as copy:
            for piece in obstore.get(self.store, path).stream():
                copy.write(piece)

    def _temporary(self) -> AbstractContextManager[Path]:
        return _temporary_folder(self.scratch)

    def explaining(self) -> AbstractContextManager[None]:
        """Turn what the store says within the block into a sentence."""
        kinds = (OSError, DeltaError, pl.exceptions.PolarsError, duckdb.Error)
        return self.address.explaining(*kinds)


def _name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def parquet(storage: Storage, paths: Sequence[str]) -> pl.LazyFrame:
    """Return the rows of Parquet files, without the columns that their folders say."""
    return pl.scan_parquet(
        [str(storage.at(path)) for path in paths],
        glob=False,
        hive_partitioning=False,
        storage_options=storage.polars_options,
    )


@contextlib.contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="elcrec-lake-", dir=parent) as folder:
        yield Path(folder)


@dataclass(frozen=True)
class Locks:
    """Turns on a folder, by locks of the operating system: they end with the process, however."""

    root: Path

    def in_use(self) -> AbstractContextManager[None]:
        """Hold the lake together with other steps; wait while someone has it alone."""
        return self._locked(LOCK, fcntl.LOCK_SH, "what deletes from the lake has ended")

    def alone(self) -> AbstractContextManager[None]:
        """Hold the lake alone; wait until the steps that run now have ended."""
        return self._locked(LOCK, fcntl.LOCK_EX, "the steps that run on the lake have ended")

    def turn(self, of: str) -> AbstractContextManager[None]:
        """Be the only one who does what `of` names; wait until another who does it has ended."""
        return self._locked(f"{LOCKS}/{of}", fcntl.LOCK_EX, f"another run has ended its {of}")

    def held(self) -> None:
        """Return nothing: a process that is stopped keeps its locks."""

    def tidy(self) -> None:
        """Do nothing: the system does."""

    @contextlib.contextmanager
    def _locked(self, name: str, kind: int, until: str) -> Iterator[None]:
        path = self.root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        except OSError as error:
            if error.errno not in NOT_OURS:
                raise
            raise LakeError(
                f"the lake at {self.root} cannot be written to ({error.strerror}: "
                f"{error.filename}): correct lake.root (--lake), or let the account that runs the "
                "nights write there"
            ) from error
        with file:
            hold_lock(file.fileno(), kind, self.root, until)
            yield


@dataclass(frozen=True)
class Leased:
    """Turns in a store, by leases."""

    leases: Leases

    def in_use(self) -> AbstractContextManager[object]:
        """Hold the lake together with other steps; wait while someone has it alone."""
        return self.leases.shared()

    def alone(self) -> AbstractContextManager[object]:
        """Hold the lake alone; wait until the steps that run now have ended."""
        return self.leases.exclusive()

    def turn(self, of: str) -> AbstractContextManager[object]:
        """Be the only one who does what `of` names; wait until another who does it has ended."""
        return self.leases.exclusive(of)

    def held(self) -> Holder | None:
        """Return what holds turns here in this run."""
        return self.leases.held()

    def tidy(self) -> None:
        """Delete the leases of machines that died."""
        self.leases.tidy()


def hold_lock(handle: int, kind: int, where: Path, until: str) -> None:
    """Lock an open file, of the kind that `fcntl.flock` names, until it is closed.

    where, until: what the log says while another has it.
    """
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        log.info("%s: waiting until %s", where, until)
        fcntl.flock(handle, kind)


SAID = Said(
    url="lake.root",
    connection="lake.connection",
    endpoint="lake.endpoint",
    region="lake.region",
    rights="list, read, write and delete there",
    error=LakeError,
)


def storage_at(root: Path | str) -> Storage:
    """Return the storage of a folder, or of the URL of a store that the environment has keys of."""
    if "://" in str(root):
        return Bucket(Address(str(root), SAID), Path(tempfile.gettempdir()))
    return Folder(Path(root))


def storage_of(settings: Settings) -> Storage:
    """Return the storage of the lake that the settings name."""
    if isinstance(settings.lake.root, str):
        return _bucket(settings.lake, settings.duckdb.temp_directory or tempfile.gettempdir())
    return Folder(settings.lake.root)


@lru_cache
def _bucket(lake: LakeSettings, scratch: str) -> Bucket:
    # Kept for the process: its keys are looked up once, and its connections to the store stay open.
    address = Address(
        str(lake.root),
        SAID,
        connection=lake.connection,
        endpoint=lake.endpoint,
        region=lake.region,
    )
    return Bucket(address, Path(scratch))
