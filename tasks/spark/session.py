"""A session of Spark Connect, on a server that fits this program."""

import contextlib
import importlib
import re
import socket
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow as pa

import tasks.errors
from tasks.errors import PipelineError, SettingsError
from tasks.settings import REPO, Settings

if TYPE_CHECKING:
    from pyspark.sql.connect.session import SparkSession

PORT = 15002  # of Spark Connect where the address names none
PATIENCE = 10.0  # seconds until a server that does not answer is given up
ROOMS = ("tasks", "elcrec")  # what the executors are sent
# What rows are computed and written by, whatever the cluster's own defaults are.
OPTIONS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
}
# An error of this project, in the traceback that an executor hands on.
OURS = re.compile(r"^tasks\.errors\.(\w+): (.+)$", re.MULTILINE)


@contextlib.contextmanager
def session(settings: Settings) -> Iterator["SparkSession"]:
    """Open a session of its own on the server that `engine.url` names, and end it.

    An error of this project that an executor raises within the block comes out as what it is.

    Raises
    ------
    SettingsError
        The client is not installed, the server is of another version, or the lake is in a store.
    NotReadyError
        The server does not answer.
    """
    if not isinstance(settings.lake.root, Path):
        raise SettingsError(
            f"engine.kind is spark and lake.root is {settings.lake.root}: Spark reads and writes "
            "lakes in a folder that all its machines share; name one, or set engine.kind to duckdb"
        )
    builder, client_version, error_of_spark = _client()
    place = _place(settings.engine.url)
    _refuse_silence(place)
    spark = builder.remote(settings.engine.url).create()
    try:
        if spark.version.split(".")[:2] != client_version.split(".")[:2]:
            raise SettingsError(
                f"the Spark at {place} is of version {spark.version}, and pyspark-client here of "
                f"{client_version}: name a server of {client_version} in engine.url, or install "
                "that version of the client"
            )
        for name, value in OPTIONS.items():
            spark.conf.set(name, value)
        try:
            yield spark
        except error_of_spark as error:
            if ours := _ours(str(error)):
                raise ours from error
            raise
    finally:
        spark.stop()


def _client() -> tuple[Any, str, type[Exception]]:
    """Return the builder of sessions, the client's version and its errors' class."""
    try:
        with warnings.catch_warnings(), _a_program_that_is_a_file():
            # Of pandas, by which nothing goes here.
            warnings.simplefilter("ignore", FutureWarning)
            module = importlib.import_module("pyspark.sql.connect.session")
            errors = importlib.import_module("pyspark.errors")
            version: str = importlib.import_module("pyspark").__version__
    except ImportError as error:
        raise SettingsError(
            f"engine.kind is spark, but Spark's client cannot be imported here ({error}): install "
            "the extra spark of this project, or set engine.kind to duckdb"
        ) from None
    return module.SparkSession.builder, version, errors.PySparkException


@contextlib.contextmanager
def _a_program_that_is_a_file() -> Iterator[None]:
    """Give the main program a file for as long as the client is imported.

    A program without one, as that of `python -c`, it takes for its own doctests, and ends it where
    there is no Spark distribution.
    """
    main = sys.modules["__main__"]
    if hasattr(main, "__file__"):
        yield
        return
    main.__file__ = "elcrec"
    try:
        yield
    finally:
        del main.__file__


def _place(url: str) -> str:
    """Return host and port of an address, for messages and for a look."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or PORT}"


def _refuse_silence(place: str) -> None:
    """Raise NotReadyError when nobody listens; the client itself would try for ten minutes."""
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except OSError as error:
        raise tasks.errors.NotReadyError(
            f"no Spark answers at {place} ({error}): start its Connect server there, or correct "
            "engine.url"
        ) from None


def _ours(text: str) -> PipelineError | None:
    """Return the error of this project that the text of one of Spark ends with."""
    for name, message in reversed(OURS.findall(text)):
        kind = getattr(tasks.errors, name, None)
        if isinstance(kind, type) and issubclass(kind, PipelineError):
            return kind(message)
    return None


def equip(spark: "SparkSession", needed: Iterable[str]) -> None:
    """Send this program to the executors, and see that they have the packages that it needs.

    needed: names of packages that it imports there. Spark itself asks for the same Python.

    Raises SettingsError when one is missing there, or is of another version than here.
    """
    with tempfile.TemporaryDirectory(prefix="elcrec-spark-") as folder:
        archive = Path(folder) / "elcrec_nightly.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as code:
            for file in sorted(file for room in ROOMS for file in (REPO / room).rglob("*.py")):
                code.write(file, file.relative_to(REPO))
        spark.addArtifacts(str(archive), pyfile=True)
    names = sorted(needed)
    row = spark.range(0, 1, 1, numPartitions=1).selectExpr("cast(id AS string) AS faults")
    [faults] = row.mapInArrow(_Look(_versions(names)), "faults string").toArrow()["faults"]
    if faults.as_py():
        raise SettingsError(
            f"Spark's executors cannot run this program ({faults}): give their Python the packages "
            "that it has here, for example by the image of the pipeline, or set engine.kind to "
            "duckdb"
        )


class _Look:
    """Tells, on an executor, what is not there as it is here."""

    def __init__(self, versions: dict[str, str]) -> None:
        self.versions = versions

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            faults = []
            for name, version in self.versions.items():
                there = _versions([name])[name]
                if there != version:
                    faults.append(f"{name} is {there} there and {version} here")
            yield pa.RecordBatch.from_pydict({"faults": [", ".join(faults)]})


def _versions(names: Iterable[str]) -> dict[str, str]:
    """Return the version of each package that can be imported, and what keeps others from it."""
    found = {}
    for name in names:
        try:
            found[name] = str(getattr(importlib.import_module(name), "__version__", "there"))
        except ImportError as error:
            found[name] = f"missing ({error})"
    return found
