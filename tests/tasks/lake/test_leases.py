"""Turns of a store: what real processes, tables and faults do to them."""

import contextlib
import datetime as dt
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import obstore
import pytest
from obstore.exceptions import GenericError, PreconditionError
from obstore.store import MemoryStore, ObjectStore

from tasks.errors import LakeError
from tasks.lake import leases as module
from tasks.lake import tables
from tasks.lake.leases import LAKE, Holder, Leases, TurnLostError
from tests.lease_process import NIGHT, choice, lake_of
from tests.servers import s3

REPO = Path(__file__).resolve().parents[3]
EXPIRY = 5.0  # seconds; of real processes
URL = "s3://lake"


def leases(store: ObjectStore, expiry: float = 90.0, **more: Any) -> Leases:
    return Leases(store, "memory://lake", fence=lambda *_: None, expiry=expiry, **more)


def names(store: ObjectStore) -> list[str]:
    return sorted(one["path"] for page in obstore.list(store) for one in page)


def gone(of: Leases, turn: str = LAKE, alone: bool = True) -> Holder:
    """Have a turn as one that will never be heard of again."""
    holder = Holder(of)
    holder.start()
    holder.ask(turn, alone=alone)
    holder.wait(turn)
    return holder


class Clock:
    """Seconds that pass as a test says."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Faults:
    """obstore, of which some calls fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fail: Callable[..., Exception | None] = lambda *_: None
        self.after = False  # the store has carried out what it gives no answer to
        monkeypatch.setattr(module, "obstore", self)

    def __getattr__(self, name: str) -> Any:
        return getattr(obstore, name)

    def put(self, store: ObjectStore, path: str, content: bytes, **how: Any) -> Any:
        error = self.fail(path, content)
        if error and not self.after:
            raise error
        done = obstore.put(store, path, content, **how)
        if error:
            raise error
        return done


def test_turns_are_taken_together_or_alone_in_the_order_of_asking(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, order, step = MemoryStore(), [], threading.Event()
    caplog.set_level(logging.INFO)

    def take(name: str, alone: bool) -> None:
        of = leases(store)
        with of.exclusive() if alone else of.shared():
            order.append(name)
            step.wait(60)
            order.append(f"{name} ends")

    threads = []
    for count, (name, alone) in enumerate(
        {"step": False, "other step": False, "forget": True, "later step": False}.items(), 1
    ):
        threads.append(threading.Thread(target=take, args=(name, alone)))
        threads[-1].start()
        while len(leases(store).read()[0].asked) < count:
            time.sleep(0.01)
    while len(order) < 2:
        time.sleep(0.01)
    time.sleep(0.3)
    assert order == ["step", "other step"]
    step.set()
    for thread in threads:
        thread.join()
    assert sorted(order[2:4]) == ["other step ends", "step ends"]
    assert order[4:] == ["forget", "forget ends", "later step", "later step ends"]
    waits = [text for text in caplog.messages if "waiting for the lake, held by host " in text]
    assert f"process {os.getpid()}, since 20" in waits[0]
    assert names(store) == [".leases/turns.json"]


def test_a_run_has_all_its_turns_by_one_lease() -> None:
    store = MemoryStore()
    with leases(store).shared() as holder:
        with leases(store).exclusive("a night") as same, leases(store).shared():
            assert same is holder
            assert names(store) == [
                f".leases/holders/{holder.id}.json",
                ".leases/turns.json",
            ]
        assert [one.turn for one in leases(store).read()[0].asked] == [LAKE]
        with (
            pytest.raises(RuntimeError, match="the lake is shared by this run"),
            leases(store).exclusive(),
        ):
            pass
        other = Leases(MemoryStore(), "memory://another", fence=lambda *_: None)
        assert other.held() is None
    assert leases(store).held() is None


def test_a_turn_is_given_back_when_the_work_fails() -> None:
    store = MemoryStore()
    with pytest.raises(ZeroDivisionError), leases(store).exclusive():
        raise ZeroDivisionError
    assert names(store) == [".leases/turns.json"]


def test_tokens_grow_and_app_ids_come_again() -> None:
    store = MemoryStore()
    found = []
    for _ in range(3):
        with leases(store).shared() as holder:
            found.append((holder.token, holder.app_id))
    assert [token for token, _ in found] == [1, 2, 3]
    assert len({app_id for _, app_id in found}) == 1
    with leases(store).shared() as one:
        beside = gone(leases(store), alone=False)
        assert one.app_id != beside.app_id


def test_who_falls_silent_loses_its_turns_and_is_told_so() -> None:
    store, clock, fenced = MemoryStore(), Clock(), []

    def of() -> Leases:
        return Leases(
            store,
            "memory://lake",
            fence=lambda *to: fenced.append(to),
            clock=clock,
            own_clock=clock,
        )

    silent, waiting = gone(of()), Holder(of())
    waiting.start()
    waiting.ask(LAKE, alone=True)
    for _ in range(20):
        clock.now += 4.4
        assert waiting.look(LAKE)[1]
        assert not silent.believes or clock.now - 100 < 60
    assert not fenced
    clock.now += 7
    waiting.look(LAKE)
    assert fenced == [(silent.app_id, silent.token + 1)]
    assert not waiting.look(LAKE)[1]
    lost = "host .* has lost its turn at memory://lake, for another run has taken it over: .* again"
    for does in (
        silent.check,
        lambda: silent.refuse(silent.token + 1),
        lambda: silent.ask("a night", alone=True),  # which would give it a new token
        lambda: silent.look(LAKE),
    ):
        with pytest.raises(TurnLostError, match=lost):
            does()
    assert issubclass(TurnLostError, LakeError)


def test_a_heartbeat_between_look_and_clearing_keeps_the_turn() -> None:
    store, clock = MemoryStore(), Clock()
    silent, waiting = gone(leases(store)), Holder(leases(store, clock=clock))
    waiting.start()
    waiting.ask(LAKE, alone=True)
    waiting.look(LAKE)
    known = waiting.look(LAKE)[0].holders[silent.id]
    seen, _ = waiting._last_change(silent.id)
    silent.beat()
    assert not leases(store).clear(silent.id, known, silent.app_id, seen)
    silent.check()


def test_a_turn_passes_on_only_when_the_fence_is_up() -> None:
    store, clock, ups = MemoryStore(), Clock(), []

    def fence(*to: Any) -> None:
        ups.append(to)
        if len(ups) == 1:
            raise KeyboardInterrupt  # the machine that does it dies

    of = Leases(store, "memory://lake", fence=fence, clock=clock)
    silent, dies, last = gone(of), Holder(of), Holder(of)
    for holder in (dies, last):
        holder.start()
        holder.ask(LAKE, alone=False)
        holder.look(LAKE)
    clock.now += 91
    with pytest.raises(KeyboardInterrupt):
        dies.look(LAKE)
    with pytest.raises(TurnLostError):
        silent.beat()
    assert last.look(LAKE)[1]  # its lease has changed, to "cleared"
    clock.now += 91
    last.look(LAKE)
    assert ups[1] == ups[0]
    assert not last.look(LAKE)[1]


def test_a_store_that_does_not_answer_is_believed_as_long_as_nobody_can_have_taken_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, clock, faults = MemoryStore(), Clock(), Faults(monkeypatch)
    holder = gone(leases(store, own_clock=clock))
    faults.fail = lambda *_: GenericError("503 SlowDown")
    clock.now += 59
    holder.check()
    assert "memory://lake: the lease could not be renewed: 503 SlowDown" in caplog.text
    clock.now += 2
    assert not holder.believes
    with pytest.raises(TurnLostError, match=r"not answered for 60 s \(503 SlowDown\)"):
        holder.check()
    faults.fail = lambda *_: None
    holder.check()  # nobody had waited for it
    assert holder.believes


@pytest.mark.parametrize("error", [GenericError("timeout"), PreconditionError("sent again")])
def test_what_a_store_did_without_an_answer_counts_once(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    store, faults = MemoryStore(), Faults(monkeypatch)
    with leases(store).shared():
        pass
    failed = set()

    def once(path: str, _: bytes) -> Exception | None:
        kind = path.rpartition("/")[0]
        if kind in failed or (kind == ".leases" and isinstance(error, GenericError)):
            return None
        failed.add(kind)
        return error

    faults.after, holder = True, Holder(leases(store))
    holder.start()
    faults.fail = once
    holder.ask(LAKE, alone=True)
    assert len(leases(store).read()[0].asked) == 1
    with contextlib.suppress(GenericError):
        holder.beat()
    assert ".leases/holders" in failed
    holder.check()
    holder.leave(LAKE)
    assert not leases(store).read()[0].asked


def test_a_store_that_ignores_conditions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ignores(Faults):
        def put(self, store: ObjectStore, path: str, content: bytes, **_: Any) -> Any:
            return obstore.put(store, path, content)

    Ignores(monkeypatch)
    store = MemoryStore()
    refused = pytest.raises(LakeError, match="memory://lake does not carry out conditional writes")
    with refused, leases(store).shared():
        pass
    assert names(store) == []


def test_a_queue_that_cannot_be_read_is_named() -> None:
    store = MemoryStore()
    obstore.put(store, ".leases/turns.json", b'{"id": 7')
    refused = pytest.raises(LakeError, match=r"memory://lake: .leases/turns.json cannot be read")
    with refused, leases(store).shared():
        pass


def test_upkeep_takes_away_what_dead_machines_left(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    dead = Holder(leases(store))
    dead.start()  # it died before it asked for a turn
    living = gone(leases(store), "a night")
    with leases(store).exclusive() as holder:
        assert holder._leases.tidy() == []
        monkeypatch.setattr(module, "ORPHAN_AGE", dt.timedelta(seconds=-1))
        assert holder._leases.tidy() == [f".leases/holders/{dead.id}.json"]
        living.check()
        holder.check()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3() as address:
        yield address


@pytest.fixture
def keys(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give this process and its children the keys of an empty bucket."""
    monkeypatch.setattr(module, "EXPIRY", EXPIRY)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server,
    }.items():
        monkeypatch.setenv(name, value)
    bucket = boto3.resource("s3", endpoint_url=server, region_name="us-east-1").Bucket("lake")
    bucket.create()
    yield
    bucket.objects.delete()
    bucket.delete()


@contextlib.contextmanager
def processes(count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Run processes that take turns; see tests/lease_process.py."""
    command = [sys.executable, "-m", "tests.lease_process", URL, str(EXPIRY)]
    started = [
        subprocess.Popen(
            command, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(count)
    ]
    try:
        for process in started:
            assert answer(process) == "ready"
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def tell(process: subprocess.Popen[str], *lines: str) -> None:
    assert process.stdin
    process.stdin.write("".join(f"{line}\n" for line in lines))
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def ask(process: subprocess.Popen[str], line: str) -> str:
    tell(process, line)
    return answer(process)


@pytest.mark.usefixtures("keys")
@pytest.mark.slow
def test_of_many_processes_one_at_a_time_has_the_turn() -> None:
    rounds = 4
    with processes(3) as racing:
        for process in racing:
            tell(process, *["exclusive race", "inside race", "leave"] * rounds)
        for process in racing:
            answers = [answer(process) for _ in range(3 * rounds)]
            assert answers == ["has it", "once", "left"] * rounds


@pytest.mark.usefixtures("keys")
@pytest.mark.slow
def test_who_was_stopped_for_longer_than_its_lease_can_change_nothing() -> None:
    lake, turns = lake_of(URL, EXPIRY)
    with processes(2) as (one, other):
        for process, turn in ((one, "a night"), (other, "another night")):
            assert ask(process, f"exclusive {turn}") == "has it"
        assert ask(one, "promote first") == "done"
        # Between its look at the table and its commit: nothing but Delta can refuse it then.
        assert ask(other, "promote slow slowly") == "in the middle"
        for process in (one, other):
            process.send_signal(signal.SIGSTOP)
        lake.storage.write("needed", b"by the one that has the turn now")
        with turns.exclusive("a night"), turns.exclusive("another night"):
            lake.replace(tables.CHOICES, choice("mine"), nights=[NIGHT])
            before = lake.version(tables.CHOICES), lake.storage.files("needed")
            for process in (one, other):
                process.send_signal(signal.SIGCONT)
            lost = "refused: host "
            assert ask(other, "go on").startswith(lost)
            for process in (one, other):
                assert ask(process, "promote stale").startswith(lost)
                assert ask(process, "delete needed").startswith(lost)
                assert ask(process, "exclusive more").startswith(lost)
            assert (lake.version(tables.CHOICES), lake.storage.files("needed")) == before
        assert lake.scan(tables.CHOICES).collect()["model_version"].to_list() == ["mine"]


@pytest.mark.usefixtures("keys")
@pytest.mark.slow
def test_who_was_killed_is_waited_for_until_its_lease_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with processes(1) as (process,):
        assert ask(process, "shared the lake") == "has it"
        process.kill()
        process.wait()
        started = time.monotonic()
        with lake_of(URL, EXPIRY)[1].exclusive():
            waited = time.monotonic() - started
        assert waited > EXPIRY
        assert f"process {process.pid} has not been heard of for 5 s" in caplog.text
