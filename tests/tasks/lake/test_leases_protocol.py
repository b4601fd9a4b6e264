"""The turns of a store under any order of events, with a clock of the test's own.

Three processes take turns and commit to a table, again and again. Any of them may be stopped and
go on at any place, for any time, also between the snapshot of a commit and the commit; or die,
also in the middle of clearing another. The table behaves as Delta's: test_leases.py holds the
same against real tables, processes and stores.
"""

from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from obstore.store import MemoryStore

from tasks.lake.leases import LAKE, Holder, Leases, TurnLostError

EXPIRY = 90.0
PROCESSES = range(3)
TURNS = (LAKE, "a night")


class DiedError(Exception):
    """The process that was doing it is gone."""


class CommitsOfTable:
    """The application transactions of a Delta table, and when it refuses one."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int]] = []

    def latest(self, app_id: str) -> int | None:
        return next((version for of, version in reversed(self.log) if of == app_id), None)

    def commit(self, snapshot: int, app_id: str, version: int) -> bool:
        if any(of == app_id for of, _ in self.log[snapshot:]):
            return False
        self.log.append((app_id, version))
        return True


class World:
    """The processes, their clock, the store and the table."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.dies_at = ""
        self.table = CommitsOfTable()
        self.leases = Leases(
            MemoryStore(),
            "memory://lake",
            fence=self.fence,
            expiry=EXPIRY,
            clock=lambda: self.now,
            own_clock=lambda: self.now,
        )
        self.running: dict[int, tuple[Holder, Iterator[None]]] = {}
        self.has: dict[Holder, dict[str, bool]] = {}  # the turns it was told it has; True: alone
        self.passed_on: set[Holder] = set()  # another was told to have a turn of theirs since

    def fence(self, app_id: str, version: int) -> None:
        self.die("before the fence")
        if (self.table.latest(app_id) or 0) < version:
            self.table.commit(len(self.table.log), app_id, version)
        self.die("after the fence")

    def die(self, here: str) -> None:
        if self.dies_at == here:
            raise DiedError

    def step(self, process: int, turns: list[tuple[str, bool]], dies_at: str) -> None:
        """Let a process do its next request or so; it starts anew when it has ended."""
        if process not in self.running:
            holder = Holder(self.leases)
            self.running[process] = holder, self.run(holder, turns)
        self.dies_at = dies_at
        try:
            next(self.running[process][1])
        except (StopIteration, TurnLostError, DiedError):
            self.end(process)
        self.dies_at = ""

    def end(self, process: int) -> None:
        if process in self.running:
            holder, _ = self.running.pop(process)
            self.has.pop(holder, None)

    def run(self, holder: Holder, turns: list[tuple[str, bool]]) -> Iterator[None]:
        holder.start()
        yield
        self.has[holder] = {}
        for turn, alone in turns:
            holder.ask(turn, alone=alone)
            yield
            while holder.look(turn)[1]:
                yield
            yield
            holder.beat()
            self.told(holder, turn, alone)
            yield
        for _ in range(2):
            snapshot = len(self.table.log)
            holder.refuse(self.table.latest(holder.app_id))
            yield
            if self.table.commit(snapshot, holder.app_id, holder.token):
                assert holder not in self.passed_on, "a run that had lost its turn has committed"
            else:
                with pytest.raises(TurnLostError):
                    holder.beat()  # nobody else is refused
                return
            yield
        for turn, _ in reversed(turns):
            del self.has[holder][turn]
            holder.leave(turn)
            yield
        holder.end()

    def told(self, holder: Holder, turn: str, alone: bool) -> None:
        for other, turns in self.has.items():
            if turn in turns and (alone or turns[turn]):
                self.passed_on.add(other)
                assert not other.believes, "two runs believe to have what only one can have"
        self.has[holder][turn] = alone

    def time_passes(self, seconds: float, beating: set[int]) -> None:
        """Let time pass, in which some processes renew their leases and others are stopped."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + self.leases.beat_every)
            for process in beating & set(self.running):
                holder, _ = self.running[process]
                if holder in self.has:
                    try:
                        holder.beat()
                    except TurnLostError:
                        self.end(process)

    def a_later_run_has_its_turn(self) -> None:
        for turn in TURNS:
            holder = Holder(self.leases)
            holder.start()
            holder.ask(turn, alone=True)
            for _ in range(3):
                if not holder.look(turn)[1]:
                    break
                self.time_passes(EXPIRY, set())
                holder.beat()
            assert not holder.look(turn)[1], "a run waits for one that has gone"


process = st.sampled_from(PROCESSES)
step = st.tuples(
    process,
    st.sampled_from([[(LAKE, True)], [(LAKE, False), ("a night", True)], [("a night", True)]]),
    st.sampled_from([*[""] * 8, "before the fence", "after the fence"]),
)
pause = st.tuples(
    st.sampled_from([9.0, 61.0, 95.0]),
    st.sampled_from([{0}, {1}, {2}, {0, 1}, {1, 2}, {0, 2}, {0, 1, 2}, set()]),
)
event = st.integers(0, 19).flatmap(
    lambda kind: process if kind == 0 else pause if kind < 6 else step
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(event, st.integers(1, 9)), min_size=25, max_size=50))
def test_no_run_commits_after_its_turn_has_passed_on(events: list[Any]) -> None:
    world = World()
    for event, times in events:
        if isinstance(event, int):
            world.end(event)  # its machine has died
        elif isinstance(event[0], float):
            world.time_passes(*event)
        else:
            for _ in range(times):
                world.step(*event)
    world.a_later_run_has_its_turn()
