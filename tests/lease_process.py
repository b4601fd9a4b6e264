"""One process that takes turns of a lake in a store, told by lines what to do: for tests and races.

    python -m tests.lease_process URL EXPIRY

The keys of the store are in the environment. It answers each line with one line:

    exclusive TURN, shared TURN    "has it", when it has the turn
    leave                          "left", when it has given back the turn that it took last
    inside OBJECT                  "once", when nobody else has been inside meanwhile
    promote MODEL [slowly]         commit a choice of a model; "done", or why not. Slowly: it says
                                   "in the middle" when it has looked at the table and its rows are
                                   being read, and goes on at the next line
    delete OBJECT                  "done", or why not
"""

import contextlib
import datetime as dt
import logging
import sys
import time
from collections.abc import Iterator
from typing import IO

import obstore
import pyarrow as pa
from obstore.exceptions import AlreadyExistsError, PreconditionError

from tasks.lake import Lake, leases, tables
from tasks.lake.leases import Holder, Leases, TurnLostError
from tasks.lake.storage import Bucket, Leased

NIGHT = dt.date(2026, 11, 25)


def lake_of(url: str, expiry: float) -> tuple[Lake, Leases]:
    """Open a lake whose leases end after so many seconds."""
    leases.EXPIRY = expiry
    lake = Lake(url)
    assert isinstance(lake.turns, Leased)
    return lake, lake.turns.leases


def choice(model: str) -> pa.RecordBatch:
    """Return the row that says that a model was chosen for a night."""
    row = {"dt": NIGHT, "model_version": model, "next_intent_id": 1}
    return pa.RecordBatch.from_pylist([row], schema=tables.CHOICES.schema)


class Process:
    """What a process does, line by line."""

    def __init__(self, url: str, expiry: float, lines: Iterator[str], answers: IO[str]) -> None:
        self.lake, self.turns = lake_of(url, expiry)
        self.lines, self.answers = lines, answers
        self.taken: list[contextlib.ExitStack] = []

    def say(self, what: str) -> None:
        print(what, file=self.answers, flush=True)

    def run(self) -> None:
        """Answer each line until there is none."""
        self.say("ready")
        for line in self.lines:
            what, _, of = line.strip().partition(" ")
            try:
                self.say(getattr(self, what)(of))
            except TurnLostError as error:
                self.say(f"refused: {error}")

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

    def inside(self, name: str) -> str:
        assert isinstance(self.lake.storage, Bucket)
        store = self.lake.storage.store
        try:
            obstore.put(store, name, b"inside", mode="create")
        except (AlreadyExistsError, PreconditionError):
            return "two at once"
        time.sleep(0.02)
        obstore.delete(store, name)
        return "once"

    def promote(self, model: str) -> str:
        model, _, slowly = model.partition(" ")

        def rows() -> Iterator[pa.RecordBatch]:
            if slowly:
                self.say("in the middle")
                next(self.lines)
            yield choice(model)

        data = pa.RecordBatchReader.from_batches(tables.CHOICES.schema, rows())
        self.lake.replace(tables.CHOICES, data, nights=[NIGHT])
        return "done"

    def delete(self, name: str) -> str:
        self.lake.storage.delete([name])
        return "done"


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    Process(sys.argv[1], float(sys.argv[2]), sys.stdin, sys.stdout).run()
