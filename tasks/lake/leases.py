"""Turns on an object store: who may work on a lake at a time, without a shared disk.

A folder's turns are locks of the operating system. A store has none, so a turn is a lease: it ends
by itself when its holder falls silent. `Leases.shared` and `Leases.exclusive` are context managers
like those of a folder; what they yield, a `Holder`, is one run of one process. It holds all turns
that the run takes inside of the first one, and it gains or loses them together.

Objects below the prefix (`.leases/`)
-------------------------------------
`turns.json`
    The queue: who has asked for which turn, in the order of asking, and the next token. An entry
    has its turn when no entry before it, of another holder, is for the same turn with one of the
    two exclusive. So nobody starves: who asks for a shared turn after someone asked for the
    exclusive one waits behind it. Every change is one write on the condition that the object is
    as it was read (its e_tag), so changes have one order for all machines.
`holders/<id>.json`
    The lease of a holder, whose heartbeat writes it anew every `expiry / 9` seconds, each time on
    the condition that it is as the holder left it. The id is random and never used again.

How a silent holder loses its turns
-----------------------------------
Who waits looks at the leases of those before it. When one has not changed for `expiry` seconds,
by the waiting machine's own monotonic clock, the waiting machine

1. writes "cleared" into the lease, on the condition that it still has not changed. Either this
   write or the holder's next heartbeat succeeds, never both. From now on the holder cannot renew.
2. raises the fence: `fence(app_id, token + 1)`, see below.
3. takes the holder out of the queue.
4. deletes its lease.

Each of these may be done again, by anyone: a machine that dies between two of them only makes the
next one wait for another `expiry` seconds. No two machines' clocks are ever compared.

A holder counts, too: from the start of its last heartbeat that succeeded, on a clock that goes on
while the machine sleeps. After `expiry * 2 / 3` seconds it no longer believes that it has its
turns, so it stops a third of `expiry` before another may begin. It believes again when a heartbeat
succeeds after all: then nobody has cleared it.

Fencing
-------
Clocks do not help against a process that is stopped between a look at its lease and the write that
follows (SIGSTOP, a paused virtual machine, a long swap). For that each holder has a `token`, which
only grows from holder to holder, and an `app_id`, which no other holder in the queue has.

Each Delta commit carries the application transaction `(app_id, token)`. The committer first reads
the version that the table has for `app_id` from the very snapshot that the commit is based on, and
refuses itself if that is above its token. deltalake does not compare versions, but it refuses a
commit if any commit since the snapshot carries the same app_id. So a commit is refused by the first
rule if the fence is in its snapshot, and by the second if the fence came later. There is no moment
between look and write in which it slips through.

What is guaranteed
------------------
* At most one holder of an exclusive turn, and none of a shared one beside it, has a lease that a
  `check` confirms.
* Once a turn has passed to another holder, no Delta commit of the one before can succeed, in any
  table that `fence` covers, however long it was stopped and wherever. It must carry the
  application transaction and be checked as above: `Lake` does both.
* A holder that dies keeps others waiting for `expiry` seconds; for as long again if the machine
  that clears it dies, too.
* A request that the store carries out although its answer is lost does no harm: each change of the
  queue can be repeated, and a lease that only its holder can have written is taken as its own.

What is not guaranteed
----------------------
* Objects that are no part of a Delta table have no fence. One request that a holder had not yet
  sent when it was stopped can still arrive after it has lost its turn. So:

  - **Writing**: under a name that nobody else ever writes (with the token in it, or derived from
    the content, so that another writer writes the same bytes). What makes it count is the Delta
    commit that names it.
  - **Replacing** an object whose name stays: read its e_tag, then `check`, then write on the
    condition of that e_tag. Whoever has the turn later changes the e_tag first. An unconditional
    write after a `check` may be late by that one request.
  - **Deleting**: list first, then `check`, then delete exactly the names of that list, and `check`
    again before each further thousand. What is listed before a check that succeeded was written
    before anyone else could begin, so a late delete takes nothing of theirs. It must not list
    anew, and the names must not be used again. The same holds for `vacuum`: its dry run is the
    list.
* Readers hold no turn. What they may have open is kept by age (`retention.min_age_hours`).
* Threads that a run starts know nothing of its turns, unless they run in a copy of its context
  (`contextvars.copy_context().run`): their commits carry no token.
* Someone who deletes `turns.json` while runs are going on lets others begin beside them, and they
  do not notice. The new one has a new id, and so other app_ids: its tokens begin at 1 again.
* The store must carry out conditional writes. Whether it does is tried when `turns.json` is made.
"""

import contextlib
import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotSupportedError, PreconditionError
from pydantic import BaseModel, ValidationError

from tasks.errors import LakeError

if TYPE_CHECKING:
    from obstore import ObjectMeta, PutMode, PutResult, UpdateVersion
    from obstore.store import ObjectStore

log = logging.getLogger(__name__)

PREFIX = ".leases"
LAKE = "the lake"  # the turn that steps share, and that what deletes has alone
EXPIRY = 90.0  # seconds of silence after which a holder loses its turns
ORPHAN_AGE = timedelta(days=1)  # of a lease whose holder is not in the queue
NAMED = 3  # of those that one waits for, in the log

# The condition of a write does not hold. Stores answer one on an object that is gone with either.
CONFLICTS = (AlreadyExistsError, PreconditionError, FileNotFoundError)

Fence = Callable[[str, int], None]

# What holds turns in this thread, by what they are turns of: a step writes its tables by other
# Lake objects than the one that its turns were taken with.
_holders: ContextVar[Mapping[str, "Holder"]] = ContextVar("holders", default=MappingProxyType({}))


class TurnLostError(LakeError):
    """A run was silent for so long that its turn has gone to another one, or may have."""


class Asked(BaseModel):
    """An entry of the queue."""

    turn: str
    alone: bool
    holder: str


class Known(BaseModel):
    """What the queue says of a holder."""

    token: int
    slot: int
    who: str
    since: str  # for people; nothing is computed from it


class Queue(BaseModel):
    """The content of `turns.json`."""

    id: str
    next_token: int = 1
    holders: dict[str, Known] = {}
    asked: list[Asked] = []

    def ask(self, holder: str, turn: str, *, alone: bool, who: str, since: str) -> None:
        """Put a holder at the end of the queue for a turn, if it is not in it yet."""
        if holder not in self.holders:
            taken = {known.slot for known in self.holders.values()}
            slot = min(set(range(len(taken) + 1)) - taken)
            self.holders[holder] = Known(token=self.next_token, slot=slot, who=who, since=since)
            self.next_token += 1
        entry = Asked(turn=turn, alone=alone, holder=holder)
        if entry not in self.asked:
            self.asked.append(entry)

    def leave(self, holder: str, turn: str | None = None) -> None:
        """Take a holder out of the queue for a turn, or for all; without any it is forgotten."""
        self.asked = [
            entry
            for entry in self.asked
            if entry.holder != holder or (turn is not None and entry.turn != turn)
        ]
        if all(entry.holder != holder for entry in self.asked):
            self.holders.pop(holder, None)

    def before(self, holder: str, turn: str) -> list[Asked] | None:
        """Return the entries that a holder waits for; none: it is its turn. None: it has no entry.

        Entries of a turn that the holder itself has asked for before do not count.
        """
        earlier: list[Asked] = []
        for entry in self.asked:
            if entry.turn != turn:
                continue
            if entry.holder == holder:
                return [other for other in earlier if other.alone or entry.alone]
            earlier.append(entry)
        return None

    def app_id(self, holder: str) -> str:
        """Return the id that a holder's commits carry; a later holder may have it again."""
        return f"elcrec-turns-{self.id}-{self.holders[holder].slot}"


class Lease(BaseModel):
    """The content of `holders/<id>.json`."""

    state: Literal["held", "cleared"] = "held"
    beats: int = 0  # so that each heartbeat changes the e_tag, which S3 makes from the content
    by: str = ""


class Leases:
    """The turns of one lake.

    Parameters
    ----------
    store, prefix
        Where the objects are.
    where
        How messages name what the turns are of. Within a run it also tells the holder of one
        lake from that of another.
    expiry
        Seconds of silence after which a holder loses its turns; the same on all machines, EXPIRY
        if not given.
    fence
        Makes commits of lower versions of an app_id impossible in all tables, and returns when
        it has; it may be called again with what it was called with before.
    clock, own_clock
        Seconds. The first counts another's silence, the second one's own.
    """

    def __init__(
        self,
        store: "ObjectStore",
        where: str,
        *,
        fence: Fence,
        prefix: str = PREFIX,
        expiry: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        own_clock: Callable[[], float] | None = None,
    ) -> None:
        self.store = store
        self.where = where
        self.fence = fence
        self.prefix = prefix
        self.expiry = EXPIRY if expiry is None else expiry
        self.beat_every = self.expiry / 9
        self.belief = self.expiry * 2 / 3
        self.clock = clock
        self.own_clock = own_clock or _since_boot

    @contextlib.contextmanager
    def shared(self, turn: str = LAKE) -> Iterator["Holder"]:
        """Have a turn together with others who share it; wait while someone has it alone."""
        with self._turn(turn, alone=False) as holder:
            yield holder

    @contextlib.contextmanager
    def exclusive(self, turn: str = LAKE) -> Iterator["Holder"]:
        """Have a turn alone; wait until those who asked for it before have ended."""
        with self._turn(turn, alone=True) as holder:
            yield holder

    def held(self) -> "Holder | None":
        """Return what holds turns here, of this thread's run."""
        return holder_of(self.where)

    def tidy(self) -> list[str]:
        """Delete leases that machines left behind when they died; return their names.

        Their age is counted from the last heartbeat of the caller, by the store's own times.
        """
        holder = self.held()
        assert holder, "what deletes has the lake alone"
        now = obstore.head(self.store, self.lease_path(holder.id))["last_modified"]
        found = [
            one for page in obstore.list(self.store, f"{self.prefix}/holders/") for one in page
        ]
        # A lease is written before the queue knows its holder: so it may be one that begins now.
        in_use = {self.lease_path(one) for one in self.read()[0].holders}
        orphans = [
            one["path"]
            for one in found
            if one["path"] not in in_use and now - one["last_modified"] > ORPHAN_AGE
        ]
        if orphans:
            holder.check()
            obstore.delete(self.store, orphans)
        return orphans

    @contextlib.contextmanager
    def _turn(self, turn: str, *, alone: bool) -> Iterator["Holder"]:
        holder = self.held()
        if holder is None:
            with self._run(), self._turn(turn, alone=alone) as started:
                yield started
        elif turn in holder.turns:
            if alone and not holder.turns[turn]:
                raise RuntimeError(f"{turn} is shared by this run, which asks to have it alone")
            yield holder
        else:
            holder.ask(turn, alone=alone)
            try:
                holder.wait(turn)
                yield holder
            finally:
                holder.leave(turn)

    @contextlib.contextmanager
    def _run(self) -> Iterator[None]:
        holder = Holder(self)
        holder.start()
        ended = threading.Event()
        threading.Thread(target=holder.keep_beating, args=(ended,), daemon=True).start()
        before = _holders.set({**_holders.get(), self.where: holder})
        try:
            yield
        finally:
            _holders.reset(before)
            ended.set()
            holder.end()

    # What follows is for Holder.

    @property
    def queue_path(self) -> str:
        """Return the name of the queue."""
        return f"{self.prefix}/turns.json"

    def lease_path(self, holder: str) -> str:
        """Return the name of a holder's lease."""
        return f"{self.prefix}/holders/{holder}.json"

    def read(self) -> "tuple[Queue, UpdateVersion]":
        """Return the queue, and what a change of it is conditional on."""
        found = self._get()
        try:
            return Queue.model_validate_json(bytes(found.bytes())), _version(found.meta)
        except ValidationError as error:
            raise LakeError(
                f"{self.where}: {self.queue_path} cannot be read ({error.errors()[0]['msg']}): "
                "stop what runs on the lake, and delete this object"
            ) from None

    def change(self, how: Callable[[Queue], None]) -> Queue:
        """Change the queue; return what it is then.

        how: called again after another machine's change. It must do nothing to a queue that it
        has changed already: a write may have succeeded although its answer was lost.
        """
        delay = 0.02
        while True:
            queue, version = self.read()
            before = queue.model_dump_json()
            how(queue)
            after = queue.model_dump_json()
            if after == before:
                return queue
            try:
                obstore.put(self.store, self.queue_path, after.encode(), mode=version)
            except CONFLICTS:
                time.sleep(random.uniform(0, delay))
                delay = min(2 * delay, 1.0)
            else:
                return queue

    def clear(
        self, holder: str, known: Known, app_id: str, version: "UpdateVersion | None"
    ) -> bool:
        """Take all turns from a holder whose lease is as it was; return whether it still was."""
        cleared = Lease(state="cleared", by=who()).model_dump_json().encode()
        path = self.lease_path(holder)
        try:
            obstore.put(self.store, path, cleared, mode=version or "create")
        except CONFLICTS:
            return False
        silence = f"has not been heard of for {self.expiry:.0f} s and loses its turns"
        log.warning("%s: %s %s", self.where, known.who, silence)
        self.fence(app_id, known.token + 1)
        self.change(lambda queue: queue.leave(holder))
        obstore.delete(self.store, path)
        return True

    def _get(self) -> "obstore.GetResult":
        try:
            return obstore.get(self.store, self.queue_path)
        except FileNotFoundError:
            self._try_conditions()
            queue = Queue(id=uuid.uuid4().hex[:8]).model_dump_json()
            with contextlib.suppress(*CONFLICTS):
                obstore.put(self.store, self.queue_path, queue.encode(), mode="create")
            return obstore.get(self.store, self.queue_path)

    def _try_conditions(self) -> None:
        """Refuse a store that ignores the conditions of a write: two runs would have one turn."""
        path = f"{self.prefix}/tried/{uuid.uuid4().hex}"
        try:
            first = _version(obstore.put(self.store, path, b"1", mode="create"))
            obstore.put(self.store, path, b"2", mode=first)
            modes: list[PutMode] = ["create", first]
            for mode in modes:
                with contextlib.suppress(*CONFLICTS):
                    obstore.put(self.store, path, b"3", mode=mode)
                    raise NotSupportedError("it wrote although the condition did not hold")
        except NotSupportedError as error:
            raise LakeError(
                f"the store of {self.where} does not carry out conditional writes ({error}), so "
                "two runs could not be kept apart: update it, or name another lake.root"
            ) from None
        finally:
            with contextlib.suppress(BaseError, FileNotFoundError):
                obstore.delete(self.store, path)


class Holder:
    """One run of one process that has turns, or waits for one."""

    def __init__(self, leases: Leases) -> None:
        self.id = uuid.uuid4().hex
        self.turns: dict[str, bool] = {}  # what it has or waits for; True: alone
        self.token = 0  # from the first turn on; greater than those of all holders before
        self.app_id = ""  # what its commits carry beside the token
        self._leases = leases
        self._lease = Lease()
        self._version: UpdateVersion = {}
        self._confirmed = 0.0  # by its own clock: the start of the last heartbeat that succeeded
        self._renewing = threading.Lock()
        self._lost: TurnLostError | None = None
        # Of others, by id: what their lease was when last looked at, and since when it is that.
        self._seen: dict[str, tuple[UpdateVersion | None, float]] = {}

    @property
    def believes(self) -> bool:
        """Whether no other can have its turns yet, by its own clock, without asking the store."""
        silent_for = self._leases.own_clock() - self._confirmed
        return not self._lost and silent_for < self._leases.belief

    def check(self) -> None:
        """Make sure that its turns are its own, and stay so for a third of `expiry` from now.

        Raises TurnLostError when they are not, or when the store has not answered for so long that
        they may be another's.
        """
        try:
            self.beat()
        except BaseError as error:
            if self.believes:
                log.warning("%s: the lease could not be renewed: %s", self._leases.where, error)
                return
            silence = f"the store has not answered for {self._leases.belief:.0f} s ({error})"
            raise self._lost_because(silence) from error

    def refuse(self, latest: int | None) -> None:
        """Refuse a commit if `latest`, the version of `app_id` in its snapshot, is above the token.

        Raises TurnLostError: the turn has gone to another run.
        """
        if latest is not None and latest > self.token:
            raise self._lose("another run has taken it over")

    def beat(self) -> None:
        """Renew the lease once; TurnLostError when another machine has cleared it."""
        path = self._leases.lease_path(self.id)
        with self._renewing:
            while not self._lost:
                started = self._leases.own_clock()
                self._lease.beats += 1
                content = self._lease.model_dump_json().encode()
                try:
                    done = obstore.put(self._leases.store, path, content, mode=self._version)
                except CONFLICTS:
                    self._adopt(path)
                else:
                    self._version, self._confirmed = _version(done), started
                    return
            raise self._lost

    def _adopt(self, path: str) -> None:
        """Go on from a heartbeat that was written although its answer was lost, if it was that."""
        by = "another run"
        with contextlib.suppress(FileNotFoundError):
            found = obstore.get(self._leases.store, path)
            lease = Lease.model_validate_json(bytes(found.bytes()))
            if lease.state == "held":
                self._version = _version(found.meta)
                return
            by = lease.by
        self._lose(f"{by} has taken it over")

    def _lose(self, why: str) -> TurnLostError:
        self._lost = self._lost or self._lost_because(why)
        return self._lost

    def _lost_because(self, why: str) -> TurnLostError:
        return TurnLostError(
            f"{who()} has lost its turn at {self._leases.where}, for {why}: what it had not "
            "committed is lost; see whether its machine was stopped or cut off from the store, "
            "and run the step again"
        )

    # What follows is for Leases.

    def start(self) -> None:
        """Write the lease; before the queue knows its holder, so that none there is without."""
        path, started = self._leases.lease_path(self.id), self._leases.own_clock()
        content = self._lease.model_dump_json().encode()
        try:
            done = obstore.put(self._leases.store, path, content, mode="create")
            self._version = _version(done)
        except CONFLICTS:  # its answer was lost, and it was sent again
            self._version = _version(obstore.head(self._leases.store, path))
        self._confirmed = started

    def keep_beating(self, ended: threading.Event) -> None:
        """Renew the lease until the run has ended."""
        while not ended.wait(self._leases.beat_every):
            try:
                self.beat()
            except TurnLostError as error:
                if not ended.is_set():
                    log.error("%s", error)
                return
            except Exception as error:  # whatever it is, the next one may succeed
                log.warning("%s: the lease could not be renewed: %s", self._leases.where, error)

    def ask(self, turn: str, *, alone: bool) -> None:
        """Go to the end of the queue for a turn."""
        since = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"

        def ask(queue: Queue) -> None:
            if self.id in queue.holders or not self.turns:  # else it would get another token
                queue.ask(self.id, turn, alone=alone, who=who(), since=since)

        queue = self._leases.change(ask)
        if self.id not in queue.holders:
            raise self._lose("another run has taken it over")
        self.turns[turn] = alone
        self.token, self.app_id = queue.holders[self.id].token, queue.app_id(self.id)

    def wait(self, turn: str) -> None:
        """Wait until it has the turn; the log says who has it meanwhile."""
        said, delay = "", 0.05
        while True:
            try:
                queue, before = self.look(turn)
                if not before:
                    self.beat()
                    return
                if (named := _named(queue, before)) != said:
                    log.info("%s: waiting for %s, held by %s", self._leases.where, turn, named)
                    said = named
            except BaseError as error:
                if not self.believes:
                    raise
                log.warning("%s: the store did not answer: %s", self._leases.where, error)
            time.sleep(delay)
            delay = min(1.5 * delay, self._leases.beat_every / 4)

    def look(self, turn: str) -> tuple[Queue, list[Asked]]:
        """Return the queue and who is before this one; who is silent loses its place meanwhile."""
        queue, _ = self._leases.read()
        before = queue.before(self.id, turn)
        if before is None:
            raise self._lose("another run has taken it over")
        for other in {entry.holder for entry in before}:
            version, since = self._last_change(other)
            if self._leases.clock() - since >= self._leases.expiry:
                self._leases.clear(other, queue.holders[other], queue.app_id(other), version)
        return queue, before

    def _last_change(self, other: str) -> "tuple[UpdateVersion | None, float]":
        version = None
        with contextlib.suppress(FileNotFoundError):
            version = _version(obstore.head(self._leases.store, self._leases.lease_path(other)))
        if other not in self._seen or self._seen[other][0] != version:
            self._seen[other] = version, self._leases.clock()
        return self._seen[other]

    def leave(self, turn: str) -> None:
        """Give a turn back."""
        self.turns.pop(turn, None)
        with self._later("its turns"):
            self._leases.change(lambda queue: queue.leave(self.id, turn))

    def end(self) -> None:
        """Delete the lease of a holder without turns."""
        with self._later("its lease"):
            obstore.delete(self._leases.store, self._leases.lease_path(self.id))

    @contextlib.contextmanager
    def _later(self, what: str) -> Iterator[None]:
        """Leave to silence what the store does not take now: the work itself has ended."""
        try:
            yield
        except FileNotFoundError:
            pass
        except BaseError as error:
            log.warning(
                "%s: this run could not give back %s (%s): others wait for it until it has been "
                "silent for %.0f s",
                self._leases.where,
                what,
                error,
                self._leases.expiry,
            )


def holder_of(where: str) -> Holder | None:
    """Return what holds turns of a lake, of this thread's run."""
    return _holders.get().get(where)


def who() -> str:
    """Name this process as the logs of other machines do."""
    run = os.environ.get("AIRFLOW_CTX_DAG_RUN_ID")  # Airflow sets it for its tasks
    return f"host {socket.gethostname()}, process {os.getpid()}" + (f", run {run}" if run else "")


def _named(queue: Queue, before: list[Asked]) -> str:
    """Say who has the turn that one waits for, and since when."""
    having = [entry for entry in before if not queue.before(entry.holder, entry.turn)]
    known = [queue.holders[entry.holder] for entry in having]
    names = "; ".join(f"{one.who}, since {one.since}" for one in known[:NAMED])
    return f"{names}; and {len(known) - NAMED} others" if len(known) > NAMED else names


def _version(of: "PutResult | ObjectMeta") -> "UpdateVersion":
    version: UpdateVersion = {}
    for key in ("e_tag", "version"):  # a store has one of them or both
        if of[key] is not None:
            version[key] = of[key]
    return version


def _since_boot() -> float:
    # It goes on while the machine sleeps, as the silence that others count does.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
