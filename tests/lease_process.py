"""One process that takes turns of a store, told by lines what to do: for tests and races.

    python -m tests.lease_process URL EXPIRY

The keys of the store are in the environment. It answers each line with one line:

    exclusive TURN, shared TURN    "has it", when it has the turn
    leave                          "left", when it has given back the turn that it took last
    count OBJECT                   add 1 to an object in two steps, as only one at a time can do
    write VALUE [slowly]           make VALUE the content of the table; "written", or why not.
                                   Slowly: it says "in the middle" when it has looked at the table
                                   and its data is being read, and goes on at the next line
"""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import IO

import obstore
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError
from obstore.store import ObjectStore, from_url

from tasks.lake.leases import Holder, Leases, TurnLostError

SCHEMA = pa.schema([("value", pa.string())])


def store_of(url: str) -> ObjectStore:
    """Open a store by its URL, with the keys that its own tools read from the environment."""
    return from_url(url, client_options={"allow_http": True})


def turns_of(url: str, expiry: float) -> Leases:
    """Return the turns of a store that may have one table, `table`."""

    def fence(app_id: str, version: int) -> None:
        with contextlib.suppress(DeltaError):  # there is no table
            table = table_of(url)
            if (table.transaction_version(app_id) or 0) < version:
                commit = CommitProperties(app_transactions=[Transaction(app_id, version)])
                table.create_write_transaction(
                    [], "append", table.schema(), commit_properties=commit
                )

    return Leases(store_of(url), url, fence=fence, expiry=expiry)


def table_of(url: str) -> DeltaTable:
    """Open the table."""
    return DeltaTable(f"{url}/table", storage_options={"allow_http": "true"})


class Process:
    """What a process does by lines."""

    def __init__(self, url: str, expiry: float, lines: Iterator[str], answers: IO[str]) -> None:
        self.store, self.turns, self.url = store_of(url), turns_of(url, expiry), url
        self.lines, self.answers = lines, answers
        self.taken: list[contextlib.ExitStack] = []

    def say(self, what: str) -> None:
        print(what, file=self.answers, flush=True)

    def run(self) -> None:
        """Answer each line until there is none."""
        self.say("ready")
        for line in self.lines:
            what, _, of = line.strip().partition(" ")
            self.say(getattr(self, what)(of))

    def exclusive(self, turn: str) -> str:
        return self._take(self.turns.exclusive(turn))

    def shared(self, turn: str) -> str:
        return self._take(self.turns.shared(turn))

    def _take(self, turn: contextlib.AbstractContextManager[Holder]) -> str:
        stack = contextlib.ExitStack()
        stack.enter_context(turn)
        self.taken.append(stack)
        return "has it"

    def leave(self, _: str) -> str:
        self.taken.pop().close()
        return "left"

    def count(self, name: str) -> str:
        content = 0
        with contextlib.suppress(FileNotFoundError):
            content = int(bytes(obstore.get(self.store, name).bytes()))
        obstore.put(self.store, name, str(content + 1).encode())
        return str(content + 1)

    def write(self, value: str) -> str:
        value, _, slowly = value.partition(" ")
        holder = self.turns.held()
        assert holder
        table = table_of(self.url)

        def rows() -> Iterator[pa.RecordBatch]:
            if slowly:
                self.say("in the middle")
                next(self.lines)
            yield pa.RecordBatch.from_pylist([{"value": value}], schema=SCHEMA)

        try:
            holder.refuse(table.transaction_version(holder.app_id))
            write_deltalake(
                table,
                pa.RecordBatchReader.from_batches(SCHEMA, rows()),
                mode="overwrite",
                commit_properties=CommitProperties(
                    app_transactions=[Transaction(holder.app_id, holder.token)]
                ),
            )
        except (TurnLostError, DeltaError) as error:
            return f"{type(error).__name__}: {error}".replace("\n", " ")
        return "written"


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    Process(sys.argv[1], float(sys.argv[2]), sys.stdin, sys.stdout).run()
