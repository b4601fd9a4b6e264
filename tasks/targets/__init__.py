"""Where labels are published besides the lake: the interface of a target, and which are asked for.

With labels go profiles and names of intents and the evidence of labels (`contract.COMPANIONS`).
A target has one copy of each published night. `publish` replaces it as a whole or leaves it as it
was, also when it is killed; two at once wait for each other.
"""

import datetime as dt
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Protocol

import duckdb
import pyarrow as pa

from tasks.settings import Settings


class Target(Protocol):
    """A place that readers take labels from; `str` is how messages name it, without secrets."""

    def check(self) -> None:
        """Make sure that publishing can be tried, changing nothing.

        Raises
        ------
        PublishError
            Something of others is in the way: a person has to mend it.
        NotReadyError
            A server is down: it is tried again.
        """
        ...

    def publish(self, con: duckdb.DuckDBPyConnection, night: dt.date, revisions: pa.Table) -> None:
        """Make the rows of `intent_labels` and of its companions the target's copy of the night.

        con: has a view of the night's rows for each of these tables (`contract.COMPANIONS`).
        revisions: of this night (`contract.REVISIONS`). The target has them with the labels, or has
        the labels and the revisions before.

        Raises what `check` does.
        """
        ...

    def forget(self, users: Sequence[str], revisions: pa.Table) -> dict[str, int]:
        """Take the rows of these users out of every published night.

        revisions: of all nights; those of a night that is written anew replace the target's.

        Returns `rows_removed`, `nights_rewritten`, and `left`: the rows found by a search
        afterwards, which is 0. Raises what `check` does.
        """
        ...


def targets_of(settings: Settings) -> Iterator[Target]:
    """Yield the targets that the settings name.

    Raises
    ------
    SettingsError
        A target's connection is missing or none to PostgreSQL.
    """
    for setting, target in TARGETS.items():
        if named := getattr(settings.publish, setting):
            if "://" in named:
                target = IN_A_STORE[setting]
            module, _, name = target.partition(":")
            yield getattr(import_module(module), name)(settings)


# The class of each target as "module:class", by the setting that asks for it; imported then.
TARGETS = {
    "parquet": "tasks.targets.parquet:ParquetFolder",
    "postgres_connection": "tasks.targets.postgres:PostgresTable",
}
IN_A_STORE = {"parquet": "tasks.targets.objects:ParquetObjects"}  # where the setting is a URL
