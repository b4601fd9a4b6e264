"""Labels as Parquet objects of a store, one a night: `<url>/dt=YYYY-MM-DD/intent_labels.parquet`.

A store cannot swap folders, but it replaces one object in one step, and shows none before all of it
has arrived. So a night is always one object of one name, and whoever lists or opens it finds all of
the night's labels, of before or of now. A reader that reads on in an object that was replaced
meanwhile is told so by its e_tag, where its library asks for that, and else fails on the content;
it has to open the night again.

The labels go alone: what is published with them elsewhere (`contract.COMPANIONS`) is several
objects, which a store does not replace in one step.

What an object holds is told by a digest in its metadata: the same labels are not written again.
"""

import datetime as dt
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from tasks.errors import PublishError
from tasks.lake import duck
from tasks.lake.storage import Bucket, File, parquet
from tasks.settings import Settings
from tasks.stores import Address, Said
from tasks.targets.parquet import LABELS, write_labels

NAME = f"{LABELS}.parquet"
NIGHT = re.compile(rf"dt=(\d{{4}}-\d\d-\d\d)/{re.escape(NAME)}")
SEEN = re.compile(r"dt=[^/]*/[^/]*")  # what readers take for labels
DIGEST = "labels-digest"  # in an object's metadata
SAID = Said(
    url="publish.parquet",
    connection="publish.parquet_connection",
    rights="list, read, write and delete there",
    error=PublishError,
)


class ParquetObjects:
    """The objects below the URL that `publish.parquet` names."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = settings.publish.parquet
        self.scratch = Path(settings.duckdb.temp_directory or tempfile.gettempdir())
        address = Address(self.url, SAID, connection=settings.publish.parquet_connection)
        self.storage = Bucket(address, self.scratch)
        self.turns = self.storage.turns(_no_fence)

    def __str__(self) -> str:
        return f"Parquet files in {self.url}"

    def check(self) -> None:
        """Refuse a store that is not open to us, the lake's place, and nights of others' files."""
        root = str(self.settings.lake.root)
        if f"{self.url}/".startswith(f"{root}/"):
            raise PublishError(
                f"publish.parquet is {self.url}, inside of the lake {root}, where files that "
                "are in no table are deleted: name a place outside of it"
            )
        for file in self.storage.files():
            if SEEN.fullmatch(file.path) and not NIGHT.fullmatch(file.path):
                raise PublishError(
                    f"{self.storage.at(file.path)} is none of the files that publish writes, and "
                    "readers would take it for labels: move it away, or name another "
                    "publish.parquet"
                )

    def publish(self, con: duckdb.DuckDBPyConnection, night: dt.date, revisions: pa.Table) -> None:
        """Replace the night's object; one with the same labels and revisions stays untouched."""
        with self.turns.alone():
            self._replace(con, LABELS, night.isoformat(), revisions)

    def forget(self, users: Sequence[str], revisions: pa.Table) -> dict[str, int]:
        """Write the nights anew that have rows of these users."""
        removed = nights = left = 0
        is_wanted = "user_id IN (SELECT value FROM wanted)"
        with self.turns.alone(), duck.connect(self.settings) as con:
            con.register("wanted", pa.table({"value": pa.array(users, pa.string())}))
            for file in self._nights():
                con.register("found", parquet(self.storage, [file.path]))
                rows = con.table("found")
                if found := len(rows.filter(is_wanted)):
                    rows.filter(f"NOT {is_wanted}").create_view("others")
                    self._replace(con, "others", _day(file), revisions)
                    removed += found
                    nights += 1
            for file in self._nights():
                con.register("found", parquet(self.storage, [file.path]))
                left += len(con.table("found").filter(is_wanted))
        return {"rows_removed": removed, "nights_rewritten": nights, "left": left}

    def _nights(self) -> list[File]:
        return [file for file in self.storage.files() if NIGHT.fullmatch(file.path)]

    def _replace(
        self, con: duckdb.DuckDBPyConnection, view: str, day: str, revisions: pa.Table
    ) -> None:
        path = f"dt={day}/{NAME}"
        with tempfile.TemporaryDirectory(prefix="elcrec-labels-", dir=self.scratch) as folder:
            made = Path(folder) / LABELS
            file = write_labels(con, con.table(view), made, day, revisions, named={})
            digest = file.stem.rpartition("-")[2]
            if self.storage.fact(path, DIGEST) != digest:
                self.storage.send(file, path, {DIGEST: digest})


def _no_fence(app_id: str, token: int) -> None:
    """Fence nothing: an object is replaced by one request, before which its writer is checked."""


def _day(file: File) -> str:
    found = NIGHT.fullmatch(file.path)
    assert found
    return found[1]
