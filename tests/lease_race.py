"""Race processes for turns of a store, and stop one of them for longer than its lease.

    python -m tests.lease_race --azurite node_modules/.bin/azurite-blob
    python -m tests.lease_race --store az://container/races

With --store, the keys are in the environment. Each race is one turn that all processes ask for at
the same moment; each of them has to have it once, and none beside another. At last one process is
stopped in the middle of a commit until another has its turn: its commit has to be refused. Ends
with 0 when all of that was so.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import obstore

from tasks.lake import tables
from tasks.lake.storage import Bucket
from tests.lease_process import NIGHT, choice, lake_of
from tests.servers import azurite

REPO = Path(__file__).resolve().parent.parent
EXPIRY = 15.0  # seconds


class Racer:
    """A process of tests/lease_process.py."""

    def __init__(self, url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.lease_process", url, str(EXPIRY)],
            cwd=REPO,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def tell(self, *lines: str) -> None:
        """Let it do something."""
        assert self.process.stdin
        self.process.stdin.write("".join(f"{line}\n" for line in lines))
        self.process.stdin.flush()

    def answer(self) -> str:
        """Wait until it has done the next thing."""
        assert self.process.stdout
        return self.process.stdout.readline().strip()


def race(racers: list[Racer], races: int) -> int:
    """Return how many races were as they should be."""
    good = 0
    for number in range(races):
        started = time.perf_counter()
        for racer in racers:
            racer.tell(f"exclusive race {number}", f"inside race {number}", "leave")
        answers = [[racer.answer() for _ in range(3)] for racer in racers]
        good += all(of == ["has it", "once", "left"] for of in answers)
        print(f"race {number}: {time.perf_counter() - started:.1f} s", flush=True)
    return good


def stopped_commit_is_refused(url: str, racer: Racer) -> bool:
    """Stop a process in the middle of a commit, take its turn, and let it go on."""
    lake, turns = lake_of(url, EXPIRY)
    racer.tell("exclusive a night", "promote first", "promote stale slowly")
    assert [racer.answer() for _ in range(3)] == ["has it", "done", "in the middle"]
    racer.process.send_signal(signal.SIGSTOP)
    with turns.exclusive("a night"):
        lake.replace(tables.CHOICES, choice("mine"), nights=[NIGHT])
        racer.process.send_signal(signal.SIGCONT)
        racer.tell("go on")
        said = racer.answer()
    left = lake.scan(tables.CHOICES).collect()["model_version"].to_list()
    print(f"the one that was stopped says: {said}", flush=True)
    return said.startswith("refused: ") and left == ["mine"]


def main() -> int:
    """Race and tell how it went."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--store", help="URL of an empty place in a store")
    where.add_argument("--azurite", help="program that serves Azure's blobs here")
    parser.add_argument("--races", type=int, default=40)
    parser.add_argument("--processes", type=int, default=4)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if options.azurite:
            os.environ |= stack.enter_context(azurite(options.azurite))
        url = options.store or "az://lake/races"
        racers = [Racer(url) for _ in range(options.processes)]
        for racer in racers:
            stack.callback(racer.process.kill)
        assert {racer.answer() for racer in racers} == {"ready"}
        good = race(racers, options.races)
        refused = stopped_commit_is_refused(url, racers[0])
        storage = lake_of(url, EXPIRY)[0].storage
        assert isinstance(storage, Bucket)
        left = [one["path"] for page in obstore.list(storage.store, "race") for one in page]
    print(f"one at a time in {good} races of {options.races}; left over: {len(left)}")
    print(f"the commit of the one that was stopped was {'refused' if refused else 'NOT REFUSED'}")
    return 0 if good == options.races and refused and not left else 1


if __name__ == "__main__":
    sys.exit(main())
