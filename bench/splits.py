"""What is learned and what is asked for: leave-one-out, and a split of all events at one time.

`by_time` is the global temporal split of arXiv 2507.16289: what happened before a time is learned,
and each event after it is a target. The history of a target is all that its user had before it, so
also what happened after that time. A user's targets count as one: figures are means over a user's
targets, then over users, which is what a target drawn at random gives on average.
"""

from __future__ import annotations

import datetime as dt
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from elcrec import Histories
from elcrec.evaluation import ndcg_of_users
from elcrec.histories import Split, leave_one_out, ragged_arange
from elcrec.intents import intent_hits
from local.generator import generate

REPO = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("ELCREC_DATA") or REPO.parent / "shared" / "data")
FILES = {"beauty": "Beauty.txt", "sports": "Sports_and_Outdoors.txt"}
LOGS = ("ml-100k", "generated")  # with real times
# As in the paper; one for 80 users, as a night has it; as planted.
INTENTS = {"beauty": 256, "sports": 512, "ml-100k": 11, "generated": 16}
VALIDATION_AT, TEST_AT = 0.8, 0.9  # of all events, those before the time of a split
GENERATED = {"users": 4_000, "items": 1_500, "intents": 16, "nights": 60, "seed": 1}
CUTOFFS = (5, 20)


@dataclass(frozen=True)
class Side:
    """What may be learned, and what is asked: validation or test.

    learn: `n` histories, some may be empty; items are numbered 1 … n_items.
    asked: `m` histories that end before their targets.
    users: int64 `[m]`, whose history of `learn` it is that is asked for.
    """

    learn: Histories
    n_items: int
    asked: Split
    users: NDArray[np.int64]

    def mean(self, values: NDArray[np.generic]) -> float:
        """Mean over users of the mean over the targets of a user, from values `[m]`."""
        return _mean_by_user(values, self.users)

    def figures(self, ranks: NDArray[np.integer]) -> dict[str, float]:
        """`HR@K` and `NDCG@K` for K of CUTOFFS, from the rank of each target `[m]`, 0 is first."""
        found = {}
        for k in CUTOFFS:
            found[f"HR@{k}"] = self.mean(ranks < k)
            found[f"NDCG@{k}"] = self.mean(ndcg_of_users(ranks, k))
        return found

    def lift(self, labels: NDArray[np.integer]) -> float:
        """Intent lift@20 of labels `[n]` made from `learn`, for users who have a history there."""
        rows = np.flatnonzero(self.learn.lengths[self.users] > 0)
        users = self.users[rows]
        asked = Split(self.asked.histories.take(rows), self.asked.targets[rows])
        hits = intent_hits(labels, self.learn, asked, self.n_items, users=users)
        by_popularity = _mean_by_user(hits.by_popularity, users)
        return _mean_by_user(hits.by_intent, users) / by_popularity


def _mean_by_user(values: NDArray[np.generic], users: NDArray[np.int64]) -> float:
    counts = np.bincount(users)
    sums = np.bincount(users, values.astype(np.float64))
    return float((sums[counts > 0] / counts[counts > 0]).mean())


def read_histories(dataset: str) -> tuple[Histories, int]:
    """Read a benchmark file, a user and items a line; return histories and number of items."""
    lines = (DATA / FILES[dataset]).read_text().splitlines()
    histories = Histories.from_lists([np.array(line.split()[1:], int) for line in lines])
    return histories, int(histories.items.max())


def left_out(histories: Histories, n_items: int) -> tuple[Side, Side]:
    """Return validation and test of leave-one-out; both learn all but the newest two events."""
    known, everybody = histories.drop_last(2), np.arange(len(histories))
    validation, test = (
        Side(known, n_items, leave_one_out(histories, name), everybody)
        for name in ("validation", "test")
    )
    return validation, test


@dataclass(frozen=True)
class Log:
    """Events in the order of their times.

    users, items: int64 `[N]`, users numbered from 0, items from 1 in the order of appearance, so
        that those known before a time are the first ones.
    times: int64 `[N]`, seconds.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64]

    @classmethod
    def of(cls, events: pl.DataFrame) -> Log:
        """Read columns `user`, `item` and `time`; equal times stay in the order of the rows."""
        events = events.sort("time", maintain_order=True)
        users, items = (
            events[name].rank("dense").to_numpy().astype(np.int64) for name in ("user", "item")
        )
        _, first, number = np.unique(items, return_index=True, return_inverse=True)
        place = np.empty(first.size, np.int64)
        place[np.argsort(first)] = np.arange(1, first.size + 1)
        return cls(users - 1, place[number], events["time"].to_numpy().astype(np.int64))

    def time_at(self, share: float) -> int:
        """Return the time before which this share of the events happened."""
        return int(np.quantile(self.times, share, method="higher"))


def read_ratings() -> pl.DataFrame:
    """Read ml-100k as it is in its file: user, item, rating, and time in seconds."""
    columns = ["user", "item", "rating", "time"]
    return pl.read_csv(DATA / "ml-100k.inter", separator="\t", new_columns=columns)


def read_log(dataset: str) -> Log:
    """Read a log with real times, one of LOGS."""
    if dataset == "ml-100k":
        return Log.of(read_ratings().select("user", "item", "time"))
    with tempfile.TemporaryDirectory() as folder:
        made = generate(Path(folder), **GENERATED, last_night=dt.date(2026, 3, 31))
        events = pl.read_parquet(made.events / "*" / "*.parquet").drop_nulls()
    columns = {"user_id": "user", "item_id": "item", "timestamp": "time"}
    events = events.filter(pl.col("event_type") == "view").rename(columns).unique(columns.values())
    return Log.of(events.with_columns(pl.col("time").dt.epoch("s")).sort("time", "user", "item"))


def by_time(log: Log, time: int, until: int | None = None) -> Side:
    """Learn what happened before a time and ask for what came from then on, before `until`.

    Left out are items that nobody had before the time, which no method can know; then targets
    without a history; and targets that their user has had before, which would be the only such
    candidate.
    """
    n_items = int(log.items[log.times < time].max())
    seen = (log.times < (until or np.inf)) & (log.items <= n_items)
    users, items, times = log.users[seen], log.items[seen], log.times[seen]
    order = np.argsort(users, kind="stable")  # by user, then by time
    users, items, times = users[order], items[order], times[order]
    n = int(log.users.max()) + 1
    starts = np.searchsorted(users, np.arange(n + 1))
    before = times < time
    learned = np.concatenate([[0], np.cumsum(np.bincount(users[before], minlength=n))])
    learn = Histories(items[before], learned)

    pairs = users * (n_items + 1) + items
    _, first = np.unique(pairs, return_index=True)
    new = np.zeros(items.size, bool)
    new[first] = True
    places = np.arange(items.size) - starts[users]
    rows = np.flatnonzero(~before & new & (places > 0))
    lengths = places[rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    histories = Histories(items[ragged_arange(starts[users[rows]], lengths)], offsets)
    return Side(learn, n_items, Split(histories, items[rows].astype(np.int32)), users[rows])


def two_times(
    log: Log, shares: tuple[float, float] = (VALIDATION_AT, TEST_AT)
) -> tuple[Side, Side]:
    """Return validation, which ends where the test begins, and test."""
    validation, test = map(log.time_at, shares)
    return by_time(log, validation, test), by_time(log, test)


def sides(dataset: str) -> tuple[Side, Side]:
    """Return validation and test of a data set: by time where it has times, else leave-one-out."""
    if dataset in LOGS:
        return two_times(read_log(dataset))
    return left_out(*read_histories(dataset))
