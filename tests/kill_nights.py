"""Kill the steps of some nights at random moments, try again, and compare with nights left alone.

    .venv/bin/python tests/kill_nights.py --kills 50 --seed 1
    .venv/bin/python tests/kill_nights.py --kills 50 --seed 1 --store

Each step is a process of its own, as on the command line, forked from one that has the imports
done. It gets SIGKILL after a while, after so many changes to the lake's files, or, while it trains,
after an epoch, and is started again. At the end all tables and models must be those of the same
nights without a kill, and a training must have gone on from the epoch that it was killed after.

With --store the lakes are in an S3 server of this process. A run that is killed there leaves its
lease behind. Before the next try it is cleared, as another machine would clear it after a minute
and a half: here after a second, for it is known to be dead.
"""

import argparse
import contextlib
import datetime as dt
import json
import logging
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

import polars as pl  # noqa: E402

from local.generator import generate  # noqa: E402
from tasks.chores.stale import FRESH, standings  # noqa: E402
from tasks.lake import MODELS, PAGES, TRAINING, Lake, tables  # noqa: E402
from tasks.lake.leases import Leases  # noqa: E402
from tasks.lake.storage import Bucket  # noqa: E402
from tasks.settings import load_settings  # noqa: E402
from tasks.steps import STEPS, run_step  # noqa: E402
from tests.places import Place, bucket, objects  # noqa: E402
from tests.servers import s3  # noqa: E402

LAST_NIGHT = dt.date(2026, 11, 20)
MODEL = {
    "n_intents": 4,
    "max_epochs": 6,
    "patience": 6,
    "warm_epochs": 3,
    "device": "cpu",
    "threads": 1,
    "max_length": 20,
    "overrides": {"dim": 32, "layers": 1},
}
SILENCE = 1.0  # seconds after which the turns of a run that was killed pass on
MISSES = 12  # tries at one kill: a step may end before it comes

# Seconds and changes of files of each step of each night.
Took = dict[tuple[dt.date, str], tuple[float, int]]
Moment = Callable[[], bool]  # whether it has come

processes = multiprocessing.get_context("forkserver")


def prepare() -> None:
    """Let the process that steps are forked from import what they need, with one thread each."""
    os.environ.update(OMP_NUM_THREADS="1", POLARS_MAX_THREADS="1", PYTHONPATH=str(REPO))
    modules = sorted({step.target.partition(":")[0] for step in STEPS.values()})
    processes.set_forkserver_preload([*modules, "tests.kill_nights"])
    # Steps log to files. It has nothing to say but that DuckDB's binding leaks its own types.
    with Path(os.devnull).open("w") as nowhere:
        shown = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        forkserver.ensure_running()
        os.dup2(shown, 2)
        os.close(shown)


@dataclass
class Nights:
    """Nights of generated events with a lake and logs of their own.

    bucket: URL of the bucket in which the lake is, below the name of the folder; none: it is there.
    """

    events: Path
    folder: Path
    dates: list[dt.date]
    bucket: str = ""
    attempts: Counter[tuple[dt.date, str]] = field(default_factory=Counter)

    @property
    def root(self) -> Place:
        """Where the lake is."""
        if self.bucket:
            return f"{self.bucket}/{self.folder.name}/lake"
        return self.folder / "lake"

    @property
    def lake(self) -> Lake:
        """The lake of the nights."""
        return Lake(self.root)

    def start(self, step: str, night: dt.date) -> BaseProcess:
        """Start a step in a process of its own."""
        self.attempts[night, step] += 1
        self.log(step, night).parent.mkdir(parents=True, exist_ok=True)
        return self._start([step], night, self.log(step, night))

    def log(self, step: str, night: dt.date) -> Path:
        """Return where the last attempt at a step logs."""
        return self.folder / "logs" / f"{night}-{step}-{self.attempts[night, step]}.log"

    def copy(self, name: str) -> "Nights":
        """Copy the lake as it is now."""
        other = replace(self, folder=self.folder.parent / name, attempts=Counter())
        shutil.copytree(self.root, other.root)
        return other

    def start_night(self, night: dt.date, run: str) -> BaseProcess:
        """Start all steps of a night in a process of its own, which logs under the name `run`."""
        log = self.folder / "logs" / f"{run}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        return self._start([*STEPS], night, log)

    def _start(self, steps: list[str], night: dt.date, log: Path) -> BaseProcess:
        keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        given = (str(self.events), str(self.folder), self.root, keys, steps, night, str(log))
        process = processes.Process(target=_steps, args=given)
        process.start()
        return process

    def pass_on(self) -> None:
        """Take its turns from a run that was killed; locks of a folder have gone with it."""
        lake = self.lake
        if isinstance(lake.storage, Bucket):
            store, where = lake.storage.store, str(lake.root)
            with Leases(store, where, fence=lake._fence, expiry=SILENCE).exclusive():
                pass

    def finish(self, step: str, night: dt.date) -> None:
        """Run a step to its end."""
        process = self.start(step, night)
        process.join()
        assert process.exitcode == 0, self.log(step, night).read_text()

    def checkpoint(self) -> int:
        """Return the epoch that the checkpoint of a training is of, 0 without one."""
        storage = self.lake.storage
        for file in storage.files(TRAINING):
            if file.path.endswith("/training.json"):
                with contextlib.suppress(FileNotFoundError):  # the training has ended meanwhile
                    return int(json.loads(storage.read(file.path))["epoch"])
        return 0


def _steps(
    events: str,
    folder: str,
    root: Place,
    keys: dict[str, str],
    steps: list[str],
    night: dt.date,
    log: str,
) -> None:
    os.environ |= keys  # of the store, which may have started after what this is forked from
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    with Path(log).open("w") as written:
        os.dup2(written.fileno(), 1)
        os.dup2(written.fileno(), 2)
    logging.basicConfig(level=logging.INFO)
    settings = load_settings(
        **{
            "lake.root": root,
            "source.path": events,
            "duckdb.threads": 1,
            "promote.force": True,
            "recommend.top_k": 5,
            "model": MODEL,
        }
    )
    for step in steps:
        run_step(step, settings, night)
    os._exit(0)  # as the command line ends


class Changes:
    """Counts the files of a lake that are new or written to since it was last asked."""

    def __init__(self, root: Place) -> None:
        self.root = root
        self.seen: set[tuple[str, float]] = set()
        self.count = 0
        self.look()
        self.count = 0

    def look(self) -> int:
        """Return how many changes were seen in all."""
        for found in self._now():
            self.count += found not in self.seen
            self.seen.add(found)
        return self.count

    def _now(self) -> Iterator[tuple[str, float]]:
        """Yield the files and when they were written."""
        if isinstance(self.root, str):
            for path, written in objects(self.root):
                yield path, written.timestamp()
            return
        folders = [str(self.root)]
        while folders:
            try:
                with os.scandir(folders.pop()) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
                        else:
                            yield entry.path, entry.stat().st_mtime_ns
            except FileNotFoundError:
                continue


def left_alone(nights: Nights, night: dt.date) -> Took:
    """Run every step of a night; return what each took."""
    took: Took = {}
    for step in STEPS:
        changes, started = Changes(nights.root), time.perf_counter()
        process = nights.start(step, night)
        while process.is_alive():
            changes.look()
            time.sleep(0.001)
        assert process.exitcode == 0, nights.log(step, night).read_text()
        took[night, step] = (time.perf_counter() - started, changes.look())
    return took


def killed(
    nights: Nights,
    kills: dict[tuple[dt.date, str], int],
    took: Took,
    rng: random.Random,
    say: Callable[[str], None] = print,
) -> tuple[Counter[str], int]:
    """Run every step, kill it so many times first; return the kills by step, and the resumptions.

    A resumption is a training that was killed with a checkpoint and went on from it.
    """
    hits: Counter[str] = Counter()
    resumed = 0
    for night in nights.dates:
        for step in STEPS:
            tries = 0
            left = kills.get((night, step), 0)
            while left:
                # Half the kills of a training are between epochs, as long as it has some to come.
                by_epoch = step == "train" and left % 2 and not tries
                kind = "epoch" if by_epoch else rng.choice(["time", "change"])
                # A step that ended before the kill came runs again, and the next kill is earlier.
                moment = rng.random() * 0.6**tries
                code, went_on = _disturb(nights, step, night, kind, moment, took[night, step])
                resumed += went_on
                if code == -signal.SIGKILL:
                    hits[step] += 1
                    left, tries = left - 1, 0
                    say(f"{night} {step} killed by {kind} at {moment:.3f}")
                    continue
                assert code == 0, nights.log(step, night).read_text()
                tries += 1
                assert tries < MISSES, f"{step} of night {night} ends before any kill"
            before = nights.checkpoint()
            nights.finish(step, night)
            resumed += _went_on(nights, step, night, before)
    return hits, resumed


def _disturb(
    nights: Nights,
    step: str,
    night: dt.date,
    kind: str,
    moment: float,
    took: tuple[float, int],
) -> tuple[int | None, bool]:
    """Start a step and kill it at a moment (0 to 1); return its exit code, and if it resumed."""
    before = nights.checkpoint()
    process = nights.start(step, night)
    has_come = _moment(nights, kind, moment, *took, before)
    while process.is_alive() and not has_come():
        time.sleep(0.0002)
    time.sleep(moment % 0.003)  # a commit takes about as long
    process.kill()
    process.join()
    nights.pass_on()
    return process.exitcode, _went_on(nights, step, night, before)


def _moment(
    nights: Nights, kind: str, fraction: float, seconds: float, changes: int, epoch: int
) -> Moment:
    if kind == "epoch":
        return lambda: nights.checkpoint() > epoch
    if kind == "change":
        seen, wanted = Changes(nights.root), int(fraction * changes) + 1
        return lambda: seen.look() >= wanted
    end = time.perf_counter() + fraction * seconds
    return lambda: time.perf_counter() >= end


def _went_on(nights: Nights, step: str, night: dt.date, checkpoint: int) -> bool:
    """Tell whether a training went on from the checkpoint that it found; it never starts anew."""
    if step != "train" or not checkpoint:
        return False
    epochs = re.findall(r"epoch (\d+)/", nights.log(step, night).read_text())
    assert not epochs or int(epochs[0]) == checkpoint + 1, f"{epochs} after {checkpoint}"
    return bool(epochs)


def differences(one: Nights, other: Nights) -> list[str]:
    """Name every table, model file and page in which two runs of the same nights differ."""
    found = []
    for table in tables.TABLES.values():
        left, right = (_rows(nights, table) for nights in (one, other))
        if not left.equals(right):
            differing = set(map(str, left.rows())) ^ set(map(str, right.rows()))
            found.append(f"table {table.name}: {sorted(differing)}")
    left_files, right_files = _files(one), _files(other)
    for name in sorted(left_files.keys() | right_files.keys()):
        if left_files.get(name) != right_files.get(name):
            found.append(f"file {name}")
    return found


def _rows(nights: Nights, table: tables.Table) -> pl.DataFrame:
    rows = nights.lake.scan(table).collect()
    if table is tables.SEQUENCE_INPUTS:  # of the names of files, which are drawn
        rows = rows.select("dt")
    if table is tables.LABEL_REVISIONS:  # so are these, and the time is the clock's
        rows = rows.drop("published_at", "files")
    if table is tables.CHECK_RESULTS:  # the vocabulary is of all nights that have run until then
        rows = rows.filter(pl.col("suite") != "checked_items").drop("observed", "expected")
    if table is tables.STEPS:
        rows = rows.select("dt", "step", "summary").with_columns(
            summary=pl.struct("step", "summary").map_elements(_lasting, return_dtype=pl.String)
        )
    return rows.sort(*(name for name, kind in rows.schema.items() if not kind.is_nested()))


def _lasting(row: dict[str, Any]) -> str:
    summary = json.loads(re.sub(r'"(s3:/)?/[^"]*/lake/', '"', row["summary"]))
    if row["step"] == "train":  # run again on a trained model, it has less to say
        return str(summary["model_version"])
    kept = summary.keys() - {"items_known", "items_new", "added_to"}  # of when it ran
    return json.dumps({key: summary[key] for key in sorted(kept)})


def _files(nights: Nights) -> dict[str, bytes]:
    """Every file of models, those of trainings that were killed too, and the names of pages."""
    storage = nights.lake.storage
    models = {file.path: storage.read(file.path) for file in storage.files(MODELS)}
    pages = [file.path for file in storage.files(PAGES) if file.path.endswith(".html")]
    return models | dict.fromkeys(pages, b"")


def stale(nights: Nights) -> list[str]:
    """Name the nights that do not stand on what the tables hold, and why."""
    settings = load_settings(**{"lake.root": nights.root, "duckdb.threads": 1})
    return [one.line for one in standings(settings) if one.state != FRESH]


def plan(dates: list[dt.date], kills: int, rng: random.Random) -> dict[tuple[dt.date, str], int]:
    """Spread kills over steps evenly, and over nights at random."""
    steps = list(STEPS)
    rng.shuffle(steps)
    planned = Counter((rng.choice(dates), steps[kill % len(steps)]) for kill in range(kills))
    return dict(planned)


def generated(folder: Path, nights: int, seed: int) -> Nights:
    """Generate events and give their last nights a lake without tables."""
    events = generate(
        folder, users=80, items=60, intents=4, nights=8, last_night=LAST_NIGHT, seed=seed
    ).events
    dates = [LAST_NIGHT - dt.timedelta(days=age) for age in range(nights - 1, -1, -1)]
    return Nights(events, folder / "alone", dates)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nights", type=int, default=4)
    parser.add_argument("--store", action="store_true", help="keep the lakes in an S3 server")
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    prepare()
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(bucket(stack.enter_context(s3()))) if asked.store else ""
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        alone = replace(generated(Path(folder), asked.nights, asked.seed), bucket=url)
        took = {
            key: each for night in alone.dates for key, each in left_alone(alone, night).items()
        }
        for (night, step), (seconds, changes) in took.items():
            print(f"{night} {step} takes {seconds:.2f} s and changes files {changes} times")
        other = replace(alone, folder=Path(folder) / "killed", attempts=Counter())
        hits, resumed = killed(other, plan(alone.dates, asked.kills, rng), took, rng)
        different = [*differences(alone, other), *stale(other)]
    print(f"{sum(hits.values())} kills: " + ", ".join(f"{s} {n}" for s, n in hits.items()))
    print(f"{resumed} trainings went on from a checkpoint")
    print("\n".join(different) or "tables, models and pages are those of nights left alone")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
