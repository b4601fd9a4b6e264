"""Labels as Parquet objects of a store, one a night: `<url>/dt=YYYY-MM-DD/intent_labels.parquet`.

A store cannot swap folders, but it replaces one object in one step, and shows none before all of it
has arrived. So a night is always one object of one name, and whoever lists or opens it finds all of
the night's labels, of before or of now. A reader that reads on in an object that was replaced
meanwhile is told so by its e_tag, where its library asks for that, and else fails on the content;
it has to open the night again.

What is published with the labels (`contract.COMPANIONS`) is beside them, as on a disk (parquet.py):
`<with>/dt=YYYY-MM-DD/<table>-<hash>.parquet`. The metadata of the labels' object names these. New
ones arrive before the labels, and what no labels name any more goes after them.

What an object of labels holds is told by a digest in its metadata: the same labels are not written
again.
"""

import datetime as dt
import re
import tempfile
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa

from tasks.errors import PublishError
from tasks.lake import duck
from tasks.lake.storage import Bucket, parquet
from tasks.settings import Settings
from tasks.stores import Address, Said
from tasks.targets import contract
from tasks.targets.parquet import LABELS, OURS_WITH, named_by, rows_of, without, write_night

NAME = f"{LABELS}.parquet"
NIGHT = re.compile(rf"dt=(\d{{4}}-\d\d-\d\d)/{re.escape(NAME)}")
SEEN = re.compile(r"dt=[^/]*/[^/]*")  # what readers take for labels
WITH = re.compile(rf"dt=\d{{4}}-\d\d-\d\d/{OURS_WITH.pattern}")
DIGEST = "labels-digest"  # in an object's metadata
SAID = Said(
    url="publish.parquet",
    connection="publish.parquet_connection",
    rights="list, read, write and delete there",
    error=PublishError,
)
SAID_WITH = replace(SAID, url="publish.parquet_with")


class ParquetObjects:
    """The objects below the URL that `publish.parquet` names, and those with the labels."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.scratch = Path(settings.duckdb.temp_directory or tempfile.gettempdir())
        self.url = settings.publish.parquet.rstrip("/")
        self.storage = self._bucket(self.url, SAID)
        beside = settings.publish.parquet_with.rstrip("/") or f"{self.url}_with"
        self.with_labels = self._bucket(beside, SAID_WITH)
        self.turns = self.storage.turns(_no_fence)

    def _bucket(self, url: str, said: Said) -> Bucket:
        address = Address(url, said, connection=self.settings.publish.parquet_connection)
        return Bucket(address, self.scratch)

    def __str__(self) -> str:
        return f"Parquet files in {self.url}"

    def check(self) -> None:
        """Refuse a store that is not open to us, the lake's place, and nights of others' files."""
        root = str(self.settings.lake.root)
        for setting, storage, ours in (
            ("publish.parquet", self.storage, NIGHT),
            ("publish.parquet_with", self.with_labels, WITH),
        ):
            if f"{storage.at()}/".startswith(f"{root}/"):
                raise PublishError(
                    f"{setting} is {storage.at()}, inside of the lake {root}, where files that "
                    "are in no table are deleted: name a place outside of it"
                )
            for file in storage.files():
                if SEEN.fullmatch(file.path) and not ours.fullmatch(file.path):
                    raise PublishError(
                        f"{storage.at(file.path)} is none of the files that publish writes, and "
                        "readers of the place would take it for one: move it away, or name "
                        f"another {setting}"
                    )
        if f"{self.with_labels.at()}/".startswith(f"{self.url}/"):
            raise PublishError(
                f"publish.parquet_with is {self.with_labels.at()}, inside of publish.parquet, "
                "where readers would take its files for labels: name a place outside of it"
            )

    def publish(self, con: duckdb.DuckDBPyConnection, night: dt.date, revisions: pa.Table) -> None:
        """Replace the night's objects; those with the same content stay untouched."""
        names = (LABELS, *(companion.name for companion in contract.COMPANIONS))
        with self.turns.alone():
            self._replace(con, dict(zip(names, names, strict=True)), f"dt={night}", revisions)

    def forget(self, users: Sequence[str], revisions: pa.Table) -> dict[str, int]:
        """Write the nights anew that have rows of these users; what a killed run left goes, too."""
        removed = rewritten = left = 0
        with self.turns.alone(), duck.connect(self.settings) as con:
            nights = self._nights()
            for night in nights:
                named = self._named(night)
                files = {LABELS: _rows(con, self.storage, f"{night}/{NAME}")} | {
                    table: _rows(con, self.with_labels, path) for table, path in named.items()
                }
                found, views = without(users, files)
                if found:
                    self._replace(con, views, night, revisions)
                    removed += found
                    rewritten += 1
                else:
                    self._clear(night, set(named.values()))
            for night in set(self.with_labels.folders()) - set(nights):
                self._clear(night, set())  # a run was killed before its labels
            for storage in (self.storage, self.with_labels):
                for file in storage.files():
                    if SEEN.fullmatch(file.path):
                        left += rows_of(users, _rows(con, storage, file.path))
        return {"rows_removed": removed, "nights_rewritten": rewritten, "left": left}

    def _nights(self) -> list[str]:
        paths = [file.path for file in self.storage.files()]
        return [path.partition("/")[0] for path in paths if NIGHT.fullmatch(path)]

    def _replace(
        self,
        con: duckdb.DuckDBPyConnection,
        views: Mapping[str, str],
        night: str,
        revisions: pa.Table,
    ) -> None:
        """Make the rows of views, by table, those of a night, which is the name of its folder."""
        with tempfile.TemporaryDirectory(prefix="elcrec-labels-", dir=self.scratch) as folder:
            day = night.removeprefix("dt=")
            made = write_night(con, views, Path(folder), day, revisions)
            present = set(self.with_labels.names(night))
            for file in made.with_labels:
                if file.name not in present:
                    self.storage.check()  # the turn is that of the labels
                    self.with_labels.send(file, f"{night}/{file.name}")
            path = f"{night}/{NAME}"
            digest = made.labels.stem.rpartition("-")[2]
            if self.storage.fact(path, DIGEST) != digest:
                self.storage.send(made.labels, path, {DIGEST: digest})
        self._clear(night, {f"{night}/{file.name}" for file in made.with_labels})

    def _named(self, night: str) -> dict[str, str]:
        """Return the paths of what the labels of a night name, by table."""
        path = f"{night}/{NAME}"
        with self.storage.explaining():
            metadata = pl.read_parquet_metadata(
                self.storage.at(path), storage_options=self.storage.polars_options
            )
        present = set(self.with_labels.names(night))
        named = named_by(metadata).items()
        return {table: f"{night}/{name}" for table, name in named if name in present}

    def _clear(self, night: str, named: Set[str]) -> None:
        """Delete the objects of a night with the labels that are none of these paths."""
        unnamed = [
            file.path
            for file in self.with_labels.files(night)
            if WITH.fullmatch(file.path) and file.path not in named
        ]
        self.storage.check()
        self.with_labels.delete(unnamed)


def _rows(con: duckdb.DuckDBPyConnection, storage: Bucket, path: str) -> duckdb.DuckDBPyRelation:
    name = storage.at(path)
    con.register(name, parquet(storage, [path]))
    return con.table(duck.identifier(name))


def _no_fence(app_id: str, token: int) -> None:
    """Fence nothing: an object is replaced by one request, before which its writer is checked."""
